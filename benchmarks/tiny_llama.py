"""A Llama small enough to train on one CPU core, in plain torch, with the names of Hugging Face's LlamaForCausalLM.

Training only: one forward pass over whole windows, no cache. Its state dict is the checkpoint.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 256  # a token is a byte
MAX_POSITIONS = 2048
ROPE_THETA = 10_000.0
NORM_EPS = 1e-5
INIT_STD = 0.02


@dataclass(frozen=True, slots=True)
class Shape:
    """What tells one tiny Llama from another; heads are `hidden / heads` wide.

    Attributes:
        hidden: width of the residual stream.
        layers: decoder blocks.
        heads: attention heads.
        kv_heads: heads of keys and values, shared by `heads / kv_heads` heads each.
        neurons: width of the gated FFN.
        activation: of the FFN's gate: `silu` or `relu`.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    neurons: int
    activation: str = "silu"

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    def config(self, dtype: str) -> dict[str, object]:
        """The config.json of a Hugging Face directory whose weights are stored as `dtype`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden,
            "intermediate_size": self.neurons,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": self.activation,
            "max_position_embeddings": MAX_POSITIONS,
            "rms_norm_eps": NORM_EPS,
            "rope_theta": ROPE_THETA,
            "rope_scaling": None,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": False,
            "initializer_range": INIT_STD,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": dtype,
        }


class Matrix(nn.Linear):
    """A linear map without bias that computes in the precision of what it is given."""

    def __init__(self, inputs: int, outputs: int, std: float = INIT_STD) -> None:
        super().__init__(inputs, outputs, bias=False)
        nn.init.normal_(self.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of shape [..., inputs] to [..., outputs]."""
        return functional.linear(x, self.weight.to(x.dtype))


class Norm(nn.Module):
    """Root-mean-square normalisation (arXiv 1910.07467): the mean in fp32, the weight in `dtype`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Normalise the last axis."""
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
        return (x * torch.rsqrt(mean_square + NORM_EPS)).to(dtype) * self.weight.to(dtype)


class Attention(nn.Module):
    """Causal attention with grouped keys and values (arXiv 2305.13245) and rotary positions (arXiv 2104.09864)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = Matrix(shape.hidden, shape.heads * shape.head_dim)
        self.k_proj = Matrix(shape.hidden, shape.kv_heads * shape.head_dim)
        self.v_proj = Matrix(shape.hidden, shape.kv_heads * shape.head_dim)
        # Each layer adds twice to the residual stream: scaled so that its variance does not grow with depth (GPT-2).
        self.o_proj = Matrix(shape.heads * shape.head_dim, shape.hidden, INIT_STD / (2 * shape.layers) ** 0.5)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Attend within each window: `x` is [windows, tokens, hidden], and so is the result."""
        windows, tokens, _ = x.shape
        query, key, value = (
            projection(x).view(windows, tokens, -1, self.shape.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, angles), rotate(key, angles)
        out = attend(query, key, value)
        result: Tensor = self.o_proj(out.transpose(1, 2).reshape(windows, tokens, -1))
        return result


class FeedForward(nn.Module):
    """The gated FFN: down(act(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = Matrix(shape.hidden, shape.neurons)
        self.up_proj = Matrix(shape.hidden, shape.neurons)
        self.down_proj = Matrix(shape.neurons, shape.hidden, INIT_STD / (2 * shape.layers) ** 0.5)
        self.activation = {"silu": functional.silu, "relu": functional.relu}[shape.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., hidden] to [..., hidden]."""
        result: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return result


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Add attention, then the FFN, to the residual stream; matrices compute in the precision of the angles."""
        dtype = angles[0].dtype
        x = x + self.self_attn(self.input_layernorm(x, dtype), angles)
        result: Tensor = x + self.mlp(self.post_attention_layernorm(x, dtype))
        return result


class Body(nn.Module):
    """All but the head: what Hugging Face calls `model`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, shape.hidden)
        nn.init.normal_(self.embed_tokens.weight, std=INIT_STD)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden)


class TinyLlama(nn.Module):
    """The whole model; parameters are fp32, the residual stream too."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.lm_head = Matrix(shape.hidden, VOCABULARY)

    def forward(self, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Logits [windows, tokens, 256], fp32, of int64 tokens [windows, tokens]; matrices multiply in `dtype`."""
        x = self.model.embed_tokens(tokens)
        angles = rotary_angles(tokens.shape[1], self.shape.head_dim, dtype)
        for block in self.model.layers:
            x = block(x, angles)
        logits: Tensor = self.lm_head(self.model.norm(x, dtype))
        return logits.float()


def rotary_angles(tokens: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine [tokens, width] of each position's angles, both halves alike but for the sine's sign."""
    frequencies = ROPE_THETA ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(tokens, dtype=torch.float32), frequencies)
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat((cosine, cosine), -1).to(dtype), torch.cat((-sine, sine), -1).to(dtype)


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs (i, i + width / 2) of each head by its position's angles; `x` is [..., tokens, width]."""
    cosine, sine = angles
    return x * cosine + x.roll(x.shape[-1] // 2, -1) * sine


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of [windows, heads, tokens, width] over [windows, kv heads, tokens, width].

    Written out because torch's fused backward pass in bf16 takes three times as long on a CPU. Heads that share keys
    stand below one another as rows of one matrix.
    """
    windows, heads, tokens, width = query.shape
    groups = key.shape[1]
    mask = torch.full((tokens, tokens), -torch.inf, dtype=query.dtype).triu(1).repeat(heads // groups, 1)
    rows = query.reshape(windows * groups, -1, width)
    keys, values = key.reshape(windows * groups, tokens, width), value.reshape(windows * groups, tokens, width)
    weights = torch.baddbmm(mask, rows, keys.mT, alpha=width**-0.5).softmax(-1)
    return (weights @ values).view(windows, heads, tokens, width)

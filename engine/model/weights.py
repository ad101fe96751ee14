"""A model's weights as it computes with them, and which tensor of a checkpoint goes where in them.

Query, key and value matrices are one matrix, gate and up another: one product each instead of three and two.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from afterwatt.engine.model.config import ModelConfig
from afterwatt.engine.model.devices import DtypePolicy
from afterwatt.engine.model.rope import pair_order


@dataclass(slots=True)
class LayerWeights:
    """One layer; matrices as [outputs, inputs].

    Attributes:
        attention_norm, ffn_norm: gains, [hidden].
        qkv: [(heads + 2 kv_heads) head_dim, hidden]; query and key rows in neighbouring pairs (`engine.model.rope`).
        out: [hidden, heads head_dim].
        gate_up: [2 ffn, hidden], gate first.
        down: [hidden, ffn].
        qkv_bias, out_bias, gate_up_bias, down_bias: beside them, None where the model has none.
    """

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    ffn_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    qkv_bias: torch.Tensor | None = None
    out_bias: torch.Tensor | None = None
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None


@dataclass(slots=True)
class Weights:
    """All of a model.

    Attributes:
        embedding: [vocab, hidden].
        layers: in order.
        norm: gain of the norm after the last, [hidden].
        head: [vocab, hidden]; the very `embedding` where they are tied.
    """

    embedding: torch.Tensor
    layers: list[LayerWeights]
    norm: torch.Tensor
    head: torch.Tensor

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield every tensor once."""
        yield self.embedding
        yield self.norm
        if self.head is not self.embedding:
            yield self.head
        for layer in self.layers:
            for name in LayerWeights.__slots__:
                tensor = getattr(layer, name)
                if tensor is not None:
                    yield tensor

    @property
    def bytes(self) -> int:
        """What they take in memory."""
        return sum(tensor.nbytes for tensor in self.tensors())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of a checkpoint goes.

    Attributes:
        shape: what it must have there.
        into: rows of a weight that take it.
        order: row i of the tensor goes to row order[i] of `into`; None: to row i.
    """

    shape: tuple[int, ...]
    into: torch.Tensor
    order: torch.Tensor | None = None


def allocate(config: ModelConfig, policy: DtypePolicy, device: torch.device) -> Weights:
    """Make room for a model; nothing is in it yet.

    Norms and biases are kept in the dtype computed in, matrices in the one they are stored in.

    Args:
        config: the model.
        policy: formats.
        device: where; torch's "meta" only counts.
    """
    spec = config.spec

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.empty(rows, columns, dtype=policy.weights, device=device)

    def vector(size: int) -> torch.Tensor:
        return torch.empty(size, dtype=policy.compute, device=device)

    width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    layers = [
        LayerWeights(
            attention_norm=vector(spec.hidden),
            qkv=matrix(width + 2 * kv_width, spec.hidden),
            out=matrix(spec.hidden, width),
            ffn_norm=vector(spec.hidden),
            gate_up=matrix(2 * spec.ffn, spec.hidden),
            down=matrix(spec.hidden, spec.ffn),
            qkv_bias=vector(width + 2 * kv_width) if spec.qkv_bias else None,
            out_bias=vector(spec.hidden) if spec.attention_out_bias else None,
            gate_up_bias=vector(2 * spec.ffn) if spec.ffn_bias else None,
            down_bias=vector(spec.hidden) if spec.ffn_bias else None,
        )
        for _ in range(spec.layers)
    ]
    embedding = matrix(spec.vocab, spec.hidden)
    head = embedding if spec.tied_embeddings else matrix(spec.vocab, spec.hidden)
    return Weights(embedding, layers, vector(spec.hidden), head)


def places(config: ModelConfig, weights: Weights) -> dict[str, Place]:
    """Return every tensor that a checkpoint of this model must have, by name, and where it goes.

    Names as transformers 5.24 writes them, `modeling_llama.py`, `modeling_mistral.py`, `modeling_qwen2.py`.
    """
    spec = config.spec
    found = {
        "model.embed_tokens.weight": _whole(weights.embedding),
        "model.norm.weight": _whole(weights.norm),
    }
    if not spec.tied_embeddings:
        found["lm_head.weight"] = _whole(weights.head)
    widths = [spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.head_dim]
    orders = (pair_order(spec.heads, spec.head_dim), pair_order(spec.kv_heads, spec.head_dim), None)
    for number, layer in enumerate(weights.layers):
        at = f"model.layers.{number}."
        found[f"{at}input_layernorm.weight"] = _whole(layer.attention_norm)
        found[f"{at}post_attention_layernorm.weight"] = _whole(layer.ffn_norm)
        for kind, fused in (("weight", layer.qkv), ("bias", layer.qkv_bias)):
            for name, part, order in zip(
                "qkv", torch.split(fused, widths) if fused is not None else (), orders, strict=False
            ):
                found[f"{at}self_attn.{name}_proj.{kind}"] = Place(tuple(part.shape), part, order)
        for kind, fused in (("weight", layer.gate_up), ("bias", layer.gate_up_bias)):
            for name, part in zip(
                ("gate", "up"), torch.split(fused, spec.ffn) if fused is not None else (), strict=False
            ):
                found[f"{at}mlp.{name}_proj.{kind}"] = _whole(part)
        found[f"{at}self_attn.o_proj.weight"] = _whole(layer.out)
        found[f"{at}mlp.down_proj.weight"] = _whole(layer.down)
        if layer.out_bias is not None:
            found[f"{at}self_attn.o_proj.bias"] = _whole(layer.out_bias)
        if layer.down_bias is not None:
            found[f"{at}mlp.down_proj.bias"] = _whole(layer.down_bias)
    return found


def _whole(tensor: torch.Tensor) -> Place:
    return Place(tuple(tensor.shape), tensor)

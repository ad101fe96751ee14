"""The families whose block is Llama's, as data: RMSNorm, rotary grouped-query attention, a gated network or several.

Everything in which they differ stands here, so that a further family of the same block is one entry: its shape is read
by `modelspecs.families`, its checkpoints are loaded, computed and made up by `engine.model`. Fields and defaults as in
huggingface/transformers 5.24, `models/<family>/configuration_<family>.py`; tensors as in `modeling_<family>.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

_LAYER: Final = "model.layers.{layer}"
LLAMA_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "embedding": "model.embed_tokens",
        "norm": "model.norm",
        "head": "lm_head",
        "attention_norm": f"{_LAYER}.input_layernorm",
        "ffn_norm": f"{_LAYER}.post_attention_layernorm",
        "query": f"{_LAYER}.self_attn.q_proj",
        "key": f"{_LAYER}.self_attn.k_proj",
        "value": f"{_LAYER}.self_attn.v_proj",
        "gate": f"{_LAYER}.mlp.gate_proj",
        "up": f"{_LAYER}.mlp.up_proj",
        "attention_out": f"{_LAYER}.self_attn.o_proj",
        "down": f"{_LAYER}.mlp.down_proj",
        "query_norm": f"{_LAYER}.self_attn.q_norm",
        "key_norm": f"{_LAYER}.self_attn.k_norm",
    }
)
"""Part of the model -> what a checkpoint calls it, less `.weight` or `.bias`."""


def _mixture(block: str, gate: str, up: str, down: str) -> Mapping[str, str]:
    """Return the names of a family with experts.

    Args:
        block: what a layer's mixture is called.
        gate: of an expert.
        up: of an expert.
        down: of an expert.
    """
    expert = f"{_LAYER}.{block}.experts.{{expert}}"
    own = {"router": f"{_LAYER}.{block}.gate", "gate": f"{expert}.{gate}", "up": f"{expert}.{up}"}
    return MappingProxyType({**LLAMA_NAMES, **own, "down": f"{expert}.{down}"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderFamily:
    """What tells one family from another.

    Attributes:
        architecture: transformers' class, which stands in config.json.
        kv_heads: key/value heads where config.json has no number of them; None: as many as query heads.
        max_context: tokens, likewise.
        biases: flag of `ModelSpec` -> field of config.json that sets it (absent: false), or True where it always is.
        windowed: whether a `sliding_window` in config.json is looked at; `window_flag`: the field that turns it on
            (None: it always is on).
        token_ids: ids that begin and end a text where config.json does not say, by its fields' names.
        head_norms: whether each head of queries and keys is normalised.
        renormalised: whether the weights of a token's experts are brought to a sum of 1, or the field of config.json
            that says so (absent: false).
        experts: fields of config.json that hold how many experts there are and how wide one is; None: no mixture.
        names: of the tensors; see `LLAMA_NAMES`.
    """

    architecture: str
    kv_heads: int | None = None
    max_context: int
    biases: Mapping[str, str | bool] = field(default_factory=dict)
    windowed: bool = False
    window_flag: str | None = None
    token_ids: Mapping[str, int] = field(default_factory=dict)
    head_norms: bool = False
    renormalised: bool | str = True
    experts: tuple[str, str] | None = None
    names: Mapping[str, str] = field(default_factory=lambda: LLAMA_NAMES)


DECODERS: Final[Mapping[str, DecoderFamily]] = MappingProxyType(
    {
        "llama": DecoderFamily(
            architecture="LlamaForCausalLM",
            max_context=2048,
            biases={"qkv_bias": "attention_bias", "attention_out_bias": "attention_bias", "ffn_bias": "mlp_bias"},
            token_ids={"bos_token_id": 1, "eos_token_id": 2},
        ),
        "mistral": DecoderFamily(
            architecture="MistralForCausalLM",
            kv_heads=8,
            max_context=131_072,
            windowed=True,
            token_ids={"bos_token_id": 1, "eos_token_id": 2},
        ),
        "qwen2": DecoderFamily(
            architecture="Qwen2ForCausalLM",
            kv_heads=32,
            max_context=32_768,
            biases={"qkv_bias": True},
            windowed=True,
            window_flag="use_sliding_window",
        ),
        "mixtral": DecoderFamily(
            architecture="MixtralForCausalLM",
            kv_heads=8,
            max_context=131_072,
            windowed=True,
            token_ids={"bos_token_id": 1, "eos_token_id": 2},
            experts=("num_local_experts", "intermediate_size"),
            names=_mixture("block_sparse_moe", "w1", "w3", "w2"),
        ),
        "qwen3_moe": DecoderFamily(
            architecture="Qwen3MoeForCausalLM",
            kv_heads=4,
            max_context=32_768,
            biases={"qkv_bias": "attention_bias", "attention_out_bias": "attention_bias"},
            windowed=True,
            window_flag="use_sliding_window",
            head_norms=True,
            renormalised="norm_topk_prob",
            experts=("num_experts", "moe_intermediate_size"),
            names=_mixture("mlp", "gate_proj", "up_proj", "down_proj"),
        ),
    }
)
"""By model_type."""

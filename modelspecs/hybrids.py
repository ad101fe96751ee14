"""Hybrids: layers that keep a state of fixed size among those that attend.

Qwen3-Next and Qwen3.5 (gated delta rule, arXiv:2412.06464), LFM2 (short convolutions), Nemotron-H and Nemotron 3 Nano
(Mamba-2, arXiv:2405.21060), MiniMax-Text-01 and M1 (lightning attention, arXiv:2501.08313). Fields and defaults:
huggingface/transformers 4.57.1 and, for Nemotron and MiniMax, the code published with their weights. A recurrent state
is kept in 32 bits, what a convolution looks back on in 16.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from afterwatt.modelspecs.configfile import Config
from afterwatt.modelspecs.errors import ModelError
from afterwatt.modelspecs.families import layer_pattern, llama_like, repeated
from afterwatt.modelspecs.layers import State

_STATE_BYTES, _LOOKBACK_BYTES = 4, 2


def _gated_delta(config: Config, hidden: int) -> State:
    """Return a gated delta layer: projections of queries, keys, values, gate, decay and step; a short convolution."""
    key_heads, value_heads = config.count("linear_num_key_heads"), config.count("linear_num_value_heads")
    key_dim, value_dim = config.count("linear_key_head_dim"), config.count("linear_value_head_dim")
    kernel = config.count("linear_conv_kernel_dim", default=4)
    values, convolved = value_heads * value_dim, 2 * key_heads * key_dim + value_heads * value_dim
    cells = value_heads * key_dim * value_dim
    return State(
        kind="gated delta rule",
        width=values,
        matrix_params=hidden * (convolved + values + 2 * value_heads) + values * hidden,
        vectors=convolved * kernel + 2 * value_heads + value_dim,
        state_bytes=cells * _STATE_BYTES + convolved * (kernel - 1) * _LOOKBACK_BYTES,
        flops_per_token=7 * cells,  # decay; look up, correct and read, each a multiply and an add
    )


def qwen3_5(config: Config) -> dict[str, Any]:
    """Qwen3.5 without experts: one layer in four attends, with a gate on what comes of it."""
    shape = llama_like(config, 4, 32_768) if config.has("intermediate_size") else _without_ffn(config)
    shape["head_dim"] = config.count("head_dim", default=256)
    every = config.count("full_attention_interval", default=4)
    return shape | {
        "query_gate": True,
        "layer_vectors": 2 * shape["head_dim"],
        "pattern": layer_pattern(config, shape["layers"], "s" * (every - 1) + "f"),
        "state": _gated_delta(config, shape["hidden"]),
    }


def _without_ffn(config: Config) -> dict[str, Any]:
    """Read a file in which experts stand for every feed-forward network, so that a dense width is not told."""
    fields = {**config.fields, "intermediate_size": config.count("moe_intermediate_size")}
    return llama_like(Config(config.path, fields), 2, 32_768)


def qwen3_next(config: Config) -> dict[str, Any]:
    """Qwen3-Next and Qwen3.5's mixtures: the same with many small experts and a shared one."""
    config.must_be("decoder_sparse_step", 1, "layers without experts among those with")
    config.must_be("mlp_only_layers", [], "layers without experts among those with")
    shape = qwen3_5(config)
    return shape | {
        "ffn": config.count("moe_intermediate_size"),
        "experts": config.count("num_experts"),
        "active_experts": config.count("num_experts_per_tok"),
        "shared_ffn": config.count("shared_expert_intermediate_size"),
        "expert_vectors": shape["hidden"],  # the shared expert's gate
    }


def lfm2(config: Config) -> dict[str, Any]:
    """LFM2: gated short convolutions, some layers of attention with norms of queries and keys."""
    shape = llama_like(config, 8, 128_000)
    hidden, ffn, layers = shape["hidden"], shape["ffn"], shape["layers"]
    if config.flag("block_auto_adjust_ff_dim", default=True):
        multiple = config.count("block_multiple_of", default=256)
        ffn = multiple * -(-int(2 * ffn / 3) // multiple)
    attending = set(config.numbers("full_attn_idxs")) if config.has("full_attn_idxs") else set(range(layers))
    usual = repeated("".join("f" if layer in attending else "s" for layer in range(layers)))
    looked_back = config.count("conv_L_cache", default=3)
    bias = 1 if config.flag("conv_bias", default=False) else 0
    state = State(
        kind="short convolution",
        width=hidden,
        matrix_params=4 * hidden * hidden,
        vectors=hidden * looked_back + 5 * bias * hidden,
        state_bytes=hidden * looked_back * _LOOKBACK_BYTES,
        flops_per_token=2 * hidden * looked_back,
    )
    return shape | {
        "ffn": ffn,
        "layer_vectors": 2 * shape["head_dim"],
        "tied_embeddings": config.flag("tie_word_embeddings", default=config.flag("tie_embedding", default=True)),
        "pattern": layer_pattern(config, layers, usual),
        "state": state,
    }


def _mamba2(config: Config, hidden: int) -> State:
    """Return a Mamba-2 layer."""
    heads, groups = config.count("mamba_num_heads"), config.count("n_groups", default=8)
    size, kernel = config.count("ssm_state_size", default=128), config.count("conv_kernel", default=4)
    inner = heads * config.count("mamba_head_dim")
    convolved = inner + 2 * groups * size
    bias = 1 if config.flag("use_conv_bias", default=True) else 0
    return State(
        kind="Mamba-2",
        width=inner,
        matrix_params=hidden * (inner + convolved + heads) + inner * hidden,
        vectors=convolved * (kernel + bias) + 3 * heads + inner,
        state_bytes=inner * size * _STATE_BYTES + convolved * (kernel - 1) * _LOOKBACK_BYTES,
        flops_per_token=6 * inner * size,
    )


_NEMOTRON_LETTERS = str.maketrans({"M": "S", "*": "F", "-": "n", "E": "n"})


def nemotron_h(config: Config) -> dict[str, Any]:
    """Nemotron-H and Nemotron 3 Nano: every layer is a Mamba-2 mixer, attention or a network, behind one norm."""
    said = config.text("hybrid_override_pattern", "")
    if not said or set(said) - set("M*-E") or {"-", "E"} <= set(said):
        raise ModelError(f"{config.path}: hybrid_override_pattern = {said!r} must be made of M, * and one of - and E")
    if config.has("moe_latent_size"):
        raise ModelError(
            f"{config.path}: moe_latent_size means experts behind a narrower stream, which is not modelled"
        )
    for name in ("use_bias", "mamba_proj_bias", "attention_bias", "mlp_bias"):
        config.must_be(name, False, "biases")
    hidden, heads, layers = config.count("hidden_size"), config.count("num_attention_heads"), len(said)
    if layers != config.count("num_hidden_layers", default=layers):
        raise ModelError(
            f"{config.path}: hybrid_override_pattern has {layers} layers, num_hidden_layers says otherwise"
        )
    shape = {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": config.count("num_key_value_heads", default=8),
        "head_dim": config.count("head_dim", "attention_head_dim", default=128),
        "ffn": config.count("intermediate_size"),
        "ffn_matrices": 2,
        "vocab": config.count("vocab_size"),
        "max_context": config.count("max_position_embeddings", default=4096),
        "norm": "rms",
        "norms_per_layer": 1,
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "pattern": repeated(said.translate(_NEMOTRON_LETTERS)),
        "state": _mamba2(config, hidden) if "M" in said else None,
    }
    if "E" not in said:
        return shape
    shared = config.count("moe_shared_expert_intermediate_size", default=0, least=0)
    return shape | {
        "ffn": config.count("moe_intermediate_size"),
        "experts": config.count("n_routed_experts"),
        "active_experts": config.count("num_experts_per_tok"),
        "shared_ffn": shared * config.count("n_shared_experts", default=1, least=0),
    }


def _lightning(hidden: int, heads: int, head_dim: int) -> State:
    """Return a layer of lightning attention: keys times values summed up, fading at a rate of the head's own."""
    inner, cells = heads * head_dim, heads * head_dim * head_dim
    return State(
        kind="lightning attention",
        width=inner,
        matrix_params=hidden * 4 * inner + inner * hidden,  # queries, keys, values and a gate; out
        vectors=inner,
        state_bytes=cells * _STATE_BYTES,
        flops_per_token=5 * cells,  # fade; add, and read, each a multiply and an add
    )


def minimax(config: Config) -> dict[str, Any]:
    """MiniMax-Text-01 and M1: one layer in eight attends, all have experts."""
    shape = llama_like(config, 8, 131_072)
    config.must_be("shared_intermediate_size", 0, "a shared expert")
    layers, said = shape["layers"], config.numbers("attn_type_list")
    if said and (len(said) != layers or set(said) - {0, 1}):
        raise ModelError(
            f"{config.path}: attn_type_list must say 0 (lightning) or 1 (attends) of each of {layers} layers"
        )
    usual = repeated("".join("sf"[one] for one in said)) if said else "fs"
    return shape | {
        "experts": config.count("num_local_experts", default=8),
        "active_experts": config.count("num_experts_per_tok", default=2),
        "pattern": layer_pattern(config, layers, usual),
        "state": _lightning(shape["hidden"], shape["heads"], shape["head_dim"]),
    }


HYBRIDS: Mapping[str, Callable[[Config], dict[str, Any]]] = MappingProxyType(
    {
        "qwen3_next": qwen3_next,
        "qwen3_5_text": qwen3_5,
        "qwen3_5_moe_text": qwen3_next,
        "lfm2": lfm2,
        "nemotron_h": nemotron_h,
        "minimax": minimax,
        "minimax_text_01": minimax,
        "minimax_m1": minimax,
    }
)
"""model_type -> reader."""

"""Dense families, Mixtral, Qwen3's mixtures and gpt-oss: what the fields of a `config.json` say of a shape.

Fields and defaults: huggingface/transformers 4.57.1, `models/<family>/configuration_<family>.py`; which tensors they
imply: `modeling_<family>.py` beside them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from afterwatt.modelspecs.configfile import Config
from afterwatt.modelspecs.decoders import DECODERS, DecoderFamily
from afterwatt.modelspecs.errors import ModelError, hint

_LEARNED_POSITION_OFFSET = 2
"""OPT's position table has two more rows than positions (`OPTLearnedPositionalEmbedding`)."""


_LAYER_LETTERS = {
    "full_attention": "f",
    "attention": "f",
    "sliding_attention": "w",
    "chunked_attention": "w",
    "linear_attention": "s",
    "conv": "s",
}


def repeated(pattern: str) -> str:
    """Return the shortest beginning of a pattern that, repeated, gives it."""
    return next(
        pattern[:size]
        for size in range(1, len(pattern) + 1)
        if (pattern[:size] * len(pattern))[: len(pattern)] == pattern
    )


def layer_pattern(config: Config, layers: int, usual: str) -> str:
    """Return which layers attend to what: as `layer_types` says, or as is usual for the family.

    Raises:
        ModelError: a kind of layer is unknown, or there are more or fewer than layers.
    """
    said = config.words("layer_types")
    if not said:
        return usual
    unknown = next((word for word in said if word not in _LAYER_LETTERS), None)
    if unknown is not None:
        raise ModelError(f"{config.path}: layer_types has {unknown!r}{hint(unknown, _LAYER_LETTERS)}")
    if len(said) != layers:
        raise ModelError(f"{config.path}: layer_types names {len(said)} layers, num_hidden_layers = {layers}")
    return repeated("".join(_LAYER_LETTERS[word] for word in said))


def windowed(config: Config, layers: int, window: int | None, usual: str) -> dict[str, Any]:
    """Return the window and which layers have it; no window where all layers attend to everything."""
    pattern = layer_pattern(config, layers, usual)
    if window is None or "w" not in pattern:
        return {"sliding_window": None, "pattern": ""}
    return {"sliding_window": window, "pattern": "" if pattern == "w" else pattern}


def llama_like(config: Config, default_kv_heads: int | None, max_context: int) -> dict[str, Any]:
    """What Llama's likes share.

    Args:
        config: the file.
        default_kv_heads: key/value heads where the field is absent; None: as many as query heads. A null in the file
            always means as many as query heads.
        max_context: default of max_position_embeddings.
    """
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    absent_kv = heads if default_kv_heads is None or config.is_null("num_key_value_heads") else default_kv_heads
    return {
        "layers": config.count("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": config.count("num_key_value_heads", default=absent_kv),
        "head_dim": config.head_dim(hidden, heads),
        "ffn": config.count("intermediate_size"),
        "ffn_matrices": 3,
        "vocab": config.count("vocab_size"),
        "max_context": config.count("max_position_embeddings", default=max_context),
        "norm": "rms",
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
    }


def decoder(config: Config, family: DecoderFamily) -> dict[str, Any]:
    """Read a family whose block is Llama's.

    Args:
        config: the file.
        family: what tells it from others.
    """
    shape = llama_like(config, family.kv_heads, family.max_context)
    biases = {
        flag: told if told is True else config.flag(str(told), default=False) for flag, told in family.biases.items()
    }
    if family.window_flag is not None:
        return shape | biases | _late_windows(config, shape["layers"], family.window_flag)
    windowed = family.windowed and not config.is_null("sliding_window")
    return shape | biases | {"sliding_window": config.count("sliding_window", default=4096) if windowed else None}


def mixtral(config: Config) -> dict[str, Any]:
    """Mixtral."""
    return llama_like(config, 8, 131_072) | {
        "experts": config.count("num_local_experts", default=8),
        "active_experts": config.count("num_experts_per_tok", default=2),
        "sliding_window": config.count("sliding_window") if config.has("sliding_window") else None,
    }


def _late_windows(config: Config, layers: int, flag: str = "use_sliding_window") -> dict[str, Any]:
    """Return the window of Qwen2 and Qwen3: only if switched on, and only in layers from `max_window_layers` on."""
    if not config.flag(flag, default=False) or config.is_null("sliding_window"):
        return {"sliding_window": None}
    full = min(layers, config.count("max_window_layers", default=28, least=0))
    usual = repeated("f" * full + "w" * (layers - full))
    return windowed(config, layers, config.count("sliding_window", default=4096), usual)


def _plain(
    config: Config,
    layers: tuple[str, ...] = ("num_hidden_layers",),
    hidden: tuple[str, ...] = ("hidden_size",),
    heads: tuple[str, ...] = ("num_attention_heads",),
    tied: bool = True,
) -> dict[str, Any]:
    """What families before Llama share: LayerNorm, two matrices in the network, as many key/value heads as heads.

    Args:
        config: the file.
        layers: how the family's files spell it.
        hidden: likewise.
        heads: likewise.
        tied: default of tie_word_embeddings.
    """
    width, count = config.count(*hidden), config.count(*heads)
    return {
        "layers": config.count(*layers),
        "hidden": width,
        "heads": count,
        "kv_heads": count,
        "head_dim": config.head_dim(width, count),
        "ffn": 4 * width,
        "ffn_matrices": 2,
        "vocab": config.count("vocab_size"),
        "max_context": config.count("max_position_embeddings", default=2048),
        "norm": "layer",
        "tied_embeddings": config.flag("tie_word_embeddings", default=tied),
    }


def _biased(bias: bool) -> dict[str, Any]:
    return {"qkv_bias": bias, "attention_out_bias": bias, "ffn_bias": bias}


def opt(config: Config) -> dict[str, Any]:
    """OPT."""
    shape = _plain(config)
    # OPT-350m normalises after each block and so has no norm after the last; one flag was only for old fine-tunes.
    before = config.flag("do_layer_norm_before", default=True)
    return (
        shape
        | _biased(config.flag("enable_bias", default=True))
        | {
            "ffn": config.count("ffn_dim"),
            "learned_positions": shape["max_context"] + _LEARNED_POSITION_OFFSET,
            "norm": "layer" if config.flag("layer_norm_elementwise_affine", default=True) else "layer-plain",
            "final_norm": before and not config.flag("_remove_final_layer_norm", default=False),
            "embedding_width": config.count("word_embed_proj_dim", default=shape["hidden"]),
        }
    )


def falcon(config: Config) -> dict[str, Any]:
    """Falcon."""
    shape = _plain(
        config, ("num_hidden_layers", "n_layer"), ("n_embed", "hidden_size"), ("num_attention_heads", "n_head")
    )
    # Files from before Falcon joined transformers (RefinedWeb) tell the new layer by its own spelling of the kv heads.
    new_decoder = config.flag("new_decoder_architecture", default=config.has("n_head_kv"))
    grouped = new_decoder or not config.flag("multi_query", default=True)
    parallel = config.flag("parallel_attn", default=True)
    norms = config.count("num_ln_in_parallel_attn", default=2 if new_decoder else 1) if parallel else 2
    return (
        shape
        | _biased(config.flag("bias", default=False))
        | {
            "kv_heads": config.count("num_kv_heads", "n_head_kv", default=shape["heads"]) if grouped else 1,
            "ffn": config.count("ffn_hidden_size", default=4 * shape["hidden"]),
            "norms_per_layer": 2 if norms == 2 else 1,
            "parallel_attention": new_decoder or parallel,
        }
    )


def bloom(config: Config) -> dict[str, Any]:
    """BLOOM."""
    shape = _plain(
        config, ("n_layer", "num_hidden_layers"), ("n_embed", "hidden_size"), ("n_head", "num_attention_heads")
    )
    # ALiBi has no table that would bound the context; seq_length is what the model was trained on.
    return shape | _biased(True) | {"max_context": config.count("seq_length", default=2048), "embedding_norm": True}


def qwen3(config: Config, kv_heads: int = 32) -> dict[str, Any]:
    """Qwen3; its mixtures have another default of key/value heads."""
    bias = config.flag("attention_bias", default=False)
    shape = llama_like(config, kv_heads, 32_768)
    shape["head_dim"] = config.count("head_dim", default=128)
    return (
        shape
        | {
            "qkv_bias": bias,
            "attention_out_bias": bias,
            "layer_vectors": 2 * shape["head_dim"],  # norms of queries and keys
        }
        | _late_windows(config, shape["layers"])
    )


def qwen3_moe(config: Config) -> dict[str, Any]:
    """Qwen3's mixtures."""
    config.must_be("decoder_sparse_step", 1, "layers without experts among those with")
    config.must_be("mlp_only_layers", [], "layers without experts among those with")
    return qwen3(config, kv_heads=4) | {
        "ffn": config.count("moe_intermediate_size"),
        "experts": config.count("num_experts", "num_local_experts"),
        "active_experts": config.count("num_experts_per_tok"),
    }


def gpt_oss(config: Config) -> dict[str, Any]:
    """gpt-oss."""
    shape = llama_like(config, 8, 131_072)
    bias = config.flag("attention_bias", default=True)
    experts = config.count("num_local_experts")
    return (
        shape
        | {
            "qkv_bias": bias,
            "attention_out_bias": bias,
            "ffn_bias": True,
            "experts": experts,
            "active_experts": config.count("num_experts_per_tok", "experts_per_token"),
            "layer_vectors": shape["heads"] + experts,  # attention sinks, the router's bias
        }
        | windowed(
            config, shape["layers"], config.count("sliding_window") if config.has("sliding_window") else None, "wf"
        )
    )


def gemma(config: Config, kv_heads: int = 16, max_context: int = 8192) -> dict[str, Any]:
    """Gemma; others have other defaults.

    Args:
        config: the file.
        kv_heads: default of num_key_value_heads.
        max_context: default of max_position_embeddings.
    """
    shape = llama_like(config, kv_heads, max_context)
    return shape | {
        "head_dim": config.count("head_dim", default=256),
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
    }


def _gemma_window(config: Config) -> int | None:
    return None if config.is_null("sliding_window") else config.count("sliding_window", default=4096)


def gemma2(config: Config) -> dict[str, Any]:
    """Gemma 2: every other layer has a window."""
    shape = gemma(config, kv_heads=4)
    return shape | {"norms_per_layer": 4} | windowed(config, shape["layers"], _gemma_window(config), "wf")


def gemma3(config: Config) -> dict[str, Any]:
    """Gemma 3: five layers of six have a window, unless told otherwise."""
    shape = gemma(config, kv_heads=4, max_context=131_072)
    every = config.count("sliding_window_pattern", "_sliding_window_pattern", default=6)
    usual = "w" * (every - 1) + "f"
    return (
        shape
        | {"norms_per_layer": 4, "layer_vectors": 2 * shape["head_dim"]}
        | windowed(config, shape["layers"], _gemma_window(config), usual)
    )


_PARALLEL: dict[str, Any] = {"norms_per_layer": 1, "parallel_attention": True, "ffn_bias": True, "head_bias": True}


def phi(config: Config) -> dict[str, Any]:
    """Phi-1 and 2."""
    config.must_be("qk_layernorm", False, "norms of queries and keys")
    shape = _plain(config, tied=False)
    return (
        shape
        | _biased(True)
        | _PARALLEL
        | {
            "kv_heads": config.count("num_key_value_heads", default=shape["heads"]),
            "ffn": config.count("intermediate_size"),
        }
    )


def phi3(config: Config) -> dict[str, Any]:
    """Phi-3 and 4."""
    window = config.count("sliding_window") if config.has("sliding_window") else None
    return llama_like(config, None, 4096) | {"sliding_window": window}


def gptj(config: Config) -> dict[str, Any]:
    """GPT-J."""
    shape = _plain(
        config,
        ("n_layer", "num_hidden_layers"),
        ("n_embd", "hidden_size"),
        ("n_head", "num_attention_heads"),
        tied=False,
    )
    return (
        shape
        | _PARALLEL
        | {
            "ffn": config.count("n_inner", default=4 * shape["hidden"]),
            "max_context": config.count("n_positions", "max_position_embeddings", default=2048),
        }
    )


FAMILIES: Mapping[str, Callable[[Config], dict[str, Any]]] = MappingProxyType(
    {
        **{name: partial(decoder, family=family) for name, family in DECODERS.items()},
        "granite": partial(decoder, family=DECODERS["llama"]),
        "ministral3": partial(decoder, family=DECODERS["mistral"]),
        "mixtral": mixtral,
        "opt": opt,
        "falcon": falcon,
        "bloom": bloom,
        "qwen3": qwen3,
        "qwen3_moe": qwen3_moe,
        "gpt_oss": gpt_oss,
        "gemma": gemma,
        "gemma2": gemma2,
        "gemma3_text": gemma3,
        "phi": phi,
        "phi3": phi3,
        "gptj": gptj,
    }
)
"""model_type -> reader."""

"""Reading a Hugging Face `config.json`: fields, older spellings and defaults as the transformers library has them.

Fields and defaults: huggingface/transformers 4.57.1, `models/<family>/configuration_<family>.py`; which tensors they
imply: `modeling_<family>.py` beside them. `max_position_embeddings` is taken as it stands, `rope_scaling` not applied.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from afterwatt.modelspecs.decoders import DECODERS, Decoder
from afterwatt.modelspecs.errors import ModelError, hint
from afterwatt.modelspecs.spec import ModelSpec

_MISSING = object()
_LEARNED_POSITION_OFFSET = 2
"""OPT's position table has two more rows than positions (`OPTLearnedPositionalEmbedding`)."""


class _Config:
    """A `config.json` that answers typed questions and names file, field and value when it cannot."""

    def __init__(self, path: Path, fields: Mapping[str, Any]) -> None:
        self.path = path
        self._fields = fields

    def _find(self, names: tuple[str, ...]) -> object:
        """The first of the spellings that is there; null counts as absent, as transformers treats it."""
        return next((self._fields[name] for name in names if self._fields.get(name) is not None), _MISSING)

    def has(self, *names: str) -> bool:
        return self._find(names) is not _MISSING

    def is_null(self, name: str) -> bool:
        """True if the field is there and says null, which some families read otherwise than its absence."""
        return name in self._fields and self._fields[name] is None

    def count(self, *names: str, default: int | None = None) -> int:
        """A whole number of 1 or more, under any of its spellings; without a default it must be there."""
        value = self._find(names)
        if value is _MISSING:
            if default is None:
                raise ModelError(f"{self.path}: {names[0]} is missing; a model's shape cannot be told without it")
            return default
        if type(value) is not int or value < 1:
            raise ModelError(f"{self.path}: {names[0]} = {value!r} must be a whole number of 1 or more")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._find((name,))
        if value is _MISSING:
            return default
        if type(value) is not bool:
            raise ModelError(f"{self.path}: {name} = {value!r} must be true or false")
        return value

    def must_be(self, name: str, expected: object, what: str) -> None:
        """Refuse a field whose other values mean a shape that a `ModelSpec` cannot say."""
        value = self._find((name,))
        if value is not _MISSING and value != expected:
            raise ModelError(
                f"{self.path}: {name} = {value!r} means {what}, which cannot be described; known: {expected!r}"
            )

    def head_dim(self, hidden: int, heads: int) -> int:
        """Explicit, or the hidden size shared out evenly among the heads."""
        if self.has("head_dim"):
            return self.count("head_dim")
        if hidden % heads:
            raise ModelError(
                f"{self.path}: hidden_size = {hidden} is not a multiple of the {heads} attention heads; add head_dim"
            )
        return hidden // heads


def _llama_like(config: _Config, default_kv_heads: int | None, max_context: int) -> dict[str, Any]:
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


def _decoder(config: _Config, family: Decoder) -> dict[str, Any]:
    on = family.windowed and (family.window_flag is None or config.flag(family.window_flag, default=False))
    windowed = on and not config.is_null("sliding_window")
    return _llama_like(config, family.kv_heads, family.max_context) | {
        **{
            flag: told if told is True else config.flag(str(told), default=False)
            for flag, told in family.biases.items()
        },
        "sliding_window": config.count("sliding_window", default=4096) if windowed else None,
    }


def _mixtral(config: _Config) -> dict[str, Any]:
    return _llama_like(config, 8, 131_072) | {
        "experts": config.count("num_local_experts", default=8),
        "active_experts": config.count("num_experts_per_tok", default=2),
        "sliding_window": config.count("sliding_window") if config.has("sliding_window") else None,
    }


def _opt(config: _Config) -> dict[str, Any]:
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    positions = config.count("max_position_embeddings", default=2048)
    bias = config.flag("enable_bias", default=True)
    # OPT-350m normalises after each block and so has no norm after the last; one flag was only for old fine-tunes.
    before = config.flag("do_layer_norm_before", default=True)
    return {
        "layers": config.count("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": config.head_dim(hidden, heads),
        "ffn": config.count("ffn_dim"),
        "ffn_matrices": 2,
        "vocab": config.count("vocab_size"),
        "max_context": positions,
        "learned_positions": positions + _LEARNED_POSITION_OFFSET,
        "norm": "layer" if config.flag("layer_norm_elementwise_affine", default=True) else "layer-plain",
        "final_norm": before and not config.flag("_remove_final_layer_norm", default=False),
        "embedding_width": config.count("word_embed_proj_dim", default=hidden),
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "qkv_bias": bias,
        "attention_out_bias": bias,
        "ffn_bias": bias,
    }


def _falcon(config: _Config) -> dict[str, Any]:
    hidden, heads = config.count("n_embed", "hidden_size"), config.count("num_attention_heads", "n_head")
    # Files from before Falcon joined transformers (RefinedWeb) tell the new layer by its own spelling of the kv heads.
    new_decoder = config.flag("new_decoder_architecture", default=config.has("n_head_kv"))
    grouped = new_decoder or not config.flag("multi_query", default=True)
    parallel = config.flag("parallel_attn", default=True)
    norms = config.count("num_ln_in_parallel_attn", default=2 if new_decoder else 1) if parallel else 2
    bias = config.flag("bias", default=False)
    return {
        "layers": config.count("num_hidden_layers", "n_layer"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": config.count("num_kv_heads", "n_head_kv", default=heads) if grouped else 1,
        "head_dim": config.head_dim(hidden, heads),
        "ffn": config.count("ffn_hidden_size", default=4 * hidden),
        "ffn_matrices": 2,
        "vocab": config.count("vocab_size"),
        "max_context": config.count("max_position_embeddings", default=2048),
        "norm": "layer",
        "norms_per_layer": 2 if norms == 2 else 1,
        "parallel_attention": new_decoder or parallel,
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "qkv_bias": bias,
        "attention_out_bias": bias,
        "ffn_bias": bias,
    }


def _bloom(config: _Config) -> dict[str, Any]:
    hidden, heads = config.count("n_embed", "hidden_size"), config.count("n_head", "num_attention_heads")
    return {
        "layers": config.count("n_layer", "num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": config.head_dim(hidden, heads),
        "ffn": 4 * hidden,
        "ffn_matrices": 2,
        "vocab": config.count("vocab_size"),
        # ALiBi has no table that would bound the context; seq_length is what the model was trained on.
        "max_context": config.count("seq_length", default=2048),
        "norm": "layer",
        "embedding_norm": True,
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
        "qkv_bias": True,
        "attention_out_bias": True,
        "ffn_bias": True,
    }


def _qwen3(config: _Config) -> dict[str, Any]:
    bias = config.flag("attention_bias", default=False)
    shape = _llama_like(config, 32, 32_768)
    shape["head_dim"] = config.count("head_dim", default=128)
    windowed = config.flag("use_sliding_window", default=False) and not config.is_null("sliding_window")
    return shape | {
        "qkv_bias": bias,
        "attention_out_bias": bias,
        "layer_vectors": 2 * shape["head_dim"],  # norms of queries and keys
        "sliding_window": config.count("sliding_window", default=4096) if windowed else None,
    }


def _qwen3_moe(config: _Config) -> dict[str, Any]:
    config.must_be("decoder_sparse_step", 1, "layers without experts among those with")
    config.must_be("mlp_only_layers", [], "layers without experts among those with")
    return _qwen3(config) | {
        "ffn": config.count("moe_intermediate_size"),
        "experts": config.count("num_experts"),
        "active_experts": config.count("num_experts_per_tok"),
    }


def _gpt_oss(config: _Config) -> dict[str, Any]:
    shape = _llama_like(config, 8, 131_072)
    bias = config.flag("attention_bias", default=True)
    experts = config.count("num_local_experts")
    return shape | {
        "qkv_bias": bias,
        "attention_out_bias": bias,
        "ffn_bias": True,
        "experts": experts,
        "active_experts": config.count("num_experts_per_tok", "experts_per_token"),
        "layer_vectors": shape["heads"] + experts,  # attention sinks, the router's bias
        "sliding_window": config.count("sliding_window") if config.has("sliding_window") else None,
    }


def _gemma(config: _Config) -> dict[str, Any]:
    shape = _llama_like(config, 16, 8192)
    return shape | {
        "head_dim": config.count("head_dim", default=256),
        "tied_embeddings": config.flag("tie_word_embeddings", default=True),
    }


def _gemma2(config: _Config) -> dict[str, Any]:
    window = None if config.is_null("sliding_window") else config.count("sliding_window", default=4096)
    return _gemma(config) | {"norms_per_layer": 4, "sliding_window": window}


def _gemma3(config: _Config) -> dict[str, Any]:
    shape = _gemma2(config)
    return shape | {"layer_vectors": 2 * shape["head_dim"]}


def _phi(config: _Config) -> dict[str, Any]:
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    config.must_be("qk_layernorm", False, "norms of queries and keys")
    return {
        "layers": config.count("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": config.count("num_key_value_heads", default=heads),
        "head_dim": config.head_dim(hidden, heads),
        "ffn": config.count("intermediate_size"),
        "ffn_matrices": 2,
        "vocab": config.count("vocab_size"),
        "max_context": config.count("max_position_embeddings", default=2048),
        "norm": "layer",
        "norms_per_layer": 1,
        "parallel_attention": True,
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "qkv_bias": True,
        "attention_out_bias": True,
        "ffn_bias": True,
        "head_bias": True,
    }


def _phi3(config: _Config) -> dict[str, Any]:
    window = config.count("sliding_window") if config.has("sliding_window") else None
    return _llama_like(config, None, 4096) | {"sliding_window": window}


def _gptj(config: _Config) -> dict[str, Any]:
    hidden, heads = config.count("n_embd", "hidden_size"), config.count("n_head", "num_attention_heads")
    return {
        "layers": config.count("n_layer", "num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": config.head_dim(hidden, heads),
        "ffn": config.count("n_inner", default=4 * hidden),
        "ffn_matrices": 2,
        "vocab": config.count("vocab_size"),
        "max_context": config.count("n_positions", "max_position_embeddings", default=2048),
        "norm": "layer",
        "norms_per_layer": 1,
        "parallel_attention": True,
        "tied_embeddings": config.flag("tie_word_embeddings", default=False),
        "ffn_bias": True,
        "head_bias": True,
    }


READERS: Mapping[str, Callable[[_Config], dict[str, Any]]] = MappingProxyType(
    {
        **{name: partial(_decoder, family=family) for name, family in DECODERS.items()},
        "mixtral": _mixtral,
        "opt": _opt,
        "falcon": _falcon,
        "bloom": _bloom,
        "qwen3": _qwen3,
        "qwen3_moe": _qwen3_moe,
        "gpt_oss": _gpt_oss,
        "gemma": _gemma,
        "gemma2": _gemma2,
        "gemma3_text": _gemma3,
        "ministral3": partial(_decoder, family=DECODERS["mistral"]),
        "phi": _phi,
        "phi3": _phi3,
        "gptj": _gptj,
    }
)
_OLD_MODEL_TYPES: Mapping[str, str] = MappingProxyType({"refinedweb": "falcon", "refinedwebmodel": "falcon"})


def read_hf_config(path: Path) -> ModelSpec:
    """Read the shape of a model from its Hugging Face `config.json`.

    Args:
        path: the file, or a directory that holds one. The model is named after the directory.

    Raises:
        ModelError: no such file, not a JSON object, an architecture this package does not know, a field that is
            missing, of the wrong type or out of range.
    """
    file = path / "config.json" if path.is_dir() else path
    fields = _text_part(_read_json(file))
    family = _family(file, fields)
    shape = READERS[family](_Config(file, fields))
    folder = file.resolve().parent.name
    name = (folder or file.stem) if file.name == "config.json" else file.stem
    try:
        return ModelSpec(name=name, family=family, source=str(file), **shape)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from None


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}; give a Hugging Face config.json") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON: {error}; give a Hugging Face config.json") from None
    if not isinstance(fields, dict):
        raise ModelError(f"{file} holds a JSON {type(fields).__name__}, not an object; give a Hugging Face config.json")
    return fields


def _text_part(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the language model's fields of a file that describes other towers too (`text_config`)."""
    inner = fields.get("text_config")
    return inner if isinstance(inner, dict) and "num_hidden_layers" in inner else fields


def _family(file: Path, fields: Mapping[str, Any]) -> str:
    """Which reader: by model_type, which transformers goes by, else by the first architecture's class name."""
    architectures = fields.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    given = fields.get("model_type") or first
    if not isinstance(given, str):
        known = ", ".join(sorted(READERS))
        raise ModelError(f"{file}: neither model_type nor architectures names the architecture; known: {known}")
    key = given.lower()
    for suffix in ("forcausallm", "model"):
        key = _OLD_MODEL_TYPES.get(key, key).removesuffix(suffix)
    key = _OLD_MODEL_TYPES.get(key, key)
    if key not in READERS:
        raise ModelError(f"{file}: unknown architecture {given!r}{hint(key, READERS)}")
    return key

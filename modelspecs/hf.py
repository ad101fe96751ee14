"""Reading a Hugging Face `config.json`: fields, older spellings and defaults as the transformers library has them.

Which reader: by model_type. Of a file that describes a vision tower too, the language model is read; what its part
leaves out has the defaults of its class (huggingface/transformers 4.57.1, `configuration_<family>.py`).
"""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from afterwatt.modelspecs.configfile import Config
from afterwatt.modelspecs.errors import ModelError, hint
from afterwatt.modelspecs.families import FAMILIES
from afterwatt.modelspecs.files import read_json
from afterwatt.modelspecs.hybrids import HYBRIDS
from afterwatt.modelspecs.mixtures import MIXTURES
from afterwatt.modelspecs.rope import scaled_context
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.modelspecs.stored import Stored, read_stored

READERS: Mapping[str, Callable[[Config], dict[str, Any]]] = MappingProxyType({**FAMILIES, **MIXTURES, **HYBRIDS})
"""model_type -> reader of its fields."""

_SAME_AS: Mapping[str, str] = MappingProxyType(
    {
        "refinedweb": "falcon",
        "refinedwebmodel": "falcon",
        "gemma3": "gemma3_text",
        "qwen2_vl": "qwen2",
        "qwen2_vl_text": "qwen2",
        "qwen2_5_vl": "qwen2",
        "qwen2_5_vl_text": "qwen2",
        "qwen3_vl_text": "qwen3",
        "qwen3_vl_moe_text": "qwen3_moe",
    }
)
"""model_type -> the family whose language model it is."""

_TEXT_PARTS = ("text_config", "llm_config", "language_config")
_USUAL_TEXT: Mapping[str, str] = MappingProxyType(
    {"llava": "llama", "llava_next": "llama", "vipllava": "llama", "video_llava": "llama", "mistral3": "mistral"}
    | {"gemma3": "gemma3_text", "paligemma": "gemma", "qwen3_vl": "qwen3", "qwen3_vl_moe": "qwen3_moe"}
)
"""model_type of a whole -> family of its language model where that part names none."""


def _class(vocab: int, hidden: int, ffn: int, layers: int, heads: int, **others: int) -> Mapping[str, int]:
    sizes = {"vocab_size": vocab, "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers}
    return MappingProxyType({**sizes, "num_attention_heads": heads, **others})


_QWEN3_EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
_CLASS_DEFAULTS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "llama": _class(32_000, 4096, 11_008, 32, 32),
        "mistral": _class(32_000, 4096, 14_336, 32, 32),
        "ministral3": _class(131_072, 4096, 14_336, 34, 32),
        "mixtral": _class(32_000, 4096, 14_336, 32, 32),
        "qwen2": _class(151_936, 4096, 22_016, 32, 32),
        "qwen3": _class(151_936, 4096, 22_016, 32, 32),
        "qwen3_moe": _class(151_936, 2048, 6144, 24, 32, num_key_value_heads=4, **_QWEN3_EXPERTS),
        "gemma": _class(256_000, 3072, 24_576, 28, 16),
        "gemma2": _class(256_000, 2304, 9216, 26, 8),
        "gemma3_text": _class(262_208, 2304, 9216, 26, 8),
        "phi3": _class(32_064, 3072, 8192, 32, 32),
        "opt": MappingProxyType(
            {"vocab_size": 50_272, "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12}
            | {"num_attention_heads": 12}
        ),
    }
)
"""What a language model's part may leave out, as it equals the defaults of its class; other readers have the rest."""


def read_hf_config(path: Path) -> ModelSpec:
    """Read the shape of a model from its Hugging Face `config.json`.

    Args:
        path: the file, or a directory that holds one. The model is named after the directory.

    Raises:
        ModelError: no such file, not a JSON object, an architecture this package does not know, a field that is
            missing, of the wrong type or out of range.
    """
    file = path / "config.json" if path.is_dir() else path
    whole = _read_json(file)
    family, fields = _language_model(file, whole)
    config = Config(file, fields)
    shape = READERS[family](config)
    shape["max_context"], notes = scaled_context(file, fields, family, shape["max_context"])
    folder = file.resolve().parent.name
    name = (folder or file.stem) if file.name == "config.json" else file.stem
    stored = _stored(file, whole, fields)
    try:
        return ModelSpec(name=name, family=family, source=str(file), stored=stored, notes=notes, **shape)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from None


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        fields = read_json(file)
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}; give a Hugging Face config.json") from None
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON: {error}; give a Hugging Face config.json") from None
    if not isinstance(fields, dict):
        raise ModelError(f"{file} holds a JSON {type(fields).__name__}, not an object; give a Hugging Face config.json")
    return fields


def _language_model(file: Path, whole: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the family and the fields of the language model: the file's own, or those of its part."""
    part = next((whole[name] for name in _TEXT_PARTS if isinstance(whole.get(name), dict) and whole[name]), None)
    if part is None:
        return _family(file, whole), whole
    kind = str(whole.get("model_type")).lower()
    named = part if part.get("model_type") or part.get("architectures") else {"model_type": _USUAL_TEXT.get(kind, kind)}
    family = _family(file, named)
    tied = {"tie_word_embeddings": whole["tie_word_embeddings"]} if "tie_word_embeddings" in whole else {}
    return family, {**_CLASS_DEFAULTS.get(family, {}), **part, **tied}


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
        key = _SAME_AS.get(key, key).removesuffix(suffix)
    key = _SAME_AS.get(key, key)
    if key not in READERS:
        digits = re.sub(r"\D", "", key)
        slips = [
            name for name in READERS if get_close_matches(key, [name], cutoff=0.9) and re.sub(r"\D", "", name) == digits
        ]
        if slips:
            raise ModelError(f"{file}: unknown architecture {given!r}{hint(key, slips)}")
        raise ModelError(f"{file}: the architecture {given!r} is not modelled; known: {', '.join(sorted(READERS))}")
    return key


def _stored(file: Path, whole: Mapping[str, Any], fields: Mapping[str, Any]) -> Stored | None:
    """Return how the checkpoint stores its weights, if the file or the one of modelopt beside it says so."""
    said = whole.get("quantization_config") or fields.get("quantization_config") or whole.get("compression_config")
    if isinstance(said, dict):
        return read_stored(said, f"quantization_config of {file}")
    beside = file.parent / "hf_quant_config.json"
    if file.name != "config.json" or not beside.is_file():
        return None
    inner = _read_json(beside).get("quantization")
    return read_stored(inner if isinstance(inner, dict) else {}, str(beside))

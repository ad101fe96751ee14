"""How a published checkpoint stores its weights: `quantization_config`, or modelopt's `hf_quant_config.json` beside it.

Fields as the libraries write them: transformers 4.57.1 `utils/quantization_config.py`, compressed-tensors 0.12
`quantization/quant_config.py`, NVIDIA's modelopt `export/quant_utils.py`. What attention keeps in 16 bits is read from
the list of modules left alone; where such a list names some of its matrices only, they count as quantised.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from afterwatt.modelspecs.errors import ModelError
from afterwatt.modelspecs.precision import FAMILIES, PRECISIONS, Precision, load_precision

_ALONE: Final = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules", "ignored_modules")
_SCALE_BITS = 16
_COLUMN: Final = 4096
"""Weights under one scale where there is one for each output channel: about the inputs of a channel."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How a checkpoint stores its weights.

    Attributes:
        precision: the format; None: said in words that this package does not know.
        source: where that is said, with the words.
    """

    precision: Precision | None
    source: str


def stored_precision(stored: Stored | None) -> Precision:
    """Return the format that a model runs in if nobody asks for another.

    Args:
        stored: what its checkpoint says; None: nothing, which means 16 bits.

    Raises:
        ModelError: the checkpoint names a format that this package does not know.
    """
    if stored is None:
        return PRECISIONS["fp16"]
    if stored.precision is None:
        raise ModelError(f"{stored.source} names a format that is not known; say which comes near it with --precision")
    return stored.precision


def read_stored(said: Mapping[str, Any], place: str) -> Stored:
    """Read a `quantization_config`.

    Args:
        said: its fields.
        place: which file, for the source.
    """
    method = str(said.get("quant_method") or ("modelopt" if "quant_algo" in said else "")).lower()
    algorithm = str(said.get("quant_algo") or "").upper()
    words = f"quant_method {method}" + (f", {algorithm}" if algorithm else "")
    source = f"{place} ({words})"
    read = _READERS.get(method)
    try:
        found = None if read is None else read(said)
    except (ModelError, TypeError, ValueError, LookupError, AttributeError):
        found = None  # a field of a wrong type says nothing
    if found is None:
        return Stored(None, source)
    attention_left = found.attention_bits is None and _attention_is_left(said)
    return Stored(replace(found, attention_bits=16.0) if attention_left else found, source)


def _attention_is_left(said: Mapping[str, Any]) -> bool:
    """Tell whether the modules left alone are all attention matrices, of all layers or nearly all."""
    left = [entry for name in _ALONE if isinstance(said.get(name), list) for entry in said[name]]
    whole = [entry for entry in left if isinstance(entry, str) and re.search(r"attn[^a-z]*\Z", entry.lower())]
    wild = any(re.search(r"(?:re:|\*)", entry.split("attn")[0]) for entry in whole)
    return wild or len(whole) > 4


def grouped(name: str, bits: int, group: int, zero_point: bool) -> Precision:
    """Return a weight-only format of groups that share an fp16 scale.

    Args:
        name: what it is called.
        bits: of a weight.
        group: weights in a group, along a row; -1: all of it.
        zero_point: a group has a zero point of as many bits too.
    """
    if f"int{bits}" not in FAMILIES or not (group == -1 or 8 <= group <= 65_536):
        raise ModelError(f"{name} of {bits} bits in groups of {group} is no format")
    shared = _SCALE_BITS + (bits if zero_point else 0)
    known = PRECISIONS.get(name)
    source = known.source if known else f"{name}: {bits} bits, one fp16 scale per group"
    each = bits + shared / (_COLUMN if group == -1 else group)
    return Precision(name, each, source=source, family=f"int{bits}", group=None if group == -1 else group)


def _by_group(name: str, bits_key: str, group_key: str) -> Callable[[Mapping[str, Any]], Precision]:
    def read(said: Mapping[str, Any]) -> Precision:
        bits = int(said.get("bits", said.get(bits_key, 4)))
        group = int(said.get("group_size", said.get(group_key, 128)))
        found = grouped(name if bits == 4 else f"{name}-{bits}bit", bits, group, zero_point=True)
        return replace(found, head_bits=found.bits_per_weight) if said.get("lm_head") is True else found

    return read


def _fp8(said: Mapping[str, Any]) -> Precision:
    block = said.get("weight_block_size")
    found = PRECISIONS["fp8"]
    if said.get("quant_algo") == "MIXED_PRECISION":
        raise ModelError("layers differ")
    return replace(found, group=int(block[0])) if isinstance(block, list) and block else found


def _bitsandbytes(said: Mapping[str, Any]) -> Precision:
    if said.get("load_in_4bit"):
        return PRECISIONS["nf4-dq" if said.get("bnb_4bit_use_double_quant") else "nf4"]
    return PRECISIONS["int8"]


def _compressed(said: Mapping[str, Any]) -> Precision:
    """Read compressed-tensors: the one scheme that all groups of layers share."""
    found = {_scheme(group) for group in said["config_groups"].values()}
    if len(found) != 1:
        raise ModelError("layers differ")
    return found.pop()


def _scheme(group: Mapping[str, Any]) -> Precision:
    weights, inputs = group["weights"], group.get("input_activations")
    kind, bits = weights["type"], int(weights["num_bits"])
    size = int(weights.get("group_size") or -1)
    if kind == "float" and bits == 8:
        return _fp8({"weight_block_size": weights.get("block_structure")}) if inputs else PRECISIONS["fp8-weight-only"]
    if kind == "float" and bits == 4 and size in (16, 32):
        return PRECISIONS["nvfp4" if size == 16 else "mxfp4-bf16"]
    if kind == "int" and bits == 8 and inputs:
        return PRECISIONS["w8a8"]
    if kind == "int" and bits == 4 and inputs:
        return PRECISIONS["w4a8"]
    if kind == "int":
        zero_point = not weights.get("symmetric", True)
        return grouped("int4" if bits == 4 else f"w{bits}a16", bits, size, zero_point)
    raise ModelError("unknown scheme")


_ALGORITHMS: Final = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8-weight-only",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "INT4_AWQ": "awq",
    "W4A16_AWQ": "awq",
    "W4A16": "int4",
    "W8A16": "int8",
    "W8A8_SQ_PER_CHANNEL": "w8a8",
    "INT8_SQ": "w8a8",
}
"""modelopt's names of whole formats; a mixture of several is none of them."""


def _modelopt(said: Mapping[str, Any]) -> Precision | None:
    return PRECISIONS.get(_ALGORITHMS.get(str(said.get("quant_algo")).upper(), ""))


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Precision | None]]] = {
    "fp8": _fp8,
    "fbgemm_fp8": lambda _: PRECISIONS["fp8"],
    "compressed-tensors": _compressed,
    "gptq": _by_group("gptq", "wbits", "groupsize"),
    "auto-round": _by_group("gptq", "bits", "group_size"),
    "awq": _by_group("awq", "w_bit", "q_group_size"),
    "bitsandbytes": _bitsandbytes,
    "eetq": lambda _: PRECISIONS["int8"],
    "exl2": lambda said: load_precision(f"exl2-{float(said['bits']):g}bpw"),
    "mxfp4": lambda _: PRECISIONS["mxfp4-bf16"],
    "modelopt": _modelopt,
    "modelopt_fp4": lambda _: PRECISIONS["nvfp4"],
}

"""What the arithmetic of a checkpoint needs to know beside its shape, from its Hugging Face `config.json`.

The shape itself is `modelspecs.hf`'s to read, what families differ in stands in `modelspecs.decoders`. Rotary positions
as in huggingface/transformers 5.24, `modeling_rope_utils.py`, in both spellings (`rope_theta` with `rope_scaling`;
`rope_parameters`). What cannot be computed rightly is refused, never approximated.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from afterwatt.engine.runtime.errors import CheckpointError
from afterwatt.modelspecs.decoders import DECODERS
from afterwatt.modelspecs.errors import ModelError
from afterwatt.modelspecs.files import read_json
from afterwatt.modelspecs.hf import read_hf_config
from afterwatt.modelspecs.spec import ModelSpec

ACTIVATIONS: Final = ("silu", "relu")
_DEFAULT_THETA: Final = 10_000.0
_DEFAULT_EPS: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: RoFormer, arXiv:2104.09864, with the two scalings that change frequencies once for all.

    Attributes:
        theta: base of the wavelengths.
        kind: "default", "linear" (arXiv:2306.15595: positions divided by factor), "llama3" (long wavelengths only,
            `_compute_llama3_parameters` of transformers).
        factor: how much slower scaled frequencies turn.
        low_freq_factor, high_freq_factor: llama3 scales wavelengths above original / low fully, below original / high
            not at all, and between them in part.
        original_max_position: context that the model was first trained on, tokens.
    """

    theta: float = _DEFAULT_THETA
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model as the engine computes it.

    Attributes:
        spec: its shape.
        rms_norm_eps: added to the mean square before its root is taken.
        rope: rotary positions.
        activation: of the gate, silu or relu.
        bos_ids, eos_ids: ids that begin and end a text; several ends are possible, none too.
        renormalised: of a mixture, whether the weights of the experts that are chosen are brought to a sum of 1.
    """

    spec: ModelSpec
    rms_norm_eps: float
    rope: Rope
    activation: str
    bos_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()
    renormalised: bool = True


def read_config(directory: Path, max_context: int | None = None) -> ModelConfig:
    """Read a model directory's `config.json`, and the ends of a text that `generation_config.json` adds.

    Llama 3 names the end of a turn there alone.

    Args:
        directory: where it lies.
        max_context: tokens that sequences are going to have at most, if fewer than the model takes; becomes
            `spec.max_context`. A sliding window of at least so many tokens hides nothing and is accepted.

    Raises:
        CheckpointError: no such file, or a model that this engine does not compute rightly.
    """
    try:
        spec = read_hf_config(directory)
    except ModelError as error:
        raise CheckpointError(str(error)) from None
    file = directory / "config.json"
    fields: Mapping[str, Any] = read_json(file)
    rope = _rope(file, spec, fields)
    if max_context is not None:
        if not 1 <= max_context <= spec.max_context:
            raise CheckpointError(f"{file}: max_context = {max_context} must be from 1 to {spec.max_context}")
        spec = replace(spec, max_context=max_context)
    _check_computable(file, spec, fields)
    told = {**DECODERS[spec.family].token_ids, **fields}
    ends = _ids(file, told, "eos_token_id", spec.vocab)
    beside = directory / "generation_config.json"
    if beside.exists() and (more := _ids(beside, _side_fields(beside), "eos_token_id", spec.vocab)):
        ends = tuple(dict.fromkeys((*(ends if "eos_token_id" in fields else ()), *more)))
    return ModelConfig(
        spec=spec,
        rms_norm_eps=_number(file, fields, "rms_norm_eps", _DEFAULT_EPS, least=0.0),
        rope=rope,
        activation=fields.get("hidden_act") or "silu",
        renormalised=_flag(fields, DECODERS[spec.family].renormalised),
        bos_ids=_ids(file, told, "bos_token_id", spec.vocab),
        eos_ids=ends,
    )


def _side_fields(file: Path) -> Mapping[str, Any]:
    try:
        fields = read_json(file)
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}; the file is damaged") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{file} holds a JSON {type(fields).__name__}, not an object; the file is damaged")
    return fields


def _check_computable(file: Path, spec: ModelSpec, fields: Mapping[str, Any]) -> None:
    if spec.family not in DECODERS or "text_config" in fields:
        raise CheckpointError(f"{file}: {spec.family!r} models are not computed; known: {', '.join(DECODERS)}")
    if fields.get("quantization_config"):
        raise CheckpointError(f"{file}: quantization_config is set; the engine reads F32, F16 and BF16 weights only")
    activation = fields.get("hidden_act") or "silu"
    if activation not in ACTIVATIONS:
        raise CheckpointError(f"{file}: hidden_act = {activation!r} is not computed; known: {', '.join(ACTIVATIONS)}")
    if spec.sliding_window is not None and spec.sliding_window < spec.max_context:
        raise CheckpointError(
            f"{file}: sliding_window = {spec.sliding_window} is shorter than the context of {spec.max_context} tokens "
            f"and is not computed; limit the context to {spec.sliding_window} (max_context)"
        )
    if spec.head_dim % 2:
        raise CheckpointError(f"{file}: head_dim = {spec.head_dim} is odd; rotary positions turn pairs")


def _rope(file: Path, spec: ModelSpec, fields: Mapping[str, Any]) -> Rope:
    """Return the rotary positions, from whichever spelling the file has."""
    new, old = fields.get("rope_parameters"), fields.get("rope_scaling")
    for name, told in (("rope_parameters", new), ("rope_scaling", old)):
        if told is not None and not isinstance(told, dict):
            raise CheckpointError(f"{file}: {name} = {told!r} must be an object")
    told = {**(old or {}), **(new or {})}
    if any(isinstance(value, dict) for value in told.values()):
        raise CheckpointError(f"{file}: rope_parameters differ by kind of layer, which is not computed")
    kind = told.get("rope_type", told.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise CheckpointError(f"{file}: rope_type = {kind!r} is not computed; known: default, linear, llama3")
    for name in ("partial_rotary_factor", "partial_rotary_dim"):
        if told.get(name, fields.get(name)) not in (None, 1, 1.0):
            raise CheckpointError(f"{file}: {name} is set, but rotary positions over a part of a head are not computed")
    theta = _number(file, {**fields, **told}, "rope_theta", _DEFAULT_THETA)
    if kind == "default":
        return Rope(theta)
    factor = _number(file, told, "factor", None)
    if kind == "linear":
        return Rope(theta, kind, factor)
    low, high = _number(file, told, "low_freq_factor", None), _number(file, told, "high_freq_factor", None)
    if high <= low:
        raise CheckpointError(f"{file}: high_freq_factor = {high:g} must exceed low_freq_factor = {low:g}")
    original = _number(file, told, "original_max_position_embeddings", float(spec.max_context))
    return Rope(theta, kind, factor, low, high, int(original))


def _number(
    file: Path, fields: Mapping[str, Any], name: str, default: float | None, least: float | None = None
) -> float:
    """Return a finite number above 0, or of at least `least`; null counts as absent."""
    value = fields.get(name)
    value = default if value is None else value
    rule = "a number above 0" if least is None else f"a number of {least:g} or more"
    if value is None:
        raise CheckpointError(f"{file}: {name} is missing; expected {rule}")
    if type(value) not in (int, float) or not math.isfinite(value) or (value <= 0 if least is None else value < least):
        raise CheckpointError(f"{file}: {name} = {value!r} must be {rule}")
    return float(value)


def _flag(fields: Mapping[str, Any], told: bool | str) -> bool:
    """Return what a family always is, or what the field of that name says."""
    return bool(fields.get(told)) if isinstance(told, str) else told


def _ids(file: Path, fields: Mapping[str, Any], name: str, vocab: int) -> tuple[int, ...]:
    value = fields.get(name)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(number) is int and 0 <= number < vocab for number in ids):
        raise CheckpointError(f"{file}: {name} = {value!r} must be ids below vocab_size = {vocab}")
    return tuple(ids)

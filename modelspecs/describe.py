"""What `afterwatt model list` and `afterwatt model show` print, as plain rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from afterwatt.modelspecs.catalogue import load_model, model_names
from afterwatt.modelspecs.layers import WINDOW
from afterwatt.modelspecs.precision import COMMON_PRECISIONS, load_precision
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.modelspecs.work import decode_flops, decode_intensity


class ModelRow(NamedTuple):
    """One model of the catalogue."""

    name: str
    family: str
    params: int
    active_params: int
    max_context_tokens: int
    kv_bytes_per_token: float
    fp16_bytes: float


class DetailRow(NamedTuple):
    """One line about one model: a label, the value with its unit, and where it comes from."""

    label: str
    value: str
    source: str


def describe_catalogue() -> list[ModelRow]:
    """All shipped models, in the order of `model_names`."""
    return [_catalogue_row(load_model(name)) for name in model_names()]


def _catalogue_row(spec: ModelSpec) -> ModelRow:
    return ModelRow(
        name=spec.name,
        family=spec.family,
        params=spec.params,
        active_params=spec.active_params,
        max_context_tokens=spec.max_context,
        kv_bytes_per_token=spec.kv_bytes_per_token(),
        fp16_bytes=spec.stored_bytes("fp16"),
    )


def describe_model(name_or_path: str | Path, precisions: Sequence[str] = ()) -> list[DetailRow]:
    """Everything known about one model: shape, counts, bytes and work, each with its source.

    Args:
        name_or_path: of the model.
        precisions: whose weights are counted, in place of the common ones.

    Raises:
        ModelError: as `load_model`; or there is no such precision.
    """
    return describe_spec(load_model(name_or_path), precisions)


def describe_spec(spec: ModelSpec, precisions: Sequence[str] = ()) -> list[DetailRow]:
    """Everything known about a model that is loaded already; see `describe_model`."""
    return [*_shape_rows(spec), *_parameter_rows(spec), *_storage_rows(spec, precisions), *_work_rows(spec)]


def _shape_rows(spec: ModelSpec) -> list[DetailRow]:
    experts = f"{spec.experts} experts, {spec.active_experts} per token" if spec.experts > 1 else "dense"
    if spec.shared_ffn:
        experts += f", one of {spec.shared_ffn:,} for every token"
    if spec.dense_layers:
        experts += f"; {spec.dense_layers} dense layers of {spec.dense_ffn or spec.ffn:,}"
    positions = f"learned, {spec.learned_positions:,} rows" if spec.learned_positions else "rotary or ALiBi"
    window = (
        f", sliding window {spec.sliding_window:,} ({_windowed(spec)} of {spec.layers} layers)"
        if spec.sliding_window
        else ""
    )
    values = {
        "family": spec.family + (", attention and FFN in parallel" if spec.parallel_attention else ""),
        "layers": f"{spec.layers}",
        "hidden": f"{spec.hidden:,}",
        "attention": _attention(spec),
        "ffn": f"{spec.ffn:,} wide, {spec.ffn_matrices} matrices, {experts}",
        "vocabulary": f"{spec.vocab:,}, {'tied' if spec.tied_embeddings else 'untied'} embeddings",
        "positions": positions,
        "context": f"{spec.max_context:,} tokens{window}",
        "norm": f"{spec.norm}, {spec.norms_per_layer} per layer",
    }
    source = f"{spec.source} ({spec.checked})" if spec.checked else spec.source
    return [DetailRow(label, value, source) for label, value in values.items()]


def _attention(spec: ModelSpec) -> str:
    cached = f"{spec.kv_heads} key/value heads"
    if spec.latent is not None:
        cached = f"latent, {spec.latent.cached} numbers cached per token and layer"
    state = f", in {spec.attention_layers} of {spec.layers} layers; others: {spec.state.kind}" if spec.state else ""
    return f"{spec.heads} heads of {spec.head_dim}, {cached}{state}"


def _windowed(spec: ModelSpec) -> int:
    return sum(count for kind, count in spec.kinds().items() if kind.mixer == WINDOW)


def _parameter_rows(spec: ModelSpec) -> list[DetailRow]:
    rows = [DetailRow("parameters", f"{spec.params:,}", "counted from the shape")]
    if spec.experts > 1:
        rows.append(DetailRow("active parameters", f"{spec.active_params:,} per token", "counted from the shape"))
    if spec.published_params is not None:
        about = "" if spec.published_rounding == 1 else "about "
        excess = f", {spec.published_excess:,} of them not counted here" if spec.published_excess else ""
        rows.append(DetailRow("published", f"{about}{spec.published_params:,}{excess}", spec.published_source))
    return rows


def _storage_rows(spec: ModelSpec, precisions: Sequence[str]) -> list[DetailRow]:
    forms = [load_precision(name) for name in precisions] or COMMON_PRECISIONS.values()
    rows = [
        DetailRow(f"weights in {form.name}", f"{spec.stored_bytes(form) / 1e9:,.2f} GB", form.source) for form in forms
    ]
    cache = f"{spec.kv_bytes_per_token() / 1e3:,.1f} kB per token in 16 bit"
    source = "2 x layers x kv_heads x head_dim x 2 bytes"
    if spec.latent is not None or spec.state is not None:
        source = "layers that attend x numbers cached x 2 bytes"
    rows.append(DetailRow("key/value cache", cache, source))
    if spec.kv_bytes(spec.max_context) != spec.max_context * spec.kv_bytes_per_token():
        whole = f"{spec.kv_bytes(spec.max_context) / 1e9:,.2f} GB of a sequence of {spec.max_context:,} tokens"
        rows.append(DetailRow("largest cache", whole, "windows hold no more than they look back on, states are fixed"))
    if spec.stored is not None:
        form = spec.stored.precision
        weights = "" if form is None else f"{form.name}, {spec.stored_bytes(form) / 1e9:,.2f} GB"
        rows.append(DetailRow("stored in", weights or "a format that is not known", spec.stored.source))
    return rows


def _work_rows(spec: ModelSpec) -> list[DetailRow]:
    context = min(1024, spec.max_context)
    flops = f"{decode_flops(spec, context) / 1e9:,.2f} GFLOP per token at context {context:,}"
    intensity = f"{decode_intensity(spec, 1, context, 'fp16'):.2f} FLOP per byte in fp16, one sequence"
    return [
        DetailRow("decode work", flops, "2 per active weight (Kaplan 2020) + attention (Narayanan 2021)"),
        DetailRow("decode intensity", intensity, "roofline (Williams 2009)"),
    ]

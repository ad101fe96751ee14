"""A shape for a model outside the catalogue, from its parameter count alone.

The rule is what the catalogue's plain models have in common: width over depth grows slowly with size, heads are 128
wide and share 8 key/value heads, the feed-forward network is gated, and small models tie their embeddings. The width of
the feed-forward network then takes up what is left, so that the count comes out as asked. A mixture of experts has the
width and depth of a dense model of its active parameters; what is over is experts.

Decoding reads every (active) weight once, so its time hangs on the count; depth, cache and vocabulary, the uncertain
parts, add overheads. `SPREAD` says how far the catalogue's models lie from the rule.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from afterwatt.modelspecs.errors import ModelError
from afterwatt.modelspecs.spec import MADE_UP, ModelSpec

SPREAD: Final[Mapping[str, float]] = MappingProxyType({"layers": 1.4, "hidden": 1.4})
"""Factor within which nine in ten of the catalogue's plain models lie of the rule."""

_HEAD_DIM = 128
_KV_HEADS = 8
_VOCAB = 128_256
_TIED_BELOW = 4.5e9
"""Models of fewer parameters use one table for embedding and LM head."""
_ACTIVE_EXPERTS = 8
_MAX_CONTEXT = 131_072
_MATRICES_PER_LAYER = 13.0
"""Weights of a layer over the hidden width squared: 12 with as many key/value heads as heads, up to 15 with few."""


def width_over_depth(params: float) -> float:
    """Return hidden width over layers of a dense model: a power law through the catalogue's models, then level.

    Args:
        params: parameters of a dense model, or active ones of a mixture.
    """
    return float(min(120.0, 62.0 * (params / 1e9) ** 0.3))


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a shape that a `ModelSpec` cannot say in full.

    Attributes:
        layers, hidden, vocab, tied: as in `ModelSpec`.
        heads, kv_heads, head_dim: such that the cache of a token is as large as the model's, layer for layer or on
            average over layers that keep one and layers that do not.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool


def generic_shape(
    params: float,
    active_params: float | None = None,
    name: str | None = None,
    *,
    vocab: int | None = None,
    outline: Outline | None = None,
) -> ModelSpec:
    """Return a plausible shape of that many parameters.

    Args:
        params: all parameters, 5e7 to 5e12.
        active_params: parameters one token passes through, if they are fewer: a mixture of experts.
        name: what reports call it; default: `generic-9b`, `generic-30b-a3b`.
        vocab: rows of the embedding table, if known.
        outline: widths and depth, where they are known; the rule gives them otherwise.

    Raises:
        ModelError: the counts are out of range, or the active ones are more than all.
    """
    if not 5e7 <= params <= 5e12:
        raise ModelError(f"params = {params:g} of a generic model is out of range; expected 5e7 to 5e12 (not billions)")
    active = params if active_params is None else active_params
    if not 0.01 * params <= active <= params:
        raise ModelError(f"active_params = {active:g} of a generic model must be 1 to 100 % of params = {params:g}")
    form = _by_rule(active, vocab or _VOCAB) if outline is None else outline
    attention = 2 * form.hidden * (form.heads + form.kv_heads) * form.head_dim
    outside = form.vocab * form.hidden * (1 if form.tied else 2) + form.hidden
    norms = 2 * form.hidden * form.layers
    experts, per_token = _experts(params, active, outside + norms + form.layers * attention)
    left = (params - outside - norms) / form.layers - attention - (form.hidden * experts if experts > 1 else 0)
    uncertain = f"layers and width within a factor of {SPREAD['layers']:g}, cache, vocabulary and head count unknown"
    if outline is not None:
        uncertain = "its own layers, width, cache and vocabulary; other kinds of layers are taken as attention and FFN"
    return ModelSpec(
        name=name or _name(params, active),
        family=MADE_UP,
        layers=form.layers,
        hidden=form.hidden,
        heads=form.heads,
        kv_heads=form.kv_heads,
        head_dim=form.head_dim,
        ffn=max(16, round(left / (3 * form.hidden * experts))),
        ffn_matrices=3,
        vocab=form.vocab,
        max_context=_MAX_CONTEXT,
        norm="rms",
        experts=experts,
        active_experts=per_token,
        tied_embeddings=form.tied,
        source=f"generic shape of {_count(params)} parameters by the rule of modelspecs/generic.py: {uncertain}",
    )


def _by_rule(active: float, vocab: int) -> Outline:
    tied = active < _TIED_BELOW
    hidden, layers = _width_and_depth(active, vocab, tied)
    heads = max(1, hidden // _HEAD_DIM)
    kv_heads = max(k for k in range(1, _KV_HEADS + 1) if heads % k == 0)
    return Outline(layers, hidden, heads, kv_heads, _HEAD_DIM, vocab, tied)


def _width_and_depth(active: float, vocab: int, tied: bool) -> tuple[int, int]:
    """Return hidden width (a multiple of the head's) and layers, such that the layers hold what tables leave over."""
    ratio = width_over_depth(active)
    hidden = _HEAD_DIM
    for _ in range(
        20
    ):  # the tables grow with the width and take from the layers: a fixed point, reached in a few turns
        in_layers = max(0.3 * active, active - vocab * hidden * (1 if tied else 2))
        exact = (in_layers * ratio / _MATRICES_PER_LAYER) ** (1.0 / 3.0)
        step = _HEAD_DIM * (8 if exact > 3072 else 4 if exact > 1536 else 1)  # so that heads divide into groups
        hidden = max(_HEAD_DIM, step * round(exact / step))
    in_layers = max(0.3 * active, active - vocab * hidden * (1 if tied else 2))
    return hidden, max(1, round(in_layers / (_MATRICES_PER_LAYER * hidden * hidden)))


def _experts(params: float, active: float, shared: float) -> tuple[int, int]:
    """Return (experts, experts per token), such that total and active counts both come out."""
    if active >= 0.999 * params:
        return 1, 1
    routed = max(active - shared, 0.1 * active)
    ratio = (params - (active - routed)) / routed
    per_token = _ACTIVE_EXPERTS if ratio > 5.0 else 2
    return max(per_token + 1, round(per_token * ratio)), per_token


def _name(params: float, active: float) -> str:
    return f"generic-{_count(params)}" + (f"-a{_count(active)}" if active < 0.999 * params else "")


def _count(params: float) -> str:
    """Write a count as people name models: 7b, 1.1b, 350m."""
    if params < 9.5e8:
        return f"{params / 1e6:.0f}m"
    digits = 1 if params < 9.95e10 and not math.isclose(params / 1e9, round(params / 1e9), rel_tol=0.005) else 0
    return f"{params / 1e9:.{digits}f}b"

"""A table of policies and what they cost in quality, measured on one text and comparable line by line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from afterwatt.engine.model.compute import LoadedModel
from afterwatt.engine.model.devices import NAMES
from afterwatt.engine.model.quality import compare, importance
from afterwatt.engine.model.variants import Variant, parse_variant, realised
from afterwatt.engine.runtime.compute import Ints
from afterwatt.engine.runtime.preparing import Ranking

BESIDE: Final = ("int8", "int4")
"""What always stands beside a policy: the plain ways to take as few bytes."""
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """A text.

    Attributes:
        ids: its tokens, int64[n].
        sha256: of its bytes.
    """

    ids: Ints
    sha256: str


def evaluate_policies(
    model: LoadedModel, text: Sample, names: Sequence[str], window_tokens: int, ranked_on: Sample | None = None
) -> dict[str, Any]:
    """Measure policies, the model's own format and uniform int8 and int4 always beside them.

    Args:
        model: loaded.
        text: what is predicted.
        names: the policies (`variants.parse_variant`).
        window_tokens: that are read at once.
        ranked_on: the text that units are ranked on, where a policy has shares.

    Returns:
        What `afterwatt evaluate --json` prints.

    Raises:
        EngineError: a policy is unknown or asks for a ranking, or the text is too short.
    """
    wide = NAMES[model.policy.weights]
    variants = [parse_variant(name, wide) for name in dict.fromkeys((wide, *BESIDE, *names))]
    ranking = None
    if ranked_on is not None:
        about = {"text_sha256": ranked_on.sha256, "tokens": len(ranked_on.ids)}
        ranking = importance(model, ranked_on.ids, window_tokens, about)
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model.config.spec.name,
        "dtype": wide,
        "torch": torch.__version__,
        "text_sha256": text.sha256,
        "tokens": len(text.ids),
        "window_tokens": window_tokens,
        "calibration": None if ranking is None else dict(ranking.about),
        "policies": [_line(model, variant, ranking, text.ids, window_tokens) for variant in variants],
    }


def _line(
    model: LoadedModel, variant: Variant, ranking: Ranking | None, ids: Ints, window_tokens: int
) -> dict[str, Any]:
    spec = model.config.spec
    changed, source = realised(model, variant, ranking)
    quality = compare(model, changed, ids, window_tokens, source)
    stored = variant.stored_bytes(spec)
    return {
        "policy": variant.name,
        "shares": str(variant.shares),
        "rank": variant.rank if variant.ranked else None,
        "ffn_bytes": stored,
        "bits_per_weight": 8.0 * stored / (spec.layers * spec.experts * 3 * spec.ffn * spec.hidden),
        "perplexity": quality.perplexity,
        "nats_per_token": quality.nats_per_token,
        "kl_nats": quality.kl_nats,
        "kl_error_nats": quality.kl_error_nats,
        "agreement_frac": quality.agreement_frac,
    }

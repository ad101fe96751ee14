"""Several seeds of one cell as one result: means and 95 % intervals of the headline metrics."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from afterwatt.reports.schema import Summary

HEADLINES: Final[Mapping[str, str]] = {
    "requests.finished": "finished",
    "requests.rejected": "rejected",
    "requests.slo_met": "within SLO",
    "ttft_s.p50": "first token p50",
    "ttft_s.p90": "first token p90",
    "ttft_s.p99": "first token p99",
    "tpot_s.p50": "per token p50",
    "tpot_s.p90": "per token p90",
    "tpot_s.p99": "per token p99",
    "e2e_s.p50": "answer p50",
    "e2e_s.p90": "answer p90",
    "e2e_s.p99": "answer p99",
    "throughput.requests_per_s": "requests/s",
    "throughput.output_tokens_per_s": "output tokens/s",
    "load.offered_frac": "load",
    "load.capacity_requests_per_s": "capacity, requests/s",
    "energy_j.total": "energy",
    "carbon_gco2e.operational.p50": "CO2e, operational",
    "carbon_gco2e.embodied.p50": "CO2e, embodied",
    "sci.per_request_gco2e.p50": "CO2e per request",
    "sci.per_output_token_gco2e.p50": "CO2e per token",
    "cost_usd.per_million_output_tokens": "US$ per million tokens",
}
"""Place in summary.json -> name in the terminal."""
CONFIDENCE: Final = 0.95


class Estimate(NamedTuple):
    """Mean over replications; `half_width` of its t-interval is None for fewer than two."""

    mean: float
    half_width: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate a mean: x̄ ± t(0.975, n - 1) s / √n (Student 1908), for independent replications.

    Args:
        values: at least one.
    """
    n = len(values)
    if n < 2 or min(values) == max(values):
        return Estimate(values[0], None if n < 2 else 0.0, n)
    mean = math.fsum(values) / n
    from scipy.stats import t

    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(mean, float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * spread / math.sqrt(n), n)


def estimates(summaries: Sequence["Summary"]) -> dict[str, Estimate | None]:
    """Estimate every headline; None for what no replication knows."""
    found: dict[str, Estimate | None] = {}
    for place in HEADLINES:
        known = [value for summary in summaries if (value := _at(summary, place)) is not None]
        found[place] = estimate(known) if known else None
    return found


def _at(summary: "Summary", place: str) -> float | None:
    value: object = summary
    for name in place.split("."):
        value = getattr(value, name)
    return float(value) if isinstance(value, int | float) else None

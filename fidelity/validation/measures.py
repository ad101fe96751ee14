"""What a run shows of a metric, read from its directory: the same figures for every body."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from afterwatt.fidelity.serving.replay import demerit
from afterwatt.reports.rundir import Run
from afterwatt.reports.summary import counted

Floats = NDArray[np.float64]
LATENCIES: Final = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
STATS: Final = ("mean", "p50", "p90", "p99")
SINGLE: Final = ("output_tokens_per_s", "batch_mean", "energy_j")
_PERCENT: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0}
_MOST_GAPS: Final = 20_000


def samples(run: Run, metric: str) -> Floats:
    """Return a latency's values: one per finished request, or per token for `itl_s`."""
    if metric == "itl_s":
        values, weights = run.column("itl", "itl_s"), run.column("itl", "tokens")
        whole = np.rint(weights).astype(np.int64)
        if whole.sum() > _MOST_GAPS:  # evenly spaced ranks of the weighted distribution
            ranks = (np.arange(_MOST_GAPS) + 0.5) / _MOST_GAPS * weights.sum()
            picked: Floats = values[np.searchsorted(np.cumsum(weights), ranks)]
            return picked
        return np.repeat(values, whole)
    values = run.column("requests", metric)[counted(run)]
    return values[~np.isnan(values)]


def statistic(values: Floats, name: str) -> float | None:
    """Return the mean or a percentile; None of nothing."""
    if not len(values):
        return None
    return float(values.mean() if name == "mean" else np.percentile(values, _PERCENT[name]))


def single(run: Run, metric: str) -> float | None:
    """Return one of `SINGLE`: a figure of the whole run, None where it is unknown."""
    if metric == "output_tokens_per_s":
        return run.summary.throughput.output_tokens_per_s
    if metric == "energy_j":
        return _device_energy_j(run)
    interval = run.column("timeline", "interval_s")
    return float(run.column("timeline", "batch_mean") @ interval / interval.sum()) if len(interval) else None


def _device_energy_j(run: Run) -> float | None:
    """Return the joules of the device alone, which is what a meter on it sees; a model of watts checks no other."""
    energy = run.summary.energy_j
    if run.summary.body != "engine":
        return energy.by_component.get("gpu")
    return None if (energy.method or "").startswith("modelled") else energy.total


def all_measures(run: Run) -> dict[str, float | None]:
    """Return every figure of a run that is compared, by name: "ttft_s p90", "batch_mean", ..."""
    found: dict[str, float | None] = {}
    for metric in LATENCIES:
        values = samples(run, metric)
        found |= {f"{metric} {stat}": statistic(values, stat) for stat in STATS}
    return found | {metric: single(run, metric) for metric in SINGLE}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure, predicted and measured.

    Attributes:
        name: as in `all_measures`.
        predicted: by the simulator; None: it does not say.
        measured: median over repetitions; None: unknown.
        low, high: least and most over repetitions.
    """

    name: str
    predicted: float | None
    measured: float | None
    low: float | None
    high: float | None

    @property
    def error_frac(self) -> float | None:
        """Return predicted over measured, less 1; None where either is unknown."""
        if self.predicted is None or not self.measured:
            return None
        return self.predicted / self.measured - 1.0

    @property
    def spread_frac(self) -> float | None:
        """Return how far repetitions lie apart, as a share of their median."""
        if self.low is None or self.high is None or not self.measured:
            return None
        return (self.high - self.low) / self.measured


def compare(predicted: dict[str, float | None], repetitions: list[dict[str, float | None]]) -> list[Comparison]:
    """Hold predictions against repetitions of the same measurement."""
    found = []
    for name, value in predicted.items():
        known = [one for one in (repetition.get(name) for repetition in repetitions) if one is not None]
        middle = float(np.median(known)) if known else None
        found.append(Comparison(name, value, middle, min(known, default=None), max(known, default=None)))
    return found


def demerits(predicted: Run, measured: list[Run]) -> dict[str, float | None]:
    """Return each latency's demerit figure, relative to the measured mean: all repetitions against the prediction."""
    found: dict[str, float | None] = {}
    for metric in LATENCIES:
        real, virtual = np.concatenate([samples(run, metric) for run in measured]), samples(predicted, metric)
        found[metric] = demerit(real, virtual) / float(real.mean()) if len(real) and len(virtual) else None
    return found

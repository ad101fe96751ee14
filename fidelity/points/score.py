"""How far off predictions are: errors by hardware, stack and metric, coverage, and how intervals did."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, nan
from typing import Final

import numpy as np

from afterwatt.fidelity.points.predict import PointPrediction
from afterwatt.fidelity.points.refusals import PointRefusal
from afterwatt.fidelity.points.scenario import Scenario
from afterwatt.hwprofiles.stacks import Stack

RATES: Final = frozenset({"decode_tok_s", "prefill_tok_s", "throughput_tok_s", "throughput_req_s"})
"""Metrics that fall as time grows."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A prediction beside its measurement.

    Attributes:
        scenario: the point.
        predicted: its metric.
        low, high: 90 % interval of the metric; None where none is known.
        basis: what the prediction stands on: measured, fitted, pooled or assumed.
    """

    scenario: Scenario
    predicted: float
    low: float | None
    high: float | None
    basis: str

    @property
    def error_frac(self) -> float:
        """Return (predicted - measured) / measured."""
        return self.predicted / self.scenario.measured - 1.0

    @property
    def inside(self) -> bool | None:
        """Return whether the interval holds the measured value; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low <= self.scenario.measured <= self.high

    @property
    def width(self) -> float | None:
        """Return high over low; None without an interval."""
        return None if self.low is None or self.high is None else self.high / self.low


@dataclass(frozen=True, slots=True)
class PointErrors:
    """Absolute relative errors of some predictions.

    Attributes:
        count: how many.
        median_frac, p90_frac: NaN where there is none.
        bias: geometric mean of predicted over measured.
    """

    count: int
    median_frac: float
    p90_frac: float
    bias: float


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many rows can be run.

    Attributes:
        rows: of the table.
        counted: those with a known card, weights on it, and no speculation.
        run: those that are run.
    """

    rows: int
    counted: int
    run: int

    @property
    def frac(self) -> float:
        """Return the share of counted rows that are run."""
        return self.run / self.counted if self.counted else nan


@dataclass(frozen=True, slots=True)
class Intervals:
    """How intervals did.

    Attributes:
        count: predictions that have one.
        inside_frac: share that holds the measured value.
        median_width: median of high over low.
    """

    count: int
    inside_frac: float
    median_width: float


def scored(prediction: PointPrediction) -> Scored:
    """Put a prediction with the shipped parameters beside its measurement, with the stack's own interval."""
    scenario, stack = prediction.scenario, prediction.stack
    low, high = interval_of(scenario, stack, prediction.value)
    return Scored(scenario, prediction.value, low, high, basis_of(scenario, stack))


def basis_of(scenario: Scenario, stack: Stack) -> str:
    """Return what a stack's figure stands on; of software without a profile of its own, nothing but assumption."""
    return "assumed" if stack.name != scenario.stack else stack.basis_for(scenario.model_class)


def interval_of(scenario: Scenario, stack: Stack, predicted: float) -> tuple[float | None, float | None]:
    """Return the 90 % interval of a metric that the stack's spread and the scenario's guesses give."""
    spread = stack.spread_for(scenario.model_class).get(scenario.kind)
    if spread is None:
        return None, None
    return around(scenario, predicted, log(spread.low), log(spread.high))


def around(scenario: Scenario, predicted: float, log_low: float, log_high: float) -> tuple[float, float]:
    """Return a metric's interval from that of its time (or joules), in logs, wider where something was guessed."""
    low, high = log_low * scenario.widen, log_high * scenario.widen
    if scenario.metric in RATES:
        low, high = -high, -low
    return predicted * exp(low), predicted * exp(high)


def errors_of(found: Iterable[Scored]) -> PointErrors:
    """Return the errors of predictions."""
    ratios = np.array([one.predicted / one.scenario.measured for one in found])
    if not len(ratios):
        return PointErrors(0, nan, nan, nan)
    sizes = np.abs(ratios - 1.0)
    return PointErrors(
        len(ratios), float(np.median(sizes)), float(np.quantile(sizes, 0.9)), float(exp(np.log(ratios).mean()))
    )


def by(found: Sequence[Scored], key: Callable[[Scored], str]) -> dict[str, PointErrors]:
    """Return the errors of groups of predictions, by name."""
    groups: dict[str, list[Scored]] = defaultdict(list)
    for one in found:
        groups[key(one)].append(one)
    return {name: errors_of(groups[name]) for name in sorted(groups)}


HARDWARE: Final[Callable[[Scored], str]] = lambda one: one.scenario.deployment.pool.device.name  # noqa: E731
STACK: Final[Callable[[Scored], str]] = lambda one: one.scenario.stack  # noqa: E731
METRIC: Final[Callable[[Scored], str]] = lambda one: one.scenario.point.shown_metric  # noqa: E731
BASIS: Final[Callable[[Scored], str]] = lambda one: one.basis  # noqa: E731


def intervals_of(found: Iterable[Scored]) -> Intervals:
    """Return how the intervals did."""
    known = [one for one in found if one.inside is not None]
    if not known:
        return Intervals(0, nan, nan)
    widths = [one.width for one in known if one.width is not None]
    return Intervals(len(known), sum(bool(one.inside) for one in known) / len(known), float(np.median(widths)))


def coverage_of(scenarios: Sequence[Scenario], refusals: Sequence[PointRefusal]) -> Coverage:
    """Return how many rows are run, of those that could be."""
    outside = sum(refusal.reason.outside for refusal in refusals)
    rows = len(scenarios) + len(refusals)
    return Coverage(rows, rows - outside, len(scenarios))


def worst(found: Sequence[Scored], count: int) -> list[Scored]:
    """Return the predictions farthest off, by ratio, the worst first."""
    return sorted(found, key=lambda one: -abs(log(one.predicted / one.scenario.measured)))[:count]


def reasons(refusals: Iterable[PointRefusal]) -> Mapping[str, list[PointRefusal]]:
    """Return the refusals by reason, the most frequent first."""
    grouped: dict[str, list[PointRefusal]] = defaultdict(list)
    for refusal in refusals:
        grouped[refusal.reason.value].append(refusal)
    return dict(sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0])))

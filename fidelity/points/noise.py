"""How far published figures of one set-up differ: what no model can be better than.

Two kinds of pairs are looked at, and each is shown: two sources about the same card, software, batch and lengths and
about models and formats of the same size; and one source about twins, cards that differ in their form alone. Nothing
here knows what was predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp, log
from typing import Final

import numpy as np

from afterwatt.fidelity.points.scenario import Scenario
from afterwatt.fidelity.points.score import RATES

SAME_SIZE: Final = 1.15
"""Factor within which weights count as the same size; figures are compared per byte of them."""
SHORT_TOKENS: Final = 1024
"""Contexts below this count as equal, longer ones within a factor of two: weights, not the cache, take the time."""
SOURCES: Final = "two sources"
TWINS: Final = "twins of one source"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two figures of one set-up.

    Attributes:
        kind: `SOURCES` or `TWINS`.
        rows: of the table.
        what: the set-up in words.
        values: as published.
        ratio: the larger over the smaller, per byte of weights (of twins, per byte of bandwidth too); 1 or more.
    """

    kind: str
    rows: tuple[int, int]
    what: str
    values: tuple[float, float]
    ratio: float


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """The pairs of a table.

    Attributes:
        pairs: all of them, the farthest apart first.
        median_ratio: their median.
    """

    pairs: tuple[Pair, ...]
    median_ratio: float

    @property
    def median_error_frac(self) -> float:
        """Return how far a figure in the middle of the median pair would be from either."""
        return exp(log(self.median_ratio) / 2.0) - 1.0


def noise_floor(scenarios: Sequence[Scenario]) -> NoiseFloor | None:
    """Find the pairs of a table; None where there is none."""
    pairs = [pair for one, other in combinations(scenarios, 2) if (pair := _pair(one, other)) is not None]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: (-pair.ratio, pair.rows))
    return NoiseFloor(tuple(pairs), float(np.median([pair.ratio for pair in pairs])))


def _pair(one: Scenario, other: Scenario) -> Pair | None:
    if not _same_run(one, other):
        return None
    same_source = _source(one) == _source(other)
    same_card = one.device_key == other.device_key
    if same_source == same_card or (not same_card and not _twins(one, other)):
        return None
    figures = [_figure(scenario, per_bandwidth=not same_card) for scenario in (one, other)]
    ratio = max(figures) / min(figures)
    cards = one.deployment.name if same_card else f"{one.deployment.name} / {other.deployment.name}"
    what = f"{cards}, {one.stack}, {_weights(one)} / {_weights(other)}, {one.metric}"
    return Pair(
        SOURCES if same_card else TWINS,
        (one.point.row, other.point.row),
        what,
        (one.measured, other.measured),
        ratio,
    )


def _same_run(one: Scenario, other: Scenario) -> bool:
    """Whether two runs differ in nothing but card, source, and models and formats of one size."""
    return (
        _set_up(one) == _set_up(other)
        and (one.metric == "decode_tok_s" or one.policies.token_budget == other.policies.token_budget)
        and len(one.load.prompts) == len(other.load.prompts)
        and one.load.arrivals_s is None is other.load.arrivals_s
        and _near(_bytes(one), _bytes(other), SAME_SIZE)
        and _near(_context_tokens(one), _context_tokens(other), 2.0)
    )


def _set_up(scenario: Scenario) -> tuple[str, str, float, int, int, str]:
    pool = scenario.deployment.pool
    return scenario.stack, scenario.metric, scenario.divide, pool.count, pool.tp, scenario.model_class


def _twins(one: Scenario, other: Scenario) -> bool:
    """Whether two cards are one chip and one memory size in two forms, and all else is the same."""
    first, second = one.deployment.pool.device, other.deployment.pool.device
    return (
        first.form != second.form
        and (first.architecture, first.die_mm2, first.memory_bytes)
        == (second.architecture, second.die_mm2, second.memory_bytes)
        and (one.model, one.precision, one.load) == (other.model, other.precision, other.load)
    )


def _figure(scenario: Scenario, per_bandwidth: bool) -> float:
    """Return a figure as a rate per byte of weights; of twins that decode, relative to their memory."""
    rate = scenario.measured if scenario.metric in RATES else 1.0 / scenario.measured
    speed = scenario.deployment.pool.peak_bytes_per_s if per_bandwidth and scenario.phase == "decode" else 1.0
    return rate * _bytes(scenario) / speed


def _context_tokens(scenario: Scenario) -> float:
    return max(SHORT_TOKENS, scenario.load.longest_tokens)


def _bytes(scenario: Scenario) -> float:
    return scenario.model.params * scenario.precision.bits_per_weight / 8.0


def _weights(scenario: Scenario) -> str:
    return f"{scenario.model.name} {scenario.precision.name}"


def _source(scenario: Scenario) -> tuple[str, str]:
    return scenario.point.source, scenario.point.url


def _near(one: float, other: float, factor: float) -> bool:
    return max(one, other) <= factor * min(one, other)

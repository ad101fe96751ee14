"""How wide a prediction's 90 % interval has to be: quantiles of the errors that cross-validation made.

An interval depends on what a prediction stands on (its basis), on the phase, and on the stack. Split-conformal
prediction (Lei et al., JASA 2018): of n errors, the 0.9 (n + 1)-th smallest covers the next one nine times in ten.
Errors of other stacks count as well, but together no more than `BORROWED` points: a stack with few points leans on the
others, one with many stands on its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Final, NamedTuple

BASES: Final = ("measured", "fitted", "pooled", "assumed")
"""What a prediction stands on: points of this device, stack and model class; of this device and stack; of this
architecture and stack; of none of these."""
KINDS: Final = ("prefill", "decode", "energy")
LEVEL: Final = 0.9
BORROWED: Final = 10.0
"""Points that the errors of other stacks together amount to: as many as nine in ten needs to be known at all."""
ENOUGH_GROUPS: Final = 9
"""A basis with errors of fewer groups takes those of the next weaker one in: of nine, one in ten lies beyond."""
MOST_LEVEL: Final = 0.95
"""Beyond this quantile stand slips of the published tables, which no interval is to be made of."""
WIDEST: Final = log(8.0)
"""Where nothing at all is known to calibrate with: within a factor of eight."""


class Miss(NamedTuple):
    """An error of a prediction whose point was held out.

    Attributes:
        stack, basis, kind: of the prediction.
        log_error: log(measured time / predicted time), or of joules.
        widen: by how much more than usual it may be off, as its conditions were assumed.
        group: points that are not independent of one another.
    """

    stack: str
    basis: str
    kind: str
    log_error: float
    widen: float
    group: tuple[str, ...]


@dataclass(frozen=True)
class IntervalCalibration:
    """Half-widths of log intervals, by stack, basis and kind."""

    misses: tuple[Miss, ...]

    def half_width(self, stack: str, basis: str, kind: str, without: tuple[str, ...] | None = None) -> float:
        """Return q such that the time lies within exp(-q)..exp(q) of the predicted one nine times in ten.

        Args:
            stack: of the prediction.
            basis: what it stands on.
            kind: its phase.
            without: leave the errors of this group out, to judge the interval by it.

        Returns:
            The half-width; never less than that of a stronger basis.
        """
        usable = [miss for miss in self.misses if miss.kind == kind and miss.group != without]
        place = BASES.index(basis)
        widths = [0.0]
        for first in range(place + 1):
            found: list[Miss] = []
            for one in BASES[first:]:
                found += [miss for miss in usable if miss.basis == one]
                if len({miss.group for miss in found}) >= ENOUGH_GROUPS:
                    break
            widths.append(_quantile(found, stack) if found else WIDEST if first == place else 0.0)
        return min(max(widths), WIDEST)

    def knows(self, kind: str) -> bool:
        """Say whether there is any error to calibrate a phase with."""
        return any(miss.kind == kind for miss in self.misses)

    def factors(self, stack: str, basis: str, kind: str, widen: float = 1.0) -> tuple[float, float]:
        """Return (low, high): measured over predicted time lies between them nine times in ten."""
        half = min(self.half_width(stack, basis, kind) * widen, WIDEST)
        return exp(-half), exp(half)

    def coverage(self) -> float:
        """Return the share of the errors within the interval that the other groups' errors give."""
        inside = [abs(miss.log_error) <= self.half_width_of(miss) for miss in self.misses]
        return sum(inside) / len(inside) if inside else float("nan")

    def half_width_of(self, miss: Miss) -> float:
        """Return the half-width of the interval around one held-out prediction, made without its group's errors."""
        return min(self.half_width(miss.stack, miss.basis, miss.kind, miss.group) * miss.widen, WIDEST)


def calibrate(misses: Iterable[Miss]) -> IntervalCalibration:
    """Return the calibration that held-out errors give."""
    return IntervalCalibration(tuple(misses))


def _quantile(misses: Sequence[Miss], stack: str) -> float:
    """Return the conformal quantile of errors, those of other stacks counting `BORROWED` in all.

    Errors of a group are next to repetitions of one another, so the prediction to come is one more among the groups,
    not among the errors.
    """
    if not misses:
        return 0.0
    others = sum(miss.stack != stack for miss in misses)
    share = min(1.0, BORROWED / others) if others else 0.0
    weighed = sorted((abs(miss.log_error) / miss.widen, 1.0 if miss.stack == stack else share) for miss in misses)
    groups = len({miss.group for miss in misses})
    level = min(MOST_LEVEL, LEVEL * (1.0 + 1.0 / groups))
    wanted = level * sum(weight for _, weight in weighed)
    below = 0.0
    for size, weight in weighed:
        below += weight
        if below >= wanted * (1.0 - 1e-9):
            return size
    return weighed[-1][0]

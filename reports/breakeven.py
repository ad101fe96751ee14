"""Where the greener choice changes: carbon per output token as the grid, the hardware's life or its duty cycle move.

Each run gives a few numbers (the ``breakeven`` block of its summary), from which its carbon per output token follows
(`hwprofiles.carbon.TokenCarbon`). Against the grid's intensity that is a straight line, against a factor on all lives
and against the duty cycle a hyperbola, so every crossing is exact.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from afterwatt.hwprofiles.carbon import TokenCarbon
from afterwatt.reports.columns import Floats
from afterwatt.reports.entry import Choice, Entry, shared_label

Number = TypeVar("Number", float, Floats)


class Curve(NamedTuple):
    """Grams per output token as ``base + slope·x``, or as ``base + slope/x`` where ``inverse``.

    ``own_x`` is where the run itself stands; ``fault`` says why it may not be called best.
    """

    label: str
    base: float
    slope: float
    inverse: bool
    own_x: float
    fault: str = ""

    def at(self, x: Number) -> Number:
        """Give grams per output token."""
        return self.base + self.slope / x if self.inverse else self.base + self.slope * x


class Curves(NamedTuple):
    """One run's three curves; that of the duty cycle is None where the run does not know its duty cycle."""

    intensity: Curve
    lifetime: Curve
    duty: Curve | None


def curves(entry: Entry, choice: Choice) -> Curves | None:
    """Work out a run's curves over grid intensity (g/kWh), a factor on all lives, and duty cycle (fraction).

    Returns:
        None where the run does not know enough for them.
    """
    known = entry.breakeven(choice.host_share)
    if known is None or not known.output_tokens_per_s or known.run_j_per_output_token is None:
        return None
    per_s = (known.embodied_gco2e_per_reserved_s.get(choice.method) or {}).get(choice.allocation)
    grid = known.intensity_gco2e_per_kwh
    if per_s is None or grid is None:
        return None
    duty = known.duty_frac or 1.0
    token = TokenCarbon(known.run_j_per_output_token, known.off_w or 0.0, per_s, known.output_tokens_per_s)
    always = token.total(grid)
    unused = token.total(grid, duty_frac=0.5) - always  # what grows with 1/duty: twice of it at half the duty
    label, fault = entry.label, entry.fault
    on_duty = Curve(label, always - unused, unused, True, duty, fault)
    return Curves(
        Curve(label, token.embodied(duty_frac=duty), token.operational(1.0, duty), False, grid, fault),
        Curve(label, token.operational(grid, duty), token.embodied(duty_frac=duty), True, 1.0, fault),
        on_duty if known.duty_frac and known.off_w is not None else None,
    )


def merged(group: Sequence[Curve]) -> list[Curve]:
    """Give curves that coincide once, under what their labels share.

    The same hardware at two sites has one curve over grid intensity, on which only ``own_x`` differs.
    """
    found: list[list[Curve]] = []
    for curve in group:
        held = next((held for held in found if _coincide(held[0], curve)), None)
        if held is None:
            found.append([curve])
        else:
            held.append(curve)
    return [held[0]._replace(label=shared_label([curve.label for curve in held])) for held in found]


def _coincide(a: Curve, b: Curve) -> bool:
    return _alike(a.base, b.base) and _alike(a.slope, b.slope) and bool(a.fault) == bool(b.fault)


def _alike(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b))


class Crossing(NamedTuple):
    """Where two curves meet: below ``x`` the run ``below`` is lower, above it ``above``.

    ``decides`` is true where no third run is lower still, so that the best choice itself changes.
    """

    below: str
    above: str
    x: float
    gco2e: float
    decides: bool


def crossings(group: Sequence[Curve]) -> list[Crossing]:
    """Find every meeting of two curves at a positive x, ascending; runs that may not be called best have none.

    For intensities this is CI* = (m_new - m_old) / (e_old - e_new).
    """
    found = []
    group = [curve for curve in group if not curve.fault]
    for a, b in itertools.combinations(group, 2):
        rise, fall = b.base - a.base, a.slope - b.slope
        x = _quotient(fall, rise) if a.inverse else _quotient(rise, fall)
        if x is None or x <= 0.0:
            continue
        first_is_lower = a.slope < b.slope if a.inverse else a.base < b.base
        below, above = (a, b) if first_is_lower else (b, a)
        height = a.at(x)
        lowest = min(curve.at(x) for curve in group)
        found.append(Crossing(below.label, above.label, x, height, height <= lowest * (1.0 + 1e-9)))
    return sorted(found, key=lambda crossing: (crossing.x, crossing.below, crossing.above))


def _quotient(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None

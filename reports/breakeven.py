"""Where the greener choice changes: carbon per output token as the grid, the hardware's life or its duty cycle move.

Each run gives a few numbers (the ``breakeven`` block of its summary), from which its carbon per output token follows::

    carbon(CI, s, d) = (e + (1/d - 1)·o)·CI + m/(s·d)

with e the energy of the run per token, o that of the reserved but unused time, CI the grid's intensity, m the embodied
carbon per token of hardware that is always in use, s a factor on all lives and d the duty cycle. Against CI this is a
straight line, against s and d a hyperbola, so every crossing is exact.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from reports.compare import Choice, Entry, shared_label
from reports.format import J_PER_KWH
from reports.tables import Floats

Number = TypeVar("Number", float, Floats)


class Curve(NamedTuple):
    """Grams per output token as ``base + slope·x``, or as ``base + slope/x`` where ``inverse``.

    ``own_x`` is where the run itself stands.
    """

    label: str
    base: float
    slope: float
    inverse: bool
    own_x: float

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
    known = entry.summary.breakeven
    if known is None or not known.output_tokens_per_s or known.run_j_per_output_token is None:
        return None
    per_s = (known.embodied_gco2e_per_reserved_s.get(choice[0]) or {}).get(choice[1])
    grid = known.intensity_gco2e_per_kwh
    if per_s is None or grid is None:
        return None
    duty = known.duty_frac or 1.0
    run_kwh = known.run_j_per_output_token / J_PER_KWH
    off_kwh = (known.off_w or 0.0) / known.output_tokens_per_s / J_PER_KWH
    embodied_g = per_s / known.output_tokens_per_s
    energy_kwh = run_kwh + (1.0 / duty - 1.0) * off_kwh
    on_duty = Curve(entry.label, (run_kwh - off_kwh) * grid, off_kwh * grid + embodied_g, True, duty)
    return Curves(
        Curve(entry.label, embodied_g / duty, energy_kwh, False, grid),
        Curve(entry.label, energy_kwh * grid, embodied_g / duty, True, 1.0),
        on_duty if known.duty_frac else None,
    )


def merged(group: Sequence[Curve]) -> list[Curve]:
    """Give curves that coincide once, under what their labels share.

    The same hardware at two sites has one curve over grid intensity, on which only ``own_x`` differs.
    """
    found: list[list[Curve]] = []
    for curve in group:
        same = (held for held in found if _alike(held[0].base, curve.base) and _alike(held[0].slope, curve.slope))
        held = next(same, None)
        if held is None:
            found.append([curve])
        else:
            held.append(curve)
    return [held[0]._replace(label=shared_label([curve.label for curve in held])) for held in found]


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
    """Find every meeting of two curves at a positive x, ascending.

    For intensities this is CI* = (m_new - m_old) / (e_old - e_new).
    """
    found = []
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
    return sorted(found, key=lambda crossing: crossing.x)


def _quotient(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None

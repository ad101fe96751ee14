"""Grams: operational carbon, the SCI, carbon per token, and where one choice starts to beat another.

Operational carbon is a site's energy times the location-based average intensity, PUE already inside the energy.
Embodied carbon by method is `hwprofiles.footprint`, its allocation to a run `hwprofiles.lives`, intervals are
`hwprofiles.draws`.
"""

import math
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from hwprofiles.errors import HardwareError
from hwprofiles.units import J_PER_KWH

Floats = NDArray[np.float64]


@overload
def operational_gco2e(energy_j: float, intensity_gco2e_per_kwh: float) -> float: ...
@overload
def operational_gco2e(energy_j: Floats, intensity_gco2e_per_kwh: Floats) -> Floats: ...
def operational_gco2e(energy_j: float | Floats, intensity_gco2e_per_kwh: float | Floats) -> float | Floats:
    """Return grams from electricity: O = E x I (SCI specification, ISO/IEC 21031:2024).

    Args:
        energy_j: joules of the site, PUE included.
        intensity_gco2e_per_kwh: location-based, of one basis.
    """
    return energy_j / J_PER_KWH * intensity_gco2e_per_kwh


def sci_gco2e(operational: float, embodied: float, functional_units: float) -> float | None:
    """Return the software carbon intensity (O + M) / R (ISO/IEC 21031:2024); None where nothing was served.

    Example: 6,500 kg over 50e9 tokens are 130 g per million tokens (worked example of the SCI for AI, whose units were
    published wrong by a factor of 1,000 and repaired; Green-Software-Foundation/sci-ai issues 68, 98, 107, 144).
    """
    if functional_units < 0:
        raise HardwareError(f"{functional_units!r} functional units cannot be; a count is 0 or more")
    return (operational + embodied) / functional_units if functional_units else None


@dataclass(frozen=True, slots=True)
class TokenCarbon:
    """What one output token emits, split by what it depends on; a report redraws its charts from these alone.

    carbon = run_j x CI + (1 / duty - 1) x off_w / rate x CI + embodied / (lifetime scale x duty x rate)

    Attributes:
        run_j_per_token: joules of the site in the run, idle within the run included, per output token.
        off_w: watts of the site in reserved time outside of the run.
        embodied_gco2e_per_s: grams per reserved second.
        tokens_per_s: output tokens per second of the run.
    """

    run_j_per_token: float
    off_w: float
    embodied_gco2e_per_s: float
    tokens_per_s: float

    def operational(self, ci_gco2e_per_kwh: float, duty_frac: float = 1.0) -> float:
        """Return grams from electricity per token."""
        off_j = (1.0 / duty_frac - 1.0) * self.off_w / self.tokens_per_s
        return float(operational_gco2e(self.run_j_per_token + off_j, ci_gco2e_per_kwh))

    def embodied(self, lifetime_scale: float = 1.0, duty_frac: float = 1.0) -> float:
        """Return embodied grams per token."""
        return self.embodied_gco2e_per_s / (lifetime_scale * duty_frac * self.tokens_per_s)

    def total(self, ci_gco2e_per_kwh: float, lifetime_scale: float = 1.0, duty_frac: float = 1.0) -> float:
        """Return grams per token."""
        return self.operational(ci_gco2e_per_kwh, duty_frac) + self.embodied(lifetime_scale, duty_frac)


def carbon_per_token(
    e_j_per_token: float,
    m_gco2e_per_s: float,
    tokens_per_s: float,
    ci_gco2e_per_kwh: float,
    *,
    lifetime_scale: float = 1.0,
    duty_frac: float = 1.0,
    off_w: float = 0.0,
) -> float:
    """Return grams per output token from the numbers of a `summary.json`'s `breakeven` block; see `TokenCarbon`."""
    token = TokenCarbon(e_j_per_token, off_w, m_gco2e_per_s, tokens_per_s)
    return token.total(ci_gco2e_per_kwh, lifetime_scale, duty_frac)


def breakeven_intensity(e_old_kwh: float, m_old_gco2e: float, e_new_kwh: float, m_new_gco2e: float) -> float | None:
    """Return the grid intensity (g/kWh) at which both emit the same per unit: CI* = (m_new - m_old) / (e_old - e_new).

    Where the old choice needs more energy and less embodied carbon, it wins below CI* and loses above.

    Args:
        e_old_kwh: energy per functional unit.
        m_old_gco2e: embodied carbon per functional unit.
        e_new_kwh: of the other choice.
        m_new_gco2e: of the other choice.

    Returns:
        None where no intensity of 0 or more makes them equal: one choice always wins, or they are the same.
    """
    return _non_negative(_quotient(m_new_gco2e - m_old_gco2e, e_old_kwh - e_new_kwh))


def breakeven_lifetime_scale(old: TokenCarbon, new: TokenCarbon, ci: float, duty_frac: float = 1.0) -> float | None:
    """Return by which factor both lifetimes must grow for both to emit the same per token at one grid intensity.

    o_old + m_old / s = o_new + m_new / s, so s = (m_new - m_old) / (o_old - o_new); None where no factor above 0 does.
    """
    operational = old.operational(ci, duty_frac) - new.operational(ci, duty_frac)
    embodied = new.embodied(1.0, duty_frac) - old.embodied(1.0, duty_frac)
    return _positive(_quotient(embodied, operational))


def breakeven_new_lifetime_scale(old: TokenCarbon, new: TokenCarbon, ci: float, duty_frac: float = 1.0) -> float | None:
    """Return by which factor the new choice's lifetime must grow for both to emit the same, the old one's as it is."""
    room = old.total(ci, 1.0, duty_frac) - new.operational(ci, duty_frac)
    return _positive(_quotient(new.embodied(1.0, duty_frac), room))


def breakeven_duty(old: TokenCarbon, new: TokenCarbon, ci: float, lifetime_scale: float = 1.0) -> float | None:
    """Return the duty cycle in (0, 1] at which both emit the same per token.

    Per token, both are a + b / duty with b = (off_w x CI + embodied per second) / rate; None where they do not cross.
    """
    a_old, b_old = _duty_line(old, ci, lifetime_scale)
    a_new, b_new = _duty_line(new, ci, lifetime_scale)
    duty = _positive(_quotient(b_new - b_old, a_old - a_new))
    return duty if duty is not None and duty <= 1.0 else None


def _duty_line(token: TokenCarbon, ci: float, lifetime_scale: float) -> tuple[float, float]:
    off = operational_gco2e(token.off_w / token.tokens_per_s, ci)
    return token.operational(ci) - off, off + token.embodied(lifetime_scale)


def _quotient(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0.0 and math.isfinite(value) else None


def _non_negative(value: float | None) -> float | None:
    return value if value is not None and value >= 0.0 and math.isfinite(value) else None

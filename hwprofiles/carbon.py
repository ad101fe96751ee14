"""Grams: operational carbon, the SCI, and what a token emits as grid, life and duty cycle move.

Operational carbon is a site's energy times the location-based average intensity, PUE already inside the energy.
Embodied carbon by method is `hwprofiles.footprint`, its allocation to a run `hwprofiles.lives`, intervals are
`hwprofiles.draws`.
"""

from dataclasses import dataclass
from typing import Final, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.units import J_PER_KWH

Floats = NDArray[np.float64]
Grams = TypeVar("Grams", float, Floats)


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


def sci_gco2e(operational: Grams, embodied: Grams, functional_units: float) -> Grams | None:
    """Return the software carbon intensity (O + M) / R (ISO/IEC 21031:2024); None where nothing was served.

    Example: 6,500 kg over 50e9 tokens are 130 g per million tokens (worked example of the SCI for AI, whose units were
    published wrong by a factor of 1,000 and repaired; Green-Software-Foundation/sci-ai issues 68, 98, 107, 144).
    """
    if functional_units < 0:
        raise HardwareError(f"{functional_units!r} functional units cannot be; a count is 0 or more")
    return (operational + embodied) / functional_units if functional_units else None


M2CACHE_GCO2E_PER_KWH: Final = 820.0
"""Coal, as arXiv:2410.14740 takes it."""
_M2CACHE_DRAM_W_PER_BYTE: Final = 26.0 / 256e9
_M2CACHE_SSD_W: Final = 2.0


def m2cache_gco2e(dram_bytes: float, ssds: int, runtime_s: float) -> float:
    """Return grams as M2Cache counts them: memory size x power per size x runtime x intensity (arXiv:2410.14740).

    DRAM draws 26 W per 256 GB, a disk 2 W; neither the GPU's work nor idle power is in it, and an old card's embodied
    carbon is none. At equal memory, a ratio of such grams is the ratio of runtimes.

    Args:
        dram_bytes: of host memory.
        ssds: disks.
        runtime_s: of the run.
    """
    watts = dram_bytes * _M2CACHE_DRAM_W_PER_BYTE + ssds * _M2CACHE_SSD_W
    return operational_gco2e(watts * runtime_s, M2CACHE_GCO2E_PER_KWH)


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

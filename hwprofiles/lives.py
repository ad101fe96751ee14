"""How much of a thing's embodied carbon a reserved stretch of its life has to carry: six rules, each additive.

A rule is a curve: the share of the total that is written off by an age. A stretch from age x to y carries the curve's
rise over it, so that the stretches of all owners add up to the total if all of them count by the same life. (Under
`avoidable` what was spent before the decision stays with those who decided then.)

They do not count by the same life where a first owner does not know of the second: `new_life` ends with the first
owner, who carries all of it, and `second_hand_life` runs from making to scrap. Under `linear` both together carry
1 + service / (age + service) times the total: 1.21 to 1.29 for cards of 10 to 15 years that serve 4 more. Under
`remaining`, `purchase` and `avoidable` they carry it once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from afterwatt.hwprofiles.errors import HardwareError, unknown_name
from afterwatt.hwprofiles.units import S_PER_YEAR

ALLOCATIONS: Final[dict[str, str]] = {
    "linear": "Evenly over the whole life (attribution; the SCI's rule). Default. A new thing's life is its first "
    "owner's, a second-hand one's runs from making to scrap: a part of what the first wrote off is counted again.",
    "remaining": "Evenly over the owner's years what the owners before have not yet written off.",
    "avoidable": "For decisions: what is owned already is sunk and counts nothing, what is bought new counts in full.",
    "purchase": "In full on the first owner, evenly over that owner's years, sunk or not; nothing on later owners.",
    "front-loaded": "Double declining balance, changing to a straight line at half-life; all written off at its end.",
    "full-year": "All in the first year of use (GHG Protocol Scope 3, category 2); nothing after.",
}
"""What each rule says. A second-hand thing also carries its transport, refurbishment and spares, under every rule."""

DEFAULT_ALLOCATION: Final = "linear"


@dataclass(frozen=True, slots=True)
class Life:
    """The life of one card or server, seen by its present owner; ages are seconds since its first use.

    Attributes:
        acquired_s: age at which the present owner got it; 0 if new.
        until_s: age at which the present owner gives it up.
        total_s: age at which it is scrapped, after all owners.
        carried_frac: share of its embodied carbon that was not yet written off on acquisition (rule `remaining`).
        owned: the present owner has it already, so what making it cost is sunk (rule `avoidable`).
    """

    acquired_s: float
    until_s: float
    total_s: float
    carried_frac: float = 1.0
    owned: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.acquired_s < self.until_s <= self.total_s * (1.0 + 1e-12) or not math.isfinite(self.total_s):
            years = ", ".join(f"{s / S_PER_YEAR:.6g}" for s in (self.acquired_s, self.until_s, self.total_s))
            raise HardwareError(
                f"a life of {years} years (acquired, given up, scrapped) must be in this order and finite"
            )
        if not 0.0 <= self.carried_frac <= 1.0:
            raise HardwareError(f"carried_frac = {self.carried_frac!r} must lie in [0, 1]")

    @property
    def service_s(self) -> float:
        """Return for how long the present owner has it."""
        return self.until_s - self.acquired_s

    @property
    def new(self) -> bool:
        """Return whether the present owner is the first."""
        return self.acquired_s == 0.0


def second_hand_life(age_s: float, write_off_s: float, service_s: float, owned: bool = False) -> Life:
    """Return the life of a thing of some age that serves its present owner for `service_s` from now on.

    Args:
        age_s: age on acquisition.
        write_off_s: years over which its first owner wrote it off.
        service_s: further service.
        owned: whether it is the owner's already.
    """
    carried = max(0.0, 1.0 - age_s / write_off_s)
    return Life(age_s, age_s + service_s, age_s + service_s, carried, owned)


def new_life(lifetime_s: float, owned: bool = False) -> Life:
    """Return the life of a thing used from new until it is scrapped by one owner."""
    return Life(0.0, lifetime_s, lifetime_s, 1.0, owned)


def allocated_frac(allocation: str, life: Life, start_s: float, end_s: float) -> float:
    """Return the share of a thing's total that a stretch of its present owner's time carries.

    Args:
        allocation: a key of `ALLOCATIONS`.
        life: see `Life`.
        start_s: age at the start of the stretch.
        end_s: age at its end.

    Raises:
        HardwareError: the rule is unknown, or the stretch is not within the owner's years.
    """
    if allocation not in _CURVES:
        raise unknown_name("allocation", allocation, _CURVES)
    if not life.acquired_s <= start_s <= end_s <= life.until_s * (1.0 + 1e-12):
        raise HardwareError(
            f"{(end_s - start_s) / S_PER_YEAR:.6g} years are to be reserved of hardware kept for "
            f"{life.service_s / S_PER_YEAR:.6g} years; shorten the run, raise its duty cycle or lengthen the lifetime"
        )
    curve = _CURVES[allocation]
    return curve(life, end_s) - curve(life, start_s)


def _linear(life: Life, age_s: float) -> float:
    return age_s / life.total_s


def _remaining(life: Life, age_s: float) -> float:
    return life.carried_frac * (age_s - life.acquired_s) / life.service_s


def _avoidable(life: Life, age_s: float) -> float:
    return 0.0 if life.owned else _purchase(life, age_s)


def _purchase(life: Life, age_s: float) -> float:
    return age_s / life.until_s if life.new else 1.0


def _front_loaded(life: Life, age_s: float) -> float:
    """Continuous double declining balance: B' = -2 B / L until L/2, where the straight line to 0 at L is as steep."""
    half = 0.5 * life.total_s
    if age_s <= half:
        return -math.expm1(-2.0 * age_s / life.total_s)
    return 1.0 - math.exp(-1.0) * (life.total_s - age_s) / half


def _full_year(life: Life, age_s: float) -> float:
    return min(age_s / min(S_PER_YEAR, life.total_s), 1.0)


_CURVES: Final[dict[str, Callable[[Life, float], float]]] = {
    "linear": _linear,
    "remaining": _remaining,
    "avoidable": _avoidable,
    "purchase": _purchase,
    "front-loaded": _front_loaded,
    "full-year": _full_year,
}

"""What a power cap does to a card: the clock that it leaves, and how much longer kernels then take.

Power at a clock u (a share of the highest) is static + dynamic u v(u)^2, with a voltage v that is flat up to a knee and
rises straight from there to 1. A kernel takes sqrt((r / u)^2 + 1) of its time that does not follow the clock: what
follows it and what does not join as squares. Both forms are those of 84 points of an RTX
3090 (`data/capping/curves.toml`).
"""

import functools
from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Final, NamedTuple

from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.facts import Fact, Rule
from afterwatt.hwprofiles.tables import DATA_DIR, Table, read_fields, read_profile

CAPS_FILE: Final = DATA_DIR / "capping" / "curves.toml"
PHASES: Final = ("decode", "prefill")
DEFAULT: Final = "default"
_SHARE: Final = Rule(0.01, 1.0, ((0.01, "percent"),))
_WATTS: Final = Rule(1.0, 3000.0)
_RATIO: Final = Rule(0.01, 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Voltage:
    """How a card's voltage follows its clock; see `data/capping/curves.toml`.

    Attributes:
        low_voltage: as a share of that at the highest clock, up to the knee.
        knee: clock at which it begins to rise.
        floor: lowest clock that a cap can force.
    """

    low_voltage: Annotated[Fact, _SHARE]
    knee: Annotated[Fact, _SHARE]
    floor: Annotated[Fact, _SHARE]

    def at(self, clock: float) -> float:
        """Return the voltage at a clock, both as shares."""
        if clock <= self.knee:
            return float(self.low_voltage)
        return self.low_voltage + (1.0 - self.low_voltage) * (clock - self.knee) / (1.0 - self.knee)


class Draw(NamedTuple):
    """What kernels of a class draw: watts that do not follow the clock, and on top at the highest clock."""

    static_w: float
    dynamic_w: float


@dataclass(frozen=True, slots=True)
class CapCurve:
    """How a card's power and speed follow its clock in a class of work.

    Attributes:
        voltage: of the card.
        compute_ratio: time of kernels that follows the clock over time that does not, at the highest clock.
        static_frac: power that does not follow the clock as a share of demand, where nobody measured the card.
        drawn: what the class was measured to draw; None: nobody measured the card.
    """

    voltage: Voltage
    compute_ratio: Fact
    static_frac: Fact
    drawn: Draw | None

    def draw(self, demand_w: float) -> Draw:
        """Return what kernels draw: as measured, or parts of what the power model says of them at full clock."""
        if self.drawn is not None:
            return self.drawn
        return Draw(self.static_frac * demand_w, (1.0 - self.static_frac) * demand_w)

    def power_w(self, draw: Draw, clock: float, busy_frac: float = 1.0) -> float:
        """Return the mean power of a time of which kernels run a share.

        Args:
            draw: of the kernels.
            clock: as a share of the highest.
            busy_frac: share of the time in which kernels run.
        """
        return draw.static_w + busy_frac * draw.dynamic_w * clock * self.voltage.at(clock) ** 2

    def clock(self, draw: Draw, cap_w: float, busy_frac: float = 1.0) -> float:
        """Return the highest clock at which the mean power keeps to a cap; the floor where none does.

        Args:
            draw: of the kernels.
            cap_w: the cap.
            busy_frac: share of the time in which kernels run.
        """
        from scipy.optimize import brentq  # slow to import, and few runs have a cap

        floor = float(self.voltage.floor)

        def above_w(clock: float) -> float:
            return self.power_w(draw, clock, busy_frac) - cap_w

        if above_w(1.0) <= 0.0:
            return 1.0
        return floor if above_w(floor) >= 0.0 else float(brentq(above_w, floor, 1.0, xtol=1e-12))

    def slowness(self, clock: float) -> float:
        """Return how much longer kernels take than at the highest clock."""
        ratio = float(self.compute_ratio)
        return sqrt((ratio / clock) ** 2 + 1.0) / sqrt(ratio**2 + 1.0)

    def slower(self, demand_w: float, cap_w: float, limit_w: float, busy_frac: float = 1.0) -> float:
        """Return how much longer kernels take under a cap than under the card's own limit, under which it was measured.

        Args:
            demand_w: what the power model says that they draw at full clock.
            cap_w: the cap.
            limit_w: the card's own.
            busy_frac: share of the time in which kernels run.
        """
        draw = self.draw(demand_w)
        under_cap, under_limit = (self.clock(draw, watts, busy_frac) for watts in (min(cap_w, limit_w), limit_w))
        return self.slowness(under_cap) / self.slowness(under_limit)


def require_cap(device: Device, cap_w: float) -> None:
    """Refuse a cap that no card of this kind can be set to.

    Raises:
        HardwareError: it lies above the card's own limit, or not above what the card draws at rest.
    """
    if not device.idle_w < cap_w <= device.tdp_w:
        raise HardwareError(
            f"no {device.key} can be set to a power cap of {cap_w:g} W: it rests at {device.idle_w:g} W and is limited "
            f"to {device.tdp_w:g} W; give a cap between, or leave it out"
        )


def cap_curve(device: Device, phase: str, moe: bool) -> CapCurve:
    """Return the curve of a class of work on a card; the default one where nobody measured the card.

    Args:
        device: the card.
        phase: of `PHASES`.
        moe: whether the model has experts.
    """
    known = _curves()
    kind = f"{phase}-{'moe' if moe else 'dense'}"
    return known.get((device.key, kind)) or known[DEFAULT, kind]


@functools.cache
def _curves() -> dict[tuple[str, str], CapCurve]:
    def build(table: Table) -> dict[tuple[str, str], CapCurve]:
        found: dict[tuple[str, str], CapCurve] = {}
        cards = {card: table.table(card) for card in table.keys()}  # noqa: SIM118 - a Table is no dict
        static_frac = cards[DEFAULT].fact("static_frac", _SHARE)
        for card, own in cards.items():
            voltage = read_fields(own, Voltage)
            for kind in (f"{phase}-{model}" for phase in PHASES for model in ("dense", "moe")):
                work = own.table(kind)
                ratio = work.fact("compute_ratio", _RATIO)
                drawn = None
                if card != DEFAULT:
                    drawn = Draw(*(float(work.fact(name, _WATTS)) for name in ("static_w", "dynamic_w")))
                found[card, kind] = CapCurve(voltage, ratio, static_frac, drawn)
        return found

    return read_profile(CAPS_FILE, build)

"""A number that knows where it comes from, and the bounds outside of which a quantity is a slip of the unit.

Every physical quantity of a profile is a `Fact`: a float (so that the physics computes with it as with any other) with
its source, date, kind and, where it is an assumption or a fit, its interval. `hwprofiles.tables` reads one from TOML.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from afterwatt.hwprofiles.errors import HardwareError

KINDS: Final = ("datasheet", "measured", "fitted", "assumed")
KINDS_NEEDING_INTERVAL: Final = ("fitted", "assumed")


class Fact(float):
    """A float with provenance; arithmetic gives plain floats, pickling and copying keep everything.

    Attributes:
        source: where the number comes from, in full.
        checked: ISO date on which the source was read.
        kind: one of `KINDS`.
        low: lower end of the interval in the unit of the value; None if none is given.
        high: upper end of the interval; None if none is given.
        note: what one should know before using it; may be empty.
    """

    __slots__ = ("checked", "high", "kind", "low", "note", "source")

    source: str
    checked: str
    kind: str
    low: float | None
    high: float | None
    note: str

    def __new__(
        cls,
        value: float,
        source: str,
        checked: str,
        kind: str,
        low: float | None = None,
        high: float | None = None,
        note: str = "",
    ) -> "Fact":
        """Make a fact.

        Raises:
            HardwareError: the kind is unknown, an interval is missing, or the value lies outside of it.
        """
        if kind not in KINDS:
            raise HardwareError(f"kind = {kind!r} is not known; a fact is one of {', '.join(KINDS)}")
        if (low is None) != (high is None):
            raise HardwareError("an interval needs both low and high")
        if low is None or high is None:
            if kind in KINDS_NEEDING_INTERVAL:
                raise HardwareError(f"kind = {kind!r} needs an interval; add low = ... and high = ...")
        elif not low <= value <= high:
            raise HardwareError(f"value {value:g} lies outside of its interval {low:g}..{high:g}")
        self = super().__new__(cls, value)
        for name, item in zip(
            ("source", "checked", "kind", "low", "high", "note"), (source, checked, kind, low, high, note), strict=True
        ):
            object.__setattr__(self, name, item)
        return self

    def __setattr__(self, name: str, _value: object) -> NoReturn:
        raise AttributeError(f"a Fact is frozen; cannot set {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Fact is frozen; cannot delete {name}")

    def __reduce__(self) -> tuple[type["Fact"], tuple[object, ...]]:
        return Fact, (float(self), self.source, self.checked, self.kind, self.low, self.high, self.note)

    def __repr__(self) -> str:
        interval = "" if self.low is None else f", {self.low:g}..{self.high:g}"
        return f"Fact({float(self)!r}, {self.kind}{interval})"

    def __str__(self) -> str:
        return float.__repr__(self)

    @property
    def interval(self) -> tuple[float, float]:
        """Return (low, high); both equal the value where no interval is given."""
        return (float(self), float(self)) if self.low is None or self.high is None else (self.low, self.high)

    def widened(self, least_frac: float) -> "Fact":
        """Return the fact with an interval that reaches at least `least_frac` of the value to either side."""
        low, high = self.interval
        reach = abs(float(self)) * least_frac
        return Fact(
            float(self),
            self.source,
            self.checked,
            self.kind,
            min(low, float(self) - reach),
            max(high, float(self) + reach),
            self.note,
        )


def merge_facts(facts: Sequence[Fact]) -> Fact:
    """Return one fact for several that speak of the same thing: the first one's value, an interval that spans them all.

    The order of a profile is thus a preference. Sources are joined, so none is lost.
    """
    first = facts[0]
    if len(facts) == 1:
        return first
    return Fact(
        float(first),
        " | ".join(dict.fromkeys(fact.source for fact in facts)),
        max(fact.checked for fact in facts),
        first.kind,
        min(fact.interval[0] for fact in facts),
        max(fact.interval[1] for fact in facts),
        " | ".join(dict.fromkeys(fact.note for fact in facts if fact.note)),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """The bounds of a quantity, inclusive, and the units in which people wrongly write it.

    Attributes:
        low: least plausible value.
        high: largest plausible value.
        slips: (factor, name) of units that would bring a wrong value back into the bounds.
    """

    low: float
    high: float
    slips: tuple[tuple[float, str], ...] = ()

    def fault(self, value: float) -> str | None:
        """Return what is wrong with a value (`looks like GB/s; expected 1e+09..1e+13`), or None."""
        if self.low <= value <= self.high:
            return None
        expected = f"expected {_short(self.low)}..{_short(self.high)}"
        for factor, unit in self.slips:
            if self.low <= value * factor <= self.high:
                return f"looks like {unit}; {expected}"
        return f"is outside of what is plausible; {expected}"


def _short(value: float) -> str:
    return f"{value:g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


_PER_S = ((1e9, "GB/s"), (1e12, "TB/s"), (1e6, "MB/s"))
_SIZE = ((1e9, "GB"), (1e6, "MB"), (1e12, "TB"))
_POWER = ((1e-3, "mW"), (1e3, "kW"))

BANDWIDTH: Final = Rule(1e8, 1e13, _PER_S)
DISK_BANDWIDTH: Final = Rule(5e7, 1e11, ((1e6, "MB/s"), (1e9, "GB/s")))
LINK_BANDWIDTH: Final = Rule(1e8, 1e13, ((1e9, "GB/s"), (1e6, "MB/s")))
FLOPS: Final = Rule(1e8, 1e17, ((1e12, "TFLOPS"), (1e9, "GFLOPS"), (1e15, "PFLOPS")))
MEMORY: Final = Rule(2e8, 1e14, _SIZE)
NO_MEMORY: Final = Rule(0.0, 0.0)
DISK_SIZE: Final = Rule(1e10, 1e15, _SIZE)
CARD_POWER: Final = Rule(5.0, 3000.0, _POWER)
IDLE_POWER: Final = Rule(0.001, 500.0, _POWER)
PART_POWER: Final = Rule(0.0, 5000.0, _POWER)
POWER_PER_BYTE: Final = Rule(1e-12, 5e-9, ((1e-9, "W per GB"), (1e-12, "W per TB")))
FRACTION: Final = Rule(0.0, 1.0, ((0.01, "percent"),))
SHARE_LOST: Final = Rule(0.0, 0.5, ((0.01, "percent"),))
EFFICIENCY: Final = Rule(0.3, 1.0, ((0.01, "percent"),))
AREA_MM2: Final = Rule(10.0, 3000.0, ((100.0, "cm2"),))
NODE_NM: Final = Rule(1.0, 100.0)
CARD_EMBODIED: Final = Rule(1e3, 3e6, ((1e3, "kg"),))
PART_EMBODIED: Final = Rule(0.0, 2e7, ((1e3, "kg"),))
EMBODIED_PER_BYTE: Final = Rule(1e-10, 1e-5, ((1e-6, "kg per GB"), (1e-9, "g per GB")))
PRICE: Final = Rule(1.0, 1e6)
LATENCY: Final = Rule(1e-8, 1.0, ((1e-6, "microseconds"), (1e-3, "milliseconds")))
RATE_PER_S: Final = Rule(1e2, 1e8, ((1e3, "thousands per second"),))
LIFETIME: Final = Rule(1.5e7, 1.3e9, ((31_557_600.0, "years"), (3600.0, "hours")))
INTENSITY: Final = Rule(0.0, 1500.0, ((1e-3, "kg or mg"),))
PUE: Final = Rule(1.0, 4.0)
ELECTRICITY_PRICE: Final = Rule(0.0, 2.0, ((1e-3, "a price per MWh"), (1e-2, "cents")))

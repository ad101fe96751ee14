"""What a meter says, and meters that need no sensor: one that knows nothing, and one that is a model."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Clock = Callable[[], float]


class MeterError(RuntimeError):
    """A sensor does not answer, or answers nonsense; the text says which and what."""


@dataclass(frozen=True, slots=True)
class MeterReading:
    """Energy of a stretch of time.

    Attributes:
        joules: None where it is not known.
        method: how it was come by: `nvml-counter`, `nvml-power-polled-100ms`, `rapl`, `modelled: ...`, `unknown`.
        covers: what the joules are of.
        elapsed_s: from start to stop.
        note: what to know about it; of an unknown figure, why.
    """

    joules: float | None
    method: str
    covers: str
    elapsed_s: float
    note: str = ""

    @property
    def mean_w(self) -> float | None:
        """Return joules per second; None where the joules are unknown or no time passed."""
        return None if self.joules is None or self.elapsed_s <= 0.0 else self.joules / self.elapsed_s


class EnergyMeter(Protocol):
    """Measures one stretch of time after the other."""

    @property
    def method(self) -> str:
        """Return how its joules are come by, when all goes well."""

    @property
    def covers(self) -> str:
        """Return what it sees."""

    @property
    def note(self) -> str:
        """Return what to know about its readings."""

    def start(self) -> None:
        """Begin; does not raise: a sensor's fault makes the reading unknown."""

    def stop(self, busy_s: float | None = None) -> MeterReading:
        """End, and return what was used since `start`.

        Args:
            busy_s: for how much of it the device worked; only models ask for it.
        """


class UnknownMeter:
    """Knows nothing but why, and how long it took."""

    method = "unknown"

    def __init__(self, covers: str, why: str, clock: Clock = time.monotonic) -> None:
        self.covers, self.note, self._clock = covers, why, clock
        self._began_s = clock()

    def start(self) -> None:
        """Begin."""
        self._began_s = self._clock()

    def stop(self, busy_s: float | None = None) -> MeterReading:  # noqa: ARG002 - the protocol's
        """Return that it is unknown."""
        return MeterReading(None, self.method, self.covers, self._clock() - self._began_s, self.note)


class ModelledMeter:
    """Idle watts all the time, and busy watts in their place while the device works.

    Args:
        idle_w: at rest.
        busy_w: at work; at least `idle_w`.
        source: whose watts these are: the profile.
        covers: what they are of.
        clock: seconds.
    """

    def __init__(self, idle_w: float, busy_w: float, source: str, covers: str, clock: Clock = time.monotonic) -> None:
        if not 0.0 <= idle_w <= busy_w:
            raise MeterError(f"idle_w = {idle_w:g} and busy_w = {busy_w:g} of {source} must be 0 <= idle <= busy")
        self.method = f"modelled: {idle_w:g} W idle, {busy_w:g} W busy ({source})"
        self.covers, self.note = covers, "a model of the profile's watts, not a measurement"
        self._idle_w, self._busy_w, self._clock = idle_w, busy_w, clock
        self._began_s = clock()

    def start(self) -> None:
        """Begin."""
        self._began_s = self._clock()

    def stop(self, busy_s: float | None = None) -> MeterReading:
        """Return idle x (elapsed - busy) + busy watts x busy; unknown unless the busy seconds are told."""
        elapsed_s = self._clock() - self._began_s
        if busy_s is None:
            return MeterReading(
                None, "unknown", self.covers, elapsed_s, "a model needs the seconds that the device worked"
            )
        busy_s = min(busy_s, elapsed_s)
        joules = self._idle_w * (elapsed_s - busy_s) + self._busy_w * busy_s
        return MeterReading(joules, self.method, self.covers, elapsed_s, self.note)

"""Meters that add up what a sensor says: counts and polled power, sample by sample."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from afterwatt.engine.runtime.energy.reading import Clock, MeterError, MeterReading

COUNTER_INTERVAL_S: Final = 30.0
"""How often counters are looked at: a package's wraps after 262 kJ, which takes it minutes at least."""
POLL_INTERVAL_S: Final = 0.1
_MOST_W: Final = 5000.0
"""No package draws as much: a counter that says so was set back."""


class Poller:
    """Calls something every so often in a thread of its own, until it is stopped or the call raises."""

    def __init__(self, call: Callable[[], None], interval_s: float) -> None:
        self._call, self._interval_s = call, interval_s
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self.fault: str = ""

    def start(self) -> None:
        """Call once, now, and go on in the background."""
        self._done.clear()
        self.fault = ""
        if self.once():
            self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread and call a last time, if no call has failed."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if not self.fault:
            self.once()

    def once(self) -> bool:
        """Call; keep what it raises as `fault`, and say whether it went well."""
        try:
            self._call()
        except MeterError as fault:
            self.fault = str(fault)
        return not self.fault

    def _run(self) -> None:
        while not self._done.wait(self._interval_s):
            if not self.once():
                return


class Tally(Protocol):
    """Joules that add up sample by sample."""

    @property
    def joules(self) -> float:
        """Return the sum so far."""

    def reset(self) -> None:
        """Begin anew."""

    def sample(self) -> None:
        """Look at the sensor, and add what has passed; raises `MeterError`."""


class SampledMeter:
    """A tally that is fed at the start, every so often, and at the end; unknown as soon as one sample fails.

    Args:
        tally: what is fed.
        method, covers, note: as in `Meter`.
        interval_s: between samples.
        clock: seconds.
    """

    def __init__(
        self, tally: Tally, method: str, covers: str, interval_s: float, note: str = "", clock: Clock = time.monotonic
    ) -> None:
        self.method, self.covers, self.note = method, covers, note
        self._tally, self._clock = tally, clock
        self._poller = Poller(tally.sample, interval_s)
        self._began_s = clock()

    def start(self) -> None:
        """Begin, with a first sample."""
        self._tally.reset()
        self._began_s = self._clock()
        self._poller.start()

    def stop(self, busy_s: float | None = None) -> MeterReading:  # noqa: ARG002 - the protocol's
        """End with a last sample; unknown, with the reason, if any failed."""
        self._poller.stop()
        elapsed_s = self._clock() - self._began_s
        if self._poller.fault:
            why = f"{self.method} failed on the way: {self._poller.fault}"
            return MeterReading(None, "unknown", self.covers, elapsed_s, why)
        return MeterReading(self._tally.joules, self.method, self.covers, elapsed_s, self.note)


class Trapezoid:
    """The integral of watts over seconds by the trapezoidal rule."""

    def __init__(self) -> None:
        self.joules = 0.0
        self._last: tuple[float, float] | None = None

    def add(self, at_s: float, watts: float) -> None:
        """Take in a sample.

        Raises:
            MeterError: time ran back, or the watts are no power.
        """
        if not 0.0 <= watts < float("inf"):
            raise MeterError(f"a power of {watts} W")
        if self._last is not None:
            before_s, before_w = self._last
            if at_s < before_s:
                raise MeterError(f"a sample at {at_s:g} s came after one at {before_s:g} s")
            self.joules += (at_s - before_s) * (before_w + watts) / 2.0
        self._last = (at_s, watts)


class Power:
    """Power as a tally: read, and integrated.

    Args:
        read_w: returns watts now; raises `MeterError`.
        clock: seconds.
    """

    def __init__(self, read_w: Callable[[], float], clock: Clock = time.monotonic) -> None:
        self._read_w, self._clock = read_w, clock
        self._integral = Trapezoid()

    @property
    def joules(self) -> float:
        """Return the integral so far."""
        return self._integral.joules

    def reset(self) -> None:
        """Begin anew."""
        self._integral = Trapezoid()

    def sample(self) -> None:
        """Take in the power now; raises `MeterError`."""
        watts = self._read_w()
        self._integral.add(self._clock(), watts)


def polled_power(
    read_w: Callable[[], float],
    name: str,
    covers: str,
    interval_s: float = POLL_INTERVAL_S,
    note: str = "",
    clock: Clock = time.monotonic,
) -> SampledMeter:
    """Return a meter that reads power every so often and integrates it by the trapezoidal rule.

    Args:
        read_w: returns watts now; raises `MeterError`.
        name: of the sensor, for the method.
        covers: what it measures.
        interval_s: between samples.
        note: what to know about the sensor.
        clock: seconds.
    """
    method = f"{name}-polled-{1e3 * interval_s:g}ms"
    return SampledMeter(Power(read_w, clock), method, covers, interval_s, note, clock)


class Counter:
    """A counter of energy that begins again at 0 when it is full.

    Args:
        read_j: returns its count; raises `MeterError`.
        range_j: at what count it begins again; None for one that is never full.
        name: for messages.
        clock: seconds.
    """

    def __init__(
        self, read_j: Callable[[], float], range_j: float | None, name: str, clock: Clock = time.monotonic
    ) -> None:
        self._read_j, self._range_j, self._name, self._clock = read_j, range_j, name, clock
        self._last: tuple[float, float] | None = None
        self.joules = 0.0

    def reset(self) -> None:
        """Forget what was counted."""
        self._last, self.joules = None, 0.0

    def sample(self) -> None:
        """Take in the count since the sample before.

        Raises:
            MeterError: it cannot be read, or was set back: it fell without being full.
        """
        at_s, count_j = self._clock(), self._read_j()
        if self._last is not None:
            before_s, before_j = self._last
            self.joules += self._passed(count_j - before_j, at_s - before_s)
        self._last = (at_s, count_j)

    def _passed(self, risen_j: float, elapsed_s: float) -> float:
        if risen_j >= 0.0:
            return risen_j
        if self._range_j is not None:
            wrapped_j = risen_j + self._range_j
            if 0.0 <= wrapped_j <= _MOST_W * max(elapsed_s, 1e-3):
                return wrapped_j
        raise MeterError(f"{self._name} fell by {-risen_j:g} J: it was set back")


class Counters:
    """Several counters as one tally."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters

    @property
    def joules(self) -> float:
        """Return what all of them have risen by."""
        return sum(counter.joules for counter in self._counters)

    def reset(self) -> None:
        """Begin anew."""
        for counter in self._counters:
            counter.reset()

    def sample(self) -> None:
        """Look at all of them; raises `MeterError`."""
        for counter in self._counters:
            counter.sample()

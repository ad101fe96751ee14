"""Joules of a device over a stretch of time, from the best meter that there is, and how they were come by.

In this order: NVML's energy counter (Volta and newer), NVML's power polled and integrated, RAPL's counters, a model of
idle and busy watts, nothing. A figure says which (`Reading.method`); one that is not known is None with the reason, and
so is one whose meter failed half way: what was counted until then is no energy of the whole stretch.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

POWERCAP: Final = Path("/sys/class/powercap")
POLL_INTERVAL_S: Final = 0.1
_COUNTER_INTERVAL_S: Final = 30.0
"""How often counters are looked at: a package's wraps after 262 kJ, which takes it minutes at least."""
_MOST_W: Final = 5000.0
"""No package draws as much: a counter that says so was set back."""
_AVERAGES: Final = "NVML gives averages over about a second on most cards: runs should take several seconds"

Clock = Callable[[], float]


class MeterError(RuntimeError):
    """A sensor does not answer, or answers nonsense; the text says which and what."""


@dataclass(frozen=True, slots=True)
class Reading:
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


class Meter(Protocol):
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

    def stop(self, busy_s: float | None = None) -> Reading:
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

    def stop(self, busy_s: float | None = None) -> Reading:  # noqa: ARG002 - the protocol's
        """Return that it is unknown."""
        return Reading(None, self.method, self.covers, self._clock() - self._began_s, self.note)


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

    def stop(self, busy_s: float | None = None) -> Reading:
        """Return idle x (elapsed - busy) + busy watts x busy; unknown unless the busy seconds are told."""
        elapsed_s = self._clock() - self._began_s
        if busy_s is None:
            return Reading(None, "unknown", self.covers, elapsed_s, "a model needs the seconds that the device worked")
        busy_s = min(busy_s, elapsed_s)
        joules = self._idle_w * (elapsed_s - busy_s) + self._busy_w * busy_s
        return Reading(joules, self.method, self.covers, elapsed_s, self.note)


# -- what counts and what is polled ------------------------------------------------------------------------------------


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

    def stop(self, busy_s: float | None = None) -> Reading:  # noqa: ARG002 - the protocol's
        """End with a last sample; unknown, with the reason, if any failed."""
        self._poller.stop()
        elapsed_s = self._clock() - self._began_s
        if self._poller.fault:
            why = f"{self.method} failed on the way: {self._poller.fault}"
            return Reading(None, "unknown", self.covers, elapsed_s, why)
        return Reading(self._tally.joules, self.method, self.covers, elapsed_s, self.note)


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
    clock: Clock = time.monotonic,
) -> SampledMeter:
    """Return a meter that reads power every so often and integrates it by the trapezoidal rule.

    Args:
        read_w: returns watts now; raises `MeterError`.
        name: of the sensor, for the method.
        covers: what it measures.
        interval_s: between samples.
        clock: seconds.
    """
    method = f"{name}-polled-{1e3 * interval_s:g}ms"
    return SampledMeter(Power(read_w, clock), method, covers, interval_s, _AVERAGES, clock)


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


# -- RAPL --------------------------------------------------------------------------------------------------------------

_PACKAGE: Final = re.compile(r"intel-rapl:\d+\Z")
_WITHIN: Final = re.compile(r"intel-rapl:\d+:\d+\Z")


def rapl_zones(root: Path = POWERCAP) -> list[Path]:
    """Return the zones to add up: packages, and the memory of each, which a package's count leaves out.

    Cores and uncore are parts of their package, `psys` holds the packages, and `intel-rapl-mmio` shows them a second
    time (Linux, Documentation/power/powercap).

    Raises:
        MeterError: there are none, or they cannot be read; the text says which.
    """
    found = sorted(root.glob("intel-rapl:*")) if root.is_dir() else []
    zones = [zone for zone in found if _PACKAGE.match(zone.name) and _zone_text(zone, "name").startswith("package")]
    if not zones:
        raise MeterError(f"no RAPL package under {root} (a virtual machine, another processor, or no driver)")
    zones += [zone for zone in found if _WITHIN.match(zone.name) and _zone_text(zone, "name") == "dram"]
    for zone in zones:
        _zone_j(zone, "energy_uj")
    return zones


def rapl_meter(root: Path = POWERCAP, clock: Clock = time.monotonic) -> SampledMeter:
    """Return the meter of the processors' packages and memory; errors as `rapl_zones`."""
    zones = rapl_zones(root)
    counters = [
        Counter(lambda zone=zone: _zone_j(zone, "energy_uj"), _zone_j(zone, "max_energy_range_uj"), zone.name, clock)  # type: ignore[misc]
        for zone in zones
    ]
    names = sorted({_zone_text(zone, "name").partition("-")[0] for zone in zones}, reverse=True)
    covers = f"processors ({' and '.join(names)}), all that runs on them"
    return SampledMeter(Counters(counters), "rapl", covers, _COUNTER_INTERVAL_S, clock=clock)


def _zone_text(zone: Path, name: str) -> str:
    try:
        return (zone / name).read_text(encoding="ascii").strip()
    except PermissionError:
        raise MeterError(f"{zone / name} is readable by root only; chmod o+r it, or run as root") from None
    except (OSError, ValueError) as fault:
        raise MeterError(f"{zone / name} cannot be read ({fault})") from None


def _zone_j(zone: Path, name: str) -> float:
    text = _zone_text(zone, name)
    if not text.isdecimal():
        raise MeterError(f"{zone / name} holds {text!r}, no count of microjoules")
    return int(text) / 1e6


# -- NVML --------------------------------------------------------------------------------------------------------------


class Nvml:
    """One GPU through NVIDIA's management library.

    Args:
        index: CUDA's or NVML's number of it; the two differ under CUDA_VISIBLE_DEVICES, so give the UUID where known.
        uuid: as CUDA knows it, with or without `GPU-`.
        library: the module `pynvml`, or something that answers as it does.

    Raises:
        MeterError: no library, no driver, or no such GPU.
    """

    def __init__(self, index: int = 0, uuid: str | None = None, library: Any = None) -> None:  # noqa: ANN401 - a module
        self._library = _pynvml() if library is None else library
        try:
            self._library.nvmlInit()
            if uuid is None:
                self._handle = self._library.nvmlDeviceGetHandleByIndex(index)
            else:
                name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
                self._handle = self._library.nvmlDeviceGetHandleByUUID(name)
        except self._library.NVMLError as fault:
            raise MeterError(f"NVML does not answer ({fault})") from None

    def counter_j(self) -> float:
        """Return joules since the driver was loaded (Volta and newer); raises `MeterError`."""
        return float(self._ask("nvmlDeviceGetTotalEnergyConsumption")) / 1e3

    def power_w(self) -> float:
        """Return watts of the board, on most cards a mean over the last second; raises `MeterError`."""
        return float(self._ask("nvmlDeviceGetPowerUsage")) / 1e3

    def limit_w(self) -> float:
        """Return the enforced power limit in watts; raises `MeterError`."""
        return float(self._ask("nvmlDeviceGetEnforcedPowerLimit")) / 1e3

    def name(self) -> str:
        """Return what the card is called; raises `MeterError`."""
        said = self._ask("nvmlDeviceGetName")
        return said.decode() if isinstance(said, bytes) else str(said)  # bytes from older libraries

    def capability(self) -> tuple[int, int]:
        """Return its compute capability; raises `MeterError`."""
        major, minor = self._ask("nvmlDeviceGetCudaComputeCapability")
        return int(major), int(minor)

    def count(self) -> int:
        """Return how many GPUs the library sees, this one included; raises `MeterError`."""
        return int(self._ask("nvmlDeviceGetCount", of_device=False))

    def _ask(self, name: str, of_device: bool = True) -> Any:  # noqa: ANN401 - whatever the library returns
        try:
            return getattr(self._library, name)(*([self._handle] if of_device else []))
        except self._library.NVMLError as fault:
            raise MeterError(f"{name} says {fault}") from None


def _pynvml() -> Any:  # noqa: ANN401 - a module
    try:
        import pynvml
    except ImportError:
        raise MeterError("NVML's module is not installed; pip install 'afterwatt[engine]'") from None
    return pynvml


# -- the best there is -------------------------------------------------------------------------------------------------


class Watts(Protocol):
    """What a model needs of a hardware profile; `hwprofiles.devices.Device` has it."""

    @property
    def key(self) -> str:
        """Return the device's name."""

    @property
    def idle_w(self) -> float:
        """Return watts at rest."""

    @property
    def tdp_w(self) -> float:
        """Return the limit."""

    @property
    def streaming_w(self) -> float | None:
        """Return measured watts while memory streams; None where nobody measured."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A meter, and why none of the better ones."""

    meter: Meter
    refused: tuple[str, ...]


def choose_meter(
    device: str,
    profile: Watts | None = None,
    *,
    uuid: str | None = None,
    library: Any = None,  # noqa: ANN401 - the module pynvml
    powercap: Path = POWERCAP,
    interval_s: float = POLL_INTERVAL_S,
) -> Choice:
    """Return the best meter of a device.

    Args:
        device: `cpu`, `cuda` or `cuda:1`.
        profile: whose watts a model may take.
        uuid: of the GPU; `Nvml` says why.
        library: stands in for `pynvml`.
        powercap: where RAPL's zones are.
        interval_s: between samples of polled power.
    """
    refused: list[str] = []
    kind, _, number = device.partition(":")
    if kind == "cuda":
        try:
            gpu = Nvml(int(number or 0), uuid, library)
        except MeterError as fault:
            refused.append(f"nvml: {fault}")
        else:
            if found := _nvml_meter(gpu, interval_s, refused):
                return Choice(found, tuple(refused))
    else:
        try:
            return Choice(rapl_meter(powercap), ())
        except MeterError as fault:
            refused.append(f"rapl: {fault}")
    covers = "the board" if kind == "cuda" else "the processor and its memory"
    if profile is not None:
        busy_w = profile.tdp_w if profile.streaming_w is None else profile.streaming_w
        model = ModelledMeter(float(profile.idle_w), float(busy_w), f"profile {profile.key}", covers)
        return Choice(model, tuple(refused))
    refused.append("model: no profile to take watts from")
    return Choice(UnknownMeter(covers, "; ".join(refused)), tuple(refused))


def _nvml_meter(gpu: Nvml, interval_s: float, refused: list[str]) -> Meter | None:
    try:
        gpu.counter_j()
        counter = Counter(gpu.counter_j, None, "NVML's energy counter")
        return SampledMeter(counter, "nvml-counter", "the board", _COUNTER_INTERVAL_S)
    except MeterError as fault:
        refused.append(f"nvml-counter: {fault}; Volta and newer have it")
    try:
        gpu.power_w()
        return polled_power(gpu.power_w, "nvml-power", "the board", interval_s)
    except MeterError as fault:
        refused.append(f"nvml-power: {fault}")
    return None

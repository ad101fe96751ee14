"""A minute on the attached device: every probe in turn, several rounds, with the machine's own drift beside it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from afterwatt.engine.runtime.disk import DiskError, open_disk
from afterwatt.engine.runtime.energy.choose import MeterChoice, choose_meter
from afterwatt.engine.runtime.energy.nvml import Answer, Nvml
from afterwatt.engine.runtime.energy.reading import MeterError, MeterReading
from afterwatt.engine.runtime.probes import Effort, Probe, Stat, interleaved, stat_of

if TYPE_CHECKING:
    from afterwatt.engine.model.bench import TorchBench
    from afterwatt.engine.model.machine import Machine

DRIFT_FRAC: Final = 0.1
"""A machine whose bandwidth moves by more than this between start and end was not left alone."""
_DRIFT_TIMES: Final = 5
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """One probe's outcome.

    Attributes:
        seconds: per call.
        rate: work per second.
        unit: of the work.
        row: its columns of the kernel table; empty for none.
    """

    seconds: Stat
    rate: Stat
    unit: str
    row: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceWatts:
    """Power at rest and under two loads; None where the meter does not know.

    Attributes:
        method: how it was come by.
        idle_w, streaming_w, computing_w: means over a stretch of seconds.
        refused: why no better meter was taken; or why none of them says anything.
    """

    method: str
    idle_w: float | None
    streaming_w: float | None
    computing_w: float | None
    refused: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Everything that was measured.

    Attributes:
        machine: what was measured; state: driver, clocks, limits, ECC and MIG of a GPU; empty where nobody says.
        effort: how.
        array_bytes: of the array that bandwidth was measured over.
        clock: what times are of: `processor` (of a single thread, without what others take away) or `wall`.
        processor_share: of the time, in which the processor was ours; None where the clock is the wall's.
        found: probe -> outcome.
        drift: read bandwidth at the start, in the middle, at the end, bytes per second.
        watts: power.
        disk: about the disk: place, share of bytes that came from the device; empty if it was not measured.
        skipped: what was left out, and why.
        warnings: what to know before believing it.
        began_unix_s, took_s: when, and for how long.
    """

    machine: "Machine"
    state: Mapping[str, Answer] = field(default_factory=dict)
    effort: Effort
    array_bytes: int
    clock: str
    processor_share: float | None
    found: Mapping[str, Measured]
    drift: tuple[float, float, float]
    watts: DeviceWatts
    disk: Mapping[str, Any]
    skipped: Mapping[str, str]
    warnings: tuple[str, ...]
    began_unix_s: float
    took_s: float

    @property
    def drift_frac(self) -> float:
        """Return how far the read bandwidth moved between start, middle and end, over its smallest value."""
        return max(self.drift) / min(self.drift) - 1.0

    @property
    def bandwidth(self) -> tuple[str, Stat]:
        """Return which way of reading was fastest, and its bytes per second: the reference."""
        ways = {name: one.rate for name, one in self.found.items() if name.startswith("bandwidth/")}
        best = max(ways, key=lambda name: ways[name].median)
        return best.removeprefix("bandwidth/"), ways[best]

    def peaks(self) -> dict[str, tuple[str, Stat]]:
        """Return precision -> (shape, FLOP/s) of its fastest product."""
        best: dict[str, tuple[str, Stat]] = {}
        for name, one in self.found.items():
            if name.startswith("gemm/"):
                _, precision, shape = name.split("/")
                if precision not in best or one.rate.median > best[precision][1].median:
                    best[precision] = (shape, one.rate)
        return best


def calibrate(device: str, threads: int, effort: Effort, disk_folder: Path, say: Say = lambda _: None) -> Calibration:
    """Measure a device.

    Args:
        device: auto, cpu, cuda or cuda:N.
        threads: torch's, for work on the processor.
        effort: how much.
        disk_folder: whose disk is read; an existing folder.
        say: told what is going on.

    Raises:
        EngineError: no such device, or one that does not compute.
    """
    from afterwatt.engine.model.bench import TorchBench
    from afterwatt.engine.model.devices import find_device

    began, start = time.time(), time.perf_counter()
    bench = TorchBench(str(find_device(device)), threads, effort)
    try:
        skipped: dict[str, str] = {}
        state = _state(bench)
        bench.load("computing", effort.warm_s)
        reference, *others = bench.bandwidth_probes()
        drift = [_read_rate(reference)]
        say("bandwidth, matrix products, attention, overheads")
        found = _in_turn(_device_probes(bench), effort, (reference, *others))
        drift.append(_read_rate(reference))
        say("power")
        watts = _watts(bench, effort)
        say("disk")
        disk = _disk(disk_folder, effort, found, skipped)
        drift.append(_read_rate(reference))
        skipped = {**bench.skipped, **skipped}
        array_bytes, share = bench.array_bytes, bench.processor_share
    finally:
        bench.close()
    three = (drift[0], drift[1], drift[2])
    return Calibration(
        machine=bench.machine,
        state=state,
        effort=effort,
        array_bytes=array_bytes,
        clock=bench.clock,
        processor_share=share,
        found=found,
        drift=three,
        watts=watts,
        disk=disk,
        skipped=skipped,
        warnings=tuple(_warnings(bench.machine, array_bytes, share, three, disk)),
        began_unix_s=began,
        took_s=time.perf_counter() - start,
    )


def _device_probes(bench: "TorchBench") -> list[Probe]:
    probes = [*bench.square_probes(), *bench.product_probes()]
    probes += [*bench.attention_probes(), *bench.overhead_probes(), *bench.link_probes()]
    return list({probe.name: probe for probe in probes}.values())


def _in_turn(probes: list[Probe], effort: Effort, between: Sequence[Probe] = ()) -> dict[str, Measured]:
    samples = interleaved(probes, effort.rounds, effort.least_s, between)
    outcomes = {}
    for probe in (*between, *probes):
        seconds = stat_of(samples[probe.name])
        outcomes[probe.name] = Measured(seconds, seconds.per(probe.work), probe.unit, probe.row)
    return outcomes


def _read_rate(reference: Probe) -> float:
    """Return the median read bandwidth of a few readings right now."""
    return reference.work / stat_of([reference.run(1) for _ in range(_DRIFT_TIMES)]).median


def _state(bench: "TorchBench") -> dict[str, Answer]:
    """Return what a GPU's library says of it; nothing of a processor, or where there is no library."""
    if bench.machine.device == "cpu":
        return {}
    try:
        return Nvml(bench.device.index or 0, bench.machine.uuid).state()
    except MeterError:
        return {}


def _watts(bench: "TorchBench", effort: Effort) -> DeviceWatts:
    choice = choose_meter(bench.machine.device, uuid=bench.machine.uuid)
    return watts_of(choice, effort.power_s, bench.load, effort.rest_s)


def watts_of(
    choice: MeterChoice, seconds: float, load: Callable[[str, float], object], rest_s: float = 0.0
) -> DeviceWatts:
    """Return power at rest and under load, as a meter sees it.

    Args:
        choice: the meter.
        seconds: of each stretch; 0 for none.
        load: keeps the device busy: (`streaming` or `computing`, seconds).
        rest_s: for how long it has to rest before it idles.
    """
    if choice.meter.method == "unknown" or seconds <= 0.0:
        return DeviceWatts("unknown", None, None, None, choice.refused or ("not asked for",))
    readings: list[MeterReading] = []
    for kind in ("idle", "streaming", "computing"):
        if kind == "idle":
            time.sleep(rest_s)
        choice.meter.start()
        if kind == "idle":
            time.sleep(seconds)
        else:
            load(kind, seconds)
        readings.append(choice.meter.stop())
    refused = (*choice.refused, *(one.note for one in readings if one.joules is None))
    known = [one.method for one in readings if one.joules is not None]
    idle_w, streaming_w, computing_w = (one.mean_w for one in readings)
    return DeviceWatts(known[0] if known else "unknown", idle_w, streaming_w, computing_w, refused)


def _disk(folder: Path, effort: Effort, found: dict[str, Measured], skipped: dict[str, str]) -> dict[str, Any]:
    if not effort.disk_bytes:
        skipped["disk"] = "not asked for"
        return {}
    try:
        with open_disk(folder, effort.disk_bytes) as disk:
            found |= _in_turn(list(disk.probes), effort)
            return {
                "folder": str(folder),
                "filesystem": disk.place.filesystem,
                "device": disk.place.device,
                "read_ahead_bytes": disk.place.read_ahead_bytes,
                "file_bytes": effort.disk_bytes,
                "bytes_read": disk.file.read_bytes,
                "from_device_frac": disk.device_frac(),
            }
    except DiskError as fault:
        skipped["disk"] = str(fault)
        return {}


def _warnings(
    machine: "Machine",
    array_bytes: int,
    share: float | None,
    drift: tuple[float, float, float],
    disk: Mapping[str, Any],
) -> list[str]:
    said = []
    if share is not None and share < 1.0 - DRIFT_FRAC:
        said.append(
            f"the processor was ours for {share:.0%} of the time: its own time was taken, so kernels stand, "
            "but whatever runs beside the engine will slow it down by as much"
        )
    moved = max(drift) / min(drift) - 1.0
    if moved > DRIFT_FRAC:
        said.append(
            f"read bandwidth moved by {moved:.0%} between start, middle and end ({_gb(drift)} GB/s): "
            "something else was running, and figures are no better than that"
        )
    if machine.cache_bytes and array_bytes < 2 * machine.cache_bytes:
        said.append(
            f"the array of {array_bytes / 1e6:.0f} MB is less than twice the last-level cache "
            f"({machine.cache_bytes / 1e6:.0f} MB): bandwidth holds some of the cache's; free memory and repeat"
        )
    share = disk.get("from_device_frac")
    if share is not None and share < 1.0 - DRIFT_FRAC:
        said.append(f"only {share:.0%} of what was read came from the device: the disk's figures are partly memory's")
    return said


def _gb(rates: tuple[float, ...]) -> str:
    return ", ".join(f"{rate / 1e9:.3g}" for rate in rates)

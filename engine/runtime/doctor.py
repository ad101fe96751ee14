"""What this machine can do for the engine, and what stands in its way: findings with a way out each. Torch-free.

What torch says of itself comes in as plain facts (`TorchFacts`, made by `engine.model.about`), so that every rule here
can be tried without a GPU.
"""

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from afterwatt.compiled import IN_USE
from afterwatt.engine.runtime.disk import device_read_bytes, place_of
from afterwatt.engine.runtime.energy.nvml import Nvml
from afterwatt.engine.runtime.energy.rapl import POWERCAP, rapl_zones
from afterwatt.engine.runtime.energy.reading import MeterError
from afterwatt.engine.runtime.probes import MIB

Status = Literal["ok", "note", "problem"]
Capability = tuple[int, int]

INSTALL: Final = "pip install 'afterwatt[engine]'"
TORCH_RANGE: Final = ((2, 10), (2, 15))
"""torch from the first version on, below the second."""
LAST_OF_OLD: Final = "torch>=2.10,<2.15"
OLD_WHEEL: Final = f"pip install '{LAST_OF_OLD}' --index-url https://download.pytorch.org/whl/cu126"
"""2.14 is the last release with wheels for CUDA 12.6, and those are the only ones with sm_50 to sm_70."""
_OLDEST_OF_WHEELS: Final = (5, 0)
_OLDEST_OF_CUDA_13: Final = (7, 5)
_LARGE_READ_AHEAD: Final = MIB
_FEW_FREE: Final = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what.
        status: ok; note: works, but know this; problem: does not work.
        said: what was found.
        way_out: what to do; empty where nothing is to be done.
    """

    topic: str
    status: Status
    said: str
    way_out: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as CUDA or NVML sees it."""

    name: str
    capability: Capability
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class TorchFacts:
    """What torch says of itself.

    Attributes:
        version: "2.13.0+cpu".
        cuda: version of CUDA that it was built for; None for a build without.
        arch_list: what its binaries are for: "sm_75", "compute_120", ...
        gpus: that it sees.
        threads: that it would use.
    """

    version: str
    cuda: str | None
    arch_list: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    threads: int


def runs_on(capability: Capability, arch_list: Sequence[str]) -> bool:
    """Say whether binaries for some architectures run on a GPU.

    Machine code of sm_XY runs on the same major version from minor Y on (but for sm_90a and its like, which are for one
    alone); compute_XY is compiled anew for anything from X.Y on (CUDA programming guide, application compatibility).
    """
    for arch in arch_list:
        kind, _, number = arch.partition("_")
        digits = number.rstrip("af")
        if not digits.isdecimal() or len(digits) < 2:
            continue
        found = (int(digits[:-1]), int(digits[-1]))
        if number != digits:
            runs = found == capability
        elif kind == "sm":
            runs = found[0] == capability[0] and found[1] <= capability[1]
        else:
            runs = kind == "compute" and found <= capability
        if runs:
            return True
    return False


_FAST_FP16: Final = ((5, 3), (6, 0), (6, 2))
_FAST_FP16_FROM: Final = (7, 0)
_BF16_FROM: Final = (8, 0)


def native_formats(capability: Capability | None) -> set[str]:
    """Return the formats that a device computes in at full rate; None: a processor.

    CUDA C++ Programming Guide, "Arithmetic Instructions": fp16 runs at full rate on 5.3, 6.0, 6.2 and from 7.0 on;
    elsewhere (Maxwell, the P40's 6.1) at 1/64 or not at all. bf16 is native from 8.0 on. A processor's fp16 products
    take more than ten times as long as fp32's.
    """
    if capability is None:
        return {"fp32", "bf16"}
    fast_fp16 = capability >= _FAST_FP16_FROM or capability in _FAST_FP16
    return {"fp32"} | ({"fp16"} if fast_fp16 else set()) | ({"bf16"} if capability >= _BF16_FROM else set())


def formats_said(capability: Capability) -> str:
    """Say what the engine stores and computes in on a GPU, and how it multiplies where the two differ."""
    native = native_formats(capability)
    if "bf16" in native:
        return "the engine stores and computes bf16"
    if "fp16" in native:
        return "the engine stores and computes fp16"
    return (
        "its fp16 units are slow or missing, so that the engine stores fp16 and computes fp32; it times at load "
        "whether to cast matrices or to ask cuBLAS for fp16 in, fp32 out"
    )


def wheel_for(capability: Capability) -> str:
    """Return how to install a torch that runs on a GPU, or say that there is none."""
    if capability < _OLDEST_OF_WHEELS:
        return "no torch from 2.10 on has binaries for it; build one from source, or use --device cpu"
    if capability < _OLDEST_OF_CUDA_13:
        return OLD_WHEEL
    return f"pip install '{LAST_OF_OLD}'"


def examine(
    folder: Path,
    torch: TorchFacts | None,
    *,
    library: Any = None,  # noqa: ANN401 - the module pynvml, or what stands in for it
    powercap: Path = POWERCAP,
) -> list[Finding]:
    """Look at everything; raises nothing.

    Args:
        folder: whose disk is looked at.
        torch: what torch says of itself; None where it is not installed.
        library: stands in for `pynvml`.
        powercap: where RAPL's zones are.
    """
    seen, nvml = nvml_findings(library)
    return [
        _python(),
        *torch_findings(torch, seen),
        *nvml,
        rapl_finding(powercap),
        _processor(torch),
        _memory(),
        *disk_findings(folder),
        _simulator(),
    ]


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def torch_findings(torch: TorchFacts | None, seen: Sequence[Gpu] = ()) -> Iterator[Finding]:
    """Yield what torch is, and which GPUs it can use.

    Args:
        torch: what it says; None where it is not installed.
        seen: GPUs that NVML sees, for a torch that sees none.
    """
    if torch is None:
        way_out = wheel_for(seen[0].capability) if seen and seen[0].capability < _OLDEST_OF_CUDA_13 else INSTALL
        yield Finding("torch", "problem", "not installed: simulate works, calibrate and the engine do not", way_out)
        return
    build = f"built for CUDA {torch.cuda}: {' '.join(torch.arch_list)}" if torch.cuda else "a build for processors"
    version = _version(torch.version)
    if not TORCH_RANGE[0] <= version < TORCH_RANGE[1]:
        yield Finding("torch", "problem", f"{torch.version}, outside of {LAST_OF_OLD}", f"pip install '{LAST_OF_OLD}'")
    else:
        yield Finding("torch", "ok", f"{torch.version}, {build}")
    for number, gpu in enumerate(torch.gpus):
        major, minor = gpu.capability
        said = f"{gpu.name}, compute capability {major}.{minor}"
        if runs_on(gpu.capability, torch.arch_list):
            yield Finding(f"cuda:{number}", "ok", f"{said}: this torch has code for it; {formats_said(gpu.capability)}")
        else:
            yield Finding(f"cuda:{number}", "problem", f"{said}: this torch has none for it", wheel_for(gpu.capability))
    if not torch.gpus and seen:
        way_out = wheel_for(seen[0].capability) if torch.cuda is None else "check CUDA_VISIBLE_DEVICES and the driver"
        yield Finding("cuda", "problem", f"NVML sees {seen[0].name}, torch no GPU", way_out)
    elif not torch.gpus:
        yield Finding("cuda", "note", "no GPU: the engine computes on the processor, in fp32")


def _version(text: str) -> tuple[int, int]:
    parts = text.partition("+")[0].split(".")
    digits = ["".join(mark for mark in part if mark.isdecimal()) or "0" for part in (*parts, "0", "0")]
    return int(digits[0]), int(digits[1])


def nvml_findings(library: Any = None) -> tuple[list[Gpu], list[Finding]]:  # noqa: ANN401 - the module pynvml
    """Return the GPUs that NVML sees, and what it can say of their energy."""
    try:
        count = Nvml(0, None, library).count()
    except MeterError as fault:
        return [], [Finding("nvml", "note", f"{fault}: no GPU's energy can be measured")]
    gpus, findings = [], []
    for number in range(count):
        try:
            gpu = Nvml(number, None, library)
            gpus.append(Gpu(gpu.name(), gpu.capability()))
        except MeterError as fault:
            findings.append(Finding(f"nvml {number}", "problem", str(fault)))
            continue
        findings.append(_energy_of(number, gpu, gpus[-1].name))
    return gpus, findings


def _energy_of(number: int, gpu: Nvml, name: str) -> Finding:
    topic = f"nvml {number}"
    try:
        gpu.counter_j()
        return Finding(topic, "ok", f"{name} has an energy counter")
    except MeterError as fault:
        lacking = str(fault)
    try:
        gpu.power_w()
    except MeterError as fault:
        return Finding(topic, "note", f"{name} tells neither energy ({lacking}) nor power ({fault}): both are modelled")
    return Finding(topic, "note", f"{name} has no energy counter ({lacking}): its power is polled and integrated")


def rapl_finding(powercap: Path = POWERCAP) -> Finding:
    """Return whether the processor's energy can be read."""
    try:
        zones = rapl_zones(powercap)
    except MeterError as fault:
        return Finding("rapl", "note", f"{fault}: the processor's energy is modelled or unknown")
    return Finding("rapl", "ok", f"reads {', '.join(zone.name for zone in zones)}")


def _processor(torch: TorchFacts | None) -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = f"{os.cpu_count()} processors, {usable} of them for this process"
    if torch is not None:
        said += f"; torch would take {torch.threads} threads"
        if torch.threads > usable:
            return Finding("threads", "problem", said, f"set OMP_NUM_THREADS to {usable} or less")
    if usable > 1:
        way_out = "on shared cores more threads can be slower: compare `afterwatt calibrate --threads 1` with more"
        return Finding("threads", "note", said, way_out)
    return Finding("threads", "ok", said)


def _memory() -> Finding:
    try:
        import psutil
    except ImportError:
        return Finding("memory", "note", "unknown: psutil is not installed", INSTALL)
    found = psutil.virtual_memory()
    said = f"{found.available / 2**30:.1f} of {found.total / 2**30:.1f} GiB free"
    if found.available < _FEW_FREE:
        return Finding("memory", "note", said, "calibrate and the engine need about 2 GiB beside a model")
    return Finding("memory", "ok", said)


def _simulator() -> Finding:
    if IN_USE.places:
        return Finding("simulator", "ok", IN_USE.why)
    return Finding("simulator", "note", IN_USE.why, "python -m afterwatt.compile: the same results, sooner")


def disk_findings(folder: Path) -> Iterator[Finding]:
    """Yield what a folder's disk is, whether it can be read past the page cache, and what the cache does."""
    place = place_of(folder)
    where = f"{place.folder.resolve()} is {place.filesystem} on {place.device}"
    if place.direct is None:
        yield Finding("disk", "problem", f"{where}: {place.why_not}", "run it in a folder that you may write to")
        return
    if place.direct:
        yield Finding("disk", "ok", f"{where}; O_DIRECT works")
    else:
        way_out = "give --disk-dir a folder on a local disk (ext4, xfs), or the figures will be memory's"
        yield Finding("disk", "note", f"{where}; {place.why_not}", way_out)
    if place.read_ahead_bytes is not None and place.read_ahead_bytes > _LARGE_READ_AHEAD:
        said = f"the kernel reads {place.read_ahead_bytes // 1024} KiB ahead: small mapped reads fetch many times that"
        yield Finding("read-ahead", "note", said, "read with O_DIRECT, or MADV_RANDOM")
    elif place.read_ahead_bytes is not None:
        yield Finding("read-ahead", "ok", f"{place.read_ahead_bytes // 1024} KiB")
    cached = lands_in_page_cache(folder)
    if cached:
        yield Finding(
            "page cache",
            "note",
            "a file that was read once is read from memory the second time",
            "measure disks with O_DIRECT; a warm checkpoint loads faster than the disk can",
        )
    elif cached is not None:
        yield Finding("page cache", "ok", "a second read of a file goes to the device again")


def lands_in_page_cache(folder: Path) -> bool | None:
    """Say whether a plain read leaves a file in memory: its second read fetches nothing; None if it cannot be told."""
    if device_read_bytes() is None:
        return None
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".afterwatt-cache-") as file:
            file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.pread(file.fileno(), MIB, 0)
            before = device_read_bytes() or 0
            os.pread(file.fileno(), MIB, 0)
            return (device_read_bytes() or 0) == before
    except OSError:
        return None

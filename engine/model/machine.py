"""The machine that torch computes on: what it is called, what memory and caches it has."""

import os
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Final

import psutil
import torch

from afterwatt.engine.model.devices import NAMES, capability_of, dtype_policy
from afterwatt.engine.runtime.probes import MIB

_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True, slots=True)
class Machine:
    """What is being measured.

    Attributes:
        device: as torch names it: `cpu`, `cuda:0`.
        name: of the processor or card.
        vendor: its maker.
        memory_bytes: that it addresses; of a processor, the host's (or the container's limit).
        cache_bytes: last level of cache; None where unknown.
        capability: compute capability of a GPU ("7.0"); instruction set of a processor ("AVX512").
        uuid: of a GPU; else None.
        threads: torch's, for work on the processor.
        dtype: what the engine computes in here; stored: what it keeps weights and cache in.
        versions: of what computed.
    """

    device: str
    name: str
    vendor: str
    memory_bytes: int
    cache_bytes: int | None
    capability: str
    uuid: str | None
    threads: int
    _: KW_ONLY
    dtype: str
    stored: str
    versions: dict[str, str]


def gpu_uuid(device: torch.device) -> str | None:
    """Return what tells a GPU from the others, whatever number CUDA gives it; None of a processor or an old torch."""
    if device.type != "cuda":
        return None
    about = torch.cuda.get_device_properties(device)
    return str(about.uuid) if hasattr(about, "uuid") else None


def describe(device: torch.device, threads: int) -> Machine:
    """Return what a device says of itself, with so many threads of torch for work on the processor."""
    versions = {"torch": str(torch.__version__)}
    policy = dtype_policy(capability_of(device))
    dtype, stored = NAMES[policy.compute], NAMES[policy.weights]
    if device.type == "cpu":
        name, vendor = _processor()
        capability = torch.backends.cpu.get_cpu_capability()
        sizes = (_memory_bytes(), _cache_bytes())
        return Machine(
            "cpu", name, vendor, *sizes, capability, None, threads, dtype=dtype, stored=stored, versions=versions
        )
    about = torch.cuda.get_device_properties(device)
    versions |= {"cuda": str(torch.version.cuda)}
    capability = f"{about.major}.{about.minor}"
    sizes = (about.total_memory, getattr(about, "L2_cache_size", None))
    uuid = gpu_uuid(device)
    named = (str(device), about.name, "NVIDIA", *sizes, capability, uuid, threads)
    return Machine(*named, dtype=dtype, stored=stored, versions=versions)


def _processor() -> tuple[str, str]:
    """Return the processor's name and maker, as the kernel says."""
    said: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            said.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    makers = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
    maker = said.get("vendor_id", said.get("CPU implementer", "unknown"))
    return said.get("model name") or "unknown processor", makers.get(maker, maker)


def _memory_bytes() -> int:
    """Return installed memory, or the container's limit where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        limit = "max"
    return min(total, int(limit)) if limit.isdecimal() else total


def free_host_bytes() -> int:
    """Return the memory that is free, within what a container may have."""
    return min(int(psutil.virtual_memory().available), _memory_bytes())


def _cache_bytes() -> int | None:
    """Return the size of the largest cache of the first processor; None where the kernel does not say."""
    sizes = []
    for file in _CACHES.glob("index*/size"):
        text = file.read_text(encoding="ascii").strip()
        unit = {"K": 2**10, "M": MIB}.get(text[-1:], 1)
        if (digits := text.rstrip("KM")).isdecimal():
            sizes.append(int(digits) * unit)
    return max(sizes, default=None)

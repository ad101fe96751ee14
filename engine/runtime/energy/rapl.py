"""A processor's own counters of energy, as Linux shows them."""

import re
import time
from pathlib import Path
from typing import Final

from afterwatt.engine.runtime.energy.reading import Clock, MeterError
from afterwatt.engine.runtime.energy.tally import COUNTER_INTERVAL_S, Counter, Counters, SampledMeter

POWERCAP: Final = Path("/sys/class/powercap")
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
    return SampledMeter(Counters(counters), "rapl", covers, COUNTER_INTERVAL_S, clock=clock)


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

"""The folder that a calibration leaves: `device.toml`, `kernels.csv`, `stack.toml`, `calibration.json`."""

import dataclasses
import datetime as dt
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from afterwatt.fidelity.calibrate.measure import Calibration, Measured
from afterwatt.fidelity.calibrate.profile import (
    KEY,
    check_profile,
    datasheet,
    device_profile,
    device_text,
    skipped_precisions,
)
from afterwatt.fidelity.calibrate.stack import engine_stack, kernel_table, stack_text
from afterwatt.fidelity.kernels.fit import KernelFit
from afterwatt.fidelity.kernels.table import write_kernels
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.stacks import Stack, load_stack
from afterwatt.modelspecs.files import read_json

DEVICE: Final = f"{KEY}.toml"
KERNELS: Final = "kernels.csv"
STACK: Final = "stack.toml"
RAW: Final = "calibration.json"
FILES: Final = (DEVICE, KERNELS, STACK, RAW)
SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, read back.

    Attributes:
        folder: where.
        device: the profile.
        stack: the engine's stack on it.
        fit: how the stack's kernels were fitted.
        datasheet: `bandwidth` and precisions as the catalogue has them; empty for a device that it does not hold.
        skipped: what was left out, and why; of the profile too.
    """

    folder: Path
    device: Device
    stack: Stack
    fit: KernelFit
    datasheet: Mapping[str, float]
    skipped: Mapping[str, str]


def in_the_way(folder: Path) -> Path | None:
    """Return what a calibration would replace in a folder and must not: all but the files of an earlier one.

    The record says whether a folder is a calibration's: this reads it. A file by another's hand, a link, a pipe and a
    folder stay.
    """
    there = [folder / name for name in FILES if os.path.lexists(folder / name)]
    special = next((place for place in there if place.is_symlink() or not place.is_file()), None)
    if special is not None or not there:
        return special
    try:
        said = read_json(folder / RAW)
    except (OSError, ValueError):
        return there[0]
    ours = isinstance(said, dict) and {"schema_version", "began", "machine", "kernel_fit"} <= said.keys()
    return None if ours else there[0]


def write_calibration(calibration: Calibration, folder: Path, command: str) -> Written:
    """Write a calibration's files, each whole or not at all, and read them back.

    Args:
        calibration: what was measured.
        folder: made if it is not there; files of an earlier calibration are replaced.
        command: how it was called.

    Raises:
        HardwareError: what was measured is no possible device.
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = device_profile(calibration, command)
    date = f"{dt.datetime.fromtimestamp(calibration.began_unix_s, dt.UTC):%Y-%m-%d}"
    source = f"`afterwatt calibrate` on {calibration.machine.name}, {date}"
    skipped = {**calibration.skipped}
    skipped |= {f"flops_per_s.{name}": why for name, why in skipped_precisions(calibration).items()}
    partial = Path(tempfile.mkdtemp(dir=folder, prefix=".calibrate-"))
    try:
        (partial / DEVICE).write_text(device_text(device, f"{device.name}: {source}."), encoding="utf-8")
        device = load_device(str(partial / DEVICE))
        check_profile(device)
        table = kernel_table(calibration, device, DEVICE, source)
        write_kernels(table, partial / KERNELS)
        stack, fit = engine_stack(calibration, device, table.assign(device=str(partial / DEVICE)), source)
        (partial / STACK).write_text(stack_text(stack), encoding="utf-8")
        load_stack(device, str(partial / STACK))
        said = datasheet(calibration)
        raw = as_json(calibration, command, fit, said, skipped)
        (partial / RAW).write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        for name in FILES:
            os.replace(partial / name, folder / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    device = load_device(str(folder / DEVICE))
    return Written(folder, device, load_stack(device, str(folder / STACK)), fit, said, skipped)


def as_json(
    calibration: Calibration, command: str, fit: KernelFit, said: Mapping[str, float], skipped: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything that was measured; SI units, null where unknown."""
    way, rate = calibration.bandwidth
    watts = calibration.watts
    return {
        "schema_version": SCHEMA,
        "command": command,
        "began": dt.datetime.fromtimestamp(calibration.began_unix_s, dt.UTC).isoformat(timespec="seconds"),
        "took_s": calibration.took_s,
        "machine": dataclasses.asdict(calibration.machine),
        "state": dict(calibration.state) or None,
        "effort": dataclasses.asdict(calibration.effort),
        "array_bytes": calibration.array_bytes,
        "clock": calibration.clock,
        "processor_share": calibration.processor_share,
        "reference_bandwidth": {"way": way, **_stat(rate)},
        "drift": {"read_bytes_per_s": list(calibration.drift), "moved_frac": calibration.drift_frac},
        "probes": {name: _measured(one) for name, one in calibration.found.items()},
        "links_bytes_per_s": {
            f"{kind}_{way}": _rate_of(calibration, f"link/{kind}/{way}")
            for kind in ("pinned", "pageable")
            for way in ("to_device", "to_host")
        },
        "power": {
            "energy_method": watts.method,
            "idle_w": watts.idle_w,
            "streaming_w": watts.streaming_w,
            "computing_w": watts.computing_w,
            "better_meters_refused": list(watts.refused),
        },
        "disk": dict(calibration.disk) or None,
        "kernel_fit": {
            "rows": fit.rows,
            "values": dict(fit.values),
            "errors_on_held_out_shapes": [{**dataclasses.asdict(one), "device": DEVICE} for one in fit.errors],
        },
        "datasheet": dict(said) or None,
        "skipped": dict(skipped),
        "warnings": list(calibration.warnings),
    }


def _measured(one: Measured) -> dict[str, Any]:
    return {
        "seconds": _stat(one.seconds),
        f"{one.unit}_per_s": _stat(one.rate),
        **({"shape": dict(one.row)} if one.row else {}),
    }


def _stat(stat: Any) -> dict[str, float | int]:  # noqa: ANN401 - a Stat
    return {"median": stat.median, "p10": stat.low, "p90": stat.high, "samples": stat.samples}


def _rate_of(calibration: Calibration, name: str) -> float | None:
    found = calibration.found.get(name)
    return None if found is None else found.rate.median

"""`afterwatt calibrate`: the attached device measured, as a profile, a kernel table and a stack to simulate with."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from afterwatt.cli import flags
from afterwatt.cli.extra import needs_engine
from afterwatt.studies.errors import OptionError

if TYPE_CHECKING:
    from afterwatt.engine.runtime.probes import Stat
    from afterwatt.fidelity.calibrate.files import Written
    from afterwatt.fidelity.calibrate.measure import Calibration

_MOST_THREADS: Final = 1024


def calibrate(
    device: Annotated[str, flags.opt("NAME", "auto, cpu, cuda or cuda:1; auto takes a GPU if there is one.")] = "auto",
    out: Annotated[
        str, flags.opt("DIR", "Where the files go; those of an earlier calibration are replaced.")
    ] = "local",
    threads: flags.Threads = 1,
    disk_dir: Annotated[str | None, flags.opt("DIR", "Whose disk is read. [the folder of --out]")] = None,
    no_disk: Annotated[bool, typer.Option("--no-disk", help="Leave the disk out.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A quarter of the time, to try it out.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Measure the attached device in about a minute: bandwidth, products, attention, copies, disk, power.

    Writes device.toml (a hardware profile), stack.toml (the engine's software on it), kernels.csv and calibration.json.
    Use them with `simulate --hw DIR/device.toml --stack DIR/stack.toml --precision fp32`.
    """
    needs_engine("calibrate")
    if not 1 <= threads <= _MOST_THREADS:
        raise OptionError(f"--threads {threads} must lie in 1..{_MOST_THREADS}")
    import dataclasses

    from afterwatt.engine.model.devices import find_device
    from afterwatt.engine.runtime.probes import effort_for
    from afterwatt.fidelity.calibrate.files import RAW, in_the_way, write_calibration
    from afterwatt.fidelity.calibrate.measure import calibrate as measure

    found = str(find_device(device))
    folder = _made(out, "--out")
    if place := in_the_way(folder):
        raise OptionError(
            f"--out {out!r} holds {place.name}, which no earlier calibration wrote; choose another folder"
        )
    effort = effort_for(found, quick)
    if no_disk:
        effort = dataclasses.replace(effort, disk_bytes=0)
    disk_folder = folder if disk_dir is None else Path(disk_dir)
    if not disk_folder.is_dir():
        raise OptionError(f"--disk-dir {disk_dir!r} is no folder; give one on the disk to be measured")
    told = measure(found, threads, effort, disk_folder, say=_nothing if quiet or json else _say)
    try:
        written = write_calibration(told, folder, shlex.join(["afterwatt", *sys.argv[1:]]))
    except OSError as fault:
        raise OptionError(f"--out {out!r} cannot be written ({fault.strerror}); choose another place") from None
    if json:
        sys.stdout.write((folder / RAW).read_text(encoding="utf-8"))
    elif not quiet:
        _print(told, written)


def _made(out: str, option: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise OptionError(f"{option} {out!r} cannot be made ({fault.strerror}); choose another place") from None
    return folder


def _say(what: str) -> None:
    sys.stderr.write(f"measuring: {what} ...\n")


def _nothing(_: str) -> None:
    pass


def _print(told: "Calibration", written: "Written") -> None:
    from afterwatt.cli.tables import Column, print_table

    columns = [Column("", folds=False), Column("value", right=True), Column("10 to 90 %", right=True)]
    columns += [Column("of the datasheet", right=True), Column("", spare=True)]
    title = f"{told.machine.name} · {told.machine.device} · {told.took_s:.0f} s, {told.effort.rounds} rounds"
    print_table(columns, [*_rates(told, written), *_others(told)], title=title)
    skipped = [[name, why] for name, why in written.skipped.items()]
    if told.watts.method == "unknown":
        skipped.append(["power", "; ".join(told.watts.refused)])
    if skipped:
        print_table([Column("left out", folds=False), Column("why")], skipped)
    for warning in told.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    folder = shlex.quote(str(written.folder))
    wide = f" --precision {told.machine.stored}"
    sys.stdout.write(f"simulate --hw {folder}/device.toml --stack {folder}/stack.toml{wide}\n")


def _rates(told: "Calibration", written: "Written") -> list[list[str]]:
    best, _ = told.bandwidth
    rows = []
    for way in ("read", "copy", "gemv"):
        rate = told.found[f"bandwidth/{way}"].rate
        share = _share(rate.median, written.datasheet.get("bandwidth"))
        rows.append([f"{way} bandwidth", *_cells(rate, "B/s"), share, "the reference" * (way == best)])
    for name, (shape, rate) in told.peaks().items():
        rows.append(
            [f"{name} products", *_cells(rate, "FLOP/s"), _share(rate.median, written.datasheet.get(name)), shape]
        )
    for error in written.fit.errors:
        if error.dtype == "all":
            note = f"{error.fitted + error.rows} kernels; median error on held-out shapes"
            rows.append([f"fit of {error.op}", f"{error.median:.0%}", f"90 % below {error.p90:.0%}", "", note])
    return rows


def _others(told: "Calibration") -> list[list[str]]:
    rows = []
    for name, one in told.found.items():
        kind, _, rest = name.partition("/")
        label = rest.replace("/", " ").replace("_", " ")
        if kind == "overhead":
            rows.append([f"overhead of a {rest}", *_cells(one.seconds, "s"), "", ""])
        elif kind == "link":
            rows.append([f"copy {label}", *_cells(one.rate, "B/s"), "", ""])
        elif kind == "disk":
            rows.append([f"disk {label}", *_cells(one.rate, "B/s"), "", ""])
    watts = told.watts
    for what, value in (("idle", watts.idle_w), ("streaming", watts.streaming_w), ("computing", watts.computing_w)):
        rows.append([f"power {what}", "unknown" if value is None else f"{value:.1f} W", "", "", watts.method])
    drift = ", ".join(f"{rate / 1e9:.3g}" for rate in told.drift)
    rows.append(["drift of reading", f"{told.drift_frac:.0%}", "", "", f"{drift} GB/s at start, middle, end"])
    share = "" if told.processor_share is None else f"the processor was ours for {told.processor_share:.0%}"
    rows.append(["clock", f"{told.clock} time", "", "", share])
    return rows


def _cells(stat: "Stat", unit: str) -> list[str]:
    """Write a median with its unit, and the ends of its spread in the same."""
    from afterwatt.reports.format import number, prefix_of

    if unit == "s":
        factor, prefixed = 1e-6, "µs"
    else:
        factor, prefixed = prefix_of(stat.median, unit)
    return [
        f"{number(stat.median / factor)} {prefixed}",
        f"{number(stat.low / factor)} to {number(stat.high / factor)}",
    ]


def _share(value: float, said: float | None) -> str:
    return "" if said is None else f"{value / said:.0%}"

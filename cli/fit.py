"""`afterwatt fit`: the parameters of a software stack from measured points, own ones among them."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afterwatt.cli import complete, flags
from afterwatt.cli.output import print_json
from afterwatt.studies.errors import OptionError

if TYPE_CHECKING:
    from afterwatt.fidelity.fit.report import Errors, FitReport

_MOST_ROWS = 400
FOLDS = 12
"""Groups are held out one by one up to so many; of more, several at a time."""
_TESTS = {
    "in_sample": "points fitted to",
    "cross_validated": "points held out with their source, card and model",
    "device_left_out": "points of a card held out",
}


def fit(
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="[TABLE]",
            help="A CSV of measured points; docs/stacks.md has its columns. May be left out with --kernels.",
            show_default=False,
        ),
    ] = None,
    stack: Annotated[
        str | None,
        flags.opt(
            "NAME",
            "Fit only the points of this stack. [every stack that the table speaks of]",
            autocompletion=complete.stack,
        ),
    ] = None,
    prior: Annotated[
        str, flags.opt("PROFILE", "Where to start: shipped, generic, a stack's name or its .toml.")
    ] = "shipped",
    kernels: Annotated[
        str | None,
        flags.opt("FILE", "Kernel times of own cards (.csv, .parquet), told to the prior first; needs --stack."),
    ] = None,
    out: Annotated[
        str | None,
        flags.opt(
            "PATH", "Profile to write: a .toml if one stack is fitted, else a folder that gets one for each. [none]"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace profiles that stand there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Fit a software stack to measured points, and write its profile.

    Points are runs of the simulator; parameters start from the prior's values and leave them as far as the points say.
    Use the profile with `simulate --stack FILE.toml`.
    """
    from afterwatt.fidelity.fit.priors import SHIPPED
    from afterwatt.fidelity.fit.report import fit_table
    from afterwatt.fidelity.points.table import read_points
    from afterwatt.hwprofiles.stacks import load_pools

    if prior != SHIPPED:
        load_pools(prior)  # says what is wrong with it, before anything is computed
    if table is None:
        _write_kernels_alone(kernels, stack, prior, out, overwrite)
        return
    points = read_points(table)
    with TemporaryDirectory(prefix="afterwatt-") as folder:
        start = prior if kernels is None else _with_kernels(kernels, stack, prior, Path(folder))
        report = fit_table(points, start, stack, FOLDS)
        written = [] if out is None else _write(report, Path(out), overwrite)
        if json:
            print_json({"prior": prior, "kernels": kernels, **_as_json(report, written)})
        elif not quiet:
            _print(report, written)


def _write_kernels_alone(kernels: str | None, stack: str | None, prior: str, out: str | None, overwrite: bool) -> None:
    """Write the profile that stands on kernel times, and on no run of the whole engine."""
    if kernels is None:
        raise OptionError("afterwatt fit needs a TABLE of measured points, or --kernels with --stack and --out")
    if out is None or not out.endswith(".toml"):
        raise OptionError(f"--out {out!r} must be a .toml where only --kernels are given: one profile is written")
    from afterwatt.fidelity.fit.profile import write_profile

    path = Path(out)
    if path.exists() and not overwrite:
        raise OptionError(f"--out {out!r} exists; choose another place or add --overwrite")
    with TemporaryDirectory(prefix="afterwatt-") as folder:
        made = Path(_with_kernels(kernels, stack, prior, Path(folder)))
        write_profile(path, made.read_text(encoding="utf-8"))
    sys.stdout.write(f"profile: {path}\n")


def _with_kernels(kernels: str, stack: str | None, prior: str, folder: Path) -> str:
    """Write the prior that kernel times have gone into, and give its path."""
    from afterwatt.fidelity.fit.kernels import write_kernel_prior

    if stack is None:
        raise OptionError(f"--kernels {kernels!r} is told to the prior of one stack; name it with --stack")
    path = folder / f"{stack}.toml"
    write_kernel_prior(kernels, stack, prior, path)
    return str(path)


def _write(report: "FitReport", out: Path, overwrite: bool) -> list[Path]:
    """Write the profiles: whole, or not at all."""
    from afterwatt.fidelity.fit.profile import write_profile

    stacks = report.stacks
    if out.suffix == ".toml":
        if len(stacks) > 1:
            raise OptionError(
                f"--out {str(out)!r} is one profile, the points are of {', '.join(stacks)}; give a folder or --stack"
            )
        places = {stacks[0]: out}
    else:
        places = {name: out / f"{name}.toml" for name in stacks}
    for path in places.values():
        if path.exists() and not overwrite:
            raise OptionError(f"--out {str(path)!r} exists; choose another place or add --overwrite")
    for name, path in places.items():
        write_profile(path, report.text(name))
    return list(places.values())


def _print(report: "FitReport", written: list[Path]) -> None:
    from afterwatt.cli.tables import Column, print_table

    for name in report.stacks:
        _print_moves(report, name)
    right = [Column(head, right=True) for head in ("points", "median error", "nine in ten below")]
    rows = [[_TESTS[test], *_cells(found)] for test, found in report.errors().items() if found[0]]
    print_table([Column("errors", folds=False), *right], rows)
    curve = [[_shown(count), *_cells(found)] for count, found in report.curve_errors().items() if found[0]]
    if curve:
        note = "Cards with the most points; which of them are shown is drawn twice."
        print_table([Column("unseen card", folds=False), *right], curve, note=note)
    _print_left_out(report)
    for path in written:
        sys.stdout.write(f"profile: {path}\n")


def _print_moves(report: "FitReport", stack: str) -> None:
    from afterwatt.cli.tables import Column, print_table
    from afterwatt.reports.format import number

    rows = [
        [move.pool, move.name, number(move.prior), number(move.value), f"{number(move.low)} to {number(move.high)}"]
        for move in report.moves(stack)
    ]
    columns = [
        Column("card", folds=False),
        Column("parameter"),
        Column("before", right=True),
        Column("after", right=True),
    ]
    points = sum(point.place.stack == stack for point in report.points)
    print_table([*columns, Column("90 % interval", right=True)], rows, title=f"{stack}: {points} points")


def _print_left_out(report: "FitReport") -> None:
    from afterwatt.cli.tables import Column, print_table

    if not report.refusals:
        return
    rows = [[str(one.point.row), one.reason.value, one.why] for one in report.refusals[:_MOST_ROWS]]
    columns = [Column("row", right=True, folds=False), Column("left out"), Column("why")]
    print_table(columns, rows)


def _cells(found: "Errors") -> list[str]:
    count, median, worst = found
    return [str(count), f"{100.0 * median:.1f} %", f"{100.0 * worst:.1f} %"]


def _shown(count: int) -> str:
    return f"after {count} of its points" if count != 1 else "after 1 of its points"


def _as_json(report: "FitReport", written: list[Path]) -> dict[str, Any]:
    def errors(found: "Errors") -> dict[str, float | int | None]:
        count, median, worst = found
        return {
            "points": count,
            "median_error_frac": median if count else None,
            "p90_error_frac": worst if count else None,
        }

    return {
        "table": report.table.path,
        "points_sha256": report.table.sha256,
        "stacks": {
            name: {
                "parameters": [move._asdict() for move in report.moves(name)],
                "errors": {test: errors(found) for test, found in report.errors(name).items()},
            }
            for name in report.stacks
        },
        "errors": {test: errors(found) for test, found in report.errors().items()},
        "learning_curve": {str(count): errors(found) for count, found in report.curve_errors().items()},
        "left_out": [{"row": one.point.row, "reason": one.reason.value, "why": one.why} for one in report.refusals],
        "profiles": [str(path) for path in written],
    }

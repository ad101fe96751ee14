"""`afterwatt breakeven`: where the greener of some runs changes as the grid, lives or the duty cycle move."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afterwatt.cli import flags
from afterwatt.cli.output import print_json

if TYPE_CHECKING:
    from afterwatt.reports.questions import Question


def breakeven(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Directories of runs or studies.")],
    json: Annotated[bool, typer.Option("--json", help="Print a list of the break-even points.")] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Tell at which grid intensity, life or duty cycle the greener of some runs changes.

    A first try:

        afterwatt breakeven runs/*
    """
    from afterwatt.reports.entry import entries
    from afterwatt.reports.errors import ReportError
    from afterwatt.reports.questions import questions
    from afterwatt.reports.rundir import vouched_for
    from afterwatt.studies.running import runs_in

    found = runs_in([Path(place) for place in runs])
    with vouched_for(found):
        parts = [part for part in questions(entries(found)) if len(part.entries) > 1]
        if not parts:
            raise ReportError("a break-even is between two runs at least that were asked the same; name more of them")
        if json:
            print_json([point for part in parts for point in _points(part)])
        elif not quiet:
            for part in parts:
                _print(part)


def _points(part: "Question") -> list[dict[str, Any]]:
    from afterwatt.reports.compare import drawn_ways
    from afterwatt.reports.versus import meetings

    return [
        {
            "question": part.said or None,
            "axis": found.axis.key,
            "method": found.way.method,
            "allocation": found.way.allocation,
            "host_share": found.way.host_share,
            "at": meet.x,
            "lower_below": meet.below,
            "lower_above": meet.above,
            "gco2e_per_token": meet.gco2e,
            "best_changes": meet.decides,
        }
        for found in meetings(*drawn_ways(part.entries))
        for meet in found.crossings
    ]


def _print(part: "Question") -> None:
    import sys

    from afterwatt.cli.tables import Column, print_table
    from afterwatt.reports.compare import drawn_ways
    from afterwatt.reports.versus import crossing_table, throughout

    drawn, ways = drawn_ways(part.entries)
    table = crossing_table(drawn, ways)
    title = part.said or table.caption
    if table.rows:
        print_table([Column(head) for head in table.head], table.rows, title=title, note=table.note)
    else:
        sys.stdout.write(f"{title}: none.\n")
    said = throughout(drawn, ways)
    said += [f"{entry.label} meets nobody: {entry.fault}." for entry in part.entries if entry.fault]
    sys.stdout.writelines(f"{line}\n" for line in said)

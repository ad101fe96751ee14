"""`afterwatt report`: write the page of one run or study, or a comparison of several, from their files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afterwatt.cli import flags
from afterwatt.cli.output import print_json

if TYPE_CHECKING:
    from afterwatt.reports.rundir import Run


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Directories of runs or studies.")],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE", help="The page. [report.html in the directory; of several, in the working folder]"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print summary.json, or a list of them.")] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Write report.html for a run or study, or compare several."""
    found, page = write(runs, None if out is None else Path(out))
    if json:
        from afterwatt.reports.schema import read_json

        summaries = [read_json(run.path / "summary.json") for run in found]
        print_json(summaries[0] if len(summaries) == 1 else summaries)
    elif not quiet:
        from afterwatt.reports.rundir import vouched_for
        from afterwatt.reports.terminal import default_console, print_runs

        with vouched_for(found):
            print_runs(found, default_console(), page)


def write(places: Sequence[str | Path], out: Path | None = None) -> tuple[list["Run"], Path]:
    """Write the page of the runs in some directories.

    Args:
        places: directories of runs, of studies, or folders of runs.
        out: the page; None puts it into the only directory given, or into the working folder.

    Returns:
        The runs and the page's path.

    Raises:
        ReportError: a directory is no whole run, or the page cannot be written.
    """
    from afterwatt.reports.html import write_report
    from afterwatt.reports.rundir import vouched_for
    from afterwatt.studies.running import runs_in

    runs = runs_in(places)
    page = out or (Path(places[0]) if len(places) == 1 else Path()) / "report.html"
    with vouched_for(runs):
        return runs, write_report(runs, page)

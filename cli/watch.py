"""Progress: nothing by default and in pipes, a bar on standard error for a person at a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from afterwatt.studies.watch import Advance, Watch

if TYPE_CHECKING:
    from rich.progress import Progress


class Bar(Watch):
    """A bar on standard error."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress

    @contextmanager
    def run(self, label: str, total: int | None) -> Iterator[Advance]:
        """Show a bar while the run goes on, and take it away when it ends."""
        task = self._progress.add_task(label, total=total, clock="")

        def advance(done: int, virtual_s: float) -> None:
            from afterwatt.reports.format import brief

            self._progress.update(task, completed=done, clock=f"{brief(virtual_s)} simulated" if virtual_s else "")

        try:
            yield advance
        finally:
            self._progress.remove_task(task)


@contextmanager
def watching(quiet: bool) -> Iterator[Watch]:
    """Give a bar where somebody looks on, and otherwise a watch that shows nothing."""
    if quiet or not sys.stderr.isatty():
        yield Watch()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[clock]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bar(progress)

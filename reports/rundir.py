"""A run directory: written under a temporary name and renamed when it is whole, read back lazily.

It knows files and columns, nothing of how the run was made. A directory under its final name is complete: whatever
happens on the way there (an exception, a kill, a power cut) leaves at most a hidden ``.NAME.partial-...`` beside it,
which the next run of that name takes away.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from afterwatt.reports.checksums import check_sums, write_sums
from afterwatt.reports.columns import Floats, embodied_columns
from afterwatt.reports.errors import ReportError
from afterwatt.reports.files import PARTIAL, clear_stale, partial_name
from afterwatt.reports.schema import (
    Manifest,
    Summary,
    check_manifest,
    check_summary,
    read_json,
    write_json,
)
from afterwatt.reports.tables import Columns, TableWriter, open_parquet, read_floats, read_table

if TYPE_CHECKING:
    import pandas as pd

ALWAYS = ("requests", "timeline", "itl")
"""Tables that every run directory holds."""
UNCHECKED = "this run carries no checksums, as an older version wrote it: damage to its files may go unseen"


class Run:
    """A run directory to read from; nothing is loaded before it is asked for."""

    def __init__(self, path: Path, name: str = "", checked: bool = True) -> None:
        """Name the directory.

        Args:
            path: where it lies.
            name: what it will be called, while it is being written.
            checked: whether its files are known to be those that were written.
        """
        self.path = path
        self.name = name or path.name
        self.checked = checked

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def manifest(self) -> Manifest:
        """What was run, checked against the contract."""
        where = self.path / "manifest.json"
        found = check_manifest(read_json(where), str(where), older=True)
        return found if self.checked else found.model_copy(update={"warnings": [*found.warnings, UNCHECKED]})

    @cached_property
    def summary(self) -> Summary:
        """What came of it, checked against the contract."""
        where = self.path / "summary.json"
        return check_summary(read_json(where), str(where), older=True)

    def file(self, table: str) -> Path:
        """Give the path of a table's parquet file."""
        return self.path / f"{table}.parquet"

    def has(self, table: str) -> bool:
        """Tell whether the run holds this table."""
        return self.file(table).is_file()

    def column_names(self, table: str) -> list[str]:
        """Give the columns of a table that are in its file."""
        return list(open_parquet(self.file(table)).schema_arrow.names)

    def knows(self, table: str, *names: str) -> bool:
        """Tell whether the run has the table and all of these columns, which an older one may lack."""
        return self.has(table) and set(names) <= set(self.column_names(table))

    def column(self, table: str, name: str) -> Floats:
        """Read one numeric column as float64, null as NaN; so is one that an older run lacks."""
        return self.columns(table, name)[0]

    def columns(self, table: str, *names: str) -> list[Floats]:
        """Read several numeric columns at once, as `column` does: sooner than one by one, for small tables."""
        return read_floats(self.file(table), names)

    def frame(self, table: str, columns: list[str] | None = None) -> "pd.DataFrame":
        """Read a table, or some of its columns, as a DataFrame, empty where an older run lacks them."""
        frame: pd.DataFrame = read_table(self.file(table), columns).to_pandas()
        return frame

    @property
    def requests(self) -> "pd.DataFrame":
        """One row per request."""
        return self.frame("requests")

    @property
    def timeline(self) -> "pd.DataFrame":
        """One row per interval and replica."""
        return self.frame("timeline")

    @property
    def draws(self) -> "pd.DataFrame | None":
        """One row per draw of what is uncertain, or None where nothing was drawn."""
        return self.frame("draws") if self.has("draws") else None

    def embodied_draws(self) -> dict[tuple[str, str, str], str]:
        """Map (method, allocation, host share) to its column of the draws, see `reports.columns.embodied_columns`."""
        return embodied_columns(self.column_names("draws")) if self.has("draws") else {}


class RunWriter:
    """Write a run directory that either comes to stand whole under ``path``, or not at all.

    Example:
        with RunWriter("runs/m40") as writer:
            writer.write_manifest(manifest)
            writer.write("requests", {"request_id": ids, ...})    # as often as there are rows
            writer.write("timeline", {...})
            writer.write("itl", {...})
            writer.write_summary(assemble_summary(summarise(writer.run()), blocks))
            writer.write_page(render([writer.run()]))
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        """Choose the place; nothing is made before the ``with`` block is entered.

        Args:
            path: the directory to come; its parents are made as needed.
            overwrite: replace a run directory that already stands there (and only a run directory).

        Raises:
            ReportError: something that may not be replaced stands there.
        """
        self.target = Path(os.path.abspath(path))
        self.overwrite = overwrite
        self.path = self.target.with_name(partial_name(self.target.name))
        self._tables: dict[str, TableWriter] = {}
        self._open = False
        self._pageless = ""
        self._run = Run(self.path, self.target.name)
        self._check_target()

    def __enter__(self) -> Self:
        clear_stale(self.target.parent, self.target.name)
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise ReportError(
                f"cannot write to {self.target.parent} ({error.strerror}); choose another --out"
            ) from None
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
            elif isinstance(error, OSError):
                raise error
        except OSError as fault:
            reason = fault.strerror or fault
            raise ReportError(
                f"cannot write {self.target} ({reason}); nothing is left of it: make room, or choose another --out"
            ) from fault
        finally:
            if self._open:
                self._abandon()
        if self._pageless:
            raise ReportError(
                f"the run stands in {self.target}, but its page could not be written ({self._pageless}); make room and "
                f"write it with: afterwatt report {self.target}"
            )

    def write(self, table: str, columns: Columns) -> None:
        """Add rows to a table (requests, timeline, itl or draws); see reports.tables.to_table for what they must be."""
        if table not in self._tables:
            self._tables[table] = TableWriter(self.path / f"{table}.parquet", table)
        self._tables[table].write(columns)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write manifest.json, held to the contract."""
        check_manifest(manifest)
        write_json(self.path / "manifest.json", manifest)
        self._run = Run(self.path, self.target.name)  # which reads and checks it once

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, held to the contract."""
        check_summary(summary)
        write_json(self.path / "summary.json", summary)

    def write_page(self, text: str) -> None:
        """Write report.html. Where that fails the run is kept all the same, and the failure raised once it stands."""
        page = self.path / "report.html"
        try:
            page.write_text(text, encoding="utf-8")
        except OSError as fault:
            page.unlink(missing_ok=True)
            self._pageless = str(fault.strerror or fault)

    def file(self, name: str) -> Path:
        """Give the path under which a body may write a further file of its own, such as decisions.parquet."""
        return self.path / name

    def settled(self, table: str) -> Run:
        """Close one table, so that it can be read while others are still to be written."""
        if table not in self._tables:
            self._tables[table] = TableWriter(self.path / f"{table}.parquet", table)
        self._tables[table].close()
        return self._run

    def run(self) -> Run:
        """Close all tables and give what is written so far to read from; no table can be written after this."""
        for table in dict.fromkeys((*ALWAYS, *self._tables)):
            self.settled(table)
        return self._run

    def _check_target(self) -> None:
        if not self.target.exists() or (self.target.is_dir() and not any(self.target.iterdir())):
            return
        if not self.target.is_dir() or not (self.target / "manifest.json").is_file():
            raise ReportError(
                f"{self.target} exists and is not a run directory; choose another --out, it is left alone"
            )
        if not self.overwrite:
            raise ReportError(f"{self.target} already holds a run; choose another --out, or ask to overwrite it")

    def _finish(self) -> None:
        self.run()
        for name in ("manifest.json", "summary.json"):
            if not (self.path / name).is_file():
                raise ReportError(
                    f"the run in {self.path} has no {name}; a run directory is only kept when it is whole"
                )
        write_sums(self.path)
        with ThreadPoolExecutor() as pool:  # a disk commits many files at once in the time of one
            list(pool.map(_fsync, [*self.path.rglob("*"), self.path]))
        self._check_target()
        old = self.target.with_name(f".{self.target.name}.replaced-{os.getpid()}")
        replacing = self.target.is_dir() and any(self.target.iterdir())
        if replacing:
            os.replace(self.target, old)
        os.replace(self.path, self.target)
        _fsync(self.target.parent)
        self._open = False
        if replacing:
            shutil.rmtree(old, ignore_errors=True)

    def _abandon(self) -> None:
        for writer in self._tables.values():
            writer.abandon()
        shutil.rmtree(self.path, ignore_errors=True)
        self._open = False


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_run(path: str | Path) -> Run:
    """Open a run directory, and see that its files are those that were written.

    Raises:
        ReportError: there is none, it is a partial one, or a file of it is missing or not as the contract says.
    """
    path = Path(os.path.abspath(path))
    if not path.exists():
        near = (
            [p.name for p in path.parent.iterdir() if (p / "manifest.json").is_file()] if path.parent.is_dir() else []
        )
        known = f"; runs beside it: {', '.join(sorted(near)[:5])}" if near else ""
        raise ReportError(f"there is no run directory {path}{known}; give the --out of a finished run")
    if PARTIAL in path.name:
        raise ReportError(f"{path} is what an interrupted run left behind, not a result; delete it and run again")
    if not path.is_dir() or not (path / "manifest.json").is_file():
        raise ReportError(f"{path} is not a run directory (it has no manifest.json); give the --out of a finished run")
    run = Run(path, checked=check_sums(path))
    _ = run.manifest, run.summary
    for table in ALWAYS:
        open_parquet(run.file(table)).close()
    return run


def without_study_files(paths: Iterable[str | Path]) -> list[Path]:
    """Pass over a study's own files, which `study/*` of a shell names as well, where directories are named beside."""
    named = [Path(given) for given in paths]
    if not any(path.is_dir() for path in named):
        return named
    return [path for path in named if path.suffix not in (".json", ".html") or not path.is_file()]


def find_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Open each run directory, or all those directly inside a directory that is none itself, in order of name.

    Raises:
        ReportError: one of them is no run directory and holds none.
    """
    found = []
    for path in without_study_files(paths):
        inside = []
        if path.is_dir() and not (path / "manifest.json").is_file():
            inside = sorted(
                child for child in path.iterdir() if PARTIAL not in child.name and (child / "manifest.json").is_file()
            )
        found += [load_run(child) for child in inside or [path]]
    return found


@contextmanager
def vouched_for(runs: Sequence[Run]) -> Iterator[None]:
    """Where a run that no checksums vouch for cannot be shown, say that its files are to blame.

    What fails with files that are known to be ours is a fault of the program, and keeps its traceback.

    Raises:
        ReportError: in place of what such files made fail.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, pa.ArrowException) as fault:
        unknown = [str(run.path) for run in runs if not run.checked]
        if isinstance(fault, ReportError) or not unknown:
            raise
        reason = (str(fault).splitlines() or [""])[0][:120]
        raise ReportError(
            f"{', '.join(unknown[:3])} cannot be shown ({type(fault).__name__}: {reason}): its files contradict each "
            "other, and no checksums vouch for them; run it again"
        ) from fault

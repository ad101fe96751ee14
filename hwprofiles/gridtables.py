"""Tables of hourly carbon intensity as columns by name, from CSV or parquet, with errors that name file and row."""

import csv
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from afterwatt.hwprofiles.errors import HardwareError, did_you_mean

LARGEST_BYTES: Final = 1 << 29
"""A year of five-minute values is 5 MB; what exceeds this is no such file, and would fill the memory."""


class GridTable:
    """A table of columns by name, with an error that names file, row, column, value and rule.

    Attributes:
        path: the file.
        columns: cells by column name.
        first_row: the file's number of the first data row.
    """

    def __init__(self, path: Path, columns: dict[str, list[Any]], first_row: int) -> None:
        self.path = path
        self.columns = columns
        self.first_row = first_row

    def error(self, message: str) -> HardwareError:
        """Return an error that begins with the file."""
        return HardwareError(f"{self.path}: {message}")

    def find(self, *names: str) -> str | None:
        """Return the real name of the first column that reads, folded, like one of `names`."""
        folded = {fold(column): column for column in self.columns}
        return next((folded[name] for name in names if name in folded), None)

    def choose(self, wanted: str | None, known: Sequence[str], what: str, codes: Sequence[str] = ()) -> str:
        """Return the zone to read: the one asked for, the only one there is, or the only one that a place is called.

        Args:
            wanted: what was asked for, if anything.
            known: what there is.
            what: the word for it, for errors.
            codes: what a place is called.

        Raises:
            HardwareError: it is not there, or none is asked for and there are several.
        """
        listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        if wanted is None:
            fitting = known if len(known) == 1 else [name for name in known if is_called(name, codes)]
            if len(fitting) != 1:
                raise self.error(f"holds {len(known)} {what}s; say which: zone = one of {listed}")
            return fitting[0]
        folded = {name.casefold(): name for name in known}
        if wanted.casefold() not in folded:
            raise self.error(f"has no {what} {wanted!r}{did_you_mean(wanted, known) or ';'} it holds {listed}")
        return folded[wanted.casefold()]


def fold(column: str) -> str:
    """Return a column's name without what publishers write in several ways."""
    return " ".join(column.replace("₂", "2").strip().lstrip("\ufeff").casefold().split())


def is_called(zone: str, codes: Sequence[str]) -> bool:
    """Return whether a zone is one of those codes; `CAISO*` is every part of CAISO."""
    name = zone.casefold().replace("-", "_")
    return any(fnmatchcase(name, code.casefold().replace("-", "_")) for code in codes)


def open_table(path: Path) -> GridTable:
    """Open a `.csv` or `.parquet` file.

    Raises:
        HardwareError: it is missing, no regular file, too large, or no whole table.
    """
    try:
        if not path.exists():
            raise HardwareError(f"{path}: no such file")
        if not path.is_file():
            raise HardwareError(f"{path}: is no regular file; an hourly series is a .csv or a .parquet file")
        if path.stat().st_size > LARGEST_BYTES:
            raise HardwareError(
                f"{path}: is larger than {LARGEST_BYTES >> 20} MiB; cut it to the years and zones needed"
            )
        if path.suffix.casefold() == ".parquet":
            return _open_parquet(path)
        if path.suffix.casefold() == ".csv":
            return _open_csv(path)
    except (OSError, ValueError) as fault:
        if isinstance(fault, HardwareError):
            raise
        reason = getattr(fault, "strerror", None) or fault
        raise HardwareError(f"{str(path)[:120]!r} cannot be read: {reason}") from None
    raise HardwareError(f"{path}: an hourly series is a .csv or a .parquet file")


def _open_csv(path: Path) -> GridTable:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            if not any(header):
                raise HardwareError(f"{path}: is empty; a header and at least two rows are needed")
            if len(set(header)) != len(header):
                raise HardwareError(f"{path}: two columns have the same name")
            cells: list[list[str]] = [[] for _ in header]
            for number, row in enumerate(reader, start=2):
                if len(row) != len(header):
                    raise HardwareError(f"{path}: row {number} has {len(row)} cells, the header has {len(header)}")
                for column, cell in zip(cells, row, strict=True):
                    column.append(cell)
    except (UnicodeDecodeError, csv.Error) as fault:
        raise HardwareError(f"{path}: is no CSV in UTF-8: {fault}") from None
    return GridTable(path, dict(zip(header, cells, strict=True)), first_row=2)


class _Lazy(dict[str, list[Any]]):
    """Columns of a parquet file, read when asked for: 123 zones cost as much as the one that is used."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        super().__init__((name, []) for name in names)
        self._path = path
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._read:
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                self[name] = pq.read_table(self._path, columns=[name]).column(0).to_pylist()
            except (pa.ArrowException, OSError, ValueError, OverflowError) as fault:
                reason = (str(fault).splitlines() or [type(fault).__name__])[0][:160]
                raise HardwareError(f"{self._path}: column {name} is damaged: {reason}; get the file again") from None
            if len({len(super(_Lazy, self).__getitem__(known)) for known in (name, *self._read)}) > 1:
                raise HardwareError(f"{self._path}: column {name} has other rows than those before; get the file again")
            self._read.add(name)
        return super().__getitem__(name)


def _open_parquet(path: Path) -> GridTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError) as fault:
        raise HardwareError(f"{path}: is no whole parquet file: {fault}") from None
    if not names:
        raise HardwareError(f"{path}: has no columns")
    if len(set(names)) != len(names):
        raise HardwareError(f"{path}: two columns have the same name")
    return GridTable(path, _Lazy(path, names), first_row=1)

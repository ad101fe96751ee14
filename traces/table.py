"""Rows of a file as chunks of columns, in bounded memory, whatever the file is stored as.

CSV comes through Arrow's streaming reader with every cell as text, Parquet row group by row group, JSON Lines line by
line. What the columns mean is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from afterwatt.traces.cells import Cells
from afterwatt.traces.errors import TraceError, shown
from afterwatt.traces.peek import LINE_BYTES, Peek, first_line, parse_object

_CHUNK_ROWS = 65_536
_JSON_CHUNK_ROWS = 4_096
_CSV_BLOCK_BYTES = 1 << 22
_BUFFER_BYTES = 1 << 20
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class RowChunk:
    """Consecutive rows of a file: some of its columns, and where they stood.

    Attributes:
        first_row: 1-based data row of the first one.
        rows: how many.
        columns: cells by column name.
    """

    first_row: int
    rows: int
    columns: dict[str, Cells]


def read_chunks(peek: Peek, columns: Sequence[str]) -> Iterator[RowChunk]:
    """Read some columns of the file, in order.

    Args:
        peek: the first look at the file.
        columns: names of columns that `peek` lists.

    Raises:
        TraceError: where the file is damaged, a row is ragged or a line is not JSON.
    """
    if peek.kind == "csv":
        return _csv_chunks(peek, columns)
    if peek.kind == "parquet":
        return _parquet_chunks(peek.path, columns)
    return _json_chunks(peek.path, columns)


def _parquet_chunks(path: str, columns: Sequence[str]) -> Iterator[RowChunk]:
    row = 1
    try:
        # Read-ahead by column chunk would hold a huge row group whole; a buffered stream holds a page.
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            for batch in file.iter_batches(_CHUNK_ROWS, columns=list(columns)):
                _check_text(batch, path)
                if batch.num_rows:
                    yield _chunk(path, batch, row, text=False)
                row += batch.num_rows
    except TraceError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        raise TraceError(
            f"the Parquet file is damaged after row {row - 1} ({first_line(error)}); get it again",
            path=path,
        ) from error


def _check_text(batch: pa.RecordBatch, path: str) -> None:
    """Text in a Parquet file need not be UTF-8, and a damaged dictionary may point nowhere."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise TraceError(
                f"the column is damaged ({first_line(error)}); get the file again", path=path, column=name
            ) from error


def _chunk(path: str, batch: pa.RecordBatch, row: int, text: bool) -> RowChunk:
    cells = {
        name: Cells(path, name, row, column, text)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    return RowChunk(row, batch.num_rows, cells)


def _csv_chunks(peek: Peek, columns: Sequence[str]) -> Iterator[RowChunk]:
    ragged: list[pa_csv.InvalidRow] = []

    def remember(row: pa_csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    row = 1
    # A stray quote makes the parser swallow line ends. Where there are quotes at all, every cell is looked at.
    quoted = _holds_quotes(peek)
    wanted = list(peek.columns if quoted else columns)
    try:
        reader = pa_csv.open_csv(
            peek.path,
            pa_csv.ReadOptions(
                use_threads=False, block_size=_CSV_BLOCK_BYTES, skip_rows=peek.header_lines, column_names=peek.columns
            ),
            pa_csv.ParseOptions(invalid_row_handler=remember),
            pa_csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()),
                include_columns=wanted,
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )
        with reader:
            for batch in reader:
                chunk = _chunk(peek.path, batch, row, text=True)
                if quoted:
                    _check_lines(chunk)
                if batch.num_rows:
                    yield chunk
                row += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        _blame_csv(peek, ragged, row, error)


def _holds_quotes(peek: Peek) -> bool:
    with Path(peek.path).open("rb") as stream:
        for _ in range(peek.header_lines):
            stream.readline()
        while block := stream.read(_BUFFER_BYTES):
            if b'"' in block:
                return True
    return False


def _check_lines(chunk: RowChunk) -> None:
    for cells in chunk.columns.values():
        broken = np.asarray(pc.match_substring_regex(cells.values, "[\r\n]"))
        cells.fail_where(broken, "spans lines; is a quote left open?")


def _blame_csv(peek: Peek, ragged: list[pa_csv.InvalidRow], row: int, error: Exception) -> NoReturn:
    if "Empty CSV file" in str(error) or "file is too short" in str(error):
        raise TraceError("the file holds no request, only a header; a trace needs one", path=peek.path) from error
    if ragged:
        bad = ragged[0]
        number = None if bad.number is None else bad.number - peek.header_lines
        raise TraceError(
            f"{shown(bad.text)} has {bad.actual_columns} cells, but the header names {bad.expected_columns}; "
            "repair the row",
            path=peek.path,
            row=number,
        ) from error
    raise TraceError(
        f"the text after row {row - 1} cannot be read as CSV in UTF-8 ({first_line(error)}); repair the file",
        path=peek.path,
    ) from error


def _json_chunks(path: str, columns: Sequence[str]) -> Iterator[RowChunk]:
    row = 1
    objects = json_objects(path)
    while rows := list(islice(objects, _JSON_CHUNK_ROWS)):
        cells = {name: Cells(path, name, row, _pluck(rows, name, path, row)) for name in columns}
        yield RowChunk(row, len(rows), cells)
        row += len(rows)


def json_objects(path: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, one by one; blank lines are no rows.

    Raises:
        TraceError: at a line that is no JSON object.
    """
    row = 1
    with Path(path).open("rb") as stream:
        if stream.read(3) != b"\xef\xbb\xbf":
            stream.seek(0)
        while line := stream.readline(LINE_BYTES):
            if line.strip():
                yield parse_object(line, path, row)
                row += 1


def _pluck(rows: list[dict[str, Any]], name: str, path: str, first_row: int) -> list[Any]:
    values = [row.get(name, _ABSENT) for row in rows]
    if "." in name and all(value is _ABSENT for value in values):
        values = [_inside(row, name) for row in rows]
    for index, value in enumerate(values):
        if value is _ABSENT:
            raise TraceError(
                "the key is missing; every line needs the same keys", path=path, row=first_row + index, column=name
            )
    return values


def _inside(row: dict[str, Any], path: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return what lies in a row's objects under names with dots between."""
    value: Any = row
    for name in path.split("."):
        value = value.get(name, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def duplicate_columns(peek: Peek) -> None:
    """Refuse a header that names one column twice: which one counts would be a guess.

    Raises:
        TraceError: naming the column.
    """
    seen: set[str] = set()
    for name in peek.columns:
        if name in seen:
            raise TraceError("the header names this column twice; remove one", path=peek.path, column=name)
        seen.add(name)

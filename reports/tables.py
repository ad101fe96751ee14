"""Parquet files written so that equal rows give equal bytes, and read a column at a time.

Bytes must not depend on how the rows were batched: rows are gathered into row groups of one fixed size, text is
dictionary-encoded afresh within each, compression and format version are pinned, and no date or place is stored.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from afterwatt.reports.columns import TABLES, TIERS, Floats, field_of, schema_of
from afterwatt.reports.errors import ReportError

ROWS_PER_GROUP = 131_072
T = TypeVar("T")
Columns: TypeAlias = Mapping[str, Any] | pa.RecordBatch | pa.Table


def _plain(schema: pa.Schema) -> pa.Schema:
    """Give the schema with dictionary-encoded text as plain text, as rows are held until their row group is whole."""
    return pa.schema([f.with_type(pa.string()) if pa.types.is_dictionary(f.type) else f for f in schema])


def _as_array(values: object, field: pa.Field) -> pa.Array:
    """Turn a column of any usual kind into one of the field's type; NaN becomes null where null is allowed."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, np.ma.MaskedArray):
        array = pa.array(values.data, mask=np.ma.getmaskarray(values))
    elif isinstance(values, pa.Array):
        array = values
    else:
        array = pa.array(values, from_pandas=True)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(field.type)


def to_table(name: str, columns: Columns, nan_is_null: bool = True) -> pa.Table:
    """Hold columns to the schema of the table ``name``, text not yet dictionary-encoded.

    Args:
        name: requests, timeline, itl or draws.
        columns: equally long columns by name: numpy (plain or masked), lists, arrow. Nullable ones may be left out.
        nan_is_null: a NaN in a nullable float column is written as null.

    Raises:
        ReportError: a column is unknown, missing, of another length or type, or is null where it may not be.
    """
    if isinstance(columns, Mapping):
        given = dict(columns)
    else:
        given = dict(zip(columns.schema.names, columns.columns, strict=True))
    schema = _plain(schema_of(name, given))
    lengths = {key: len(values) for key, values in given.items()}
    if len(set(lengths.values())) > 1:
        raise ReportError(f"{name}.parquet: columns of one batch differ in length ({lengths}); give equally many rows")
    rows = next(iter(lengths.values()), 0)
    arrays = []
    for field in schema:
        if field.name not in given:
            if not field.nullable:
                raise ReportError(f"{name}.parquet: column {field.name!r} is missing and may not be unknown; write it")
            arrays.append(pa.nulls(rows, field.type))
            continue
        try:
            array = _as_array(given[field.name], field)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ReportError(
                f"{name}.parquet: column {field.name!r} does not fit {field.type} "
                f"({str(error).strip()[:120]}); convert it first"
            ) from None
        arrays.append(_checked(array, field, name, nan_is_null))
    return pa.Table.from_arrays(arrays, schema=schema)


def _checked(array: pa.Array, field: pa.Field, table: str, nan_is_null: bool) -> pa.Array:
    if pa.types.is_floating(field.type):
        values = array.to_numpy(zero_copy_only=False)
        odd = ~np.isfinite(values)
        if array.null_count or odd.any():
            bad = odd & array.is_valid().to_numpy(zero_copy_only=False)
            if field.nullable and nan_is_null:
                array = pa.array(values, mask=np.isnan(values), type=field.type)
                bad = np.isinf(values)
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                raise ReportError(
                    f"{table}.parquet: row {row} of {field.name!r} is {values[row]}; write a finite number"
                    + (", or null where it is unknown" if field.nullable else "")
                )
    if array.null_count and not field.nullable:
        row = int(np.flatnonzero(~array.is_valid().to_numpy(zero_copy_only=False))[0])
        raise ReportError(
            f"{table}.parquet: row {row} of {field.name!r} is null, and this column may not be; fill it in"
        )
    return array


class TableWriter:
    """One parquet file, written in row groups as rows come in."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.rows = 0
        self.closed = False
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._last_id: int | None = None
        self._file: pq.ParquetWriter | None = None
        self._schema = pa.schema([])

    def write(self, columns: Columns) -> None:
        """Add rows; see :func:`to_table` for what they must be."""
        if self.closed:
            raise ReportError(f"{self.name}.parquet is closed; write all its rows before it is read")
        table = to_table(self.name, columns)
        if self.name == "requests":
            self._check_order(table.column("request_id").to_numpy())
        if self._file is None:
            self._schema = schema_of(self.name, table.schema.names)
            self._file = _parquet_writer(self.path, self._schema)
        elif table.schema.names != self._schema.names:  # a ledger that came or went half-way
            odd = sorted(set(table.schema.names) ^ set(self._schema.names))
            raise ReportError(
                f"{self.name}.parquet: this batch and those before differ in {odd}; write the same columns throughout"
            )
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self.rows += table.num_rows
        while self._pending_rows >= ROWS_PER_GROUP:
            self._flush(ROWS_PER_GROUP)

    def close(self) -> None:
        """Write what is pending and the footer, once; an empty table is written as such."""
        if self.closed:
            return
        self.closed = True
        if self._file is None:
            self._file = _parquet_writer(self.path, schema_of(self.name, []))
        if self._pending_rows:
            self._flush(self._pending_rows)
        self._file.close()

    def abandon(self) -> None:
        """Let go of the file without caring what is in it."""
        if self._file is not None:
            with contextlib.suppress(OSError, pa.ArrowException):  # closing writes a footer
                self._file.close()

    def _flush(self, rows: int) -> None:
        assert self._file is not None
        table = pa.concat_tables(self._pending)
        group = table.slice(0, rows)
        rest = table.slice(rows)
        self._pending = [rest] if rest.num_rows else []
        self._pending_rows = rest.num_rows
        arrays = [
            column.combine_chunks().dictionary_encode().cast(field.type)
            if pa.types.is_dictionary(field.type)
            else column
            for column, field in zip(group.columns, self._schema, strict=True)
        ]
        self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=rows)

    def _check_order(self, ids: npt.NDArray[np.int64]) -> None:
        previous = ids if self._last_id is None else np.concatenate([[self._last_id], ids])
        falls = np.flatnonzero(np.diff(previous) <= 0)
        if len(falls):
            first, second = previous[falls[0]], previous[falls[0] + 1]
            raise ReportError(
                f"requests.parquet: request {second} comes after request {first}; "
                "write each once, in order of request_id"
            )
        if len(ids):
            self._last_id = int(ids[-1])


def _parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        schema,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=[field.name for field in schema if pa.types.is_dictionary(field.type)],
        write_statistics=True,
        store_schema=True,
    )


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file of a run directory.

    Raises:
        ReportError: it is missing or damaged.
    """
    if not path.exists():
        raise ReportError(f"{path} is missing; {path.parent} is not a whole run directory, run it again")
    if not path.is_file():
        raise ReportError(f"{path} is no regular file, so {path.parent} is no run directory")
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ReportError(
            f"{path} is no readable parquet file ({str(error)[:80]}); it is damaged, run it again"
        ) from None
    if len(set(names)) < len(names):
        raise ReportError(f"{path} has two columns of one name; it is damaged, run it again")
    return file


def read_floats(path: Path, columns: Sequence[str]) -> list[Floats]:
    """Read numeric or boolean columns as float64, null as NaN; memory is 8 bytes per row of each plus one batch.

    Errors and missing columns as in :func:`iter_columns`.
    """
    found = [np.empty(open_parquet(path).metadata.num_rows, dtype=np.float64) for _ in columns]
    filled = 0
    for batch in iter_floats(path, columns):
        for values, out in zip(batch, found, strict=True):
            out[filled : filled + len(values)] = values
        filled += len(batch[0]) if batch else 0
    return found


def iter_floats(path: Path, columns: Sequence[str]) -> Iterator[list[Floats]]:
    """Read numeric or boolean columns as float64 batch by batch, null as NaN; otherwise as :func:`iter_columns`."""
    for batch in iter_columns(path, columns):
        found = []
        for name, values in zip(columns, batch.columns, strict=True):
            try:
                found.append(values.cast(pa.float64()).to_numpy(zero_copy_only=False))
            except pa.ArrowException:
                raise ReportError(f"{path}: {name!r} holds {values.type}, not numbers; it is damaged") from None
        yield found


def iter_columns(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read a few columns batch by batch; one that an older run lacks is null throughout.

    Raises:
        ReportError: the file is missing or damaged, or no table of its name has such a column.
    """
    file = open_parquet(path)
    there = set(file.schema_arrow.names)
    lacking = {name: field_of(path.stem, name).type for name in columns if name not in there}
    held = [name for name in columns if name in there]
    # Threads would cost more than they save: there are few columns to decode.
    batches = file.iter_batches(columns=held, batch_size=ROWS_PER_GROUP, use_threads=False)
    while (batch := _sound(path, lambda: next(batches, None))) is not None:
        arrays = [
            pa.nulls(batch.num_rows, lacking[name]) if name in lacking else batch.column(name) for name in columns
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))


def _sound(path: Path, read: Callable[[], T]) -> T:
    """Read from a file that may be damaged within its pages."""
    try:
        return read()
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise ReportError(f"{path} is damaged ({reason}); run it again") from None


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns; what an older run lacks is null. Errors as in :func:`iter_columns`."""
    file = open_parquet(path)
    there = file.schema_arrow.names
    usual = [column.name for column in TABLES[path.stem] if column not in TIERS or column.name in there]
    wanted = [*dict.fromkeys([*usual, *there])] if columns is None else columns
    table = _sound(path, lambda: file.read(columns=[name for name in wanted if name in there]))
    for name in wanted:
        if name not in there:
            table = table.append_column(name, pa.nulls(table.num_rows, field_of(path.stem, name).type))
    return table.select(wanted)

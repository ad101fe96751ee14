"""decisions.parquet: the decision log as a table, an iteration a row, whichever body wrote it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from afterwatt.reports.errors import ReportError

ROWS_PER_GROUP = 65_536
_IDS = pa.list_(pa.int64())
SCHEMA = pa.schema(
    [
        ("worker", pa.int32()),
        ("group", pa.int32()),
        ("time_s", pa.float64()),
        ("decoding", pa.int32()),
        ("context_tokens", pa.int64()),
        ("chunk_ids", _IDS),
        ("chunk_tokens", _IDS),
        ("admitted", _IDS),
        ("preempted", _IDS),
        ("free_blocks", pa.int64()),
        ("view", pa.int64()),
    ]
)
UNEVEN = SCHEMA.append(pa.field("tokens", _IDS))
"""Where tokens are guessed ahead: how many each sequence that decodes has yielded."""
Entry = tuple[Any, ...]
"""What `UNEVEN` says, in its order; None for `tokens` in a log that has none. A named tuple as a rule."""


class DecisionWriter:
    """Collects entries and writes them a row group at a time; the first says whether tokens are guessed ahead."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schema = SCHEMA
        self._writer: Any = None
        self._rows: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Take an entry."""
        self._rows.append(entry)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._writer is None:
            if self._rows and self._rows[0][-1] is not None:
                self._schema = UNEVEN
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        if self._rows:
            columns = list(zip(*self._rows, strict=True))[: len(self._schema)]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
            self._rows = []


def read_decisions(path: Path) -> list[Entry]:
    """Read a decision log back, lists as tuples.

    Raises:
        ReportError: it is missing or not such a table.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as fault:
        raise ReportError(f"{path} cannot be read as a decision log ({fault}); run again with decisions kept") from None
    if table.schema.names == SCHEMA.names:
        table = table.append_column(UNEVEN.field("tokens"), pa.nulls(len(table), _IDS))
    if table.schema.names != UNEVEN.names:
        raise ReportError(f"{path} has the columns {table.schema.names}; a decision log has {SCHEMA.names}")
    columns = [
        [value if value is None else tuple(value) for value in column.to_pylist()]
        if field.type == _IDS
        else column.to_pylist()
        for field, column in zip(UNEVEN, table.columns, strict=True)
    ]
    return list(zip(*columns, strict=True))

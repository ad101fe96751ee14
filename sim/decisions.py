"""decisions.parquet: the decision log as a table, written in batches."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from policies.log import DecisionEntry

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


class DecisionWriter:
    """Collects entries and writes them a row group at a time."""

    def __init__(self, path: Path) -> None:
        self._writer: Any = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[DecisionEntry] = []

    def add(self, entry: DecisionEntry) -> None:
        """Take an entry."""
        self._rows.append(entry)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
            self._rows = []

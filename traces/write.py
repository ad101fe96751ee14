"""Traces written in our own format, streaming, whole or not at all.

Parquet carries a JSON object under the schema metadata key `afterwatt.trace`: format_version, source (file name or
`synth:` address), source_format, source_sha256, start_utc, notes. CSV has the columns only, so start_utc and notes are
lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from afterwatt.traces.errors import TraceError
from afterwatt.traces.formats.own import BLOCK, FORMAT_VERSION, METADATA_KEY
from afterwatt.traces.peek import first_line
from afterwatt.traces.records import ARRIVAL, CLASS, OUTPUT, PREFIXES, PROMPT, SESSION, to_record
from afterwatt.traces.schema import Batch, Trace, TraceInfo

_ROW_GROUP = 65_536
_HASH_BYTES = 1 << 20


def write_trace(trace: Trace, path: str | os.PathLike[str]) -> int:
    """Write a trace as the file's ending says: .parquet or .csv.

    Returns:
        The number of requests written.

    Raises:
        TraceError: on another ending, a place that cannot be written, or a fault of the trace.
    """
    writers: dict[str, Callable[[Trace, str | os.PathLike[str]], int]] = {".parquet": write_parquet, ".csv": write_csv}
    ending = Path(path).suffix.lower()
    if ending not in writers:
        raise TraceError(f"'{ending}' is no ending this program writes; use .parquet or .csv", path=os.fspath(path))
    return writers[ending](trace, path)


def write_parquet(trace: Trace, path: str | os.PathLike[str]) -> int:
    """Write a trace as Parquet; see `write_trace`. The same trace gives the same bytes."""
    batches, columns = _begin(trace)
    schema = _schema(columns, trace.info.has_prefixes).with_metadata({METADATA_KEY: _metadata(trace.info)})
    with _replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        return _pour(batches, lambda batch: writer.write_batch(_record(batch, trace.info).cast(schema), _ROW_GROUP))


def write_csv(trace: Trace, path: str | os.PathLike[str]) -> int:
    """Write a trace as CSV; see `write_trace`. Floats are written so that they read back the same."""
    batches, columns = _begin(trace)
    schema = _text_schema(_schema(columns, trace.info.has_prefixes))
    with _replacing(path) as temporary, pa_csv.CSVWriter(temporary, schema) as writer:
        return _pour(batches, lambda batch: writer.write_batch(_as_text(_record(batch, trace.info), path).cast(schema)))


def _begin(trace: Trace) -> tuple[Iterator[Batch], set[str]]:
    """The trace's batches, and which optional columns they have."""
    first = trace.head(1)
    if not len(first):
        raise TraceError("the trace holds no request, so there is nothing to write", path=trace.info.path)
    have = {CLASS: first.klass, SESSION: first.session, PREFIXES: first.prefixes}
    return trace.batches(_ROW_GROUP), {name for name, column in have.items() if column is not None}


def _schema(columns: set[str], has_prefixes: bool) -> pa.Schema:
    fields = [pa.field(ARRIVAL, pa.float64(), nullable=False)]
    fields += [pa.field(name, pa.int32(), nullable=False) for name in (PROMPT, OUTPUT)]
    if CLASS in columns:
        fields.append(pa.field(CLASS, pa.dictionary(pa.int32(), pa.string())))
    if SESSION in columns:
        fields.append(pa.field(SESSION, pa.string()))
    if has_prefixes and PREFIXES in columns:
        fields.append(pa.field(PREFIXES, pa.list_(pa.uint64())))
        fields.append(pa.field(BLOCK, pa.int32(), nullable=False))
    return pa.schema(fields)


def _text_schema(schema: pa.Schema) -> pa.Schema:
    text = [
        pa.field(field.name, pa.string()) if field.name in (CLASS, SESSION, PREFIXES) else field for field in schema
    ]
    return pa.schema(text)


def _record(batch: Batch, info: TraceInfo) -> pa.RecordBatch:
    record = to_record(batch)
    if batch.prefixes is None:
        return record
    return record.append_column(BLOCK, pa.array([info.prefix_block_tokens] * len(batch), pa.int32()))


def _as_text(record: pa.RecordBatch, path: str | os.PathLike[str]) -> pa.RecordBatch:
    """Lists as numbers with spaces between; labels must fit on a line."""
    columns: dict[str, pa.Array] = dict(zip(record.schema.names, record.columns, strict=True))
    for name in (CLASS, SESSION):
        if name in columns and pc.any(pc.match_substring_regex(columns[name], "[\r\n]")).as_py():
            raise TraceError(
                "a label holds a line break, which CSV cannot carry here; write .parquet",
                path=os.fspath(path),
                column=name,
            )
    if PREFIXES in columns:
        columns[PREFIXES] = pc.binary_join(pc.cast(columns[PREFIXES], pa.list_(pa.string())), " ")
    return pa.RecordBatch.from_pydict(columns)


def _metadata(info: TraceInfo) -> bytes:
    source = Path(info.path)
    is_file = not info.path.startswith("synth:") and source.is_file()
    said: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "source": source.name if is_file else info.path,
        "source_format": info.format,
        "source_sha256": sha256_of(source) if is_file else None,
        "start_utc": info.start_utc,
        "notes": list(info.notes),
    }
    return json.dumps(said, ensure_ascii=False).encode()


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """A temporary name beside the target that takes its place when all went well, and else vanishes."""
    target = Path(path)
    if os.path.lexists(target) and not target.is_file():
        raise TraceError("this is no regular file, and is left alone; try another place", path=str(target))
    temporary = target.with_name(f".{target.name[:99]}.{secrets.token_hex(8)}.part")  # a name that nobody can plant
    try:
        temporary.open("xb").close()
        yield str(temporary)
        temporary.replace(target)
    except OSError as error:
        raise TraceError(f"it cannot be written ({first_line(error)}); try another place", path=str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _pour(batches: Iterator[Batch], write: Callable[[Batch], None]) -> int:
    rows = 0
    for batch in batches:
        write(batch)
        rows += len(batch)
    return rows

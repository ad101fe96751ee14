"""Requests as Arrow record batches: the form in which rows are filtered, sorted, re-cut and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from afterwatt.traces.schema import Batch, Labels, Prefixes

ARRIVAL, PROMPT, OUTPUT = "arrival_s", "prompt_tokens", "output_tokens"
CLASS, SESSION, PREFIXES = "class", "session", "prefix_hashes"


def rechunk(records: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly `size`, but for a shorter last one."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for record in records:
        held.append(record)
        rows += record.num_rows
        if rows < size:
            continue
        joined = _join(held)
        start = 0
        while rows - start >= size:
            yield joined.slice(start, size)
            start += size
        held = [joined.slice(start)] if rows > start else []
        rows -= start
    if rows:
        yield _join(held)


def _join(records: list[pa.RecordBatch]) -> pa.RecordBatch:
    return records[0] if len(records) == 1 else pa.concat_batches(records)


def to_batch(record: pa.RecordBatch) -> Batch:
    """A record batch with the columns named above as the Batch the rest of the world sees."""
    names = record.schema.names
    return Batch(
        np.asarray(record[ARRIVAL]),
        np.asarray(record[PROMPT]).astype(np.int64, copy=False),
        np.asarray(record[OUTPUT]).astype(np.int64, copy=False),
        _label_list(record[CLASS]) if CLASS in names else None,
        _tuples(record[PREFIXES]) if PREFIXES in names else None,
        _label_list(record[SESSION]) if SESSION in names else None,
    )


def to_record(batch: Batch) -> pa.RecordBatch:
    """The inverse of `to_batch`."""
    columns: dict[str, pa.Array] = {
        ARRIVAL: pa.array(batch.arrival_s, pa.float64()),
        PROMPT: pa.array(batch.prompt_tokens, pa.int64()),
        OUTPUT: pa.array(batch.output_tokens, pa.int64()),
    }
    if batch.klass is not None:
        columns[CLASS] = pa.array(batch.klass, pa.string())
    if batch.session is not None:
        columns[SESSION] = pa.array(batch.session, pa.string())
    if batch.prefixes is not None:
        columns[PREFIXES] = pa.array(batch.prefixes, pa.list_(pa.uint64()))
    return pa.RecordBatch.from_pydict(columns)


def _label_list(column: pa.Array) -> Labels:
    # Few distinct labels are the rule: decode each once and share the object.
    coded = pc.dictionary_encode(column, null_encoding="encode")
    words = np.array(coded.dictionary.to_pylist(), object)
    chosen: Labels = words[np.asarray(coded.indices)].tolist()
    return chosen


def _tuples(column: pa.Array) -> Prefixes:
    ids = column.flatten().to_numpy(zero_copy_only=False).tolist()
    ends = (np.asarray(column.offsets) - column.offsets[0].as_py()).tolist()
    return [tuple(ids[start:stop]) for start, stop in pairwise(ends)]

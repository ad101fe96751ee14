"""Our own format, as Parquet or CSV: the columns of the schema under the schema's names.

Required: arrival_s, prompt_tokens, output_tokens. Optional: class, session, prefix_hashes (a list; in CSV numbers with
spaces between) with prefix_block_tokens (one number, the same on every row), and request_id (whole numbers that grow
from row to row; checked, then numbered anew). Parquet files that `traces.write` made carry a JSON object under the
schema metadata key `afterwatt.trace`; a file without it, made by hand, is as good.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow.parquet as pq

from afterwatt.traces.cells import ints
from afterwatt.traces.errors import TraceError, shown
from afterwatt.traces.formats.mooncake import check_block_counts
from afterwatt.traces.peek import Peek
from afterwatt.traces.records import ARRIVAL, CLASS, OUTPUT, PREFIXES, PROMPT, SESSION
from afterwatt.traces.schema import MAX_TOKENS
from afterwatt.traces.table import RowChunk, read_chunks
from afterwatt.traces.tableformat import Fields, Rules, TableFormat

FORMAT_VERSION = 1
METADATA_KEY = b"afterwatt.trace"
BLOCK = "prefix_block_tokens"
_ID = "request_id"


def own_metadata(peek: Peek) -> dict[str, Any]:
    """What the writer left in the Parquet schema; empty for CSV, JSON Lines and hand-made files.

    Raises:
        TraceError: where it is not what this version writes.
    """
    if peek.kind != "parquet":
        return {}
    raw = (pq.read_schema(peek.path).metadata or {}).get(METADATA_KEY)
    if raw is None:
        return {}
    try:
        said = json.loads(raw)
        version = said["format_version"]
        start = said.get("start_utc")
        naive = start is not None and datetime.fromisoformat(start).tzinfo is None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TraceError(
            f"its metadata {METADATA_KEY.decode()} is not what `afterwatt trace convert` writes; convert it anew",
            path=peek.path,
        ) from error
    if version != FORMAT_VERSION:
        raise TraceError(
            f"it is of trace format version {shown(version)}, but this program reads version {FORMAT_VERSION}; "
            "convert it anew",
            path=peek.path,
        )
    if naive:
        raise TraceError(f"its start_utc {shown(start)} has no zone; write one like +00:00", path=peek.path)
    return dict(said)


@dataclass(frozen=True)
class _Own(TableFormat):
    def rules(self, peek: Peek) -> Rules:
        """Growing ids, and one block size that fits the hashes."""
        last_id = -1
        block = self.block_tokens_of(peek)

        def check(chunk: RowChunk, fields: Fields) -> None:
            nonlocal last_id
            if _ID in chunk.columns:
                cells = chunk.columns[_ID]
                ids = ints(cells, 0, 2**62, "request ids")
                repeated = ids == [last_id, *ids[:-1].tolist()]
                cells.fail_where(repeated, "stands on the row above too; request ids are unique")
                falling = ids < [last_id, *ids[:-1].tolist()]
                cells.fail_where(falling, "is not above the one on the row before; number the requests in order")
                last_id = int(ids[-1])
            if block is not None:
                sizes = ints(chunk.columns[BLOCK], 1, MAX_TOKENS, "tokens in a block")
                chunk.columns[BLOCK].fail_where(sizes != block, f"differs from the first row's {block}; use one size")
                check_block_counts(chunk, fields, PREFIXES, block)

        return check

    def block_tokens_of(self, peek: Peek) -> int | None:
        """The first row's block size."""
        if not self.has_prefixes(peek):
            return None
        if BLOCK not in peek.columns:
            raise TraceError(f"needs a column {BLOCK} beside it: tokens per block", path=peek.path, column=PREFIXES)
        for chunk in read_chunks(peek, [BLOCK]):
            return int(ints(chunk.columns[BLOCK], 1, MAX_TOKENS, "tokens in a block")[0])
        return None

    def start_utc(self, peek: Peek, first_tick: float | int) -> str | None:
        """The metadata's wall clock, moved to the first arrival."""
        start = own_metadata(peek).get("start_utc")
        if start is None:
            return None
        try:
            return (datetime.fromisoformat(start) + timedelta(seconds=float(first_tick))).isoformat()
        except OverflowError as error:
            raise TraceError(f"{shown(first_tick)} s after start_utc {start} is no date", path=peek.path) from error

    def remarks(self, peek: Peek) -> tuple[str, ...]:
        """What the writer noted, then what is not carried on."""
        said = own_metadata(peek).get("notes")
        kept = tuple(str(note) for note in said) if isinstance(said, list) else ()
        return (*kept, *super().remarks(peek))


OWN = _Own(
    name="afterwatt",
    about="our own Parquet or CSV: arrival_s, prompt_tokens, output_tokens, class, session, prefix_hashes",
    arrival=ARRIVAL,
    prompt=PROMPT,
    output=OUTPUT,
    klass=CLASS,
    session=SESSION,
    prefixes=PREFIXES,
    optional=(CLASS, SESSION, PREFIXES, BLOCK, _ID),
)

"""What a tabular trace format is: which columns it has, what they mean, and which rules its rows keep.

A format is one `TableFormat` in a module under `traces/formats/` plus one line in its `__init__`. Formats with rules
of their own subclass it and override `rules`, `start_utc` or `remarks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from afterwatt.traces.cells import Cells, floats, id_lists, ints, labels
from afterwatt.traces.errors import TraceError
from afterwatt.traces.options import UNITS, Options
from afterwatt.traces.peek import Kind, Peek
from afterwatt.traces.records import CLASS, OUTPUT, PREFIXES, PROMPT, SESSION
from afterwatt.traces.schema import MAX_TOKENS, Trace
from afterwatt.traces.table import RowChunk, duplicate_columns, read_chunks

Fields: TypeAlias = dict[str, Any]
Rules: TypeAlias = Callable[[RowChunk, Fields], None]

SORT_HINT = "sort it with `afterwatt trace convert IN OUT --sort`"
_LATEST_S = 1e11  # seconds since 1970 stay below 1e10; epochs in ms, us or ns lie beyond
_SECONDS_RULE = "is no arrival time in seconds (0 to 1e11); if it counts ms, us or ns, say unit=ms"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Clock:
    """How an arrival column counts time.

    Attributes:
        ticks_per_s: ticks in a second; 1 means floating-point seconds.
        read: converts the cells to ticks (float64 where ticks_per_s is 1, else int64: differences stay exact).
        wall: whether ticks count from 1970 UTC.
    """

    ticks_per_s: int
    read: Callable[[Cells], NDArray[Any]]
    wall: bool = False


def _read_seconds(cells: Cells) -> NDArray[Any]:
    return floats(cells, 0.0, _LATEST_S, _SECONDS_RULE)


def _read_ticks(cells: Cells) -> NDArray[Any]:
    return ints(cells, 0, 2**62, "ticks")


def _read_fine(cells: Cells) -> NDArray[Any]:
    """Ticks, and fractions of them."""
    values = floats(cells, 0.0, 2.0**63, "is no arrival time from 0 on")
    return _read_ticks(cells) if (values == np.floor(values)).all() else values


SECONDS = Clock(1, _read_seconds)
MILLISECONDS = Clock(UNITS["ms"], _read_fine)
NANOSECONDS = Clock(UNITS["ns"], _read_ticks)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Checked rows: arrival ticks (None where the format has no arrivals), the other columns, and rows left out."""

    ticks: NDArray[Any] | None
    record: pa.RecordBatch
    left_out: int


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """A format whose rows are requests.

    Attributes:
        name: what users call it.
        about: one line for listings.
        prompt: column with prompt tokens.
        output: column with output tokens.
        arrival: column with arrival times, or None (then a rate must be given).
        clock: how that column counts.
        klass: column with a label per request.
        session: column with a conversation id.
        prefixes: column with prefix block hashes.
        block_tokens: tokens per prefix block.
        loose: whether writers of such files differ in the unit of time and in the size of a block.
        marks: further columns that a file of this format must have; they are read, for `rules`.
        lacks: columns that a file of this format must not have.
        optional: columns of the above that a file may lack, or that `rules` reads where present.
        failures: why rows with 0 output tokens are left out and counted, or None where they are refused.
        kinds: how such files are stored.
    """

    name: str
    about: str
    prompt: str
    output: str
    arrival: str | None = None
    clock: Clock = SECONDS
    klass: str | None = None
    session: str | None = None
    prefixes: str | None = None
    block_tokens: int | None = None
    loose: bool = False
    marks: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    failures: str | None = None
    kinds: tuple[Kind, ...] = ("csv", "parquet", "jsonl")

    @property
    def required(self) -> tuple[str, ...]:
        """Columns a file must have to be of this format."""
        named = (self.arrival, self.prompt, self.output, self.klass, self.session, self.prefixes, *self.marks)
        return tuple(dict.fromkeys(name for name in named if name is not None and name not in self.optional))

    def matches(self, peek: Peek) -> bool:
        """Whether the file looks like this format."""
        columns = set(peek.columns)
        return peek.kind in self.kinds and columns.issuperset(self.required) and columns.isdisjoint(self.lacks)

    def columns(self, peek: Peek) -> tuple[str, ...]:
        """The columns to read from this file."""
        return tuple(dict.fromkeys((*self.required, *(name for name in self.optional if name in peek.columns))))

    def clock_for(self, peek: Peek, options: Options) -> Clock:
        """The clock of the arrival column, after the user's word on its unit.

        Raises:
            TraceError: where a unit is given for a format that fixes its own.
        """
        if options.unit is None:
            return self.clock
        if self.arrival is None or not (self.clock is SECONDS or self.loose):
            raise TraceError(f"{self.name} arrivals have a fixed unit; leave unit={options.unit} out", path=peek.path)
        return SECONDS if options.unit == "s" else Clock(UNITS[options.unit], _read_fine)

    def rules(self, peek: Peek) -> Rules:
        """A fresh checker for one pass over the file: it may raise, and may replace fields. The default has no rule."""
        del peek
        return _no_rule

    def start_utc(self, peek: Peek, first_tick: float | int) -> str | None:
        """Wall clock of the first arrival, as ISO 8601, where the format knows it."""
        del peek
        return utc_text(int(first_tick)) if self.clock.wall else None

    def block_tokens_of(self, peek: Peek) -> int | None:
        """Tokens per prefix block in this file."""
        return self.block_tokens if self.has_prefixes(peek) else None

    def has_prefixes(self, peek: Peek) -> bool:
        """Whether this file carries prefix hashes."""
        return self.prefixes is not None and self.prefixes in peek.columns

    def remarks(self, peek: Peek) -> tuple[str, ...]:
        """What a user should know about this file from the start: columns that are not carried on."""
        unused = [name for name in peek.columns if name not in self.columns(peek)]
        return (f"columns not carried on: {', '.join(unused[:20])}",) if unused else ()

    def open(self, peek: Peek, options: Options) -> Trace:
        """The requests in the file, all checked.

        Raises:
            TraceError: at the first row that breaks a rule.
        """
        from afterwatt.traces.filetrace import FileTrace  # it needs this module's types

        form = self
        if options.block_tokens is not None:
            if not (self.loose and self.has_prefixes(peek)):
                raise TraceError(
                    f"{self.name} files have prefix blocks of a fixed size or none; leave block={options.block_tokens} "
                    "out",
                    path=peek.path,
                )
            form = replace(self, block_tokens=options.block_tokens)
        return FileTrace(form, peek, options)

    def chunks(self, peek: Peek) -> Iterator[RowChunk]:
        """The file's rows as columns of cells."""
        return read_chunks(peek, self.columns(peek))

    def stretches(self, peek: Peek, options: Options) -> Iterator[Stretch]:
        """The file's requests, checked, in file order.

        Raises:
            TraceError: at the first row that breaks a rule.
        """
        duplicate_columns(peek)
        clock = self.clock_for(peek, options)
        rules = self.rules(peek)
        last: float | int = 0
        for chunk in self.chunks(peek):
            fields = self._fields(chunk, options)
            ticks = None
            if self.arrival is not None:
                ticks = clock.read(chunk.columns[self.arrival])
                if not options.sort:
                    _check_order(chunk.columns[self.arrival], ticks, last if chunk.first_row > 1 else ticks[0])
                    last = ticks[-1]
            rules(chunk, fields)
            yield _kept(ticks, fields)

    def _fields(self, chunk: RowChunk, options: Options) -> Fields:
        least = 0 if self.failures or options.drop_empty else 1
        cells = chunk.columns
        fields: Fields = {
            PROMPT: ints(cells[self.prompt], least, MAX_TOKENS, "prompt tokens"),
            OUTPUT: ints(cells[self.output], least, MAX_TOKENS, "output tokens"),
        }
        if self.failures and not options.drop_empty:
            unasked = (fields[PROMPT] == 0) & (fields[OUTPUT] > 0)
            cells[self.prompt].fail_where(unasked, "prompt tokens got an answer; correct it, or say drop_empty=yes")
        if self.klass in cells:
            fields[CLASS] = labels(cells[self.klass])
        if self.session in cells:
            fields[SESSION] = labels(cells[self.session])
        if self.prefixes in cells:
            fields[PREFIXES] = id_lists(cells[self.prefixes])
        return fields


def _no_rule(chunk: RowChunk, fields: Fields) -> None:
    """Accept any row."""
    del chunk, fields


def _check_order(cells: Cells, ticks: NDArray[Any], before: float | int) -> None:
    back = np.diff(ticks, prepend=before) < 0
    if back.any():
        cells.fail(int(np.argmax(back)), f"lies before the arrival of the row above it; {SORT_HINT}")


def _kept(ticks: NDArray[Any] | None, fields: Fields) -> Stretch:
    """The rows that have both prompt and output tokens, and how many have not."""
    keep = (fields[PROMPT] > 0) & (fields[OUTPUT] > 0)
    record = pa.RecordBatch.from_pydict({name: pa.array(column) for name, column in fields.items()})
    if keep.all():
        return Stretch(ticks, record, 0)
    return Stretch(None if ticks is None else ticks[keep], record.filter(pa.array(keep)), int((~keep).sum()))


def utc_text(ns: int) -> str:
    """Nanoseconds since 1970 UTC as ISO 8601 with offset, to the microsecond (fractions of it cut off)."""
    return (_EPOCH + timedelta(microseconds=ns // 1000)).isoformat()

"""A log of anybody's own: the user says which column is which, and what its times count.

    mine.csv?arrival=created_at&prompt=in_tok&output=out_tok&unit=ms

Columns of JSON Lines may lie deeper: `prompt=usage.prompt_tokens`. Nothing is guessed: numbers that count time need a
unit, times of day are read as UTC where they name no zone, and a note says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from numpy.typing import NDArray

from afterwatt.traces.cells import Cells, instants_ns
from afterwatt.traces.errors import TraceError, shown
from afterwatt.traces.options import UNITS, Options
from afterwatt.traces.peek import Peek, closest
from afterwatt.traces.schema import Trace
from afterwatt.traces.table import read_chunks
from afterwatt.traces.tableformat import SECONDS, Clock, TableFormat

_ARRIVALS: Final = (
    *("arrival", "arrival_time", "arrived_at", "created_at", "created", "timestamp", "time", "start_time", "startTime"),
    *("request_time", "date", "datetime", "ts"),
)
_PROMPTS: Final = (
    *("prompt_tokens", "input_tokens", "in_tok", "tokens_in", "num_prompt_tokens", "n_prompt", "promptTokens"),
    *("usage.prompt_tokens", "usage.input_tokens", "prompt_len", "input_len", "input_length", "inputTokens", "prompt"),
)
_OUTPUTS: Final = (
    *("output_tokens", "completion_tokens", "out_tok", "tokens_out", "num_output_tokens", "n_gen", "completionTokens"),
    *("usage.completion_tokens", "usage.output_tokens", "generated_tokens", "response_tokens", "output_len"),
    *("output_length", "outputTokens", "output"),
)
_FORM: Final = "2026-01-31T09:30:00.25Z"


@dataclass(frozen=True)
class _Named(TableFormat):
    naive: bool = False

    def matches(self, peek: Peek) -> bool:
        """Never: somebody has to say which column is which."""
        del peek
        return False

    def remarks(self, peek: Peek) -> tuple[str, ...]:
        """How the file was understood, and what is not carried on."""
        times = "UTC" if self.clock.wall else "numbers"
        said = f"read as told: arrival from '{self.arrival}' ({times}), " if self.arrival else "read as told: "
        naive = (f"'{self.arrival}' has no zone and is read as UTC",) if self.naive else ()
        understood = f"{said}prompt tokens from '{self.prompt}', output tokens from '{self.output}'"
        tops = {name.partition(".")[0] for name in self.columns(peek)} | set(self.columns(peek))
        unused = [name for name in peek.columns if name not in tops]
        return (understood, *naive, *((f"columns not carried on: {', '.join(unused[:20])}",) if unused else ()))


def open_named(peek: Peek, options: Options) -> Trace:
    """Return the requests of a file whose columns the user has named.

    Raises:
        TraceError: tokens of prompts or outputs are not named, a column is not there, or the unit of time is unsaid.
    """
    if options.prompt_column is None or options.output_column is None:
        raise TraceError(
            "an own log needs both of its columns of tokens named: prompt=...&output=..., and arrival=... where it has "
            f"times{suggestion(peek)}",
            path=peek.path,
        )
    named = {
        "arrival": options.arrival_column,
        "prompt": options.prompt_column,
        "output": options.output_column,
        "class": options.class_column,
        "session": options.session_column,
    }
    for word, column in named.items():
        if column is not None and not _is_there(peek, column):
            known = ", ".join(columns_of(peek)[:12])
            near = closest(column, columns_of(peek))
            raise TraceError(f"{word} = {shown(column)} is no column of it{near}; it has {known}", path=peek.path)
    if len({column for column in named.values() if column is not None}) < sum(bool(name) for name in named.values()):
        raise TraceError("two words name the same column; give each its own", path=peek.path)
    clock, naive = (SECONDS, False) if named["arrival"] is None else _clock(peek, named["arrival"], options.unit)
    form = _Named(
        name="own log",
        about="columns as the user says",
        arrival=named["arrival"],
        prompt=options.prompt_column,
        output=options.output_column,
        klass=named["class"],
        session=named["session"],
        clock=clock,
        loose=True,
        naive=naive,
    )
    return form.open(peek, options)


def suggestion(peek: Peek) -> str:
    """Return what to type for a file whose columns are called as they often are; empty where none of them is."""
    columns = columns_of(peek)
    found = {
        word: next((name for name in names if name in columns), None)
        for word, names in (("arrival", _ARRIVALS), ("prompt", _PROMPTS), ("output", _OUTPUTS))
    }
    if found["prompt"] is None or found["output"] is None:
        return ""
    words = [f"{word}={column}" for word, column in found.items() if column is not None]
    if found["arrival"] is None:
        words.append("rate=0.5")
    elif not _text_times(peek, found["arrival"])[0]:
        words.append("unit=s")
    return f"; if those are its columns, say '{peek.path}?{'&'.join(words)}'"


def columns_of(peek: Peek) -> list[str]:
    """Return the names of a file's columns; of JSON, of what lies inside of objects too."""
    names = list(peek.columns)
    for key, value in (peek.first or {}).items():
        if isinstance(value, dict):
            names += [f"{key}.{inner}" for inner in value]
    return names


def _is_there(peek: Peek, column: str) -> bool:
    return column in peek.columns or column in columns_of(peek)


def _clock(peek: Peek, column: str, unit: str | None) -> tuple[Clock, bool]:
    """Return the clock of an arrival column, and whether it names no zone.

    Raises:
        TraceError: numbers whose unit nobody has said, or a unit of what is a time of day.
    """
    text, naive, first = _text_times(peek, column)
    if text:
        if unit is not None:
            raise TraceError(
                f"{shown(first)} is a time of day, and unit={unit} counts; leave unit out",
                path=peek.path,
                column=column,
            )
        return Clock(UNITS["ns"], _naive_times if naive else _zoned_times, wall=True), naive
    if unit is None:
        raise TraceError(
            f"{shown(first)} may count anything; say unit=s, unit=ms, unit=us or unit=ns", path=peek.path, column=column
        )
    return SECONDS, False


def _text_times(peek: Peek, column: str) -> tuple[bool, bool, Any]:
    """Return (whether a column begins with a time of day, whether that has no zone, the value)."""
    if peek.kind not in ("csv", "parquet", "jsonl"):
        return False, False, None
    chunk = next(read_chunks(peek, [column]), None)
    value = None if chunk is None or not chunk.rows else chunk.columns[column].values[0]
    value = value.as_py() if isinstance(value, pa.Scalar) else value
    if not isinstance(value, str):
        zone = getattr(value, "tzinfo", None)
        return hasattr(value, "isoformat"), hasattr(value, "isoformat") and zone is None, value
    try:
        float(value)
    except ValueError:
        tail = value.strip()[10:]
        return True, not (tail.endswith(("Z", "z")) or "+" in tail or "-" in tail), value
    return False, False, value


def _zoned_times(cells: Cells) -> NDArray[Any]:
    return instants_ns(cells, zone=True, form=f"{_FORM}, zone included")


def _naive_times(cells: Cells) -> NDArray[Any]:
    return instants_ns(cells, zone=False, form=f"{_FORM.rstrip('Z')}, without a zone as the first")

"""A trace in a table of requests: opened by one checking pass, walked by as many further passes as wanted.

The checking pass reads every row once, so that a run does not fail half-way through; it also learns the row count, the
span and what was left out. It keeps the rows of a short trace, whose file is read again only if it has changed. Memory
is bounded by a chunk, except where sorting was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from afterwatt.traces.arrivals import Tap, gamma_gaps, unit_arrivals
from afterwatt.traces.errors import TraceError
from afterwatt.traces.options import Options
from afterwatt.traces.peek import Peek, first_line
from afterwatt.traces.records import ARRIVAL, rechunk, to_batch
from afterwatt.traces.schema import DEFAULT_BATCH_ROWS, Batch, Floats, Trace, TraceInfo, check_batch_size
from afterwatt.traces.tableformat import Stretch, TableFormat

_LONGEST_SPAN_S = 20 * 366 * 86_400
_HIGHEST_RATE_PER_S = 1e6
_SLOW_GAP_S = 100.0
_ABSURD_RATE_PER_S = 50.0  # published traces of whole clusters stay below 20
_ROWS_TO_JUDGE = 20
_KEPT_BYTES = 1 << 19


@dataclass(slots=True)
class _Count:
    """What a pass over the file learnt."""

    rows: int = 0
    left_out: int = 0
    span_s: float = 0.0
    whole: bool = True  # whether every arrival is a whole number of seconds
    first_tick: float | int = 0


class FileTrace(Trace):
    """The requests of a file in one of the tabular formats."""

    def __init__(self, form: TableFormat, peek: Peek, options: Options) -> None:
        """Open the file and check it from end to end.

        Raises:
            TraceError: at the first thing wrong with it.
        """
        self._form, self._peek, self._options = form, peek, options
        self._factor = 1.0
        self._kept: list[pa.RecordBatch] | None = None
        self._stamp = (0, 0)
        if form.arrival is None and options.rate_per_s is None:
            next(form.stretches(peek, options), None)  # what is wrong with the file itself comes first
            raise TraceError(
                f"the {form.name} format has lengths but no arrival times; say how often requests come: rate=5 "
                "(per second), and cv=1 for how evenly",
                path=peek.path,
            )
        if form.arrival is not None and options.cv is not None:
            raise TraceError("the file has arrival times of its own, so cv draws nothing; leave it out", path=peek.path)
        notes = list(form.remarks(peek))
        if form.arrival is not None and options.rate_per_s is not None:
            notes.append(self._rescale(options.rate_per_s))
        count = self._measure()
        if not count.rows:
            raise TraceError(f"the file holds no request{self._why_empty(count)}", path=peek.path)
        if self._factor == 1.0:
            self._check_units(count)
        self._info = self._describe(count, notes)

    @property
    def info(self) -> TraceInfo:
        """What the checking pass learnt."""
        return self._info

    def batches(self, size: int = DEFAULT_BATCH_ROWS) -> Iterator[Batch]:
        """Walk the file again; see `Trace.batches`."""
        check_batch_size(size)
        kept = self._kept if self._kept is not None and self._stamp == _stamp(self._peek.path) else None
        return map(to_batch, rechunk(self._records(_Count()) if kept is None else kept, size))

    def _records(self, count: _Count) -> Iterator[pa.RecordBatch]:
        """Record batches with arrival_s first, cut as the options say, with what was seen noted in `count`."""
        limit, horizon_s = self._options.requests, self._options.duration_s
        try:
            for arrival_s, stretch in self._timed(count):
                keep = len(arrival_s) if limit is None else min(len(arrival_s), limit - count.rows)
                if horizon_s is not None:
                    keep = min(keep, int(np.searchsorted(arrival_s, horizon_s, side="right")))
                count.left_out += stretch.left_out
                if keep:
                    count.rows += keep
                    count.span_s = float(arrival_s[keep - 1])
                    columns = {ARRIVAL: pa.array(arrival_s[:keep])}
                    columns |= zip(stretch.record.schema.names, stretch.record.slice(0, keep).columns, strict=True)
                    yield pa.RecordBatch.from_pydict(columns)
                if keep < len(arrival_s) or count.rows == limit:
                    return
        except OSError as error:
            raise TraceError(f"reading stopped ({first_line(error)})", path=self._peek.path) from error

    def _timed(self, count: _Count) -> Iterator[tuple[Floats, Stretch]]:
        """Stretches with arrivals in seconds since the first one, to the nearest float64."""
        stretches = self._form.stretches(self._peek, self._options)
        if self._form.arrival is None:
            yield from self._drawn(stretches)
            return
        ticks_per_s = self._form.clock_for(self._peek, self._options).ticks_per_s
        begun = False
        for stretch in _in_order(stretches) if self._options.sort else stretches:
            ticks: Any = stretch.ticks
            if len(ticks):
                if not begun:
                    count.first_tick, begun = ticks[0].item(), True
                count.whole = count.whole and bool((ticks == np.floor(ticks)).all())
                yield (ticks - count.first_tick) / ticks_per_s * self._factor, stretch
            else:
                count.left_out += stretch.left_out

    def _drawn(self, stretches: Iterator[Stretch]) -> Iterator[tuple[Floats, Stretch]]:
        options = self._options
        gaps = gamma_gaps(1.0 if options.cv is None else options.cv)
        tap = Tap(unit_arrivals(gaps, options.seed, "arrivals"))
        for stretch in stretches:
            yield tap.take(stretch.record.num_rows) / (options.rate_per_s or 1.0), stretch

    def _measure(self) -> _Count:
        count = _Count()
        self._stamp = _stamp(self._peek.path)
        kept, kept_bytes = [], 0
        for record in self._records(count):
            kept_bytes += record.nbytes
            if kept_bytes <= _KEPT_BYTES:
                kept.append(record)
        self._kept = kept if kept_bytes <= _KEPT_BYTES and self._peek.kind != "directory" else None
        return count

    def _rescale(self, rate_per_s: float) -> str:
        """Stretch the clock so that the whole file's mean rate becomes the one wanted; the remark that says so."""
        count = _Count()
        for arrival_s, _ in self._timed(count):
            count.rows += len(arrival_s)
            count.span_s = float(arrival_s[-1]) if len(arrival_s) else count.span_s
        if count.span_s <= 0:
            raise TraceError("all arrivals fall on one instant, so their rate cannot be changed", path=self._peek.path)
        self._check_units(count)
        self._factor = count.rows / count.span_s / rate_per_s
        return (
            f"the clock is stretched by {self._factor:.6g}, so that the file's mean rate of "
            f"{count.rows / count.span_s:.6g} requests/s becomes {rate_per_s:g}"
        )

    def _check_units(self, count: _Count) -> None:
        """Refuse spans and rates that only a wrong unit explains; a unit given by the user settles the doubt."""
        if self._form.arrival is None or self._options.unit is not None:
            return
        seconds = self._form.clock.ticks_per_s == 1
        hint = "say unit=ms (or us, ns)" if seconds else f"check that they are what {self._form.name} holds"
        hint = "say unit=s" if self._form.loose else hint
        gap_s = count.span_s / max(count.rows - 1, 1)
        if count.span_s > _LONGEST_SPAN_S:
            doubt = f"the arrivals span {count.span_s:.3g} s, more than 20 years: another unit? {hint}"
        elif count.rows >= _ROWS_TO_JUDGE and 0 < gap_s < 1 / _HIGHEST_RATE_PER_S:
            doubt = f"the arrivals come at {1 / gap_s:.3g} requests/s, more than a million: another unit? {hint}"
        elif seconds and count.whole and count.rows >= _ROWS_TO_JUDGE and gap_s > _SLOW_GAP_S:
            doubt = (
                f"the arrivals are whole numbers {gap_s:.4g} apart on average, which looks like milliseconds; "
                "say unit=ms, or unit=s if they are seconds"
            )
        else:
            return
        raise TraceError(doubt, path=self._peek.path, column=self._form.arrival)

    def _why_empty(self, count: _Count) -> str:
        if count.left_out:
            return f": all {count.left_out:,} rows have no tokens and are left out"
        return "; a trace needs at least one"

    def _describe(self, count: _Count, notes: list[str]) -> TraceInfo:
        form, peek, options = self._form, self._peek, self._options
        if count.left_out:
            why = form.failures or "they have no prompt or no output tokens"
            notes.append(f"{count.left_out:,} of {count.rows + count.left_out:,} rows read are left out: {why}")
        rate_per_s = (count.rows - 1) / count.span_s if count.span_s > 0 else 0.0
        if form.loose and options.unit is None and options.rate_per_s is None and rate_per_s > _ABSURD_RATE_PER_S:
            notes.append(
                f"arrivals read as milliseconds come at {rate_per_s:,.4g} requests/s; if they count seconds, say unit=s"
            )
        if form.arrival is None:
            notes.append(
                f"arrivals drawn: Gamma gaps of cv {1 if options.cv is None else options.cv:g} "
                f"at {options.rate_per_s:g} requests/s, seed {options.seed}"
            )
        return TraceInfo(
            path=peek.path,
            format=form.name,
            rows=count.rows,
            span_s=count.span_s,
            start_utc=form.start_utc(peek, count.first_tick),
            has_prefixes=form.has_prefixes(peek),
            prefix_block_tokens=form.block_tokens_of(peek),
            notes=tuple(notes),
        )


def _stamp(path: str) -> tuple[int, int]:
    """What changes when a file does: (time of its last change, size); nothing where there is no file any more."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_mtime_ns, found.st_size


def _in_order(stretches: Iterator[Stretch]) -> Iterator[Stretch]:
    """All rows as one stretch in order of arrival; rows of one instant keep their order in the file."""
    gathered = list(stretches)
    if not gathered:
        return
    ticks = np.concatenate([stretch.ticks for stretch in gathered if stretch.ticks is not None])
    order = np.argsort(ticks, kind="stable")
    record = pa.concat_batches([stretch.record for stretch in gathered]).take(pa.array(order))
    yield Stretch(ticks[order], record, sum(stretch.left_out for stretch in gathered))

"""What a trace is like: rates, lengths, burstiness, daily cycle, prefix sharing; in two passes and bounded memory.

Memory grows with the number of distinct lengths, and, where there are prefixes, with the number of distinct blocks.
Everything in the result is a plain number, text, list, dict or None, fit for JSON.
"""

from __future__ import annotations

import cmath
import math
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afterwatt.traces.presets import DAY_S
from afterwatt.traces.ratetable import SERVEGEN
from afterwatt.traces.schema import Batch, Floats, Ints, Trace

_WINDOWS_S = (1, 10, 60, 600)
_PEAK_WINDOW_S = 60
_FEWEST_WINDOWS = 10
_PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
_MOST_CLASSES = 100
_MOST_DRAWN = 1 << 23
"""Requests of a rate table that are looked at: tables of thousands a second hold billions."""


def describe(trace: Trace) -> dict[str, Any]:
    """Measure a trace.

    Returns:
        rows; span_s; rate_per_s (rows / span); gap_s {mean, cv, max}; prompt_tokens and output_tokens {total, mean,
        min, p1 ... p99, max}, where pX is the least length that X % of the requests do not exceed; spearman (rank
        correlation of the two, ties at their mid-rank); dispersion {window: variance / mean of arrivals per window},
        1 for Poisson; peak_rate_per_s (busiest minute); daily {amplitude_frac, peak_hour, clock, days} of the first
        harmonic over whole days; classes {label: rows}; prefix {block_tokens, blocks, distinct_blocks,
        ideal_hit_frac}; and path, format, start_utc, notes. None stands where the trace is too short, or lacks the
        column, to say.
    """
    prompt, output = _Tally(), _Tally()
    gaps, waves = _Gaps(), _Wave()
    counts = {window_s: _Counts(window_s) for window_s in _WINDOWS_S}
    classes: Counter[str | None] = Counter()
    sharing = _Sharing()
    for batch in _looked_at(trace):
        prompt.add(batch.prompt_tokens)
        output.add(batch.output_tokens)
        gaps.add(batch.arrival_s)
        waves.add(batch.arrival_s)
        for count in counts.values():
            count.add(batch.arrival_s)
        if batch.klass is not None and len(classes) <= _MOST_CLASSES:
            classes.update(batch.klass)
        if batch.prefixes is not None:
            sharing.add(batch)
    info, span_s = trace.info, gaps.last_s
    cut = prompt.rows == _MOST_DRAWN and info.format == SERVEGEN
    return {
        "path": info.path,
        "format": info.format,
        "start_utc": info.start_utc,
        "notes": [*info.notes, *([f"measured on the first {_MOST_DRAWN:,} requests; n= says how many"] if cut else [])],
        "rows": prompt.rows,
        "span_s": span_s,
        "rate_per_s": prompt.rows / span_s if span_s > 0 else None,
        "gap_s": gaps.summary(),
        "prompt_tokens": prompt.summary(),
        "output_tokens": output.summary(),
        "spearman": _spearman(trace, prompt, output),
        "dispersion": {f"{window_s}s": count.dispersion(span_s) for window_s, count in counts.items()},
        "peak_rate_per_s": counts[_PEAK_WINDOW_S].peak_per_s(span_s),
        "daily": waves.summary(info.start_utc),
        "classes": _named(classes),
        "prefix": sharing.summary(info.prefix_block_tokens),
    }


class _Tally:
    """Exact distribution of a whole-number column, as counts of its distinct values."""

    def __init__(self) -> None:
        self.rows = 0
        self._count: Counter[int] = Counter()

    def add(self, values: Ints) -> None:
        distinct, times = np.unique(values, return_counts=True)
        self.rows += len(values)
        self._count.update(dict(zip(distinct.tolist(), times.tolist(), strict=True)))

    def sorted(self) -> tuple[Ints, Ints]:
        """Distinct values, ascending, and how often each occurs."""
        pairs = np.array(sorted(self._count.items()), np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def mid_ranks(self) -> tuple[Ints, Floats]:
        """Distinct values and the mean rank of each, less the mean of all ranks."""
        values, times = self.sorted()
        below = np.cumsum(times) - times
        return values, below + (times - 1) / 2 - (self.rows - 1) / 2

    def summary(self) -> dict[str, float | int] | None:
        """Moments and percentiles; None for no rows."""
        if not self.rows:
            return None
        values, times = self.sorted()
        reached = np.cumsum(times)
        picks = {f"p{p}": int(values[np.searchsorted(reached, p * self.rows / 100)]) for p in _PERCENTILES}
        total = sum(value * count for value, count in self._count.items())
        return {
            "total": total,
            "mean": total / self.rows,
            "min": int(values[0]),
            **picks,
            "max": int(values[-1]),
        }


class _Gaps:
    """Mean, variation and maximum of the times between arrivals."""

    def __init__(self) -> None:
        self.last_s = 0.0
        self._rows = 0
        self._sum_of_squares = 0.0
        self._longest_s = 0.0

    def add(self, arrival_s: Floats) -> None:
        gaps = np.diff(arrival_s, prepend=self.last_s)
        self._sum_of_squares += float((gaps**2).sum())
        self._longest_s = max(self._longest_s, float(gaps.max()))
        self._rows += len(gaps)
        self.last_s = float(arrival_s[-1])

    def summary(self) -> dict[str, float] | None:
        n = self._rows - 1  # the first arrival, at 0, ends no gap
        if n < 1 or self.last_s <= 0:
            return None
        mean_s = self.last_s / n
        variance = max(self._sum_of_squares / n - mean_s**2, 0.0)
        return {"mean": mean_s, "cv": math.sqrt(variance) / mean_s, "max": self._longest_s}


class _Counts:
    """Arrivals per window of fixed length; only whole windows count."""

    def __init__(self, window_s: int) -> None:
        self._window_s = window_s
        self._open, self._in_open = 0, 0  # the window under way and its arrivals so far
        self._sum = self._sum_of_squares = self._peak = 0

    def add(self, arrival_s: Floats) -> None:
        windows, times = np.unique((arrival_s // self._window_s).astype(np.int64), return_counts=True)
        times = times.astype(np.int64)
        if windows[0] == self._open:
            times[0] += self._in_open
        else:
            self._close(np.array([self._in_open]))
        self._close(times[:-1])
        self._open, self._in_open = int(windows[-1]), int(times[-1])

    def _close(self, counts: NDArray[np.int64]) -> None:
        if len(counts):
            self._sum += int(counts.sum())
            self._sum_of_squares += int((counts**2).sum())
            self._peak = max(self._peak, int(counts.max()))

    def dispersion(self, span_s: float) -> float | None:
        """Variance over mean; the window under way at the end is left out."""
        whole = int(span_s // self._window_s)
        if whole < _FEWEST_WINDOWS or not self._sum:
            return None
        mean = self._sum / whole
        return (self._sum_of_squares / whole - mean**2) / mean

    def peak_per_s(self, span_s: float) -> float | None:
        """Highest mean rate of a window."""
        return self._peak / self._window_s if span_s >= self._window_s else None


class _Wave:
    """First harmonic of the day, over whole days."""

    def __init__(self) -> None:
        self._rows = 0
        self._sum = 0j
        self._whole: tuple[int, int, complex] = (0, 0, 0j)  # days, rows and sum at the end of the last whole day

    def add(self, arrival_s: Floats) -> None:
        days = (arrival_s // DAY_S).astype(np.int64)
        for day in np.unique(days).tolist():
            if day > self._whole[0]:
                self._whole = (day, self._rows, self._sum)
            turns = 2 * math.pi / DAY_S * arrival_s[days == day]
            self._rows += len(turns)
            self._sum += complex(np.cos(turns).sum(), np.sin(turns).sum())

    def summary(self, start_utc: str | None) -> dict[str, float | str] | None:
        days, rows, total = self._whole
        if not days or not rows:
            return None
        peak_s = cmath.phase(total) / (2 * math.pi) * DAY_S
        clock = "hours after the first arrival"
        if start_utc is not None:
            start = datetime.fromisoformat(start_utc)
            peak_s += start.hour * 3600 + start.minute * 60 + start.second
            clock = "UTC"
        return {"amplitude_frac": 2 * abs(total) / rows, "peak_hour": peak_s / 3600 % 24, "clock": clock, "days": days}


class _Sharing:
    """Blocks that an unbounded prefix cache would have found."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._blocks = self._hits = 0
        self._any = False

    def add(self, batch: Batch) -> None:
        self._any = True
        for ids in batch.prefixes or ():
            self._blocks += len(ids)
            self._hits += _leading(ids, self._seen)
            self._seen.update(ids)

    def summary(self, block_tokens: int | None) -> dict[str, float | int | None] | None:
        if not self._any:
            return None
        return {
            "block_tokens": block_tokens,
            "blocks": self._blocks,
            "distinct_blocks": len(self._seen),
            "ideal_hit_frac": self._hits / self._blocks if self._blocks else None,
        }


def _leading(ids: tuple[int, ...], seen: set[int]) -> int:
    """How many ids from the first on have been seen: a prefix cache finds no block behind a missing one."""
    for depth, block in enumerate(ids):
        if block not in seen:
            return depth
    return len(ids)


def _spearman(trace: Trace, prompt: _Tally, output: _Tally) -> float | None:
    """Rank correlation with mid-ranks for ties (Spearman 1904), by a second pass over the trace."""
    (x_values, x_ranks), (y_values, y_ranks) = prompt.mid_ranks(), output.mid_ranks()
    x_spread = float((x_ranks**2 * prompt.sorted()[1]).sum())
    y_spread = float((y_ranks**2 * output.sorted()[1]).sum())
    if x_spread <= 0 or y_spread <= 0:
        return None
    together = sum(
        float((x_ranks[np.searchsorted(x_values, x)] * y_ranks[np.searchsorted(y_values, y)]).sum())
        for x, y in _lengths(trace)
    )
    return together / math.sqrt(x_spread) / math.sqrt(y_spread)


def _lengths(trace: Trace) -> Iterator[tuple[Ints, Ints]]:
    return ((batch.prompt_tokens, batch.output_tokens) for batch in _looked_at(trace))


def _looked_at(trace: Trace) -> Iterator[Batch]:
    """All of a trace; of a rate table, which is drawn as long as anybody asks, no more than `_MOST_DRAWN` requests."""
    rows = 0
    for batch in trace.batches():
        if trace.info.format != SERVEGEN:
            yield batch
        elif rows < _MOST_DRAWN:
            yield batch.sliced(0, _MOST_DRAWN - rows)
            rows += len(batch)
        else:
            return


def _named(classes: Counter[str | None]) -> dict[str, int] | None:
    """Rows by class, most frequent first; None where there are no classes, or too many to list."""
    if not classes or len(classes) > _MOST_CLASSES:
        return None
    return {"(none)" if name is None else name: rows for name, rows in classes.most_common()}

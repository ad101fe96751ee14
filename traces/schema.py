"""The nouns of this package: what a trace is and what it yields, whatever file or generator it comes from.

Everything downstream (simulator, statistics, writer) sees only `Trace` and `Batch`. Batches are columns, not
objects per request: a million requests cost a few numpy arrays. Nothing here knows a file format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from afterwatt.traces.errors import TraceError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Labels: TypeAlias = list[str | None]
Prefixes: TypeAlias = list[tuple[int, ...]]

MAX_TOKENS = 100_000_000
"""Longest prompt or answer believed, in tokens: ten times the longest context on offer. Beyond it a unit is wrong."""

DEFAULT_BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """What is known about a trace without walking through it.

    Attributes:
        path: file as given, or the `synth:` address.
        format: name of the reader that recognised it.
        rows: number of requests; None where unknown.
        span_s: last arrival minus first, in seconds; None where unknown.
        start_utc: wall clock of t = 0 as ISO 8601 with offset, or None where the format has no wall clock.
        has_prefixes: whether batches carry prefix block hashes.
        prefix_block_tokens: tokens per prefix block (512 Mooncake, 16 Qwen); None without prefixes.
        notes: sentences the user should see: rows left out by a rule, clocks rescaled, columns not carried.
    """

    path: str
    format: str
    rows: int | None = None
    span_s: float | None = None
    start_utc: str | None = None
    has_prefixes: bool = False
    prefix_block_tokens: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Consecutive requests as columns of one length.

    Attributes:
        arrival_s: seconds since the trace's first arrival, never decreasing, float64.
        prompt_tokens: at least 1, int64.
        output_tokens: at least 1, int64.
        klass: a label per request, None within it where the file has none; None where the format has no classes.
        prefixes: per request the hash ids of its prompt's blocks in order (equal ids = equal prefix); None without.
        session: an id per request that turns of one conversation share; None where the format has no sessions.
    """

    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    klass: Labels | None = None
    prefixes: Prefixes | None = None
    session: Labels | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)

    def sliced(self, start: int, stop: int) -> Batch:
        """Rows start to stop (exclusive) as a batch of their own; the arrays are views."""
        return Batch(
            self.arrival_s[start:stop],
            self.prompt_tokens[start:stop],
            self.output_tokens[start:stop],
            None if self.klass is None else self.klass[start:stop],
            None if self.prefixes is None else self.prefixes[start:stop],
            None if self.session is None else self.session[start:stop],
        )


class Trace(Protocol):
    """A finite sequence of requests in order of arrival that can be walked any number of times."""

    @property
    def info(self) -> TraceInfo:
        """What is known beforehand."""
        ...

    def batches(self, size: int = DEFAULT_BATCH_ROWS) -> Iterator[Batch]:
        """Walk the trace from its start in batches of `size` rows (the last may be shorter, none is empty).

        Memory is bounded by the batch and the reader's chunk, not by the trace. The rows do not depend on `size`.
        """
        ...

    def head(self, n: int) -> Batch:
        """The first n requests (all of them where the trace is shorter)."""
        for batch in self.batches(max(n, 1)):
            return batch.sliced(0, n)
        return empty_batch()


def empty_batch() -> Batch:
    """A batch of no requests."""
    return Batch(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))


def check_batch_size(size: int) -> None:
    """Refuse a batch size that could never yield a row.

    Raises:
        TraceError: if size is below 1.
    """
    if size < 1:
        raise TraceError(f"batch size {size} is below 1 row; ask for at least one row a batch")

"""Traces drawn from rate tables: many clients, each with a rate and a burstiness per time window, and length tables.

This is ServeGen's model of a workload. Each client is a renewal process in its own operational time (one unit = one
expected request): a window of rate r and length w gives it r*w units, and a gap that outlasts the window goes on in the
next. Rates are so met on average whatever the burstiness. Only one window of requests is in memory at a time, and of
one with more than `_MOST_EXPECTED` requests only a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from afterwatt.traces.arrivals import Family, Gaps, stream
from afterwatt.traces.errors import TraceError
from afterwatt.traces.options import Options
from afterwatt.traces.records import ARRIVAL, OUTPUT, PROMPT, rechunk, to_batch
from afterwatt.traces.schema import DEFAULT_BATCH_ROWS, Batch, Floats, Ints, Trace, TraceInfo, check_batch_size

SERVEGEN = "servegen"
WINDOW_S = 600
_MOST_EXPECTED = 1 << 20
"""Requests drawn at once. Part of the meaning of a seed for windows with more."""


@dataclass(frozen=True, slots=True)
class ClientRates:
    """One client's windows with traffic.

    Attributes:
        start_s: starts of the windows, ascending multiples of WINDOW_S.
        rate_per_s: mean arrivals per second, above 0.
        family: gamma or weibull, per window.
        shape: of the gaps, per window.
    """

    start_s: Ints
    rate_per_s: Floats
    family: list[Family]
    shape: Floats

    def only(self, keep: NDArray[np.bool_]) -> ClientRates:
        """The windows marked."""
        family = [name for name, kept in zip(self.family, keep, strict=True) if kept]
        return ClientRates(self.start_s[keep], self.rate_per_s[keep], family, self.shape[keep])


@dataclass(frozen=True, slots=True)
class CountTable:
    """A distribution of token counts: values and their cumulative weights (any total)."""

    tokens: Ints
    cumulative: Floats

    def draw(self, rng: np.random.Generator, n: int) -> Ints:
        """Draw n values."""
        places = np.searchsorted(self.cumulative, rng.random(n) * self.cumulative[-1], side="right")
        return np.asarray(self.tokens[places], np.int64)


@dataclass(frozen=True, slots=True)
class ClientLengths:
    """Length tables of one client in one period.

    Attributes:
        prompt: prompt (or text) lengths.
        output: output lengths.
        images: images per request, or None where requests have none.
        image: tokens per image.
    """

    prompt: CountTable
    output: CountTable
    images: CountTable | None = None
    image: CountTable | None = None

    def draw(self, rng: np.random.Generator, n: int) -> tuple[Ints, Ints]:
        """Prompt and output lengths of n requests, drawn independently; at least 1 token each."""
        prompt = self.prompt.draw(rng, n)
        if self.images is not None and self.image is not None:
            count = self.images.draw(rng, n)
            sizes = np.concatenate([[0], np.cumsum(self.image.draw(rng, int(count.sum())))])
            ends = np.cumsum(count)
            prompt = prompt + sizes[ends] - sizes[ends - count]
        return np.maximum(prompt, 1), np.maximum(self.output.draw(rng, n), 1)


class RateTableTrace(Trace):
    """Requests drawn from clients' rates and lengths."""

    def __init__(
        self,
        path: str,
        clients: Mapping[int, ClientRates],
        lengths: Mapping[int, Mapping[int, ClientLengths]],
        options: Options,
        notes: tuple[str, ...],
    ) -> None:
        """Put the tables together.

        Args:
            path: the file, for messages.
            clients: rates by client; each has lengths.
            lengths: by client and start of the period (in seconds) from which they hold; each window lies in one.
            options: seed, rate, start, duration, requests.
            notes: remarks to pass on.

        Raises:
            TraceError: where the tables and options leave no request to draw.
        """
        self._path, self._clients, self._lengths, self._options = path, clients, lengths, options
        ends = [int(rates.start_s[-1]) + WINDOW_S for rates in clients.values()]
        self._end_s = min(max(ends), options.start_s + (options.duration_s or np.inf))
        expected = sum(self._expected(rates) for rates in clients.values())
        if expected <= 0:
            raise TraceError(
                f"no client sends anything from second {options.start_s:g} to {self._end_s:g}; the table ends at "
                f"{max(ends)}",
                path=path,
            )
        mean_per_s = expected / (self._end_s - options.start_s)
        self._scale = 1.0 if options.rate_per_s is None else options.rate_per_s / mean_per_s
        if options.rate_per_s is not None:
            notes = (*notes, f"all rates scaled by {self._scale:.4g}, from a mean of {mean_per_s:.4g} requests/s")
        self._info = TraceInfo(path=path, format=SERVEGEN, notes=(*notes, f"requests drawn with seed {options.seed}"))
        if not self.head(1):
            raise TraceError("no request was drawn; ask for a higher rate or a longer duration", path=path)

    @property
    def info(self) -> TraceInfo:
        """Rows and span are unknown: they are drawn."""
        return self._info

    def batches(self, size: int = DEFAULT_BATCH_ROWS) -> Iterator[Batch]:
        """Draw the requests; see `Trace.batches`."""
        check_batch_size(size)
        return map(to_batch, rechunk(self._records(), size))

    def _expected(self, rates: ClientRates) -> float:
        """Requests expected of a client in the span asked for, before scaling."""
        from_s = np.maximum(rates.start_s, self._options.start_s)
        to_s = np.minimum(rates.start_s + WINDOW_S, self._end_s)
        return float((rates.rate_per_s * np.maximum(to_s - from_s, 0)).sum())

    def _records(self) -> Iterator[pa.RecordBatch]:
        first_s: float | None = None
        rows = 0
        for time_s, prompt, output in self._windows():
            if not len(time_s):
                continue
            first_s = float(time_s[0]) if first_s is None else first_s
            keep = len(time_s) if self._options.requests is None else self._options.requests - rows
            columns = {ARRIVAL: time_s - first_s, PROMPT: prompt, OUTPUT: output}
            yield pa.RecordBatch.from_pydict({name: pa.array(values[:keep]) for name, values in columns.items()})
            rows += len(time_s)
            if rows >= (self._options.requests or np.inf):
                return

    def _windows(self) -> Iterator[tuple[Floats, Ints, Ints]]:
        """Arrival times and lengths, window by window, sorted by (time, client)."""
        begin_s = self._options.start_s
        walkers = {client: _Walker(rates) for client, rates in sorted(self._clients.items())}
        for window_s in range(int(begin_s // WINDOW_S) * WINDOW_S, int(np.ceil(self._end_s)), WINDOW_S):
            from_s, to_s = max(float(window_s), begin_s), min(float(window_s + WINDOW_S), self._end_s)
            expected = self._scale * sum(walker.rate_per_s(window_s) for walker in walkers.values()) * (to_s - from_s)
            parts = max(1, int(np.ceil(expected / _MOST_EXPECTED)))
            edges = np.linspace(from_s, to_s, parts + 1)
            for part in range(parts):
                name = f"{SERVEGEN} {part}" if part else SERVEGEN
                rng = stream(self._options.seed, name, window_s // WINDOW_S)
                yield from self._part(walkers, rng, window_s, float(edges[part]), float(edges[part + 1]))

    def _part(
        self, walkers: Mapping[int, _Walker], rng: np.random.Generator, window_s: int, from_s: float, to_s: float
    ) -> Iterator[tuple[Floats, Ints, Ints]]:
        """What all clients send in from_s..to_s, which lie in the window that starts at window_s."""
        drawn = []
        for client, walker in walkers.items():
            time_s = walker.arrivals(rng, window_s, from_s, to_s, self._scale)
            if len(time_s):
                drawn.append((time_s, *self._lengths_at(client, window_s).draw(rng, len(time_s))))
        if drawn:
            columns: list[NDArray[np.generic]] = [np.concatenate(column) for column in zip(*drawn, strict=True)]
            order = np.argsort(columns[0], kind="stable")
            yield columns[0][order], columns[1][order], columns[2][order]  # type: ignore[misc]  # mixed dtypes

    def _lengths_at(self, client: int, time_s: int) -> ClientLengths:
        periods = self._lengths[client]
        return periods[max(start_s for start_s in periods if start_s <= time_s)]


class _Walker:
    """One client's renewal process on its way through the windows."""

    def __init__(self, rates: ClientRates) -> None:
        self._rates = rates
        self._place = {int(start_s): index for index, start_s in enumerate(rates.start_s)}
        self._left: float | None = None  # units of operational time to the next arrival

    def rate_per_s(self, window_s: int) -> float:
        """Mean arrivals per second in the window that starts at window_s, before scaling."""
        index = self._place.get(window_s)
        return 0.0 if index is None else float(self._rates.rate_per_s[index])

    def arrivals(self, rng: np.random.Generator, window_s: int, from_s: float, to_s: float, scale: float) -> Floats:
        """Arrivals in from_s..to_s, which lie in the window that starts at window_s."""
        index = self._place.get(window_s)
        if index is None:
            return np.empty(0)
        rate_per_s = float(self._rates.rate_per_s[index]) * scale
        gaps = Gaps(self._rates.family[index], float(self._rates.shape[index]))
        room = rate_per_s * (to_s - from_s)
        if self._left is None:
            self._left = float(gaps.draw(rng, 1)[0] * rng.random())  # t = 0 falls somewhere in a gap
        steps = [np.array([self._left])]
        reached = self._left
        while reached <= room:
            more = gaps.draw(rng, int(room - reached) + 16)
            steps.append(more)
            reached += float(more.sum())
        times = np.cumsum(np.concatenate(steps))
        inside = int(np.searchsorted(times, room, side="right"))
        self._left = float(times[inside]) - room if inside < len(times) else 0.0
        return from_s + times[:inside] / rate_per_s

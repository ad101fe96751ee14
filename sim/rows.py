"""Rows of requests.parquet: finished tickets turned into columns, in order of their ids."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from afterwatt.reports.columns import REQUESTS, Values, completed
from afterwatt.sim.clock import S_PER_PS
from afterwatt.sim.ticket import Ticket

Columns = Mapping[str, Values]


class RowOrder:
    """Hands rows on in order of the request ids, holding back those that finished before an earlier one.

    Args:
        sink: takes them; None where nobody wants them.
        warmup_ps: requests that arrive before are left out of the statistics.
        front_ps: see `columns_of`.
        at_once: rows that are handed on together, or more.

    Attributes:
        count: rows handed on, or about to be.
    """

    def __init__(
        self, sink: Callable[[Columns], None] | None, warmup_ps: int = 0, front_ps: int = 0, at_once: int = 1
    ) -> None:
        self._sink = sink
        self._front_ps = front_ps
        self._warmup_ps = warmup_ps
        self._at_once = at_once
        self._held: dict[int, Ticket] = {}
        self._ready: list[Ticket] = []
        self.count = 0

    def add(self, tickets: list[Ticket], last: bool = False) -> None:
        """Take tickets about which everything is known; with `last`, nothing is held back any more."""
        held, ready = self._held, self._ready
        before = len(ready)
        for ticket in tickets:
            held[ticket.seq_id] = ticket
        following = self.count
        while (found := held.pop(following, None)) is not None:
            ready.append(found)
            following += 1
        if last:
            ready += [held[number] for number in sorted(held)]
        self.count += len(ready) - before
        if ready and (last or len(ready) >= self._at_once):
            if self._sink is not None:
                self._sink(columns_of(ready, self._warmup_ps, self._front_ps))
            self._ready = []


TIMES_PS: Final = {
    "arrival_s": attrgetter("arrival_ps"),
    "scheduled_s": attrgetter("scheduled_ps"),
    "first_token_s": attrgetter("first_ps"),
    "finish_s": attrgetter("finish_ps"),
    "longest_stall_s": attrgetter("stall_ps"),
}
"""Column of requests.parquet -> how it is read off a ticket, in picoseconds (None: not yet)."""
SEEN_BY_CLIENTS: Final = ("first_token_s", "finish_s")
"""Times at the client, behind the server's front end; the others are the worker's."""
FIELDS: Final[Mapping[str, Callable[[Ticket], object]]] = {
    "request_id": attrgetter("seq_id"),
    "class": attrgetter("klass"),
    "session": attrgetter("session"),
    "prompt_tokens": attrgetter("prompt_tokens"),
    "output_tokens": attrgetter("output_tokens"),
    "replica": attrgetter("replica"),
    "reject_reason": attrgetter("refused"),
    "cached_tokens": attrgetter("cached_tokens"),
    "preemptions": attrgetter("preemptions"),
    "energy_j": attrgetter("energy_j"),
}
"""The same for what is no time; what follows from all these `reports.columns` works out."""


def columns_of(tickets: list[Ticket], warmup_ps: int = 0, front_ps: int = 0) -> Columns:
    """Return the columns of requests.parquet for tickets; null is NaN in floats, None elsewhere.

    Args:
        tickets: about which everything is known.
        warmup_ps: requests that arrive before are left out of the statistics.
        front_ps: by how much later tokens reach the client than the worker has them; see `Stack.front_s`.
    """
    found: dict[str, Values] = {
        name: _seconds(list(map(read, tickets)), front_ps if name in SEEN_BY_CLIENTS else 0)
        for name, read in TIMES_PS.items()
    }
    for column in REQUESTS:
        if column.name in FIELDS:
            found[column.name] = column.array(list(map(FIELDS[column.name], tickets)))
    found["in_stats"] = np.array([ticket.arrival_ps >= warmup_ps for ticket in tickets], dtype=bool)
    return completed(found)


def _seconds(times_ps: Sequence[int | None], later_ps: int = 0) -> NDArray[np.float64]:
    """Return picoseconds, so much later, as seconds; None as NaN."""
    times: NDArray[np.int64] | NDArray[np.float64]
    try:
        times = np.array(times_ps, dtype=np.int64)  # in a third of the time, where all are known and below 106 days
    except (TypeError, OverflowError):
        times = np.array(times_ps, dtype=np.float64)
    times_s: NDArray[np.float64] = np.multiply(times + later_ps if later_ps else times, S_PER_PS)
    return times_s

"""Rows of requests.parquet: finished tickets turned into columns, in order of their ids."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from sim.clock import S_PER_PS
from sim.ticket import Ticket

Columns = Mapping[str, NDArray[np.generic] | list[str | None]]


class RowOrder:
    """Hands rows on in order of the request ids, holding back those that finished before an earlier one.

    Attributes:
        count: rows handed on.
    """

    def __init__(self, sink: Callable[[Columns], None]) -> None:
        self._sink = sink
        self._held: list[Ticket] = []
        self.count = 0

    def add(self, tickets: list[Ticket], last: bool = False) -> None:
        """Take tickets about which everything is known; with `last`, nothing is held back any more."""
        held = sorted(self._held + tickets, key=lambda ticket: ticket.seq_id)
        ready = len(held)
        if not last:
            ids = np.array([ticket.seq_id for ticket in held], dtype=np.int64)
            gaps = np.flatnonzero(ids != self.count + np.arange(len(ids)))
            ready = int(gaps[0]) if len(gaps) else len(ids)
        if ready:
            self._sink(columns_of(held[:ready]))
            self.count += ready
        self._held = held[ready:]


def columns_of(tickets: list[Ticket]) -> Columns:
    """Return the columns of requests.parquet for tickets; null is NaN in floats, -1 in `replica`, None in texts."""
    arrival = _seconds([t.arrival_ps for t in tickets])
    scheduled = _seconds([t.scheduled_ps for t in tickets])
    first = _seconds([t.first_ps for t in tickets])
    finish = _seconds([t.finish_ps for t in tickets])
    output = np.array([t.output_tokens for t in tickets], dtype=np.int32)
    stall = np.array([t.stall_ps for t in tickets], dtype=np.float64) * S_PER_PS
    finished = ~np.isnan(finish)
    many = finished & (output > 1)
    tpot = np.full(len(tickets), np.nan)
    np.divide(finish - first, output - 1.0, out=tpot, where=many)
    status = ["rejected" if t.refused else "finished" if t.finish_ps is not None else "unfinished" for t in tickets]
    energy = np.array([np.nan if t.refused else t.energy_j for t in tickets])
    return {
        "request_id": np.array([t.seq_id for t in tickets], dtype=np.int64),
        "arrival_s": arrival,
        "class": [t.klass for t in tickets],
        "session": [None if t.session is None else str(t.session) for t in tickets],
        "prompt_tokens": np.array([t.prompt_tokens for t in tickets], dtype=np.int32),
        "output_tokens": output,
        "replica": [t.replica for t in tickets],  # type: ignore[dict-item]
        "status": status,
        "reject_reason": [t.refused for t in tickets],
        "cached_tokens": np.array([t.cached_tokens for t in tickets], dtype=np.int32),
        "scheduled_s": scheduled,
        "first_token_s": first,
        "finish_s": finish,
        "ttft_s": first - arrival,
        "tpot_s": tpot,
        "e2e_s": finish - arrival,
        "longest_stall_s": np.where(many, stall, np.nan),
        "preemptions": np.array([t.preemptions for t in tickets], dtype=np.int32),
        "energy_j": energy,
        "in_stats": np.array([t.in_stats for t in tickets], dtype=bool),
    }


def _seconds(times_ps: list[int | None]) -> NDArray[np.float64]:
    """Picoseconds to seconds, None to NaN."""
    return np.array([np.nan if time is None else time for time in times_ps], dtype=np.float64) * S_PER_PS

"""Rows of requests.parquet: finished tickets turned into columns, in order of their ids."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from afterwatt.sim.clock import S_PER_PS
from afterwatt.sim.ticket import Ticket

Columns = Mapping[str, NDArray[np.generic] | Sequence[object]]


class RowOrder:
    """Hands rows on in order of the request ids, holding back those that finished before an earlier one.

    Args:
        sink: takes them; None where nobody wants them.
        warmup_ps: requests that arrive before are left out of the statistics.

    Attributes:
        count: rows handed on.
    """

    def __init__(self, sink: Callable[[Columns], None] | None, warmup_ps: int = 0) -> None:
        self._sink = sink
        self._warmup_ps = warmup_ps
        self._held: list[Ticket] = []
        self.count = 0

    def add(self, tickets: list[Ticket], last: bool = False) -> None:
        """Take tickets about which everything is known; with `last`, nothing is held back any more."""
        held = sorted(self._held + tickets, key=_ID)
        ready = len(held)
        if not last:
            ids = np.array([ticket.seq_id for ticket in held], dtype=np.int64)
            gaps = np.flatnonzero(ids != self.count + np.arange(len(ids)))
            ready = int(gaps[0]) if len(gaps) else len(ids)
        if ready and self._sink is not None:
            self._sink(columns_of(held[:ready], self._warmup_ps))
        self.count += ready
        self._held = held[ready:]


_ID = attrgetter("seq_id")


def columns_of(tickets: list[Ticket], warmup_ps: int = 0) -> Columns:
    """Return the columns of requests.parquet for tickets; null is NaN in floats, None elsewhere."""
    arrivals_ps = [ticket.arrival_ps for ticket in tickets]
    arrival = _seconds(arrivals_ps)
    scheduled = _seconds([ticket.scheduled_ps for ticket in tickets])
    first = _seconds([ticket.first_ps for ticket in tickets])
    finish = _seconds([ticket.finish_ps for ticket in tickets])
    reasons = [ticket.refused for ticket in tickets]
    output = np.array([ticket.output_tokens for ticket in tickets], dtype=np.int32)
    finished = ~np.isnan(finish)
    many = finished & (output > 1)
    tpot = np.full(len(tickets), np.nan)
    np.divide(finish - first, output - 1.0, out=tpot, where=many)
    refused = np.array([reason is not None for reason in reasons], dtype=bool)
    status = np.where(refused, "rejected", np.where(finished, "finished", "unfinished")).tolist()
    return {
        "request_id": np.array([ticket.seq_id for ticket in tickets], dtype=np.int64),
        "arrival_s": arrival,
        "class": [ticket.klass for ticket in tickets],
        "session": [ticket.session for ticket in tickets],
        "prompt_tokens": np.array([ticket.prompt_tokens for ticket in tickets], dtype=np.int32),
        "output_tokens": output,
        "replica": [ticket.replica for ticket in tickets],
        "status": status,
        "reject_reason": reasons,
        "cached_tokens": np.array([ticket.cached_tokens for ticket in tickets], dtype=np.int32),
        "scheduled_s": scheduled,
        "first_token_s": first,
        "finish_s": finish,
        "ttft_s": first - arrival,
        "tpot_s": tpot,
        "e2e_s": finish - arrival,
        "longest_stall_s": np.where(many, _seconds([ticket.stall_ps for ticket in tickets]), np.nan),
        "preemptions": np.array([ticket.preemptions for ticket in tickets], dtype=np.int32),
        "energy_j": np.where(refused, np.nan, np.array([ticket.energy_j for ticket in tickets])),
        "in_stats": np.array([arrival_ps >= warmup_ps for arrival_ps in arrivals_ps], dtype=bool),
    }


def _seconds(times_ps: Sequence[int | None]) -> NDArray[np.float64]:
    """Return picoseconds as seconds, None as NaN."""
    times: NDArray[np.int64] | NDArray[np.float64]
    try:
        times = np.array(times_ps, dtype=np.int64)  # in a third of the time, where all are known and below 106 days
    except (TypeError, OverflowError):
        times = np.array(times_ps, dtype=np.float64)
    times_s: NDArray[np.float64] = np.multiply(times, S_PER_PS)
    return times_s

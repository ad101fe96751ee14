"""Rows of requests.parquet: finished tickets turned into columns, in order of their ids."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from sim.clock import S_PER_PS
from sim.ticket import Ticket

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
        held = sorted(self._held + tickets, key=lambda ticket: ticket.seq_id)
        ready = len(held)
        if not last:
            ids = np.array([ticket.seq_id for ticket in held], dtype=np.int64)
            gaps = np.flatnonzero(ids != self.count + np.arange(len(ids)))
            ready = int(gaps[0]) if len(gaps) else len(ids)
        if ready and self._sink is not None:
            self._sink(columns_of(held[:ready], self._warmup_ps))
        self.count += ready
        self._held = held[ready:]


FIELDS = (
    "seq_id",
    "arrival_ps",
    "klass",
    "session",
    "prompt_tokens",
    "output_tokens",
    "replica",
    "refused",
    "cached_tokens",
    "scheduled_ps",
    "first_ps",
    "finish_ps",
    "stall_ps",
    "preemptions",
    "energy_j",
)
_read = attrgetter(*FIELDS)


def columns_of(tickets: list[Ticket], warmup_ps: int = 0) -> Columns:
    """Return the columns of requests.parquet for tickets; null is NaN in floats, None elsewhere."""
    read = dict(zip(FIELDS, zip(*map(_read, tickets), strict=True), strict=True))
    arrival, scheduled, first, finish = (
        np.array(read[name], dtype=np.float64) * S_PER_PS  # None becomes NaN
        for name in ("arrival_ps", "scheduled_ps", "first_ps", "finish_ps")
    )
    output = np.array(read["output_tokens"], dtype=np.int32)
    finished = ~np.isnan(finish)
    many = finished & (output > 1)
    tpot = np.full(len(tickets), np.nan)
    np.divide(finish - first, output - 1.0, out=tpot, where=many)
    refused = np.array([reason is not None for reason in read["refused"]], dtype=bool)
    status = np.where(refused, "rejected", np.where(finished, "finished", "unfinished")).tolist()
    return {
        "request_id": np.array(read["seq_id"], dtype=np.int64),
        "arrival_s": arrival,
        "class": read["klass"],
        "session": read["session"],
        "prompt_tokens": np.array(read["prompt_tokens"], dtype=np.int32),
        "output_tokens": output,
        "replica": read["replica"],
        "status": status,
        "reject_reason": read["refused"],
        "cached_tokens": np.array(read["cached_tokens"], dtype=np.int32),
        "scheduled_s": scheduled,
        "first_token_s": first,
        "finish_s": finish,
        "ttft_s": first - arrival,
        "tpot_s": tpot,
        "e2e_s": finish - arrival,
        "longest_stall_s": np.where(many, np.array(read["stall_ps"], dtype=np.float64) * S_PER_PS, np.nan),
        "preemptions": np.array(read["preemptions"], dtype=np.int32),
        "energy_j": np.where(refused, np.nan, np.array(read["energy_j"])),
        "in_stats": np.array([arrival_ps >= warmup_ps for arrival_ps in read["arrival_ps"]], dtype=bool),
    }

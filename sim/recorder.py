"""What happened, written down cheaply while it happens and worked out later, many strides at a time.

The hot loop appends one tuple per stride. Energy, stalls, inter-token gaps and the time series follow from closed forms
over whole arrays of strides: `settle` does that every so often, so that memory does not grow with the run.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.clock import S_PER_PS
from sim.histogram import LogHistogram
from sim.ticket import Ticket
from sim.timeline import Bins

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Stride(NamedTuple):
    """Iterations k < steps of one plan, of first_ps + slope_ps * k each; see `PlanArrays` for the chunk sums."""

    start_ps: int
    busy_ps: int
    end_ps: int
    steps: int
    first_ps: int
    slope_ps: int
    decoding: int
    context_tokens: int
    emits: int
    chunk_tokens: int
    chunk_past: int
    chunk_pairs: int
    chunk_pairs_slope: int
    running: int
    used_blocks: int
    swapped_blocks: int


DECODING = Stride._fields.index("decoding")
END = Stride._fields.index("end_ps")
Span = tuple[Ticket, int, int, int, bool]
"""A ticket's membership of a lane's decode group: (ticket, first stride, one past the last, `last_ps`, `carried`)."""


class Lane:
    """The strides of one decode group, in order.

    Attributes:
        strides: those not yet settled (the fields of `Stride`); base: the index of the first of them.
        spans: memberships that ended since the last settlement.
        prefills: (ticket, stride index, share of the stride's prompt tokens).
        lost_gaps: gaps between output tokens across a preemption, in picoseconds.
        queue_jumps: (time, +1 or -1) of each change of the number that wait.
        live: tickets that are members now.
        decoded: (index, end) of the last decode stride before `strides`; index -1: none yet.
    """

    def __init__(self, replica: int) -> None:
        self.replica = replica
        self.strides: list[tuple[int, ...]] = []
        self.base = 0
        self.spans: list[Span] = []
        self.prefills: list[tuple[Ticket, int, float]] = []
        self.lost_gaps: list[int] = []
        self.queue_jumps: list[tuple[int, int]] = []
        self.live: dict[int, Ticket] = {}
        self.decoded = (-1, 0)

    def leave(self, ticket: Ticket) -> None:
        """End a ticket's membership with the last stride noted."""
        del self.live[ticket.seq_id]
        self.spans.append((ticket, ticket.joined, self.base + len(self.strides), ticket.last_ps, ticket.carried))
        ticket.carried = False

    def lose(self, ticket: Ticket) -> None:
        """End the membership of a ticket that is preempted, and note when it produced its last token."""
        self.leave(ticket)
        index, end_ps = self.last_decode()
        if index >= ticket.joined:
            ticket.last_ps = end_ps

    def join(self, ticket: Ticket) -> None:
        """Begin a membership with the next stride."""
        ticket.joined = self.base + len(self.strides)
        self.live[ticket.seq_id] = ticket

    def last_decode(self) -> tuple[int, int]:
        """Return (index, end) of the last stride that decoded."""
        for back, stride in enumerate(reversed(self.strides)):
            if stride[DECODING]:
                return self.base + len(self.strides) - 1 - back, stride[END]
        return self.decoded

    def take(self) -> tuple[Ints, list[Span], int]:
        """Hand over what is to be settled: (strides by column, memberships, end of the last decode stride before them)."""
        columns = np.array(self.strides, dtype=np.int64).reshape(len(self.strides), len(Stride._fields)).T
        count = self.base + len(self.strides)
        before = self.decoded[1]
        self.decoded = self.last_decode()
        index, end_ps = self.decoded
        for ticket in self.live.values():
            if index >= ticket.joined:  # else it has not decoded yet: all is still to come
                self.spans.append((ticket, ticket.joined, count, ticket.last_ps, ticket.carried))
                ticket.joined, ticket.carried, ticket.last_ps = count, True, end_ps
        spans = self.spans
        self.strides, self.spans, self.base = [], [], count
        return columns, spans, before


QUANTITIES = (
    "prefill_s",
    "decode_s",
    "batch_s",
    "kv_block_s",
    "prompt_tokens",
    "output_tokens",
    "gpu_dynamic_prefill_j",
    "gpu_dynamic_decode_j",
    "hbm_bytes",
    "link_bytes",
    "dram_to_hbm_bytes",
)


class StrideEnergy(NamedTuple):
    """Per stride: dynamic energy above idle, energy shared out to requests, and bytes."""

    dynamic_j: Floats
    active_j: Floats
    hbm_bytes: Floats
    link_bytes: Floats
    dram_to_hbm_bytes: Floats


class StrideMeter(Protocol):
    """Works out `StrideEnergy` from stride columns; `sim.meter` has the one that knows the physics."""

    def __call__(self, columns: Ints) -> StrideEnergy:
        """Return energies and bytes of the strides."""


def settle(lane: Lane, meter: StrideMeter, bins: Bins, gaps: LogHistogram) -> None:
    """Work out everything about a lane's strides since the last settlement."""
    base = lane.base
    columns, spans, before_ps = lane.take()
    jumps, lane.queue_jumps = lane.queue_jumps, []
    if jumps:
        at, by = np.array(jumps, dtype=np.int64).T
        bins.step(lane.replica, at, by.astype(np.float64))
    lost, lane.lost_gaps = lane.lost_gaps, []
    if lost:
        gaps.add(np.array(lost) * S_PER_PS, np.ones(len(lost)))
    prefills, lane.prefills = lane.prefills, []
    if not columns.shape[1]:
        return
    energy = meter(columns)
    tokens = columns[DECODING] + columns[9]
    decode_share = np.divide(columns[DECODING], tokens, out=np.zeros(len(tokens)), where=tokens > 0)
    _share_energy(columns, energy.active_j, decode_share, spans, prefills, base)
    _note_gaps(columns, spans, gaps, base, before_ps)
    _note_time(lane.replica, columns, energy, decode_share, bins)


def _share_energy(
    columns: Ints,
    active_j: Floats,
    decode_share: Floats,
    spans: list[Span],
    prefills: list[tuple[Ticket, int, float]],
    base: int,
) -> None:
    """Give each ticket its part: decoding shared equally among the members, prompts by their tokens."""
    decoding = columns[DECODING]
    each = np.divide(active_j * decode_share, decoding, out=np.zeros(len(decoding)), where=decoding > 0)
    total = np.concatenate(([0.0], np.cumsum(each)))
    if spans:
        tickets, joined, left, _, _ = zip(*spans, strict=True)
        start = np.maximum(np.array(joined) - base, 0)  # before, it did not decode
        for ticket, part in zip(tickets, (total[np.array(left) - base] - total[start]).tolist(), strict=True):
            ticket.energy_j += part
    if prefills:
        tickets, index, share = zip(*prefills, strict=True)
        parts = (active_j * (1.0 - decode_share))[np.array(index) - base] * share
        for ticket, part in zip(tickets, parts.tolist(), strict=True):
            ticket.energy_j += part


def _note_gaps(columns: Ints, spans: list[Span], gaps: LogHistogram, base: int, before_ps: int) -> None:
    """Note the times between output tokens, and each ticket's longest."""
    decodes = np.flatnonzero(columns[DECODING] > 0)
    if not len(decodes):
        return
    _, _, end, steps, first, slope, decoding = columns[:7, decodes]
    first_end = end - (steps * first + slope * (steps * (steps - 1) // 2)) + first
    since = np.concatenate(([before_ps], end[:-1]))
    first_gap = first_end - since  # what a member feels that decoded in the stride before
    last_step = np.where(steps > 1, first + slope * (steps - 1), 0)
    longest = np.maximum(first_gap, last_step)
    weight = decoding.astype(np.float64)
    if spans:
        tickets, joined, left, last_ps, carried = zip(*spans, strict=True)
        # Positions among the decode strides: the member's first one, and one past its last.
        begin = np.searchsorted(decodes, np.array(joined) - base)
        stop = np.searchsorted(decodes, np.array(left) - base)
        some = begin < stop
        at = np.where(some, begin, 0)
        fresh = some & ~np.array(carried)
        own_gap = np.where(fresh, first_end[at] - np.array(last_ps), first_gap[at])
        own = np.where(some, np.maximum(own_gap, last_step[at]), 0)
        own = np.maximum(own, _range_max(longest, begin + 1, stop))
        for ticket, value in zip(tickets, own.tolist(), strict=True):
            if value > ticket.stall_ps:
                ticket.stall_ps = value
        weight -= np.bincount(at[fresh], minlength=len(weight))
        gaps.add(own_gap[fresh] * S_PER_PS, np.ones(int(fresh.sum())))
    gaps.add(first_gap * S_PER_PS, weight)
    gaps.add_runs((first + slope) * S_PER_PS, slope * S_PER_PS, steps - 1, decoding.astype(np.float64))


def _range_max(values: Ints, begin: Ints, stop: Ints) -> Ints:
    """Return max(values[b:s]) for each range, 0 for an empty one."""
    if not len(begin):
        return np.zeros(0, dtype=np.int64)
    padded = np.append(values, 0)
    pairs = np.stack([begin, np.maximum(begin, stop)], axis=1).ravel()
    result: Ints = np.where(begin < stop, np.maximum.reduceat(padded, np.minimum(pairs, len(values)))[::2], 0)
    return result


def _note_time(replica: int, columns: Ints, energy: StrideEnergy, decode_share: Floats, bins: Bins) -> None:
    """Spread the strides over the time series."""
    start, busy, end, steps = columns[:4]
    busy_s = busy * S_PER_PS
    span_s = (end - start) * S_PER_PS
    amounts = np.stack(
        [
            busy_s * (1.0 - decode_share),
            busy_s * decode_share,
            columns[13] * span_s,
            columns[14] * span_s,
            columns[9] * steps,
            columns[8] * steps,
            energy.dynamic_j * (1.0 - decode_share),
            energy.dynamic_j * decode_share,
            energy.hbm_bytes,
            energy.link_bytes,
            energy.dram_to_hbm_bytes,
        ]
    ).astype(np.float64)
    bins.spread(replica, start, end, amounts)

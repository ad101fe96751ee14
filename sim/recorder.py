"""What happened, written down cheaply while it happens and worked out later, many strides at a time.

The hot loop appends one tuple per stride. Energy, stalls, inter-token gaps and the time series follow from closed forms
over whole arrays of strides: `settle` does that every so often, so that memory does not grow with the run.
"""

from array import array
from struct import Struct
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
    """Iterations k < steps of one plan, of first_ps + slope_ps * k each; see `PlanArrays` for the chunk sums.

    Times count from the lane's `origin_ps`: 64 bits of picoseconds are 106 days.
    """

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
    grown_blocks: int
    swapped_blocks: int


WIDTH = len(Stride._fields)
_PACKED = Struct(f"={WIDTH}q")
STRIDE_BYTES = _PACKED.size
pack_stride = _PACKED.pack
"""The fields of a stride as bytes: a third of the time that an array of integers takes to grow by them."""
DECODING = Stride._fields.index("decoding")
END = Stride._fields.index("end_ps")


class Spans(NamedTuple):
    """Memberships of a lane's decode group, one per position.

    Attributes:
        tickets: whose.
        joined, left: first stride, and one past the last.
        last_ps: the ticket's last token before; carried: whether it decoded in the lane right before `joined`.
    """

    tickets: list[Ticket]
    joined: Ints
    left: Ints
    last_ps: Ints
    carried: Ints


class Prefills(NamedTuple):
    """Prompt pieces, one per position: whose, in which stride, and the share of the stride's prompt tokens."""

    tickets: list[Ticket]
    stride: Ints
    share: Floats


class Lane:
    """The strides of one decode group, in order, and who took part in them.

    Numbers go into flat arrays of 64-bit integers: a tenth of the memory of tuples, and nothing to convert later.

    Attributes:
        strides: those not yet settled, packed one after another; base: the index of the first.
        prefill_tickets, prefill_numbers: prompt pieces, (stride index, tokens, tokens of the stride) each.
        queue_jumps: (time, +1 or -1) of each change of the number that wait.
        level_jumps: (time, change of running sequences, change of KV blocks in use) each; only where plans overlap, as
            strides that follow one another say it themselves.
        origin_ps: where the times in these arrays count from: the end of the last stride that is settled.
        lost_gaps: gaps between output tokens across a preemption, in picoseconds.
        live: tickets that are members now.
        decoded: (index, end) of the last decode stride before `strides`; index -1: none yet.
    """

    def __init__(self, replica: int) -> None:
        self.replica = replica
        self.strides = bytearray()
        self.base = 0
        self.prefill_tickets: list[Ticket] = []
        self.prefill_numbers = array("q")
        self.queue_jumps = array("q")
        self.level_jumps = array("q")
        self.origin_ps = 0
        self.lost_gaps: list[int] = []
        self.live: dict[int, Ticket] = {}
        self.decoded = (-1, 0)
        self._span_tickets: list[Ticket] = []
        self._span_numbers = array("q")

    def count_from(self, now_ps: int) -> None:
        """Let times count from now, if nothing is noted that counts from before; for a lane that has rested."""
        if not (self.strides or self.queue_jumps or self.level_jumps or self.live or self._span_tickets):
            self.origin_ps = now_ps

    def leave(self, ticket: Ticket) -> None:
        """End a ticket's membership with the last stride noted."""
        del self.live[ticket.seq_id]
        self._span_tickets.append(ticket)
        count = self.base + len(self.strides) // STRIDE_BYTES
        self._span_numbers.extend((ticket.joined, count, ticket.last_ps - self.origin_ps, ticket.carried))
        ticket.carried = False

    def lose(self, ticket: Ticket) -> None:
        """End the membership of a ticket that is preempted, and note when it produced its last token."""
        self.leave(ticket)
        index, end_ps = self.last_decode()
        if index >= ticket.joined:
            ticket.last_ps = end_ps

    def join(self, ticket: Ticket) -> None:
        """Begin a membership with the next stride."""
        ticket.joined = self.base + len(self.strides) // STRIDE_BYTES
        self.live[ticket.seq_id] = ticket

    def last_decode(self) -> tuple[int, int]:
        """Return (index, end) of the last stride that decoded."""
        for at in range(len(self.strides) - STRIDE_BYTES, -1, -STRIDE_BYTES):
            stride = _PACKED.unpack_from(self.strides, at)
            if stride[DECODING]:
                return self.base + at // STRIDE_BYTES, stride[END] + self.origin_ps
        return self.decoded

    def take(self) -> tuple[Ints, Spans, Prefills, int]:
        """Hand over what is to be settled: (strides by column, memberships, prompt pieces, last decode before)."""
        columns = np.frombuffer(bytes(self.strides), dtype=np.int64).reshape(-1, WIDTH).T.copy()
        count = self.base + columns.shape[1]
        before_ps = max(self.decoded[1] - self.origin_ps, -(1 << 62))  # so long ago that nobody decodes since
        index, end_ps = self.decoded = self.last_decode()
        for ticket in self.live.values():
            if index >= ticket.joined:  # else it has not decoded yet: all is still to come
                self._span_tickets.append(ticket)
                self._span_numbers.extend((ticket.joined, count, ticket.last_ps - self.origin_ps, ticket.carried))
                ticket.joined, ticket.carried, ticket.last_ps = count, True, end_ps
        spans = Spans(self._span_tickets, *np.array(self._span_numbers, dtype=np.int64).reshape(-1, 4).T)
        stride, tokens, total = np.array(self.prefill_numbers, dtype=np.int64).reshape(-1, 3).T
        prefills = Prefills(self.prefill_tickets, stride, tokens / np.maximum(total, 1))
        if columns.shape[1]:
            self.origin_ps += int(columns[END, -1])
        self.strides, self.base = bytearray(), count
        self._span_tickets, self._span_numbers = [], array("q")
        self.prefill_tickets, self.prefill_numbers = [], array("q")
        return columns, spans, prefills, before_ps


WAITING, RUNNING, HOLDING = range(3)
"""Levels that change by jumps: requests that wait, sequences that run, KV blocks in use."""
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
    base, origin_ps = lane.base, lane.origin_ps
    columns, spans, prefills, before_ps = lane.take()
    jumps, lane.queue_jumps = np.array(lane.queue_jumps, dtype=np.int64).reshape(-1, 2).T, array("q")
    bins.step(WAITING, lane.replica, origin_ps, jumps[0], jumps[1].astype(np.float64))
    levels, lane.level_jumps = np.array(lane.level_jumps, dtype=np.int64).reshape(-1, 3).T, array("q")
    bins.step(RUNNING, lane.replica, origin_ps, levels[0], levels[1].astype(np.float64))
    bins.step(HOLDING, lane.replica, origin_ps, levels[0], levels[2].astype(np.float64))
    lost, lane.lost_gaps = lane.lost_gaps, []
    gaps.add(np.array(lost) * S_PER_PS, np.ones(len(lost)))
    if not columns.shape[1]:
        return
    energy = meter(columns)
    tokens = columns[DECODING] + columns[9]
    decode_share = np.divide(columns[DECODING], tokens, out=np.zeros(len(tokens)), where=tokens > 0)
    _share_energy(columns, energy.active_j, decode_share, spans, prefills, base)
    _note_gaps(columns, spans, gaps, base, before_ps)
    _note_time(lane.replica, origin_ps, columns, energy, decode_share, bins)


def _share_energy(
    columns: Ints, active_j: Floats, decode_share: Floats, spans: Spans, prefills: Prefills, base: int
) -> None:
    """Give each ticket its part: decoding shared equally among the members, prompts by their tokens."""
    decoding = columns[DECODING]
    each = np.divide(active_j * decode_share, decoding, out=np.zeros(len(decoding)), where=decoding > 0)
    total = np.concatenate(([0.0], np.cumsum(each)))
    start = np.maximum(spans.joined - base, 0)  # before, it did not decode
    for ticket, part in zip(spans.tickets, (total[spans.left - base] - total[start]).tolist(), strict=True):
        ticket.energy_j += part
    parts = (active_j * (1.0 - decode_share))[prefills.stride - base] * prefills.share
    for ticket, part in zip(prefills.tickets, parts.tolist(), strict=True):
        ticket.energy_j += part


def _note_gaps(columns: Ints, spans: Spans, gaps: LogHistogram, base: int, before_ps: int) -> None:
    """Note the times between output tokens, and each ticket's longest."""
    decodes = np.flatnonzero(columns[DECODING] > 0)
    if not len(decodes):
        return
    _, _, end, steps, first, slope, decoding = columns[:7, decodes]
    first_end = end - (steps * first + slope * (steps * (steps - 1) // 2)) + first
    since = np.concatenate(([before_ps], end[:-1]))
    first_gap = first_end - since  # what a member feels that decoded in the stride before
    last_step = np.where(steps > 1, first + slope * (steps - 1), 0)
    # Positions among the decode strides: the member's first one, and one past its last.
    begin = np.searchsorted(decodes, spans.joined - base)
    stop = np.searchsorted(decodes, spans.left - base)
    some = begin < stop
    at = np.where(some, begin, 0)
    fresh = some & (spans.carried == 0)
    own_gap = np.where(fresh, first_end[at] - spans.last_ps, first_gap[at])
    own = np.where(some, np.maximum(own_gap, last_step[at]), 0)
    own = np.maximum(own, _range_max(np.maximum(first_gap, last_step), begin + 1, stop))
    for ticket, value in zip(spans.tickets, own.tolist(), strict=True):
        if value > ticket.stall_ps:
            ticket.stall_ps = value
    weight = decoding - np.bincount(at[fresh], minlength=len(decoding))
    gaps.add(own_gap[fresh] * S_PER_PS, np.ones(int(fresh.sum())))
    gaps.add(first_gap * S_PER_PS, weight.astype(np.float64))
    gaps.add_runs((first + slope) * S_PER_PS, slope * S_PER_PS, steps - 1, decoding.astype(np.float64))


def _range_max(values: Ints, begin: Ints, stop: Ints) -> Ints:
    """Return max(values[b:s]) for each range, 0 for an empty one."""
    if not len(begin):
        return np.zeros(0, dtype=np.int64)
    padded = np.append(values, 0)
    pairs = np.stack([begin, np.maximum(begin, stop)], axis=1).ravel()
    result: Ints = np.where(begin < stop, np.maximum.reduceat(padded, np.minimum(pairs, len(values)))[::2], 0)
    return result


def _note_time(
    replica: int, origin_ps: int, columns: Ints, energy: StrideEnergy, decode_share: Floats, bins: Bins
) -> None:
    """Spread the strides over the time series; the KV blocks that decoding takes come in evenly along a stride."""
    start, busy, end, steps = columns[:4]
    busy_s = busy * S_PER_PS
    span_s = (end - start) * S_PER_PS
    amounts = np.stack(
        [
            busy_s * (1.0 - decode_share),
            busy_s * decode_share,
            columns[13] * span_s,
            (columns[14] + columns[15] * (steps + 1) / (2.0 * steps)) * span_s,
            columns[9] * steps,
            columns[8] * steps,
            energy.dynamic_j * (1.0 - decode_share),
            energy.dynamic_j * decode_share,
            energy.hbm_bytes,
            energy.link_bytes,
            energy.dram_to_hbm_bytes,
        ]
    ).astype(np.float64)
    bins.spread(replica, origin_ps, start, end, amounts)

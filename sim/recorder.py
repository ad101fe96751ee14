"""What happened, written down cheaply while it happens and worked out later, many strides at a time.

The hot loop packs whole numbers into bytes, a row per stride, prompt piece and membership. Energy, stalls, inter-token
gaps and the time series follow from closed forms over whole arrays of them: `settle` does that every so often, so that
memory does not grow with the run.
"""

from struct import Struct
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.mixers import Bounded
from afterwatt.modelspecs.work import pairs_after, windowed_pairs
from afterwatt.sim.clock import S_PER_PS
from afterwatt.sim.histogram import LogHistogram
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.timeline import Bins

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class NotedStrides(NamedTuple):
    """Iterations k < steps of one plan each, of first_ps + slope_ps * k; arrays over the strides of a lane, in order.

    Times count from the lane's `origin_ps`: 64 bits of picoseconds are 106 days. `seen_tokens`, `seen_growth`: what of
    `context_tokens` lies within the windows of models that have some, and its growth. `extra_tokens`: that members have
    yielded beyond one each per iteration. `passed`: rows of `PASSED_COLUMNS`, empty where no executor notes them.
    """

    start_ps: Ints
    busy_ps: Ints
    end_ps: Ints
    steps: Ints
    first_ps: Ints
    slope_ps: Ints
    decoding: Ints
    context_tokens: Ints
    emits: Ints
    running: Ints
    used_blocks: Ints
    grown_blocks: Ints
    swapped_blocks: Ints
    seen_tokens: Ints
    seen_growth: Ints
    extra_tokens: Ints
    passed: Ints


def _packer(width: int) -> Struct:
    """Pack so many whole numbers into bytes: a third of the time that an array of integers takes to grow by them."""
    return Struct(f"={width}q")


STRIDE_COLUMNS = NotedStrides._fields[:-4]
"""What `pack_stride` takes; `pack_window` takes what is seen, `LaneNotes.extras` the tokens."""
_STRIDE = _packer(len(STRIDE_COLUMNS))
pack_stride = _STRIDE.pack
pack_chunk, pack_span = _packer(3).pack, _packer(4).pack
pack_jump, pack_level_jump = _packer(2).pack, _packer(3).pack
pack_window = _packer(2).pack
PASSED_COLUMNS = ("gpu_ps", "cpu_ps", "link_ps", "disk_ps", "cpu_bytes", "disk_bytes")
pack_passed = _packer(len(PASSED_COLUMNS)).pack
"""Packs what tiers did in a stride, in the order of `PASSED_COLUMNS`."""
DECODING = NotedStrides._fields.index("decoding")
END = NotedStrides._fields.index("end_ps")


def _unpack(rows: bytearray, width: int) -> Ints:
    """Return packed rows as an array of (column, row)."""
    return np.frombuffer(rows, dtype=np.int64).reshape(-1, width).T.copy()


def seconds(times_ps: Ints) -> Floats:
    """Return picoseconds as seconds."""
    times_s: Floats = np.multiply(times_ps, S_PER_PS)
    return times_s


class Spans(NamedTuple):
    """Memberships of a lane's decode group, one per position.

    Attributes:
        tickets: whose.
        joined, left: position of the first stride (negative: settled before), and one past the last.
        last_ps: the ticket's last token before; carried: whether it decoded in the lane right before `joined`.
    """

    tickets: list[Ticket]
    joined: Ints
    left: Ints
    last_ps: Ints
    carried: Ints


class Prefills(NamedTuple):
    """Prompt pieces, one per position: whose, in which stride (by position), and as in `PrefillChunk`."""

    tickets: list[Ticket]
    stride: Ints
    tokens: Ints
    past_tokens: Ints


class ChunkSums(NamedTuple):
    """Sums over the prompt pieces of a stride's first iteration, arrays over strides; see `StepShape`.

    Attributes:
        tokens, past, pairs, pairs_slope: of all layers that see everything.
        bounded: of those with a window, and how many pieces there are; None where nobody asks.
    """

    tokens: Floats
    past: Floats
    pairs: Floats
    pairs_slope: Floats
    bounded: Bounded | None = None


class LaneNotes:
    """The strides of one decode group, in order, and who took part in them.

    Attributes:
        strides: those not yet settled, packed one after another; noted: how many there have been in all, and so the
            index of the next one.
        windows: what each of them sees through a window, where layers have one.
        passed: what tiers did in each of them, where weights are cached.
        extras: (stride index, tokens that members yielded beyond one per iteration), where they do.
        prefill_tickets, prefills: prompt pieces, (stride index, tokens, past tokens) each.
        queue_jumps: (time, +1 or -1) of each change of the number that wait.
        level_jumps: (time, change of running sequences, change of KV blocks in use) each; only where plans overlap, as
            strides that follow one another say it themselves.
        origin_ps: where the times in these rows count from: the end of the last stride that is settled.
        lost_gaps: gaps between output tokens across a preemption, in picoseconds.
        live: tickets that are members now.
        decoded: (index, end) of the last decode stride before `strides`; index -1: none yet.
    """

    def __init__(self, replica: int) -> None:
        self.replica = replica
        self.strides, self.windows, self.extras = bytearray(), bytearray(), bytearray()
        self.passed = bytearray()
        self.noted = 0
        self.prefill_tickets: list[Ticket] = []
        self.prefills = bytearray()
        self.queue_jumps = bytearray()
        self.level_jumps = bytearray()
        self.origin_ps = 0
        self.lost_gaps: list[int] = []
        self.live: dict[int, Ticket] = {}
        self.decoded = (-1, 0)
        self._span_tickets: list[Ticket] = []
        self._spans = bytearray()

    def count_from(self, now_ps: int) -> None:
        """Let times count from now, if nothing is noted that counts from before; for a lane that has rested."""
        if not (self.strides or self.queue_jumps or self.level_jumps or self.live or self._span_tickets):
            self.origin_ps = now_ps

    def leave(self, ticket: Ticket) -> None:
        """End a ticket's membership with the last stride noted."""
        del self.live[ticket.seq_id]
        self._note_span(ticket, self.noted)
        ticket.carried = False

    def _note_span(self, ticket: Ticket, left: int) -> None:
        self._span_tickets.append(ticket)
        self._spans += pack_span(ticket.joined, left, ticket.last_ps - self.origin_ps, ticket.carried)

    def lose(self, ticket: Ticket) -> None:
        """End the membership of a ticket that is preempted, and note when it produced its last token."""
        self.leave(ticket)
        index, end_ps = self.last_decode()
        if index >= ticket.joined:
            ticket.last_ps = end_ps

    def join(self, ticket: Ticket) -> None:
        """Begin a membership with the next stride."""
        ticket.joined = self.noted
        self.live[ticket.seq_id] = ticket

    def last_decode(self) -> tuple[int, int]:
        """Return (index, end) of the last stride that decoded."""
        rows = len(self.strides) // _STRIDE.size
        for back in range(1, rows + 1):
            stride = _STRIDE.unpack_from(self.strides, (rows - back) * _STRIDE.size)
            if stride[DECODING]:
                return self.noted - back, stride[END] + self.origin_ps
        return self.decoded

    def take(self) -> tuple[NotedStrides, Spans, Prefills, int]:
        """Hand over what is to be settled: (strides, memberships, prompt pieces, last decode before)."""
        rows = _unpack(self.strides, len(STRIDE_COLUMNS))
        windows = _unpack(self.windows, 2) if self.windows else np.zeros((2, rows.shape[1]), dtype=np.int64)
        count, noted = self.noted, rows.shape[1]
        base = count - noted
        number, tokens = _unpack(self.extras, 2)
        extras = np.bincount(number - base, tokens, minlength=noted).astype(np.int64)
        strides = NotedStrides(*rows, *windows, *[extras, _unpack(self.passed, len(PASSED_COLUMNS))])
        before_ps = max(self.decoded[1] - self.origin_ps, -(1 << 62))  # so long ago that nobody decodes since
        index, end_ps = self.decoded = self.last_decode()
        for ticket in self.live.values():
            if index >= ticket.joined:  # else it has not decoded yet: all is still to come
                self._note_span(ticket, count)
                ticket.joined, ticket.carried, ticket.last_ps = count, True, end_ps
        joined, left, last_ps, carried = _unpack(self._spans, 4)
        spans = Spans(self._span_tickets, joined - base, left - base, last_ps, carried)
        stride, tokens, past = _unpack(self.prefills, 3)
        prefills = Prefills(self.prefill_tickets, stride - base, tokens, past)
        if len(strides.steps):
            self.origin_ps += int(strides.end_ps[-1])
        self.strides, self.windows, self.extras = bytearray(), bytearray(), bytearray()
        self.passed = bytearray()
        self._span_tickets, self._spans = [], bytearray()
        self.prefill_tickets, self.prefills = [], bytearray()
        return strides, spans, prefills, before_ps

    def take_jumps(self) -> tuple[Ints, Ints]:
        """Hand over the changes of levels to be settled: (of the queue, of sequences and blocks)."""
        jumps, self.queue_jumps = _unpack(self.queue_jumps, 2), bytearray()
        levels, self.level_jumps = _unpack(self.level_jumps, 3), bytearray()
        return jumps, levels


UNSEEN = 1 << 40
"""A window that hides nothing."""
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
TIER_QUANTITIES = (
    "host_dynamic_prefill_j",
    "host_dynamic_decode_j",
    "cpu_dynamic_j",
    "storage_dynamic_j",
    "gpu_work_s",
    "cpu_work_s",
    "link_work_s",
    "disk_work_s",
    "cpu_bytes",
    "ssd_to_dram_bytes",
)
"""What is noted beside of runs whose weights lie in several tiers; see `reports.columns.TIERS`."""


class TierWork(NamedTuple):
    """What tiers did in each stride, all of its iterations together.

    Attributes:
        gpu_s, cpu_s, link_s, disk_s: that each worked, link and disk of a replica's GPUs together.
        cpu_bytes: that the CPU computed with; disk_bytes: that were read from the disk.
        cpu_j, storage_j: that CPU and disks drew for it, above what they draw while GPUs work.
    """

    gpu_s: Floats
    cpu_s: Floats
    link_s: Floats
    disk_s: Floats
    cpu_bytes: Floats
    disk_bytes: Floats
    cpu_j: Floats
    storage_j: Floats


class StrideEnergy(NamedTuple):
    """Per stride: dynamic energy above idle, energy shared out to requests, bytes, and what tiers did (None: none)."""

    dynamic_j: Floats
    active_j: Floats
    hbm_bytes: Floats
    link_bytes: Floats
    dram_to_hbm_bytes: Floats
    tiers: TierWork | None = None


class StrideMeter(Protocol):
    """Works out `StrideEnergy`; `sim.meter` has the one that knows the physics."""

    @property
    def tiers(self) -> bool:
        """Say whether weights lie in several tiers, so that `StrideEnergy.tiers` is told."""

    @property
    def bounded(self) -> bool:
        """Say whether layers have a window or a state."""

    @property
    def window(self) -> int | None:
        """Return how many tokens layers with a window see."""

    def __call__(self, strides: NotedStrides, chunks: ChunkSums) -> StrideEnergy:
        """Return energies and bytes of the strides."""


def settle(lane: LaneNotes, meter: StrideMeter, bins: Bins, gaps: LogHistogram) -> None:
    """Work out everything about a lane's strides since the last settlement."""
    origin_ps = lane.origin_ps
    strides, spans, prefills, before_ps = lane.take()
    jumps, levels = lane.take_jumps()
    bins.step(WAITING, lane.replica, origin_ps, jumps[0], jumps[1].astype(np.float64))
    bins.step(RUNNING, lane.replica, origin_ps, levels[0], levels[1].astype(np.float64))
    bins.step(HOLDING, lane.replica, origin_ps, levels[0], levels[2].astype(np.float64))
    lost, lane.lost_gaps = lane.lost_gaps, []
    gaps.add(np.array(lost) * S_PER_PS, np.ones(len(lost)))
    if not len(strides.steps):
        return
    chunks = _chunk_sums(prefills, len(strides.steps))
    if meter.bounded:
        chunks = chunks._replace(bounded=_bounded_sums(prefills, len(strides.steps), meter.window))
    energy = meter(strides, chunks)
    tokens = strides.decoding + chunks.tokens
    decode_share = np.divide(strides.decoding, tokens, out=np.zeros(len(tokens)), where=tokens > 0)
    _share_energy(strides, chunks, energy.active_j, decode_share, spans, prefills)
    _note_gaps(strides, spans, gaps, before_ps)
    _note_time(lane.replica, origin_ps, strides, chunks, energy, decode_share, bins)


def _chunk_sums(prefills: Prefills, strides: int) -> ChunkSums:
    """Add up the prompt pieces of each stride."""

    def sums(parts: Ints) -> Floats:
        return np.bincount(prefills.stride, parts, minlength=strides).astype(np.float64, copy=False)

    tokens, past = prefills.tokens, prefills.past_tokens
    # Each further iteration has `tokens` more past ones.
    return ChunkSums(sums(tokens), sums(past), sums(pairs_after(tokens, past)), sums(tokens * tokens))


def _bounded_sums(prefills: Prefills, strides: int, window: int | None) -> Bounded:
    """Add up what the prompt pieces of each stride take in layers with a window, and how many there are."""

    def sums(parts: Ints) -> Floats:
        return np.bincount(prefills.stride, parts, minlength=strides).astype(np.float64, copy=False)

    tokens, past = prefills.tokens, prefills.past_tokens
    most = UNSEEN if window is None else window
    growing = np.where(past + tokens <= most, tokens, 0)  # a stride ends where that changes
    return Bounded(
        sums(np.ones_like(tokens)),
        sums(np.minimum(past, most - 1) + tokens),
        sums(growing),
        sums(windowed_pairs(tokens, past, most)),
        sums(growing * tokens),
    )


def _share_energy(
    strides: NotedStrides, chunks: ChunkSums, active_j: Floats, decode_share: Floats, spans: Spans, prefills: Prefills
) -> None:
    """Give each ticket its part: decoding shared equally among the members, prompts by their tokens."""
    decoding = strides.decoding
    each = np.divide(active_j * decode_share, decoding, out=np.zeros(len(decoding)), where=decoding > 0)
    total = np.concatenate(([0.0], np.cumsum(each)))
    start = np.maximum(spans.joined, 0)  # before, it did not decode
    for ticket, part in zip(spans.tickets, (total[spans.left] - total[start]).tolist(), strict=True):
        ticket.energy_j += part
    share = prefills.tokens / np.maximum(chunks.tokens[prefills.stride], 1)
    parts = (active_j * (1.0 - decode_share))[prefills.stride] * share
    for ticket, part in zip(prefills.tickets, parts.tolist(), strict=True):
        ticket.energy_j += part


def _note_gaps(strides: NotedStrides, spans: Spans, gaps: LogHistogram, before_ps: int) -> None:
    """Note the times between output tokens, and each ticket's longest."""
    decodes = np.flatnonzero(strides.decoding > 0)
    if not len(decodes):
        return
    _, _, end, steps, first, slope, decoding = (column[decodes] for column in strides[: DECODING + 1])
    first_end = end - (steps * first + slope * (steps * (steps - 1) // 2)) + first
    since = np.concatenate(([before_ps], end[:-1]))
    first_gap = first_end - since  # what a member feels that decoded in the stride before
    last_step = np.where(steps > 1, first + slope * (steps - 1), 0)
    # Positions among the decode strides: the member's first one, and one past its last.
    begin = np.searchsorted(decodes, spans.joined)
    stop = np.searchsorted(decodes, spans.left)
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
    gaps.add(np.zeros(1), np.array([float(strides.extra_tokens.sum())]))  # they come together
    gaps.add(seconds(own_gap[fresh]), np.ones(int(fresh.sum())))
    gaps.add(seconds(first_gap), weight.astype(np.float64))
    gaps.add_runs(seconds(first + slope), seconds(slope), steps - 1, decoding.astype(np.float64))


def _range_max(values: Ints, begin: Ints, stop: Ints) -> Ints:
    """Return max(values[b:s]) for each range, 0 for an empty one."""
    if not len(begin):
        return np.zeros(0, dtype=np.int64)
    padded = np.append(values, 0)
    pairs = np.stack([begin, np.maximum(begin, stop)], axis=1).ravel()
    result: Ints = np.where(begin < stop, np.maximum.reduceat(padded, np.minimum(pairs, len(values)))[::2], 0)
    return result


def _note_time(
    replica: int,
    origin_ps: int,
    strides: NotedStrides,
    chunks: ChunkSums,
    energy: StrideEnergy,
    decode_share: Floats,
    bins: Bins,
) -> None:
    """Spread the strides over the time series; the KV blocks that decoding takes come in evenly along a stride."""
    start, end, steps = strides.start_ps, strides.end_ps, strides.steps
    busy_s, span_s = seconds(strides.busy_ps), seconds(end - start)
    amounts = np.stack(
        [
            busy_s * (1.0 - decode_share),
            busy_s * decode_share,
            strides.running * span_s,
            (strides.used_blocks + strides.grown_blocks * (steps + 1) / (2.0 * steps)) * span_s,
            chunks.tokens * steps,
            strides.emits * steps + strides.extra_tokens,
            energy.dynamic_j * (1.0 - decode_share),
            energy.dynamic_j * decode_share,
            energy.hbm_bytes,
            energy.link_bytes,
            energy.dram_to_hbm_bytes,
            *_tier_amounts(energy.tiers, decode_share),
        ]
    ).astype(np.float64)
    bins.spread(replica, origin_ps, start, end, amounts)


def _tier_amounts(tiers: TierWork | None, decode_share: Floats) -> list[Floats]:
    """Return the amounts of `TIER_QUANTITIES`, where there are tiers."""
    if tiers is None:
        return []
    host_j = tiers.cpu_j + tiers.storage_j
    worked = [tiers.gpu_s, tiers.cpu_s, tiers.link_s, tiers.disk_s, tiers.cpu_bytes, tiers.disk_bytes]
    return [host_j * (1.0 - decode_share), host_j * decode_share, tiers.cpu_j, tiers.storage_j, *worked]

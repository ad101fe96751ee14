"""The decision log: one entry per iteration and worker, with a hash of what the policies saw.

A stride is written as its iterations, so that a log does not depend on how far a body skips ahead. Time is noted but
not hashed: two bodies that agree on every decision still differ in when they took it.
"""

import struct
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from hashlib import blake2b
from typing import NamedTuple

from afterwatt.policies.plans import Shown, StepPlan
from afterwatt.policies.scheduler import Scheduler
from afterwatt.policies.sequence import S
from afterwatt.policies.views import Prefilling


class DecisionEntry(NamedTuple):
    """One iteration of one worker.

    Attributes:
        worker, group: whose; time_s: when the iteration began.
        decoding, context_tokens: what decodes, and the KV entries it reads.
        chunk_ids, chunk_tokens: prompt pieces.
        admitted, preempted: ids; only in the first iteration of a plan.
        free_blocks: KV blocks that admission could hand out.
        view: 64-bit hash of what the batching policy saw.
        tokens: that each sequence that decodes has yielded, in order; None: one each, as nothing was guessed.
    """

    worker: int
    group: int
    time_s: float
    decoding: int
    context_tokens: int
    chunk_ids: tuple[int, ...]
    chunk_tokens: tuple[int, ...]
    admitted: tuple[int, ...]
    preempted: tuple[int, ...]
    free_blocks: int
    view: int
    tokens: tuple[int, ...] | None = None


def view_hash(*parts: int) -> int:
    """Hash whole numbers, the same in every process."""
    digest = blake2b(struct.pack(f"<{len(parts)}q", *parts), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def shown_of(scheduler: Scheduler[S], plan: StepPlan[S], step: int) -> Shown:
    """Return what the batching policy saw, or would have seen, before an iteration of the plan just made."""
    lane, pool, line = scheduler.lane(plan), scheduler.pool, scheduler.line
    view, available = lane.view, pool.available_blocks - scheduler.config.watermark_blocks
    if view is None:  # nothing waited, nothing was being prefilled
        return Shown(plan.decoding, (), (), available - lane.decode.new_blocks(step + plan.most_tokens))
    if step == 0:
        looked = [(seq.seq_id, seq.fill_tokens, matched, own) for seq, matched, own in line.looked.values()]
        return Shown(view.decoding, view.prefilling, looked, view.free_blocks)
    # A stride has at most one prompt in it, which is computed in equal chunks; those admitted wait no longer.
    pace = {chunk.seq.seq_id: chunk.tokens * step for chunk in plan.chunks}
    begun = [
        Prefilling(seq.seq_id, seq.fill_tokens - seq.kv_tokens - pace.get(seq.seq_id, 0)) for seq in lane.prefilling
    ]
    taken = {seq.seq_id for seq in scheduler.admitted}
    grown = lane.decode.new_blocks(step + 1 if plan.decoding else 1)
    return Shown(view.decoding, begun, line.still_shown(taken, grown), available - grown)


class DecisionLog:
    """Writes entries to a sink."""

    def __init__(self, sink: Callable[[DecisionEntry], None]) -> None:
        self._sink = sink

    def write(
        self,
        worker: int,
        times_s: Items[float],
        plan: StepPlan[S],
        scheduler: Scheduler[S],
        tokens: Mapping[int, int] | None = None,
    ) -> None:
        """Write a plan's iterations.

        Args:
            worker: whose.
            times_s: when each of them began.
            plan: done, and not yet applied.
            scheduler: that made it.
            tokens: that each sequence that decodes has yielded, as in its outcome.
        """
        admitted = tuple(seq.seq_id for seq in scheduler.admitted + scheduler.resumed)
        preempted = tuple(seq.seq_id for seq in scheduler.preempted)
        yielded = None
        if plan.most_tokens > 1:
            yielded = tuple(1 if tokens is None else tokens[seq.seq_id] for seq, _ in scheduler.decoding(plan))
        for step, time_s in enumerate(times_s):
            shown = shown_of(scheduler, plan, step)
            self._sink(
                DecisionEntry(
                    worker,
                    plan.group,
                    time_s,
                    plan.decoding,
                    plan.context_tokens + step * plan.decoding,
                    tuple(chunk.seq.seq_id for chunk in plan.chunks),
                    tuple(chunk.tokens for chunk in plan.chunks),
                    admitted if step == 0 else (),
                    preempted if step == 0 else (),
                    shown.free_blocks,
                    view_hash(*shown.numbers()),
                    yielded,
                )
            )

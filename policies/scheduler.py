"""The scheduler: a worker's state machine, clockless, composed from the policies.

`plan` says what the worker does next, `apply` takes in what came of it. Between the two the body, a simulator or an
engine, spends the time. Several plans may be outstanding, one per decode group: that is how a pipeline is kept full.
"""

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Items
from math import inf
from typing import Any, Generic

from mypy_extensions import mypyc_attr

from afterwatt.policies.errors import PolicyError
from afterwatt.policies.exchange import Exchange
from afterwatt.policies.kv import KvPool
from afterwatt.policies.lane import Lane
from afterwatt.policies.plans import (
    NO_MOVES,
    Applied,
    Idle,
    PrefillChunk,
    Shown,
    StepOutcome,
    StepPlan,
    earlier,
    prefill_chunk_of,
)
from afterwatt.policies.sequence import S
from afterwatt.policies.sizes import RejectReason, SchedulerConfig
from afterwatt.policies.views import BatchLimits, BatchPolicy, BatchView, Candidate, Chunk, Prefilling, candidate_of

IDLE = Idle()
UNBOUNDED = 1 << 60
NOBODY: tuple[Candidate, ...] = ()
NO_CHUNKS: tuple[Any, ...] = ()
NONE_BEGUN: tuple[Prefilling, ...] = ()


@mypyc_attr(allow_interpreted_subclasses=True)
class Scheduler(Generic[S]):
    """Waiting, swapped, prefilling and decoding sequences of one worker, and its KV blocks.

    Attributes:
        pool: the KV blocks.
        waiting: admitted to nothing yet, in queue order; the preempted rejoin at its head.
        swapped: preempted sequences whose KV lies in host memory, oldest first.
        outstanding_tokens: tokens still to compute and to produce, as of the last `apply`.
    """

    def __init__(self, config: SchedulerConfig, batching: BatchPolicy, pool: KvPool | None = None) -> None:
        """Start with nothing; `pool` is that of a body with addresses, of the configuration's sizes."""
        self.config = config
        self.batching = batching
        self.pool = pool or KvPool(config.kv_blocks, config.block_tokens, config.prefix_unit_tokens, config.holding)
        self.waiting: deque[S] = deque()
        self.swapped: deque[S] = deque()
        self.outstanding_tokens = 0
        self._by_group = [Lane[S](group, config.block_tokens, config.holding) for group in range(config.groups)]
        self._lanes = list(self._by_group)  # in the order in which they are asked
        self._limits = BatchLimits(-(-config.max_seqs // config.groups), config.token_budget)
        self._watermark_blocks = config.watermark_blocks
        self._steady = batching.steady
        # Groups share the memory: what one does changes what another may, so that no plan holds beyond its iteration.
        self._shared = config.groups > 1
        self._strides = batching.steady and not self._shared
        self._exchange = Exchange(config.swap_blocks)
        self._looked: dict[int, tuple[S, int, int]] = {}  # id -> (whom, prefix blocks found, own blocks found)
        self._looked_evictable = 0
        self._queue_exhausted = False
        self.preempted: list[S] = []  # by the last plan, for the body's records
        self.admitted: list[S] = []
        self.resumed: list[S] = []  # swapped back in
        self.grown_blocks = 0  # KV blocks that the decoding of the last outcome took
        self.moved = False  # whether any of these lists holds somebody
        self._told = False  # whether a body has been given them with a plan

    # -- requests ------------------------------------------------------------------------------------------------

    def refusal(self, seq: S) -> RejectReason | None:
        """Return why a sequence can never, or not now, be taken in; None if it can."""
        config, tokens = self.config, seq.prompt_tokens + seq.output_tokens
        if tokens > config.max_context_tokens:
            return "over_context"
        if self.pool.blocks_for(tokens - 1) > config.kv_blocks - config.watermark_blocks:
            return "never_fits"
        if config.max_queue is not None and len(self.waiting) >= config.max_queue:
            return "queue_full"
        return None

    def add(self, seq: S) -> None:
        """Queue a sequence that `refusal` has let pass."""
        self.waiting.append(seq)
        self.outstanding_tokens += seq.prompt_tokens + seq.output_tokens

    def prefix_tokens(self, seq: S) -> int:
        """Return the prompt tokens whose KV is cached here; asking changes nothing."""
        unit = self.pool.unit_tokens
        return 0 if unit is None else unit * self.pool.cached_units(seq.prefix, self._sharable(seq, unit))

    # -- planning ------------------------------------------------------------------------------------------------

    def plan(self, now_s: float) -> StepPlan[S] | Idle:
        """Decide what runs next in the next group that is not in flight."""
        if self._told:
            self._forget()
        idle = IDLE
        for lane in self._lanes:
            if lane.plan is not None:
                continue
            if self.waiting or lane.prefilling or self.swapped:
                plan = self._choose(lane, now_s)
            elif not lane.decode.members:
                continue
            elif self.moved or not self._steady:
                plan = self._choose(lane, now_s)
            else:
                plan = self._decode_on(lane) or self._choose(lane, now_s)
            if isinstance(plan, Idle):
                idle = earlier(idle, plan)
                continue
            self._told = self.moved
            lane.plan = plan
            if self._shared:
                self._lanes.remove(lane)  # the others come first next time
                self._lanes.append(lane)
            return plan
        return idle

    def _forget(self) -> None:
        """Begin new lists of who was preempted, admitted and resumed: the body has been told of these."""
        self._told = self.moved = False
        self.preempted, self.admitted, self.resumed = [], [], []

    def _decode_on(self, lane: Lane[S]) -> StepPlan[S] | None:
        """Plan a group in which there is nothing to choose from; None if its next iteration lacks memory."""
        decode, pool = lane.decode, self.pool
        available = pool.free_blocks + pool.evictable_blocks
        room = available - self._promised_blocks() if self._shared else available
        iterations = decode.stride(UNBOUNDED if self._strides else 1, room)
        if not iterations:
            return None
        lane.view = None
        members, context, used = len(decode.members), decode.context_tokens(), pool.total_blocks - available
        return StepPlan(lane.group, members, context, NO_CHUNKS, members, iterations - 1, True, members, used)

    def _choose(self, lane: Lane[S], now_s: float) -> StepPlan[S] | Idle:
        """Ask the batching policy, and plan what it says."""
        decode, pool = lane.decode, self.pool
        if self.swapped:
            self._swap_in(lane)
        need = decode.next_blocks()
        room = self._room()
        if need > room:
            need = self._make_room(lane)
            room = self._room()
        members = len(decode.members)
        free_blocks = room - need - self._watermark_blocks
        limits = self._share_of_seats() if self._shared else self._limits
        begun = lane.begun() if lane.prefilling else NONE_BEGUN
        lane.view = view = BatchView(now_s, members, begun, self._candidates(need), free_blocks, limits)
        decision = self.batching.select(view)
        chunks = self._admit(lane, decision.chunks) if decision.chunks else NO_CHUNKS
        decoding = members if decision.decode else 0
        ask_at_s = decision.ask_at_s
        if ask_at_s is not None and not now_s < ask_at_s < inf:
            raise PolicyError(
                f"{type(self.batching).__name__} wants to be asked again at {ask_at_s:.10g} s, and it is "
                f"{now_s:.10g} s; name a time to come"
            )
        if not (decoding or chunks):
            return IDLE if ask_at_s is None else Idle(ask_at_s)
        iterations, finishing = self._prompt_stride(chunks)
        moves, make_room = self._exchange.take() if self.moved else (NO_MOVES, False)
        if make_room:
            iterations = 1  # who was swapped out before may come back at the next boundary
        context = 0
        if decoding:
            context = decode.context_tokens()
            if iterations > 1:
                # A cached prefix that a candidate has been shown is not evicted within.
                iterations = decode.stride(iterations, max(0, self._room() - self._looked_evictable)) or 1
        return StepPlan(
            lane.group,
            decoding,
            context,
            chunks,
            decoding + finishing,
            iterations - 1,
            self._queue_exhausted,
            members + len(lane.prefilling),
            pool.total_blocks - pool.free_blocks - pool.evictable_blocks,
            moves,
            ask_at_s,
        )

    def _share_of_seats(self) -> BatchLimits:
        """Return a group's limits, so that all get their share of what there is: a pipeline wants to be full."""
        groups = len(self._lanes)
        everybody = self.admitted_sequences() + len(self.waiting) + len(self.swapped)
        return BatchLimits(min(self._limits.max_seqs, -(-everybody // groups)), self._limits.token_budget)

    def sequences(self) -> Iterator[S]:
        """Yield all that it was given and has not finished."""
        yield from self.waiting
        yield from self.swapped
        for lane in self._lanes:
            yield from lane.prefilling
            yield from lane.decode.members.values()

    def decoding(self, plan: StepPlan[S]) -> list[tuple[S, int]]:
        """Return (sequence, KV entries in memory) of those that decode in the first iteration of a plan, in order."""
        decode = self._by_group[plan.group].decode
        return [(seq, decode.kv_tokens(seq)) for seq in decode.members.values()] if plan.decoding else []

    def seen(self, group: int) -> tuple[int, int, int]:
        """Return what layers with a window see of a group's plan in flight; see `Lane.seen`."""
        return self._by_group[group].seen()

    def admitted_sequences(self) -> int:
        """Return how many sequences are admitted, of all groups."""
        return sum(len(lane.decode.members) + len(lane.prefilling) for lane in self._lanes)

    def shown(self, plan: StepPlan[S], step: int) -> Shown:
        """Return what the batching policy saw, or would have seen, before an iteration of the plan just made."""
        lane = self._by_group[plan.group]
        view = lane.view
        if view is None:  # nothing waited, nothing was being prefilled
            available = self.pool.available_blocks - self.config.watermark_blocks
            return Shown(plan.decoding, (), (), available - lane.decode.new_blocks(step + 1))
        seen = self._looked.values()
        if step == 0:
            looked = [(seq.seq_id, seq.fill_tokens, matched, own) for seq, matched, own in seen]
            return Shown(view.decoding, view.prefilling, looked, view.free_blocks)
        # A stride has at most one prompt in it, which is computed in equal chunks; those admitted wait no longer.
        pace = {chunk.seq.seq_id: chunk.tokens * step for chunk in plan.chunks}
        begun = [
            Prefilling(seq.seq_id, seq.fill_tokens - seq.kv_tokens - pace.get(seq.seq_id, 0)) for seq in lane.prefilling
        ]
        taken = {seq.seq_id for seq in self.admitted}
        grown = lane.decode.new_blocks(step + 1 if plan.decoding else 1)
        left = [
            (seq.seq_id, seq.fill_tokens, matched, self._own(seq, matched, grown))
            for seq, matched, _ in seen
            if seq.seq_id not in taken
        ]
        free_blocks = self.pool.available_blocks - self.config.watermark_blocks - grown
        return Shown(view.decoding, begun, left, free_blocks)

    def _candidates(self, growth: int) -> Iterator[Candidate]:
        """Yield waiting sequences in order; while any is swapped out, nobody is admitted before it.

        `growth`: KV blocks that decoding takes first.
        """
        self._looked.clear()
        self._looked_evictable = 0
        if self.waiting:
            self._queue_exhausted = False
            return self._look(growth)
        self._queue_exhausted = not self.swapped  # a policy that did look would find the end
        return iter(NOBODY)

    def _look(self, growth: int) -> Iterator[Candidate]:
        if not self.swapped:
            blocks_for, looked = self.pool.blocks_for, self._looked
            for seq in self.waiting:
                matched = used_blocks = own = 0
                tokens = seq.fill_tokens
                if seq.prefix and self.pool.unit_tokens:
                    matched, used_blocks = self._match(seq)
                    self._looked_evictable += matched * self.pool.unit_blocks - used_blocks
                    tokens -= matched * self.pool.unit_tokens
                if seq.preemptions:
                    own = self._own(seq, matched, growth)
                    tokens -= own * self.pool.block_tokens
                looked[seq.seq_id] = seq, matched, own
                yield candidate_of((seq.seq_id, tokens, blocks_for(seq.fill_tokens) - used_blocks))
            self._queue_exhausted = True

    def _own(self, seq: S, matched: int, growth: int) -> int:
        """Return how many blocks a sequence finds again that it had before it was preempted, behind a matched prefix.

        Growing (by so many blocks) comes first. The block of its last token is never one of them: that token is new.
        """
        return self.pool.left(seq.seq_id, matched * self.pool.unit_blocks, growth) if seq.preemptions else 0

    def _match(self, seq: S) -> tuple[int, int]:
        unit = self.pool.unit_tokens
        if unit is None or not seq.prefix:
            return 0, 0
        return self.pool.match(seq.prefix, self._sharable(seq, unit))

    @staticmethod
    def _sharable(seq: S, unit: int) -> int:
        """Return how many prefix blocks of a sequence may be found: whole ones, and one token is left to compute."""
        return min(seq.prompt_tokens, seq.fill_tokens - 1) // unit

    def _admit(self, lane: Lane[S], chosen: tuple[Chunk, ...]) -> tuple[PrefillChunk[S], ...]:
        """Give the chosen candidates their blocks; return the chunks to compute."""
        pool = self.pool
        chunks: list[PrefillChunk[S]] = []
        begun = {seq.seq_id: seq for seq in lane.prefilling} if lane.prefilling else {}
        for seq_id, tokens in chosen:
            seq = begun.get(seq_id)
            if seq is None:
                seq = self._admit_one(lane, seq_id)
            if not 0 < tokens <= seq.fill_tokens - seq.kv_tokens:
                raise PolicyError(
                    f"{type(self.batching).__name__} wants {tokens} tokens of sequence {seq_id}; it has "
                    f"{seq.fill_tokens - seq.kv_tokens} left to compute"
                )
            chunks.append(prefill_chunk_of((seq, tokens, seq.kv_tokens)))
        for seq in self.admitted:  # only now: taking blocks may evict what a later one has just been promised
            pool.take(pool.blocks_for(seq.fill_tokens) - seq.held * pool.unit_blocks, seq.seq_id)
        return tuple(chunks)

    def _admit_one(self, lane: Lane[S], seq_id: int) -> S:
        """Take a candidate out of the queue and hold the prefix blocks it matched."""
        found = self._looked.get(seq_id)
        if found is None:
            raise PolicyError(f"{type(self.batching).__name__} chose sequence {seq_id}, which its view did not show")
        seq, matched, own = found
        waiting = self.waiting
        if waiting[0] is seq:
            waiting.popleft()
        else:
            waiting.remove(seq)
        if matched:
            idle = self.pool.evictable_blocks
            self.pool.hold(seq.prefix[:matched], seq.seq_id)
            self._looked_evictable -= idle - self.pool.evictable_blocks  # those that others look at are left
            seq.held = matched
        if seq.preemptions:
            self.pool.reclaim(seq_id, own)
        if matched or own:
            seq.kv_tokens = cached = matched * (self.pool.unit_tokens or 0) + own * self.pool.block_tokens
            self.outstanding_tokens -= cached
        lane.prefilling.append(seq)
        self.admitted.append(seq)
        self.moved = True
        return seq

    def _prompt_stride(self, chunks: tuple[PrefillChunk[S], ...]) -> tuple[int, int]:
        """Return (iterations until the last equal chunk of a prompt, prompts completed by the first iteration)."""
        finishing = 0
        for seq, tokens, past in chunks:
            if past + tokens == seq.fill_tokens:
                finishing += 1
        if not self._strides or finishing or len(chunks) > 1:
            return 1, finishing
        if not chunks:
            return UNBOUNDED, 0
        seq, tokens, past = chunks[0]
        return (seq.fill_tokens - past - 1) // tokens, 0

    # -- memory --------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Return the KV blocks that can be had, those promised set aside."""
        available = self.pool.free_blocks + self.pool.evictable_blocks
        return available - self._promised_blocks() if self._shared else available

    def _promised_blocks(self) -> int:
        """Return the KV blocks that the first iterations of the plans in flight are about to take."""
        return sum(lane.decode.next_blocks() for lane in self._lanes if lane.plan is not None and lane.plan.decoding)

    def _make_room(self, lane: Lane[S]) -> int:
        """Preempt the youngest until the next decode iteration fits; return the blocks that it needs."""
        while True:
            need = lane.decode.next_blocks()
            if need <= self._room():
                return need
            victim = (
                lane.prefilling[-1] if lane.prefilling else lane.decode.members[next(reversed(lane.decode.members))]
            )
            self._preempt(lane, victim)

    def _preempt(self, lane: Lane[S], seq: S) -> None:
        """Take a sequence's memory away: its KV goes to host memory, or is to be computed again."""
        seq.preemptions += 1
        self.moved = True
        if seq in self.resumed:
            self.resumed.remove(seq)  # back and gone again before anybody saw it
        else:
            self.preempted.append(seq)
        decoding = seq.finish_step is not None
        if decoding:
            lane.decode.leave(seq)
        else:
            lane.prefilling.remove(seq)
        pool, shared = self.pool, seq.held * self.pool.unit_blocks
        blocks = pool.blocks_for(seq.kv_tokens)
        self._release(seq, blocks if decoding else pool.blocks_for(seq.fill_tokens))
        if decoding and self._exchange.put(seq.seq_id, blocks):
            self.swapped.append(seq)
            return
        if self.config.keep_preempted:
            pool.leave(seq.seq_id, shared, seq.kv_tokens // pool.block_tokens - shared)
        self.outstanding_tokens += seq.kv_tokens
        seq.fill_tokens = seq.prompt_tokens + seq.emitted
        if decoding:
            self.outstanding_tokens += 1  # the token that decoding would have read is part of the prompt now
        seq.kv_tokens = 0
        self.waiting.appendleft(seq)

    def _release(self, seq: S, blocks: int) -> None:
        self.pool.release(seq.prefix[: seq.held], blocks - seq.held * self.pool.unit_blocks, seq.seq_id)
        seq.held = 0

    def _swap_in(self, lane: Lane[S]) -> None:
        """Bring swapped sequences back while they fit."""
        while self.swapped:
            seq = self.swapped[0]
            blocks = self.pool.blocks_for(seq.kv_tokens)
            spare = self._room() - lane.decode.next_blocks() - self._watermark_blocks
            limits = self._share_of_seats() if self._shared else self._limits
            seats = limits.max_seqs - len(lane.decode.members) - len(lane.prefilling)
            if self.pool.blocks_for(seq.kv_tokens + 1) > spare or seats <= 0:  # with room for its next token
                break
            self.swapped.popleft()
            self.pool.take(blocks, seq.seq_id)
            lane.decode.join(seq)
            self.resumed.append(seq)
            self.moved = True
            self._exchange.fetch(seq.seq_id, blocks)

    # -- outcomes ------------------------------------------------------------------------------------------------

    def apply(self, plan: StepPlan[S], outcome: StepOutcome) -> Applied[S]:
        """Take in what came of a plan."""
        lane = self._by_group[plan.group]
        lane.plan = None
        iterations = outcome.iterations
        finished: list[S] = []
        if plan.decoding:
            decode, pool = lane.decode, self.pool
            finished = decode.advance(iterations)
            blocks = self.grown_blocks = decode.grown_blocks
            if blocks > pool.free_blocks:
                pool.take(blocks)
            else:
                pool.free_blocks -= blocks
            for seq in finished:
                self._release(seq, pool.blocks_for(seq.kv_tokens))
        else:
            self.grown_blocks = 0
        first = self._fill(lane, plan, iterations, finished) if plan.chunks else []
        self.outstanding_tokens -= plan.emits * iterations
        if outcome.stopped:
            finished += self._stop(lane, outcome.stopped)
        return Applied(first, finished)

    def _stop(self, lane: Lane[S], stopped: Items[int]) -> list[S]:
        """End sequences of which a body has found that nothing follows the token they have just emitted."""
        ended = []
        for seq_id in stopped:
            seq = lane.decode.members.get(seq_id)
            if seq is None:
                raise PolicyError(f"sequence {seq_id} is said to have stopped, and does not decode; name one that does")
            lane.decode.leave(seq)
            self.outstanding_tokens -= seq.output_tokens - seq.emitted
            seq.output_tokens = seq.emitted
            self._release(seq, self.pool.blocks_for(seq.kv_tokens))
            ended.append(seq)
        return ended

    def _fill(self, lane: Lane[S], plan: StepPlan[S], iterations: int, finished: list[S]) -> list[S]:
        """Advance prompts; those completed emit a token and decode on, or are done."""
        first: list[S] = []
        for seq, tokens, past in plan.chunks:
            seq.kv_tokens = past + tokens * iterations
            self.outstanding_tokens -= tokens * iterations
            if seq.kv_tokens < seq.fill_tokens:
                continue
            lane.prefilling.remove(seq)
            if seq.prefix and self.pool.unit_tokens:
                self._publish(seq)
            seq.emitted += 1
            first.append(seq)
            if seq.emitted == seq.output_tokens:
                self._release(seq, self.pool.blocks_for(seq.kv_tokens))
                finished.append(seq)
            else:
                lane.decode.join(seq)
        return first

    def _publish(self, seq: S) -> None:
        full = min(len(seq.prefix), seq.prompt_tokens // (self.pool.unit_tokens or 1))
        if full > seq.held:
            seq.held += self.pool.publish(seq.prefix[seq.held : full], seq.seq_id)

    def check_integrity(self) -> None:
        """Assert that blocks, sequences and sums agree; for tests and for idle moments."""
        private = 0
        for lane in self._lanes:
            for seq in lane.decode.members.values():
                private += self.pool.blocks_for(lane.decode.kv_tokens(seq)) - seq.held * self.pool.unit_blocks
            for seq in lane.prefilling:
                private += self.pool.blocks_for(seq.fill_tokens) - seq.held * self.pool.unit_blocks
            expected = sum(lane.decode.kv_tokens(seq) + 1 for seq in lane.decode.members.values())
            assert lane.decode.context_tokens() == expected
        self.pool.check_integrity(private)

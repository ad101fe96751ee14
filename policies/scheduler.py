"""The scheduler: a worker's state machine, clockless, composed from the policies.

`plan` says what the worker does next, `apply` takes in what came of it. Between the two the body, a simulator or an
engine, spends the time. Several plans may be outstanding, one per decode group: that is how a pipeline is kept full.
"""

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Items
from typing import Generic

from policies.errors import PolicyError
from policies.kv import KvPool
from policies.plans import Applied, Idle, PrefillChunk, Shown, StepOutcome, StepPlan
from policies.sequence import DecodeGroup, S
from policies.sizes import RejectReason, SchedulerConfig
from policies.views import BatchLimits, BatchPolicy, BatchView, Candidate, Chunk, Prefilling

IDLE = Idle()
UNBOUNDED = 1 << 60
NOBODY: tuple[Candidate, ...] = ()
NONE_BEGUN: tuple[Prefilling, ...] = ()


class _Lane(Generic[S]):
    """What one decode group holds besides its decoding members."""

    __slots__ = ("decode", "in_flight", "new_blocks", "prefilling", "view")

    def __init__(self, block_tokens: int) -> None:
        self.decode: DecodeGroup[S] = DecodeGroup(block_tokens)
        self.prefilling: list[S] = []
        self.in_flight = False
        self.new_blocks = 0  # set aside for the first iteration of the plan in flight
        self.view: BatchView | None = None  # that the plan in flight was made on


def _begun(lane: _Lane[S]) -> Items[Prefilling]:
    if not lane.prefilling:
        return NONE_BEGUN
    return [Prefilling(seq.seq_id, seq.fill_tokens - seq.kv_tokens) for seq in lane.prefilling]


class Scheduler(Generic[S]):
    """Waiting, swapped, prefilling and decoding sequences of one worker, and its KV blocks.

    Attributes:
        pool: the KV blocks.
        waiting: admitted to nothing yet, in queue order; the preempted rejoin at its head.
        swapped: preempted sequences whose KV lies in host memory, oldest first.
        outstanding_tokens: tokens still to compute and to produce, as of the last `apply`.
    """

    def __init__(self, config: SchedulerConfig, batching: BatchPolicy) -> None:
        self.config = config
        self.batching = batching
        self.pool = KvPool(config.kv_blocks, config.block_tokens, config.prefix_unit_tokens)
        self.waiting: deque[S] = deque()
        self.swapped: deque[S] = deque()
        self.outstanding_tokens = 0
        self._lanes = [_Lane[S](config.block_tokens) for _ in range(config.groups)]
        self._limits = BatchLimits(-(-config.max_seqs // config.groups), config.token_budget)
        self._watermark_blocks = config.watermark_blocks
        self._most_kv_tokens = (config.kv_blocks - config.watermark_blocks) * config.block_tokens
        self._steady = batching.steady
        # Groups share the memory: what one does changes what another may, so that no plan holds beyond its iteration.
        self._strides = batching.steady and config.groups == 1
        self._turn = 0
        self._reserved = 0  # blocks set aside for the plans in flight
        self._swap_free = config.swap_blocks
        self._looked: dict[int, tuple[S, int]] = {}
        self._looked_evictable = 0
        self._queue_exhausted = False
        self.preempted: list[S] = []  # by the last plan, for the body's records
        self.admitted: list[S] = []
        self.resumed: list[S] = []  # swapped back in
        self.grown_blocks = 0  # KV blocks that the decoding of the last outcome took
        self._handed_out = True  # whether a body has seen these lists
        self._owed_swap_out = 0  # KV blocks moved out when no plan came of it

    # -- requests ------------------------------------------------------------------------------------------------

    def refusal(self, seq: S) -> RejectReason | None:
        """Return why a sequence can never, or not now, be taken in; None if it can."""
        config = self.config
        if seq.prompt_tokens + seq.output_tokens > config.max_context_tokens:
            return "over_context"
        if seq.prompt_tokens + seq.output_tokens - 1 > self._most_kv_tokens:
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
        lanes = self._lanes
        if self._handed_out:
            if self.preempted:
                self.preempted = []
            if self.admitted:
                self.admitted = []
            if self.resumed:
                self.resumed = []
        index = self._turn
        for _ in lanes:
            lane = lanes[index]
            after = index + 1 if index + 1 < len(lanes) else 0
            if not lane.in_flight and (lane.decode.members or self.waiting or lane.prefilling or self.swapped):
                plan = self._plan_lane(index, lane, now_s)
                if plan is not None:
                    self._turn = after
                    self._handed_out = lane.in_flight = True
                    return plan
                self._handed_out = False
            index = after
        return IDLE

    def _plan_lane(self, index: int, lane: _Lane[S], now_s: float) -> StepPlan[S] | None:
        decode, pool = lane.decode, self.pool
        swap_in = self._swap_in(lane) if self.swapped else 0
        need = decode.next_blocks()
        room = pool.free_blocks + pool.evictable_blocks - self._reserved
        if need > room:
            freed, need = self._make_room(lane)
            self._owed_swap_out += freed
            room = pool.available_blocks - self._reserved
        members = len(decode.members)
        chunks: tuple[PrefillChunk[S], ...] = ()
        if self.waiting or lane.prefilling or not self._steady:
            free_blocks = room - need - self._watermark_blocks
            lane.view = view = BatchView(now_s, members, _begun(lane), self._candidates(), free_blocks, self._limits)
            decode_now, chosen = self.batching.select(view)
            if chosen:
                chunks = self._admit(lane, chosen)
            decoding = members if decode_now else 0
        else:  # nothing to choose from
            lane.view = None
            decoding = members
            if self._looked:
                self._looked.clear()
                self._looked_evictable = 0
            self._queue_exhausted = not self.swapped
        if not (decoding or chunks):
            return None
        swap_out, self._owed_swap_out = self._owed_swap_out, 0
        iterations, finishing, context = 1, 0, 0
        if chunks:
            iterations, finishing = self._prompt_stride(chunks)
        elif self._strides:
            iterations = UNBOUNDED
        if swap_out:
            iterations = 1  # the room it made may let an older swapped sequence back in at the next boundary
        if decoding:
            context = decode.context_tokens()
            if iterations > 1:
                # A cached prefix that a candidate has been shown is not evicted within.
                room = pool.free_blocks + pool.evictable_blocks - self._reserved - self._looked_evictable
                iterations = decode.stride(iterations, room)
            lane.new_blocks = need
            self._reserved += need
        return StepPlan(
            index,
            decoding,
            context,
            chunks,
            decoding + finishing if chunks else decoding,
            iterations - 1,
            self._queue_exhausted,
            members + len(lane.prefilling),
            pool.total_blocks - pool.free_blocks - pool.evictable_blocks,
            swap_out,
            swap_in,
        )

    def sequences(self) -> Iterator[S]:
        """Yield all that it was given and has not finished."""
        yield from self.waiting
        yield from self.swapped
        for lane in self._lanes:
            yield from lane.prefilling
            yield from lane.decode.members.values()

    def admitted_sequences(self) -> int:
        """Return how many sequences are admitted, of all groups."""
        return sum(len(lane.decode.members) + len(lane.prefilling) for lane in self._lanes)

    def shown(self, plan: StepPlan[S], step: int) -> Shown:
        """Return what the batching policy saw, or would have seen, before an iteration of the plan just made."""
        lane = self._lanes[plan.group]
        view = lane.view
        if view is None:  # nothing waited, nothing was being prefilled
            available = self.pool.available_blocks - self.config.watermark_blocks
            return Shown(plan.decoding, (), (), available - lane.decode.new_blocks(step + 1))
        looked = [(seq.seq_id, seq.fill_tokens, matched) for seq, matched in self._looked.values()]
        if step == 0:
            return Shown(view.decoding, view.prefilling, looked, view.free_blocks)
        # A stride has at most one prompt in it, which is computed in equal chunks; those admitted wait no longer.
        pace = {chunk.seq.seq_id: chunk.tokens * step for chunk in plan.chunks}
        begun = [
            Prefilling(seq.seq_id, seq.fill_tokens - seq.kv_tokens - pace.get(seq.seq_id, 0)) for seq in lane.prefilling
        ]
        taken = {seq.seq_id for seq in self.admitted}
        left = [item for item in looked if item[0] not in taken]
        free_blocks = self.pool.available_blocks - self.config.watermark_blocks
        free_blocks -= lane.decode.new_blocks(step + 1 if plan.decoding else 1)
        return Shown(view.decoding, begun, left, free_blocks)

    def _candidates(self) -> Iterator[Candidate]:
        """Yield waiting sequences in order; while any is swapped out, nobody is admitted before it."""
        self._looked.clear()
        self._looked_evictable = 0
        if self.waiting:
            self._queue_exhausted = False
            return self._look()
        self._queue_exhausted = not self.swapped  # a policy that did look would find the end
        return iter(NOBODY)

    def _look(self) -> Iterator[Candidate]:
        if not self.swapped:
            blocks_for, looked = self.pool.blocks_for, self._looked
            for seq in self.waiting:
                if seq.prefix and self.pool.unit_tokens:
                    matched, used_blocks = self._match(seq)
                    looked[seq.seq_id] = seq, matched
                    self._looked_evictable += matched * self.pool.unit_blocks - used_blocks
                    tokens = seq.fill_tokens - matched * self.pool.unit_tokens
                    yield Candidate(seq.seq_id, tokens, blocks_for(seq.fill_tokens) - used_blocks)
                else:
                    looked[seq.seq_id] = seq, 0
                    yield Candidate(seq.seq_id, seq.fill_tokens, blocks_for(seq.fill_tokens))
            self._queue_exhausted = True

    def _match(self, seq: S) -> tuple[int, int]:
        unit = self.pool.unit_tokens
        if unit is None or not seq.prefix:
            return 0, 0
        return self.pool.match(seq.prefix, self._sharable(seq, unit))

    @staticmethod
    def _sharable(seq: S, unit: int) -> int:
        """Return how many prefix blocks of a sequence may be found: whole ones, and one token is left to compute."""
        return min(seq.prompt_tokens, seq.fill_tokens - 1) // unit

    def _admit(self, lane: _Lane[S], chosen: tuple[Chunk, ...]) -> tuple[PrefillChunk[S], ...]:
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
            chunks.append(PrefillChunk(seq, tokens, seq.kv_tokens))
        for seq in self.admitted:  # only now: taking blocks may evict what a later one has just been promised
            pool.take(pool.blocks_for(seq.fill_tokens) - seq.held * pool.unit_blocks)
        return tuple(chunks)

    def _admit_one(self, lane: _Lane[S], seq_id: int) -> S:
        """Take a candidate out of the queue and hold the prefix blocks it matched."""
        found = self._looked.get(seq_id)
        if found is None:
            raise PolicyError(f"{type(self.batching).__name__} chose sequence {seq_id}, which its view did not show")
        seq, matched = found
        waiting = self.waiting
        if waiting[0] is seq:
            waiting.popleft()
        else:
            waiting.remove(seq)
        if matched:
            self.pool.hold(seq.prefix[:matched])
            seq.held = matched
            seq.kv_tokens = cached = matched * (self.pool.unit_tokens or 0)
            self.outstanding_tokens -= cached
        lane.prefilling.append(seq)
        self.admitted.append(seq)
        return seq

    def _prompt_stride(self, chunks: tuple[PrefillChunk[S], ...]) -> tuple[int, int]:
        """Return (iterations until the last equal chunk of a prompt, prompts completed by the first iteration)."""
        finishing = 0
        for seq, tokens, past in chunks:
            if past + tokens == seq.fill_tokens:
                finishing += 1
        if finishing or len(chunks) > 1 or not self._strides:
            return 1, finishing
        seq, tokens, past = chunks[0]
        return (seq.fill_tokens - past - 1) // tokens, 0

    # -- memory --------------------------------------------------------------------------------------------------

    def _make_room(self, lane: _Lane[S]) -> tuple[int, int]:
        """Preempt the youngest until the next decode iteration fits: (blocks swapped out, blocks it needs)."""
        swapped = 0
        while True:
            need = lane.decode.new_blocks(1)
            if need <= self.pool.available_blocks - self._reserved:
                return swapped, need
            victim = (
                lane.prefilling[-1] if lane.prefilling else lane.decode.members[next(reversed(lane.decode.members))]
            )
            swapped += self._preempt(lane, victim)

    def _preempt(self, lane: _Lane[S], seq: S) -> int:
        """Take a sequence's memory away; return the KV blocks moved to host memory (0: to be recomputed)."""
        seq.preemptions += 1
        if seq in self.resumed:
            self.resumed.remove(seq)  # back and gone again before anybody saw it
        else:
            self.preempted.append(seq)
        decoding = seq.finish_step is not None
        if decoding:
            lane.decode.leave(seq)
        else:
            lane.prefilling.remove(seq)
        blocks = self.pool.blocks_for(seq.kv_tokens)
        self._release(seq, blocks if decoding else self.pool.blocks_for(seq.fill_tokens))
        if decoding and blocks <= self._swap_free:
            self._swap_free -= blocks
            self.swapped.append(seq)
            return blocks
        self.outstanding_tokens += seq.kv_tokens
        seq.fill_tokens = seq.prompt_tokens + seq.emitted
        if decoding:
            self.outstanding_tokens += 1  # the token that decoding would have read is part of the prompt now
        seq.kv_tokens = 0
        self.waiting.appendleft(seq)
        return 0

    def _release(self, seq: S, blocks: int) -> None:
        if seq.held:
            self.pool.release(seq.prefix[: seq.held], blocks - seq.held * self.pool.unit_blocks)
            seq.held = 0
        else:
            self.pool.free_blocks += blocks

    def _swap_in(self, lane: _Lane[S]) -> int:
        """Bring swapped sequences back while they fit; return the KV blocks to move."""
        moved = 0
        while self.swapped:
            seq = self.swapped[0]
            blocks = self.pool.blocks_for(seq.kv_tokens)
            spare = (
                self.pool.available_blocks - self._reserved - lane.decode.new_blocks(1) - self.config.watermark_blocks
            )
            seats = self._limits.max_seqs - len(lane.decode.members) - len(lane.prefilling)
            if self.pool.blocks_for(seq.kv_tokens + 1) > spare or seats <= 0:  # with room for its next token
                break
            self.swapped.popleft()
            self.pool.take(blocks)
            self._swap_free += blocks
            lane.decode.join(seq)
            self.resumed.append(seq)
            moved += blocks
        return moved

    # -- outcomes ------------------------------------------------------------------------------------------------

    def apply(self, plan: StepPlan[S], outcome: StepOutcome) -> Applied[S]:
        """Take in what came of a plan."""
        lane = self._lanes[plan.group]
        lane.in_flight = False
        iterations = outcome.iterations
        finished: list[S] = []
        self.grown_blocks = 0
        if plan.decoding:
            decode = lane.decode
            self._reserved -= lane.new_blocks
            blocks, pool = decode.new_blocks(iterations), self.pool
            self.grown_blocks = blocks
            if blocks > pool.free_blocks:
                pool.take(blocks)
            else:
                pool.free_blocks -= blocks
            finished = decode.advance(iterations)
            for seq in finished:
                self._release(seq, -(-seq.kv_tokens // pool.block_tokens))
        first = self._fill(lane, plan, iterations, finished) if plan.chunks else []
        self.outstanding_tokens -= plan.emits * iterations
        return first, finished

    def _fill(self, lane: _Lane[S], plan: StepPlan[S], iterations: int, finished: list[S]) -> list[S]:
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
            seq.held += self.pool.publish(seq.prefix[seq.held : full])

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

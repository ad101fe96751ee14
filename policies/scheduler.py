"""The scheduler: a worker's state machine, clockless, composed from the policies.

`plan` says what the worker does next, `apply` takes in what came of it. Between the two the body, a simulator or an
engine, spends the time. Several plans may be outstanding, one per decode group: that is how a pipeline is kept full.
"""

from collections.abc import Iterator
from math import inf
from typing import Any, Generic

from mypy_extensions import mypyc_attr

from afterwatt.policies.errors import PolicyError
from afterwatt.policies.exchange import Exchange
from afterwatt.policies.kv import KvPool
from afterwatt.policies.lane import UNBOUNDED, Lane, prompt_stride
from afterwatt.policies.plans import (
    NO_MOVES,
    Applied,
    Idle,
    Move,
    PrefillChunk,
    StepOutcome,
    StepPlan,
    Tier,
    earlier,
    prefill_chunk_of,
)
from afterwatt.policies.queue import WaitingLine
from afterwatt.policies.sequence import S
from afterwatt.policies.sizes import RejectReason, SchedulerConfig
from afterwatt.policies.slo import NO_PROMISE, Slo
from afterwatt.policies.views import BatchLimits, BatchPolicy, BatchView, Chunk, Prefilling, RequestView

IDLE = Idle()
NO_CHUNKS: tuple[Any, ...] = ()
NONE_BEGUN: tuple[Prefilling, ...] = ()


@mypyc_attr(allow_interpreted_subclasses=True)
class Scheduler(Generic[S]):
    """Waiting, prefilling and decoding sequences of one worker, and its KV blocks.

    Attributes:
        pool: the KV blocks.
        waiting: admitted to nothing yet, in queue order; the preempted rejoin at its head.
        away: sequences that decode on as soon as their KV, which lies elsewhere, has room here; oldest first.
        line: those who wait, and what the last view has shown of them.
        leaving: id -> (prefix blocks shared, KV blocks of its own) of those that decode elsewhere, and whose KV still
            lies here.
        outstanding_tokens: tokens still to compute and to produce, as of the last `apply`.
    """

    def __init__(
        self, config: SchedulerConfig, batching: BatchPolicy, pool: KvPool | None = None, slo: Slo = NO_PROMISE
    ) -> None:
        """Start with nothing; `pool` is that of a body with addresses; `slo`: what users were promised."""
        self.slo = slo
        self.config = config
        self.batching = batching
        self.pool = pool or KvPool(config.kv_blocks, config.block_tokens, config.prefix_unit_tokens, config.holding)
        self.line = WaitingLine[S](self.pool)
        self._exchange = Exchange[S](self.pool, config.swap_blocks)
        self.waiting = self.line.waiting
        self.away = self._exchange.away
        self.leaving = self._exchange.leaving
        self.outstanding_tokens = 0
        self._most_tokens = most = 1 + config.draft_tokens
        self._by_group = [Lane[S](group, self.pool, config) for group in range(config.groups)]
        self._lanes = list(self._by_group)  # in the order in which they are asked
        self._limits = BatchLimits(-(-config.max_seqs // config.groups), config.token_budget, most)
        self._watermark_blocks = config.watermark_blocks
        self._steady = batching.steady
        # Groups share the memory: what one does changes what another may, so that no plan holds beyond its iteration.
        self._shared = config.groups > 1
        self._strides = batching.steady and not self._shared and most == 1
        self.preempted: list[S] = []  # by the last plan, for the body's records
        self.admitted: list[S] = []
        self.resumed: list[S] = []  # no longer away
        self.grown_blocks = 0  # KV blocks that the decoding of the last outcome took
        self.moved = False  # whether any of these lists holds somebody
        self._told = False  # whether a body has been given them with a plan

    # -- requests ------------------------------------------------------------------------------------------------

    def refusal(self, seq: S) -> RejectReason | None:
        """Return why a sequence can never, or not now, be taken in; None if it can."""
        config, tokens = self.config, seq.prompt_tokens + seq.output_tokens
        if tokens > config.max_context_tokens:
            return "over_context"
        if self.pool.blocks_for(tokens - 1 + config.draft_tokens) > config.kv_blocks - config.watermark_blocks:
            return "never_fits"
        if config.max_queue is not None and len(self.waiting) >= config.max_queue:
            return "queue_full"
        return None

    def add(self, seq: S) -> None:
        """Queue a sequence that `refusal` has let pass."""
        self.waiting.append(seq)
        self.outstanding_tokens += seq.prompt_tokens + seq.output_tokens

    def adopt(self, seq: S, at: Tier) -> None:
        """Take in a sequence that has begun to decode and whose KV lies elsewhere: it joins when its blocks fit.

        As for `add`, `refusal` must have let it pass. Who is away comes before those who wait: a body ends an
        iteration under way as for an arrival that its plan is open to.

        Args:
            seq: with its KV complete, and with output tokens still to come.
            at: the tier that it lies in: host memory, or `peer`, another worker's.

        Raises:
            PolicyError: it is not ready to decode, or cannot lie there.
        """
        if seq.finish_step is not None or not 0 < seq.emitted < seq.output_tokens:
            raise PolicyError(
                f"sequence {seq.seq_id} has {seq.emitted} of {seq.output_tokens} output tokens; adopt one that has "
                "left its worker with some of them"
            )
        self._exchange.keep(seq, at, self.pool.blocks_for(seq.kv_tokens))
        self.outstanding_tokens += seq.output_tokens - seq.emitted

    def release_after(self, seq: S, move: Move) -> None:
        """Give back the KV blocks of a sequence that has left, as the move that carried its KV away is done.

        Raises:
            PolicyError: the sequence has no KV here to be carried away, or the move carried another's or not all of it.
        """
        self._exchange.release_after(seq, move)

    def prefix_tokens(self, seq: S) -> int:
        """Return the prompt tokens whose KV is cached here; asking changes nothing."""
        return self.line.prefix_tokens(seq)

    # -- planning ------------------------------------------------------------------------------------------------

    def plan(self, now_s: float) -> StepPlan[S] | Idle:
        """Decide what runs next in the next group that is not in flight."""
        if self._told:
            self._forget()
        idle = IDLE
        for lane in self._lanes:
            if lane.plan is not None:
                continue
            if self.waiting or lane.prefilling or self.away:
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
        iterations = decode.stride(UNBOUNDED if self._strides else 1, self._room() if self._shared else available)
        if not iterations:
            return None
        lane.view = None
        members, context, used = len(decode.members), decode.context_tokens(), pool.total_blocks - available
        plan = StepPlan(lane.group, members, context, NO_CHUNKS, members, iterations - 1, True, members, used)
        plan.most_tokens = self._most_tokens
        return plan

    def _choose(self, lane: Lane[S], now_s: float) -> StepPlan[S] | Idle:
        """Ask the batching policy, and plan what it says."""
        decode, pool = lane.decode, self.pool
        if self.away:
            self._bring_in(lane)
        need = decode.next_blocks()
        room = self._room()
        if need > room:
            need = self._make_room(lane)
            room = self._room()
        members = len(decode.members)
        free_blocks = room - need - self._watermark_blocks
        limits = self._share_of_seats() if self._shared else self._limits
        begun = lane.begun() if lane.prefilling else NONE_BEGUN
        queue = self.line.show(need, bool(self.away))
        lane.view = view = BatchView(now_s, members, begun, queue, free_blocks, limits, self._about)
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
        iterations, finishing = prompt_stride(chunks, self._strides)
        moves, make_room = self._exchange.take() if self.moved else (NO_MOVES, False)
        if make_room:
            iterations = 1  # who was swapped out before may come back at the next boundary
        context = 0
        if decoding:
            context = decode.context_tokens()
            if iterations > 1:
                # A cached prefix that a candidate has been shown is not evicted within.
                iterations = decode.stride(iterations, max(0, self._room() - self.line.evictable_blocks)) or 1
        return StepPlan(
            lane.group,
            decoding,
            context,
            chunks,
            decoding + finishing,
            iterations - 1,
            self.line.exhausted,
            members + len(lane.prefilling),
            pool.total_blocks - pool.free_blocks - pool.evictable_blocks,
            moves,
            ask_at_s,
            self._most_tokens,
        )

    def _share_of_seats(self) -> BatchLimits:
        """Return a group's limits, so that all get their share of what there is: a pipeline wants to be full."""
        groups = len(self._lanes)
        everybody = self.admitted_sequences() + len(self.waiting) + len(self.away)
        limits = self._limits
        return BatchLimits(min(limits.max_seqs, -(-everybody // groups)), limits.token_budget, limits.tokens_each)

    def _about(self, seq_id: int) -> RequestView:
        """Tell a batching policy of a sequence in its view."""
        shown = [seq for lane in self._lanes for seq in lane.prefilling if seq.seq_id == seq_id]
        if seq_id in self.line.looked:
            shown.append(self.line.looked[seq_id][0])
        if shown:
            return shown[0].view(self.slo)
        raise PolicyError(f"{type(self.batching).__name__} asks about sequence {seq_id}, which its view did not show")

    def sequences(self) -> Iterator[S]:
        """Yield all that it was given and has not finished."""
        yield from self.waiting
        yield from self.away
        for lane in self._lanes:
            yield from lane.prefilling
            yield from lane.decode.members.values()

    def lane(self, plan: StepPlan[S]) -> Lane[S]:
        """Return the decode group that a plan belongs to, with what it holds beside."""
        return self._by_group[plan.group]

    def decoding(self, plan: StepPlan[S]) -> list[tuple[S, int]]:
        """Return (sequence, KV entries in memory) of those that decode in the first iteration of a plan, in order."""
        decode = self.lane(plan).decode
        return [(seq, decode.kv_tokens(seq)) for seq in decode.members.values()] if plan.decoding else []

    def seen(self, group: int) -> tuple[int, int, int]:
        """Return what else the time of a group's plan in flight depends on; see `Lane.seen`."""
        return self._by_group[group].seen()

    def admitted_sequences(self) -> int:
        """Return how many sequences are admitted, of all groups."""
        return sum(len(lane.decode.members) + len(lane.prefilling) for lane in self._lanes)

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
        """Take a candidate out of the queue, with what it finds in memory."""
        found = self.line.take_out(seq_id)
        if found is None:
            raise PolicyError(f"{type(self.batching).__name__} chose sequence {seq_id}, which its view did not show")
        seq, matched, own = found
        if matched or own:
            seq.kv_tokens = cached = matched * (self.pool.unit_tokens or 0) + own * self.pool.block_tokens
            self.outstanding_tokens -= cached
        lane.prefilling.append(seq)
        self.admitted.append(seq)
        self.moved = True
        return seq

    # -- memory --------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Return the KV blocks that can be had, those promised set aside."""
        available = self.pool.free_blocks + self.pool.evictable_blocks
        if self._shared:  # the first iterations of the plans in flight are about to take theirs
            flying = [lane for lane in self._lanes if lane.plan is not None and lane.plan.decoding]
            available -= sum([lane.decode.next_blocks() for lane in flying])
        return available

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
        lane.release(seq, blocks if decoding else pool.blocks_for(seq.fill_tokens))
        if decoding and self._exchange.put(seq, blocks):
            return
        if self.config.keep_preempted:
            pool.leave(seq.seq_id, shared, seq.kv_tokens // pool.block_tokens - shared)
        self.outstanding_tokens += seq.kv_tokens
        seq.fill_tokens = seq.prompt_tokens + seq.emitted
        if decoding:
            self.outstanding_tokens += 1  # the token that decoding would have read is part of the prompt now
        seq.kv_tokens = 0
        self.waiting.appendleft(seq)

    def _bring_in(self, lane: Lane[S]) -> None:
        """Bring sequences whose KV lies elsewhere in while they fit."""
        while self.away:
            seq = self.away[0]
            blocks = self.pool.blocks_for(seq.kv_tokens)
            spare = self._room() - lane.decode.next_blocks() - self._watermark_blocks
            limits = self._share_of_seats() if self._shared else self._limits
            seats = limits.max_seqs - len(lane.decode.members) - len(lane.prefilling)
            # With room for what it yields next.
            if self.pool.blocks_for(seq.kv_tokens + self._most_tokens) > spare or seats <= 0:
                break
            self._exchange.fetch(blocks)
            self.pool.take(blocks, seq.seq_id)
            lane.decode.join(seq)
            self.resumed.append(seq)
            self.moved = True

    # -- outcomes ------------------------------------------------------------------------------------------------

    def apply(self, plan: StepPlan[S], outcome: StepOutcome) -> Applied[S]:
        """Take in what came of a plan."""
        lane = self._by_group[plan.group]
        lane.plan = None
        iterations = outcome.iterations
        finished: list[S] = []
        if outcome.tokens is not None or (plan.decoding and self._most_tokens > 1):
            finished, more = lane.advance_unevenly(plan, outcome)
            self.grown_blocks = lane.decode.grown_blocks
            self.outstanding_tokens -= more
        elif plan.decoding:
            decode, pool = lane.decode, self.pool
            finished = decode.advance(iterations)
            blocks = self.grown_blocks = decode.grown_blocks
            if blocks > pool.free_blocks:
                pool.take(blocks)
            else:
                pool.free_blocks -= blocks
            for seq in finished:
                lane.release(seq, pool.blocks_for(seq.kv_tokens))
        else:
            self.grown_blocks = 0
        leaving: list[S] = []
        first = self._fill(lane, plan, iterations, finished, leaving) if plan.chunks else []
        self.outstanding_tokens -= plan.emits * iterations
        if outcome.stopped:
            ended, unused = lane.stop(outcome.stopped)
            finished += ended
            self.outstanding_tokens -= unused
        return Applied(first, finished, leaving)

    def _fill(self, lane: Lane[S], plan: StepPlan[S], iterations: int, finished: list[S], leaving: list[S]) -> list[S]:
        """Advance prompts; those completed emit a token and decode on, here or elsewhere, or are done."""
        first: list[S] = []
        for seq, tokens, past in plan.chunks:
            seq.kv_tokens = past + tokens * iterations
            self.outstanding_tokens -= tokens * iterations
            if seq.kv_tokens < seq.fill_tokens:
                continue
            lane.prefilling.remove(seq)
            if seq.prefix and self.pool.unit_tokens:
                lane.publish(seq)
            seq.emitted += 1
            first.append(seq)
            if seq.emitted == seq.output_tokens:
                lane.release(seq, self.pool.blocks_for(seq.kv_tokens))
                finished.append(seq)
            elif self.config.hands_over:
                self._exchange.leave(seq)
                self.outstanding_tokens -= seq.output_tokens - seq.emitted
                leaving.append(seq)
            else:
                lane.decode.join(seq)
        return first

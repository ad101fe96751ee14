"""A request whose prompt one worker computes and whose output another one produces: two schedulers, one sequence."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.policies.batching import ChunkedPrefill, PrefillFirst
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.plans import Idle, Move, StepOutcome, StepPlan
from afterwatt.policies.scheduler import Scheduler
from afterwatt.policies.sequence import Sequence
from afterwatt.policies.sizes import SchedulerConfig
from tests.policies.accounts import check_integrity

UNIT = 8
CONFIG = SchedulerConfig(kv_blocks=30, block_tokens=4, max_seqs=8, token_budget=64, max_context_tokens=90)


class Pair:
    """A worker for prompts and one for outputs, one step of either at a time, and the wire between them."""

    def __init__(self, prompts: SchedulerConfig, outputs: SchedulerConfig) -> None:
        self.prompts: Scheduler[Sequence] = Scheduler(replace(prompts, hands_over=True), PrefillFirst())
        self.outputs: Scheduler[Sequence] = Scheduler(outputs, ChunkedPrefill())
        self.left: dict[int, Sequence] = {}  # by id, those whose KV still lies with the prompts
        self.joined: list[int] = []
        self.finished: list[int] = []
        self.preempted: list[int] = []

    def submit(self, seq: Sequence) -> bool:
        """Take a request in if both can."""
        taken = self.prompts.refusal(seq) is None and self.outputs.refusal(seq) is None
        if taken:
            self.prompts.add(seq)
        return taken

    def compute(self) -> bool:
        """Run prompts, and offer those that leave."""
        plan = self.prompts.plan(0.0)
        if isinstance(plan, Idle):
            return False
        assert plan.decoding == 0
        applied = self.prompts.apply(plan, StepOutcome(plan.repeat + 1))
        self.finished += [seq.seq_id for seq in applied.finished]
        assert all(seq.emitted == 1 for seq in applied.first)
        assert {seq.seq_id for seq in applied.leaving} == {seq.seq_id for seq in applied.first if seq.output_tokens > 1}
        for seq in applied.leaving:
            self.left[seq.seq_id] = seq
            self.outputs.adopt(seq, "peer")
        return True

    def produce(self) -> bool:
        """Fetch what fits, let go of it where it came from, and decode."""
        plan = self.outputs.plan(0.0)
        if isinstance(plan, Idle):
            return False
        self.preempted += [seq.seq_id for seq in self.outputs.preempted]
        for move in plan.moves:
            if move.src == "peer":
                self.joined.append(move.owner)
                self.prompts.release_after(self.left.pop(move.owner), move)
        applied = self.outputs.apply(plan, StepOutcome(plan.repeat + 1))
        assert not applied.leaving
        self.finished += [seq.seq_id for seq in applied.finished]
        return True

    def check(self) -> None:
        """Hold the books of both."""
        check_integrity(self.prompts)
        check_integrity(self.outputs)
        assert set(self.prompts.leaving) == set(self.left)
        shared = {key: None for keys, _ in self.prompts.leaving.values() for key in keys}
        assert all(self.prompts.pool.cached_units([key], 1) for key in shared)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(0, 5)), min_size=1, max_size=10),
    st.integers(6, 30),
    st.integers(6, 30),
    st.sampled_from([0, 6, 100]),
    st.sampled_from([0, 2]),
    st.booleans(),
    st.data(),
)
@settings(deadline=None)
def test_everybody_finishes_and_nothing_is_held_twice(lengths, there, here, swap_blocks, draft, keep, data):
    pair = Pair(
        replace(CONFIG, kv_blocks=there, prefix_unit_tokens=UNIT),
        replace(CONFIG, kv_blocks=here, swap_blocks=swap_blocks, draft_tokens=draft, keep_preempted=keep),
    )
    sequences = [
        Sequence(number, prompt, output, tuple(range(min(shared, prompt // UNIT))))
        for number, (prompt, output, shared) in enumerate(lengths)
    ]
    taken = [seq for seq in sequences if pair.submit(seq)]
    total = sum(seq.prompt_tokens + seq.output_tokens for seq in taken)
    assert pair.prompts.outstanding_tokens == total
    for _ in range(20 * total + 20):
        first, second = data.draw(st.permutations([pair.compute, pair.produce]), label="who")
        busy = first()
        pair.check()
        busy = second() or busy
        pair.check()
        if not busy:
            break
    assert sorted(pair.finished) == [seq.seq_id for seq in taken]
    assert all(seq.emitted == seq.output_tokens for seq in taken)
    longer = [seq.seq_id for seq in taken if seq.output_tokens > 1]
    assert list(dict.fromkeys(pair.joined)) == longer == sorted(pair.joined)  # once each, first come first
    for scheduler in (pair.prompts, pair.outputs):
        assert scheduler.outstanding_tokens == scheduler.pool.used_blocks == 0
    assert pair.outputs._exchange.free_blocks == swap_blocks


def handed_over(prompt: int = 16, output: int = 9, **sizes) -> tuple[Pair, Sequence]:
    pair, seq = Pair(CONFIG, replace(CONFIG, **sizes)), Sequence(0, prompt, output)
    pair.submit(seq)
    pair.compute()
    return pair, seq


def test_blocks_stay_until_they_have_been_carried_over():
    pair, seq = handed_over()
    assert pair.prompts.plan(0.0) == Idle()
    assert pair.prompts.pool.used_blocks == 4
    assert (pair.prompts.outstanding_tokens, pair.outputs.outstanding_tokens) == (0, 8)
    plan = pair.outputs.plan(0.0)
    assert isinstance(plan, StepPlan)
    assert plan.moves == (Move("kv", 0, 4, "peer", "hbm"),)
    assert (plan.decoding, plan.context_tokens, plan.chunks, pair.outputs.resumed) == (1, 17, (), [seq])
    assert pair.prompts.pool.used_blocks == pair.outputs.pool.used_blocks == 4
    pair.prompts.release_after(seq, plan.moves[0])
    assert pair.prompts.pool.used_blocks == 0


def test_a_full_memory_keeps_them_waiting_and_those_who_come_later_too():
    """Sixteen tokens and one to come need five blocks; another holds five of nine."""
    pair = Pair(CONFIG, replace(CONFIG, kv_blocks=9))
    for number in range(2):
        pair.submit(Sequence(number, 16, 5))
    pair.outputs.add(Sequence(2, 4, 2))
    pair.compute()
    while 0 not in pair.finished:
        assert len(pair.outputs.away) <= 2
        pair.produce()
        assert [seq.seq_id for seq in pair.outputs.away] == [1]
        assert [seq.seq_id for seq in pair.outputs.waiting] == [2]
        assert pair.prompts.pool.used_blocks == 4
    pair.produce()
    assert pair.joined == [0, 1]
    assert pair.prompts.pool.used_blocks == 0


@pytest.mark.parametrize("swap_blocks", [0, 100])
def test_who_is_adopted_may_lose_its_memory_again(swap_blocks):
    pair = Pair(CONFIG, replace(CONFIG, kv_blocks=10, swap_blocks=swap_blocks))
    for number in range(2):
        pair.submit(Sequence(number, 15, 20))
    pair.compute()
    while pair.produce():
        pair.check()
    assert pair.preempted
    assert set(pair.preempted) == {1}
    assert sorted(pair.finished) == [0, 1]
    assert pair.joined == [0, 1]  # what is lost is not fetched from the other worker again


def test_kv_in_host_memory_takes_room_there_until_it_is_fetched():
    _, seq = handed_over()
    scheduler: Scheduler[Sequence] = Scheduler(replace(CONFIG, swap_blocks=5), ChunkedPrefill())
    scheduler.adopt(seq, "dram")
    assert scheduler._exchange.free_blocks == 1
    assert scheduler.plan(0.0).moves == (Move("kv", 0, 4, "dram", "hbm"),)
    assert scheduler._exchange.free_blocks == 5


@pytest.mark.parametrize(("at", "swap_blocks"), [("hbm", 100), ("dram", 3)])
def test_kv_that_cannot_lie_there_is_refused(at, swap_blocks):
    _, seq = handed_over()
    scheduler: Scheduler[Sequence] = Scheduler(replace(CONFIG, swap_blocks=swap_blocks), ChunkedPrefill())
    with pytest.raises(PolicyError, match=rf"sequence 0 \(4 blocks\) is said to lie in {at}"):
        scheduler.adopt(seq, at)
    assert scheduler.outstanding_tokens == 0


def test_only_who_has_begun_is_adopted():
    scheduler: Scheduler[Sequence] = Scheduler(CONFIG, ChunkedPrefill())
    with pytest.raises(PolicyError, match="0 of 5 output tokens"):
        scheduler.adopt(Sequence(0, 10, 5), "peer")


@pytest.mark.parametrize(("owner", "units"), [(1, 4), (0, 3), (0, 5)])
def test_another_move_does_not_end_a_stay(owner, units):
    pair, seq = handed_over()
    with pytest.raises(PolicyError, match=f"a move of {units} KV blocks of sequence {owner} does not end"):
        pair.prompts.release_after(seq, Move("kv", owner, units, "peer", "hbm"))
    assert pair.prompts.pool.used_blocks == 4


def test_a_stay_ends_once():
    pair, seq = handed_over()
    move = Move("kv", 0, 4, "peer", "hbm")
    pair.prompts.release_after(seq, move)
    with pytest.raises(PolicyError, match="the 0 that sequence 0 has left"):
        pair.prompts.release_after(seq, move)

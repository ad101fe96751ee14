"""The scheduler under any sequence of arrivals, plans and outcomes: nothing is lost, nobody overtakes, all finish."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from afterwatt.policies.batching import BATCHING, ChunkedPrefill, PrefillFirst
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.plans import Idle, Move, StepOutcome, StepPlan
from afterwatt.policies.scheduler import Scheduler, SchedulerConfig
from afterwatt.policies.sequence import Sequence
from afterwatt.policies.views import BatchDecision, Chunk
from tests.policies.accounts import check_integrity

CONFIG = SchedulerConfig(kv_blocks=100, block_tokens=4, max_seqs=8, token_budget=64, max_context_tokens=1000)
UNIT = 8


class ClockWatcher(ChunkedPrefill):
    """Decides like its parent, but wants to be asked at every boundary."""

    steady = False


def outstanding(scheduler: Scheduler[Sequence], seq: Sequence) -> int:
    """Prompt tokens that a sequence has still to compute and output tokens that it has still to produce."""
    for lane in scheduler._lanes:
        if seq.seq_id in lane.decode.members:
            return seq.finish_step - lane.decode.step
    to_compute = 0 if seq in scheduler.away else seq.fill_tokens - seq.kv_tokens
    return to_compute + seq.output_tokens - seq.emitted


class AnyHistory(RuleBasedStateMachine):
    """Adds, plans and applies in any order, strides whole or cut short, several plans outstanding."""

    @initialize(
        batching=st.sampled_from([*BATCHING.values(), ClockWatcher]),
        kv_blocks=st.integers(4, 30),
        block_tokens=st.sampled_from([1, 2, 4]),
        max_seqs=st.integers(1, 6),
        budget=st.integers(1, 40),
        watermark=st.integers(0, 3),
        swap_blocks=st.sampled_from([0, 0, 5, 1000]),
        unit=st.sampled_from([None, UNIT]),
        groups=st.integers(1, 3),
        max_queue=st.none() | st.integers(1, 3),
        keep=st.booleans(),
        draft=st.sampled_from([0, 0, 1, 3]),
    )
    def begin(
        self,
        batching,
        kv_blocks,
        block_tokens,
        max_seqs,
        budget,
        watermark,
        swap_blocks,
        unit,
        groups,
        max_queue,
        keep,
        draft,
    ) -> None:
        self.scheduler: Scheduler[Sequence] = Scheduler(
            SchedulerConfig(
                kv_blocks=kv_blocks,
                block_tokens=block_tokens,
                max_seqs=max_seqs,
                token_budget=budget,
                max_context_tokens=90,
                watermark_blocks=min(watermark, kv_blocks - 1),
                max_queue=max_queue,
                swap_blocks=swap_blocks,
                prefix_unit_tokens=unit,
                keep_preempted=keep,
                groups=groups,
                draft_tokens=draft,
            ),
            batching(),
        )
        self.sequences: list[Sequence] = []
        self.in_flight: list[StepPlan[Sequence]] = []
        self.finished: set[int] = set()
        self.first_admissions: list[int] = []
        self.owed: dict[int, int] = {}  # prompt tokens that an admitted sequence has still to compute

    @rule(prompt=st.integers(1, 60), output=st.integers(1, 40), session=st.integers(0, 2), shared=st.integers(0, 7))
    def add(self, prompt: int, output: int, session: int, shared: int) -> None:
        number = len(self.sequences)
        keys = [100 * session + i if i < shared else 10_000 + 100 * number + i for i in range(prompt // UNIT)]
        seq = Sequence(number, prompt, output, tuple(keys))
        config = self.scheduler.config
        blocks = self.scheduler.pool.blocks_for(prompt + output - 1 + config.draft_tokens)
        reason = self.scheduler.refusal(seq)
        if prompt + output > config.max_context_tokens:
            assert reason == "over_context"
        elif blocks > config.kv_blocks - config.watermark_blocks:
            assert reason == "never_fits"
        elif config.max_queue is not None and len(self.scheduler.waiting) >= config.max_queue:
            assert reason == "queue_full"
        else:
            assert reason is None
            self.sequences.append(seq)
            self.scheduler.add(seq)

    @rule()
    def plan(self) -> None:
        plan = self.scheduler.plan(0.0)
        if isinstance(plan, Idle):
            return
        for seq in self.scheduler.preempted:
            self.owed[seq.seq_id] = 0  # what it had still to compute is asked for again
        for seq in self.scheduler.admitted:
            self.owed[seq.seq_id] = seq.fill_tokens - seq.kv_tokens
            if seq.seq_id not in self.first_admissions:
                self.first_admissions.append(seq.seq_id)
        assert plan.group not in {other.group for other in self.in_flight}
        assert plan.decoding or plan.chunks
        config = self.scheduler.config
        assert plan.running <= -(-config.max_seqs // config.groups)
        assert plan.used_blocks == self.scheduler.pool.used_blocks <= config.kv_blocks
        assert plan.most_tokens == 1 + config.draft_tokens
        if not self.scheduler.batching.steady or config.draft_tokens:
            assert plan.repeat == 0
        self.in_flight.append(plan)

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 9), part=st.floats(0.0, 1.0) | st.just(1.0), yields=st.none() | st.integers(0, 999))
    def apply(self, which: int, part: float, yields: int | None = None) -> None:
        plan = self.in_flight.pop(which % len(self.in_flight))
        iterations = 1 + round(part * plan.repeat)
        tokens = None if yields is None else self.yielded(plan, iterations, yields)
        before = self.scheduler.outstanding_tokens
        applied = self.scheduler.apply(plan, StepOutcome(iterations, tokens=tokens))
        emitted = plan.emits * iterations if tokens is None else sum(tokens.values()) + len(applied.first)
        computed = sum(chunk.tokens for chunk in plan.chunks) * iterations
        assert before - self.scheduler.outstanding_tokens == emitted + computed
        for chunk in plan.chunks:
            self.owed[chunk.seq.seq_id] -= chunk.tokens * iterations
        assert all(self.owed[seq.seq_id] == 0 for seq in applied.first)
        for seq in applied.finished:
            assert seq.emitted == seq.output_tokens
            assert seq.seq_id not in self.finished
            self.finished.add(seq.seq_id)

    def yielded(self, plan: StepPlan[Sequence], iterations: int, yields: int) -> dict[int, int]:
        """Tokens of each that decodes: from the fewest to the most that it may yield, as a number says."""
        decode = self.scheduler.lane(plan).decode
        members = decode.members.values() if plan.decoding else ()
        most = {seq.seq_id: min(iterations * plan.most_tokens, seq.finish_step - decode.step) for seq in members}
        return {seq_id: iterations + yields % (7 + seq_id) % (1 + more - iterations) for seq_id, more in most.items()}

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        check_integrity(scheduler)
        unfinished = [seq for seq in self.sequences if seq.seq_id not in self.finished]
        assert scheduler.outstanding_tokens == sum(outstanding(scheduler, seq) for seq in unfinished)
        assert scheduler.pool.used_blocks + scheduler.pool.available_blocks == scheduler.config.kv_blocks

    @invariant()
    def nobody_overtakes(self) -> None:
        if hasattr(self, "scheduler"):
            assert self.first_admissions == list(range(len(self.first_admissions)))

    def teardown(self) -> None:
        """Everything accepted finishes, in a bounded number of plans."""
        if not hasattr(self, "scheduler"):
            return
        tokens = sum(seq.prompt_tokens + seq.output_tokens for seq in self.sequences)
        for _ in range(200 + 20 * tokens):
            self.plan()
            if not self.in_flight:
                break
            self.apply(0, 1.0)
            self.nothing_is_lost()
        assert self.finished == {seq.seq_id for seq in self.sequences}
        assert self.first_admissions == list(range(len(self.sequences)))
        pool = self.scheduler.pool
        assert pool.used_blocks == self.scheduler.outstanding_tokens == 0
        assert pool.available_blocks == pool.total_blocks
        assert self.scheduler._exchange.free_blocks == self.scheduler.config.swap_blocks


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=500, stateful_step_count=40, deadline=None)


# -- stories -----------------------------------------------------------------------------------------------------------


def scheduler_of(batching=ChunkedPrefill, **sizes) -> Scheduler[Sequence]:
    return Scheduler(replace(CONFIG, **sizes), batching())


def added(scheduler: Scheduler[Sequence], *lengths: tuple[int, int]) -> list[Sequence]:
    sequences = [Sequence(number, prompt, output) for number, (prompt, output) in enumerate(lengths)]
    for seq in sequences:
        scheduler.add(seq)
    return sequences


def done(scheduler: Scheduler[Sequence], plan: StepPlan[Sequence], iterations: int | None = None) -> list[Sequence]:
    return scheduler.apply(plan, StepOutcome(plan.repeat + 1 if iterations is None else iterations)).finished


def test_nothing_to_do_is_idle():
    assert scheduler_of().plan(0.0) == Idle()


def test_one_request_is_a_prompt_and_one_stride():
    scheduler = scheduler_of()
    (seq,) = added(scheduler, (10, 20))
    prompt = scheduler.plan(0.0)
    assert (prompt.decoding, prompt.emits, prompt.repeat) == (0, 1, 0)
    assert prompt.chunks == ((seq, 10, 0),)
    assert done(scheduler, prompt) == []
    decode = scheduler.plan(1.0)
    assert (decode.decoding, decode.context_tokens, decode.emits, decode.repeat) == (1, 11, 1, 18)
    assert decode.open_to_arrivals
    assert done(scheduler, decode) == [seq]


def test_a_prompt_alone_is_one_stride_of_equal_chunks_and_a_last_one():
    scheduler = scheduler_of(token_budget=10)
    added(scheduler, (45, 2))
    plan = scheduler.plan(0.0)
    assert [(chunk.tokens, chunk.past_tokens) for chunk in plan.chunks] == [(10, 0)]
    assert plan.repeat == 3
    done(scheduler, plan)
    last = scheduler.plan(1.0)
    assert [(chunk.tokens, chunk.past_tokens) for chunk in last.chunks] == [(5, 40)]
    assert last.emits == 1


def test_several_plans_are_outstanding_one_per_group():
    scheduler = scheduler_of(groups=3, max_seqs=3)
    added(scheduler, (10, 5), (10, 5), (10, 5), (10, 5))
    plans = [scheduler.plan(0.0) for _ in range(3)]
    assert [plan.group for plan in plans] == [0, 1, 2]
    assert [plan.chunks[0].seq.seq_id for plan in plans] == [0, 1, 2]
    assert scheduler.plan(0.0) == Idle()  # all are in flight
    done(scheduler, plans[1])
    assert scheduler.plan(0.0).group == 1


def test_the_youngest_loses_its_memory_and_rejoins_at_the_head_of_the_queue():
    scheduler = scheduler_of(kv_blocks=10)
    old, young, third = added(scheduler, (15, 20), (16, 20), (20, 5))
    while not scheduler.preempted:
        done(scheduler, scheduler.plan(0.0))
    assert scheduler.preempted == [young]
    assert list(scheduler.waiting) == [young, third]
    assert young.fill_tokens == young.prompt_tokens + young.emitted > 16
    assert old.preemptions == 0


def preempted_once(**sizes) -> tuple[Scheduler[Sequence], Sequence]:
    """A scheduler that has just taken the memory of the younger of two sequences."""
    scheduler = scheduler_of(kv_blocks=10, **sizes)
    _, young = added(scheduler, (15, 20), (16, 20))
    while not scheduler.preempted:
        done(scheduler, scheduler.plan(0.0))
    return scheduler, young


def resumption(scheduler: Scheduler[Sequence]) -> tuple[int, int]:
    """(tokens computed, tokens found) of the first prompt piece that the next plans hold."""
    while True:
        plan = scheduler.plan(1.0)
        if plan.chunks:
            return plan.chunks[0].tokens, plan.chunks[0].past_tokens
        done(scheduler, plan)


def test_who_resumes_finds_what_nobody_has_written_over():
    """The other goes on decoding meanwhile, and takes those that were given back first: the last ones."""
    forgetful, young = preempted_once()
    computed = young.fill_tokens
    assert resumption(forgetful) == (computed, 0)
    keeping, again = preempted_once(keep_preempted=True)
    tokens, found = resumption(keeping)
    assert again.fill_tokens == computed == tokens + found
    assert 0 < found < computed - CONFIG.block_tokens
    assert found % CONFIG.block_tokens == 0


def test_who_waits_for_room_does_not_lose_the_beginning_of_what_is_left():
    scheduler, young = preempted_once(keep_preempted=True)
    left = [scheduler.pool.left(young.seq_id, 0, 0)]
    while not (plan := scheduler.plan(1.0)).chunks:
        done(scheduler, plan, 1)
        left.append(scheduler.pool.left(young.seq_id, 0, 0))
    assert left == sorted(left, reverse=True)
    assert plan.chunks[0].past_tokens == left[-1] * CONFIG.block_tokens


def test_swapping_keeps_what_was_computed():
    scheduler = scheduler_of(kv_blocks=10, swap_blocks=8)
    _, young, third = added(scheduler, (15, 20), (16, 20), (20, 5))
    plan = scheduler.plan(0.0)
    while not plan.moves:
        done(scheduler, plan)
        plan = scheduler.plan(0.0)
    assert list(scheduler.away) == [young]
    blocks = scheduler.pool.blocks_for(young.kv_tokens)
    assert plan.moves == (Move("kv", young.seq_id, blocks, "hbm", "dram"),)
    assert young.kv_tokens == 16 + young.emitted - 1
    done(scheduler, plan)
    while not (plan := scheduler.plan(0.0)).moves:
        assert third not in scheduler.admitted  # nobody is admitted before those who lost their place
        done(scheduler, plan)
    assert plan.moves == (Move("kv", young.seq_id, blocks, "dram", "hbm"),)
    assert scheduler.resumed == [young]
    assert young.fill_tokens == 16  # nothing to compute again


def test_a_full_host_memory_falls_back_to_recomputing():
    scheduler = scheduler_of(kv_blocks=10, swap_blocks=1)
    added(scheduler, (15, 20), (16, 20))
    while not scheduler.preempted:
        done(scheduler, scheduler.plan(0.0))
    assert not scheduler.away
    assert len(scheduler.waiting) == 1


def test_a_second_request_finds_the_prefix_of_the_first():
    scheduler = scheduler_of(prefix_unit_tokens=UNIT)
    first, second = Sequence(0, 20, 2, (1, 2)), Sequence(1, 30, 2, (1, 2, 3))
    scheduler.add(first)
    done(scheduler, scheduler.plan(0.0))
    assert scheduler.prefix_tokens(second) == 16
    scheduler.add(second)
    plan = scheduler.plan(0.0)
    assert [(chunk.tokens, chunk.past_tokens) for chunk in plan.chunks] == [(14, 16)]
    assert scheduler.outstanding_tokens == 1 + 14 + 2


def test_one_token_of_a_prompt_is_always_computed():
    """The last one: its logits are the first output token."""
    scheduler = scheduler_of(prefix_unit_tokens=UNIT)
    scheduler.add(Sequence(0, 16, 1, (1, 2)))
    done(scheduler, scheduler.plan(0.0))
    again = Sequence(1, 16, 1, (1, 2))
    assert scheduler.prefix_tokens(again) == 8


def test_asking_what_is_cached_changes_nothing():
    """A router asks every replica; those that are not chosen must go on as if nobody had asked."""
    asked, other = (
        scheduler_of(kv_blocks=9, prefix_unit_tokens=UNIT),
        scheduler_of(kv_blocks=9, prefix_unit_tokens=UNIT),
    )
    for scheduler in (asked, other):
        for number, keys in enumerate(((1,), (2,), (3,))):
            scheduler.add(Sequence(number, 9, 1, keys))
            done(scheduler, scheduler.plan(0.0))
    asked.prefix_tokens(Sequence(9, 9, 1, (1,)))
    for scheduler in (asked, other):
        scheduler.add(Sequence(10, 20, 1))  # 5 blocks: 3 are free, one prefix has to go
        done(scheduler, scheduler.plan(0.0))
    left = [[s.prefix_tokens(Sequence(11, 9, 1, (key,))) for key in (1, 2, 3)] for s in (asked, other)]
    assert left[0] == left[1] == [0, 8, 8]


class NamesAStranger(ChunkedPrefill):
    def select(self, view):
        return BatchDecision(decode=True, chunks=(Chunk(77, 1),))


class WantsTooMuch(ChunkedPrefill):
    def select(self, view):
        candidate = next(view.queue)
        return BatchDecision(decode=True, chunks=(Chunk(candidate.seq_id, candidate.tokens + 1),))


@pytest.mark.parametrize(
    ("batching", "sentence"),
    [
        (NamesAStranger, "NamesAStranger chose sequence 77, which its view did not show"),
        (WantsTooMuch, "WantsTooMuch wants 11 tokens of sequence 0; it has 10 left to compute"),
    ],
)
def test_a_policy_that_breaks_its_contract_is_named(batching, sentence):
    scheduler = scheduler_of(batching)
    added(scheduler, (10, 5))
    with pytest.raises(PolicyError, match=sentence):
        scheduler.plan(0.0)


@given(st.integers(1, 300), st.integers(1, 200), st.integers(1, 40), st.sampled_from([PrefillFirst, ChunkedPrefill]))
@settings(deadline=None)
def test_one_request_takes_its_prompt_over_the_budget_and_its_output_in_iterations(prompt, output, budget, batching):
    scheduler = scheduler_of(batching, kv_blocks=1000, token_budget=budget)
    (seq,) = added(scheduler, (prompt, output))
    iterations = 0
    while (plan := scheduler.plan(0.0)) != Idle():
        iterations += plan.repeat + 1
        done(scheduler, plan)
    chunks = 1 if batching is PrefillFirst else -(-prompt // budget)
    assert iterations == chunks + output - 1
    assert seq.emitted == output


# -- being asked again -------------------------------------------------------------------------------------------------


class AsksAt(ChunkedPrefill):
    """Holds everybody back and asks to be asked at a time."""

    time_s: float | None = 2.0

    def select(self, view):
        return BatchDecision(decode=False, ask_at_s=self.time_s)


def test_a_policy_that_holds_everybody_back_names_the_time():
    scheduler = scheduler_of(AsksAt)
    assert scheduler.plan(0.0) == Idle()  # about nothing, nobody is asked
    added(scheduler, (10, 5))
    assert scheduler.plan(0.0) == Idle(2.0)
    assert scheduler.plan(1.5) == Idle(2.0)
    scheduler.batching.time_s = None
    assert scheduler.plan(2.0) == Idle()


@pytest.mark.parametrize("time_s", [1.0, 0.5, float("inf"), float("nan")])
def test_a_time_that_is_not_to_come_is_refused(time_s):
    scheduler = scheduler_of(AsksAt)
    scheduler.batching.time_s = time_s
    added(scheduler, (10, 5))
    with pytest.raises(PolicyError, match=r"asked again at .* s, and it is 1 s; name a time"):
        scheduler.plan(1.0)


def test_of_several_groups_the_earliest_time_counts():
    class InTurn(AsksAt):
        times = iter([7.0, 3.0, 5.0])

        def select(self, view):
            return BatchDecision(decode=False, ask_at_s=next(self.times))

    scheduler = scheduler_of(InTurn, groups=3)
    added(scheduler, (10, 5))
    assert scheduler.plan(0.0) == Idle(3.0)


def test_a_plan_says_until_when_it_holds():
    class DecodesUntil(ChunkedPrefill):
        def select(self, view):
            decision = super().select(view)
            return BatchDecision(decision.decode, decision.chunks, view.now_s + 4.0)

    scheduler = scheduler_of(DecodesUntil)
    added(scheduler, (10, 5))
    assert scheduler.plan(1.0).ask_at_s == 5.0


# -- shares of seats and memory ----------------------------------------------------------------------------------------


def test_groups_take_turns():
    """Who has just had a plan comes last next time, even if its outcome is there first."""
    scheduler = scheduler_of(groups=3, max_seqs=3)
    added(scheduler, (10, 5), (10, 5), (10, 5))
    turns = []
    for _ in range(9):
        plan = scheduler.plan(0.0)
        turns.append(plan.group)
        done(scheduler, plan)
    assert turns == [0, 1, 2] * 3


@pytest.mark.parametrize(
    ("groups", "max_seqs", "waiting", "admitted"),
    [(2, 5, 6, [3, 3]), (2, 8, 3, [2, 1]), (3, 8, 7, [3, 3, 1]), (3, 1, 5, [1, 1, 1]), (2, 6, 1, [1])],
)
def test_seats_are_shared_evenly_among_groups_and_rounded_up(groups, max_seqs, waiting, admitted):
    scheduler = scheduler_of(groups=groups, max_seqs=max_seqs)
    added(scheduler, *[(4, 5)] * waiting)
    plans = [scheduler.plan(0.0) for _ in range(groups)]
    assert [len(plan.chunks) for plan in plans if isinstance(plan, StepPlan)] == admitted


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(2, 30)), min_size=2, max_size=6),
    st.integers(8, 20),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 2),
)
@settings(deadline=None)
def test_who_comes_back_has_room_for_a_token_and_stays_for_it(lengths, kv_blocks, block_tokens, watermark):
    """Nobody is brought back in order to be swapped out again at once: each loss of memory has been told."""
    scheduler = scheduler_of(
        kv_blocks=kv_blocks, block_tokens=block_tokens, swap_blocks=100, watermark_blocks=watermark
    )
    sequences = [seq for seq in (Sequence(n, *pair) for n, pair in enumerate(lengths)) if not scheduler.refusal(seq)]
    for seq in sequences:
        scheduler.add(seq)
    told = dict.fromkeys(range(len(lengths)), 0)
    while not isinstance(plan := scheduler.plan(0.0), Idle):
        for seq in scheduler.preempted:
            told[seq.seq_id] += 1
        if scheduler.resumed:
            spare = scheduler.pool.available_blocks
            assert spare >= scheduler._lanes[0].decode.next_blocks()
        done(scheduler, plan)
    assert all(seq.preemptions == told[seq.seq_id] for seq in sequences)


def test_a_block_for_the_next_token_decides_who_comes_back():
    """Its own four blocks are free, and the token after its sixteen needs a fifth."""
    scheduler = scheduler_of(kv_blocks=9, swap_blocks=100)
    old, young = added(scheduler, (16, 9), (13, 9))
    while not scheduler.away:
        done(scheduler, scheduler.plan(0.0), 1)
    blocks = scheduler.pool.blocks_for(young.kv_tokens)
    assert young.kv_tokens % CONFIG.block_tokens == 0
    while old.finish_step is not None:
        plan = scheduler.plan(0.0)
        if scheduler.resumed:
            break
        assert scheduler.pool.available_blocks < blocks + 1 + scheduler._lanes[0].decode.next_blocks()
        done(scheduler, plan, 1)
    assert young.preemptions == 1

"""Tokens per sequence in an outcome: what a body that guesses ahead has kept of its guesses."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.engine.runtime.paged import PagedPool
from afterwatt.policies.batching import BATCHING
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.plans import Idle, StepOutcome, StepPlan
from afterwatt.policies.scheduler import Scheduler
from afterwatt.policies.sequence import Sequence
from afterwatt.policies.sizes import SchedulerConfig
from tests.policies.accounts import check_integrity

CONFIG = SchedulerConfig(kv_blocks=24, block_tokens=4, max_seqs=6, token_budget=32, max_context_tokens=90)
LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 25)), min_size=1, max_size=8)


def began(config: SchedulerConfig, batching: str, lengths: list[tuple[int, int]], paged: bool = False):
    pool = PagedPool(config.kv_blocks, config.block_tokens) if paged else None
    scheduler: Scheduler[Sequence] = Scheduler(config, BATCHING[batching](), pool)
    for number, (prompt, output) in enumerate(lengths):
        scheduler.add(Sequence(number, prompt, output))
    return scheduler


def grants(scheduler: Scheduler[Sequence], plan: StepPlan[Sequence]) -> dict[int, int]:
    """The most tokens that each of those who decode may yield in one iteration of a plan."""
    return {
        seq.seq_id: min(plan.most_tokens, seq.prompt_tokens + seq.output_tokens - kv_tokens - 1)
        for seq, kv_tokens in scheduler.decoding(plan)
    }


def state(scheduler: Scheduler[Sequence]) -> tuple[object, ...]:
    pool, lane = scheduler.pool, scheduler._lanes[0]
    members = [(seq.seq_id, lane.decode.kv_tokens(seq), seq.finish_step) for seq in lane.decode.members.values()]
    begun = [(seq.seq_id, seq.kv_tokens) for seq in lane.prefilling]
    queued = [seq.seq_id for seq in [*scheduler.waiting, *scheduler.away]]
    counts = pool.free_blocks, pool.given_blocks, scheduler.outstanding_tokens, scheduler.grown_blocks
    return members, begun, queued, counts, lane.decode.step


@given(st.sampled_from(sorted(BATCHING)), LENGTHS, st.booleans(), st.sampled_from([0, 9]))
@settings(deadline=None)
def test_one_token_each_told_is_one_token_each_untold(batching, lengths, keep, swap_blocks):
    config = replace(CONFIG, keep_preempted=keep, swap_blocks=swap_blocks)
    told, untold = (began(config, batching, lengths) for _ in range(2))
    while not isinstance(plan := told.plan(0.0), Idle):
        other = untold.plan(0.0)
        iterations = plan.repeat + 1
        assert other.repeat == plan.repeat
        told.apply(plan, StepOutcome(iterations, tokens=dict.fromkeys(grants(told, plan), iterations)))
        untold.apply(other, StepOutcome(iterations))
        assert state(told) == state(untold)
    assert untold.plan(0.0) == Idle()


@given(st.sampled_from(sorted(BATCHING)), LENGTHS, st.integers(1, 4), st.sampled_from([0, 9]), st.data())
@settings(deadline=None)
def test_real_blocks_follow_guesses_kept_and_dropped(batching, lengths, draft, swap_blocks, data):
    """A body grows by all that may be kept before an iteration; afterwards each has just what its tokens fill."""
    config = replace(CONFIG, draft_tokens=draft, keep_preempted=data.draw(st.booleans()), swap_blocks=swap_blocks)
    scheduler = began(config, batching, lengths, paged=True)
    pool, outputs = scheduler.pool, 0
    assert isinstance(pool, PagedPool)
    while not isinstance(plan := scheduler.plan(0.0), Idle):
        decoding = scheduler.decoding(plan)
        for seq, kv_tokens in decoding:
            for _ in range(pool.blocks_for(kv_tokens + plan.most_tokens) - len(pool.tables[seq.seq_id])):
                pool.grow(seq.seq_id)
        tokens = {seq_id: data.draw(st.integers(1, most)) for seq_id, most in grants(scheduler, plan).items()}
        applied = scheduler.apply(plan, StepOutcome(1, tokens=tokens))
        outputs += sum(tokens.values()) + len(applied.first)
        check_integrity(scheduler)
        decode = scheduler.lane(plan).decode
        for seq, kv_tokens in decoding:
            if seq.seq_id in decode.members:
                assert decode.kv_tokens(seq) == kv_tokens + tokens[seq.seq_id]
                assert len(pool.tables[seq.seq_id]) == pool.blocks_for(decode.kv_tokens(seq))
            else:
                assert seq in applied.finished
    assert outputs == sum(output for _, output in lengths)
    assert pool.used_blocks == 0


def decoding_pair(draft_tokens: int = 3) -> tuple[Scheduler[Sequence], StepPlan[Sequence]]:
    """Two sequences of 8 prompt tokens that decode, one with 2 output tokens to come and one with 9."""
    scheduler = began(replace(CONFIG, draft_tokens=draft_tokens), "prefill-first", [(8, 3), (8, 10)])
    scheduler.apply(scheduler.plan(0.0), StepOutcome(1))
    plan = scheduler.plan(1.0)
    assert isinstance(plan, StepPlan)
    return scheduler, plan


def test_who_has_all_its_tokens_is_done_amid_the_others():
    scheduler, plan = decoding_pair()
    assert (plan.most_tokens, plan.repeat, plan.decoding) == (4, 0, 2)
    applied = scheduler.apply(plan, StepOutcome(1, tokens={0: 2, 1: 4}))
    assert [seq.seq_id for seq in applied.finished] == [0]
    assert [(seq.seq_id, kv) for seq, kv in scheduler.decoding(scheduler.plan(2.0))] == [(1, 12)]
    assert scheduler.outstanding_tokens == 5


def test_a_stop_amid_guesses_leaves_the_rest_of_the_output_out():
    scheduler, plan = decoding_pair()
    applied = scheduler.apply(plan, StepOutcome(1, (1,), {0: 1, 1: 3}))
    assert [(seq.seq_id, seq.output_tokens) for seq in applied.finished] == [(1, 4)]
    assert scheduler.outstanding_tokens == 1
    check_integrity(scheduler)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ({0: 3, 1: 1}, "sequence 0 is said to have yielded 3 tokens; it yields 1 to 2"),
        ({0: 1, 1: 5}, "sequence 1 is said to have yielded 5 tokens; it yields 1 to 4"),
        ({0: 0, 1: 1}, "sequence 0 is said to have yielded 0 tokens"),
        ({0: 1}, r"tokens of sequences \[0\] are told"),
        ({0: 1, 1: 1, 2: 1}, "name each that decodes, and nobody else"),
    ],
)
def test_what_was_not_granted_is_refused(tokens, words):
    scheduler, plan = decoding_pair()
    with pytest.raises(PolicyError, match=words):
        scheduler.apply(plan, StepOutcome(1, tokens=tokens))


def test_a_lock_step_group_yields_one_each():
    scheduler, plan = decoding_pair(draft_tokens=0)
    with pytest.raises(PolicyError, match="it yields 1 to 1"):
        scheduler.apply(plan, StepOutcome(1, tokens={0: 1, 1: 2}))


def test_guesses_count_against_the_budget_and_wait_for_room():
    """One decodes with 3 guesses: 4 tokens of 8 are left for the other prompt; alone they would be 7."""
    scheduler = began(replace(CONFIG, draft_tokens=3, token_budget=8), "chunked", [(8, 9), (8, 9)])
    scheduler.apply(scheduler.plan(0.0), StepOutcome(1))
    assert [chunk.tokens for chunk in scheduler.plan(1.0).chunks] == [4]


def test_a_request_that_fits_without_guesses_may_never_fit_with_them():
    """8 + 5 - 1 tokens fill three blocks; a last guess needs a fourth."""
    sizes = replace(CONFIG, kv_blocks=3)
    seq = Sequence(0, 8, 5)
    assert Scheduler(sizes, BATCHING["chunked"]()).refusal(seq) is None
    assert Scheduler(replace(sizes, draft_tokens=1), BATCHING["chunked"]()).refusal(seq) == "never_fits"

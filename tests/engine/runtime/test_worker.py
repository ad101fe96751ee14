"""The worker with a model of arithmetic: every request gets the tokens it would get alone, whatever memory does."""

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.engine.runtime.compute import Sampling
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.request import Request
from afterwatt.engine.runtime.worker import EngineWorker
from afterwatt.fidelity.serving.run import block_hashes
from afterwatt.policies.batching import BATCHING
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.plans import StepOutcome
from afterwatt.policies.sizes import SchedulerConfig
from tests.engine.arithmetic import ArithmeticCompute, GuessingCompute, expected_output
from tests.policies.accounts import check_integrity

UNIT = 4


def requests_of(draw: st.DrawFn) -> list[tuple[int, Request]]:
    """Requests with the iteration before which each arrives; some share their beginnings."""
    made = []
    for number in range(draw(st.integers(1, 9))):
        stem = [draw(st.integers(0, 1))] * draw(st.integers(0, 12))
        tail = draw(st.lists(st.integers(0, 250), min_size=1, max_size=14))
        ids = np.array(stem + tail, dtype=np.int64)
        request = Request(
            number,
            ids,
            draw(st.integers(1, 20)),
            sampling=Sampling(seed=draw(st.integers(0, 2))),
            stop_ids=frozenset(draw(st.sets(st.integers(0, 250), max_size=20))),
            prefix=block_hashes([*ids.tolist()], UNIT),
            klass=draw(st.sampled_from([None, "chat", "code"])),
        )
        # A prefix also stands for the seed here, as the model's answer does.
        made.append((draw(st.integers(0, 25)), request))
    return sorted(made, key=lambda one: (one[0], one[1].request_id))


@st.composite
def worlds(draw: st.DrawFn):
    config = SchedulerConfig(
        kv_blocks=draw(st.integers(6, 26)),
        block_tokens=draw(st.sampled_from([1, 2, 4])),
        max_seqs=draw(st.integers(1, 5)),
        token_budget=draw(st.integers(1, 30)),
        max_context_tokens=60,
        watermark_blocks=draw(st.integers(0, 2)),
        swap_blocks=draw(st.sampled_from([0, 0, 6, 100])),
        prefix_unit_tokens=draw(st.sampled_from([None, UNIT])),
        keep_preempted=draw(st.booleans()),
        draft_tokens=draw(st.sampled_from([0, 0, 1, 3])),
    )
    return config, draw(st.sampled_from(sorted(BATCHING))), requests_of(draw)


def run(config: SchedulerConfig, batching: str, requests: list[tuple[int, Request]]):
    """Run to the end, one clock tick per look at the clock; (worker, report)."""
    ticks = count()
    sizes = config.kv_blocks, config.block_tokens, config.swap_blocks
    drafts = config.draft_tokens
    compute = GuessingCompute(*sizes, draft_tokens=drafts) if drafts else ArithmeticCompute(*sizes)
    worker = EngineWorker(compute, config, BATCHING[batching](), lambda: next(ticks))
    coming = list(requests)
    for iteration in range(10_000):
        worker.take(request for at, request in coming if at <= iteration)
        coming = [(at, request) for at, request in coming if at > iteration]
        busy = worker.step()
        check_integrity(worker.scheduler)
        if not busy and not coming:
            return worker, worker.take_report()
    raise AssertionError("it never ends")


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_tokens_do_not_depend_on_batching_paging_sharing_or_preemption(world):
    config, batching, requests = world
    worker, report = run(config, batching, requests)
    produced: dict[int, list[int]] = {}
    for step in report.steps:
        for seq_id, token in step.emitted:
            produced.setdefault(seq_id, []).append(token)
    refused = {refusal.request_id for refusal in report.refusals}
    finished = [seq_id for step in report.steps for seq_id in step.finished]
    assert sorted([*finished, *refused]) == [
        request.request_id for _, request in sorted(requests, key=lambda r: r[1].request_id)
    ]
    for _, request in requests:
        if request.request_id not in refused:
            wanted = expected_output(request.prompt_ids, request.output_tokens, request.sampling.seed, request.stop_ids)
            assert produced[request.request_id] == wanted
    assert worker.pool.used_blocks == 0
    assert not worker.pool.tables
    assert worker.scheduler.outstanding_tokens == 0
    assert len(worker._host_free) == config.swap_blocks


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_the_log_has_an_entry_for_each_iteration_and_no_iteration_exceeds_its_limits(world):
    config, batching, requests = world
    _, report = run(config, batching, requests)
    assert len(report.decisions) == len(report.steps)
    for step in report.steps:
        assert step.plan_ns < step.compute_ns < step.done_ns
        assert step.running <= config.max_seqs
        assert step.used_blocks <= config.kv_blocks
        assert step.emits <= len(step.emitted) <= step.emits + config.draft_tokens * step.decoding
    assert all((entry.tokens is None) == (config.draft_tokens == 0) for entry in report.decisions)
    seen = [seq_id for step in report.steps for seq_id in step.arrivals]
    assert len(seen) == len(set(seen)) == len(requests) - len(report.refusals)


def test_a_world_in_which_everything_happens_to_memory():
    """The property above would be empty if its worlds never preempted, swapped or shared."""
    ids = np.arange(8)
    requests = [(0, Request(n, ids, 20, prefix=block_hashes(ids, UNIT))) for n in range(4)]
    base = {"kv_blocks": 18, "block_tokens": 2, "max_seqs": 4, "token_budget": 30, "max_context_tokens": 60}
    _, swapping = run(SchedulerConfig(**base, swap_blocks=50), "chunked", requests)
    assert swapping.preempted
    assert sum(step.swapped_blocks for step in swapping.steps) > 0
    _, keeping = run(SchedulerConfig(**base, keep_preempted=True), "chunked", requests)
    assert keeping.preempted
    assert sum(step.swapped_blocks for step in keeping.steps) == 0
    later = [(at * 3, request) for at, (_, request) in enumerate(requests)]
    _, sharing = run(SchedulerConfig(**base, prefix_unit_tokens=UNIT), "chunked", later)
    assert any(admission.cached_tokens for admission in sharing.admissions)


def test_a_stop_of_somebody_who_does_not_run_is_refused():
    config = SchedulerConfig(kv_blocks=9, block_tokens=2, max_seqs=2, token_budget=9, max_context_tokens=60)
    worker = EngineWorker(ArithmeticCompute(9, 2), config, BATCHING["chunked"](), count().__next__)
    worker.take([Request(0, np.arange(3), 5)])
    plan = worker.scheduler.plan(0.0)
    with pytest.raises(PolicyError, match="sequence 7 is said to have stopped"):
        worker.scheduler.apply(plan, StepOutcome(1, (7,)))


GUESSING = SchedulerConfig(
    kv_blocks=40, block_tokens=4, max_seqs=4, token_budget=64, max_context_tokens=200, draft_tokens=3
)


def test_a_run_of_tokens_ends_with_the_one_that_stops_it():
    """What follows the prompt alone, cut at each of its first tokens in turn: nothing after it is given out."""
    prompt = np.arange(7)
    whole = expected_output(prompt, 30)
    _, report = run(GUESSING, "chunked", [(0, Request(0, prompt, 30))])
    runs = [len(step.emitted) for step in report.steps]
    assert max(runs) == 4
    assert sum(runs) == 30
    for token in set(whole[:12]):
        _, cut = run(GUESSING, "chunked", [(0, Request(0, prompt, 30, stop_ids=frozenset([token])))])
        produced = [found for step in cut.steps for _, found in step.emitted]
        assert produced == whole[: whole.index(token) + 1]
        assert cut.steps[-1].finished == (0,)


def test_the_decision_log_says_who_has_yielded_how_much():
    _, report = run(
        GUESSING, "chunked", [(0, Request(number, np.arange(number, number + 5), 20)) for number in range(3)]
    )
    prompts = {seq_id for step in report.steps[:1] for seq_id, _ in step.emitted}
    assert prompts == {0, 1, 2}
    assert report.decisions[0].tokens == ()
    for step, entry in zip(report.steps[1:], report.decisions[1:], strict=True):
        emitted = [seq_id for seq_id, _ in step.emitted]
        assert list(entry.tokens) == [emitted.count(seq_id) for seq_id in sorted(set(emitted))]


@pytest.mark.parametrize("answer", [[], [1, 2, 3, 4, 5]])
def test_a_model_that_answers_too_much_or_nothing_is_refused(answer):
    class Careless(GuessingCompute):
        def step(self, batch):
            return [answer if most > 1 else [1] for most in batch.most_tokens]

    worker = EngineWorker(Careless(40, 4), GUESSING, BATCHING["chunked"](), count().__next__)
    worker.take([Request(0, np.arange(3), 9)])
    worker.step()
    with pytest.raises(EngineError, match=f"answers sequence 0 with {len(answer)} tokens; give it 1 to 4"):
        worker.step()

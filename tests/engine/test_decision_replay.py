"""One brain, two bodies: what an engine decided comes out again in the simulator, entry by entry."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.engine.runtime.request import Request
from afterwatt.fidelity.serving.run import block_hashes
from afterwatt.policies.batching import BATCHING
from afterwatt.policies.sizes import SchedulerConfig
from afterwatt.sim.replay import RecordedRequest, RecordedStep, Replayed, replay_decisions
from tests.engine.recorded import recorded_requests, recorded_steps
from tests.engine.runtime.test_worker import UNIT, run, worlds


def record(world) -> tuple[SchedulerConfig, str, list[RecordedRequest], list[RecordedStep]]:
    """An engine's run as the simulator takes it."""
    config, batching, requests = world
    _, report = run(config, batching, requests)
    asked = recorded_requests(report, [request for _, request in requests])
    return config, batching, asked, recorded_steps(report)


def replayed(config, batching, asked, steps) -> Replayed:
    return replay_decisions(config, BATCHING[batching](), asked, steps)


@settings(max_examples=80, deadline=None)
@given(worlds())
def test_every_run_replays_entry_for_entry(world):
    recorded = record(world)
    found = replayed(*recorded)
    assert found.mismatch is None, str(found.mismatch)
    assert found.entries == len(recorded[3])


@settings(max_examples=80, deadline=None)
@given(worlds(), st.data())
def test_a_perturbed_record_fails_at_exactly_that_entry(world, data):
    config, batching, asked, steps = record(world)
    if not steps:
        return
    number = data.draw(st.integers(0, len(steps) - 1))
    what = data.draw(
        st.sampled_from(["blocks before", "blocks after", "outstanding", "view", "decoding", "stop", "late", "tokens"])
    )
    step = steps[number]
    entry = list(step.entry)
    if what == "blocks before":
        entry[9] += 1
    elif what == "view":
        entry[10] ^= 1
    elif what == "decoding":
        entry[3] += 1
    elif what == "blocks after":
        step = replace(step, free_blocks=step.free_blocks + 1)
    elif what == "outstanding":
        step = replace(step, outstanding_tokens=step.outstanding_tokens - 1)
    elif what == "tokens":
        if not entry[11]:
            return
        place = data.draw(st.integers(0, len(entry[11]) - 1))
        entry[11] = tuple(count + (at == place) for at, count in enumerate(entry[11]))
    elif what == "stop":
        step = replace(step, stopped=(*step.stopped, 10_000))
    else:  # an arrival is written down one boundary later than it was seen
        if not step.arrivals or number + 1 == len(steps):
            return
        late, step = step.arrivals[-1], replace(step, arrivals=step.arrivals[:-1])
        after = steps[number + 1]
        steps[number + 1] = replace(after, arrivals=(late, *after.arrivals))
    steps[number] = replace(step, entry=tuple(entry))
    found = replayed(config, batching, asked, steps)
    assert found.mismatch is not None
    assert found.mismatch.entry == number, str(found.mismatch)
    assert found.entries == number


@settings(max_examples=40, deadline=None)
@given(worlds(), st.data())
def test_a_request_of_another_length_fails_where_it_was_first_seen(world, data):
    config, batching, asked, steps = record(world)
    seen = [(number, request_id) for number, step in enumerate(steps) for request_id in step.arrivals]
    if not seen:
        return
    number, request_id = data.draw(st.sampled_from(seen))
    other = asked[request_id]
    asked[request_id] = replace(other, prompt_tokens=other.prompt_tokens + 1)
    found = replayed(config, batching, asked, steps)
    assert found.mismatch is not None
    assert found.mismatch.entry == number


def worlds_by_hand():
    """Three traces: overload with preemption, equal beginnings with pauses, long prompts among short answers."""
    tight = {"kv_blocks": 18, "block_tokens": 2, "max_seqs": 4, "token_budget": 9, "max_context_tokens": 60}
    same = np.arange(8)
    yield SchedulerConfig(**tight), [(0, Request(n, np.arange(n, n + 8), 20)) for n in range(5)]
    yield (
        SchedulerConfig(**tight, prefix_unit_tokens=UNIT, keep_preempted=True),
        [(4 * n, Request(n, same, 18, prefix=block_hashes(same, UNIT))) for n in range(6)],
    )
    yield (
        SchedulerConfig(**tight, swap_blocks=40),
        [(2 * n, Request(n, np.arange(1 + 17 * (n % 2)), 3 + 12 * (n % 3))) for n in range(9)],
    )


@pytest.mark.parametrize("batching", ["chunked", "prefill-first"])
def test_three_traces_and_two_schedulers_with_preemptions(batching: str):
    preempted = 0
    for config, requests in worlds_by_hand():
        recorded = record((config, batching, requests))
        found = replayed(*recorded)
        assert found.mismatch is None, str(found.mismatch)
        preempted += sum(bool(step.entry[8]) for step in recorded[3])
        fewer = replace(config, kv_blocks=config.kv_blocks - 1)
        assert replayed(fewer, *recorded[1:]).mismatch.entry == 0
    assert preempted > 3

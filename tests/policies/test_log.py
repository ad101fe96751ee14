"""The decision log: iteration by iteration, whatever the strides, with hashes that are the same everywhere."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afterwatt.policies.batching import BATCHING
from afterwatt.policies.log import DecisionEntry, DecisionLog, view_hash
from afterwatt.policies.plans import Idle, StepOutcome
from afterwatt.policies.scheduler import Scheduler, SchedulerConfig
from afterwatt.policies.sequence import Sequence
from tests.policies.accounts import check_integrity

ROOT = Path(__file__).parents[2]
numbers = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(numbers, max_size=20), st.lists(numbers, max_size=20))
def test_other_numbers_have_another_hash(one, other):
    assert (view_hash(*one) == view_hash(*other)) == (one == other)


def test_a_hash_is_the_same_in_every_process():
    code = "from afterwatt.policies.log import view_hash; print(view_hash(1, 2, 3, -4), view_hash())"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "99")
    }
    assert said == {f"{view_hash(1, 2, 3, -4)} {view_hash()}\n"}


def test_a_hash_fits_a_signed_64_bit_column():
    assert all(-(2**63) <= view_hash(number) < 2**63 for number in range(1000))


@st.composite
def histories(draw: st.DrawFn) -> tuple[str, SchedulerConfig, list[tuple[int, int, int]]]:
    """(policy, sizes, requests as (iterations before it comes, prompt, output))."""
    config = SchedulerConfig(
        kv_blocks=draw(st.integers(12, 40)),
        block_tokens=draw(st.sampled_from([2, 4])),
        max_seqs=draw(st.integers(1, 5)),
        token_budget=draw(st.integers(1, 40)),
        max_context_tokens=100,
        watermark_blocks=draw(st.integers(0, 2)),
        swap_blocks=draw(st.sampled_from([0, 50])),
        prefix_unit_tokens=draw(st.sampled_from([None, 4])),
    )
    requests = draw(
        st.lists(st.tuples(st.integers(0, 9), st.integers(1, 24), st.integers(1, 24)), min_size=1, max_size=7)
    )
    return draw(st.sampled_from(sorted(BATCHING))), config, requests


def play(
    name: str, config: SchedulerConfig, requests: list[tuple[int, int, int]], strides: bool
) -> list[DecisionEntry]:
    """Drive a scheduler with an iteration as the unit of time; an arrival cuts a stride that is open to it."""
    scheduler: Scheduler[Sequence] = Scheduler(config, BATCHING[name]())
    entries: list[DecisionEntry] = []
    log = DecisionLog(entries.append)
    coming, now = [], 0
    for number, (gap, prompt, output) in enumerate(requests):
        now += gap
        keys = tuple(10 * (number % 2) + block for block in range(prompt // 4))
        coming.append((now, Sequence(number, prompt, output, keys)))
    now = 0
    while True:
        while coming and coming[0][0] <= now:
            sequence = coming.pop(0)[1]
            if scheduler.refusal(sequence) is None:
                scheduler.add(sequence)
        plan = scheduler.plan(float(now))
        if isinstance(plan, Idle):
            if not coming:
                return entries
            now = coming[0][0]
            continue
        iterations = plan.repeat + 1 if strides else 1
        if coming and plan.open_to_arrivals:
            iterations = min(iterations, max(1, coming[0][0] - now))
        arrivals = [item for item in coming if now < item[0] < now + iterations]
        for item in arrivals:  # those that the plan is not open to wait meanwhile
            coming.remove(item)
            if scheduler.refusal(item[1]) is None:
                scheduler.add(item[1])
        log.write(0, [float(now + step) for step in range(iterations)], plan, scheduler)
        scheduler.apply(plan, StepOutcome(iterations))
        check_integrity(scheduler)
        now += iterations


@given(histories())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_log_does_not_depend_on_the_strides(history):
    assert play(*history, strides=True) == play(*history, strides=False)


@pytest.mark.parametrize("name", sorted(BATCHING))
def test_what_a_policy_saw_is_in_the_hash(name):
    """One more token in a prompt that it looked at: another hash, and only there."""
    config = SchedulerConfig(kv_blocks=40, block_tokens=4, max_seqs=4, token_budget=64, max_context_tokens=100)
    one, other = (play(name, config, [(0, prompt, 3)], strides=True) for prompt in (9, 10))
    assert one[0].view != other[0].view
    assert one[0] == play(name, config, [(0, 9, 3)], strides=True)[0]

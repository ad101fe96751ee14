"""A stride is its iterations: taking many at once changes no time, no order and no decision, wherever arrivals fall."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afterwatt.policies.config import PolicySet
from afterwatt.sim.workload import ClosedLoop, StaticBatch
from tests.helpers import Outcome, Requests, between, poisson, run_body
from tests.strategies import ITERATION_PS, UNIT_TOKENS, World, worlds

thorough = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
ONE_REPLICA = ["m40", "a100-80", "2xm40:tp2"]
REPLICAS = ["2xm40", "3xm40", "4xm40:tp2"]


def assert_same(one: Outcome, other: Outcome) -> None:
    """Times, order and decisions are identical; energies agree to 1e-9."""
    assert one.result.duration_s == other.result.duration_s
    for name, column in one.rows.items():
        if name == "energy_j":
            np.testing.assert_allclose(column, other.rows[name], rtol=1e-9, equal_nan=True)
        elif column.dtype.kind == "f":
            np.testing.assert_array_equal(column, other.rows[name], err_msg=name)
        else:
            assert column.tolist() == other.rows[name].tolist(), name
    for mine, others in zip(one.log, other.log, strict=False):
        assert mine == others
    assert len(one.log) == len(other.log)
    assert_same_sums(one, other)


def assert_same_sums(one: Outcome, other: Outcome) -> None:
    """What the time series add up to, and the distribution of inter-token gaps."""
    mine, others = one.result.timeline, other.result.timeline
    for name in mine:
        if name not in ("start_s", "interval_s", "replica", "kv_used_frac"):  # the last has a test of its own
            weight = mine["interval_s"] if name.endswith("_mean") else 1.0
            sums = [(columns[name] * weight).sum() for columns in (mine, others)]
            np.testing.assert_allclose(*sums, rtol=1e-9, atol=1e-9, err_msg=name)
    gaps, gaps_of_other = one.result.gaps.table(), other.result.gaps.table()
    np.testing.assert_allclose(gaps["weight"].sum(), gaps_of_other["weight"].sum(), rtol=1e-12)


def assert_strides_do_not_matter(world: World) -> Outcome:
    singly, strides = world.run(single_step=True), world.run()
    assert_same(singly, strides)
    shuffled = world.run(shuffle_ties=7)
    assert_same(strides, shuffled)
    return strides


@given(worlds(ONE_REPLICA, preemption="recompute"))
@thorough
def test_one_replica_that_recomputes(world):
    assert_strides_do_not_matter(world)


@given(worlds(["m40", "2xm40:pp2"]))
@settings(thorough, max_examples=50)
def test_batches_that_are_padded_to_their_longest(world):
    """Which lengths decide, and when the longest outgrows its padding, is the same in strides."""
    assert_strides_do_not_matter(replace(world, options=world.options | {"decode_shape": "padded"}))


@given(worlds(["m40", "2xm40:tp2"], preemption="swap"))
@thorough
def test_one_replica_that_swaps(world):
    assert_strides_do_not_matter(world)


@given(worlds(["m40"], prefixes=True))
@thorough
def test_shared_prefixes(world):
    assert_strides_do_not_matter(world)


@given(worlds(REPLICAS))
@thorough
def test_several_replicas_behind_each_router(world):
    assert_strides_do_not_matter(world)


@given(worlds(["2xm40"], prefixes=True, most=10))
@thorough
def test_several_replicas_with_shared_prefixes(world):
    assert_strides_do_not_matter(world)


def test_a_prefix_that_is_claimed_is_not_kept_for_its_claimant_as_well():
    """Room is counted twice otherwise: memory is so tight here that less than none would be left for a stride."""
    prompts, outputs = [9, 9, 9, 9, 11, 9], [20, 20, 1, 1, 1, 1]
    prefixes = [(10,), (11,), (7,), (13,), (7,), (15,)]
    requests = Requests([0] * 6, prompts, outputs, prefixes, UNIT_TOKENS)
    policies = PolicySet(token_budget=2, max_seqs=8, block_tokens=1, watermark_frac=0.0)
    assert_strides_do_not_matter(World("2xm40", policies, 29, requests))


@given(worlds(["2xm40:pp2", "3xm40:pp3", "4xm40:pp2"]))
@settings(thorough, max_examples=60)
def test_pipelines_do_not_depend_on_the_order_of_creation(world):
    # Their iterations are taken singly in both modes.
    assert_same(world.run(), world.run(shuffle_ties=11))


@given(worlds(["m40", "2xm40"]), st.integers(0, 60), st.booleans(), st.integers(0, 3 * ITERATION_PS))
@settings(thorough, max_examples=60)
def test_a_horizon_and_a_warmup(world, which, on_boundary, beside_ps):
    """A run that is cut, at an iteration boundary or anywhere, ends with the iterations under way."""
    boundaries = world.run(single_step=True).boundaries_ps or [0]
    horizon_ps = boundaries[which % len(boundaries)] + (0 if on_boundary else beside_ps)
    cut = World(
        world.hw,
        world.policies,
        world.kv_blocks,
        world.requests,
        {"horizon_s": max(1, horizon_ps) * 1e-12, "warmup_s": horizon_ps * 5e-13},
    )
    assert_strides_do_not_matter(cut)


@given(
    st.integers(1, 5),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.05, 1.0]),
    st.sampled_from(["chunked+seqs=3+budget=64", "prefill-first+swap", "decode-first", "chunked+round-robin+queue=1"]),
    st.sampled_from(["m40", "2xm40"]),
    st.integers(0, 10_000),
)
@settings(thorough, max_examples=60)
def test_users_who_wait_for_their_answers(users, requests, think_s, policy, hw, seed):
    lengths = poisson(7, 1.0, between(1, 40), between(1, 30), seed)
    runs = [
        run_body(ClosedLoop(users, lengths, requests, think_s), hw, policy, kv_blocks=8, **options)
        for options in ({"single_step": True}, {}, {"shuffle_ties": 3})
    ]
    assert_same(runs[0], runs[1])
    assert_same(runs[1], runs[2])
    assert len(runs[1].tickets) == requests


@given(
    st.integers(1, 12), st.integers(1, 60), st.integers(1, 60), st.sampled_from(["chunked", "chunked+budget=32+swap"])
)
@settings(thorough, max_examples=30)
def test_a_static_batch(batch, prompt, output, policy):
    runs = [
        run_body(StaticBatch(batch, prompt, output), "m40", policy, kv_blocks=40, single_step=singly)
        for singly in (True, False)
    ]
    assert_same(*runs)


@pytest.mark.parametrize("policy", ["chunked+budget=256", "prefill-first", "decode-first", "chunked+budget=256+swap"])
def test_long_prompts_and_outputs(policy):
    """Strides of hundreds of iterations, and prompts whose attention turns from memory- to compute-bound on the way."""
    requests = poisson(60, 4.0, between(1, 2500), between(1, 800), seed=5)
    singly = run_body(requests, "a100-80", policy, kv_blocks=900, single_step=True)
    strides = run_body(requests, "a100-80", policy, kv_blocks=900)
    assert_same(singly, strides)
    assert any(ticket.preemptions for ticket in strides.tickets) or policy == "decode-first"


def test_a_request_that_arrives_while_blocks_are_swapped_in():
    """The plan was made before it came and begins after: the boundary at which it is seen must be the first one."""
    policies = PolicySet(preemption="swap", block_tokens=4, watermark_frac=0.0)
    first = run_body(Requests([0, 10], [4, 36], [30, 40]), policy=policies, kv_blocks=19, single_step=True)
    back = [entry for entry in first.log if entry.admitted == (1,)][-1]  # its stride begins after the transfer
    requests = Requests([0, 10, round(back.time_s * 1e12) - 1_000], [4, 36, 8], [30, 40, 5])
    runs = [run_body(requests, policy=policies, kv_blocks=19, single_step=singly) for singly in (True, False)]
    assert_same(*runs)


@pytest.mark.parametrize("policy", ["chunked", "prefill-first+seqs=4", "chunked+budget=64+swap"])
def test_memory_in_use_grows_along_a_stride(policy):
    """Evenly, where single steps see it grow block by block: they agree to one block per running sequence."""
    requests = poisson(12, 0.5, between(50, 400), between(200, 900), seed=3)
    singly, strides = (run_body(requests, policy=policy, kv_blocks=150, single_step=single) for single in (True, False))

    def integrals(outcome):
        timeline = outcome.result.timeline
        return [(timeline[name] * timeline["interval_s"]).sum() for name in ("kv_used_frac", "batch_mean")]

    used, running = integrals(singly)
    assert abs(used - integrals(strides)[0]) * 150 < running
    assert used > 0.3 * singly.result.duration_s

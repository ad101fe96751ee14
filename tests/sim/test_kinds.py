"""Runs of models whose layers differ in what they keep: strides are their iterations, and memory is what is held."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afterwatt.fidelity.fit.record import record
from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.modelspecs import load_model
from afterwatt.modelspecs.layers import Latent, State
from afterwatt.sim.memory import plan_memory
from afterwatt.sim.workload import StaticBatch
from tests.helpers import Requests, make_config, run_body
from tests.sim.test_strides import assert_same
from tests.strategies import World, worlds

thorough = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
PLAIN = load_model("llama-2-7b")
STATE = State(kind="gated delta rule", width=4096, matrix_params=4096 * 12_288, vectors=9, state_bytes=10**6,
              flops_per_token=10**6)  # fmt: skip
WINDOWS = replace(PLAIN, sliding_window=13, pattern="wwf")
ALL_WINDOWS = replace(PLAIN, sliding_window=21)
STATES = replace(PLAIN, pattern="sssf", state=STATE)
LATENT = replace(PLAIN, latent=Latent(q_rank=None, kv_rank=512, nope_dim=64, rope_dim=64, value_dim=128))
KINDS = [WINDOWS, ALL_WINDOWS, STATES, LATENT]


def with_model(world: World, model: object, spare: int) -> World:
    """The same world of another model, with so much more memory as layers of other kinds take."""
    return World(
        world.hw, world.policies, world.kv_blocks * 4 + spare, world.requests, world.options | {"model": model}
    )


def check(world: World) -> None:
    singly, strides = world.run(single_step=True), world.run()
    assert_same(singly, strides)
    assert_same(strides, world.run(shuffle_ties=7))


@given(worlds(["m40", "2xm40:tp2"]), st.sampled_from(KINDS), st.integers(0, 20))
@thorough
def test_strides_are_their_iterations(world, model, spare):
    check(with_model(world, model, spare))


@given(worlds(["m40", "2xm40"], prefixes=True), st.sampled_from(KINDS), st.integers(0, 20))
@thorough
def test_shared_prefixes(world, model, spare):
    check(with_model(world, model, spare))


@given(worlds(["2xm40:pp2"]), st.sampled_from(KINDS), st.integers(0, 20))
@thorough
def test_pipelines_do_not_depend_on_the_order_of_creation(world, model, spare):
    world = with_model(world, model, spare)
    assert_same(world.run(), world.run(shuffle_ties=11))


def test_a_batch_of_one_length_sees_as_much_as_its_members() -> None:
    """What the scheduler counts member by member is what a run without a scheduler would take for equal lengths."""
    for model in (WINDOWS, ALL_WINDOWS):
        outcome = run_body(StaticBatch(4, 7, 30), model=model, policy="chunked+budget=4096")
        times = TimeModel(outcome.config.serving)
        first = times.step(0, 0, ((None, 7, 0),) * 4, 4, 1)[0]
        rest = sum(times.step(4, 4 * (8 + k), (), 4, 1)[0] for k in range(29))
        assert outcome.tickets[0].finish_ps == first + rest


def test_energy_counts_what_a_window_shows() -> None:
    """Bytes of a run, added up entry by entry."""
    outcome = run_body(StaticBatch(3, 20, 25), model=WINDOWS, policy="chunked+budget=4096")
    layers = {"full": 10, "window": 22}
    entry = 2 * 32 * 128 * 2
    lengths = range(21, 45)
    reads = layers["full"] * (20 + sum(lengths)) + layers["window"] * (20 + 24 * 13)
    written = 32 * (20 + 24)
    weights = 2 * (32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 4096 * 32000) * 25
    assert outcome.result.timeline["hbm_bytes"].sum() == pytest.approx(
        weights + 3 * entry * (reads + written), rel=1e-9
    )


def test_long_requests_fit_behind_windows() -> None:
    """Ten full layers of Gemma 3 27B keep 120,064 tokens, 52 keep 1,024 each: 10.3 GB."""
    config = make_config(StaticBatch(1, 120_000, 64), "a100-80", model="gemma-3-27b", precision="bf16")
    outcome = run_body(config.workload, "a100-80", model="gemma-3-27b", precision="bf16", keep_log=False)
    assert len(outcome.finished) == 1
    held = outcome.memory.kv_blocks * outcome.result.timeline["kv_used_frac"].max() * outcome.memory.block_bytes
    assert held == pytest.approx(8192 * (10 * 120_064 + 52 * 1024), rel=0.02)


@pytest.mark.parametrize(
    ("name", "tokens", "kept"),
    [("gpt-oss-20b", 120_064, 2.95e9), ("gemma-3-4b", 32_768, 0.79e9), ("mistral-7b", 32_768, 0.54e9)],
)
def test_blocks_of_published_windows(name: str, tokens: int, kept: float) -> None:
    """Full layers keep all, windows keep themselves; a block more per window, and filled-up groups."""
    config = make_config(StaticBatch(1, 8, 8), "h100-sxm", model=name, precision="bf16")
    memory = plan_memory(config.serving, config.policies)
    outcome = run_body(config.workload, "h100-sxm", model=name, precision="bf16", keep_log=False)
    pool = outcome.body.workers[0].scheduler.pool
    assert pool.blocks_for(tokens) * memory.block_bytes == pytest.approx(kept, rel=0.04)


def test_a_state_is_held_from_the_first_token_to_the_last() -> None:
    outcome = run_body(StaticBatch(2, 16, 16), model=STATES)
    block = 2 * 8 * 32 * 128 * 2 * 16
    per_sequence = -(-24 * 10**6 // block)
    used = outcome.result.timeline["kv_used_frac"].max() * outcome.memory.kv_blocks
    assert 2 * (per_sequence + 1) <= round(used, 6) <= 2 * (per_sequence + 2)


@pytest.mark.parametrize("model", KINDS)
def test_a_recorded_run_is_timed_anew(model) -> None:
    """Another stack's times for the same plans are those of the run under it."""
    lengths = range(3, 39, 3)
    requests = Requests([0] * 12, lengths, [40 - length // 2 for length in lengths])
    config = make_config(run_body(requests, keep_log=False).config.workload, model=model)
    recording = record(config)
    assert recording is not None
    slower = config.stack.with_values({"attention_mem_efficiency": 0.3, "step_overhead_s": 0.002})
    again = record(replace(config, stack=slower))
    assert again is not None
    assert recording.ends_ps(slower)[-1] == again.ends_ps(slower)[-1]
    assert recording.ends_ps(config.stack)[-1] < recording.ends_ps(slower)[-1]

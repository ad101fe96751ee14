"""Sums in closed form against sums term by term, and the energy of a stride by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.sim.executors import next_end, steps_within
from afterwatt.sim.meter import Meter, capped_sum, triangle
from afterwatt.sim.recorder import ChunkSums, NotedStrides
from afterwatt.sim.run import memory_of, meter_of
from afterwatt.sim.workload import StaticBatch
from tests.helpers import make_config

lines = st.tuples(st.integers(0, 8000), st.integers(-40, 40)).map(lambda line: (line[0] / 8, line[1] / 8))
counts = st.integers(1, 400)


@given(st.lists(st.tuples(lines, lines, counts), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_the_smaller_of_two_lines_summed(cases):
    first, slope, cap, cap_slope = (
        np.array([case[side][part] for case in cases]) for side in (0, 1) for part in (0, 1)
    )
    steps = np.array([case[2] for case in cases], dtype=np.int64)
    got = capped_sum(first, slope, cap, cap_slope, steps)
    for number, count in enumerate(steps):
        k = np.arange(count)
        terms = np.minimum(first[number] + slope[number] * k, cap[number] + cap_slope[number] * k)
        np.testing.assert_allclose(got[number], terms.sum(), rtol=1e-9, atol=1e-6)


def test_lines_that_are_one_cross_at_the_ends_or_never_meet():
    one, zero = np.array([1.0]), np.array([0.0])
    assert capped_sum(one, one, one, one, np.array([5])).tolist() == [15.0]
    assert capped_sum(one, one, one, zero, np.array([5])).tolist() == [5.0]  # equal at the start, then capped
    assert capped_sum(one, zero, one, one, np.array([5])).tolist() == [5.0]
    assert capped_sum(one, zero, 2 * one, zero, np.array([5])).tolist() == [5.0]
    assert capped_sum(zero, one, 3 * one, zero, np.array([5])).tolist() == [9.0]  # 0 1 2 3 3
    assert capped_sum(3 * one, zero, zero, one, np.array([5])).tolist() == [9.0]


@given(st.integers(0, 10**6))
def test_triangle(count):
    assert triangle(np.array([count])).tolist() == [count * (count - 1) // 2]


@given(
    st.integers(0, 10**15),
    st.integers(1, 10**12),
    st.integers(0, 10**10) | st.integers(0, 3),
    st.integers(1, 10**5),
)
def test_the_iterations_that_have_ended_in_a_time(elapsed, first, slope, most):
    """The integer inversion of T(n) = n first + slope n (n - 1) / 2: the largest n that fits."""
    steps = steps_within(elapsed, first, slope, most)

    def time_ps(count: int) -> int:
        return count * first + slope * (count * (count - 1) // 2)

    assert 0 <= steps <= most
    assert time_ps(steps) <= elapsed
    assert steps == most or time_ps(steps + 1) > elapsed


@given(st.integers(1, 10**12), st.integers(0, 10**9), st.integers(1, 2000), st.integers(-1, 1))
def test_at_a_boundary_and_a_picosecond_beside_it(first, slope, count, beside):
    elapsed = count * first + slope * (count * (count - 1) // 2) + beside
    assert steps_within(elapsed, first, slope, 5000) == count - (beside < 0) + (
        beside > 0 and first == 1 and slope == 0
    )


@given(st.integers(0, 3000), st.integers(1, 50), st.integers(0, 5))
def test_small_ones_counted_one_by_one(elapsed, first, slope):
    steps, time = 0, first
    while time <= elapsed and steps < 60:
        steps += 1
        time += first + slope * steps
    assert steps_within(elapsed, first, slope, 60) == steps


@given(st.integers(0, 10**15), st.integers(1, 10**12), st.integers(0, 10**10) | st.integers(0, 3))
def test_the_next_end_is_the_first_that_has_not_passed(elapsed, first, slope):
    steps, end = next_end(elapsed, first, slope)
    assert steps >= 1
    assert end == steps * first + slope * (steps * (steps - 1) // 2)
    assert end - (first + slope * (steps - 1)) < elapsed or steps == 1
    assert end >= elapsed


# -- a stride of a world, by hand ------------------------------------------------------------------------------------


def one_stride(busy_s: float, steps: int = 1) -> tuple[NotedStrides, ChunkSums]:
    """Eight sequences decode over 4,000 entries; all iterations take equally long."""
    columns = dict.fromkeys(NotedStrides._fields, 0) | {
        "busy_ps": round(busy_s * 1e12),
        "end_ps": round(busy_s * 1e12),
        "steps": steps,
        "first_ps": round(busy_s * 1e12) // steps,
        "decoding": 8,
        "context_tokens": 4000,
        "emits": 8,
        "swapped_blocks": 3,
    }
    strides = NotedStrides(**{name: np.array([value], dtype=np.int64) for name, value in columns.items()})
    return strides, ChunkSums(*(np.zeros(1) for _ in ("tokens", "past", "pairs", "pairs_slope")))


def meter(hw: str, **gpu: float) -> Meter:
    config = make_config(StaticBatch(1, 1, 1), hw)
    found = meter_of(config, memory_of(config))
    return replace(found, gpu=replace(found.gpu, **gpu))


FREE = {"j_per_byte": 0.0, "j_per_flop": 0.0, "attention_w": 0.0, "expert_w": 0.0, "unpack_w": 0.0}


@pytest.mark.parametrize(("hw", "busy_gpus"), [("a100-80", 1), ("2xa100-80:tp2", 2), ("8xa100-80:tp2pp4", 2)])
def test_a_plan_keeps_one_stage_of_a_pipeline_busy_at_a_time(hw: str, busy_gpus: int) -> None:
    """The GPUs of the other stages wait for it, or have plans of their own."""
    bare = meter(hw, **FREE)
    energy = bare(*one_stride(2.0))
    assert energy.dynamic_j[0] == pytest.approx(busy_gpus * 2.0 * (bare.gpu.busy_w - bare.gpu.idle_w), rel=1e-12)
    capped = meter(hw, j_per_byte=1.0)
    energy = capped(*one_stride(2.0))
    assert energy.dynamic_j[0] == pytest.approx(busy_gpus * 2.0 * (capped.gpu.cap_w - capped.gpu.idle_w), rel=1e-12)


def test_work_adds_its_joules_and_the_rest_of_the_server_its_watts() -> None:
    found = meter("2xa100-80:tp2", **(FREE | {"j_per_byte": 1e-12, "j_per_flop": 1e-15}))
    energy = found(*one_stride(100.0, steps=10))
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000  # Llama-2-7B in fp16
    entry = 2 * 32 * 4096 * 2
    moved = 10 * 2 * weights + entry * (10 * (4000 + 8) + 8 * 45)  # contexts grow by eight entries an iteration
    flops = 10 * 2 * weights * 8 + 4 * 32 * 4096 * (10 * 4000 + 8 * 45)
    assert energy.hbm_bytes[0] == moved
    assert energy.link_bytes[0] == 10 * 8 * 4096 * 2 * 32 * 2 * 2
    assert energy.dram_to_hbm_bytes[0] == 3 * found.swap_block_bytes
    over_idle_j = 2 * 100.0 * (found.gpu.busy_w - found.gpu.idle_w) + moved * 1e-12 + flops * 1e-15
    assert energy.dynamic_j[0] == pytest.approx(over_idle_j, rel=1e-12)
    server_w = found.replica.it_baseline_w + found.replica.it_busy_w
    at_site_j = (over_idle_j + 100.0 * server_w) * found.replica.site_factor
    assert energy.active_j[0] == pytest.approx(at_site_j, rel=1e-12)

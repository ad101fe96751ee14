"""Sums in closed form against sums term by term."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.sim.meter import capped_sum, triangle
from afterwatt.sim.worker import next_end, steps_within

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

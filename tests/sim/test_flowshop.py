"""The pipeline over layers: against processes that hand buffers to each other, and against closed forms."""

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.sim.flowshop import flow_shop, token_ends_ps, waiting_ps


def event_by_event(times: np.ndarray, buffers: list[int], known: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same as processes: a stage takes a free buffer, works, and hands it on; the next gives it back."""
    stages, jobs = times.shape
    env = simpy.Environment()
    free = [simpy.Container(env, size, size) for size in buffers]
    full = [simpy.Store(env) for _ in buffers]
    computed = [env.event() for _ in range(jobs)]
    begin, end = np.zeros_like(times), np.zeros_like(times)

    def work(stage: int):
        for job in range(jobs):
            if stage:
                yield full[stage - 1].get()
            if stage < stages - 1:
                yield free[stage].get(1)
            if known[stage] and job >= known[stage]:
                yield computed[job - known[stage]]
            begin[stage, job] = env.now
            yield env.timeout(int(times[stage, job]))
            end[stage, job] = env.now
            if stage:
                yield free[stage - 1].put(1)
            if stage < stages - 1:
                yield full[stage].put(job)
            else:
                computed[job].succeed()

    for stage in range(stages):
        env.process(work(stage))
    env.run()
    return begin, end


@st.composite
def shops(draw: st.DrawFn):
    stages, jobs = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    row = st.lists(st.integers(0, 9) | st.just(0), min_size=jobs, max_size=jobs)
    times = np.array(draw(st.lists(row, min_size=stages, max_size=stages)), dtype=np.int64)
    buffers = draw(st.lists(st.integers(1, 4), min_size=stages - 1, max_size=stages - 1))
    # What is asked for on what a layer computes must not need more buffers than lie between.
    known = [draw(st.integers(0, 3)) for _ in range(stages - 1)] + [0]
    return times, buffers, known


@settings(max_examples=300, deadline=None)
@given(shops())
def test_it_is_what_processes_do_that_hand_buffers_on(shop):
    times, buffers, known = shop
    begin, end = flow_shop(times, buffers, known)
    expected_begin, expected_end = event_by_event(times, buffers, known)
    assert np.array_equal(end, expected_end)
    assert np.array_equal(begin, expected_begin)


@settings(max_examples=100, deadline=None)
@given(shops())
def test_more_buffers_and_earlier_knowledge_never_cost_time(shop):
    times, buffers, known = shop
    _, end = flow_shop(times, buffers, known)
    assert (flow_shop(times, [size + 1 for size in buffers], known)[1] <= end).all()
    assert (flow_shop(times, buffers)[1] <= end).all()
    slower = times.copy()
    slower[0, 0] += 5
    assert (flow_shop(slower, buffers, known)[1] >= end).all()


@pytest.mark.parametrize("each", [(7, 3, 2), (2, 7, 3), (1, 2, 7), (5, 5, 5), (0, 0, 4)])
def test_with_two_buffers_a_layer_takes_as_long_as_the_slowest_stage(each):
    layers, tokens = 8, 6
    times = np.repeat(np.array(each)[:, None], layers * tokens, axis=1)
    begin, end = flow_shop(times, [2, 2])
    ends = token_ends_ps(end, layers)
    assert (np.diff(ends) == layers * max(each)).all(), "across tokens too: it does not drain"
    assert end[-1, 0] == sum(each)
    assert waiting_ps(begin, end)[layers:].tolist() == [max(each) - each[-1]] * (layers * (tokens - 1))


@pytest.mark.parametrize("each", [(7, 3), (2, 6), (4, 4)])
def test_with_one_buffer_stages_take_turns(each):
    times = np.repeat(np.array(each)[:, None], 20, axis=1)
    _, end = flow_shop(times, [1])
    assert (np.diff(end[-1]) == sum(each)).all()


def test_what_is_known_one_layer_before_is_loaded_beside_it_and_what_is_known_at_the_layer_is_not():
    """A load of 5 beside computing of 7: hidden when known two layers ahead, in full when after the one before."""
    times = np.repeat(np.array([5, 7])[:, None], 10, axis=1)
    for lag, period in ((2, 7), (1, 12)):
        _, end = flow_shop(times, [3], [lag, 0])
        assert set(np.diff(end[-1])[3:].tolist()) == {period}


def test_a_layer_that_needs_nothing_is_not_waited_for():
    times = np.array([[0, 0, 9, 0], [1, 1, 1, 1]])
    begin, end = flow_shop(times, [2])
    assert end[-1].tolist() == [1, 2, 11, 12], "the third load begins when the first buffer is free"
    assert waiting_ps(begin, end).tolist() == [0, 0, 8, 0]


@pytest.mark.parametrize(
    ("times", "buffers", "known"),
    [
        ([[1], [1]], [], []),
        ([[1], [1]], [0], []),
        ([[1], [1]], [1], [0]),
        ([[1], [1]], [1], [-1, 0]),
        ([[1], [1]], [1], [0, 1]),
        ([[1], [-1]], [1], []),
    ],
)
def test_what_makes_no_pipeline_is_refused(times, buffers, known):
    with pytest.raises(ValueError, match="stage"):
        flow_shop(np.array(times), buffers, known)

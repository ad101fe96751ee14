"""Draws of active units have the statistics that they are said to have, whatever order they are asked in."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from afterwatt.policies.caching.activity import Experts, Neurons, Recorded, expected_union, slots
from afterwatt.policies.errors import PolicyError

SIGMAS = 5.0
"""A mean of independent draws lies so many standard deviations from its own once in two million."""


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([64, 100, 257]), st.sampled_from([0.05, 0.2, 0.5, 1.0]), st.integers(0, 9))
def test_a_token_activates_just_so_many_units(units: int, density: float, seed: int):
    source = Neurons(units, density, 1.0 if density == 1.0 else 0.8, seed)
    for step in range(4):
        active = source.active(step, 3, [7])
        assert len(active) == source.count == round(units * density)
        assert (np.diff(active) > 0).all()
        assert 0 <= active[0] <= active[-1] < units


@pytest.mark.parametrize(("density", "overlap"), [(0.1, 0.8), (0.25, 0.4), (0.5, 0.7), (0.1, 1.0)])
def test_adjacent_tokens_have_in_common_what_is_said(density: float, overlap: float):
    """Each slot keeps its unit or not, independently: a binomial mean over slots, steps and layers."""
    source = Neurons(400, density, overlap)
    common = total = 0
    for layer in range(3):
        before = source.active(0, layer, [0])
        for step in range(1, 120):
            after = source.active(step, layer, [0])
            common += len(np.intersect1d(before, after))
            total += len(after)
            before = after
    assert abs(common / total - overlap) <= SIGMAS * sqrt(overlap * (1.0 - overlap) / total)


def test_a_batch_activates_the_union_of_independent_streams():
    """Each unit is active in a stream with probability p: in any of B with 1 - (1 - p)^B."""
    units, density = 300, 0.2
    source = Neurons(units, density, 0.5)
    for streams in (1, 2, 8):
        found = [len(source.active(40 * step, layer, range(streams))) for step in range(20) for layer in range(5)]
        mean = sum(found) / len(found) / units
        expected = expected_union(density, streams)
        assert abs(mean - expected) <= SIGMAS * sqrt(expected * (1.0 - expected) / (units * len(found)) + 1e-12)
    assert expected_union(0.5, 8) == pytest.approx(1 - 2**-8)


@given(st.permutations([(step, layer, stream) for step in (0, 1, 2, 9) for layer in (0, 1) for stream in (0, 5)]))
@settings(max_examples=20, deadline=None)
def test_the_order_of_questions_changes_nothing(order):
    asked = {key: Neurons(60, 0.2, 0.7, 3).active(key[0], key[1], [key[2]]) for key in sorted(order)}
    source, experts = Neurons(60, 0.2, 0.7, 3), Experts(16, 3, 0.9, 3)
    fresh = Experts(16, 3, 0.9, 3)
    for step, layer, stream in order:
        assert np.array_equal(source.active(step, layer, [stream]), asked[step, layer, stream])
        assert np.array_equal(experts.ranked(step, layer, stream), fresh.ranked(step, layer, stream))


def test_seeds_layers_streams_and_steps_are_told_apart():
    def drawn(seed: int, layer: int, stream: int, step: int) -> tuple:
        return (
            *Neurons(500, 0.1, 0.2, seed).active(step, layer, [stream]).tolist(),
            *Experts(64, 4, 0.0, seed).ranked(step, layer, stream).tolist(),
        )

    one = drawn(1, 1, 1, 1)
    assert one == drawn(1, 1, 1, 1)
    assert len({one, drawn(2, 1, 1, 1), drawn(1, 2, 1, 1), drawn(1, 1, 2, 1), drawn(1, 1, 1, 2)}) == 5


def test_a_predictor_names_so_many_of_the_active_units_and_no_other():
    source = Neurons(1000, 0.3, 0.6, recall={2: 0.8})
    active = [source.active(step, 0, [0]) for step in range(40)]
    assert all(np.array_equal(source.predicted(step, 0, [0], 1), active[step]) for step in range(40))
    found = [source.predicted(step, 0, [0], 2) for step in range(40)]
    assert all(np.isin(some, whole).all() for some, whole in zip(found, active, strict=True))
    total = sum(map(len, active))
    assert abs(sum(map(len, found)) / total - 0.8) <= SIGMAS * sqrt(0.8 * 0.2 / total)


@pytest.mark.parametrize("skew", [0.0, 0.9, 1.5])
def test_one_expert_is_chosen_as_often_as_zipf_says(skew: float):
    experts, draws = 8, 4000
    source = Experts(experts, 1, skew)
    found = np.bincount([int(source.ranked(step, 0, 0)[0]) for step in range(draws)], minlength=experts)
    popularity = np.arange(1, experts + 1) ** -skew
    expected = popularity / popularity.sum()
    assert (abs(found / draws - expected) <= SIGMAS * np.sqrt(expected * (1 - expected) / draws)).all()


def test_a_token_is_routed_to_different_experts():
    source = Experts(16, 4, 1.2)
    for step in range(50):
        assert len(set(source.ranked(step, 1, 0).tolist())) == 4
    together = source.active(3, 1, [0, 1, 2])
    assert set(together.tolist()) == {int(unit) for stream in range(3) for unit in source.ranked(3, 1, stream)}


def test_a_recording_is_played_back():
    recorded = Recorded(np.array([0, 2, 3, 3, 5]), np.array([4, 9, 1, 0, 7]), 2)
    assert recorded.steps == 2
    assert [recorded.active(step, layer, ()).tolist() for step in (0, 1) for layer in (0, 1)] == [
        [4, 9],
        [1],
        [],
        [0, 7],
    ]
    for step, layer in ((2, 0), (-1, 0), (0, 2)):
        with pytest.raises(PolicyError, match="was not recorded"):
            recorded.active(step, layer, ())
    for offsets in ([0, 5], [1, 2, 3, 3, 5], [0, 2, 3, 3, 4]):
        with pytest.raises(PolicyError, match="do not belong together"):
            Recorded(np.array(offsets), np.array([4, 9, 1, 0, 7]), 2)
    with pytest.raises(PolicyError, match="fall"):
        Recorded(np.array([0, 3, 2, 3, 5]), np.array([4, 9, 1, 0, 7]), 2)


@pytest.mark.parametrize(
    ("kind", "words", "says"),
    [
        (Neurons, (10, 0.0, 0.5), "at least one unit"),
        (Neurons, (10, 1.5, 0.5), "shares from 0 to 1"),
        (Neurons, (10, 0.5, 1.2), "shares from 0 to 1"),
        (Neurons, (10, 0.5, 0.2), "below 0.5, what chance alone gives"),
        (Experts, (4, 5), "choose at least one"),
        (Experts, (4, 2, -1.0), "a skew from 0"),
    ],
)
def test_statistics_that_cannot_be_are_refused(kind, words, says: str):
    with pytest.raises(PolicyError, match=says):
        kind(*words)


@given(st.integers(2, 400), st.floats(0.02, 1.0), st.floats(0.0, 2.0))
def test_parts_hold_one_active_unit_each_and_shrink_where_units_are_popular(
    units: int, density: float, skew: float
) -> None:
    count = max(1, round(units * density))
    sizes = np.diff(slots(units, count, skew))
    assert len(sizes) == count
    assert sizes.min() >= 1
    assert sizes.sum() == units
    popular = np.arange(1, units + 1) ** -skew
    scale = brentq(lambda c: np.minimum(1.0, c * popular).sum() - count, 0.0, 1e9) if count < units else 1e9
    expected = np.minimum(1.0, scale * popular).cumsum()  # active units of the ranks up to each
    edges, numbers = sizes.cumsum(), np.arange(1, count + 1)
    assert (expected[edges - 1] < numbers + 1.0 + 1e-6).all()
    assert ((expected[edges - 1] >= numbers - 1e-6) | (edges == units - count + numbers)).all()


def test_a_skew_gives_popular_neurons_their_share() -> None:
    units, density, skew = 4000, 0.1, 0.3
    source = Neurons(units, density, 0.8, 3, skew=skew)
    often = np.zeros(units)
    for stream in range(200):
        often[source.active(0, 0, (stream,))] += 1.0
    expected = (np.arange(1, units + 1) ** -skew).cumsum()
    share = often.cumsum() / often.sum()
    for top in (400, 1000, 2000):  # a part of rounding, and six standard errors of 400 draws in each of 200 streams
        assert share[top - 1] == pytest.approx(expected[top - 1] / expected[-1], abs=1 / 400 + 6 * 0.5 / 80000**0.5)

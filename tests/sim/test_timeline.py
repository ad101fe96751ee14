"""Bins: amounts are conserved however often the bins double, and levels integrate to what they integrate to."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.sim.timeline import FIRST_WIDTH_PS, LONGEST_WIDTH_PS, MAX_BINS, Bins

S_PER_PS = 1e-12
DAY_PS = 86_400 * 10**12

amounts = st.integers(0, 800).map(lambda eighths: eighths / 8)
spans = st.lists(st.tuples(st.integers(0, 10**14), st.integers(1, 10**13), amounts), min_size=1, max_size=30)
jump_lists = st.lists(
    st.tuples(st.integers(0, 10**14), st.sampled_from([-2.0, -1.0, 1.0, 5.0])), min_size=1, max_size=40
)


def spread(bins: Bins, replica: int, items: list[tuple[int, int, float]], origin_ps: int = 0) -> None:
    start, length, amount = (np.array(column) for column in zip(*items, strict=True))
    bins.spread(replica, origin_ps, start, start + length, np.stack([amount, 2.0 * amount]))


def directly(items: list[tuple[int, int, float]], edges_ps: list[int]) -> np.ndarray:
    """Each span's share of each interval, in exact integers."""
    result = np.zeros(len(edges_ps) - 1)
    for start, length, amount in items:
        for number in range(len(result)):
            overlap = min(start + length, edges_ps[number + 1]) - max(start, edges_ps[number])
            result[number] += amount * max(0, overlap) / length
    return result


@given(spans, spans, st.integers(0, 3 * 10**14))
@settings(max_examples=60, deadline=None)
def test_amounts_are_spread_evenly_over_their_spans(first, second, origin_ps):
    bins = Bins(2, 1, 2)
    spread(bins, 0, first)
    spread(bins, 1, second, origin_ps)
    for replica, items in enumerate((first, [(start + origin_ps, *rest) for start, *rest in second])):
        total = sum(amount for _, _, amount in items)
        np.testing.assert_allclose(bins.amounts[0, replica].sum(), total, rtol=1e-12)
        np.testing.assert_allclose(bins.amounts[1, replica], 2.0 * bins.amounts[0, replica], rtol=1e-12)
    edges = [number * bins.width_ps for number in range(min(150, bins.amounts.shape[2]) + 1)]
    np.testing.assert_allclose(bins.amounts[0, 0, : len(edges) - 1], directly(first, edges), rtol=1e-9, atol=1e-9)


@given(spans, st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_doubling_the_bins_adds_them_up_in_pairs(items, doublings):
    fine, coarse = Bins(2, 1, 1), Bins(2, 1, 1)
    spread(fine, 0, items)
    spread(coarse, 0, items)
    coarse.reach((1 << doublings) * FIRST_WIDTH_PS)
    ratio = coarse.width_ps // fine.width_ps
    assert coarse.width_ps == fine.width_ps * ratio
    assert coarse.width_ps <= LONGEST_WIDTH_PS
    padded = np.pad(fine.amounts, ((0, 0), (0, 0), (0, -fine.amounts.shape[2] % ratio)))
    added = padded.reshape(2, 1, -1, ratio).sum(axis=3)
    most = min(added.shape[2], coarse.amounts.shape[2])
    np.testing.assert_allclose(coarse.amounts[:, :, :most], added[:, :, :most], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(coarse.amounts.sum(), fine.amounts.sum(), rtol=1e-12)


def level_at(jumps: list[tuple[int, float]], time_ps: int) -> float:
    return sum(by for at, by in jumps if at <= time_ps)


def integral(jumps: list[tuple[int, float]], begin_ps: int, end_ps: int) -> float:
    """Of the level that the jumps add up to, piece by piece, in seconds."""
    corners = sorted({begin_ps, end_ps, *(at for at, _ in jumps if begin_ps < at < end_ps)})
    pieces = pairwise(corners)
    return sum(level_at(jumps, left) * (right - left) for left, right in pieces) * S_PER_PS


@given(jump_lists, st.integers(1, 3 * 10**14), st.integers(0, 24))
@settings(max_examples=80, deadline=None)
def test_a_level_integrates_to_its_pieces(jumps, end_ps, doublings):
    bins = Bins(1, 2, 2)
    jumps = [(at % end_ps, by) for at, by in jumps]  # nothing happens after a run's end
    at, by = (np.array(column) for column in zip(*jumps, strict=True))
    half = len(at) // 2
    bins.step(1, 0, 0, at[:half], by[:half])
    bins.reach((1 << doublings) * FIRST_WIDTH_PS)  # some of them halved, some not
    bins.step(1, 0, 0, at[half:], by[half:])
    integrals = bins.level_integrals(1, end_ps)
    edges = [round(edge / S_PER_PS) for edge in bins.edges_s(end_ps)]
    assert integrals.shape == (2, len(edges) - 1)
    assert not integrals[1].any()
    assert not bins.level_integrals(0, end_ps).any()
    for number in range(0, len(edges) - 1, max(1, len(edges) // 12)):
        expected = integral(jumps, edges[number], edges[number + 1])
        np.testing.assert_allclose(integrals[0, number], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(integrals[0].sum(), integral(jumps, 0, end_ps), rtol=1e-9, atol=1e-6)


def test_the_last_edge_is_the_end_of_the_run():
    bins = Bins(1, 1, 1)
    np.testing.assert_allclose(bins.edges_s(25 * 10**10), [0.0, 0.1, 0.2, 0.25], rtol=1e-15)
    np.testing.assert_allclose(bins.edges_s(2 * 10**11), [0.0, 0.1, 0.2], rtol=1e-15)


def test_a_year_fits_in_bounded_memory_and_bins_stay_within_the_hour():
    """The grid's series has a step of an hour: longer bins would blur it."""
    bins = Bins(3, 2, 2)
    for day in range(0, 365, 5):
        origin = day * DAY_PS
        bins.spread(0, origin, np.array([0]), np.array([DAY_PS]), np.ones((3, 1)))
        bins.step(0, 0, origin, np.array([0, DAY_PS]), np.array([1.0, -1.0]))
    assert bins.width_ps <= LONGEST_WIDTH_PS
    assert bins.amounts.shape[2] <= 2 * max(MAX_BINS, 366 * DAY_PS // bins.width_ps)
    np.testing.assert_allclose(bins.amounts[:, 0].sum(axis=1), 73.0, rtol=1e-9)
    np.testing.assert_allclose(bins.level_integrals(0, 366 * DAY_PS)[0].sum(), 73 * 86_400.0, rtol=1e-9)

"""Probes are taken in turn, as often as was said, and their medians and spreads are those of the samples."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.engine.runtime.probes import Probe, Stat, interleaved, stat_of


def recorded(name: str, order: list[str], seconds: float = 1.0, calls: int = 0) -> Probe:
    """A probe that takes a constant time per call, and notes when it was taken."""

    def run(times: int) -> float:
        order.append(name)
        return times * seconds

    return Probe(name, run, 10.0, "bytes", calls=calls)


@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=40))
def test_a_median_lies_between_its_tenth_and_its_ninetieth_percentile(samples):
    found = stat_of(samples)
    assert min(samples) <= found.low <= found.median <= found.high <= max(samples)
    assert found.median == statistics.median(samples)
    assert found.samples == len(samples)


def test_percentiles_are_interpolated():
    found = stat_of([10.0, 0.0, 5.0])
    assert (found.low, found.median, found.high) == (1.0, 5.0, 9.0)
    assert found.spread_frac == pytest.approx(1.6)


def test_no_sample_has_no_median():
    with pytest.raises(ValueError, match="no sample"):
        stat_of([])


@given(st.floats(0.1, 10.0), st.floats(0.0, 1.0), st.floats(0.0, 5.0), st.floats(1.0, 1e9))
def test_a_rate_is_work_over_time_with_its_ends_exchanged(median, below, above, work):
    seconds = Stat(median, median * (1 - below / 2), median + above, 5)
    rate = seconds.per(work)
    assert rate.low <= rate.median <= rate.high
    assert rate.median * seconds.median == pytest.approx(work)
    assert rate.low * seconds.high == pytest.approx(work)


def test_probes_are_interleaved_round_by_round():
    order: list[str] = []
    probes = [recorded(name, order, calls=1) for name in "abc"]
    samples = interleaved(probes, rounds=3, least_s=0.0)
    assert "".join(order) == "abcabcabc"
    assert samples == {name: [1.0, 1.0, 1.0] for name in "abc"}


def test_the_probes_that_others_are_judged_by_come_between_them_and_last():
    order: list[str] = []
    probes = [recorded(name, order, calls=1) for name in "abcd"]
    interleaved(probes, 2, 0.0, between=[recorded("-", order, calls=1)], every=2)
    assert "".join(order) == "-ab-cd-ab-cd-"


def test_short_probes_are_repeated_until_a_sample_is_long_enough():
    calls: list[int] = []

    def run(times: int) -> float:
        calls.append(times)
        return times * 1e-3

    samples = interleaved([Probe("x", run, 1.0, "ops")], rounds=2, least_s=0.05)
    assert calls == [1, 1, 50, 50]
    assert samples["x"] == pytest.approx([1e-3, 1e-3])


def test_two_probes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="'a'"):
        interleaved([recorded("a", []), recorded("a", [])], 1, 0.0)

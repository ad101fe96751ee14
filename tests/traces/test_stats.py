"""The measurements equal those of numpy and scipy on the whole trace, however it is cut into batches."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from afterwatt.traces import Batch, TraceInfo, describe
from afterwatt.traces.schema import Trace


@dataclass(frozen=True)
class Pieces(Trace):
    """A trace in batches of a size of its own, whatever is asked."""

    whole: Batch
    size: int
    start_utc: str | None = None

    @property
    def info(self):
        return TraceInfo("pieces", "test", start_utc=self.start_utc, prefix_block_tokens=16)

    def batches(self, size=8192):
        for start in range(0, len(self.whole), self.size):
            yield self.whole.sliced(start, start + self.size)


def poisson(n=5000, rate=2.0, seed=0):
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1 / rate, n))
    prompt = rng.integers(1, 40, n)
    return Batch(arrival_s - arrival_s[0], prompt, np.maximum(prompt + rng.integers(-20, 20, n), 1))


@settings(deadline=None, max_examples=25)
@given(size=st.integers(1, 6000), seed=st.integers(0, 5))
def test_all_figures_equal_those_of_the_whole(size, seed):
    whole = poisson(2000, seed=seed)
    said = describe(Pieces(whole, max(size, 20)))
    gaps = np.diff(whole.arrival_s)
    assert said["gap_s"]["cv"] == pytest.approx(gaps.std() / gaps.mean())
    assert said["gap_s"]["max"] == pytest.approx(gaps.max())
    assert said["rate_per_s"] == pytest.approx(2000 / whole.arrival_s[-1])
    expected = scipy_stats.spearmanr(whole.prompt_tokens, whole.output_tokens).statistic
    assert said["spearman"] == pytest.approx(expected)
    for percent in (1, 50, 90, 99):
        exact = np.quantile(whole.prompt_tokens, percent / 100, method="inverted_cdf")
        assert said["prompt_tokens"][f"p{percent}"] == exact
    assert said["output_tokens"]["total"] == whole.output_tokens.sum()
    for window_s in (1, 10, 60):
        edges = np.arange(0, whole.arrival_s[-1], window_s)
        counts = np.histogram(whole.arrival_s, edges)[0][: int(whole.arrival_s[-1] // window_s)]
        # histogram closes its last bin on the right; arrivals are never on an edge here but at 0
        assert said["dispersion"][f"{window_s}s"] == pytest.approx(counts.var() / counts.mean())
        if window_s == 60:
            assert said["peak_rate_per_s"] == counts.max() / 60


def test_poisson_arrivals_have_a_dispersion_of_one():
    said = describe(Pieces(poisson(100_000), 8192))
    assert said["dispersion"]["1s"] == pytest.approx(1.0, abs=0.03)
    assert said["dispersion"]["10s"] == pytest.approx(1.0, abs=0.08)


def test_a_single_request_leaves_the_rest_unknown():
    said = describe(Pieces(Batch(np.zeros(1), np.array([5]), np.array([7])), 1))
    assert (said["rows"], said["span_s"]) == (1, 0.0)
    assert said["rate_per_s"] is said["gap_s"] is said["spearman"] is said["daily"] is None
    assert said["prompt_tokens"]["p50"] == 5
    assert set(said["dispersion"].values()) == {None}


def test_equal_lengths_have_no_rank_correlation():
    same = Batch(np.arange(5.0), np.full(5, 7), np.arange(1, 6))
    assert describe(Pieces(same, 2))["spearman"] is None


def test_the_prefix_cache_hits_leading_blocks_only():
    ids = [(1, 2, 3), (1, 2, 9), (8, 2, 3), (1, 2, 3)]
    whole = Batch(np.arange(4.0), np.full(4, 48), np.ones(4, np.int64), None, ids)
    prefix = describe(Pieces(whole, 3))["prefix"]
    # hits: none; 1 and 2; none, for 8 is missing in front; 1, 2, 3
    assert prefix == {"block_tokens": 16, "blocks": 12, "distinct_blocks": 5, "ideal_hit_frac": 5 / 12}


def test_classes_are_counted():
    whole = Batch(np.arange(3.0), np.ones(3, np.int64), np.ones(3, np.int64), ["a", None, "a"])
    assert describe(Pieces(whole, 2))["classes"] == {"a": 2, "(none)": 1}


def test_the_daily_cycle_is_measured_in_utc_where_the_clock_is_known():
    """Arrivals at a rate of 1 + 0.5 cos around hour 9 after the start, over two days and a bit."""
    grid = np.linspace(0, 2.3 * 86400, 200_001)
    passed = grid + 0.5 * 86400 / (2 * np.pi) * np.sin(2 * np.pi * (grid / 86400 - 9 / 24))
    arrival_s = np.interp(np.linspace(passed[0], passed[-1], 50_000), passed, grid)
    ones = np.ones(50_000, np.int64)
    trace = Pieces(Batch(arrival_s, ones, ones), 999, "2024-05-10T06:00:00+00:00")
    daily = describe(trace)["daily"]
    assert daily["amplitude_frac"] == pytest.approx(0.5, abs=0.01)
    assert daily["peak_hour"] == pytest.approx(15.0, abs=0.1)
    assert (daily["clock"], daily["days"]) == ("UTC", 2)

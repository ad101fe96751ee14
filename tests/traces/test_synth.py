"""Synthetic traces: the same for the same seed however they are walked, and like what they were fitted to."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from afterwatt.traces import SyntheticTrace, TraceError, describe, open_trace, preset_names, write_parquet
from afterwatt.traces.arrivals import Gaps, Tap, gamma_gaps, unit_arrivals
from afterwatt.traces.presets import DAY_S, Daily, LengthCurve, load_preset

DIGEST = """
import hashlib
from afterwatt.traces import open_trace
digest = hashlib.sha256()
for batch in open_trace("synth:long-context?rate=3&n=20000&seed=5").batches({size}):
    columns = batch.arrival_s.tolist(), batch.prompt_tokens.tolist(), batch.output_tokens.tolist(), batch.prefixes
    for row in zip(*columns):
        digest.update(repr(row).encode())
print(digest.hexdigest())
"""


def test_batch_size_process_and_hash_seed_do_not_matter():
    said = set()
    for size, hash_seed in ((8192, "0"), (1, "1"), (9777, "random")):
        code = DIGEST.format(size=size)
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        )
        said.add(ran.stdout)
    assert len(said) == 1


def test_a_trace_is_walked_again_from_its_start():
    trace = SyntheticTrace("chat", requests=100)
    np.testing.assert_array_equal(trace.head(100).arrival_s, trace.head(100).arrival_s)


def test_seeds_differ():
    first, second = (SyntheticTrace("chat", requests=100, seed=seed).head(100) for seed in (1, 2))
    assert not np.array_equal(first.prompt_tokens, second.prompt_tokens)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 20_000), size=st.integers(1, 9000), rate=st.floats(0.01, 1000))
def test_there_are_as_many_requests_as_asked_in_order_from_zero(n, size, rate):
    batches = list(SyntheticTrace("code", rate_per_s=rate, requests=n).batches(max(size, n // 50)))
    arrival_s = np.concatenate([batch.arrival_s for batch in batches])
    assert len(arrival_s) == n
    assert arrival_s[0] == 0.0
    assert (np.diff(arrival_s) >= 0).all()
    assert all((batch.prompt_tokens >= 1).all() and (batch.output_tokens >= 1).all() for batch in batches)


def test_a_longer_trace_begins_like_a_shorter_one_without_the_daily_cycle():
    short, long = (SyntheticTrace("chat", requests=n, daily=False).head(1000) for n in (1000, 30_000))
    np.testing.assert_array_equal(short.arrival_s, long.arrival_s)
    np.testing.assert_array_equal(short.prompt_tokens, long.prompt_tokens)


def test_a_duration_ends_the_trace():
    trace = SyntheticTrace("chat", rate_per_s=10, duration_s=1000)
    arrival_s = np.concatenate([batch.arrival_s for batch in trace.batches(100)])
    assert 990 < arrival_s[-1] <= 1000
    assert 9_000 < len(arrival_s) < 11_000
    assert trace.info.rows is None


@pytest.mark.parametrize("name", ["chat", "code", "summarisation", "long-context"])
def test_drawn_moments_match_the_source(name):
    """Means of 100,000 draws lie within 4 % (6 % where the source was cut at 4,096 tokens, which the copula is not)."""
    fit = load_preset(name).fit
    drawn = describe(SyntheticTrace(name, rate_per_s=2.0, requests=100_000, seed=11))
    slack = 0.06 if name == "summarisation" else 0.04
    assert drawn["prompt_tokens"]["mean"] == pytest.approx(fit["prompt_mean_tokens"], rel=slack)
    assert drawn["output_tokens"]["mean"] == pytest.approx(fit["output_mean_tokens"], rel=slack)
    if name != "summarisation":
        assert drawn["spearman"] == pytest.approx(fit["spearman"], abs=0.02)


@pytest.mark.parametrize("name", ["chat", "code", "summarisation", "long-context"])
def test_drawn_quantiles_are_those_of_the_table(name):
    """At each knot the drawn share below it lies within the 99.9 % band of a binomial sample (ties taken into it)."""
    preset = load_preset(name)
    n = 100_000
    drawn = SyntheticTrace(name, rate_per_s=2.0, requests=n, seed=3, max_total_tokens=2 * 10**8).head(n)
    for table, tokens in ((preset.prompt, drawn.prompt_tokens), (preset.output, drawn.output_tokens)):
        for probability, knot in zip(table.probabilities, table.tokens, strict=True):
            band = 3.3 * np.sqrt(probability * (1 - probability) / n) + 2 / n
            assert (tokens < knot - 0.5).mean() <= probability + band
            assert (tokens <= knot + 0.5).mean() >= probability - band


@pytest.mark.parametrize("name", ["chat", "code", "long-context"])
def test_gaps_follow_their_distribution(name):
    """Kolmogorov-Smirnov at 0.1 % against scipy's own Gamma and Weibull of mean 1."""
    gaps = load_preset(name).gaps
    drawn = gaps.draw(np.random.default_rng(5), 50_000)
    if gaps.family == "gamma":
        expected = stats.gamma(gaps.shape, scale=1 / gaps.shape)
    else:
        expected = stats.weibull_min(gaps.shape, scale=1 / stats.weibull_min(gaps.shape).mean())
    assert stats.kstest(drawn, expected.cdf).statistic < 1.95 / np.sqrt(50_000)
    assert (expected.mean(), expected.std()) == pytest.approx((1.0, gaps.cv), rel=1e-6)


def test_without_the_cycle_gaps_are_the_drawn_ones_over_the_rate():
    trace = SyntheticTrace("chat", rate_per_s=2.0, requests=20_000, daily=False, seed=3)
    unit = Tap(unit_arrivals(load_preset("chat").gaps, 3, "gaps")).take(20_000)
    np.testing.assert_allclose(trace.head(20_000).arrival_s, unit / 2.0, rtol=1e-12)


def test_the_preset_keeps_the_measured_burstiness():
    for name in ("chat", "code"):
        preset = load_preset(name)
        assert preset.gaps.cv == pytest.approx(preset.fit["gap_cv"], rel=1e-4)
        better = "gamma" if preset.fit["gamma_nats"] > preset.fit["weibull_nats"] else "weibull"
        assert preset.gaps.family == better


def test_long_context_shares_prefixes_like_its_source():
    drawn = describe(SyntheticTrace("long-context", rate_per_s=3.4, requests=12_031, seed=2))
    assert drawn["prefix"]["block_tokens"] == 512
    assert drawn["prefix"]["ideal_hit_frac"] == pytest.approx(load_preset("long-context").sharing.hit_frac, abs=0.03)


def test_prefix_hashes_are_one_per_block_and_shared_ones_come_first():
    whole = SyntheticTrace("long-context", rate_per_s=3.4, requests=5000, seed=2).head(5000)
    seen: set[int] = set()
    for ids, tokens in zip(whole.prefixes, whole.prompt_tokens.tolist(), strict=True):
        assert len(ids) == -(-tokens // 512)
        assert len(set(ids)) == len(ids)
        known = [block in seen for block in ids]
        assert known == sorted(known, reverse=True)
        seen.update(ids)


def test_the_mean_rate_is_the_one_asked_for_in_spite_of_the_cycle():
    for hours in (1, 6, 24, 72):
        n = int(5 * hours * 3600)
        trace = SyntheticTrace("chat", rate_per_s=5.0, requests=n, hour=3.0, cv=0.0)
        last_s = max(float(batch.arrival_s[-1]) for batch in trace.batches())
        assert n / last_s == pytest.approx(5.0, rel=1e-3)


def test_the_daily_cycle_is_found_again():
    trace = SyntheticTrace("chat", rate_per_s=1.0, duration_s=4 * DAY_S, hour=0.0, seed=1)
    daily, preset = describe(trace)["daily"], load_preset("chat").daily
    assert daily["amplitude_frac"] == pytest.approx(preset.amplitude_frac[0], abs=0.02)
    assert daily["peak_hour"] == pytest.approx(preset.peak_hour[0], abs=0.4)


@given(st.floats(0, 20 * DAY_S))
def test_the_clock_of_the_daily_cycle_runs_back_exactly(time_s):
    daily = Daily((0.4, 0.3), (17.0, 9.0))
    passed = daily.passed(np.array([time_s]))
    assert daily.time_of(passed)[0] == pytest.approx(time_s, abs=1e-6)


def test_a_lognormal_table_is_a_lognormal():
    probabilities = tuple(stats.norm.cdf(np.linspace(-4, 4, 9)))
    table = LengthCurve(probabilities, tuple(np.exp(6 + 0.8 * np.linspace(-4, 4, 9))))
    scores = np.random.default_rng(0).standard_normal(50_000)
    np.testing.assert_array_equal(table.at_scores(scores), np.rint(np.exp(6 + 0.8 * np.clip(scores, -4, 4))))


@given(cv=st.floats(0.05, 20))
def test_gamma_gaps_have_the_variation_asked_for(cv):
    assert gamma_gaps(cv).cv == pytest.approx(cv)


def test_evenly_spaced_gaps():
    assert next(unit_arrivals(gamma_gaps(0.0), 0, "x"))[:4].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_tiny_weibull_shapes_do_not_overflow():
    drawn = Gaps("weibull", 0.004).draw(np.random.default_rng(0), 1000)
    assert np.isfinite(drawn).all()


@given(st.lists(st.integers(0, 20_000), max_size=6))
def test_a_tap_hands_out_the_stream_in_any_pieces(pieces):
    tap = Tap(unit_arrivals(gamma_gaps(1.0), 3, "tap"))
    whole = Tap(unit_arrivals(gamma_gaps(1.0), 3, "tap")).take(sum(pieces))
    got = np.concatenate([tap.take(n) for n in pieces]) if pieces else np.empty(0)
    np.testing.assert_array_equal(got, whole)


def test_fixed_lengths_and_poisson_arrivals():
    trace = open_trace("synth:fixed?rate=4&n=10000&prompt=512&output=128&seed=2")
    whole = trace.head(10_000)
    assert set(whole.prompt_tokens.tolist()) == {512}
    assert set(whole.output_tokens.tolist()) == {128}
    assert stats.kstest(np.diff(whole.arrival_s) * 4, "expon").pvalue > 0.001


def test_lengths_stay_within_the_limit_asked_for():
    whole = SyntheticTrace("chat", requests=20_000, max_total_tokens=600).head(20_000)
    assert (whole.prompt_tokens + whole.output_tokens).max() <= 600


def test_scales_multiply_lengths():
    plain, scaled = (SyntheticTrace("chat", requests=5000, prompt_scale=s).head(5000) for s in (1.0, 0.25))
    np.testing.assert_allclose(scaled.prompt_tokens, np.maximum(plain.prompt_tokens / 4, 1), atol=0.51)
    np.testing.assert_array_equal(scaled.output_tokens, plain.output_tokens)


def test_the_address_opens_the_same_trace():
    trace = SyntheticTrace("chat", rate_per_s=0.5, requests=50, seed=9, hour=3.5, daily=True, prompt_scale=0.5)
    again = open_trace(trace.address)
    assert again == trace
    assert again.info.path == trace.address


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("synth:chatt?n=5", "did you mean 'chat'"),
        ("synth:?n=5", "unknown preset"),
        ("synth:chat", "needs an end"),
        ("synth:summarisation?n=5", "no arrivals; say rate"),
        ("synth:chat?n=5&rte=1", "did you mean 'rate'"),
        ("synth:chat?n=x", "not a whole number"),
        ("synth:chat?n=5&hour=24", "no hour of the day"),
        ("synth:chat?n=5&prompt_scale=0", "outside"),
        ("synth:chat?n=5&prompt=3", "constants of synth:fixed"),
        ("synth:fixed?n=5&rate=1&prompt=3", "output = None"),
        ("synth:fixed?n=5&prompt=3&output=3", "say rate"),
        ("synth:chat?n=5&max_tokens=1", "no room"),
        ("synth:chat?n=5&daily=perhaps", "not yes or no"),
        ("synth:chat?n=5&seed=-1", "negative"),
    ],
)
def test_wishes_that_cannot_be_drawn_are_refused(address, words):
    with pytest.raises(TraceError) as caught:
        open_trace(address)
    assert words in str(caught.value)


def test_a_limit_out_of_reach_is_refused_rather_than_tried_for_ever():
    with pytest.raises(TraceError, match="out of this preset's reach"):
        SyntheticTrace("long-context", requests=10, max_total_tokens=10).head(10)


def test_every_preset_names_source_licence_and_date():
    for name in preset_names():
        preset = load_preset(name)
        assert preset.source
        assert preset.licence
        assert preset.checked
        assert sum(preset.daily.amplitude_frac) < 1
        assert list(preset.prompt.probabilities) == sorted(preset.prompt.probabilities)
        assert list(preset.prompt.tokens) == sorted(preset.prompt.tokens)


MEMORY = """
import re
from afterwatt.traces import open_trace
rows = sum(len(batch) for batch in open_trace({address!r}).batches())
assert rows == 5_000_000, rows
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")
def test_five_million_requests_stream_in_little_memory(tmp_path):
    made = open_trace("synth:chat?rate=50&n=5000000")
    assert write_parquet(made, tmp_path / "big.parquet") == 5_000_000
    for address in (made.address, str(tmp_path / "big.parquet")):
        code = MEMORY.format(address=address)
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
        assert int(ran.stdout) < 400, f"{address} took {ran.stdout} MiB"


def test_digest_of_the_first_requests_is_not_left_to_chance():
    """Two walks of differing block alignment agree to the bit on the rows they share."""
    left = SyntheticTrace("chat", requests=9000, daily=False).head(9000)
    right = SyntheticTrace("chat", requests=8193, daily=False).head(8193)
    one, other = (hashlib.sha256(b.arrival_s[:8193].tobytes()).hexdigest() for b in (left, right))
    assert one == other

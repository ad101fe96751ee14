"""Kernels by their shape: never faster than the datasheet, never faster for more work, limits in closed form."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles.kernels import (
    QUERY_TILE,
    AttentionRates,
    GemmRates,
    attention_costs,
    beside_sequence_s,
    decode_attention_s,
    decode_entry_s,
    experts_s,
    gemm_s,
    prompt_attention_s,
    prompt_pairs,
    smooth_max,
)

sides = st.integers(1, 20_000).map(float)
rows = st.integers(1, 100_000).map(float)
bandwidths = st.floats(1e11, 1e13)
peaks = st.floats(1e12, 1e15)
latencies = st.floats(0.0, 1e-4)
sharpnesses = st.floats(1.0, 20.0)
NO_KERNELS_OF_THEIR_OWN = [st.just(value) for value in (0.0, 1.0, 0.0, 0.0, math.inf, 1.0, 2.0)]
rates = st.builds(
    GemmRates,
    bandwidths,
    peaks,
    st.floats(0.0, 1e-11),
    latencies,
    sharpnesses,
    st.booleans(),
    *NO_KERNELS_OF_THEIR_OWN,
)
attentions = st.builds(AttentionRates, bandwidths, peaks, latencies, st.floats(0.0, 1e-7), st.floats(0.0, 100.0))


@given(rows, sides, sides, rates, st.sampled_from([0.5, 1.0, 2.0]))
def test_a_product_is_never_faster_than_its_traffic_its_arithmetic_and_its_latency(m, k, n, rate, width):
    time_s = gemm_s(m, k, n, rate, width)
    moved = k * n * width + m * (k * (1.0 if rate.narrow else 2.0) + n * 2.0)
    assert time_s >= rate.latency_s + moved / rate.bytes_per_s * (1 - 1e-12)
    assert time_s >= 2 * m * k * n / rate.flops_per_s * (1 - 1e-12)
    assert time_s >= k * n * rate.dequant_s * (1 - 1e-12)


@given(rows, sides, sides, rates, st.integers(1, 5000), st.integers(1, 5000))
def test_a_larger_product_takes_no_less(m, k, n, rate, more, wider):
    base = gemm_s(m, k, n, rate)
    for larger in (gemm_s(m + more, k, n, rate), gemm_s(m, k + wider, n, rate), gemm_s(m, k, n + wider, rate)):
        assert larger >= base * (1 - 1e-12)


@given(rows, sides, sides, rates, st.integers(1, 64), st.floats(1.0, 4.0))
def test_few_rows_stream_at_a_rate_of_their_own_and_more_rows_at_the_other(m, k, n, rate, few, faster):
    own = rate._replace(few_rows=float(few), few_bytes_per_s=faster * rate.bytes_per_s, narrow=False)
    other = rate._replace(narrow=False)
    assert gemm_s(m, k, n, own) == (
        gemm_s(m, k, n, other._replace(bytes_per_s=own.few_bytes_per_s)) if m <= few else gemm_s(m, k, n, other)
    )
    many = np.array([1.0, float(few), few + 1.0, 1000.0])
    assert gemm_s(many, np.full(4, k), np.full(4, n), own) == pytest.approx(
        [gemm_s(one, k, n, own) for one in many.tolist()], rel=1e-12
    )


def test_a_large_product_runs_at_the_peak_and_a_small_one_at_a_fraction():
    rate = GemmRates(1e12, 1e14, 0.0, 5e-6, 2.0)
    large, small = (2.0 * size**3 / gemm_s(size, size, size, rate) for size in (65536.0, 128.0))
    assert large == pytest.approx(1e14, rel=1e-3)
    assert small < 0.02 * 1e14
    one_row = gemm_s(1.0, 65536.0, 65536.0, rate)
    assert 2.0 * 65536.0**2 / one_row == pytest.approx(1e12, rel=1e-2)  # the matrix streams at full bandwidth


@given(st.floats(1e-9, 1.0), st.floats(1e-9, 1.0), st.floats(0.0, 1.0), sharpnesses)
def test_a_smooth_maximum_lies_between_the_largest_and_the_sum(one, two, three, sharpness):
    found = smooth_max(one, two, three, sharpness)
    assert max(one, two, three) * (1 - 1e-9) <= found <= (one + two + three) * (1 + 1e-9)


def test_at_both_ends_it_is_the_sum_and_the_sharp_roofline():
    assert smooth_max(1.0, 2.0, 3.0, 1.0) == pytest.approx(6.0)
    assert smooth_max(1.0, 2.0, 3.0, 100.0) == pytest.approx(3.0)


@given(rows, sides, sides, rates, st.integers(2, 64))
def test_an_expert_that_every_token_visits_is_a_dense_network(m, hidden, width, rate, experts):
    dense = gemm_s(m, hidden, 2 * width, rate) + gemm_s(m, width, hidden, rate)
    assert experts_s(m, hidden, width, 1.0, 1.0, rate) == pytest.approx(dense)
    # Many tokens touch all experts: as much to read as that many networks, as much to compute as those visited.
    crowd = experts_s(1e5, hidden, width, float(experts), 1.0, rate)
    whole = gemm_s(1e5, hidden, 2 * width, rate, copies=float(experts))
    whole += gemm_s(1e5, width, hidden, rate, copies=float(experts))
    assert crowd == pytest.approx(whole, rel=1e-6)


@given(st.integers(1, 8), st.integers(1, 16), st.sampled_from([64, 128]), attentions, st.integers(1, 512), rows)
def test_decoding_is_never_faster_than_its_cache_can_be_read(kv_heads, group, width, rate, sequences, entries):
    costs = attention_costs(kv_heads * group, kv_heads, width, rate)
    time_s = decode_attention_s(costs, float(sequences), entries)
    assert time_s >= rate.latency_s + 2 * kv_heads * width * 2.0 * entries / rate.bytes_per_s
    assert time_s >= 4 * kv_heads * group * width * entries / rate.flops_per_s
    assert decode_attention_s(costs, sequences + 1.0, entries) >= time_s
    assert decode_attention_s(costs, float(sequences), entries + 1.0) > time_s


@given(st.integers(1, 5000), st.integers(0, 50_000), st.floats(1.0, float(QUERY_TILE)))
def test_a_kernel_multiplies_at_least_the_causal_pairs(queries, past, least):
    pairs = float(prompt_pairs(float(queries), float(past), least))
    assert pairs >= queries * past + queries * (queries + 1) / 2
    assert pairs <= (queries + QUERY_TILE) * past + queries * (queries + QUERY_TILE) / 2
    assert float(prompt_pairs(queries + 1.0, float(past), least)) >= pairs
    if queries % QUERY_TILE == 0:
        assert pairs == queries * past + queries * (queries + 64) / 2


def test_a_long_prompt_runs_at_the_peak():
    rate = AttentionRates(1e12, 1e14, 1e-5, 2e-8)
    costs = attention_costs(32, 8, 128, rate)
    queries = 1e6
    flops = 4 * 32 * 128 * queries * queries / 2
    assert flops / float(prompt_attention_s(costs, 1.0, queries, 0.0)) == pytest.approx(1e14, rel=0.01)


@given(attentions, st.integers(1, 8), st.integers(1, 16), st.floats(1.0, 128.0))
def test_a_sequence_beside_prompts_takes_between_its_kv_heads_and_its_heads_in_blocks(rate, kv_heads, group, tile):
    heads = kv_heads * group
    found = beside_sequence_s(rate, heads, kv_heads, tile)
    assert kv_heads * rate.block_s <= found * (1 + 1e-12)
    assert found <= heads * rate.block_s * (1 + 1e-12)
    assert beside_sequence_s(rate, heads, kv_heads, 1.0) == pytest.approx(kv_heads * rate.block_s)


@given(attentions, st.floats(1.0, 128.0))
def test_a_query_that_fills_a_tile_costs_a_tile(rate, tile):
    costs = attention_costs(32, 8, 128, rate)
    assert decode_entry_s(costs, tile) - decode_entry_s(costs) == pytest.approx(
        (tile - 1.0) * costs.pair_s, rel=1e-6, abs=1e-18
    )


def test_scores_through_memory_cost_their_bytes():
    on_chip, through = (AttentionRates(1e12, 1e14, 0.0, 0.0, score_bytes) for score_bytes in (0.0, 16.0))
    pair_s = [attention_costs(32, 8, 128, rate).pair_s for rate in (on_chip, through)]
    assert pair_s[1] - pair_s[0] == pytest.approx(32 * 16.0 / 1e12)
    assert math.isclose(attention_costs(32, 8, 128, on_chip).entry_s, 2 * 8 * 128 * 2 / 1e12)


few = st.integers(1, 8).map(float)


@given(few, sides, sides, rates, st.floats(1e-14, 1e-11))
def test_each_further_row_in_vector_instructions_costs_the_same(m, k, n, rate, each_s):
    """Beside what one row costs and the wider rows move: instructions, one weight and one row at a time."""
    vector = rate._replace(vector_rows=8.0, vector_s=each_s)
    assert gemm_s(m, k, n, vector) - gemm_s(m, k, n, rate) == pytest.approx(
        (m - 1.0) * k * n * each_s, rel=1e-6, abs=1e-12
    )
    assert gemm_s(9.0, k, n, vector) == gemm_s(9.0, k, n, rate)


@given(few, sides, sides, rates, st.integers(2, 64).map(float))
def test_experts_take_vector_instructions_by_the_rows_of_each(m, k, n, rate, copies):
    """So many experts with a few rows each cost as much more as one does with those rows, as often."""
    vector = rate._replace(vector_rows=8.0, vector_s=1e-12)
    more = gemm_s(m * copies, k, n, vector, copies=copies) - gemm_s(m * copies, k, n, rate, copies=copies)
    alone = gemm_s(m, k, n, vector) - gemm_s(m, k, n, rate)
    assert more == pytest.approx(copies * alone, rel=1e-6, abs=1e-12)


@given(rows, sides, sides, rates, st.integers(2, 64).map(float))
def test_a_matrix_that_is_unpacked_first_is_multiplied_wide_and_no_longer_scaled(m, k, n, rate, from_rows):
    unpacked = rate._replace(unpack_rows=from_rows, wide_flops_per_s=1e13, wide_bytes=2.0)
    if m < from_rows:
        assert gemm_s(m, k, n, unpacked) == gemm_s(m, k, n, rate)
        return
    once_s = rate.latency_s + k * n * (0.5 + 2.0) / rate.bytes_per_s
    wide = GemmRates(rate.bytes_per_s, 1e13, 0.0, rate.latency_s, rate.sharpness)
    assert gemm_s(m, k, n, unpacked, 0.5) == pytest.approx(once_s + gemm_s(m, k, n, wide), rel=1e-12)

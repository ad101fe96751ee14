"""A step worked out on paper, from literal shapes: what it moves, multiplies and sends, and how long it takes."""

from dataclasses import replace
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles import load_device, parse_deployment
from afterwatt.hwprofiles.effort import Occupancy, Work, occupancy, work
from afterwatt.hwprofiles.kernels import GemmRates, all_reduce_s, diagonal_pairs, experts_s, gemm_s, tile_rows
from afterwatt.hwprofiles.mixers import StepShape
from afterwatt.hwprofiles.rates import reached_rates
from afterwatt.hwprofiles.residence import activation_bytes, replica_kv_bytes, stage_kv_bytes, stage_weight_bytes
from afterwatt.hwprofiles.roofline import PS_PER_S, TimeModel
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.hwprofiles.step import StepModel
from afterwatt.modelspecs import load_model, load_precision
from afterwatt.modelspecs.spec import experts_touched

DECODING, CONTEXT, EMITS, CHUNK, PAST = 5, 7000, 6, 300, 1000
PAIRS = CHUNK * PAST + CHUNK * (CHUNK + 1) // 2
TOKENS = DECODING + CHUNK
READ = CONTEXT + PAST + CHUNK


def serving(hw: str = "a100-80", model: str = "llama-2-7b", precision: str = "fp16", **values: float) -> Serving:
    deployment = parse_deployment(hw)
    stack = load_stack(deployment.pool.device).with_values(values)
    return Serving(deployment, load_model(model), load_precision(precision), stack)


def one_plan(served: Serving) -> tuple[Work, Occupancy]:
    columns = (DECODING, CONTEXT, EMITS, CHUNK, PAST, PAIRS, CHUNK * CHUNK)
    shape = StepShape(*(np.array([float(number)]) for number in columns))
    step = StepModel(served)
    return work(step, shape), occupancy(step, shape)


# -- bytes, FLOPs, links ---------------------------------------------------------------------------------------------

ATTENTION, FFN = 4 * 4096 * 4096, 3 * 4096 * 11008  # weights of a layer of Llama-2-7B
ENTRY_BYTES = 2 * 32 * 32 * 128 * 2  # a key and a value of 32 heads of 128 in 32 layers, two bytes each


@pytest.mark.parametrize("hw", ["a100-80", "2xa100-80:tp2", "4xa100-80:tp2pp2"])
def test_the_bytes_and_flops_of_a_plan_by_hand(hw: str) -> None:
    """Weights once, each entry of the cache once, new entries written once; whatever the split."""
    done, _ = one_plan(serving(hw))
    weights = 32 * (ATTENTION + FFN) + 4096 * 32000
    assert done.hbm_bytes[0] == 2 * weights + ENTRY_BYTES * (READ + TOKENS)
    assert done.hbm_slope_bytes[0] == ENTRY_BYTES * TOKENS
    layers = 2 * 32 * (ATTENTION + FFN) * TOKENS
    assert done.flops[0] == layers + 2 * 4096 * 32000 * EMITS + 4 * 32 * 4096 * (CONTEXT + PAIRS)
    assert done.flops_slope[0] == 4 * 32 * 4096 * (DECODING + CHUNK * CHUNK)


@pytest.mark.parametrize(("hw", "tp", "pp"), [("a100-80", 1, 1), ("4xa100-80:tp4", 4, 1), ("6xa100-80:tp2pp3", 2, 3)])
def test_an_all_reduce_passes_each_payload_twice_but_ones_own_part_and_a_hop_passes_it_once(hw, tp, pp) -> None:
    done, _ = one_plan(serving(hw))
    payload = TOKENS * 4096 * 2
    assert done.link_bytes[0] == 2 * 32 * payload * 2 * (tp - 1) + payload * (pp - 1)


def test_the_head_is_read_only_where_a_token_is_produced() -> None:
    step = StepModel(serving())
    silent, speaking, more = (
        work(step, StepShape(*(np.array([float(n)]) for n in (0, 0, emits, 9, 0, 45, 81)))) for emits in (0, 1, 2)
    )
    assert speaking.hbm_bytes[0] - silent.hbm_bytes[0] == 2 * 4096 * 32000
    assert more.hbm_bytes[0] == speaking.hbm_bytes[0]
    assert more.flops[0] - speaking.flops[0] == speaking.flops[0] - silent.flops[0] == 2 * 4096 * 32000


def test_kv_heads_that_are_copied_are_read_as_often() -> None:
    """Llama-3.1-8B has 8 KV heads; over 16 cards each is kept, read and written twice."""
    eight, sixteen = (one_plan(serving(f"{n}xa100-80:tp{n}", "llama-3.1-8b"))[0] for n in (8, 16))
    own = 2 * 32 * 8 * 128 * 2
    assert sixteen.hbm_bytes[0] - eight.hbm_bytes[0] == own * (READ + TOKENS)
    assert sixteen.hbm_slope_bytes[0] == 2 * eight.hbm_slope_bytes[0] == 2 * own * TOKENS


EXPERT = 3 * 4096 * 14336  # weights of one of Mixtral's eight experts, of which a token passes two
GROUPED = 2 * 4096 * 4096 + 2 * 4096 * 1024  # attention's, with 8 KV heads of 32


def test_a_mixture_reads_the_experts_that_are_touched_and_multiplies_with_two() -> None:
    done, kernels = one_plan(served := serving("2xa100-80:tp2", "mixtral-8x7b"))
    touched = 8 * (1 - 0.75**TOKENS)
    entry = 2 * 32 * 8 * 128 * 2
    weights = 32 * (GROUPED + touched * EXPERT) + 4096 * 32000
    assert done.hbm_bytes[0] == pytest.approx(2 * weights + entry * (READ + TOKENS), rel=1e-12)
    router = 4096 * 8
    layers = 2 * 32 * (GROUPED + 2 * EXPERT + router) * TOKENS
    assert done.flops[0] == layers + 2 * 4096 * 32000 * EMITS + 4 * 32 * 4096 * (CONTEXT + PAIRS)
    pool, share = served.pool, served.stack.expert_efficiency
    reading_s = 2 * 32 * touched * EXPERT / (pool.peak_bytes_per_s * served.stack.mem_efficiency * share)
    peak = pool.device.flops_per_s["fp16"] * served.stack.compute_efficiency * share
    assert kernels.expert_s[0] == pytest.approx(max(reading_s, 2 * 32 * 2 * EXPERT * TOKENS / peak), rel=1e-12)
    assert kernels.unpack_s[0] == 0.0


def test_few_tokens_wait_for_experts_and_many_multiply_with_them() -> None:
    step = StepModel(serving("2xa100-80:tp2", "mixtral-8x7b"))
    tokens = np.array([1.0, 50_000.0])
    zero = np.zeros(2)
    found = occupancy(step, StepShape(zero, zero, zero, tokens, zero, zero, zero)).expert_s
    rates = step.rates.experts
    assert found[0] == pytest.approx(2 * 32 * 2 * EXPERT / rates.bytes_per_s)
    assert found[1] == pytest.approx(2 * 32 * 2 * EXPERT * tokens[1] / rates.flops_per_s)


def test_what_is_stored_narrow_is_unpacked_weight_by_weight_but_for_head_and_router() -> None:
    served = serving("2xa100-80:tp2", "mixtral-8x7b", "awq")
    _, kernels = one_plan(served)
    weight_s = served.stack.dequant_int4_ops_per_weight / (served.pool.device.flops_per_s["fp32"] / 2)
    weights = 32 * (GROUPED + 8 * (1 - 0.75**TOKENS) * EXPERT)
    assert kernels.unpack_s[0] == pytest.approx(weights * weight_s, rel=1e-12)


@pytest.mark.parametrize(("experts", "active", "tokens"), [(4, 2, 2), (5, 1, 3), (6, 3, 2), (3, 3, 2), (4, 1, 0)])
def test_experts_touched_counted_over_all_draws(experts: int, active: int, tokens: int) -> None:
    """The mean size of the union over every way to send the tokens."""
    ways = list(product(combinations(range(experts), active), repeat=tokens))
    assert len(ways) == comb(experts, active) ** tokens
    mean = sum(len(set().union(*way)) for way in ways) / len(ways)
    assert experts_touched(experts, active, tokens) == pytest.approx(mean)


def test_experts_without_arithmetic_take_the_reading_of_those_touched() -> None:
    free = GemmRates(1e12, 1e40, 0.0, 0.0, 8.0)
    touched = 8 * (1 - 0.75**3)
    assert experts_s(3.0, 4096.0, 14336.0, 8.0, 2.0, free, 2.0, 0.0) == pytest.approx(touched * EXPERT * 2 / 1e12)
    busy = GemmRates(1e40, 1e12, 0.0, 0.0, 8.0)
    assert experts_s(3.0, 4096.0, 14336.0, 8.0, 2.0, busy, 2.0, 0.0) == pytest.approx(2 * 3 * 2 * EXPERT / 1e12)
    calls = GemmRates(1e40, 1e40, 0.0, 1e-5, 8.0)
    assert experts_s(3.0, 4096.0, 14336.0, 8.0, 2.0, calls, 2.0, 0.0) == pytest.approx(2e-5)


def test_a_router_has_its_overhead_in_every_layer_and_a_dense_model_none() -> None:
    for model, layers in (("mixtral-8x7b", 32), ("llama-2-7b", 0)):
        slow, fast = (
            TimeModel(serving("2xa100-80:tp2", model, launch_s=0.0, router_overhead_s=overhead_s))
            for overhead_s in (1e-5, 0.0)
        )
        added = slow.step(4, 4000, (), 4, 1)[0] - fast.step(4, 4000, (), 4, 1)[0]
        assert added == pytest.approx(layers * 1e-5 * PS_PER_S, abs=2)


# -- prompt pieces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [1, 16, 64])
def test_a_piece_is_multiplied_with_what_is_before_it_in_the_smallest_tile_that_holds_it(least: int) -> None:
    small = [rows for rows in (1, 2, 4, 8, 16, 32, 64, 128) if rows >= least]
    for queries in range(1, 128):
        assert tile_rows(queries, least) == min(rows for rows in small if rows >= queries)
    for queries in range(128, 700):
        assert tile_rows(queries, least) == min(rows for rows in range(128, 1000, 128) if rows >= queries)


@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_within_a_piece_a_block_of_queries_sees_all_keys_up_to_its_own_end(blocks: int) -> None:
    assert diagonal_pairs(64.0 * blocks) == sum(64 * 64 * (number + 1) for number in range(blocks))


@given(st.integers(1, 2000), st.integers(0, 5000), st.integers(1, 4))
def test_what_lies_before_a_piece_is_read_once_and_multiplied_with_its_tiles(size: int, past: int, pieces: int) -> None:
    served = serving(model="llama-3.1-8b", prompt_launch_s=0.0, mixed_query_rows=16.0, attention_score_bytes=0.0)
    times, rates = TimeModel(served), reached_rates(served.pool.device, True, served.precision, served.stack).attention
    pair_ps = round(32 * 4 * 4096 / rates.flops_per_s * PS_PER_S)
    entry_ps = round(32 * 2 * 8 * 128 * 2 / rates.bytes_per_s * PS_PER_S)
    after, first = (times.step(0, 0, ((None, size, before),) * pieces, 0, 1)[0] for before in (past, 0))
    assert after - first == pieces * past * (pair_ps * tile_rows(size, 16) + entry_ps)


def test_a_prompt_itself_is_read_and_multiplied_block_by_block() -> None:
    """What a rate of attention's own changes: 64 b (64 b + 64) / 2 pairs, 64 b entries."""
    free = {"prompt_launch_s": 0.0, "attention_block_s": 0.0, "attention_score_bytes": 0.0}
    kept = serving(attention_compute_efficiency=0.5, attention_mem_efficiency=0.5, **free)
    halved = serving(attention_compute_efficiency=0.25, attention_mem_efficiency=0.5, **free)
    slowed = serving(attention_compute_efficiency=0.5, attention_mem_efficiency=0.25, **free)
    plan = (0, 0, ((None, 640, 0),), 0, 1)
    first, computing, reading = (TimeModel(one).step(*plan)[0] / PS_PER_S for one in (kept, halved, slowed))
    pair_s = 32 * 4 * 4096 / (kept.pool.device.flops_per_s["fp16"] * 0.5)
    pairs = 640 * 704 / 2
    assert computing - first == pytest.approx(pairs * pair_s, rel=0, abs=pairs / PS_PER_S)  # a picosecond each
    bandwidth = kept.pool.peak_bytes_per_s * 0.5
    queries = 640 * 2 * 4096 * 2 * 32  # read and their outputs written
    assert reading - first == pytest.approx((640 * ENTRY_BYTES + queries) / bandwidth, rel=1e-5)


@pytest.mark.parametrize(("rows", "blocks"), [(1.0, 8), (2.0, 16), (64.0, 32)])
def test_thread_blocks_of_a_step_by_hand(rows: float, blocks: int) -> None:
    """Beside a prompt a decoding sequence takes up to one per head; a piece one per KV head, and its queries' own."""
    beside, alone = ((None, 96, 5), (None, 32, 0)), ()
    for chunks, count in ((beside, 3 * blocks + 2 * 8 + 128 * 32 / 64), (alone, 3 * 8)):
        with_blocks, without = (
            TimeModel(
                serving(
                    model="llama-3.1-8b",
                    attention_block_s=block_s,
                    mixed_query_rows=rows,
                    launch_s=0.0,
                    prompt_launch_s=0.0,
                )
            ).step(3, 900, chunks, 3, 1)[0]
            for block_s in (1e-6, 0.0)
        )
        assert with_blocks - without == pytest.approx(32 * count * 1e-6 * PS_PER_S, rel=1e-9, abs=200)


# -- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("devices", "hops"), [(2, 2), (3, 4), (4, 4), (5, 6), (8, 6)])
def test_each_hop_of_an_all_reduce_has_its_latency(devices: int, hops: int) -> None:
    assert all_reduce_s(0.0, devices, 1e9, 1e-6) == pytest.approx(hops * 1e-6)


@pytest.mark.parametrize(("hw", "hops"), [("2xa100-80:tp2", 2), ("8xa100-80:tp8", 6)])
def test_a_layer_pays_the_hops_of_two_all_reduces(hw: str, hops: int) -> None:
    now, later = (
        TimeModel(serving(hw, launch_s=0.0, comm_latency_s=latency_s)).step(4, 4000, (), 4, 1)[0]
        for latency_s in (0.0, 1e-5)
    )
    assert later - now == pytest.approx(32 * 2 * hops * 1e-5 * PS_PER_S, rel=1e-9, abs=2)


def test_what_an_all_reduce_has_beyond_a_payload_goes_at_another_rate() -> None:
    assert all_reduce_s(1000.0, 4, 10.0, 0.0, 600.0, 5.0) == pytest.approx(1.5 * (600 / 10 + 400 / 5))
    assert all_reduce_s(500.0, 4, 10.0, 0.0, 600.0, 5.0) == pytest.approx(1.5 * 500 / 10)


def test_a_hop_between_stages_is_a_latency_and_a_payload() -> None:
    served = serving("2xa100-80:pp2")
    link, stack = served.stage_link, served.stack
    expected = link.latency_s + stack.comm_latency_s + 700 * 4096 * 2 / (link.bytes_per_s * stack.comm_efficiency)
    assert TimeModel(served).hop_ps(700) == pytest.approx(expected * PS_PER_S, abs=1)


def test_the_stages_of_a_pipeline_add_up_to_the_whole() -> None:
    """But for what each of them does anew: the step's overhead, and the bookkeeping that the last one has alone."""
    quiet = {"step_overhead_s": 0.0, "launch_s": 0.0}
    whole = TimeModel(serving(**quiet)).step(4, 4000, (), 4, 1)[0]
    split = serving("3xa100-80:pp3", **quiet)
    parts = [TimeModel(split, stage).step(4, 4000, (), 4, 1)[0] for stage in range(3)]
    assert sum(parts) == pytest.approx(whole, rel=1e-6)
    head_s = StepModel(split).head.seconds(4) + 4 * split.stack.sequence_overhead_s
    layer_ps = parts[0] / 11  # of 32 layers the first two stages have eleven each
    assert parts == pytest.approx([11 * layer_ps, 11 * layer_ps, 10 * layer_ps + head_s * PS_PER_S], rel=1e-6)


# -- rates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "precision", "computed", "share", "unpacks", "narrow_head"),
    [
        ("a100-80", "fp16", "fp16", "compute_efficiency", None, False),
        ("a100-80", "awq", "fp16", "quantised_compute_efficiency", "dequant_int4_ops_per_weight", False),
        ("a100-80", "q4_k_m", "fp16", "quantised_compute_efficiency", "dequant_int4_ops_per_weight", True),
        ("a100-80", "w8a8", "int8", "quantised_compute_efficiency", None, False),
        ("h100-sxm", "fp8", "fp8", "fp8_compute_efficiency", None, False),
        ("a100-80", "fp8", "fp16", "quantised_compute_efficiency", "dequant_fp8_ops_per_weight", False),
        ("m40", "fp16", "fp32", "compute_efficiency", None, False),
    ],
)
def test_what_products_reach_by_the_format(device, precision, computed, share, unpacks, narrow_head) -> None:
    card, stored = load_device(device), load_precision(precision)
    stack = load_stack(card)
    rates = reached_rates(card, False, stored, stack)
    peak = card.mem_bandwidth_bytes_per_s
    wide = card.flops_per_s["fp16" if "fp16" in card.flops_per_s else "fp32"]
    assert rates.computed_in == computed
    assert rates.matrices.flops_per_s == card.flops_per_s[computed] * getattr(stack, share)
    assert rates.matrices.bytes_per_s == rates.router.bytes_per_s == peak * stack.mem_efficiency
    assert rates.matrices.few_bytes_per_s == peak * stack.few_rows_mem_efficiency
    assert rates.matrices.narrow == (computed in ("int8", "fp8"))
    per_weight = 0.0 if unpacks is None else getattr(stack, unpacks) / (card.flops_per_s["fp32"] / 2)
    assert rates.matrices.dequant_s == per_weight
    assert (per_weight > 0.0) == (unpacks is not None)
    assert rates.router.flops_per_s == wide * stack.compute_efficiency
    assert (rates.router.dequant_s, rates.router.narrow) == (0.0, False)
    assert rates.head == (rates.matrices if narrow_head else rates.router)
    assert rates.experts.bytes_per_s == rates.matrices.bytes_per_s * stack.expert_efficiency
    assert rates.experts.flops_per_s == rates.matrices.flops_per_s * stack.expert_efficiency
    assert rates.experts.few_bytes_per_s == rates.matrices.few_bytes_per_s * stack.expert_efficiency
    assert rates.experts.wide_flops_per_s == rates.matrices.wide_flops_per_s * stack.expert_efficiency
    assert rates.attention.bytes_per_s == peak * stack.attention_mem_efficiency
    assert rates.attention.flops_per_s == wide * stack.attention_compute_efficiency


@pytest.mark.parametrize(("device", "wide", "width"), [("a100-80", "fp16", 2.0), ("m40", "fp32", 4.0)])
def test_few_and_many_rows_of_quantised_products_have_kernels_of_their_own(device, wide, width) -> None:
    card, stored = load_device(device), load_precision("awq")
    own = {"vector_rows": 8.0, "vector_ops_per_weight": 5.0, "unpack_rows": 64.0, "expert_efficiency": 0.5}
    stack = load_stack(card).with_values(own)
    rates = reached_rates(card, False, stored, stack)
    reached, summed = rates.matrices, f"{wide}-{stack.sums_in}"
    peak = card.flops_per_s[summed if summed in card.flops_per_s else wide]
    assert (reached.vector_rows, reached.vector_s) == (8.0, 5.0 / (card.flops_per_s["fp32"] / 2))
    assert (reached.unpack_rows, reached.wide_bytes) == (64.0, width)
    assert reached.wide_flops_per_s == peak * stack.compute_efficiency
    assert rates.experts.wide_flops_per_s == 0.5 * reached.wide_flops_per_s
    plain = reached_rates(card, False, load_precision("fp16"), stack).matrices
    assert (plain.vector_rows, plain.unpack_rows) == (rates.router.vector_rows, rates.router.unpack_rows)


@pytest.mark.parametrize("precision", ["awq", "q4_k_m", "q2_k"])
def test_unpacking_takes_as_many_instructions_as_the_format_needs(precision) -> None:
    card, stored = load_device("a100-80"), load_precision(precision)
    stack = load_stack(card)
    per_weight_s = stack.dequant_int4_ops_per_weight / (card.flops_per_s["fp32"] / 2)
    reached = reached_rates(card, False, stored, stack).matrices
    assert reached.dequant_s == pytest.approx(per_weight_s * stored.unpacking, rel=1e-12)


def test_inputs_of_narrow_products_are_quantised_by_a_kernel_of_their_own() -> None:
    wide = GemmRates(1e12, 1e40, 0.0, 1e-6, 8.0)
    got = gemm_s(10.0, 4096.0, 8192.0, wide._replace(narrow=True), 1.0, 2.0)
    product_s = (4096 * 8192 + 10 * (4096 * 1 + 8192 * 2)) / 1e12
    quantised_s = 10 * 4096 * (2 + 1) / 1e12  # read in two bytes, written in one
    assert got == pytest.approx(2e-6 + product_s + quantised_s)
    assert gemm_s(10.0, 4096.0, 8192.0, wide, 1.0, 2.0) == pytest.approx(1e-6 + product_s + 10 * 4096 / 1e12)


def test_dequantisation_takes_its_time_for_every_weight_and_copy() -> None:
    rates = GemmRates(1e40, 1e40, 1e-12, 0.0, 8.0)
    assert gemm_s(10.0, 4096.0, 8192.0, rates) == pytest.approx(4096 * 8192 * 1e-12)
    assert gemm_s(10.0, 4096.0, 8192.0, rates, copies=3.0) == pytest.approx(3 * 4096 * 8192 * 1e-12)


# -- memory ----------------------------------------------------------------------------------------------------------


def test_a_token_s_keys_and_values_by_hand() -> None:
    """Llama-3.1-8B: 8 KV heads of 128 in 32 layers, two bytes."""
    whole, split, copied = (serving(hw, "llama-3.1-8b") for hw in ("a100-80", "6xa100-80:tp2pp3", "16xa100-80:tp16"))
    entry = 2 * 8 * 128 * 2
    assert stage_kv_bytes(whole, 0) == replica_kv_bytes(whole) == replica_kv_bytes(split) == 32 * entry
    assert [stage_kv_bytes(split, stage) for stage in range(3)] == [layers * entry / 2 for layers in (11, 11, 10)]
    assert (stage_kv_bytes(copied, 0), replica_kv_bytes(copied)) == (32 * entry / 8, 2 * 32 * entry)


@pytest.mark.parametrize("model", ["llama-2-7b", "qwen2.5-0.5b", "mixtral-8x7b"])
def test_stages_hold_layers_and_the_ends_what_is_outside(model: str) -> None:
    """The tables are at both ends; a tied one is then stored twice."""
    split, spec = serving("6xa100-80:tp2pp3", model), load_model(model)
    parts = [2 * stage_weight_bytes(split, stage) for stage in range(3)]
    outside = spec.embedding_params + spec.stored_head_params + spec.final_norm_params
    layer = 2 * (spec.params - outside) / spec.layers
    thirds = [spec.layers // 3 + (stage < spec.layers % 3) for stage in range(3)]
    ends = [2 * spec.embedding_params, 0, 2 * spec.head_params]
    assert parts == pytest.approx([layers * layer + end for layers, end in zip(thirds, ends, strict=True)], rel=1e-12)
    assert stage_weight_bytes(serving("2xa100-80:tp2", model), 0) == spec.params


def test_the_widest_activations_by_hand() -> None:
    assert activation_bytes(serving(), 2048) == 2 * 2048 * (4 * 4096 + 3 * 11008)
    assert activation_bytes(serving("2xa100-80:tp2"), 2048) == 2 * 2048 * (4 * 4096 + 3 * 11008 / 2)
    assert activation_bytes(serving("2xa100-80:tp2", "mixtral-8x7b"), 10) == 2 * 10 * (4 * 4096 + 2 * 3 * 14336 / 2)


# -- the law ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 64), st.integers(1, 200), st.integers(6000, 15_000))
def test_a_law_ends_where_the_device_begins_to_take_longer_than_launching(
    decoding: int, each: int, launch_us: int
) -> None:
    """For every iteration of the law the time is the larger of the two, and the law is as long as that allows."""
    served = serving(launch_s=launch_us / 32e6)
    host, device = TimeModel(served), TimeModel(replace(served, stack=served.stack.with_values({"launch_s": 0.0})))
    first, slope, held = host.step(decoding, decoding * each, (), decoding, 400)
    serial_ps = round(served.stack.step_overhead_s * PS_PER_S) + round(
        decoding * served.stack.sequence_overhead_s * PS_PER_S
    )
    floor = round(32 * served.stack.launch_s * PS_PER_S) + serial_ps
    for k in {0, held - 1}:
        alone = device.step(decoding, decoding * (each + k), (), decoding, 1)[0]
        assert first + slope * k == max(alone, floor)
    if held < 400:
        assert slope == 0
        assert device.step(decoding, decoding * (each + held), (), decoding, 1)[0] >= floor

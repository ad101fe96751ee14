"""Kernels with watts: bytes and FLOPs by hand, folds by shape, and what is read twice."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.fidelity.power.tables import (
    CACHE_BYTES,
    DECODING,
    EXPERTS,
    FOLDS,
    GEMM,
    LEAST_REPEATS,
    MOST_REPEATS,
    PROMPTS,
    READING_S,
    read_kernel_watts,
    read_s,
    repeats,
    span_of,
)

ATTENTION = {
    "batch_size": 2,
    "num_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "kv_cache_dtype": "bfloat16",
    "window_size": 0,
    "latency": 0.1,
    "power": 300.0,
}
MOE = {
    "topk": 2,
    "num_experts": 8,
    "moe_ep_size": 1,
    "moe_tp_size": 1,
    "hidden_size": 64,
    "inter_size": 128,
    "moe_dtype": "bfloat16",
    "num_tokens": 1000,
    "latency": 0.2,
    "power": 400.0,
}


def write(folder, gemms=None, prompts=None, decoding=None, experts=None):
    gemms = gemms or [{"gemm_dtype": "bfloat16", "m": 4, "n": 8192, "k": 8192, "latency": 0.05, "power": 500.0}]
    prompts = prompts or [ATTENTION | {"isl": 100}]
    decoding = decoding or [ATTENTION | {"step": 99}]
    for name, rows in ((GEMM, gemms), (PROMPTS, prompts), (DECODING, decoding), (EXPERTS, experts or [MOE])):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_parquet(path)
    return {table.name: table for table in read_kernel_watts(folder)}


def test_a_product_moves_its_matrix_its_inputs_and_its_outputs(tmp_path):
    table = write(tmp_path)["GEMM bf16"]
    moved = 2.0 * (8192 * 8192 + 4 * 8192 + 4 * 8192)
    assert table.cache_bytes[0] == CACHE_BYTES
    assert table.dram_bytes[0] + table.cache_bytes[0] == moved
    assert table.flops[0] == 2.0 * 4 * 8192 * 8192
    assert (table.seconds[0], table.watts[0]) == (pytest.approx(5e-5), 500.0)


def test_what_fits_into_the_cache_does_not_come_from_memory(tmp_path):
    small = [{"gemm_dtype": "bfloat16", "m": 4, "n": 64, "k": 64, "latency": 0.01, "power": 150.0}]
    assert write(tmp_path, gemms=small)["GEMM bf16"].dram_bytes[0] == 0.0


def test_prompts_attend_causally_and_decoding_to_all_that_was(tmp_path):
    tables = write(tmp_path)
    assert tables["attention of prompts"].flops[0] == 4.0 * 2 * 8 * 64 * (100 * 101 / 2)
    assert tables["attention of decoding"].flops[0] == 4.0 * 2 * 8 * 64 * 100
    entry = 2.0 * 2 * 64 * 2.0
    assert tables["attention of decoding"].cache_bytes[0] == 2 * (100 * entry + 4.0 * 8 * 64)


def test_a_window_bounds_what_is_seen(tmp_path):
    rows = [ATTENTION | {"isl": 100}, ATTENTION | {"isl": 100, "window_size": 10}]
    plain, windowed = write(tmp_path, prompts=rows)["attention of prompts"].flops
    pairs = 10 * 11 / 2 + 90 * 10
    assert windowed / plain == pytest.approx(pairs / (100 * 101 / 2))


def test_experts_are_read_as_far_as_tokens_reach(tmp_path):
    few, many = write(tmp_path, experts=[MOE | {"num_tokens": 1}, MOE])["experts bf16"].cache_bytes
    matrix = 3.0 * 64 * 128 * 2.0
    touched = 8 * (1 - (1 - 1 / 8) ** 2)
    assert few == pytest.approx(touched * matrix + 2 * (2 * 64 + 4 * 128) * 2.0)
    assert many == pytest.approx(8 * matrix + 2000 * (2 * 64 + 4 * 128) * 2.0, rel=1e-6)


def test_formats_stand_in_tables_of_their_own(tmp_path):
    rows = [MOE, MOE | {"moe_dtype": "fp8"}, MOE | {"moe_dtype": "int4_wo"}]
    tables = write(tmp_path, experts=rows)
    assert [tables[f"experts {word}"].arithmetic for word in ("bf16", "fp8", "int4")] == ["fp16", "fp8", "fp16"]


def test_folds_follow_the_matrix_and_never_the_tokens(tmp_path):
    shapes = [(n, k) for n in range(64, 2048, 64) for k in (128, 256)]
    rows = [
        {"gemm_dtype": "bfloat16", "m": m, "n": n, "k": k, "latency": 0.1, "power": 300.0}
        for n, k in shapes
        for m in (1, 7, 500)
    ]
    fold = write(tmp_path, gemms=rows)["GEMM bf16"].fold.reshape(-1, 3)
    assert (fold == fold[:, :1]).all()
    assert set(fold.ravel()) == set(range(FOLDS))


def test_a_window_as_long_as_the_context_is_the_same_kernel_again(tmp_path):
    write(
        tmp_path,
        prompts=[
            ATTENTION | {"isl": 100},
            ATTENTION | {"isl": 100, "window_size": 128, "latency": 0.11, "power": 360.0},
            ATTENTION | {"isl": 100, "window_size": 10, "power": 10.0},
        ],
    )
    again = repeats(tmp_path)[0]
    assert again.pairs == 1
    assert (again.seconds, again.watts) == (pytest.approx(0.1), pytest.approx(0.2))
    assert again.by_span == (None, (1, pytest.approx(0.2)), None)  # 3,000 times 0.1 ms


@given(st.floats(1e-6, 1.0))
def test_a_call_is_read_for_a_second_or_as_long_as_its_repeats_take(call_s):
    """The same from the number of repeats, which the time is divided into and clipped."""
    repeats_made = np.clip(READING_S / call_s, LEAST_REPEATS, MOST_REPEATS)
    reading_s = read_s(np.array([call_s]))
    assert reading_s[0] == pytest.approx(repeats_made * call_s, rel=1e-12)
    assert (span_of(reading_s)[0] == 2) == (call_s * MOST_REPEATS >= READING_S)


def test_six_products_of_a_plain_format_make_a_call(tmp_path):
    row = {"m": 4, "n": 64, "k": 64, "latency": 0.01, "power": 150.0}
    tables = write(tmp_path, gemms=[row | {"gemm_dtype": name} for name in ("bfloat16", "fp8_block")])
    assert tables["GEMM bf16"].read_s[0] == pytest.approx(6 * tables["GEMM fp8"].read_s[0])


def test_a_sample_is_some_of_the_rows(tmp_path):
    rows = [
        {"gemm_dtype": "bfloat16", "m": m, "n": 64, "k": 64, "latency": 0.1, "power": float(m)} for m in range(1, 101)
    ]
    table = write(tmp_path, gemms=rows)["GEMM bf16"]
    some = table.sample(20)
    assert len(some) == 20
    assert set(some.watts) < set(table.watts)
    np.testing.assert_array_equal(table.sample(1000).watts, table.watts)

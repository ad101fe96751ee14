"""Kernel tables: what a file must say, readers of published formats on a few rows, fits that find what was put in."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from afterwatt.fidelity.kernels.comm import all_reduce_seconds, fit_links, link_between, read_all_reduces
from afterwatt.fidelity.kernels.fit import (
    ALL,
    ATTENTION_PARAMETERS,
    GEMM_PARAMETERS,
    fit_kernels,
    fit_parameters,
    fit_values,
    held_out,
    kernel_pool,
    usable,
)
from afterwatt.fidelity.kernels.generic import NEIGHBOURS, generic_text
from afterwatt.fidelity.kernels.readers import (
    SMALLEST_KERNEL_S,
    aiconfigurator_attention,
    aiconfigurator_gemm,
    apex_gemm,
    published,
    read_published,
    servingsim_attention,
    servingsim_layers,
    vidur_layers,
)
from afterwatt.fidelity.kernels.table import (
    COLUMNS,
    SHAPE,
    KernelTableError,
    groups,
    kernel_rows,
    kernel_seconds,
    read_kernels,
    write_kernels,
)
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.stacks import PARAMETERS, load_pools, load_stack, stack_path

SHARED = Path(__file__).parents[2] / "../shared/kernels"
needs_tables = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the published kernel tables do not lie in ../shared/kernels"
)

TRUTH = {
    "mem_efficiency": 0.71,
    "compute_efficiency": 0.83,
    "kernel_latency_s": 4.1e-6,
    "roofline_sharpness": 2.2,
    "attention_mem_efficiency": 0.66,
    "attention_compute_efficiency": 0.47,
    "attention_latency_s": 1.3e-5,
    "attention_block_s": 3.1e-8,
}


def made_up(device: str = "a100-80", noise: float = 0.0) -> pd.DataFrame:
    """Kernels of every kind on a grid, timed by the formulas under `TRUTH`."""
    m, n, k = (axis.ravel() for axis in np.meshgrid([1, 8, 64, 512, 4096], *[[512, 2048, 8192, 16384]] * 2))
    batch, context, heads = (axis.ravel() for axis in np.meshgrid([1, 8, 64], [32, 512, 8192], np.arange(8, 72, 4)))
    attention = {
        "batch": batch,
        "context": context,
        "heads": heads,
        "kv_heads": heads / 4,
        "head_dim": 128,
        "seconds": 1.0,
    }
    tables = [
        kernel_rows("gemm", device, "made up", {"m": m, "n": n, "k": k, "seconds": 1.0}),
        kernel_rows("decode_attention", device, "made up", attention),
        kernel_rows("prefill_attention", device, "made up", attention | {"queries": context}),
    ]
    table = pd.concat(tables, ignore_index=True)
    stack = load_stack(load_device(device), "generic").with_values(TRUTH)
    for group in groups(table):
        rows = group[3]
        table.loc[rows.index, "seconds"] = kernel_seconds(*group, stack)
    return table.assign(seconds=table["seconds"] * np.exp(noise * np.random.default_rng(3).normal(size=len(table))))


# -- the schema --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_a_table_comes_back_as_it_was_written(tmp_path, ending):
    table = made_up()
    path = tmp_path / f"mine.{ending}"
    write_kernels(table, path)
    back = read_kernels(path)
    assert tuple(back.columns) == COLUMNS
    pd.testing.assert_frame_equal(back.astype(table.dtypes), table, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"op": "gem"}, "op 'gem' is not known"),
        ({"m": np.nan}, "m = nan must be a number above 0"),
        ({"seconds": 0.0}, "seconds = 0 must be a number above 0"),
        ({"seconds": 500.0}, "is it in ms?"),
        ({"k": "wide"}, "column 'k' holds something that is no number"),
        ({"flops": 1.0}, "unknown column 'flops'"),
        ({"device": None}, "names no device"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, change, said):
    row = {
        "op": "gemm",
        "device": "a100-80",
        "dtype": "fp16",
        "m": 1,
        "n": 64,
        "k": 64,
        "seconds": 1e-5,
        "source": "me",
    }
    path = tmp_path / "mine.csv"
    pd.DataFrame([row, row | change]).to_csv(path, index=False)
    with pytest.raises(KernelTableError) as fault:
        read_kernels(path)
    assert said in str(fault.value)
    assert str(path) in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(KernelTableError, match="cannot be read"):
        read_kernels(tmp_path / "none.csv")


# -- readers, on rows small enough to check by hand --------------------------------------------------------------------


def test_a_layer_of_vidur_is_four_products_as_split(tmp_path):
    names = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
    head = {"n_head": 64, "n_kv_head": 8, "n_embd": 8192, "n_expanded_embd": 28672, "use_gated_mlp": True}
    rows = [
        head
        | {"num_tokens": 512, "num_tensor_parallel_workers": 4}
        | {f"time_stats.{name}.median": 0.25 for name in names}
    ]
    rows[0]["time_stats.attn_post_proj.median"] = 0.005  # below what a clock of 1 us can tell
    pd.DataFrame(rows).to_csv(tmp_path / "mlp.csv", index=False)
    table = vidur_layers(tmp_path / "mlp.csv", "a100-80", "there")
    assert table[["m", "k", "n"]].to_numpy().tolist() == [
        [512, 8192, (16 + 2 * 2) * 128],
        [512, 8192, 2 * 28672 / 4],
        [512, 28672 / 4, 8192],
    ]
    assert (table["seconds"] == 0.25e-3).all()


def test_a_clock_that_counts_the_launch_is_set_back(tmp_path):
    rows = [(1, 1, 1, 11), (1, 512, 512, 20), (1, 4096, 4096, 51)]
    table = pd.DataFrame(rows, columns=["m", "k", "n", "time(us)"])
    table.to_csv(tmp_path / "gemm.csv", index=False)
    found = apex_gemm(tmp_path / "gemm.csv", "v100-pcie-16", "there")
    assert found["seconds"].tolist() == pytest.approx(
        [20e-6 - 11e-6 + SMALLEST_KERNEL_S, 51e-6 - 11e-6 + SMALLEST_KERNEL_S]
    )
    assert found["k"].tolist() == [512, 4096]


def test_formats_and_versions_of_aiconfigurator(tmp_path):
    row = {"framework": "VLLM", "version": "0.24.0", "m": 8, "n": 256, "k": 512, "latency": 0.02, "power": 300.0}
    kinds = ["bfloat16", "fp8", "fp8_block"]
    pd.DataFrame([row | {"gemm_dtype": kind} for kind in kinds]).to_parquet(tmp_path / "gemm_perf.parquet")
    table = aiconfigurator_gemm(tmp_path / "gemm_perf.parquet", "h100-sxm", "there")
    assert table["dtype"].tolist() == ["fp16", "fp8"]
    assert (table["software"] == "vllm 0.24.0").all()
    assert (table["seconds"] == 0.02e-3).all()
    assert (table["watts"] == 300.0).all()


def test_attention_of_aiconfigurator(tmp_path):
    row = {"framework": "VLLM", "version": "0.24.0", "batch_size": 4, "num_heads": 32, "head_dim": 128, "latency": 0.5}
    row |= {"num_key_value_heads": 0, "attn_dtype": "bfloat16", "step": 100, "isl": 1}
    rows = [row | {"kv_cache_dtype": kind, "window_size": size} for kind in ("bfloat16", "fp8") for size in (0, 128)]
    for name, op in (("context", "prefill_attention"), ("generation", "decode_attention")):
        path = tmp_path / f"{name}_attention_perf.parquet"
        pd.DataFrame(rows).to_parquet(path)
        (found,) = aiconfigurator_attention(path, "h100-sxm", "there").to_dict("records")
        assert (found["op"], found["batch"], found["context"], found["kv_heads"]) == (op, 4, 101, 32)
        assert found["seconds"] == 0.5e-3


def test_attention_of_one_engine_alone_and_beside(tmp_path):
    folder = tmp_path / "meta-llama/Llama-3.1-8B/bf16/tp1"
    folder.mkdir(parents=True)
    rows = [(0, 0, 8, 512, 30.0), (64, 128, 0, 0, 20.0), (64, 128, 8, 512, 60.0)]
    names = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"]
    pd.DataFrame(rows, columns=names).to_csv(folder / "attention.csv", index=False)
    table = servingsim_attention(folder / "attention.csv", "rtx4090", "there").set_index("op")
    assert table.loc["decode_attention", ["batch", "context", "seconds"]].tolist() == pytest.approx([8, 512, 30e-6])
    assert table.loc["prefill_attention", ["batch", "queries", "context"]].tolist() == [1, 64, 192]
    mixed = table.loc["mixed_attention"]
    assert mixed[["batch", "queries", "context", "decode_batch", "decode_context"]].tolist() == [1, 64, 192, 8, 512]
    pd.DataFrame({"layer": ["down_proj", "layernorm"], "tokens": 7, "time_us": 9.0}).to_csv(folder / "dense.csv")
    (found,) = servingsim_layers(folder / "dense.csv", "rtx4090", "there").to_dict("records")
    assert (found["m"], found["k"], found["n"]) == (7, 14336, 4096)


def test_a_folder_without_tables_is_refused(tmp_path):
    assert list(published(tmp_path)) == []
    with pytest.raises(KernelTableError, match="no table of kernel times"):
        read_published(tmp_path)


# -- fits --------------------------------------------------------------------------------------------------------------


def test_a_fit_finds_what_the_times_were_made_with():
    table = made_up()
    start = load_stack(load_device("a100-80"), "generic")
    gemm, attention = table[table["op"] == "gemm"], table[table["op"] != "gemm"]
    found = fit_parameters(gemm, GEMM_PARAMETERS, start) | fit_parameters(attention, ATTENTION_PARAMETERS, start)
    assert found == pytest.approx(TRUTH, rel=1e-3)


def test_a_table_of_ones_own_gpu_gives_its_stack(tmp_path):
    """Forty products timed on a P40, which computes in fp32: enough for the four parameters that they tell."""
    table = made_up("p40")
    own = table[table["op"] == "gemm"].iloc[::2]
    write_kernels(own, tmp_path / "mine.csv")
    before = load_stack(load_device("p40"), "generic")
    after = before.with_values(fit_values(read_kernels(tmp_path / "mine.csv"), before))
    for name in GEMM_PARAMETERS:
        assert float(getattr(after, name)) == pytest.approx(TRUTH[name], rel=0.02), name
    assert after.attention_mem_efficiency == before.attention_mem_efficiency


def test_noise_in_the_times_is_the_error_on_what_was_held_out():
    (fit,) = fit_kernels(made_up(noise=0.1))
    for name, value in TRUTH.items():
        assert fit.values[name] == pytest.approx(value, rel=0.2), name
    for error in fit.errors:
        assert error.median == pytest.approx(0.1 * 0.674, rel=0.35), error  # median of |N(0, 0.1)|
        assert abs(error.bias) < 0.05


def test_whole_shapes_are_held_out_and_the_same_ones_in_every_table():
    table = made_up()
    out = held_out(table)
    sides = table[table["op"] == "gemm"].assign(out=out[table["op"] == "gemm"]).groupby(["n", "k"])["out"]
    assert (sides.nunique() == 1).all()
    assert 0.05 < out.mean() < 0.5
    shuffled = table.sample(frac=1.0, random_state=1).assign(source="elsewhere")
    np.testing.assert_array_equal(held_out(shuffled), out[shuffled.index])
    one_config = table[(table["op"] == "decode_attention") & (table["heads"] == 8)]
    octaves = one_config.assign(out=held_out(one_config)).groupby("context")["out"]
    assert (octaves.nunique() == 1).all()


def test_times_that_beat_the_datasheet_and_narrow_matrices_are_left_out():
    table = made_up()
    assert usable(table)[1] == []
    fast = table[table["op"] == "gemm"].assign(source="too fast")
    fast["seconds"] *= np.where(fast["m"] == 4096, 0.05, 1.0)
    narrow = table[table["op"] == "gemm"].assign(n=16.0, source="narrow")
    kept, left = usable(pd.concat([table, fast, narrow], ignore_index=True))
    assert {one.source: one.rows for one in left} == {"too fast": len(fast), "narrow": len(narrow)}
    assert len(kept) == len(table)
    assert "beat the datasheet" in next(one.why for one in left if one.source == "too fast")


def test_of_a_software_the_newest_version_counts_and_of_attention_the_reference():
    table = made_up()
    by_software = [table.assign(software=name, source=name) for name in ("vllm 0.9.0", "vllm 0.24.0", "sglang 0.5.10")]
    kept, left = usable(pd.concat(by_software, ignore_index=True))
    said = {(software, op) for software, op in kept.groupby(["software", "op"]).groups}
    assert said == {("sglang 0.5.10", "gemm"), *(("vllm 0.24.0", op) for op in table["op"].unique())}
    assert sum(one.rows for one in left) + len(kept) == 3 * len(table)


def test_links_are_found_too():
    link = link_between("h100-sxm", "nvlink")
    assert link.kind == "nvlink"
    assert link_between("v100-pcie-16", "pcie").kind == "pcie"
    columns = {
        "gpus": np.repeat([2.0, 8.0], 20),
        "message_bytes": np.tile(2.0 ** np.arange(10, 30), 2),
        "link": "nvlink",
    }
    table = kernel_rows("all_reduce", "h100-sxm", "made up", columns | {"seconds": 1.0})
    table["seconds"] = all_reduce_seconds(table, link, 0.61, 2.3e-6)
    (fit,) = fit_links(table)
    assert (fit.comm_efficiency, fit.hop_latency_s) == pytest.approx((0.61, 2.3e-6), rel=1e-3)
    assert fit.median < 1e-3


# -- the shipped result ------------------------------------------------------------------------------------------------


def test_the_generic_stack_holds_a_pool_for_every_rule():
    assert list(load_pools("generic")) == list(NEIGHBOURS)


@needs_tables
def test_published_tables_on_held_out_shapes():
    """A sample of A100's and 4090's: the bound that the form is held to, and the shipped values near what it gives."""
    sample = ("a100_sxm/gemm/vllm", "a100_sxm/attention/vllm", "perf/RTX4090")
    tables = [
        found.read(found.path, found.device, found.source) for found in published(SHARED) if _among(found.path, sample)
    ]
    table, _ = usable(pd.concat(tables, ignore_index=True))
    fits = {fit.pool: fit for fit in fit_kernels(table)}
    assert set(fits) == {"ampere-hbm", "rtx4090"}
    for fit in fits.values():
        assert len([name for name in fit.values if name in (*GEMM_PARAMETERS, *ATTENTION_PARAMETERS)]) <= 8
        medians = {error.op: error.median for error in fit.errors if error.dtype == ALL}
        assert set(medians) == {"gemm", "attention"}
        assert all(median <= 0.15 for median in medians.values()), medians
        shipped = load_pools("generic")[fit.pool]
        for name in ATTENTION_PARAMETERS:
            low, high = getattr(shipped, name).interval
            assert low <= fit.values[name] <= high, name


def _among(path: Path, parts: tuple[str, ...]) -> bool:
    return any(part in path.as_posix() for part in parts)


@needs_tables
def test_every_published_table_is_read_and_every_device_known():
    tables = [found.read(found.path, found.device, found.source).groupby("op").head(50) for found in published(SHARED)]
    table = pd.concat(tables)
    assert set(table["op"]) == set(SHAPE) - {"all_reduce"}
    for device in table["device"].unique():
        assert kernel_pool(load_device(device))
    reduces = read_all_reduces(SHARED)
    assert set(reduces["link"]) == {"nvlink", "pcie"}
    assert (reduces["gpus"] > 1).all()


def test_the_file_that_is_written_is_read_back(tmp_path):
    """From made-up fits: every pool is there, with every parameter, and what is fitted says so."""
    (base,) = fit_kernels(made_up())
    more = {
        "quantised_compute_efficiency": 0.7,
        "fp8_compute_efficiency": 0.5,
        "expert_efficiency": 0.8,
        "router_overhead_s": 1e-5,
        "mixed_query_rows": 60.0,
    }
    names = ("volta-hbm", "ampere-hbm", "ampere-gddr", "rtx3090", "rtx4090", "hopper-hbm")
    fits = [replace(base, pool=name, values=dict(base.values) | more) for name in names]
    columns = {"gpus": 2.0, "message_bytes": 2.0 ** np.arange(10, 30)}
    links = []
    for device, kind in (("a100-80", "nvlink"), ("h100-sxm", "nvlink"), ("v100-pcie-16", "pcie")):
        table = kernel_rows("all_reduce", device, f"{device} table", columns | {"seconds": 1.0, "link": kind})
        links += fit_links(table.assign(seconds=all_reduce_seconds(table, link_between(device, kind), 0.6, 2e-6)))
    path = tmp_path / "generic.toml"
    path.write_text(generic_text(fits, links), encoding="utf-8")
    pools = load_pools(str(path))
    assert list(pools) == list(NEIGHBOURS)
    assert float(pools["hopper"].mem_efficiency) == pytest.approx(TRUTH["mem_efficiency"], rel=1e-3)
    assert pools["hopper"].mem_efficiency.kind == "fitted"
    assert pools["kepler"].mem_efficiency.kind == "assumed"
    assert pools["kepler"].basis == "assumed"
    for stack in pools.values():
        for parameter in PARAMETERS:
            assert parameter.low <= float(getattr(stack, parameter.name)) <= parameter.high
    shipped = stack_path("generic").read_text(encoding="utf-8").splitlines()
    assert [line for line in shipped if line.startswith("[")] == [f"[{name}]" for name in ("sources", *NEIGHBOURS)]

"""Kernel tables as other projects publish them, read into ours (`fidelity.kernels.table`).

Each reader takes a file and gives rows. What it leaves out, and why, is said in its docstring: times below what the
table's clock can tell, and kernels that the time model has no place for (sliding windows, 8-bit caches).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from afterwatt.fidelity.kernels.table import KernelTableError, kernel_rows

_MS: Final = 1e-3
_US: Final = 1e-6
_NS: Final = 1e-9
CLOCK_TICKS: Final = 10
"""A time is used from so many ticks of its clock on: rounding then costs 5 % at most."""
SMALLEST_KERNEL_S: Final = 2.5e-6
"""Smallest matrix product on A100, H100 and H200 in ai-dynamo/aiconfigurator's tables."""


class PublishedTable(NamedTuple):
    """A file that a reader knows: the reader, the file, device, label of its source."""

    read: Callable[[Path, str, str], pd.DataFrame]
    path: Path
    device: str
    source: str


VIDUR: Final = "microsoft/vidur 7d47513"
APEX: Final = "microsoft/apex_plus 8769096"
AICONFIGURATOR: Final = "ai-dynamo/aiconfigurator 095f58a"
FRONTIER: Final = "NetX-lab/Frontier a4b22df"
LLMSERVINGSIM: Final = "casys-kaist/LLMServingSim 5daddb2"
LLMCOMPASS: Final = "PrincetonUniversity/LLMCompass 2e015fd"


def vidur_layers(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read microsoft/vidur's `mlp.csv`: products of one layer by tokens and tensor-parallel degree, medians in ms.

    Left out: times under 10 us (the clock ticks in us).
    """
    table = pd.read_csv(path)
    split = table["num_tensor_parallel_workers"]
    hidden = table["n_embd"]
    width = hidden / table["n_head"]
    kv_heads = np.maximum(table["n_kv_head"], split) / split
    attention = (table["n_head"] / split + 2 * kv_heads) * width
    inner, ffn = hidden / split, table["n_expanded_embd"] / split
    gated = np.where(table["use_gated_mlp"], 2, 1)
    shapes = {
        "attn_pre_proj": (hidden, attention),
        "attn_post_proj": (inner, hidden),
        "mlp_up_proj": (hidden, gated * ffn),
        "mlp_down_proj": (ffn, hidden),
    }
    parts = [
        pd.DataFrame(
            {"m": table["num_tokens"], "k": inputs, "n": outputs, "seconds": table[f"time_stats.{name}.median"] * _MS}
        )
        for name, (inputs, outputs) in shapes.items()
    ]
    return _told(pd.concat(parts), "gemm", device, source, tick_s=1 * _US)


def apex_gemm(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read microsoft/apex_plus's `gemm_0.csv`: m, k, n and whole us.

    The smallest row takes 11 us, of which a kernel needs 2.5 on any other card: the rest is its launch, which is taken
    off every row. Left out: what then has under 10 ticks of the clock.
    """
    table = pd.read_csv(path)
    rows = pd.DataFrame({name: table[name] for name in ("m", "n", "k")})
    rows["seconds"] = _less_launch(table["time(us)"].astype(np.float64) * _US)
    return _told(rows, "gemm", device, source, tick_s=1 * _US)


_AICONFIGURATOR_DTYPES: Final = {"bfloat16": "fp16", "fp8": "fp8", "int8_wo": "int8", "int4_wo": "int4"}


def aiconfigurator_gemm(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read ai-dynamo/aiconfigurator's `gemm_perf.parquet`: m, n, k, stored format and ms, some with watts.

    bf16 is read as fp16, whose rates it shares. TensorRT-LLM's weight-only products were timed with their launch (none
    takes under 8 us), which is taken off. Left out: fp8 in blocks and int8 by SmoothQuant (formats of their own).
    """
    table = pd.read_parquet(path)
    parts = []
    for theirs, ours in _AICONFIGURATOR_DTYPES.items():
        rows = table[table["gemm_dtype"] == theirs]
        if len(rows):
            seconds = rows["latency"] * _MS
            if theirs.endswith("_wo"):
                seconds = _less_launch(seconds)
            columns = {name: rows[name] for name in ("m", "n", "k")} | _beside(rows) | {"seconds": seconds}
            parts.append(kernel_rows("gemm", device, source, columns, ours))
    return pd.concat(parts, ignore_index=True)


def aiconfigurator_attention(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read ai-dynamo/aiconfigurator's `context_` and `generation_attention_perf.parquet`: ms, some with watts.

    Left out: sliding windows and 8-bit caches.
    """
    table = pd.read_parquet(path)
    table = table[table["kv_cache_dtype"] == "bfloat16"]
    if "window_size" in table:
        table = table[table["window_size"] == 0]
    kv_heads = table["num_key_value_heads"].where(table["num_key_value_heads"] > 0, table["num_heads"])
    columns = {
        "batch": table["batch_size"],
        "heads": table["num_heads"],
        "kv_heads": kv_heads,
        "head_dim": table["head_dim"],
        "seconds": table["latency"] * _MS,
        "context": table["isl"] + table["step"],
    } | _beside(table)
    if path.name.startswith("context"):
        return kernel_rows("prefill_attention", device, source, columns | {"queries": table["isl"]})
    return kernel_rows("decode_attention", device, source, columns)


def aiconfigurator_experts(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read ai-dynamo/aiconfigurator's `moe_perf.parquet`: routed experts of a layer, ms.

    Left out: experts spread over GPUs, formats but bf16, and all but its most even routing (an exponent of 1.01, or
    balanced): the time model draws experts uniformly.
    """
    table = pd.read_parquet(path)
    table = table[(table["moe_dtype"] == "bfloat16") & (table["moe_ep_size"] == 1) & (table["num_experts"] > 1)]
    even = "balanced" if (table["distribution"] == "balanced").any() else "power_law_1.01"
    table = table[table["distribution"] == even]
    columns = {
        "m": table["num_tokens"],
        "n": table["inter_size"] / table["moe_tp_size"],
        "k": table["hidden_size"],
        "experts": table["num_experts"],
        "active": table["topk"],
        "seconds": table["latency"] * _MS,
    }
    return kernel_rows("experts", device, source, columns | _beside(table))


def frontier_attention(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read vidur-like `attention.csv` (NetX-lab/Frontier, LLMServingSim v0): one model's attention, medians in ms.

    Left out: times under 10 us where the clock ticks in us.
    """
    table = pd.read_csv(path)
    split = table["num_tensor_parallel_workers"]
    prompts = table["is_prefill"]
    seconds = table["time_stats.attn_prefill.median"].where(prompts, table["time_stats.attn_decode.median"]) * _MS
    rows = pd.DataFrame(
        {
            "batch": table["batch_size"],
            "queries": table["prefill_chunk_size"].where(prompts, 1),
            "context": table["kv_cache_size"] + table["prefill_chunk_size"].where(prompts, 1),
            "heads": table["n_q_head"] / split,
            "kv_heads": np.maximum(table["n_kv_head"], split) / split,
            "head_dim": table["n_embd"] / table["n_q_head"],
            "seconds": seconds,
            "software": table["attention_backend"].str.removeprefix("AttentionBackend.").str.lower(),
        }
    )
    tick_s = 1 * _US if (table["time_stats.attn_decode.median"].dropna() * 1e3 % 1 == 0).all() else 0.0
    parts = [_told(rows[prompts], "prefill_attention", device, source, tick_s)]
    parts.append(_told(rows[~prompts].drop(columns="queries"), "decode_attention", device, source, tick_s))
    return pd.concat(parts, ignore_index=True)


def _told(rows: pd.DataFrame, op: str, device: str, source: str, tick_s: float) -> pd.DataFrame:
    """Return the rows whose time the table's clock can tell."""
    kept = rows[rows["seconds"] >= CLOCK_TICKS * tick_s].reset_index(drop=True)
    return kernel_rows(op, device, source, {str(name): kept[name] for name in kept})


def _beside(table: pd.DataFrame) -> dict[str, object]:
    """Return what ai-dynamo/aiconfigurator says beside shape and time."""
    software = table["framework"].str.lower() + " " + table["version"].astype(str)
    return {"software": software} | ({"watts": table["power"]} if "power" in table else {})


def _less_launch(seconds: "pd.Series[float]") -> "pd.Series[float]":
    """Return times less what a table's clock adds to every row: its smallest row against a kernel's usual smallest."""
    return seconds - (seconds.min() - SMALLEST_KERNEL_S)


_VLLM_OF_4090: Final = "vllm 0.19.0"  # by the meta.json of the same project's serving runs
_LLAMA_8B: Final = {"hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 14336}
_PHI_MOE: Final = {"hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 960}


def _shape_of(path: Path) -> dict[str, int]:
    if "Llama-3.1-8B" in path.parts:
        return _LLAMA_8B
    if "Phi-mini-MoE-instruct" in path.parts:
        return _PHI_MOE
    raise KernelTableError(f"{path}: the shape of its model is not known; it must be Llama-3.1-8B or Phi-mini-MoE")


def servingsim_layers(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read casys-kaist/LLMServingSim's layer tables: `dense.csv` (vLLM, us) and v0's `layers.csv` (PyTorch, ns).

    Left out: everything that is no matrix product; v0's `attn` (a cache without entries, another kernel).
    """
    table = pd.read_csv(path)
    shape = _shape_of(path)
    hidden, inner = shape["hidden"], shape["heads"] * shape["head_dim"]
    keys, ffn = shape["kv_heads"] * shape["head_dim"], shape["ffn"]
    split = int(path.parent.name.removeprefix("tp"))
    shapes = {
        "qkv_proj": (hidden, (inner + 2 * keys) // split),
        "q_proj": (hidden, inner // split),
        "o_proj": (inner // split, hidden),
        "gate_up_proj": (hidden, 2 * ffn // split),
        "gate_proj": (hidden, ffn // split),
        "up_proj": (hidden, ffn // split),
        "down_proj": (ffn // split, hidden),
    }
    new = path.name.startswith("dense")
    layer, tokens = ("layer", "tokens") if new else ("layer_name", "input")
    known = table[table[layer].isin(shapes)]
    inputs = known[layer].map(lambda name: shapes[name][0])
    outputs = known[layer].map(lambda name: shapes[name][1])
    seconds = known["time_us"] * _US if new else known["latency(ns)"] * _NS
    software = _VLLM_OF_4090 if new else "pytorch"
    columns = {"m": known[tokens], "k": inputs, "n": outputs, "seconds": seconds, "software": software}
    return kernel_rows("gemm", device, source, columns)


def servingsim_attention(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read casys-kaist/LLMServingSim's `attention.csv`: a prompt piece beside sequences that decode, us."""
    table = pd.read_csv(path)
    shape = _shape_of(path)
    table = table.assign(
        seconds=table["time_us"] * _US,
        software=_VLLM_OF_4090,
        heads=shape["heads"],
        kv_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        batch=1,
        context=table["kv_prefill"] + table["prefill_chunk"],
    ).rename(columns={"prefill_chunk": "queries", "n_decode": "decode_batch", "kv_decode": "decode_context"})
    prompts, decoding = table["queries"] > 0, table["decode_batch"] > 0
    alone = table[~prompts & decoding]
    alone = alone.assign(batch=alone["decode_batch"], context=alone["decode_context"])
    parts = [
        (table[prompts & ~decoding], "prefill_attention", ("queries", "context")),
        (alone, "decode_attention", ("context",)),
        (table[prompts & decoding], "mixed_attention", ("queries", "context", "decode_batch", "decode_context")),
    ]
    common = ("batch", "heads", "kv_heads", "head_dim", "seconds", "software")
    tables = [
        kernel_rows(op, device, source, {name: rows[name] for name in (*common, *names)}) for rows, op, names in parts
    ]
    return pd.concat(tables, ignore_index=True)


def llmcompass_matmul(path: Path, device: str, source: str) -> pd.DataFrame:
    """Read PrincetonUniversity/LLMCompass's `matmul_A100.csv`: m, n, k, "0.19ms", rate; no head line."""
    table = pd.read_csv(path, header=None, skipinitialspace=True)
    seconds = table[3].str.removesuffix("ms").astype(np.float64) * _MS
    return kernel_rows("gemm", device, source, {"m": table[0], "n": table[1], "k": table[2], "seconds": seconds})


_PLACES: Final = (
    ("vidur/compute/a100/*/*/mlp.csv.gz", vidur_layers, "a100-80", VIDUR),
    ("vidur/compute/a40/*/*/mlp.csv.gz", vidur_layers, "a40", VIDUR),
    ("apex/comp/V100-PCIE-16GB/gemm_*.csv.gz", apex_gemm, "v100-pcie-16", APEX),
    ("aiconfigurator/a100_sxm/gemm/*/*/gemm_perf.parquet", aiconfigurator_gemm, "a100-80", AICONFIGURATOR),
    ("aiconfigurator/h100_sxm/gemm/*/*/gemm_perf.parquet", aiconfigurator_gemm, "h100-sxm", AICONFIGURATOR),
    ("aiconfigurator/h200_sxm/gemm/*/*/gemm_perf.parquet", aiconfigurator_gemm, "h200", AICONFIGURATOR),
    ("aiconfigurator/a100_sxm/attention/*/*/*.parquet", aiconfigurator_attention, "a100-80", AICONFIGURATOR),
    ("aiconfigurator/h100_sxm/attention/*/*/*.parquet", aiconfigurator_attention, "h100-sxm", AICONFIGURATOR),
    ("aiconfigurator/h200_sxm/attention/*/*/*.parquet", aiconfigurator_attention, "h200", AICONFIGURATOR),
    ("aiconfigurator/a100_sxm/moe/vllm/*/*.parquet", aiconfigurator_experts, "a100-80", AICONFIGURATOR),
    ("aiconfigurator/h100_sxm/moe/vllm/*/*.parquet", aiconfigurator_experts, "h100-sxm", AICONFIGURATOR),
    ("aiconfigurator/h200_sxm/moe/vllm/*/*.parquet", aiconfigurator_experts, "h200", AICONFIGURATOR),
    ("frontier/a800/*/*/mlp.csv.gz", vidur_layers, "a800-80", FRONTIER),
    ("frontier/a800/*/*/attention.csv.gz", frontier_attention, "a800-80", FRONTIER),
    ("llmservingsim/perf/RTX4090/*/*/*/*/dense.csv", servingsim_layers, "rtx4090", LLMSERVINGSIM),
    ("llmservingsim/perf/RTX4090/*/*/*/*/attention.csv.gz", servingsim_attention, "rtx4090", LLMSERVINGSIM),
    ("llmservingsim/v0/RTX3090/*/*/*/layers.csv.gz", servingsim_layers, "rtx3090", LLMSERVINGSIM),
    ("llmservingsim/v0/A6000/*/*/*/layers.csv.gz", servingsim_layers, "rtx-a6000", LLMSERVINGSIM),
    ("llmservingsim/v0/A6000/*/*/*/attention.csv.gz", frontier_attention, "rtx-a6000", LLMSERVINGSIM),
    ("llmcompass/figure5/ab/real_hardware/matmul_A100.csv", llmcompass_matmul, "a100-80", LLMCOMPASS),
)
"""Where the published tables lie below a folder, how each is read, of which device, and from which repository."""


def published(folder: Path) -> Iterator[PublishedTable]:
    """Yield the published tables below a folder; sources name the repository at its commit and the file."""
    for pattern, read, device, repository in _PLACES:
        for path in sorted(folder.glob(pattern)):
            inside = path.relative_to(folder / pattern.split("/")[0]).as_posix().removesuffix(".gz")
            yield PublishedTable(read, path, device, f"{repository} {inside}")


def read_published(folder: Path) -> pd.DataFrame:
    """Return all published tables below a folder as one.

    Raises:
        KernelTableError: there are none.
    """
    tables = [found.read(found.path, found.device, found.source) for found in published(folder)]
    if not tables:
        raise KernelTableError(f"{folder}: no table of kernel times is known there; expected vidur/, apex/ and so on")
    return pd.concat(tables, ignore_index=True)

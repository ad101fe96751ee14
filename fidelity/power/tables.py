"""Kernels with measured watts: aiconfigurator's H200 tables (ai-dynamo/aiconfigurator @095f58a, vLLM 0.22.0).

What one has to know to read them: its collector (collector/helper.py, `benchmark_with_power`) repeats a call for a
second, but at most 3,000 and at least 6 times, and averages what NVML reads every 0.1 s, the first time before the
first repetition. NVML's own readings are moving averages, of a second on this architecture. A kernel of 10 us is thus
read once, for what ran before it; only one that fills its second is read for itself (`KernelWatts.read_s`; the counts
of readings that follow are those that the published means' decimals show). `repeats` says by how much readings are
off: the same attention kernel stands in the tables twice where a sliding window is at least as long as the context. A
repeated kernel also finds in the L2 cache what fits there.
"""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from afterwatt.modelspecs.spec import experts_touched

Floats = NDArray[np.float64]

DEVICE: Final = "h200"
SOURCE: Final = "ai-dynamo/aiconfigurator @095f58a, systems/data/h200_sxm, vLLM 0.22.0, power and power_limit"
CACHE_BYTES: Final = 50e6
"""L2 cache of H100 and H200 (NVIDIA H100 whitepaper)."""
FOLDS: Final = 3
GEMM: Final = "gemm/vllm/0.22.0/gemm_perf.parquet"
PROMPTS: Final = "attention/vllm/0.22.0/context_attention_perf.parquet"
DECODING: Final = "attention/vllm/0.22.0/generation_attention_perf.parquet"
EXPERTS: Final = "moe/vllm/0.22.0/moe_perf.parquet"
MOST_REPEATS: Final = 3000
LEAST_REPEATS: Final = 6
READING_S: Final = 1.0
"""How long a call is repeated, if that many repeats allow it."""
CALLS: Final = {"bfloat16": 6, "fp8": 6, "fp8_block": 1}
"""Matrix products in a call of the collector, by their format (collector/vllm/collect_gemm.py)."""
SPANS: Final = (0.1, READING_S)
"""Bounds in seconds of the three classes that `span_of` makes: read once, read for a part of a second, or wholly."""
_WEIGHT_BYTES: Final = {"bfloat16": 2.0, "fp8": 1.0, "fp8_block": 1.0, "int4_wo": 0.5}
_WORDS: Final = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8", "int4_wo": "int4"}


_ARRAYS: Final = ("seconds", "watts", "dram_bytes", "cache_bytes", "flops", "read_s", "fold")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelWatts:
    """Measured kernels of one kind, as arrays over kernels.

    Attributes:
        name: of the table.
        kind: "matrices", "attention" or "experts".
        arithmetic: "fp16" (or bf16) or "fp8".
        seconds, watts: measured.
        dram_bytes, cache_bytes: what moves beyond the L2 cache, and what a repeated kernel finds in it.
        flops: floating-point operations.
        read_s: how long it was repeated while its watts were read.
        fold: 0 .. FOLDS - 1, by shape (matrix, heads, expert): never by the number of tokens.
    """

    name: str
    kind: str
    arithmetic: str
    seconds: Floats
    watts: Floats
    dram_bytes: Floats
    cache_bytes: Floats
    flops: Floats
    read_s: Floats
    fold: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.watts)

    def only(self, where: NDArray[np.bool_]) -> "KernelWatts":
        """Return some of the kernels."""
        arrays: dict[str, Any] = {column: getattr(self, column)[where] for column in _ARRAYS}
        return replace(self, **arrays)

    def sample(self, count: int, seed: int = 0) -> "KernelWatts":
        """Return at most so many of them, drawn evenly."""
        if len(self) <= count:
            return self
        chosen = np.zeros(len(self), dtype=bool)
        chosen[np.random.default_rng(seed).choice(len(self), count, replace=False)] = True
        return self.only(chosen)


class Repeats(NamedTuple):
    """How far two measurements of the very same kernel lie apart: medians of |b / a - 1|, over so many pairs.

    Attributes:
        name: of the table.
        pairs: how many.
        seconds, watts: the medians.
        by_span: (pairs, median of watts) of each class of `SPANS`; None where there is no pair.
    """

    name: str
    pairs: int
    seconds: float
    watts: float
    by_span: tuple[tuple[int, float] | None, ...] = ()


def read_s(call_s: Floats) -> Floats:
    """Return how long the collector repeats calls of so many seconds while it reads watts."""
    return np.minimum(np.maximum(READING_S, LEAST_REPEATS * call_s), MOST_REPEATS * call_s)


def span_of(seconds: Floats) -> NDArray[np.int64]:
    """Return the class of `SPANS` that times of reading belong to: 0, 1 or 2."""
    return np.digitize(seconds, SPANS)


def read_kernel_watts(folder: str | Path) -> list[KernelWatts]:
    """Read all tables with watts below `folder` (aiconfigurator's h200_sxm).

    Raises:
        OSError: a file is missing.
    """
    folder = Path(folder)
    return [
        *_matrices(pd.read_parquet(folder / GEMM)),
        _prompts(pd.read_parquet(folder / PROMPTS)),
        _decoding(pd.read_parquet(folder / DECODING)),
        *_experts(pd.read_parquet(folder / EXPERTS)),
    ]


def repeats(folder: str | Path) -> list[Repeats]:
    """Compare kernels measured twice: attention with a window that the context fits into, and without one."""
    found = []
    for name, path, length in (
        ("attention of prompts", PROMPTS, "isl"),
        ("attention of decoding", DECODING, "step"),
    ):
        table = pd.read_parquet(Path(folder) / path)
        same = ["batch_size", "num_heads", "num_key_value_heads", "head_dim", "kv_cache_dtype", length]
        plain = table[table["window_size"] == 0]
        wide = table[(table["window_size"] > 0) & (table[length] < table["window_size"])]
        both = plain.merge(wide, on=same, suffixes=("", "_again"))
        seconds, watts = ((both[f"{column}_again"] / both[column] - 1.0).abs() for column in ("latency", "power"))
        spans = span_of(read_s(_floats(both["latency"]) * 1e-3))
        by_span = tuple(_median_of(_floats(watts)[spans == span]) for span in range(len(SPANS) + 1))
        found.append(Repeats(name, len(both), float(seconds.median()), float(watts.median()), by_span))
    return found


def _median_of(values: Floats) -> tuple[int, float] | None:
    return (len(values), float(np.median(values))) if len(values) else None


def _matrices(table: pd.DataFrame) -> list[KernelWatts]:
    m, n, k = (_floats(table[column]) for column in "mnk")
    parts = []
    for word in ("bf16", "fp8"):
        here = (table["gemm_dtype"].map(_WORDS) == word).to_numpy()
        stored = 2.0 if word == "bf16" else 1.0
        moved = (m * k + n * k) * stored + m * n * 2.0
        parts.append(_table(f"GEMM {word}", "matrices", word, table, moved, 2.0 * m * n * k, ["n", "k"]).only(here))
    return parts


def _prompts(table: pd.DataFrame) -> KernelWatts:
    batch, length, heads, kv_heads, width = _attention_columns(table, "isl")
    window = _floats(table["window_size"])
    seen = np.where(window > 0, np.minimum(window, length), length)
    pairs = seen * (seen + 1.0) / 2.0 + (length - seen) * seen
    moved = batch * length * width * (4.0 * heads + 2.0 * kv_heads * _cached_bytes(table))
    flops = 4.0 * batch * heads * width * pairs
    return _table("attention of prompts", "attention", "bf16", table, moved, flops, ["num_heads", "head_dim"])


def _decoding(table: pd.DataFrame) -> KernelWatts:
    batch, past, heads, kv_heads, width = _attention_columns(table, "step")
    window = _floats(table["window_size"])
    seen = np.where(window > 0, np.minimum(window, past + 1.0), past + 1.0)
    moved = batch * width * (2.0 * kv_heads * _cached_bytes(table) * seen + 4.0 * heads)
    flops = 4.0 * batch * heads * width * seen
    return _table("attention of decoding", "attention", "bf16", table, moved, flops, ["num_heads", "head_dim"])


def _experts(table: pd.DataFrame) -> list[KernelWatts]:
    columns = ("num_tokens", "topk", "num_experts", "moe_ep_size", "moe_tp_size", "hidden_size", "inter_size")
    tokens, active, experts, shared_by, split_by, hidden, inner = (_floats(table[column]) for column in columns)
    routed = tokens * active
    touched = experts_touched(experts, np.ones_like(experts), routed) / shared_by
    matrix = 3.0 * hidden * inner / split_by
    rows = routed / shared_by
    stored = _floats(table["moe_dtype"].map(_WEIGHT_BYTES))
    moved = touched * matrix * stored + rows * (2.0 * hidden + 4.0 * inner / split_by) * 2.0
    shape = ["hidden_size", "inter_size", "moe_tp_size"]
    whole = _table("experts", "experts", "bf16", table, moved, 2.0 * rows * matrix, shape)
    words = table["moe_dtype"].map(_WORDS).to_numpy()
    return [_named(whole.only(words == word), word) for word in ("bf16", "fp8", "int4") if (words == word).any()]


def _named(table: KernelWatts, word: str) -> KernelWatts:
    return replace(table, name=f"experts {word}", arithmetic="fp8" if word == "fp8" else "fp16")


def _table(
    name: str, kind: str, word: str, table: pd.DataFrame, moved: Floats, flops: Floats, shape: list[str]
) -> KernelWatts:
    seconds = _floats(table["latency"]) * 1e-3
    calls = _floats(table["gemm_dtype"].map(CALLS)) if "gemm_dtype" in table else 1.0
    return KernelWatts(
        name=name,
        kind=kind,
        arithmetic="fp8" if word == "fp8" else "fp16",
        seconds=seconds,
        watts=_floats(table["power"]),
        dram_bytes=np.maximum(moved - CACHE_BYTES, 0.0),
        cache_bytes=np.minimum(moved, CACHE_BYTES),
        flops=flops,
        read_s=read_s(seconds * calls),
        fold=_folds(table[shape]),
    )


def _attention_columns(table: pd.DataFrame, length: str) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    batch, tokens, heads, kv_heads, width = (
        _floats(table[column]) for column in ("batch_size", length, "num_heads", "num_key_value_heads", "head_dim")
    )
    return batch, tokens, heads, kv_heads, width


def _cached_bytes(table: pd.DataFrame) -> Floats:
    narrow = np.asarray(table["kv_cache_dtype"] == "fp8")
    bytes_each: Floats = 2.0 - narrow.astype(np.float64)
    return bytes_each


def _folds(shapes: pd.DataFrame) -> NDArray[np.int64]:
    """Number folds by what is in the columns, the same on every machine."""
    unique, where = np.unique(shapes.to_numpy(dtype=np.int64), axis=0, return_inverse=True)
    numbers = [zlib.crc32(" ".join(map(str, shape)).encode()) % FOLDS for shape in unique.tolist()]
    return np.array(numbers, dtype=np.int64)[where.reshape(-1)]


def _floats(column: "pd.Series[float]") -> Floats:
    values: Floats = np.asarray(column, dtype=np.float64)
    return values

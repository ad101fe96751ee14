"""Kernel tables fitted: the efficiencies of an architecture from its kernels' times, judged on shapes held out.

Robust least squares on the logarithm of predicted over measured time (scipy, soft L1), over at most eight parameters
per architecture: four of matrix products, four of attention. A quarter of the *shapes* is held out, whole: pairs of
matrix sides; combinations of heads; of tables with few combinations, octaves of the context.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from afterwatt.fidelity.kernels.table import SHAPE, groups, kernel_seconds
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.stacks import FREE, Stack, load_pools, load_stack, pool_names

Floats = NDArray[np.float64]

GEMM_PARAMETERS: Final = ("mem_efficiency", "compute_efficiency", "kernel_latency_s", "roofline_sharpness")
ATTENTION_PARAMETERS: Final = (
    "attention_mem_efficiency",
    "attention_compute_efficiency",
    "attention_latency_s",
    "attention_block_s",
)
SMALLEST_SIDE: Final = 256
"""Matrix sides from here on: no layer of a model here has a narrower one, even split over eight GPUs."""
ROWS_PER_TABLE: Final = 2000
"""Rows of one source that a fit looks at, drawn evenly: a fine grid counts no more than a coarse one."""
HELD_OUT_FRAC: Final = 0.25
FEW_SHAPES: Final = 8
KINDS: Final = ("gemm", "attention")
ALL: Final = "all"
"""Stored format of an error over everything of a kind (of `KINDS`) on a device."""
REFERENCE: Final = "vllm"
"""The engine whose attention kernels stand for a common engine's."""
_BEATEN_BY: Final = 1.1
_BEATEN_FRAC: Final = 0.02
_SOFT: Final = 0.1  # beyond a tenth, an error counts by its size and no longer by its square
_WEIGHTS: Final = {"decode_attention": 2.0}
"""An engine runs attention for every token that it puts out, and once for a prompt."""
_FACTOR: Final = 3.0  # a start that is off by this much still finds its way
_BOUNDS: Final = {parameter.name: (parameter.low, parameter.high) for parameter in FREE} | {
    "few_rows_mem_efficiency": (0.02, 1.0)
}


@dataclass(frozen=True, slots=True)
class KernelError:
    """How far predictions are off for one operation on one device, on shapes the fit has not seen.

    Attributes:
        device, op, dtype: what was measured.
        rows: rows held out; fitted: rows of the others, of which the fit looked at `ROWS_PER_TABLE` per source.
        median: of the absolute relative error; p90: its 90th percentile.
        bias: median of predicted over measured, less 1.
    """

    device: str
    op: str
    dtype: str
    rows: int
    fitted: int
    median: float
    p90: float
    bias: float


@dataclass(frozen=True, slots=True)
class KernelFit:
    """What kernel tables tell of one architecture.

    Attributes:
        pool: see `kernel_pool`.
        values: parameter -> value, fitted to all rows once the held-out ones had judged the form.
        errors: on held-out shapes.
        sources: labels of the tables used; rows: how many rows they hold.
    """

    pool: str
    values: Mapping[str, float]
    errors: tuple[KernelError, ...]
    sources: tuple[str, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class LeftOutTable:
    """Rows that no fit uses, and why."""

    source: str
    op: str
    rows: int
    why: str


def usable(table: pd.DataFrame) -> tuple[pd.DataFrame, list[LeftOutTable]]:
    """Return the rows to fit to, and what was left out.

    Left out are
    - sources of which, in any operation, more than 2 % of the rows are faster than the datasheet allows by more than a
      tenth: what they timed was not what they say;
    - products with a side under `SMALLEST_SIDE`;
    - within an architecture, all but the newest version of a software, and for attention all software but `REFERENCE`
      where that is there: engines bring attention kernels of their own, while all take the vendor's matrix products.
    """
    rest = table[table["op"] != "all_reduce"]
    why = pd.Series("", index=rest.index)
    for source, rows in rest.groupby("source", sort=True):
        if reason := _impossible(rows):
            why[rest["source"] == source] = reason
    possible = rest[why == ""]
    why[possible.index] = _superseded(possible)
    narrow = rest["op"].isin(["gemm", "experts"]) & (rest[["n", "k"]].min(axis=1) < SMALLEST_SIDE)
    why[narrow & (why == "")] = f"a matrix side under {SMALLEST_SIDE}"
    out = rest.assign(why=why)[why != ""].groupby(["source", "op", "why"], sort=True)
    left = [LeftOutTable(str(source), str(op), len(rows), str(reason)) for (source, op, reason), rows in out]
    return rest[why == ""].reset_index(drop=True), left


def _impossible(rows: pd.DataFrame) -> str:
    for op, device, dtype, part in groups(rows):
        beaten = _least_seconds(op, device, dtype, part) / part["seconds"].to_numpy()
        if (beaten > _BEATEN_BY).mean() > _BEATEN_FRAC:
            return f"{(beaten > 1).mean():.0%} of its {op} times beat the datasheet, by up to {beaten.max():.1f}x"
    return ""


def _superseded(table: pd.DataFrame) -> pd.Series:
    """Say of each row why another software's row stands for it; empty for those that count."""
    named = table["software"].str.partition(" ")
    engine, version = named[0], named[2].map(_version)
    attention = table["op"].str.endswith("attention")
    why = pd.Series("", index=table.index)
    pool = table["device"].map(lambda device: kernel_pool(load_device(device)))
    for _, rows in table.groupby([pool, table["op"], table["dtype"]]):
        here = rows.index
        if attention[here].all() and (engine[here] == REFERENCE).any():
            other = here[engine[here] != REFERENCE]
            why[other] = f"attention of another engine than {REFERENCE}"
        for name in engine[here].unique():
            same = here[engine[here] == name]
            newest = max(version[same])
            why[same[(version[same] != newest) & (why[same] == "")]] = "an older version of the same software"
    return why


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def _least_seconds(op: str, device: Device, dtype: str, rows: pd.DataFrame) -> Floats:
    """Return the sharp roofline at the datasheet's peaks: every share 1, nothing beside work over rate."""
    perfect = {name: 1.0 if name.endswith("efficiency") else 0.0 for name in _BOUNDS}
    perfect |= {"roofline_sharpness": 50.0, "mixed_query_rows": 1.0}
    stack = next(iter(load_pools().values())).with_values(perfect)
    if not op.endswith("attention"):
        return kernel_seconds(op, device, dtype, rows, stack)
    # The formula adds traffic and arithmetic; the bound is the larger of the two.
    no_arithmetic, no_traffic = {"attention_compute_efficiency": 1e9}, {"attention_mem_efficiency": 1e9}
    return np.maximum(
        kernel_seconds(op, device, dtype, rows, stack.with_values(no_arithmetic)),
        kernel_seconds(op, device, dtype, rows, stack.with_values(no_traffic)),
    )


def held_out(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Say which rows belong to held-out shapes; a shape is held out in all tables or in none."""
    shapes = pd.DataFrame(0.0, index=table.index, columns=["kind", "one", "two", "three", "octave"])
    matrices = table["op"].isin(["gemm", "experts"])
    shapes.loc[matrices, ["one", "two", "three"]] = table.loc[matrices, ["n", "k", "experts"]].to_numpy()
    for _, rows in table[~matrices].groupby(["source", "op"]):
        heads = rows[["heads", "kv_heads", "head_dim"]]
        shapes.loc[rows.index, ["one", "two", "three"]] = heads.to_numpy()
        shapes.loc[rows.index, "kind"] = 1.0
        if len(heads.drop_duplicates()) < FEW_SHAPES:
            context = rows["decode_context"].where(rows["op"] == "mixed_attention", rows["context"])
            shapes.loc[rows.index, "octave"] = 1.0 + np.floor(np.log2(context))
    distinct, where = np.unique(shapes.fillna(0.0).to_numpy(), axis=0, return_inverse=True)
    drawn = np.array([zlib.crc32(shape.tobytes()) % 1000 < HELD_OUT_FRAC * 1000 for shape in distinct])
    return np.asarray(drawn[where.ravel()], dtype=np.bool_)


def fit_kernels(table: pd.DataFrame, start: Stack | None = None) -> list[KernelFit]:
    """Fit every architecture of a table; see the module's docstring.

    Args:
        table: usable rows.
        start: where to begin; the shipped generic stack of each if None.
    """
    pool_of = {device: kernel_pool(load_device(str(device))) for device in table["device"].unique()}
    pooled = table.groupby(table["device"].map(pool_of))
    return [
        _fit_pool(str(pool), rows, start or load_stack(load_device(rows["device"].iloc[0]))) for pool, rows in pooled
    ]


def kernel_pool(device: Device) -> str:
    """Return the pool that a device's kernels speak for: its architecture with its kind of memory.

    GeForce cards with tensor cores stand for themselves: they multiply with 32-bit sums at half rate, and reach that
    all but wholly, where the architecture's other cards fall short of twice as much.
    """
    geforce = device.name.startswith("GeForce") and device.architecture in ("ampere", "ada", "blackwell")
    return device.key if geforce else pool_names(device)[1]


def _fit_pool(pool: str, table: pd.DataFrame, start: Stack) -> KernelFit:
    out = held_out(table)
    seen = table[~out]
    sources = tuple(sorted(table["source"].unique()))
    judged = start.with_values(fit_values(seen, start))
    errors = _errors(table[out], seen, judged)
    return KernelFit(pool, fit_values(table, judged), tuple(errors), sources, len(table))


def fit_values(table: pd.DataFrame, start: Stack) -> dict[str, float]:
    """Return what a table tells of one device or architecture: parameter -> value, of a user's own GPU as well.

    One kind of kernel after the other: later ones stand on the earlier ones' values. What the table has no rows for is
    not among the result; `Stack.with_values` takes it.

    Args:
        table: usable rows.
        start: where to begin, and what holds for parameters that the table does not tell.
    """
    plain = table["dtype"].isin(["fp16", "fp32"])
    gemm, experts, mixed = (table["op"] == op for op in ("gemm", "experts", "mixed_attention"))
    attention = table["op"].str.endswith("attention")
    steps: list[tuple[pd.DataFrame, tuple[str, ...]]] = [
        (table[gemm & plain], GEMM_PARAMETERS + (("few_rows_mem_efficiency",) if start.few_rows else ())),
        (table[gemm & (table["dtype"] == "fp8")], ("fp8_compute_efficiency",)),
        (table[gemm & (table["dtype"] == "int8")], ("quantised_compute_efficiency", "dequant_int8_ops_per_weight")),
        (table[gemm & (table["dtype"] == "int4")], ("dequant_int4_ops_per_weight",)),
        (table[experts & plain], ("expert_efficiency", "router_overhead_s")),
        (table[attention & plain], ATTENTION_PARAMETERS + (("mixed_query_rows",) if mixed.any() else ())),
    ]
    values: dict[str, float] = {}
    for rows, names in steps:
        if not len(rows):
            continue
        values |= fit_parameters(_thinned(rows), names, start.with_values(values))
    return values


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    """Return at most `ROWS_PER_TABLE` rows of each source and operation, as many of each octave of its first size.

    A batch of 8 tokens is as common in serving as one of 800; a grid that is fine in the large must not drown it.
    """
    parts = []
    for (_, op), rows in table.groupby(["source", "op"], sort=True):
        shape = list(SHAPE[str(op)])
        octaves = [part for _, part in rows.groupby(np.floor(np.log2(rows[shape[0]])))]
        for part in octaves:
            ordered = part.sort_values(shape)
            chosen = np.linspace(0, len(ordered) - 1, max(1, ROWS_PER_TABLE // len(octaves))).round().astype(int)
            parts.append(ordered.iloc[np.unique(chosen)])
    return pd.concat(parts)


def fit_parameters(table: pd.DataFrame, names: Sequence[str], start: Stack) -> dict[str, float]:
    """Return the values of some parameters that fit a table best, all others as in `start`; operations count alike.

    Args:
        table: measured rows; a user's own as well.
        names: parameters of `hwprofiles.stacks.FREE`.
        start: where to begin.
    """
    parts = list(groups(table))
    measured = [np.log(rows["seconds"].to_numpy()) for *_, rows in parts]
    counts = {op: int((table["op"] == op).sum()) for op in table["op"].unique()}
    alike = len(table) / len(counts)  # rows of an operation, if all had as many
    weights = [_WEIGHTS.get(op, 1.0) * math.sqrt(alike / counts[op]) for op, *_ in parts]
    low, high = np.log(np.array([_BOUNDS[name] for name in names])).T

    def residuals(logs: Floats) -> Floats:
        stack = start.with_values(dict(zip(names, np.exp(logs).tolist(), strict=True)))
        return np.concatenate(
            [
                weight * (np.log(kernel_seconds(*part, stack)) - known)
                for part, known, weight in zip(parts, measured, weights, strict=True)
            ]
        )

    begin = np.clip(np.log([float(getattr(start, name)) for name in names]), low + 1e-6, high - 1e-6)
    found = _solve(residuals, begin, (low, high))
    return dict(zip(names, np.exp(found).tolist(), strict=True))


def _solve(residuals: Callable[[Floats], Floats], begin: Floats, bounds: tuple[Floats, Floats]) -> Floats:
    solution = least_squares(residuals, begin, bounds=bounds, loss="soft_l1", f_scale=_SOFT, x_scale=_FACTOR)
    return np.asarray(solution.x, dtype=np.float64)


def _errors(out: pd.DataFrame, seen: pd.DataFrame, stack: Stack) -> list[KernelError]:
    """Return the errors per device of each operation and format, and of matrix products and attention as a whole."""
    found: list[KernelError] = []
    for device in out["device"].unique():
        ratios: dict[str, list[Floats]] = {kind: [] for kind in KINDS}
        fitted = dict.fromkeys(KINDS, 0)
        for op, card, dtype, rows in groups(out[out["device"] == device]):
            ratio = kernel_seconds(op, card, dtype, rows, stack) / rows["seconds"].to_numpy()
            here = (seen["op"] == op) & (seen["device"] == device) & (seen["dtype"] == dtype)
            found.append(_error(str(device), op, dtype, ratio, int(here.sum())))
            for kind in KINDS:
                if op.endswith(kind):
                    ratios[kind].append(ratio)
                    fitted[kind] += int(here.sum())
        found += [
            _error(str(device), kind, ALL, np.concatenate(ratios[kind]), fitted[kind]) for kind in KINDS if ratios[kind]
        ]
    return found


def _error(device: str, op: str, dtype: str, ratio: Floats, fitted: int) -> KernelError:
    off = np.abs(ratio - 1.0)
    middle, most = float(np.median(off)), float(np.quantile(off, 0.9))
    return KernelError(device, op, dtype, len(ratio), fitted, middle, most, float(np.median(ratio)) - 1.0)

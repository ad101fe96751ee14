"""Tables of measured kernel times: one schema for published ones and for a GPU of one's own, and what we predict.

A row is one kernel at one shape. Columns (SI; what an operation does not need stays empty):

    op               gemm, experts, prefill_attention, decode_attention, mixed_attention or all_reduce
    device           a GPU of the catalogue (`afterwatt hw list`), or the path of a device TOML
                     as seen from the table's folder
    software         what ran it, with its version ("vllm 0.24.0"); may be empty
    dtype            what is stored: weights of a gemm (fp16, fp8, int8, int4 ...), keys and values of an attention
    m, n, k          gemm: rows of the input (tokens), columns of the output, columns of the input;
                     experts: tokens, width of an expert's (gated) network on this GPU, width of a token
    experts, active  experts: in the layer, and those that a token is sent to
    batch            attention: sequences; in mixed_attention the prompt pieces
    queries          attention: new tokens of each sequence; 1 in decode_attention
    context          attention: entries that each attends to, its own new tokens included
    heads, kv_heads, head_dim     attention: on this GPU
    decode_batch, decode_context  mixed_attention: sequences that decode beside the prompt pieces, entries of each
    gpus, message_bytes, link     all_reduce: devices, bytes on each; nvlink, pcie or network
    seconds          measured
    watts            mean board power meanwhile; may be empty
    source           where the number comes from

CSV (also gzipped) or Parquet, by the name's ending.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.kernels import (
    attention_costs,
    beside_sequence_s,
    decode_attention_s,
    decode_entry_s,
    experts_s,
    gemm_s,
    prompt_attention_s,
)
from afterwatt.hwprofiles.rates import reached_rates
from afterwatt.hwprofiles.stacks import Stack
from afterwatt.modelspecs.files import check_small
from afterwatt.modelspecs.precision import load_precision

Floats = NDArray[np.float64]

SHAPE: Final = {
    "gemm": ("m", "n", "k"),
    "experts": ("m", "n", "k", "experts", "active"),
    "prefill_attention": ("batch", "queries", "context", "heads", "kv_heads", "head_dim"),
    "decode_attention": ("batch", "context", "heads", "kv_heads", "head_dim"),
    "mixed_attention": (
        "batch",
        "queries",
        "context",
        "decode_batch",
        "decode_context",
        "heads",
        "kv_heads",
        "head_dim",
    ),
    "all_reduce": ("gpus", "message_bytes"),
}
"""Columns that give an operation's shape."""
TEXTS: Final = ("op", "device", "software", "dtype", "link", "source")
NUMBERS: Final = (
    *(
        "m",
        "n",
        "k",
        "experts",
        "active",
        "batch",
        "queries",
        "context",
        "heads",
        "kv_heads",
        "head_dim",
        "decode_batch",
        "decode_context",
    ),
    *("gpus", "message_bytes", "seconds", "watts"),
)
COLUMNS: Final = (*TEXTS, *NUMBERS)
USUAL: Final = {"dtype": "fp16"}
"""What an empty text stands for, other than nothing."""
LONGEST_S: Final = 60.0
"""No kernel takes a minute: past it, a time is a slip of the unit."""


class KernelTableError(ValueError):
    """A table of kernel times cannot be used; the text names the file, the row, the value and the rule."""


def read_kernels(path: str | Path) -> pd.DataFrame:
    """Return a table of kernel times with all of `COLUMNS`, checked.

    Raises:
        KernelTableError: the file cannot be read, a column is missing or unknown, or a row breaks a rule.
    """
    file = Path(path)
    try:
        check_small(file)
        table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
    except (OSError, ValueError) as fault:
        raise KernelTableError(f"{file}: cannot be read as a table of kernel times ({fault})") from None
    if unknown := sorted(set(table.columns) - set(COLUMNS)):
        raise KernelTableError(f"{file}: unknown column {unknown[0]!r}; a table has some of {', '.join(COLUMNS)}")
    return _beside(checked(table, str(file)), file.parent)


def _beside(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return the table with paths of device TOMLs, which it gives relative to its own folder, from here."""
    own = table["device"].str.endswith(".toml")
    table.loc[own, "device"] = [str(folder / name) for name in table.loc[own, "device"]]
    return table


def write_kernels(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table of kernel times; only columns that hold something."""
    file = Path(path)
    kept = table[[name for name in COLUMNS if name in table and (table[name].notna() & (table[name] != "")).any()]]
    if file.suffix == ".parquet":
        kept.to_parquet(file, index=False)
    else:
        kept.to_csv(file, index=False)


def kernel_rows(op: str, device: str, source: str, columns: Mapping[str, object], dtype: str = "fp16") -> pd.DataFrame:
    """Return rows of one operation on one device, with all of `COLUMNS`.

    Args:
        op: one of `SHAPE`.
        device: catalogue key.
        source: where the numbers come from.
        columns: the operation's shape, seconds and, if known, software, watts and link; arrays or single values.
        dtype: what is stored.
    """
    table = pd.DataFrame(dict(columns)).reset_index(drop=True)
    return checked(table.assign(op=op, device=device, source=source, dtype=dtype), source)


def checked(table: pd.DataFrame, label: str) -> pd.DataFrame:
    """Return a table with all columns, numbers as float64, or say what is wrong with it.

    Raises:
        KernelTableError: an operation is unknown, a shape incomplete, or a number is not positive and finite.
    """
    whole = table.reindex(columns=list(COLUMNS))
    for name in TEXTS:
        whole[name] = whole[name].astype(object).where(whole[name].notna(), USUAL.get(name, "")).astype(str)
    for name in NUMBERS:
        try:
            whole[name] = whole[name].astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            raise KernelTableError(f"{label}: column {name!r} holds something that is no number") from None
    if (whole["device"] == "").any():
        raise KernelTableError(f"{label}: a row names no device; give a GPU of the catalogue or the path of its TOML")
    for kind, rows in whole.groupby("op"):
        op = repr(kind).strip("'")
        if op not in SHAPE:
            raise KernelTableError(f"{label}: op {op!r} is not known; expected one of {', '.join(SHAPE)}")
        for name in (*SHAPE[op], "seconds"):
            bad = ~(np.isfinite(rows[name]) & (rows[name] > 0))
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                value = float(rows[name].iloc[row])
                raise KernelTableError(f"{label}: row {row + 1} of {op}: {name} = {value:g} must be a number above 0")
    if (whole["seconds"] > LONGEST_S).any():
        row = int(np.flatnonzero(whole["seconds"] > LONGEST_S)[0])
        value = whole["seconds"].iloc[row]
        raise KernelTableError(f"{label}: row {row + 1}: seconds = {value:g} must be below {LONGEST_S:g}; is it in ms?")
    return whole


def groups(table: pd.DataFrame) -> Iterator[tuple[str, Device, str, pd.DataFrame]]:
    """Yield (operation, device, stored precision, rows)."""
    for (op, device, dtype), rows in table.groupby(["op", "device", "dtype"], sort=True):
        yield str(op), load_device(str(device)), str(dtype), rows


def kernel_seconds(op: str, device: Device, dtype: str, rows: pd.DataFrame, stack: Stack) -> Floats:
    """Return the seconds that the time model's formulas give for rows of one group; see `groups`.

    Args:
        op: gemm or one of the attentions (all-reduces run over links: `fidelity.kernels.comm`).
        device: the GPU.
        dtype: what is stored.
        rows: the shapes.
        stack: the parameters.
    """
    column = {name: rows[name].to_numpy() for name in SHAPE[op]}
    if op in ("gemm", "experts"):
        precision, moved = load_precision(dtype), float(stack.activation_bytes_per_element)
        rates = reached_rates(device, device.ecc_default_on, precision, stack)
        tokens, inputs, outputs = column["m"], column["k"], column["n"]
        if op == "gemm":
            return gemm_s(tokens, inputs, outputs, rates.matrices, precision.bytes_per_weight, moved)
        split = (column["experts"], column["active"], rates.experts, precision.bytes_per_weight, moved)
        return experts_s(tokens, inputs, outputs, *split) + stack.router_overhead_s
    return _attention_seconds(op, device, dtype, column, stack)


def _attention_seconds(op: str, device: Device, dtype: str, column: dict[str, Floats], stack: Stack) -> Floats:
    kv_bytes = load_precision(dtype).bytes_per_weight
    rates = reached_rates(device, device.ecc_default_on, load_precision("fp16"), stack).attention
    seconds = np.empty_like(column["batch"])
    # Costs depend on the heads, of which a table holds a few dozen combinations.
    shapes = np.stack([column[name] for name in ("heads", "kv_heads", "head_dim")])
    for heads, kv_heads, head_dim in np.unique(shapes, axis=1).T:
        here = (shapes[0] == heads) & (shapes[1] == kv_heads) & (shapes[2] == head_dim)
        costs = attention_costs(heads, kv_heads, head_dim, rates, kv_bytes, float(stack.activation_bytes_per_element))
        part = {name: values[here] for name, values in column.items()}
        batch, context = part["batch"], part["context"]
        if op == "decode_attention":
            seconds[here] = decode_attention_s(costs, batch, batch * context)
            continue
        queries = part["queries"]
        seconds[here] = prompt_attention_s(costs, batch, queries, context - queries, stack.mixed_query_rows)
        if op == "mixed_attention":
            beside = part["decode_batch"]
            entry_s = decode_entry_s(costs, stack.mixed_query_rows)
            blocks_s = beside_sequence_s(rates, heads, kv_heads, stack.mixed_query_rows)
            seconds[here] += beside * (blocks_s + costs.token_s + part["decode_context"] * entry_s)
    return seconds

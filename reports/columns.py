"""The columns of a run directory's tables, once: their types, what they mean, who knows them, what follows from others.

The writer holds every body to this table, every reader counts on it, and docs/run-directory.md prints it. Units are in
the names. A column that may be unknown is nullable; all others are never null.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from afterwatt.reports.errors import ReportError

COMPONENTS = ("gpu", "cpu", "dram", "fans", "storage", "nic", "board", "psu", "facility")
STATES = ("prefill", "decode", "idle")
BODIES = ("sim", "engine")
"""The bodies that write run directories of their own."""
SIM = ("sim",)

Floats: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = npt.NDArray[np.generic] | Sequence[object]
_TEXT = pa.dictionary(pa.int32(), pa.string())
_UNITS: Final = {
    "_gco2e_per_kwh": "gCO₂e/kWh",
    "_gco2e": "gCO₂e",
    "_bytes": "bytes",
    "_tokens": "tokens",
    "_frac": "share",
    "_s": "s",
    "_j": "J",
}


class Formula(NamedTuple):
    """How a column follows from others of its table: `of` names them, `rule` takes their values in that order."""

    of: tuple[str, ...]
    rule: Callable[..., Values]


class TableColumn(NamedTuple):
    """One column of a table.

    Attributes:
        name: with its unit as a suffix.
        kind: Arrow type.
        meaning: one line, for the docs.
        known: never null.
        bodies: who can tell it; for all others it is unknown.
        formula: how it follows from other columns, or from itself as a body gives it (None: a body gives it as it is).
    """

    name: str
    kind: pa.DataType
    meaning: str
    known: bool = False
    bodies: tuple[str, ...] = BODIES
    formula: Formula | None = None

    @property
    def unit(self) -> str:
        """What the suffix of the name stands for; empty where it has none."""
        return next((unit for suffix, unit in _UNITS.items() if f"_{self.name}".endswith(suffix)), "")

    def array(self, values: Sequence[object]) -> Values:
        """Return values as numpy holds them: None is NaN in floats; what may be null in another type stays a list."""
        if pa.types.is_floating(self.kind):
            return np.array(values, dtype=np.float64)
        return np.array(values, dtype=self.kind.to_pandas_dtype()) if self.known and self.kind != _TEXT else values


def _refused(reasons: Iterable[object]) -> npt.NDArray[np.bool_]:
    return np.array([reason is not None for reason in reasons], dtype=bool)


def _status(reasons: Sequence[object], finish_s: Floats) -> list[str]:
    finished = np.where(np.isnan(finish_s), "unfinished", "finished")
    found: list[str] = np.where(_refused(reasons), "rejected", finished).tolist()
    return found


def _has_more_tokens(finish_s: Floats, output: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Mark the finished requests of which a token followed the first."""
    marked: npt.NDArray[np.bool_] = ~np.isnan(finish_s) & (output > 1)
    return marked


def _per_further_token(first_s: Floats, finish_s: Floats, output: npt.NDArray[np.int32]) -> Floats:
    tpot_s = np.full(len(output), np.nan)
    np.divide(finish_s - first_s, output - 1.0, out=tpot_s, where=_has_more_tokens(finish_s, output))
    return tpot_s


def _between_tokens(stall_s: Floats, finish_s: Floats, output: npt.NDArray[np.int32]) -> Floats:
    return np.where(_has_more_tokens(finish_s, output), stall_s, np.nan)


def _of_the_served(energy_j: Floats, reasons: Sequence[object]) -> Floats:
    return np.where(_refused(reasons), np.nan, energy_j)


_INT, _LONG, _FLOAT = pa.int32(), pa.int64(), pa.float64()
REQUESTS = (
    TableColumn("request_id", _LONG, "ascending, each once", known=True),
    TableColumn("arrival_s", _FLOAT, "since the start of the run", known=True),
    TableColumn("class", _TEXT, "as the trace has it"),
    TableColumn("session", pa.string(), "as the trace has it", bodies=SIM),
    TableColumn("prompt_tokens", _INT, "as the trace wants them", known=True),
    TableColumn("output_tokens", _INT, "as the trace wants them; fewer where a stop token ended it", known=True),
    TableColumn("replica", _INT, "which replica served it"),
    TableColumn(
        "status",
        _TEXT,
        "`finished`, `rejected`, `unfinished` (the run ended first)",
        known=True,
        formula=Formula(("reject_reason", "finish_s"), _status),
    ),
    TableColumn(
        "reject_reason",
        _TEXT,
        "`over_context` (longer than the model's context), `never_fits` (larger than the KV memory), `queue_full`; "
        "set for rejected requests and for no other",
    ),
    TableColumn("cached_tokens", _INT, "prompt tokens found in a shared prefix", known=True),
    TableColumn("scheduled_s", _FLOAT, "first admission, since the start"),
    TableColumn("first_token_s", _FLOAT, "first token, since the start"),
    TableColumn("finish_s", _FLOAT, "last token, since the start"),
    TableColumn(
        "ttft_s", _FLOAT, "first token − arrival", formula=Formula(("first_token_s", "arrival_s"), np.subtract)
    ),
    TableColumn(
        "tpot_s",
        _FLOAT,
        "(finish − first token) / (output tokens − 1); null for a single token",
        formula=Formula(("first_token_s", "finish_s", "output_tokens"), _per_further_token),
    ),
    TableColumn("e2e_s", _FLOAT, "finish − arrival", formula=Formula(("finish_s", "arrival_s"), np.subtract)),
    TableColumn(
        "longest_stall_s",
        _FLOAT,
        "longest gap between two of its tokens; null for a single token",
        formula=Formula(("longest_stall_s", "finish_s", "output_tokens"), _between_tokens),
    ),
    TableColumn("preemptions", _INT, "how often it was put off", known=True),
    TableColumn(
        "energy_j",
        _FLOAT,
        "allocated to it while it was served",
        bodies=SIM,
        formula=Formula(("energy_j", "reject_reason"), _of_the_served),
    ),
    TableColumn("in_stats", pa.bool_(), "false in the warm-up", known=True),
)
"""One row per request, in order of request_id."""

TIMELINE = (
    TableColumn("start_s", _FLOAT, "where the interval begins", known=True),
    TableColumn("interval_s", _FLOAT, "how long it is", known=True),
    TableColumn("replica", _INT, "of which replica", known=True),
    *(TableColumn(f"{state}_s", _FLOAT, f"in the state {state}; the states add up", known=True) for state in STATES),
    TableColumn("batch_mean", _FLOAT, "sequences running, time-weighted mean", known=True),
    TableColumn("waiting_mean", _FLOAT, "sequences waiting, time-weighted mean", known=True),
    TableColumn("kv_used_frac", _FLOAT, "of the KV blocks in use, time-weighted mean", known=True),
    TableColumn("prompt_tokens", _FLOAT, "read, pro rata", known=True),
    TableColumn("output_tokens", _FLOAT, "written, pro rata", known=True),
    TableColumn("gpu_dynamic_prefill_j", _FLOAT, "above idle, of the replica's GPUs reading prompts", bodies=SIM),
    TableColumn("gpu_dynamic_decode_j", _FLOAT, "above idle, of the replica's GPUs writing tokens", bodies=SIM),
    TableColumn("hbm_bytes", _FLOAT, "moved in GPU memory", bodies=SIM),
    TableColumn("link_bytes", _FLOAT, "moved between GPUs", bodies=SIM),
    TableColumn("dram_to_hbm_bytes", _FLOAT, "moved between host memory and GPU memory"),
)
"""One row per (interval, replica), as the body measures it; what only a simulator can tell may be unknown."""

TIERS = (
    TableColumn("host_dynamic_prefill_j", _FLOAT, "of CPU and disks reading prompts, above their own", bodies=SIM),
    TableColumn("host_dynamic_decode_j", _FLOAT, "of CPU and disks writing tokens, above their own", bodies=SIM),
    TableColumn("cpu_dynamic_j", _FLOAT, "of both, the CPU's", bodies=SIM),
    TableColumn("storage_dynamic_j", _FLOAT, "of both, the disks'", bodies=SIM),
    TableColumn("gpu_work_s", _FLOAT, "that the replica's GPUs computed, stage after stage", bodies=SIM),
    TableColumn("cpu_work_s", _FLOAT, "that the CPU computed with weights", bodies=SIM),
    TableColumn("link_work_s", _FLOAT, "that weights and KV cache took to cross to GPUs that need them", bodies=SIM),
    TableColumn("disk_work_s", _FLOAT, "that the disks took to read weights", bodies=SIM),
    TableColumn("cpu_bytes", _FLOAT, "of weights and KV cache that the CPU computed with", bodies=SIM),
    TableColumn("ssd_to_dram_bytes", _FLOAT, "read from the disk", bodies=SIM),
)
"""Further columns of the time series of a run whose weights lie in several tiers."""

LEDGER = (
    *(
        TableColumn(f"energy_{name}_j", _FLOAT, f"of the component {name}; components add up", bodies=SIM)
        for name in COMPONENTS
    ),
    *(
        TableColumn(f"energy_{name}_j", _FLOAT, f"in the state {name}; states add up too", bodies=SIM)
        for name in STATES
    ),
    TableColumn("energy_j", _FLOAT, "at the site's meter: power supply loss and PUE are inside", bodies=SIM),
    TableColumn("intensity_gco2e_per_kwh", _FLOAT, "of the grid, in the mean of the interval", bodies=SIM),
    TableColumn("operational_gco2e", _FLOAT, "what the energy emitted", bodies=SIM),
)
"""What the energy ledger adds to each row of the timeline; a timeline without it has unknown energy, not none."""

ITL = (
    TableColumn("itl_s", _FLOAT, "bin centre; bins grow by 0.1 %", known=True),
    TableColumn("tokens", _FLOAT, "weight", known=True),
)
"""Inter-token latencies as a histogram."""

DRAWS = (
    TableColumn("draw", _INT, "ascending from 0", known=True, bodies=SIM),
    TableColumn("operational_gco2e", _FLOAT, "of the whole run", known=True, bodies=SIM),
)
"""One row per draw of the uncertain quantities.

Columns ``embodied_gco2e__<method>__<allocation>`` follow. Under the host share that is not the headline's all of these
stand once more, ``__<host share>`` added.
"""

TABLES: Final[Mapping[str, tuple[TableColumn, ...]]] = {
    "requests": REQUESTS,
    "timeline": (*TIMELINE, *TIERS, *LEDGER),
    "itl": ITL,
    "draws": DRAWS,
}
"""Every column that a table may have, those of draws.parquet apart that its methods name."""
EMBODIED_PREFIX = "embodied_gco2e__"
OTHER_PREFIX = "operational_gco2e__"


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns of requests.parquet with all that follows from them, in the table's order.

    What lacks an ingredient is left out. A column that follows from others is worked out here and nowhere else, so that
    every body means the same by it.

    Args:
        given: what a body knows of its requests; times in seconds, NaN where they never came.
    """
    found = {}
    for column in REQUESTS:
        if column.formula is None:
            if column.name in given:
                found[column.name] = given[column.name]
        elif all(name in given for name in column.formula.of):
            found[column.name] = column.formula.rule(*(given[name] for name in column.formula.of))
    return found


def schema(columns: Iterable[TableColumn]) -> pa.Schema:
    """Give the Arrow schema of columns."""
    return pa.schema([pa.field(column.name, column.kind, nullable=not column.known) for column in columns])


def embodied_columns(names: Iterable[str]) -> dict[tuple[str, str, str], str]:
    """Map (method, allocation, host share) to its column of draws.parquet, in the file's order.

    The host share is empty where the column's name has none: it is the headline's then.
    """
    found = {}
    for name in names:
        if name.startswith(EMBODIED_PREFIX):
            parts = name.removeprefix(EMBODIED_PREFIX).split("__")
            if len(parts) not in (2, 3) or not all(parts):
                raise ReportError(
                    f"draws.parquet: column {name!r} is not {EMBODIED_PREFIX}<method>__<allocation>[__<host share>]; "
                    "rename it so"
                )
            method, allocation, *share = parts
            found[method, allocation, "".join(share)] = name
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End a sentence with the nearest known name, or just end it."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


@cache
def _whole(table: str) -> pa.Schema:
    return schema(TABLES[table])


def field_of(table: str, name: str) -> pa.Field:
    """Give a column's field.

    Raises:
        ReportError: the table has no such column.
    """
    if table == "draws" and name.startswith((EMBODIED_PREFIX, OTHER_PREFIX)):
        return pa.field(name, _FLOAT, nullable=False)
    fields = _whole(table)
    if name not in fields.names:
        raise ReportError(
            f"{table}.parquet has no column {name!r}{did_you_mean(name, fields.names)} "
            "The columns are listed in docs/run-directory.md."
        )
    return fields.field(name)


def schema_of(table: str, names: Iterable[str]) -> pa.Schema:
    """Give the schema a table with these column names must have, refusing names that do not belong there.

    Args:
        table: ``requests``, ``timeline``, ``itl`` or ``draws``.
        names: the columns that are there.

    Raises:
        ReportError: a column is unknown, or a part of the ledger's columns is missing.
    """
    names = list(names)
    if table not in TABLES:
        raise ReportError(f"no table {table!r} in a run directory; known: {', '.join(TABLES)}")
    for name in names:
        field_of(table, name)
    if table == "timeline":
        tiers = TIERS if any(column.name in names for column in TIERS) else ()
        ledger = LEDGER if any(column.name in names for column in LEDGER) else ()
        return schema((*TIMELINE, *tiers, *ledger))
    counted = [*embodied_columns(names).values(), *(name for name in names if name.startswith(OTHER_PREFIX))]
    return pa.schema([*_whole(table), *(field_of(table, name) for name in counted)])

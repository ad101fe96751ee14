"""The columns of a run directory's tables, once: what the writer enforces and every reader may count on.

Units are in the names. A field that may be unknown is nullable; all others are never null. See docs/run-directory.md.
"""

import difflib
from collections.abc import Iterable

import pyarrow as pa

from afterwatt.reports.errors import ReportError

STATUSES = ("finished", "rejected", "unfinished")
REJECT_REASONS = ("over_context", "never_fits", "queue_full")
COMPONENTS = ("gpu", "cpu", "dram", "fans", "storage", "nic", "board", "psu", "facility")
STATES = ("prefill", "decode", "idle")

_TEXT = pa.dictionary(pa.int32(), pa.string())


def _known(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


REQUESTS = pa.schema(
    [
        _known("request_id", pa.int64()),
        _known("arrival_s", pa.float64()),
        pa.field("class", _TEXT),
        pa.field("session", pa.string()),
        _known("prompt_tokens", pa.int32()),
        _known("output_tokens", pa.int32()),
        pa.field("replica", pa.int32()),
        _known("status", _TEXT),
        pa.field("reject_reason", _TEXT),
        _known("cached_tokens", pa.int32()),
        pa.field("scheduled_s", pa.float64()),
        pa.field("first_token_s", pa.float64()),
        pa.field("finish_s", pa.float64()),
        pa.field("ttft_s", pa.float64()),
        pa.field("tpot_s", pa.float64()),
        pa.field("e2e_s", pa.float64()),
        pa.field("longest_stall_s", pa.float64()),
        _known("preemptions", pa.int32()),
        pa.field("energy_j", pa.float64()),
        _known("in_stats", pa.bool_()),
    ]
)
"""One row per request, in order of request_id."""

TIMELINE = pa.schema(
    [
        _known("start_s", pa.float64()),
        _known("interval_s", pa.float64()),
        _known("replica", pa.int32()),
        *(
            _known(name, pa.float64())
            for name in (
                *(f"{state}_s" for state in STATES),
                "batch_mean",
                "waiting_mean",
                "kv_used_frac",
                "prompt_tokens",
                "output_tokens",
            )
        ),
        *(
            pa.field(name, pa.float64())
            for name in (
                "gpu_dynamic_prefill_j",
                "gpu_dynamic_decode_j",
                "hbm_bytes",
                "link_bytes",
                "dram_to_hbm_bytes",
            )
        ),
    ]
)
"""One row per (interval, replica), as the body measures it; what only a simulator can tell may be unknown."""

LEDGER = pa.schema(
    [
        *(pa.field(f"energy_{name}_j", pa.float64()) for name in (*COMPONENTS, *STATES)),
        pa.field("energy_j", pa.float64()),
        pa.field("intensity_gco2e_per_kwh", pa.float64()),
        pa.field("operational_gco2e", pa.float64()),
    ]
)
"""What the energy ledger adds to each row of the timeline; a timeline without it has unknown energy, not none."""

ITL = pa.schema([_known("itl_s", pa.float64()), _known("tokens", pa.float64())])
"""Inter-token latencies as a histogram: bin centre, weight in tokens; bins grow by 0.1 %."""

DRAWS = pa.schema([_known("draw", pa.int32()), _known("operational_gco2e", pa.float64())])
"""One row per draw of the uncertain quantities; columns ``embodied_gco2e__<method>__<allocation>`` follow."""

EMBODIED_PREFIX = "embodied_gco2e__"


def embodied_columns(names: Iterable[str]) -> dict[tuple[str, str], str]:
    """Map (method, allocation) to its column of draws.parquet, in the file's order."""
    found = {}
    for name in names:
        if name.startswith(EMBODIED_PREFIX):
            method, _, allocation = name.removeprefix(EMBODIED_PREFIX).partition("__")
            if not method or not allocation:
                raise ReportError(
                    f"draws.parquet: column {name!r} is not {EMBODIED_PREFIX}<method>__<allocation>; rename it so"
                )
            found[method, allocation] = name
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End a sentence with the nearest known name, or just end it."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def schema_of(table: str, names: Iterable[str]) -> pa.Schema:
    """Give the schema a table with these column names must have, refusing names that do not belong there.

    Args:
        table: ``requests``, ``timeline``, ``itl`` or ``draws``.
        names: the columns that are there.

    Raises:
        ReportError: a column is unknown, or a part of the ledger's columns is missing.
    """
    names = list(names)
    if table == "requests":
        schema = REQUESTS
    elif table == "itl":
        schema = ITL
    elif table == "timeline":
        has_ledger = any(name in LEDGER.names for name in names)
        schema = pa.schema([*TIMELINE, *LEDGER]) if has_ledger else TIMELINE
    elif table == "draws":
        extra = embodied_columns(names).values()
        schema = pa.schema([*DRAWS, *(_known(name, pa.float64()) for name in extra)])
    else:
        raise ReportError(f"no table {table!r} in a run directory; known: requests, timeline, itl, draws")
    for name in names:
        if name not in schema.names:
            raise ReportError(
                f"{table}.parquet has no column {name!r}{did_you_mean(name, schema.names)} "
                f"The columns are listed in docs/run-directory.md."
            )
    return schema

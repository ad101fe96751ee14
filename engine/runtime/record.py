"""A run directory from what the engine did: the same files and summary that the simulator writes.

Beside the contract's tables lie `decisions.parquet`, `steps.parquet` (every iteration with its times and outcome) and
`asked.parquet` (what was asked for): together they are what another body needs to be held to the same decisions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from afterwatt.engine.runtime.compute import ComputeInfo
from afterwatt.engine.runtime.drive import NS_PER_S, Recording, Served
from afterwatt.engine.runtime.process import WorkerSetup, scheduler_config
from afterwatt.engine.runtime.request import Chunked, StepRecord
from afterwatt.reports.columns import REQUESTS, completed
from afterwatt.reports.decisions import DecisionWriter
from afterwatt.reports.errors import ReportError
from afterwatt.reports.rundir import Run, RunWriter, load_run
from afterwatt.reports.schema import SCHEMA_VERSION
from afterwatt.reports.summary import assemble_summary

Floats = NDArray[np.float64]
FIRST_BIN_S: Final = 0.1
MOST_BINS: Final = 2048
_INTS = pa.list_(pa.int64())
STEPS: Final = pa.schema(
    [
        ("plan_ns", pa.int64()),
        ("rested", pa.bool_()),
        ("compute_ns", pa.int64()),
        ("done_ns", pa.int64()),
        ("arrivals", _INTS),
        ("decoding", pa.int32()),
        ("context_tokens", pa.int64()),
        ("chunk_ids", _INTS),
        ("chunk_tokens", _INTS),
        ("chunk_past_tokens", _INTS),
        ("emits", pa.int32()),
        ("emitted_ids", _INTS),
        ("emitted_tokens", _INTS),
        ("stopped", _INTS),
        ("finished", _INTS),
        ("waiting", pa.int32()),
        ("running", pa.int32()),
        ("used_blocks", pa.int64()),
        ("swapped_blocks", pa.int64()),
        ("free_blocks", pa.int64()),
        ("outstanding_tokens", pa.int64()),
    ]
)
"""One row per iteration (`engine.runtime.request.StepRecord`); times count from the start of the run."""
_OF_CHUNKS: Final = ("chunk_ids", "chunk_tokens", "chunk_past_tokens")
_OF_EMITTED: Final = ("emitted_ids", "emitted_tokens")
ASKED: Final = pa.schema(
    [
        ("request_id", pa.int64()),
        ("arrival_ns", pa.int64()),
        ("refused_ns", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("prefix", _INTS),
    ]
)
"""One row per request that was handed over, in order of id: as it was asked for, not as it ended."""


class AskedFor(NamedTuple):
    """A request as it was asked for (see `ASKED`); `refused_ns`: when it was refused, None if it was not."""

    request_id: int
    arrival_ns: int
    refused_ns: int | None
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...]


def write_run(
    recording: Recording,
    info: ComputeInfo,
    setup: WorkerSetup,
    out: str | Path,
    *,
    hardware: str,
    workload: str,
    seed: int,
    energy_j: float | None = None,
    energy_method: str = "unknown",
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Run:
    """Write what a recording holds as a run directory.

    Args:
        recording: a finished, interrupted or broken run.
        info: of the model.
        setup: of the worker.
        out: the directory to come.
        hardware: what it ran on, as reports call it.
        workload: what arrived.
        seed: of the prompts.
        energy_j: measured over the run, None where unknown.
        energy_method: how.
        config: further entries for the manifest's configuration.
        overwrite: replace a run that stands there.

    Raises:
        ReportError: the directory cannot be written, or something stands there.
    """
    with RunWriter(out, overwrite) as writer:
        writer.write("requests", request_columns(recording))
        decisions = DecisionWriter(writer.file("decisions.parquet"))
        for entry in recording.decisions:
            decisions.add(entry)
        decisions.close()
        _write_steps(recording, writer.file("steps.parquet"))
        _write_asked(recording, writer.file("asked.parquet"))
        values, weights = gaps(recording)
        writer.write("itl", {"itl_s": values, "tokens": weights})
        block_bytes = info.more.get("block_bytes")
        writer.write("timeline", timeline_columns(recording, info.kv_blocks, block_bytes))
        writer.write_manifest(_manifest(recording, info, setup, hardware, workload, seed, config or {}))
        run = writer.run()
        blocks: dict[str, Any] = {
            "model": info.model,
            "hardware": hardware,
            "policies": setup.policies.name,
            "site": None,
            "energy_j": {
                "total": energy_j,
                "idle": None,
                "by_component": {},
                "by_state": {},
                "method": energy_method,
            },
        }
        writer.write_summary(assemble_summary(run, blocks))
    return load_run(out)


def _manifest(
    recording: Recording,
    info: ComputeInfo,
    setup: WorkerSetup,
    hardware: str,
    workload: str,
    seed: int,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    warnings = []
    if recording.lost:
        lost = [request_id for request_id, served in recording.served.items() if served.lost]
        warnings.append(f"{recording.lost}; {len(lost)} requests were lost: {', '.join(map(str, lost[:20]))}")
    if recording.interrupted:
        warnings.append("the run was interrupted; requests that were not done by then count as unfinished")
    return {
        "schema_version": SCHEMA_VERSION,
        "body": "engine",
        "config": {"policies": setup.policies.record(), "slo": asdict(setup.slo), "seed": seed, **config},
        "seed": seed,
        "versions": dict(info.versions),
        "deployment": {"name": hardware, "device": info.device, "count": 1},
        "model": info.model,
        "policies": setup.policies.name,
        "workload": {"name": workload},
        "worker": {
            **{key: value for key, value in asdict(info).items() if key != "versions"},
            "scheduler": asdict(scheduler_config(setup, info)),
        },
        "duration_s": recording.duration_s,
        "lost": recording.lost,
        "interrupted": recording.interrupted,
        "warnings": warnings,
    }


INSTANTS_NS: Final[Mapping[str, Callable[[Served], int | None]]] = {
    "arrival_s": lambda served: served.request.arrival_ns,
    "scheduled_s": lambda served: served.scheduled_ns,
    "first_token_s": lambda served: served.token_ns[0] if served.token_ns else None,
    "finish_s": lambda served: served.token_ns[-1] if served.finished else None,
}
"""Column of requests.parquet -> when that was, by the clock of the run (None: it never came)."""
FIELDS: Final[Mapping[str, Callable[[Served], object]]] = {
    "request_id": lambda served: served.request.request_id,
    "class": lambda served: served.request.klass,
    "prompt_tokens": lambda served: len(served.request.prompt_ids),
    "output_tokens": lambda served: len(served.output_ids) if served.finished else served.request.output_tokens,
    "replica": lambda served: None if served.refused else 0,
    "reject_reason": lambda served: served.refused,
    "cached_tokens": lambda served: served.cached_tokens,
    "longest_stall_s": lambda served: max(np.diff(served.token_ns), default=np.nan) / NS_PER_S,
    "preemptions": lambda served: served.preemptions,
    "in_stats": lambda _: True,
}
"""Column of requests.parquet -> how it is read off a request; what follows from these `reports.columns` works out."""


def request_columns(recording: Recording) -> dict[str, Any]:
    """Return the columns of requests.parquet, in order of ids; what never came about is NaN."""
    rows = [served for _, served in sorted(recording.served.items())]
    found: dict[str, Any] = {}
    for column in REQUESTS:
        if column.name in INSTANTS_NS:
            times = map(INSTANTS_NS[column.name], rows)
            found[column.name] = np.array(
                [np.nan if at is None else (at - recording.start_ns) / NS_PER_S for at in times]
            )
        elif column.name in FIELDS:
            found[column.name] = column.array([FIELDS[column.name](served) for served in rows])
    return completed(found)


def gaps(recording: Recording) -> tuple[Floats, Floats]:
    """Return every time between two tokens of a request, and how often it occurred, ascending."""
    parts = [np.diff(served.token_ns) for served in recording.served.values() if len(served.token_ns) > 1]
    values, counts = np.unique(np.concatenate(parts) if parts else np.zeros(0, np.int64), return_counts=True)
    return values / NS_PER_S, counts.astype(np.float64)


def timeline_columns(recording: Recording, kv_blocks: int, block_bytes: float | None) -> dict[str, Any]:
    """Return the timeline: what an iteration did, spread evenly over its time.

    An iteration that both processes prompts and decodes is split by tokens, as the simulator does.
    """
    steps, start = recording.steps, recording.start_ns
    duration_s = max(recording.duration_s, 1e-9)
    width_s = FIRST_BIN_S
    while duration_s > width_s * MOST_BINS:
        width_s *= 2.0
    edges = np.minimum(np.arange(int(np.ceil(duration_s / width_s)) + 1) * width_s, duration_s)
    edges = edges[: int(np.searchsorted(edges, duration_s)) + 1]
    begin = np.array([(step.plan_ns - start) / NS_PER_S for step in steps])
    end = np.array([(step.done_ns - start) / NS_PER_S for step in steps])
    knots = np.stack([begin, end], axis=1).reshape(-1)

    def spread(amounts: Sequence[float] | Floats) -> Floats:
        """Amounts per interval of amounts per iteration."""
        done = np.cumsum(np.asarray(amounts, dtype=np.float64))
        before = np.concatenate([[0.0], done[:-1]]) if len(done) else done
        reached = np.stack([before, done], axis=1).reshape(-1)
        return np.diff(np.interp(edges, knots, reached, left=0.0)) if len(knots) else np.zeros(len(edges) - 1)

    prompt = np.array([sum(chunk.tokens for chunk in step.chunks) for step in steps], dtype=np.float64)
    decoding = np.array([step.decoding for step in steps], dtype=np.float64)
    took = end - begin
    share = prompt / np.maximum(prompt + decoding, 1.0)
    interval = np.diff(edges)
    prefill_s, decode_s = spread(took * share), spread(took * (1.0 - share))
    swapped = spread([step.swapped_blocks for step in steps])
    unknown = np.full(len(interval), np.nan)
    return {
        "start_s": edges[:-1],
        "interval_s": interval,
        "replica": np.zeros(len(interval), dtype=np.int32),
        "prefill_s": prefill_s,
        "decode_s": decode_s,
        "idle_s": np.maximum(interval - prefill_s - decode_s, 0.0),
        "batch_mean": spread(took * [step.running for step in steps]) / interval,
        "waiting_mean": spread(took * [step.waiting for step in steps]) / interval,
        "kv_used_frac": spread(took * [step.used_blocks for step in steps]) / interval / max(1, kv_blocks),
        "prompt_tokens": spread(prompt),
        "output_tokens": spread([len(step.emitted) for step in steps]),
        "dram_to_hbm_bytes": unknown if block_bytes is None else swapped * block_bytes,
    }


# -- iterations --------------------------------------------------------------------------------------------------------


def _write_steps(recording: Recording, path: Path) -> None:
    rows = []
    for step in recording.steps:
        row = {name: getattr(step, name) for name in STEPS.names if hasattr(step, name)}
        row |= {name: row[name] - recording.start_ns for name in ("plan_ns", "compute_ns", "done_ns")}
        row |= {name: [chunk[place] for chunk in step.chunks] for place, name in enumerate(_OF_CHUNKS)}
        row |= {name: [pair[place] for pair in step.emitted] for place, name in enumerate(_OF_EMITTED)}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, schema=STEPS), path, compression="zstd")


def _write_asked(recording: Recording, path: Path) -> None:
    rows = [
        {
            "request_id": request_id,
            "arrival_ns": served.request.arrival_ns - recording.start_ns,
            "refused_ns": None if served.refused_ns is None else served.refused_ns - recording.start_ns,
            "prompt_tokens": len(served.request.prompt_ids),
            "output_tokens": served.request.output_tokens,
            "prefix": served.request.prefix,
        }
        for request_id, served in sorted(recording.served.items())
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=ASKED), path, compression="zstd")


def read_steps(path: Path) -> list[StepRecord]:
    """Read steps.parquet back; times count from the start of the run.

    Raises:
        ReportError: it is missing or not such a table.
    """
    try:
        table = pq.read_table(path, schema=STEPS)
    except (OSError, pa.ArrowException) as fault:
        raise ReportError(f"{path} cannot be read as iterations of an engine ({fault}); run it again") from None
    records = []
    for row in table.to_pylist():
        row["chunks"] = tuple(map(Chunked._make, zip(*map(row.pop, _OF_CHUNKS), strict=True)))
        row["emitted"] = tuple(zip(*map(row.pop, _OF_EMITTED), strict=True))
        for name in ("arrivals", "stopped", "finished"):
            row[name] = tuple(row[name])
        records.append(StepRecord(**row))
    return records


def read_asked(path: Path) -> list[AskedFor]:
    """Read asked.parquet back, in order of ids; times count from the start of the run. Errors as `read_steps`."""
    try:
        rows = pq.read_table(path, schema=ASKED).to_pylist()
    except (OSError, pa.ArrowException) as fault:
        raise ReportError(f"{path} cannot be read as requests to an engine ({fault}); run it again") from None
    return [AskedFor(**{**row, "prefix": tuple(row["prefix"])}) for row in rows]

"""What a run's files say, computed from the files: counts, latencies, throughput, bytes.

One column is held at a time, 8 bytes per request: a week of 44 million needs 352 MB. Energy, carbon and cost are not
computed here: they come as finished blocks from the ledger and are merged and checked in :func:`assemble_summary`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from afterwatt.reports.columns import Floats
from afterwatt.reports.errors import ReportError
from afterwatt.reports.rundir import Run
from afterwatt.reports.schema import SCHEMA_VERSION, SloThresholds, check_summary
from afterwatt.reports.tables import iter_columns, iter_floats

LATENCIES = ("ttft_s", "tpot_s", "e2e_s", "longest_stall_s")
MOVED = {"hbm": "hbm_bytes", "dram_to_hbm": "dram_to_hbm_bytes", "link": "link_bytes"}
QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
Block = dict[str, Any]
Mask = npt.NDArray[np.bool_]


class ServedUnits(NamedTuple):
    """What there is to divide joules, grams and dollars by, over the whole run (warm-up included, as in the totals).

    None where an older run lacks the column that would tell.
    """

    requests: int | None
    output_tokens: int | None
    slo_met_requests: int | None
    slo_met_tokens: int | None


def stats(values: Floats) -> Block:
    """Describe a sample: mean, quantiles (linear between order statistics) and maximum; null where it is empty.

    It is put into another order, not copied: a week of requests fits that way.
    """
    if not len(values):
        return dict.fromkeys(("mean", *QUANTILES, "max"), None)
    mean = float(values.mean())
    quantiles = np.quantile(values, list(QUANTILES.values()), overwrite_input=True)
    return {
        "mean": mean,
        **{name: float(value) for name, value in zip(QUANTILES, quantiles, strict=True)},
        "max": float(values.max()),
    }


def weighted_stats(values: Floats, weights: Floats) -> Block:
    """Describe a histogram: a quantile is the least bin centre that covers this share of the weight."""
    held = weights > 0
    values, weights = values[held], weights[held]
    if not len(values):
        return stats(values)
    order = np.argsort(values, kind="stable")
    values, covered = values[order], np.cumsum(weights[order])
    places = np.searchsorted(covered, np.array(list(QUANTILES.values())) * covered[-1], side="left")
    return {
        "mean": float(np.dot(values, weights[order]) / covered[-1]),
        **{name: float(values[min(place, len(values) - 1)]) for name, place in zip(QUANTILES, places, strict=True)},
        "max": float(values[-1]),
    }


def counted(run: Run) -> Mask:
    """Mark the requests whose latencies count: finished, and not known to be cut off as warm-up."""
    parts = [
        pc.and_(
            _is(batch.column("status"), "finished"), pc.fill_null(batch.column("in_stats").cast(pa.bool_()), True)
        ).to_numpy(zero_copy_only=False)
        for batch in iter_columns(run.file("requests"), ["status", "in_stats"])
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.bool_)


def latency(run: Run, column: str, mask: Mask | None = None) -> Floats:
    """Give the known values of a latency column over the requests that count; memory is 8 bytes for each of these."""
    mask = counted(run) if mask is None else mask
    found = np.empty(np.count_nonzero(mask))
    read = kept = 0
    for (values,) in iter_floats(run.file("requests"), [column]):
        known = values[mask[read : read + len(values)] & ~np.isnan(values)]
        found[kept : kept + len(known)] = known
        read, kept = read + len(values), kept + len(known)
    return found[:kept]


def served(run: Run, slo: SloThresholds | None) -> ServedUnits:
    """Count what was finished, and what of it within the SLO."""
    requests = tokens = met_requests = met_tokens = 0
    limits = slo.thresholds() if slo else {}
    for batch in iter_columns(run.file("requests"), ["status", "output_tokens", *limits]):
        finished = _is(batch.column("status"), "finished")
        produced = batch.column("output_tokens").cast(pa.int64())
        requests += _total(finished.cast(pa.int64()))
        tokens += _total(produced.filter(finished))
        met = finished
        for column, limit in limits.items():  # an unknown latency (TPOT of a single token) breaks no promise
            met = pc.and_(met, pc.fill_null(pc.less_equal(batch.column(column), limit), True))
        met_requests += _total(met.cast(pa.int64()))
        met_tokens += _total(produced.filter(met))
    finishes, produces = run.knows("requests", "status"), run.knows("requests", "status", "output_tokens")
    judges = bool(limits) and run.knows("requests", "status", *limits)
    return ServedUnits(
        requests if finishes else None,
        tokens if produces else None,
        met_requests if judges else None,
        met_tokens if judges and produces else None,
    )


def outcomes(run: Run) -> tuple[Counter[str], Counter[str]]:
    """Count requests by status, and the rejected ones by reason."""
    statuses: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for batch in iter_columns(run.file("requests"), ["status", "reject_reason"]):
        for column, counter in (("status", statuses), ("reject_reason", reasons)):
            for entry in pc.value_counts(batch.column(column).cast(pa.string())).to_pylist():
                if entry["values"] is not None:
                    counter[entry["values"]] += entry["counts"]
    return statuses, reasons


def duration_s(run: Run) -> float | None:
    """Give the length of the run: to the end of the last interval of its timeline."""
    return _last_end_s(*run.columns("timeline", "start_s", "interval_s"))


def _last_end_s(start_s: Floats, interval_s: Floats) -> float | None:
    ends = start_s + interval_s
    return float(ends.max()) if len(ends) else None


def summarise(run: Run, done: ServedUnits | None = None) -> Block:
    """Compute the blocks of summary.json that a run's own files hold.

    Args:
        run: a run directory, finished or about to be (``RunWriter.run()``); it needs no summary.json yet.
        done: the result of :func:`served`, if it is at hand.

    Returns:
        requests, rejected_by, the five latency blocks, throughput, bytes_moved and duration_s.

    Raises:
        ReportError: a file is missing, damaged, or contradicts itself.
    """
    statuses, reasons = outcomes(run)
    odd = set(statuses) - {"finished", "rejected", "unfinished"}
    if odd:
        raise ReportError(f"{run.file('requests')}: status {min(odd)!r} is not finished, rejected or unfinished")
    if sum(reasons.values()) != statuses["rejected"]:
        raise ReportError(
            f"{run.file('requests')}: {statuses['rejected']} requests are rejected but {sum(reasons.values())} have a "
            "reason; give a reject_reason to each rejected one and to no other"
        )
    done = served(run, run.manifest.slo()) if done is None else done
    start_s, interval_s, *moved = run.columns("timeline", "start_s", "interval_s", *MOVED.values())
    length_s = _last_end_s(start_s, interval_s)
    read = _sum(run.column("timeline", "ssd_to_dram_bytes")) if run.knows("timeline", "ssd_to_dram_bytes") else None
    mask = counted(run)
    return {
        "duration_s": length_s,
        "requests": {
            "arrived": sum(statuses.values()),
            **{status: statuses[status] for status in ("finished", "rejected", "unfinished")},
            "slo_met": done.slo_met_requests,
        },
        "rejected_by": dict(sorted(reasons.items())),
        **{name: stats(latency(run, name, mask)) for name in LATENCIES[:2]},
        "itl_s": weighted_stats(*run.columns("itl", "itl_s", "tokens")),
        **{name: stats(latency(run, name, mask)) for name in LATENCIES[2:]},
        "throughput": {
            "requests_per_s": _rate(done.requests, length_s),
            "output_tokens_per_s": _rate(done.output_tokens, length_s),
        },
        "bytes_moved": {"ssd_to_dram": read, **dict(zip(MOVED, map(_sum, moved), strict=True))},
    }


def assemble_summary(run: Run, blocks: Mapping[str, Any], computed: Mapping[str, Any] | None = None) -> Block:
    """Merge what the files say with the blocks computed elsewhere into a whole, checked summary.

    Args:
        run: where manifest and tables are.
        blocks: the remaining keys of the contract: model, hardware, policies, site, load, energy_j, carbon_gco2e, sci,
            cost_usd, quality, breakeven. What is left out is unknown and becomes null.
        computed: the result of :func:`summarise`, if it is at hand.

    Raises:
        ReportError: a block is not as the contract says, or claims what the files already tell.
    """
    computed = dict(computed) if computed is not None else summarise(run)
    twice = sorted(set(computed) & set(blocks))
    if twice:
        raise ReportError(f"summary block {twice[0]!r} is computed from the run's files; do not pass it in as well")
    whole = {
        "schema_version": SCHEMA_VERSION,
        "body": run.manifest.body,
        **_unknown_blocks(run),
        **computed,
        **blocks,
    }
    return check_summary(whole, "summary").model_dump()


def _unknown_blocks(run: Run) -> Block:
    """Give the blocks of the contract that are not computed from the files, all unknown."""
    nothing = {"p5": None, "p50": None, "p95": None}

    def nulls(*names: str) -> Block:
        return dict.fromkeys(names, None)

    return {
        "model": _name(run.manifest.model),
        "hardware": _name(run.manifest.deployment),
        "policies": run.manifest.policies,
        "site": _name(run.manifest.site) if run.manifest.site is not None else None,
        "load": nulls("offered_frac", "capacity_requests_per_s", "devices_needed"),
        "energy_j": {"total": None, "idle": None, "by_component": {}, "by_state": {}, "method": None},
        "carbon_gco2e": {
            **dict.fromkeys(("operational", "embodied", "total"), nothing),
            **nulls("embodied_method", "allocation"),
            "by_method": {},
        },
        "sci": dict.fromkeys(("per_request_gco2e", "per_output_token_gco2e", "per_slo_met_token_gco2e"), nothing),
        "cost_usd": nulls("hardware", "electricity", "total", "per_million_output_tokens"),
        "quality": {"perplexity": None, "source": "not measured"},
        "breakeven": None,
        "other_host_share": None,
        "prediction": None,
    }


def _name(value: object) -> str:
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("key")
    return str(value) if value is not None else "unknown"


def _is(column: pa.Array, value: str) -> pa.Array:
    return pc.fill_null(pc.equal(column.cast(pa.string()), value), False)


def _total(column: pa.Array) -> int:
    return int(pc.sum(column).as_py() or 0)


def _rate(done: int | None, length_s: float | None) -> float | None:
    return done / length_s if done is not None and length_s else None


def _sum(values: Floats) -> float | None:
    return float(values.sum()) if len(values) and not np.isnan(values).any() else None

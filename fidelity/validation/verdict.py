"""What a validation says: figures side by side, four checks apart, and whether the stated bounds are kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from afterwatt.fidelity.calibrate.stack import stack_text
from afterwatt.fidelity.validation.composition import check_composition
from afterwatt.fidelity.validation.decisions import check_decisions
from afterwatt.fidelity.validation.iterations import iteration_errors, read_iterations
from afterwatt.fidelity.validation.load import save_load
from afterwatt.fidelity.validation.measures import Comparison, all_measures, compare, demerits
from afterwatt.fidelity.validation.session import SENSITIVITY, LoadRuns, SessionPlan, SessionResult, Subject, config_of
from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.hwprofiles.serving import Serving
from afterwatt.modelspecs.precision import load_precision
from afterwatt.policies.making import CostModel
from afterwatt.reports.files import write_whole

SCHEMA: Final = 1
RESULT: Final = "validation.json"
STACK: Final = "stack.toml"
CALIBRATION: Final = "calibration.parquet"


@dataclass(frozen=True, slots=True)
class Bound:
    """How far a figure may be off.

    Attributes:
        name: of the figure, as in `measures.all_measures`.
        most: largest absolute relative error.
        from_load, to_load: shares of capacity at which it holds.
    """

    name: str
    most: float
    from_load: float
    to_load: float


BOUNDS: Final = (
    Bound("tpot_s p50", 0.10, 0.0, 0.95),
    Bound("ttft_s p90", 0.20, 0.0, 0.65),
    Bound("output_tokens_per_s", 0.10, 1.0, 10.0),
)
"""Well below capacity latencies can be told; near it a queue magnifies any error: there only throughput is judged."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A bound at a load, and what was found; error_frac None: one side is unknown, which keeps no bound."""

    what: str
    most: float
    error_frac: float | None

    @property
    def kept(self) -> bool:
        """Whether it is kept."""
        return self.error_frac is not None and abs(self.error_frac) <= self.most


def judge(frac: float, comparisons: Sequence[Comparison]) -> list[Judged]:
    """Hold the figures of one load to the bounds that apply."""
    by_name = {one.name: one for one in comparisons}
    return [
        Judged(f"{bound.name} at {frac:.0%}", bound.most, by_name[bound.name].error_frac)
        for bound in BOUNDS
        if bound.from_load <= frac <= bound.to_load
    ]


def conclude(subject: Subject, plan: SessionPlan, found: SessionResult, out: Path, command: str) -> dict[str, Any]:
    """Compare everything, run the four checks, and write `validation.json` beside the runs.

    With it go the calibration load's iterations and the stack that was fitted to them.

    Returns:
        What was written.
    """
    loads, judged, drift = [], [], []
    for runs in found.loads:
        entry, kept = _load(runs)
        loads.append(entry)
        judged += kept
        drift += [value for pair in runs.probe_s for value in pair]
    costs = subject.setup.costs(found.info)
    replays = [_decisions(runs, costs) for runs in found.loads]
    checks: dict[str, Any] = {
        "decisions": replays,
        "operations": _operations(subject, found),
        "composition": _composition(subject, plan, found),
        "prediction": {
            "calibrated_on": f"{len(found.calibration)} iterations of batches and prompts of every size, no trace",
            "tested_on": f"{plan.trace} at {', '.join(f'{runs.frac:.0%}' for runs in found.loads)} of capacity",
        },
    }
    exact = not any(one["mismatches"] for one in replays)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "command": command,
        "model": found.info.model,
        "params": found.info.params,
        "device": found.info.device,
        "dtype": found.info.dtype,
        "hardware": subject.hardware,
        "policies": subject.setup.policies.name,
        "kv_blocks": found.info.kv_blocks,
        "trace": plan.trace,
        "requests": len(plan.requests),
        "repetitions": plan.repetitions,
        "seed": plan.seed,
        "versions": dict(found.info.versions),
        "capacity_requests_per_s": found.capacity_per_s,
        "loads": loads,
        "checks": checks,
        "drift": _drift(found, drift),
        "bounds": [{**asdict(one), "kept": one.kept} for one in judged]
        + [{"what": "decisions replay exactly", "most": 0.0, "error_frac": 0.0 if exact else None, "kept": exact}],
    }
    result["kept"] = all(one["kept"] for one in result["bounds"])
    how = f"iterations of {found.info.model} by `validate`, beginning with kernel times."
    write_whole(out / STACK, stack_text(found.stack, how))
    save_load(found.calibration, out / CALIBRATION)
    write_whole(out / RESULT, json.dumps(result, indent=2, allow_nan=False) + "\n")
    return result


def _load(runs: LoadRuns) -> tuple[dict[str, Any], list[Judged]]:
    assert runs.predicted is not None
    comparisons = compare(all_measures(runs.predicted), [all_measures(run) for run in runs.measured])
    methods = {run.summary.energy_j.method for run in runs.measured}
    entry = {
        "frac": runs.frac,
        "rate_per_s": runs.rate_per_s,
        "engine": [_inside(run.path) for run in runs.measured],
        "sim": _inside(runs.predicted.path),
        "figures": [
            {**asdict(one), "error_frac": one.error_frac, "spread_frac": one.spread_frac} for one in comparisons
        ],
        "demerit_frac": demerits(runs.predicted, runs.measured),
        "energy_method": ", ".join(sorted(filter(None, methods))),
        "probe_s": runs.probe_s,
        "sensitivity": _sensitivity(runs),
    }
    return entry, judge(runs.frac, comparisons)


def _inside(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _sensitivity(runs: LoadRuns) -> dict[str, Any]:
    """Return what the prediction becomes at a little less and a little more load."""
    names = ("ttft_s mean", "ttft_s p50", "ttft_s p90", "tpot_s p50")
    figures = [all_measures(run) for run in runs.beside]
    return {"load_step": SENSITIVITY, **{name: [one[name] for one in figures] for name in names}}


def _decisions(runs: LoadRuns, costs: CostModel) -> dict[str, Any]:
    """Replay each of the engine's runs."""
    replays = [check_decisions(run, costs) for run in runs.measured]
    return {
        "frac": runs.frac,
        "entries": sum(one.entries for one in replays),
        "preemptions": sum(int(run.column("requests", "preemptions").sum()) for run in runs.measured),
        "mismatches": [str(one.mismatch) for one in replays if one.mismatch is not None],
    }


def _operations(subject: Subject, found: SessionResult) -> list[dict[str, Any]]:
    """Hold the fitted model to the iterations it was fitted to, and to those of the runs, which it has not seen."""
    times = TimeModel(Serving(subject.deployment, subject.model, load_precision(found.info.dtype), found.stack))
    rows = [{"of": "calibration", **asdict(one)} for one in iteration_errors(times, found.calibration)]
    for runs in found.loads:
        iterations = [one for run in runs.measured for one in read_iterations(run.path)]
        rows += [{"of": f"load {runs.frac:.0%}", **asdict(one)} for one in iteration_errors(times, iterations)]
    return rows


def _composition(subject: Subject, plan: SessionPlan, found: SessionResult) -> list[dict[str, Any]]:
    rows = []
    for runs in found.loads:
        config = config_of(subject, plan, found.stack, found.info, runs.rate_per_s)
        for number, run in enumerate(runs.measured, 1):
            composed = check_composition(run, config)
            if composed is not None:
                rows.append({"frac": runs.frac, "repetition": number, **asdict(composed)})
    return rows


def _drift(found: SessionResult, probes: Sequence[float]) -> Mapping[str, Any]:
    """Return what the probe says of the machine: relative to what it took while the engine was calibrated."""
    reference = float(np.median(found.calibration_probe_s))
    ratios = [value / reference for value in probes]
    return {
        "probe": "one decoding iteration of a single sequence",
        "calibration_s": found.calibration_probe_s,
        "low": min(ratios, default=None),
        "median": float(np.median(ratios)) if ratios else None,
        "high": max(ratios, default=None),
    }

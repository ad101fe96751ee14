"""Decisions: an engine's recorded outcomes, fed to the simulator, must lead it to the same decision log."""

from pathlib import Path

from afterwatt.engine.runtime.record import read_asked, read_steps
from afterwatt.policies.config import PolicySet
from afterwatt.policies.making import CostModel
from afterwatt.policies.sizes import SchedulerConfig
from afterwatt.reports.decisions import read_decisions
from afterwatt.reports.errors import ReportError
from afterwatt.reports.rundir import Run
from afterwatt.sim.replay import RecordedRequest, RecordedStep, Replayed, replay_decisions

PS_PER_NS = 1000


def recorded_steps(folder: Path) -> list[RecordedStep]:
    """Read an engine's iterations with their decisions from its run directory.

    Raises:
        ReportError: a table is missing, or they do not belong together.
    """
    steps, entries = read_steps(folder / "steps.parquet"), read_decisions(folder / "decisions.parquet")
    if len(steps) != len(entries):
        raise ReportError(f"{folder}: {len(steps)} iterations, {len(entries)} decisions; one of the tables is cut off")
    ends = [step.plan_ns for step in steps[1:]] + [step.done_ns for step in steps[-1:]]
    return [
        RecordedStep(
            step.plan_ns * PS_PER_NS,
            end_ns * PS_PER_NS,
            step.arrivals,
            entry,
            step.stopped,
            step.free_blocks,
            step.outstanding_tokens,
        )
        for step, end_ns, entry in zip(steps, ends, entries, strict=True)
    ]


def recorded_requests(folder: Path) -> list[RecordedRequest]:
    """Read what an engine was asked for from its run directory; errors as `recorded_steps`."""
    return [
        RecordedRequest(
            asked.request_id,
            asked.prompt_tokens,
            asked.output_tokens,
            asked.prefix,
            None if asked.refused_ns is None else asked.refused_ns * PS_PER_NS,
        )
        for asked in read_asked(folder / "asked.parquet")
    ]


def check_decisions(run: Run, costs: CostModel) -> Replayed:
    """Replay an engine's run in the simulator.

    Args:
        run: the engine's.
        costs: whom its policy could ask.

    Raises:
        ReportError: the run was not made by an engine that keeps its decisions.
    """
    said = run.manifest.model_dump()
    worker = said.get("worker")
    if not isinstance(worker, dict) or "scheduler" not in worker:
        raise ReportError(f"{run.path} has no recorded worker; only the engine's runs can be held to their decisions")
    policies = PolicySet(**said["config"]["policies"])
    config = SchedulerConfig(**worker["scheduler"])
    batching = policies.make_batching(costs)
    whole = not (said["interrupted"] or said["lost"])
    return replay_decisions(config, batching, recorded_requests(run.path), recorded_steps(run.path), whole)

"""The engine's run directory: what the recording holds, under the same contract as the simulator's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from afterwatt.engine.runtime.drive import Recording, Served
from afterwatt.engine.runtime.process import WorkerSetup
from afterwatt.engine.runtime.record import read_asked, read_steps, request_columns, timeline_columns, write_run
from afterwatt.engine.runtime.request import Report
from afterwatt.policies.config import PolicySet
from afterwatt.reports.decisions import read_decisions
from tests.engine.arithmetic import ArithmeticCompute
from tests.engine.runtime.test_worker import run as work
from tests.engine.runtime.test_worker import worlds

INFO = replace(ArithmeticCompute(64, 4, max_context=60).info, versions={"python": "3"}, more={"block_bytes": 64.0})


def recorded(world) -> Recording:
    """A world run with a clock of a millisecond per look at it, as a recording."""
    config, batching, requests = world
    _, report = work(config, batching, requests)
    recording = Recording(0)
    scale = 1_000_000

    def later(step):
        step.plan_ns, step.compute_ns, step.done_ns = (
            scale * (1 + at) for at in (step.plan_ns, step.compute_ns, step.done_ns)
        )
        return step

    report = Report(
        [later(s) for s in report.steps], report.decisions, report.refusals, report.admissions, report.preempted
    )
    recording.served = {request.request_id: Served(request, 0) for _, request in requests}
    recording.add(report)
    recording.end_ns = (report.steps[-1].done_ns if report.steps else 0) + scale
    return recording


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_the_timeline_conserves_time_tokens_and_blocks(world):
    recording = recorded(world)
    columns = timeline_columns(recording, 64, 64.0)
    assert columns["interval_s"].sum() == pytest.approx(recording.duration_s)
    busy = sum(step.done_ns - step.plan_ns for step in recording.steps) / 1e9
    assert (columns["prefill_s"] + columns["decode_s"]).sum() == pytest.approx(busy)
    assert columns["idle_s"].sum() == pytest.approx(recording.duration_s - busy)
    assert columns["output_tokens"].sum() == pytest.approx(
        sum(len(served.output_ids) for served in recording.served.values())
    )
    computed = sum(chunk.tokens for step in recording.steps for chunk in step.chunks)
    assert columns["prompt_tokens"].sum() == pytest.approx(computed)
    swapped = sum(step.swapped_blocks for step in recording.steps)
    assert columns["dram_to_hbm_bytes"].sum() == pytest.approx(64.0 * swapped)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=worlds())
def test_a_run_directory_holds_what_was_recorded(world, tmp_path: Path):
    recording = recorded(world)
    setup = WorkerSetup(PolicySet(block_tokens=4))
    run = write_run(
        recording, INFO, setup, tmp_path / "run", hardware="here", workload="made up", seed=0, overwrite=True
    )
    summary = run.summary
    assert summary.body == "engine"
    finished = [served for served in recording.served.values() if served.finished]
    assert summary.requests.finished == len(finished)
    assert summary.requests.arrived == len(recording.served)
    assert summary.energy_j.total is None
    assert summary.energy_j.method == "unknown"
    assert summary.bytes_moved.hbm is None
    if finished:
        ttft = [(served.token_ns[0] - served.request.arrival_ns) / 1e9 for served in finished]
        assert summary.ttft_s.mean == pytest.approx(np.mean(ttft))
        assert summary.e2e_s.max == pytest.approx(
            max((served.token_ns[-1] - served.request.arrival_ns) / 1e9 for served in finished)
        )
    assert read_steps(run.path / "steps.parquet") == recording.steps
    assert read_decisions(run.path / "decisions.parquet") == [tuple(entry) for entry in recording.decisions]
    classes = [served.request.klass for _, served in sorted(recording.served.items())]
    assert pq.read_table(run.path / "requests.parquet")["class"].to_pylist() == classes
    asked = read_asked(run.path / "asked.parquet")
    assert [(row.request_id, row.output_tokens) for row in asked] == [
        (i, s.request.output_tokens) for i, s in sorted(recording.served.items())
    ]


def test_a_lost_worker_stands_in_the_manifest_and_its_requests_are_unfinished(tmp_path: Path):
    world = next_world()
    recording = recorded(world)
    victim = recording.served[0]
    victim.finished, victim.lost, recording.lost = False, True, "the worker (process 7) was killed by SIGKILL"
    run = write_run(recording, INFO, WorkerSetup(PolicySet()), tmp_path / "run", hardware="here", workload="w", seed=0)
    assert run.summary.requests.unfinished == 1
    (warning,) = run.manifest.warnings
    assert "killed by SIGKILL" in warning
    assert "1 requests were lost: 0" in warning


def next_world():
    from afterwatt.engine.runtime.request import Request
    from afterwatt.policies.sizes import SchedulerConfig

    config = SchedulerConfig(kv_blocks=30, block_tokens=4, max_seqs=4, token_budget=30, max_context_tokens=60)
    return config, "chunked", [(0, Request(n, np.arange(6), 4)) for n in range(3)]


def test_the_clock_of_the_machine_leaves_no_trace(tmp_path: Path):
    """The same run a second later is the same run."""
    runs = []
    for later_ns in (0, 10**9):
        recording = recorded(next_world())
        recording.start_ns += later_ns
        recording.end_ns += later_ns
        for step in recording.steps:
            step.plan_ns, step.compute_ns, step.done_ns = (
                at + later_ns for at in (step.plan_ns, step.compute_ns, step.done_ns)
            )
        for served in recording.served.values():
            served.request = replace(served.request, arrival_ns=served.request.arrival_ns + later_ns)
            served.token_ns = [at + later_ns for at in served.token_ns]
            served.scheduled_ns = None if served.scheduled_ns is None else served.scheduled_ns + later_ns
        out = tmp_path / str(later_ns)
        runs.append(write_run(recording, INFO, WorkerSetup(PolicySet()), out, hardware="h", workload="w", seed=0))
    first, second = runs
    assert first.requests.equals(second.requests)
    assert first.timeline.equals(second.timeline)
    for read, name in ((read_steps, "steps.parquet"), (read_asked, "asked.parquet")):
        assert read(first.path / name) == read(second.path / name)


def test_unknown_times_are_nan_not_zero():
    recording = Recording(0, 10, {0: Served(next_world()[2][0][1], 0)})
    columns = request_columns(recording)
    assert columns["status"] == ["unfinished"]
    for name in ("scheduled_s", "first_token_s", "finish_s", "ttft_s", "tpot_s", "e2e_s", "longest_stall_s"):
        assert np.isnan(columns[name]).all()

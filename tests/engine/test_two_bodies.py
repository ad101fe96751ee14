"""The engine on a clock that the simulator's physics moves, and the simulator: the same run, request for request.

What is between them in a real validation (an engine that is not as fast as predicted, a pipe, a noisy machine) is taken
away here, so that whatever is left would be a fault: of a queue, a wake-up, a record, a comparison.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from afterwatt.engine.runtime.compute import PlacedMove, StepBatch
from afterwatt.engine.runtime.drive import Recording, Served
from afterwatt.engine.runtime.process import WorkerSetup, scheduler_config
from afterwatt.engine.runtime.record import write_run
from afterwatt.engine.runtime.request import Request
from afterwatt.engine.runtime.worker import EngineWorker
from afterwatt.fidelity.validation.composition import check_composition
from afterwatt.fidelity.validation.costs import ProfileCosts
from afterwatt.fidelity.validation.decisions import check_decisions
from afterwatt.fidelity.validation.iterations import (
    FITTED,
    Iteration,
    fit_iterations,
    iteration_errors,
    predicted_s,
    read_iterations,
)
from afterwatt.fidelity.validation.load import save_load
from afterwatt.fidelity.validation.measures import all_measures, compare, demerits, single
from afterwatt.fidelity.validation.session import LoadRuns, SessionPlan, SessionResult, Subject, config_of, predict
from afterwatt.fidelity.validation.verdict import conclude, judge
from afterwatt.hwprofiles.deployment import parse_deployment
from afterwatt.hwprofiles.roofline import PS_PER_S, TimeModel
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.modelspecs import load_model
from afterwatt.modelspecs.precision import load_precision
from afterwatt.policies.batching import BATCHING
from afterwatt.policies.config import PolicySet, parse_policies
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.making import UnknownCosts
from afterwatt.policies.slo import Slo
from afterwatt.reports.decisions import read_decisions
from afterwatt.reports.validation import write_validation_page
from afterwatt.traces.schema import Batch
from tests.engine.arithmetic import ArithmeticCompute
from tests.policies.test_own_words import Paced

DEPLOYMENT = parse_deployment("m40")
MODEL = replace(load_model("tinyllama-1.1b"), max_context=1024)
PRECISION = load_precision("fp16")
STACK = load_stack(DEPLOYMENT.pool.device)
SERVING = Serving(DEPLOYMENT, MODEL, PRECISION, STACK)
KV_BLOCKS = 40


@dataclass
class Clock:
    """Nanoseconds that pass only when somebody says so."""

    now_ns: int = 0

    def __call__(self) -> int:
        return self.now_ns


class PhysicalCompute:
    """Takes as long as the simulator's physics says, and chooses token 0."""

    def __init__(self, clock: Clock, slower: float = 1.0) -> None:
        self.clock, self.slower = clock, slower
        self.times = TimeModel(SERVING)
        arithmetic = ArithmeticCompute(KV_BLOCKS, 16, max_context=1024).info
        self.info = replace(arithmetic, model="tinyllama-1.1b", device="m40", dtype="fp16", kv_dtype="fp16", vocab=100)

    def step(self, batch: StepBatch) -> list[list[int]]:
        some = list(zip(batch.query_tokens, batch.past_tokens, strict=True))
        chunks = [(None, query, past) for query, past in some[: batch.prompts]]
        context = sum(past + 1 for _, past in some[batch.prompts :])
        took_ps = self.times.step(len(some) - batch.prompts, context, chunks, sum(batch.emits), 1)[0]
        self.clock.now_ns += round(took_ps * self.slower / 1000)
        return [[0]] * sum(batch.emits)

    def move(self, moves: Sequence[PlacedMove]) -> None:
        raise AssertionError("nothing is swapped here")

    def close(self) -> None:
        pass


def workload(requests: int = 60, rate_per_s: float = 2.5) -> Batch:
    random = np.random.default_rng(11)
    arrival_s = np.concatenate([[0.0], np.cumsum(random.exponential(1 / rate_per_s, requests - 1))])
    return Batch(np.round(arrival_s, 6), random.integers(5, 300, requests), random.integers(1, 60, requests))


def engine_run(setup: WorkerSetup, batch: Batch, out: Path, slower: float = 1.0):
    """Serve the workload on the clock."""
    clock = Clock()
    compute = PhysicalCompute(clock, slower)
    batching = setup.policies.make_batching(setup.costs(compute.info))
    worker = EngineWorker(compute, scheduler_config(setup, compute.info), batching, clock, slo=setup.slo)
    due = [
        Request(number, np.zeros(prompt, dtype=np.int64), output, round(arrival * 1e9))
        for number, (arrival, prompt, output) in enumerate(
            zip(batch.arrival_s.tolist(), batch.prompt_tokens.tolist(), batch.output_tokens.tolist(), strict=True)
        )
    ]
    recording = Recording(0, served={request.request_id: Served(request, request.arrival_ns) for request in due})
    while True:
        worker.take([request for request in due if request.arrival_ns <= clock.now_ns])
        due = [request for request in due if request.arrival_ns > clock.now_ns]
        if worker.step():
            continue
        if not due:
            break
        clock.now_ns = due[0].arrival_ns
    recording.add(worker.take_report())
    recording.end_ns = clock.now_ns
    return write_run(recording, compute.info, setup, out, hardware="m40", workload="made up", seed=0)


@pytest.fixture(params=["chunked", "prefill-first+budget=128", "chunked+budget=64+seqs=6+no-prefix"])
def setup(request: pytest.FixtureRequest) -> WorkerSetup:
    return WorkerSetup(replace(parse_policies(request.param), kv_blocks=KV_BLOCKS))


def subject_of(setup: WorkerSetup) -> Subject:
    return Subject(DEPLOYMENT, MODEL, STACK, setup, "m40")


def found_of(setup: WorkerSetup) -> SessionResult:
    return SessionResult(PhysicalCompute(Clock()).info, STACK, [], [(1.0, 1.0)], 1.0)


def both(setup: WorkerSetup, tmp_path: Path, slower: float = 1.0):
    batch = workload()
    plan = SessionPlan(batch, None, trace="made up")
    rate = (len(batch) - 1) / float(batch.arrival_s[-1])
    real = engine_run(setup, batch, tmp_path / "load-100" / "engine-1", slower)
    virtual = predict(subject_of(setup), plan, found_of(setup), rate, tmp_path / "load-100" / "sim")
    return plan, rate, real, virtual


def test_both_bodies_live_through_the_same_run(setup: WorkerSetup, tmp_path: Path):
    plan, rate, real, virtual = both(setup, tmp_path)
    assert real.column("requests", "preemptions").sum() > 0  # else memory was not tight, and little is shown
    for column in ("first_token_s", "finish_s", "scheduled_s", "longest_stall_s", "preemptions", "cached_tokens"):
        # Whole nanoseconds here, picoseconds there.
        np.testing.assert_allclose(
            real.column("requests", column), virtual.column("requests", column), rtol=0, atol=2e-6, err_msg=column
        )
    mine, theirs = (read_decisions(run.path / "decisions.parquet") for run in (real, virtual))
    assert [entry[3:] for entry in mine] == [entry[3:] for entry in theirs]
    for one in compare(all_measures(virtual), [all_measures(real)]):
        if one.name != "energy_j" and not one.name.startswith("itl_s p"):
            assert one.error_frac == pytest.approx(0.0, abs=1e-3), one.name  # its histogram is exact in the mean only
    assert all(value < 1e-3 for value in demerits(virtual, [real]).values())
    assert check_decisions(real, UnknownCosts()).mismatch is None
    composed = check_composition(real, config_of(subject_of(setup), plan, STACK, found_of(setup).info, rate))
    assert composed.requests == len(plan.requests)
    assert composed.ttft < 1e-4
    assert abs(composed.mean_e2e) < 1e-4
    errors = iteration_errors(TimeModel(SERVING), read_iterations(real.path))
    assert all(error.p90 < 1e-4 for error in errors)


def test_a_policy_that_asks_for_costs_is_told_the_same_in_both_bodies(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(BATCHING, "paced", Paced)
    costs = ProfileCosts(DEPLOYMENT, MODEL, STACK)
    known = costs(PhysicalCompute(Clock()).info)
    policies = parse_policies(f"paced+pace={known.step_s(0, 3, 300)!r}")
    setup = WorkerSetup(replace(policies, kv_blocks=KV_BLOCKS), costs=costs, slo=Slo(e2e_s=0.3))
    _, _, real, virtual = both(setup, tmp_path)
    mine, theirs = (read_decisions(run.path / "decisions.parquet") for run in (real, virtual))
    assert [entry[3:] for entry in mine] == [entry[3:] for entry in theirs]
    assert max(entry[3] for entry in mine) == 3
    assert check_decisions(real, known).mismatch is None
    assert 0 < real.summary.requests.slo_met == virtual.summary.requests.slo_met < 60
    with pytest.raises(PolicyError, match="which this body does not know"):
        check_decisions(real, UnknownCosts())


def test_an_engine_that_is_slower_shows_as_such_and_exceeds_the_bounds(tmp_path: Path):
    setup = WorkerSetup(PolicySet(kv_blocks=KV_BLOCKS))
    plan, rate, real, virtual = both(setup, tmp_path, slower=1.25)
    errors = {one.name: one.error_frac for one in compare(all_measures(virtual), [all_measures(real)])}
    assert errors["itl_s mean"] < -0.15
    found = found_of(setup)
    runs = LoadRuns(0.6, rate, [real], virtual, [virtual, virtual], [(1.0, 1.0)])
    found.loads.append(runs)
    result = conclude(subject_of(setup), plan, found, tmp_path, "validate")
    assert not result["kept"]
    assert {one["what"]: one["kept"] for one in result["bounds"]}["decisions replay exactly"]
    (page,) = (write_validation_page(tmp_path),)
    text = page.read_text()
    assert "exceeded" in text
    assert "TPOT p50 at 60%" in text


@pytest.mark.parametrize(("method", "joules"), [("nvml-counter", 5.0), ("modelled: 1 W idle, 2 W busy", None)])
def test_a_model_of_watts_checks_no_other_one(method: str, joules: float | None):
    energy = SimpleNamespace(total=5.0, method=method, by_component={})
    run = SimpleNamespace(summary=SimpleNamespace(body="engine", energy_j=energy))
    assert single(run, "energy_j") == joules


def test_unknown_keeps_no_bound():
    (judged, *_) = judge(
        0.3, compare({"tpot_s p50": None, "ttft_s p90": 1.0}, [{"tpot_s p50": 1.0, "ttft_s p90": 1.1}])
    )
    assert judged.error_frac is None
    assert not judged.kept


def test_a_fit_to_iterations_finds_what_made_them(tmp_path: Path):
    """Iterations of a stack with other parameters: their times come out, whatever the parameters' names."""
    run = engine_run(WorkerSetup(PolicySet(kv_blocks=KV_BLOCKS)), workload(), tmp_path / "run")
    true = STACK.with_values({"mem_efficiency": 0.31, "layer_overhead_s": 2e-4, "step_overhead_s": 3e-3})
    times = TimeModel(replace(SERVING, stack=true))
    iterations = [
        replace(one, seconds=times.step(
            one.decoding, one.context_tokens, [(None, tokens, past) for tokens, past in one.chunks], one.emits, 1
        )[0] / PS_PER_S)
        for one in read_iterations(run.path)
    ]  # fmt: skip
    before = {error.kind: error for error in iteration_errors(TimeModel(SERVING), iterations)}
    fitted = fit_iterations(SERVING, iterations, "here")
    after = {error.kind: error for error in iteration_errors(TimeModel(replace(SERVING, stack=fitted)), iterations)}
    assert before["decode"].median > 0.2
    assert all(error.median < 0.02 for error in after.values())
    assert abs(after["all"].bias) < 0.01
    for name in FITTED:
        assert getattr(fitted, name).kind == "fitted"
        assert "iterations" in getattr(fitted, name).source
    assert fitted.wake_s == STACK.wake_s  # of a rest that costs nothing there is nothing to fit


def test_a_fit_finds_what_a_rest_costs():
    start = STACK.with_values({"wake_s": 1e-3, "wake_after_s": 0.3})
    costly = start.with_values({"wake_s": 0.02, "wake_after_s": 0.15})
    true = TimeModel(replace(SERVING, stack=costly))
    shapes = [
        Iteration(0, 0, ((tokens, 0),), 1, 0.0, rest_s) for tokens in (8, 32, 128) for rest_s in (0.0, 0.1, 0.3, 0.9)
    ] + [Iteration(batch, 40 * batch, (), batch, 0.0) for batch in (1, 4, 16)]
    iterations = [replace(one, seconds=float(predicted_s(true, [one])[0])) for one in shapes]
    found = fit_iterations(replace(SERVING, stack=start), iterations, "")
    fitted = TimeModel(replace(SERVING, stack=found))
    for rest_s in (0.05, 0.2, 2.0):
        rest_ps = round(rest_s * PS_PER_S)
        assert fitted.wake_ps(rest_ps) == pytest.approx(true.wake_ps(rest_ps), rel=0.1)


def test_a_calibration_load_is_kept_iteration_by_iteration(tmp_path: Path):
    iterations = [Iteration(3, 40, (), 3, 0.02), Iteration(1, 9, ((16, 0), (5, 64)), 2, 0.5)]
    save_load(iterations, tmp_path / "calibration.parquet")
    rows = pq.read_table(tmp_path / "calibration.parquet").to_pylist()
    assert rows == [asdict(one) | {"chunks": [list(chunk) for chunk in one.chunks]} for one in iterations]

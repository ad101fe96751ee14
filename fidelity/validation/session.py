"""A validation: one workload through the engine in real time and through the simulator, load by load.

The engine is calibrated on a load of its own (`fidelity.validation.load`). A round of it precedes every run of the
trace, and loads take turns within each repetition: a machine that drifts has then drifted alike for all of them. Around
each the same probe is timed: what it moves by is the drift. The model is fitted to all rounds, and predicts after that.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from itertools import product
from math import inf
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from afterwatt.engine.runtime.compute import GREEDY, ComputeInfo, StepBatch
from afterwatt.engine.runtime.drive import NS_PER_S, drive
from afterwatt.engine.runtime.energy.reading import EnergyMeter
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.process import WorkerProcess, WorkerSetup
from afterwatt.engine.runtime.prompts import prompt_ids
from afterwatt.engine.runtime.record import write_run
from afterwatt.engine.runtime.request import Request
from afterwatt.fidelity.serving.run import RecordedTrace
from afterwatt.fidelity.validation.iterations import Iteration, fit_iterations
from afterwatt.fidelity.validation.load import calibration_load, undisturbed
from afterwatt.hwprofiles.catalogue import load_site
from afterwatt.hwprofiles.deployment import Deployment
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import Stack
from afterwatt.modelspecs.precision import load_precision
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.reports.rundir import Run
from afterwatt.sim.capacity import throughput, token_weights
from afterwatt.sim.config import RunConfig
from afterwatt.sim.run import simulate
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.workload import TraceWorkload
from afterwatt.traces.schema import Batch

Floats = NDArray[np.float64]
Say = Callable[[str], None]
PROBES: Final = 5
SENSITIVITY: Final = 0.03
"""Share by which the load is moved to see what latencies near capacity hang on."""


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What a validation runs.

    Attributes:
        requests: lengths and arrival times, in order; times are stretched to each load.
        prefix_unit_tokens: tokens per prefix block of theirs (None: they share nothing).
        loads: shares of the measured capacity.
        repetitions: runs of the engine at each load.
        capacity_requests: how many are put before it at once to measure capacity.
        rounds: of the load that it is calibrated on, before the first run and after each.
        seed: of prompts.
        trace: how reports call the workload.
        within_s: no further run is begun that may end later than this; loads without a run are left out.
    """

    requests: Batch
    prefix_unit_tokens: int | None
    loads: tuple[float, ...] = (0.3, 0.6, 0.9, 1.1)
    repetitions: int = 3
    capacity_requests: int = 48
    rounds: int = 1
    _: KW_ONLY
    seed: int = 0
    trace: str = "trace"
    within_s: float = inf


@dataclass(frozen=True, slots=True)
class Subject:
    """What is validated: a deployment of one device, a model on it, and the stack that is to be refined.

    Attributes:
        deployment: with the calibrated profile.
        model: its shape.
        stack: as the device's calibration left it.
        setup: of the worker.
        hardware: how reports call the device.
    """

    deployment: Deployment
    model: ModelSpec
    stack: Stack
    setup: WorkerSetup
    hardware: str


@dataclass(slots=True)
class LoadRuns:
    """The runs at one load.

    Attributes:
        frac: of the measured capacity; rate_per_s: of arrivals.
        measured: the engine's, one per repetition; predicted: the simulator's.
        beside: predictions at a little less and a little more load.
        probe_s: the drift probe before and after each repetition.
    """

    frac: float
    rate_per_s: float
    measured: list[Run] = field(default_factory=list)
    predicted: Run | None = None
    beside: list[Run] = field(default_factory=list)
    probe_s: list[tuple[float, float]] = field(default_factory=list)


@dataclass(slots=True)
class SessionResult:
    """What a validation has gathered.

    Attributes:
        info: of the model.
        stack: fitted to the calibration load.
        calibration: iterations of that load; calibration_probe_s: the drift probe around each round of it.
        capacity_per_s: requests per second, measured.
        loads: the runs at each load.
    """

    info: ComputeInfo
    stack: Stack
    calibration: list[Iteration] = field(default_factory=list)
    calibration_probe_s: list[tuple[float, float]] = field(default_factory=list)
    capacity_per_s: float = 0.0
    loads: list[LoadRuns] = field(default_factory=list)


def validate(
    worker: WorkerProcess, subject: Subject, plan: SessionPlan, meter: EnergyMeter | None, out: Path, say: Say
) -> SessionResult:
    """Run a validation; its run directories lie under `out`.

    Raises:
        EngineError: the worker was lost, or nothing of the workload can be served.
        KeyboardInterrupt: it was ended; the runs that were done by then are whole.
        Infeasible: the simulator does not find room for what the engine holds.
    """
    found = SessionResult(worker.info, subject.stack)
    clock = _Clock(plan.within_s)
    say("calibrating the engine, round 1")
    _calibrate(worker, subject, plan, found)
    _fit(subject, found)
    say("capacity: the workload all at once")
    found.capacity_per_s = _capacity(worker, subject, plan, found.stack)
    say(f"capacity: {found.capacity_per_s:.3g} requests/s")
    found.loads = [LoadRuns(frac, frac * found.capacity_per_s) for frac in plan.loads]
    for repetition, runs in product(range(plan.repetitions), found.loads):
        with clock.room() as room:
            if not room:
                break
            say(f"repetition {repetition + 1} of {plan.repetitions}, load {runs.frac:.0%}")
            _run(worker, subject, plan, runs, meter, _folder(out, runs) / f"engine-{repetition + 1}")
            _calibrate(worker, subject, plan, found)
    found.loads = [runs for runs in found.loads if runs.measured]
    if not found.loads:
        raise EngineError(f"no run ends within {plan.within_s:g} s; give it longer, or fewer requests")
    say("fitting, simulating")
    _fit(subject, found)
    for runs in found.loads:
        folder = _folder(out, runs)
        runs.predicted = predict(subject, plan, found, runs.rate_per_s, folder / "sim")
        runs.beside = [
            predict(subject, plan, found, runs.rate_per_s * (1.0 + step), folder / f"sim-{100 * step:+.0f}")
            for step in (-SENSITIVITY, SENSITIVITY)
        ]
    return found


class _Clock:
    """Says whether there is room for one more run: the longest so far would end in time."""

    def __init__(self, within_s: float) -> None:
        self._end_s = time.monotonic() + within_s
        self._longest_s = 0.0

    @contextmanager
    def room(self) -> Iterator[bool]:
        begun_s = time.monotonic()
        yield begun_s + self._longest_s < self._end_s
        self._longest_s = max(self._longest_s, time.monotonic() - begun_s)


def _folder(out: Path, runs: LoadRuns) -> Path:
    return out / f"load-{round(100 * runs.frac):03d}"


def _calibrate(worker: WorkerProcess, subject: Subject, plan: SessionPlan, found: SessionResult) -> None:
    """Run the calibration load once more."""
    longest = int((plan.requests.prompt_tokens + plan.requests.output_tokens).max())
    before = probe(worker)
    seed = plan.seed + plan.rounds * len(found.calibration_probe_s)
    found.calibration += calibration_load(worker, subject.setup, longest, plan.rounds, seed)
    found.calibration_probe_s.append((before, probe(worker)))


def _fit(subject: Subject, found: SessionResult) -> None:
    """Fit the stack to all that the calibration load has shown so far."""
    precision = load_precision(found.info.dtype)
    source = f"its calibration load under {subject.setup.policies.name}"
    start = Serving(subject.deployment, subject.model, precision, subject.stack)
    found.stack = fit_iterations(start, found.calibration, source)


def _run(
    worker: WorkerProcess, subject: Subject, plan: SessionPlan, runs: LoadRuns, meter: EnergyMeter | None, out: Path
) -> None:
    """Run the trace at one load, once."""
    own_rate = (len(plan.requests) - 1) / float(plan.requests.arrival_s[-1])
    requests = _requests(plan, worker.info, own_rate / runs.rate_per_s)
    before = probe(worker)
    runs.measured.append(_measured(worker, subject, plan, requests, meter, out))
    runs.probe_s.append((before, probe(worker)))


def probe(worker: WorkerProcess) -> float:
    """Return the median time of one decoding iteration of a single sequence, the drift probe."""
    worker.halt()
    batch = StepBatch([0], np.array([1], dtype=np.int64), [1], [0], 0, [[0]], [True], [GREEDY])
    times = worker.time_steps([batch], PROBES)
    return float(np.median([row[0] for row in times]))


def _requests(plan: SessionPlan, info: ComputeInfo, stretch: float) -> list[Request]:
    """Turn the plan's requests into the engine's, with arrival times stretched."""
    batch, unit = plan.requests, plan.prefix_unit_tokens
    prefixes = batch.prefixes if batch.prefixes is not None else [()] * len(batch)
    classes = batch.klass if batch.klass is not None else [None] * len(batch)
    columns = (batch.arrival_s.tolist(), batch.prompt_tokens.tolist(), batch.output_tokens.tolist(), prefixes, classes)
    return [
        Request(
            number,
            prompt_ids(prompt, info.vocab, plan.seed, number, prefix, unit),
            output,
            round(arrival_s * stretch * NS_PER_S),
            prefix=tuple(prefix),
            klass=klass,
        )
        for number, (arrival_s, prompt, output, prefix, klass) in enumerate(zip(*columns, strict=True))
    ]


def _measured(
    worker: WorkerProcess,
    subject: Subject,
    plan: SessionPlan,
    requests: Sequence[Request],
    meter: EnergyMeter | None,
    out: Path,
) -> Run:
    if meter is not None:
        meter.start()
    recording = drive(worker, requests)
    busy_s = sum(step.done_ns - step.plan_ns for step in recording.steps) / NS_PER_S
    reading = None if meter is None else meter.stop(busy_s)
    run = write_run(
        recording,
        worker.info,
        subject.setup,
        out,
        hardware=subject.hardware,
        workload=plan.trace,
        seed=plan.seed,
        energy_j=None if reading is None else reading.joules,
        energy_method="unknown" if reading is None else reading.method,
        overwrite=True,
    )
    undisturbed(recording)
    return run


def _capacity(worker: WorkerProcess, subject: Subject, plan: SessionPlan, stack: Stack) -> float:
    """Return requests per second while the queue does not run empty, as `sim.capacity` measures it in virtual time."""
    some = dataclasses.replace(plan, requests=plan.requests.sliced(0, plan.capacity_requests))
    recording = undisturbed(drive(worker, _requests(some, worker.info, 0.0)))
    tickets = []
    for request_id, served in sorted(recording.served.items()):
        if served.finished:
            ticket = Ticket(request_id, len(served.request.prompt_ids), served.request.output_tokens, (), 0)
            ticket.scheduled_ps = 1000 * ((served.scheduled_ns or 0) - recording.start_ns)
            ticket.finish_ps = 1000 * (served.token_ns[-1] - recording.start_ns)
            tickets.append(ticket)
    batch = plan.requests
    together = max(1, round(np.mean([step.running for step in recording.steps]))) if recording.steps else 1
    weights = np.array(token_weights(config_of(subject, plan, stack, worker.info, 1.0), together))
    lengths = np.stack([batch.prompt_tokens, batch.output_tokens], axis=1)
    capacity = throughput(tickets, float((lengths @ weights).mean()), weights)
    if capacity is None:
        raise EngineError("nothing of the workload can be served; take shorter requests, or give the cache more blocks")
    return capacity


def config_of(subject: Subject, plan: SessionPlan, stack: Stack, info: ComputeInfo, rate_per_s: float) -> RunConfig:
    """Return the simulation of the engine's run at a rate of arrivals."""
    batch = plan.requests
    stretch = (len(batch) - 1) / float(batch.arrival_s[-1]) / rate_per_s
    # The engine is told whole nanoseconds; so is the simulator.
    arrival_s = np.rint(batch.arrival_s * stretch * NS_PER_S) / NS_PER_S
    trace = RecordedTrace(plan.trace, dataclasses.replace(batch, arrival_s=arrival_s), plan.prefix_unit_tokens)
    policies = dataclasses.replace(subject.setup.policies, kv_blocks=info.kv_blocks, block_tokens=info.block_tokens)
    return RunConfig(
        deployment=subject.deployment,
        model=dataclasses.replace(subject.model, max_context=info.max_context),
        precision=load_precision(info.dtype),
        stack=stack,
        policies=policies,
        site=load_site("world"),
        workload=TraceWorkload(trace),
        slo=subject.setup.slo,
        seed=plan.seed,
        decisions=True,
    )


def predict(subject: Subject, plan: SessionPlan, found: SessionResult, rate_per_s: float, out: Path) -> Run:
    """Simulate the engine's run at a rate of arrivals."""
    return simulate(config_of(subject, plan, found.stack, found.info, rate_per_s), out, overwrite=True)

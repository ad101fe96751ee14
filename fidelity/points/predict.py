"""Predicting a measured point by running the simulator on its load, and reading the metric off what came of it.

The body is the one that `simulate` runs; no file is written and no report made. `measure` needs nothing but the columns
of the requests (and the GPUs' energy over time where joules are asked for), so that a run timed in another way is read
off in just the same way.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from afterwatt.fidelity.points.scenario import Scenario
from afterwatt.hwprofiles.ledger import account
from afterwatt.hwprofiles.stacks import Stack
from afterwatt.sim.body import Body
from afterwatt.sim.rows import Columns
from afterwatt.sim.run import meter_of

Floats = NDArray[np.float64]
FULL_FRAC: Final = 0.9
"""Share of its first generation that must be done before a steady load counts as steady."""


@dataclass(frozen=True, slots=True)
class EnergyCurve:
    """Joules of the GPUs from the start up to points in time; straight in between.

    Attributes:
        edges_s: points in time, from 0, rising.
        joules: up to each of them.
    """

    edges_s: Floats
    joules: Floats

    def between(self, start_s: float, end_s: float) -> float:
        """Return the joules of a span."""
        low, high = np.interp([start_s, end_s], self.edges_s, self.joules)
        return float(high - low)


@dataclass(frozen=True, slots=True)
class PointPrediction:
    """What the simulator says about a point.

    Attributes:
        scenario: the run.
        value: the metric, in the unit of the row.
        stack: the parameters it was run with.
    """

    scenario: Scenario
    value: float
    stack: Stack


def predict(scenario: Scenario, stack: Stack | None = None) -> PointPrediction:
    """Run the simulator on a point's load and read its metric.

    Args:
        scenario: the run.
        stack: parameters of the software (None: the shipped ones).

    Raises:
        Infeasible: it does not fit with these parameters.
        ValueError: the run did not serve all requests.
    """
    (prediction,) = predict_all([scenario], lambda _: scenario.stack_profile() if stack is None else stack)
    return prediction


def predict_all(
    scenarios: Sequence[Scenario], stack_of: Callable[[Scenario], Stack] | None = None
) -> list[PointPrediction]:
    """Predict several points; those that come from one run are read off one simulation.

    Args:
        scenarios: the runs.
        stack_of: the parameters to run each with (None: the shipped ones); the same for points of one run.
    """
    energy = {scenario.same_run for scenario in scenarios if scenario.phase == "energy"}
    seen: dict[Hashable, tuple[Columns, EnergyCurve | None, Stack]] = {}
    predictions = []
    for scenario in scenarios:
        key = scenario.same_run
        if key not in seen:
            stack = stack_of(scenario) if stack_of else scenario.stack_profile()
            seen[key] = (*run_columns(scenario, stack, energy=key in energy), stack)
        columns, curve, stack = seen[key]
        predictions.append(PointPrediction(scenario, measure(scenario, columns, curve), stack))
    return predictions


def run_columns(scenario: Scenario, stack: Stack, energy: bool = False) -> tuple[Columns, EnergyCurve | None]:
    """Simulate a point's load.

    Args:
        scenario: the run.
        stack: parameters of the software.
        energy: whether joules are wanted; they take as long as all the rest.

    Returns:
        The columns of its requests (see `sim.rows`), and the energy of the GPUs, or of the machine up to the wall.
    """
    config = scenario.config(stack)
    memory = scenario.memory(config)
    batches: list[Columns] = []
    body = Body(config, memory, config.workload, meter_of(config, memory) if energy else None, batches.append)
    result = body.run()
    curve = None
    if energy:
        ledger = account(result.timeline, config.deployment.pool, config.site, host_share="whole")
        joules = ledger.floats("energy_gpu_j")
        if scenario.whole_machine:
            joules = ledger.floats("energy_j") - ledger.floats("energy_facility_j")
        joules = joules.reshape(-1, config.deployment.pool.replicas).sum(axis=1)
        steps = ledger.floats("interval_s").reshape(-1, config.deployment.pool.replicas)[:, 0]
        curve = EnergyCurve(*(np.concatenate(([0.0], np.cumsum(column))) for column in (steps, joules)))
    return _joined(batches), curve


def _joined(batches: Sequence[Columns]) -> Columns:
    if len(batches) == 1:
        return batches[0]
    return {name: np.concatenate([np.asarray(batch[name]) for batch in batches]) for name in batches[0]}


def measure(scenario: Scenario, columns: Columns, energy: EnergyCurve | None = None) -> float:
    """Read a point's metric off a run.

    - `prefill_tok_s`: prompt tokens over the time to the last first token;
    - `decode_tok_s`: of a batch, tokens after the first, over the time after the first tokens; else throughput;
    - `throughput_tok_s`, `throughput_req_s`: output tokens, requests over the run, or over a steady load's steady part;
    - `ttft_s`: of a batch the last first token, else the median; `tpot_s`: median over requests;
    - `energy_j_per_tok`: the GPUs' joules per output token, over the same span as the throughput.

    Args:
        scenario: what was run.
        columns: of its requests, times in seconds.
        energy: the GPUs' energy; needed for joules only.

    Raises:
        ValueError: not every request was served, or joules are asked for without energy.
    """
    run = _MeasuredRun.of(scenario, columns)
    value = _READ[scenario.metric](run, energy)
    if not (np.isfinite(value) and value > 0.0):
        raise ValueError(f"row {scenario.point.row}: {scenario.metric} = {value} of {scenario.load.name} is no figure")
    return value / scenario.divide


@dataclass(frozen=True, slots=True)
class _MeasuredRun:
    """Requests of a run without those that only prepare it, and the span that is measured."""

    arrival_s: Floats
    first_s: Floats
    finish_s: Floats
    prompt: Floats
    output: Floats
    start_s: float
    span: tuple[float, float]
    batch: bool

    @classmethod
    def of(cls, scenario: Scenario, columns: Columns) -> "_MeasuredRun":
        load = scenario.load
        skip = load.warm_ups
        arrival, first, finish, prompt, output = (
            np.asarray(columns[name], dtype=np.float64)
            for name in ("arrival_s", "first_token_s", "finish_s", "prompt_tokens", "output_tokens")
        )
        if len(first) != skip + len(load.prompts) or not np.isfinite(finish).all():
            raise ValueError(f"row {scenario.point.row}: not every request of {load.name} was served")
        start = float(finish[:skip].max()) if skip else float(arrival.min())
        arrival = np.maximum(arrival, start)
        span = (start, float(finish.max()))
        if load.seats is not None:
            # From when the first generation has mostly left to when the last request is let in.
            begin = float(np.sort(finish)[round(FULL_FRAC * load.seats) - 1])
            end = float(first.max())
            span = (begin, end) if end > begin else span
        kept = slice(skip, None)
        return cls(
            arrival[kept],
            first[kept],
            finish[kept],
            prompt[kept] - load.cached_tokens,
            output[kept],
            start,
            span,
            load.arrivals_s is None and load.seats is None,
        )

    @property
    def span_s(self) -> float:
        return self.span[1] - self.span[0]

    @property
    def tokens(self) -> float:
        """Output tokens within the span; those after the first come evenly."""
        low, high = self.span
        firsts = float(((self.first_s > low) & (self.first_s <= high)).sum())
        inside = np.clip(np.minimum(self.finish_s, high) - np.maximum(self.first_s, low), 0.0, None)
        length = self.finish_s - self.first_s
        share = np.divide(inside, length, out=np.zeros(len(length)), where=length > 0.0)
        return firsts + float((share * (self.output - 1.0)).sum())


def _decode(run: _MeasuredRun, _: EnergyCurve | None) -> float:
    if not run.batch:
        return run.tokens / run.span_s
    return float((run.output - 1.0).sum() / (run.finish_s.max() - run.first_s.max()))


def _tpot(run: _MeasuredRun, _: EnergyCurve | None) -> float:
    many = run.output > 1.0
    return float(np.median((run.finish_s - run.first_s)[many] / (run.output[many] - 1.0)))


def _ttft(run: _MeasuredRun, _: EnergyCurve | None) -> float:
    waits = run.first_s - run.arrival_s
    return float(waits.max() if run.batch else np.median(waits))


def _requests(run: _MeasuredRun, _: EnergyCurve | None) -> float:
    low, high = run.span
    return float(((run.finish_s > low) & (run.finish_s <= high)).sum()) / run.span_s


def _energy(run: _MeasuredRun, energy: EnergyCurve | None) -> float:
    if energy is None:
        raise ValueError("joules are asked for, but the run was not metered")
    return energy.between(*run.span) / run.tokens


_READ: Final[dict[str, Callable[[_MeasuredRun, EnergyCurve | None], float]]] = {
    "prefill_tok_s": lambda run, _: float(run.prompt.sum() / (run.first_s.max() - run.start_s)),
    "decode_tok_s": _decode,
    "throughput_tok_s": lambda run, _: run.tokens / run.span_s,
    "throughput_req_s": _requests,
    "ttft_s": _ttft,
    "tpot_s": _tpot,
    "energy_j_per_tok": _energy,
}

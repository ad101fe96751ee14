"""How far off modelled power is: H200 kernels, A100 runs, serving runs, and cards that nobody measured.

Time and power are kept apart: kernels and runs are also taken at their measured times, so that what is left is power's
own error; then the simulator runs the workload, and both errors count.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from afterwatt.fidelity.fit.fit import candidates, fit_candidates, place_of
from afterwatt.fidelity.points.predict import measure, run_columns
from afterwatt.fidelity.points.scenario import Scenario, scenario_of
from afterwatt.fidelity.points.table import PUBLISHED, Point, read_points
from afterwatt.fidelity.power.anchors import (
    KERNELS,
    SPLITWISE,
    FittedPower,
    LeftOutArchitecture,
    fit_all,
    leave_one_architecture_out,
)
from afterwatt.fidelity.power.fit import (
    KernelPower,
    RunWork,
    fit_folds,
    fit_kernels,
    fit_without_each,
    held_out_watts,
    run_watts,
    run_work,
)
from afterwatt.fidelity.power.served import ServedPower, served_runs
from afterwatt.fidelity.power.tables import DEVICE, SPANS, KernelWatts, Repeats, read_kernel_watts, repeats, span_of
from afterwatt.fidelity.serving.splitwise import Setup, read_runs, setups_of
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.draws import Sampler
from afterwatt.hwprofiles.ledger import account
from afterwatt.hwprofiles.power import PowerModel, anchors_of, gpu_power_model
from afterwatt.hwprofiles.stacks import Stack
from afterwatt.sim.body import Body
from afterwatt.sim.run import gpu_meter

Floats = NDArray[np.float64]

DRAWS: Final = 400
A100: Final = "a100-80gb"
"""The table's name of the card with measured power."""


class Off(NamedTuple):
    """Absolute relative errors: how many, median, 90th percentile, and the median of predicted over measured."""

    rows: int
    median: float
    p90: float
    bias: float


class KernelScore(NamedTuple):
    """A table of kernels with watts, at their measured times.

    Attributes:
        name: of the table.
        fitted: by the fit to all shapes; held_out: each shape by a fit without it; shipped: by the shipped anchors.
        by_span: held out, by how long watts were read (classes of `tables.SPANS`); None where no kernel was.
    """

    name: str
    fitted: Off
    held_out: Off
    shipped: Off
    by_span: tuple[Off | None, ...] = ()


class RunScore(NamedTuple):
    """Average and peak power of Splitwise's A100 runs, and both together."""

    name: str
    average: Off
    peak: Off
    both: Off


@dataclass(frozen=True, slots=True)
class ServedScore:
    """A point of joules per token, time and power apart.

    Attributes:
        served: the run at its measured speed; at_speed_w: its predicted watts; low_w, high_w: their 90 % interval.
        tokens_per_s, watts: as the simulator says, of the deployment and of a GPU.
    """

    served: ServedPower
    at_speed_w: float
    low_w: float
    high_w: float
    tokens_per_s: float
    watts: float

    @property
    def power_frac(self) -> float:
        """Return the error of power alone, at the measured speed."""
        return self.at_speed_w / self.served.watts - 1.0

    @property
    def time_frac(self) -> float:
        """Return the error of the time per token."""
        return self.served.tokens_per_s / self.tokens_per_s - 1.0

    @property
    def joules_frac(self) -> float:
        """Return the error of joules per token, from the simulator alone."""
        return (1.0 + self.time_frac) * self.watts / self.served.watts - 1.0

    @property
    def inside(self) -> bool:
        """Return whether the measured watts lie in the interval of those at the measured speed."""
        return self.low_w <= self.served.watts <= self.high_w


@dataclass(frozen=True, slots=True)
class PowerScores:
    """Everything about the error of power; parts whose tables are missing are empty.

    Attributes:
        kernels: H200 tables; again: what the same kernel, measured twice, differs by.
        runs: A100 runs at their measured times, then as simulated.
        served: serving runs.
        left_out: cards predicted by other architectures.
    """

    kernels: tuple[KernelScore, ...]
    again: tuple[Repeats, ...]
    runs: tuple[RunScore, ...]
    served: tuple[ServedScore, ...]
    left_out: tuple[LeftOutArchitecture, ...]


def score(shared: Path) -> PowerScores:
    """Score the power model against all tables below a folder of published data.

    Args:
        shared: with kernels/ and traces/; a missing one leaves its part out.
    """
    kernels, splitwise = shared / KERNELS, shared / SPLITWISE
    tables = read_kernel_watts(kernels) if (kernels / "gemm").is_dir() else []
    served = score_served(read_points(PUBLISHED).points)
    runs: tuple[RunScore, ...] = ()
    left: tuple[LeftOutArchitecture, ...] = ()
    if tables and splitwise.is_file():
        fitted = fit_all(shared, tables)
        left = tuple(leave_one_architecture_out(fitted))
        runs = score_runs(splitwise, fitted)
    again = tuple(repeats(kernels)) if tables else ()
    return PowerScores(score_kernels(tables), again, runs, served, left)


# -- kernels ----------------------------------------------------------------------------------------------------------


def score_kernels(tables: Sequence[KernelWatts]) -> tuple[KernelScore, ...]:
    """Score the H200 tables: fitted, on shapes held out, and by what is shipped."""
    if not tables:
        return ()
    device = load_device(DEVICE)
    tdp_w = float(device.tdp_w)
    fitted, folds, shipped = fit_kernels(tables, tdp_w), fit_folds(tables, tdp_w), shipped_kernels(device)
    scores = []
    for table in tables:
        held_out, spans = held_out_watts(table, folds), span_of(table.read_s)
        scores.append(
            KernelScore(
                table.name,
                _off(fitted.watts(table), table.watts),
                _off(held_out, table.watts),
                _off(shipped.watts(table), table.watts),
                tuple(
                    _off(held_out[spans == span], table.watts[spans == span]) if (spans == span).any() else None
                    for span in range(len(SPANS) + 1)
                ),
            )
        )
    return tuple(scores)


def shipped_kernels(device: Device) -> KernelPower:
    """Return the shipped anchors of a device as a law of kernels."""
    wide, narrow, anchors = gpu_power_model(device, "fp16"), gpu_power_model(device, "fp8"), anchors_of(device)
    cached = wide.j_per_byte if anchors.cached_j_per_byte is None else float(anchors.cached_j_per_byte)
    return KernelPower(
        busy_w=wide.busy_w,
        j_per_byte=wide.j_per_byte,
        cached_j_per_byte=cached,
        j_per_flop=wide.j_per_flop,
        fp8_j_per_flop=narrow.j_per_flop,
        attention_w=wide.attention_w,
        expert_w=wide.expert_w,
        cap_w=wide.cap_w,
    )


# -- runs -------------------------------------------------------------------------------------------------------------


def score_runs(path: Path, fitted: FittedPower) -> tuple[RunScore, ...]:
    """Score Splitwise's A100 runs: at their measured times, then by the simulator; in sample and held out.

    Held out means that neither power nor, where the simulator runs, the software's times have seen the runs'
    tensor-parallel degree.
    """
    runs, _ = read_runs(path)
    done = run_work([run for run in runs if run.hardware == A100])
    device = load_device("a100-80")
    folds = fit_without_each(done, float(device.tdp_w), float(device.idle_w), fitted.runs.attention_w)
    at_times = _run_score("measured times, in sample", done, *run_watts(fitted.runs, done))
    held = [(done.only(done.tp == tp), power) for tp, power in folds.items()]
    scores = [at_times, _joined("measured times, a TP degree held out", held, run_watts)]
    setups = [setup for setup in setups_of(runs) if not setup.in_parts]
    return (*scores, *_simulated(setups, fitted.runs, folds))


def _simulated(setups: Sequence[Setup], all_runs: PowerModel, folds: dict[int, PowerModel]) -> list[RunScore]:
    """Run each set-up with measured power, with times and power fitted to all degrees, and to all but its own."""
    points = {setup: candidates([_scenario(setup)]) for setup in setups}
    measured = [setup for setup in setups if setup.hardware == A100 and setup.runs[0].average_frac is not None]
    scores = []
    for name, held_out in (("simulated, in sample", False), ("simulated, a TP degree held out", True)):
        predicted: list[tuple[float, float]] = []
        actual: list[tuple[float, float]] = []
        for tp in sorted({setup.tp for setup in measured}):
            seen = [point for setup in setups if not (held_out and setup.tp == tp) for point in points[setup]]
            times, power = fit_candidates(seen), folds[tp] if held_out else all_runs
            for setup in measured:
                if setup.tp != tp:
                    continue
                scenario = _scenario(setup)
                tdp_w = float(scenario.deployment.pool.device.tdp_w)
                watts = simulated_watts(scenario, times.stack(place_of(scenario)), power)
                for run in setup.runs:
                    if run.average_frac is not None and run.peak_frac is not None:
                        predicted.append(watts)
                        actual.append((run.average_frac * tdp_w, run.peak_frac * tdp_w))
        scores.append(_scores(name, np.array(predicted), np.array(actual)))
    return scores


def simulated_watts(scenario: Scenario, stack: Stack, power: PowerModel | None = None) -> tuple[float, float]:
    """Return the (average, peak) watts of a GPU that the simulator gives for a batch; the peak is a state's mean.

    Args:
        scenario: the run.
        stack: parameters of the software.
        power: of the GPU (None: by the shipped anchors).
    """
    config = scenario.config(stack)
    memory = scenario.memory(config)
    meter = gpu_meter(config, memory)
    if power is not None:
        meter = replace(meter, gpu=replace(power, idle_w=meter.gpu.idle_w))
    body = Body(config, memory, config.workload, meter, lambda _: None)
    ledger = account(body.run().timeline, config.deployment.pool, config.site, host_share="whole")
    gpus, idle_w = config.deployment.pool.tp * config.deployment.pool.pp, meter.gpu.idle_w
    total_j, total_s, peak_w = 0.0, 0.0, 0.0
    for state in ("prefill", "decode"):
        seconds = float(ledger.floats(f"{state}_s").sum())
        if seconds > 0.0:
            joules = float(ledger.floats(f"gpu_dynamic_{state}_j").sum()) / gpus + idle_w * seconds
            total_j, total_s, peak_w = total_j + joules, total_s + seconds, max(peak_w, joules / seconds)
    return total_j / total_s, peak_w


def _scenario(setup: Setup) -> Scenario:
    scenario = scenario_of(setup.points()[1])
    if not isinstance(scenario, Scenario):
        raise ValueError(f"{setup.name} cannot be run: {scenario.why}")  # noqa: TRY004 - no type of the caller's
    return scenario


# -- serving ----------------------------------------------------------------------------------------------------------


def score_served(points: Iterable[Point]) -> tuple[ServedScore, ...]:
    """Score the points of joules per token with measured power."""
    return tuple(_served_score(served) for served in served_runs(points))


def _served_score(served: ServedPower) -> ServedScore:
    scenario, device = served.scenario, served.scenario.deployment.pool.device
    low_w, high_w = watts_interval(device, served.computed_in, served.power)
    columns, curve = run_columns(scenario, scenario.stack_profile(), energy=True)
    joules = measure(scenario, columns, curve)
    tokens_per_s = measure(replace(scenario, metric="throughput_tok_s"), columns)
    gpus = scenario.deployment.pool.tp * scenario.deployment.pool.pp
    watts = joules * tokens_per_s / gpus
    return ServedScore(served, served.default_power(), low_w, high_w, tokens_per_s, watts)


def watts_interval(device: Device, arithmetic: str, watts: Callable[[PowerModel], float]) -> tuple[float, float]:
    """Return the 90 % interval of watts under draws of a device's anchors."""
    anchors, sampler, tdp_w = anchors_of(device), Sampler(0, DRAWS), float(device.tdp_w)
    base = gpu_power_model(device, arithmetic)
    idle_w = sampler.fact("idle", device.idle_w)
    busy_w = idle_w + sampler.fact("busy", anchors.busy_frac) * tdp_w
    stream, compute = anchors.streaming(device), anchors.computing(arithmetic)
    per_byte = base.j_per_byte * sampler.fact("stream", stream) / float(stream)
    per_flop = base.j_per_flop * sampler.fact("compute", compute) / float(compute)
    attention_w = sampler.fact("attention", anchors.attention_frac) * tdp_w
    drawn = [
        watts(replace(base, busy_w=busy, j_per_byte=byte, j_per_flop=flop, attention_w=attention))
        for busy, byte, flop, attention in zip(
            *(x.tolist() for x in (busy_w, per_byte, per_flop, attention_w)), strict=True
        )
    ]
    low, high = np.percentile(drawn, (5.0, 95.0))
    return float(low), float(high)


# -- errors -----------------------------------------------------------------------------------------------------------


def _off(predicted: Floats, measured: Floats) -> Off:
    ratio = predicted / measured
    errors = np.abs(ratio - 1.0)
    return Off(len(errors), float(np.median(errors)), float(np.quantile(errors, 0.9)), float(np.median(ratio)))


def _run_score(name: str, runs: RunWork, average_w: Floats, peak_w: Floats) -> RunScore:
    predicted = np.stack([average_w, peak_w], axis=1)
    return _scores(name, predicted, np.stack([runs.average_w, runs.peak_w], axis=1))


def _joined(
    name: str,
    parts: Sequence[tuple[RunWork, PowerModel]],
    watts: Callable[[PowerModel, RunWork], tuple[Floats, Floats]],
) -> RunScore:
    predicted = np.concatenate([np.stack(watts(power, runs), axis=1) for runs, power in parts])
    actual = np.concatenate([np.stack([runs.average_w, runs.peak_w], axis=1) for runs, _ in parts])
    return _scores(name, predicted, actual)


def _scores(name: str, predicted: Floats, actual: Floats) -> RunScore:
    average, peak = (_off(predicted[:, column], actual[:, column]) for column in (0, 1))
    return RunScore(name, average, peak, _off(predicted.ravel(), actual.ravel()))

"""Watts of serving runs at their measured speed: what is left of the error of joules when time is taken as measured.

A point of joules per token with the mean power beside it (ML.ENERGY's) says, through both, how many tokens per
second there were, and thus how long an iteration of the full batch took. What an iteration moves and computes follows
from the lengths of prompts and answers, which for these points are assumed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from afterwatt.fidelity.points.scenario import Scenario, scenario_of
from afterwatt.fidelity.points.table import Point
from afterwatt.hwprofiles.effort import occupancy, work
from afterwatt.hwprofiles.mixers import StepShape
from afterwatt.hwprofiles.power import PowerModel, gpu_power_model
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.step import StepModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPower:
    """A serving run with measured power, per GPU and iteration.

    Attributes:
        scenario: the run.
        watts: measured mean power of a GPU.
        tokens_per_s: measured, of the whole deployment.
        seconds: of a mean iteration.
        moved_bytes, flops: of it.
        attention_s, expert_s, unpack_s: of it, in such kernels.
        computed_in: arithmetic of its matrix products.
    """

    scenario: Scenario
    watts: float
    tokens_per_s: float
    seconds: float
    moved_bytes: float
    flops: float
    attention_s: float
    expert_s: float
    unpack_s: float
    computed_in: str

    def power(self, model: PowerModel) -> float:
        """Return predicted watts of a GPU."""
        work = (self.moved_bytes, self.flops, self.attention_s, self.expert_s, self.unpack_s)
        return model.energy_j(self.seconds, *work) / self.seconds

    def default_power(self) -> float:
        """Return predicted watts of a GPU, by the shipped anchors."""
        return self.power(gpu_power_model(self.scenario.deployment.pool.device, self.computed_in))


def served_runs(points: Iterable[Point]) -> list[ServedPower]:
    """Return the serving runs among points of joules per token with measured power."""
    runs = []
    for point in points:
        watts = point.mean_power_w if point.metric == "energy_j_per_tok" else None
        scenario = scenario_of(point) if watts is not None else None
        if watts is not None and isinstance(scenario, Scenario) and scenario.load.seats is not None:
            runs.append(_served(scenario, watts, scenario.load.seats))
    return runs


def _served(scenario: Scenario, watts: float, seats: int) -> ServedPower:
    deployment, model, precision = scenario.deployment, scenario.model, scenario.precision
    stack, gpus = scenario.stack_profile(), scenario.deployment.pool.tp * scenario.deployment.pool.pp
    tokens_per_s = watts / scenario.measured
    prompt, answer = (float(np.mean(tokens)) for tokens in (scenario.load.prompts, scenario.load.outputs))
    begin = seats / answer  # prompts per iteration, so that as many begin as end: whole ones, in some of them or in all
    together, share = max(1.0, begin), min(1.0, begin)
    shape = StepShape(
        *(np.full(2, number) for number in (float(seats), seats * (prompt + answer / 2.0), float(seats))),
        *(np.array([0.0, number]) for number in (together * prompt, 0.0, together * prompt * prompt / 2.0, 0.0)),
    )
    step = StepModel(Serving(deployment, model, precision, stack))
    done, kernels = work(step, shape), occupancy(step, shape)
    totals = (done.hbm_bytes, done.flops, kernels.attention_s, kernels.expert_s, kernels.unpack_s)
    moved, flops, *kinds = (float((1.0 - share) * total[0] + share * total[1]) / gpus for total in totals)
    seconds = seats / tokens_per_s
    attention_s, expert_s, unpack_s = (min(kind, seconds) for kind in kinds)
    return ServedPower(
        scenario=scenario,
        watts=watts / gpus,
        tokens_per_s=tokens_per_s,
        seconds=seconds,
        moved_bytes=moved,
        flops=flops,
        attention_s=attention_s,
        expert_s=expert_s,
        unpack_s=unpack_s,
        computed_in=step.rates.computed_in,
    )

"""Composition: the simulator with the engine's own iteration times, so that only what is between them can be off.

Arrivals come when they were due. If both bodies queue, batch and wake alike, every request's times come out as
measured; what is left is what the virtual body leaves out: the time that a request spends on its way to the worker, and
that the worker spends between an iteration's end and the next plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afterwatt.engine.runtime.record import read_steps
from afterwatt.fidelity.validation.iterations import iterations_of
from afterwatt.hwprofiles.roofline import PS_PER_S, Seen, TimeModel
from afterwatt.reports.rundir import Run
from afterwatt.reports.summary import counted
from afterwatt.sim.body import Body
from afterwatt.sim.config import RunConfig
from afterwatt.sim.parts import ResidentParts
from afterwatt.sim.rows import Columns
from afterwatt.sim.run import memory_of
from afterwatt.sim.times import IterationTimes

Floats = NDArray[np.float64]


class RecordedTimes:
    """Tells what each iteration took when it was measured, one after the other.

    Args:
        durations_ps: of the iterations, in order.
        beyond: whose law holds past their end.
    """

    def __init__(self, durations_ps: Sequence[int], beyond: IterationTimes) -> None:
        self._durations_ps, self._beyond = durations_ps, beyond
        self._asked = 0
        self.hop_ps = beyond.hop_ps

    def step(
        self,
        decoding: int,
        context_tokens: int,
        chunks: Sequence[Any],
        emits: int,
        iterations: int,
        seen: Seen = None,
    ) -> tuple[int, int, int]:
        """Return the time of the next iteration (`IterationTimes.step`)."""
        self._asked += 1
        if self._asked <= len(self._durations_ps):
            return self._durations_ps[self._asked - 1], 0, 1
        return self._beyond.step(decoding, context_tokens, chunks, emits, iterations, seen)

    def wake_ps(self, rest_ps: int) -> int:
        """Return nothing while iterations are told: what a rest has cost is in them."""
        return 0 if self._asked < len(self._durations_ps) else self._beyond.wake_ps(rest_ps)


@dataclass(frozen=True, slots=True)
class Composition:
    """How far a run's latencies are off with measured iteration times.

    Attributes:
        iterations: that were measured; requests: that finished in both.
        ttft, e2e: median over requests of the absolute relative error.
        mean_ttft, mean_e2e: error of the mean.
    """

    iterations: int
    requests: int
    ttft: float
    e2e: float
    mean_ttft: float
    mean_e2e: float


def check_composition(run: Run, config: RunConfig) -> Composition | None:
    """Run an engine's workload with its own iteration times; None if no request finished.

    Args:
        run: the engine's run directory.
        config: the simulation of it, whose time model is not asked as long as the record lasts.
    """
    steps = read_steps(run.path / "steps.parquet")
    rows: list[Columns] = []
    told = RecordedTimes(_durations_ps(steps), TimeModel(config.serving))
    memory = memory_of(config)
    parts = ResidentParts(config, memory, lambda _: told)
    Body(config, memory, config.workload, None, rows.append, parts=parts).run()
    mask = counted(run)
    real = {name: run.column("requests", name)[mask] for name in ("ttft_s", "e2e_s")}
    virtual = {name: np.concatenate([np.asarray(part[name]) for part in rows])[mask] for name in real}
    both = ~np.isnan(virtual["e2e_s"])
    if not both.any():
        return None
    off = {name: virtual[name][both] / real[name][both] - 1.0 for name in real}
    mean = {name: float(virtual[name][both].mean() / real[name][both].mean() - 1.0) for name in real}
    median = {name: float(np.median(np.abs(values))) for name, values in off.items()}
    return Composition(len(steps), int(both.sum()), median["ttft_s"], median["e2e_s"], mean["ttft_s"], mean["e2e_s"])


def _durations_ps(steps: Sequence[Any]) -> list[int]:
    return [max(1, round(one.seconds * PS_PER_S)) for one in iterations_of(steps)]

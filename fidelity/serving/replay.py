"""Replaying a measured serving run: the same requests at the same times, and how far off latencies are.

*Time to first token* is the first token's time less the arrival's; *time per output token* is the time from the first
token to the last over the tokens after the first. Both are taken of every request and compared as distributions: at
their mean and percentiles (linear between ranks, as numpy's), and by the *demerit figure* of Ruemmler and Wilkes ("An
introduction to disk drive modeling", IEEE Computer 27(3), 1994): the root mean square horizontal distance between
the two cumulative distributions, in seconds and relative to the measured mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from afterwatt.fidelity.serving.run import ReplayError, ServingRun
from afterwatt.hwprofiles.catalogue import load_site
from afterwatt.hwprofiles.deployment import parse_deployment
from afterwatt.hwprofiles.stacks import Stack, default_stack, load_stack, stack_names
from afterwatt.sim.body import Body
from afterwatt.sim.config import RunConfig, Slowness
from afterwatt.sim.rows import Columns
from afterwatt.sim.run import memory_of
from afterwatt.sim.workload import TraceWorkload

Floats = NDArray[np.float64]
METRICS: Final = ("ttft", "tpot")
STATS: Final = ("mean", "p50", "p90", "p99")
_PERCENT: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0}


def statistic(values: Floats, name: str) -> float:
    """Return the mean or a percentile; `name` is one of `STATS`."""
    return float(values.mean() if name == "mean" else np.percentile(values, _PERCENT[name]))


def demerit(measured: Floats, predicted: Floats) -> float:
    """Return the root mean square horizontal distance between two empirical distributions, in their unit.

    The distance at probability u is that of the two quantile functions, which are steps: of as many values each, the
    figure is the root mean square difference of the sorted values.

    Raises:
        ValueError: there are no values.
    """
    if not len(measured) or not len(predicted):
        raise ValueError("a demerit figure needs values on both sides")
    first, second = np.sort(measured), np.sort(predicted)
    edges = np.unique(np.concatenate([np.arange(len(each) + 1) / len(each) for each in (first, second)]))
    middle = (edges[1:] + edges[:-1]) / 2.0
    apart = first[(middle * len(first)).astype(int)] - second[(middle * len(second)).astype(int)]
    return float(np.sqrt(np.sum(np.diff(edges) * apart**2)))


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """One metric, measured and predicted, in seconds; request by request in the order of arrival.

    Attributes:
        metric: `ttft` or `tpot`.
        measured, predicted: of the requests that have both.
    """

    metric: str
    measured: Floats
    predicted: Floats

    def values(self, stat: str) -> tuple[float, float]:
        """Return a statistic: (measured, predicted)."""
        return statistic(self.measured, stat), statistic(self.predicted, stat)

    def error_frac(self, stat: str) -> float:
        """Return (predicted - measured) / measured of a statistic."""
        measured, predicted = self.values(stat)
        return predicted / measured - 1.0

    @property
    def demerit_s(self) -> float:
        """The demerit figure."""
        return demerit(self.measured, self.predicted)

    @property
    def demerit_frac(self) -> float:
        """The demerit figure relative to the measured mean."""
        return self.demerit_s / float(self.measured.mean())

    @property
    def median_request_error_frac(self) -> float:
        """The median over requests of |predicted - measured| / measured: request by request, not as distributions."""
        return float(np.median(np.abs(self.predicted / self.measured - 1.0)))


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """A measured run beside what the simulator makes of it.

    Attributes:
        run: what was measured.
        stack: the software's parameters that were used.
        ttft, tpot: the metrics.
        preemptions: how often a sequence lost its memory in the simulation.
        cached_tokens: prompt tokens found in the prefix cache in the simulation.
    """

    run: ServingRun
    stack: Stack
    ttft: Distribution
    tpot: Distribution
    preemptions: int
    cached_tokens: int

    @property
    def distributions(self) -> tuple[Distribution, Distribution]:
        """Both metrics."""
        return self.ttft, self.tpot

    @property
    def worst_error_frac(self) -> float:
        """The largest absolute error over both metrics and all statistics."""
        return max(abs(each.error_frac(stat)) for each in self.distributions for stat in STATS)


def config_of(run: ServingRun, stack: Stack | str | None = None) -> RunConfig:
    """Return the simulation that replays a run.

    Args:
        run: what was measured.
        stack: the software's parameters, or the name of a profile; None: the run's, or the card's usual one where the
            run's is not shipped.

    Raises:
        HardwareError: the run's cards or the stack are unknown.
    """
    deployment = parse_deployment(run.hw)
    if stack is None:
        known = run.stack in stack_names() or run.stack.endswith(".toml")
        stack = run.stack if known else default_stack(deployment.pool.device)
    known_stack = load_stack(deployment.pool.device, stack) if isinstance(stack, str) else stack
    return RunConfig(
        deployment=deployment,
        model=run.model,
        precision=run.precision,
        stack=known_stack.with_values({"front_s": 0.0}),  # its times are the scheduler's, behind the front end
        policies=run.policies,
        site=load_site("world"),
        workload=TraceWorkload(run.trace),
    )


def replay(run: ServingRun, stack: Stack | str | None = None, slowness: float = 1.0, memory: float = 1.0) -> Replay:
    """Run a measured run's requests through the simulator.

    Args:
        run: what was measured.
        stack: see `config_of`.
        slowness: factor on the time of every iteration.
        memory: factor on the KV blocks.

    Raises:
        Infeasible: the model does not fit.
        ReplayError: the simulator refused a request that the engine served.
    """
    config = config_of(run, stack)
    if slowness != 1.0:
        config = replace(config, slowness=Slowness(slowness, slowness))
    blocks = round(memory_of(config).kv_blocks * memory)
    config = replace(config, policies=replace(config.policies, kv_blocks=blocks))
    batches: list[Columns] = []
    Body(config, memory_of(config), config.workload, None, batches.append).run()
    return _compared(run, config, batches)


def _compared(run: ServingRun, config: RunConfig, batches: Sequence[Columns]) -> Replay:
    def column(name: str) -> Floats:
        return np.concatenate([np.asarray(batch[name], dtype=np.float64) for batch in batches])

    ttft, tpot = column("ttft_s"), column("tpot_s")
    refused = np.isnan(ttft) & ~np.isnan(run.ttft_s)
    if refused.any():
        raise ReplayError(
            f"{run.name}: request {int(np.flatnonzero(refused)[0]) + 1} was served, but the simulator refuses it; "
            "check the number of KV blocks and the model's context"
        )
    return Replay(
        run,
        config.stack,
        _distribution("ttft", run.ttft_s, ttft),
        _distribution("tpot", run.tpot_s, tpot),
        int(column("preemptions").sum()),
        int(column("cached_tokens").sum()),
    )


def _distribution(metric: str, measured: Floats, predicted: Floats) -> Distribution:
    both = ~np.isnan(measured) & ~np.isnan(predicted)
    if not both.any():
        raise ReplayError(f"no request tells its {metric}; give at least one that was served")
    return Distribution(metric, measured[both], predicted[both])

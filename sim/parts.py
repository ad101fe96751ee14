"""What a run builds its workers of: their sizes, what computes, what moves memory.

A body asks for these and knows no kind of them by name: another way of computing, or another way for memory to move, is
another `Parts`.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from afterwatt.policies.sizes import SchedulerConfig
from afterwatt.policies.weights import is_cached
from afterwatt.sim.cached import CachedLayers, CachedStrides
from afterwatt.sim.clock import VirtualEnvironment
from afterwatt.sim.config import RunConfig
from afterwatt.sim.errors import Infeasible
from afterwatt.sim.executors import Stages, Strides
from afterwatt.sim.links import Link, SwapLink
from afterwatt.sim.memory import MemoryPlan, holding_of
from afterwatt.sim.times import IterationTimes, times_of
from afterwatt.sim.worker import Executor, Mover

SWAP_FRAC = 0.5
"""Share of the hosts' memory that may hold swapped KV blocks (assumption of this project)."""


class Parts(Protocol):
    """Makes what each of a run's workers consists of beside its scheduler."""

    def sizes(self) -> SchedulerConfig:
        """Return the sizes of every worker."""

    def executor(self, env: VirtualEnvironment, number: int) -> Executor:
        """Make what happens between the plans and the outcomes of a worker, by its number."""

    def mover(self, env: VirtualEnvironment, number: int) -> Mover | None:
        """Make what moves a worker's memory; None: nothing is ever moved."""


class ResidentParts:
    """Workers whose weights stay on their GPUs: strides, or the stages of a pipeline, and swapping to host memory.

    Args:
        config: the run.
        memory: its replicas' memory.
        times: makes the times of a pipeline stage, by its number (None: the stack's, see `sim.times`).
    """

    def __init__(
        self, config: RunConfig, memory: MemoryPlan, times: Callable[[int], IterationTimes] | None = None
    ) -> None:
        self._config, self._memory = config, memory
        made = times or partial(times_of, config)
        self._stages = [made(stage) for stage in range(config.deployment.pool.pp)]  # replicas share them

    def sizes(self) -> SchedulerConfig:
        """Return the sizes of every worker (`Parts.sizes`)."""
        config, memory = self._config, self._memory
        policies, pool = config.policies, config.deployment.pool
        swap_bytes = SWAP_FRAC * pool.host.dram_bytes * pool.hosts / pool.replicas
        return policies.sizes(
            kv_blocks=memory.kv_blocks,
            block_tokens=policies.block_tokens,
            max_context_tokens=config.model.max_context,
            host_blocks=int(swap_bytes // memory.replica_block_bytes),
            prefix_unit_tokens=config.workload.prefix_unit_tokens,
            groups=pool.pp,
            holding=holding_of(config.serving, policies.block_tokens),
            padded=config.stack.decode_shape == "padded",
        )

    def executor(self, env: VirtualEnvironment, number: int) -> Executor:  # noqa: ARG002 - all workers are alike
        """Make strides of a replica that is one stage, else the stages of a pipeline."""
        if len(self._stages) > 1:
            return Stages(self._stages)
        return Strides(self._stages[0], self._config.single_step)

    def mover(self, env: VirtualEnvironment, number: int) -> Mover | None:
        """Make the link to host memory, where sequences are swapped."""
        if self._config.policies.preemption != "swap":
            return None
        pcie = self._config.serving.host_link
        link = Link(env, number, float(pcie.effective_bytes_per_s), float(pcie.latency_s))
        return SwapLink(link, self._memory.block_bytes)


class CachedParts(ResidentParts):
    """Workers whose GPU computes with what caches of neurons bring to it.

    Raises:
        Infeasible: more than one GPU in a replica, or sequences that are swapped over the same link.
    """

    def __init__(self, config: RunConfig, memory: MemoryPlan) -> None:
        super().__init__(config, memory)
        if config.deployment.pool.gpus_per_replica > 1 or config.policies.preemption == "swap":
            raise Infeasible(
                f"--policy {config.policies.name} on {config.deployment.name}: neurons are cached for a single GPU "
                "whose link swaps no sequences; take one card per replica, and recompute"
            )

    def executor(self, env: VirtualEnvironment, number: int) -> Executor:  # noqa: ARG002 - each finds its own clock
        """Make iterations of their own lengths, with caches of the worker's own."""
        return CachedStrides(CachedLayers(self._config, number), self._stages[0])


def parts_of(config: RunConfig, memory: MemoryPlan) -> Parts:
    """Return what a run's workers consist of, as its configuration says."""
    if is_cached(config.policies.weights):
        return CachedParts(config, memory)
    return ResidentParts(config, memory)

"""What things cost in the virtual body, for policies that ask: its own physics, one question at a time."""

from functools import cached_property

from afterwatt.hwprofiles.power import gpu_power_model
from afterwatt.hwprofiles.replicas import replica_power
from afterwatt.hwprofiles.step import StepModel
from afterwatt.hwprofiles.units import J_PER_KWH
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.plans import Tier
from afterwatt.sim.clock import PS_PER_S
from afterwatt.sim.config import RunConfig
from afterwatt.sim.memory import MemoryPlan
from afterwatt.sim.times import IterationTimes, times_of


class PhysicalCosts:
    """Answers of a run's physics (`afterwatt.policies.making.CostModel`).

    Args:
        config: the run.
        memory: its replicas' memory.
    """

    def __init__(self, config: RunConfig, memory: MemoryPlan) -> None:
        self._config, self._block_bytes = config, memory.block_bytes

    @cached_property
    def _stages(self) -> list[IterationTimes]:
        return [times_of(self._config, stage) for stage in range(self._config.deployment.pool.pp)]

    @cached_property
    def _watts(self) -> tuple[float, float]:
        """At the site: of a replica at rest, and with its GPUs at the cap of their power."""
        config = self._config
        pool, computed_in = config.deployment.pool, StepModel(config.serving).rates.computed_in
        gpu = gpu_power_model(pool.device, computed_in, power_cap_w=pool.power_cap_w)
        replica = replica_power(pool, config.site, config.carbon.host_share)
        working_w = replica.it_busy_w + replica.gpus * (gpu.cap_w - gpu.idle_w)
        return replica.idle_site_w, (replica.it_baseline_w + working_w) * replica.site_factor

    def step_s(self, worker: int, tokens: int, context: int) -> float:  # noqa: ARG002 - all workers are alike
        """Return the seconds of an iteration that decodes `tokens` sequences over `context` KV entries."""
        hops_ps = sum(stage.hop_ps(tokens) for stage in self._stages[1:])
        return (sum(stage.step(tokens, context, (), tokens, 1)[0] for stage in self._stages) + hops_ps) / PS_PER_S

    def move_s(self, units: int, src: Tier, dst: Tier) -> float:
        """Return the seconds in which KV blocks cross the link between a GPU and its host's memory."""
        if {src, dst} != {"hbm", "dram"}:
            raise PolicyError(f"nothing is known of moves from {src} to {dst}; ask for moves between hbm and dram")
        link = self._config.serving.host_link
        return float(link.latency_s) + units * self._block_bytes / float(link.effective_bytes_per_s)

    def j_per_s(self, worker: int, busy: bool) -> float:  # noqa: ARG002 - all workers are alike
        """Return watts at the site: of a replica at rest, or with its GPUs at the cap of their power."""
        return self._watts[busy]

    def gco2e_per_j(self, worker: int, at_s: float) -> float:  # noqa: ARG002 - all stand at one site
        """Return the intensity of the site: annual, or of the hour."""
        config, carbon = self._config, self._config.carbon
        if carbon.grid is None:
            return float(config.site.intensity_gco2e_per_kwh(carbon.basis)) / J_PER_KWH
        at_utc_s = (config.start_utc_s or 0.0) + at_s
        return float(carbon.grid.mean_over(at_utc_s, at_utc_s)) / J_PER_KWH

"""What things cost on a device with a calibrated profile, for a policy that an engine runs there."""

from dataclasses import dataclass, replace

from afterwatt.engine.runtime.compute import ComputeInfo
from afterwatt.hwprofiles.catalogue import load_site
from afterwatt.hwprofiles.deployment import Deployment
from afterwatt.hwprofiles.stacks import Stack
from afterwatt.modelspecs.precision import load_precision
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.policies.config import PolicySet
from afterwatt.policies.making import CostModel
from afterwatt.sim.config import RunConfig
from afterwatt.sim.costs import PhysicalCosts
from afterwatt.sim.run import memory_of
from afterwatt.sim.workload import StaticBatch


@dataclass(frozen=True, slots=True)
class ProfileCosts:
    """Costs as the simulator predicts them for an engine's worker (`afterwatt.engine.runtime.process.WorkerSetup`).

    Attributes:
        deployment: with the calibrated profile.
        model: its shape.
        stack: as the calibration left it.
    """

    deployment: Deployment
    model: ModelSpec
    stack: Stack

    def __call__(self, info: ComputeInfo) -> CostModel:
        """Return whom a policy may ask, once the model says how it is stored; emissions are those of the world."""
        config = RunConfig(
            self.deployment,
            replace(self.model, max_context=info.max_context),
            load_precision(info.dtype),
            self.stack,
            PolicySet(kv_blocks=info.kv_blocks, block_tokens=info.block_tokens),
            load_site("world"),
            StaticBatch(1, 1, 1),
        )
        return PhysicalCosts(config, memory_of(config))

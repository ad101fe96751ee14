"""What one worker computes: which model, stored how, by which software, on which GPUs."""

from dataclasses import dataclass

from afterwatt.hwprofiles.deployment import Deployment, Pool
from afterwatt.hwprofiles.fabric import EXPERTS, HOST, STAGE, TENSOR, ServerKey
from afterwatt.hwprofiles.links import Link
from afterwatt.hwprofiles.stacks import Stack
from afterwatt.modelspecs.precision import Precision
from afterwatt.modelspecs.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Serving:
    """A model as it is served: what its time, its memory and its energy follow from.

    Attributes:
        deployment: devices and links.
        model: the shape.
        precision: weights as stored.
        stack: efficiencies and overheads of the software on this device.
        number: which of the deployment's pools serves.
    """

    deployment: Deployment
    model: ModelSpec
    precision: Precision
    stack: Stack
    number: int = 0

    @property
    def pool(self) -> Pool:
        """Return the pool that serves: devices, and how a replica is split over them."""
        return self.deployment.pools[self.number]

    @property
    def tensor_link(self) -> Link:
        """Return what tensor parallelism runs over."""
        return self._link(TENSOR)

    @property
    def stage_link(self) -> Link:
        """Return what activations cross from one pipeline stage to the next."""
        return self._link(STAGE)

    @property
    def expert_link(self) -> Link:
        """Return what tokens cross to experts that lie on other GPUs."""
        return self._link(EXPERTS)

    @property
    def host_link(self) -> Link:
        """Return what lies between a GPU and its host's memory."""
        return self._link(HOST)

    def _link(self, kind: str) -> Link:
        return self.deployment.fabric.server(ServerKey(kind, self.number, 0))

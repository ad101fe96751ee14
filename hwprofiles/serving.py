"""What one worker computes: which model, stored how, by which software, on which GPUs."""

from dataclasses import dataclass

from afterwatt.hwprofiles.deployment import Deployment
from afterwatt.hwprofiles.stacks import Stack
from afterwatt.modelspecs.precision import Precision
from afterwatt.modelspecs.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Serving:
    """A model as it is served: what its time, its memory and its energy follow from.

    Attributes:
        deployment: devices, how a replica is split over them, and its links.
        model: the shape.
        precision: weights as stored.
        stack: efficiencies and overheads of the software on this device.
    """

    deployment: Deployment
    model: ModelSpec
    precision: Precision
    stack: Stack

"""Why a measured point has no run: a short list of reasons, each with a sentence of its own."""

from dataclasses import dataclass
from enum import Enum

from afterwatt.fidelity.points.table import Point


class Reason(Enum):
    """Why a point cannot be run; the value is how tables call it."""

    OFFLOAD = "weights are not on the GPU"
    SPECULATION = "speculative decoding"
    NOT_ONE_SETUP = "not a measurement of one set-up"
    UNKNOWN_GPU = "GPU not in the catalogue"
    UNCLEAR_LOAD = "the load is not stated"
    UNKNOWN_MODEL = "model not clear"
    UNKNOWN_PRECISION = "weight format not known"
    NO_FIT = "does not fit the memory"
    NO_SPLIT = "cannot be split over so many GPUs"
    MEDIAN_GAP = "a median time between tokens, of which no mean follows"
    OTHER_ALGORITHM = "other work per token than the model's own"

    @property
    def outside(self) -> bool:
        """Whether coverage does not count the point: it asks for what is not modelled yet, or for an unknown card."""
        return self in (Reason.OFFLOAD, Reason.SPECULATION, Reason.UNKNOWN_GPU)


@dataclass(frozen=True, slots=True)
class PointRefusal:
    """A point without a run.

    Attributes:
        point: the row.
        reason: why, from the list.
        why: why, in this case.
    """

    point: Point
    reason: Reason
    why: str


class Refused(Exception):  # noqa: N818 - not an error: how a part of a row's reading says that there is no run
    """Raised by the readers of single cells, caught where the row is put together."""

    def __init__(self, reason: Reason, why: str) -> None:
        super().__init__(why)
        self.reason = reason
        self.why = why

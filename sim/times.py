"""Which time model a run uses: the stack's own, or one that is off by a stated factor."""

from collections.abc import Sequence
from typing import Any, Protocol

from afterwatt.hwprofiles.roofline import Seen, TimeModel
from afterwatt.sim.config import RunConfig, Slowness


class IterationTimes(Protocol):
    """What a worker asks: how long the iterations of a plan take (see `TimeModel.step`)."""

    def step(
        self,
        decoding: int,
        context_tokens: int,
        chunks: Sequence[Any],
        emits: int,
        iterations: int,
        seen: Seen = None,
        /,
    ) -> tuple[int, int, int]:
        """Return (first, slope, n): iteration k takes first + slope * k picoseconds, for n of the iterations."""

    def wake_ps(self, rest_ps: int, /) -> int:
        """Return what the first iteration after a rest takes longer."""


class SlowedTimeModel(TimeModel):
    """A time model whose iterations take a factor longer (or shorter) than predicted.

    A plan's law stays affine in its iterations; its two coefficients are scaled and rounded once, so that a stride may
    differ from its iterations one by one by a picosecond each.
    """

    slowness = Slowness(1.0, 1.0)

    def step(
        self,
        decoding: int,
        context_tokens: int,
        chunks: Sequence[tuple[object, int, int]],
        emits: int,
        iterations: int,
        seen: Seen = None,
    ) -> tuple[int, int, int]:
        """Return the time of a plan's iterations; see `TimeModel.step`."""
        first, slope, lasting = super().step(decoding, context_tokens, chunks, emits, iterations, seen)
        factor = self.slowness.prefill if chunks else self.slowness.decode
        return round(first * factor), round(slope * factor), lasting


def time_model(config: RunConfig, stage: int = 0) -> TimeModel:
    """Build the time model of one pipeline stage of a run's replicas."""
    if config.slowness is None:
        return TimeModel(config.serving, stage)
    slowed = SlowedTimeModel(config.serving, stage)
    slowed.slowness = config.slowness
    return slowed

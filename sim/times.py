"""Which times a run uses: the stack's own, or ones that are off by a stated factor."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from afterwatt.hwprofiles.hostwork import NOMINAL, host_rates
from afterwatt.hwprofiles.roofline import Seen, TimeModel
from afterwatt.hwprofiles.serving import Serving
from afterwatt.modelspecs.layers import LayerKind
from afterwatt.sim.capped import CappedTimes
from afterwatt.sim.config import RunConfig, Slowness
from afterwatt.sim.placement import placement_of
from afterwatt.sim.tiered import TieredTimes


class IterationTimes(Protocol):
    """What an executor asks of one pipeline stage: how long the iterations of a plan take (see `TimeModel`).

    Whoever wants to listen in, or to answer in its place, wraps one.
    """

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

    def hop_ps(self, tokens: int, /) -> int:
        """Return the time to hand this many tokens' activations to the next pipeline stage."""


class SlowedTimes:
    """Iterations that take a factor longer (or shorter) than another's.

    A plan's law stays affine in its iterations; its two coefficients are scaled and rounded once, so that a stride may
    differ from its iterations one by one by a picosecond each.
    """

    def __init__(self, times: IterationTimes, slowness: Slowness) -> None:
        self._times, self._slowness = times, slowness
        self.wake_ps, self.hop_ps = times.wake_ps, times.hop_ps

    def step(
        self,
        decoding: int,
        context_tokens: int,
        chunks: Sequence[Any],
        emits: int,
        iterations: int,
        seen: Seen = None,
    ) -> tuple[int, int, int]:
        """Return the time of a plan's iterations (`IterationTimes.step`)."""
        first, slope, lasting = self._times.step(decoding, context_tokens, chunks, emits, iterations, seen)
        factor = self._slowness.prefill if chunks else self._slowness.decode
        return round(first * factor), round(slope * factor), lasting


def own_times(
    config: RunConfig, serving: Serving, stage: int = 0, kinds: Mapping[LayerKind, int] | None = None
) -> IterationTimes:
    """Return the times of GPUs for weights that lie in their memory.

    Args:
        config: the run.
        serving: what they compute.
        stage: which pipeline stage.
        kinds: its layers that they compute; None: all.
    """
    capped = serving.pool.power_cap_w is not None
    times: IterationTimes = CappedTimes(serving, stage, kinds) if capped else TimeModel(serving, stage, kinds)
    return times if config.slowness is None else SlowedTimes(times, config.slowness)


def times_of(config: RunConfig, stage: int = 0) -> IterationTimes:
    """Return the times of one pipeline stage of a run's replicas."""
    serving, slowness = config.serving, config.slowness
    whole, placement = own_times(config, serving, stage), placement_of(serving, config.policies)
    if placement is None:
        return whole
    weights, rates = placement.stages[stage], host_rates(serving, NOMINAL if slowness is None else slowness.host)
    return TieredTimes(serving, weights, rates, own_times(config, serving, stage, weights.kinds), whole)

"""Iterations of a card under a power cap: kernels take longer, what the host does beside them does not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from afterwatt.hwprofiles.capping import cap_curve
from afterwatt.hwprofiles.effort import occupancy, work
from afterwatt.hwprofiles.mixers import StepShape
from afterwatt.hwprofiles.power import gpu_power_model
from afterwatt.hwprofiles.roofline import PS_PER_S, Seen, TimeModel, steps_to_crossing
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.step import StepModel
from afterwatt.modelspecs.layers import LayerKind

_OVERHEADS = ("launch_s", "prompt_launch_s", "step_overhead_s", "sequence_overhead_s")
"""Parameters of a stack in which the device waits for the host. A layer's small kernels follow the clock."""
_PARTS = 64
"""Shares of an iteration in which kernels run are told apart in so many parts."""
_TYPICAL_CONTEXT = 512


class CappedTimes:
    """Times under the pool's power cap (`sim.times.IterationTimes`).

    Only kernels slow down, by what `hwprofiles.capping` says of their class and demand; demand and the share of the
    time in which they run are told apart in steps, within which a plan's law stays affine. The coefficients are rounded
    once, so that a stride may differ from its iterations one by one by a picosecond each.

    Args:
        serving: what is computed, on a pool with a cap.
        stage: which of the replica's pipeline stages.
        kinds: layers of the stage that its GPUs compute; None: all.
    """

    def __init__(self, serving: Serving, stage: int = 0, kinds: Mapping[LayerKind, int] | None = None) -> None:
        stack = serving.stack.with_values(dict.fromkeys(_OVERHEADS, 0.0))
        self._times = TimeModel(serving, stage, kinds)
        self._kernels = TimeModel(replace(serving, stack=stack), stage, kinds)
        self._serving, self._model = serving, StepModel(serving, kinds)
        self._power = gpu_power_model(serving.pool.device, self._model.rates.computed_in)
        self.wake_ps, self.hop_ps = self._times.wake_ps, self._times.hop_ps
        self._slower = cache(self._slower_of)

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
        plan = (decoding, context_tokens, chunks, emits)
        first, slope, lasting = self._times.step(*plan, iterations, seen)
        own_first, own_slope, lasting = self._kernels.step(*plan, lasting, seen)
        if not first:
            return first, slope, lasting
        part = min(_PARTS * own_first // first, _PARTS - 1)
        for bound in (part, part + 1):
            gap, growth = _PARTS * own_first - bound * first, _PARTS * own_slope - bound * slope
            lasting = steps_to_crossing(gap, growth, lasting)
        tokens = sum(size for _, size, _ in chunks)
        longer = self._slower(_octave(decoding), _octave(tokens), part) - 1.0
        return first + round(own_first * longer), slope + round(own_slope * longer), lasting

    def _slower_of(self, decoding: int, prompt_tokens: int, part: int) -> float:
        """Return how much longer kernels take under the cap.

        Args:
            decoding: sequences that decode, in powers of two.
            prompt_tokens: tokens of prompts beside them, in powers of two.
            part: share of the iteration in which kernels run, in parts.
        """
        pool, model = self._serving.pool, self._serving.model
        curve = cap_curve(pool.device, "prefill" if prompt_tokens else "decode", model.experts > 1)
        demand_w = self._demand_w(decoding, prompt_tokens)
        busy_frac = (part + 0.5) / _PARTS
        assert pool.power_cap_w is not None
        return curve.slower(demand_w, pool.power_cap_w, float(pool.device.tdp_w), busy_frac)

    def _demand_w(self, decoding: int, prompt_tokens: int) -> float:
        """Return the mean power of a typical iteration's kernels on one GPU, were there no limit."""
        context = decoding * _TYPICAL_CONTEXT
        pairs = prompt_tokens * (prompt_tokens + 1) / 2.0
        amounts = (decoding, context, decoding, prompt_tokens, 0.0, pairs, float(prompt_tokens) ** 2)
        shape = StepShape(*(np.array([float(amount)]) for amount in amounts))
        done, busy = work(self._model, shape), occupancy(self._model, shape)
        chunks = ((None, prompt_tokens, 0),) if prompt_tokens else ()
        stages = self._serving.pool.pp
        seconds = stages * self._kernels.step(decoding, context, chunks, decoding, 1)[0] / PS_PER_S
        joules = self._power.work_j(done.hbm_bytes, done.flops, busy.attention_s, busy.expert_s, busy.unpack_s)
        gpus = self._serving.pool.gpus_per_replica / stages
        return self._power.busy_w + float(joules[0]) / seconds / gpus


def _octave(count: int) -> int:
    """Return the largest power of two that is no more than a number."""
    return 1 << (count.bit_length() - 1) if count else 0

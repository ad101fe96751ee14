"""The virtual meter: energy and bytes of strides, from closed forms over whole arrays of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.effort import occupancy, work
from afterwatt.hwprofiles.mixers import Bounded, StepShape
from afterwatt.hwprofiles.power import PowerModel
from afterwatt.hwprofiles.replicas import ReplicaPower
from afterwatt.hwprofiles.step import StepModel
from afterwatt.sim.recorder import ChunkSums, NotedStrides, StrideEnergy, seconds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def triangle(steps: Ints) -> Floats:
    """Return 0 + 1 + ... + (steps - 1)."""
    result: Floats = steps * (steps - 1.0) / 2.0
    return result


def capped_sum(first: Floats, slope: Floats, cap_first: Floats, cap_slope: Floats, steps: Ints) -> Floats:
    """Return the sum over k < steps of min(first + slope k, cap_first + cap_slope k).

    Two lines cross at most once: the sum is taken line by line, on either side of the crossing.
    """
    gap, gap_slope = cap_first - first, cap_slope - slope  # what is left under the cap
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = np.where(gap_slope == 0.0, 0.0, -gap / gap_slope)
    # k < split lie on the side of k = 0, the others on the far side.
    split = np.where(crossing > 0.0, np.minimum(np.ceil(crossing), steps), steps).astype(np.int64)
    under = (gap > 0.0) | ((gap == 0.0) & (gap_slope >= 0.0))

    def line(a: Floats, b: Floats, n: Ints) -> Floats:
        result: Floats = a * n + b * triangle(n)
        return result

    near = np.where(under, line(first, slope, split), line(cap_first, cap_slope, split))
    far_first = line(first, slope, steps) - line(first, slope, split)
    far_cap = line(cap_first, cap_slope, steps) - line(cap_first, cap_slope, split)
    total: Floats = near + np.where(under, far_cap, far_first)
    return total


@dataclass(frozen=True, slots=True)
class Meter:
    """Energy of strides under a power model; see `sim.recorder.StrideMeter`.

    Attributes:
        step: what runs, and where.
        gpu: power of one GPU; replica: power around it.
        swap_block_bytes: bytes of a KV block over all GPUs of a replica.
    """

    step: StepModel
    gpu: PowerModel
    replica: ReplicaPower
    swap_block_bytes: float

    tiers = False

    @property
    def bounded(self) -> bool:
        """Whether layers have a window or a state."""
        return self.step.window is not None or self.step.state is not None

    @property
    def window(self) -> int | None:
        """Tokens that layers with a window look back on."""
        return self.step.window

    def __call__(self, strides: NotedStrides, chunks: ChunkSums) -> StrideEnergy:
        """Return energies and bytes of strides."""
        steps = strides.steps
        shape = StepShape(
            strides.decoding.astype(np.float64),
            strides.context_tokens.astype(np.float64),
            strides.emits.astype(np.float64),
            chunks.tokens,
            chunks.past,
            chunks.pairs,
            chunks.pairs_slope,
        )
        bounded = _bounded(strides, chunks.bounded)
        done, kernels = work(self.step, shape, bounded), occupancy(self.step, shape, bounded)
        gpus, gpu = self.replica.gpus, self.gpu
        # Stages of a pipeline compute one after another: a plan keeps one stage's GPUs busy at a time.
        busy_gpus = gpus / self.step.serving.pool.pp
        over_idle_w = (gpu.busy_w - gpu.idle_w) * busy_gpus
        cap_w = (gpu.cap_w - gpu.idle_w) * busy_gpus
        first_s, slope_s = seconds(strides.first_ps), seconds(strides.slope_ps)
        work_j = gpu.work_j(done.hbm_bytes, done.flops, kernels.attention_s, kernels.expert_s, kernels.unpack_s)
        slope_j = gpu.work_j(done.hbm_slope_bytes, done.flops_slope, kernels.attention_slope_s, 0.0, 0.0)
        dynamic_j = capped_sum(
            over_idle_w * first_s + work_j,
            over_idle_w * slope_s + slope_j,
            cap_w * first_s,
            cap_w * slope_s,
            steps,
        )
        busy_s = seconds(strides.busy_ps)
        baseline_w = self.replica.it_baseline_w + self.replica.it_busy_w
        active_j = (baseline_w * busy_s + dynamic_j) * self.replica.site_factor
        hbm_bytes = done.hbm_bytes * steps + done.hbm_slope_bytes * triangle(steps)
        swapped_bytes: Floats = np.multiply(strides.swapped_blocks, self.swap_block_bytes)
        return StrideEnergy(dynamic_j, active_j, hbm_bytes, done.link_bytes * steps, swapped_bytes)


def _bounded(strides: NotedStrides, pieces: Bounded | None) -> Bounded | None:
    """Add what decoding sequences see through a window to what the prompt pieces do."""
    if pieces is None:
        return None
    seen, growth = strides.seen_tokens.astype(np.float64), strides.seen_growth.astype(np.float64)
    return Bounded(
        pieces.pieces,
        pieces.entries + seen,
        pieces.entries_slope + growth,
        pieces.pairs + seen,
        pieces.pairs_slope + growth,
    )

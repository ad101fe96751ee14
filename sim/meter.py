"""The virtual meter: energy and bytes of strides, from closed forms over whole arrays of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwprofiles.deployment import Deployment
from hwprofiles.power import PowerModel
from hwprofiles.replicas import ReplicaPower
from hwprofiles.roofline import PlanArrays, work
from hwprofiles.stacks import Stack
from modelspecs.precision import Precision
from modelspecs.spec import ModelSpec
from sim.clock import S_PER_PS
from sim.recorder import StrideEnergy

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
        deployment, model, precision, stack: what runs where.
        gpu: power of one GPU; replica: power around it.
        swap_block_bytes: bytes of a KV block over all GPUs of a replica.
    """

    deployment: Deployment
    model: ModelSpec
    precision: Precision
    stack: Stack
    gpu: PowerModel
    replica: ReplicaPower
    swap_block_bytes: float

    def __call__(self, columns: Ints) -> StrideEnergy:
        """Return energies and bytes of strides given by column."""
        steps, first_ps, slope_ps = columns[3], columns[4], columns[5]
        values = columns.astype(np.float64)
        done = work(
            self.deployment,
            self.model,
            self.precision,
            self.stack,
            PlanArrays(values[6], values[7], values[8], *values[9:13]),
        )
        gpus, gpu = self.replica.gpus, self.gpu
        # Stages of a pipeline compute one after another: a plan keeps one stage's GPUs busy at a time.
        busy_gpus = gpus / self.deployment.pp
        over_idle_w = (gpu.busy_w - gpu.idle_w) * busy_gpus
        cap_w = (gpu.cap_w - gpu.idle_w) * busy_gpus
        first_s, slope_s = first_ps * S_PER_PS, slope_ps * S_PER_PS
        dynamic_j = capped_sum(
            over_idle_w * first_s + gpu.j_per_byte * done.hbm_bytes + gpu.j_per_flop * done.flops,
            over_idle_w * slope_s + gpu.j_per_byte * done.hbm_slope_bytes + gpu.j_per_flop * done.flops_slope,
            cap_w * first_s,
            cap_w * slope_s,
            steps,
        )
        busy_s = values[1] * S_PER_PS
        baseline_w = self.replica.it_baseline_w + self.replica.it_busy_w
        active_j = (baseline_w * busy_s + dynamic_j) * self.replica.site_factor
        hbm_bytes = done.hbm_bytes * steps + done.hbm_slope_bytes * triangle(steps)
        return StrideEnergy(dynamic_j, active_j, hbm_bytes, done.link_bytes * steps, values[16] * self.swap_block_bytes)

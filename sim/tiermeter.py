"""The virtual meter of a run whose weights lie in several tiers: what crosses the link is added to it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.hostwork import HostRates
from afterwatt.sim.meter import Meter
from afterwatt.sim.placement import Placement
from afterwatt.sim.recorder import ChunkSums, NotedStrides, StrideEnergy
from afterwatt.sim.tiered import host_part, touched_frac

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TieredMeter:
    """Energy of strides as `sim.meter.Meter` has it, of what the GPUs compute, and bytes over all links.

    Attributes:
        own: of what they always compute; whole: of all layers, where many tokens bring host weights over.
        placement: of the weights; rates: of the host.
    """

    own: Meter
    whole: Meter
    placement: Placement
    rates: HostRates

    @property
    def bounded(self) -> bool:
        """Whether layers have a window or a state."""
        return self.whole.bounded

    @property
    def window(self) -> int | None:
        """Tokens that layers with a window look back on."""
        return self.whole.window

    def __call__(self, strides: NotedStrides, chunks: ChunkSums) -> StrideEnergy:
        """Return energies and bytes of strides."""
        tokens = strides.decoding + chunks.tokens
        many = tokens >= self.rates.streamed_from_tokens
        few, whole = self.own(strides, chunks), self.whole(strides, chunks)
        chosen = StrideEnergy(*(np.where(many, w, f) for f, w in zip(few, whole, strict=True)))
        crossing = chosen.dram_to_hbm_bytes + self._link_bytes(tokens) * strides.steps
        return chosen._replace(dram_to_hbm_bytes=crossing)

    def _link_bytes(self, tokens: Floats) -> Floats:
        """Return the weights that cross to the GPUs in an iteration of each stride."""
        sizes, where = np.unique(tokens, return_inverse=True)
        model = self.whole.step.serving.model
        per_size = [
            sum(
                host_part(stage, self.rates, touched_frac(model, size), int(size)).link_bytes
                for stage in self.placement.stages
            )
            for size in sizes.tolist()
        ]
        found: Floats = np.array(per_size)[where]
        return found

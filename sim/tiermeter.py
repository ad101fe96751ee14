"""The virtual meters of runs whose weights lie in several tiers: what crosses the link is added to them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.hostwork import HostRates
from afterwatt.sim.meter import Meter, triangle
from afterwatt.sim.placement import Placement
from afterwatt.sim.recorder import ChunkSums, NotedStrides, StrideEnergy
from afterwatt.sim.tiered import host_part, touched_frac

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CachedMeter:
    """Energy of strides as `sim.meter.Meter` has it, by what the GPUs compute.

    Attributes:
        own: of few tokens; whole: of prompts, which activate everything.
    """

    own: Meter
    whole: Meter

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
        return self.chosen(strides, chunks, chunks.tokens > 0)

    def chosen(self, strides: NotedStrides, chunks: ChunkSums, many: NDArray[np.bool_]) -> StrideEnergy:
        """Return the same of strides of which it is known whether everything is computed."""
        few, whole = self.own(strides, chunks), self.whole(strides, chunks)
        return StrideEnergy(*(np.where(many, w, f) for f, w in zip(few, whole, strict=True)))


@dataclass(frozen=True, slots=True)
class TieredMeter(CachedMeter):
    """The same of what GPUs always compute, or of all layers where many tokens bring host weights over.

    Attributes:
        placement: of the weights; rates: of the host.
    """

    placement: Placement
    rates: HostRates

    def __call__(self, strides: NotedStrides, chunks: ChunkSums) -> StrideEnergy:
        """Return energies and bytes of strides, of all links."""
        tokens = strides.decoding + chunks.tokens
        chosen = self.chosen(strides, chunks, tokens >= self.rates.streamed_from_tokens)
        crossing = chosen.dram_to_hbm_bytes + self._link_bytes(tokens) * strides.steps
        if entry_bytes := sum(stage.kv_entry_bytes for stage in self.placement.stages):
            read = (strides.context_tokens + chunks.past) * strides.steps + strides.decoding * triangle(strides.steps)
            crossing = crossing + entry_bytes * (read + tokens * strides.steps)  # new ones go back
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

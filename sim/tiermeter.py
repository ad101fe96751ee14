"""The virtual meters of runs whose weights lie in several tiers: what crosses, what CPU, link and disk do and draw."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.hostwork import HostRates, host_work, host_work_w
from afterwatt.hwprofiles.residence import replica_kv_bytes
from afterwatt.hwprofiles.roofline import LASTING
from afterwatt.sim.clock import S_PER_PS
from afterwatt.sim.meter import Meter, triangle
from afterwatt.sim.placement import Placement
from afterwatt.sim.recorder import ChunkSums, NotedStrides, StrideEnergy, TierWork, seconds
from afterwatt.sim.tiered import host_part
from afterwatt.sim.times import IterationTimes

Floats = NDArray[np.float64]


def with_tiers(energy: StrideEnergy, strides: NotedStrides, meter: Meter, work: TierWork) -> StrideEnergy:
    """Return energies with what CPU and disks draw, and a GPU that waits where it does not compute.

    Args:
        energy: of strides whose GPUs are taken to compute all the time.
        strides: those.
        meter: of the GPUs.
        work: of the tiers, its joules still missing.
    """
    cpu_w, disk_w = host_work_w(meter.step.serving.pool)
    work = work._replace(cpu_j=work.cpu_s * cpu_w, storage_j=work.disk_s * disk_w)
    taken_s = seconds(strides.first_ps) * strides.steps + seconds(strides.slope_ps) * triangle(strides.steps)
    waiting_s = np.maximum(0.0, taken_s - work.gpu_s)
    gpus = meter.replica.gpus / meter.step.serving.pool.pp  # a stage's GPUs wait for its own host
    unspent_w = (1.0 - host_work().gpu_wait_frac) * (meter.gpu.busy_w - meter.gpu.idle_w) * gpus
    unspent_j = np.minimum(waiting_s * unspent_w, energy.dynamic_j)
    more_j = (work.cpu_j + work.storage_j - unspent_j) * meter.replica.site_factor
    return energy._replace(dynamic_j=energy.dynamic_j - unspent_j, active_j=energy.active_j + more_j, tiers=work)


@dataclass(frozen=True, slots=True)
class CachedMeter:
    """Energy of strides as `sim.meter.Meter` has it, by what the GPUs compute.

    Attributes:
        own: of few tokens; whole: of prompts, which activate everything.
    """

    own: Meter
    whole: Meter
    tiers = True

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
        gpu_s, cpu_s, link_s, disk_s = seconds(strides.passed[:4])
        cpu_bytes, disk_bytes = strides.passed[4:].astype(np.float64)
        none = np.zeros(len(gpu_s))
        work = TierWork(gpu_s, cpu_s, link_s, disk_s, cpu_bytes, disk_bytes, none, none)
        return with_tiers(self.chosen(strides, chunks, chunks.tokens > 0), strides, self.whole, work)

    def chosen(self, strides: NotedStrides, chunks: ChunkSums, many: NDArray[np.bool_]) -> StrideEnergy:
        """Return the same of strides of which it is known whether everything is computed."""
        few, whole = self.own(strides, chunks), self.whole(strides, chunks)
        return StrideEnergy(
            dynamic_j=np.where(many, whole.dynamic_j, few.dynamic_j),
            active_j=np.where(many, whole.active_j, few.active_j),
            hbm_bytes=np.where(many, whole.hbm_bytes, few.hbm_bytes),
            link_bytes=np.where(many, whole.link_bytes, few.link_bytes),
            dram_to_hbm_bytes=np.where(many, whole.dram_to_hbm_bytes, few.dram_to_hbm_bytes),
        )


@dataclass(frozen=True, slots=True)
class TieredMeter(CachedMeter):
    """The same of what GPUs always compute, or of all layers where many tokens bring host weights over.

    Attributes:
        placement: of the weights; rates: of the host.
        own_times, whole_times: of each pipeline stage's GPUs, for few tokens and for many.
    """

    placement: Placement
    rates: HostRates
    own_times: Sequence[IterationTimes]
    whole_times: Sequence[IterationTimes]

    def __call__(self, strides: NotedStrides, chunks: ChunkSums) -> StrideEnergy:
        """Return energies and bytes of strides, of all links."""
        tokens = strides.decoding + chunks.tokens
        chosen = self.chosen(strides, chunks, tokens >= self.rates.streamed_from_tokens)
        entries = (strides.context_tokens + chunks.past) * strides.steps + strides.decoding * triangle(strides.steps)
        work, crossed_bytes = self._work(strides, chunks, tokens, entries)
        energy = chosen._replace(dram_to_hbm_bytes=chosen.dram_to_hbm_bytes + crossed_bytes)
        return with_tiers(energy, strides, self.whole, work)

    def _work(
        self, strides: NotedStrides, chunks: ChunkSums, tokens: Floats, entries: Floats
    ) -> tuple[TierWork, Floats]:
        """Return what tiers do in each stride, and what crosses to the GPUs and back."""
        sizes, where = np.unique(tokens, return_inverse=True)
        serving, rates = self.whole.step.serving, self.rates
        found = np.zeros((len(sizes), 6))
        for at, size in enumerate(sizes.tolist()):
            for stage in self.placement.stages:
                part = host_part(stage, rates, serving.model, int(size))
                works = (part.cpu_s, part.link_s + part.brought_s, part.disk_s)
                found[at] += (*works, part.cpu_bytes, part.disk_bytes, part.link_bytes)
        cpu_s, link_s, disk_s, cpu_bytes, disk_bytes, link_bytes = found[where].T * strides.steps
        mixers = sum(stage.cpu_mixers for stage in self.placement.stages)
        read_bytes = replica_kv_bytes(serving) / serving.model.layers * mixers * entries
        kv_bytes = sum(stage.kv_entry_bytes for stage in self.placement.stages)
        work = TierWork(
            gpu_s=self._gpu_s(strides, chunks, tokens),
            cpu_s=cpu_s + read_bytes / rates.cpu_bytes_per_s,
            link_s=link_s + kv_bytes * entries / rates.link_bytes_per_s,
            disk_s=disk_s,
            cpu_bytes=cpu_bytes + read_bytes,
            disk_bytes=disk_bytes,
            cpu_j=np.zeros(len(entries)),
            storage_j=np.zeros(len(entries)),
        )
        return work, link_bytes + kv_bytes * (entries + tokens * strides.steps)  # new entries go back

    def _gpu_s(self, strides: NotedStrides, chunks: ChunkSums, tokens: Floats) -> Floats:
        """Return how long GPUs compute in each stride; of several prompt pieces, as if they were one."""
        columns = (strides.decoding, strides.context_tokens, strides.emits, strides.steps)
        seen = zip(strides.seen_tokens.tolist(), strides.seen_growth.tolist(), strict=True)
        rows = zip(*(column.tolist() for column in columns), seen, strict=True)
        found = np.zeros(len(tokens))
        prompts = zip(chunks.tokens.tolist(), chunks.past.tolist(), tokens.tolist(), strict=True)
        for at, (row, (read, past, size)) in enumerate(zip(rows, prompts, strict=True)):
            decoding, context, emits, steps, shown = row
            pieces = ((None, int(read), int(past)),) if read else ()
            for stage in self.whole_times if size >= self.rates.streamed_from_tokens else self.own_times:
                first, slope, _ = stage.step(decoding, context, pieces, emits, steps, (*shown, LASTING))
                found[at] += first * steps + slope * (steps * (steps - 1) // 2)
        return found * S_PER_PS

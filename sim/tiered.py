"""Iterations of a model that its GPUs do not hold: what the CPU computes, and what crosses to the GPU.

The CPU's part is added to the GPU's. Layers that are streamed run ahead of the one that is computed, from one iteration
to the next without a stop: an iteration takes as long as the slowest of disk, link and GPU. Both depend on the number
of tokens alone, but for keys and values in host memory, which grow evenly: the law of a stride stays affine. Those that
the GPU reads from there cross the link with the weights; new ones go back the other way at the same time.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from afterwatt.hwprofiles.hostwork import HostRates
from afterwatt.hwprofiles.residence import replica_kv_bytes
from afterwatt.hwprofiles.roofline import PS_PER_S, Seen
from afterwatt.hwprofiles.serving import Serving
from afterwatt.modelspecs.spec import ModelSpec, experts_touched
from afterwatt.sim.placement import StageWeights

if TYPE_CHECKING:
    from afterwatt.sim.times import IterationTimes


class HostPart(NamedTuple):
    """What an iteration takes besides the GPU's own work.

    Attributes:
        cpu_s: that the CPU computes.
        brought_s: that the weights of the CPU take to cross, where many tokens bring them over.
        link_s, disk_s: that streamed weights take to cross, and to be read.
        cpu_bytes: of weights that the CPU computes with.
        link_bytes: that cross to the GPUs; disk_bytes: those of them that come from the disk.
    """

    cpu_s: float
    brought_s: float
    link_s: float
    disk_s: float
    cpu_bytes: float
    link_bytes: float
    disk_bytes: float


def host_part(weights: StageWeights, rates: HostRates, model: ModelSpec, tokens: int) -> HostPart:
    """Return what an iteration of so many tokens takes of host and links.

    Args:
        weights: of the stage.
        rates: of its host.
        model: whose experts the tokens touch.
        tokens: of the iteration.
    """
    many = tokens >= rates.streamed_from_tokens
    at_a_time = tokens if weights.batch_tokens is None else min(tokens, weights.batch_tokens)
    if many:  # what the CPU has comes over anew for each batch; the last one may be smaller
        whole, rest = divmod(tokens, at_a_time)
        parts = [*[at_a_time] * whole, *([rest] if rest else [])]
        host = sum(weights.cpu_bytes + weights.expert_bytes * touched_frac(model, part) for part in parts)
    else:
        host = weights.cpu_bytes + weights.expert_bytes * touched_frac(model, tokens)
    return HostPart(
        cpu_s=0.0 if many else host / rates.cpu_bytes_per_s + weights.cpu_layers * rates.hand_over_s,
        brought_s=host / rates.expert_bytes_per_s if many else 0.0,
        link_s=weights.link_bytes / rates.link_bytes_per_s,
        disk_s=weights.disk_bytes / rates.disk_bytes_per_s,
        cpu_bytes=0.0 if many else host,
        link_bytes=weights.link_bytes + (host if many else 0.0),
        disk_bytes=weights.disk_bytes,
    )


def touched_frac(model: ModelSpec, tokens: float) -> float:
    """Return the share of a layer's experts that tokens touch: 1 - (1 - k/E)^n; 1 in a dense model."""
    return experts_touched(model.experts, model.active_experts, tokens) / model.experts


class TieredTimes:
    """Times of a pipeline stage whose weights lie in several tiers.

    Args:
        serving: what is computed, and where.
        weights: of the stage.
        rates: of its host.
        own: times of what the GPUs always compute; whole: of all layers, where many tokens bring host weights over.
    """

    def __init__(
        self,
        serving: Serving,
        weights: StageWeights,
        rates: HostRates,
        own: "IterationTimes",
        whole: "IterationTimes",
    ) -> None:
        self._serving, self._weights, self._rates = serving, weights, rates
        self._own, self._whole = own, whole
        entry_bytes = replica_kv_bytes(serving) / serving.model.layers * weights.cpu_mixers
        crossing_ps = round(weights.kv_entry_bytes / rates.link_bytes_per_s * PS_PER_S)
        # What crosses runs ahead of the GPU, or else takes turns with it.
        self._entry_ps = round(entry_bytes / rates.cpu_bytes_per_s * PS_PER_S) + (0 if weights.ahead else crossing_ps)
        self._crossing_ps = crossing_ps if weights.ahead else 0
        self._parts: dict[int, tuple[int, int, int]] = {}
        self.wake_ps, self.hop_ps = own.wake_ps, own.hop_ps

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
        tokens, entries = decoding, context_tokens
        for _, size, past in chunks:
            tokens, entries = tokens + size, entries + past
        part = self._parts.get(tokens)
        if part is None:
            part = self._parts[tokens] = self._part_ps(tokens)
        times = self._whole if tokens >= self._rates.streamed_from_tokens else self._own
        first, slope, lasting = times.step(decoding, context_tokens, chunks, emits, iterations, seen)
        first, slope = first + part[0] + self._entry_ps * entries, slope + self._entry_ps * tokens
        back_ps = self._crossing_ps * tokens  # new keys and values, on their way out
        laws = (first, slope), (part[1] + self._crossing_ps * entries, back_ps), (max(part[2], back_ps), 0)
        slowest, growth = max(laws)
        for other, rate in laws:
            if rate > growth:
                lasting = min(lasting, -((other - slowest) // (rate - growth)))
        return slowest, growth, lasting

    def _part_ps(self, tokens: int) -> tuple[int, int, int]:
        """Return what is added to the GPU's time, and the least that link and disk take."""
        part = host_part(self._weights, self._rates, self._serving.model, tokens)
        added_s, link_s, disk_s = part.cpu_s + part.brought_s, part.link_s, part.disk_s
        if not self._weights.ahead:  # fetching and computing take turns
            added_s, link_s, disk_s = added_s + link_s + disk_s, 0.0, 0.0
        return round(added_s * PS_PER_S), round(link_s * PS_PER_S), round(disk_s * PS_PER_S)

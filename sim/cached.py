"""Iterations of a model that a GPU computes of active neurons: caches decide what crosses to it.

Layers pass disk, link and GPU as a flow shop (`hwprofiles.flow`). Layers come from disk ahead of time and from one
iteration to the next without a stop. Which neurons a layer needs is known two layers ahead, of a new token's first
layers as soon as there is the token. Prompts activate everything: whole layers cross.

Caches start empty and live on what the source says is active. Once what crosses is stationary, further iterations draw
from what has been seen, always all layers of an iteration together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import simpy
from numpy.typing import NDArray

from afterwatt.hwprofiles.flow import After, FlowShop, FlowState
from afterwatt.hwprofiles.hostwork import NOMINAL, HostRates, host_rates
from afterwatt.hwprofiles.roofline import Seen
from afterwatt.hwprofiles.serving import Serving
from afterwatt.policies.caching.activity import ActivationSource
from afterwatt.policies.caching.cache import Ids, UnitCache
from afterwatt.policies.m2cache import M2Cache
from afterwatt.policies.placement import DENSE, WeightPolicy, WeightView
from afterwatt.policies.plans import StepPlan
from afterwatt.policies.precision import Shares
from afterwatt.sim.clock import PS_PER_S
from afterwatt.sim.config import RunConfig
from afterwatt.sim.executors import Strides
from afterwatt.sim.placement import weight_view
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.times import IterationTimes, own_times
from afterwatt.sim.worker import Worker

DISK, LINK, GPU = 0, 1, 2
KNOWN_AHEAD = 2
"""A layer's neurons are predicted from what the layer before it is given, so when the one before that has ended."""
LEAST_SEEN, MOST_SEEN = 32, 512
"""Iterations after which what crosses may count as stationary, and does in any case."""
CLOSE_FRAC = 0.02
_Z95 = 1.96


class Crossing(NamedTuple):
    """What an iteration brings to the GPU: of each layer, bytes and neurons; and how many of those needed were there.

    Attributes:
        sizes: bytes, int64[layers].
        copies: neurons, int64[layers].
        hits: active neurons that were on the GPU; active: all of them.
    """

    sizes: Ids
    copies: Ids
    hits: int
    active: int


class Passed(NamedTuple):
    """What an iteration took and moved.

    Attributes:
        duration_ps: from its beginning to the end of its last layer.
        link_bytes: that crossed to the GPU; disk_bytes: that were read.
        work_ps: that disk, link and GPU had to do.
    """

    duration_ps: int
    link_bytes: int
    disk_bytes: int
    work_ps: tuple[int, ...]


@dataclass(slots=True)
class _Seen:
    """Crossings of iterations of one kind, oldest first."""

    crossings: list[Crossing] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    last_step: int = -1
    settled: bool = False


class Misses:
    """What crosses to the GPU, iteration by iteration.

    Args:
        cache: of all layers.
        source: which neurons are active.
        unit_bytes: of each neuron of a layer by its rank, int64[units].
        layers: of the model.
        seed: of draws among what has been seen.
    """

    def __init__(self, cache: UnitCache, source: ActivationSource, unit_bytes: Ids, layers: int, seed: int) -> None:
        self._cache, self._source, self._bytes = cache, source, unit_bytes
        self._layers, self._seed = layers, seed
        self._seen: dict[tuple[int, int], _Seen] = {}
        self._known: frozenset[int] = frozenset()  # streams of the last iteration

    def of_step(self, step: int, streams: Sequence[int]) -> Crossing:
        """Return what an iteration brings over.

        Args:
            step: its number; each is asked for once, in order.
            streams: the sequences that decode.
        """
        fresh = len(set(streams) - self._known)
        self._known = frozenset(streams)
        seen = self._seen.setdefault((len(streams), fresh), _Seen())
        if seen.settled:
            half = len(seen.crossings) // 2
            draw = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 1, step]))
            return seen.crossings[half + int(draw.integers(len(seen.crossings) - half))]
        crossing = self._live(step, streams)
        if fresh or seen.last_step == step - 1 or not seen.crossings:
            seen.crossings.append(crossing)
            seen.totals.append(float(crossing.sizes.sum()))
            seen.settled = stationary(seen.totals)
        seen.last_step = step
        return crossing

    def _live(self, step: int, streams: Sequence[int]) -> Crossing:
        sizes, copies = np.zeros(self._layers, dtype=np.int64), np.zeros(self._layers, dtype=np.int64)
        hits = needed = 0
        for layer in range(self._layers):
            active = self._source.active(step, layer, streams)
            touched = self._cache.touch(layer, active)
            brought = np.union1d(touched.misses, touched.loads)
            sizes[layer], copies[layer] = self._bytes[brought].sum(), len(brought)
            hits, needed = hits + len(touched.hits), needed + len(active)
        return Crossing(sizes, copies, hits, needed)


def stationary(totals: Sequence[float]) -> bool:
    """Return whether the later half of what was seen neither drifts nor is too little to draw from.

    Its two halves' means must lie within their 95 % confidence bound of each other, and the bound of the whole within
    2 % of its mean.
    """
    if len(totals) < LEAST_SEEN:
        return False
    if len(totals) >= MOST_SEEN:
        return True
    later = np.array(totals[len(totals) // 2 :])
    first, second = later[: len(later) // 2], later[len(later) // 2 :]
    apart = abs(first.mean() - second.mean())
    bound = _Z95 * np.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    width = _Z95 * later.std(ddof=1) / np.sqrt(len(later))
    return bool(apart <= bound + 1e-12 and width <= CLOSE_FRAC * later.mean())


def rank_bytes(shares: Shares, units: int, unit_bytes: float, view: WeightView) -> Ids:
    """Return the bytes of each neuron of a layer, the most important first, int64[units].

    Args:
        shares: of precisions.
        units: of a layer.
        unit_bytes: of a neuron as the model is stored.
        view: of the weights.
    """
    sizes = [round(unit_bytes * view.ratios[share.precision]) for share in shares.shares]
    counts = shares.counts(units)
    return np.repeat(np.array([*sizes, 0], dtype=np.int64), [*counts, units - sum(counts)])


def cached_servings(serving: Serving, policy: WeightPolicy) -> tuple[Serving, Serving]:
    """Return what a GPU computes at the mean of the mixed precisions: active neurons only, and everything.

    Args:
        serving: the model as it is stored.
        policy: how much is active, and at what precision.
    """
    assert isinstance(policy, M2Cache)
    model, form = serving.model, serving.model.form(serving.precision)
    bits = form.bits_per_weight * policy.mean_ratio(weight_view(serving).ratios)
    mixed = replace(form, bits_per_weight=bits, attention_bits=8.0 * form.bytes_per_attention_weight)
    whole = replace(serving, precision=mixed)
    return replace(whole, model=replace(model, ffn=max(1, round(model.dense_width * policy.density)))), whole


class CachedLayers:
    """A worker's weights in motion: how long its iterations take, and what crosses.

    Args:
        config: the run; its policy is `M2Cache`.
        number: of the worker.
    """

    def __init__(self, config: RunConfig, number: int) -> None:
        serving, policy = config.serving, config.policies.make_weights()
        assert isinstance(policy, M2Cache)
        view = weight_view(serving)
        layers, units = view.layers, serving.model.dense_width
        self.rates: HostRates = host_rates(serving, NOMINAL if config.slowness is None else config.slowness.host)
        dense = max(piece.size_bytes for piece in view.pieces if piece.part == DENSE)
        by_rank = rank_bytes(policy.shares, units, dense / units, view)
        seed = config.seed * 1_000_003 + number
        self.misses = Misses(policy.cache(layers, units), policy.source(units, seed), by_rank, layers, seed)
        self._layer_bytes, self._units, self._layers = int(by_rank.sum()), units, layers
        self._area, self._ahead = policy.area(view), policy.ahead
        self._all_there = len(self._area.begin().loads) == layers
        self._few, self._many = (own_times(config, computed) for computed in cached_servings(serving, policy))
        orders = (After(LINK, DISK, 0), After(GPU, LINK, 0), After(LINK, GPU, KNOWN_AHEAD))
        self._shop = FlowShop(3, (*orders, After(DISK, GPU, policy.ahead + 1)))
        self._state: FlowState = self._shop.begin()
        self._asked = np.zeros(layers, dtype=bool)  # of the next pass, layers that come from disk
        self._step = 0

    def iteration(self, now_ps: int, streams: Sequence[int], plan: tuple[int, int, Any, int], seen: Seen) -> Passed:
        """Return how long an iteration takes that begins now, and what it brings to the GPU.

        Args:
            now_ps: when.
            streams: the sequences that decode.
            plan: (sequences that decode, KV entries that they read, prompt pieces, sequences that need logits).
            seen: see `TimeModel.step`.
        """
        crossing = self.misses.of_step(self._step, streams) if streams else None
        self._step += bool(streams)
        whole = bool(plan[2]) or crossing is None
        times = self._many if whole else self._few
        gpu_ps = times.step(*plan, 1, seen)[0]
        sizes = np.full(self._layers, self._layer_bytes) if whole or crossing is None else crossing.sizes
        copies = np.ones(self._layers, dtype=np.int64) if whole or crossing is None else crossing.copies
        works = np.empty((self._layers, 3), dtype=np.int64)
        works[:, DISK] = self._from_disk() * round(self._layer_bytes / self.rates.disk_bytes_per_s * PS_PER_S)
        link_s = sizes / self.rates.link_bytes_per_s + copies * self.rates.unit_copy_s
        works[:, LINK] = np.round(link_s * PS_PER_S)
        works[:, GPU] = np.diff(np.arange(self._layers + 1) * gpu_ps // self._layers)
        free = self._state.free_ps
        begun = self._state._replace(free_ps=(free[DISK], max(free[LINK], now_ps), max(free[GPU], now_ps)))
        ends, self._state = self._shop.run(works, begun)
        read = int(np.count_nonzero(works[:, DISK])) * self._layer_bytes
        return Passed(int(ends[-1, GPU]) - now_ps, int(sizes.sum()), read, tuple(works.sum(axis=0).tolist()))

    def _from_disk(self) -> NDArray[np.bool_]:
        """Return which layers of this pass come from disk: those that were asked for, `ahead` layers before."""
        if self._all_there:
            return self._asked
        asked, self._asked = self._asked, np.zeros(self._layers, dtype=bool)
        for layer in range(self._layers):
            for wanted in self._area.step(layer).loads:
                (asked if wanted > layer else self._asked)[wanted] = True
        return asked


class CachedStrides(Strides):
    """Iterations whose weights come as caches decide; each takes its own time, so that they are taken singly.

    Args:
        layers: the worker's weights in motion.
        times: of its GPU, for what a rest costs.
    """

    def __init__(self, layers: CachedLayers, times: IterationTimes) -> None:
        super().__init__(times)
        self._layers = layers

    def attach(self, worker: Worker) -> None:
        """Take up work for a worker."""
        super().attach(worker)
        self._step = self._cached_step

    def start(self, plan: StepPlan[Ticket], begin_ps: int, single: bool) -> simpy.Event | None:
        """Begin an iteration (`Executor.start`)."""
        self._streams = [seq.seq_id for seq, _ in self.worker.scheduler.decoding(plan)]
        return super().start(plan, begin_ps, single)

    def _cached_step(
        self, decoding: int, context_tokens: int, chunks: Sequence[Any], emits: int, iterations: int
    ) -> tuple[int, int, int]:
        config, now = self.worker.scheduler.config, self._env._now
        self._seen = seen = self.worker.scheduler.seen(0) if config.windowed or config.padded else (0, 0, 0)
        passed = self._layers.iteration(now, self._streams, (decoding, context_tokens, chunks, emits), seen)
        self._crossed = passed.link_bytes
        return passed.duration_ps, 0, min(1, iterations)

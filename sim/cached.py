"""Iterations of a model that a GPU computes of active units, neurons or experts: caches decide what crosses to it.

Layers pass disk, link, CPU and GPU as a flow shop (`hwprofiles.flow`). Which units a layer needs is known a few layers
ahead, of a new token's first layers as soon as there is the token. What is not on the GPU crosses to it, or the CPU
computes it where it lies; what a cache then takes in crosses in its own time. Prompts activate everything: what is not
on the GPU crosses.

Caches start empty and live on what the source says is active. Once what crosses is stationary, further iterations draw
from what has been seen, always all layers of an iteration together.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import simpy
from numpy.typing import NDArray

from afterwatt.hwprofiles.flow import After, FlowShop, FlowState
from afterwatt.hwprofiles.hostwork import NOMINAL, HostRates, host_rates
from afterwatt.hwprofiles.roofline import Seen
from afterwatt.hwprofiles.serving import Serving
from afterwatt.modelspecs.layers import ROUTED
from afterwatt.policies.cached import CachedUnits
from afterwatt.policies.caching.activity import ActivationSource, Experts, Recorded
from afterwatt.policies.caching.cache import Ids, UnitCache
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.expertcache import CachedExperts
from afterwatt.policies.m2cache import M2Cache
from afterwatt.policies.placement import CPU as COMPUTED_ON_CPU
from afterwatt.policies.placement import DENSE, EXPERTS, WeightPolicy, WeightView
from afterwatt.policies.placement import GPU as COMPUTED_ON_GPU
from afterwatt.policies.plans import StepPlan
from afterwatt.policies.precision import Shares
from afterwatt.sim.clock import PS_PER_S
from afterwatt.sim.config import RunConfig
from afterwatt.sim.executors import Strides
from afterwatt.sim.placement import weight_view
from afterwatt.sim.recorder import pack_passed
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.tiered import touched_frac
from afterwatt.sim.times import IterationTimes, own_times
from afterwatt.sim.worker import Worker

DISK, LINK, LATER, CPU, GPU = 0, 1, 2, 3, 4
"""Stages that a layer passes; `LATER` is the link too, for what a cache takes in while the CPU computes it."""
LEAST_SEEN, MOST_SEEN = 32, 512
"""Iterations after which what crosses may count as stationary, and does in any case."""
CLOSE_FRAC = 0.02
_PROMPTS = (-1,)
"""Stands for the sequences of an iteration that only reads prompts, of recorded activity."""
_Z95 = 1.96


class Crossing(NamedTuple):
    """What an iteration moves and computes beside the GPU's cache.

    Attributes:
        sizes: bytes that cross to the GPU, of each layer, int64[layers]; copies: units.
        cold_sizes: bytes that the CPU computes with, of each layer, int64[layers]; where there are some, the GPU does
            not wait for those that cross.
        disk_sizes: bytes that are read from the disk, of each layer, int64[layers].
        hits: active units that were on the GPU; active: all of them; cold: those that the CPU computes.
    """

    sizes: Ids
    copies: Ids
    cold_sizes: Ids
    disk_sizes: Ids
    hits: int
    active: int
    cold: int


class Activity(NamedTuple):
    """What an engine has recorded.

    Attributes:
        source: the active units; from the first iteration again where a run has more.
        unit_bytes: of each; layer_bytes: of a layer as it comes from the disk.
    """

    source: ActivationSource
    unit_bytes: int
    layer_bytes: int


class _Repeated:
    """Plays a recording again and again (`ActivationSource`)."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded

    def active(self, step: int, layer: int, streams: Sequence[int]) -> Ids:
        """Return the active units (`ActivationSource.active`)."""
        return self._recorded.active(step % self._recorded.steps, layer, streams)


def read_activity(path: Path, layers: int, units: int) -> Activity:
    """Read what an engine has recorded (docs/modular.md).

    Args:
        path: of the file.
        layers: of the model that have such units.
        units: of each.

    Raises:
        PolicyError: it is none, is damaged, or is of another model.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError
        with path.open("rb") as file, np.load(file) as found:
            numbers = {name: int(found[name]) for name in ("layers", "layer_units", "unit_bytes", "layer_bytes")}
            recorded = Recorded(found["offsets"], found["units"], numbers["layers"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as fault:
        raise PolicyError(
            f"activity={str(path)[:200]} is no recording of active units ({type(fault).__name__}); `afterwatt generate "
            "--record FILE` makes one"
        ) from None
    if (numbers["layers"], numbers["layer_units"]) != (layers, units) or not recorded.steps:
        raise PolicyError(
            f"activity={str(path)[:200]} holds {recorded.steps} iterations of {numbers['layers']} layers of "
            f"{numbers['layer_units']} units, and the model has {layers} of {units}; record the same model"
        )
    return Activity(_Repeated(recorded), numbers["unit_bytes"], numbers["layer_bytes"])


class Passed(NamedTuple):
    """What an iteration took and moved.

    Attributes:
        duration_ps: from its beginning to the end of its last layer.
        link_bytes: that crossed to the GPU; disk_bytes: that were read; cpu_bytes: that the CPU computed with.
        work_ps: that disk, link, CPU and GPU had to do.
    """

    duration_ps: int
    link_bytes: int
    disk_bytes: int
    cpu_bytes: int
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
        source: which units are active.
        unit_bytes: of each unit of a layer by its rank, int64[units].
        layers: of the model.
        seed: of draws among what has been seen.
        host: of all layers, in host memory; None: everything is there.
        low_bytes: of each unit, where misses that matter less come so; None: all come whole.
        live: let every iteration be what the source says it is, also once what crosses is stationary.
        cold_s: (bytes that cross, units, bytes of host memory) -> (seconds until they are on the GPU, seconds until the
            CPU has computed them); None: all crosses.
    """

    def __init__(
        self,
        cache: UnitCache,
        source: ActivationSource,
        unit_bytes: Ids,
        layers: int,
        seed: int,
        host: UnitCache | None = None,
        low_bytes: Ids | None = None,
        live: bool = False,
        cold_s: Callable[[int, int], tuple[float, float]] | None = None,
    ) -> None:
        self._cache, self._source, self._bytes = cache, source, unit_bytes
        self._layers, self._seed = layers, seed
        self._host, self._cold_s, self._all_live, self._low_bytes = host, cold_s, live, low_bytes
        self._seen: dict[tuple[int, int], _Seen] = {}
        self._known: frozenset[int] = frozenset()  # streams of the last iteration

    def inside_bytes(self) -> Ids:
        """Return the bytes on the GPU of each layer, int64[layers]."""
        return self._held(self._cache)

    def host_bytes(self) -> Ids | None:
        """Return the same of host memory; None where everything is there."""
        return None if self._host is None else self._held(self._host)

    def _held(self, cache: UnitCache) -> Ids:
        return np.array([self._bytes[cache.inside(layer)].sum() for layer in range(self._layers)], dtype=np.int64)

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
            seen.settled = not self._all_live and stationary(seen.totals)
        seen.last_step = step
        return crossing

    def _live(self, step: int, streams: Sequence[int]) -> Crossing:
        sizes, copies, cold_sizes, disk_sizes = np.zeros((4, self._layers), dtype=np.int64)
        hits = needed = cold = 0
        for layer in range(self._layers):
            if self._low_bytes is not None and isinstance(self._source, Experts):
                active = self._source.ordered(step, layer, streams)
            else:
                active = self._source.active(step, layer, streams)
            touched = self._cache.touch(layer, active)
            hits, needed = hits + len(touched.hits), needed + len(active)
            brought = np.union1d(touched.misses, touched.loads)
            if self._host is not None:
                disk_sizes[layer] = self._bytes[self._host.touch(layer, brought).misses].sum()
            missing = int(self._bytes[touched.misses].sum())
            if self._cold_s is not None and missing:
                there_s, here_s = self._cold_s(missing, len(touched.misses))
                if here_s < there_s:
                    cold_sizes[layer], cold, brought = missing, cold + len(touched.misses), touched.loads
            sizes[layer], copies[layer] = self._bytes[brought].sum(), len(brought)
            if self._low_bytes is not None:
                sizes[layer] -= (self._bytes - self._low_bytes)[touched.low].sum()
        return Crossing(sizes, copies, cold_sizes, disk_sizes, hits, needed, cold)


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
    """Return what a GPU computes of active units, and of all.

    Neurons are computed at the mean of the mixed precisions.

    Args:
        serving: the model as it is stored.
        policy: how much is active, and at what precision.
    """
    if not isinstance(policy, M2Cache):
        return serving, serving
    model, form = serving.model, serving.model.form(serving.precision)
    bits = form.bits_per_weight * policy.mean_ratio(weight_view(serving).ratios)
    mixed = replace(form, bits_per_weight=bits, attention_bits=8.0 * form.bytes_per_attention_weight)
    whole = replace(serving, precision=mixed)
    return replace(whole, model=replace(model, ffn=max(1, round(model.dense_width * policy.density)))), whole


class GpuTimes:
    """What the GPU takes of an iteration, by how many of the active units it computes.

    Args:
        config: the run; policy: of its weights.
    """

    def __init__(self, config: RunConfig, policy: CachedUnits) -> None:
        serving, model = config.serving, config.model
        few, many = cached_servings(serving, policy)
        self._few, self._many = own_times(config, few), own_times(config, many)
        self._model, self._neurons = model, few.model.dense_width if policy.part == DENSE else None
        if self._neurons is not None:
            self._layers = model.layers
            self._without = own_times(config, replace(few, model=replace(few.model, ffn=1)))
            return
        having = {kind: count for kind, count in model.kinds().items() if kind.network == EXPERTS}
        elsewhere = {kind._replace(network=ROUTED): count for kind, count in having.items()}
        self._layers = sum(having.values())
        self._without = own_times(config, serving, 0, Counter(model.kinds()) - Counter(having) + Counter(elsewhere))

    def step_ps(self, plan: tuple[int, int, Any, int], crossing: Crossing | None, seen: Seen) -> int:
        """Return the time of one iteration.

        Args:
            plan: see `CachedLayers.iteration`.
            crossing: what it activates; None: everything.
            seen: see `TimeModel.step`.
        """
        if crossing is None:
            return self._many.step(*plan, 1, seen)[0]
        full = self._few.step(*plan, 1, seen)[0]
        touched = self._neurons or self._model.experts * touched_frac(self._model, plan[0])
        share = (crossing.active - crossing.cold) / (self._layers * touched)
        if share == 1.0:
            return full
        bare = self._without.step(*plan, 1, seen)[0]
        return bare + round((full - bare) * share)


class CachedLayers:
    """A worker's weights in motion: how long its iterations take, and what crosses.

    Args:
        config: the run; its policy is one of `CachedUnits`.
        number: of the worker.

    Attributes:
        misses: what crosses; asked_layers: asked of the disk so far, those of the beginning among them.
    """

    def __init__(self, config: RunConfig, number: int) -> None:
        serving, policy, model = config.serving, config.policies.make_weights(), config.model
        assert isinstance(policy, CachedUnits)
        view = weight_view(serving)
        pieces = [piece.size_bytes for piece in view.pieces if piece.part == policy.part]
        units = model.dense_width if policy.part == DENSE else model.experts
        self.rates: HostRates = host_rates(serving, NOMINAL if config.slowness is None else config.slowness.host)
        self._policy, self._model, self._layers, self._units = policy, model, len(pieces), units
        unit_bytes, host, low, self._area = max(pieces) / units, None, None, None
        if isinstance(policy, M2Cache):
            by_rank, self._area = rank_bytes(policy.shares, units, unit_bytes, view), policy.area(view)
        else:
            assert isinstance(policy, CachedExperts)
            by_rank, host = (
                np.full(units, round(unit_bytes), dtype=np.int64),
                policy.host_cache(len(pieces), units, view),
            )
            if policy.low is not None:
                low = np.full(units, round(unit_bytes * min(1.0, view.ratios[policy.low])), dtype=np.int64)
        seed = config.seed * 1_000_003 + number
        self._layer_bytes = int(by_rank.sum())
        source: ActivationSource = policy.source(units, model.active_experts, seed)
        self._recorded = policy.activity is not None
        if policy.activity is not None:
            found = read_activity(Path(policy.activity), len(pieces), units)
            source, self._layer_bytes = found.source, found.layer_bytes
            by_rank = np.full(units, found.unit_bytes, dtype=np.int64)
        cold_s = None if policy.cold == COMPUTED_ON_GPU else self._cold_s
        cache = policy.cache(len(pieces), units, view)
        self.misses = Misses(cache, source, by_rank, len(pieces), seed, host, low, self._recorded, cold_s)
        begun = 0 if self._area is None else len(self._area.begin().loads)
        self._all_there = begun == len(pieces)
        self.asked_layers = begun
        self._gpu = GpuTimes(config, policy)
        self._shop = FlowShop(GPU + 1, _orders(policy, len(pieces)))
        self._state: FlowState = self._shop.begin()
        self._asked = np.zeros(len(pieces), dtype=bool)  # of the next pass, layers that come from disk
        self._step = 0

    def _cold_s(self, size_bytes: int, units: int) -> tuple[float, float]:
        """Return (seconds until units of a layer are on the GPU, until the CPU has computed them)."""
        here = size_bytes / self.rates.cpu_bytes_per_s + self.rates.hand_over_s
        there = size_bytes / self.rates.link_bytes_per_s + units * self.rates.unit_copy_s
        return (inf if self._policy.cold == COMPUTED_ON_CPU else there), here

    def iteration(self, now_ps: int, streams: Sequence[int], plan: tuple[int, int, Any, int], seen: Seen) -> Passed:
        """Return how long an iteration takes that begins now, and what it brings to the GPU.

        Args:
            now_ps: when.
            streams: the sequences that decode.
            plan: (sequences that decode, KV entries that they read, prompt pieces, sequences that need logits).
            seen: see `TimeModel.step`.
        """
        live = bool(streams) or self._recorded  # what was recorded holds prompts too
        crossing = self.misses.of_step(self._step, streams or _PROMPTS) if live else None
        self._step += live
        if self._recorded and plan[2]:
            gpu_ps = self._gpu.step_ps(plan, None, seen)
        elif plan[2] or crossing is None:
            crossing, gpu_ps = self._whole(plan), self._gpu.step_ps(plan, None, seen)
        else:
            gpu_ps = self._gpu.step_ps(plan, crossing, seen)
        assert crossing is not None
        rates, layers = self.rates, self._layers
        disk_sizes = crossing.disk_sizes + self._from_disk() * self._layer_bytes
        works = np.empty((layers, GPU + 1), dtype=np.int64)
        works[:, DISK] = np.round(disk_sizes / rates.disk_bytes_per_s * PS_PER_S)
        link_s = crossing.sizes / rates.link_bytes_per_s + crossing.copies * rates.unit_copy_s
        works[:, LINK] = np.round(link_s * PS_PER_S)
        works[:, LATER] = np.where(crossing.cold_sizes, works[:, LINK], 0)
        works[:, LINK] -= works[:, LATER]
        cold_s = crossing.cold_sizes / rates.cpu_bytes_per_s + (crossing.cold_sizes > 0) * rates.hand_over_s
        works[:, CPU] = np.round(cold_s * PS_PER_S)
        works[:, GPU] = np.diff(np.arange(layers + 1) * gpu_ps // layers)
        free = self._state.free_ps
        disk_free = free[DISK] if self._area is not None else max(free[DISK], now_ps)  # whole layers come ahead of time
        begun = self._state._replace(free_ps=(disk_free, *(max(ps, now_ps) for ps in free[LINK:])))
        ends, self._state = self._shop.run(works, begun)
        return Passed(
            duration_ps=int(ends[-1, GPU]) - now_ps,
            link_bytes=int(crossing.sizes.sum()),
            disk_bytes=int(disk_sizes.sum()),
            cpu_bytes=int(crossing.cold_sizes.sum()),
            work_ps=tuple(works.sum(axis=0).tolist()),
        )

    def _whole(self, plan: tuple[int, int, Any, int]) -> Crossing:
        """Return what crosses where prompts activate everything, or so many tokens the experts that they touch."""
        layers, nothing = self._layers, np.zeros(self._layers, dtype=np.int64)
        if self._policy.part == DENSE:
            return Crossing(np.full(layers, self._layer_bytes), nothing + 1, nothing, nothing, 0, 0, 0)
        tokens = plan[0] + sum([chunk[1] for chunk in plan[2]])
        touched = touched_frac(self._model, tokens)
        sizes = np.round((self._layer_bytes - self.misses.inside_bytes()) * touched).astype(np.int64)
        copies = np.ceil(sizes / (self._layer_bytes / self._units)).astype(np.int64)
        host = self.misses.host_bytes()
        disk = nothing if host is None else np.round((self._layer_bytes - host) * touched).astype(np.int64)
        return Crossing(sizes, copies, nothing, np.minimum(disk, sizes), 0, 0, 0)

    def _from_disk(self) -> NDArray[np.bool_]:
        """Return which layers of this pass come from disk: those that were asked for, `ahead` layers before."""
        if self._area is None or self._all_there:
            return self._asked
        asked, self._asked = self._asked, np.zeros(self._layers, dtype=bool)
        for layer in range(self._layers):
            for wanted in self._area.step(layer).loads:
                self.asked_layers += 1
                (asked if wanted > layer else self._asked)[wanted] = True
        return asked


def _orders(policy: CachedUnits, layers: int) -> tuple[After, ...]:
    """Return what a layer's stages wait for: whole layers come from disk far ahead, experts once they are known."""
    known, disk = policy.known_ahead, policy.ahead + 1 if isinstance(policy, M2Cache) else policy.known_ahead
    of_disk = (After(DISK, GPU, disk), *(After(stage, DISK, 0) for stage in (LINK, LATER, CPU)))
    of_link = (After(LINK, GPU, known), After(LATER, GPU, known), After(LINK, LATER, 1), After(LATER, LINK, 1))
    return (*of_disk, *of_link, After(CPU, GPU, 1), After(GPU, LINK, 0), After(GPU, CPU, 0), After(GPU, LATER, layers))


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
        self._crossed, self._passed = passed.link_bytes, passed
        return passed.duration_ps, 0, min(1, iterations)

    def ended(self) -> None:
        """Write down what tiers did, apply the stride and write it down."""
        work, passed = self._passed.work_ps, self._passed
        self.worker.lanes[0].passed += pack_passed(
            work[GPU], work[CPU], work[LINK], work[DISK], passed.cpu_bytes, passed.disk_bytes
        )
        Strides.ended(self)

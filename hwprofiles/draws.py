"""Monte Carlo over what is uncertain: times and power of the run, host power, PUE, grid, embodied carbon by method.

Every uncertain quantity has a name. Its draw i depends on (seed, name, i) alone, so two runs that share a quantity
share its draws, and comparing them draw by draw cancels what they have in common. Methods are never mixed: an interval
is one within a method, and most of a method's error is common to all its cards and hosts.

A quantity's median is its value, and its 5th and 95th percentiles are its `low` and `high` (two half log-normals that
meet at the median). The median of what follows from several such quantities is off what follows from their values, by
some per cent where they are skewed; grams are scaled by that, so that their median is what the values say.
"""

import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.assumptions import ledger_assumptions
from afterwatt.hwprofiles.carbon import operational_gco2e
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.footprint import Footprint, Item
from afterwatt.hwprofiles.hostwork import host_work
from afterwatt.hwprofiles.ledger import Ledger
from afterwatt.hwprofiles.lives import ALLOCATIONS
from afterwatt.hwprofiles.power import anchors_of, highest_mean_w

if TYPE_CHECKING:
    from afterwatt.hwprofiles.deployment import Pool
    from afterwatt.hwprofiles.sites import Site

Floats = NDArray[np.float64]

DEFAULT_DRAWS: Final = 1000
Z_95: Final = 1.6448536269514722
"""Standard normal quantile of 95 %: `low` and `high` are a 90 % interval."""
COMMON_VARIANCE_FRAC: Final = 0.8
"""Share of the (log) variance of an embodied figure that all things of one method have in common: fab and grid data,
allocation rules and boundary are the method's, dies and boards the thing's. An assumption."""


class RunError(NamedTuple):
    """How far a predicted run may be off, nine times in ten, as factors on what was predicted (90 % intervals).

    Attributes:
        name: of what errs; runs of one card with one software share it.
        joules: of the run's energy, for its times and its power together.
        seconds: of its length, in which hardware is reserved.
    """

    name: str
    joules: tuple[float, float]
    seconds: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws of named quantities.

    Attributes:
        seed: of the run.
        draws: how many.
    """

    seed: int
    draws: int = DEFAULT_DRAWS
    _kept: dict[str, Floats] = field(default_factory=dict, repr=False, compare=False)

    def normal(self, name: str) -> Floats:
        """Return standard normal draws that depend on the seed and the name only; asked again, the same array."""
        if name not in self._kept:
            entropy = np.random.SeedSequence([self.seed, zlib.crc32(name.encode())])
            self._kept[name] = np.random.Generator(np.random.PCG64(entropy)).standard_normal(self.draws)
        return self._kept[name]

    def fact(self, name: str, fact: float) -> Floats:
        """Return draws of a fact; constant where it states no interval."""
        if not isinstance(fact, Fact) or fact.low is None or fact.high is None:
            return np.full(self.draws, float(fact))
        return quantile_draws(self.normal(name), float(fact), fact.low, fact.high)


def quantile_draws(z: Floats, median: float, low: float, high: float) -> Floats:
    """Return draws whose 5th, 50th and 95th percentiles are low, median and high.

    Two half log-normals that meet at the median; half normals, not below 0, where low is not positive.

    Args:
        z: standard normal draws.
        median: value at z = 0.
        low: value at z = -1.645.
        high: value at z = +1.645.
    """
    share = z / Z_95
    if low > 0.0:
        rise, fall = math.log(high / median), math.log(median / low)
        return median * np.exp(np.where(share > 0.0, share * rise, share * fall))
    return np.maximum(median + np.where(share > 0.0, share * (high - median), share * (median - low)), 0.0)


def percentiles(values: Floats) -> dict[str, float]:
    """Return {p5, p50, p95} of draws."""
    p5, p50, p95 = np.percentile(values, (5.0, 50.0, 95.0))
    return {"p5": float(p5), "p50": float(p50), "p95": float(p95)}


def centred(values: Floats, value: float) -> Floats:
    """Return draws scaled so that their median is a value; 0 stays 0."""
    middle = float(np.median(values))
    return values * (value / middle) if middle else values


def operational_draws(
    ledger: Ledger, pool: "Pool", site: "Site", sampler: Sampler, error: RunError | None = None
) -> Floats:
    """Return draws of a run's operational grams, reserved time included.

    A component's grams are scaled by drawn over assumed power, so the draw at all medians is the ledger's own sum.

    Args:
        ledger: energy and carbon as predicted.
        pool: cards and hosts.
        site: PUE and grid.
        sampler: of the draws.
        error: of the prediction; it stands in for the anchors of GPU power, whose error it holds. None: unknown.
    """
    host = _host_draws(ledger, pool, sampler)
    psu = np.minimum(sampler.fact(f"host.{pool.host.key}.psu_efficiency", pool.host.psu_efficiency), 1.0)
    pue = np.maximum(sampler.fact(f"site.{site.key}.pue", site.pue), 1.0)
    weight = operational_gco2e(np.ones_like(ledger.floats("energy_j")), ledger.floats("intensity_gco2e_per_kwh"))
    busy_g_per_w = float(((ledger.floats("prefill_s") + ledger.floats("decode_s")) * weight).sum())
    all_g_per_w = busy_g_per_w + float((ledger.floats("idle_s") * weight).sum())
    idle_w = sampler.fact(f"device.{pool.device.key}.idle_w", pool.device.idle_w)
    idle_ratio = idle_w / float(pool.device.idle_w)
    it = _gpu_draws(ledger, pool, idle_w, weight, sampler if error is None else None)
    it += host.baseline_w * all_g_per_w + host.busy_w * busy_g_per_w
    if "cpu_dynamic_j" in ledger.columns:
        busy = host_work().cpu_busy_frac
        it += sampler.fact("tiers.cpu_busy_frac", busy) / busy * float((ledger.floats("cpu_dynamic_j") * weight).sum())
        it += float((ledger.floats("storage_dynamic_j") * weight).sum())
    off_w = host.standby_w
    if ledger.reservation.between == "idle":
        off_w = (ledger.power.baseline_w["gpu"] * idle_ratio + host.baseline_w) / psu
    off_j = off_w * ledger.replicas * ledger.reservation.unused_s
    grams = (it / psu + operational_gco2e(1.0, ledger.intensity.mean_gco2e_per_kwh) * off_j) * pue
    off = 1.0 if error is None else quantile_draws(sampler.normal(error.name), 1.0, *error.joules)
    return centred(grams * off * _grid_factor(ledger, site, sampler), ledger.operational_gco2e)


@dataclass(frozen=True, slots=True)
class _HostDraws:
    baseline_w: Floats
    busy_w: Floats
    standby_w: Floats


def _host_draws(ledger: Ledger, pool: "Pool", sampler: Sampler) -> _HostDraws:
    """Return draws of one replica's share of its hosts' watts, components summed."""
    host, storage = pool.host, pool.storage
    share = ledger.power.hosts

    def draw(part: str, fact: Fact) -> Floats:
        return sampler.fact(f"host.{host.key}.{part}", fact)

    fans_w, cpu_active_w = draw("fans_w", host.fans_w), draw("cpu_active_w", host.cpu_active_w)
    fans_idle = np.minimum(sampler.fact("ledger.fans_idle_frac", ledger_assumptions().fans_idle_frac), 1.0)
    baseline_w = (
        draw("cpu_idle_w", host.cpu_idle_w)
        + draw("dram_w_per_byte", host.dram_w_per_byte) * float(host.dram_bytes)
        + fans_w * fans_idle
        + sampler.fact(f"storage.{storage.key}.idle_w", storage.idle_w) * host.disks
        + draw("nic_w", host.nic_w)
        + draw("base_w", host.base_w)
    )
    busy_w = cpu_active_w + fans_w * (1.0 - fans_idle)
    return _HostDraws(baseline_w * share, busy_w * share, draw("standby_w", host.standby_w) * share)


def _gpu_draws(ledger: Ledger, pool: "Pool", idle_w: Floats, weight: Floats, sampler: Sampler | None) -> Floats:
    """Return draws of the GPUs' grams (before power supply and PUE); without a sampler the anchors stay as assumed."""
    device, gpus = pool.device, ledger.power.gpus

    def draw(name: str, fact: Fact) -> Floats:
        return np.full(len(idle_w), float(fact)) if sampler is None else sampler.fact(name, fact)

    anchors, tdp_w = anchors_of(device), float(device.tdp_w)
    named = f"gpu.{anchors.pool}"
    busy_frac = draw(f"{named}.busy_frac", anchors.busy_frac)
    busy = (float(device.idle_w) + float(anchors.busy_frac) * tdp_w, idle_w + busy_frac * tdp_w)
    cap = highest_mean_w(device, anchors, pool.power_cap_w)
    baseline_w = ledger.power.baseline_w["gpu"]
    spare_w = baseline_w - float(device.idle_w) * gpus
    spare = spare_w * idle_w / float(device.idle_w)
    grams = (idle_w * gpus + spare) * float((ledger.floats("idle_s") * weight).sum())
    for state, name, fact in (
        ("prefill", "compute", anchors.compute_frac),
        ("decode", "stream", anchors.streaming(device)),
    ):
        seconds = ledger.floats(f"{state}_s")
        if not seconds.any():
            continue
        active_j = ledger.floats(f"gpu_dynamic_{state}_j") + float(device.idle_w) * gpus * seconds
        mean_w = float(active_j.sum() / seconds.sum()) / gpus
        work_frac = draw(f"{named}.{name}", fact) / float(fact)
        drawn_w = redrawn_power(mean_w, (float(device.idle_w), idle_w), busy, work_frac, cap)
        grams += drawn_w / mean_w * float((active_j * weight).sum()) + spare * float((seconds * weight).sum())
    return grams


def redrawn_power(
    mean_w: float, idle: tuple[float, Floats], busy: tuple[float, Floats], work_frac: Floats, cap_w: float
) -> Floats:
    """Return what a mean power would have been under other anchors.

    A level below busy keeps its place between idle and busy; above it, what work adds is scaled. It never rises above
    the cap (or the level, if that is higher). At the assumed anchors it is the level itself.

    Args:
        mean_w: modelled mean power of one GPU in a state.
        idle: assumed idle watts, and its draws.
        busy: assumed watts of a bare iteration, and its draws.
        work_frac: drawn over assumed joules of the work that the state mostly does (streaming in decode, computing in
            prefill).
        cap_w: power limit.
    """
    busy_w, busy_draws = max(busy[0], idle[0]), np.maximum(busy[1], idle[1])
    if mean_w <= busy_w:
        span = busy_w - idle[0]
        place = (mean_w - idle[0]) / span if span > 0.0 else 0.0
        return np.minimum(idle[1] + place * (busy_draws - idle[1]), cap_w)
    drawn: Floats = np.minimum(busy_draws + (mean_w - busy_w) * work_frac, max(cap_w, mean_w))
    return drawn


def _grid_factor(ledger: Ledger, site: "Site", sampler: Sampler) -> Floats:
    """Return draws of true over assumed intensity; the error of a zone is one, whatever the year's hour."""
    mean = ledger.intensity.fact
    if mean is None or not mean:
        return sampler.fact(f"grid.{site.zone}", ledger_assumptions().grid_frac)
    return sampler.fact(f"grid.{site.zone}", mean) / float(mean)


def embodied_draws(
    footprint: Footprint, reserved_s: float, sampler: Sampler, error: RunError | None = None
) -> dict[str, Floats]:
    """Return allocation -> draws of the grams that the reserved time carries under one method.

    Args:
        footprint: what making the pool emitted.
        reserved_s: as predicted.
        sampler: of the draws.
        error: of the prediction: a run that takes longer reserves the hardware for longer. None: unknown.
    """
    longer = 1.0 if error is None else quantile_draws(sampler.normal(error.name), 1.0, *error.seconds)
    items = [
        (item, _item_draws(footprint.method, item, sampler), _extra_draws(item, sampler)) for item in footprint.items
    ]
    grams: dict[str, Floats] = {}
    for allocation in ALLOCATIONS:
        total = np.zeros(sampler.draws)
        for item, making_g, (moved_g, spares_frac) in items:
            making, extra = item.shares(allocation, reserved_s)
            total += item.count * (making_g * (making + extra * spares_frac) + extra * moved_g)
        grams[allocation] = centred(total * longer, footprint.allocated_gco2e(allocation, reserved_s))
    return grams


def _item_draws(method: str, item: Item, sampler: Sampler) -> Floats:
    """Return draws of what making one thing emitted, most of their variance the method's own."""
    common = sampler.normal(f"embodied.{method}")
    own = sampler.normal(f"embodied.{method}.{item.key}")
    z = math.sqrt(COMMON_VARIANCE_FRAC) * common + math.sqrt(1.0 - COMMON_VARIANCE_FRAC) * own
    factor, (low, high) = ledger_assumptions().method_frac[method], item.gco2e.interval
    value = float(item.gco2e)
    return quantile_draws(z, value, min(low, value * factor.interval[0]), max(high, value * factor.interval[1]))


def _extra_draws(item: Item, sampler: Sampler) -> tuple[Floats, Floats]:
    """Return draws of transport plus refurbishment (grams) and of the spares' share; 0 for new things."""
    if item.life.new:
        return np.zeros(sampler.draws), np.zeros(sampler.draws)
    second = ledger_assumptions().second_life
    card = item.noun == "card"
    moved = second.card_transport_gco2e if card else second.host_transport_gco2e
    refurbished = second.card_refurbishment_gco2e if card else second.host_refurbishment_gco2e
    moved_g = sampler.fact(f"second-life.{item.noun}.transport", moved)
    refurbished_g = sampler.fact(f"second-life.{item.noun}.refurbishment", refurbished)
    return moved_g + refurbished_g, sampler.fact("second-life.spares_frac", second.spares_frac)

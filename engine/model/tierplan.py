"""From a placement's words to networks in tiers: what is read, in which precision, into how much memory, what is kept.

Placements and caches are the objects that the simulator asks (`policies.weights`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from afterwatt.engine.model.config import ModelConfig
from afterwatt.engine.model.machine import free_host_bytes
from afterwatt.engine.model.options import TierOptions
from afterwatt.engine.model.products import Linear
from afterwatt.engine.model.tiered import TieredSource
from afterwatt.engine.model.weights import Weights
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.modular import Modular, read_modular
from afterwatt.engine.runtime.tiers import HostLayers
from afterwatt.policies.cached import CachedUnits
from afterwatt.policies.caching.cache import UnitCache
from afterwatt.policies.expertcache import CachedExperts
from afterwatt.policies.m2cache import M2Cache
from afterwatt.policies.placement import DENSE, EXPERTS, GPU, Piece, Stream, WeightPolicy, WeightView

_HOST_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPlan:
    """How a modular checkpoint's networks are held.

    Attributes:
        modular: the checkpoint.
        precision: that they are read in.
        dram_bytes: of host memory, at most.
        ahead: layers between what is computed and what is read.
        cache: of units on the device; None: none is kept. capacity: units of a layer that it holds.
        keep: share of a dense layer's neurons that a token uses.
    """

    modular: Modular
    precision: str
    dram_bytes: int
    ahead: int
    cache: UnitCache | None
    capacity: int
    keep: float

    @property
    def pool_bytes(self) -> int:
        """Return the bytes of the device's memory for what the cache keeps."""
        return self.modular.bundles.layers * self.capacity * self.modular.bundles.unit_bytes(self.precision)

    def host(self) -> HostLayers:
        """Take the host memory and begin to read."""
        return HostLayers(self.modular, self.precision, self.dram_bytes, self.ahead)

    def source(self, model: tuple[ModelConfig, Weights], host: HostLayers, linear: Linear) -> TieredSource:
        """Return what gives each layer's network."""
        kept = None if self.cache is None else (self.cache, self.capacity)
        return TieredSource(self.modular, model, host, self.precision, linear, kept, self.keep)


def plan_tiers(directory: Path, options: TierOptions) -> TierPlan:
    """Read what is asked for against a modular checkpoint.

    Raises:
        CheckpointError: it is none.
        EngineError: a placement that the engine does not have, a precision that was not prepared, or too little memory.
    """
    modular, policy = read_modular(directory), options.policies.make_weights()
    bundles, precision = modular.bundles, _precision(modular, policy, options.precision)
    dram_bytes = int(_HOST_SHARE * free_host_bytes()) if options.dram_bytes is None else options.dram_bytes
    view = _view(modular, precision, dram_bytes, options.hbm_bytes)
    cache, capacity, keep, ahead = None, 0, 1.0, policy.layout(view).depth
    if isinstance(policy, CachedUnits):
        if isinstance(policy, CachedExperts) and policy.low is not None:
            raise EngineError(f"low={policy.low} is for the simulator; the engine reads one precision")
        if policy.cold != GPU:
            raise EngineError(f"cold={policy.cold} is for the simulator; the engine brings units over (cold=gpu)")
        cache, capacity = policy.cache(bundles.layers, bundles.units, view), policy.capacity(bundles.units, view)
    elif not isinstance(policy, Stream):
        raise EngineError(
            f"--policy {options.policies.name} is for the simulator; the engine has stream, stream-int8, stream-int4, "
            "m2cache and expert-cache"
        )
    if isinstance(policy, M2Cache):
        keep, ahead = policy.density, policy.ahead
    plan = TierPlan(
        modular=modular,
        precision=precision,
        dram_bytes=dram_bytes,
        ahead=max(1, ahead),
        cache=cache,
        capacity=capacity,
        keep=keep,
    )
    if options.hbm_bytes is not None and plan.pool_bytes > options.hbm_bytes:
        raise EngineError(
            f"the cache keeps {capacity:,} units of {bundles.layers} layers, {plan.pool_bytes:,} bytes: "
            f"{plan.pool_bytes - options.hbm_bytes:,} more than the {options.hbm_bytes:,} there are for it; take less "
            "with room=, or give more"
        )
    return plan


def _precision(modular: Modular, policy: WeightPolicy, asked: str | None) -> str:
    """Return what networks are read in."""
    found, has = asked or policy.stored, modular.bundles.precisions
    if isinstance(policy, M2Cache) and found is None:
        several = [share.precision for share in policy.shares.shares if share.frac > 0.0]
        if len(several) > 1:
            raise EngineError(
                f"shares={policy.shares} mix precisions, which the engine does not; say one, as in shares=int8:100"
            )
        found = several[0]
    found = has[0] if found is None else found
    if found not in has:
        raise EngineError(
            f"{modular.directory} holds networks in {', '.join(has)} and not in {found}; prepare it anew, or take "
            "one of these"
        )
    return found


def _view(modular: Modular, precision: str, dram_bytes: int, hbm_bytes: int | None) -> WeightView:
    """Return what a placement may see: the networks of each layer, and the room for them."""
    bundles = modular.bundles
    part, size = DENSE if bundles.neurons == 1 else EXPERTS, float(bundles.section_bytes(precision))
    room = float(size * bundles.layers if hbm_bytes is None else hbm_bytes)
    ratios = {name: bundles.unit_bytes(name) / bundles.unit_bytes(precision) for name in bundles.precisions}
    ratios = {"fp16": 1.0, "int8": 1.0, "int4": 1.0} | ratios
    pieces = tuple(Piece(layer, part, size) for layer in range(bundles.layers))
    return WeightView(pieces, bundles.layers, {"hbm": room, "dram": float(dram_bytes), "ssd": float("inf")}, ratios)


def write_record(path: Path, plan: TierPlan, source: TieredSource, host: HostLayers) -> None:
    """Write which units were active and what was moved; docs/modular.md has the form.

    Args:
        path: of the file, .npz.
        plan: of the networks.
        source: that gave them.
        host: their layers in host memory.

    Raises:
        EngineError: it cannot be written.
    """
    sizes = [len(active) for active in source.recorded]
    bundles = plan.modular.bundles
    moved = {f"{tier}/{reason}": size for (tier, reason), size in sorted(host.traffic.moved.items())}
    try:
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                offsets=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
                units=np.concatenate([np.zeros(0, dtype=np.int64), *source.recorded]).astype(np.int64),
                layers=np.int64(bundles.layers),
                layer_units=np.int64(bundles.units),
                unit_bytes=np.int64(bundles.unit_bytes(plan.precision)),
                layer_bytes=np.int64(bundles.section_bytes(plan.precision)),
                moved=np.array(json.dumps(moved)),
            )
    except OSError as fault:
        raise EngineError(f"cannot write {path}: {fault.strerror or fault}") from None

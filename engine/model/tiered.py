"""Networks that lie in host memory and on disk, and of which the device holds what a cache says (`LayerSource`).

Units come from `engine.runtime.tiers` as bytes, are copied in one piece to a pool on the device, and are decoded where
they are computed with. What is computed is what `model.variants.Masked` computes, less the units that are not active.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch

from afterwatt.engine.model.checkpoint import Checkpoint, load_weights
from afterwatt.engine.model.config import ModelConfig, read_config
from afterwatt.engine.model.devices import CPU, DtypePolicy
from afterwatt.engine.model.ffn import ACTIVATION, Ffn, Router
from afterwatt.engine.model.products import Linear
from afterwatt.engine.model.weights import Weights
from afterwatt.engine.runtime.layout import Layout
from afterwatt.engine.runtime.modular import REST, Modular
from afterwatt.engine.runtime.quant import Bytes
from afterwatt.engine.runtime.shards import read_shard
from afterwatt.engine.runtime.tiers import DEMAND, HIT, HostLayers, rows_of
from afterwatt.modelspecs.bundles import GROUP, WIDE_BYTES
from afterwatt.policies.caching.cache import Ids, UnitCache

_LINE: Final = 64
"""Bytes of a cache line: products round alike wherever rows begin at its multiples."""
_WIDE: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_rest(directory: Path, policy: DtypePolicy, device: torch.device = CPU) -> tuple[ModelConfig, Weights]:
    """Read all of a modular checkpoint but its networks.

    Args:
        directory: of the checkpoint.
        policy: formats to keep tensors in.
        device: where to.

    Raises:
        CheckpointError: a tensor is missing, damaged or unexpected.
    """
    config = read_config(directory)
    layout = Layout(directory, {REST: read_shard(directory / REST)}, index=False)
    return config, load_weights(Checkpoint(layout, None), config, policy, device, networks=False)


def decoded(bundles: torch.Tensor, hidden: int, precision: str, dtype: torch.dtype) -> torch.Tensor:
    """Return the weights of bundles, [n, 3, hidden] (`engine.runtime.quant.decode`, on a device).

    Args:
        bundles: uint8[n, bytes of a bundle].
        hidden: weights of a row.
        precision: that they are stored in.
        dtype: to compute in.
    """
    count = len(bundles)
    if precision in WIDE_BYTES:
        wide = bundles[:, : 3 * hidden * WIDE_BYTES[precision]].contiguous()
        return wide.view(_WIDE[precision]).view(count, 3, hidden).to(dtype)
    width, groups = (hidden, 1) if precision == "int8" else (-(-hidden // 2), -(-hidden // GROUP))
    codes = bundles[:, : 3 * width].contiguous()
    tail = bundles[:, 3 * width : 3 * (width + 2 * groups)].contiguous()
    scales = tail.view(torch.float16).view(count, 3, groups).to(dtype)
    if precision == "int8":
        return codes.view(torch.int8).view(count, 3, hidden).to(dtype) * scales
    pairs = codes.view(count, 3, width)
    values = torch.stack((pairs & 15, pairs >> 4), dim=-1).view(count, 3, 2 * width)[..., :hidden]
    return (values.to(dtype) - 8) * scales.repeat_interleave(GROUP, -1)[..., :hidden]


class TieredSource:
    """Gives networks whose units come from host memory when they are active.

    Args:
        modular: the checkpoint.
        model: its config, and its weights less the networks.
        host: its layers in host memory.
        precision: of the units.
        linear: multiplies.
        cache: says which units the device keeps, and how many of a layer at most; None: none, all that is active is
            copied each time.
        keep: of a dense network, share of the neurons that a token uses, by the size of its gate; 1: all.

    Attributes:
        pool_bytes: of the device's memory for what the cache keeps, all layers.
        recorded: the active units of each layer that was computed, in order.
    """

    def __init__(
        self,
        modular: Modular,
        model: tuple[ModelConfig, Weights],
        host: HostLayers,
        precision: str,
        linear: Linear,
        cache: tuple[UnitCache, int] | None = None,
        keep: float = 1.0,
    ) -> None:
        config, weights = model
        bundles = modular.bundles
        self.recorded: list[Ids] = []
        self._host = host
        self._cache: UnitCache | None = None if cache is None else cache[0]
        capacity = 0 if cache is None else cache[1]
        device, size = weights.embedding.device, bundles.unit_bytes(precision)
        self.pool_bytes = bundles.layers * capacity * size
        self._pools = torch.empty(bundles.layers, capacity, size, dtype=torch.uint8, device=device)
        self._slots = np.full((bundles.layers, bundles.units), -1)
        self._size = size
        self._networks: list[Ffn] = []
        for number, layer in enumerate(weights.layers):
            give = self._giver(number, bundles.neurons, bundles.hidden, precision)
            activation = ACTIVATION[config.activation]
            if layer.router is None:
                gate = None if keep >= 1.0 else give_gate(host.layer(number), bundles.hidden, precision, device)
                count = max(1, round(keep * bundles.units))
                self._networks.append(_TieredDense(give, activation, bundles.units, gate, count))
            else:
                unit_of = np.argsort(np.asarray(modular.layers[number].order))
                router = Router(layer.router, linear, config.spec.active_experts, config.renormalised)
                self._networks.append(_TieredExperts(give, activation, router, unit_of))
        if self._cache is not None:
            for number in range(bundles.layers):
                inside = self._cache.inside(number)
                if len(inside):
                    self._bring(number, rows_of(host.layer(number), inside), inside)

    def ffn(self, number: int) -> Ffn:
        """Return a layer's network (`LayerSource.ffn`)."""
        return self._networks[number]

    def _giver(self, number: int, neurons: int, hidden: int, precision: str) -> "Give":
        def give(active: Ids, dtype: torch.dtype) -> torch.Tensor:
            raw = self._fetched(number, active)
            return decoded(raw.view(len(active) * neurons, -1), hidden, precision, dtype).view(
                len(active), neurons, 3, hidden
            )

        return give

    def _fetched(self, number: int, active: Ids) -> torch.Tensor:
        """Return the bytes of active units on the device, uint8[n, bytes of a unit], and count what moves."""
        self.recorded.append(active)
        units = self._host.layer(number)
        traffic, device = self._host.traffic, self._pools.device
        if self._cache is None:
            traffic.count("hbm", DEMAND, len(active) * self._size)
            whole = len(active) == self._slots.shape[1] and units.flags.c_contiguous and not self._size % _LINE
            raw = units.reshape(-1, self._size)[: len(active)] if whole else rows_of(units, active)
            return torch.from_numpy(raw).to(device)  # as it lies in the arena, a processor copies nothing
        found = torch.empty(len(active), self._size, dtype=torch.uint8, device=device)
        touched = self._cache.touch(number, active)
        inside = np.isin(active, touched.hits)
        pool, slots = self._pools[number], self._slots[number]
        found[torch.from_numpy(inside)] = pool[torch.from_numpy(slots[active[inside]])]
        passing = rows_of(units, active[~inside])
        found[torch.from_numpy(~inside)] = torch.from_numpy(passing).to(device)
        traffic.count("hbm", HIT, len(touched.hits) * self._size)
        # What is loaded beyond the misses comes with them; what is missed and not loaded passes through.
        traffic.count("hbm", DEMAND, len(np.union1d(touched.misses, touched.loads)) * self._size)
        slots[touched.evicted] = -1
        self._bring(number, rows_of(units, touched.loads), touched.loads)
        return found

    def _bring(self, number: int, raw: Bytes, units: Ids) -> None:
        """Copy units to free slots of a layer's pool, in one piece."""
        slots = self._slots[number]
        free = np.setdiff1d(np.arange(self._pools.shape[1]), slots[slots >= 0])[: len(units)]
        slots[units] = free
        self._pools[number][torch.from_numpy(free)] = torch.from_numpy(raw).to(self._pools.device)


Give = Callable[[Ids, torch.dtype], torch.Tensor]
"""Returns the weights of active units of a layer, [n, neurons, 3, hidden]."""


def give_gate(units: Bytes, hidden: int, precision: str, device: torch.device) -> torch.Tensor:
    """Return the gate of a dense layer in host memory, fp32[units, hidden]."""
    raw = torch.from_numpy(units.reshape(-1, units.shape[-1])).to(device)
    return decoded(raw, hidden, precision, torch.float32)[:, 0].clone()


class _TieredDense:
    """One gated network, of which some neurons are active (`Ffn`)."""

    def __init__(
        self,
        give: Give,
        activation: Callable[[torch.Tensor], torch.Tensor],
        units: int,
        gate: torch.Tensor | None,
        count: int,
    ) -> None:
        self._give, self._activation = give, activation
        self._units, self._gate, self._count = units, gate, count

    def __call__(self, normed: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        """Return onto + the active part of the network of normed; active is what any token of the batch asks for."""
        rows = normed.view(-1, normed.shape[-1])
        if self._gate is None:
            active = np.arange(self._units)
        else:
            scores = self._activation(rows.float() @ self._gate[: self._units].t()).abs()
            active = np.unique(scores.topk(self._count, dim=-1).indices.cpu().numpy())
        gate, up, down = self._give(active, rows.dtype)[:, 0].unbind(1)
        return onto + (self._activation(rows @ gate.t()).mul_(rows @ up.t()) @ down).view(onto.shape)


class _TieredExperts:
    """Several gated networks, of which a token takes a few (`Ffn`)."""

    def __init__(
        self, give: Give, activation: Callable[[torch.Tensor], torch.Tensor], router: Router, unit_of: Ids
    ) -> None:
        self._give, self._activation, self._router = give, activation, router
        self._unit_of = torch.from_numpy(unit_of)

    def __call__(self, normed: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        """Return onto + the weighted networks of normed."""
        rows = normed.view(-1, normed.shape[-1])
        weights, experts = self._router(rows)
        units = self._unit_of.to(experts.device)[experts]
        active = np.unique(units.cpu().numpy())
        total = onto.reshape(rows.shape).clone()
        for unit, matrices in zip(active.tolist(), self._give(active, rows.dtype), strict=True):
            own, place = torch.where(units == unit)
            gate, up, down = matrices.unbind(1)
            given = self._activation(rows[own] @ gate.t()).mul_(rows[own] @ up.t()) @ down
            total.index_add_(0, own, given * weights[own, place, None])
        return total.view(onto.shape)

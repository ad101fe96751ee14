"""Watts and joules: what a GPU draws in an iteration, what the host around it draws, what the wall and the site add.

Everything here is linear in seconds, bytes, FLOPs and seconds in kinds of kernels (up to the power limit), so that the
simulator can sum a stride of iterations in closed form: each of these grows evenly along it. `hwprofiles.ledger` puts
the pieces together over a run.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from numpy.typing import NDArray

from afterwatt.hwprofiles.errors import HardwareError, unknown_name
from afterwatt.hwprofiles.facts import Fact, Rule
from afterwatt.hwprofiles.stacks import pool_names
from afterwatt.hwprofiles.tables import DATA_DIR, Table, read_fields, read_profile

if TYPE_CHECKING:
    import numpy as np

    from afterwatt.hwprofiles.devices import Device

ANCHORS_FILE: Final = DATA_DIR / "power" / "anchors.toml"
ASSUMED_FILE: Final = DATA_DIR / "power" / "assumed.toml"
"""Pools that nobody measured and no rule over GPUs speaks of: processors."""
_SHARE_OF_TDP: Final = Rule(0.0, 6.0, ((0.01, "percent"),))
_J_PER_BYTE: Final = Rule(1e-11, 5e-9, ((1e-12, "pJ"), (1e-9, "nJ")))

Real = TypeVar("Real", float, "NDArray[np.float64]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """What kinds of work draw, as shares of a GPU's power limit; see `data/power/anchors.toml`.

    Attributes:
        pool: the table it was read from: a device, an architecture with its memory, or an architecture.
        busy_frac: on top of idling, an iteration runs, whatever it does.
        stream_frac: on top of that, memory streams at the datasheet's bandwidth.
        j_per_byte: the same as joules per byte moved to or from memory: chips of one kind, under whatever limit, agree
            on that. Where a pool gives both, it is about chips that nobody measured: see `stream`.
        compute_frac: on top, matrix products run at the datasheet's FLOP rate.
        fp8_compute_frac: the same in fp8 and fp4; None: as `compute_frac`.
        attention_frac, expert_frac: on top, while attention kernels, or grouped products of experts, run: they keep
            more of the chip awake than their bytes and FLOPs tell.
        unpack_frac: on top, while quantised weights are scaled back.
        cap_frac: mean power that the limit lets through.
        cached_j_per_byte: joules per byte that a repeated kernel finds in the L2 cache; only kernel tables know such.
    """

    pool: str
    busy_frac: Annotated[Fact, _SHARE_OF_TDP]
    stream_frac: Annotated[Fact | None, _SHARE_OF_TDP]
    j_per_byte: Annotated[Fact | None, _J_PER_BYTE]
    compute_frac: Annotated[Fact, _SHARE_OF_TDP]
    fp8_compute_frac: Annotated[Fact | None, _SHARE_OF_TDP]
    attention_frac: Annotated[Fact, _SHARE_OF_TDP]
    expert_frac: Annotated[Fact, _SHARE_OF_TDP]
    unpack_frac: Annotated[Fact, _SHARE_OF_TDP]
    cap_frac: Annotated[Fact, _SHARE_OF_TDP]
    cached_j_per_byte: Annotated[Fact | None, _J_PER_BYTE] = None

    def computing(self, arithmetic: str) -> Fact:
        """Return the fact that tells what matrix products in an arithmetic cost."""
        return (
            self.fp8_compute_frac
            if arithmetic in ("fp8", "fp4") and self.fp8_compute_frac is not None
            else self.compute_frac
        )

    def streaming(self, device: "Device") -> Fact:
        """Return joules per byte of a device's memory.

        From joules per byte, or from a share of the limit at the datasheet's bandwidth. Chips that nobody measured get
        both rules' geometric mean, and an interval that holds either rule's value.
        """
        if self.stream_frac is None:
            assert self.j_per_byte is not None  # one of the two is there; see `_read_anchors`
            return self.j_per_byte
        share, per_frac = self.stream_frac, device.tdp_w / device.mem_bandwidth_bytes_per_s
        by_share = [bound * per_frac for bound in (float(share), *share.interval)]
        if self.j_per_byte is None:
            return Fact(by_share[0], share.source, share.checked, share.kind, by_share[1], by_share[2], share.note)
        by_byte = [float(self.j_per_byte), *self.j_per_byte.interval]
        value, low, high = (math.sqrt(one * other) for one, other in zip(by_share, by_byte, strict=True))
        low, high = min(low, by_share[0], by_byte[0]), max(high, by_share[0], by_byte[0])
        return Fact(value, f"{share.source} | {self.j_per_byte.source}", share.checked, share.kind, low, high)


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Power of one GPU: idle, and what an iteration takes under a cap.

    Attributes:
        idle_w: power with a model loaded and nothing to do.
        busy_w: power while an iteration runs, before any byte or FLOP; at least `idle_w`.
        j_per_byte: joules per byte moved to or from the GPU's memory, on top of `busy_w`.
        j_per_flop: joules per floating-point operation, on top of `busy_w`.
        cap_w: the highest mean power.
        attention_w, expert_w, unpack_w: on top, while kernels of that kind run.
    """

    idle_w: float
    busy_w: float
    j_per_byte: float
    j_per_flop: float
    cap_w: float
    attention_w: float = 0.0
    expert_w: float = 0.0
    unpack_w: float = 0.0

    def work_j(
        self, moved_bytes: Real, flops: Real, attention_s: Real | float, expert_s: Real | float, unpack_s: Real | float
    ) -> Real:
        """Return the joules of work on top of `busy_w`, before the cap; floats or arrays."""
        kernels = self.attention_w * attention_s + self.expert_w * expert_s + self.unpack_w * unpack_s
        return self.j_per_byte * moved_bytes + self.j_per_flop * flops + kernels

    def energy_j(
        self,
        duration_s: float,
        moved_bytes: float,
        flops: float,
        attention_s: float = 0.0,
        expert_s: float = 0.0,
        unpack_s: float = 0.0,
    ) -> float:
        """Return the joules of one iteration: min(cap x t, busy x t + work).

        Args:
            duration_s: of the iteration.
            moved_bytes: to and from this GPU's memory.
            flops: on this GPU.
            attention_s: seconds of it in attention kernels.
            expert_s: seconds of it in grouped products of experts.
            unpack_s: seconds of it in which weights are scaled back.
        """
        work_j = self.work_j(moved_bytes, flops, attention_s, expert_s, unpack_s)
        return min(self.cap_w * duration_s, self.busy_w * duration_s + work_j)

    def dynamic_j(
        self,
        duration_s: float,
        moved_bytes: float,
        flops: float,
        attention_s: float = 0.0,
        expert_s: float = 0.0,
        unpack_s: float = 0.0,
    ) -> float:
        """Return the joules of one iteration above idling for as long."""
        energy_j = self.energy_j(duration_s, moved_bytes, flops, attention_s, expert_s, unpack_s)
        return energy_j - self.idle_w * duration_s


def energy_coefficient(added_w: float, rate_per_s: float) -> float:
    """Return joules per unit of work that adds so many watts at a rate: watts / rate.

    Args:
        added_w: power on top of an iteration that does none of this work.
        rate_per_s: bytes or FLOPs per second.

    Raises:
        HardwareError: the rate is not positive.
    """
    if not rate_per_s > 0.0:
        raise HardwareError(f"rate = {rate_per_s!r} per second must be above 0 to place a power anchor")
    return added_w / rate_per_s


def gpu_power_model(
    device: "Device", computed_in: str, anchors: Anchors | None = None, power_cap_w: float | None = None
) -> PowerModel:
    """Return the power model of one GPU.

    Joules per byte and FLOP are the chip's: software that reaches less draws less. How far this is from measured
    kernels and runs is what `fidelity.power.score` prints.

    Args:
        device: the card.
        computed_in: arithmetic of the layers' matrix products, a key of `device.flops_per_s`.
        anchors: shares of TDP; by default those of the most specific pool.
        power_cap_w: that the card is set to; None: its own limit.

    Raises:
        HardwareError: the device does not compute in this arithmetic.
    """
    if computed_in not in device.flops_per_s:
        raise unknown_name(f"arithmetic of {device.key}", computed_in, device.flops_per_s)
    anchors = anchors or anchors_of(device)
    tdp_w, idle_w = float(device.tdp_w), float(device.idle_w)
    cap_w = highest_mean_w(device, anchors, power_cap_w)
    return PowerModel(
        idle_w=idle_w,
        busy_w=min(idle_w + anchors.busy_frac * tdp_w, cap_w),
        j_per_byte=float(anchors.streaming(device)),
        j_per_flop=energy_coefficient(anchors.computing(computed_in) * tdp_w, float(device.flops_per_s[computed_in])),
        cap_w=cap_w,
        attention_w=anchors.attention_frac * tdp_w,
        expert_w=anchors.expert_frac * tdp_w,
        unpack_w=anchors.unpack_frac * tdp_w,
    )


def highest_mean_w(device: "Device", anchors: Anchors, power_cap_w: float | None) -> float:
    """Return the mean power that a card's limit, or a cap that it is set to, lets through.

    Args:
        device: the card.
        anchors: what its limit lets through.
        power_cap_w: that it is set to; None: its own limit.
    """
    own_w = anchors.cap_frac * float(device.tdp_w)
    return own_w if power_cap_w is None else min(own_w, power_cap_w)


def anchors_of(device: "Device") -> Anchors:
    """Return the power anchors of a device, from the most specific pool that holds it, with provenance.

    Raises:
        HardwareError: no pool holds it.
    """
    pools = {**load_anchors(), **load_anchors(ASSUMED_FILE)}
    names = pool_names(device)
    for name in names:
        if name in pools:
            return _as_measured(pools[name], device)
    raise unknown_name("architecture", device.architecture, pools)


def _as_measured(anchors: Anchors, device: "Device") -> Anchors:
    """Return anchors that give a device's own loaded watts where its profile holds measured ones."""
    resting_w = float(device.idle_w) + float(anchors.busy_frac) * float(device.tdp_w)
    found: dict[str, Fact | None] = {}
    if device.streaming_w is not None:
        found |= {"stream_frac": _share_above(device.streaming_w, resting_w, device.tdp_w), "j_per_byte": None}
    if device.computing_w is not None:
        share = _share_above(device.computing_w, resting_w, device.tdp_w)
        found |= {"compute_frac": share, "fp8_compute_frac": None}
    return replace(anchors, pool=device.key, **found) if found else anchors  # type: ignore[arg-type]


def _share_above(loaded_w: Fact, resting_w: float, tdp_w: float) -> Fact:
    """Return watts above a bare iteration as a share of the limit, in the provenance of the loaded watts."""
    low, value, high = (max(watts - resting_w, 0.0) / tdp_w for watts in sorted((*loaded_w.interval, float(loaded_w))))
    return Fact(
        value, loaded_w.source, loaded_w.checked, loaded_w.kind, low, high, "measured watts above a bare iteration"
    )


@functools.cache
def load_anchors(path: Path = ANCHORS_FILE) -> Mapping[str, Anchors]:
    """Return all pools of power anchors of a file by name."""

    def build(table: Table) -> dict[str, Anchors]:
        return {name: _read_anchors(name, table.table(name)) for name in table.keys()}  # noqa: SIM118 - a Table is no dict

    return read_profile(path, build)


def _read_anchors(name: str, table: Table) -> Anchors:
    if not (table.has("j_per_byte") or table.has("stream_frac")):
        raise table.error(f"{name} must hold j_per_byte or stream_frac (or both, for chips that nobody measured)")
    return read_fields(table, Anchors, pool=name)


def psu_loss_frac(psu_efficiency: float) -> float:
    """Return what the power supply loses per joule it delivers: 1 / efficiency - 1."""
    if not 0.0 < psu_efficiency <= 1.0:
        raise HardwareError(f"psu_efficiency = {psu_efficiency!r} must lie in (0, 1]")
    return 1.0 / psu_efficiency - 1.0


def facility_frac(pue: float) -> float:
    """Return what cooling and distribution add per joule at the server's plug: PUE - 1 (ISO/IEC 30134-2)."""
    if not pue >= 1.0:
        raise HardwareError(f"pue = {pue!r} must be at least 1: a site cannot use less than its servers")
    return pue - 1.0


def plug_and_site_factor(psu_efficiency: float, pue: float) -> float:
    """Return joules of the site per joule of the components: PUE / efficiency."""
    return (1.0 + psu_loss_frac(psu_efficiency)) * (1.0 + facility_frac(pue))

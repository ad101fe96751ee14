"""Watts and joules: what a GPU draws in an iteration, what the host around it draws, what the wall and the site add.

Everything here is linear in seconds, bytes and FLOPs (up to the power limit), so that the simulator can sum a stride of
iterations in closed form. `hwprofiles.ledger` puts the pieces together over a run.
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hwprofiles.errors import HardwareError, unknown_name
from hwprofiles.facts import Fact, Rule
from hwprofiles.tables import DATA_DIR, Table, read_profile

if TYPE_CHECKING:
    from hwprofiles.devices import Device

ANCHORS_FILE: Final = DATA_DIR / "power" / "anchors.toml"
_SHARE_OF_TDP: Final = Rule(0.02, 1.3, ((0.01, "percent"),))


@dataclass(frozen=True, slots=True)
class Anchors:
    """Shares of the power limit that a GPU draws in three pure states; see `data/power/anchors.toml`.

    Attributes:
        busy_frac: an iteration runs without moving or computing much.
        stream_frac: memory streams at the rate the software achieves.
        compute_frac: arithmetic runs at the rate the software achieves.
    """

    busy_frac: Fact
    stream_frac: Fact
    compute_frac: Fact


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Power of one GPU: idle, and an iteration's watts, joules per byte and per FLOP under a cap.

    Attributes:
        idle_w: power with a model loaded and nothing to do.
        busy_w: power while an iteration runs, before any byte or FLOP; at least `idle_w`.
        j_per_byte: joules per byte moved to or from the GPU's memory, on top of `busy_w`.
        j_per_flop: joules per floating-point operation, on top of `busy_w`.
        cap_w: power limit.
    """

    idle_w: float
    busy_w: float
    j_per_byte: float
    j_per_flop: float
    cap_w: float

    def energy_j(self, duration_s: float, moved_bytes: float, flops: float) -> float:
        """Return the joules of one iteration: min(cap x t, busy x t + bytes + FLOPs)."""
        demand_j = self.busy_w * duration_s + self.j_per_byte * moved_bytes + self.j_per_flop * flops
        return min(self.cap_w * duration_s, demand_j)

    def dynamic_j(self, duration_s: float, moved_bytes: float, flops: float) -> float:
        """Return the joules of one iteration above idling for as long."""
        return self.energy_j(duration_s, moved_bytes, flops) - self.idle_w * duration_s


def energy_coefficient(anchor_w: float, busy_w: float, rate_per_s: float) -> float:
    """Return joules per unit of work, so that working at `rate_per_s` draws `anchor_w`: (anchor - busy) / rate.

    Args:
        anchor_w: measured power while working at that rate.
        busy_w: power of an iteration that does none of this work.
        rate_per_s: bytes or FLOPs per second.

    Raises:
        HardwareError: the rate is not positive.
    """
    if not rate_per_s > 0.0:
        raise HardwareError(f"rate = {rate_per_s!r} per second must be above 0 to place a power anchor")
    return max(anchor_w - busy_w, 0.0) / rate_per_s


def gpu_power_model(
    device: "Device", *, stream_bytes_per_s: float, compute_flops_per_s: float, anchors: Anchors | None = None
) -> PowerModel:
    """Return the power model of one GPU under a software stack.

    Linear in time, bytes and FLOPs, as fits the measurements named in `data/power/anchors.toml`: with one line for all
    it gives the run-average power of A100s in 2, 4 and 8-way parallelism to 0.04 TDP.

    Args:
        device: the card.
        stream_bytes_per_s: bandwidth that the stack achieves on large streams (not the datasheet's).
        compute_flops_per_s: FLOP rate that the stack achieves on large matrices, in the arithmetic that it uses.
        anchors: shares of TDP; by default those of the card's architecture.
    """
    anchors = anchors or load_anchors(device.architecture)
    tdp_w, idle_w = float(device.tdp_w), float(device.idle_w)
    busy_w = max(idle_w, anchors.busy_frac * tdp_w)
    return PowerModel(
        idle_w=idle_w,
        busy_w=busy_w,
        j_per_byte=energy_coefficient(anchors.stream_frac * tdp_w, busy_w, stream_bytes_per_s),
        j_per_flop=energy_coefficient(anchors.compute_frac * tdp_w, busy_w, compute_flops_per_s),
        cap_w=tdp_w,
    )


def load_anchors(architecture: str) -> Anchors:
    """Return the power anchors of an architecture, with provenance.

    Raises:
        HardwareError: no such architecture.
    """
    pools = _pools()
    if architecture not in pools:
        raise unknown_name("architecture", architecture, pools)
    return pools[architecture]


@functools.cache
def _pools() -> dict[str, Anchors]:
    def build(table: Table) -> dict[str, Anchors]:
        return {name: _read_anchors(table.table(name)) for name in table.keys()}  # noqa: SIM118 - a Table is no dict

    return read_profile(ANCHORS_FILE, build)


def _read_anchors(table: Table) -> Anchors:
    return Anchors(
        busy_frac=table.fact("busy_frac", _SHARE_OF_TDP),
        stream_frac=table.fact("stream_frac", _SHARE_OF_TDP),
        compute_frac=table.fact("compute_frac", _SHARE_OF_TDP),
    )


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

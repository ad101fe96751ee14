"""What a host does for a model that its GPUs do not hold: rates of its CPU, its memory, the link to a GPU, its disk.

The CPU reads weights at a share of the memory's nominal bandwidth, which is larger where there are few channels. What
it computes is added to the GPU's time: in published rows, overlapping both fits worse (docs/tiers.md).
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.facts import Fact, Rule
from afterwatt.hwprofiles.tables import DATA_DIR, Table, read_fields, read_profile

if TYPE_CHECKING:
    from afterwatt.hwprofiles.deployment import Pool
    from afterwatt.hwprofiles.serving import Serving

TIERS_FILE: Final = DATA_DIR / "tiers" / "assumptions.toml"
FEW_CHANNELS_BYTES_PER_S: Final = 110e9
"""Nominal bandwidth of a socket up to which it counts as one of few channels."""
_SHARE: Final = Rule(0.0, 1.0, ((0.01, "percent"),))
_NONE_TO_ALL: Final = Rule(0.0, 1.0)
_FACTOR: Final = Rule(0.1, 10.0)
_TIME: Final = Rule(0.0, 1.0, ((1e-3, "milliseconds"),))
_TOKENS: Final = Rule(1.0, 1e6)
_BYTES: Final = Rule(0.0, 1e12, ((1e9, "GB"),))
NOMINAL, FAST, SLOW = "nominal", "fast", "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWork:
    """What a host reaches; every share has its interval.

    Attributes:
        few_channels_frac, many_channels_frac: of the memory's nominal bandwidth, as the CPU computes.
        host_part_factor: time of the CPU's part of an iteration over what these say.
        second_socket_frac: what a further socket adds, of the first.
        hand_over_s: per layer that is handed to the CPU and back.
        streamed_experts_frac: of the link's nominal rate, for host experts that prompts bring over.
        disk_frac: of the drive's rate, in explicit reads.
        streamed_from_tokens: least tokens of an iteration that brings host weights over.
        kept_bytes: of a host's memory, that no weights go to.
        unit_copy_s: for each neuron that is copied to a GPU, beside its bytes.
        cpu_busy_frac: of its power limit, that a processor draws as it computes with weights.
        gpu_wait_frac: of what a GPU draws above idle before it computes anything, that it draws while it waits for the
            host in the middle of an iteration.
    """

    few_channels_frac: Annotated[Fact, _SHARE]
    many_channels_frac: Annotated[Fact, _SHARE]
    second_socket_frac: Annotated[Fact, _SHARE]
    hand_over_s: Annotated[Fact, _TIME]
    host_part_factor: Annotated[Fact, _FACTOR]
    streamed_experts_frac: Annotated[Fact, _SHARE]
    disk_frac: Annotated[Fact, _SHARE]
    streamed_from_tokens: Annotated[Fact, _TOKENS]
    kept_bytes: Annotated[Fact, _BYTES]
    unit_copy_s: Annotated[Fact, _TIME]
    cpu_busy_frac: Annotated[Fact, _SHARE]
    gpu_wait_frac: Annotated[Fact, _NONE_TO_ALL]


@functools.cache
def host_work() -> HostWork:
    """Return the shipped shares."""

    def build(table: Table) -> HostWork:
        return read_fields(table.table("host"), HostWork)

    return read_profile(TIERS_FILE, build)


@dataclass(frozen=True, slots=True)
class HostRates:
    """What one replica gets of its hosts.

    Attributes:
        cpu_bytes_per_s: weights and cache that the CPU reads while it computes.
        link_bytes_per_s: over the links of a stage's GPUs together, in large copies that run ahead.
        expert_bytes_per_s: over the same, in copies that are made when they are needed.
        disk_bytes_per_s: explicit reads of all disks.
        hand_over_s: per layer handed to the CPU.
        streamed_from_tokens: least tokens of an iteration that brings host weights over.
        unit_copy_s: for each neuron that is copied to a GPU, beside its bytes.
    """

    cpu_bytes_per_s: float
    link_bytes_per_s: float
    expert_bytes_per_s: float
    disk_bytes_per_s: float
    hand_over_s: float
    streamed_from_tokens: int
    unit_copy_s: float


def cpu_bytes_per_s(nominal_bytes_per_s: float, sockets: int) -> float:
    """Return the rate at which the CPUs of a host read weights as they compute.

    Args:
        nominal_bytes_per_s: of all its memory channels.
        sockets: its processors.
    """
    work, each = host_work(), nominal_bytes_per_s / sockets
    share = work.few_channels_frac if each <= FEW_CHANNELS_BYTES_PER_S else work.many_channels_frac
    return each * share * (1.0 + work.second_socket_frac * (sockets - 1))


def host_rates(serving: "Serving", end: str = NOMINAL) -> HostRates:
    """Return the rates of a replica's share of its hosts.

    Args:
        serving: what is computed, and where.
        end: of the intervals: `nominal`, `fast` or `slow`.

    Raises:
        HardwareError: the device is a processor, whose memory is its own.
    """
    pool, work, link = serving.pool, host_work(), serving.host_link
    if pool.device.pcie_gen is None:
        raise HardwareError(f"{pool.device.key} computes in its own memory; policies for weights elsewhere need a GPU")
    hosts, longer = pool.hosts / pool.replicas, {FAST: SLOW, SLOW: FAST}.get(end, end)
    rate, factor = cpu_bytes_per_s(pool.host.dram_bandwidth_bytes_per_s, pool.host.sockets), work.host_part_factor
    return HostRates(
        cpu_bytes_per_s=hosts * rate / _at(factor, longer),
        link_bytes_per_s=pool.tp * link.bytes_per_s * _at(link.efficiency_frac, end),
        expert_bytes_per_s=pool.tp * link.bytes_per_s * _at(work.streamed_experts_frac, end),
        disk_bytes_per_s=hosts * pool.host.disks * pool.storage.read_bytes_per_s * _at(work.disk_frac, end),
        hand_over_s=work.hand_over_s * _at(factor, longer),
        streamed_from_tokens=round(work.streamed_from_tokens),
        unit_copy_s=_at(work.unit_copy_s, longer),
    )


def host_work_w(pool: "Pool") -> tuple[float, float]:
    """Return (watts of CPU as it computes, watts of disks as they read) of a replica's hosts, above their own.

    Their own is what processors draw at rest and while GPUs work, and what disks draw at rest.
    """
    host, hosts = pool.host, pool.hosts / pool.replicas
    computing_w = host.sockets * host.cpu_tdp_w * host_work().cpu_busy_frac
    cpu_w = max(0.0, computing_w - host.cpu_idle_w - host.cpu_active_w)
    return hosts * cpu_w, hosts * host.disks * max(0.0, pool.storage.active_w - pool.storage.idle_w)


def _at(fact: Fact, end: str) -> float:
    low, high = fact.interval
    return {NOMINAL: float(fact), FAST: high, SLOW: low}[end]

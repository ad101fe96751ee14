"""What one replica and its share of the servers draw: watts by component, at rest and at work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from afterwatt.hwprofiles.assumptions import ledger_assumptions
from afterwatt.hwprofiles.errors import unknown_name
from afterwatt.hwprofiles.power import plug_and_site_factor

if TYPE_CHECKING:
    from afterwatt.hwprofiles.deployment import Pool
    from afterwatt.hwprofiles.sites import Site

HOST_SHARES: Final[dict[str, str]] = {
    "slots": "A server counts by the share of its slots in use (the SCI's resource share): others use the rest.",
    "whole": "Servers and boards count whole, empty slots included: nothing else runs there.",
}
"""How much of a server a pool that does not fill it answers for."""

DEFAULT_HOST_SHARE: Final = "slots"
"""Compares like with like: one card in a server of eight answers for an eighth of it."""


@dataclass(frozen=True, slots=True)
class ReplicaPower:
    """Watts of one replica and its share of the hosts; IT components are on the DC side of the power supply.

    Attributes:
        baseline_w: component -> watts drawn whenever the host is on.
        busy_w: component -> watts on top while the replica runs an iteration; GPUs apart, they come as joules.
        standby_w: share of the hosts' standby power, at the plug.
        psu_efficiency_frac: DC out over AC in.
        pue: power usage effectiveness of the site.
        gpus: GPUs that work in the replica.
        hosts: servers that the replica answers for; mostly a fraction.
    """

    baseline_w: Mapping[str, float] = field(hash=False)
    busy_w: Mapping[str, float] = field(hash=False)
    standby_w: float
    psu_efficiency_frac: float
    pue: float
    gpus: int
    hosts: float

    @property
    def it_baseline_w(self) -> float:
        """Return watts of all components at rest."""
        return sum(self.baseline_w.values())

    @property
    def it_busy_w(self) -> float:
        """Return watts that the host adds while the replica works, GPUs apart."""
        return sum(self.busy_w.values())

    @property
    def site_factor(self) -> float:
        """Return joules of the site per joule of the components."""
        return plug_and_site_factor(self.psu_efficiency_frac, self.pue)

    @property
    def idle_site_w(self) -> float:
        """Return watts of the site while the replica is on and idle."""
        return self.it_baseline_w * self.site_factor

    @property
    def off_site_w(self) -> float:
        """Return watts of the site while the hosts are off: standby, measured at the plug, times PUE."""
        return self.standby_w * self.pue


def hosts_counted(pool: "Pool", host_share: str = DEFAULT_HOST_SHARE) -> float:
    """Return how many hosts a pool answers for; a key of `HOST_SHARES` says by which rule."""
    if host_share not in HOST_SHARES:
        raise unknown_name("host share", host_share, HOST_SHARES)
    return float(pool.hosts) if host_share == "whole" else pool.count / pool.host.gpus(pool.device)


def gpus_counted(pool: "Pool", host_share: str = DEFAULT_HOST_SHARE) -> int:
    """Return how many GPUs a pool answers for: with whole servers, boards with two are there whole too."""
    per_board = pool.device.gpus_per_board if host_share == "whole" else 1
    return -(-pool.count // per_board) * per_board


def fills_its_hosts(pool: "Pool") -> bool:
    """Return whether a pool answers for the same under every host share: no slot and no half of a board is empty."""
    counted = {(hosts_counted(pool, share), gpus_counted(pool, share)) for share in HOST_SHARES}
    return len(counted) == 1


def replica_power(pool: "Pool", site: "Site", host_share: str = DEFAULT_HOST_SHARE) -> ReplicaPower:
    """Return the watts of one replica of a pool at a site.

    Hosts are split evenly over the replicas. Where boards count whole, the second GPU of one that the pool uses in part
    idles.
    """
    host, storage = pool.host, pool.storage
    gpus = pool.tp * pool.pp
    spare_gpus = (gpus_counted(pool, host_share) - pool.count) / pool.replicas
    share = hosts_counted(pool, host_share) / pool.replicas
    fans_idle_w = host.fans_w * ledger_assumptions().fans_idle_frac
    return ReplicaPower(
        baseline_w={
            "gpu": pool.device.idle_w * (gpus + spare_gpus),
            "cpu": host.cpu_idle_w * share,
            "dram": host.dram_bytes * host.dram_w_per_byte * share,
            "fans": fans_idle_w * share,
            "storage": storage.idle_w * host.disks * share,
            "nic": host.nic_w * share,
            "board": host.base_w * share,
        },
        busy_w={"cpu": host.cpu_active_w * share, "fans": (host.fans_w - fans_idle_w) * share},
        standby_w=host.standby_w * share,
        psu_efficiency_frac=float(host.psu_efficiency),
        pue=float(site.pue),
        gpus=gpus,
        hosts=share,
    )

"""How bytes go from one memory of a deployment to another: over which links and disks, and how fast those are."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from afterwatt.hwprofiles.links import Link

TIERS: Final = ("hbm", "dram", "ssd")
"""Memories of a replica, each reached from its neighbours in this row only."""
TENSOR: Final = "tensor"
STAGE: Final = "stage"
EXPERTS: Final = "experts"
HOST: Final = "host"
DISK: Final = "disk"
NETWORK: Final = "network"


class End(NamedTuple):
    """A memory: of which replica of which pool, and which of `TIERS`."""

    pool: int
    replica: int
    tier: str


class ServerKey(NamedTuple):
    """What serves bytes first come first served.

    Attributes:
        kind: tensor or stage (between the GPUs of a replica), experts (between those that these are spread over), host
            (between a GPU and its host), disk or network.
        pool: whose.
        number: of the replica; of its host where the replicas of one share it (disk, network).
    """

    kind: str
    pool: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLinks:
    """Links of each replica of a pool.

    Attributes:
        tensor: what tensor parallelism runs over: NVLink or PCIe, or the slower of that and the network when the group
            does not fit into one host.
        stage: what activations cross from one pipeline stage to the next; the same rule for the whole replica.
        experts: what tokens cross to experts on other GPUs; a GPU's share of the network if those are in other hosts.
        host: PCIe between a GPU and its host's memory; copies within a processor's own.
        disk: reading of a host's storage.
        network: of a host.
        hosts, replicas: how many there are; replicas are spread over hosts evenly.
    """

    tensor: Link
    stage: Link
    experts: Link
    host: Link
    disk: Link
    network: Link
    hosts: int
    replicas: int

    def host_of(self, replica: int) -> int:
        """Return the number of a replica's host, of its first one where it needs several."""
        return replica * self.hosts // self.replicas


@dataclass(frozen=True, slots=True)
class Fabric:
    """The links of a deployment, pool by pool; pools are joined by their hosts' networks."""

    pools: tuple[PoolLinks, ...]

    def server(self, key: ServerKey) -> Link:
        """Return how fast a server is: rate, efficiency and latency."""
        links = self.pools[key.pool]
        return {
            TENSOR: links.tensor,
            STAGE: links.stage,
            EXPERTS: links.experts,
            HOST: links.host,
            DISK: links.disk,
            NETWORK: links.network,
        }[key.kind]

    def path(self, source: End, target: End) -> tuple[ServerKey, ...]:
        """Return the servers that bytes pass from one memory to another, in order.

        Within a replica from tier to tier. To another replica through both hosts' memories, and over the networks of
        both hosts if they differ.
        """
        if source[:2] == target[:2]:
            first, last = sorted((TIERS.index(source.tier), TIERS.index(target.tier)))
            steps = [self._between(source, tier) for tier in range(first, last)]
            return tuple(steps if source.tier == TIERS[first] else reversed(steps))
        up = self.path(source, source._replace(tier="dram"))
        down = self.path(target._replace(tier="dram"), target)
        hosts = [self._at_host(NETWORK, end) for end in (source, target)]
        return (*up, *(hosts if hosts[0] != hosts[1] else ()), *down)

    def _between(self, end: End, tier: int) -> ServerKey:
        """Return what lies between a tier of a replica and the next one."""
        return ServerKey(HOST, end.pool, end.replica) if tier == 0 else self._at_host(DISK, end)

    def _at_host(self, kind: str, end: End) -> ServerKey:
        return ServerKey(kind, end.pool, self.pools[end.pool].host_of(end.replica))

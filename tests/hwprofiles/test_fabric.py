"""Paths between memories: every step has a server, steps back are the steps there, and shared things are shared."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles import HardwareError, make_deployment, parse_deployment
from afterwatt.hwprofiles.deployment import Deployment
from afterwatt.hwprofiles.fabric import DISK, HOST, NETWORK, TIERS, End, Fabric, ServerKey

WORDS = ("m40", "3xm40", "16xm40", "4xa100-80:tp2", "16xa100-40:tp16", "5xrtx3090", "8xrtx3090:pp4")


def two_pools() -> Fabric:
    one, other = (parse_deployment(word).fabric.pools[0] for word in ("2xa100-80", "3xm40"))
    return Fabric((one, other))


ends = st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from(TIERS)).map(lambda parts: End(*parts))


@given(ends, ends)
def test_the_way_back_is_the_way_there_backwards(source: End, target: End) -> None:
    fabric = two_pools()
    assert fabric.path(target, source) == fabric.path(source, target)[::-1]
    assert all(fabric.server(key).effective_bytes_per_s > 0.0 for key in fabric.path(source, target))


@given(st.sampled_from(TIERS))
def test_what_stays_where_it_is_passes_nothing(tier: str) -> None:
    assert two_pools().path(End(0, 1, tier), End(0, 1, tier)) == ()


def test_within_a_replica_bytes_climb_from_tier_to_tier() -> None:
    fabric = two_pools()
    hbm, dram, ssd = (End(1, 1, tier) for tier in TIERS)
    assert fabric.path(dram, hbm) == (ServerKey(HOST, 1, 1),)
    assert fabric.path(ssd, dram) == (ServerKey(DISK, 1, 0),)
    assert fabric.path(ssd, hbm) == (*fabric.path(ssd, dram), *fabric.path(dram, hbm))


def test_between_pools_bytes_pass_both_networks_and_between_neighbours_none() -> None:
    fabric = two_pools()
    assert fabric.path(End(0, 1, "hbm"), End(1, 0, "ssd")) == (
        ServerKey(HOST, 0, 1),
        ServerKey(NETWORK, 0, 0),
        ServerKey(NETWORK, 1, 0),
        ServerKey(DISK, 1, 0),
    )
    assert fabric.path(End(0, 0, "hbm"), End(0, 1, "hbm")) == (ServerKey(HOST, 0, 0), ServerKey(HOST, 0, 1))


@pytest.mark.parametrize("word", WORDS)
def test_replicas_are_spread_over_all_hosts_and_none_holds_more_than_it_can(word: str) -> None:
    deployment = parse_deployment(word)
    pool, links = deployment.pool, deployment.fabric.pools[0]
    hosts = [links.host_of(replica) for replica in range(pool.replicas)]
    assert hosts[0] == 0
    assert all(0 <= later - earlier <= -(-pool.hosts // pool.replicas) for earlier, later in pairwise(hosts))
    room = max(1, pool.host.gpus(pool.device) // pool.gpus_per_replica)
    assert all(hosts.count(host) <= room for host in hosts)
    assert max(hosts) < pool.hosts


def test_links_are_what_hosts_cards_and_disks_say() -> None:
    deployment = parse_deployment("2xa100-80:tp2")
    pool, fabric = deployment.pool, deployment.fabric
    disk = fabric.server(ServerKey(DISK, 0, 0))
    assert (disk.bytes_per_s, disk.latency_s) == (pool.storage.read_bytes_per_s, pool.storage.latency_s)
    assert disk.effective_bytes_per_s == pool.storage.read_bytes_per_s
    assert disk.bytes_per_s.source == pool.storage.read_bytes_per_s.source
    kinds = {kind: fabric.server(ServerKey(kind, 0, 0)).kind for kind in ("tensor", "stage", HOST, DISK, NETWORK)}
    assert kinds == {"tensor": "nvlink", "stage": "nvlink", HOST: "pcie", DISK: "disk", NETWORK: "network"}


def test_who_knows_of_one_pool_is_not_given_the_first_of_two() -> None:
    one, other = parse_deployment("2xa100-80"), make_deployment(parse_deployment("m40").pool.device)
    both = Deployment("both", (*one.pools, *other.pools), two_pools())
    with pytest.raises(HardwareError, match="both has 2 pools"):
        _ = both.pool

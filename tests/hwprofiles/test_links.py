"""What a link, a memory and a disk reach, each from the facts that it is made of."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles import device_names, host_names, load_device, load_host, load_link, load_storage
from afterwatt.hwprofiles.deployment import pcie_link
from afterwatt.hwprofiles.links import disk_link, memory_link, narrowed, nvlink_of

CARDS = [key for key in device_names() if load_device(key).pcie_gen is not None]
NVLINKED = [key for key in CARDS if load_device(key).nvlink_bytes_per_s is not None]
TEMPLATE = load_link("nvlink")


@pytest.mark.parametrize("key", NVLINKED)
def test_a_card_s_nvlink_has_its_own_rate_and_starts_as_all_do(key: str) -> None:
    card = load_device(key)
    link = nvlink_of(card, TEMPLATE)
    assert (link.key, link.kind) == (f"nvlink:{key}", "nvlink")
    assert link.bytes_per_s == card.nvlink_bytes_per_s
    assert link.effective_bytes_per_s == card.nvlink_bytes_per_s * TEMPLATE.efficiency_frac
    assert (link.latency_s, link.efficiency_frac) == (TEMPLATE.latency_s, TEMPLATE.efficiency_frac)
    assert nvlink_of(replace(card, nvlink_bytes_per_s=None), TEMPLATE) is None


@given(st.sampled_from(CARDS), st.sampled_from(host_names()))
def test_a_card_has_its_lanes_of_the_older_generation_and_its_part_of_the_board(key: str, host: str) -> None:
    card, server = load_device(key), load_host(host)
    whole = load_link(f"pcie{min(card.pcie_gen, server.pcie_gen)}")
    share = card.pcie_lanes / 16 / card.gpus_per_board
    link = pcie_link(card, server)
    assert link.bytes_per_s == pytest.approx(whole.bytes_per_s * share)
    assert link.effective_bytes_per_s == pytest.approx(whole.effective_bytes_per_s * share)


@given(st.sampled_from(["pcie3", "pcie4", "pcie5", "ethernet-25g", "nvlink"]), st.sampled_from([0.125, 0.25, 0.5]))
def test_fewer_lanes_carry_less_and_start_as_soon(key: str, share: float) -> None:
    link = load_link(key)
    narrow = narrowed(link, share)
    assert narrow.bytes_per_s == link.bytes_per_s * share
    assert narrow.bytes_per_s.interval == tuple(bound * share for bound in link.bytes_per_s.interval)
    for name in ("key", "name", "kind", "efficiency_frac", "latency_s", "peer_latency_s"):
        assert getattr(narrow, name) == getattr(link, name), name
    said = f"{share:g} of {link.name}"
    assert narrow.bytes_per_s.note in (said, f"{said}; {link.bytes_per_s.note}")
    assert narrowed(narrow, share).bytes_per_s.note == f"{said}; {narrow.bytes_per_s.note}"
    assert narrowed(link, 1.0) is link


@pytest.mark.parametrize("key", ["m40", "h100-sxm"])
def test_a_processor_copies_at_half_of_its_bandwidth(key: str) -> None:
    processor = replace(load_device(key), pcie_gen=None)
    link, rate = memory_link(processor), processor.mem_bandwidth_bytes_per_s
    assert 2.0 * link.effective_bytes_per_s == rate
    assert [2.0 * bound for bound in link.bytes_per_s.interval] == list(rate.interval)
    assert pcie_link(processor, load_host("desktop")) == link


@pytest.mark.parametrize("key", ["sata", "nvme-gen3", "nvme-gen5"])
def test_a_disk_is_read_at_its_own_rate_after_its_own_latency(key: str) -> None:
    disk = load_storage(key)
    link = disk_link(disk)
    assert (link.kind, link.effective_bytes_per_s, link.latency_s) == ("disk", disk.read_bytes_per_s, disk.latency_s)

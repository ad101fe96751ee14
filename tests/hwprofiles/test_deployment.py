"""A word or a TOML becomes a deployment that could stand in a rack, or a sentence that says why not."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import afterwatt.hwprofiles as hw

SAMPLE = """
# Two old boxes in the attic, joined by 25 GbE.
name = "attic"
device = "m40"
count = 4
tp = 2
pp = 2
host = "ddr3-2u"
network = "ethernet-25g"
storage = "nvme-gen3"
ecc = false
"""


@pytest.mark.parametrize(
    ("text", "count", "tp", "pp", "replicas", "host", "hosts", "gpu_link"),
    [
        ("m40", 1, 1, 1, 1, "ddr3-2u", 1, "pcie3"),
        ("2xm40", 2, 1, 1, 2, "ddr3-2u", 1, "pcie3"),
        ("4xm40", 4, 1, 1, 4, "ddr4-4u", 1, "pcie3"),
        ("16xm40", 16, 1, 1, 16, "ddr4-4u", 2, "pcie3"),
        ("2xa100-80:tp2", 2, 2, 1, 1, "hgx-a100", 1, "nvlink:a100-80"),
        ("8xh100-sxm:tp4pp2", 8, 4, 2, 1, "hgx-h100", 1, "nvlink:h100-sxm"),
        ("8xh100-sxm:pp2,tp2", 8, 2, 2, 2, "hgx-h100", 1, "nvlink:h100-sxm"),
        ("16xa100-40:tp16", 16, 16, 1, 1, "hgx-a100", 2, "ethernet-200g"),
        ("1xrtx3090", 1, 1, 1, 1, "desktop", 1, "pcie4"),
        ("8xrtx3090:tp8", 8, 8, 1, 1, "workstation", 2, "ethernet-10g"),
        ("rtx2080ti", 1, 1, 1, 1, "desktop", 1, "pcie3"),
    ],
)
def test_the_short_form(
    text: str, count: int, tp: int, pp: int, replicas: int, host: str, hosts: int, gpu_link: str
) -> None:
    found = hw.parse_deployment(text)
    pool, links = found.pool, found.fabric.pools[0]
    assert (pool.count, pool.tp, pool.pp, pool.replicas) == (count, tp, pp, replicas)
    assert (pool.host.key, pool.hosts, links.tensor.key) == (host, hosts, gpu_link)
    assert found.name == text
    assert links.network.key == pool.host.nic
    assert pool.storage.key == pool.host.storage
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_host_that_could_really_hold_the_cards() -> None:
    for key in hw.device_names():
        for count in (1, 2, 3, 4, 8, 9, 32):
            found = hw.make_deployment(hw.load_device(key), count).pool
            assert found.hosts * found.host.gpus(found.device) >= count
            assert (found.hosts - 1) * found.host.gpus(found.device) < count


@given(st.sampled_from(hw.device_names()), st.integers(1, 12), st.integers(1, 12), st.integers(1, 20))
def test_no_tensor_parallel_group_straddles_hosts_that_could_hold_it(key: str, tp: int, pp: int, copies: int) -> None:
    deployment = hw.make_deployment(hw.load_device(key), tp * pp * copies, tp, pp)
    found, links = deployment.pool, deployment.fabric.pools[0]
    per_host = found.host.gpus(found.device)
    assert found.replicas == copies
    assert found.hosts * per_host >= found.count
    if tp <= per_host:
        assert links.tensor.kind != "network"
        groups = copies * pp
        assert found.hosts * (per_host // tp) >= groups
    if tp * pp <= per_host:
        assert links.stage == links.tensor
    else:
        slowest = min(links.network.effective_bytes_per_s, links.host.effective_bytes_per_s)
        assert links.stage.effective_bytes_per_s >= slowest


def test_what_spans_hosts_runs_at_the_slower_of_network_and_bus() -> None:
    """Eight P40s behind PCIe 3 in hosts with 400 GbE: the bus is the bottleneck; with 10 GbE the network is."""
    device, host = hw.load_device("p40"), hw.load_host("ddr3-2u")
    fast = hw.make_deployment(device, 8, tp=8, host=host, net_link=hw.load_link("ethernet-400g"))
    slow = hw.make_deployment(device, 8, tp=8, host=host, net_link=hw.load_link("ethernet-10g"))
    assert fast.fabric.pools[0].tensor.key == "pcie3"
    assert slow.fabric.pools[0].tensor.key == "ethernet-10g"
    assert fast.pool.hosts == slow.pool.hosts == 4


def test_a_layer_that_fills_its_host_needs_no_network_named() -> None:
    made = hw.make_deployment(hw.load_device("p40"), 2, tp=2, host=hw.load_host("ddr3-2u"))
    assert (made.pool.hosts, made.fabric.pools[0].tensor.key) == (1, "pcie3")


def test_replicas_that_fill_more_than_a_host_share_none() -> None:
    """Three cards in hosts of two: what is left of the second host stays empty."""
    device, host, net = hw.load_device("p40"), hw.load_host("ddr3-2u"), hw.load_link("ethernet-25g")
    made = [hw.make_deployment(device, 3 * copies, tp=3, host=host, net_link=net) for copies in (1, 2, 3)]
    assert [deployment.pool.hosts for deployment in made] == [2, 4, 6]
    stages = [hw.make_deployment(device, 3 * copies, pp=3, host=host) for copies in (1, 2, 3)]
    assert [deployment.pool.hosts for deployment in stages] == [2, 4, 6]


def test_no_replica_straddles_hosts_that_could_hold_it_whole() -> None:
    """Eight slots hold two replicas of three cards, and two slots stay empty."""
    device, host = hw.load_device("m40"), hw.load_host("ddr4-4u")
    assert host.gpus(device) == 8
    for degrees in ({"tp": 3}, {"pp": 3}):
        made = [hw.make_deployment(device, 3 * copies, host=host, **degrees) for copies in (1, 2, 3, 5)]
        assert [deployment.pool.hosts for deployment in made] == [1, 1, 2, 3]


def test_the_bus_is_as_old_as_the_older_end() -> None:
    l4 = hw.load_device("l4")
    assert hw.make_deployment(l4, host=hw.load_host("ddr5-2u")).fabric.pools[0].host.key == "pcie4"
    assert hw.make_deployment(l4, host=hw.load_host("ddr4-2u")).fabric.pools[0].host.key == "pcie3"
    k80 = hw.parse_deployment("2xk80")
    assert k80.pool.hosts == 1
    assert k80.fabric.pools[0].host.bytes_per_s == pytest.approx(hw.load_link("pcie3").bytes_per_s / 2)
    assert k80.pool.host.gpus(k80.pool.device) == 4


def test_ecc_is_as_commonly_run_unless_said_otherwise() -> None:
    assert hw.parse_deployment("m40").pool.ecc_on
    assert hw.parse_deployment("h100-sxm").pool.ecc_on
    assert not hw.parse_deployment("rtx3090").pool.ecc_on
    assert not hw.parse_deployment("rtx4090").pool.ecc_on
    on, off = hw.parse_deployment("m40").pool, hw.make_deployment(hw.load_device("m40"), ecc_on=False).pool
    assert on.usable_memory_bytes < off.usable_memory_bytes
    assert on.peak_bytes_per_s < off.peak_bytes_per_s


def test_a_deployment_file_chooses_everything(tmp_path: Path) -> None:
    path = tmp_path / "attic.toml"
    path.write_text(SAMPLE, encoding="utf-8")
    found = hw.parse_deployment(str(path))
    assert found.name == "attic"
    pool, links = found.pool, found.fabric.pools[0]
    assert (pool.device.key, pool.count, pool.tp, pool.pp, pool.replicas) == ("m40-24", 4, 2, 2, 1)
    assert (pool.host.key, pool.hosts, links.network.key, pool.storage.key) == (
        "ddr3-2u",
        2,
        "ethernet-25g",
        "nvme-gen3",
    )
    assert (links.tensor.key, links.stage.key, pool.ecc_on) == ("pcie3", "ethernet-25g", False)


def test_a_deployment_file_needs_only_a_device_and_finds_profiles_beside_it(tmp_path: Path) -> None:
    text = (Path(hw.__file__).parent / "data/gpus/m40-24.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    (tmp_path / "one.toml").write_text('device = "mine.toml"\n', encoding="utf-8")
    found = hw.parse_deployment(str(tmp_path / "one.toml"))
    assert (found.name, found.pool.device.key, found.pool.count) == ("one", "mine", 1)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('device = "m40"', "", "device is missing"),
        ('device = "m40"', 'device = "m4O"', "unknown device 'm4O'; did you mean 'm40'?"),
        ('"ddr3-2u"', '"ddr3-3u"', "unknown host 'ddr3-3u'; did you mean 'ddr3-2u'?"),
        (
            '"ddr3-2u"',
            '"hgx-h100"',
            "m40-24 is a pcie card and host hgx-h100 has sxm5 slots; hosts that hold it: ddr3-2u",
        ),
        ('"ethernet-25g"', '"pcie3"', "network = 'pcie3' is a pcie link; give a network such as ethernet-25g"),
        ('"nvme-gen3"', '"nvme-gen6"', "unknown storage 'nvme-gen6'; did you mean 'nvme-gen"),
        ("count = 4", "cuont = 4", "unknown key 'cuont'; did you mean 'count'?"),
        ("count = 4", "count = 3", "3 x m40-24 cannot be split into replicas of tp 2 x pp 2 = 4 GPUs"),
        ("count = 4", "count = 0", "count = 0 must be a whole number in 1.."),
        ("count = 4", 'count = "4"', "must be a whole number"),
        ("ecc = false", 'ecc = "off"', "ecc = 'off' must be true or false"),
        ("ecc = false", "ecc = ", "not valid TOML"),
        ('device = "m40"', 'device = "rtx3090"\necc = true', "not valid TOML"),
    ],
)
def test_a_deployment_file_with_a_slip(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in SAMPLE
    path = tmp_path / "attic.toml"
    path.write_text(SAMPLE.replace(old, new), encoding="utf-8")
    with pytest.raises(hw.HardwareError) as caught:
        hw.parse_deployment(str(path))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("m4O", "did you mean 'm40'?"),
        ("0xm40", "count = 0"),
        ("99999999xm40", "count = 99999999 of m40-24 must lie in 1..1000000"),
        ("3xm40:tp2", "cannot be split into replicas of tp 2 x pp 1 = 2 GPUs; take a multiple of 2"),
        ("2xm40:tp4", "2 x m40-24 cannot be split into replicas of tp 4 x pp 1 = 4 GPUs; take a multiple of 4, 4 for"),
        ("a100-80:tp2", "splits a model over 2 GPUs but names one; write 2xa100-80:tp2"),
        ("2xm40:tp2tp2", "names tp twice"),
        ("2xm40:tp0", "tp = 0 of m40-24 must lie in"),
        ("2xm40:foo", "'foo' is no split; write tpN, ppN, epN or several"),
        ("2xm40:", "'' is no split"),
        ("", "is no deployment; write for example m40"),
        (":tp2", "is no deployment"),
        ("none.toml", "none.toml: no such file"),
        ("2xa100", "did you mean 'a100-40' or"),
    ],
)
def test_a_word_that_is_no_deployment(text: str, says: str) -> None:
    with pytest.raises(hw.HardwareError) as caught:
        hw.parse_deployment(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ecc_asked_of_a_card_without_it() -> None:
    with pytest.raises(hw.HardwareError, match="rtx3090 has no ECC"):
        hw.make_deployment(hw.load_device("rtx3090"), ecc_on=True)


def test_a_host_refuses_cards_it_cannot_feed() -> None:
    with pytest.raises(hw.HardwareError, match=r"a board of rtx4090 draws 450 W and host ddr3-2u feeds 300 W"):
        hw.make_deployment(hw.load_device("rtx4090"), host=hw.load_host("ddr3-2u"))


def test_a_layer_crosses_a_network_only_where_the_user_says_so(tmp_path: Path) -> None:
    """Two P40 in a desktop of one slot would be two desktops, with every layer sent over 10 GbE."""
    path = tmp_path / "home.toml"
    path.write_text('device = "p40"\ncount = 2\ntp = 2\nhost = "desktop"\n')
    with pytest.raises(
        hw.HardwareError, match=r"desktop has 1 slot for it: each layer would cross ethernet-\w+; .* pp"
    ):
        hw.parse_deployment(str(path))
    path.write_text(path.read_text() + 'network = "ethernet-10g"\n')
    meant = hw.parse_deployment(str(path))
    assert (meant.pool.hosts, meant.fabric.pools[0].tensor.key) == (2, "ethernet-10g")
    path.write_text('device = "p40"\ncount = 2\nhost = "desktop"\n')
    assert hw.parse_deployment(str(path)).pool.hosts == 2


def test_a_slot_is_what_is_said_and_no_faster_than_the_card(tmp_path):
    path = tmp_path / "riser.toml"

    def host_link(slot, device="rtx3090"):
        path.write_text(f'device = "{device}"\npcie = "{slot}"\n')
        return hw.parse_deployment(str(path)).fabric.pools[0].host

    whole = hw.parse_deployment("rtx3090").fabric.pools[0].host
    assert host_link("4x16").bytes_per_s == host_link("5x16").bytes_per_s == whole.bytes_per_s
    assert host_link("4.0x4").bytes_per_s == whole.bytes_per_s / 4
    assert host_link("3x8").bytes_per_s == hw.load_link("pcie3").bytes_per_s / 2
    with pytest.raises(hw.HardwareError, match="is no slot; write generation and lanes"):
        host_link("2x16")


def test_a_short_name_says_what_is_not_one():
    from afterwatt.hwprofiles.deployment import short_name

    assert short_name("m40", 1, 1, 1) == "m40"
    assert short_name("m40", 4, 2, 2) == "4xm40:tp2pp2"
    assert short_name("h200", 8, 1, 1, 8) == "8xh200:ep8"

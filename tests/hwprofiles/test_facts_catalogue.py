"""The shipped facts: every number has its provenance, and they agree with each other and with their reference."""

import csv
import dataclasses
import datetime as dt
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import afterwatt.hwprofiles as hw
from afterwatt.hwprofiles.embodied import COMPLETE_METHODS
from afterwatt.hwprofiles.facts import KINDS, KINDS_NEEDING_INTERVAL
from afterwatt.hwprofiles.tables import DATA_DIR, shared_sources
from afterwatt.hwprofiles.units import BYTES_PER_GIB

REFERENCE = Path(__file__).parents[2] / "../shared/reference"
LOADERS = {
    "gpus": (hw.device_names(), hw.load_device),
    "hosts": (hw.host_names(), hw.load_host),
    "storage": (hw.storage_names(), hw.load_storage),
    "links": (hw.link_names(), hw.load_link),
    "sites": (hw.site_names(), hw.load_site),
}
ALL = [(folder, name) for folder, (names, _) in LOADERS.items() for name in names]
COUNTS = {"year", "gpus_per_board", "pcie_gen", "pcie_lanes", "cards", "sockets", "disks"}


def load(folder: str, name: str) -> Any:
    return LOADERS[folder][1](name)


def facts_in(value: object) -> Iterator[hw.Fact]:
    if isinstance(value, hw.Fact):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from facts_in(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from facts_in(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from facts_in(getattr(value, field.name))


def leaves(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any] | object]]:
    """Yield the fact tables and the plain values of raw TOML."""
    if isinstance(value, dict) and "value" not in value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, path)
    else:
        yield path, value


@pytest.mark.parametrize("folder", LOADERS)
def test_every_shipped_number_has_source_date_and_kind_after_loading(folder: str) -> None:
    for name in LOADERS[folder][0]:
        raw = tomllib.loads((DATA_DIR / folder / f"{name}.toml").read_text(encoding="utf-8"))
        raw.pop("sources", None)
        written = []
        for path, leaf in leaves(raw):
            if isinstance(leaf, dict):
                written.append(leaf)
            elif isinstance(leaf, int | float) and not isinstance(leaf, bool):
                assert path[-1] in COUNTS, f"{folder}/{name}: {'.'.join(path)} is a number without provenance"
        loaded = list(facts_in(load(folder, name)))
        assert sorted(float(table["value"]) for table in written) == sorted(float(fact) for fact in loaded)
        for fact in loaded:
            assert len(fact.source) > 15, f"{folder}/{name}: {fact!r} carries no full source"
            assert " " in fact.source or "." in fact.source
            assert dt.date.fromisoformat(fact.checked).year >= 2020
            assert fact.kind in KINDS
            if fact.kind in KINDS_NEEDING_INTERVAL:
                assert fact.low is not None
                assert fact.high is not None
                assert fact.low <= fact <= fact.high


def test_every_shared_source_is_used() -> None:
    used = set()
    for path in DATA_DIR.rglob("*.toml"):
        if path.name != "sources.toml":
            used |= set(re.findall(r'source = "([a-z0-9-]+)"', path.read_text(encoding="utf-8")))
    assert set(shared_sources()) - used == set()


def test_what_is_from_memory_is_no_source() -> None:
    """The reference marks cells 'memory, unverified'; such a number may only be an assumption with an interval."""
    for folder, name in ALL:
        for fact in facts_in(load(folder, name)):
            if "memory" in fact.note and "from memory" in fact.note:
                assert fact.kind == "assumed"


@pytest.mark.parametrize(
    "key",
    [
        "k80",
        "m40-12",
        "m40",
        "p40",
        "p100-16",
        "v100-pcie",
        "v100-sxm",
        "t4",
        "rtx2080ti",
        "rtx3090",
        "rtx4090",
        "a10",
        "a100-40",
        "a100-80",
        "l4",
        "l40s",
        "h100-pcie",
        "h100-sxm",
        "h200",
        "b200",
        "gtx1080ti",
        "titan-rtx",
        "rtx3060",
        "rtx3070",
        "rtx3080",
        "rtx3080ti",
        "rtx3090ti",
        "rtx4060ti-16",
        "rtx4080",
        "rtx5090",
        "rtx-a6000",
        "a6000",
        "a10g",
        "a30",
        "a40",
        "a800",
        "l40",
        "mi210",
        "mi250x",
        "mi300x",
    ],
)
def test_the_promised_gpus_are_there_and_run_in_a_host_that_holds_them(key: str) -> None:
    device = hw.load_device(key)
    assert device.default_hosts
    for host_key in device.default_hosts:
        host = hw.load_host(host_key)
        assert host.refusal(device) is None
        assert host.gpus(device) == host.cards * device.gpus_per_board
    assert pickle.loads(pickle.dumps(device)) == device
    assert hash(device) == hash(hw.load_device(key))


def test_only_arithmetic_that_the_silicon_has_is_listed() -> None:
    assert set(hw.load_device("m40").flops_per_s) == {"fp32"}
    assert set(hw.load_device("k80").flops_per_s) == {"fp32"}
    assert set(hw.load_device("p40").flops_per_s) == {"fp32", "int8"}
    assert set(hw.load_device("p100-16").flops_per_s) == {"fp32", "fp16"}
    assert set(hw.load_device("mi250x").flops_per_s) == {"fp32", "fp16", "bf16", "int8"}
    assert set(hw.load_device("mi300x").flops_per_s) == {"fp32", "fp16", "bf16", "int8", "fp8"}
    for key in hw.device_names():
        device = hw.load_device(key)
        if device.architecture in ("gcn5", "xehpg", "xe2"):  # packed halves, and nothing counted beside
            assert device.flops_per_s["fp16"] == pytest.approx(2 * device.flops_per_s["fp32"], rel=1e-3), key
            assert "bf16" not in device.flops_per_s
            continue
        if device.vendor == "AMD":
            assert device.flops_per_s["bf16"] == device.flops_per_s["fp16"], key
            continue
        generation = ("kepler", "maxwell", "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell").index(
            device.architecture
        )
        rates = device.flops_per_s
        assert ("bf16" in rates) == (generation >= 5), key
        assert ("fp8" in rates) == (generation >= 6), key
        assert ("fp16" in rates) == (generation >= 3 or key.startswith("p100")), key
        if "int8" in rates and "fp16" in rates and generation >= 4:
            assert rates["int8"] >= 1.9 * rates["fp16"], key
        if "bf16" in rates:
            assert rates["bf16"] == rates["fp16"], key


def test_rates_made_from_tensor_cores_keep_the_ratios_of_their_silicon() -> None:
    """int8 is twice fp16 at full rate; GeForce halves fp16 (and fp8) where it accumulates in fp32, others do not."""
    for key in hw.device_names():
        rates = hw.load_device(key).flops_per_s
        if "fp16" not in rates or "tensor cores x boost clock" not in rates["fp16"].source:
            continue
        halved = 2.0 if "half of the fp16-accumulate rate" in rates["fp16"].note else 1.0
        assert halved == (2.0 if "GeForce" in hw.load_device(key).name else 1.0), key
        assert rates["int8"] == pytest.approx(2.0 * halved * rates["fp16"], rel=2e-3), key
        if "int4" in rates:
            assert rates["int4"] == pytest.approx(2.0 * rates["int8"], rel=2e-3) or key.startswith("a800"), key
        if "fp8" in rates:
            assert rates["fp8"] == pytest.approx(2.0 * rates["fp16"], rel=2e-3), key


def test_ecc_costs_memory_and_bandwidth_only_where_it_is_inline() -> None:
    m40 = hw.load_device("m40")
    assert m40.usable_memory_bytes(False) == 24 * BYTES_PER_GIB
    assert m40.usable_memory_bytes(True) == 24 * BYTES_PER_GIB * 15 / 16
    assert m40.peak_bytes_per_s(True) < m40.peak_bytes_per_s(False) == 288.4e9
    for key in hw.device_names():
        device = hw.load_device(key)
        free = device.ecc != "inline"
        assert (device.usable_memory_bytes(True) == device.memory_bytes) == free
        assert (device.peak_bytes_per_s(True) == device.mem_bandwidth_bytes_per_s) == free
        if "HBM" in device.memory_type:
            assert device.ecc == ("none" if key == "titan-v" else "sideband")


def test_each_card_host_and_disk_is_known_under_the_complete_methods() -> None:
    for method in COMPLETE_METHODS:
        for key in hw.device_names():
            assert hw.load_device(key).embodied(method) is not None, (key, method)
        for key in hw.host_names():
            assert hw.load_host(key).embodied(method), (key, method)
        for key in hw.storage_names():
            assert hw.load_storage(key).embodied_per_byte(method) is not None, (key, method)


def test_methods_keep_the_order_that_their_boundaries_imply() -> None:
    """Silicon alone weighs less than the card; scaled cards are assumptions that name their neighbour."""
    for key in hw.device_names():
        device = hw.load_device(key)
        act, card = device.embodied("act"), device.embodied("card-lca")
        assert act is not None
        assert card is not None
        assert act < card, key
        for row in device.embodied_gco2e:
            if row.method == "card-lca" and row.gco2e.kind == "assumed":
                assert "neighbour" in row.gco2e.note or "die between" in row.gco2e.note, key
    with_pcf = {key for key in hw.device_names() if "vendor-pcf" in hw.load_device(key).methods}
    assert with_pcf == {"h100-sxm", "b200"}


def test_sources_that_disagree_are_all_kept_within_their_method() -> None:
    a100 = hw.load_device("a100-40")
    lca = [float(row.gco2e) for row in a100.embodied_gco2e if row.method == "card-lca"]
    assert lca == [127600.0, 113500.0]
    merged = a100.embodied("card-lca")
    assert merged is not None
    assert merged == 127600.0
    assert merged.low is not None
    assert merged.low <= 113500.0
    assert a100.embodied("vendor-pcf") is None


def test_hosts_refer_to_disks_and_networks_that_exist() -> None:
    for key in hw.host_names():
        host = hw.load_host(key)
        assert hw.load_link(host.nic).kind == "network"
        assert hw.load_storage(host.storage).read_bytes_per_s > 0
        assert host.cpu_idle_w.interval[0] <= host.cpu_idle_w
    generations = {hw.load_host(key).memory_generation for key in hw.host_names()}
    assert generations == {"ddr3", "ddr4", "ddr5"}


def test_links_agree_with_the_standards() -> None:
    for generation, transfers_per_s in ((3, 8e9), (4, 16e9), (5, 32e9)):
        link = hw.load_link(f"pcie{generation}")
        assert link.bytes_per_s == pytest.approx(16 * transfers_per_s * 128 / 130 / 8, rel=1e-5)
        assert link.effective_bytes_per_s < link.bytes_per_s
    m40, k80 = (hw.parse_deployment(key).fabric.pools[0].host for key in ("m40", "k80"))
    assert m40.bytes_per_s == hw.load_link("pcie3").bytes_per_s
    assert k80.bytes_per_s == hw.load_link("pcie3").bytes_per_s / 2
    for gigabits in (10, 25, 100, 400):
        assert hw.load_link(f"ethernet-{gigabits}g").bytes_per_s == gigabits * 1e9 / 8
    disks = [hw.load_storage(key).read_bytes_per_s for key in ("sata", "nvme-gen3", "nvme-gen4", "nvme-gen5")]
    assert disks == sorted(disks)


def test_at_least_forty_sites_and_the_world_as_default() -> None:
    assert len(hw.site_names()) >= 40
    for key in [
        "world",
        "fr",
        "se",
        "no",
        "pl",
        "de",
        "gb",
        "us",
        "us-cal-ciso",
        "us-tex-erco",
        "in",
        "cn",
        "ie",
        "sg",
        "jp",
        "kr",
        "tw",
        "ca",
        "br",
        "au",
        "za",
        "is",
        "fi",
        "nl",
    ]:
        site = hw.load_site(key)
        fact = site.intensity_gco2e_per_kwh()
        assert fact.low is not None
        assert fact.high is not None
        assert fact.low <= 0.9 * fact + 1e-9
        assert fact.high >= 1.1 * fact - 1e-9
        assert "direct" not in fact.source.split(" | ")
    world = hw.load_site("world").intensity_gco2e_per_kwh()
    assert world == 473.0


def test_a_site_never_mixes_bases() -> None:
    for key in hw.site_names():
        site = hw.load_site(key)
        for basis in site.bases:
            rows = [float(row.gco2e_per_kwh) for row in site.intensities if row.basis == basis]
            assert float(site.intensity_gco2e_per_kwh(basis)) in rows
        averages = [row for row in site.intensities if row.basis == "lifecycle"]
        mixes = {row.mix for row in averages}
        mix = "consumption" if "consumption" in mixes else "production"
        newest = max((row.year or 0) for row in averages if row.mix == mix)
        centre = site.average()
        assert (centre.mix, centre.year or 0) == (mix, newest)
        assert float(centre.gco2e_per_kwh) in [
            float(row.gco2e_per_kwh) for row in averages if row.mix == mix and (row.year or 0) == newest
        ]
    with pytest.raises(hw.HardwareError, match="site world has no direct intensity; it has lifecycle, unstated"):
        hw.load_site("world").intensity_gco2e_per_kwh("direct")


@pytest.mark.parametrize(
    ("key", "used", "made"),
    [("ch", 115.4, 34.8), ("nl", 398.2, 267.6), ("be", 171.3, 138.1), ("fi", 147.2, 79.2), ("kr", 490.8, 430.6)],
)
def test_a_place_counts_what_it_uses_and_not_what_it_makes(key: str, used: float, made: float) -> None:
    """grid.csv: Electricity Maps' mean of 2022 is of consumption; Our World in Data's of 2023 is of production."""
    average = hw.load_site(key).average()
    assert (float(average.gco2e_per_kwh), average.mix, average.year) == (used, "consumption", 2022)
    assert average.gco2e_per_kwh.low != made, "an average of a later year and of another mix is no bound of it"
    kept = next(row for row in hw.load_site(key).intensities if float(row.gco2e_per_kwh) == made)
    assert kept.mix == "production"


def test_every_shipped_average_of_a_known_basis_says_its_mix() -> None:
    alone = {key for key in hw.site_names() if hw.load_site(key).average().mix == "production"}
    assert alone == {"au", "ca", "cn", "dk", "it", "jp", "world"}, "no source says what these use"
    for key in hw.site_names():
        for row in hw.load_site(key).intensities:
            assert (row.mix == "unstated") == (row.basis == "unstated"), (key, row)


def test_a_users_average_may_say_its_mix(tmp_path: Path) -> None:
    text = (DATA_DIR / "sites" / "fr.toml").read_text(encoding="utf-8").partition("intensity = [")[0]
    row = (
        '{ basis = "lifecycle", year = 2024, value = 50, source = "own meter", checked = 2026-01-01, kind = "measured"'
    )
    (tmp_path / "attic.toml").write_text(f'{text}intensity = [ {row}, mix = "production" }}, {row} }} ]')
    assert [row.mix for row in hw.load_site(str(tmp_path / "attic.toml")).intensities] == ["unstated", "production"]
    (tmp_path / "attic.toml").write_text(f'{text}intensity = [ {row}, mix = "imports" }} ]')
    with pytest.raises(hw.HardwareError, match="mix = 'imports' is not known; expected one of consumption"):
        hw.load_site(str(tmp_path / "attic.toml"))


def test_a_users_site_may_bring_an_hourly_series(tmp_path: Path) -> None:
    rows = "".join(f"2024-01-01T{hour:02}:00:00Z,ATTIC,{100 + hour},lifecycle,false,mine\n" for hour in range(24))
    (tmp_path / "hours.csv").write_text("timestamp_utc,zone,gco2_per_kwh,kind,estimated,source\n" + rows)
    text = (DATA_DIR / "sites" / "fr.toml").read_text(encoding="utf-8")
    head, _, _ = text.partition("intensity = [")
    (tmp_path / "attic.toml").write_text(head + '[hourly]\nfile = "hours.csv"\n', encoding="utf-8")
    site = hw.load_site(str(tmp_path / "attic.toml"))
    assert site.key == "attic"
    grid = site.hourly_grid()
    assert grid is not None
    assert float(grid.mean_over(grid.start_s, grid.end_s)) == pytest.approx(111.5)
    assert hw.load_site("fr").hourly_grid() is None


def test_descriptions_show_every_fact_with_its_provenance() -> None:
    for load_one, key, folder in (
        (hw.load_device, "m40", "gpus"),
        (hw.load_host, "ddr3-2u", "hosts"),
        (hw.load_site, "fr", "sites"),
        (hw.load_storage, "sata", "storage"),
        (hw.load_link, "pcie3", "links"),
    ):
        rows = list(hw.describe_profile(load_one(key)))
        shown = [row for row in rows if row.kind]
        profile = load(folder, hw.ALIASES.get(key, key))
        assert sorted(float(row.value) for row in shown) == sorted(float(fact) for fact in facts_in(profile))
        for field, value, unit, kind, source, checked, of in shown:
            assert isinstance(value, hw.Fact)
            assert bool(of) == field.startswith("intensity.")
            assert unit, field
            assert kind in KINDS
            assert source
            assert checked
    listed = hw.describe_catalogue()
    assert {(row.noun, row.key) for row in listed} == {
        (noun, name)
        for noun, names in (
            ("device", hw.device_names()),
            ("host", hw.host_names()),
            ("storage", hw.storage_names()),
            ("link", hw.link_names()),
            ("site", hw.site_names()),
        )
        for name in names
    }
    assert all(row.summary for row in listed)


def test_importing_the_package_costs_nothing() -> None:
    heavy = "{'pandas', 'pyarrow', 'scipy'}"
    code = f"""
import sys, afterwatt.hwprofiles
afterwatt.hwprofiles.parse_deployment('m40')
print(sorted({heavy} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    code = """
import sys, afterwatt.hwprofiles
print('numpy' in sys.modules, 'afterwatt.hwprofiles.catalogue' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


# Against the reference, where it is at hand.

ROWS = {
    "k80": "Tesla K80 (per GPU; board = 2 GPUs)", "m40-12": "Tesla M40 12GB", "m40-24": "Tesla M40 24GB",
    "p40": "Tesla P40", "p100-16": "Tesla P100 PCIe 16GB", "p100-sxm": "Tesla P100 SXM2 16GB",
    "v100-pcie-16": "Tesla V100 PCIe 16GB", "v100-pcie-32": "Tesla V100 PCIe 32GB",
    "v100-sxm-32": "Tesla V100 SXM2 16/32GB", "t4": "Tesla T4", "rtx2080ti": "GeForce RTX 2080 Ti",
    "rtx3090": "GeForce RTX 3090", "rtx4090": "GeForce RTX 4090", "a10": "A10", "a100-40-pcie": "A100 PCIe 40GB",
    "a100-80-pcie": "A100 PCIe 80GB", "a100-40": "A100 SXM4 40GB", "a100-80": "A100 SXM4 80GB", "l4": "L4",
    "l40s": "L40S", "rtx6000-ada": "RTX 6000 Ada", "h100-pcie": "H100 PCIe 80GB", "h100-sxm": "H100 SXM5 80GB",
    "h200": "H200 SXM 141GB", "b200": "B200 SXM",
}  # fmt: skip


def reference(name: str) -> list[dict[str, str]]:
    path = REFERENCE / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def number(cell: str) -> float | None:
    match = re.match(r"\d+(\.\d+)?", cell)
    return float(match[0]) if match else None


def test_devices_agree_with_the_reference_table() -> None:
    rows = {row["gpu"]: row for row in reference("hardware.csv")}
    for key, gpu in ROWS.items():
        row, device = rows[gpu], hw.load_device(key)
        pairs = [
            (device.mem_bandwidth_bytes_per_s, number(row["mem_bw_GBs"]), 1e9),
            (device.flops_per_s["fp32"], number(row["fp32_TFLOPS"]), 1e12),
            (device.tdp_w * device.gpus_per_board, number(row["tdp_W"]), 1.0),
            (device.process_nm, number(row["process_nm"]), 1.0),
            (device.die_mm2, number(row["die_mm2"]), 1.0),
            (device.flops_per_s.get("fp16"), number(row["fp16_tensor_dense_TFLOPS"]), 1e12),
            (device.flops_per_s.get("int8"), number(row["int8_dense_TOPS"]), 1e12),
            (device.flops_per_s.get("fp8"), number(row["fp8_dense_TFLOPS"]), 1e12),
        ]
        for ours, theirs, factor in pairs:
            if ours is None or theirs is None or (key, theirs) in (("b200", 8000.0), ("k80", 4.11)):
                continue  # the B200's driver says 7.67 TB/s, and 4.11 TFLOPS are a K80's at less than its boost clock
            assert ours == pytest.approx(theirs * factor, rel=2e-3), (key, ours, theirs)
        if "/" not in row["mem_GB"]:
            assert device.memory_bytes == number(row["mem_GB"].split()[0]) * BYTES_PER_GIB  # type: ignore[operator]


def test_what_cards_themselves_report_comes_before_a_table() -> None:
    """An A10G's limit as nvidia-smi shows it; a B200's 7,680 bits at 3,996 MHz; reports of an idle A40 at 90, 110 W."""
    assert hw.load_device("a10g").tdp_w == 300.0
    b200 = hw.load_device("b200").mem_bandwidth_bytes_per_s
    assert b200 == pytest.approx(7680 / 8 * 3996e6 * 2, rel=1e-3)
    assert b200.high == 8e12
    idle = hw.load_device("a40").idle_w
    assert idle.low == 72.0
    assert idle.high == 110.0


def test_what_vendors_say_comes_before_a_table_of_clocks() -> None:
    """Half a K80 is 2,496 cores at 875 MHz; an MI300X multiplies fp32 in pairs, twice its fp64 rate of 81.7."""
    assert hw.load_device("k80").flops_per_s["fp32"] == pytest.approx(2 * 2496 * 875e6, rel=1e-3)
    assert hw.load_device("mi300x").flops_per_s["fp32"] == pytest.approx(2 * 81.72e12, rel=1e-3)
    h800, h100 = hw.load_device("h800"), hw.load_device("h100-sxm")
    assert (h800.nvlink_bytes_per_s, h800.flops_per_s["fp32"].high) == (200e9, h100.flops_per_s["fp32"])
    assert {hw.load_device(key).memory_type for key in ("a100-40", "a100-40-pcie", "a30")} == {"HBM2"}
    assert {hw.load_device(key).memory_type for key in ("a100-80", "a100-80-pcie", "a800-80-pcie")} == {"HBM2e"}
    workstation = hw.load_device("rtx-pro-6000")
    assert (workstation.tdp_w, workstation.mem_bandwidth_bytes_per_s) == (600.0, 512 / 8 * 28e9)


def test_a_card_of_one_kind_costs_more_new_than_used() -> None:
    devices = [hw.load_device(key) for key in hw.device_names()]
    prices = {one.key: (one.price_new_usd, one.price_used_usd) for one in devices}
    odd = [key for key, (new, used) in prices.items() if new is not None and used is not None and new < used]
    assert odd == []


def test_no_number_is_from_memory() -> None:
    facts = [fact for folder, name in ALL for fact in facts_in(load(folder, name))]
    assert [fact for fact in facts if re.search(r"\bfrom memory\b", f"{fact.note} {fact.source}")] == []


def test_every_location_based_row_of_the_grid_reference_is_kept() -> None:
    held = {
        (round(float(row.gco2e_per_kwh), 3), row.basis)
        for key in hw.site_names()
        for row in hw.load_site(key).intensities
    }
    missing = []
    for row in reference("grid.csv"):
        cloud = row["zone"].startswith(("azure ", "source:", "europe"))
        basis = "lifecycle" if "lifecycle" in row["basis"] or row["basis"] in ("OWID", "LCA hourly mean") else None
        basis = "direct" if row["basis"].startswith("direct") else basis
        value = round(float(row["gCO2e_per_kwh" if "gCO2e_per_kwh" in row else "gCO2e_per_kWh"]), 3)
        if not cloud and basis is not None and (value, basis) not in held:
            missing.append(row)
    assert missing == []


def test_act_values_follow_from_area_node_and_memory() -> None:
    """card = area x carbon per area + memory / yield + 26 packages (carbon.md, section 2)."""
    per_cm2 = {28: 1.33, 16: 1.56, 12: 1.56, 8: 1.81, 7: 2.32, 6: 2.55, 5: 2.78, 4: 2.78}
    for key in hw.device_names():
        device = hw.load_device(key)
        act = next(row.gco2e for row in device.embodied_gco2e if row.method == "act")
        memory_gb = device.memory_bytes / BYTES_PER_GIB
        die_kg = device.die_mm2 / 100 * per_cm2[int(device.process_nm)]
        low_kg = die_kg + memory_gb * 0.065 / 0.875 + 26 * 0.150
        assert act.low is not None
        if key != "b200":
            assert act.low / 1000 == pytest.approx(low_kg, abs=0.15), key
        assert act.low / 1000 <= low_kg + 0.15

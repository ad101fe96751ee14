"""What a calibration writes stands on what was measured, loads back, and is a device to all of the physics."""

import dataclasses
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest

from afterwatt.engine.model.bench import TorchBench
from afterwatt.engine.model.devices import find_device
from afterwatt.engine.model.machine import Machine
from afterwatt.engine.runtime.disk import place_of
from afterwatt.engine.runtime.energy.choose import MeterChoice
from afterwatt.engine.runtime.energy.reading import UnknownMeter
from afterwatt.engine.runtime.energy.tally import Counter, SampledMeter
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.probes import MIB, Effort, Stat
from afterwatt.fidelity.calibrate.files import DEVICE, FILES, KERNELS, RAW, STACK, Written, write_calibration
from afterwatt.fidelity.calibrate.measure import Calibration, DeviceWatts, Measured, calibrate, watts_of
from afterwatt.fidelity.calibrate.profile import datasheet, device_profile, device_text, known_card, skipped_precisions
from afterwatt.fidelity.calibrate.stack import _start, stack_text
from afterwatt.fidelity.kernels.fit import fit_values
from afterwatt.fidelity.kernels.table import kernel_rows, kernel_seconds, read_kernels
from afterwatt.hwprofiles.catalogue import device_names, load_device, load_host, load_site
from afterwatt.hwprofiles.deployment import make_deployment, parse_deployment
from afterwatt.hwprofiles.devices import Device, read_device
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.footprint import server_gco2e
from afterwatt.hwprofiles.power import anchors_of, gpu_power_model
from afterwatt.hwprofiles.replicas import replica_power
from afterwatt.hwprofiles.stacks import ENGINE, default_stack, load_stack
from afterwatt.hwprofiles.tables import read_profile

TINY = Effort(
    rounds=2,
    least_s=1e-4,
    array_bytes=16 * MIB,
    rows=(1, 2, 4, 16),
    products=((256, 256), (512, 256), (256, 512), (768, 256)),
    squares=(64, 128),
    heads=((4, 4, 32), (4, 2, 32)),
    contexts=(16, 64, 256),
    batches=(1, 2),
    prompts=((16, 0), (64, 0), (16, 48)),
    disk_bytes=8 * MIB,
    power_s=0.0,
)
COMMAND = "afterwatt calibrate --out local"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """This machine, measured with next to no effort."""
    return calibrate("cpu", 1, TINY, tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def written(told: Calibration, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """What is left of it in a folder."""
    return write_calibration(told, tmp_path_factory.mktemp("calibrated") / "local", COMMAND)


def gpu(
    name: str, gib: float, capability: str, watts: DeviceWatts | None = None, dtype: str = "fp16", **rates: float
) -> Calibration:
    """A calibration as a GPU would give it: no GPU is needed to write its profile."""
    machine = Machine(
        "cuda:0",
        name,
        "NVIDIA",
        round(gib * 2**30),
        3 * MIB,
        capability,
        None,
        1,
        dtype=dtype,
        stored="fp16",
        versions={"torch": "2"},
    )
    stat = lambda value: Stat(value, 0.9 * value, 1.1 * value, 5)  # noqa: E731
    found = {
        f"bandwidth/{way}": Measured(stat(1.0), stat(share * 240e9), "bytes")
        for way, share in (("read", 1.0), ("copy", 0.9), ("gemv", 0.95))
    }
    for form, rate in ({"fp32": 6e12} | rates).items():
        found[f"gemm/{form}/64x64x64"] = Measured(stat(1.0), stat(rate), "flops")
    unknown = DeviceWatts("unknown", None, None, None, ("nvml: none",))
    return Calibration(
        machine=machine, effort=TINY, array_bytes=16 * MIB, clock="wall", processor_share=None, found=found,
        drift=(1.0, 1.0, 1.0), watts=watts or unknown, disk={}, skipped={}, warnings=(), began_unix_s=1.8e9, took_s=1.0,
    )  # fmt: skip


def read_back(device: Device, folder: Path) -> Device:
    path = folder / "device.toml"
    path.write_text(device_text(device, "a test"))
    return read_profile(path, lambda table: read_device(table, "device"))


# -- measuring ---------------------------------------------------------------------------------------------------------


def test_every_rate_is_work_over_its_time(told: Calibration):
    for name, one in told.found.items():
        assert one.seconds.low <= one.seconds.median <= one.seconds.high, name
        assert one.seconds.median > 0.0, name
        assert one.rate.low <= one.rate.median <= one.rate.high, name
    read = told.found["bandwidth/read"]
    assert read.rate.median * read.seconds.median == pytest.approx(told.array_bytes)
    square = told.found["gemm/fp32/128x128x128"]
    assert square.rate.median * square.seconds.median == pytest.approx(2 * 128**3)


def test_the_reference_is_the_best_of_three_ways_to_read(told: Calibration):
    way, rate = told.bandwidth
    ways = {name: told.found[f"bandwidth/{name}"].rate.median for name in ("read", "copy", "gemv")}
    assert rate.median == ways[way] == max(ways.values())


def test_all_kinds_of_probes_are_there(told: Calibration):
    kinds = {name.split("/")[0] for name in told.found}
    assert {"bandwidth", "gemm", "decode_attention", "prefill_attention", "overhead"} <= kinds
    rows = {one.row["m"] for one in told.found.values() if one.row.get("op") == "gemm"}
    assert set(TINY.rows) <= rows


def test_what_does_not_apply_to_a_processor_is_left_out_with_the_reason(told: Calibration):
    assert "link" in told.skipped
    assert "fp16" in skipped_precisions(told)


def test_the_disk_was_read_as_often_as_it_says(told: Calibration, tmp_path: Path):
    if not told.disk:
        assert place_of(tmp_path).direct is not True
        pytest.skip(told.skipped["disk"])
    assert told.disk["bytes_read"] >= TINY.rounds * 2 * TINY.disk_bytes  # two sequential sweeps a round
    assert told.disk["from_device_frac"] is None or told.disk["from_device_frac"] >= 1.0


def test_an_unknown_meter_leaves_power_unknown():
    watts = watts_of(MeterChoice(UnknownMeter("it", "no sensor"), ("rapl: none",)), 1.0, lambda *_: None)
    assert (watts.method, watts.idle_w, watts.streaming_w, watts.computing_w) == ("unknown", None, None, None)
    assert watts.refused == ("rapl: none",)


def test_a_device_rests_before_its_idle_watts_are_read(monkeypatch: pytest.MonkeyPatch):
    """A counter that rises by 10 W while clocks are up, for 0.3 s after a load, and by 1 W after that."""
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    counter = Counter(lambda: 10.0 * min(now_s[0], 0.3) + max(0.0, now_s[0] - 0.3), None, "it")
    meter = SampledMeter(counter, "nvml-counter", "the board", 3600.0, clock=lambda: now_s[0])
    watts = watts_of(MeterChoice(meter, ()), 0.05, lambda _kind, _seconds: None, rest_s=0.4)
    assert watts.idle_w == pytest.approx(1.0, rel=1e-9)


def test_clocks_are_brought_up_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    order: list[object] = []
    monkeypatch.setattr(TorchBench, "load", lambda _self, kind, seconds: order.append((kind, seconds)))

    def probes(_self: TorchBench):
        order.append("probes")
        raise EngineError("that is far enough")

    monkeypatch.setattr(TorchBench, "bandwidth_probes", probes)
    with pytest.raises(EngineError, match="far enough"):
        calibrate("cpu", 1, dataclasses.replace(TINY, warm_s=2.0), tmp_path)
    assert order == [("computing", 2.0), "probes"]


def test_the_stack_of_a_gpu_pads_as_its_graphs_do_and_that_of_a_processor_does_not(tmp_path: Path, written: Written):
    calibration = gpu("Tesla P100-PCIE-16GB", 15.9, "6.0", fp32=8e12, fp16=7e12)
    device = device_profile(calibration, COMMAND)
    path = tmp_path / "stack.toml"
    path.write_text(stack_text(_start(calibration, device)))
    assert load_stack(device, str(path)).decode_shape == "padded"
    assert load_stack(written.device, str(written.folder / STACK)).decode_shape == "as-is"


def test_a_card_that_computes_in_a_slow_format_is_not_given_its_catalogue_rate(tmp_path: Path):
    """A P100 computes in fp16, and torch sums it in fp32 below compute capability 7.0: what was measured holds."""
    slow = device_profile(gpu("Tesla P100-PCIE-16GB", 15.9, "6.0", fp32=8e12, fp16=7e12), COMMAND)
    assert float(slow.flops_per_s["fp16"]) == 7e12
    stored = device_profile(gpu("Tesla P100-PCIE-16GB", 15.9, "6.0", dtype="fp32", fp32=8e12, fp16=7e12), COMMAND)
    assert "fp16" not in stored.flops_per_s


def test_a_meter_that_fails_under_one_load_leaves_that_one_unknown():
    counts = iter([0.0, 1.0, 1.0, 9.0, 9.0, 5.0])
    meter = SampledMeter(Counter(lambda: next(counts), None, "it"), "nvml-counter", "the board", 3600.0)
    watts = watts_of(MeterChoice(meter, ()), 0.01, lambda _kind, _seconds: None)
    assert watts.idle_w is not None
    assert watts.streaming_w is not None
    assert watts.computing_w is None
    assert "set back" in watts.refused[0]


def test_a_device_that_is_not_here_is_refused():
    with pytest.raises(EngineError, match="unknown"):
        find_device("tpu")
    with pytest.raises(EngineError, match="not here"):
        find_device("cuda:63")


def test_no_product_reads_the_same_part_of_the_array_twice_in_a_row():
    bench = TorchBench("cpu", 1, TINY)
    parts = [bench._part(bench.dtype, 256, 256) for _ in range(200)]
    places = [part.data_ptr() for part in parts]
    assert all(one != other for one, other in itertools.pairwise(places))
    assert len(set(places)) == 16 * MIB // (4 * 256 * 256)
    first = bench.array.data_ptr()
    assert all(first <= place <= first + bench.array_bytes - 4 * 256 * 256 for place in places)
    assert all(place % 64 == first % 64 for place in places)


def test_the_array_is_finite_in_every_format_that_it_is_read_in():
    import torch

    bench = TorchBench("cpu", 1, TINY)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        size = bench.array.view(dtype).float().abs()
        assert float(size.min()) >= 1.0
        assert float(size.max()) < 2.0


# -- files -------------------------------------------------------------------------------------------------------------


def test_all_files_are_there_and_nothing_else(written: Written):
    assert sorted(path.name for path in written.folder.iterdir()) == sorted(FILES)


def test_the_profile_holds_what_was_measured(told: Calibration, written: Written):
    device = load_device(str(written.folder / DEVICE))
    assert device.mem_bandwidth_bytes_per_s == pytest.approx(told.bandwidth[1].median)
    assert device.mem_bandwidth_bytes_per_s.kind == "measured"
    for words in (COMMAND, "torch", "1 thread", "20"):
        assert words in device.mem_bandwidth_bytes_per_s.source
    assert set(device.flops_per_s) <= {"fp32", "bf16", "int8"}
    for name, rate in device.flops_per_s.items():
        assert rate == pytest.approx(told.peaks()[name][1].median)
        assert rate.kind == "measured"
    for fact in (device.tdp_w, device.die_mm2, device.lifetime_s):
        assert fact.kind == "assumed"
        assert fact.low < fact < fact.high
    assert (device.price_new_usd, device.price_used_usd) == (None, None)


def test_the_kernel_table_holds_each_measured_shape_once(told: Calibration, written: Written):
    table = read_kernels(written.folder / KERNELS)
    assert set(table["op"]) == {"gemm", "decode_attention", "prefill_attention"}
    assert set(table["device"]) == {str(written.folder / DEVICE)}  # beside the table, from wherever it is read
    shapes = table.drop(columns=["seconds", "watts"])
    assert len(shapes.drop_duplicates()) == len(table)
    one = table[(table["m"] == 16) & (table["n"] == 512) & (table["k"] == 256)]
    assert one["seconds"].to_numpy() == pytest.approx([told.found["gemm/fp32/16x512x256"].seconds.median])


def test_the_stack_computes_and_caches_in_what_the_engine_does(written: Written):
    stack = load_stack(written.device, str(written.folder / STACK))
    assert stack.pool == "device"
    assert (stack.kv_bytes_per_element, stack.activation_bytes_per_element) == (4.0, 4.0)
    assert stack.mem_efficiency.kind == "fitted"
    assert stack.step_overhead_s.kind == "assumed"


def test_everything_raw_is_in_the_json_and_unknown_is_null(told: Calibration, written: Written):
    raw = json.loads((written.folder / RAW).read_text())
    assert set(raw["probes"]) == set(told.found)
    assert raw["power"]["energy_method"] == "unknown"
    assert raw["power"]["idle_w"] is None
    assert set(raw["links_bytes_per_s"].values()) == {None}
    assert raw["datasheet"] is None
    assert raw["skipped"].keys() >= {"link", "flops_per_s.fp16"}
    assert raw["drift"]["moved_frac"] == pytest.approx(told.drift_frac)
    assert raw["kernel_fit"]["rows"] == len(read_kernels(written.folder / KERNELS).query("dtype == 'fp32'"))


def test_a_second_calibration_replaces_the_first(told: Calibration, tmp_path: Path):
    for _ in range(2):
        write_calibration(told, tmp_path, COMMAND)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


# -- a processor as a device -------------------------------------------------------------------------------------------


def test_a_profile_of_ones_own_is_a_deployment_of_one(written: Written):
    deployment = parse_deployment(str(written.folder / DEVICE))
    assert (deployment.pool.count, deployment.pool.host.key) == (1, "socket")
    assert default_stack(deployment.pool.device) == ENGINE
    assert load_stack(deployment.pool.device, ENGINE).pool == "cpu"
    assert deployment.fabric.pools[0].host.kind == "memory"
    assert deployment.fabric.pools[0].host.effective_bytes_per_s == pytest.approx(deployment.pool.peak_bytes_per_s / 2)


def test_the_processor_and_its_memory_count_once(written: Written):
    """In watts and in grams: the host that holds a socket has neither."""
    deployment = parse_deployment(str(written.folder / DEVICE))
    power = replica_power(deployment.pool, load_site("world"))
    assert power.baseline_w["gpu"] == deployment.pool.device.idle_w
    assert (power.baseline_w["cpu"], power.baseline_w["dram"], power.busy_w["cpu"]) == (0.0, 0.0, 0.0)
    for method in ("act", "card-lca"):
        assert deployment.pool.device.embodied(method) is not None
        parts = deployment.pool.host.embodied(method)
        assert parts
        assert sum(float(grams) for part, grams in parts.items() if part in ("cpu", "dram")) == 0.0
        assert server_gco2e(deployment.pool, method)[0] > 0.0


def test_no_card_goes_into_a_socket_and_no_processor_into_a_slot(written: Written):
    with pytest.raises(HardwareError, match="is a socket card"):
        make_deployment(written.device, host=load_host("workstation"))
    with pytest.raises(HardwareError, match="has socket slots"):
        make_deployment(load_device("m40"), host=load_host("socket"))


def test_two_processors_are_two_hosts(written: Written):
    deployment = parse_deployment(f"2x{written.folder / DEVICE}:tp2")
    assert deployment.pool.hosts == 2
    assert (
        deployment.fabric.pools[0].tensor.effective_bytes_per_s
        <= deployment.fabric.pools[0].network.effective_bytes_per_s
    )


def test_a_processor_draws_between_idle_and_its_cap(written: Written):
    model = gpu_power_model(written.device, "fp32")
    assert 0.0 < model.idle_w <= model.busy_w <= model.cap_w
    assert model.j_per_byte > 0.0
    assert model.energy_j(1.0, 1e30, 1e30) == pytest.approx(model.cap_w)


# -- cards of the catalogue, and others --------------------------------------------------------------------------------


def test_a_card_of_the_catalogue_keeps_what_was_not_measured(tmp_path: Path):
    calibration = gpu("Tesla M40 24GB", 23.9, "5.2", fp16=3e12)
    card = load_device("m40")
    assert known_card(calibration) == card
    device = read_back(device_profile(calibration, COMMAND), tmp_path)
    assert device.mem_bandwidth_bytes_per_s == 240e9
    assert device.peak_bytes_per_s(ecc_on=True) == 240e9  # measured with ECC on: no share is taken twice
    assert device.flops_per_s == {"fp32": 6e12}  # fp16 is storage on it, however it was timed
    for name in (
        "embodied_gco2e",
        "tdp_w",
        "idle_w",
        "price_used_usd",
        "default_hosts",
        "memory_bytes",
        "architecture",
    ):
        assert getattr(device, name) == getattr(card, name), name
    assert device.tdp_w.source == card.tdp_w.source
    assert datasheet(calibration)["fp32"] == card.flops_per_s["fp32"]
    assert "m40-24" in device.note


def test_measured_watts_are_those_that_the_power_model_gives_back(tmp_path: Path):
    """Streaming at the measured bandwidth draws the measured watts, and so do products at the measured rate."""
    watts = DeviceWatts("nvml-counter", 20.0, 150.0, 220.0, ())
    device = read_back(device_profile(gpu("Tesla M40 24GB", 24.0, "5.2", watts), COMMAND), tmp_path)
    assert (device.idle_w, device.streaming_w, device.computing_w) == (20.0, 150.0, 220.0)
    assert device.idle_w.kind == "measured"
    model = gpu_power_model(device, "fp32")
    assert model.energy_j(1.0, 240e9, 0.0) == pytest.approx(150.0)
    assert model.energy_j(1.0, 0.0, 6e12) == pytest.approx(220.0)
    assert anchors_of(device).stream_frac.kind == "measured"


def test_a_card_of_another_size_is_not_taken_for_one_of_the_catalogue():
    assert known_card(gpu("Tesla M40 24GB", 6.0, "5.2")) is None
    for gib, key in ((11.2, "m40-12"), (22.5, "m40-24")):  # what CUDA leaves of 12 and 24
        assert known_card(gpu("Tesla M40", gib, "5.2")).key == key
    assert known_card(gpu("Quadro Nothing 9000", 8.0, "7.5")) is None


@pytest.mark.parametrize(
    ("capability", "architecture"), [("5.2", "maxwell"), ("6.1", "pascal"), ("7.0", "volta"), ("7.5", "turing"),
                                     ("8.6", "ampere"), ("8.9", "ada"), ("9.0", "hopper"), ("12.0", "blackwell")]
)  # fmt: skip
def test_an_unknown_card_is_assumed_and_runs(capability: str, architecture: str, tmp_path: Path):
    device = read_back(device_profile(gpu("Quadro Nothing 9000", 8.0, capability, fp16=2e13), COMMAND), tmp_path)
    assert device.architecture == architecture
    assert device.flops_per_s["fp16"] == 2e13
    assert device.tdp_w.kind == "assumed"
    deployment = make_deployment(device)
    assert load_stack(device, default_stack(device))
    assert gpu_power_model(device, "fp32").cap_w > 0.0
    assert deployment.pool.host.refusal(device) is None


def test_a_profile_survives_writing_and_reading(tmp_path: Path):
    """Every shipped card, fact by fact with its source and interval."""
    for key in device_names():
        card = dataclasses.replace(load_device(key), key="device")
        assert read_back(card, tmp_path) == card


# -- products of few rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("few", "faster"), [(0.0, 1.0), (3.0, 0.95)])
def test_a_fit_finds_both_shares_where_few_rows_have_a_kernel_of_their_own(written: Written, few: float, faster: float):
    start = load_stack(written.device, ENGINE).with_values({"few_rows": few})
    truth = start.with_values(
        {"few_rows_mem_efficiency": faster, "mem_efficiency": 0.45, "compute_efficiency": 0.9,
         "kernel_latency_s": 5e-6, "roofline_sharpness": 1.3}
    )  # fmt: skip
    m, n, k = (grid.ravel() for grid in np.meshgrid([1.0, 2, 3, 4, 6, 8, 16, 64, 256], [512.0, 2048], [512.0, 4096]))
    shape = {"m": m, "n": n, "k": k, "seconds": 1.0}
    table = kernel_rows("gemm", str(written.folder / DEVICE), "made up", shape, "fp32")
    table = table.assign(seconds=kernel_seconds("gemm", written.device, "fp32", table, truth))
    values = fit_values(table, start)
    assert ("few_rows_mem_efficiency" in values) == bool(few)
    found = kernel_seconds("gemm", written.device, "fp32", table, start.with_values(values))
    assert found == pytest.approx(table["seconds"].to_numpy(), rel=0.02)

# ruff: noqa: N802 - the fake answers to the names of NVML
"""A meter's joules are those of a closed form, or unknown with the reason; never a number that a fault made."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.engine.runtime.energy.choose import choose_meter
from afterwatt.engine.runtime.energy.nvml import Nvml
from afterwatt.engine.runtime.energy.rapl import rapl_meter, rapl_zones
from afterwatt.engine.runtime.energy.reading import MeterError, ModelledMeter, UnknownMeter
from afterwatt.engine.runtime.energy.tally import Counter, SampledMeter, Trapezoid, polled_power


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class NvmlError(Exception):
    """What the library raises."""


class FakeNvml:
    """A library that answers as pynvml does: millijoules and milliwatts; a value that is an exception is raised."""

    NVMLError = NvmlError

    def __init__(self, counter_mj=None, power_mw=None, devices=2):
        self.counter_mj, self.power_mw, self.devices = counter_mj, power_mw, devices
        self.asked: list[object] = []

    def nvmlInit(self):
        if not self.devices:
            raise NvmlError("Driver Not Loaded")

    def nvmlDeviceGetHandleByIndex(self, index):
        if index >= self.devices:
            raise NvmlError("Invalid Argument")
        self.asked.append(index)
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self.asked.append(uuid)
        return uuid

    def nvmlDeviceIsMigDeviceHandle(self, handle):
        return int(str(handle).startswith("MIG-"))

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle):
        return f"parent of {handle}"

    def nvmlDeviceGetTotalEnergyConsumption(self, _handle):
        return self._answer(self.counter_mj)

    def nvmlDeviceGetPowerUsage(self, _handle):
        return self._answer(self.power_mw)

    @staticmethod
    def _answer(value):
        if value is None:
            raise NvmlError("Not Supported")
        return value


def zone(root: Path, name: str, label: str, energy_uj: object, range_uj: int = 262_143_328_850) -> Path:
    """A folder of /sys/class/powercap."""
    path = root / name
    path.mkdir(parents=True)
    (path / "name").write_text(f"{label}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path


def spend(path: Path, joules: float) -> None:
    """Let a zone's counter rise, and begin again where it is full, as the kernel says it does."""
    full = int((path / "max_energy_range_uj").read_text())
    count = int((path / "energy_uj").read_text()) + round(joules * 1e6)
    (path / "energy_uj").write_text(str(count % full))


# -- integrals ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 5.0), min_size=1, max_size=40), st.floats(0.0, 500.0), st.floats(0.0, 40.0))
def test_the_trapezoidal_rule_is_exact_for_a_line(steps, start_w, slope_w_per_s):
    """Power a + b t over [0, T] is a T + b T^2 / 2, wherever the samples fall."""
    integral, at_s = Trapezoid(), 0.0
    integral.add(0.0, start_w)
    for step in steps:
        at_s += step
        integral.add(at_s, start_w + slope_w_per_s * at_s)
    assert integral.joules == pytest.approx(start_w * at_s + slope_w_per_s * at_s**2 / 2.0, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("watts", [-1.0, float("nan"), float("inf")])
def test_what_is_no_power_is_refused(watts):
    with pytest.raises(MeterError):
        Trapezoid().add(0.0, watts)


def test_time_does_not_run_back():
    integral = Trapezoid()
    integral.add(2.0, 10.0)
    with pytest.raises(MeterError, match="came after"):
        integral.add(1.0, 10.0)


def test_polled_power_gives_its_mean_times_the_time():
    """Two samples of a constant power, whatever the thread does between: watts x seconds."""
    clock = Clock()
    meter = polled_power(lambda: 70.0, "nvml-power", "the board", interval_s=3600.0, note="by hand", clock=clock)
    meter.start()
    clock.now_s += 8.0
    reading = meter.stop()
    assert reading.joules == pytest.approx(560.0)
    assert reading.mean_w == pytest.approx(70.0)
    assert reading.method == "nvml-power-polled-3.6e+06ms"
    assert reading.note == "by hand"


def test_the_interval_is_part_of_the_method():
    assert polled_power(lambda: 1.0, "nvml-power", "the board").method == "nvml-power-polled-100ms"


def test_samples_are_taken_in_the_background():
    seen, enough = [], threading.Event()

    def read_w() -> float:
        seen.append(1)
        if len(seen) == 5:
            enough.set()
        return 5.0

    meter = polled_power(read_w, "fake", "it", interval_s=0.001)
    meter.start()
    assert enough.wait(30.0)
    reading = meter.stop()
    assert reading.joules == pytest.approx(5.0 * reading.elapsed_s, rel=0.5, abs=0.1)
    after = len(seen)
    threading.Event().wait(0.02)
    assert len(seen) == after  # the thread has ended


def test_a_sensor_that_fails_on_the_way_makes_the_figure_unknown():
    clock, watts = Clock(), iter([50.0])

    def read_w() -> float:
        try:
            return next(watts)
        except StopIteration:
            raise MeterError("GPU is lost") from None

    meter = polled_power(read_w, "nvml-power", "the board", interval_s=3600.0, clock=clock)
    meter.start()
    clock.now_s += 10.0
    reading = meter.stop()
    assert (reading.joules, reading.method, reading.mean_w) == (None, "unknown", None)
    assert "GPU is lost" in reading.note
    assert reading.elapsed_s == pytest.approx(10.0)


def test_a_meter_measures_again_after_a_fault():
    """What one stretch could not know does not follow the next."""
    clock, answers = Clock(), [50.0, MeterError("busy"), 50.0, 50.0]

    def read_w() -> float:
        answer = answers.pop(0)
        if isinstance(answer, MeterError):
            raise answer
        return answer

    meter = polled_power(read_w, "fake", "it", interval_s=3600.0, clock=clock)
    joules = []
    for _ in range(2):
        meter.start()
        clock.now_s += 2.0
        joules.append(meter.stop().joules)
    assert joules == [None, pytest.approx(100.0)]


# -- counters ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.0, 900.0), min_size=1, max_size=30), st.floats(0.0, 999.0))
def test_a_counter_that_wraps_sums_to_what_was_spent(spent_j, at_j):
    """With rises under a full range, the sum of differences modulo the range is the energy."""
    clock, total = Clock(), at_j
    counter = Counter(lambda: total % 1000.0, 1000.0, "it", clock)
    counter.sample()
    for joules in spent_j:
        total += joules
        clock.now_s += 60.0
        counter.sample()
    assert counter.joules == pytest.approx(sum(spent_j), rel=1e-9, abs=1e-6)


def test_a_counter_that_is_set_back_is_not_taken_for_one_that_wrapped():
    """262 kJ in a second would be a quarter of a megawatt."""
    clock, counts = Clock(), iter([200_000.0, 3.0])
    meter = SampledMeter(
        Counter(lambda: next(counts), 262_143.0, "package-0", clock), "rapl", "it", 3600.0, clock=clock
    )
    meter.start()
    clock.now_s += 1.0
    reading = meter.stop()
    assert (reading.joules, reading.method) == (None, "unknown")
    assert "set back" in reading.note


def test_a_counter_without_a_range_that_falls_was_set_back():
    counts = iter([5000.0, 10.0])
    meter = SampledMeter(Counter(lambda: next(counts), None, "NVML's counter"), "nvml-counter", "the board", 3600.0)
    meter.start()
    assert meter.stop().joules is None


# -- RAPL --------------------------------------------------------------------------------------------------------------


def test_packages_and_their_memory_count_once(tmp_path):
    """Cores and uncore are parts of a package, psys holds packages, and mmio shows them a second time."""
    package, dram = zone(tmp_path, "intel-rapl:0", "package-0", 5), zone(tmp_path, "intel-rapl:0:2", "dram", 7)
    other = zone(tmp_path, "intel-rapl:1", "package-1", 0)
    parts = [
        zone(tmp_path, "intel-rapl:0:0", "core", 1),
        zone(tmp_path, "intel-rapl:0:1", "uncore", 1),
        zone(tmp_path, "intel-rapl:2", "psys", 1),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1),
    ]
    clock = Clock()
    meter = rapl_meter(tmp_path, clock)
    meter.start()
    for path in (package, dram, other):
        spend(path, 10.0)
    for path in parts:
        spend(path, 1000.0)
    clock.now_s += 1.0
    reading = meter.stop()
    assert reading.joules == pytest.approx(30.0)
    assert reading.method == "rapl"
    assert set(rapl_zones(tmp_path)) == {package, dram, other}


def test_a_package_that_wraps_while_it_is_measured(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 262_143_000_000)
    clock = Clock()
    meter = rapl_meter(tmp_path, clock)
    meter.start()
    spend(package, 120.0)
    clock.now_s += 2.0
    assert meter.stop().joules == pytest.approx(120.0)


def test_a_zone_that_goes_away_makes_the_figure_unknown(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    meter = rapl_meter(tmp_path)
    meter.start()
    (package / "energy_uj").unlink()
    reading = meter.stop()
    assert reading.joules is None
    assert "energy_uj" in reading.note


def test_nonsense_in_a_zone_is_refused(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", "many")
    with pytest.raises(MeterError, match="no count of microjoules"):
        rapl_meter(tmp_path)


def test_no_rapl_says_so(tmp_path):
    with pytest.raises(MeterError, match="no RAPL package"):
        rapl_zones(tmp_path / "none")


# -- models and nothing ------------------------------------------------------------------------------------------------


@given(st.floats(0.0, 100.0), st.floats(0.0, 400.0), st.floats(0.0, 50.0), st.floats(0.0, 1.0))
def test_a_model_is_idle_and_busy_watts_times_their_seconds(idle_w, more_w, elapsed_s, busy_share):
    clock = Clock()
    meter = ModelledMeter(idle_w, idle_w + more_w, "profile x", "it", clock)
    meter.start()
    clock.now_s += elapsed_s
    reading = meter.stop(busy_share * elapsed_s)
    assert reading.joules == pytest.approx(elapsed_s * (idle_w + more_w * busy_share), rel=1e-9, abs=1e-6)
    assert reading.method.startswith("modelled: ")
    assert "profile x" in reading.method


def test_a_model_that_is_not_told_the_busy_seconds_knows_nothing():
    meter = ModelledMeter(1.0, 2.0, "profile x", "it")
    meter.start()
    assert meter.stop().joules is None


def test_a_model_of_a_device_that_idles_above_its_load_is_refused():
    with pytest.raises(MeterError, match="idle <= busy"):
        ModelledMeter(20.0, 10.0, "profile x", "it")


def test_unknown_is_none_and_says_why():
    meter = UnknownMeter("it", "no sensor")
    meter.start()
    reading = meter.stop(1.0)
    assert (reading.joules, reading.mean_w, reading.method, reading.note) == (None, None, "unknown", "no sensor")


# -- the choice --------------------------------------------------------------------------------------------------------

PROFILE = SimpleNamespace(key="mine", idle_w=10.0, tdp_w=100.0, streaming_w=None)


def test_a_gpu_with_a_counter_is_measured_by_it():
    library = FakeNvml(counter_mj=1_000_000, power_mw=50_000)
    choice = choose_meter("cuda:1", PROFILE, library=library)
    choice.meter.start()
    library.counter_mj += 42_000
    reading = choice.meter.stop()
    assert (reading.joules, reading.method, choice.refused) == (pytest.approx(42.0), "nvml-counter", ())
    assert library.asked == [1]


def test_a_gpu_without_a_counter_is_polled_and_it_is_said_why():
    choice = choose_meter("cuda", PROFILE, library=FakeNvml(power_mw=50_000), interval_s=0.05)
    assert choice.meter.method == "nvml-power-polled-50ms"
    assert "Volta" in choice.refused[0]


def test_a_gpu_that_nvml_cannot_see_is_modelled_from_its_profile():
    for library in (FakeNvml(devices=0), FakeNvml()):
        choice = choose_meter("cuda:0", PROFILE, library=library)
        assert choice.meter.method == "modelled: 10 W idle, 100 W busy (profile mine)"
        assert choice.refused


def test_a_uuid_names_the_gpu_whatever_its_number():
    library = FakeNvml(counter_mj=1)
    Nvml(0, "1b2c", library)
    Nvml(0, "GPU-1b2c", library)
    assert library.asked == ["GPU-1b2c", "GPU-1b2c"]


def test_a_counter_that_fails_on_the_way_makes_the_figure_unknown():
    library = FakeNvml(counter_mj=5)
    meter = choose_meter("cuda", library=library).meter
    meter.start()
    library.counter_mj = None
    reading = meter.stop()
    assert reading.joules is None
    assert "Not Supported" in reading.note


def test_a_processor_with_rapl_is_measured_by_it(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 5)
    assert choose_meter("cpu", PROFILE, powercap=tmp_path).meter.method == "rapl"


def test_a_processor_without_is_modelled_or_unknown(tmp_path):
    modelled = choose_meter("cpu", PROFILE, powercap=tmp_path)
    assert modelled.meter.method.startswith("modelled")
    assert "rapl" in modelled.refused[0]
    unknown = choose_meter("cpu", powercap=tmp_path)
    assert (unknown.meter.method, len(unknown.refused)) == ("unknown", 2)
    assert "no RAPL" in unknown.meter.note


def test_measured_watts_of_a_profile_go_before_its_limit():
    profile = SimpleNamespace(key="mine", idle_w=10.0, tdp_w=100.0, streaming_w=60.0)
    assert "60 W busy" in choose_meter("cuda", profile, library=FakeNvml(devices=0)).meter.method


# -- generations of GPUs -----------------------------------------------------------------------------------------------


class Generation(FakeNvml):
    """A card with a name and a capability, in a driver that knows as many questions as its generation does."""

    def __init__(self, name: str, capability: tuple[int, int], answers: dict[str, object], **words):
        super().__init__(**words)
        self._about = {"nvmlDeviceGetName": name, "nvmlDeviceGetCudaComputeCapability": capability} | answers

    def __getattr__(self, name: str):
        if name not in self.__dict__.get("_about", {}):
            raise AttributeError(name)
        return lambda *_asked: self._answer(self._about[name])


M40 = Generation("Tesla M40", (5, 2), {"nvmlDeviceGetEccMode": (1, 1)}, power_mw=60_000)
V100 = Generation("Tesla V100-SXM2-16GB", (7, 0), {}, counter_mj=1000, power_mw=60_000)
A100 = Generation(b"NVIDIA A100-SXM4-80GB", (8, 0), {"nvmlDeviceGetMigMode": (1, 1)}, counter_mj=1000, power_mw=60_000)
GH200 = Generation(
    "NVIDIA GH200 480GB",
    (9, 0),
    {
        "nvmlSystemGetDriverVersion": b"550.54",
        "nvmlDeviceGetEccMode": (0, 0),
        "nvmlDeviceGetMigMode": (0, 0),
        "nvmlDeviceGetClockInfo": 1980,
        "nvmlDeviceGetMaxClockInfo": 1990,
        "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    },
    counter_mj=1000,
    power_mw=90_500,
)


@pytest.mark.parametrize(
    ("library", "method", "covers", "noted"),
    [
        (M40, "nvml-power-polled-100ms", "the board", "of an instant"),
        (V100, "nvml-counter", "the board", ""),
        (A100, "nvml-counter", "the board", ""),
        (GH200, "nvml-counter", "the module: the GPU, the processor beside it, and their memory", ""),
    ],
    ids=["m40", "v100", "a100", "gh200"],
)
def test_a_reading_says_what_it_is_of_and_what_kind_of_figure_it_is(library, method, covers, noted):
    meter = choose_meter("cuda:0", library=library).meter
    assert (meter.method, meter.covers) == (method, covers)
    assert noted in meter.note


@pytest.mark.parametrize(("capability", "averaged"), [((5, 2), False), ((8, 0), False), ((8, 6), True), ((9, 0), True)])
def test_power_is_an_average_from_ampere_on_but_for_the_a100(capability, averaged: bool):
    note = Nvml(0, None, Generation("a card", capability, {}, power_mw=1)).power_note
    assert ("averages" in note) is averaged
    assert ("instant" in note) is not averaged


def test_a_slice_of_a_gpu_is_found_by_its_uuid_and_metered_by_the_whole():
    class Sliced(FakeNvml):
        def nvmlDeviceGetHandleByUUID(self, uuid):
            if uuid.startswith("GPU-"):
                raise NvmlError("Not Found")
            return super().nvmlDeviceGetHandleByUUID(uuid)

        def nvmlDeviceGetTotalEnergyConsumption(self, handle):
            self.asked.append(handle)
            return 1000

    library = Sliced()
    meter = choose_meter("cuda:0", uuid="abc", library=library).meter
    assert library.asked == ["MIG-abc", "parent of MIG-abc"]
    assert meter.covers == "the whole board, its other MIG slices included"


def test_the_state_of_a_card_is_what_it_says_and_none_where_it_does_not():
    state = Nvml(0, None, GH200).state()
    assert state["driver"] == "550.54"
    assert (state["ecc"], state["mig"], state["mig_slice"]) == (False, False, False)
    assert (state["sm_clock_now_hz"], state["memory_clock_most_hz"]) == (1.98e9, 1.99e9)
    assert (state["limit_w"], state["power_w"]) == (700.0, 90.5)
    assert state["vbios"] is None
    old = Nvml(0, None, M40).state()
    assert old["ecc"] is True
    assert {name for name, value in old.items() if value is not None} == {"ecc", "mig_slice", "power_w"}

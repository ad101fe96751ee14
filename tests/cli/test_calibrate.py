"""`afterwatt calibrate` and `doctor`: a profile that simulate runs, a table that fit takes, and sentences otherwise."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from afterwatt.engine.runtime import probes
from afterwatt.engine.runtime.probes import MIB, Effort

TINY = Effort(
    rounds=2,
    least_s=1e-4,
    array_bytes=16 * MIB,
    rows=(1, 2, 8),
    products=((256, 256), (512, 256), (256, 512)),
    squares=(64,),
    heads=((4, 2, 32),),
    contexts=(16, 64),
    batches=(1, 2),
    prompts=((16, 0), (16, 48)),
    disk_bytes=8 * MIB,
    power_s=0.0,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """--quick as quick as can be."""
    monkeypatch.setattr(probes, "QUICK", TINY)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))


@pytest.mark.usefixtures("small")
def test_a_calibrated_processor_is_simulated_and_its_kernels_are_fitted(folder: Path, afterwatt, simulate):
    said = afterwatt("calibrate", "--quick", "--device", "cpu", "--out", "local")
    assert said.code == 0
    for word in ("read bandwidth", "fp32 products", "power idle", "unknown", "simulate --hw local/device.toml"):
        assert word in said.out
    batch = ("--model", "tinyllama-1.1b", "--batch", "1", "--prompt", "16", "--output", "4", "--no-report", "--quiet")
    own = ("--stack", "local/stack.toml", "--precision", "fp32")
    for number, words in enumerate(((), own)):
        assert simulate("--hw", "./local/device.toml", *batch, *words, "--out", f"r{number}").code == 0
        summary = json.loads((folder / f"r{number}" / "summary.json").read_text())
        assert summary["requests"]["finished"] == 1
        assert summary["energy_j"]["total"] > 0.0
        assert summary["carbon_gco2e"]["embodied"]["p50"] > 0.0
        assert summary["cost_usd"]["hardware"] is None  # nobody knows what it cost
    fitted = ("fit", "--kernels", "local/kernels.csv", "--stack", "engine", "--out", "mine.toml")
    assert afterwatt(*fitted).code == 0
    assert "[device]" in Path("mine.toml").read_text()
    assert simulate("--hw", "./local/device.toml", *batch, "--stack", "mine.toml", "--out", "r2").code == 0
    again = afterwatt(*fitted)
    assert again.code == 2
    assert "mine.toml" in again.err


@pytest.mark.usefixtures("small")
def test_json_is_the_file_and_nothing_else(folder: Path, afterwatt):
    said = afterwatt("calibrate", "--quick", "--device", "cpu", "--no-disk", "--json", "--out", "local")
    assert said.code == 0
    assert json.loads(said.out) == json.loads((folder / "local" / "calibration.json").read_text())
    assert json.loads(said.out)["disk"] is None


@pytest.mark.usefixtures("no_torch")
def test_without_torch_one_sentence_names_the_extra(folder: Path, afterwatt):
    said = afterwatt("calibrate")
    assert (said.code, said.out) == (2, "")
    assert "pip install 'afterwatt[engine]'" in said.err
    assert len(said.err.splitlines()) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--device", "tpu"), "'tpu'"),
        (("--device", "cuda:63"), "doctor"),
        (("--threads", "0"), "--threads 0"),
        (("--disk-dir", "nowhere"), "'nowhere'"),
    ],
)
@pytest.mark.usefixtures("small")
def test_what_cannot_be_measured_is_refused_in_a_sentence(folder: Path, afterwatt, words, says):
    said = afterwatt("calibrate", "--quick", *words)
    assert said.code == 2
    assert says in said.err
    assert len(said.err.splitlines()) == 1
    assert not (folder / "local" / "device.toml").exists()
    assert "--device" not in words or list(folder.iterdir()) == []


def _own(place: Path) -> None:
    place.write_text("mine")


def _record_of_another_kind(place: Path) -> None:
    place.write_text('{"schema_version": 1}')


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("device.toml", _own),
        ("calibration.json", _own),
        ("calibration.json", _record_of_another_kind),
        ("kernels.csv", os.mkfifo),
        ("stack.toml", Path.mkdir),
        ("stack.toml", lambda place: place.symlink_to("elsewhere")),
    ],
)
@pytest.mark.usefixtures("small")
def test_what_no_calibration_wrote_is_not_replaced(folder: Path, afterwatt, name, make):
    (folder / "local").mkdir()
    make(folder / "local" / name)
    before = os.lstat(folder / "local" / name)
    said = afterwatt("calibrate", "--quick", "--device", "cpu", "--no-disk")
    assert said.code == 2
    assert f"holds {name}, which no earlier calibration wrote" in said.err
    assert os.lstat(folder / "local" / name) == before
    assert os.listdir(folder / "local") == [name]


@pytest.mark.usefixtures("small")
def test_an_earlier_calibration_is_replaced_unless_something_else_took_a_place(folder: Path, afterwatt):
    words = ("calibrate", "--quick", "--device", "cpu", "--no-disk")
    assert afterwatt(*words).code == 0
    began = json.loads((folder / "local" / "calibration.json").read_text())["took_s"]
    assert afterwatt(*words).code == 0
    assert json.loads((folder / "local" / "calibration.json").read_text())["took_s"] != began
    (folder / "local" / "kernels.csv").unlink()
    (folder / "local" / "kernels.csv").symlink_to(folder / "elsewhere")
    assert afterwatt(*words).code == 2
    assert not (folder / "elsewhere").exists()


def test_kernels_alone_need_a_stack_and_a_place(folder: Path, afterwatt):
    (folder / "k.csv").write_text("op,device,m,n,k,seconds\ngemm,m40,1,4096,4096,0.001\n")
    for words, says in (
        ((), "TABLE"),
        (("--kernels", "k.csv"), "--out"),
        (("--kernels", "k.csv", "--out", "mine.toml"), "--stack"),
        (("--kernels", "k.csv", "--out", "mine", "--stack", "vllm"), ".toml"),
    ):
        said = afterwatt("fit", *words)
        assert said.code == 2
        assert says in said.err
    assert [path.name for path in folder.iterdir()] == ["k.csv"]


def test_two_devices_of_one_name_are_refused(folder: Path, afterwatt):
    from afterwatt.fidelity.calibrate.profile import device_text
    from afterwatt.hwprofiles import load_device

    for place in ("a", "b"):
        (folder / place).mkdir()
        (folder / place / "device.toml").write_text(device_text(load_device("m40"), "a test"))
    (folder / "k.csv").write_text(
        "op,device,m,n,k,seconds\ngemm,a/device.toml,1,4096,4096,0.001\ngemm,b/device.toml,1,4096,4096,0.001\n"
    )
    said = afterwatt("fit", "--kernels", "k.csv", "--stack", "vllm", "--out", "mine.toml")
    assert said.code == 2
    assert "share the pool [device]" in said.err


def test_the_doctor_looks_at_everything_and_never_fails(folder: Path, afterwatt):
    said = afterwatt("doctor")
    assert said.code == 0
    for topic in ("python", "torch", "nvml", "rapl", "memory", "disk"):
        assert topic in said.out
    assert list(folder.iterdir()) == []
    found = json.loads(afterwatt("doctor", "--json").out)
    assert {one["status"] for one in found} <= {"ok", "note", "problem"}


@pytest.mark.usefixtures("no_torch")
def test_the_doctor_works_without_torch_and_says_how_to_install_it(folder: Path, afterwatt):
    said = afterwatt("doctor", "--json")
    assert said.code == 0
    (torch,) = [one for one in json.loads(said.out) if one["topic"] == "torch"]
    assert torch["status"] == "problem"
    assert "pip install" in torch["way_out"]


def test_the_doctor_refuses_a_folder_that_is_not_there(afterwatt):
    said = afterwatt("doctor", "--dir", "nowhere")
    assert said.code == 2
    assert "'nowhere'" in said.err

"""What the doctor finds follows from what is there: capabilities against binaries, meters, disks."""

from pathlib import Path

import pytest

from afterwatt.engine.runtime.doctor import (
    OLD_WHEEL,
    Gpu,
    TorchFacts,
    examine,
    lands_in_page_cache,
    nvml_findings,
    rapl_finding,
    runs_on,
    torch_findings,
    wheel_for,
)
from tests.engine.runtime.test_meters import FakeNvml, zone

CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")


class Cards(FakeNvml):
    """A library that also knows names and capabilities."""

    def __init__(self, names=("Tesla M40 24GB",), capability=(5, 2), **told):
        super().__init__(devices=len(names), **told)
        self.names, self.capability = names, capability

    def nvmlDeviceGetCount(self):  # noqa: N802 - NVML's name
        return len(self.names)

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return self.names[handle].encode()

    def nvmlDeviceGetCudaComputeCapability(self, _handle):  # noqa: N802
        return list(self.capability)


@pytest.mark.parametrize(
    ("capability", "arch_list", "runs"),
    [
        ((5, 2), CU126, True),  # sm_50 runs on 5.2
        ((5, 2), CU130, False),
        ((6, 1), CU126, True),
        ((7, 0), CU126, True),
        ((7, 0), CU130, False),
        ((8, 9), CU126, True),  # sm_86 runs on 8.9
        ((9, 0), CU126, True),
        ((12, 0), CU126, False),
        ((12, 1), CU130, True),
        ((13, 0), CU130, True),  # compute_120 is compiled for it
        ((3, 7), CU126, False),
        ((8, 0), ("sm_86",), False),  # not backwards within a major version
        ((9, 0), ("sm_90a",), True),
        ((9, 1), ("sm_90a",), False),
        ((9, 0), (), False),
        ((9, 0), ("gfx942",), False),
    ],
)
def test_binaries_run_where_cuda_says(capability, arch_list, runs):
    assert runs_on(capability, arch_list) == runs


@pytest.mark.parametrize("capability", [(5, 0), (5, 2), (6, 0), (6, 1), (7, 0)])
def test_old_gpus_need_the_last_wheels_of_cuda_12_6(capability):
    assert wheel_for(capability) == OLD_WHEEL
    assert "<2.15" in OLD_WHEEL
    assert "cu126" in OLD_WHEEL
    assert runs_on(capability, CU126)


def test_newer_gpus_take_the_usual_wheel_and_kepler_none():
    assert "cu126" not in wheel_for((7, 5))
    assert "source" in wheel_for((3, 7))


def facts(gpus=(), arch_list=CU130, cuda="13.0", version="2.13.0+cu130") -> TorchFacts:
    return TorchFacts(version, cuda, tuple(arch_list), tuple(gpus), 1)


def test_a_torch_without_code_for_a_gpu_is_a_problem_with_a_way_out():
    found = {one.topic: one for one in torch_findings(facts([Gpu("Tesla M40", (5, 2)), Gpu("L4", (8, 9))]))}
    assert (found["torch"].status, found["cuda:0"].status, found["cuda:1"].status) == ("ok", "problem", "ok")
    assert found["cuda:0"].way_out == OLD_WHEEL


def test_a_torch_for_processors_beside_a_gpu_is_a_problem():
    plain = facts(arch_list=(), cuda=None, version="2.13.0+cpu")
    found = list(torch_findings(plain, [Gpu("Tesla P40", (6, 1))]))
    assert [one.status for one in found] == ["ok", "problem"]
    assert found[1].way_out == OLD_WHEEL
    assert [one.status for one in torch_findings(plain)] == ["ok", "note"]


@pytest.mark.parametrize("version", ["2.9.1", "2.15.0", "3.0.0"])
def test_a_torch_outside_of_the_range_is_a_problem(version):
    assert next(iter(torch_findings(facts(version=version)))).status == "problem"


def test_no_torch_says_how_to_install_it():
    (found,) = torch_findings(None)
    assert found.status == "problem"
    assert "afterwatt[engine]" in found.way_out
    (old,) = torch_findings(None, [Gpu("Tesla M40", (5, 2))])
    assert old.way_out == OLD_WHEEL


def test_what_each_gpu_tells_of_its_energy():
    for told, status, word in (
        ({"counter_mj": 1}, "ok", "energy counter"),
        ({"power_mw": 1}, "note", "polled"),
        ({}, "note", "modelled"),
    ):
        gpus, (found,) = nvml_findings(Cards(**told))
        assert gpus == [Gpu("Tesla M40 24GB", (5, 2))]
        assert found.status == status
        assert word in found.said


def test_no_driver_is_a_note():
    gpus, (found,) = nvml_findings(FakeNvml(devices=0))
    assert gpus == []
    assert (found.topic, found.status) == ("nvml", "note")


def test_rapl_is_there_or_not(tmp_path: Path):
    assert rapl_finding(tmp_path).status == "note"
    zone(tmp_path, "intel-rapl:0", "package-0", 5)
    assert rapl_finding(tmp_path).status == "ok"


def test_everything_is_looked_at(tmp_path: Path):
    library = Cards(counter_mj=1)
    found = examine(tmp_path, None, library=library, powercap=tmp_path / "none")
    topics = [one.topic for one in found]
    assert topics[:2] == ["python", "torch"]
    assert {"nvml 0", "rapl", "threads", "memory", "disk"} <= set(topics)
    assert all(one.status != "problem" or one.way_out for one in found)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_a_problem(tmp_path: Path):
    found = examine(tmp_path / "nowhere", None, library=FakeNvml(devices=0), powercap=tmp_path)
    assert next(one for one in found if one.topic == "disk").status == "problem"


def test_whether_reads_are_cached_can_be_told_or_not(tmp_path: Path):
    assert lands_in_page_cache(tmp_path) in (True, False, None)
    assert lands_in_page_cache(tmp_path / "nowhere") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("capability", "said"),
    [((5, 2), "fp16 in, fp32 out"), ((6, 1), "fp16 in, fp32 out"), ((6, 0), "stores and computes fp16"),
     ((7, 5), "stores and computes fp16"), ((9, 0), "stores and computes bf16")],
)  # fmt: skip
def test_which_way_a_card_multiplies_is_said(capability, said: str):
    gpu = Gpu("a card", capability)
    facts = TorchFacts("2.13.0", "12.6", ("sm_50", "sm_60", "sm_70", "sm_80", "sm_90"), (gpu,), 1)
    assert any(said in one.said for one in torch_findings(facts) if one.topic == "cuda:0")

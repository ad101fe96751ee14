"""CONTRIBUTING says "one file": done in a copy of the house, it is enough."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("hwprofiles", "modelspecs", "policies")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    home = tmp_path / "afterwatt"
    home.mkdir()
    shutil.copy(ROOT / "src" / "afterwatt" / "__init__.py", home)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, home / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def environment(house: Path) -> dict[str, str]:
    """The copy comes before the editable install of the sources."""
    return os.environ | {"PYTHONPATH": str(house)}


def run(house: Path, program: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=house, env=environment(house), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_gpu_is_one_file(house: Path):
    cards = house / "afterwatt" / "hwprofiles" / "data" / "gpus"
    profile = (cards / "m40-24.toml").read_text()
    (cards / "m41.toml").write_text(profile.replace("288.4e9", "300e9"))
    program = """
from afterwatt.hwprofiles import device_names, parse_deployment
from afterwatt.hwprofiles.power import gpu_power_model
from afterwatt.hwprofiles.stacks import load_stack
assert "m41" in device_names()
four = parse_deployment("4xm41")
gpu_power_model(four.device, "fp32")
print(load_stack(four.device).pool, float(four.device.mem_bandwidth_bytes_per_s), four.count)
"""
    assert run(house, program) == "maxwell 300000000000.0 4"


def test_a_site_is_one_file(house: Path):
    sites = house / "afterwatt" / "hwprofiles" / "data" / "sites"
    (sites / "attic.toml").write_text((sites / "fr.toml").read_text().replace('"France"', '"the attic"'))
    program = """
from afterwatt.hwprofiles import load_site, site_names
print('attic' in site_names(), load_site('attic').name)
"""
    assert run(house, program) == "True the attic"


def test_a_model_is_one_file(house: Path):
    models = house / "afterwatt" / "modelspecs" / "data"
    shape = (models / "llama-2-7b.toml").read_text()
    shape = shape.replace('"llama-2-7b"', '"llama-2-8b"').replace("layers = 32", "layers = 40")
    (models / "llama-2-8b.toml").write_text(shape.partition("[published]")[0])
    program = """
from afterwatt.modelspecs import load_model, model_names
print(load_model('llama-2-8b').layers, *model_names())
"""
    layers, *names = run(house, program).split()
    assert layers == "40"
    assert "llama-2-8b" in names


def test_a_policy_is_one_class_and_one_line(house: Path):
    """The very class that CONTRIBUTING shows, and the very tests, which then pass."""
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    policy, tests = shown
    (house / "afterwatt" / "policies" / "mine.py").write_text(
        f"from afterwatt.policies.views import BatchDecision, BatchView, Chunk\n\n\n{policy}"
    )
    batching = house / "afterwatt" / "policies" / "batching.py"
    text = batching.read_text()
    for before, after in (
        ('{"prefill-first": PrefillFirst,', '{"one-at-a-time": OneAtATime, "prefill-first": PrefillFirst,'),
        ("BATCHING: Mapping", "from afterwatt.policies.mine import OneAtATime\n\nBATCHING: Mapping"),
    ):
        assert before in text
        text = text.replace(before, after)
    batching.write_text(text)
    program = """
from afterwatt.policies.config import parse_policies
print(parse_policies("one-at-a-time+budget=512").name)
"""
    assert run(house, program) == "one-at-a-time+budget=512"

    folder = house / "tests" / "policies"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "policies" / "conformance.py", folder)
    head = ["from afterwatt.policies.mine import OneAtATime"]
    head += ["from tests.policies.conformance import BatchPolicyConformance"]
    (folder / "test_mine.py").write_text("\n".join([*head, "", "", tests]))
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "tests/policies/test_mine.py"]
    result = subprocess.run(command, cwd=house, env=environment(house), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout

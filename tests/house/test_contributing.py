"""CONTRIBUTING says "one file": done in a copy of the house, it is enough."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = [path.name for path in (ROOT / "src" / "afterwatt").iterdir()]
PACKAGES = sorted(name for name in NAMES if (ROOT / name / "__init__.py").is_file())
SHOWN = re.findall(r"```(?:python|text)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    home = tmp_path / "afterwatt"
    home.mkdir()
    for module in (ROOT / "src" / "afterwatt").glob("*.py"):
        shutil.copy(module, home)
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
four = parse_deployment("4xm41").pool
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
    policy, tests, *_ = SHOWN
    (house / "afterwatt" / "policies" / "mine.py").write_text(
        f"from afterwatt.policies.views import BatchDecision, BatchView, Chunk\n\n\n{policy}"
    )
    batching = house / "afterwatt" / "policies" / "batching.py"
    text = batching.read_text()
    for before, after in (
        ('    "prefill-first": PrefillFirst,', '    "one-at-a-time": OneAtATime,\n    "prefill-first": PrefillFirst,'),
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


END_OF_TABLE = {
    "reports/columns.py": ')\n"""One row per request',
    "sim/rows.py": '}\n"""The same for what is no time',
    "engine/runtime/record.py": '}\n"""Column of requests.parquet -> how',
}
"""Where a line goes that is added to the columns, and to what each body knows."""
FIGURES = {
    "queue_s": {"reports/columns.py": SHOWN[2]},
    "prefix_blocks": dict(zip(END_OF_TABLE, SHOWN[3].splitlines(keepends=True), strict=True)),
}
BODIES = """
import sys
from pathlib import Path
import numpy as np
from afterwatt.cli.main import simulate_main
from afterwatt.engine.runtime.drive import drive
from afterwatt.engine.runtime.process import WorkerProcess, WorkerSetup
from afterwatt.engine.runtime.record import write_run
from afterwatt.engine.runtime.request import Request
from afterwatt.policies.config import PolicySet
from tests.engine.arithmetic import ArithmeticFactory

if __name__ == "__main__":
    setup = WorkerSetup(PolicySet(block_tokens=4))
    worker = WorkerProcess(ArithmeticFactory(64, 4), setup)
    recording = drive(worker, [Request(n, np.arange(9), 3, 0, prefix=(1, 2)) for n in range(3)])
    write_run(recording, worker.info, setup, Path("engine"), hardware="here", workload="made up", seed=0)
    worker.stop()
    sys.argv = ["simulate", "--hw", "m40", "--batch", "3", "--prompt", "9", "--output", "3", "--out", "sim"]
    simulate_main()
"""
READER = """
import sys
from afterwatt.reports import load_run
from generated import GENERATED
name = sys.argv[1]
for body in ("sim", "engine"):
    frame = load_run(body).requests
    follows = (frame["scheduled_s"] - frame["arrival_s"]).equals(frame[name])
    print(body, follows if name == "queue_s" else frame[name].tolist())
print(GENERATED["columns-requests"]().count(f"| `{name}` |"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_per_request_is_a_line_in_three_files_at_most(house: Path, name: str):
    """The very lines that CONTRIBUTING shows: both bodies write it, a reader finds it, the docs have it."""
    assert len(FIGURES[name]) <= 3
    for path, line in FIGURES[name].items():
        file = house / "afterwatt" / path
        before, end, after = file.read_text().partition(END_OF_TABLE[path])
        assert end
        file.write_text(f"{before}{line}{end}{after}")
    shutil.copytree(ROOT / "tests" / "engine", house / "tests" / "engine", ignore=shutil.ignore_patterns("model"))
    shutil.copy(ROOT / "docs" / "generated.py", house)
    (house / "bodies.py").write_text(BODIES)
    (house / "reader.py").write_text(READER)
    result = subprocess.run([sys.executable, "bodies.py"], cwd=house, env=environment(house), capture_output=True)
    assert result.returncode == 0, result.stderr
    command = [sys.executable, "reader.py", name]
    read = subprocess.run(command, cwd=house, env=environment(house), capture_output=True, text=True)
    wanted = "sim True engine True 1" if name == "queue_s" else "sim [0, 0, 0] engine [2, 2, 2] 1"
    assert read.stdout.replace("\n", " ").strip() == wanted, read.stderr


FAMILY = """
import json, sys
import torch
from dataclasses import replace
from pathlib import Path
from safetensors.torch import load_file
from afterwatt.engine.model.checkpoint import load_weights, open_checkpoint
from afterwatt.engine.model.config import read_config
from afterwatt.engine.model.devices import DtypePolicy
from afterwatt.engine.model.random_checkpoint import write_random
from afterwatt.modelspecs import load_model
small = dict(layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn=48, vocab=64, max_context=64)
shape = replace(load_model("llama-2-7b"), **small, family="olive", qkv_bias=True, published_params=None)
write_random(shape, Path("olive"), "fp32")
config = read_config(Path("olive"))
fp32 = DtypePolicy(torch.float32, torch.float32, torch.float32)
weights = load_weights(open_checkpoint(Path("olive")), config, fp32, torch.device("cpu"))
said = json.loads(Path("olive/config.json").read_text())["architectures"]
stored = load_file("olive/model.safetensors")
same = torch.equal(weights.layers[1].down, stored["trunk.1.last.weight"])
print(*said, config.spec.qkv_bias, config.eos_ids, weights.layers[0].qkv_bias.shape[0], same)
"""


@pytest.mark.slow
def test_a_family_of_the_engine_is_one_entry(house: Path):
    """It is read from config.json, made up and loaded, under names of its own."""
    pytest.importorskip("torch")
    file = house / "afterwatt" / "modelspecs" / "decoders.py"
    entry = """
        "olive": DecoderFamily(
            architecture="OliveForCausalLM",
            max_context=512,
            biases={"qkv_bias": True},
            token_ids={"eos_token_id": 7},
            names=LLAMA_NAMES | {"down": "trunk.{layer}.last"},
        ),
"""
    before, start, after = file.read_text().partition('\n        "llama": DecoderFamily(')
    assert start
    file.write_text(f"{before}{entry}{start}{after}")
    assert run(house, FAMILY) == "OliveForCausalLM True () 64 True"

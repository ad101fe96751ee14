"""The commands that run a real model: what they print, what they leave, how they refuse."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from afterwatt.reports.rundir import load_run
from tests.cli.conftest import Command

SHAPE = ("--like", "llama-2-7b", "--layers", "2", "--hidden", "64", "--vocab", "257", "--dtype", "fp32")
POLICY = "chunked+budget=64+seqs=4+kv=256"
FAST = ("--requests", "6", "--loads", "60", "--repetitions", "1", "--rounds", "1", "--shrink", "40", "--policy", POLICY)


@pytest.fixture
def model(afterwatt: Command, folder: Path) -> Path:
    """A random checkpoint whose tokens are bytes."""
    made = afterwatt("model", "make-random", *SHAPE, "--out", "tiny")
    assert made.code == 0, made.err
    return folder / "tiny"


def test_generate_continues_a_prompt_the_same_way_each_time(afterwatt: Command, model: Path):
    said = [afterwatt("generate", "--model", "tiny", "--prompt", "Hello", "--tokens", "9", "--json") for _ in range(2)]
    first, second = (json.loads(one.out) for one in said)
    assert first["output_ids"] == second["output_ids"]
    assert first["prompt_tokens"] == 5
    assert first["output_tokens"] == len(first["output_ids"]) == 9
    assert first["ttft_s"] > 0
    assert (first["energy_j"] is None) == (first["energy_method"] == "unknown")
    warm = afterwatt(
        "generate", "--model", "tiny", "--ids", "72,101", "--tokens", "4", "--temperature", "1", "--seed", "3"
    )
    assert warm.code == 0
    assert "4 tokens after 2" in warm.err


def test_without_a_meter_a_profiles_watts_stand_in_and_say_so(afterwatt: Command, model: Path, folder: Path):
    _calibrated(folder)
    said = afterwatt("generate", "--model", "tiny", "--prompt", "x", "--tokens", "4", "--hw", "local", "--json")
    told = json.loads(said.out)
    assert told["energy_method"] == "rapl" or told["energy_method"].startswith("modelled: ")
    assert told["energy_j_per_token"] == told["energy_j"] / told["output_tokens"] > 0.0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--model", "nowhere", "--prompt", "x"), "'nowhere' has no config.json"),
        (("--model", "tiny", "--prompt", "x", "--hw", "elsewhere"), "--hw 'elsewhere' holds no device.toml"),
        (("--model", "tiny"), "either --prompt TEXT or --ids"),
        (("--model", "tiny", "--prompt", "x", "--ids", "1"), "either --prompt TEXT or --ids"),
        (("--model", "tiny", "--ids", "1,one"), "no list of token ids"),
        (("--model", "tiny", "--ids", "257"), "each from 0 to 256"),
        (("--model", "tiny", "--prompt", ""), "at least one token id"),
        (("--model", "tiny", "--prompt", "x", "--tokens", "0"), "--tokens is out of range"),
        (("--model", "tiny", "--prompt", "x", "--device", "tpu"), "tpu"),
        (("--model", "tiny", "--prompt", "x", "--tokens", "100000"), "over_context"),
    ],
)
def test_generate_refuses_in_a_sentence(afterwatt: Command, model: Path, words: tuple[str, ...], sentence: str):
    said = afterwatt("generate", *words)
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert sentence in said.err


def test_a_prepared_model_goes_on_as_the_plain_one_and_records_what_it_moved(
    afterwatt: Command, model: Path, folder: Path
):
    assert afterwatt("prepare", "tiny", "out").code == 0
    words = ("--prompt", "Hello", "--tokens", "5", "--json")
    plain = json.loads(afterwatt("generate", "--model", "tiny", *words).out)
    tiers = ("--policy", "stream", "--dram-budget", "20MB", "--record", "seen.npz")
    said = afterwatt("generate", "--model", "out", *words, *tiers)
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert told["output_ids"] == plain["output_ids"]
    assert set(told["moved"]) <= {f"dram/{reason}" for reason in ("fill", "prefetch", "demand", "hit", "again")} | {
        f"hbm/{reason}" for reason in ("prefetch", "demand", "hit")
    }
    with np.load(folder / "seen.npz") as seen:
        layers, units = int(seen["layers"]), int(seen["layer_units"])
        assert len(seen["offsets"]) - 1 == 5 * layers  # the prompt's iteration gives the first token
        assert len(seen["units"]) == 5 * layers * units  # all of a stream's units are active


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--dram-budget", "2GB"), "--dram-budget is for prepared models"),
        (("--policy", "stream", "--dram-budget", "two"), "--dram-budget 'two' is no size"),
        (("--policy", "stream", "--record", "no/such/file.npz"), "is in no folder that exists"),
        (("--policy", "stream", "--dram-budget", "10"), "bytes are missing of"),
        (("--policy", "stream", "--stored", "int3"), "and not in int3"),
    ],
)
def test_tiers_are_refused_in_a_sentence(afterwatt: Command, model: Path, words: tuple[str, ...], sentence: str):
    assert afterwatt("prepare", "tiny", "out").code == 0
    said = afterwatt("generate", "--model", "out", "--prompt", "x", *words)
    assert said.code == 2
    assert sentence in said.err


def test_a_prepared_checkpoint_with_a_flipped_byte_is_refused_by_name(afterwatt: Command, model: Path):
    assert afterwatt("prepare", "tiny").code == 0
    assert afterwatt("prepare", "tiny", "--check").code == 0
    (shard,) = model.glob("*.safetensors")
    damaged = bytearray(shard.read_bytes())
    damaged[-5] ^= 1
    shard.write_bytes(damaged)
    for words in (("generate", "--model", "tiny", "--prompt", "x"), ("prepare", "tiny", "--check")):
        said = afterwatt(*words)
        assert said.code == 2
        assert shard.name in said.err


@pytest.mark.parametrize("command", ["generate", "validate", "calibrate"])
def test_without_torch_a_sentence_says_what_to_install(
    afterwatt: Command, monkeypatch: pytest.MonkeyPatch, command: str
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    words = {"calibrate": ()}.get(command, ("--model", "x"))
    said = afterwatt(command, *words, *(("--prompt", "x") if command == "generate" else ()))
    assert said.code == 2
    assert "afterwatt[engine]" in said.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--model", "nowhere"), "no config.json"),
        (("--model", "tiny", "--loads", "much"), "no list of percentages"),
        (("--model", "tiny", "--loads", "0"), "must lie in 1..500"),
        (("--model", "tiny", "--requests", "1"), "too few"),
        (("--model", "tiny", "--shrink", "0.5"), "--shrink"),
        (("--model", "tiny", "--hw", "elsewhere"), "holds no device.toml"),
        (("--model", "tiny", "--trace", ""), "--trace '' names nothing"),
        (("--model", "tiny", "--policy", "chonked"), "did you mean 'chunked'"),
        (("--model", "tiny", "--slo", "ttft"), "--slo: 'ttft' is no name=time"),
        (("--model", "tiny", "--policy", "chunked+swap"), "say how many: kv=512"),
        (
            ("--model", "tiny", "--policy", "chunked+stream"),
            "places weights by stream; validate runs the engine with all",
        ),
        (("--model", "tiny", "--policy", "layers=1"), "the two would run different things"),
    ],
)
def test_validate_refuses_in_a_sentence(
    afterwatt: Command, model: Path, folder: Path, words: tuple[str, ...], sentence: str
):
    _calibrated(folder)
    said = afterwatt("validate", *words)
    assert said.code == 2
    assert sentence in said.err
    assert not (folder / "validations").exists()


def _calibrated(folder: Path) -> None:
    """A device's folder without measuring one: the profile of a card, and its usual stack."""
    from afterwatt.hwprofiles.tables import DATA_DIR

    local = folder / "local"
    local.mkdir()
    (local / "device.toml").write_text((DATA_DIR / "gpus" / "m40-24.toml").read_text())
    (local / "stack.toml").write_text((DATA_DIR / "stacks" / "generic.toml").read_text())


@pytest.mark.slow
def test_validate_leaves_runs_figures_and_a_page(afterwatt: Command, model: Path, folder: Path):
    _calibrated(folder)
    said = afterwatt("validate", "--model", "tiny", *FAST, "--out", "here", "--slo", "e2e=1000s")
    assert said.code in (0, 4), said.err  # whether bounds are kept is the machine's affair
    found = json.loads((folder / "here" / "validation.json").read_text())
    assert found["kept"] == (said.code == 0)
    (load,) = found["loads"]
    engine, sim = (load_run(folder / "here" / place) for place in (load["engine"][0], load["sim"]))
    assert engine.summary.body == "engine"
    assert sim.summary.body == "sim"
    assert engine.summary.requests.finished == sim.summary.requests.finished == 6
    assert engine.summary.requests.slo_met == sim.summary.requests.slo_met == 6
    arrivals = [run.column("requests", "arrival_s").tolist() for run in (engine, sim)]
    assert arrivals[0] == pytest.approx(arrivals[1], abs=1e-9)
    (decisions,) = found["checks"]["decisions"]
    assert decisions["mismatches"] == []
    assert decisions["entries"] == found["checks"]["operations"][-1]["iterations"]
    assert {one["of"] for one in found["checks"]["operations"]} == {"calibration", "load 60%"}
    assert "predicted" in (folder / "here" / "report.html").read_text()
    assert "decisions replay exactly" in said.out


@pytest.mark.slow
def test_an_interrupted_validation_ends_soon_and_leaves_only_whole_runs(model: Path, folder: Path):
    _calibrated(folder)
    words = ["validate", "--model", "tiny", *FAST, "--out", "here", "--loads", "2", "--requests", "12"]
    program = [sys.executable, "-m", "afterwatt.cli", *words]
    with subprocess.Popen(program, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr:
            if line.startswith("load"):
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130  # five seconds on a quiet machine; the whole takes minutes
    runs = [load_run(manifest.parent) for manifest in (folder / "here").rglob("manifest.json")]
    assert all(run.summary.requests.arrived for run in runs)

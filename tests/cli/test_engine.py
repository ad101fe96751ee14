"""`prepare` and `model make-random`: checkpoints made, noted down, and found damaged."""

import json
from pathlib import Path

import pytest

from tests.cli.running import elsewhere, left_in

TINY = ("--layers", 2, "--hidden", 64, "--head-dim", 8, "--vocab", 100, "--max-context", 128)


@pytest.fixture
def checkpoint(afterwatt, folder: Path) -> Path:
    said = afterwatt("model", "make-random", "--like", "llama-3.1-8b", *TINY, "--out", "tiny")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("tiny: ")
    return folder / "tiny"


def test_sizes_not_given_follow(checkpoint: Path):
    """32 heads of 8 key/value heads, 14336 wide, at hidden 4096."""
    config = json.loads((checkpoint / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (1, 1)
    assert (config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]) == (64, 224, 2)


def test_prepare_notes_down_and_check_finds_damage(afterwatt, checkpoint: Path):
    said = afterwatt("prepare", "tiny", "--check")
    assert said.code == 2
    assert "afterwatt prepare tiny" in said.err
    said = afterwatt("prepare", "tiny")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("tiny: 2 files, 21 tensors")
    assert afterwatt("prepare", "tiny", "--check").code == 0
    shard = checkpoint / "model.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    said = afterwatt("prepare", "tiny", "--check")
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert "model.norm.weight" in said.err
    assert "tiny/model.safetensors" in said.err


def test_a_random_checkpoint_is_cut_into_shards(afterwatt, folder: Path):
    wide = ("--layers", 1, "--hidden", 256, "--vocab", 4000, "--dtype", "fp32", "--shard-mb", 1)
    assert afterwatt("model", "make-random", "--like", "qwen2.5-0.5b", *wide, "--out", "wide").code == 0
    assert len(list((folder / "wide").glob("model-*-of-*.safetensors"))) > 1
    assert afterwatt("prepare", "wide").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--like", "gemma-2b", "--out", "x"), "gemma"),
        (("--like", "lama-2-7b", "--out", "x"), "llama-2-7b"),
        (("--like", "llama-2-7b", "--out", "."), "exists already"),
        (("--like", "llama-2-7b", "--out", "x", "--dtype", "int4"), "int4"),
        (("--like", "llama-2-7b", "--out", "x", "--layers", 0), "layers"),
        (("--like", "llama-2-7b", "--out", "x", "--heads", 6, "--kv-heads", 4), "kv_heads = 4"),
    ],
)
def test_bad_wishes_are_one_sentence_and_leave_nothing(afterwatt, folder: Path, words, said: str):
    answer = afterwatt("model", "make-random", *words)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert left_in(folder) == []


@pytest.mark.parametrize("words", [("prepare", "nowhere"), ("prepare", ".")])
def test_what_is_no_checkpoint_cannot_be_prepared(afterwatt, words):
    answer = afterwatt(*words)
    assert answer.code == 2
    assert "config.json" in answer.err


def test_without_torch_the_extra_is_named(tmp_path: Path):
    """In a process that cannot find torch, as where the extra is not installed."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = sys.modules['safetensors'] = None\n")
    words = ("model", "make-random", "--like", "llama-2-7b", "--layers", 1, "--out", "x")
    said = elsewhere(tmp_path, "afterwatt", *words, PYTHONPATH=str(tmp_path))
    assert (said.code, said.out) == (2, "")
    assert "afterwatt[engine]" in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_modular_checkpoint_is_planned_made_and_not_made_twice(afterwatt, checkpoint: Path, folder: Path):
    from afterwatt.engine.runtime.modular import read_modular

    planned = afterwatt("prepare", "tiny", "bundles", "--dry-run")
    assert planned.code == 0
    assert "2 layers of 224 neurons" in planned.out
    assert not (folder / "bundles").exists()
    made = afterwatt("prepare", "tiny", "bundles", "--precision", "int8", "--quiet")
    assert (made.code, made.out) == (0, "")
    assert read_modular(folder / "bundles").bundles.precisions == ("fp16", "int8")
    again = afterwatt("prepare", "tiny", "bundles")
    assert (again.code, again.out) == (2, "")
    assert "exists already" in again.err


def test_modular_options_without_a_place_are_refused(afterwatt, checkpoint: Path):
    for words in (("tiny", "--precision", "int8"), ("tiny", "--dry-run"), ("tiny", "out", "--check")):
        said = afterwatt("prepare", *words)
        assert said.code == 2
        assert "OUT" in said.err


def test_policies_are_measured_with_the_plain_ones_beside(afterwatt, folder: Path):
    data = Path(__file__).parents[1] / "data"
    (folder / "text").write_text((data / "held-out.txt").read_text()[:600])
    (folder / "other").write_text((data / "held-out.txt").read_text()[600:1200])
    words = ("evaluate", data / "tiny-llama-draft", "--text", "text", "--window", 128)
    said = afterwatt(*words, "--policy", "25/25/50", "--calibrate", "other", "--out", "table.json", "--json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert json.loads((folder / "table.json").read_text()) == found
    assert [row["policy"] for row in found["policies"]] == ["fp32", "int8", "int4", "25/25/50"]
    full, int8, int4, mix = found["policies"]
    assert (full["kl_nats"], full["agreement_frac"]) == (0.0, 1.0)
    assert int4["ffn_bytes"] < int8["ffn_bytes"] < mix["ffn_bytes"] < full["ffn_bytes"]
    assert found["calibration"]["tokens"] == 600
    assert "same next token" in afterwatt(*words).out
    assert "--calibrate" in afterwatt(*words, "--policy", "50/50").err


def test_neurons_are_stored_in_the_order_that_a_text_gives(afterwatt, folder: Path):
    from afterwatt.engine.runtime.modular import read_modular

    data = Path(__file__).parents[1] / "data"
    (folder / "text").write_text((data / "held-out.txt").read_text()[:300])
    said = afterwatt("prepare", data / "tiny-llama-draft", "bundles", "--calibrate", "text", "--quiet")
    assert (said.code, said.err) == (0, "")
    modular = read_modular(folder / "bundles")
    assert modular.calibration["tokens"] == 300
    for layer in modular.layers:
        assert list(layer.importance) == sorted(layer.importance, reverse=True)
        assert sorted(layer.order) == list(range(modular.bundles.units))

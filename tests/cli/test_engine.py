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

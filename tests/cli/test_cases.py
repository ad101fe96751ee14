"""Situations that users of neighbouring tools met, typed as they would: the right value, or a refusal that says why.

The inputs lie beside the situations' description, outside of this repository.
"""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

CASES = (Path(__file__).parents[2] / "../shared/reference/cases").resolve()
pytestmark = pytest.mark.skipif(not CASES.exists(), reason="the shared folder is not here")
BATCH = ("--batch", "1", "--prompt", "128", "--output", "8")
QUICK = ("--no-report", "--no-bounds", "--quiet")


def case(number: str) -> Path:
    return next(CASES.glob(f"{number}-*"))


def model(folder: Path, name: str, number: str, file: str) -> str:
    """A folder of a checkpoint without weights: the case's config.json."""
    (folder / name).mkdir()
    shutil.copy(case(number) / file, folder / name / "config.json")
    return name


def summary(folder: Path, out: str) -> dict:
    return json.loads((folder / out / "summary.json").read_text())


def manifest(folder: Path, out: str) -> dict:
    return json.loads((folder / out / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("number", "file", "weights"),
    [
        ("01", "Qwen--Qwen3-32B-FP8.config.json", "fp8: quantization_config of"),
        ("01", "llama-3.3-70b-fp8-dynamic.config.json", "fp8: quantization_config of"),
        ("02", "openai--gpt-oss-120b.config.json", "mxfp4-bf16: quantization_config of"),
    ],
)
def test_a_checkpoint_runs_as_it_is_stored(folder, simulate, number, file, weights):
    taken = model(folder, "m", number, file)
    assert simulate("--hw", "h200", "--model", taken, *BATCH, *QUICK, "--out", "r").code == 0
    assert any(f"weights in {weights}" in said for said in manifest(folder, "r")["warnings"])


@pytest.mark.parametrize(
    ("name", "precision", "gigabytes"),
    [
        ("gpt-oss-20b", "q8_0", 12.1),
        ("gpt-oss-20b", "q2_k", 11.5),
        ("gpt-oss-120b", "q8_0", 63.4),
        ("qwen2.5-72b", "q4_k_m", 47.42),
        ("qwen2.5-72b", "q5_k_m", 54.45),
        ("qwen2.5-72b", "q6_k", 64.35),
    ],
)
def test_files_of_llama_cpp_are_as_large_as_published(folder, afterwatt, name, precision, gigabytes):
    told = json.loads(afterwatt("model", "show", name, "--precision", precision, "--json").out)
    (weights,) = (row["value"] for row in told if row["label"] == f"weights in {precision}")
    assert float(weights.removesuffix(" GB")) == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize("words", [("CAISO_NORTH_2023-11_MOER.csv", "--grid-zone", "MOER"), ("watttime_v3_time.csv",)])
def test_pounds_per_megawatt_hour_are_pounds(folder, simulate, words):
    grid = ("--grid", case("03") / words[0], *words[1:])
    at = ("--start", "2023-11-16T00:15:00Z", "--out", "r")
    run = ("--hw", "a100-80", "--model", "llama-2-7b", *BATCH, *QUICK, *grid, *at)
    assert "--basis marginal" in simulate(*run).err
    assert simulate(*run, "--basis", "marginal").code == 0
    assert summary(folder, "r")["carbon_gco2e"]["intensity_gco2e_per_kwh"] == pytest.approx(903 * 0.453592, rel=1e-3)


@pytest.mark.parametrize(
    ("zone", "says"), [("avg_CI", "does not say the unit and the basis"), ("SUN", "is the power of a source (MW)")]
)
def test_a_column_is_what_its_name_says_or_asked_about(folder, simulate, zone, says):
    run = ("--hw", "a100-80", *BATCH, "--grid", case("05") / "hpe_CA.csv", "--grid-zone", zone)
    said = simulate(*run, "--start", "2022-01-01T00:00:00Z")
    assert (said.code, says in said.err) == (2, True)


@pytest.mark.parametrize("words", [(), ("--repeat-year",)])
def test_an_instant_within_a_leap_year_is_not_moved(folder, simulate, words):
    runpy.run_path(str(case("07") / "make_em2024.py"))
    at = ("--grid", "em2024.csv", "--start", "2024-12-31T05:00:00Z", *words, "--out", "r")
    assert simulate("--hw", "a100-80", *BATCH, *QUICK, *at).code == 0
    carbon = summary(folder, "r")["carbon_gco2e"]
    assert (carbon["intensity_gco2e_per_kwh"], carbon["basis"]) == (pytest.approx(900.0), "lifecycle")
    assert manifest(folder, "r")["config"]["carbon"]["basis"] == "lifecycle"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "--hw 8xa100-80:tp8 --model qwen2.5-7b",
            "28 attention heads are no multiple of 8; degrees that work: 1, 2, 4",
        ),
        ("--hw 3xa100-80:tp3 --model llama-2-7b", "32 attention heads are no multiple of 3"),
        ("--hw 2xa100-80:tp2 --model falcon-7b", "71 attention heads are no multiple of 2"),
        ("--hw 2xa100-80:tp2 --model qwen2.5-72b --precision awq", "29,568 of the feed-forward network in groups"),
        ("--hw v100-pcie-32 --model llama-2-7b --precision awq --stack vllm", "7.5 or newer for awq"),
        ("--hw m40 --model llama-2-7b --stack vllm", "needs compute capability 7.0 or newer; m40-24 has 5.2"),
        ("--hw k80 --model llama-2-7b --precision int4 --stack tensorrt-llm", "8.0 or newer; k80 has 3.7"),
        ("--hw p40 --model llama-2-7b --precision fp8 --stack vllm", "7.0 or newer; p40 has 6.1"),
    ],
)
def test_what_nobody_can_run_is_refused(simulate, words, says):
    said = simulate(*words.split(), *BATCH)
    assert (said.code, says in said.err) == (3, True)


@pytest.mark.parametrize(
    ("file", "number", "parameters"),
    [
        ("gemma-3-12b-it.config.json", "15", 11_766_034_176),
        ("gemma-3-4b-it.config.json", "15", 3_880_263_168),
        ("llava-1.5-7b-hf.config.json", "16", 6_738_939_904),
        ("Qwen--Qwen3-VL-8B-Instruct.config.json", "16", 8_190_735_360),
    ],
)
def test_language_models_that_are_told_in_part_or_within_another(folder, afterwatt, file, number, parameters):
    said = afterwatt("model", "show", f"{model(folder, 'm', number, file)}/config.json")
    assert (said.code, f"{parameters:,}" in said.out) == (0, True)


@pytest.mark.parametrize(
    ("file", "hw", "prompt", "context"),
    [
        ("vicuna-7b-v1.5-16k.config.json", "a100-80", 8000, "context 16,384 = 4,096 x 4"),
        ("qwen3-32b-yarn.config.json", "4xa100-80:tp4", 60000, "context 131,072 = 32,768 x 4"),
    ],
)
def test_stretched_positions_are_served_and_said(folder, simulate, file, hw, prompt, context):
    run = ("--hw", hw, "--model", model(folder, "m", "17", file), "--batch", "1", "--prompt", prompt, "--output", "4")
    assert simulate(*run, *QUICK, "--out", "r").code == 0
    assert summary(folder, "r")["requests"]["finished"] == 1
    assert any(context in said for said in manifest(folder, "r")["warnings"])


def test_windows_leave_room_for_two_long_requests(folder, simulate):
    run = ("--hw", "a100-80", "--model", "gemma-3-27b", "--precision", "bf16", "--batch", "2")
    assert simulate(*run, "--prompt", "120000", "--output", "4", *QUICK, "--out", "r").code == 0
    assert summary(folder, "r")["requests"]["finished"] == 2


@pytest.mark.parametrize(
    ("number", "file", "words"),
    [
        ("19", "u64.jsonl", ("0 % of 4 blocks",)),
        ("20", "sec.jsonl", ("20.0 ms", "if they count seconds, say unit=s")),
        ("20", "sec.jsonl?unit=s", ("20.0 s", "0.150")),
        ("20", "gl.jsonl?unit=s", ("400 ms",)),
        ("20", "fl.jsonl", ("1.03 s",)),
        ("20", "blk16.jsonl?block=16", ("of 14 blocks of 16 tokens",)),
        ("30", "az24.csv", ("azure-2024", "1.49 s")),
        ("31", "lmm3.csv", ("7.30 s", "NumImages")),
    ],
)
def test_traces_of_others_are_read_as_they_are_meant(folder, afterwatt, number, file, words):
    said = afterwatt("trace", "describe", f"{case(number)}/{file}")
    assert said.code == 0
    assert [word for word in words if word not in said.out] == []


def test_blocks_of_another_size_are_asked_about(folder, afterwatt):
    said = afterwatt("trace", "describe", case("20") / "blk16.jsonl")
    assert (said.code, "block=16" in said.err) == (2, True)


def test_what_exceeds_the_context_is_rejected_and_the_rest_served(folder, simulate):
    run = ("--hw", "a100-80", "--model", "llama-3-8b", "--trace", case("45") / "vid60.jsonl", "--out", "r")
    assert simulate(*run, *QUICK).code == 0
    told = summary(folder, "r")
    assert (told["requests"]["finished"], told["rejected_by"]["over_context"]) == (2, 1)


@pytest.mark.parametrize(("outputs", "finished"), [(16, 1), (17, 0)])
def test_the_last_token_needs_no_block_and_one_more_does(folder, simulate, outputs, finished):
    """145 + 16 - 1 = 160 tokens are ten blocks."""
    run = ("--batch", "1", "--prompt", "145", "--output", outputs, "--policy", "chunked+kv=10+watermark=0")
    assert simulate("--hw", "a100-80", "--model", "llama-2-7b", *run, *QUICK, "--out", "r").code == 0
    assert summary(folder, "r")["requests"]["finished"] == finished


@pytest.mark.parametrize(("hw", "block_bytes"), [("2xa100-80:tp2", 786_432), ("8xa100-80:tp8", 393_216)])
def test_four_heads_on_eight_gpus_are_kept_twice(folder, simulate, hw, block_bytes):
    assert simulate("--hw", hw, "--model", "qwen3-30b-a3b", *BATCH, *QUICK, "--out", "r").code == 0
    assert manifest(folder, "r")["config"]["memory"]["block_bytes"] == block_bytes


@pytest.fixture
def checkpoint(folder, afterwatt) -> Path:
    """The small model of the cases about checkpoints."""
    shape = "--layers 2 --hidden 64 --heads 4 --kv-heads 2 --head-dim 16 --ffn 128 --vocab 512 --max-context 512"
    assert afterwatt("model", "make-random", "--like", "llama-3.2-1b", "--out", "m", *shape.split()).code == 0
    return folder / "m"


def test_an_end_token_of_the_generation_config_ends(checkpoint, afterwatt):
    words = ("generate", "--model", checkpoint, "--ids", "1,2,3", "--tokens", "12", "--json")
    ids = json.loads(afterwatt(*words, "--ignore-eos").out)["output_ids"]
    unused = next(number for number in range(512) if number not in ids)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"eos_token_id": unused}))
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [unused, ids[5]]}))
    assert json.loads(afterwatt(*words).out)["output_ids"] == ids[: ids.index(ids[5]) + 1]


def test_a_truncating_tokenizer_cuts_no_prompt(checkpoint, afterwatt):
    shutil.copy(case("14") / "tokenizer.json", checkpoint / "tokenizer.json")
    said = afterwatt("generate", "--model", checkpoint, "--prompt", "abcdefghij" * 4, "--tokens", "4")
    assert "4 tokens after 40" in said.out + said.err


def test_metadata_that_is_null_is_none(checkpoint, afterwatt, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["make", str(checkpoint / "model.safetensors")])
    runpy.run_path(str(case("21") / "make_nullmeta.py"))
    assert afterwatt("generate", "--model", checkpoint, "--ids", "1,2,3", "--tokens", "4").code == 0

"""`simulate` with models as they are published: in which precision they run, how far they reach, what is said of it."""

import json
from pathlib import Path

import pytest

STATIC = ("--batch", 1, "--prompt", 128, "--output", 4, "--no-report", "--no-bounds")
SMALL = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632,
    "num_hidden_layers": 4, "num_attention_heads": 32, "max_position_embeddings": 1024,
}  # fmt: skip


def written(folder: Path, **more) -> str:
    (folder / "config.json").write_text(json.dumps(SMALL | more))
    return "config.json"


def manifest(folder: Path) -> dict:
    return json.loads((folder / "run" / "manifest.json").read_text())


def test_a_quantised_checkpoint_runs_as_it_is_stored_and_the_run_says_so(folder: Path, simulate):
    model = written(folder, quantization_config={"quant_method": "fp8"})
    said = simulate(*STATIC, "--hw", "h100", "--model", model, "--out", "run")
    assert said.code == 0
    assert manifest(folder)["config"]["precision"] == "fp8"
    assert "weights in fp8: quantization_config of config.json (quant_method fp8)" in said.out
    other = simulate(*STATIC, "--hw", "h100", "--model", model, "--precision", "fp16", "--out", "run", "--overwrite")
    assert manifest(folder)["config"]["precision"] == "fp16"
    assert "run in fp16 as asked; the checkpoint is stored in fp8" in " ".join(other.out.split())


def test_a_format_that_is_not_known_is_asked_for(folder: Path, simulate):
    model = written(folder, quantization_config={"quant_method": "hqq"})
    said = simulate(*STATIC, "--hw", "h100", "--model", model)
    assert said.code == 2
    assert "quant_method hqq) names a format that is not known" in said.err
    assert "--precision" in said.err
    assert simulate(*STATIC, "--hw", "h100", "--model", model, "--precision", "int4").code == 0


def test_a_model_that_exists_in_one_format_only_runs_in_it(folder: Path, simulate):
    said = simulate(*STATIC, "--hw", "h100", "--model", "gpt-oss-120b", "--out", "run")
    assert said.code == 0
    assert manifest(folder)["config"]["precision"] == "mxfp4-bf16"
    assert manifest(folder)["config"]["memory"]["weights_bytes"] == pytest.approx(65.25e9, rel=2e-3)


def test_a_context_that_scaling_stretches_is_used_and_said(folder: Path, simulate):
    model = written(folder, rope_scaling={"type": "linear", "factor": 4.0})
    long = ("--batch", 1, "--prompt", 3000, "--output", 4, "--no-report", "--no-bounds")
    said = simulate(*long, "--hw", "a100-80", "--model", model, "--out", "run")
    assert "1 of 1" in said.out
    assert "context 4,096 = 1,024 x 4 by rope_scaling (linear)" in " ".join(said.out.split())
    assert manifest(folder)["config"]["precision"] == "fp16"


@pytest.mark.parametrize(
    ("hw", "model", "precision", "why"),
    [
        ("8xa100-80:tp8", "qwen2.5-7b", "fp16", "28 attention heads are no multiple of 8; degrees that work: 1, 2, 4"),
        ("3xa100-80:tp3", "llama-2-7b", "fp16", "32 attention heads are no multiple of 3"),
        ("2xa100-80:tp2", "qwen2.5-72b", "awq", "29,568 of the feed-forward network in groups of 128 (awq)"),
        ("64xa100-80:pp64", "llama-2-7b", "fp16", "llama-2-7b has 32 layers, too few for pp 64"),
    ],
)
def test_a_split_that_no_engine_makes_is_refused(simulate, hw, model, precision, why):
    said = simulate(*STATIC, "--hw", hw, "--model", model, "--precision", precision)
    assert said.code == 3
    assert why in said.err


def test_what_would_fit_names_the_format_that_a_model_exists_in(simulate):
    said = simulate(*STATIC, "--hw", "h100", "--model", "gpt-oss-120b", "--precision", "bf16")
    assert said.code == 3
    assert "--precision mxfp4-bf16" in said.err


def test_a_mixture_is_counted_for_the_rows_of_the_model(folder: Path, simulate):
    words = ("--hw", "a100-80", "--model", "qwen2.5-72b", "--precision", "q4_k_m", "--stack", "llama.cpp-cuda")
    assert simulate(*STATIC, *words, "--out", "run").code == 0
    assert manifest(folder)["config"]["memory"]["weights_bytes"] == pytest.approx(47.36e9, rel=1e-3)


def test_latent_attention_and_dense_layers_beside_experts_take_their_time(folder: Path, simulate):
    """A latent eight times as wide is eight times the cache to read, and its matrices are larger too."""
    sparse = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "first_k_dense_replace": 1}
    times = []
    for rank in (64, 512):
        latent = {"kv_lora_rank": rank, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32}
        model = written(folder, model_type="deepseek_v3", **latent, **sparse)
        run = simulate(*STATIC, "--hw", "h100", "--model", model, "--out", f"run-{rank}", "--json")
        assert run.code == 0, run.err
        times.append(json.loads(run.out)["tpot_s"]["mean"])
    assert times[1] > times[0]


def test_an_expert_that_all_tokens_share_takes_its_time(folder: Path, simulate):
    sparse = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512}
    times = []
    for width in (512, 51_200):
        model = written(folder, model_type="qwen2_moe", shared_expert_intermediate_size=width, **sparse)
        run = simulate(*STATIC, "--hw", "h100", "--model", model, "--out", f"run-{width}", "--json")
        times.append(json.loads(run.out)["tpot_s"]["mean"])
    # Three matrices of 2,048 x 50,688 more in four layers, 16 bits, at no more than the 3.35 TB/s of the card.
    assert times[1] - times[0] > 4 * 3 * 2048 * 50_688 * 2 / 3.4e12

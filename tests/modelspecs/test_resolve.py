"""Names as people write them: the right shape, or a marked guess of the right size, never silently a wrong one."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.modelspecs import ModelError, load_model, model_names, resolve_model

POINTS = Path(__file__).parents[2] / "../shared/reference/points.csv"

EXACT = {
    "LLaMA-2-70B": "llama-2-70b",
    "meta-llama/Llama-2-7b-chat-hf": "llama-2-7b",
    "llama2-13b": "llama-2-13b",
    "Meta-Llama-3.1-70B-Instruct": "llama-3.1-70b",
    "Llama-3-8B-Instruct-Q4_K_M.gguf": "llama-3-8b",
    "llama3.1:8b-instruct-q4_K_M": "llama-3.1-8b",
    "LLaMA-3.1-8B (fp8)": "llama-3.1-8b",
    "LLaMA-3.1-70B (draft 3B)": "llama-3.1-70b",
    "LLaMA-2-70B int4 + draft LLaMA-2-7B int4": "llama-2-70b",
    "LLaMA-7B": "llama-7b",
    "LLaMA 33B": "llama-30b",
    "LLaMA-2-7B AWQ": "llama-2-7b",
    "Qwen2.5-14B": "qwen2.5-14b",
    "Qwen3-30B-A3B (MoE)": "qwen3-30b-a3b",
    "Qwen3 32B": "qwen3-32b",
    "Qwen3-235B-A22B-Instruct-2507": "qwen3-235b-a22b",
    "Mixtral-8x7B (MoE)": "mixtral-8x7b",
    "Mixtral 8x22B": "mixtral-8x22b",
    "Mistral-Nemo": "mistral-nemo-12b",
    "gpt-oss-20b": "gpt-oss-20b",
    "GPT-J-6B": "gpt-j-6b",
    "OPT-6.7B": "opt-6.7b",
    "OPT-30B (FlexGen)": "opt-30b",
    "BLOOM": "bloom-176b",
    "gemma-2-9b-it": "gemma-2-9b",
    "gemma2 27B": "gemma-2-27b",
    "Gemma-7B": "gemma-7b",
    "phi-2": "phi-2",
    "Phi-3-mini-4k-instruct": "phi-3-mini-3.8b",
    "TinyLlama": "tinyllama-1.1b",
    "LLAMA 7B v2": "llama-2-7b",
    "Ministral-3-3B": "ministral-3-3b",
    "CodeLlama-34B": "codellama-34b",
    "Qwen3-Next-80B-A3B": "qwen3-next-80b-a3b",
    "Llama-4-Scout-17B-16E-Instruct": "llama-4-scout",
    "DeepSeek-V3": "deepseek-v3",
    "DeepSeek-R1-0528": "deepseek-r1",
}
SIBLINGS = {
    "LFM2.5-1.2B": "lfm2-1.2b",
    "LLaMA-8B": "llama-3-8b",
    "LLaMA-70B": "llama-3-70b",
    "Qwen2-7B": "qwen2.5-7b",
    "Qwen2.5-Coder-32B": "qwen2.5-32b",
    "Qwen3-Coder-30B-A3B": "qwen3-30b-a3b",
    "Qwen3-30B": "qwen3-30b-a3b",
    "QwQ-32B": "qwen2.5-32b",
    "DeepSeek-R1-Distill-Llama-8B": "llama-3.1-8b",
    "vicuna-13b-v1.5": "llama-2-13b",
    "CodeLlama-7b": "llama-2-7b",
    "Mistral-7B-Instruct-v0.2": "mistral-7b",
    "Qwen3.6-27B": "qwen3.5-27b",
    "Qwen3.6-35B-A3B": "qwen3.5-35b-a3b",
}
GENERIC = {
    "7B model (best)": (7e9, 7e9),
    "Yi-34B": (34e9, 34e9),
    "BLOOM-7B1": (7.1e9, 7.1e9),
    "DeepSeek-R1-Distill-Llama-13B": (13e9, 13e9),
    "Qwen-7B": (7e9, 7e9),
    "Qwen3.5-9B": (8.95e9, 8.95e9),
    "StableLM-3B": (3e9, 3e9),
    "Mistral-Small-22B": (22e9, 22e9),
    "Llama-3.3-Nemotron-Super-49B": (49e9, 49e9),
    "gemma-4-26B-A4B-it": (26e9, 4e9),
    "DeepSeek-V2-Lite 16B (MoE)": (15.7e9, 2.4e9),
}


@pytest.mark.parametrize(("text", "name"), EXACT.items())
def test_a_catalogued_model_is_found(text, name):
    found = resolve_model(text)
    assert (found.spec.name, found.how, found.note) == (name, "exact", "")


@pytest.mark.parametrize("name", model_names())
def test_every_catalogue_name_finds_itself_with_and_without_its_count(name):
    spec = load_model(name)
    for params_b in (None, spec.params / 1e9):
        assert resolve_model(name, params_b).spec is spec
        assert resolve_model(f"Some-Org/{name.upper()}-Instruct", params_b).spec is spec


@pytest.mark.parametrize(("text", "name"), SIBLINGS.items())
def test_a_model_of_the_same_shape_is_taken_and_said_so(text, name):
    found = resolve_model(text)
    assert (found.spec.name, found.how) == (name, "sibling")
    assert name in found.note


@pytest.mark.parametrize(("text", "counts"), GENERIC.items())
def test_anything_else_is_a_marked_guess_of_the_right_size(text, counts):
    found = resolve_model(text)
    assert found.how == "generic"
    assert found.spec.family == "generic"
    assert "generic shape" in found.note
    assert found.spec.params == pytest.approx(counts[0], rel=0.01)
    assert found.spec.active_params == pytest.approx(counts[1], rel=0.05)


def test_a_count_decides_where_the_name_tells_no_size():
    assert resolve_model("Mixtral", 46.7).spec.name == "mixtral-8x7b"
    assert resolve_model("mystery", 13).spec.params == pytest.approx(13e9, rel=0.01)
    assert resolve_model("Yi-34B", 34.39).spec.params == pytest.approx(34.39e9, rel=0.01)


@pytest.mark.parametrize("params_b", [12.9, 46.7, 56, None])
def test_a_mixture_may_be_counted_in_all_in_active_or_in_experts_times_size(params_b):
    assert resolve_model("Mixtral-8x7B", params_b).spec.name == "mixtral-8x7b"


@pytest.mark.parametrize(
    ("text", "layers", "hidden", "cached"),
    [
        # config.json: a quarter of the layers keeps 4 heads of 256; latent attention keeps 512 + 64 numbers a layer.
        ("Qwen3.6-27B", 64, 5120, 16 * 2 * 4 * 256),
        ("Qwen3.5-9B", 32, 4096, 8 * 2 * 4 * 256),
        ("Qwen3.6-35B-A3B", 40, 2048, 10 * 2 * 2 * 256),
        ("DeepSeek-V2-Lite 16B (MoE)", 27, 2048, 27 * 576),
        ("DeepSeek-R1", 61, 7168, 61 * 576),
    ],
)
def test_depth_width_and_cache_are_those_of_the_config(text, layers, hidden, cached):
    spec = resolve_model(text).spec
    assert (spec.layers, spec.hidden) == (layers, hidden)
    assert spec.kv_bytes_per_token(1) == pytest.approx(cached, rel=0.15)


def test_a_gguf_of_a_generic_shape_weighs_as_published():
    # "Qwen3.5-35B-A3B Q4_K_Medium | 20.09 GiB | 34.66 B" in public llama-bench tables.
    spec = resolve_model("Qwen3.5-35B-A3B").spec
    assert spec.stored_bytes("q4_k_m") == pytest.approx(20.09 * 2**30, rel=0.04)


def test_a_count_that_contradicts_what_is_known_overrules_it():
    assert resolve_model("Qwen3.5-27B", 9).spec.params == pytest.approx(9e9, rel=0.01)


def test_a_count_that_contradicts_the_name_overrules_it():
    found = resolve_model("Llama-3-8B", 70)
    assert found.how == "generic"
    assert found.spec.params == pytest.approx(70e9, rel=0.01)
    assert "the name says 8B, the count 70B" in found.note
    assert found.spec.name == "generic-70b"


def test_a_mixture_whose_active_parameters_are_not_told_says_what_it_assumes():
    found = resolve_model("Unheard-40B (MoE)")
    assert found.spec.experts > 1
    assert "an eighth is assumed" in found.note


@pytest.mark.parametrize("text", ["Llama-2", "gpt-oss", "Mixtral", "mystery", "", "avg over LLMs incl. OPT-175B"])
def test_what_tells_no_one_model_is_refused(text):
    with pytest.raises(ModelError, match=r"tells no size|several models"):
        resolve_model(text)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-. ()/+", max_size=40), st.floats(0.1, 1000))
def test_any_text_with_a_count_gives_a_shape_near_that_count_or_says_why_not(text, params_b):
    try:
        found = resolve_model(text, params_b)
    except ModelError:
        return
    counts = {found.spec.params, found.spec.active_params}
    nominal = 1.0 if found.how == "generic" else 1.2  # a catalogued model may be named by a size that it nearly has
    assert any(0.8 / nominal < params_b * 1e9 / count < 1.25 * nominal for count in counts)


def test_every_model_of_the_published_points_that_tells_a_size_has_a_shape_of_it():
    if not POINTS.is_file():
        pytest.skip(f"{POINTS} is not here")
    with POINTS.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for text, params in sorted({(row["model"], row["params_b"]) for row in rows if row["params_b"]}):
        found = resolve_model(text, float(params))
        nearest = min(abs(float(params) * 1e9 / count - 1) for count in (found.spec.params, found.spec.active_params))
        assert nearest < 0.15, text

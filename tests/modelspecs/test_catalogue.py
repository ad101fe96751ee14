"""The shipped models: counts as published, facts with their sources, and files that are refused."""

import tomllib

import pytest

from afterwatt.modelspecs import ModelError, ModelSpec, describe_catalogue, describe_model, load_model, model_names
from afterwatt.modelspecs.catalogue import DATA_DIR

REQUIRED = {
    *(f"llama-2-{size}" for size in ("7b", "13b", "70b")),
    *(f"llama-3.1-{size}" for size in ("8b", "70b", "405b")),
    *(f"qwen2.5-{size}" for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b", "72b")),
    *(f"opt-{size}" for size in ("30b", "66b", "175b")),
    *("tinyllama-1.1b", "mistral-7b", "mixtral-8x7b", "falcon-40b", "bloom-176b"),
}

WELL_KNOWN = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "tinyllama-1.1b": 1_100_048_384,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-72b": 72_706_203_648,
    "bloom-176b": 176_247_271_424,
    "falcon-40b": 41_303_293_952,
}

MINIMAL = """
family = "llama"
source = "a notebook"
checked = "2026-11-20"
[shape]
layers = 2
hidden = 64
heads = 4
kv_heads = 2
head_dim = 16
ffn = 96
ffn_matrices = 3
vocab = 100
max_context = 128
norm = "rms"
"""


def test_every_model_the_issue_names_is_there():
    assert set(model_names()) >= REQUIRED


@pytest.mark.parametrize("name", model_names())
def test_parameters_counted_from_the_shape_are_the_published_ones(name):
    spec = load_model(name)
    assert spec.published_params is not None
    published = spec.published_params - spec.published_excess
    if spec.published_rounding == 1:
        assert spec.params == published
    else:
        assert abs(spec.params - published) <= spec.published_rounding / 2


@pytest.mark.parametrize(("name", "params"), WELL_KNOWN.items())
def test_well_known_counts(name, params):
    assert load_model(name).params == params


@pytest.mark.parametrize("name", model_names())
def test_citations_survive_loading(name):
    text = tomllib.loads((DATA_DIR / f"{name}.toml").read_text())
    spec = load_model(name)
    assert spec.name == name == text["name"]
    assert spec.source == text["source"]
    assert spec.source
    assert spec.checked == text["checked"]
    assert text["published"]["source"] in spec.published_source


def test_mixtral_activates_12_9_billion_as_its_paper_says():
    # Jiang et al. 2024, arXiv:2401.04088: 47B in total, 13B active per token.
    assert round(load_model("mixtral-8x7b").active_params / 1e9, 1) == 12.9


def test_names_are_found_in_any_case_and_sorted_by_size():
    assert load_model("Llama-2-7B") is load_model("llama-2-7b")
    names = model_names()
    assert names.index("llama-2-7b") < names.index("llama-2-13b") < names.index("llama-2-70b")


def test_an_unknown_name_suggests_the_nearest_and_says_what_else_would_do():
    with pytest.raises(ModelError, match=r"unknown model 'lama-2-7b'; did you mean 'llama-2-7b'\?.*config\.json"):
        load_model("lama-2-7b")


def test_ones_own_toml_is_read(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(MINIMAL)
    spec = load_model(path)
    assert isinstance(spec, ModelSpec)
    assert (spec.name, spec.kv_heads, spec.published_params) == ("tiny", 2, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layers = 2", "leyers = 2", r"unknown key shape\.leyers; did you mean 'layers'"),
        ("layers = 2\n", "", r"\[shape\] lacks .*layers"),
        ("layers = 2", "layers = 0", r"layers = 0 is out of range; expected 1 to 2,000"),
        ("layers = 2", "layers = -2", r"layers = -2 is out of range"),
        ("layers = 2", "layers = 2.0", r"layers = 2\.0 must be a whole number"),
        ("layers = 2", "layers = true", r"layers = True must be a whole number"),
        ("layers = 2", 'layers = "2"', r"layers = '2' must be a whole number"),
        ("hidden = 64", "hidden = 4_096_000_000", r"hidden = 4096000000 is out of range"),
        ("kv_heads = 2", "kv_heads = 3", r"kv_heads = 3 must divide heads = 4"),
        ("ffn_matrices = 3", "ffn_matrices = 4", r"ffn_matrices = 4 must be 2 \(plain\) or 3 \(gated\)"),
        ('norm = "rms"', 'norm = "rmsnorm"', r"norm = 'rmsnorm' must be one of rms, layer"),
        ('norm = "rms"', 'norm = "rms"\nexperts = 4\nactive_experts = 5', r"active_experts = 5 exceeds experts = 4"),
        ('norm = "rms"', 'norm = "rms"\nlearned_positions = -1', r"learned_positions = -1 must be 0"),
        ('norm = "rms"', 'norm = "rms"\nqkv_bias = 1', r"qkv_bias = 1 must be true or false"),
        ('source = "a notebook"\n', "", r"source is missing or empty; every fact keeps its source"),
        ('source = "a notebook"', 'source = " "', r"source is missing or empty"),
        ('checked = "2026-11-20"', 'checked = "20 November"', r"checked = '20 November' must be a date"),
        ('family = "llama"', 'family = "llama"\nurl = "x"', r"unknown key url"),
        ("[shape]", "[shapes]", r"unknown key shapes; did you mean 'shape'"),
        ('norm = "rms"', 'norm = "rms"\n[published]\nparams = 5', r"published\.source is missing"),
        (
            'norm = "rms"',
            'norm = "rms"\n[published]\nsource = "x"\nchecked = "2026-11-20"',
            r"published\.params is missing",
        ),
        (
            'norm = "rms"',
            'norm = "rms"\n[published]\nparams = 5\nexcess = 1\nsource = "x"\nchecked = "2026-11-20"',
            r"published\.excess_why is missing",
        ),
        ("layers = 2", "layers 2", r"is not valid TOML"),
    ],
)
def test_a_bad_toml_is_refused_in_one_sentence(tmp_path, old, new, message):
    path = tmp_path / "bad.toml"
    path.write_text(MINIMAL.replace(old, new))
    with pytest.raises(ModelError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_toml_says_so(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read .*absent\.toml"):
        load_model(tmp_path / "absent.toml")


def test_the_list_shows_every_model_and_the_details_show_their_sources():
    rows = describe_catalogue()
    assert [row.name for row in rows] == model_names()
    assert all(row.fp16_bytes == 2 * row.params for row in rows)
    details = {row.label: row for row in describe_model("falcon-40b")}
    assert details["parameters"].value == "41,303,293,952"
    assert details["published"].value == "41,835,970,560, 532,676,608 of them not counted here"
    assert "LM head beside the embedding" in details["published"].source
    assert all(row.source for row in details.values())
    assert "about 30,000,000,000" in {row.value for row in describe_model("opt-30b")}
    gemma = {row.label: row.value for row in describe_model("gemma-3-27b")}
    assert gemma["context"] == "131,072 tokens, sliding window 1,024 (52 of 62 layers)"
    # Ten layers keep 8,192 bytes of each token, 52 of 1,024.
    assert gemma["largest cache"] == "11.17 GB of a sequence of 131,072 tokens"
    assert {row.label: row.value for row in describe_model("gpt-oss-20b")}["stored in"] == "mxfp4-bf16, 13.76 GB"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3-8B", "llama-3-8b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b"),
        ("google/gemma-2-9b-it", "gemma-2-9b"),
        ("llama3:8b", "llama-3-8b"),
        ("Mistral 7B", "mistral-7b"),
    ],
)
def test_a_model_is_found_as_its_hub_and_its_users_call_it(said, meant):
    assert load_model(said).name == meant


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("llama3", r"model 'llama3' could be any of llama-3-8b, llama-3-70b; say which"),
        ("gpt-oss", r"could be any of gpt-oss-20b, gpt-oss-120b"),
        ("Qwen/Qwen3-32B-FP8", r"'qwen3-32b' is the nearest.*--precision"),
        ("mistralai/Mistral-7B-Instruct-v0.2", r"'mistral-7b' is the nearest"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", r"'qwen3-30b-a3b' is the nearest"),
    ],
)
def test_a_name_that_says_less_or_more_is_asked_about(said, answer):
    with pytest.raises(ModelError, match=answer):
        load_model(said)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4-scout"),
        ("meta-llama/Llama-4-Maverick-17B-128E-Instruct", "llama-4-maverick"),
        ("moonshotai/Kimi-K2-Instruct", "kimi-k2"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", "qwen3-next-80b-a3b"),
        ("zai-org/GLM-4.5-Air", "glm-4.5-air"),
        ("LiquidAI/LFM2-1.2B", "lfm2-1.2b"),
    ],
)
def test_todays_models_by_the_names_of_their_hub(said, name):
    assert load_model(said).name == name


def test_a_distilled_model_is_not_sent_to_its_teacher():
    with pytest.raises(ModelError) as caught:
        load_model("deepseek-ai/DeepSeek-R1-Distill-Llama-8B")
    assert "is the nearest" not in str(caught.value)

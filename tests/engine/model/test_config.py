"""config.json: both spellings, defaults, and refusal of what would be computed wrongly. Formats by device."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from afterwatt.engine.model.config import Rope, read_config
from afterwatt.engine.model.devices import dtype_policy, find_device
from afterwatt.engine.model.rope import RopeTable, frequencies
from afterwatt.engine.runtime.errors import CheckpointError, EngineError
from afterwatt.modelspecs.decoders import DECODERS
from tests.engine.model.tiny import LLAMA3, SHAPE


def config(folder: Path, max_context: int | None = None, **changes):
    fields = {"model_type": "llama", **SHAPE, **changes}
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in fields.items() if value != "absent"})
    )
    return read_config(folder, max_context)


@pytest.mark.parametrize("family", DECODERS)
def test_what_a_family_leaves_out_is_what_transformers_puts_there(tmp_path: Path, family: str):
    fields = dict.fromkeys(("num_key_value_heads", "max_position_embeddings"), "absent")
    said = {"num_attention_heads": 32, "hidden_size": 64, "sliding_window": None}
    said |= {"num_experts": 4, "moe_intermediate_size": 8, "num_experts_per_tok": 2} if family == "qwen3_moe" else {}
    read = config(tmp_path, model_type=family, **fields, **said)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
    architecture = DECODERS[family].architecture.removesuffix("ForCausalLM")
    theirs = getattr(transformers, f"{architecture}Config")(num_attention_heads=32, hidden_size=64)
    assert read.spec.kv_heads == theirs.num_key_value_heads
    assert read.spec.max_context == theirs.max_position_embeddings
    assert (read.bos_ids, read.eos_ids) == tuple(
        () if one is None else (one,) for one in (theirs.bos_token_id, theirs.eos_token_id)
    )
    assert read.spec.qkv_bias == bool(getattr(theirs, "attention_bias", family == "qwen2"))


@pytest.mark.parametrize(
    ("family", "fields", "window"),
    [
        ("llama", {"sliding_window": 16}, None),
        ("mistral", {"sliding_window": 16}, 16),
        ("mistral", {}, 4096),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"sliding_window": 16}, None),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0}, 16),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True}, None),
        ("qwen2", {"sliding_window": None, "use_sliding_window": True}, None),
    ],
)
def test_a_window_counts_where_the_family_looks_at_it(tmp_path: Path, family: str, fields, window: int | None):
    assert config(tmp_path, 16, model_type=family, **fields).spec.sliding_window == window


def test_defaults_are_those_of_transformers(tmp_path: Path):
    read = config(tmp_path)
    assert (read.rms_norm_eps, read.rope, read.activation) == (1e-6, Rope(10_000.0), "silu")
    assert (read.bos_ids, read.eos_ids) == ((1,), (2,))
    assert config(tmp_path, eos_token_id=[5, 6], bos_token_id=None).eos_ids == (5, 6)
    assert config(tmp_path, eos_token_id=[5, 6], bos_token_id=None).bos_ids == ()
    assert config(tmp_path, model_type="qwen2").eos_ids == ()


@pytest.mark.parametrize(
    ("own", "beside", "ends"),
    [
        (2, {"eos_token_id": [5, 6]}, (2, 5, 6)),
        (2, {"eos_token_id": 2}, (2,)),
        ("absent", {"eos_token_id": [5, 6]}, (5, 6)),
        (None, {"eos_token_id": 5}, (5,)),
        ([5, 6], {"eos_token_id": None}, (5, 6)),
        ([5, 6], {}, (5, 6)),
        ("absent", {"max_length": 10}, (2,)),
    ],
)
def test_a_text_ends_where_either_file_says(tmp_path: Path, own: object, beside: dict[str, object], ends):
    """Llama 3 names <|eot_id|> in generation_config.json alone; a family's default yields to what is said."""
    (tmp_path / "generation_config.json").write_text(json.dumps(beside))
    assert config(tmp_path, eos_token_id=own).eos_ids == ends


@pytest.mark.parametrize(
    "text", ["[", "[" * 10**5, "[1]", '{"eos_token_id": 1e3}', '{"eos_token_id": ' + "9" * 5000 + "}"]
)
def test_a_damaged_generation_config_is_one_sentence(tmp_path: Path, text: str):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"generation_config\.json") as caught:
        config(tmp_path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("fields", "rope"),
    [
        ({"rope_theta": 5e5}, Rope(5e5)),
        ({"rope_theta": 5e5, "rope_scaling": None}, Rope(5e5)),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, Rope(5e5)),
        ({"rope_theta": 7.0, "rope_parameters": {"rope_theta": 5e5}}, Rope(5e5)),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, Rope(10_000.0, "linear", 2.0)),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2}}, Rope(5e5, "linear", 2.0)),
        ({"rope_parameters": LLAMA3}, Rope(10_000.0, "llama3", 8.0, 1.0, 4.0, 64)),
        (
            {"rope_theta": 3.0, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}},
            Rope(3.0, "llama3", 8.0, 1.0, 4.0, 64),
        ),
    ],
)
def test_both_spellings_of_rotary_positions(tmp_path: Path, fields, rope):
    assert config(tmp_path, **fields).rope == rope


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "gemma"}, "gemma"),
        ({"model_type": "qwen3"}, "qwen3"),
        ({"model_type": "never-heard-of"}, "never-heard-of"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "factor"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "kind of layer"),
        ({"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": "big"}, "rope_theta"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps"),
        ({"head_dim": 7}, "head_dim"),
        ({"eos_token_id": 97}, "eos_token_id"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"hidden_size": "absent"}, "hidden_size"),
        ({"model_type": "mistral", "sliding_window": 128}, "sliding_window"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 128, "max_window_layers": 0},
            "sliding_window",
        ),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(tmp_path: Path, fields, said: str):
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        config(tmp_path, **fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_window_that_hides_nothing_is_fine(tmp_path: Path):
    assert config(tmp_path, model_type="mistral", sliding_window=256).spec.max_context == 256
    assert config(tmp_path, 128, model_type="mistral", sliding_window=128).spec.max_context == 128
    assert config(tmp_path, model_type="qwen2", use_sliding_window=False, sliding_window=8).spec.max_context == 256
    with pytest.raises(CheckpointError, match="max_context = 257"):
        config(tmp_path, 257)


def test_limiting_the_context_leaves_the_rotation_as_it_was(tmp_path: Path):
    """llama3 falls back on the model's own context, not on what a user lets it take."""
    scaled = {name: value for name, value in LLAMA3.items() if name != "original_max_position_embeddings"}
    assert config(tmp_path, 32, rope_parameters=scaled).rope.original_max_position == 256


def test_turns_grow_with_the_context_asked_for():
    rope = Rope(1e4, "linear", 2.0)
    table = RopeTable(rope, 8, 100_000, torch.device("cpu"))
    assert len(table.turns) == 2048
    table.reserve(2049)
    assert len(table.turns) == 4096
    table.reserve(90_000)
    assert len(table.turns) == 90_000
    table.reserve(100_000)
    assert len(table.turns) == 100_000
    angles = torch.outer(torch.tensor([0.0, 1.0, 99_999.0]), frequencies(rope, 8))
    rows = table.turns[torch.tensor([0, 1, 99_999]), 0]
    assert torch.equal(rows, torch.polar(torch.ones_like(angles), angles))
    assert frequencies(rope, 8)[0] == 0.5


FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "asked", "stored", "computed"),
    [
        (None, "auto", FP32, FP32),
        (None, "bf16", BF16, BF16),
        (None, "fp16", FP16, FP32),
        ((5, 0), "auto", FP16, FP32),
        ((5, 2), "auto", FP16, FP32),  # M40
        ((5, 2), "fp32", FP32, FP32),
        ((5, 2), "bf16", BF16, FP32),
        ((6, 0), "auto", FP16, FP16),  # P100
        ((6, 1), "auto", FP16, FP32),  # P40
        ((7, 0), "auto", FP16, FP16),  # V100
        ((7, 5), "auto", FP16, FP16),  # T4
        ((7, 5), "bf16", BF16, FP32),
        ((8, 0), "auto", BF16, BF16),  # A100
        ((8, 6), "fp16", FP16, FP16),
        ((9, 0), "auto", BF16, BF16),
        ((12, 0), "auto", BF16, BF16),
    ],
)
def test_formats_by_compute_capability(capability, asked: str, stored, computed):
    policy = dtype_policy(capability, asked)
    assert (policy.weights, policy.kv, policy.compute) == (stored, stored, computed)


def test_unknown_formats_and_devices_are_refused():
    with pytest.raises(EngineError, match="fp8"):
        dtype_policy(None, "fp8")
    for name in ("tpu", "meta", "xyz:1", "mps"):
        with pytest.raises(EngineError, match=name):
            find_device(name)
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="sees 0 GPUs"):
            find_device("cuda")

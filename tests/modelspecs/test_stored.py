"""How a checkpoint stores its weights, as the tools that make them say it in config.json."""

import json
from pathlib import Path

import pytest

from afterwatt.modelspecs import ModelError, load_model, load_precision, stored_precision
from afterwatt.modelspecs.stored import read_stored

QWEN3_32B = {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 5120, "intermediate_size": 25600,
    "num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
BLOCK_FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def scheme(bits, kind, group=None, inputs=None, **more):
    weights = {"num_bits": bits, "type": kind, "group_size": group, "symmetric": True, **more}
    return {"config_groups": {"group_0": {"weights": weights, "input_activations": inputs}}}


FP8_INPUTS, INT8_INPUTS = {"num_bits": 8, "type": "float"}, {"num_bits": 8, "type": "int"}
COMPRESSED = {"quant_method": "compressed-tensors"}

KNOWN = [
    (BLOCK_FP8, "fp8", 8.0),
    ({"quant_method": "fbgemm_fp8"}, "fp8", 8.0),
    (COMPRESSED | scheme(8, "float", inputs=FP8_INPUTS), "fp8", 8.0),
    (COMPRESSED | scheme(8, "float"), "fp8-weight-only", 8.0),
    (COMPRESSED | scheme(8, "int", inputs=INT8_INPUTS), "w8a8", 8 + 16 / 4096),
    (COMPRESSED | scheme(4, "int", 128), "int4", 4 + 16 / 128),
    (COMPRESSED | scheme(4, "int", 32), "int4", 4 + 16 / 32),
    (COMPRESSED | scheme(4, "int", 128, symmetric=False), "int4", 4 + 20 / 128),
    (COMPRESSED | scheme(4, "int", 128, inputs=INT8_INPUTS), "w4a8", 4 + 20 / 128),
    (COMPRESSED | scheme(4, "float", 16, inputs=FP8_INPUTS), "nvfp4", 4.5),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq", 4 + 20 / 128),
    ({"quant_method": "gptq", "bits": 8, "group_size": 32}, "gptq-8bit", 8 + 24 / 32),
    ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "gptq", 4 + 20 / 4096),
    ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "awq", 4 + 20 / 64),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4", 4.5),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "nf4-dq", 4.127),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", 8 + 16 / 4096),
    ({"quant_method": "mxfp4"}, "mxfp4-bf16", 4.25),
    ({"quant_method": "exl2", "bits": 4.25}, "exl2-4.25bpw", 4.25),
    ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", 8.0),
    ({"quant_algo": "NVFP4", "group_size": 16}, "nvfp4", 4.5),
]
UNKNOWN = [
    {"quant_method": "hqq"},
    {},
    {"quant_method": "gptq", "bits": "four"},
    {"quant_method": "gptq", "bits": 17},
    {"quant_method": "gptq", "group_size": 0},
    {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"},
    BLOCK_FP8 | {"quant_algo": "MIXED_PRECISION"},
    COMPRESSED | {"config_groups": {}},
    COMPRESSED | {"config_groups": 3},
    COMPRESSED | scheme(8, "complex"),
    COMPRESSED
    | {"config_groups": scheme(4, "int")["config_groups"] | {"b": scheme(8, "int")["config_groups"]["group_0"]}},
]


@pytest.mark.parametrize(("said", "name", "bits"), KNOWN, ids=str)
def test_a_known_format_is_taken_with_its_groups(said, name, bits):
    stored = read_stored(said, "config.json")
    form = stored_precision(stored)
    assert (form.name, form.bits_per_weight) == (name, pytest.approx(bits))
    assert form.quantised
    assert stored.source.startswith("config.json (quant_method ")


@pytest.mark.parametrize("said", UNKNOWN, ids=str)
def test_what_is_not_known_is_refused_with_the_way_out(said):
    with pytest.raises(ModelError, match=r"^config\.json \(quant_method .* not known; .*--precision$"):
        stored_precision(read_stored(said, "config.json"))


def test_scales_of_blocks_and_groups_are_remembered():
    groups = {"gptq": 128, "awq": 128, "nvfp4": 16, "int4": 128, "fp8": None, "q4_k_m": None}
    assert {name: load_precision(name).group for name in groups} == groups
    assert stored_precision(read_stored(BLOCK_FP8, "")).group == 128
    assert stored_precision(read_stored({"quant_method": "gptq", "group_size": 32}, "")).group == 32
    assert stored_precision(read_stored({"quant_method": "gptq", "group_size": -1}, "")).group is None


@pytest.mark.parametrize(
    ("left", "attention_bits"),
    [
        (["lm_head"], None),
        (["model.layers.*.self_attn", "lm_head"], 16.0),
        (["re:.*self_attn.*"], 16.0),
        ([f"model.layers.{layer}.self_attn*" for layer in range(60)], 16.0),
        ([f"model.layers.{layer}.self_attn.kv_b_proj" for layer in range(60)], None),
        (["re:.*self_attn.kv_b_proj"], None),
        ([3, None], None),
    ],
)
def test_attention_that_is_left_alone_keeps_its_sixteen_bits(left, attention_bits):
    for key in ("ignore", "modules_to_not_convert", "exclude_modules"):
        stored = read_stored({"quant_method": "modelopt", "quant_algo": "NVFP4", key: left}, "")
        assert stored_precision(stored).attention_bits == attention_bits


def model(folder: Path, config, **beside):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, said in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(said))
    return load_model(folder)


def test_an_fp8_checkpoint_weighs_what_its_matrices_need(tmp_path):
    spec = model(tmp_path / "fp8", QWEN3_32B | {"quantization_config": BLOCK_FP8})
    # A byte per weight of 64 layers: query, output; key, value; three matrices. Two tables in 16 bits.
    matrices = 64 * (2 * 5120 * 8192 + 2 * 5120 * 1024 + 3 * 5120 * 25600)
    tables = 2 * 2 * 151936 * 5120
    assert spec.stored_bytes(stored_precision(spec.stored)) == pytest.approx(matrices + tables, rel=1e-3)
    assert spec.stored_bytes(stored_precision(spec.stored)) == pytest.approx(34.32e9, rel=2e-3)


def test_modelopt_says_it_in_a_file_beside(tmp_path):
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    spec = model(tmp_path / "m", QWEN3_32B, hf_quant_config=beside)
    assert stored_precision(spec.stored).name == "fp8"
    assert "hf_quant_config.json" in spec.stored.source
    assert model(tmp_path / "n", QWEN3_32B).stored is None
    assert model(tmp_path / "o", QWEN3_32B, hf_quant_config={"quantization": 3}).stored.precision is None


def test_a_checkpoint_that_says_nothing_is_in_sixteen_bits():
    assert stored_precision(None).name == stored_precision(load_model("llama-2-7b").stored).name == "fp16"


@pytest.mark.parametrize(("name", "gigabytes"), [("gpt-oss-120b", 65.25), ("gpt-oss-20b", 13.76)])
def test_gpt_oss_exists_in_mxfp4_and_weighs_what_openai_publishes(name, gigabytes):
    # Sizes of the safetensors files of openai/gpt-oss-*: metadata.total_size of model.safetensors.index.json.
    spec = load_model(name)
    assert spec.stored_bytes(stored_precision(spec.stored)) == pytest.approx(gigabytes * 1e9, rel=2e-3)

"""Mixtures and hybrids: parameters and cache as their makers publish them."""

import json

import pytest

from afterwatt.modelspecs import ModelError, load_model


def fields(layers, hidden, heads, vocab, **more):
    return {
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "vocab_size": vocab, **more
    }  # fmt: skip


MLA = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
DEEPSEEK_V3 = fields(
    61, 7168, 128, 129280, **MLA, model_type="deepseek_v3", q_lora_rank=1536, first_k_dense_replace=3,
    intermediate_size=18432, moe_intermediate_size=2048, n_routed_experts=256, n_shared_experts=1,
    num_experts_per_tok=8, max_position_embeddings=163840,
)  # fmt: skip
KIMI_K2 = DEEPSEEK_V3 | {
    "model_type": "kimi_k2", "num_attention_heads": 64, "vocab_size": 163840, "first_k_dense_replace": 1,
    "n_routed_experts": 384,
}  # fmt: skip
V2_LITE = fields(
    27, 2048, 16, 102400, **MLA, model_type="deepseek_v2", q_lora_rank=None, first_k_dense_replace=1,
    intermediate_size=10944, moe_intermediate_size=1408, n_routed_experts=64, n_shared_experts=2,
    num_experts_per_tok=6,
)  # fmt: skip
QWEN15_MOE = fields(
    24, 2048, 16, 151936, model_type="qwen2_moe", num_key_value_heads=16, intermediate_size=5632,
    moe_intermediate_size=1408, shared_expert_intermediate_size=5632, num_experts=60, num_experts_per_tok=4,
)  # fmt: skip
SCOUT = fields(
    48, 5120, 40, 202048, model_type="llama4_text", num_key_value_heads=8, head_dim=128, intermediate_size=8192,
    intermediate_size_mlp=16384, num_local_experts=16, num_experts_per_tok=1, interleave_moe_layer_step=1,
    attention_chunk_size=8192, max_position_embeddings=1 << 20,
)  # fmt: skip
MAVERICK = SCOUT | {"num_local_experts": 128, "interleave_moe_layer_step": 2}
MINIMAX_M2 = fields(
    62, 3072, 48, 200064, model_type="minimax_m2", num_key_value_heads=8, head_dim=128, intermediate_size=1536,
    num_local_experts=256, num_experts_per_tok=8, max_position_embeddings=196608,
)  # fmt: skip
GLM_45_AIR = fields(
    46, 4096, 96, 151552, model_type="glm4_moe", num_key_value_heads=8, head_dim=128, attention_bias=True,
    intermediate_size=10944, moe_intermediate_size=1408, n_routed_experts=128, n_shared_experts=1,
    num_experts_per_tok=8, first_k_dense_replace=1,
)  # fmt: skip
GLM_45 = GLM_45_AIR | fields(
    92, 5120, 96, 151552, intermediate_size=12288, moe_intermediate_size=1536, n_routed_experts=160,
    first_k_dense_replace=3, use_qk_norm=True,
)  # fmt: skip
DELTA = {"linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16, "head_dim": 256}
QWEN35_27B = fields(
    64, 5120, 24, 248320, **DELTA, model_type="qwen3_5_text", num_key_value_heads=4, intermediate_size=17408,
    linear_num_value_heads=48,
)  # fmt: skip
QWEN35_35B = fields(
    40, 2048, 16, 248320, **DELTA, model_type="qwen3_5_moe_text", num_key_value_heads=2, linear_num_value_heads=32,
    moe_intermediate_size=512, shared_expert_intermediate_size=512, num_experts=256, num_experts_per_tok=8,
)  # fmt: skip
LFM2_1B = fields(
    16, 2048, 32, 65536, model_type="lfm2", num_key_value_heads=8, intermediate_size=12288, conv_L_cache=3,
    full_attn_idxs=[2, 5, 8, 10, 12, 14],
)  # fmt: skip
NEMOTRON_3_NANO = fields(
    52, 2688, 32, 131072, model_type="nemotron_h", num_key_value_heads=2, head_dim=128, intermediate_size=1856,
    hybrid_override_pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", mamba_num_heads=64,
    mamba_head_dim=64, n_groups=8, ssm_state_size=128, conv_kernel=4, n_routed_experts=128, num_experts_per_tok=6,
    moe_intermediate_size=1856, moe_shared_expert_intermediate_size=3712, n_shared_experts=1,
)  # fmt: skip
MINIMAX_M1 = fields(
    80, 6144, 64, 200064, model_type="minimax_m1", num_key_value_heads=8, head_dim=128, intermediate_size=9216,
    num_local_experts=32, num_experts_per_tok=2, shared_intermediate_size=0, attn_type_list=10 * [*7 * [0], 1],
    max_position_embeddings=10_240_000,
)  # fmt: skip

PUBLISHED = {
    # Parameters of the language model without layers that predict further tokens; within the digits that are published.
    "deepseek-v3": (DEEPSEEK_V3, 671e9, 37e9, 2e-2),  # arXiv:2412.19437: 671B, 37B activated
    "kimi-k2": (KIMI_K2, 1.026e12, 32e9, 3e-2),  # moonshotai/Kimi-K2-Instruct: 1,026B, 32B activated
    "deepseek-v2-lite": (V2_LITE, 15.7e9, 2.4e9, 0.12),  # arXiv:2405.04434: 15.7B, 2.4B activated without the tables
    "qwen1.5-moe": (QWEN15_MOE, 14_315_784_192, 2.7e9, 5e-3),  # keras-hub 71453d0 qwen_moe_presets.py; model card
    "llama-4-scout": (SCOUT, 109e9, 17e9, 2e-2),  # model card; the vision tower is 0.9B of it
    "llama-4-maverick": (MAVERICK, 400e9, 17e9, 2e-2),  # model card
    "minimax-m2": (MINIMAX_M2, 230e9, 10e9, 0.11),  # model card: 230B, 10B activated
    "glm-4.5-air": (GLM_45_AIR, 106e9, 12e9, 0.13),  # arXiv:2508.06471: 106B, 12B activated
    "glm-4.5": (GLM_45, 355e9, 32e9, 6e-2),  # arXiv:2508.06471: 355B, 32B activated
    "qwen3.5-27b": (QWEN35_27B, 26.90e9, 26.90e9, 1e-3),  # 26.90 B in public llama-bench tables
    "qwen3.5-35b": (QWEN35_35B, 34.66e9, 3e9, 0.16),  # 34.66 B there; A3B without the tables
    "lfm2-1.2b": (LFM2_1B, 1.17e9, 1.17e9, 1e-3),  # model card: 1.17B
    "minimax-m1": (MINIMAX_M1, 456e9, 45.9e9, 6e-2),  # arXiv:2501.08313: 456B, 45.9B without the tables
    "nemotron-3-nano": (NEMOTRON_3_NANO, 31.6e9, 3.6e9, 1e-2),  # model card: 31.6B, 3.6B active
}
EXACT = {
    # Elements of the tensors that the files hold for these layers.
    "deepseek-v3": 671_026_419_200,
    "kimi-k2": 1_026_408_232_448,
    "deepseek-v2-lite": 15_706_484_224,
    "qwen1.5-moe": 14_315_784_192,
    "lfm2-1.2b": 1_170_340_608,
    "minimax-m1": 456_089_655_296,
}


def read(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return load_model(tmp_path / "config.json")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(tmp_path, name):
    config, params, active, off = PUBLISHED[name]
    spec = read(tmp_path, config)
    assert spec.params == pytest.approx(params, rel=1.2e-2)
    assert spec.active_params == pytest.approx(active, rel=off)
    assert spec.params == EXACT.get(name, spec.params)


@pytest.mark.parametrize(
    ("config", "per_token"),
    [
        (DEEPSEEK_V3, 61 * 576 * 2),  # 70.272 KB per token: arXiv:2505.09343, table 1
        (KIMI_K2, 61 * 576 * 2),
        (V2_LITE, 27 * 576 * 2),
        (MINIMAX_M2, 62 * 2 * 8 * 128 * 2),
        (QWEN35_27B, 16 * 2 * 4 * 256 * 2),
        (QWEN35_35B, 10 * 2 * 2 * 256 * 2),
        (LFM2_1B, 6 * 2 * 8 * 64 * 2),
        (NEMOTRON_3_NANO, 6 * 2 * 2 * 128 * 2),
        (MINIMAX_M1, 10 * 2 * 8 * 128 * 2),
    ],
)
def test_only_layers_that_attend_keep_something_of_every_token(tmp_path, config, per_token):
    spec = read(tmp_path, config)
    assert spec.kv_bytes_per_token() == per_token
    assert spec.kv_bytes(1000) == 1000 * per_token + spec.state_bytes
    assert spec.kv_bytes(0) == spec.state_bytes


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        # 48 heads of 128 x 128 in 32 bits, three past inputs of a convolution over 10,240 channels in 16.
        (QWEN35_27B, 48 * (48 * 128 * 128 * 4 + 3 * 10_240 * 2)),
        (LFM2_1B, 10 * 3 * 2048 * 2),
        # 23 layers of 4,096 x 128 in 32 bits, and three past inputs over 6,144 channels.
        (NEMOTRON_3_NANO, 23 * (4096 * 128 * 4 + 3 * 6144 * 2)),
        (DEEPSEEK_V3, 0),
    ],
)
def test_states_are_of_a_fixed_size(tmp_path, config, kept):
    assert read(tmp_path, config).state_bytes == kept


def test_chunks_bound_what_three_layers_of_four_keep(tmp_path):
    spec = read(tmp_path, SCOUT)
    assert spec.pattern == "wwwf"
    assert spec.kv_bytes(100_000) == (36 * 8192 + 12 * 100_000) * 2 * 8 * 128 * 2
    assert read(tmp_path, SCOUT | {"attention_chunk_size": None}).sliding_window is None


def test_stages_hold_the_layers_that_they_are_given(tmp_path):
    spec = read(tmp_path, DEEPSEEK_V3)
    first, rest = spec.kinds(0, 16), spec.kinds(16)
    assert {kind.network: count for kind, count in first.items()} == {"dense": 3, "experts": 13}
    assert {kind.network: count for kind, count in rest.items()} == {"experts": 45}
    assert spec.expert_layers == 58
    nano = read(tmp_path, NEMOTRON_3_NANO)
    assert {(kind.mixer, kind.network): count for kind, count in nano.kinds().items()} == {
        ("state", None): 23, ("full", None): 6, (None, "experts"): 23,
    }  # fmt: skip
    assert (nano.attention_layers, nano.expert_layers) == (6, 23)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DEEPSEEK_V3 | {"kv_lora_rank": None}, "kv_lora_rank is missing"),
        (DEEPSEEK_V3 | {"moe_layer_freq": 2}, "moe_layer_freq = 2 means layers without experts"),
        (NEMOTRON_3_NANO | {"hybrid_override_pattern": "MX"}, "hybrid_override_pattern = 'MX' must be made of"),
        (NEMOTRON_3_NANO | {"hybrid_override_pattern": "M-E"}, "one of - and E"),
        (NEMOTRON_3_NANO | {"num_hidden_layers": 51}, "num_hidden_layers says otherwise"),
        (NEMOTRON_3_NANO | {"moe_latent_size": 1024}, "which is not modelled"),
        (LFM2_1B | {"full_attn_idxs": "all"}, "must be a list of whole numbers"),
        (QWEN35_35B | {"mlp_only_layers": [0]}, "layers without experts"),
    ],
)
def test_a_shape_that_cannot_be_told_is_refused(tmp_path, config, message):
    with pytest.raises(ModelError, match=message):
        read(tmp_path, config)


LATENT_TOML = """
family = "deepseek_v3"
source = "a notebook"
checked = "2026-11-20"
stored = "fp8"
[shape]
layers = 4
hidden = 64
heads = 4
kv_heads = 4
head_dim = 24
ffn = 32
ffn_matrices = 3
vocab = 100
max_context = 128
norm = "rms"
pattern = "fs"
[shape.latent]
kv_rank = 16
nope_dim = 16
rope_dim = 8
value_dim = 16
[shape.state]
kind = "short convolution"
width = 64
matrix_params = 100
vectors = 10
state_bytes = 1000
flops_per_token = 1
"""


def test_ones_own_toml_may_have_them_too(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(LATENT_TOML)
    spec = load_model(path)
    attention = 64 * 4 * 24 + 64 * (16 + 8) + 16 * 4 * (16 + 16) + 4 * 16 * 64 + 16
    each = 3 * 64 * 32 + 2 * 64
    assert spec.params == 2 * (attention + each) + 2 * (110 + each) + 2 * 100 * 64 + 64
    assert spec.kv_bytes(10, 1.0) == 2 * 10 * 24 + 2 * 1000
    assert spec.stored.precision.name == "fp8"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('pattern = "fs"', 'pattern = "fx"', "pattern = 'fx' must be made of f, w, s"),
        ('pattern = "fs"', 'pattern = "fw"', "has 'w', but sliding_window is missing"),
        ("kv_rank = 16", "kv_rank = -1", r"shape\.latent\.kv_rank = -1 must be a whole number"),
        ("kv_rank = 16", "rank = 16", r"unknown key shape\.latent\.rank"),
        ("state_bytes = 1000\n", "", r"shape\.state\.state_bytes = None must be"),
        ('stored = "fp8"', 'stored = "fp9"', "unknown precision 'fp9'"),
        ('norm = "rms"', 'norm = "rms"\ndense_layers = 5', "dense_layers = 5 exceeds layers = 4"),
    ],
)
def test_a_bad_part_is_refused(tmp_path, old, new, message):
    path = tmp_path / "mine.toml"
    path.write_text(LATENT_TOML.replace(old, new))
    with pytest.raises(ModelError, match=message):
        load_model(path)


def test_lightning_attention_keeps_a_matrix_per_head_and_reads_it_with_every_token(tmp_path):
    """70 of 80 layers with 64 heads of 128 x 128 cells in 32 bits: 294 MB of a sequence, whatever its length."""
    spec = read(tmp_path, MINIMAX_M1)
    assert spec.state_bytes == 70 * 64 * 128 * 128 * 4
    assert spec.kv_bytes(1_000_000) - spec.kv_bytes(0) == 1_000_000 * 10 * 2 * 8 * 128 * 2
    assert spec.state.flops_per_token == 5 * 64 * 128 * 128
    shipped = load_model("minimax-m1")
    assert (shipped.state, shipped.pattern, shipped.kinds()) == (spec.state, spec.pattern, spec.kinds())
    named = MINIMAX_M1 | {"model_type": "minimax", "layer_types": 10 * [*7 * ["linear_attention"], "full_attention"]}
    del named["attn_type_list"]
    assert read(tmp_path, named).kinds() == spec.kinds()


@pytest.mark.parametrize("said", [[0, 1], 80 * [2]])
def test_a_list_of_attention_that_fits_no_layers_is_refused(tmp_path, said):
    with pytest.raises(ModelError, match="attn_type_list must say 0"):
        read(tmp_path, MINIMAX_M1 | {"attn_type_list": said})

"""What must hold of any shape: sums, limits, monotonicity, and the storage formats."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.modelspecs import PRECISIONS, ModelError, load_model, load_precision, model_names
from afterwatt.modelspecs.layers import STATE

names = st.sampled_from(model_names())


@pytest.mark.parametrize("name", model_names())
def test_the_parts_add_up_to_the_whole(name):
    spec = load_model(name)
    tied = spec.head_params if spec.tied_embeddings else 0
    tied -= spec.vocab if spec.head_bias else 0
    whole = (
        sum(n * spec.layer_params(kind) for kind, n in spec.kinds().items())
        + spec.embedding_params
        + spec.head_params
        + spec.final_norm_params
        - tied
    )
    assert spec.params == whole


@pytest.mark.parametrize("name", model_names())
def test_flops_are_twice_the_active_weights_of_the_layers(name):
    # Norms and biases are weights that cost no multiply-accumulate: they are what the two differ by, under 0.1 %.
    spec = load_model(name)
    outside = spec.embedding_params + spec.stored_head_params + spec.final_norm_params
    weights = spec.active_params - outside
    # States are arithmetic without weights (tests/hwprofiles/test_mixers.py derives it).
    layers = sum(count for kind, count in spec.kinds().items() if kind.mixer == STATE)
    states = layers * spec.state.flops_per_token if spec.state else 0
    assert 0.999 * 2 * weights < spec.linear_flops_per_token - states <= 2 * weights


def test_the_cache_of_llama_2_7b_is_half_a_mebibyte_a_token():
    # 2 x 32 layers x 32 heads x 128 x 2 bytes; Kwon et al. 2023 (arXiv:2309.06180) gives 800 kB for OPT-13B.
    assert load_model("llama-2-7b").kv_bytes_per_token() == 524_288
    assert load_model("llama-2-7b").kv_bytes_per_token(1) == 262_144
    assert load_model("opt-13b").kv_bytes_per_token() == 800 * 1024


def test_grouped_queries_shrink_the_cache_by_the_group():
    spec = load_model("llama-2-70b")
    ungrouped = replace(spec, kv_heads=spec.heads)
    assert ungrouped.kv_bytes_per_token() == 8 * spec.kv_bytes_per_token()


@given(names, st.integers(0, 10_000))
def test_touched_experts_stay_between_one_token_s_and_all(name, tokens):
    spec = load_model(name)
    touched = spec.distinct_experts(tokens)
    assert touched <= spec.experts
    assert touched <= tokens * spec.active_experts + 1e-9
    assert touched <= spec.distinct_experts(tokens + 1)


def test_touched_experts_in_the_limits():
    mixtral, dense = load_model("mixtral-8x7b"), load_model("llama-2-7b")
    assert mixtral.distinct_experts(0) == 0
    assert mixtral.distinct_experts(1) == pytest.approx(2)
    assert mixtral.distinct_experts(10_000) == pytest.approx(8)
    assert [dense.distinct_experts(n) for n in (0, 1, 7)] == [0, 1, 1]
    with pytest.raises(ModelError, match="tokens = -1 must be 0 or more"):
        mixtral.distinct_experts(-1)


@given(names, st.sampled_from(["layers", "vocab", "ffn", "hidden", "head_dim", "experts"]), st.integers(1, 3))
def test_a_larger_shape_never_has_fewer_parameters_flops_or_bytes(name, field, factor):
    spec = load_model(name)
    larger = replace(spec, **{field: getattr(spec, field) * factor})
    for quantity in ("params", "active_params", "linear_flops_per_token", "head_flops_per_token"):
        assert getattr(larger, quantity) >= getattr(spec, quantity)
    assert larger.kv_bytes_per_token() >= spec.kv_bytes_per_token()
    assert all(larger.stored_bytes(p) >= spec.stored_bytes(p) for p in PRECISIONS)


@pytest.mark.parametrize("name", model_names())
def test_unquantised_storage_is_bytes_times_parameters(name):
    spec = load_model(name)
    assert spec.stored_bytes("fp32") == 4 * spec.params
    assert spec.stored_bytes("fp16") == spec.stored_bytes("bf16") == 2 * spec.params
    assert spec.stored_bytes("int4") < spec.stored_bytes("fp8") < spec.stored_bytes("int8") < spec.stored_bytes("fp16")


def test_int4_of_llama_2_7b_is_what_an_awq_checkpoint_weighs():
    # TheBloke/Llama-2-7B-AWQ: 3.89 GB (with zero points); only the layers' matrices are 4 bit, with a scale per 128.
    spec = load_model("llama-2-7b")
    matrices = spec.layers * (spec.attention_matrix_params + spec.ffn_matrix_params)
    others = spec.params - matrices
    assert spec.stored_bytes("int4") == matrices * 4.125 / 8 + 2 * others
    assert spec.stored_bytes("int4") == pytest.approx(3.89e9, rel=0.01)


def test_own_precisions_are_taken_and_unknown_names_refused():
    spec = load_model("llama-2-7b")
    assert spec.stored_bytes(load_precision("FP16")) == spec.stored_bytes("fp16")
    with pytest.raises(ModelError, match=r"unknown precision 'in4'; did you mean 'int4'\?"):
        spec.stored_bytes("in4")


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("form", ["fp16", "int4", "q4_k_m", "mxfp4", "int8-head"])
def test_the_stored_parts_add_up_and_a_tied_table_counts_once(name, form):
    spec = load_model(name)
    outside = spec.stored_bytes(form) - spec.layers * spec.layer_bytes(form)
    norm = spec.final_norm_params * spec.form(form).bytes_per_other
    bias = spec.vocab * spec.form(form).bytes_per_head if spec.head_bias else 0.0
    head = bias + (0.0 if spec.tied_embeddings else spec.head_bytes(form))
    assert outside == pytest.approx(spec.embedding_bytes(form) + head + norm, rel=1e-9)


def test_a_wider_attention_weighs_as_if_it_were_stored_apart():
    spec, mxfp4 = load_model("mixtral-8x7b"), load_precision("mxfp4")
    narrow = replace(mxfp4, attention_bits=None)
    wider = (mxfp4.bytes_per_attention_weight - mxfp4.bytes_per_weight) * spec.attention_matrix_params
    assert spec.layer_bytes(mxfp4, 2) - spec.layer_bytes(narrow, 2) == pytest.approx(wider)

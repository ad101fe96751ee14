"""Work of a phase: counted one token and one pair at a time, it must come out the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.modelspecs import (
    ModelError,
    causal_pairs,
    decode_flops,
    decode_intensity,
    kv_bytes_read,
    load_model,
    model_names,
    prefill_flops,
    weight_bytes_read,
)

names = st.sampled_from(model_names())


@given(st.integers(0, 60), st.integers(0, 60))
def test_pairs_counted_one_by_one(new, past):
    assert causal_pairs(new, past) == sum(1 for query in range(new) for key in range(past + new) if key <= past + query)


@given(names, st.integers(1, 4096), st.integers(1, 4096))
def test_a_prefill_in_two_chunks_costs_one_head_more_and_nothing_else(name, first, second):
    spec = load_model(name)
    chunked = prefill_flops(spec, first) + prefill_flops(spec, second, first)
    assert chunked == prefill_flops(spec, first + second) + spec.head_flops_per_token


@given(names, st.integers(1, 300))
def test_a_decode_step_is_a_prefill_of_one_token(name, context):
    spec = load_model(name)
    assert decode_flops(spec, context) == prefill_flops(spec, 1, context - 1)


def test_forward_flops_of_gpt3_s_shape_are_those_of_megatron_s_formula():
    # Narayanan et al. 2021, arXiv:2104.04473, appendix: forward and backward 72 B s l h^2 (1 + s / 6h + V / 12lh), a
    # third of it forward, with the head for all s positions and all s^2 pairs. Same for OPT-175B, whose FFN is 4h.
    spec = load_model("opt-175b")
    s, h, layers, vocab = 2048, spec.hidden, spec.layers, spec.vocab
    ours = s * spec.linear_flops_per_token + s * s * spec.attention_flops_per_pair + s * spec.head_flops_per_token
    assert ours == pytest.approx(72 / 3 * s * layers * h * h * (1 + s / (6 * h) + vocab / (12 * layers * h)), rel=1e-12)


def test_weights_read_by_a_dense_model_do_not_depend_on_the_batch():
    spec = load_model("llama-2-7b")
    assert weight_bytes_read(spec, 1, "fp16") == weight_bytes_read(spec, 64, "fp16")
    # All but the embedding and the final norm.
    expected = 2 * (spec.params - spec.embedding_params - spec.final_norm_params)
    assert weight_bytes_read(spec, 1, "fp16") == pytest.approx(expected)


@given(st.integers(1, 100))
def test_weights_read_by_a_mixture_grow_with_the_batch_up_to_all_of_them(batch):
    spec = load_model("mixtral-8x7b")
    everything = 2 * (spec.params - spec.embedding_params - spec.final_norm_params)
    read = weight_bytes_read(spec, batch, "fp16")
    assert read < weight_bytes_read(spec, batch + 1, "fp16") <= everything * (1 + 1e-12)


def test_a_single_decode_of_a_dense_model_does_about_one_flop_per_fp16_byte():
    # Two FLOPs per weight of two bytes: the reason that decode is bound by memory.
    for name in ("llama-2-7b", "opt-30b", "falcon-40b"):
        assert decode_intensity(load_model(name), 1, 1, "fp16") == pytest.approx(1, rel=0.01)


@given(names, st.integers(1, 64), st.integers(1, 2048))
def test_batching_raises_the_intensity_and_the_cache_limits_it(name, batch, context):
    spec = load_model(name)
    assert decode_intensity(spec, batch + 1, context, "fp16") > 0.999 * decode_intensity(spec, batch, context, "fp16")
    ceiling = decode_flops(spec, context) / kv_bytes_read(spec, context)
    assert decode_intensity(spec, batch, context, "fp16") < ceiling


def test_negative_counts_are_refused():
    with pytest.raises(ModelError, match="past_tokens = -1 must both be 0 or more"):
        causal_pairs(1, -1)

"""Over how many GPUs a model can be split, as engines accept it."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.modelspecs import load_model, load_precision, model_names
from afterwatt.modelspecs.split import split_obstacles, splits_that_work


@pytest.mark.parametrize(
    ("model", "precision", "ways", "why"),
    [
        ("qwen2.5-7b", "fp16", 8, "28 attention heads are no multiple of 8"),
        ("llama-2-7b", "fp16", 3, "32 attention heads are no multiple of 3"),
        ("falcon-7b", "fp16", 2, "71 attention heads are no multiple of 2"),
        ("qwen2.5-7b", "fp16", 7, "4 key/value heads neither divide 7 nor are a multiple of it"),
        ("qwen2.5-72b", "awq", 2, "29,568 of the feed-forward network in groups of 128 (awq) does not split over 2"),
        ("qwen2.5-72b", "gptq", 8, "29,568 of the feed-forward network in groups of 128"),
        ("qwen2.5-0.5b", "gptq", 2, "896 of attention in groups of 128 (gptq) does not split over 2"),
        ("qwen3-30b-a3b", "awq", 4, "768 of the feed-forward network in groups of 128"),
    ],
)
def test_what_cannot_be_shared_out_is_named(model, precision, ways, why):
    assert why in "; ".join(split_obstacles(load_model(model), load_precision(precision), ways))


@pytest.mark.parametrize(
    ("model", "precision", "works"),
    [
        ("qwen2.5-7b", "fp16", (1, 2, 4)),
        ("falcon-7b", "fp16", (1,)),
        ("llama-2-7b", "fp16", (1, 2, 4, 8, 16, 32)),
        ("qwen2.5-72b", "fp16", (1, 2, 4, 8, 16, 32, 64)),
        ("qwen2.5-72b", "awq", (1,)),
        ("qwen3-30b-a3b", "fp16", (1, 2, 4, 8, 16, 32)),
        ("qwen3-30b-a3b", "awq", (1, 2)),
        ("llama-3.1-70b", "awq", (1, 2, 4, 8, 16, 32)),
        ("gpt-oss-120b", "mxfp4", (1, 2, 4, 8, 16, 32, 64)),
        ("gpt-oss-20b", "mxfp4-bf16", (1, 2, 4, 8, 16, 32, 64)),
    ],
)
def test_degrees_that_work(model, precision, works):
    assert splits_that_work(load_model(model), load_precision(precision)) == works


def test_attention_in_sixteen_bits_has_no_groups():
    awq = load_precision("awq")
    wide = dataclasses.replace(awq, attention_bits=16.0)
    spec = load_model("qwen2.5-0.5b")
    assert "attention" in split_obstacles(spec, awq, 2)[0]
    assert not any("attention in groups" in why for why in split_obstacles(spec, wide, 2))


@given(st.sampled_from(model_names()), st.integers(2, 64))
def test_whole_heads_and_whole_columns_are_needed_and_enough(name, ways):
    spec, plain = load_model(name), load_precision("fp16")
    heads, kept = spec.heads / ways, max(spec.kv_heads, ways) / min(spec.kv_heads, ways)
    whole = all(part == int(part) for part in (heads, kept, spec.ffn / ways))
    assert whole == (not split_obstacles(spec, plain, ways))
    assert not split_obstacles(spec, plain, 1)

"""Seconds in kinds of kernels: closed forms, and never longer than the iteration they are part of."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.hwprofiles import parse_deployment
from afterwatt.hwprofiles.effort import occupancy
from afterwatt.hwprofiles.mixers import StepShape
from afterwatt.hwprofiles.roofline import PS_PER_S, TimeModel
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.hwprofiles.step import StepModel
from afterwatt.modelspecs import load_model
from afterwatt.modelspecs.precision import load_precision


def step_of(hw="a100-80", model="llama-2-7b", precision="fp16"):
    deployment = parse_deployment(hw)
    stack, spec, stored = load_stack(deployment.pool.device), load_model(model), load_precision(precision)
    return StepModel(Serving(deployment, spec, stored, stack))


def occupied(step, decoding, context, chunk=0, past=0):
    pairs = chunk * past + chunk * (chunk + 1) / 2
    numbers = (decoding, context, decoding, chunk, past, pairs, chunk * chunk)
    shape = StepShape(*(np.array([float(number)]) for number in numbers))
    return occupancy(step, shape)


def test_a_dense_model_in_sixteen_bits_spends_nothing_on_experts_or_unpacking():
    found = occupied(step_of(), 4, 4000)
    assert found.expert_s == 0.0
    assert found.unpack_s == 0.0
    assert found.attention_s > 0.0


def test_attention_is_reading_and_multiplying():
    """Of decoding: each entry of the cache once, and two multiply-adds per pair and head dimension."""
    step = step_of()
    spec, stack, rates = step.serving.model, step.serving.stack, step.rates
    read_s = 4000 * spec.kv_bytes_per_token(stack.kv_bytes_per_element) / rates.attention.bytes_per_s
    pairs_s = 4000 * spec.attention_flops_per_pair / rates.attention.flops_per_s
    assert occupied(step, 4, 4000).attention_s == pytest.approx(read_s + pairs_s)


@given(st.integers(1, 64), st.integers(1, 4000), st.integers(0, 512), st.integers(0, 2000), st.integers(1, 50))
@settings(deadline=None, max_examples=50)
def test_the_slope_is_the_growth_per_iteration(decoding, each, chunk, past, k):
    """Contexts grow by a token, a prompt's past by its piece."""
    step = step_of()
    first = occupied(step, decoding, decoding * each, chunk, past)
    later = occupied(step, decoding, decoding * (each + k), chunk, past + k * chunk)
    assert later.attention_s == pytest.approx(first.attention_s + k * first.attention_slope_s, rel=1e-9)
    assert (later.expert_s, later.unpack_s) == (first.expert_s, first.unpack_s)


@pytest.mark.parametrize(
    ("hw", "model", "precision"),
    [
        ("a100-80", "llama-2-7b", "fp16"),
        ("p40", "llama-2-7b", "int4"),
        ("2xa100-80:tp2", "mixtral-8x7b", "fp16"),
        ("h100-sxm", "mixtral-8x7b", "int4"),
    ],
)
@pytest.mark.parametrize(("decoding", "context"), [(1, 100), (16, 8000), (64, 64_000)])
def test_no_kind_of_kernel_takes_longer_than_the_iteration(hw, model, precision, decoding, context):
    step = step_of(hw, model, precision)
    found = occupied(step, decoding, context)
    seconds = TimeModel(step.serving).step(decoding, context, (), decoding, 1)[0] / PS_PER_S
    for part in (found.attention_s, found.expert_s, found.unpack_s):
        assert part[0] / step.serving.pool.tp <= seconds * (1 + 1e-9)


def test_quantised_weights_are_unpacked_once_per_iteration_whatever_the_batch():
    step = step_of("p40", "llama-2-7b", "int4")
    alone, together = occupied(step, 1, 100), occupied(step, 32, 3200)
    assert alone.unpack_s == together.unpack_s
    assert alone.unpack_s > 0.0


def test_more_tokens_reach_more_experts():
    step = step_of("2xa100-80:tp2", "mixtral-8x7b")
    assert occupied(step, 1, 100).expert_s < occupied(step, 8, 800).expert_s

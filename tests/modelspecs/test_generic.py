"""A shape from a parameter count: the count comes out, and the catalogue's own models lie near the rule."""

import dataclasses
import math

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from afterwatt.modelspecs import ModelError, generic_shape, load_model, load_precision, model_names, weight_bytes_read
from afterwatt.modelspecs.generic import SPREAD

counts = st.floats(math.log(5.1e7), math.log(4.9e12)).map(math.exp)

USUAL_MIXTURE = dataclasses.replace(load_precision("q4_k_m"), name="usual")
"""Of rows that are multiples of 256: which rows a model has, its size does not tell."""


def plain(name):
    """Whether a model is of attention and networks alone, as the rule is: no latent vectors, states, shared experts."""
    spec = load_model(name)
    return spec.latent is None and spec.state is None and not spec.shared_ffn and not spec.dense_layers


PLAIN = [name for name in model_names() if plain(name)]


def as_if_unknown(name):
    spec = load_model(name)
    return spec, generic_shape(spec.params, spec.active_params if spec.experts > 1 else None)


@given(counts)
def test_the_parameter_count_comes_out(params):
    spec = generic_shape(params)
    assert spec.params == pytest.approx(params, rel=0.01)
    assert spec.experts == 1
    assert spec.family == "generic"
    assert "generic shape" in spec.source


@given(counts.filter(lambda count: count > 2e9), st.floats(0.02, 0.6))
@example(30e9, 0.1)
def test_total_and_active_counts_of_a_mixture_come_out(params, share):
    assume(share * params > 3e8)  # below, the tables alone weigh as much
    spec = generic_shape(params, share * params)
    assert spec.params == pytest.approx(params, rel=0.01)
    assert spec.active_params == pytest.approx(share * params, rel=0.15)
    assert spec.active_experts < spec.experts


@given(counts, st.floats(1.5, 30.0))
def test_a_larger_model_is_neither_shallower_nor_narrower(params, factor):
    small, large = generic_shape(params), generic_shape(min(params * factor, 4.9e12))
    assert large.hidden >= small.hidden or large.layers > small.layers
    assert large.layers * large.hidden >= 0.9 * small.layers * small.hidden


@pytest.mark.parametrize("name", model_names())
def test_a_catalogued_model_s_counts_come_out_of_its_sizes_alone(name):
    spec, guess = as_if_unknown(name)
    assert guess.params == pytest.approx(spec.params, rel=0.005)
    assert guess.active_params == pytest.approx(spec.active_params, rel=0.05)
    assert guess.stored_bytes(USUAL_MIXTURE) == pytest.approx(spec.stored_bytes(USUAL_MIXTURE), rel=0.1)


@pytest.mark.parametrize("quantity", SPREAD)
def test_nine_in_ten_of_the_catalogue_lie_within_the_stated_factor_of_the_rule(quantity):
    offs = []
    for name in PLAIN:
        spec, guess = as_if_unknown(name)
        offs.append(math.log(getattr(guess, quantity) / getattr(spec, quantity)))
    inside = [off for off in offs if abs(off) <= math.log(SPREAD[quantity])]
    assert len(inside) >= 0.9 * len(offs)
    assert abs(sorted(offs)[len(offs) // 2]) < 0.1, "the rule is centred"


@pytest.mark.parametrize("form", ["fp16", USUAL_MIXTURE], ids=["fp16", "q4_k_m"])
def test_nine_in_ten_read_the_weights_of_a_step_within_seven_percent(form):
    offs = []
    for name in PLAIN:
        spec, guess = as_if_unknown(name)
        offs.append(abs(weight_bytes_read(guess, 1, form) / weight_bytes_read(spec, 1, form) - 1))
    assert sorted(offs)[int(0.9 * len(offs))] < 0.07


def test_heads_are_as_today_s_models_have_them():
    for params in (7e9, 14e9, 32e9, 70e9, 400e9):
        spec = generic_shape(params)
        assert (spec.head_dim, spec.kv_heads, spec.ffn_matrices) == (128, 8, 3)
        assert spec.heads * spec.head_dim == spec.hidden


def test_a_known_vocabulary_is_taken_and_small_models_tie_their_tables():
    assert generic_shape(9e9, vocab=32_000).vocab == 32_000
    assert generic_shape(1e9).tied_embeddings
    assert not generic_shape(9e9).tied_embeddings


@pytest.mark.parametrize(
    ("params", "active", "name"),
    [
        (9e9, None, "generic-9b"),
        (1.1e9, None, "generic-1.1b"),
        (3.5e8, None, "generic-350m"),
        (3e10, 3e9, "generic-30b-a3b"),
    ],
)
def test_it_is_named_by_its_size(params, active, name):
    assert generic_shape(params, active).name == name
    assert generic_shape(params, active, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("params", "active", "says"),
    [
        (7, None, "not billions"),
        (1e14, None, "out of range"),
        (7e9, 8e9, "must be 1 to 100 %"),
        (7e9, 1e6, "must be 1 to 100 %"),
    ],
)
def test_absurd_counts_are_refused(params, active, says):
    with pytest.raises(ModelError, match=says):
        generic_shape(params, active)

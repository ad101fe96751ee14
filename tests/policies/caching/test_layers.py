"""Layers in host memory: closed forms of passes over a model, and nothing is gone before it is needed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.policies.caching.layers import LayerArea
from afterwatt.policies.errors import PolicyError


@st.composite
def areas(draw: st.DrawFn) -> tuple[int, int, int, int]:
    layers = draw(st.integers(2, 20))
    fixed = draw(st.integers(0, layers))
    ahead = draw(st.integers(1, min(4, layers - 1)))
    dynamic = draw(st.integers(ahead + 1, layers + 3))
    return layers, fixed, dynamic, ahead


@given(areas(), st.integers(2, 4))
def test_passes_load_what_does_not_stay(sizes, passes: int):
    layers, fixed, dynamic, _ = sizes
    area = LayerArea(*sizes)
    begun = area.begin()
    held = set(begun.loads)
    assert set(range(fixed)) <= held
    loads = []
    for _ in range(passes):
        loads.append(0)
        for layer in range(layers):
            assert area.holds(layer), "what is computed is there"
            found = area.step(layer)
            loads[-1] += len(found.loads)
            assert set(found.evicted) <= held - set(range(fixed))
            held = (held - set(found.evicted)) | set(found.loads)
            assert held == {other for other in range(layers) if area.holds(other)}
            assert len(held) <= fixed + dynamic
    moving = layers - fixed
    assert loads[1:] == [0 if moving <= dynamic else moving] * (passes - 1)
    assert len(begun.loads) + loads[0] == (layers if moving <= dynamic else moving + len(begun.loads)) or not moving


def test_a_model_that_fits_is_read_once():
    area = LayerArea(8, 8, 0)
    assert area.begin().loads == tuple(range(8))
    assert not any(area.step(layer).loads for layer in range(8))


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((8, 9, 0), "give 0 to 8 fixed"),
        ((8, 0, -1), "make no sense"),
        ((0, 0, 1), "make no sense"),
        ((8, 2, 3, 8), "look 1 to 7 ahead"),
        ((8, 2, 2, 2), "give room for 3"),
    ],
)
def test_what_cannot_work_is_refused(sizes, says: str):
    with pytest.raises(PolicyError, match=says):
        LayerArea(*sizes)

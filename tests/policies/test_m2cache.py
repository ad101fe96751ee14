"""M2Cache's words and where it lays weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.policies.config import parse_policies
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.m2cache import M2Cache
from afterwatt.policies.making import UnknownCosts
from afterwatt.policies.placement import ATTENTION, DENSE, EXPERTS, HEAD, Piece, WeightView

RATIOS = {"fp16": 1.0, "int8": 0.5, "int4": 0.25}


def policy(**words: str) -> M2Cache:
    return M2Cache({"density": "10", **words}, UnknownCosts())


def view(layers: int, dram: float) -> WeightView:
    pieces = [piece for n in range(layers) for piece in (Piece(n, ATTENTION, 40.0), Piece(n, DENSE, 100.0))]
    return WeightView((*pieces, Piece(layers - 1, HEAD, 7.0)), layers, {"hbm": 1e3, "dram": dram, "ssd": 1e6}, RATIOS)


@given(st.integers(4, 20), st.floats(200.0, 2000.0), st.sampled_from(("25/25/50", "int4:100", "fp16:50/int8:25")))
def test_bytes_of_every_level_follow_from_the_words(layers: int, dram: float, shares: str) -> None:
    made, seen = policy(shares=shares, room="20"), view(layers, dram)
    mean = {"25/25/50": 0.5, "int4:100": 0.25, "fp16:50/int8:25": 0.625}[shares]
    layout = made.layout(seen)
    assert layout.tier_bytes("hbm") == pytest.approx(40.0 * layers + 7.0 + 0.2 * 100.0 * mean * layers)
    assert layout.tier_bytes("ssd") == pytest.approx(100.0 * mean * layers)
    fits = int(dram // (100.0 * mean))
    held = layers if fits >= layers else max(fits, 3)
    assert layout.tier_bytes("dram") == pytest.approx(100.0 * mean * min(held, layers))
    streamed = sum(at.piece.size_bytes for at in layout.placed if at.streamed)
    assert streamed == pytest.approx(layout.tier_bytes("ssd"))  # copies are counted once
    begun = made.area(seen).begin()
    assert len(begun.loads) <= held


def test_stated_areas_are_taken_as_they_are() -> None:
    layout = policy(dram="2/3").layout(view(10, 1e5))
    assert {at.piece.layer for at in layout.placed if at.tier == "dram"} == set(range(5))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m2cache+density=0", "no percentage above 0"),
        ("m2cache+density=101", "no percentage above 0"),
        ("m2cache+density=10+ahead=0", "no whole number from 1"),
        ("m2cache+density=10+dram=5", "no pair of layers"),
        ("m2cache+density=10+cache=fifo", "known: adjacent, lru, lfu, window, momentum, static"),
        ("m2cache+density=10+tokens=5", "takes no words"),
        ("m2cache+density=10+shares=60/60", "add up to 1.2"),
    ],
)
def test_words_that_make_no_sense_are_refused(text: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        parse_policies(text)


def test_words_come_back_in_the_name() -> None:
    text = "chunked+m2cache+cache=window+density=10+tokens=3"
    assert parse_policies(text).name == text


def test_experts_and_unknown_precisions_are_refused() -> None:
    with pytest.raises(PolicyError, match="this model has experts"):
        policy().layout(WeightView((Piece(0, EXPERTS, 1.0),), 1, {"dram": 1.0}, RATIOS))
    with pytest.raises(PolicyError, match="name fp12, which nobody stores weights in"):
        policy(shares="fp12:100").layout(view(4, 1e5))


def test_without_a_density_one_is_assumed_and_said_to_be() -> None:
    bare, stated = M2Cache({}, UnknownCosts()), policy()
    assert bare.density == stated.density == 0.1
    assert bare.assumed
    assert not stated.assumed

"""Shares of precision: they add up, by rank and in bytes, and the search keeps to its budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.policies.errors import PolicyError
from afterwatt.policies.precision import Share, Shares, guided_shares, parse_shares, uniform

BYTES = {"fp16": 24, "int8": 13, "int4": 7}
M2CACHE = parse_shares("25/25/50")


def unit_bytes(precision: str) -> int:
    return BYTES[precision]


@given(st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(lambda parts: sum(parts) > 0), st.integers(1, 500))
def test_units_by_rank_are_counted_once(parts: list[int], units: int):
    whole = sum(parts)
    shares = Shares(tuple(Share(name, part / whole) for name, part in zip(BYTES, parts, strict=True)))
    counts = shares.counts(units)
    by_rank = [shares.precision_of(rank, units) for rank in range(units)]
    assert [by_rank.count(name) for name in BYTES] == list(counts)
    assert sum(counts) == units
    assert shares.stored_bytes(units, unit_bytes) == sum(BYTES[name] for name in by_rank)
    assert [name for name in BYTES if name in by_rank] == list(dict.fromkeys(by_rank)), "the important ones first"


def test_m2caches_mix_is_eight_bits_on_average():
    bits = {"fp16": 16, "int8": 8, "int4": 4}
    assert M2CACHE.stored_bytes(1000, bits.__getitem__) == 8 * 1000
    assert uniform("int8").stored_bytes(1000, bits.__getitem__) == 8 * 1000


def test_shares_are_read_as_they_are_written():
    assert Shares((Share("fp16", 0.25), Share("int8", 0.25), Share("int4", 0.5))) == M2CACHE
    assert str(M2CACHE) == "fp16:25/int8:25/int4:50"
    assert parse_shares(str(M2CACHE)) == M2CACHE
    assert parse_shares("fp16:10/int4:40").counts(10) == (1, 4)
    assert parse_shares("fp16:10/int4:40").precision_of(5, 10) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("60/60", "add up to 1.2"),
        ("x", "'x' is no percentage"),
        ("1/2/3/4", "has 4 parts"),
        ("fp16:50/fp16:50", "each precision once"),
        ("-5/10", "from 0 to 1"),
    ],
)
def test_shares_that_make_no_sense_are_refused(text: str, says: str):
    with pytest.raises(PolicyError, match=says):
        parse_shares(text)


@given(st.integers(7, 30_000), st.integers(1, 1000), st.floats(0.0, 1.0))
def test_the_search_keeps_to_its_budget_and_finds_the_least_uncertain_mix(budget: int, units: int, best: float):
    """Of what it looks at: a valley at some share of high precision."""
    seen: list[tuple[float, Shares]] = []

    def uncertainty(mix: Shares) -> float:
        seen.append((abs(mix.shares[0].frac - best), mix))
        assert mix.stored_bytes(units, unit_bytes) <= budget + 24  # a count may be rounded up
        return seen[-1][0]

    found = guided_shares("fp16", "int4", budget, units, unit_bytes, uncertainty)
    assert len(seen) == 21
    assert abs(found.shares[0].frac - best) == min(score for score, _ in seen)
    assert seen[0][1].shares[0].frac == 0.0
    assert seen[0][1].counts(units)[1] == min(units, budget // 7), "it begins with all at the low precision"


def test_a_budget_for_nothing_is_refused():
    for budget, high, low in ((6, "fp16", "int4"), (100, "int4", "fp16")):
        with pytest.raises(PolicyError, match="a budget of"):
            guided_shares(high, low, budget, 10, unit_bytes, lambda _: 0.0)

"""Allocation rules: whatever the rule, all owners of a thing together carry what making it emitted."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.lives import ALLOCATIONS, Life, allocated_frac, new_life, second_hand_life
from afterwatt.hwprofiles.units import S_PER_YEAR

years = st.floats(0.1, 12.0).map(lambda value: value * S_PER_YEAR)
cuts = st.lists(st.floats(0.0, 1.0), max_size=6).map(lambda shares: [0.0, *sorted(shares), 1.0])


@st.composite
def owners(draw):
    """Return the lives of one thing's owners in turn, each buying from the one before."""
    planned = draw(st.lists(years, min_size=1, max_size=5))
    ends = [sum(planned[: number + 1]) for number in range(len(planned))]
    total, acquired, lives = ends[-1], 0.0, []
    for end in ends:
        lives.append(Life(acquired, end, total, carried_frac=1.0 if acquired == 0.0 else 0.0))
        acquired = end
    return lives


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@given(owners(), st.data())
def test_all_stretches_of_all_owners_add_up_to_the_total(allocation, lives, data):
    """Each owner writes off by plan what it carries, so under `remaining` nothing is left for the next."""
    total = 0.0
    for life in lives:
        shares = data.draw(cuts)
        for start, end in itertools.pairwise(shares):
            x, y = life.acquired_s + start * life.service_s, life.acquired_s + end * life.service_s
            part = allocated_frac(allocation, life, min(x, life.until_s), min(y, life.until_s))
            assert part >= -1e-12
            total += part
    assert total == pytest.approx(1.0, abs=1e-9)


@given(years, years, years)
def test_a_card_sold_before_it_is_written_off_hands_on_the_rest(sold_s, write_off_s, service_s):
    """`remaining`, with the first owner selling early or late: what it has written off and what it hands on are all."""
    first = Life(0.0, max(write_off_s, sold_s), max(write_off_s, sold_s) + service_s)
    written = min(sold_s / write_off_s, 1.0)
    second = second_hand_life(sold_s, write_off_s, service_s)
    handed_on = allocated_frac("remaining", second, second.acquired_s, second.until_s)
    assert written + handed_on == pytest.approx(1.0)
    if sold_s <= write_off_s:
        assert allocated_frac("remaining", first, 0.0, sold_s) == pytest.approx(written)


@given(st.floats(5.0, 20.0), st.floats(0.5, 8.0))
def test_a_first_owner_who_does_not_know_of_the_second_and_the_second_carry_more_than_all(age, service):
    """`linear`: the first writes off all of it, the second its share of the longer life; `remaining` counts it once."""
    first = new_life(5 * S_PER_YEAR)
    second = second_hand_life(age * S_PER_YEAR, 5 * S_PER_YEAR, service * S_PER_YEAR)

    def both(allocation):
        return sum(allocated_frac(allocation, life, life.acquired_s, life.until_s) for life in (first, second))

    assert both("linear") == pytest.approx(1.0 + service / (age + service))
    for allocation in ("remaining", "purchase", "avoidable"):
        assert both(allocation) == pytest.approx(1.0)


def test_linear_is_by_time_over_the_whole_life_of_all_owners():
    life = second_hand_life(11 * S_PER_YEAR, 5 * S_PER_YEAR, 4 * S_PER_YEAR)
    assert allocated_frac("linear", life, life.acquired_s, life.acquired_s + S_PER_YEAR) == pytest.approx(1 / 15)


def test_what_has_been_written_off_costs_its_second_owner_nothing():
    life = second_hand_life(11 * S_PER_YEAR, 5 * S_PER_YEAR, 4 * S_PER_YEAR)
    for allocation in ("remaining", "avoidable", "purchase", "full-year"):
        assert allocated_frac(allocation, life, life.acquired_s, life.until_s) == pytest.approx(0.0, abs=1e-12)


def test_what_is_owned_is_sunk_for_decisions_and_only_for_them():
    owned, bought = new_life(5 * S_PER_YEAR, owned=True), new_life(5 * S_PER_YEAR)
    assert allocated_frac("avoidable", owned, 0.0, S_PER_YEAR) == 0.0
    assert allocated_frac("avoidable", bought, 0.0, S_PER_YEAR) == pytest.approx(0.2)
    for allocation in ("linear", "remaining", "purchase", "front-loaded", "full-year"):
        assert allocated_frac(allocation, owned, 0.0, S_PER_YEAR) == allocated_frac(allocation, bought, 0.0, S_PER_YEAR)


def test_front_loading_is_double_declining_balance_that_ends_straight():
    """Book value e^(-2a/L) to half-life, then straight to 0, without a kink where the two meet."""
    life = new_life(10.0)
    assert allocated_frac("front-loaded", life, 0.0, 5.0) == pytest.approx(1.0 - math.exp(-1.0))
    assert allocated_frac("front-loaded", life, 0.0, 10.0) == pytest.approx(1.0)
    assert allocated_frac("front-loaded", life, 0.0, 4.0) == pytest.approx(1.0 - math.exp(-0.8))
    assert allocated_frac("front-loaded", life, 0.0, 7.5) == pytest.approx(1.0 - 0.5 * math.exp(-1.0))
    start_rate = allocated_frac("front-loaded", life, 0.0, 1e-6) / 1e-6
    assert start_rate == pytest.approx(2.0 / 10.0, rel=1e-5)
    before = allocated_frac("front-loaded", life, 5.0 - 1e-6, 5.0)
    after = allocated_frac("front-loaded", life, 5.0, 5.0 + 1e-6)
    assert before == pytest.approx(after, rel=1e-5)


@given(st.floats(0.0, 0.9), st.floats(0.0, 0.05))
def test_front_loading_charges_early_years_more(age, length):
    life = new_life(S_PER_YEAR)
    early = allocated_frac("front-loaded", life, age * S_PER_YEAR, (age + length) * S_PER_YEAR)
    late = allocated_frac("front-loaded", life, (age + 0.05) * S_PER_YEAR, (age + 0.05 + length) * S_PER_YEAR)
    assert early >= late - 1e-12


def test_full_year_puts_all_into_the_first_year():
    life = new_life(5 * S_PER_YEAR)
    assert allocated_frac("full-year", life, 0.0, S_PER_YEAR) == 1.0
    assert allocated_frac("full-year", life, S_PER_YEAR, 5 * S_PER_YEAR) == 0.0


def test_a_reservation_longer_than_the_service_is_refused_with_both_lengths():
    with pytest.raises(HardwareError, match="6 years are to be reserved of hardware kept for 5 years"):
        allocated_frac("linear", new_life(5 * S_PER_YEAR), 0.0, 6 * S_PER_YEAR)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_no_owner_carries_time_before_the_purchase(allocation):
    life = second_hand_life(3 * S_PER_YEAR, 5 * S_PER_YEAR, 4 * S_PER_YEAR)
    with pytest.raises(HardwareError, match="2 years are to be reserved of hardware kept for 4 years"):
        allocated_frac(allocation, life, 2 * S_PER_YEAR, 4 * S_PER_YEAR)


@pytest.mark.parametrize("carried", [-0.1, 1.1, math.nan])
def test_no_more_than_all_and_no_less_than_nothing_is_left_to_carry(carried):
    with pytest.raises(HardwareError, match="carried_frac"):
        Life(0.0, 1.0, 2.0, carried)


def test_an_unknown_rule_names_the_nearest():
    with pytest.raises(HardwareError, match="did you mean 'linear'"):
        allocated_frac("liner", new_life(1.0), 0.0, 1.0)


@pytest.mark.parametrize(
    "ages", [(2.0, 1.0, 3.0), (1.0, 1.0, 3.0), (0.0, 4.0, 3.0), (-1.0, 1.0, 2.0), (0.0, 1.0, math.inf)]
)
def test_a_life_in_the_wrong_order_is_refused(ages):
    with pytest.raises(HardwareError, match="in this order"):
        Life(*ages)


def test_a_life_may_end_as_the_thing_is_scrapped_and_not_after():
    assert Life(0.0, 5.0, 5.0).until_s == 5.0
    with pytest.raises(HardwareError):
        Life(0.0, 5.1, 5.0)

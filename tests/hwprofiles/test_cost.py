"""Cost: prices over years in service, electricity by the joule, and unknown stays unknown."""

import dataclasses

import pytest

from afterwatt.hwprofiles.cost import Cost, electricity_usd, hardware_usd, run_cost, straight_line_usd
from afterwatt.hwprofiles.deployment import parse_deployment
from afterwatt.hwprofiles.footprint import Ownership
from afterwatt.hwprofiles.units import J_PER_KWH, S_PER_YEAR


def test_a_price_is_used_up_at_the_end_of_service():
    assert straight_line_usd(9000.0, 5 * S_PER_YEAR, 5 * S_PER_YEAR) == 9000.0
    assert straight_line_usd(9000.0, 5 * S_PER_YEAR, S_PER_YEAR) == pytest.approx(1800.0)


def test_ten_kilowatt_hours_at_twenty_cents_are_two_dollars():
    assert electricity_usd(10 * J_PER_KWH, 0.2) == pytest.approx(2.0)


def test_an_old_card_costs_its_second_hand_price_and_a_new_one_its_new_price():
    old, new = parse_deployment("m40").pool, parse_deployment("8xh100-sxm").pool
    service_s = 4 * S_PER_YEAR
    both = old.device.price_used_usd + old.host.price_usd
    assert hardware_usd(old, Ownership(), service_s, "whole") == pytest.approx(both)
    life_s = float(new.device.lifetime_s)
    expected = 8 * new.device.price_new_usd + new.host.price_usd
    assert hardware_usd(new, Ownership(), life_s) == pytest.approx(expected)
    bought_used = hardware_usd(new, Ownership("second-hand"), service_s)
    assert bought_used == pytest.approx(8 * new.device.price_used_usd + new.host.price_usd)


def test_by_slots_an_eighth_of_a_server_costs_an_eighth():
    one, eight = parse_deployment("h100-sxm").pool, parse_deployment("8xh100-sxm").pool
    assert 8 * hardware_usd(one, Ownership(), 1e6, "slots") == pytest.approx(hardware_usd(eight, Ownership(), 1e6))


def test_an_unknown_price_makes_unknown_what_it_enters_and_nothing_else():
    pool = parse_deployment("8xh100-sxm").pool
    card = dataclasses.replace(pool.device, price_new_usd=None)
    cost = run_cost(dataclasses.replace(pool, device=card), Ownership(), 3600.0, J_PER_KWH, 0.1)
    assert cost == Cost(None, 0.1)
    assert cost.total is None
    assert cost.per_million(1e6) is None
    assert run_cost(pool, Ownership(), 3600.0, J_PER_KWH, None).total is None


def test_per_million_tokens():
    assert Cost(3.0, 2.0).per_million(2_000_000) == pytest.approx(2.5)
    assert Cost(3.0, 2.0).per_million(0) is None

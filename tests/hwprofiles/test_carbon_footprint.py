"""Embodied carbon of deployments: cards plus whole servers by method, nothing filled in silently."""

import dataclasses

import pytest

from afterwatt.hwprofiles.assumptions import ledger_assumptions
from afterwatt.hwprofiles.catalogue import device_names, load_device
from afterwatt.hwprofiles.deployment import make_deployment, parse_deployment
from afterwatt.hwprofiles.embodied import COMPLETE_METHODS
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.footprint import Ownership, footprints, method_footprint, server_gco2e
from afterwatt.hwprofiles.lives import ALLOCATIONS
from afterwatt.hwprofiles.units import S_PER_YEAR

YEAR = S_PER_YEAR


@pytest.mark.parametrize("name", device_names())
@pytest.mark.parametrize("method", COMPLETE_METHODS)
def test_complete_methods_know_every_card_and_its_server_without_help(name, method):
    footprint = footprints(parse_deployment(name).pool)[method]
    assert [item.noun for item in footprint.items] == ["card", "host"]
    assert footprint.notes == ()
    assert footprint.total_gco2e == sum(item.count * float(item.gco2e) for item in footprint.items)


@pytest.mark.parametrize("name", device_names())
def test_a_method_that_does_not_know_the_card_is_left_out_and_every_filled_part_is_noted(name):
    pool = parse_deployment(name).pool
    for method, footprint in footprints(pool).items():
        if pool.device.embodied(method) is None:
            assert footprint is None
            continue
        for part, known in (
            ("host", pool.host.embodied(method)),
            ("disk", pool.storage.embodied_per_byte(method)),
        ):
            noted = any(note.startswith(f"{part} ") and " by " in note for note in footprint.notes)
            if part == "host" and method != "server-share":
                assert noted == (not known)
            elif noted:
                assert known is None


def test_the_card_with_its_share_of_a_server_gets_no_second_server():
    footprint = footprints(parse_deployment("a100-40").pool)["server-share"]
    assert [item.noun for item in footprint.items] == ["card"]


def test_a_footprint_of_a_whole_server_does_not_count_its_disks_again():
    pool = parse_deployment("h100-sxm").pool
    server, notes = server_gco2e(pool, "vendor-pcf")
    assert float(server) == float(pool.host.embodied("vendor-pcf")["server"])
    assert notes == []


def test_a_board_with_two_gpus_is_there_whole_and_a_server_too():
    footprint = footprints(parse_deployment("k80").pool, host_share="whole")["act"]
    assert [item.count for item in footprint.items] == [2, 1]


def test_by_slots_a_deployment_answers_for_what_it_uses():
    pool = parse_deployment("h100-sxm").pool
    footprint = method_footprint(pool, "card-lca", Ownership(), "slots")
    assert [item.count for item in footprint.items] == [1, pytest.approx(1 / 8)]
    full = method_footprint(parse_deployment("8xh100-sxm").pool, "card-lca", Ownership(), "slots")
    whole = method_footprint(parse_deployment("8xh100-sxm").pool, "card-lca", Ownership(), "whole")
    assert full.total_gco2e == whole.total_gco2e
    with pytest.raises(HardwareError, match="did you mean 'slots'"):
        method_footprint(pool, "card-lca", Ownership(), "slot")


def test_new_cards_live_one_life_and_old_ones_a_second():
    new, old = (footprints(parse_deployment(name).pool)["card-lca"].items[0] for name in ("h100-sxm", "m40"))
    assert new.life.new
    assert new.extra_gco2e == 0.0
    assert new.life.service_s == pytest.approx(5 * YEAR)
    assert not old.life.new
    assert old.extra_gco2e > 0.0
    assert old.life.acquired_s == pytest.approx((2026 - load_device("m40").year) * YEAR)
    assert old.life.service_s == pytest.approx(4 * YEAR)


def test_a_second_life_adds_transport_refurbishment_and_spares():
    card = footprints(parse_deployment("m40").pool)["card-lca"].items[0]
    second = ledger_assumptions().second_life
    expected = second.card_transport_gco2e + second.card_refurbishment_gco2e + second.spares_frac * card.gco2e
    assert card.extra_gco2e == pytest.approx(expected)
    for allocation in ALLOCATIONS:
        whole_service = card.allocated_gco2e(allocation, card.life.service_s)
        assert whole_service >= card.extra_gco2e * (1 - 1e-9)


def test_sunk_means_only_the_second_lifes_own_emissions_are_avoidable():
    footprint = footprints(parse_deployment("m40").pool, Ownership("owned"))["card-lca"]
    service = footprint.items[0].life.service_s
    extras = sum(item.count * item.extra_gco2e for item in footprint.items)
    assert footprint.allocated_gco2e("avoidable", service) == pytest.approx(extras)
    new = footprints(parse_deployment("h100-sxm").pool, Ownership("owned"))["card-lca"]
    assert new.allocated_gco2e("avoidable", YEAR) == 0.0
    assert new.allocated_gco2e("purchase", YEAR) > 0.0


@pytest.mark.parametrize("allocation", ["linear", "remaining", "avoidable", "purchase"])
@pytest.mark.parametrize("name", ["m40", "8xh100-sxm", "4xt4"])
def test_reserving_twice_as_long_carries_twice_as_much_of_a_straight_line(name, allocation):
    for footprint in filter(None, footprints(parse_deployment(name).pool).values()):
        once, twice = (footprint.allocated_gco2e(allocation, hours * 3600.0) for hours in (1000, 2000))
        assert twice == pytest.approx(2 * once)


def test_two_of_everything_made_twice_as_much():
    one, two = (footprints(make_deployment(load_device("h100-sxm"), count).pool)["act"] for count in (8, 16))
    assert two.total_gco2e == pytest.approx(2 * one.total_gco2e)


def test_a_longer_life_carries_less_per_hour():
    pool = parse_deployment("h100-sxm").pool
    short, long = (footprints(pool, Ownership(lifetime_s=n * YEAR))["act"] for n in (3, 9))
    assert short.allocated_gco2e("linear", 3600.0) == pytest.approx(
        3 * long.allocated_gco2e("linear", 3600.0), rel=1e-6
    )


def test_bad_ownership_is_refused():
    with pytest.raises(HardwareError, match="acquisition = 'stolen'"):
        Ownership("stolen")
    with pytest.raises(HardwareError, match="lifetime_s"):
        Ownership(lifetime_s=0.0)


def test_a_host_that_no_method_knows_is_an_error_not_a_zero():
    pool = parse_deployment("m40").pool
    bare = dataclasses.replace(pool, host=dataclasses.replace(pool.host, embodied_gco2e=()))
    with pytest.raises(HardwareError, match="has no embodied figure"):
        footprints(bare)

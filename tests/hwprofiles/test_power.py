"""GPU power: what the anchors mean, what the cap does, and what a card that nobody measured gets."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles.catalogue import device_names, load_device
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.power import (
    PowerModel,
    anchors_of,
    energy_coefficient,
    facility_frac,
    gpu_power_model,
    load_anchors,
    plug_and_site_factor,
    psu_loss_frac,
)
from afterwatt.hwprofiles.stacks import pool_names

amounts = st.floats(0.0, 1e12, allow_nan=False)
shares = st.floats(0.0, 1.0)
CARD = PowerModel(
    idle_w=30.0,
    busy_w=75.0,
    j_per_byte=5e-10,
    j_per_flop=2e-11,
    cap_w=250.0,
    attention_w=25.0,
    expert_w=10.0,
    unpack_w=40.0,
)


@pytest.mark.parametrize("pool", sorted(load_anchors()))
def test_every_anchor_has_an_interval_and_a_source(pool):
    anchors = load_anchors()[pool]
    for fact in (fact for field in fields(anchors) if isinstance(fact := getattr(anchors, field.name), Fact)):
        assert fact.low < fact < fact.high
        assert fact.kind in ("fitted", "assumed")
        assert len(fact.source) > 40


@pytest.mark.parametrize("name", device_names())
def test_every_card_has_a_pool_the_most_specific_there_is(name):
    device = load_device(name)
    pools = load_anchors()
    assert anchors_of(device).pool == next(pool for pool in pool_names(device) if pool in pools)


def test_a_card_without_a_pool_is_told_so():
    card = replace(load_device("m40-24"), key="mine", architecture="maxwel")
    with pytest.raises(HardwareError, match="did you mean 'maxwell'"):
        anchors_of(card)


@pytest.mark.parametrize("name", device_names())
def test_working_at_an_anchor_draws_the_anchor(name):
    """At the datasheet's rate for a second: idle, busy and the anchor's watts, never above the cap."""
    device = load_device(name)
    anchors, tdp_w = anchors_of(device), float(device.tdp_w)
    bandwidth = float(device.mem_bandwidth_bytes_per_s)
    for arithmetic, rate in device.flops_per_s.items():
        model = gpu_power_model(device, arithmetic)
        assert device.idle_w <= model.busy_w <= model.cap_w
        busy_w = device.idle_w + anchors.busy_frac * tdp_w
        streaming_w = busy_w + anchors.streaming(device) * bandwidth
        computing_w = busy_w + anchors.computing(arithmetic) * tdp_w
        assert model.energy_j(1.0, bandwidth, 0.0) == pytest.approx(min(model.cap_w, streaming_w))
        assert model.energy_j(1.0, 0.0, float(rate)) == pytest.approx(min(model.cap_w, computing_w))
        assert model.energy_j(1.0, 0.0, 0.0, attention_s=0.5) == pytest.approx(
            min(model.cap_w, busy_w + 0.5 * anchors.attention_frac * tdp_w)
        )


def test_an_arithmetic_that_the_card_lacks_is_refused():
    with pytest.raises(HardwareError, match="fp32"):
        gpu_power_model(load_device("m40-24"), "fp8")


@given(amounts, amounts, st.floats(1e-6, 10.0), st.tuples(shares, shares, shares))
def test_power_lies_between_busy_and_cap_and_never_falls_with_work(moved, flops, seconds, parts):
    kinds = [part * seconds for part in parts]
    energy = CARD.energy_j(seconds, moved, flops, *kinds)
    assert CARD.busy_w * seconds <= energy * (1 + 1e-12)
    assert energy <= CARD.cap_w * seconds
    assert CARD.energy_j(seconds, 2 * moved, flops, *kinds) >= energy
    assert CARD.energy_j(seconds, moved, 2 * flops, *kinds) >= energy
    for place in range(3):
        longer = [2 * kind if number == place else kind for number, kind in enumerate(kinds)]
        assert CARD.energy_j(seconds, moved, flops, *longer) >= energy
    assert CARD.dynamic_j(seconds, moved, flops, *kinds) == pytest.approx(energy - CARD.idle_w * seconds)


@given(amounts, amounts, st.floats(1e-6, 10.0), shares, st.floats(0.1, 100.0))
def test_an_iteration_so_many_times_as_long_with_the_work_takes_as_many_times_the_energy(
    moved, flops, seconds, part, factor
):
    """Homogeneity is what lets a stride be summed in closed form."""
    once = CARD.energy_j(seconds, moved, flops, part * seconds, part * seconds, part * seconds)
    scaled = (factor * seconds, factor * moved, factor * flops, *[factor * part * seconds] * 3)
    assert CARD.energy_j(*scaled) == pytest.approx(factor * once, rel=1e-9)


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=5))
def test_joules_of_work_add_up_below_the_cap(parts):
    moved, flops = (np.array(column) for column in zip(*parts, strict=True))
    apart = CARD.work_j(moved, flops, 0.0, 0.0, 0.0).sum()
    assert CARD.work_j(float(moved.sum()), float(flops.sum()), 0.0, 0.0, 0.0) == pytest.approx(apart, rel=1e-9)


def test_chips_of_one_kind_share_joules_per_byte_under_any_limit():
    """An H100's memory costs per byte what an H200's does, although it is slower and the limit the same."""
    slow, fast = load_device("h100-sxm"), load_device("h200")
    assert slow.mem_bandwidth_bytes_per_s < fast.mem_bandwidth_bytes_per_s
    assert gpu_power_model(slow, "fp16").j_per_byte == gpu_power_model(fast, "fp16").j_per_byte


@pytest.mark.parametrize("name", ["m40-24", "k80", "p40", "p100-16", "v100-sxm-32", "t4", "rtx2080ti", "rtx3090"])
def test_a_card_that_nobody_measured_gets_an_interval_that_holds_either_rule(name):
    """Its generation's memory by joules per byte, and its power limit by the share at full bandwidth."""
    device = load_device(name)
    anchors = anchors_of(device)
    by_share = anchors.stream_frac * device.tdp_w / device.mem_bandwidth_bytes_per_s
    fact = anchors.streaming(device)
    assert float(fact) == pytest.approx((by_share * anchors.j_per_byte) ** 0.5)
    assert fact.low <= min(by_share, anchors.j_per_byte)
    assert max(by_share, anchors.j_per_byte) <= fact.high
    assert fact.kind == "assumed"


def test_such_a_card_draws_more_under_a_higher_limit():
    card = load_device("m40-24")
    tdp_w = Fact(2.0 * card.tdp_w, "twice as much", "2026-11-20", "datasheet")
    hungry = replace(card, tdp_w=tdp_w)
    work = (1.0, 2e11, 0.0)
    assert gpu_power_model(hungry, "fp32").energy_j(*work) > gpu_power_model(card, "fp32").energy_j(*work)


def test_a_rate_of_zero_is_refused():
    with pytest.raises(HardwareError, match="above 0"):
        energy_coefficient(200.0, 0.0)


def test_supply_and_site_multiply():
    assert psu_loss_frac(0.8) == pytest.approx(0.25)
    assert facility_frac(1.5) == 0.5
    assert plug_and_site_factor(0.8, 1.5) == pytest.approx(1.875)
    with pytest.raises(HardwareError, match="at least 1"):
        facility_frac(0.9)
    with pytest.raises(HardwareError, match=r"\(0, 1\]"):
        psu_loss_frac(0.0)


def test_products_in_eight_bits_cost_what_was_fitted_for_them_and_others_what_was_for_others():
    anchors = anchors_of(load_device("h100-sxm"))
    assert anchors.fp8_compute_frac is not None
    assert anchors.fp8_compute_frac != anchors.compute_frac
    assert anchors.computing("fp8") is anchors.computing("fp4") is anchors.fp8_compute_frac
    assert anchors.computing("fp16") is anchors.compute_frac
    old = anchors_of(load_device("m40"))
    assert old.computing("fp8") is old.compute_frac


def test_where_nobody_measured_the_interval_holds_either_rules_value():
    both = [
        (device, anchors)
        for device in map(load_device, device_names())
        if (anchors := anchors_of(device)).stream_frac is not None and anchors.j_per_byte is not None
    ]
    assert both
    for device, anchors in both:
        per_frac = device.tdp_w / device.mem_bandwidth_bytes_per_s
        found, share, byte = anchors.streaming(device), anchors.stream_frac, anchors.j_per_byte
        lows = math.sqrt(share.interval[0] * per_frac * byte.interval[0]), share * per_frac, float(byte)
        highs = math.sqrt(share.interval[1] * per_frac * byte.interval[1]), share * per_frac, float(byte)
        assert found.interval == pytest.approx((min(lows), max(highs)))
        assert float(found) == pytest.approx(math.sqrt(share * per_frac * byte))

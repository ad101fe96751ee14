"""What a power cap leaves of a card's clock and speed: closed forms, and one way against the other."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles.capping import PHASES, Draw, cap_curve, require_cap
from afterwatt.hwprofiles.catalogue import device_names, load_device
from afterwatt.hwprofiles.deployment import capped, load_deployment, parse_deployment
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.power import anchors_of, gpu_power_model
from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.modelspecs import load_model, load_precision
from afterwatt.sim.capped import CappedTimes

CARDS = ["rtx3090", "rtx4090", "m40-24"]
curves = st.builds(cap_curve, st.sampled_from(CARDS).map(load_device), st.sampled_from(PHASES), st.booleans())


def serving(hw: str, model: str = "llama-2-7b", **values: float) -> Serving:
    deployment = parse_deployment(hw)
    stack = load_stack(deployment.pool.device, "llama.cpp-cuda").with_values(values)
    return Serving(deployment, load_model(model), load_precision("q4_k_m"), stack)


def under(own: Serving, cap_w: float) -> CappedTimes:
    return CappedTimes(replace(own, deployment=own.deployment.with_pool(capped(own.pool, cap_w))))


@given(curves, st.floats(50.0, 900.0), st.floats(20.0, 900.0), st.floats(0.05, 1.0))
def test_the_clock_under_a_cap_draws_the_cap(curve, demand_w: float, cap_w: float, busy_frac: float):
    """Or it is the highest, which draws less, or the floor, which draws more."""
    draw = curve.draw(demand_w)
    clock = curve.clock(draw, cap_w, busy_frac)
    drawn_w = curve.power_w(draw, clock, busy_frac)
    if clock == 1.0:
        assert drawn_w <= cap_w
    elif clock == curve.voltage.floor:
        assert drawn_w >= cap_w
    else:
        assert drawn_w == pytest.approx(cap_w, rel=1e-9)
    assert curve.clock(draw, 1.1 * cap_w, busy_frac) >= clock


def test_power_and_speed_at_both_ends_and_at_the_knee():
    curve = cap_curve(load_device("rtx3090"), "decode", moe=False)
    draw = Draw(100.0, 400.0)
    low, knee, ratio = (float(x) for x in (curve.voltage.low_voltage, curve.voltage.knee, curve.compute_ratio))
    assert curve.power_w(draw, 1.0) == pytest.approx(500.0)
    assert curve.power_w(draw, knee) == pytest.approx(100.0 + 400.0 * knee * low**2)
    assert curve.power_w(draw, 0.5 * knee, 0.5) == pytest.approx(100.0 + 0.5 * 400.0 * 0.5 * knee * low**2)
    middle = (low + 1.0) / 2.0
    assert curve.power_w(draw, (knee + 1.0) / 2.0) == pytest.approx(100.0 + 400.0 * (knee + 1.0) / 2.0 * middle**2)
    assert curve.slowness(1.0) == 1.0
    assert curve.slowness(0.5) == pytest.approx(((4 * ratio**2 + 1) / (ratio**2 + 1)) ** 0.5)
    assert curve.slowness(1e-6) == pytest.approx(1e6 * ratio / (ratio**2 + 1) ** 0.5)


@given(curves, st.floats(50.0, 900.0), st.floats(80.0, 350.0))
def test_the_own_limit_slows_nothing_and_what_draws_less_than_the_cap_neither(curve, demand_w: float, cap_w: float):
    assert curve.slower(demand_w, 350.0, 350.0) == 1.0
    assert curve.slower(demand_w, 400.0, 350.0) == 1.0
    if curve.drawn is None and demand_w <= cap_w:
        assert curve.slower(demand_w, cap_w, 350.0) == 1.0
    assert curve.slower(demand_w, cap_w, 350.0) >= curve.slower(demand_w, cap_w + 10.0, 350.0) >= 1.0
    assert curve.clock(curve.draw(demand_w), cap_w, 0.5) >= curve.clock(curve.draw(demand_w), cap_w)


def test_a_card_that_nobody_measured_draws_parts_of_what_its_power_model_says():
    curve = cap_curve(load_device("rtx4090"), "prefill", moe=True)
    static_w, dynamic_w = curve.draw(400.0)
    assert (static_w, dynamic_w) == pytest.approx((100.0, 300.0))


@pytest.mark.parametrize("name", device_names())
def test_every_card_can_be_set_to_what_lies_between_rest_and_limit(name: str):
    device = load_device(name)
    require_cap(device, float(device.tdp_w))
    for cap_w in (float(device.idle_w), float(device.tdp_w) + 1.0):
        with pytest.raises(HardwareError, match="power cap"):
            require_cap(device, cap_w)


@pytest.mark.parametrize("hw", ["rtx3090", "rtx4090", "m40-24", "2xrtx3090:pp2"])
@pytest.mark.parametrize("plan", [(1, 900, (), 1), (16, 9000, (), 16), (3, 700, ((None, 256, 512),), 4)])
def test_a_cap_at_the_own_limit_changes_no_time(hw: str, plan):
    own = serving(hw)
    at_limit = under(own, float(own.pool.device.tdp_w))
    assert at_limit.step(*plan, 5)[:2] == TimeModel(own).step(*plan, 5)[:2]


@given(st.sampled_from(CARDS), st.integers(1, 64), st.integers(1, 4000), st.floats(0.4, 0.95))
def test_a_capped_stride_is_its_iterations_up_to_a_picosecond_each(hw: str, decoding: int, each: int, frac: float):
    own = serving(hw)
    times = under(own, frac * float(own.pool.device.tdp_w))
    first, slope, lasting = times.step(decoding, decoding * each, (), decoding, 40)
    for ahead in range(lasting):
        alone, _, _ = times.step(decoding, decoding * (each + ahead), (), decoding, 1)
        assert abs(first + slope * ahead - alone) <= ahead + 1


def test_waiting_for_the_host_does_not_follow_the_clock():
    """Kernels of 2 ms in an iteration of a second draw next to nothing: no cap slows them."""
    waiting = serving("m40-24", "tinyllama-1.1b", step_overhead_s=0.5)
    plan = (1, 10, (), 1)
    slow, fast = under(waiting, 100.0).step(*plan, 1)[0], TimeModel(waiting).step(*plan, 1)[0]
    assert slow == fast
    busy = serving("m40-24", "llama-2-7b")
    assert under(busy, 100.0).step(16, 9000, (), 16, 1)[0] > TimeModel(busy).step(16, 9000, (), 16, 1)[0]


def test_no_mean_power_is_above_the_cap():
    device = load_device("rtx3090")
    assert gpu_power_model(device, "fp16", power_cap_w=200.0).cap_w == 200.0
    own = gpu_power_model(device, "fp16").cap_w
    assert own == float(anchors_of(device).cap_frac) * float(device.tdp_w)
    assert gpu_power_model(device, "fp16", power_cap_w=10 * own).cap_w == own


def test_a_deployment_file_sets_a_cap(tmp_path):
    path = tmp_path / "attic.toml"
    path.write_text('device = "rtx3090"\npower_cap_w = 250\n')
    assert load_deployment(path).pool.power_cap_w == 250.0
    path.write_text('device = "rtx3090"\npower_cap_w = 9\n')
    with pytest.raises(HardwareError, match="9 W: it rests at"):
        load_deployment(path)

"""Experts in a cache on the GPU: with room for all, times are those of resident weights; what is missing adds up."""

import numpy as np
import pytest

from afterwatt.modelspecs.layers import ROUTED
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.expertcache import CachedExperts
from afterwatt.policies.making import UnknownCosts
from afterwatt.policies.placement import ATTENTION, DENSE, EXPERTS, Piece, WeightView
from afterwatt.sim.cached import CPU, GPU, LINK, CachedLayers
from afterwatt.sim.clock import PS_PER_S
from afterwatt.sim.config import RunConfig
from afterwatt.sim.memory import plan_memory
from afterwatt.sim.placement import placement_of, room_bytes
from afterwatt.sim.times import own_times, times_of
from afterwatt.sim.workload import StaticBatch
from tests.helpers import between, make_config, poisson, run_body

PLAN = (1, 200, (), 1)
MODEL = "qwen3-30b-a3b"


def config_of(words: str, hw: str = "p40", precision: str = "fp16") -> RunConfig:
    policy = "+".join(word for word in ("expert-cache", "seqs=1", words) if word)
    return make_config(StaticBatch(1, 8, 4), hw, policy, MODEL, precision=precision)


def bare_and_full_ps(config: RunConfig) -> tuple[int, int]:
    """Return the GPU's time of one token without experts, and with all that it is routed to."""
    kinds = {kind._replace(network=ROUTED): count for kind, count in config.model.kinds().items()}
    bare, full = own_times(config, config.serving, 0, kinds), own_times(config, config.serving)
    return bare.step(*PLAN, 1)[0], full.step(*PLAN, 1)[0]


def test_with_room_for_all_it_takes_the_time_of_resident_weights() -> None:
    config = config_of("room=100+cache=static", "h100-sxm")
    passed = CachedLayers(config, 0).iteration(0, (7,), PLAN, None)
    assert (passed.link_bytes, passed.cpu_bytes, passed.disk_bytes) == (0, 0, 0)
    assert (
        passed.duration_ps
        == times_of(make_config(StaticBatch(1, 8, 4), "h100-sxm", "chunked", MODEL)).step(*PLAN, 1)[0]
    )


def test_what_is_missing_is_computed_where_it_lies_and_added() -> None:
    config = config_of("room=25+cache=static+cold=cpu")
    layers, model = CachedLayers(config, 0), config.model
    passed, rates = layers.iteration(0, (7,), PLAN, None), layers.rates
    unit_bytes = round(model.layer_expert_bytes("fp16") / model.experts)
    missing = passed.cpu_bytes / unit_bytes
    assert missing == int(missing)
    assert 0 < missing < model.layers * model.active_experts
    assert passed.link_bytes == 0  # a static cache takes nothing in
    bare, full = bare_and_full_ps(config)
    gpu_ps = bare + (full - bare) * (1.0 - missing / (model.layers * model.active_experts))
    assert passed.work_ps[GPU] == pytest.approx(gpu_ps, abs=2)
    cold_s = passed.cpu_bytes / rates.cpu_bytes_per_s
    hand_overs = round((passed.work_ps[CPU] / PS_PER_S - cold_s) / rates.hand_over_s)
    assert missing / model.active_experts <= hand_overs <= model.layers
    assert passed.duration_ps == passed.work_ps[GPU] + passed.work_ps[CPU]  # nothing overlaps


def test_what_is_missing_crosses_once_its_router_has_run() -> None:
    config = config_of("room=25+cache=static")
    layers = CachedLayers(config, 0)
    passed = layers.iteration(0, (7,), PLAN, None)
    assert passed.cpu_bytes == 0
    copies = passed.link_bytes / round(config.model.layer_expert_bytes("fp16") / config.model.experts)
    link_s = passed.link_bytes / layers.rates.link_bytes_per_s + copies * layers.rates.unit_copy_s
    assert passed.work_ps[LINK] == pytest.approx(link_s * PS_PER_S, rel=1e-9)
    assert passed.duration_ps == passed.work_ps[LINK] + passed.work_ps[GPU]


def test_where_it_is_sooner_is_never_slower_than_one_place_for_all() -> None:
    times = {
        cold: CachedLayers(config_of(f"room=25+cache=static+cold={cold}"), 0).iteration(0, (7,), PLAN, None)
        for cold in ("gpu", "cpu", "auto")
    }
    assert times["auto"].duration_ps <= min(times["gpu"].duration_ps, times["cpu"].duration_ps)


def test_what_host_memory_does_not_hold_comes_from_the_disk() -> None:
    layers = CachedLayers(config_of("room=10+cache=static+memory-room=50", precision="q4_k_m"), 0)
    first, second = (layers.iteration(when, (7,), PLAN, None) for when in (0, PS_PER_S * 1000))
    assert first.disk_bytes == first.link_bytes  # host memory begins empty
    assert 0 < second.disk_bytes < second.link_bytes


def test_prompts_bring_over_what_they_touch_and_the_gpu_lacks() -> None:
    config = config_of("room=25+cache=static")
    layers, model = CachedLayers(config, 0), config.model
    passed = layers.iteration(0, (), (0, 0, ((None, 64, 0),), 1), None)
    touched = 1.0 - (1.0 - model.active_experts / model.experts) ** 64
    lacking = 0.75 * model.layers * model.layer_expert_bytes("fp16")
    assert passed.link_bytes == pytest.approx(touched * lacking, rel=1e-6)
    assert passed.duration_ps > passed.work_ps[LINK]


@pytest.mark.parametrize("words", ["room=20", "room=20+cold=cpu", "room=20+cold=auto+cache=lfu+skew=1.1"])
def test_a_run_is_its_iterations_one_by_one(words: str) -> None:
    requests = poisson(2, 0.2, between(5, 40), between(2, 8))
    policy = f"expert-cache+seqs=2+{words}"
    options = {"model": MODEL, "precision": "q4_k_m"}
    whole, singly = (run_body(requests, "p40", policy, single_step=one, **options) for one in (False, True))
    for name, values in whole.rows.items():
        np.testing.assert_array_equal(values, singly.rows[name], err_msg=name)


def test_memory_holds_the_share_that_is_said() -> None:
    some, more = (plan_memory((c := config_of(f"room={room}")).serving, c.policies) for room in (10, 20))
    experts = config_of("").model.layers * config_of("").model.layer_expert_bytes("fp16")
    assert more.weights_bytes - some.weights_bytes == pytest.approx(0.1 * experts, rel=1e-9)


def policy(**words: str) -> CachedExperts:
    return CachedExperts(words, UnknownCosts())


def test_by_default_four_fifths_of_the_memory_hold_what_lies_and_passes_there() -> None:
    pieces = tuple(piece for n in range(4) for piece in (Piece(n, ATTENTION, 10.0), Piece(n, EXPERTS, 200.0)))
    view = WeightView(pieces, 4, {"hbm": 800.0, "dram": 400.0, "ssd": 1e6})
    assert policy().room_frac(view) == pytest.approx((640.0 - 40.0 - 2 * 200.0) / 800.0)  # two layers pass through
    assert policy().host_frac(view) == pytest.approx(0.5)
    layout = policy().layout(view)
    assert layout.tier_bytes("hbm") == pytest.approx(40.0 + 200.0)
    assert (layout.tier_bytes("dram"), layout.tier_bytes("ssd")) == (pytest.approx(400.0), pytest.approx(800.0))
    assert policy(**{"memory-room": "100"}).layout(view).tier_bytes("ssd") == 0.0
    assert policy().room_frac(WeightView(pieces, 4, {**view.room_bytes, "hbm": 500.0})) == 0.0


def test_words_that_make_no_sense_are_refused() -> None:
    for words, said in (({"cold": "here"}, "no place to compute"), ({"skew": "9"}, "no exponent")):
        with pytest.raises(PolicyError, match=said):
            policy(**words)
    with pytest.raises(PolicyError, match="this model is dense"):
        policy().layout(WeightView((Piece(0, DENSE, 1.0),), 1, {"hbm": 1.0, "dram": 1.0}))


def test_host_memory_holds_the_share_of_experts_that_fits() -> None:
    pieces = (Piece(0, ATTENTION, 10.0), Piece(0, EXPERTS, 800.0))
    half = WeightView(pieces, 1, {"hbm": 100.0, "dram": 400.0, "ssd": 1e6})
    cache = policy().host_cache(3, 128, half)
    assert cache is not None
    cache.touch(0, np.arange(128))
    assert len(cache.inside(0)) == 64
    assert policy().host_cache(3, 128, WeightView(pieces, 1, {"hbm": 100.0, "dram": 800.0, "ssd": 1e6})) is None


def test_the_gpu_keeps_whole_experts_within_the_room_that_is_laid_out() -> None:
    view = WeightView((Piece(0, EXPERTS, 800.0),), 1, {"hbm": 2800.0, "dram": 1e4, "ssd": 1e6})
    assert [policy(room="29").capacity(units, view) for units in (100, 8, 3)] == [29, 2, 0]


def test_experts_that_host_memory_lacks_room_for_lie_on_the_disk() -> None:
    config = make_config(StaticBatch(1, 8, 4), "3090", "expert-cache+seqs=1", "mixtral-8x7b", precision="fp16")
    placement = placement_of(config.serving, config.policies)
    assert placement is not None
    layout = placement.layout
    assert layout.tier_bytes("dram") == pytest.approx(room_bytes(config.serving)["dram"])  # full to the last byte
    assert layout.tier_bytes("ssd") > layout.tier_bytes("dram")


def test_misses_that_matter_less_come_in_few_bits() -> None:
    """An empty cache, one token: its first expert whole, the others in int4; the same experts without `low` whole."""
    plain, low, none = (
        CachedLayers(config_of(f"room=1+cache=static+skew=0{more}"), 0).iteration(0, (7,), PLAN, None)
        for more in ("", "+low=int4", "+low=int4+certain=8")
    )
    config = config_of("")
    ratio = config.model.form("int4").bytes_per_weight / config.model.form("fp16").bytes_per_weight
    unit = config.model.layer_expert_bytes("fp16") / config.model.experts
    layers, each = config.model.layers, config.model.active_experts
    assert none.link_bytes == plain.link_bytes
    missed = plain.link_bytes / unit  # one expert of each layer is there, and seldom asked for
    assert (each - 1) * layers < missed <= each * layers
    whole = (low.link_bytes / unit - ratio * missed) / (1.0 - ratio)
    assert layers * 0.8 < whole <= layers  # the first expert of each layer, unless it is the one that is there


def test_words_of_low_copies_are_checked() -> None:
    for words, said in (
        ({"certain": "1"}, "beside low="),
        ({"low": "int4", "certain": "x"}, "no whole number"),
        ({"low": "int4", "cold": "cpu"}, "it goes with cold=gpu"),
    ):
        with pytest.raises(PolicyError, match=said):
            policy(**words)
    pieces = (Piece(0, EXPERTS, 800.0),)
    with pytest.raises(PolicyError, match="no precision that anybody stores"):
        policy(low="int9").layout(WeightView(pieces, 1, {"hbm": 100.0, "dram": 400.0, "ssd": 1e6}, {"int4": 0.25}))

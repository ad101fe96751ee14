"""Iterations whose neurons caches bring to the GPU: closed forms, conservation, and draws by key."""

from typing import Any

import numpy as np
import pytest

from afterwatt.policies.caching.activity import Neurons
from afterwatt.policies.caching.making import make_cache
from afterwatt.policies.precision import parse_shares
from afterwatt.sim.cached import GPU, LEAST_SEEN, CachedLayers, Misses, Passed, rank_bytes, stationary
from afterwatt.sim.clock import PS_PER_S
from afterwatt.sim.config import RunConfig
from afterwatt.sim.errors import Infeasible
from afterwatt.sim.memory import require_fit
from afterwatt.sim.placement import weight_view
from afterwatt.sim.workload import StaticBatch
from tests.helpers import between, make_config, poisson, run_body

PLAN = (1, 200, (), 1)


def config_of(words: str, model: str = "llama-2-7b") -> RunConfig:
    policy = "+".join(word for word in ("m2cache", "density=10", "seqs=1", words) if word)
    return make_config(StaticBatch(1, 8, 4), "rtx3090", policy, model)


def test_what_stays_active_crosses_once_and_then_the_gpu_alone_sets_the_pace() -> None:
    layers = CachedLayers(config_of("overlap=100"), 0)
    first = layers.iteration(0, (7,), PLAN, None)
    units = round(0.1 * 11008) * 32
    assert first.link_bytes > 0
    assert first.duration_ps > first.work_ps[GPU]
    now = first.duration_ps
    for _ in range(3):
        later = layers.iteration(now, (7,), PLAN, None)
        assert (later.link_bytes, later.disk_bytes) == (0, 0)
        assert later.duration_ps == later.work_ps[GPU] == layers._gpu._few.step(*PLAN, 1, None)[0]
        now += later.duration_ps
    assert first.work_ps[1] == pytest.approx(
        (first.link_bytes / layers.rates.link_bytes_per_s + units * layers.rates.unit_copy_s) * PS_PER_S, rel=1e-9
    )


def test_a_scan_of_the_disk_takes_what_the_disk_takes_once_it_goes_round() -> None:
    layers = CachedLayers(config_of("overlap=100+dram=4/3"), 0)
    passed, now = [], 0
    for _ in range(4):
        passed.append(layers.iteration(now, (7,), PLAN, None))
        now += passed[-1].duration_ps
    by_rank = rank_bytes(parse_shares("25/25/50"), 11008, 3 * 4096 * 2.0, weight_view(config_of("").serving))
    assert [one.disk_bytes for one in passed[1:]] == [(32 - 4) * by_rank.sum()] * 3
    assert passed[-1].duration_ps == passed[-2].duration_ps >= passed[-1].work_ps[0]  # nothing drains in between


def test_prompts_bring_every_layer_whole() -> None:
    config = config_of("")
    layers = CachedLayers(config, 0)
    passed = layers.iteration(0, (), (0, 0, ((None, 64, 0),), 1), None)
    by_rank = rank_bytes(parse_shares("25/25/50"), 11008, 3 * 4096 * 2.0, weight_view(config.serving))
    assert passed.link_bytes == 32 * by_rank.sum()


def test_bytes_by_rank_are_those_of_the_shares() -> None:
    view = weight_view(config_of("").serving)
    shares, unit_bytes = parse_shares("25/25/30"), 24576.0
    by_rank = rank_bytes(shares, 1001, unit_bytes, view)
    assert by_rank.sum() == shares.stored_bytes(1001, lambda name: round(unit_bytes * view.ratios[name]))
    assert (np.diff(by_rank) <= 0).all()
    assert by_rank[-1] == 0  # a fifth of the neurons is left out


def misses(seed: int, units: int = 400, layers: int = 3) -> Misses:
    sizes = np.full(units, 10, dtype=np.int64)
    return Misses(make_cache("adjacent", layers, units, units), Neurons(units, 0.2, 0.75, seed), sizes, layers, seed)


def test_what_crosses_is_the_share_that_is_new_and_what_is_drawn_has_been_seen() -> None:
    made = misses(3)
    seen = [made.of_step(step, (0,)) for step in range(400)]
    assert seen[0].hits == 0
    assert all(one.hits + one.copies.sum() == one.active == 3 * 80 for one in seen)  # bytes follow copies
    assert all((one.sizes == 10 * one.copies).all() for one in seen)
    later = np.array([one.copies.sum() for one in seen[1:]])
    # New per step: 3 * 80 draws of 1 - 0.75 each, independent; six standard errors of 399 of them, drawn or not: those
    # that are drawn repeat at least LEAST_SEEN / 2 - 1 of the first, which widens the bound.
    bound = 6.0 * np.sqrt(240 * 0.25 * 0.75 / (LEAST_SEEN / 2 - 1))
    assert abs(later.mean() - 60.0) < bound
    live = {id(one) for one in seen}
    assert len(live) < len(seen)  # after a while, iterations are drawn from earlier ones


def test_draws_depend_on_the_step_and_not_on_what_was_asked_between() -> None:
    one, other = misses(5), misses(5)
    first = [one.of_step(step, (0,)) for step in range(600)]
    second = [other.of_step(step, (0,)) for step in range(600)]
    assert all((a.copies == b.copies).all() for a, b in zip(first, second, strict=True))


def test_a_new_sequence_finds_little_and_one_that_goes_on_finds_its_own() -> None:
    made = misses(1)
    for step in range(5):
        going_on = made.of_step(step, (0,))
    fresh = made.of_step(5, (1,))
    assert fresh.hits < going_on.hits


def test_stationary_means_enough_close_and_no_drift() -> None:
    rng = np.random.default_rng(0)
    steady = list(1000.0 + rng.normal(0.0, 5.0, 64))
    assert not stationary(steady[: LEAST_SEEN - 1])
    assert stationary([1000.0] * LEAST_SEEN)
    assert not stationary([1000.0 + 10.0 * n for n in range(64)])  # it drifts
    assert not stationary([1.0, 2000.0] * 32)  # too wide to tell the mean


def test_what_a_run_says_crossed_is_what_its_iterations_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    brought: list[Passed] = []
    plain = CachedLayers.iteration

    def listening(self: CachedLayers, *args: Any) -> Passed:
        brought.append(plain(self, *args))
        return brought[-1]

    monkeypatch.setattr(CachedLayers, "iteration", listening)
    requests = poisson(3, 0.5, between(5, 60), between(2, 12))
    outcome = run_body(requests, "rtx3090", "m2cache+density=10+seqs=2")
    assert outcome.result.timeline["dram_to_hbm_bytes"].sum() == pytest.approx(sum(p.link_bytes for p in brought))
    busy_s = (outcome.result.timeline["prefill_s"] + outcome.result.timeline["decode_s"]).sum()
    assert busy_s == pytest.approx(sum(p.duration_ps for p in brought) / PS_PER_S)
    singly = run_body(requests, "rtx3090", "m2cache+density=10+seqs=2", single_step=True)
    for name, values in outcome.rows.items():
        np.testing.assert_array_equal(values, singly.rows[name], err_msg=name)


def test_attention_of_70b_in_fp16_alone_fills_24_gb() -> None:
    with pytest.raises(Infeasible, match="bytes short"):
        require_fit(config_of("", "llama-2-70b").serving, config_of("").policies)

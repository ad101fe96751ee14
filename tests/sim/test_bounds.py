"""The range that the error of the times leaves: how iterations are slowed, and what a summary says of it."""

from dataclasses import replace

import pytest

from afterwatt.hwprofiles.stacks import Spread
from afterwatt.modelspecs import load_model
from afterwatt.sim.bounds import LATENCIES, QUANTILES
from afterwatt.sim.config import Slowness
from afterwatt.sim.run import bounding_run, memory_of, simulate
from afterwatt.sim.workload import TraceWorkload
from tests.helpers import make_config, poisson, run_body, solo_batch

SPREAD = {"prefill": Spread(0.7, 1.6), "decode": Spread(0.8, 1.3), "energy": Spread(0.9, 1.2)}


def batch(slowness=None):
    return run_body(solo_batch(4, 300, 50), slowness=slowness, policy="prefill-first")


def test_a_factor_of_one_changes_nothing():
    plain, same = batch(), batch(Slowness(1.0, 1.0))
    assert [t.finish_ps for t in plain.tickets] == [t.finish_ps for t in same.tickets]


@pytest.mark.parametrize("factor", [0.5, 2.0, 1.37])
def test_prompts_and_decoding_are_slowed_apart(factor):
    """Prefill first: a static batch computes its prompts, then only decodes; each stretches by its own factor."""
    plain, prompts, decoding = batch(), batch(Slowness(factor, 1.0)), batch(Slowness(1.0, factor))
    for before, slow, late in zip(plain.tickets, prompts.tickets, decoding.tickets, strict=True):
        assert slow.first_ps == pytest.approx(factor * before.first_ps, abs=10)
        assert slow.finish_ps - slow.first_ps == pytest.approx(
            before.finish_ps - before.first_ps + (factor - 1.0) * rest_of_prompts(plain, before), abs=200
        )
        assert late.first_ps == before.first_ps
    last = plain.tickets[-1]
    span = last.finish_ps - last.first_ps
    assert decoding.tickets[-1].finish_ps - decoding.tickets[-1].first_ps == pytest.approx(factor * span, abs=2000)


def rest_of_prompts(outcome, ticket):
    """Time that others' prompts take after a ticket's own first token."""
    return max(t.first_ps for t in outcome.tickets) - ticket.first_ps


def bounded(tmp_path, spread, bounds=True, policy="chunked", **changes):
    workload = TraceWorkload(poisson(40, 0.2, 200, 30))
    config = make_config(workload, policy=policy, bounds=bounds)
    stack = replace(config.stack, spread=spread, **changes)
    return simulate(replace(config, stack=stack), tmp_path / "run").summary


def test_the_range_holds_the_prediction_and_orders_its_ends(tmp_path):
    summary = bounded(tmp_path, SPREAD)
    said = summary.prediction
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        for quantile, found in getattr(said.range_90, name).items():
            value = getattr(getattr(summary, name), quantile)
            assert found.low <= value <= found.high
            assert found.low < found.high
    ranges = said.range_90
    assert ranges.output_tokens_per_s.low <= summary.throughput.output_tokens_per_s <= ranges.output_tokens_per_s.high
    assert ranges.offered_frac.low < summary.load.offered_frac < ranges.offered_frac.high
    assert ranges.energy_j.low < summary.energy_j.total < ranges.energy_j.high


def test_without_a_queue_a_static_batch_ranges_as_its_iterations_do(tmp_path):
    config = make_config(solo_batch(1, 400, 60), bounds=True)
    config = replace(config, stack=replace(config.stack, spread=SPREAD))
    summary = simulate(config, tmp_path / "run").summary
    for name, phase in (("ttft_s", "prefill"), ("tpot_s", "decode")):
        found, value = getattr(summary.prediction.range_90, name)["p50"], getattr(summary, name).p50
        assert (found.low, found.high) == pytest.approx((SPREAD[phase].low * value, SPREAD[phase].high * value))


def test_nothing_is_made_up_where_the_profile_states_no_error(tmp_path):
    said = bounded(tmp_path, {}).prediction
    assert said.range_90 is None
    assert said.time_error_90.prefill is None
    assert said.energy_error_90 is None
    assert said.basis in {"measured", "fitted", "pooled", "assumed"}


def test_without_bounds_no_further_run_is_made(tmp_path):
    said = bounded(tmp_path, SPREAD, bounds=False).prediction
    assert said.range_90 is None
    assert said.time_error_90.decode.high == SPREAD["decode"].high


def test_joules_are_unknown_without_an_error_of_power(tmp_path):
    times = {phase: SPREAD[phase] for phase in ("prefill", "decode")}
    assert bounded(tmp_path, times).prediction.range_90.energy_j is None


def test_the_range_of_the_energy_is_in_the_interval_of_the_carbon(tmp_path):
    """By either host share: what of the energy is uncertain is uncertain of its grams."""
    summary = bounded(tmp_path, SPREAD)
    found, carbon = summary.prediction.range_90, summary.carbon_gco2e
    total_j = summary.energy_j.total
    assert carbon.run_error_90.low == pytest.approx(found.energy_j.low / total_j)
    assert carbon.run_error_90.high == pytest.approx(found.energy_j.high / total_j)
    assert carbon.operational.p95 / carbon.operational.p50 >= found.energy_j.high / total_j
    assert carbon.operational.p5 / carbon.operational.p50 <= found.energy_j.low / total_j
    whole, sci = summary.other_host_share, summary.other_host_share.sci.per_output_token_gco2e
    assert sci.p95 / sci.p50 >= 0.95 * found.other_host_share_energy_j.high / whole.energy_j
    assert bounded(tmp_path / "b", SPREAD, bounds=False).carbon_gco2e.run_error_90 is None


def test_a_class_of_models_that_was_seen_has_its_own_error_and_basis(tmp_path):
    assert load_model("llama-2-7b").experts == 1
    narrow = {phase: Spread(0.95, 1.05) for phase in SPREAD}
    seen = bounded(tmp_path, SPREAD, bounds=False, seen=("dense:fp16",), spread_seen=narrow).prediction
    assert (seen.basis, seen.model_class, seen.time_error_90.decode.high) == ("measured", "dense:fp16", 1.05)
    other = bounded(tmp_path / "b", SPREAD, bounds=False, seen=("moe:int4",), spread_seen=narrow).prediction
    assert other.basis != "measured"
    assert other.time_error_90.decode.high == SPREAD["decode"].high


@pytest.mark.parametrize("trace", [poisson(60, 0.2, 200, 30), poisson(60, 3.0, 700, 1)], ids=["calm", "of-one-token"])
def test_a_bounding_run_says_what_the_summary_of_the_whole_run_says(tmp_path, trace):
    """Warm-up and horizon leave requests out of one figure or another; a single token has no time per further one."""
    config = make_config(TraceWorkload(trace), warmup_s=3.0, horizon_s=150.0, slowness=Slowness(1.4, 1.2))
    whole = simulate(config, tmp_path / "run").summary.model_dump()
    said = bounding_run(config, memory_of(config))
    length_s = said.pop("duration_s")
    assert length_s == whole["duration_s"]
    assert said == {name: {key: whole[name][key] for key in block} for name, block in said.items()}
    assert set(said) == {"ttft_s", "tpot_s", "itl_s", "e2e_s", "throughput", "load", "energy_j", "other_host_share"}
    assert all(set(said[name]) >= set(QUANTILES) for name in LATENCIES)

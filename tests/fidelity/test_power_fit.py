"""The fit of power finds what made its data, and judges on what it has not seen."""

from dataclasses import replace

import numpy as np
import pytest

from afterwatt.fidelity.power.anchors import UNMEASURED_FACTOR, FittedPower, leave_one_architecture_out, pools_of
from afterwatt.fidelity.power.fit import (
    KernelPower,
    Law,
    PoweredCard,
    RunWork,
    fit_folds,
    fit_kernels,
    fit_runs,
    fit_without_each,
    held_out_watts,
    law_of,
    pooled,
    read_cards,
    run_watts,
    spread,
)
from afterwatt.fidelity.power.tables import FOLDS, KernelWatts, read_s
from afterwatt.hwprofiles.devices import ARCHITECTURES
from afterwatt.hwprofiles.power import PowerModel, load_anchors

TRUE = KernelPower(140.0, 1.2e-10, 5e-11, 7e-13, 4e-13, 100.0, 150.0, 690.0)


def kernels_of(name, kind, arithmetic, power, count=3000, seed=0, wild_frac=0.0):
    """Kernels whose watts follow a law, but for a share of wild readings."""
    draw = np.random.default_rng(seed)
    seconds = 10.0 ** draw.uniform(-5.0, -2.0, count)
    dram, cache = draw.uniform(0.0, 4e12, count) * seconds, draw.uniform(0.0, 1e12, count) * seconds
    flops = draw.uniform(0.0, 5e14, count) * seconds
    fold = draw.integers(0, FOLDS, count)
    table = KernelWatts(
        name=name, kind=kind, arithmetic=arithmetic, seconds=seconds, watts=seconds, dram_bytes=dram,
        cache_bytes=cache, flops=flops, read_s=read_s(seconds), fold=fold,
    )  # fmt: skip
    watts = power.watts(table)
    wild = draw.random(count) < wild_frac
    return replace(table, watts=np.where(wild, draw.uniform(130.0, 700.0, count), watts))


def tables_of(wild_frac=0.0):
    kinds = (("GEMM", "matrices", "fp16"), ("attention", "attention", "fp16"), ("experts", "experts", "fp8"))
    return [kernels_of(*kind, TRUE, seed=seed, wild_frac=wild_frac) for seed, kind in enumerate(kinds)]


def values(power):
    return np.array([getattr(power, name) for name in KernelPower.__dataclass_fields__])


def test_kernels_that_follow_the_law_give_its_parameters_back():
    np.testing.assert_allclose(values(fit_kernels(tables_of(), 700.0)), values(TRUE), rtol=1e-3)


def test_a_fifth_of_wild_readings_moves_them_little():
    np.testing.assert_allclose(values(fit_kernels(tables_of(0.2), 700.0)), values(TRUE), rtol=0.1)


def test_each_shape_is_predicted_by_a_fit_that_did_not_see_it():
    """Readings of one fold doubled: the fit that held it out predicts that fold as if nothing had happened."""
    (table,) = [kernels_of("GEMM", "matrices", "fp16", TRUE)]
    spoiled = replace(table, watts=np.where(table.fold == 1, 2.0 * table.watts, table.watts))
    predicted = held_out_watts(spoiled, fit_folds([spoiled], 700.0))
    here = table.fold == 1
    np.testing.assert_allclose(predicted[here], TRUE.watts(table)[here], rtol=0.02)


def runs_of(power, count=60, seed=3):
    draw = np.random.default_rng(seed)
    seconds = (draw.uniform(0.05, 3.0, count), draw.uniform(0.02, 0.06, count))
    moved = tuple(draw.uniform(1e11, 1.2e12, count) * part for part in seconds)
    flops = (draw.uniform(2e13, 2.4e14, count) * seconds[0], draw.uniform(0.0, 3e13, count) * seconds[1])
    attention = tuple(draw.uniform(0.0, 0.2, count) * part for part in seconds)
    steps, tp = np.full(count, 127.0), draw.choice([2, 4, 8], count)
    empty = RunWork(seconds, moved, flops, attention, steps, steps, steps, tp)
    average_w, peak_w = run_watts(power, empty)
    return empty._replace(average_w=average_w, peak_w=peak_w)


MADE = PowerModel(72.0, 114.0, 1.36e-10, 1.9e-12, 408.0, attention_w=50.0)


def test_runs_that_follow_the_law_give_its_parameters_back():
    found = fit_runs(runs_of(MADE), 400.0, 72.0, 50.0)
    for name in ("busy_w", "j_per_byte", "j_per_flop", "cap_w"):
        assert getattr(found, name) == pytest.approx(getattr(MADE, name), rel=1e-3)


def test_a_degree_held_out_is_not_looked_at():
    runs = runs_of(MADE)
    spoiled = runs._replace(average_w=np.where(runs.tp == 8, 3.0 * runs.average_w, runs.average_w))
    without = fit_without_each(spoiled, 400.0, 72.0, 50.0)
    assert sorted(without) == [2, 4, 8]
    assert without[8].j_per_byte == pytest.approx(MADE.j_per_byte, rel=1e-3)


def test_the_average_of_a_run_lies_between_its_iterations_and_the_peak_is_the_hungrier():
    average_w, peak_w = run_watts(MADE, runs_of(MADE))
    assert (average_w <= peak_w + 1e-9).all()
    assert (peak_w <= MADE.cap_w + 1e-9).all()
    assert (average_w >= MADE.busy_w).all()


def card(name, architecture, memory, bandwidth, law):
    rates = np.array([0.2, 0.4, 0.6]) * bandwidth
    watts = 20.0 + law.busy_frac * 300.0 + law.j_per_byte * rates
    return PoweredCard(name, architecture, memory, 300.0, 20.0, bandwidth, rates, watts)


def law(name, architecture, memory, bandwidth, share, busy=0.06):
    return Law(name, architecture, memory, busy, share * 300.0 / bandwidth, share)


def test_a_card_s_line_is_found():
    made = law("one", "ada", "gddr", 1e12, 0.8)
    found = law_of(card("one", "ada", "gddr", 1e12, made))
    assert (found.busy_frac, found.j_per_byte, found.stream_frac) == pytest.approx(made[3:], rel=1e-3)


def test_cards_that_agree_on_everything_predict_each_other():
    laws = [law(name, name, "gddr", 1e12, 0.8) for name in ("ada", "ampere", "turing")]
    rule = pooled(laws[:2])
    assert rule.watts(card("t", "turing", "gddr", 1e12, laws[2])) == pytest.approx(
        card("t", "turing", "gddr", 1e12, laws[2]).watts
    )


def test_where_the_two_rules_differ_a_card_lies_between_them():
    """Half the bandwidth under the same limit: by joules per byte half the watts of streaming, by share the same."""
    rule = pooled([law("one", "ada", "gddr", 1e12, 0.8)])
    joules = rule.joules("gddr", 300.0, 5e11)
    assert rule.j_per_byte["gddr"] < joules < rule.stream_frac * 300.0 / 5e11
    assert rule.joules("hbm", 300.0, 5e11) == pytest.approx(rule.stream_frac * 300.0 / 5e11)  # no such memory known


def test_spread_of_equal_values_is_none_and_grows_with_distance():
    assert spread([2.0, 2.0, 2.0]) == 1.0
    assert spread([1.0, 2.0, 4.0]) > spread([1.0, 1.1, 1.2]) > 1.0


def fitted():
    laws = [
        law("h200", "hopper", "hbm", 4.8e12, 0.8, 0.02),
        law("a100-80", "ampere", "hbm", 2.0e12, 0.7, 0.1),
        law("RTX 4090D", "ada", "gddr", 1e12, 0.8),
        law("RTX 5090", "blackwell", "gddr", 1.8e12, 0.8),
    ]
    return FittedPower(TRUE, MADE, 8.0, read_cards(), laws)


def test_every_architecture_gets_a_pool_and_the_shipped_file_holds_the_same_ones():
    names = {shares.pool for shares in pools_of(fitted())}
    assert {name.partition("-")[0] for name in names} >= set(ARCHITECTURES) & {
        pool.partition("-")[0] for pool in load_anchors()
    }
    assert names == set(load_anchors())


def test_intervals_hold_their_values():
    for shares in pools_of(fitted()):
        for name, (value, low, high, _) in shares.facts.items():
            assert low <= value <= high, (shares.pool, name)


def test_leaving_an_architecture_out_uses_the_others_alone():
    """A law of its own that is ten times off changes nothing for the cards of its architecture."""
    plain = fitted()
    spoiled = replace_law(plain, "RTX 4090D", 10.0)
    errors = [{one.name: one.median for one in leave_one_architecture_out(each)} for each in (plain, spoiled)]
    assert errors[0]["RTX 4090D"] == errors[1]["RTX 4090D"]
    assert errors[0]["RTX 5090"] != errors[1]["RTX 5090"]


def replace_law(each, name, factor):
    laws = [one._replace(j_per_byte=factor * one.j_per_byte) if one.name == name else one for one in each.laws]
    return each._replace(laws=laws)


def test_published_runs_of_cards_are_read_with_their_source():
    cards = read_cards()
    assert len(cards) == len({one.name for one in cards})
    for one in cards:
        assert (one.rates < one.peak_bytes_per_s).all()
        assert ((one.idle_w < one.watts) & (one.watts <= one.tdp_w)).all()
    assert UNMEASURED_FACTOR > 1.0

"""The fit on points that the simulator itself made: what was put in comes out, and nothing leaks."""

import csv
import tomllib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from afterwatt.fidelity.fit import ship
from afterwatt.fidelity.fit.crossval import (
    LEAST_MEASURED,
    basis_of,
    cross_validate,
    held_out,
    learning_curve,
    leave_one_device_out,
)
from afterwatt.fidelity.fit.fit import candidates, fit_candidates, place_on
from afterwatt.fidelity.fit.intervals import IntervalCalibration, Miss
from afterwatt.fidelity.fit.priors import SHIPPED, base_stack
from afterwatt.fidelity.fit.profile import write_profile
from afterwatt.fidelity.fit.report import fit_table
from afterwatt.fidelity.points.predict import predict
from afterwatt.fidelity.points.scenario import scenario_of
from afterwatt.fidelity.points.table import COLUMNS, Point, PointsError, PointTable
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.stacks import (
    DEFAULT_STACK,
    FREE,
    PARAMETERS,
    load_pools,
    load_stack,
    parent_pool,
    stated_pools,
)

CARDS = ("p40", "p100-16", "rtx3090")
MODELS = {"LLaMA-2-7B": 6.74, "LLaMA-2-13B": 13.0, "Qwen2.5-14B": 14.8, "TinyLlama-1.1B": 1.1}
# What every card of this world deviates by, and what the RTX 3090 does on top.
COMMON = {"mem_efficiency": 0.85, "step_overhead_s": 2.0, "quantised_compute_efficiency": 1.4}
OWN = {"mem_efficiency": 1.1, "dequant_int4_ops_per_weight": 0.7}


def blank(card: str, model: str, metric: str, source: str) -> Point:
    prompt, output = (512, 1) if "prefill" in metric else (1, 128)
    return Point(
        row=2, source=source, url="made", device=card, stack="llama.cpp-cuda", model=model, params_b=MODELS[model],
        precision="q4_0", batch=1, prompt_tokens=prompt, output_tokens=output, metric=metric, value=1.0,
    )  # fmt: skip


def truth_on(card: str):
    base = base_stack(card, "llama.cpp-cuda")
    factors = {
        name: COMMON.get(name, 1.0) * (OWN.get(name, 1.0) if card == "rtx3090" else 1.0) for name in COMMON | OWN
    }
    return base.with_values({name: float(getattr(base, name)) * factor for name, factor in factors.items()})


@cache
def world(cards: tuple[str, ...] = CARDS, error: float = 0.0) -> tuple[Point, ...]:
    """Points that the simulator makes of the true parameters, with or without errors of measurement."""
    draw = np.random.default_rng(3)
    points = []
    for card in cards:
        for model in MODELS:
            for metric in ("decode_tok_s", "prefill_tok_s"):
                point = blank(card, model, metric, f"source {len(points) % 3}")
                value = predict(scenario_of(point), truth_on(card)).value
                points.append(
                    replace(point, row=len(points) + 2, value=value * float(np.exp(error * draw.standard_normal())))
                )
    return tuple(points)


def ready(points):
    return candidates([scenario_of(point) for point in points])


def errors(found):
    return np.abs([one.error_frac for one in found])


def test_points_are_explained_and_what_they_tell_is_found():
    points = ready(world())
    fitted = fit_candidates(points)
    for point in points:
        assert point.predict(fitted.stack(point.place)) == pytest.approx(point.scenario.measured, rel=0.03)
    for card in CARDS:
        found = fitted.stack(place_on("llama.cpp-cuda", load_device(card)))
        truth = truth_on(card)
        sizes = {name: abs(np.log(float(getattr(found, name)) / float(getattr(truth, name)))) for name in COMMON}
        before = {
            name: abs(np.log(float(getattr(base_stack(card, "llama.cpp-cuda"), name)) / float(getattr(truth, name))))
            for name in COMMON
        }
        assert sum(sizes.values()) < sum(before.values())


def test_llama_cpp_moves_hidden_states_of_32_bits_and_others_of_16():
    before = [base_stack("p40", name) for name in ("llama.cpp-cuda", "vllm")]
    assert [float(stack.activation_bytes_per_element) for stack in before] == [4, 2]
    shipped = (load_stack(load_device("p40"), name) for name in ("llama.cpp-cuda", "llama.cpp-cuda@2024", "vllm"))
    assert [float(stack.activation_bytes_per_element) for stack in shipped] == [4, 4, 2]


def test_what_is_timed_again_is_what_the_simulator_says():
    for point in ready(world()):
        stack = truth_on(point.place.device)
        assert point.predict(stack) == pytest.approx(predict(point.scenario, stack).value, rel=1e-9)


def test_points_of_one_card_move_another_only_by_what_they_share():
    """The card itself moves most; a card that shares its architecture more than one that does not."""
    fitted = fit_candidates(ready(world(("p40",))))
    moved = {}
    for card in ("p40", "p100-16", "v100-pcie-32"):
        place = place_on("llama.cpp-cuda", load_device(card))
        known, base = fitted.known(place), base_stack(card, "llama.cpp-cuda")
        moved[card] = abs(known.log_value["step_overhead_s"] - np.log(float(base.step_overhead_s)))
    assert moved["p40"] > moved["p100-16"] > moved["v100-pcie-32"] > 0.0


def test_what_is_held_out_changes_nothing():
    points = world()
    changed = [replace(point, value=point.value * 3.0) if point.device == "p40" else point for point in points]
    before, after = (leave_one_device_out(ready(table)) for table in (points, changed))
    for one, other in zip(before, after, strict=True):
        if one.candidate.place.device == "p40":
            assert other.predicted == pytest.approx(
                one.predicted, rel=2e-3
            )  # where a search stops depends on its start


def test_a_group_that_is_held_out_changes_nothing_of_its_prediction():
    points = world()
    group = scenario_of(points[0]).group
    changed = [replace(p, value=p.value / 2.0) if scenario_of(p).group == group else p for p in points]
    before, after = (cross_validate(ready(table)) for table in (points, changed))
    for one, other in zip(before, after, strict=True):
        same = abs(other.predicted / one.predicted - 1.0) < 2e-3  # where a search stops depends on its start
        assert same or one.scenario.group != group


def test_folds_hold_out_whole_groups():
    points = ready(world())
    found = cross_validate(points, folds=4)
    assert [one.candidate for one in found] == points
    assert np.median(errors(found)) < 0.1


def test_errors_out_of_sample_are_small_where_the_world_is_as_assumed():
    assert np.median(errors(cross_validate(ready(world())))) < 0.08


def test_a_few_points_of_an_unseen_card_are_enough():
    curve = learning_curve(ready(world()), (0, 3))
    assert np.median(errors(curve[3])) < np.median(errors(curve[0]))


def test_the_order_of_the_rows_does_not_matter():
    points = world(error=0.1)
    order = np.random.default_rng(0).permutation(len(points))
    one, other = (fit_candidates(ready(table)) for table in (points, [points[at] for at in order]))
    for card in CARDS:
        place = place_on("llama.cpp-cuda", load_device(card))
        assert other.known(place).log_value == pytest.approx(one.known(place).log_value, abs=1e-6)


def test_holding_out_by_any_key_covers_every_point_once():
    points = ready(world())
    found = held_out(points, lambda point: point.scenario.metric, learn=False)
    assert [one.candidate for one in found] == points


# -- profiles -------------------------------------------------------------------------------------------------------


@cache
def report():
    return fit_table(PointTable("made.csv", world(error=0.05), "0" * 64), folds=4)


def test_a_profile_is_read_back_as_it_was_fitted(tmp_path):
    path = tmp_path / "mine.toml"
    write_profile(path, report().text("llama.cpp-cuda"))
    assert [found.name for found in tmp_path.iterdir()] == ["mine.toml"]
    pools = load_pools(str(path))
    assert set(pools) == set(load_pools(DEFAULT_STACK)) | set(CARDS)
    for card in CARDS:
        stack = load_stack(load_device(card), str(path))
        fitted = report().fitted.stack(place_on("llama.cpp-cuda", load_device(card)))
        assert float(stack.mem_efficiency) == pytest.approx(float(fitted.mem_efficiency), rel=1e-3)
        assert (stack.pool, stack.basis, stack.seen, stack.quantised_in) == (card, "fitted", ("dense:int4",), "int8")
        low, high = stack.mem_efficiency.interval
        assert low < float(stack.mem_efficiency) <= high
        assert stack.spread["decode"].low < 1.0 < stack.spread["decode"].high
    assert pools["ampere-gddr"].basis == "pooled"
    assert pools["hopper"].basis == "assumed"
    wide, narrow = pools["hopper"].spread["decode"], pools["p40"].spread["decode"]
    assert wide.high / wide.low >= narrow.high / narrow.low


def test_a_profile_states_what_its_parent_does_not_and_holds_every_fact(tmp_path):
    path = tmp_path / "mine.toml"
    write_profile(path, report().text("llama.cpp-cuda"))
    file, pools, parents = tomllib.loads(path.read_text()), load_pools(str(path)), stated_pools(DEFAULT_STACK)
    assert file["inherits"] == DEFAULT_STACK
    for pool in report().pools("llama.cpp-cuda"):
        name = pool.stack.pool
        for parameter in FREE:
            if parameter.name == "attention_score_bytes":
                continue
            fact, found = getattr(pool.stack, parameter.name), getattr(pools[name], parameter.name)
            assert (float(found), *found.interval) == pytest.approx((float(fact), *fact.interval), rel=1e-3)
            assert (found.source, found.checked, found.kind, found.note) == (
                fact.source,
                fact.checked,
                fact.kind,
                fact.note,
            )
            parent = parents[parent_pool(name, parents)].get(parameter.name)
            if parameter.name in file[name] and parent is not None:
                assert (float(found), found.interval, found.source) != (float(parent), parent.interval, parent.source)
        assert pools[name].quantised_in == pool.stack.quantised_in
        assert not {parameter.name for parameter in PARAMETERS} <= set(file[name])


def test_a_profile_that_is_wrong_leaves_the_old_one(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("old")
    with pytest.raises(HardwareError):
        write_profile(path, "[p40]\nbasis = 'fitted'\n")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["mine.toml"]


def test_a_refit_starts_from_the_profile(tmp_path):
    """Own points of a new card, without the table that the profile came from: the others stay where they were."""
    path = tmp_path / "mine.toml"
    write_profile(path, report().text("llama.cpp-cuda"))
    own = replace(world()[0], device="m40-24", model="LLaMA-2-7B", value=11.0, row=2)
    again = fit_table(PointTable("own.csv", (own,), "1" * 64), str(path))
    assert errors(again.in_sample)[0] < errors(again.devices)[0]
    text = tmp_path / "again.toml"
    write_profile(text, again.text("llama.cpp-cuda"))
    new, old = load_pools(str(text)), load_pools(str(path))
    assert set(new) == set(old) | {"m40-24"}
    assert new["m40-24"].basis == "fitted"
    for card in CARDS:
        assert new[card].seen == old[card].seen
        assert float(new[card].mem_efficiency) == pytest.approx(float(old[card].mem_efficiency), rel=0.05)


def test_shipped_priors_are_each_stacks_own_or_the_generic_one():
    generic = base_stack("p40", "no-such-stack", SHIPPED)
    assert float(generic.mem_efficiency) == float(load_stack(load_device("p40")).mem_efficiency)


def test_a_table_without_a_usable_point_says_so():
    point = replace(world()[0], offload="dram")
    with pytest.raises(PointsError, match="holds no point to fit to: row 2: "):
        fit_table(PointTable("x.csv", (point,), ""))
    with pytest.raises(PointsError, match=r"of stack vllm to fit to; its points are of llama\.cpp-cuda"):
        fit_table(PointTable("x.csv", world()[:1], ""), stack="vllm")


# -- intervals ------------------------------------------------------------------------------------------------------


def misses(count, sd, stack="a", basis="fitted", kind="decode", seed=0):
    draw = np.random.default_rng(seed)
    return tuple(
        Miss(stack, basis, kind, float(sd * draw.standard_normal()), 1.0, ("group", stack, basis, str(place)))
        for place in range(count)
    )


@pytest.mark.parametrize("count", [12, 40, 200])
def test_intervals_cover_nine_in_ten(count):
    shares = []
    for seed in range(30):
        known = IntervalCalibration(misses(count, 0.2, seed=seed))
        new = misses(400, 0.2, seed=1000 + seed)
        shares.append(np.mean([abs(miss.log_error) <= known.half_width("a", "fitted", "decode") for miss in new]))
    assert 0.86 <= np.mean(shares) <= 0.95


def test_a_weaker_basis_is_never_narrower():
    known = IntervalCalibration(misses(30, 0.4, basis="measured") + misses(30, 0.1, basis="pooled"))
    widths = [known.half_width("a", basis, "decode") for basis in ("measured", "fitted", "pooled", "assumed")]
    assert widths == sorted(widths)


def test_a_stack_with_many_points_stands_on_its_own_and_one_with_few_leans_on_others():
    own = misses(200, 0.1, "a") + misses(200, 0.5, "b", seed=1)
    assert IntervalCalibration(own).half_width("a", "fitted", "decode") < 0.25
    few = misses(2, 0.001, "a") + misses(200, 0.5, "b", seed=1)
    assert IntervalCalibration(few).half_width("a", "fitted", "decode") > 0.25


def test_assumptions_widen():
    known = IntervalCalibration(misses(50, 0.2))
    low, high = known.factors("a", "fitted", "decode")
    wider = known.factors("a", "fitted", "decode", widen=2.0)
    assert wider == pytest.approx((low**2, high**2))


def test_an_interval_is_not_judged_by_its_own_group():
    outlier = Miss("a", "fitted", "decode", 1.0, 1.0, ("odd",))
    known = IntervalCalibration((*misses(8, 0.1), outlier))
    assert known.half_width("a", "fitted", "decode", ("odd",)) < known.half_width("a", "fitted", "decode")


# -- shipping -------------------------------------------------------------------------------------------------------


def test_each_version_of_a_software_gets_a_profile_and_what_was_measured_counts_for_its_own(tmp_path, capsys):
    table = tmp_path / "made.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for point in world(("p40", "rtx3090")):
            year = "@2024" if point.device == "rtx3090" else ""
            told = replace(point, stack=point.stack + year)
            writer.writerow({column: "" if (cell := getattr(told, column)) is None else cell for column in COLUMNS})
    ship.main([str(table), "--into", str(tmp_path), "--folds", "3"])
    assert "cross-validated: 16 points" in capsys.readouterr().out
    today, older = (load_pools(str(tmp_path / f"llama.cpp-cuda{year}.toml")) for year in ("", "@2024"))
    assert today["p40"].basis == older["rtx3090"].basis == "fitted"
    assert today["p40"].seen
    assert older["rtx3090"].seen
    assert "p40" not in older
    assert "rtx3090" not in today or today["rtx3090"].basis != "fitted"
    assert float(today["p40"].attention_score_bytes) < 0.1 < float(older["rtx3090"].attention_score_bytes)


@pytest.mark.parametrize("points", [1, 2, 3, 4])
def test_three_points_of_a_card_and_a_class_are_called_measured_and_fewer_are_not(points):
    ready_points = [point for point in ready(world(("p40",))) if point.reading is not None]
    kind = ready_points[0].model_class
    alike = [point for point in ready_points if point.model_class == kind][: points + 1]
    found = basis_of(alike[0], alike[1:])
    phases = {point.scenario.kind for point in alike[1:]}
    if alike[0].scenario.kind in phases:
        assert found == ("measured" if len(alike) > LEAST_MEASURED else "fitted")

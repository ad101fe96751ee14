"""Scores of power: what they are made of, and that the shipped anchors keep what they promise."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from afterwatt.fidelity.points.scenario import Scenario, scenario_of
from afterwatt.fidelity.points.table import PUBLISHED, read_points
from afterwatt.fidelity.power.anchors import KERNELS, SPLITWISE, fit_all, pools_of
from afterwatt.fidelity.power.fit import fit_folds, fit_without_each, held_out_watts, run_watts, run_work
from afterwatt.fidelity.power.score import (
    KernelScore,
    Off,
    PowerScores,
    RunScore,
    score,
    score_served,
    shipped_kernels,
    simulated_watts,
    watts_interval,
)
from afterwatt.fidelity.power.section import HELD_OUT, section_of
from afterwatt.fidelity.power.served import served_runs
from afterwatt.fidelity.power.tables import DEVICE, GEMM, KernelWatts, Repeats, read_kernel_watts
from afterwatt.fidelity.serving.splitwise import read_runs
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.power import gpu_power_model, load_anchors
from tests.fidelity.test_points_scenario import POINT

SHARED = Path(__file__).parents[2] / "../shared"
has_kernels = pytest.mark.skipif(not (SHARED / KERNELS / GEMM).is_file(), reason="kernel tables are not in ../shared")
has_runs = pytest.mark.skipif(not (SHARED / SPLITWISE).is_file(), reason="Splitwise's runs are not in ../shared")


def scenario(**changes) -> Scenario:
    found = scenario_of(replace(POINT, **changes))
    assert isinstance(found, Scenario), found
    return found


def serving(**changes):
    told = {
        "stack": "vllm",
        "device": "h100-sxm",
        "model": "LLaMA-3.1-8B",
        "params_b": 8.0,
        "precision": "bf16",
        "batch": None,
        "users": 16,
        "prompt_tokens": 600.0,
        "output_tokens": 570.0,
        "metric": "energy_j_per_tok",
        "value": 0.25,
        "mean_power_w": 500.0,
    }
    return replace(POINT, **(told | changes))


# -- at measured speed ------------------------------------------------------------------------------------------------


def test_joules_and_watts_tell_the_speed_and_that_the_iteration():
    (run,) = served_runs([serving()])
    assert run.tokens_per_s == pytest.approx(500.0 / 0.25)
    assert run.seconds == pytest.approx(16 / run.tokens_per_s)
    assert run.watts == 500.0
    assert run.moved_bytes > run.scenario.model.layers * 2.0 * run.scenario.model.attention_matrix_params


def test_points_without_watts_or_of_other_metrics_are_passed_over():
    assert served_runs([serving(mean_power_w=None), serving(metric="throughput_tok_s", value=2000.0)]) == []


def test_the_same_work_in_half_the_time_draws_more_but_not_twice_as_much():
    slow, fast = served_runs([serving(), serving(value=0.125)])
    assert slow.default_power() < fast.default_power() < 2.0 * slow.default_power()


def test_several_gpus_share_the_work_and_the_watts():
    one, two = served_runs([serving(), serving(gpus=2)])
    assert two.watts == 250.0
    assert two.flops == pytest.approx(one.flops / 2)


def test_the_error_of_joules_is_that_of_time_and_that_of_simulated_power():
    (found,) = score_served([serving()])
    measured_j, simulated_j = 0.25, found.watts / found.tokens_per_s
    assert 1.0 + found.joules_frac == pytest.approx(simulated_j / measured_j, rel=1e-9)
    assert found.low_w < found.at_speed_w < found.high_w


def test_an_interval_holds_the_prediction_and_is_a_point_where_nothing_is_drawn():
    device = load_device("h100-sxm")
    plain = gpu_power_model(device, "fp16").energy_j(1.0, 1e12, 1e14)
    low, high = watts_interval(device, "fp16", lambda model: model.energy_j(1.0, 1e12, 1e14))
    assert low < plain < high
    assert watts_interval(device, "fp16", lambda model: model.idle_w) == (float(device.idle_w),) * 2


# -- simulated --------------------------------------------------------------------------------------------------------


def test_a_simulated_average_lies_between_busy_and_the_peak():
    run = scenario(batch=4, prompt_tokens=500, output_tokens=50)
    average_w, peak_w = simulated_watts(run, run.stack_profile())
    device = run.deployment.pool.device
    model = gpu_power_model(device, "fp32" if "fp16" not in device.flops_per_s else "fp16")
    assert device.idle_w < average_w < peak_w <= model.cap_w * (1 + 1e-9)


def test_a_model_that_draws_the_same_whatever_it_does_is_metered_as_that():
    run = scenario(batch=4, prompt_tokens=500, output_tokens=50)
    idle_w = float(run.deployment.pool.device.idle_w)
    model = gpu_power_model(
        run.deployment.pool.device, "fp32" if "fp16" not in run.deployment.pool.device.flops_per_s else "fp16"
    )
    flat = replace(
        model, busy_w=idle_w + 33.0, j_per_byte=0.0, j_per_flop=0.0, attention_w=0.0, expert_w=0.0, unpack_w=0.0
    )
    assert simulated_watts(run, run.stack_profile(), flat) == pytest.approx((idle_w + 33.0, idle_w + 33.0))


def test_shipped_anchors_as_a_law_of_kernels_are_the_power_model():
    device = load_device(DEVICE)
    model, draw = gpu_power_model(device, "fp16"), np.random.default_rng(0)
    seconds = draw.uniform(1e-5, 1e-2, 50)
    dram, flops = draw.uniform(0.0, 4e12, 50) * seconds, draw.uniform(0.0, 6e14, 50) * seconds
    for kind, place in (("matrices", None), ("attention", 0), ("experts", 1)):
        table = KernelWatts(
            name="", kind=kind, arithmetic="fp16", seconds=seconds, watts=seconds, dram_bytes=dram,
            cache_bytes=0.0 * dram, flops=flops, read_s=seconds, fold=np.zeros(50, np.int64),
        )  # fmt: skip
        for got, *work in zip(shipped_kernels(device).watts(table), seconds, dram, flops, strict=True):
            kinds = [work[0] if number == place else 0.0 for number in range(3)]
            assert got == pytest.approx(model.energy_j(*work, *kinds) / work[0], rel=1e-9)


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_claims_what_the_scores_say():
    good, bad = Off(1000, 0.05, 0.2, 1.0), Off(1000, 0.3, 0.6, 1.0)
    scores = PowerScores(
        (KernelScore("GEMM", good, good, good), KernelScore("tiny", bad, bad._replace(rows=3), bad)),
        (),
        (RunScore("simulated, in sample", good, good, good), RunScore(HELD_OUT, bad, bad, bad)),
        (),
        (),
    )
    section = section_of(scores)
    assert [(claim.what.partition(",")[0], claim.met) for claim in section.claims] == [
        ("H200 kernel power", True),
        ("A100 power", False),
    ]
    assert "30.0 %" in section.text


def test_readings_that_are_a_kernels_own_are_claimed_apart_and_noise_stands_beside():
    good, bad = Off(1000, 0.05, 0.2, 1.0), Off(1000, 0.3, 0.6, 1.0)
    score_ = KernelScore("attention", bad, bad, bad, (bad, None, good))
    again = Repeats("attention", 900, 0.01, 0.28, ((700, 0.4), None, (200, 0.06)))
    section = section_of(PowerScores((score_,), (again,), (), (), ()))
    assert [(claim.what.rpartition(", ")[2], claim.met) for claim in section.claims] == [
        ("held-out shapes", False),
        ("read for 1 s", True),
    ]
    assert ["28.0 %" in section.claims[0].reached, "6.0 %" in section.claims[1].reached] == [True, True]
    assert "40.0 % of 700" in section.text


def test_without_tables_of_kernels_and_runs_the_published_points_are_scored_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("afterwatt.fidelity.power.score.score_served", tuple)
    assert score(tmp_path) == PowerScores((), (), (), read_points(PUBLISHED).points, ())


# -- real tables ------------------------------------------------------------------------------------------------------


@has_runs
def test_power_of_runs_on_a_degree_never_seen_is_within_eight_per_cent():
    """The 65 runs of each degree that have measured power, at their measured times; the median."""
    device = load_device("a100-80")
    runs, _ = read_runs(SHARED / SPLITWISE)
    done = run_work([run for run in runs if run.hardware == "a100-80gb"])
    assert len(done.tp) == 195
    attention_w = load_anchors()["ampere-hbm"].attention_frac * device.tdp_w
    errors = []
    for tp, power in fit_without_each(done, float(device.tdp_w), float(device.idle_w), attention_w).items():
        held = done.only(done.tp == tp)
        average_w, peak_w = run_watts(power, held)
        errors += [average_w / held.average_w - 1.0, peak_w / held.peak_w - 1.0]
    assert np.median(np.abs(np.concatenate(errors))) <= 0.08


def test_power_of_served_runs_at_their_measured_speed_is_inside_its_interval():
    found = served_runs(read_points(PUBLISHED).points)
    errors = [run.default_power() / run.watts - 1.0 for run in found]
    assert len(found) >= 16
    assert np.median(np.abs(errors)) <= 0.12
    inside = 0
    for run in found:
        low, high = watts_interval(run.scenario.deployment.pool.device, run.computed_in, run.power)
        inside += low <= run.watts <= high
    assert inside >= 0.8 * len(found)


@has_kernels
@has_runs
def test_the_shipped_anchors_are_what_the_fit_gives_and_hold_on_shapes_never_seen():
    tdp_w = float(load_device(DEVICE).tdp_w)
    tables = read_kernel_watts(SHARED / KERNELS)
    folds = fit_folds([table for table in tables if table.kind != "attention"], tdp_w)
    errors = {
        table.name: np.median(np.abs(held_out_watts(table, folds) / table.watts - 1.0))
        for table in tables
        if table.name in ("GEMM bf16", "experts bf16", "experts fp8")
    }
    assert max(errors.values()) <= 0.12, errors
    shipped = load_anchors()
    for shares in pools_of(fit_all(SHARED, tables)):
        for name, (value, *_rest) in shares.facts.items():
            assert float(getattr(shipped[shares.pool], name)) == pytest.approx(value, rel=2e-3, abs=1e-6), (
                shares.pool,
                name,
            )

"""Predictions are what the simulator says: the same runs, read off as closed forms say, whatever the parameters."""

from dataclasses import replace

import numpy as np
import pytest

from afterwatt.fidelity.points.loads import LoadWorkload, arrivals_of, batch_of, chat_of, pieces_of, spread_lengths
from afterwatt.fidelity.points.predict import EnergyCurve, measure, predict, predict_all, run_columns
from afterwatt.fidelity.points.scenario import Scenario, scenario_of
from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.sim.clock import S_PER_PS
from afterwatt.sim.run import simulate
from tests.fidelity.test_points_scenario import POINT


def run_of(**changes) -> Scenario:
    found = scenario_of(replace(POINT, **changes))
    assert isinstance(found, Scenario), found
    return found


def times(scenario: Scenario) -> TimeModel:
    config = scenario.config(scenario.stack_profile())
    return TimeModel(config.serving)


def test_a_prompt_takes_what_the_physics_says():
    scenario = run_of(metric="ttft_s", prompt_tokens=300, output_tokens=1)
    first, _, _ = times(scenario).step(0, 0, [(None, 300, 0)], 1, 1)
    assert predict(scenario).value == pytest.approx(first * S_PER_PS, rel=1e-12)


def test_prompts_per_second_are_tokens_over_that_time():
    ttft = predict(run_of(metric="ttft_s", prompt_tokens=300, output_tokens=1)).value
    rate = predict(run_of(metric="prefill_tok_s", prompt_tokens=300, output_tokens=None)).value
    assert rate == pytest.approx(300 / ttft, rel=1e-12)


def test_decoding_takes_what_the_physics_says():
    scenario = run_of(prompt_tokens=10, output_tokens=101)
    model = times(scenario)
    spent = sum(model.step(1, 10 + number + 1, (), 1, 1)[0] for number in range(100)) * S_PER_PS
    found = predict(scenario).value
    assert found == pytest.approx(100 / spent, rel=0.01)
    tpot = predict(run_of(prompt_tokens=10, output_tokens=101, metric="tpot_s")).value
    assert tpot == pytest.approx(1 / found, rel=1e-9)


def test_throughput_of_a_batch_is_its_answers_over_the_whole_time():
    changes = {"batch": 4, "prompt_tokens": 64, "output_tokens": 32, "precision": "fp16", "stack": "vllm"}
    scenario = run_of(metric="throughput_tok_s", **changes)
    columns, _ = run_columns(scenario, scenario.stack_profile())
    assert predict(scenario).value == pytest.approx(4 * 32 / float(np.max(columns["finish_s"])), rel=1e-12)


def test_a_deeper_cache_costs_attention_only():
    def rate(depth: int) -> float:
        return predict(run_of(context_tokens=depth, **changes)).value

    changes = {"metric": "prefill_tok_s", "iteration_tokens": 64, "prompt_tokens": 512, "output_tokens": 1}
    scenario = run_of(context_tokens=1024, **changes)
    model = times(scenario)
    spent = sum(model.step(0, 0, [(None, 64, 1024 + 64 * piece)], int(piece == 7), 1)[0] for piece in range(8))
    assert rate(1024) == pytest.approx(512 / (spent * S_PER_PS), rel=1e-9)
    assert rate(4096) < rate(1024)


def test_pieces_of_a_prompt_overlap_in_a_pipeline():
    """Two pieces over two stages: three stage times instead of four."""
    one = predict(run_of(metric="prefill_tok_s", prompt_tokens=512, gpus=2, output_tokens=None)).value
    two = predict(run_of(metric="prefill_tok_s", prompt_tokens=1024, gpus=2, output_tokens=None)).value
    assert 1.15 * one < two <= one * 4 / 3 * 1.001


def test_a_full_engine_is_measured_while_it_is_full():
    scenario = run_of(stack="vllm", device="h100-sxm", precision="bf16", batch=None, users=16,
                      prompt_tokens=600, output_tokens=390, metric="throughput_tok_s")  # fmt: skip
    tpot = replace(scenario, metric="tpot_s")
    full = predict(scenario).value * predict(tpot).value
    assert 0.8 * 16 < full <= 16.2


def test_points_of_one_run_share_a_simulation(monkeypatch: pytest.MonkeyPatch):
    import afterwatt.fidelity.points.predict as module

    calls = []
    original = module.run_columns
    monkeypatch.setattr(module, "run_columns", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    rate = run_of(prompt_tokens=16, output_tokens=33)
    wait = run_of(prompt_tokens=16, output_tokens=33, metric="tpot_s")
    found = predict_all([rate, wait])
    assert len(calls) == 1
    assert [one.value for one in found] == [predict(rate).value, predict(wait).value]


def test_it_is_the_run_that_the_command_makes(tmp_path):
    """The columns of a run directory give the same figure: nothing is predicted on the side."""
    scenario = run_of(prompt_tokens=40, output_tokens=20, precision="fp16", metric="energy_j_per_tok")
    stack = scenario.stack_profile()
    columns, curve = run_columns(scenario, stack, energy=True)
    run = simulate(scenario.config(stack), tmp_path / "run")
    rows = run.read("requests") if hasattr(run, "read") else run.requests
    written = {name: np.asarray(rows[name]) for name in ("first_token_s", "finish_s")}
    for name, values in written.items():
        assert np.asarray(columns[name], dtype=float) == pytest.approx(values.astype(float), rel=1e-12)
    assert curve is not None
    total = run.summary.model_dump()["energy_j"]["by_component"]["gpu"]
    assert curve.joules[-1] == pytest.approx(total, rel=1e-9)


def test_faster_memory_never_slows_decoding_down():
    scenario = run_of(prompt_tokens=16, output_tokens=33)
    stack = scenario.stack_profile()
    slow = stack.with_values({"mem_efficiency": 0.3})
    fast = stack.with_values({"mem_efficiency": 0.9})
    assert predict(scenario, fast).value >= predict(scenario, slow).value


def test_energy_counts_the_gpus_alone():
    curve = EnergyCurve(np.array([0.0, 1.0, 3.0]), np.array([0.0, 100.0, 500.0]))
    assert curve.between(0.5, 2.0) == pytest.approx(50.0 + 200.0)
    scenario = run_of(metric="energy_j_per_tok", prompt_tokens=40, output_tokens=20)
    device = scenario.deployment.pool.device
    columns, _ = run_columns(scenario, scenario.stack_profile())
    longest = float(np.max(columns["finish_s"])) * float(device.tdp_w) / 20
    assert 0.0 < predict(scenario).value <= longest * (1.0 + 1e-9)


def test_a_run_that_did_not_finish_is_no_figure():
    scenario = run_of(prompt_tokens=16, output_tokens=33)
    columns, _ = run_columns(scenario, scenario.stack_profile())
    broken = dict(columns) | {"finish_s": np.array([np.nan])}
    with pytest.raises(ValueError, match="not every request"):
        measure(scenario, broken)


# -- loads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [20.0, 150.0, 389.0])
def test_lengths_have_their_mean_and_do_not_repeat(mean: float):
    lengths = np.array(spread_lengths(2000, mean, 0.6180339887498949))
    assert lengths.mean() == pytest.approx(mean + 0.5, rel=0.02)
    assert np.quantile(lengths, 0.5) == pytest.approx(mean * np.log(2.0), rel=0.03)
    assert abs(np.corrcoef(lengths[:-1], lengths[1:])[0, 1]) < 0.5


def test_pieces_make_up_the_prompt():
    assert pieces_of(1300, 512).prompts == (512, 512, 276)
    assert sum(pieces_of(1024, 512).prompts) == 1024


def test_arrivals_come_at_their_rate():
    load = arrivals_of(1200, 20.0, 50, 150)
    gaps = np.diff(load.arrivals_s)
    assert gaps.mean() == pytest.approx(1 / 20.0, rel=0.02)
    assert gaps.std() == pytest.approx(1 / 20.0, rel=0.05)


def test_a_load_names_what_it_is():
    assert LoadWorkload(batch_of(2, 512, 32, 1024)).name == "2 requests, 512 in, 32 out, 1024 cached"
    assert "8 at a time" in LoadWorkload(chat_of(30, 100, 100, 8)).name

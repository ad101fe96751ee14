"""Holding out tensor-parallel degrees: runs that the model itself made are found again; the arithmetic of the score."""

from pathlib import Path

import numpy as np
import pytest

from afterwatt.fidelity.fit.priors import base_stack
from afterwatt.fidelity.points.predict import predict_all
from afterwatt.fidelity.points.scenario import Scenario, scenario_of
from afterwatt.fidelity.points.table import PointsError
from afterwatt.fidelity.serving.splitwise import COLUMNS, Setup, SplitwiseRun
from afterwatt.fidelity.serving.splitwise_score import (
    METRICS,
    Held,
    SplitwiseErrors,
    SplitwiseScore,
    one_or_many,
    score,
    section,
    section_of,
)
from afterwatt.hwprofiles.stacks import Stack

SHARED = Path(__file__).parents[2] / "../shared/traces/splitwise_sim/perf_model_llama2_70b.csv"


def setup(
    tp: int, batch: int, prompt: int, ttft_s: tuple[float, ...], tpot_s: float = 0.05, slower: float = 1.0
) -> Setup:
    key = {"hardware": "a100-80gb", "model": "llama2-70b", "tp": tp, "prompt_tokens": prompt, "batch": batch}
    key |= {"output_tokens": 32}
    watts = {"peak_frac": None, "average_frac": None}
    runs = [
        SplitwiseRun(row=2, **key, **watts, ttft_s=time, tpot_s=tpot_s, e2e_s=slower * (time + 31 * tpot_s))
        for time in ttft_s
    ]
    return Setup(**key, runs=tuple(runs))


def simulated(stack: Stack, of: Setup) -> dict[str, float]:
    scenarios = [one for one in map(scenario_of, of.points()) if isinstance(one, Scenario)]
    return {made.scenario.metric: made.value for made in predict_all(scenarios, lambda _: stack)}


def table(path: Path, setups: list[Setup], stack: Stack) -> Path:
    """Write runs that take as long as the simulator says under a stack."""
    lines = [",".join(COLUMNS)]
    for one in setups:
        ttft_ms, tpot_ms = (1e3 * simulated(stack, one)[metric] for metric in METRICS)
        cells = [one.model, one.hardware, one.prompt_tokens, one.batch, one.output_tokens, 0, 0]
        lines.append(",".join(map(str, [*cells, ttft_ms, tpot_ms, ttft_ms + 31 * tpot_ms, one.tp])))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_runs_that_the_model_made_are_predicted_for_a_degree_never_seen(tmp_path: Path) -> None:
    prior = base_stack("a100-80", "splitwise")
    truth = prior.with_values(
        {
            "launch_s": prior.launch_s * 0.8,
            "prompt_launch_s": prior.prompt_launch_s * 1.2,
            "compute_efficiency": prior.compute_efficiency * 0.8,
            "comm_bulk_efficiency": 0.12,
            "sequence_overhead_s": prior.sequence_overhead_s * 2.0,
        }
    )
    shapes = [(1, 128), (1, 512), (1, 2048), (1, 8192), (8, 512), (32, 512)]
    setups = [setup(tp, batch, prompt, (0.1,)) for tp in (2, 4, 8) for batch, prompt in shapes]
    scored = score(table(tmp_path / "t.csv", setups, truth))
    assert scored.runs == len(setups)
    for metric in METRICS:
        untouched = [simulated(prior, one)[metric] / simulated(truth, one)[metric] - 1.0 for one in setups]
        held = scored.errors(metric)
        assert held.runs == len(setups)
        assert held.median < 0.02
        assert held.p90 < 0.06 < np.quantile(np.abs(untouched), 0.9)
        assert scored.in_sample[metric].p90 < 0.02


def score_of(*held: Held) -> SplitwiseScore:
    return SplitwiseScore("0" * 64, 0, 0, held, dict.fromkeys(METRICS, SplitwiseErrors(0, 0.0, 0.0)), (0.0, 0.0))


def test_every_run_is_an_error_of_its_own() -> None:
    one = Held(setup(2, 1, 512, (0.1, 0.2, 0.4)), "ttft_s", 0.2, 0.2)
    assert one.errors() == pytest.approx([1.0, 0.0, -0.5])
    assert score_of(one).errors("ttft_s") == pytest.approx((3, 0.5, 0.9))
    assert score_of(one).errors("ttft_s", tp=4).runs == 0
    assert score_of(one).errors("tpot_s").runs == 0
    assert score_of(one).repeats("ttft_s") == pytest.approx((3, 0.5, 0.9))


def test_what_ran_in_parts_is_scored_three_ways() -> None:
    parts = Held(setup(2, 64, 512, (1.0,), slower=16.0), "ttft_s", 1.1, 13.0)
    plain = Held(setup(2, 1, 512, (1.0,)), "ttft_s", 1.3, 1.3)
    assert parts.setup.batch_at_once == 4
    scored = score_of(parts, plain)
    assert scored.errors("ttft_s") == pytest.approx((2, 0.2, 0.28))
    assert scored.errors("ttft_s", parts="whole") == pytest.approx((2, 6.15, 0.3 + 0.9 * 11.7))
    assert scored.errors("ttft_s", parts="out") == pytest.approx((1, 0.3, 0.3))


def test_misses_are_those_beyond_the_ninetieth_percentile_asked_for_worst_first() -> None:
    held = [
        Held(setup(2, batch, 512, (1.0,)), "ttft_s", wrong, wrong) for batch, wrong in ((1, 1.2), (2, 1.1), (4, 0.6))
    ]
    scored = score_of(*held)
    assert [miss.setup.batch for miss in scored.misses()] == [4, 1]
    text = section_of(scored).text
    assert text.index("4 x 512 + 32: TTFT measured 1000 ms, predicted 600 ms (-40%)") < text.index("(+20%)")
    assert "(+10%)" not in text


@pytest.mark.parametrize(("wrong", "met"), [(1.07, True), (1.08, False)])
def test_a_claim_is_met_up_to_the_target_and_not_beyond(wrong: float, met: bool) -> None:
    held = [
        Held(setup(2, 1, 512, (1.0,)), "ttft_s", wrong - 1e-9, 1.0),
        Held(setup(2, 1, 512, (1.0,)), "tpot_s", 1.0, 1.0),
    ]
    ttft, tpot = section_of(score_of(*held)).claims
    assert ttft.met is met
    assert tpot.met is False


def test_there_is_no_section_without_the_table(tmp_path: Path) -> None:
    assert section(tmp_path) is None


def test_one_prompt_is_held_against_several_of_equally_many_tokens() -> None:
    setups = [
        setup(2, 1, 2048, (1.0,)),
        setup(2, 4, 512, (1.5,)),
        setup(4, 1, 1024, (1.2,)),
        setup(4, 2, 512, (1.0,)),
        setup(4, 8, 512, (9.0,)),
    ]
    assert one_or_many(setups) == pytest.approx((0.35, 0.5))
    assert np.isnan(one_or_many(setups[:1])).all()


def test_one_degree_cannot_be_held_out(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", [setup(2, 1, 128, (0.1,))], base_stack("a100-80", "splitwise"))
    with pytest.raises(PointsError, match="1 tensor-parallel degree"):
        score(path)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_file(), reason="Splitwise's runs do not lie in ../shared/traces")
def test_published_runs_are_predicted_for_degrees_never_seen() -> None:
    scored = score(SHARED)
    assert scored.runs == 630
    assert scored.errors("ttft_s").runs == scored.errors("tpot_s").runs == 630
    for metric in METRICS:
        assert scored.errors(metric).median <= 0.08
        assert scored.errors(metric).p90 <= 0.17
        assert scored.in_sample[metric].median <= scored.errors(metric).median

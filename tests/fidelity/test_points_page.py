"""Scores, the page and the program: figures are those of the points, and a wrong file ends in a sentence."""

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from afterwatt.fidelity.page.assess import IN_SAMPLE, Assessment, assess
from afterwatt.fidelity.page.page import fidelity_page, summary_of, table, wrapped
from afterwatt.fidelity.page.parity import parity_plot
from afterwatt.fidelity.points.noise import SOURCES, TWINS, noise_floor
from afterwatt.fidelity.points.scenario import Scenario, scenario_of
from afterwatt.fidelity.points.score import Scored, around, by, errors_of, intervals_of, worst
from afterwatt.fidelity.points.table import read_points
from tests.fidelity.test_points import ROW
from tests.fidelity.test_points import table as csv_table
from tests.fidelity.test_points_scenario import POINT

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "benchmarks" / "fidelity.py"
ROWS = (
    ROW,
    ROW | {"metric": "decode_tok_s", "prompt_tokens": "1", "output_tokens": "128", "value": "55"},
    ROW | {"device": "h100-sxm", "metric": "ttft_s", "value": "0.02", "precision": "fp16", "stack": "vllm"},
    ROW | {"device": "rtx6090"},
    ROW | {"offload": "ssd"},
)


def run_of(**changes) -> Scenario:
    found = scenario_of(replace(POINT, **changes))
    assert isinstance(found, Scenario), found
    return found


def one(measured: float, predicted: float, low: float | None = None, high: float | None = None, **changes) -> Scored:
    return Scored(run_of(value=measured, **changes), predicted, low, high, "fitted")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Assessment:
    path = tmp_path_factory.mktemp("points") / "points.csv"
    path.write_text(csv_table(*ROWS), encoding="utf-8")
    return assess(read_points(path), refit=False)


# -- scores ----------------------------------------------------------------------------------------------------------


def test_errors_are_relative_to_what_was_measured():
    errors = errors_of([one(100, 110), one(100, 80), one(50, 50)])
    assert (errors.count, errors.median_frac) == (3, pytest.approx(0.1))
    assert errors.p90_frac == pytest.approx(np.quantile([0.1, 0.2, 0.0], 0.9))
    assert errors.bias == pytest.approx((1.1 * 0.8 * 1.0) ** (1 / 3))
    assert math.isnan(errors_of([]).median_frac)


def test_groups_hold_every_point_once():
    scores = [one(1, 2), one(1, 2, device="rtx4090"), one(1, 3)]
    grouped = by(scores, lambda score: score.scenario.device_key)
    assert {name: errors.count for name, errors in grouped.items()} == {"rtx3090": 2, "rtx4090": 1}


def test_intervals_count_those_that_have_one():
    told = intervals_of([one(10, 9, 8, 12), one(10, 9, 4, 8), one(10, 9)])
    assert (told.count, told.inside_frac, told.median_width) == (2, 0.5, pytest.approx((1.5 + 2.0) / 2))


def test_an_interval_of_time_turns_over_for_a_rate():
    rate = around(run_of(), 100.0, math.log(0.5), math.log(4.0))
    wait = around(run_of(metric="ttft_s", prompt_tokens=9), 100.0, math.log(0.5), math.log(4.0))
    widen = run_of().widen
    assert rate == pytest.approx((100.0 / 4.0**widen, 100.0 / 0.5**widen))
    assert wait == pytest.approx((50.0, 400.0))


def test_the_worst_come_first_whichever_way_they_are_off():
    scores = [one(100, 120), one(100, 10), one(100, 400)]
    assert [score.predicted for score in worst(scores, 2)] == [10, 400]


# -- noise -----------------------------------------------------------------------------------------------------------


def test_two_sources_about_one_set_up_are_a_pair():
    rows = [run_of(source=f"llama.cpp PR {number}", row=number, value=value) for number, value in ((2, 100), (3, 125))]
    floor = noise_floor(rows)
    assert floor is not None
    (pair,) = floor.pairs
    assert (pair.kind, pair.rows, pair.ratio) == (SOURCES, (2, 3), pytest.approx(1.25))
    assert floor.median_error_frac == pytest.approx(math.sqrt(1.25) - 1.0)


def test_twins_are_compared_per_byte_of_bandwidth():
    cards = ("a100-80-pcie", "a100-80")
    rows = [run_of(device=card, row=number) for number, card in enumerate(cards, 2)]
    floor = noise_floor(rows)
    assert floor is not None
    speeds = [scenario.deployment.pool.peak_bytes_per_s for scenario in rows]
    assert [pair.kind for pair in floor.pairs] == [TWINS]
    assert floor.median_ratio == pytest.approx(max(speeds) / min(speeds))


def test_other_lengths_models_and_cards_are_no_pair():
    base = {"source": "llama.cpp PR 1"}
    others = [
        {"output_tokens": 8000},
        {"model": "TinyLlama-1.1B", "params_b": 1.1},
        {"device": "rtx4090"},
        {"metric": "prefill_tok_s", "prompt_tokens": 512},
        {"gpus": 2},
        {"source": "llama.cpp PR 1"},
    ]
    assert [
        noise_floor([run_of(**base), run_of(**{"source": "other llama.cpp PR"} | change)]) for change in others
    ] == [None] * len(others)


# -- the page --------------------------------------------------------------------------------------------------------


def test_every_row_is_run_or_listed(found: Assessment):
    cover = found.coverage
    assert (cover.rows, cover.counted, cover.run) == (5, 3, 3)
    page = " ".join(fidelity_page(found, (), "images/x.svg").split())
    assert "5 rows, 3 of them with a known card, weights on it and no speculation; 3 are run." in page
    assert found.refusals
    for refusal in found.refusals:
        assert f"| {refusal.why} | {refusal.point.row} |" in page


def test_the_page_shows_the_figures_of_the_scores(found: Assessment):
    page = fidelity_page(found, (), "images/x.svg")
    errors = errors_of(found.tests[IN_SAMPLE])
    assert f"| {IN_SAMPLE} | {errors.count} | {100 * errors.median_frac:.0f} % |" in page
    assert "![Predicted over measured](images/x.svg)" in page
    prose = [line for line in page.splitlines() if not line.startswith("|")]
    assert max(map(len, prose)) <= 140


def test_the_figure_is_well_formed_and_has_a_dot_for_every_point(found: Assessment):
    picture = parity_plot(found.tests[IN_SAMPLE], "a <caption> & more")
    root = ET.fromstring(picture)
    dots = [node for node in root.iter() if node.tag.endswith("circle") and node.get("fill-opacity")]
    assert len(dots) == len(found.scenarios)
    width, height = map(float, root.get("viewBox", "").split()[2:])
    assert all(0 <= float(dot.get("cx", -1)) <= width and 0 <= float(dot.get("cy", -1)) <= height for dot in dots)


def test_json_has_every_point_and_no_nan(found: Assessment):
    said = json.loads(json.dumps(summary_of(found), allow_nan=False))
    points = said["tests"][IN_SAMPLE]["points"]
    assert [point["row"] for point in points] == [2, 3, 4]
    assert [refused["reason"] for refused in said["refused"]] == ["unknown_gpu", "offload"]
    assert {"by_hardware", "by_stack", "by_metric", "intervals"} <= set(said["tests"][IN_SAMPLE])


def test_a_bar_in_a_cell_does_not_break_a_table():
    assert table(("a", "b"), [("x|y", "z")]).splitlines()[2] == "| x\\|y | z |"
    assert max(map(len, wrapped("word " * 100).splitlines())) <= 120


# -- the program -----------------------------------------------------------------------------------------------------


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_another_table_is_scored_and_nothing_is_written(tmp_path: Path):
    path = tmp_path / "own.csv"
    path.write_text(csv_table(*ROWS), encoding="utf-8")
    page = ROOT / "docs" / "fidelity.md"
    before = page.read_bytes() if page.exists() else None
    result = program("--points", path, "--json", "-")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["run"] == 3
    assert (page.read_bytes() if page.exists() else None) == before


@pytest.mark.parametrize("content", [None, "", "model,value\n", csv_table(ROW | {"value": "fast"})])
def test_a_wrong_table_is_a_sentence_and_exit_2(tmp_path: Path, content: str | None):
    path = tmp_path / "own.csv"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    result = program("--points", path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "own.csv" in result.stderr

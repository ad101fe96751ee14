"""`import afterwatt as aw`: cheap to import, the same figures as the command's, nothing left behind."""

import inspect
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest

import afterwatt as aw
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.policies.batching import ChunkedPrefill
from afterwatt.policies.errors import PolicyError
from afterwatt.reports.schema import Summary
from afterwatt.sim.errors import Infeasible
from afterwatt.studies.config import words
from afterwatt.studies.evaluate import frame
from afterwatt.studies.running import run_study

BATCH = {"batch": 2, "prompt": 64, "output": 4, "draws": 10}
HEAVY = ("numpy", "pandas", "pyarrow", "pydantic", "scipy", "plotly", "simpy", "joblib", "rich", "typer", "torch")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a place for temporary files that can be looked into."""
    (tmp_path / "work").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


def test_importing_it_is_quick_and_loads_nothing_heavy():
    program = """
import sys, time
begin = time.process_time()
import afterwatt
print(time.process_time() - begin, *sorted(sys.modules))
"""
    taken = []
    for _ in range(5):
        said = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()
        taken.append(float(said[0]))
        assert not set(HEAVY) & set(said)
    assert min(taken) < 0.03


def test_every_name_that_it_shows_is_there_and_no_other():
    shown = {name for name in dir(aw) if not name.startswith("_")}
    assert {"simulate", "compare", "study", "load_run", "StudyConfig", "OptionError"} <= shown
    assert all(hasattr(aw, name) for name in shown)
    with pytest.raises(AttributeError, match=r"no attribute 'simulat'; it has .*simulate"):
        _ = aw.simulat


def test_a_run_in_memory_is_the_run_of_a_directory(folder: Path):
    run = aw.simulate(hw="m40", **BATCH)
    assert [list(path.iterdir()) for path in (folder / "work", folder / "tmp")] == [[], []]
    written = aw.study(hw="m40", out="r", no_report=True, **BATCH).runs[0]
    assert run.result == written.summary
    assert run.manifest == written.manifest
    for table in ("requests", "timeline", "draws"):
        pd.testing.assert_frame_equal(getattr(run, table), getattr(aw.load_run("r"), table))


def leaves(block: object) -> list[float]:
    """Every number of a nested block."""
    if isinstance(block, dict):
        return [number for value in block.values() for number in leaves(value)]
    return [float(block)] if isinstance(block, int | float) else []


def test_the_summary_loses_no_figure_and_names_its_unit():
    run = aw.simulate(hw="m40", slo="ttft=100s", **BATCH)
    row = run.summary.loc[0]
    dumped = run.result.model_dump(exclude={"breakeven"})
    del dumped["carbon_gco2e"]["by_method"]
    numbers = [float(value) for value in row.drop("seed") if not isinstance(value, str) and not math.isnan(value)]
    assert sorted(numbers) == pytest.approx(sorted(leaves(dumped)))
    assert row["ttft_p90_s"] == run.result.ttft_s.p90
    assert row["carbon_total_p5_gco2e"] == run.result.carbon_gco2e.total.p5
    assert row["carbon_intensity_gco2e_per_kwh"] == run.result.carbon_gco2e.intensity_gco2e_per_kwh
    assert row["cost_hardware_usd"] == run.result.cost_usd.hardware
    assert row["throughput_requests_per_s"] == run.result.throughput.requests_per_s
    assert row["moved_hbm_bytes"] == run.result.bytes_moved.hbm
    assert row["range_90_ttft_p90_high_s"] == run.result.prediction.range_90.ttft_s["p90"].high
    assert row.filter(like="energy_by_component").sum() == pytest.approx(row["energy_total_j"])


def test_unknown_is_nan_in_columns_of_numbers():
    row = aw.simulate(hw="m40", no_bounds=True, **BATCH).summary
    assert row["requests_slo_met"].dtype == row["moved_ssd_to_dram_bytes"].dtype == float
    assert row[["requests_slo_met", "moved_ssd_to_dram_bytes"]].isna().all(axis=None)
    assert not [name for name in row if name.startswith("range_90")]
    assert frame([{"x": None, "t": "a"}, {"x": 1}])["x"].isna().tolist() == [True, False]


def test_compare_gives_a_row_for_every_combination_and_seed_and_says_what_does_not_fit():
    table = aw.compare(
        hw=["m40", "h100-sxm"], model=["llama-2-7b", "llama-2-13b"], replications=2, no_bounds=True, **BATCH
    )
    told = [(row.hw, row.model, row.seed) for row in table.itertuples() if not math.isnan(row.seed)]
    cells = [("m40", "llama-2-7b"), ("h100-sxm", "llama-2-7b"), ("h100-sxm", "llama-2-13b")]
    assert told == [(*cell, seed) for cell in cells for seed in (0, 1)]
    (left_out,) = table[table["infeasible"].notna()].itertuples()
    assert (left_out.hw, left_out.model) == ("m40", "llama-2-13b")
    assert "does not fit" in left_out.infeasible
    assert math.isnan(left_out.energy_total_j)


def test_compare_of_one_is_the_summary_of_that_run():
    alone = aw.simulate(hw="t4", **BATCH).summary
    pd.testing.assert_frame_equal(aw.compare(hw="t4", **BATCH), alone)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: aw.simulate(hw=["m40", "t4"]), aw.OptionError, "these words say 2 combinations; compare takes"),
        (lambda: aw.simulate(replications=3), aw.OptionError, "these words say 3 runs"),
        (lambda: aw.simulate(out="r"), aw.OptionError, "out says what is written or printed"),
        (lambda: aw.compare(json=True), aw.OptionError, "json says what is written or printed"),
        (lambda: aw.simulate(hww="m40"), aw.OptionError, "did you mean 'hw'?"),
        (lambda: aw.compare(hw="m4O"), HardwareError, "did you mean 'm40'"),
        (lambda: aw.simulate(model="llama-2-70b"), Infeasible, "does not fit m40"),
        (lambda: aw.compare(hw=["m40", "t4"], model="llama-2-70b"), Infeasible, "does not fit m40"),
    ],
)
def test_errors_are_the_librarys_own_and_leave_nothing(folder: Path, call, error, says: str):
    with pytest.raises(error) as fault:
        call()
    assert says in str(fault.value)
    assert list((folder / "work").iterdir()) == []


def test_a_notebook_is_shown_the_words():
    shown = inspect.signature(aw.study).parameters
    assert set(shown) == {"file", *words()}
    assert shown["hw"].default == ("m40",)
    assert set(words()) - set(inspect.signature(aw.simulate).parameters) >= {"out", "json", "quiet"}
    assert "<table" in aw.simulate(no_bounds=True, **BATCH)._repr_html_()


def test_a_study_of_a_file_is_written_where_the_caller_says_and_kept(folder: Path):
    Path("cards.toml").write_text(
        'hw = ["m40", "t4"]\nbatch = 1\nprompt = 8\noutput = 2\nno-report = true\ndraws = 9\n'
    )
    done = aw.study("cards.toml", out="one", no_bounds=True)
    assert (len(done.runs), done.kept, done.path) == (2, 0, Path("one"))
    config = aw.StudyConfig(hw=["m40", "t4"], batch=1, prompt=8, output=2, no_report=True, draws=9, no_bounds=True)
    assert run_study(config, out="one").kept == 2
    elsewhere = run_study(config, out="two", backend="threading", jobs=2)
    assert [run.summary for run in elsewhere.runs] == [run.summary for run in done.runs]
    listed = json.loads(Path("two/study.json").read_text())["cells"]
    assert [cell["hw"] for cell in listed] == ["m40", "t4"]
    assert all(isinstance(run.summary, Summary) for run in done.runs)


class Counting(ChunkedPrefill):
    """Remembers how often it was asked; no two replicas may share it."""

    steady = False

    def __init__(self):
        self.asked, self.seen = 0, set()

    def select(self, view):
        self.asked += 1
        head = next(view.queue, None)
        if head is not None:
            self.seen.add(head.seq_id)
            view.queue = iter([head, *view.queue])
        return super().select(view)


class Second:
    """Sends everything to the second replica."""

    looks = False

    def route(self, request, replicas):
        return replicas[1].replica


def test_a_policy_of_ones_own_decides_and_the_object_stays_as_it_was():
    words = {"hw": "2xm40", "batch": 4, "prompt": 64, "output": 4, "draws": 10}
    mine = Counting()
    own = aw.simulate(**words, batching=mine, routing=Second())
    assert own.requests["replica"].tolist() == [1] * 4
    assert own.summary.loc[0, "policy"] == "Counting+Second"
    assert own.manifest.config["policies"]["routing"] == "Second"
    assert (mine.asked, mine.seen) == (0, set())
    usual = aw.simulate(**words)
    assert usual.requests["replica"].tolist() == [0, 1] * 2
    same = aw.compare(**words, batching=Counting)
    assert same.loc[0, "ttft_p50_s"] == usual.summary.loc[0, "ttft_p50_s"]
    assert same.loc[0, "policy"] == "Counting"


def test_a_class_of_ones_own_is_given_costs():
    asked = []

    class Curious(ChunkedPrefill):
        words = ()

        def __init__(self, words, costs):
            asked.append(costs.step_s(0, 1, 100))

    aw.simulate(**BATCH, hw="m40", batching=Curious, no_bounds=True)
    assert min(asked) > 0.0


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ({"batching": Second()}, "Second is no batching policy: it has no 'steady'; docs/policies.md has an example"),
        ({"routing": Counting}, "Counting is no routing policy: it has no 'route'"),
        ({"batching": "shortest"}, "unknown batching policy 'shortest'"),
    ],
)
def test_what_is_no_policy_is_refused(word, said):
    with pytest.raises(PolicyError, match=re.escape(said)):
        aw.simulate(**BATCH, hw="m40", **word)

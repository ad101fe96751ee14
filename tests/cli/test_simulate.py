"""`simulate`: one run, from words to files."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from afterwatt.reports.rundir import load_run
from afterwatt.reports.schema import check_summary
from tests.cli.running import elsewhere, left_in

QUICK = ("--limit", 40, "--no-report")
RUN_FILES = {
    "draws.parquet",
    "itl.parquet",
    "SHA256SUMS",
    "manifest.json",
    "requests.parquet",
    "summary.json",
    "timeline.parquet",
}


def names(path: Path) -> set[str]:
    return {item.name for item in path.iterdir()}


def test_the_command_of_the_readme_needs_no_file_and_says_where_the_report_lies(folder: Path):
    """The shipped sample stands in for a chat.parquet that is not there."""
    said = elsewhere(folder, "simulate", "--hw", "m40", "--trace", "chat.parquet")
    assert (said.code, said.err) == (0, "")
    page = said.out.splitlines()[-1].removeprefix("report: ")
    assert page == "runs/m40-llama-2-7b-fp16-chat/report.html"
    assert (folder / page).stat().st_size > 1_000_000
    assert names(folder / page.rpartition("/")[0]) == RUN_FILES | {"report.html"}
    assert "\x1b" not in said.out, "no colour when piped"
    assert "2,000 of 2,000" in said.out


def test_a_file_of_the_samples_name_wins_over_the_sample(folder: Path, simulate):
    (folder / "chat.parquet").write_text("not parquet")
    said = simulate(*QUICK)
    assert said.code == 2
    assert "chat.parquet" in said.err


def test_each_run_finds_a_name_that_is_not_taken(folder: Path, simulate):
    for _ in range(3):
        assert simulate(*QUICK, "--quiet") == (0, "", "")
    base = "m40-llama-2-7b-fp16-chat"
    assert names(folder / "runs") == {base, f"{base}-2", f"{base}-3"}


def test_out_is_never_taken_from_a_run_that_stands_there_unless_told_so(folder: Path, simulate):
    first = simulate(*QUICK, "--out", "here", "--seed", 1)
    assert first.out.splitlines()[-1] == "run: here"
    before = (folder / "here" / "manifest.json").read_bytes()
    again = simulate(*QUICK, "--out", "here", "--seed", 2)
    assert again.code == 2
    assert "already holds a run" in again.err
    assert (folder / "here" / "manifest.json").read_bytes() == before
    assert simulate(*QUICK, "--out", "here", "--seed", 2, "--overwrite").code == 0
    assert load_run("here").manifest.seed == 2


def test_what_is_no_run_is_never_replaced(folder: Path, simulate):
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter1.tex").write_text("years of work")
    for extra in ((), ("--overwrite",), ("--hw", "t4", "--hw", "m40", "--overwrite")):
        said = simulate(*QUICK, "--out", "thesis", *extra)
        assert said.code == 2
        assert "choose another --out" in said.err
    assert left_in(folder) == ["thesis", "thesis/chapter1.tex"]


def test_json_is_the_summary_and_nothing_else(folder: Path, simulate):
    said = simulate(*QUICK, "--json", "--out", "r", "--slo", "ttft=1s,tpot=200ms")
    assert (said.code, said.err) == (0, "")
    assert said.out == (folder / "r" / "summary.json").read_text()
    summary = check_summary(json.loads(said.out))
    assert summary.requests.arrived == 40
    assert summary.requests.slo_met is not None


def test_options_arrive_where_they_belong(simulate):
    words = (
        "--model tinyllama-1.1b --precision int8 --policy prefill-first+swap+seqs=64 --site pl --seed 7 --warmup 10s"
    )
    account = "--duty 0.5 --between idle --embodied act --allocation front-loaded --host-share slots --draws 50"
    said = simulate(*QUICK, "--hw", "2xp100", *words.split(), *account.split(), "--slo", "e2e=1min", "--out", "r")
    assert said.code == 0
    manifest = load_run("r").manifest
    config = manifest.config
    assert manifest.seed == 7
    assert (config["hw"], config["model"], config["precision"], config["site"]) == (
        "2xp100",
        "tinyllama-1.1b",
        "int8",
        "pl",
    )
    assert config["policy"] == "prefill-first+swap+seqs=64"
    assert config["warmup_s"] == 10.0
    assert config["slo"] == {"ttft_s": None, "tpot_s": None, "e2e_s": 60.0}
    chosen = {"duty_frac": 0.5, "between": "idle", "embodied_method": "act", "allocation": "front-loaded"}
    assert {**config["carbon"], **chosen, "host_share": "slots", "draws": 50} == config["carbon"]


def test_a_closed_loop_ends_after_its_requests(simulate):
    said = simulate("--users", 3, "--requests", 9, "--think", "2s", "--no-report", "--json", "--out", "r")
    summary = json.loads(said.out)
    assert summary["requests"]["finished"] == 9
    assert summary["load"]["offered_frac"] is None, "users who wait offer no load of their own"
    arrivals = load_run("r").column("requests", "arrival_s")
    assert sorted(arrivals)[:3] == [0.0, 0.0, 0.0]
    assert sorted(arrivals)[3] >= 2.0


def test_users_need_no_arrivals_from_their_trace(simulate):
    """The summarisation preset is fitted to a file that has lengths only."""
    said = simulate("--users", 2, "--requests", 4, "--trace", "synth:summarisation", "--no-report", "--json")
    assert json.loads(said.out)["requests"]["arrived"] == 4


def test_a_static_batch_is_all_there_at_once(simulate):
    said = simulate("--batch", 4, "--prompt", 100, "--output", 20, "--no-report", "--out", "r")
    assert said.code == 0
    rows = pq.read_table("r/requests.parquet").to_pydict()
    assert rows["arrival_s"] == [0.0] * 4
    assert (rows["prompt_tokens"], rows["output_tokens"]) == ([100] * 4, [20] * 4)


def test_rate_stretches_the_trace(simulate):
    spans = []
    for rate in ("0.1", "0.2"):
        assert simulate(*QUICK, "--rate", rate, "--out", rate).code == 0
        spans.append(load_run(rate).column("requests", "arrival_s").max())
    assert spans[0] == pytest.approx(2 * spans[1])


def test_a_horizon_leaves_requests_unfinished_and_says_so(simulate):
    said = simulate(*QUICK, "--horizon", "30s", "--json")
    requests = json.loads(said.out)["requests"]
    assert requests["unfinished"] > 0
    assert requests["arrived"] < 40


def test_an_hourly_grid_is_met_at_the_hour_the_run_starts(folder: Path, simulate):
    """Two hours of constant intensity each, in our own form of the file."""
    rows = [f"2023-06-01T{hour:02d}:00:00Z,XX,{grams},lifecycle,false,made up" for hour, grams in ((0, 100), (1, 400))]
    (folder / "grid.csv").write_text("timestamp_utc,zone,gco2_per_kwh,kind,estimated,source\n" + "\n".join(rows) + "\n")
    words = ("--limit", 5, "--no-report", "--json", "--grid", "grid.csv")
    grams = []
    for start in ("2023-06-01T00:05:00Z", "2023-06-01T03:05:00+02:00"):
        said = simulate(*words, "--start", start)
        assert said.code == 0, said.err
        grams.append(json.loads(said.out)["carbon_gco2e"]["assumed"]["operational"])
    assert grams[1] == pytest.approx(4 * grams[0])
    late = simulate(*words, "--start", "2023-06-01T05:00:00Z")
    assert (late.code, late.out) == (2, "")
    assert "2023-06-01T02:00:00Z" in late.err, "told before anything is simulated"


def test_a_card_of_ones_own_is_a_file(simulate):
    corpus = Path(__file__).parents[1] / "corpus" / "profiles"
    for name, called, count in (("fine_device", "fine_device", 1), ("fine_deployment", "attic", 2)):
        assert simulate("--hw", corpus / f"{name}.toml", *QUICK, "--out", name).code == 0
        deployment = load_run(name).manifest.deployment
        assert (deployment["name"], deployment["count"]) == (called, count)


def test_strict_slo_turns_a_broken_promise_into_an_exit_code(simulate):
    promise = ("--slo", "ttft=1us")
    assert simulate(*QUICK, *promise, "--quiet").code == 0
    said = simulate(*QUICK, *promise, "--strict-slo", "--quiet")
    assert said.code == 3
    assert simulate(*QUICK, "--slo", "e2e=1d", "--strict-slo", "--quiet").code == 0


def test_quiet_is_silent(simulate):
    assert simulate(*QUICK, "--quiet") == (0, "", "")


def test_decisions_are_written_when_asked_for(folder: Path, simulate):
    simulate(*QUICK, "--decisions", "--out", "r")
    assert names(folder / "r") == RUN_FILES | {"decisions.parquet"}


def test_it_works_from_python_as_well(folder: Path):
    from afterwatt.studies.config import StudyConfig
    from afterwatt.studies.running import run_study

    study = run_study(StudyConfig(hw=("t4",), limit=10, no_report=True))
    assert study.path == Path("runs/t4-llama-2-7b-fp16-chat")
    assert study.runs[0].summary.requests.finished == 10
    assert study.report is None


def test_a_recording_that_is_not_there_is_refused(tmp_path):
    said = elsewhere(
        tmp_path, "simulate", "--policy", "m2cache+activity=nope.npz", "--batch", 1, "--prompt", 4, "--output", 2
    )
    assert said.code == 2
    assert "activity=nope.npz is no file" in said.err
    assert left_in(tmp_path) == []

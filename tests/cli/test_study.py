"""Several cells: the cross product, what is kept, seeds, and files of options."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from afterwatt.reports.rundir import load_run
from afterwatt.reports.schema import check_summary
from tests.cli.running import elsewhere, finished_in, left_in

QUICK = ("--limit", 30, "--no-report")
CROSS = ("--hw", "m40", "--hw", "t4", "--site", "fr", "--site", "pl")


def study_of(folder: Path) -> dict:
    return json.loads((folder / "study.json").read_text())


def run_folders(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/manifest.json"))


def stamps(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/manifest.json")}


def test_two_by_two_is_four_runs_and_a_comparison(folder: Path, simulate):
    said = simulate(*CROSS, "--limit", 30)
    assert (said.code, said.err) == (0, "")
    place = folder / "runs" / "m40+t4-llama-2-7b-fp16-fr+pl-chat"
    assert said.out.splitlines()[-1] == f"report: {place.relative_to(folder)}/report.html"
    cells = study_of(place)["cells"]
    assert [(cell["hw"], cell["site"]) for cell in cells] == [
        ("m40", "fr"),
        ("m40", "pl"),
        ("t4", "fr"),
        ("t4", "pl"),
    ]
    listed = [cell["runs"][0]["directory"] for cell in cells]
    assert sorted(listed) == run_folders(place)
    for cell, name in zip(cells, listed, strict=True):
        manifest = load_run(place / name).manifest
        assert (manifest.config["hw"], manifest.config["site"]) == (cell["hw"], cell["site"])
        assert (place / name / "report.html").is_file()
    page = (place / "report.html").read_text()
    assert all(cell["label"] in page for cell in cells)
    assert all(f'href="{name}/report.html"' in page for name in listed)


def test_json_lists_the_summaries_in_the_order_of_the_cells(simulate):
    said = simulate(*CROSS, *QUICK, "--json")
    summaries = [check_summary(one) for one in json.loads(said.out)]
    assert [(one.hardware, one.site) for one in summaries] == [("m40", "fr"), ("m40", "pl"), ("t4", "fr"), ("t4", "pl")]


def test_everything_repeats(simulate):
    """One more cell along each axis."""
    words = (
        "--hw",
        "h100",
        "--model",
        "opt-6.7b",
        "--model",
        "llama-2-7b",
        "--precision",
        "fp16",
        "--precision",
        "int8",
    )
    said = simulate(
        *words, "--policy", "chunked", "--policy", "prefill-first", "--limit", 5, "--no-report", "--dry-run"
    )
    assert said.out.startswith("8 cells: 8 runs in runs/h100-opt-6.7b+llama-2-7b-fp16+int8-chunked+prefill-first-chat")


def test_the_same_word_twice_is_one_cell(folder: Path, simulate):
    assert simulate("--hw", "m40", "--hw", "m40", *QUICK).code == 0
    assert (folder / "runs" / "m40-llama-2-7b-fp16-chat" / "manifest.json").is_file()


def test_a_study_that_is_run_again_keeps_what_is_finished(folder: Path, simulate):
    words = (*CROSS, *QUICK, "--out", "s")
    simulate(*words)
    before = stamps(folder / "s")
    again = simulate(*words)
    assert "kept: 4 of 4 runs" in again.err
    assert stamps(folder / "s") == before
    simulate(*words, "--overwrite")
    after = stamps(folder / "s")
    assert set(after) == set(before)
    assert all(after[name] > before[name] for name in before)


def test_without_out_the_same_study_goes_on_and_another_gets_a_number(folder: Path, simulate):
    simulate(*CROSS, *QUICK)
    assert "kept: 4 of 4" in simulate(*CROSS, *QUICK).err
    assert simulate(*CROSS, *QUICK, "--seed", 1).err == ""
    assert sorted(path.name for path in (folder / "runs").iterdir()) == [
        "m40+t4-llama-2-7b-fp16-fr+pl-chat",
        "m40+t4-llama-2-7b-fp16-fr+pl-chat-2",
    ]


def test_an_interrupted_study_goes_on_where_it_stopped(folder: Path, simulate):
    words = (*CROSS, *QUICK, "--out", "s")
    simulate(*words)
    whole = study_of(folder / "s")
    lost = whole["cells"][2]["runs"][0]["directory"]
    (folder / "s" / "study.json").unlink()
    os.rename(folder / "s" / lost, folder / "s" / f".{lost}.partial-1")
    assert "kept: 3 of 4" in simulate(*words).err
    assert study_of(folder / "s") == whole


def test_a_study_grows_by_a_cell_without_running_the_others_anew(folder: Path, simulate):
    """Names of runs depend on the run alone, not on what it is crossed with."""
    simulate("--hw", "m40", "--hw", "t4", *QUICK, "--out", "s")
    grown = simulate(
        "--hw", "m40", "--hw", "t4", "--hw", "p40", "--site", "world", "--site", "fr", *QUICK, "--out", "s"
    )
    assert "kept: 2 of 6" in grown.err
    assert len(study_of(folder / "s")["cells"]) == 6


def test_what_a_result_depends_on_changes_its_name(folder: Path, simulate):
    """Another trace content, seed, promise or option of the account is another run."""
    trace = folder / "t.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,20,5\n")
    words = ("--hw", "m40", "--hw", "t4", "--trace", "t.csv", "--no-report", "--out", "s")
    simulate(*words)
    seen = set(run_folders(folder / "s"))
    assert len(seen) == 2
    for more in (("--seed", 1), ("--slo", "ttft=1s"), ("--duty", 0.5), ("--limit", 1), ("--draws", 10)):
        said = simulate(*words, *more)
        assert (said.code, said.err) == (0, ""), "nothing is kept"
        assert len(run_folders(folder / "s")) == len(seen) + 2
        seen = set(run_folders(folder / "s"))
    trace.write_text(trace.read_text().replace("20", "21"))
    assert simulate(*words).err == ""
    os.rename(trace, folder / "u.csv")
    moved = simulate(*("u.csv" if word == "t.csv" else word for word in words))
    assert "kept: 2 of 2" in moved.err, "the same content under another name is the same trace"


def test_overwriting_takes_away_what_the_earlier_study_listed(folder: Path, simulate):
    simulate(*CROSS, *QUICK, "--out", "s")
    simulate("--hw", "m40", "--hw", "p40", *QUICK, "--out", "s", "--overwrite")
    assert len(run_folders(folder / "s")) == 2
    assert [cell["hw"] for cell in study_of(folder / "s")["cells"]] == ["m40", "p40"]


def test_a_study_does_not_move_into_a_run_or_beside_other_runs(folder: Path, simulate):
    simulate(*QUICK, "--out", "runs/one")
    for place in ("runs", "runs/one"):
        said = simulate(*CROSS, *QUICK, "--out", place)
        assert said.code == 2
        assert "choose another --out" in said.err
    assert run_folders(folder / "runs") == ["one"]


def test_processes_give_the_same_files_as_one(folder: Path, simulate):
    simulate(*CROSS, *QUICK, "--out", "one")
    simulate(*CROSS, *QUICK, "--out", "two", "--jobs", 2)
    assert run_folders(folder / "one") == run_folders(folder / "two")
    for path in (folder / "one").rglob("*.*"):
        assert path.read_bytes() == (folder / "two" / path.relative_to(folder / "one")).read_bytes(), path.name


def test_cells_of_one_seed_share_their_luck(folder: Path, simulate):
    """Common random numbers: the same requests, and the same draws of what both depend on."""
    simulate(*CROSS, "--trace", "synth:chat?n=20&rate=0.2", "--no-report", "--out", "s")
    runs = [load_run(folder / "s" / cell["runs"][0]["directory"]) for cell in study_of(folder / "s")["cells"]]
    assert len({tuple(run.column("requests", "prompt_tokens")) for run in runs}) == 1
    m40, t4 = runs[0], runs[2]
    grams = [np.log(run.column("draws", "operational_gco2e")) for run in (m40, t4)]
    assert np.corrcoef(*grams)[0, 1] > 0.1
    assert abs(np.corrcoef(grams[0], grams[1][::-1])[0, 1]) < 0.1


def test_what_does_not_fit_is_left_out_and_told(folder: Path, simulate):
    said = simulate("--model", "llama-2-7b", "--model", "llama-2-70b", *QUICK, "--out", "s")
    assert said.code == 0
    assert said.err.startswith("left out: llama-2-70b: llama-2-70b in fp16 does not fit m40")
    fitting, refused = study_of(folder / "s")["cells"]
    assert fitting["infeasible"] is None
    assert refused["runs"] == []
    assert "bytes short" in refused["infeasible"]


def test_replications_of_a_synthetic_trace_are_other_draws(folder: Path, simulate):
    words = ("--trace", "synth:chat?n=30&rate=0.2", "--replications", 4, "--seed", 10, "--no-report", "--out", "s")
    said = simulate(*words)
    assert (said.code, said.err) == (0, "")
    assert "Mean ± 95 % t-interval over 4 seeds, 10 to 13" in said.out
    study = study_of(folder / "s")
    assert study["seeds"] == [10, 11, 12, 13]
    assert study["note"] is None
    (cell,) = study["cells"]
    runs = [load_run(folder / "s" / run["directory"]) for run in cell["runs"]]
    assert [run.manifest.seed for run in runs] == [10, 11, 12, 13]
    p90 = [run.summary.ttft_s.p90 for run in runs]
    assert len(set(p90)) == 4
    told = cell["metrics"]["ttft_s.p90"]
    mean = sum(p90) / 4
    spread = (sum((value - mean) ** 2 for value in p90) / 3) ** 0.5
    assert told == {
        "mean": pytest.approx(mean),
        "half_width": pytest.approx(3.182446305 * spread / 2, rel=1e-8),
        "n": 4,
    }


def test_a_replication_is_what_its_seed_gives_alone(folder: Path, simulate):
    trace = ("--trace", "synth:chat?n=30&rate=0.2", "--no-report")
    simulate(*trace, "--replications", 3, "--seed", 5, "--out", "s")
    simulate(*trace, "--seed", 7, "--out", "alone")
    name = study_of(folder / "s")["cells"][0]["runs"][2]["directory"]
    for table in ("requests", "timeline", "draws", "itl"):
        assert (folder / "s" / name / f"{table}.parquet").read_bytes() == (
            folder / "alone" / f"{table}.parquet"
        ).read_bytes()


def test_replications_of_a_fixed_trace_say_that_it_is_fixed(folder: Path, simulate):
    said = simulate("--replications", 3, "--limit", 20, "--no-report", "--out", "s")
    assert "The requests are the same in every replication" in " ".join(said.out.split())
    study = study_of(folder / "s")
    assert "same in every replication" in study["note"]
    metrics = study["cells"][0]["metrics"]
    assert metrics["ttft_s.p90"]["half_width"] == 0.0
    assert metrics["sci.per_request_gco2e.p50"]["half_width"] > 0.0
    assert metrics["requests.slo_met"] is None, "nothing was promised"


def test_a_study_file_says_what_options_say(folder: Path, simulate):
    (folder / "deep").mkdir()
    (folder / "deep" / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,20,5\n")
    (folder / "deep" / "study.toml").write_text(
        'hw = ["m40", "t4"]\ntrace = "t.csv"\nslo = "ttft=1s"\nno-report = true\nout = "result"\nwarmup = "1s"\n'
    )
    assert simulate("--config", "deep/study.toml").code == 0
    runs = [load_run(folder / "deep" / "result" / name) for name in run_folders(folder / "deep" / "result")]
    assert [run.manifest.config["hw"] for run in runs] == ["m40", "t4"]
    assert {run.manifest.config["warmup_s"] for run in runs} == {1.0}
    alone = simulate("--config", "deep/study.toml", "--hw", "p40", "--out", "mine", "--json")
    assert json.loads(alone.out)["hardware"] == "p40", "the command line wins over the file"
    assert (folder / "mine" / "manifest.json").is_file()


def test_a_dry_run_lists_cells_and_touches_nothing(folder: Path, simulate):
    said = simulate("--model", "llama-2-7b", "--model", "llama-2-70b", *QUICK, "--dry-run")
    assert said.code == 0
    assert "2 cells: 1 run in runs/" in said.out
    assert "does not fit" in said.out
    data = json.loads(simulate(*CROSS, *QUICK, "--dry-run", "--json").out)
    assert [cell["state"] for cell in data["cells"]] == ["to run"] * 4
    assert left_in(folder) == []
    simulate(*CROSS, *QUICK)
    data = json.loads(simulate(*CROSS, *QUICK, "--dry-run", "--json").out)
    assert [cell["state"] for cell in data["cells"]] == ["finished"] * 4


def test_a_fault_in_one_of_several_processes_leaves_nothing(folder: Path, simulate):
    """The trace is sound where the parent looks, and gone when the workers do."""
    (folder / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,20,x\n")
    said = simulate("--hw", "m40", "--hw", "t4", "--trace", "t.csv", "--jobs", 2)
    assert said.code == 2
    assert left_in(folder) == ["t.csv"]
    assert finished_in(folder) == []


def test_a_study_without_a_run_is_refused_in_a_sentence(folder: Path, afterwatt):
    (folder / "study.json").write_text('{"schema_version": "1", "seeds": [0], "cells": []}')
    said = afterwatt("report", ".")
    assert (said.code, said.err.count("\n"), "lists no run" in said.err) == (2, 1, True)
    assert left_in(folder) == ["study.json"]


def test_the_page_says_what_could_not_be_run_and_crowns_no_bound(tmp_path):
    words = ["--hw", "m40", "--model", "llama-2-70b", "--precision", "int8", "--batch", 1, "--prompt", 8, "--output", 2]
    policies = [word for name in ("resident", "stream", "stream-int4", "m2cache") for word in ("--policy", name)]
    said = elsewhere(tmp_path, "simulate", *words, *policies, "--no-bounds", "--out", "all")
    assert said.code == 0, said.err
    page = (tmp_path / "all" / "report.html").read_text(encoding="utf-8")
    assert "<strong>Not run.</strong>" in page
    assert "48,652,624,020" in page
    assert "A bound, and no prediction" in page
    assert "m2cache (a bound, and no prediction)" in " ".join(said.out.split())
    assert not re.search(r"Least carbon per token: \S+ . \S*m2cache", said.out)

"""`hw`, `model`, `policy`, `trace`, `report` and completion: what they print, and that it is all there."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from afterwatt.hwprofiles import device_names, host_names, link_names, site_names, storage_names
from afterwatt.modelspecs import model_names
from afterwatt.traces import FORMATS, preset_names, sample_path
from tests.cli.running import elsewhere, left_in


def rows(said) -> list[dict]:
    assert (said.code, said.err) == (0, "")
    return json.loads(said.out)


def test_hw_list_names_every_card(afterwatt):
    text = afterwatt("hw", "list").out
    lines = {line.split()[0] for line in text.splitlines() if line.strip()}
    shortest = {"m40", "p100", "v100-pcie", "v100-sxm", "h100", "b200", "k80", "t4", "a100-80"}
    assert shortest <= lines
    assert "9d 3m 8a" in text or "8a" in text, "how far its numbers can be trusted"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("gpus", device_names),
        ("hosts", host_names),
        ("storage", storage_names),
        ("links", link_names),
        ("sites", site_names),
    ],
)
def test_every_kind_can_be_listed_and_each_profile_shown(afterwatt, kind, names):
    listed = rows(afterwatt("hw", "list", "--kind", kind, "--json"))
    assert [row["key"] for row in listed] == list(names())
    assert all(sum(row["facts"].values()) > 0 for row in listed)
    assert afterwatt("hw", "list", "--kind", kind).code == 0
    shown = rows(afterwatt("hw", "show", names()[0], "--json"))
    assert shown[0]["field"] == "key"
    assert shown[0]["value"] == names()[0]


def test_all_kinds_together(afterwatt):
    count = sum(len(names()) for names in (device_names, host_names, storage_names, link_names, site_names))
    assert len(rows(afterwatt("hw", "list", "--kind", "all", "--json"))) == count


def test_hw_show_gives_every_number_its_provenance(afterwatt):
    shown = rows(afterwatt("hw", "show", "m40", "--json"))
    numbers = [row for row in shown if row["kind"]]
    assert len(numbers) > 10
    assert all(row["source"] and row["checked"] for row in numbers)
    assert all(row["low"] <= row["value"] <= row["high"] for row in numbers if row["kind"] == "assumed")
    text = afterwatt("hw", "show", "m40").out
    assert text.startswith("m40-24: Tesla M40 24GB")
    for row in numbers:
        assert row["field"] in text
        assert row["source"][:20] in text


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "words", [("hw", "list"), ("hw", "show", "m40"), ("model", "list"), ("policy", "list"), ("trace", "presets")]
)
def test_tables_keep_within_the_terminal(folder: Path, width: int, words, monkeypatch, capfd):
    """On a terminal of 80 columns the table of cards drops their long names rather than break every word."""
    from rich.console import Console

    import afterwatt.reports.terminal
    from afterwatt.cli import main

    monkeypatch.setattr(afterwatt.reports.terminal, "default_console", lambda: Console(width=width, no_color=True))
    assert main.run(main.afterwatt_app(), words) == 0
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    if words == ("hw", "list"):
        assert ("GeForce RTX 2080 Ti" in "\n".join(lines)) == (width == 120)
        cards = [name for name in device_names() if name.startswith(("m40", "h100"))]
        assert len([line for line in lines if line.startswith(("m40", "h100"))]) == len(cards)


def test_models(afterwatt):
    assert [row["name"] for row in rows(afterwatt("model", "list", "--json"))] == model_names()
    assert all(name in afterwatt("model", "list").out for name in model_names())
    text = afterwatt("model", "show", "llama-2-7b").out
    assert "6,738,415,616" in text
    labels = {row["label"] for row in rows(afterwatt("model", "show", "llama-2-7b", "--json"))}
    assert {"layers", "parameters", "weights in int4"} <= labels


def test_every_policy_word_is_listed_and_can_be_said(afterwatt):
    from afterwatt.policies.config import parse_policies

    listed = rows(afterwatt("policy", "list", "--json"))
    for row in listed:
        value = "0.7" if row["word"].startswith("utilisation") else "7"  # a share
        assert parse_policies(row["word"].replace("=N", f"={value}"))
        assert row["about"]
    usual = parse_policies("chunked")
    chosen = {usual.batching, usual.routing, usual.preemption, usual.weights}
    assert {row["word"] for row in listed if row["default"]} == chosen


def test_trace_describe_measures(afterwatt):
    found = json.loads(afterwatt("trace", "describe", "chat.parquet", "--json").out)
    assert found["rows"] == 2000
    text = afterwatt("trace", "describe", "chat.parquet").out
    assert "2,000" in text
    assert f"{found['prompt_tokens']['p99']:,}" in text
    half = json.loads(afterwatt("trace", "describe", "chat.parquet", "--limit", 7, "--rate", 1, "--json").out)
    assert half["rows"] == 7
    assert any("stretched" in note for note in half["notes"])


def test_trace_convert_there_and_back(folder: Path, afterwatt):
    assert afterwatt("trace", "convert", "chat.parquet", "a.csv").out == "2,000 requests: a.csv\n"
    assert afterwatt("trace", "convert", "a.csv", "b.parquet").code == 0
    back, original = pq.read_table("b.parquet"), pq.read_table(sample_path())
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        assert back.column(name).equals(original.column(name))
    again = afterwatt("trace", "convert", "a.csv", "b.parquet")
    assert again.code == 2
    assert "--overwrite" in again.err
    assert afterwatt("trace", "convert", "a.csv", "b.parquet", "--overwrite", "--limit", 5).out.startswith("5 requests")
    assert left_in(folder) == ["a.csv", "b.parquet"]


def test_trace_convert_sorts_when_told_so(folder: Path, afterwatt):
    (folder / "mixed.csv").write_text("arrival_s,prompt_tokens,output_tokens\n5,10,1\n0,20,1\n")
    refused = afterwatt("trace", "convert", "mixed.csv", "out.csv")
    assert refused.code == 2
    assert "--sort" in refused.err
    assert afterwatt("trace", "convert", "mixed.csv", "out.csv", "--sort").code == 0
    assert (folder / "out.csv").read_text().splitlines()[1].split(",")[1] == "20"


def test_trace_synth_draws_what_simulate_would_draw(folder: Path, afterwatt, simulate):
    words = ("--rate", 0.5, "--n", 30, "--seed", 4, "--no-daily", "--prompt-scale", 0.5)
    assert afterwatt("trace", "synth", "chat", "t.parquet", *words).code == 0
    address = "synth:chat?rate=0.5&n=30&seed=4&daily=no&prompt_scale=0.5"
    for name, trace in (("file", "t.parquet"), ("address", address)):
        assert simulate("--trace", trace, "--no-report", "--quiet", "--out", name).code == 0
    assert (folder / "file/requests.parquet").read_bytes() == (folder / "address/requests.parquet").read_bytes()


def test_presets_and_formats(afterwatt):
    assert [row["name"] for row in rows(afterwatt("trace", "presets", "--json"))] == list(preset_names())
    assert [row["name"] for row in rows(afterwatt("trace", "formats", "--json"))] == list(FORMATS)
    assert all(name in afterwatt("trace", "formats").out for name in FORMATS)


def test_report_is_written_anew_for_runs_and_studies(folder: Path, afterwatt, simulate):
    simulate("--limit", 20, "--no-report", "--out", "one")
    simulate("--limit", 20, "--no-report", "--hw", "m40", "--hw", "t4", "--replications", 2, "--out", "many")
    said = afterwatt("report", "one")
    assert said.out.splitlines()[-1] == "report: one/report.html"
    assert (folder / "one/report.html").is_file()
    assert len(json.loads(afterwatt("report", "many", "--json").out)) == 2, "the first seed of each cell"
    assert afterwatt("report", "one", "many", "--out", "all.html", "--quiet") == (0, "", "")
    assert (folder / "all.html").is_file()
    assert afterwatt("report", "one", "many").out.splitlines()[-1] == "report: report.html"
    simulate("--limit", 10, "--no-report", "--out", "runs/a")
    simulate("--limit", 10, "--no-report", "--out", "runs/b")
    assert len(json.loads(afterwatt("report", "runs", "--json").out)) == 2


@pytest.mark.parametrize(
    ("name", "words", "completed"),
    [
        ("simulate", "simulate --hw m4", {"m40", "m40-12", "m40-24"}),
        ("simulate", "simulate --hw 4xm4", {"4xm40", "4xm40-12", "4xm40-24"}),
        ("simulate", "simulate --model tiny", {"tinyllama-1.1b"}),
        ("simulate", "simulate --policy chunked+sw", {"chunked+swap"}),
        ("simulate", "simulate --precision fp", {"fp32", "fp16", "fp8", "fp8-weight-only", "fp6"}),
        ("simulate", "simulate --site us-cal-c", {"us-cal-ciso"}),
        ("simulate", "simulate --repl", {"--replications"}),
        ("afterwatt", "afterwatt simulate --hw p4", {"p4", "p40"}),
        ("afterwatt", "afterwatt hw show ddr3", {"ddr3-2u"}),
        ("afterwatt", "afterwatt trace synth cha", {"chat"}),
        ("afterwatt", "afterwatt mo", {"model"}),
    ],
)
def test_completion(folder: Path, name: str, words: str, completed: set[str]):
    variables = {
        f"_{name.upper()}_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    assert set(elsewhere(folder, name, **variables).out.split()) == completed


@pytest.mark.parametrize("name", ["simulate", "afterwatt"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed(folder: Path, name: str, shell: str):
    said = elsewhere(folder, name, "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert said.code == 0
    assert f"_{name.upper()}_COMPLETE" in said.out

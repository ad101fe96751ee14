"""`--stack`: a shipped profile, one's own, several compared, and what is refused."""

import json
from pathlib import Path

from afterwatt.hwprofiles.stacks import STACKS_DIR, default_stack, stack_names
from afterwatt.reports.rundir import load_run

QUICK = ("--trace", "synth:chat?n=20&rate=0.2", "--no-report", "--quiet")


def own_profile(folder: Path) -> Path:
    """A profile of one's own: the generic one with a stated error on every pool."""
    text = (STACKS_DIR / "generic.toml").read_text()
    source = 'source = "trial of the reader", kind = "assumed", checked = 2026-11-20'
    error = f"prefill = {{ value = 1.0, low = 0.5, high = 2.0, {source} }}\n"
    error += f"decode = {{ value = 1.0, low = 0.8, high = 1.25, {source} }}\n"
    path = folder / "mine.toml"
    path.write_text(f"{text}\n[maxwell.spread]\n{error}")
    return path


def test_the_stack_that_is_usual_on_a_card_is_the_default(simulate):
    from afterwatt.hwprofiles import load_device

    assert simulate(*QUICK, "--hw", "m40", "--out", "r").code == 0
    assert load_run("r").manifest.config["stack"] == default_stack(load_device("m40"))


def test_a_stack_that_cannot_run_on_the_card_is_refused_and_leaves_nothing(simulate):
    said = simulate(*QUICK, "--hw", "m40", "--stack", "vllm", "--out", "r")
    assert (said.code, said.err.count("\n")) == (3, 1)
    assert "vllm needs compute capability 7.0 or newer; m40-24 has 5.2; would run: --stack llama.cpp-cuda" in said.err
    assert not Path("r").exists()


def test_where_the_usual_stack_cannot_load_the_weights_another_is_taken_and_named(simulate):
    assert simulate(*QUICK, "--hw", "t4", "--model", "llama-2-7b", "--precision", "awq", "--out", "r").code == 0
    manifest = load_run("r").manifest
    assert manifest.config["stack"] == "vllm"
    assert any(
        note.startswith("stack vllm in place of llama.cpp-cuda, which does not load awq") for note in manifest.warnings
    )


def test_every_shipped_stack_can_be_said(simulate):
    for name in stack_names():
        said = simulate(*QUICK, "--hw", "a100-80", "--no-bounds", "--stack", name, "--out", name)
        assert (said.code, said.err) == (0, "")
        assert load_run(name).summary.prediction.stack == name


def test_a_profile_of_ones_own_is_read_and_hashed(folder: Path, simulate):
    own_profile(folder)
    assert simulate(*QUICK, "--stack", "mine.toml", "--out", "r").code == 0
    run = load_run("r")
    assert run.manifest.config["stack"] == run.summary.prediction.stack == "mine"
    assert "mine.toml" in run.manifest.profiles
    assert run.summary.prediction.range_90 is not None


def test_stacks_are_compared_under_their_names(folder: Path, simulate):
    own_profile(folder)
    words = ("--trace", "synth:chat?n=20&rate=0.2", "--no-report", "--no-bounds")
    said = simulate(*words, "--stack", "generic", "--stack", "mine.toml", "--out", "s")
    assert said.code == 0
    assert "generic" in said.out
    assert "mine" in said.out
    cells = json.loads(Path("s/study.json").read_text())["cells"]
    assert [cell["stack"] for cell in cells] == ["generic", "mine"]


def test_an_unknown_stack_is_refused_with_what_is_meant(simulate):
    said = simulate(*QUICK, "--stack", "genric", "--out", "r")
    assert said.code == 2
    assert "genric" in said.err
    assert "generic" in said.err
    assert not Path("r").exists()


def test_a_missing_profile_is_refused_by_name(simulate):
    said = simulate(*QUICK, "--stack", "nowhere.toml", "--out", "r")
    assert said.code == 2
    assert "nowhere.toml" in said.err


def test_more_servers_than_one_are_said(simulate):
    Path("two.toml").write_text('device = "p40"\ncount = 2\ntp = 2\nhost = "desktop"\nnetwork = "ethernet-10g"\n')
    assert simulate(*QUICK, "--hw", "two.toml", "--precision", "int4", "--out", "r").code == 0
    crossing = "2 x p40 fill 2 x desktop, all of which count; tensor parallelism runs over ethernet-10g between them"
    assert crossing in load_run("r").manifest.warnings

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


def test_every_shipped_stack_can_be_said_on_an_old_card(simulate):
    for name in stack_names():
        said = simulate(*QUICK, "--no-bounds", "--stack", name, "--out", name)
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

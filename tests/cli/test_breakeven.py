"""`afterwatt breakeven`: where the greener of some runs changes, under both host shares, or that it nowhere does."""

import json
from itertools import product

import pytest

RUN = ("--trace", "synth:chat?n=40&seed=3&rate=0.05", "--no-bounds", "--no-report", "--quiet")


@pytest.fixture
def runs(folder, simulate) -> list[str]:
    """An M40 and an L4, each with the share of a server that it fills."""
    for hw in ("m40", "l4"):
        assert simulate("--hw", hw, *RUN, "--out", hw).code == 0
    return ["m40", "l4"]


def test_both_runs_emit_the_same_where_they_are_said_to_meet(folder, afterwatt, runs):
    """At CI* = (m_new - m_old) / (e_old - e_new), worked out from each summary anew."""
    points = [one for one in json.loads(afterwatt("breakeven", *runs, "--json").out) if one["axis"] == "gco2e_per_kwh"]
    assert points
    for point in points:
        (m_old, e_old), (m_new, e_new) = (line_of(folder / name, point) for name in runs)
        assert point["at"] == pytest.approx((m_new - m_old) / (e_old - e_new), rel=1e-9)
        assert point["gco2e_per_token"] == pytest.approx(m_old + e_old * point["at"], rel=1e-9)
        below = min(runs, key=lambda name: line_of(folder / name, point)[0])
        assert point["lower_below"].startswith(below)
        assert point["best_changes"]


def line_of(run, point) -> tuple[float, float]:
    """A run's grams per token without a grid, and what each g/kWh adds; from its own block, for one always on."""
    summary = json.loads((run / "summary.json").read_text())
    own = summary["carbon_gco2e"]["host_share"] == point["host_share"]
    known = summary["breakeven"] if own else summary["other_host_share"]["breakeven"]
    assert known["duty_frac"] == 1.0
    per_s = known["embodied_gco2e_per_reserved_s"][point["method"]][point["allocation"]]
    return per_s / known["output_tokens_per_s"], known["run_j_per_output_token"] / 3.6e6


def test_every_axis_is_spoken_of_under_each_host_share(afterwatt, runs):
    said = afterwatt("breakeven", *runs)
    assert said.code == 0
    out = " ".join(said.out.split())
    points = json.loads(afterwatt("breakeven", *runs, "--json").out)
    nouns = {"gco2e_per_kwh": "grid intensity", "lives_factor": "length of all lives", "duty_frac": "duty cycle"}
    shares = {"slots": "by the slots in use", "whole": "with whole servers"}
    for (axis, noun), (share, words) in product(nouns.items(), shares.items()):
        met = any((one["axis"], one["host_share"]) == (axis, share) for one in points)
        constant = [line for line in said.out.splitlines() if line.startswith(f"Whatever the {noun}") and words in line]
        assert len(constant) == (0 if met else 1)
    assert "CI* =" in out


def test_one_run_has_nobody_to_meet(afterwatt, simulate, runs):
    assert simulate("--hw", "l4", "--model", "llama-3.1-8b", *RUN, "--out", "other").code == 0
    for names in (["m40"], ["m40", "other"]):
        said = afterwatt("breakeven", *names)
        assert (said.code, "name more of them" in said.err) == (2, True)


def test_who_may_not_be_called_best_meets_nobody(afterwatt, simulate, runs):
    rush = ("--trace", "synth:chat?n=40&seed=3&rate=50", *RUN[2:])
    for hw in ("m40", "l4"):
        assert simulate("--hw", hw, *rush, "--out", f"{hw}-rush").code == 0
    said = afterwatt("breakeven", "m40-rush", "l4-rush")
    assert said.out.startswith("Break-even points: none.")
    assert said.out.count("meets nobody: overloaded") == 2

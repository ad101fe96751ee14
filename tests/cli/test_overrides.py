"""What a user knows better than a profile: PUE, price of a kWh, server, price of a card."""

import json
from pathlib import Path

import pytest

CELL = ("--hw", "l4", "--batch", 1, "--prompt", 64, "--output", 4, "--no-report", "--no-bounds", "--json")
J_PER_KWH = 3.6e6


def summary(said) -> dict:
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_energy_grows_with_the_pue_and_its_price_with_that_of_a_kwh(simulate):
    bare = summary(simulate(*CELL, "--pue", 1))
    for pue, price in ((1.0, 0.5), (1.25, 0.1), (4.0, 2.0)):
        told = summary(simulate(*CELL, "--pue", pue, "--kwh-price", price))
        assert told["energy_j"]["total"] == pytest.approx(pue * bare["energy_j"]["total"], rel=1e-9)
        paid = told["energy_j"]["total"] / J_PER_KWH * price
        assert told["cost_usd"]["electricity"] == pytest.approx(paid, rel=1e-9)
        assert told["cost_usd"]["hardware"] == pytest.approx(bare["cost_usd"]["hardware"], rel=1e-12)


def test_the_price_of_a_card_counts_by_what_it_exceeds_another(simulate):
    """Straight lines: twice as much more for the card is twice as much more for its hour."""
    dear = [summary(simulate(*CELL, "--card-price", price))["cost_usd"]["hardware"] for price in (1000, 2000, 3000)]
    assert dear[2] - dear[1] == pytest.approx(dear[1] - dear[0], rel=1e-9)
    assert dear[0] < dear[1]


def test_a_longer_life_of_something_new_is_a_smaller_part_of_it_and_a_dearer_server_counts_by_its_share(simulate):
    def told(*words):
        return summary(simulate(*CELL, "--bought", "new", *words))

    short, long = told("--life", 2), told("--life", 8)
    assert short["breakeven"]["lives"]["card"]["service_s"] == pytest.approx(2 * 365.25 * 86_400)
    assert short["cost_usd"]["hardware"] == pytest.approx(4 * long["cost_usd"]["hardware"])
    assert short["carbon_gco2e"]["assumed"]["embodied"] == pytest.approx(
        4 * long["carbon_gco2e"]["assumed"]["embodied"]
    )
    cheap, dear = told("--server-price", 4000), told("--server-price", 12_000)
    by_share = dear["cost_usd"]["hardware"] - cheap["cost_usd"]["hardware"]
    whole = dear["other_host_share"]["cost_usd"]["hardware"] - cheap["other_host_share"]["cost_usd"]["hardware"]
    assert whole == pytest.approx(4 * by_share), "one card in a server of four"


def test_hours_a_day_are_a_share_of_all_time(simulate):
    hours, share = (summary(simulate(*CELL, "--duty", word, "--between", "idle")) for word in ("6h", "0.25"))
    assert hours == share
    assert hours["breakeven"]["duty_frac"] == 0.25


def test_the_server_is_the_one_that_is_named(simulate, folder: Path):
    assert simulate(*CELL, "--host", "ddr4-4u", "--out", "run").code == 0
    facts = [row["field"] for row in json.loads((folder / "run" / "manifest.json").read_text())["facts"]]
    assert any(field.startswith("ddr4-4u: ") for field in facts)
    wrong = simulate(*CELL, "--host", "hgx-a100")
    assert (wrong.code, wrong.out) == (2, "")
    assert "hosts that hold it" in wrong.err


def test_a_power_cap_takes_longer_and_draws_no_more_than_it_says(simulate, folder: Path):
    words = ("--hw", "rtx3090", "--model", "llama-2-7b", "--precision", "int4", *CELL[2:])
    free = summary(simulate(*words))
    capped = summary(simulate(*words, "--power-cap", 200, "--out", "run"))
    assert (free["hardware"], capped["hardware"]) == ("rtx3090", "rtx3090@200W")
    assert capped["tpot_s"]["mean"] > 1.1 * free["tpot_s"]["mean"]
    assert capped["energy_j"]["by_component"]["gpu"] <= 200.0 * capped["duration_s"] * (1 + 1e-9)
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    assert manifest["deployment"]["power_cap_w"] == 200.0
    assert any("follows the curve of such a card" in said for said in manifest["warnings"])
    assert "capping/curves.toml" in manifest["profiles"]
    at_limit = summary(simulate(*words, "--power-cap", 350))
    assert {**at_limit, "hardware": "rtx3090"} == free


def test_a_study_file_has_the_same_words(simulate, folder: Path):
    (folder / "study.toml").write_text('pue = 1.25\nkwh-price = 0.5\ncard-price = 900\nhost = "ddr4-4u"\n')
    words = ("--pue", 1.25, "--kwh-price", 0.5, "--card-price", 900, "--host", "ddr4-4u")
    assert summary(simulate(*CELL, "--config", "study.toml")) == summary(simulate(*CELL, *words))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--pue", 0.9), "--pue = '0.9' must be a number from 1 and up to 4"),
        (("--kwh-price", -1), "must be a number above 0"),
        (("--card-price", "x"), "must be a number above 0"),
        (("--host", "nope"), "unknown host 'nope'"),
        (("--power-cap", 5), "no l4 can be set to a power cap of 5 W"),
        (("--life", 0), "--life = '0' must be a number above 0"),
        (("--duty", "25h"), "must be a number above 0 and up to 24"),
        (("--bought", "stolen"), "--bought = 'stolen' is unknown"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(simulate, words, says: str):
    said = simulate(*CELL, *words)
    assert (said.code, said.out) == (2, "")
    assert says in said.err

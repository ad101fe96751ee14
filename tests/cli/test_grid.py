"""`--grid`: hourly carbon of the user's file, in its own unit and basis, for the place that it is of and no other."""

import json
from pathlib import Path

import pytest

from afterwatt.reports.rundir import load_run

CELL = ("--hw", "a100-80", "--batch", 1, "--prompt", 128, "--output", 8, "--no-bounds")
OWN = "timestamp_utc,zone,gco2_per_kwh,kind,estimated,source\n"
POUNDS = "timestamp,MOER,MOER version,frequency\n"


def own(folder: Path, **zones: float) -> Path:
    """Two hours of constant intensity for each zone, in our own form."""
    path = folder / "own.csv"
    rows = [
        f"2023-11-16T0{hour}:00:00Z,{zone},{grams},lifecycle,false,made up\n"
        for zone, grams in zones.items()
        for hour in range(2)
    ]
    path.write_text(OWN + "".join(rows))
    return path


def moer(folder: Path) -> Path:
    """Two hours of 903 lb/MWh as WattTime publishes them, which is 409.6 g/kWh."""
    path = folder / "CAISO_NORTH_2023-11_MOER.csv"
    path.write_text(POUNDS + "".join(f"2023-11-16T0{hour}:00:00+00:00,903,3.2,3600\n" for hour in range(2)))
    return path


def intensity(said) -> float:
    assert said.code == 0, said.err
    return json.loads(said.out)["carbon_gco2e"]["intensity_gco2e_per_kwh"]


def test_pounds_become_grams_and_everything_says_marginal(folder: Path, simulate):
    words = (*CELL, "--grid", moer(folder), "--start", "2023-11-16T00:00:00Z")
    refused = simulate(*words)
    assert (refused.code, refused.out) == (2, "")
    assert "holds a marginal signal only" in refused.err
    assert "--basis marginal" in refused.err
    said = simulate(*words, "--basis", "marginal", "--out", "run")
    assert said.code == 0, said.err
    assert "grid: " in said.out
    assert "CAISO_NORTH_2023-11_MOER.csv, CAISO_NORTH, marginal\n" in said.out
    run = load_run("run")
    assert run.summary.carbon_gco2e.intensity_gco2e_per_kwh == pytest.approx(903 * 0.45359237)
    assert run.summary.carbon_gco2e.basis == "marginal"
    carbon = run.manifest.config["carbon"]
    assert (carbon["basis"], carbon["grid"]["basis"], carbon["grid"]["zone"]) == ("marginal", "marginal", "CAISO_NORTH")
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "CAISO_NORTH_2023-11_MOER.csv, CAISO_NORTH, marginal." in page
    assert "not marginal" not in page


def test_the_basis_of_a_run_is_that_of_its_file(folder: Path, simulate):
    path = own(folder, FR=100.0)
    path.write_text(path.read_text().replace("lifecycle", "direct"))
    assert simulate(*CELL, "--grid", path, "--start", "2023-11-16T00:00:00Z", "--no-report", "--out", "run").code == 0
    run = load_run("run")
    assert run.manifest.config["carbon"]["basis"] == run.summary.carbon_gco2e.basis == "direct"


def test_each_site_takes_its_own_zone_of_the_file(folder: Path, simulate):
    words = (*CELL, "--grid", own(folder, FR=100.0, PL=800.0, DE=400.0), "--start", "2023-11-16T00:00:00Z")
    said = simulate(*words, "--site", "fr", "--site", "pl", "--no-report", "--json")
    assert said.code == 0, said.err
    assert [one["carbon_gco2e"]["intensity_gco2e_per_kwh"] for one in json.loads(said.out)] == pytest.approx([100, 800])
    shown = simulate(*words, "--site", "fr", "--site", "pl", "--out", "study")
    assert "own.csv, FR, lifecycle\n" in shown.out
    assert "own.csv, PL, lifecycle\n" in shown.out
    assert "own.csv, PL, lifecycle" in (folder / "study" / "report.html").read_text(encoding="utf-8")


def test_a_grid_is_not_applied_to_another_country(folder: Path, simulate):
    words = (*CELL, "--grid", own(folder, FR=100.0), "--start", "2023-11-16T00:00:00Z", "--no-report", "--json")
    assert intensity(simulate(*words)) == pytest.approx(100), "the world is no place"
    assert intensity(simulate(*words, "--site", "fr")) == pytest.approx(100)
    for sites in (("pl",), ("fr", "pl"), ("world", "pl")):
        said = simulate(*words, *(word for site in sites for word in ("--site", site)))
        assert (said.code, said.out) == (2, "")
        assert "is of zone FR, --site " in said.err
    assert intensity(simulate(*words, "--site", "pl", "--grid-zone", "FR")) == pytest.approx(100), "said to be meant"
    said = simulate(*words, "--site", "pl", "--site", "fr", "--grid-zone", "FR")
    assert (said.code, said.out) == (2, "")
    assert "leave that site out" in said.err


def test_a_file_that_names_no_zone_is_of_the_only_site(folder: Path, simulate):
    path = folder / "mine.csv"
    path.write_text("timestamp,intensity\n2023-11-16T00:00:00Z,0.25\n2023-11-16T01:00:00Z,0.25\n")
    words = (*CELL, "--start", "2023-11-16T00:00:00Z", "--no-report", "--json")
    asked = simulate(*words, "--grid", path)
    assert (asked.code, asked.out) == (2, "")
    assert "does not say the unit and the basis of 'intensity'" in asked.err
    address = f"{path}?unit=kg/kWh&basis=direct"
    assert intensity(simulate(*words, "--site", "pl", "--grid", address)) == pytest.approx(250)
    said = simulate(*words, "--site", "pl", "--site", "fr", "--grid", address)
    assert (said.code, said.out) == (2, "")
    assert "no zone that it names" in said.err


def test_an_instant_that_the_file_covers_is_not_moved(folder: Path, simulate):
    """8,784 hours of 2024 at 100 g/kWh, 31 December at 900."""
    path = folder / "own.csv"
    rows = [
        f"2024-{month:02}-{day:02}T{hour:02}:00:00Z,FR,{900 if (month, day) == (12, 31) else 100},lifecycle,false,x\n"
        for month, days in enumerate((31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), start=1)
        for day in range(1, days + 1)
        for hour in range(24)
    ]
    path.write_text(OWN + "".join(rows))
    words = (*CELL, "--grid", path, "--no-report", "--json")
    for start, repeat, grams in (
        ("2024-12-31T05:00:00Z", (), 900),
        ("2024-12-31T05:00:00Z", ("--repeat-year",), 900),
        ("2025-12-31T05:00:00Z", ("--repeat-year",), 900),
        ("2025-01-01T05:00:00Z", ("--repeat-year",), 100),
    ):
        assert intensity(simulate(*words, "--start", start, *repeat)) == pytest.approx(grams)

"""An hourly series answers with exact means, and only for what it covers; every published format reads the same."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import afterwatt.hwprofiles as hw
from afterwatt.hwprofiles import HardwareError, HourlyGrid, load_grid
from afterwatt.hwprofiles.units import S_PER_CALENDAR_YEAR

SHARED = Path(__file__).parents[2] / "../shared/grid_hourly"
START = dt.datetime(2023, 1, 1, tzinfo=dt.UTC)
NEUTRAL = "timestamp_utc,zone,gco2_per_kwh,kind,estimated,source\n"
MAPS_OLD = (
    "Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO₂eq/kWh (direct),"
    "Carbon Intensity gCO₂eq/kWh (LCA),Low Carbon Percentage,Renewable Percentage,Data Source,Data Estimated,"
    "Data Estimation Method\n"
)
MAPS_NEW = (
    "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),"
    "Carbon intensity gCO₂eq/kWh (Life cycle),Carbon-free energy percentage (CFE%),"
    "Renewable energy percentage (RE%),Data source,Data estimated,Data estimation method\n"
)


def series(values: list[float], step_s: float = 3600.0, start_s: float = 0.0, repeat_year: bool = False) -> HourlyGrid:
    times = start_s + step_s * np.arange(len(values), dtype=np.float64)
    return HourlyGrid(times, np.array(values), step_s, "lifecycle", "XX", "a test", None, repeat_year)


def write(tmp_path: Path, text: str, name: str = "grid.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def brute_force(grid: HourlyGrid, start_s: float, end_s: float) -> float:
    """Integrate step by step."""
    total = 0.0
    for time_s, value in zip(grid.times, grid.gco2e_per_kwh, strict=True):
        overlap = min(end_s, time_s + grid.step_s) - max(start_s, time_s)
        total += value * max(overlap, 0.0)
    return total / (end_s - start_s)


def test_means_of_a_step_series_in_closed_form() -> None:
    grid = series([100.0, 200.0, 400.0])
    got = grid.mean_over(
        [0.0, 0.0, 1800.0, 3600.0, 5400.0, 0.0, 7200.0], [3600.0, 7200.0, 5400.0, 10800.0, 5400.0, 10800.0, 10800.0]
    )
    assert got == pytest.approx([100.0, 150.0, 150.0, 300.0, 200.0, 700.0 / 3.0, 400.0])


@given(
    st.lists(st.floats(0.0, 1500.0), min_size=2, max_size=30),
    st.sampled_from([300.0, 900.0, 3600.0]),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_means_equal_the_integral_and_lie_within_the_values(
    values: list[float], step_s: float, a: float, b: float
) -> None:
    grid = series(values, step_s, start_s=1.7e9)
    span = grid.end_s - grid.start_s
    start_s, end_s = sorted((grid.start_s + a * span, grid.start_s + b * span))
    if end_s - start_s < 1e-3:
        return
    got = float(grid.mean_over(start_s, end_s))
    assert got == pytest.approx(brute_force(grid, start_s, end_s), rel=1e-6, abs=1e-6)
    assert min(values) - 1e-6 <= got <= max(values) + 1e-6


@given(
    st.lists(st.floats(0.0, 1500.0), min_size=2, max_size=20), st.lists(st.floats(0.0, 1.0), min_size=3, max_size=12)
)
def test_means_add_up_over_any_cut(values: list[float], cuts: list[float]) -> None:
    grid = series(values, start_s=1.6e9)
    edges = np.unique(np.array([0.0, 1.0, *cuts]) * (grid.end_s - grid.start_s) + grid.start_s)
    parts = grid.mean_over(edges[:-1], edges[1:]) * np.diff(edges)
    whole = float(grid.mean_over(edges[0], edges[-1])) * (edges[-1] - edges[0])
    assert parts.sum() == pytest.approx(whole, rel=1e-9, abs=1e-3)


def test_a_time_outside_of_the_series_is_an_error_unless_the_year_repeats() -> None:
    hours = int(S_PER_CALENDAR_YEAR / 3600)
    grid = series([float(hour % 24) for hour in range(hours)], start_s=1.6e9)
    with pytest.raises(HardwareError, match="choose a start within the series or repeat_year"):
        grid.mean_over(grid.end_s - 10.0, grid.end_s + 10.0)
    with pytest.raises(HardwareError, match="the series covers 2020-"):
        grid.mean_over(grid.start_s - 1.0, grid.start_s)
    round_the_year = grid.repeating()
    year = S_PER_CALENDAR_YEAR
    for shift in (-2 * year, 0.0, year, 3 * year):
        got = round_the_year.mean_over(grid.start_s + 5 * 3600 + shift, grid.start_s + 6 * 3600 + shift)
        assert float(got) == pytest.approx(5.0)
    across = round_the_year.mean_over(grid.end_s - 3600.0, grid.end_s + 3600.0)
    assert float(across) == pytest.approx((23.0 + 0.0) / 2)
    many = round_the_year.mean_over(grid.start_s, grid.start_s + 7 * year + 3600.0)
    assert float(many) == pytest.approx((7 * year * 11.5 + 0.0) / (7 * year + 3600.0))


def test_a_leap_year_repeats_its_first_365_days() -> None:
    grid = series([1.0] * 8760 + [99.0] * 24).repeating()
    assert float(grid.mean_over(0.0, S_PER_CALENDAR_YEAR)) == 1.0
    assert float(grid.mean_over(S_PER_CALENDAR_YEAR, S_PER_CALENDAR_YEAR + 3600.0)) == 1.0


def test_a_short_series_does_not_repeat() -> None:
    with pytest.raises(HardwareError, match="holds 1 days; repeat_year needs at least 365"):
        series([1.0] * 24).repeating()


@pytest.mark.parametrize(("start", "end", "says"), [(10.0, 5.0, "runs backwards"), (0.0, float("nan"), "not finite")])
def test_intervals_that_are_none(start: float, end: float, says: str) -> None:
    with pytest.raises(HardwareError, match=says):
        series([1.0, 2.0]).mean_over(start, end)


def neutral_rows(count: int = 6, zone: str = "FR", kind: str = "lifecycle", first: float = 100.0) -> str:
    rows = ""
    for hour in range(count):
        time = (START + dt.timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%SZ")
        rows += f"{time},{zone},{first + hour},{kind},{'true' if hour == 0 else 'false'},a test\n"
    return rows


def test_our_own_form_reads_as_csv_and_as_parquet(tmp_path: Path) -> None:
    grid = load_grid(write(tmp_path, NEUTRAL + neutral_rows()))
    assert (grid.zone, grid.basis, grid.step_s, grid.start_s) == ("FR", "lifecycle", 3600.0, START.timestamp())
    assert list(grid.gco2e_per_kwh) == [100.0, 101.0, 102.0, 103.0, 104.0, 105.0]
    assert grid.estimated_frac == pytest.approx(1 / 6)
    assert "a test" in grid.source
    table = pa.table(
        {
            "timestamp_utc": pa.array([START + dt.timedelta(hours=h) for h in range(6)], pa.timestamp("us", "UTC")),
            "zone": ["FR"] * 6,
            "gco2_per_kwh": [100.0 + h for h in range(6)],
            "kind": ["lifecycle"] * 6,
            "estimated": [True] + [False] * 5,
            "source": ["a test"] * 6,
        }
    )
    pq.write_table(table, tmp_path / "grid.parquet")
    twin = load_grid(tmp_path / "grid.parquet")
    assert np.array_equal(twin.times, grid.times)
    assert np.array_equal(twin.gco2e_per_kwh, grid.gco2e_per_kwh)
    assert twin.estimated_frac == grid.estimated_frac


def test_several_zones_and_kinds_in_one_file(tmp_path: Path) -> None:
    text = (
        NEUTRAL
        + neutral_rows(zone="FR")
        + neutral_rows(zone="PL", first=700.0)
        + neutral_rows(4, "PL", "marginal", 9.0)
    )
    path = write(tmp_path, text)
    with pytest.raises(HardwareError, match="holds 2 zones; say which: zone = one of FR, PL"):
        load_grid(path)
    assert load_grid(path, "pl").gco2e_per_kwh[0] == 700.0
    assert load_grid(path, "PL", "marginal").gco2e_per_kwh[0] == 9.0
    with pytest.raises(HardwareError, match="has no direct rows for zone PL; it has lifecycle, marginal"):
        load_grid(path, "PL", "direct")
    with pytest.raises(HardwareError, match=r"has no zone 'PLL'; did you mean 'PL'\?"):
        load_grid(path, "PLL")


@pytest.mark.parametrize("header", [MAPS_OLD, MAPS_NEW, MAPS_OLD.replace("₂", "2"), "\ufeff" + MAPS_NEW])
def test_electricity_maps_headers_of_all_years(tmp_path: Path, header: str) -> None:
    rows = "".join(
        f"2023-01-01 {hour:02}:00:00,France,France,FR,{20 + hour},{40 + hour},90,30,rte,{str(hour > 0).lower()},\n"
        for hour in range(4)
    )
    path = write(tmp_path, header + rows)
    grid = load_grid(path)
    assert (grid.zone, grid.basis, list(grid.gco2e_per_kwh)) == ("FR", "lifecycle", [40.0, 41.0, 42.0, 43.0])
    assert grid.start_s == START.timestamp()
    assert grid.estimated_frac == 0.75
    assert list(load_grid(path, basis="direct").gco2e_per_kwh) == [20.0, 21.0, 22.0, 23.0]
    with pytest.raises(HardwareError, match="has no marginal column; it has lifecycle, direct"):
        load_grid(path, basis="marginal")


def test_a_table_of_zones_by_hour_of_the_year(tmp_path: Path) -> None:
    columns = {"hour_of_year": pa.array(range(48), pa.int16()), "FR": [50.0] * 48, "PL": [700.0] * 48}
    path = tmp_path / "hours.parquet"
    pq.write_table(pa.table(columns), path)
    grid = load_grid(path, "PL")
    assert grid.start_s == dt.datetime(2022, 1, 1, tzinfo=dt.UTC).timestamp()
    assert load_grid(path, "PL", year=2024).start_s == dt.datetime(2024, 1, 1, tzinfo=dt.UTC).timestamp()
    with pytest.raises(HardwareError, match="holds life-cycle values, not direct"):
        load_grid(path, "PL", "direct")


def test_a_marginal_signal_is_never_taken_for_an_average(tmp_path: Path) -> None:
    path = write(tmp_path, "oootime,Caiso_North\n2023-06-08 00:00:00,425\n2023-06-08 00:05:00,432\n")
    grid = load_grid(path)
    assert (grid.basis, grid.step_s, grid.zone) == ("marginal", 300.0, "Caiso_North")
    with pytest.raises(HardwareError, match="never mixed"):
        load_grid(path, basis="lifecycle")


def test_offsets_are_honoured(tmp_path: Path) -> None:
    rows = "".join(f"2023-01-01T0{h}:00:00+01:00,FR,100,lifecycle,false,x\n" for h in range(1, 4))
    assert load_grid(write(tmp_path, NEUTRAL + rows)).start_s == START.timestamp()


GOOD = NEUTRAL + neutral_rows()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("102.0", "", "row 4, gco2_per_kwh = '' must be a number in 0..1500 g/kWh"),
        ("102.0", "nan", "row 4, gco2_per_kwh = 'nan' must be a number"),
        ("102.0", "-1", "row 4, gco2_per_kwh = '-1' must be a number"),
        ("102.0", "102000", "row 4, gco2_per_kwh = '102000' must be a number in 0..1500"),
        ("102.0", "high", "row 4, gco2_per_kwh = 'high' must be a number"),
        (
            "T02:00:00Z",
            "T03:00:00Z",
            "follows 2023-01-01T01:00:00Z after 7200 s where the step is 3600 s; a gap is not filled",
        ),
        ("T02:00:00Z", "T01:00:00Z", "row 4, timestamp_utc = 2023-01-01T01:00:00Z repeats the row before"),
        ("T02:00:00Z", "T00:30:00Z", "row 4, timestamp_utc = 2023-01-01T00:30:00Z lies before 2023-01-01T01:00:00Z"),
        ("2023-01-01T02:00:00Z", "noon", "row 4, timestamp_utc = 'noon' is no time"),
        ("lifecycle,false,a test\n", "average,false,a test\n", "kind = 'average' must be one of lifecycle, direct"),
        ("gco2_per_kwh", "gco2", "is of no known format"),
        (GOOD, "", "is empty"),
        (GOOD, NEUTRAL, "has a header and no rows"),
        (GOOD, NEUTRAL + neutral_rows(1), "holds 1 rows for FR; a step needs at least two"),
        ("102.0,lifecycle", "102.0", "row 4 has 5 cells, the header has 6"),
        ("estimated", "zone", "two columns have the same name"),
    ],
)
def test_a_bad_series_is_refused_with_row_column_value_and_rule(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(HardwareError) as caught:
        load_grid(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_files_that_are_no_series(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="no such file"):
        load_grid(tmp_path / "none.csv")
    with pytest.raises(HardwareError, match=r"is a \.csv or a \.parquet"):
        load_grid(write(tmp_path, "x", "grid.txt"))
    with pytest.raises(HardwareError, match="is no whole parquet file"):
        load_grid(write(tmp_path, "PAR1 and then nothing", "grid.parquet"))
    (tmp_path / "latin.csv").write_bytes(b"timestamp_utc,zone\n\xe9\xe8,FR\n")
    with pytest.raises(HardwareError, match="is no CSV in UTF-8"):
        load_grid(tmp_path / "latin.csv")
    with pytest.raises(HardwareError, match=r"unknown basis 'lifecyle'; did you mean 'lifecycle'\?"):
        load_grid(tmp_path / "none.csv", basis="lifecyle")


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path


@pytest.mark.parametrize("zone", ["FR", "PL", "DE", "SE-SE3", "US-TEX-ERCO", "IN-WE"])
def test_the_umass_table_has_the_mean_that_its_authors_publish(zone: str) -> None:
    """The site's annual row of 2022 and the hourly file come from the same repository by two ways."""
    grid = load_grid(shared("umass_hourly_2022_123zones.parquet"), zone)
    assert len(grid.times) == 8760
    row = next(
        row
        for row in hw.load_site(zone.lower()).intensities
        if row.year == 2022 and "mean_stats.csv" in row.gco2e_per_kwh.source
    )
    assert float(grid.mean_over(grid.start_s, grid.end_s)) == pytest.approx(float(row.gco2e_per_kwh), abs=0.06)


@pytest.mark.parametrize(("zone", "basis"), [("US-CAL-CISO", "lifecycle"), ("US-CAL-CISO", "direct"), ("ES", "direct")])
def test_the_electricity_maps_parquet_has_the_annual_means_of_the_catalogue(zone: str, basis: str) -> None:
    grid = load_grid(shared("electricitymaps_hourly_2021_2023_CISO_ES_NO_BR.parquet"), zone, basis)
    start, end = (dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp() for year in (2023, 2024))
    row = next(
        row
        for row in hw.load_site(zone.lower()).intensities
        if row.year == 2023 and row.basis == basis and "hourly files" in row.gco2e_per_kwh.source
    )
    assert float(grid.mean_over(start, end)) == pytest.approx(float(row.gco2e_per_kwh), abs=0.06)


def test_the_published_csv_files_read_as_they_are() -> None:
    sample = load_grid(shared("sample_US-CAL-CISO_2023_hourly_first200.csv"))
    assert (len(sample.times), sample.zone, sample.gco2e_per_kwh[0]) == (200, "US-CAL-CISO", 285.41)
    parquet = load_grid(shared("electricitymaps_hourly_2021_2023_CISO_ES_NO_BR.parquet"), "US-CAL-CISO")
    begin = int(np.searchsorted(parquet.times, sample.start_s))
    assert np.array_equal(parquet.gco2e_per_kwh[begin : begin + 200], sample.gco2e_per_kwh)
    watttime = load_grid(shared("vessim_watttime_example.csv"))
    assert (watttime.basis, watttime.step_s, len(watttime.times)) == ("marginal", 300.0, 8928)
    assert float(watttime.gco2e_per_kwh.mean()) == pytest.approx(355.33, abs=0.01)

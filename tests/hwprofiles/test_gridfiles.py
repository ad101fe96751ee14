"""Files of hourly intensity: a publisher's header is read in its own unit and basis, else they are asked for."""

import contextlib
import datetime as dt
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import afterwatt.hwprofiles as hw
from afterwatt.hwprofiles import HardwareError, load_grid
from afterwatt.hwprofiles.gridfiles import split_address
from afterwatt.hwprofiles.gridformats import G_PER_KWH
from afterwatt.hwprofiles.gridtables import is_called

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
G_PER_LB = 453.59237
"""The international pound, exact since 1959."""


def write(tmp_path: Path, text: str, name: str = "grid.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def hours(header: str, row: str, values: tuple[float, ...] = (900.0, 901.0, 902.0)) -> str:
    """A table of three hours; `{t}` is the time and `{v}` the value of a row."""
    times = [f"2023-11-16T0{hour}:00:00+00:00" for hour in range(len(values))]
    return header + "".join(row.format(t=t, v=v) for t, v in zip(times, values, strict=True))


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
    assert (grid.source, grid.origin) == (str(tmp_path / "grid.csv"), "a test")
    assert grid.label == f"{tmp_path / 'grid.csv'}, FR, lifecycle"
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
    with pytest.raises(HardwareError, match="has no direct values; it has lifecycle"):
        load_grid(path, "PL", "direct")


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
        ("gco2_per_kwh", "gco2", "does not say the unit and the basis of 'gco2'"),
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
    watttime = load_grid(shared("vessim_watttime_example.csv"), basis="marginal")
    assert (watttime.basis, watttime.step_s, len(watttime.times)) == ("marginal", 300.0, 8928)
    assert float(watttime.gco2e_per_kwh.mean()) == pytest.approx(355.33, abs=0.01)


def test_a_marginal_signal_is_used_only_where_it_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "oootime,Caiso_North\n2023-06-08 00:00:00,425\n2023-06-08 00:05:00,432\n")
    with pytest.raises(HardwareError, match=r"holds a marginal signal only.*say --basis marginal"):
        load_grid(path)
    with pytest.raises(HardwareError, match="has no lifecycle signal; it has marginal"):
        load_grid(path, basis="lifecycle")
    grid = load_grid(path, basis="marginal")
    assert (grid.basis, grid.step_s, grid.zone) == ("marginal", 300.0, "Caiso_North")
    assert list(grid.gco2e_per_kwh) == [425.0, 432.0]


POUNDS = {
    "CAISO_NORTH_2023-11_MOER.csv": ("timestamp,MOER,MOER version,frequency\n", "{t},{v},3.2,300\n", "CAISO_NORTH"),
    "v3.csv": ("point_time,value\n", "{t},{v}\n", ""),
    "v3-region.csv": ("point_time,value,region,signal_type\n", "{t},{v},PJM_DC,co2_moer\n", "PJM_DC"),
    "named.csv": ("time,co2_moer_lbs_per_mwh\n", "{t},{v}\n", ""),
    "bracket.csv": ("time,MOER (lbs/MWh)\n", "{t},{v}\n", ""),
}


@pytest.mark.parametrize("name", POUNDS)
def test_watttime_counts_pounds_per_megawatt_hour(tmp_path: Path, name: str) -> None:
    """903 lb/MWh x 453.59237 g/lb / 1000 kWh/MWh = 409.6 g/kWh."""
    header, row, zone = POUNDS[name]
    path = write(tmp_path, hours(header, row, (903.0, 451.5)), name)
    grid = load_grid(path, basis="marginal")
    assert list(grid.gco2e_per_kwh) == pytest.approx([409.594, 204.797], abs=1e-3)
    assert (grid.zone, grid.basis) == (zone, "marginal")


def test_watttimes_other_signals(tmp_path: Path) -> None:
    header, row = "point_time,value,signal_type\n", "{t},{v},co2_aoer\n"
    grid = load_grid(write(tmp_path, hours(header, row)))
    assert (grid.basis, grid.gco2e_per_kwh[0]) == ("direct", pytest.approx(0.9 * G_PER_LB))
    path = write(tmp_path, hours(header, row.replace("co2_aoer", "health_damage")))
    with pytest.raises(HardwareError, match="signals health_damage; one of co2_moer, co2_aoer"):
        load_grid(path)


def test_electricity_maps_before_2021(tmp_path: Path) -> None:
    """`carbon_intensity_avg` is of consumption and life-cycle; the production beside it is not read."""
    header = "timestamp,datetime,zone_name,carbon_intensity_avg,carbon_intensity_production_avg\n"
    grid = load_grid(write(tmp_path, hours(header, "1700092800,{t},DE,{v},10\n", (400.0, 410.0))))
    assert (grid.zone, grid.basis, list(grid.gco2e_per_kwh)) == ("DE", "lifecycle", [400.0, 410.0])
    with pytest.raises(HardwareError, match="has no direct column; it has lifecycle"):
        load_grid(tmp_path / "grid.csv", basis="direct")


FUELS = "timestamp,WND,SUN,WAT,OIL,NG,COL,NUC,OTH,avg_CI\n"
FUEL_ROW = "{t},1251,540,1209,0,15117,365,992,337,{v}\n"


@pytest.mark.parametrize(
    ("header", "row", "word", "says"),
    [
        (FUELS, FUEL_ROW, "", "does not say the unit and the basis of 'avg_CI'; say it as in"),
        (FUELS, FUEL_ROW, "?unit=g/kWh", "does not say the basis of 'avg_CI'"),
        (FUELS, FUEL_ROW, "?basis=direct", "does not say the unit of 'avg_CI'"),
        (FUELS, FUEL_ROW, "?column=SUN&unit=g/kWh&basis=direct", "column 'SUN' is the power of a source"),
        (FUELS, FUEL_ROW, "?zone=SUN", "that may be: avg_CI"),
        ("time,intensity\n", "{t},{v}\n", "", "does not say the unit and the basis of 'intensity'"),
        ("timestamp,north,south\n", "{t},{v},1\n", "", "the column and the unit and the basis"),
        ("timestamp,north,south\n", "{t},{v},1\n", "", "columns: north, south"),
        ("timestamp,north,south\n", "{t},{v},1\n", "?column=nort", "has no column 'nort'; did you mean 'north'?"),
        ("MTU,Fossil Gas [MW]\n", "{t},{v}\n", "", "is of no known format (columns MTU, Fossil Gas [MW])"),
        ("time,Fossil Gas [MW]\n", "{t},{v}\n", "?column=Fossil Gas [MW]", "is the power of a source"),
        ("time,Total [MW]\n", "{t},{v}\n", "?column=Total [MW]", "is the power of a source"),
        ("time,ci g/kWh\n", "{t},{v}\n", "?unit=lb/MWh&basis=direct", "says g/kWh, which is not unit = lb/MWh"),
        ("time,marginal ci\n", "{t},{v}\n", "?unit=g/kWh&basis=direct", "says marginal, which is not basis = direct"),
        ("time,marginal ci\n", "{t},{v}\n", "?unit=g/kWh", "say --basis marginal"),
        ("time,ci\n", "{t},{v}\n", "?unit=g/kWh&bsis=direct", "unknown word 'bsis'; did you mean 'basis'?"),
        ("time,ci\n", "{t},{v}\n", "?unit=g", "unknown unit 'g'"),
        ("time,ci\n", "{t},{v}\n", "?unit", "is no list such as column=intensity&unit=g/kWh"),
        ("time,ci\n", "{t},{v}\n", "?unit=g/kWh&unit=g/kWh", "says a name twice"),
        ("time,ci\n", "{t},{v}\n", "?unit=t/MWh&basis=direct", "'900.0' t/MWh must be a number in 0..1500 g/kWh"),
    ],
)
def test_what_a_header_does_not_say_is_asked_for(tmp_path: Path, header: str, row: str, word: str, says: str) -> None:
    path = write(tmp_path, hours(header, row))
    with pytest.raises(HardwareError) as caught:
        load_grid(f"{path}{word}")
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize("unit", G_PER_KWH)
def test_a_users_own_table_is_read_as_the_user_says(tmp_path: Path, unit: str) -> None:
    grams = {"g": 1.0, "kg": 1e3, "lb": G_PER_LB, "t": 1e6}
    mass, energy = unit.split("/")
    factor = grams[mass] / {"kWh": 1.0, "MWh": 1e3}[energy]
    path = write(tmp_path, hours("when,mine,price\n", "{t},{v},55\n", (0.1, 0.2)))
    grid = load_grid(f"{path}?time=when&column=mine&unit={unit}&basis=direct&zone=PL")
    assert list(grid.gco2e_per_kwh) == pytest.approx([0.1 * factor, 0.2 * factor], rel=1e-12)
    assert (grid.zone, grid.basis) == ("PL", "direct")


def test_address_and_options_agree_or_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, hours("time,ci\n", "{t},{v}\n"))
    assert load_grid(f"{path}?unit=g/kWh", basis="direct").basis == "direct"
    assert load_grid(f"{path}?unit=g/kWh&basis=direct&zone=PL", "PL", "direct").zone == "PL"
    with pytest.raises(HardwareError, match="basis = direct in the address, but lifecycle beside it; say one"):
        load_grid(f"{path}?unit=g/kWh&basis=direct", basis="lifecycle")
    odd = write(tmp_path, hours("time,ci\n", "{t},{v}\n"), "what?.csv")
    assert split_address(str(odd)) == (str(odd), {})


def test_a_table_with_a_column_of_zones_is_cut_by_it(tmp_path: Path) -> None:
    """CarbonCast's columns; unit and basis of each stand in its name, or are said."""
    header = "UTC time,region_code,carbon_intensity_avg_lifecycle,carbon_intensity_avg_direct\n"
    text = header + "".join(
        f"2023-01-01T0{hour}:00:00Z,{zone},{100 * rank + hour},{10 * rank}\n"
        for rank, zone in ((1, "CISO"), (5, "ERCO"))
        for hour in range(3)
    )
    path = write(tmp_path, text)
    grid = load_grid(f"{path}?column=carbon_intensity_avg_lifecycle&unit=g/kWh&zone=ERCO")
    assert (grid.zone, grid.basis, list(grid.gco2e_per_kwh)) == ("ERCO", "lifecycle", [500.0, 501.0, 502.0])
    texas = hw.load_site("us-tex-erco").codes
    assert load_grid(f"{path}?column=carbon_intensity_avg_direct&unit=g/kWh", codes=texas).zone == "ERCO"
    with pytest.raises(HardwareError, match="holds 2 zones; say which: zone = one of CISO, ERCO"):
        load_grid(f"{path}?column=carbon_intensity_avg_direct&unit=g/kWh")


@pytest.mark.parametrize(
    ("zone", "site"),
    [
        ("CAISO_NORTH", "us-cal-ciso"),
        ("Caiso_North", "us-cal-ciso"),
        ("CISO", "us-cal-ciso"),
        ("US-CAL-CISO", "us-cal-ciso"),
        ("ERCOT_HOUSTON", "us-tex-erco"),
        ("PJM", "us-mida-pjm"),
        ("PJM_DC", "us-mida-pjm"),
        ("DEU", "de"),
        ("DE_LU", "de"),
        ("de", "de"),
        ("UK", "gb"),
        ("FRA", "fr"),
    ],
)
def test_a_zone_is_known_under_every_publishers_name(zone: str, site: str) -> None:
    others = [key for key in hw.site_names() if is_called(zone, hw.load_site(key).codes)]
    assert others == ([site, "lu"] if zone == "DE_LU" else [site])


def test_the_value_of_no_grid_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, hours("time,moer g/kwh\n", "{t},{v}\n", (2000.0, 3000.5)))
    with pytest.raises(HardwareError, match=r"row 3, moer g/kwh = '3000.5' must be a number in 0..3000 g/kWh"):
        load_grid(path, basis="marginal")


def damaged(path: Path, flip: int) -> None:
    body = bytearray(path.read_bytes())
    body[flip % len(body)] ^= 0xFF
    path.write_bytes(body)


@given(st.integers(0, 10**6))
def test_a_damaged_parquet_file_is_one_sentence(flip: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hours.parquet"
        pq.write_table(pa.table({"hour_of_year": pa.array(range(48), pa.int16()), "FR": [50.0] * 48}), path)
        damaged(path, flip)
        with contextlib.suppress(HardwareError):
            assert len(load_grid(path).times) <= 48


def test_cells_of_any_type_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "odd.parquet"
    for values in ([[50.0], [50.0]], [{"a": 1}, {"a": 2}], [None, 50.0], [b"x", b"y"], ["9" * 5000, "1"]):
        pq.write_table(pa.table({"hour_of_year": [0, 1], "FR": values}), path)
        with pytest.raises(HardwareError, match=r"must be a number in 0\.\.1500"):
            load_grid(path)
    for hours_ in (["0", "²"], [0, 10**6], ["0", "1" * 5000], [[0], [1]]):
        pq.write_table(pa.table({"hour_of_year": hours_, "FR": [50.0, 50.0]}), path)
        with pytest.raises(HardwareError, match=r"hour_of_year = .* must be a whole number in 0..8783"):
            load_grid(path)
    text = NEUTRAL + "9999-12-31T23:00:00-12:00,FR,50,lifecycle,false,x\n" * 2
    with pytest.raises(HardwareError, match="is no time such as"):
        load_grid(write(tmp_path, text))
    write(tmp_path, "x").write_bytes(b"\xff\xfet\x00,\x00")
    with pytest.raises(HardwareError, match="is no CSV in UTF-8"):
        load_grid(tmp_path / "grid.csv")


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    with (tmp_path / "huge.csv").open("wb") as stream:
        stream.truncate(1 << 40)
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name, says in {
        "pipe.csv": "is no regular file",
        "folder.csv": "is no regular file",
        "zero.csv": "is no regular file",
        "huge.csv": "is larger than 512 MiB",
        "a\0.csv": "no such file",
        "x" * 5000 + ".csv": "cannot be read: File name too long",
    }.items():
        with pytest.raises(HardwareError, match=says):
            load_grid(tmp_path / name)

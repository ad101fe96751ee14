"""Reading published hourly carbon-intensity files: the format is told by the content, and nothing is filled or dropped.

- Electricity Maps CSV or parquet, old and new headers: told by `Datetime (UTC)`; life-cycle and direct.
- UMass table, a column per zone, life-cycle: told by `hour_of_year`; the year is 2022 unless said otherwise.
- Vessim/WattTime CSV, a column per region, marginal: told by a first column called `time` or the like.
- our own CSV or parquet: `timestamp_utc, zone, gco2_per_kwh, kind, estimated, source`.

A zone must be named where the file holds several.
Times without an offset are UTC: so each of these publishers says, and so `timestamp_utc` is called.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from afterwatt.hwprofiles.errors import HardwareError, did_you_mean
from afterwatt.hwprofiles.grid import GRID_BASES, HourlyGrid, utc_text
from afterwatt.hwprofiles.units import S_PER_HOUR

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LEAST_GCO2E_PER_KWH: Final = 0.0
MOST_GCO2E_PER_KWH: Final = 1500.0
"""Above any grid: burning lignite in an old plant emits some 1,200 g/kWh."""
NEUTRAL_COLUMNS: Final = ("timestamp_utc", "zone", "gco2_per_kwh", "kind", "estimated", "source")
UMASS_YEAR: Final = 2022
_TIME_NAMES: Final = ("", "time", "oootime", "timestamp", "datetime", "date", "unnamed: 0")


@dataclass(frozen=True, slots=True)
class _Series:
    """One zone's rows as read, before any check. `first_row` is the file's number of the first data row."""

    times: Sequence[Any]
    values: Sequence[Any]
    rows: "npt.NDArray[np.int64] | range"
    time_column: str
    value_column: str
    zone: str
    basis: str
    source: str
    estimated: Sequence[Any] | None = None


class _File:
    """A table of columns by name, with an error that names file, row, column, value and rule."""

    def __init__(self, path: Path, columns: dict[str, list[Any]], first_row: int) -> None:
        self.path = path
        self.columns = columns
        self.first_row = first_row

    def error(self, message: str) -> HardwareError:
        return HardwareError(f"{self.path}: {message}")

    def find(self, *names: str) -> str | None:
        """Return the real name of the first column that reads, folded, like one of `names`."""
        folded = {_fold(column): column for column in self.columns}
        return next((folded[name] for name in names if name in folded), None)

    def choose(self, zone: str | None, known: Sequence[str], what: str) -> str:
        """Return the zone to read: the one asked for, or the only one there is."""
        if zone is None:
            if len(known) == 1:
                return known[0]
            listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            raise self.error(f"holds {len(known)} {what}s; say which: zone = one of {listed}")
        folded = {name.casefold(): name for name in known}
        if zone.casefold() not in folded:
            listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            raise self.error(f"has no {what} {zone!r}{did_you_mean(zone, known) or ';'} it holds {listed}")
        return folded[zone.casefold()]


def _fold(column: str) -> str:
    return " ".join(column.replace("₂", "2").strip().lstrip("\ufeff").casefold().split())


def load_grid(
    path: str | Path,
    zone: str | None = None,
    basis: str | None = None,
    *,
    year: int | None = None,
    repeat_year: bool = False,
) -> HourlyGrid:
    """Return the checked series of one zone.

    Args:
        path: a `.csv` or `.parquet` file.
        zone: needed where the file holds several.
        basis: `lifecycle`, `direct` or `marginal`; default: life-cycle where the file has it, else what it has.
        year: calendar year of a file that only counts hours (UMass: 2022 by default).
        repeat_year: answer for times outside of the series by repeating its whole years.

    Raises:
        HardwareError: the file is missing or of no known format, the zone or basis is not in it, a value is no number
            or not in 0..1500 g/kWh, or the times are not ascending, repeat, or leave a gap.
    """
    if basis is not None and basis not in GRID_BASES:
        hint = did_you_mean(basis, GRID_BASES) or ";"
        raise HardwareError(f"unknown basis {basis!r}{hint} expected one of {', '.join(GRID_BASES)}")
    file = _open(Path(path))
    if set(NEUTRAL_COLUMNS) <= set(file.columns):
        series = _neutral(file, zone, basis)
    elif file.find("datetime (utc)"):
        series = _electricity_maps(file, zone, basis)
    elif "hour_of_year" in file.columns:
        series = _hour_of_year(file, zone, basis, UMASS_YEAR if year is None else year)
    elif _fold(next(iter(file.columns))) in _TIME_NAMES and len(file.columns) > 1:
        series = _marginal(file, zone, basis)
    else:
        raise file.error(
            f"is of no known format (columns {', '.join(list(file.columns)[:6])}); write {', '.join(NEUTRAL_COLUMNS)}"
        )
    grid = _checked(file, series)
    return grid.repeating() if repeat_year else grid


def _open(path: Path) -> _File:
    if not path.is_file():
        raise HardwareError(f"{path}: no such file")
    if path.suffix.casefold() == ".parquet":
        return _open_parquet(path)
    if path.suffix.casefold() == ".csv":
        return _open_csv(path)
    raise HardwareError(f"{path}: an hourly series is a .csv or a .parquet file")


def _open_csv(path: Path) -> _File:
    import csv

    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = next(reader, None)
            if not header or not any(name.strip() for name in header):
                raise HardwareError(f"{path}: is empty; a header and at least two rows are needed")
            if len(set(header)) != len(header):
                raise HardwareError(f"{path}: two columns have the same name")
            cells: list[list[str]] = [[] for _ in header]
            for number, row in enumerate(reader, start=2):
                if len(row) != len(header):
                    raise HardwareError(f"{path}: row {number} has {len(row)} cells, the header has {len(header)}")
                for column, cell in zip(cells, row, strict=True):
                    column.append(cell)
    except (UnicodeDecodeError, csv.Error) as fault:
        raise HardwareError(f"{path}: is no CSV in UTF-8: {fault}") from None
    return _File(path, dict(zip(header, cells, strict=True)), first_row=2)


class _Lazy(dict[str, list[Any]]):
    """Columns of a parquet file, read when asked for: 123 zones cost as much as the one that is used."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        super().__init__((name, []) for name in names)
        self._path = path
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._read:
            import pyarrow.parquet as pq

            self[name] = pq.read_table(self._path, columns=[name]).column(0).to_pylist()
            self._read.add(name)
        return super().__getitem__(name)


def _open_parquet(path: Path) -> _File:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError) as fault:
        raise HardwareError(f"{path}: is no whole parquet file: {fault}") from None
    if not names:
        raise HardwareError(f"{path}: has no columns")
    return _File(path, _Lazy(path, names), first_row=1)


def _of_zone(file: _File, column: str, zone: str | None) -> "tuple[str, npt.NDArray[np.int64]]":
    """Return the zone to read and the indices of its rows."""
    import numpy as np

    labels = np.asarray(file.columns[column], dtype=object)
    known = sorted({str(label) for label in labels})
    if not known:
        raise file.error("has a header and no rows")
    chosen = file.choose(zone, known, "zone")
    return chosen, np.flatnonzero(labels == chosen)


def _take(values: list[Any], indices: "npt.NDArray[np.int64]") -> list[Any]:
    return [values[index] for index in indices]


def _electricity_maps(file: _File, zone: str | None, basis: str | None) -> _Series:
    """Read the publisher's own export; headers changed case and wording over the years."""
    prefix = "carbon intensity gco2eq/kwh"
    found = {
        "lifecycle": file.find(f"{prefix} (lca)", f"{prefix} (life cycle)", f"{prefix} (lifecycle)"),
        "direct": file.find(f"{prefix} (direct)"),
    }
    wanted = basis or ("lifecycle" if found["lifecycle"] else "direct")
    column = found.get(wanted)
    if column is None:
        have = ", ".join(name for name, there in found.items() if there) or "neither life-cycle nor direct"
        raise file.error(f"has no {wanted} column; it has {have}")
    zone_column = file.find("zone id")
    if zone_column is None:
        raise file.error("has no 'Zone Id' column, so the zone is not known")
    time_column = file.find("datetime (utc)")
    assert time_column is not None
    chosen, indices = _of_zone(file, zone_column, zone)
    estimated = file.find("data estimated")
    return _Series(
        times=_take(file.columns[time_column], indices),
        values=_take(file.columns[column], indices),
        rows=indices + file.first_row,
        time_column=time_column,
        value_column=column,
        zone=chosen,
        basis=wanted,
        source=f"{file.path} (Electricity Maps)",
        estimated=_take(file.columns[estimated], indices) if estimated else None,
    )


def _hour_of_year(file: _File, zone: str | None, basis: str | None, year: int) -> _Series:
    """Read the UMass table: life-cycle means of the hours 0..8759 of one year, a column per zone."""
    if basis not in (None, "lifecycle"):
        raise file.error(f"holds life-cycle values, not {basis}")
    zones = [name for name in file.columns if name != "hour_of_year"]
    chosen = file.choose(zone, zones, "zone")
    hours = file.columns["hour_of_year"]
    start = dt.datetime(year, 1, 1, tzinfo=dt.UTC)
    times: list[Any] = []
    for index, hour in enumerate(hours):
        text = str(hour)
        if not text.isdigit() or int(text) >= 8784:
            raise file.error(f"row {index + file.first_row}, hour_of_year = {hour!r} must be a whole number in 0..8783")
        times.append(start + dt.timedelta(hours=int(text)))
    return _Series(
        times=times,
        values=file.columns[chosen],
        rows=range(file.first_row, file.first_row + len(hours)),
        time_column="hour_of_year",
        value_column=chosen,
        zone=chosen,
        basis="lifecycle",
        source=f"{file.path} (hour of the year, read as {year})",
    )


def _marginal(file: _File, zone: str | None, basis: str | None) -> _Series:
    """Read a WattTime signal as Vessim ships it: a time column, then a column per region, marginal intensity."""
    if basis not in (None, "marginal"):
        raise file.error(f"holds a marginal signal, not {basis}; marginal and average are never mixed")
    names = list(file.columns)
    chosen = file.choose(zone, names[1:], "region")
    return _Series(
        times=file.columns[names[0]],
        values=file.columns[chosen],
        rows=range(file.first_row, file.first_row + len(file.columns[names[0]])),
        time_column=names[0],
        value_column=chosen,
        zone=chosen,
        basis="marginal",
        source=f"{file.path} (marginal signal)",
    )


def _neutral(file: _File, zone: str | None, basis: str | None) -> _Series:
    """Read our own form."""
    import numpy as np

    chosen, indices = _of_zone(file, "zone", zone)
    kinds = np.asarray(_take(file.columns["kind"], indices), dtype=object)
    for index, kind in zip(indices, kinds, strict=True):
        if kind not in GRID_BASES:
            row = int(index) + file.first_row
            raise file.error(f"row {row}, kind = {kind!r} must be one of {', '.join(GRID_BASES)}")
    present = sorted(set(kinds))
    wanted = basis or ("lifecycle" if "lifecycle" in present else present[0])
    if wanted not in present:
        raise file.error(f"has no {wanted} rows for zone {chosen}; it has {', '.join(present)}")
    indices = indices[kinds == wanted]
    sources = dict.fromkeys(str(text) for text in _take(file.columns["source"], indices))
    return _Series(
        times=_take(file.columns["timestamp_utc"], indices),
        values=_take(file.columns["gco2_per_kwh"], indices),
        rows=indices + file.first_row,
        time_column="timestamp_utc",
        value_column="gco2_per_kwh",
        zone=chosen,
        basis=wanted,
        source=f"{file.path} ({'; '.join(sources)})",
        estimated=_take(file.columns["estimated"], indices),
    )


def _checked(file: _File, series: _Series) -> HourlyGrid:
    """Turn raw rows into a grid, or say which row, column and value breaks which rule."""
    import numpy as np

    if len(series.times) < 2:
        raise file.error(f"holds {len(series.times)} rows for {series.zone}; a step needs at least two")
    times = np.array([_seconds(file, series, index) for index in range(len(series.times))])
    values = np.array([_intensity(file, series, index) for index in range(len(series.values))])
    steps = np.diff(times)
    lengths, counts = np.unique(steps[steps > 0], return_counts=True)
    step = float(lengths[np.argmax(counts)]) if len(lengths) else S_PER_HOUR
    wrong = np.flatnonzero(steps != step)
    if len(wrong):
        raise _step_error(file, series, times, int(wrong[0]) + 1, step)
    estimated = None
    if series.estimated is not None:
        estimated = sum(str(flag).casefold() == "true" for flag in series.estimated) / len(series.estimated)
    return HourlyGrid(times, values, step, series.basis, series.zone, series.source, estimated)


def _step_error(file: _File, series: _Series, times: "Floats", index: int, step: float) -> HardwareError:
    row, column = int(series.rows[index]), series.time_column
    now, before = utc_text(times[index]), utc_text(times[index - 1])
    where = f"row {row}, {column} = {now}"
    if times[index] == times[index - 1]:
        return file.error(f"{where} repeats the row before; each time may occur once per zone")
    if times[index] < times[index - 1]:
        return file.error(f"{where} lies before {before} of the row before; times must ascend")
    return file.error(
        f"{where} follows {before} after {times[index] - times[index - 1]:g} s where the step is {step:g} s; "
        "a gap is not filled: complete the series or cut it there"
    )


def _seconds(file: _File, series: _Series, index: int) -> float:
    """Return one time as seconds since the epoch; no offset means UTC."""
    raw = series.times[index]
    moment = raw
    if isinstance(raw, str):
        try:
            moment = dt.datetime.fromisoformat(raw.strip())
        except ValueError:
            moment = None
    if not isinstance(moment, dt.datetime):
        row = int(series.rows[index])
        raise file.error(f"row {row}, {series.time_column} = {raw!r} is no time such as 2023-01-01 05:00:00")
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
    return aware.timestamp()


def _intensity(file: _File, series: _Series, index: int) -> float:
    raw = series.values[index]
    try:
        value = float("nan") if raw is None else float(raw)
    except ValueError:
        value = float("nan")
    if not LEAST_GCO2E_PER_KWH <= value <= MOST_GCO2E_PER_KWH:
        row = int(series.rows[index])
        rule = f"must be a number in {LEAST_GCO2E_PER_KWH:g}..{MOST_GCO2E_PER_KWH:g} g/kWh"
        raise file.error(f"row {row}, {series.value_column} = {raw!r} {rule}")
    return value

"""Hourly carbon-intensity files: which values of which zone, unit and basis are meant, and whether a grid has such.

A file is told by its header (`hwprofiles.gridformats`); of any other table the user says what its header does not:

    FILE?column=...&unit=...&basis=...&zone=...

Nothing is filled, dropped or guessed. Times without an offset are UTC: so the publishers say.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from afterwatt.hwprofiles.errors import HardwareError, did_you_mean
from afterwatt.hwprofiles.grid import GRID_BASES, HourlyGrid, utc_text
from afterwatt.hwprofiles.gridformats import G_PER_KWH, Said, Series, read_series
from afterwatt.hwprofiles.gridtables import GridTable, open_table
from afterwatt.hwprofiles.units import S_PER_HOUR

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LEAST_GCO2E_PER_KWH: Final = 0.0
MOST_GCO2E_PER_KWH: Final = 1500.0
"""Above any average: burning lignite in an old plant emits some 1,200 g/kWh."""
MOST_MARGINAL_GCO2E_PER_KWH: Final = 3000.0
"""A marginal signal may count a plant at part load, or losses; twice the highest average is beyond belief."""
_SAYINGS: Final = ("column", "unit", "basis", "zone", "time")


def load_grid(
    address: str | Path,
    zone: str | None = None,
    basis: str | None = None,
    *,
    year: int | None = None,
    repeat_year: bool = False,
    codes: Sequence[str] = (),
) -> HourlyGrid:
    """Return the checked series of one zone.

    Args:
        address: a `.csv` or `.parquet` file, with `?column=&unit=&basis=&zone=&time=` where its header does not say it.
        zone: needed where the file holds several.
        basis: `lifecycle`, `direct` or `marginal`; default: life-cycle where the file has it, else direct. A marginal
            signal is used only where it is asked for.
        year: calendar year of a file that only counts hours (UMass: 2022 by default).
        repeat_year: answer for times outside of the series by repeating its whole years.
        codes: what a place is called; chooses among several zones where none is named.

    Raises:
        HardwareError: the file is missing or of no known format and too little is said of it, the zone or basis is not
            in it, a value is no number or one that no grid has, or the times are not ascending, repeat, or leave a gap.
    """
    path, given = split_address(str(address))
    words = _agreed(path, given, {"zone": zone, "basis": basis})
    for name, known in (("basis", GRID_BASES), ("unit", tuple(G_PER_KWH))):
        if words.get(name, known[0]) not in known:
            hint = did_you_mean(words[name], known) or ";"
            raise HardwareError(f"{path}: unknown {name} {words[name]!r}{hint} expected one of {', '.join(known)}")
    said = Said(**words, year=year, codes=tuple(codes))
    table = open_table(Path(path))
    grid = _checked(table, read_series(table, said))
    return grid.repeating() if repeat_year else grid


def split_address(address: str) -> tuple[str, Mapping[str, str]]:
    """Split `FILE?column=...&unit=...` into the file and what is said of it.

    Raises:
        HardwareError: what follows the question mark is no list of `name=value`, or a name of it is unknown.
    """
    path, mark, query = address.partition("?")
    if not mark or _is_file(address):
        return address, {}
    try:
        pairs = parse_qsl(query.replace("+", "%2B"), strict_parsing=True, max_num_fields=len(_SAYINGS))
    except ValueError:
        raise HardwareError(f"{path}: {query!r} is no list such as column=intensity&unit=g/kWh&basis=direct") from None
    for name, _ in pairs:
        if name not in _SAYINGS:
            hint = did_you_mean(name, _SAYINGS) or ";"
            raise HardwareError(f"{path}: unknown word {name!r}{hint} known: {', '.join(_SAYINGS)}")
    if len(dict(pairs)) < len(pairs):
        raise HardwareError(f"{path}: {query!r} says a name twice; keep one")
    return path, dict(pairs)


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _agreed(path: str, given: Mapping[str, str], also: Mapping[str, str | None]) -> dict[str, str]:
    """Join what the address says with what was said beside it."""
    words = dict(given)
    for name, value in also.items():
        if value is not None and words.setdefault(name, value).casefold() != value.casefold():
            raise HardwareError(
                f"{path}: {name} = {words[name]} in the address, but {value} beside it; say one of them"
            )
    return words


def _checked(table: GridTable, series: Series) -> HourlyGrid:
    """Turn raw rows into a grid, or say which row, column and value breaks which rule."""
    import numpy as np

    if len(series.times) < 2:
        raise table.error(f"holds {len(series.times)} rows for {series.zone}; a step needs at least two")
    times = np.array([_seconds(table, series, index) for index in range(len(series.times))])
    values = np.array([_intensity(table, series, index) for index in range(len(series.values))])
    steps = np.diff(times)
    lengths, counts = np.unique(steps[steps > 0], return_counts=True)
    step = float(lengths[np.argmax(counts)]) if len(lengths) else S_PER_HOUR
    wrong = np.flatnonzero(steps != step)
    if len(wrong):
        raise _step_error(table, series, times, int(wrong[0]) + 1, step)
    estimated = None
    if series.estimated is not None:
        estimated = sum(str(flag).casefold() == "true" for flag in series.estimated) / len(series.estimated)
    return HourlyGrid(times, values, step, series.basis, series.zone, str(table.path), estimated, origin=series.origin)


def _step_error(table: GridTable, series: Series, times: "Floats", index: int, step: float) -> HardwareError:
    row, column = int(series.rows[index]), series.time_column
    now, before = utc_text(times[index]), utc_text(times[index - 1])
    where = f"row {row}, {column} = {now}"
    if times[index] == times[index - 1]:
        return table.error(f"{where} repeats the row before; each time may occur once per zone")
    if times[index] < times[index - 1]:
        return table.error(f"{where} lies before {before} of the row before; times must ascend")
    return table.error(
        f"{where} follows {before} after {times[index] - times[index - 1]:g} s where the step is {step:g} s; "
        "a gap is not filled: complete the series or cut it there"
    )


def _seconds(table: GridTable, series: Series, index: int) -> float:
    """Return one time as seconds since the epoch; no offset means UTC."""
    raw = series.times[index]
    try:
        moment = dt.datetime.fromisoformat(raw.strip()) if isinstance(raw, str) else raw
        if isinstance(moment, dt.datetime):
            aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
            return aware.astimezone(dt.UTC).timestamp()
    except (ValueError, OverflowError):
        pass
    row = int(series.rows[index])
    raise table.error(f"row {row}, {series.time_column} = {repr(raw)[:60]} is no time such as 2023-01-01 05:00:00")


def _intensity(table: GridTable, series: Series, index: int) -> float:
    """Return one value in g/kWh, or refuse one that no grid has."""
    raw: Any = series.values[index]
    try:
        value = float("nan") if raw is None else float(raw) * G_PER_KWH[series.unit]
    except (ValueError, TypeError, OverflowError):
        value = float("nan")
    most = MOST_MARGINAL_GCO2E_PER_KWH if series.basis == "marginal" else MOST_GCO2E_PER_KWH
    if not LEAST_GCO2E_PER_KWH <= value <= most:
        row = int(series.rows[index])
        unit = "" if series.unit == "g/kWh" else f" {series.unit}"
        rule = f"must be a number in {LEAST_GCO2E_PER_KWH:g}..{most:g} g/kWh"
        raise table.error(f"row {row}, {series.value_column} = {repr(raw)[:60]}{unit} {rule}")
    return value

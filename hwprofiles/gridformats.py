"""The headers of hourly carbon-intensity files: what each publisher's columns mean, and in which unit.

- our own: `timestamp_utc, zone, gco2_per_kwh, kind, estimated, source`.
- Electricity Maps, exports since 2021: told by `Datetime (UTC)` and `Carbon intensity gCO2eq/kWh (...)`; before: by
  `zone_name` and `carbon_intensity_avg`, which is life-cycle, g/kWh, of consumption.
- UMass table, a column per zone, life-cycle, g/kWh: told by `hour_of_year`; the year is 2022 unless said otherwise.
- WattTime, marginal, pounds of CO2 per MWh: `timestamp, MOER, MOER version, frequency` (v2; the zone stands in the
  file's name) and `point_time, value` (v3).
- Vessim's WattTime sample, a column per region, marginal, g/kWh: told by its own spelling `oootime`.

Any other table is read as far as its column's name and the user say column, unit and basis.
"""

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from afterwatt.hwprofiles.errors import did_you_mean
from afterwatt.hwprofiles.grid import GRID_BASES
from afterwatt.hwprofiles.gridtables import GridTable, fold

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NEUTRAL_COLUMNS: Final = ("timestamp_utc", "zone", "gco2_per_kwh", "kind", "estimated", "source")
UMASS_YEAR: Final = 2022
G_PER_LB: Final = 453.59237
"""The international pound of 1959, exact."""
G_PER_KWH: Final[Mapping[str, float]] = MappingProxyType(
    {"g/kWh": 1.0, "kg/MWh": 1.0, "lb/MWh": G_PER_LB / 1e3, "t/MWh": 1e3, "kg/kWh": 1e3, "lb/kWh": G_PER_LB}
)
"""Unit -> g/kWh."""

_TIMES: Final = (
    *("timestamp_utc", "datetime (utc)", "utc time", "point_time", "timestamp", "datetime", "time", "date", "oootime"),
    *("period", "unnamed: 0", ""),
)
_ZONES: Final = ("zone id", "zone_id", "zone", "zone_name", "region", "region_code", "ba")
_FUELS: Final = frozenset(
    {
        *("wnd", "sun", "wat", "oil", "ng", "col", "nuc", "oth", "gas", "coal", "lignite", "peat", "hydro", "solar"),
        *("wind", "nuclear", "biomass", "geothermal", "waste", "fossil", "battery", "storage", "other", "unknown"),
    }
)
_POWER: Final = frozenset({"mw", "gw", "kw", "demand", "load", "generation"})
_UNIT: Final = re.compile(r"(?<![a-z])(g|kg|lb|lbs|t)[ _.-]*(?:co2(?:eq|e)?)?[ _-]*(?:/|per)[ _-]*([km])wh(?![a-z])")
_BASIS: Final = (
    (re.compile("marginal|moer"), "marginal"),
    (re.compile(r"\blca\b|life.?cycle|_lca(_|\b)"), "lifecycle"),
    (re.compile("direct"), "direct"),
)
_INTENSITY: Final = re.compile("intensity|co2|moer|carbon|emission|(?<![a-z])ci(?![a-z])")
_WATTTIME_NAME: Final = re.compile(r"(.+)_\d{4}-\d{2}_MOER")
_SIGNALS: Final = {"co2_moer": "marginal", "co2_aoer": "direct"}
"""WattTime's signals in pounds of CO2 per MWh; its others count dollars or kilowatt-hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the user says of a file; None leaves it to the header.

    Attributes:
        column: with the values; unit: one of `G_PER_KWH`; time: column with the times.
        basis: one of `GRID_BASES`.
        zone: to read where there are several, or what the only one is.
        year: of a file that only counts hours.
        codes: what the place is called; chooses among several zones where none is named.
    """

    column: str | None = None
    unit: str | None = None
    time: str | None = None
    basis: str | None = None
    zone: str | None = None
    year: int | None = None
    codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One zone's rows as read, before any check of times and values.

    Attributes:
        times, values: cells; rows: the file's number of each; estimated: flags, if there are any.
        time_column, value_column: where they stand.
        zone: empty if nobody says it.
        basis: one of `GRID_BASES`; unit: one of `G_PER_KWH`.
        origin: whose file it is.
    """

    times: Sequence[Any]
    values: Sequence[Any]
    rows: "npt.NDArray[np.int64]"
    estimated: Sequence[Any] | None = None
    time_column: str
    value_column: str
    zone: str
    basis: str
    unit: str = "g/kWh"
    origin: str = ""


def read_series(table: GridTable, said: Said) -> Series:
    """Return the rows that are meant, by the file's header and what the user says.

    Raises:
        HardwareError: header and user together do not tell column, unit, basis and zone; or what is asked for is not
            there.
    """
    if said.column is not None or said.unit is not None or said.time is not None:
        return _any(table, said)
    if set(NEUTRAL_COLUMNS) <= set(table.columns):
        return _neutral(table, said)
    if table.find("datetime (utc)") and _maps_columns(table):
        return _electricity_maps(table, said)
    if table.find("carbon_intensity_avg") and table.find("zone_name"):
        return _electricity_maps_of_old(table, said)
    if "hour_of_year" in table.columns:
        return _hour_of_year(table, said)
    if table.find("point_time") and table.find("value"):
        return _watttime(table, said)
    if table.find("moer") and table.find("moer version"):
        return _watttime_of_old(table, said)
    if table.find("oootime"):
        return _vessim(table, said)
    return _any(table, said)


def _of_zone(table: GridTable, column: str, said: Said) -> "tuple[str, npt.NDArray[np.int64]]":
    """Return the zone to read and the indices of its rows."""
    import numpy as np

    labels = [str(label) for label in table.columns[column]]
    if not labels:
        raise table.error("has a header and no rows")
    chosen = table.choose(said.zone, sorted(set(labels)), "zone", said.codes)
    return chosen, np.array([index for index, label in enumerate(labels) if label == chosen], dtype=np.int64)


def _rows(table: GridTable, said: Said, column: str) -> "tuple[str, npt.NDArray[np.int64]]":
    """Return zone and rows of a table that may have a column of zones; if not, its zone is what the user says."""
    import numpy as np

    zone_column = table.find(*_ZONES)
    if zone_column is not None:
        return _of_zone(table, zone_column, said)
    return said.zone or "", np.arange(len(table.columns[column]))


def _series(
    table: GridTable,
    zone_and_rows: "tuple[str, npt.NDArray[np.int64]]",
    time_column: str,
    value_column: str,
    basis: str,
    *,
    origin: str,
    unit: str = "g/kWh",
    estimated: str | None = None,
) -> Series:
    """Return a zone's rows; `estimated` is the column of flags."""
    zone, indices = zone_and_rows

    def cells(column: str) -> list[Any]:
        every = table.columns[column]
        return [every[index] for index in indices]

    return Series(
        times=cells(time_column),
        values=cells(value_column),
        rows=indices + table.first_row,
        estimated=cells(estimated) if estimated else None,
        time_column=time_column,
        value_column=value_column,
        zone=zone,
        basis=basis,
        unit=unit,
        origin=origin,
    )


def _among(table: GridTable, said: Said, present: Sequence[str], what: str) -> str:
    """Return the basis to use out of those that a file has; a marginal one only where it is asked for."""
    wanted = said.basis or next((basis for basis in ("lifecycle", "direct") if basis in present), None)
    if wanted is None:
        raise table.error(
            "holds a marginal signal only, which is never mixed with averages; say --basis marginal to count with it"
        )
    if wanted not in present:
        raise table.error(f"has no {wanted} {what}; it has {', '.join(present)}")
    return wanted


def _maps_columns(table: GridTable) -> dict[str, str]:
    """Return basis -> column of an Electricity Maps export; headers changed case and wording over the years."""
    prefix = "carbon intensity gco2eq/kwh"
    found = {
        "lifecycle": table.find(*(f"{prefix} ({word})" for word in ("lca", "life cycle", "lifecycle", "life-cycle"))),
        "direct": table.find(f"{prefix} (direct)"),
    }
    return {basis: column for basis, column in found.items() if column is not None}


def _electricity_maps(table: GridTable, said: Said) -> Series:
    """Read the publisher's own export."""
    columns = _maps_columns(table)
    basis = _among(table, said, list(columns), "column")
    zone_column = table.find("zone id")
    if zone_column is None:
        raise table.error("has no 'Zone Id' column, so the zone is not known")
    rows, flags = _of_zone(table, zone_column, said), table.find("data estimated")
    time_column = table.find("datetime (utc)") or ""
    return _series(table, rows, time_column, columns[basis], basis, origin="Electricity Maps", estimated=flags)


def _electricity_maps_of_old(table: GridTable, said: Said) -> Series:
    """Read an export of 2020 and before: `carbon_intensity_avg` is of the electricity consumed, life-cycle."""
    basis = _among(table, said, ["lifecycle"], "column")
    column, time_column = table.find("carbon_intensity_avg") or "", table.find("datetime", "timestamp") or ""
    if not time_column:
        raise table.error("has no 'datetime' column; say which holds the times: ?time=NAME")
    rows = _of_zone(table, table.find("zone_name") or "", said)
    return _series(table, rows, time_column, column, basis, origin="Electricity Maps")


def _hour_of_year(table: GridTable, said: Said) -> Series:
    """Read the UMass table: life-cycle means of the hours 0..8759 of one year, a column per zone."""
    import numpy as np

    basis = _among(table, said, ["lifecycle"], "values")
    zones = [name for name in table.columns if name != "hour_of_year"]
    chosen = table.choose(said.zone, zones, "zone", said.codes)
    year = UMASS_YEAR if said.year is None else said.year
    start = dt.datetime(year, 1, 1, tzinfo=dt.UTC)
    times: list[Any] = []
    for row, hour in enumerate(table.columns["hour_of_year"], start=table.first_row):
        if not re.fullmatch("[0-9]{1,4}", str(hour)) or int(hour) >= 8784:
            raise table.error(f"row {row}, hour_of_year = {repr(hour)[:60]} must be a whole number in 0..8783")
        times.append(start + dt.timedelta(hours=int(hour)))
    rows = (chosen, np.arange(len(times)))
    told = f"hour of the year, read as {year}"
    return replace(_series(table, rows, "hour_of_year", chosen, basis, origin=told), times=times)


def _watttime(table: GridTable, said: Said) -> Series:
    """Read version 3 of WattTime's interface: `point_time, value`, with `region` and `signal_type` where they stand."""
    signals = table.find("signal_type")
    told = {str(name) for name in table.columns[signals]} if signals else {"co2_moer"}
    if len(told) != 1 or not told <= set(_SIGNALS):
        raise table.error(
            f"holds the signals {', '.join(sorted(told))[:100]}; one of {', '.join(_SIGNALS)} can be counted with"
        )
    basis = _among(table, said, [_SIGNALS[told.pop()]], "signal")
    return _pounds(table, said, table.find("point_time") or "", table.find("value") or "", basis)


def _watttime_of_old(table: GridTable, said: Said) -> Series:
    """Read version 2: `timestamp, MOER, MOER version, frequency`, the zone in names like CAISO_NORTH_2023-11_MOER."""
    basis = _among(table, said, ["marginal"], "signal")
    return _pounds(table, said, table.find("timestamp", "time") or "", table.find("moer") or "", basis)


def _pounds(table: GridTable, said: Said, time_column: str, column: str, basis: str) -> Series:
    zone, indices = _rows(table, said, column)
    named = _WATTTIME_NAME.fullmatch(table.path.stem)
    rows = (zone or (named[1] if named else ""), indices)
    return _series(table, rows, time_column, column, basis, unit="lb/MWh", origin="WattTime")


def _vessim(table: GridTable, said: Said) -> Series:
    """Read the WattTime signal that Vessim ships: a time column, then a column per region."""
    import numpy as np

    basis = _among(table, said, ["marginal"], "signal")
    time_column = table.find("oootime") or ""
    chosen = table.choose(said.zone, [name for name in table.columns if name != time_column], "region", said.codes)
    rows = (chosen, np.arange(len(table.columns[chosen])))
    return _series(table, rows, time_column, chosen, basis, origin="WattTime, as Vessim ships it")


def _neutral(table: GridTable, said: Said) -> Series:
    """Read our own form."""
    import numpy as np

    chosen, indices = _of_zone(table, "zone", said)
    kinds = [table.columns["kind"][index] for index in indices]
    for index, kind in zip(indices, kinds, strict=True):
        if kind not in GRID_BASES:
            row = int(index) + table.first_row
            raise table.error(f"row {row}, kind = {repr(kind)[:60]} must be one of {', '.join(GRID_BASES)}")
    basis = _among(table, said, sorted(set(kinds)), f"rows for zone {chosen}")
    indices = indices[np.array([kind == basis for kind in kinds])]
    origin = "; ".join(dict.fromkeys(str(table.columns["source"][index]) for index in indices))
    rows, values = (chosen, indices), "gco2_per_kwh"
    return _series(table, rows, "timestamp_utc", values, basis, origin=origin, estimated="estimated")


def _any(table: GridTable, said: Said) -> Series:
    """Read any table of which header and user together say column, unit and basis."""
    time_column = _there(table, said.time) if said.time is not None else table.find(*_TIMES)
    if time_column is None:
        shown = ", ".join(list(table.columns)[:6])
        raise table.error(f"is of no known format (columns {shown}); write {', '.join(NEUTRAL_COLUMNS)}")
    column = _value_column(table, said, {time_column, table.find(*_ZONES)})
    unit, basis = _unit_of(column), _basis_of(column)
    for name, stated, header in (("unit", said.unit, unit), ("basis", said.basis, basis)):
        if stated is not None and header is not None and stated != header:
            raise table.error(f"column {column!r} says {header}, which is not {name} = {stated}; correct one of them")
    unit, basis = unit or said.unit, basis or said.basis
    if unit is None or basis is None:
        raise _ask(table, column, unit, basis)
    if basis == "marginal":
        _among(table, said, ["marginal"], "values")
    rows = _rows(table, said, column)
    return _series(table, rows, time_column, column, basis, unit=unit, origin=f"{column}, {unit}")


def _there(table: GridTable, name: str) -> str:
    """Return the real name of a column that the user names."""
    found = table.find(fold(name))
    if found is None:
        hint = did_you_mean(name, table.columns) or ";"
        raise table.error(f"has no column {name!r}{hint} it has {', '.join(list(table.columns)[:12])}")
    return found


def _value_column(table: GridTable, said: Said, others: set[str | None]) -> str:
    """Return the column with the values: the one named, the only one of its sort, or an error that asks."""
    candidates = [name for name in table.columns if name not in others and not _is_power(name)]
    named = said.column or (said.zone if said.zone is not None and table.find(fold(said.zone)) else None)
    if named is not None:
        column = _there(table, named)
        if _is_power(column):
            may = ", ".join(candidates[:6]) or "none"
            raise table.error(
                f"column {column!r} is the power of a source (MW), no carbon intensity; that may be: {may}"
            )
        return column
    telling = [name for name in candidates if _INTENSITY.search(fold(name))]
    if len(telling) == 1 or len(candidates) == 1:
        return (telling if len(telling) == 1 else candidates)[0]
    raise _ask(table, None, None, None, telling or candidates)


def _is_power(column: str) -> bool:
    """Return whether a column's name is that of a fuel or of a power, and not of an intensity."""
    words = set(re.findall("[a-z0-9]+", fold(column)))
    return bool(words & _FUELS or (words & _POWER and not _INTENSITY.search(fold(column))))


def _unit_of(column: str) -> str | None:
    found = _UNIT.search(fold(column))
    return None if found is None else f"{found[1].removesuffix('s')}/{'k' if found[2] == 'k' else 'M'}Wh"


def _basis_of(column: str) -> str | None:
    return next((basis for form, basis in _BASIS if form.search(fold(column))), None)


def _ask(
    table: GridTable, column: str | None, unit: str | None, basis: str | None, candidates: Sequence[str] = ()
) -> Exception:
    """Return the error that asks for what nobody has said."""
    absent = [name for name, known in (("column", column), ("unit", unit), ("basis", basis)) if known is None]
    listed = f"; columns: {', '.join(candidates[:8])}" if candidates else ""
    of = f" of {column!r}" if column is not None else ""
    return table.error(
        f"does not say the {' and the '.join(absent)}{of}; say it as in "
        f"'{table.path.name}?column={column or 'NAME'}&unit={unit or 'g/kWh'}&basis={basis or 'lifecycle'}&zone=FR' "
        f"(units: {', '.join(G_PER_KWH)}; bases: {', '.join(GRID_BASES)}"
        f"{listed})"
    )

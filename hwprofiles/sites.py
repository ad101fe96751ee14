"""Places as facts: how clean the electricity of a zone is by whom, when and on which basis; PUE; what a kWh costs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from afterwatt.hwprofiles import facts
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.facts import Fact, merge_facts
from afterwatt.hwprofiles.grid import GRID_BASES, HourlyGrid
from afterwatt.hwprofiles.tables import Table

SITE_BASES: Final = ("lifecycle", "direct", "unstated")
"""Bases of annual averages. `unstated`: the source does not say; kept and shown, never mixed with the others."""

LEAST_INTERVAL_FRAC: Final = 0.10
"""Annual averages of one zone, year and basis differ by 2 to 22 % between sources (hourly means against annual mix x
emission factors: 2-5 % for California and Poland, 6 % Germany and Britain, 11 % France, 22 % western India), so a zone
with a single source still gets this much to either side."""


@dataclass(frozen=True, slots=True)
class IntensityFact:
    """One published annual average.

    Attributes:
        basis: one of `SITE_BASES`.
        year: the year it is about; None if the source does not say.
        gco2e_per_kwh: location-based average.
    """

    basis: str
    year: int | None
    gco2e_per_kwh: Fact


@dataclass(frozen=True, slots=True)
class HourlySource:
    """Where a site's hourly series lies, as the site's TOML says it."""

    path: Path
    zone: str | None
    basis: str | None


@dataclass(frozen=True, slots=True)
class Site:
    """A place where a machine stands.

    Attributes:
        key: catalogue name.
        zone: grid zone as Electricity Maps writes it.
        name: what people call it.
        intensities: all published averages, in order of preference within a year.
        pue: facility power over computer power.
        electricity_usd_per_kwh: what a kWh costs.
        hourly: an hourly series to use instead of the average, if the site's file names one.
        note: what to know about it.
    """

    key: str
    zone: str
    name: str
    intensities: tuple[IntensityFact, ...]
    pue: Fact
    electricity_usd_per_kwh: Fact
    hourly: HourlySource | None = None
    note: str = ""

    @property
    def bases(self) -> tuple[str, ...]:
        """Return the bases for which there is an average."""
        present = {row.basis for row in self.intensities}
        return tuple(basis for basis in SITE_BASES if basis in present)

    def intensity_gco2e_per_kwh(self, basis: str = "lifecycle") -> Fact:
        """Return the newest annual average of one basis, with an interval over the sources that disagree.

        The value is the first-listed row of the newest year. The interval spans all rows of the same basis that are at
        most a year older or name no year, and reaches at least `LEAST_INTERVAL_FRAC` to either side.

        Raises:
            HardwareError: the site has no average of that basis.
        """
        rows = [row for row in self.intensities if row.basis == basis]
        if not rows:
            raise HardwareError(f"site {self.key} has no {basis} intensity; it has {', '.join(self.bases) or 'none'}")
        newest = max(row.year or 0 for row in rows)
        centre = next(row for row in rows if (row.year or 0) == newest)
        others = [row for row in rows if row is not centre and (row.year is None or row.year >= newest - 1)]
        merged = merge_facts([centre.gco2e_per_kwh, *(row.gco2e_per_kwh for row in others)])
        return merged.widened(LEAST_INTERVAL_FRAC)

    def hourly_grid(self, repeat_year: bool = False) -> HourlyGrid | None:
        """Return the series that the site's file names, or None if it names none."""
        if self.hourly is None:
            return None
        from afterwatt.hwprofiles.gridfiles import load_grid

        return load_grid(self.hourly.path, self.hourly.zone, self.hourly.basis, repeat_year=repeat_year)


def read_site(table: Table, key: str, folder: Path) -> Site:
    """Make a site from its TOML table.

    Args:
        table: the file's top table; `[hourly]` with `file`, `zone` and `basis` is optional.
        key: catalogue name, or the file's stem.
        folder: where relative paths start.
    """
    hourly = None
    if table.has("hourly"):
        section = table.table("hourly")
        hourly = HourlySource(
            path=folder / section.text("file"),
            zone=section.text("zone") if section.has("zone") else None,
            basis=section.text("basis", GRID_BASES) if section.has("basis") else None,
        )
    rows = tuple(
        IntensityFact(
            basis=row.text("basis", SITE_BASES),
            year=row.integer("year", 1990, 2100) if row.has("year") else None,
            gco2e_per_kwh=row.as_fact(facts.INTENSITY, also=("basis", "year")),
        )
        for row in table.tables("intensity")
    )
    if not rows and hourly is None:
        raise table.error("intensity is missing; give at least one annual average, or an [hourly] series")
    return Site(
        key=key,
        zone=table.text("zone"),
        name=table.text("name"),
        intensities=rows,
        pue=table.fact("pue", facts.PUE),
        electricity_usd_per_kwh=table.fact("electricity_usd_per_kwh", facts.ELECTRICITY_PRICE),
        hourly=hourly,
        note=table.text("note", default=" ").strip(),
    )

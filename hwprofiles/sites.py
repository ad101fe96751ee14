"""Places as facts: how clean the electricity of a zone is by whom, when and on which basis; PUE; what a kWh costs."""

import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final

from afterwatt.hwprofiles import facts
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.facts import Fact, merge_facts
from afterwatt.hwprofiles.grid import GRID_BASES, HourlyGrid
from afterwatt.hwprofiles.tables import DATA_DIR, Table, read_fields

SITE_BASES: Final = ("lifecycle", "direct", "unstated")
"""Bases of annual averages. `unstated`: the source does not say; kept and shown, never mixed with the others."""

ZONES_FILE: Final = DATA_DIR / "zones.toml"
"""What other publishers call the zones."""

MIXES: Final = ("consumption", "unstated", "production")
"""What electricity an average is of: what a zone uses, imports and exports counted, or what its own plants make. Most
preferred first. Switzerland's plants emit 35 g/kWh (2023), its sockets 115 (2022)."""

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
        mix: one of `MIXES`.
    """

    basis: str
    year: int | None
    gco2e_per_kwh: Fact
    mix: str = field(default=MIXES[1], compare=False)  # it orders the rows of a site; the order is compared


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
        intensities: all published averages; the first of each basis is the one that counts (see `average`).
        pue: facility power over computer power.
        electricity_usd_per_kwh: what a kWh costs.
        hourly: an hourly series to use instead of the average, if the site's file names one.
        note: what to know about it.
    """

    key: str
    zone: str
    name: str
    intensities: tuple[IntensityFact, ...]
    pue: Annotated[Fact, facts.PUE]
    electricity_usd_per_kwh: Annotated[Fact, facts.ELECTRICITY_PRICE]
    hourly: HourlySource | None = None
    note: str = ""

    @property
    def codes(self) -> tuple[str, ...]:
        """Return all that publishers call the zone; EIA leaves out the region from names such as US-CAL-CISO."""
        short = (self.zone.rpartition("-")[2],) if self.zone.startswith("US-") else ()
        return (self.zone, *short, *_other_codes().get(self.zone, ()))

    @property
    def bases(self) -> tuple[str, ...]:
        """Return the bases for which there is an average."""
        present = {row.basis for row in self.intensities}
        return tuple(basis for basis in SITE_BASES if basis in present)

    def average(self, basis: str = "lifecycle") -> IntensityFact:
        """Return the newest annual average of one basis, with an interval over the sources that disagree.

        Averages of the electricity that is used come before those of what is made there, however new (`MIXES`). Then
        comes the newest year, then the order of the file. The interval spans all rows of the same basis, of either mix,
        that are of that year or the one before or name none, and reaches at least `LEAST_INTERVAL_FRAC` to either side.

        Raises:
            HardwareError: the site has no average of that basis.
        """
        rows = [row for row in self.intensities if row.basis == basis]
        if not rows:
            raise HardwareError(f"site {self.key} has no {basis} intensity; it has {', '.join(self.bases) or 'none'}")
        centre, newest = rows[0], rows[0].year or 0
        others = [row for row in rows[1:] if row.year is None or newest - 1 <= row.year <= newest]
        merged = merge_facts([centre.gco2e_per_kwh, *(row.gco2e_per_kwh for row in others)])
        return replace(centre, gco2e_per_kwh=merged.widened(LEAST_INTERVAL_FRAC))

    def intensity_gco2e_per_kwh(self, basis: str = "lifecycle") -> Fact:
        """Return the value of `average`."""
        return self.average(basis).gco2e_per_kwh

    def hourly_grid(self, repeat_year: bool = False) -> HourlyGrid | None:
        """Return the series that the site's file names, or None if it names none."""
        if self.hourly is None:
            return None
        from afterwatt.hwprofiles.gridfiles import load_grid

        hourly = self.hourly
        return load_grid(hourly.path, hourly.zone, hourly.basis, repeat_year=repeat_year, codes=self.codes)


@functools.cache
def _other_codes() -> Mapping[str, tuple[str, ...]]:
    with ZONES_FILE.open("rb") as stream:
        return {zone: tuple(codes) for zone, codes in tomllib.load(stream).items()}


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
            gco2e_per_kwh=row.as_fact(facts.INTENSITY, also=("basis", "year", "mix")),
            mix=row.text("mix", MIXES) if row.has("mix") else row.of_source("mix", MIXES) or MIXES[1],
        )
        for row in table.tables("intensity")
    )
    if not rows and hourly is None:
        raise table.error("intensity is missing; give at least one annual average, or an [hourly] series")
    return read_fields(table, Site, key=key, intensities=_preferred_first(rows), hourly=hourly)


def _preferred_first(rows: Sequence[IntensityFact]) -> tuple[IntensityFact, ...]:
    """Put the row of each basis that counts before its others; the rest stays as it is in the file."""
    ordered = list(rows)
    for basis in SITE_BASES:
        places = [place for place, row in enumerate(rows) if row.basis == basis]
        if not places:
            continue
        first = min(places, key=lambda place: (MIXES.index(rows[place].mix), -(rows[place].year or 0)))
        order = [first, *(place for place in places if place != first)]
        for place, source in zip(places, order, strict=True):
            ordered[place] = rows[source]
    return tuple(ordered)

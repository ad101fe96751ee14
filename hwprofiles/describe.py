"""Profiles as rows for people: what `hw list` and `hw show` print, every number with its provenance."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from afterwatt.hwprofiles import catalogue
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.embodied import EmbodiedFact
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.hosts import Host
from afterwatt.hwprofiles.links import Link
from afterwatt.hwprofiles.sites import HourlySource, IntensityFact, Site
from afterwatt.hwprofiles.storage import Storage
from afterwatt.hwprofiles.units import BYTES_PER_GIB


class Row(NamedTuple):
    """One line of a profile.

    Attributes:
        field: name as in the TOML; `flops_per_s.fp16` for a member of a table.
        value: a `Fact` (with `low`, `high` and `note`), or a plain value that needs no source.
        unit: unit of the value in words; empty where there is none.
        kind: kind of the fact; empty for a plain value.
        source: where it comes from; empty for a plain value.
        checked: ISO date; empty for a plain value.
        of: what electricity an intensity is of, one of `sites.MIXES`; empty for anything else.
    """

    field: str
    value: Fact | str | int
    unit: str
    kind: str
    source: str
    checked: str
    of: str = ""


class CatalogueRow(NamedTuple):
    """One line of the list of all profiles: noun (`device`, `host`, ...), key, full name, what tells it apart."""

    noun: str
    key: str
    name: str
    summary: str


_UNITS: Final = (
    ("gco2e_per_kwh", "gCO2e/kWh"),
    ("gco2e_per_byte", "gCO2e/byte"),
    ("usd_per_kwh", "USD/kWh"),
    ("usd_per_byte", "USD/byte"),
    ("w_per_byte", "W/byte"),
    ("j_per_byte", "J/byte"),
    ("bytes_per_s", "bytes/s"),
    ("flops_per_s", "FLOP/s"),
    ("read_per_s", "reads/s"),
    ("gco2e", "gCO2e"),
    ("bytes", "bytes"),
    ("frac", "fraction"),
    ("psu_efficiency", "fraction"),
    ("usd", "USD"),
    ("mm2", "mm2"),
    ("nm", "nm"),
    ("pue", "ratio"),
    ("_w", "W"),
    ("_s", "s"),
)


def unit_of(field: str) -> str:
    """Return the unit that a field's suffix stands for; empty for a field without one."""
    return next((unit for suffix, unit in _UNITS if field.endswith(suffix)), "")


def describe_profile(profile: Device | Host | Link | Site | Storage) -> Iterator[Row]:
    """Yield all facts of a profile that is loaded already."""
    for field in dataclasses.fields(profile):
        yield from _field_rows(field.name, getattr(profile, field.name))


def _field_rows(name: str, value: object) -> Iterator[Row]:
    if value is None or value == () or value == "":
        return
    if isinstance(value, Fact):
        yield _fact_row(name, value, unit_of(name))
    elif isinstance(value, Mapping):
        for member, fact in value.items():
            yield _fact_row(f"{name}.{member}", fact, unit_of(name))
    elif isinstance(value, HourlySource):
        yield Row(name, str(value.path), "", "", "", "")
    elif isinstance(value, tuple):
        yield from _list_rows(name, value)
    elif isinstance(value, bool):
        yield Row(name, "yes" if value else "no", "", "", "", "")
    elif isinstance(value, str | int):
        yield Row(name, value, "", "", "", "")
    else:
        raise TypeError(f"field {name} is a {type(value).__name__}, which has no row")


def _list_rows(name: str, items: Sequence[object]) -> Iterator[Row]:
    plain = [item for item in items if isinstance(item, str)]
    if plain:
        yield Row(name, ", ".join(plain), "", "", "", "")
    for item in items:
        if isinstance(item, EmbodiedFact):
            part = f".{item.part}" if item.part not in ("card", "ssd") else ""
            yield _fact_row(f"{name}.{item.method}{part}", item.gco2e, unit_of(name))
        elif isinstance(item, IntensityFact):
            year = f".{item.year}" if item.year is not None else ""
            row = _fact_row(f"intensity.{item.basis}{year}", item.gco2e_per_kwh, "gCO2e/kWh")
            yield row._replace(of=item.mix)


def _fact_row(name: str, fact: Fact, unit: str) -> Row:
    return Row(name, fact, unit, fact.kind, fact.source, fact.checked)


def describe_catalogue() -> list[CatalogueRow]:
    """Return one line for every shipped device, host, disk, link and site."""
    rows = [_device_line(catalogue.load_device(key)) for key in catalogue.device_names()]
    rows += [_host_line(catalogue.load_host(key)) for key in catalogue.host_names()]
    for key in catalogue.storage_names():
        disk = catalogue.load_storage(key)
        rows.append(CatalogueRow("storage", key, disk.name, f"reads {disk.read_bytes_per_s / 1e9:.2g} GB/s"))
    for key in catalogue.link_names():
        link = catalogue.load_link(key)
        rows.append(CatalogueRow("link", key, link.name, f"{link.bytes_per_s / 1e9:.4g} GB/s each way"))
    for key in catalogue.site_names():
        site = catalogue.load_site(key)
        average = site.average(site.bases[0])
        year = "year not stated" if average.year is None else str(average.year)
        line = f"{average.gco2e_per_kwh:.0f} gCO2e/kWh ({average.basis}, {average.mix}, {year})"
        rows.append(CatalogueRow("site", key, site.name, line))
    return rows


def _device_line(device: Device) -> CatalogueRow:
    aliases = [alias for alias, key in catalogue.ALIASES.items() if key == device.key]
    summary = (
        f"{device.year}, {device.memory_bytes / BYTES_PER_GIB:g} GiB {device.memory_type}, "
        f"{device.mem_bandwidth_bytes_per_s / 1e9:.4g} GB/s, {device.tdp_w:g} W"
    )
    return CatalogueRow(
        "device", device.key, device.name, summary + (f"; also {', '.join(aliases)}" if aliases else "")
    )


def _host_line(host: Host) -> CatalogueRow:
    summary = f"{host.cards} x {'/'.join(host.slots)} gen {host.pcie_gen}, {host.dram_bytes / BYTES_PER_GIB:g} GiB"
    return CatalogueRow("host", host.key, host.name, summary)

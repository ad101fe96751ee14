"""`afterwatt hw`: hardware profiles, every number with where it comes from."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from afterwatt.cli import complete, flags
from afterwatt.cli.output import print_json
from afterwatt.studies.errors import OptionError, near

if TYPE_CHECKING:
    from afterwatt.hwprofiles.describe import CatalogueRow, Row
    from afterwatt.hwprofiles.devices import Device

KINDS: Final[Mapping[str, str]] = {
    "gpus": "device",
    "hosts": "host",
    "storage": "storage",
    "links": "link",
    "sites": "site",
}
"""Word of --kind -> noun of the catalogue."""
_TRUST: Final = ("datasheet", "measured", "fitted", "assumed")


def list_profiles(
    kind: Annotated[str, flags.opt("KIND", "gpus, hosts, storage, links, sites or all.")] = "gpus",
    json: flags.ListJson = False,
) -> None:
    """List the profiles that ship: GPUs, hosts, disks, links, sites."""
    from afterwatt.hwprofiles import describe_catalogue

    if kind not in {*KINDS, "all"}:
        raise OptionError(f"--kind {kind!r} is unknown{near(kind, [*KINDS, 'all'])}")
    rows = [row for row in describe_catalogue() if kind == "all" or row.noun == KINDS[kind]]
    if json:
        print_json([row._asdict() | {"facts": _trust_of(row)} for row in rows])
    elif kind == "gpus":
        _print_gpus([row.key for row in rows])
    else:
        _print_rows(rows)


def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", autocompletion=complete.profile, help="A name of `hw list`, or a .toml."),
    ],
    kind: Annotated[str, flags.opt("KIND", "What a .toml describes: gpus, hosts, ... [gpus]")] = "gpus",
    json: flags.ListJson = False,
) -> None:
    """Print a profile: every number with its source and date."""
    rows = describe(name, kind)
    if json:
        print_json([_row_json(row) for row in rows])
    else:
        _print_profile(rows)


def describe(name: str, kind: str = "gpus") -> list["Row"]:
    """Give all rows of a profile of whatever kind.

    Args:
        name: a name of the catalogue or an alias; or the path of a TOML.
        kind: what a TOML describes.

    Raises:
        HardwareError: nothing of that name, or a file that is wrong.
    """
    from afterwatt.hwprofiles import ALIASES, catalogue
    from afterwatt.hwprofiles.describe import describe_profile
    from afterwatt.hwprofiles.errors import unknown_name

    loaders: dict[str, tuple[Sequence[str], Callable[[str], Any]]] = {
        "gpus": ((*catalogue.device_names(), *ALIASES), catalogue.load_device),
        "hosts": (catalogue.host_names(), catalogue.load_host),
        "storage": (catalogue.storage_names(), catalogue.load_storage),
        "links": (catalogue.link_names(), catalogue.load_link),
        "sites": (catalogue.site_names(), catalogue.load_site),
    }
    if kind not in loaders:
        raise OptionError(f"--kind {kind!r} is unknown{near(kind, list(loaders))}")
    if name.endswith(".toml"):
        return list(describe_profile(loaders[kind][1](name)))
    for names, load in loaders.values():
        if name in names:
            return list(describe_profile(load(name)))
    raise unknown_name("profile", name, [known for names, _ in loaders.values() for known in names], limit=40)


def _print_gpus(keys: Sequence[str]) -> None:
    from afterwatt.cli.tables import Column, print_table
    from afterwatt.hwprofiles import load_device

    devices = sorted(map(load_device, keys), key=lambda device: (device.year, device.name))
    columns = [Column("name", folds=False), Column("card", folds=False, spare=True), Column("year")]
    columns += [Column(head, right=True) for head in ("GiB", "GB/s", "fp16", "fp32", "W", "used $")]
    note = (
        "fp16 and fp32: peak TFLOP/s of arithmetic the card has (none: stored so, computed in fp32). Used prices are "
        "assumptions. `afterwatt hw show NAME` gives every number's source; --kind hosts, storage, links, sites, all."
    )
    print_table(
        [*columns, Column("facts", folds=False)], [_gpu_row(device) for device in devices], note=f"{note} {_LEGEND}"
    )


_LEGEND: Final = "facts: d from a datasheet, m measured, f fitted, a assumed."


def _gpu_row(device: "Device") -> list[str]:
    from afterwatt.hwprofiles import ALIASES
    from afterwatt.reports.format import number

    names = [device.key, *(alias for alias, key in ALIASES.items() if key == device.key)]
    rates = [number(rate / 1e12) if (rate := device.flops_per_s.get(form)) else "none" for form in ("fp16", "fp32")]
    used = "–" if device.price_used_usd is None else f"{device.price_used_usd:,.0f}"
    from afterwatt.hwprofiles.describe import describe_profile

    return [
        min(names, key=len),
        device.name,
        str(device.year),
        f"{device.memory_bytes / 2**30:g}",
        f"{device.mem_bandwidth_bytes_per_s / 1e9:,.0f}",
        *rates,
        f"{device.tdp_w:g}",
        used,
        _short(_count_kinds(list(describe_profile(device)))),
    ]


def _print_rows(rows: Sequence["CatalogueRow"]) -> None:
    from afterwatt.cli.tables import Column, print_table

    columns = [Column("name", folds=False), Column("what"), Column(""), Column("facts", folds=False)]
    print_table(columns, [[row.key, row.name, row.summary, _short(_trust_of(row))] for row in rows], note=_LEGEND)


def _trust_of(row: "CatalogueRow") -> dict[str, int]:
    """Count a profile's numbers by kind."""
    kinds = {noun: kind for kind, noun in KINDS.items()}
    return _count_kinds(describe(row.key, kinds[row.noun]))


def _count_kinds(rows: Sequence["Row"]) -> dict[str, int]:
    counts = Counter(row.kind for row in rows if row.kind)
    return {kind: counts[kind] for kind in _TRUST if counts[kind]}


def _short(counts: Mapping[str, int]) -> str:
    return " ".join(f"{times}{kind[0]}" for kind, times in counts.items())


def _print_profile(rows: Sequence["Row"]) -> None:
    from afterwatt.cli.tables import Column, Footnotes, print_table

    sources = Footnotes()
    plain = {row.field: str(row.value) for row in rows if not row.kind}
    cells = []
    for row in rows:
        if row.field in {"key", "name", "note"}:
            continue
        mark = sources.cite(f"{row.source} ({row.checked})") if row.source else ""
        cells.append([row.field, _value(row) + (f", {row.of}" if row.of else ""), row.kind, mark])
    columns = [Column("", folds=False), Column("value"), Column("kind", folds=False), Column("from", folds=False)]
    title = f"{plain.get('key', '')}: {plain.get('name', '')}".strip(": ")
    print_table(columns, cells, title=title, note=plain.get("note"))
    notes = [[row.field, note] for row in rows if (note := getattr(row.value, "note", ""))]
    print_table([Column("", folds=False), Column("note")], notes, sources=sources.texts)


def _value(row: "Row") -> str:
    """Write a value with its unit and interval: `57 W (50 to 65)`."""
    from afterwatt.reports.format import duration, prefix_of

    if isinstance(row.value, str | int):
        return str(row.value)
    value, low, high = float(row.value), row.value.low, row.value.high
    if row.unit == "s":
        ends = "" if low is None or high is None else f" ({duration(low)} to {duration(high)})"
        return duration(value) + ends
    factor, unit = 1.0, row.unit
    if row.unit in {"bytes", "bytes/s", "FLOP/s", "gCO2e"}:
        factor, unit = prefix_of(value, row.unit.replace("bytes", "B").replace("gCO2e", "g"))
        unit += "CO2e" if row.unit == "gCO2e" else ""
    ends = "" if low is None or high is None else f" ({_short_number(low / factor)} to {_short_number(high / factor)})"
    return f"{_short_number(value / factor)} {unit}{ends}".replace(" fraction", "").replace(" ratio", "")


def _short_number(value: float) -> str:
    """Write four digits at most, and no zeros behind the point that say nothing."""
    from afterwatt.reports.format import number

    text = number(value, 4)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def _row_json(row: "Row") -> dict[str, Any]:
    value = row.value if isinstance(row.value, str | int) else float(row.value)
    interval = {name: getattr(row.value, name, None) for name in ("low", "high")}
    return {
        "field": row.field,
        "value": value,
        **interval,
        "unit": row.unit or None,
        "of": row.of or None,
        "kind": row.kind or None,
        "source": row.source or None,
        "checked": row.checked or None,
        "note": getattr(row.value, "note", "") or None,
    }


COMMANDS: Final[tuple[str, Mapping[str, Callable[..., Any]]]] = (
    "Look at hardware profiles and where their numbers come from.",
    {"list": list_profiles, "show": show},
)

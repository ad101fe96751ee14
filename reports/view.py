"""One run as the page shows it: three cards, a few tables, provenance. Text only; the template places it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from afterwatt.reports.entry import IN_WORDS, SHARE_WORDS, Entry
from afterwatt.reports.format import (
    UNKNOWN,
    brief,
    count,
    duration,
    energy,
    grams,
    interval,
    listing,
    number,
    percent,
    quantity,
    setting,
    usd,
)
from afterwatt.reports.notices import MODELLED, NOT_MODELLED
from afterwatt.reports.schema import Energy, Interval, Stats, Summary
from afterwatt.reports.trust import ranges

LATENCY_ROWS = {
    "ttft_s": "Time to first token",
    "tpot_s": "Time per output token",
    "itl_s": "Inter-token latency",
    "e2e_s": "End to end",
    "longest_stall_s": "Longest stall of a request",
}


class Headline(NamedTuple):
    """A headline: one big number, what it is, and a few lines under it; ``quantiles`` are rows of p50, p90 and p99."""

    kind: str
    title: str
    big: str
    what: str
    rows: list[tuple[str, str]]
    quantiles: Sequence[Sequence[str]] = ()


class TextTable(NamedTuple):
    """A table of text; the first column names the row, a line break starts a smaller second line.

    ``marked`` holds (row, column) of the cells to mark, as ``best`` or as ``other``.
    """

    caption: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""
    marked: frozenset[tuple[int, int]] = frozenset()
    mark: str = "best"


def co2e(block: Interval | None) -> str:
    """Write grams of CO2e with their interval."""
    text = interval(block.model_dump() if block else None, "g")
    return text if text == UNKNOWN else f"{text}CO₂e"


def cards(entry: Entry) -> list[Headline]:
    """Say what users feel, what the hardware does and what the planet pays."""
    return [_feel(entry), _does(entry), _pays(entry)]


def sentence(entry: Entry) -> str:
    """Say the whole run in one or two sentences."""
    summary, tokens = entry.summary, entry.served.output_tokens
    if summary.requests.finished == 0:
        return "No request was finished."
    told = f"Nine in ten requests wait no longer than {duration(summary.ttft_s.p90)} for the first token"
    if summary.tpot_s.p90 is not None:
        told += f" and {duration(summary.tpot_s.p90)} on average for each one after it"
    parts = []
    if summary.energy_j.total is not None and tokens:
        parts.append(f"{energy(summary.energy_j.total / tokens)} of energy")
    if summary.sci.per_output_token_gco2e.p50 is not None:
        parts.append(f"{grams(summary.sci.per_output_token_gco2e.p50)} of CO₂e")
    return f"{told}. An output token takes {listing(parts)}." if parts else f"{told}."


def _feel(entry: Entry) -> Headline:
    summary, slo = entry.summary, entry.run.manifest.slo()
    quantiles = [
        [name, *(brief(value) for value in (stats.p50, stats.p90, stats.p99))]
        for name, stats in (
            ("first token", summary.ttft_s),
            ("per token", summary.tpot_s),
            ("whole answer", summary.e2e_s),
        )
    ]
    requests = summary.requests
    rows = [("finished", f"{count(requests.finished)} of {count(requests.arrived)}")]
    if slo is None or entry.attainment_frac is None:
        rows.append(("service level", "none was asked for"))
        what = "or less to the first token, nine times in ten"
        return Headline("feel", "What users feel", duration(summary.ttft_s.p90), what, rows, quantiles)
    limits = ", ".join(
        f"{name.removesuffix('_s').upper()} ≤ {setting(limit)}" for name, limit in slo.thresholds().items()
    )
    rows.append(("service level", limits))
    what = "of requests served within the service level"
    return Headline("feel", "What users feel", percent(entry.attainment_frac), what, rows, quantiles)


def _does(entry: Entry) -> Headline:
    summary, tokens = entry.summary, entry.served.output_tokens
    total_j, length_s = summary.energy_j.total, summary.duration_s
    busy = _busy_frac(entry)
    rows = [
        ("load, of its capacity", percent(summary.load.offered_frac)),
        ("GPUs at work", percent(busy)),
        ("energy per output token", energy(total_j / tokens) if total_j is not None and tokens else UNKNOWN),
        ("energy in all", energy(total_j)),
        *at_rest(summary.energy_j),
        ("length of the run", duration(length_s)),
    ]
    big = number(summary.throughput.output_tokens_per_s)
    return Headline("does", "What the hardware does", big, "output tokens per second", rows)


def at_rest(block: Energy) -> list[tuple[str, str]]:
    """Say which share of the energy was drawn at rest: on and idle, and off in reserved time where there is any."""
    rows = [("of this idle", percent(block.idle / block.total) if block.idle is not None and block.total else UNKNOWN)]
    off_j = block.by_state.get("off")
    return [*rows, ("of this switched off", percent(off_j / block.total))] if off_j and block.total else rows


def _busy_frac(entry: Entry) -> float | None:
    length = entry.run.column("timeline", "interval_s").sum()
    busy = float(1.0 - entry.run.column("timeline", "idle_s").sum() / length) if length else np.nan
    return busy if np.isfinite(busy) else None


def _pays(entry: Entry) -> Headline:
    summary = entry.summary
    carbon, sci = summary.carbon_gco2e, summary.sci
    share = None
    if carbon.operational.p50 is not None and carbon.total.p50:
        share = min(1.0, carbon.operational.p50 / carbon.total.p50)
    rows = [
        (f"per output token{_as_counted(entry)}", co2e(sci.per_output_token_gco2e)),
        *other_share_row(entry),
        ("per token within the SLO", co2e(sci.per_slo_met_token_gco2e)),
        ("whole run", co2e(carbon.total)),
        ("of this electricity", percent(share, 2)),
        ("embodied counted by", f"{carbon.embodied_method or UNKNOWN}, {carbon.allocation or UNKNOWN}"),
        ("cost per million tokens", usd(summary.cost_usd.per_million_output_tokens)),
    ]
    per = sci.per_request_gco2e
    big = f"{grams(per.p50)}CO₂e" if per.p50 is not None else UNKNOWN
    within = f", {co2e(per).split('(')[1].split(')')[0]} within the draws" if "(" in co2e(per) else ""
    return Headline("pays", "What the planet pays", big, f"per request{within}", rows)


def _as_counted(entry: Entry) -> str:
    return f", {SHARE_WORDS[entry.host_share]}" if entry.host_share in SHARE_WORDS and other_share_row(entry) else ""


def other_share_row(entry: Entry) -> list[tuple[str, str]]:
    """Give carbon per token under the other host share; nothing where the run fills its servers, or it is unknown."""
    other = entry.summary.other_host_share
    if other is None or other.energy_j == entry.summary.energy_j.total:
        return []
    return [(f"per output token, {SHARE_WORDS[other.host_share]}", co2e(other.sci.per_output_token_gco2e))]


def latency_table(entry: Entry) -> TextTable:
    """List every latency's mean, quantiles and maximum."""
    slo = entry.run.manifest.slo()
    limits = slo.thresholds() if slo else {}
    rows = []
    for name, title in LATENCY_ROWS.items():
        stats: Stats = getattr(entry.summary, name)
        values = [duration(value) for value in (stats.mean, stats.p50, stats.p90, stats.p99, stats.max)]
        rows.append([title, *values, setting(limits[name]) if name in limits else UNKNOWN])
    note = "Over finished requests after the warm-up; inter-token latency over their tokens, to 0.1 %."
    return TextTable("Latency", ["", "mean", "p50", "p90", "p99", "max", "SLO"], rows, note)


def trust_table(entry: Entry) -> TextTable | None:
    """List what the error of the times leaves of each metric; None where no range was computed."""
    rows = [list(row) for row in ranges(entry.summary)]
    note = (
        "From two further runs that take every iteration as short, and as long, as nine measured times in ten allow; "
        "what users feel follows through the queues. Joules also by the error of power. Workload, prices and carbon "
        "are not part of it."
    )
    return TextTable("How far to trust it", ["", "predicted", "90 % range"], rows, note) if rows else None


def unit_table(entry: Entry) -> TextTable:
    """List carbon, energy and cost per functional unit."""
    summary, served = entry.summary, entry.served
    total_j, total_usd = summary.energy_j.total, summary.cost_usd.total
    rows = []
    for name, units, block in (
        ("request", served.requests, summary.sci.per_request_gco2e),
        ("output token", served.output_tokens, summary.sci.per_output_token_gco2e),
        ("output token within the SLO", served.slo_met_tokens, summary.sci.per_slo_met_token_gco2e),
    ):
        each_j = total_j / units if total_j is not None and units else None
        each_usd = total_usd / units if total_usd is not None and units else None
        rows.append([name, count(units), co2e(block), energy(each_j), usd(each_usd)])
    note = (
        "Everything the run used, idle time and warm-up included, shared among what it finished: "
        "(O + M) per R, as in the software carbon intensity (ISO/IEC 21031)."
    )
    return TextTable("Per unit of service", ["unit", "how many", "carbon (p5–p95)", "energy", "cost"], rows, note)


def cost_table(summary: Summary) -> TextTable:
    """List what the run costs."""
    cost = summary.cost_usd
    rows = [
        ["hardware, by reserved time", usd(cost.hardware)],
        ["electricity", usd(cost.electricity)],
        ["total", usd(cost.total)],
        ["per million output tokens", usd(cost.per_million_output_tokens)],
    ]
    return TextTable("Cost", ["", "US$"], rows)


def bytes_table(summary: Summary) -> TextTable:
    """List the bytes moved over each path."""
    names = {
        "hbm": "GPU memory",
        "dram_to_hbm": "host memory to GPU",
        "ssd_to_dram": "disk to host memory",
        "link": "between GPUs",
    }
    moved = summary.bytes_moved.model_dump()
    return TextTable(
        "Bytes moved", ["path", "bytes"], [[names[key], quantity(value, "B")] for key, value in moved.items()]
    )


def facts_table(entry: Entry) -> TextTable:
    """List the facts the run stood on, with their kind and source."""
    rows = [
        [fact.field, _value(fact.value, fact.unit), fact.kind or UNKNOWN, fact.source or UNKNOWN]
        for fact in entry.run.manifest.facts
    ]
    return TextTable("Facts used", ["fact", "value", "kind", "source"], rows)


_PREFIXED = {name: name for name in ("s", "J", "W", "g", "B", "B/s", "FLOP/s")} | {"bytes": "B", "bytes/s": "B/s"}


def _value(value: object, unit: str | None) -> str:
    """Write a fact: scaled where its unit takes a prefix, a whole number without unit (a year, a count) as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{_text(value)} {unit or ''}".strip()
    if unit in _PREFIXED:
        return quantity(float(value), _PREFIXED[unit], 4)
    if not unit:
        return f"{value:g}"
    return f"{number(float(value), 4)} {unit}"


def config_table(entry: Entry) -> TextTable:
    """List the resolved configuration, seed and versions."""
    manifest = entry.run.manifest
    rows = [[key, _text(value)] for key, value in _flat(manifest.config)]
    rows += [["seed", _text(manifest.seed)], ["start", manifest.start_utc or UNKNOWN]]
    rows += [[f"{name} (version)", version] for name, version in manifest.versions.items()]
    return TextTable("Configuration", ["", "value"], rows)


def profiles_table(entry: Entry) -> TextTable:
    """List the hash of every profile that was read."""
    rows = [[name, digest[:16]] for name, digest in entry.run.manifest.profiles.items()]
    return TextTable("Profiles", ["profile", "SHA-256 (first 16)"], rows, "The whole hashes are in manifest.json.")


def grounds(entry: Entry) -> list[str]:
    """Say on which grid, which lives and which duty cycle the carbon stands."""
    carbon, known = entry.summary.carbon_gco2e, entry.summary.breakeven
    lines = [f"Servers are counted {IN_WORDS[entry.host_share]}."] if entry.host_share in IN_WORDS else []
    if carbon.intensity_gco2e_per_kwh is not None:
        basis = f", {carbon.basis} basis" if carbon.basis else ""
        average = "average intensity (not marginal, no certificates)"
        lines.append(
            f"Electricity at {number(carbon.intensity_gco2e_per_kwh)} gCO₂e/kWh on average over the energy used"
            f"{basis}, location-based {'signal, no average' if carbon.basis == 'marginal' else average}."
        )
    places = filter(None, (entry.run.manifest.electricity(), entry.run.manifest.grid()))
    lines += [f"{said[0].upper()}{said[1:]}." for said in places]
    for noun, life in (known.lives if known else {}).items():
        before = f"acquired {duration(life.acquired_s)} old, " if life.acquired_s else "new, "
        owned = ", already owned" if life.owned else ""
        lines.append(f"The {noun}: {before}kept {duration(life.service_s)}{owned}.")
    if known and known.duty_frac is not None:
        rest = f", {known.between} in between" if known.between and known.duty_frac < 1 else ""
        lines.append(f"The run stands for {percent(known.duty_frac)} of the time reserved{rest}.")
    return lines


def glossary_table(entry: Entry) -> TextTable:
    """Explain the methods, allocations and host shares that the run was counted under, in the words of the ledger."""
    from afterwatt.hwprofiles.embodied import METHODS
    from afterwatt.hwprofiles.lives import ALLOCATIONS
    from afterwatt.hwprofiles.replicas import HOST_SHARES

    used = [word for place in range(3) for word in dict.fromkeys(choice[place] for choice in entry.choices)]
    words = METHODS | ALLOCATIONS | HOST_SHARES
    rows = [[name, words[name]] for name in used if name in words]
    return TextTable("Methods, allocations and host shares", ["name", "meaning"], rows)


def claims(entry: Entry) -> dict[str, list[str]]:
    """Say what is modelled and what is not; the manifest's own words come first."""
    manifest = entry.run.manifest
    return {
        "modelled": manifest.modelled or list(MODELLED),
        "not_modelled": manifest.not_modelled or list(NOT_MODELLED),
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            rows += _flat(item, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", item))
    return rows


def _text(value: object) -> str:
    if value is None:
        return UNKNOWN
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

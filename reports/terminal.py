"""What `simulate` prints: one table for one run or several, in 80 to 120 columns, plain when it is piped.

The same words and numbers as the page: both go through reports.format, reports.versus and reports.notices.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from afterwatt.reports.compare import contenders
from afterwatt.reports.entry import IN_WORDS, Entry, entries
from afterwatt.reports.format import (
    UNKNOWN,
    brief,
    count,
    energy,
    interval,
    listing,
    number,
    percent,
    quantity,
    setting,
    usd,
)
from afterwatt.reports.notices import Notice, notices
from afterwatt.reports.questions import Question, apart, questions
from afterwatt.reports.rundir import Run
from afterwatt.reports.schema import Stats
from afterwatt.reports.trust import interval_text, range_of, sentence
from afterwatt.reports.versus import METRICS, PER_TOKEN, best, standings
from afterwatt.reports.view import at_rest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GAP = 3
COST_COLUMN = "cost per million tokens"
LEVEL_STYLES = {"alarm": "bold red", "warn": "yellow", "info": "dim"}


class Line(NamedTuple):
    """One line of the table: what it is, how a run fills it, and the METRICS column that knows which end is better."""

    name: str
    read: Callable[[Entry], str]
    metric: str = ""


def _quantiles(stats: Stats) -> str:
    return " · ".join(brief(value) for value in (stats.p50, stats.p90, stats.p99))


def _carbon(name: str, whole: bool = True) -> Callable[[Entry], str]:
    """Give a reader of a block of the SCI, with its interval or without."""

    def read(entry: Entry) -> str:
        block = entry.band(name)
        return interval(block.model_dump(), "g") if whole else quantity(block.p50, "g")

    return read


def _requests(entry: Entry) -> str:
    requests = entry.summary.requests
    return f"{count(requests.finished)} of {count(requests.arrived)}"


def _lost(entry: Entry) -> str:
    requests = entry.summary.requests
    return f"{count(requests.rejected)} · {count(requests.unfinished)}"


def _slo(entry: Entry) -> str:
    slo = entry.run.manifest.slo()
    return percent(entry.attainment_frac) if slo and entry.attainment_frac is not None else UNKNOWN


def _load(entry: Entry) -> str:
    load = entry.summary.load
    if load.offered_frac is None:
        return UNKNOWN
    need = f", {load.devices_needed} needed" if load.offered_frac > 1 and load.devices_needed else ""
    return f"{percent(load.offered_frac)}{need}"


def _other_shares(read: Callable[[Entry], str]) -> list[Line]:
    """Give lines that read a run by the host share that it is not shown by, as far as that differs."""

    def reader(host_share: str) -> Callable[[Entry], str]:
        def told(entry: Entry) -> str:
            way = entry.counted or entry.choice
            shared = way is not None and way.host_share != host_share and not entry.fills_its_hosts
            return read(replace(entry, counted=way._replace(host_share=host_share))) if way and shared else UNKNOWN

        return told

    return [Line(f"  {words}", reader(share)) for share, words in IN_WORDS.items()]


def _energy_per_token(entry: Entry) -> str:
    return energy(entry.energy_per_token_j)


def _at_rest(place: int) -> Callable[[Entry], str]:
    """Give a reader of the share of the energy that was drawn idle (0) or switched off (1)."""
    return lambda entry: ([text for _, text in at_rest(entry.summary.energy_j)] + [UNKNOWN])[place]


def _within(metric: str) -> Callable[[Entry], str]:
    """Give a reader of the range that the error of the times leaves of a latency's 90th percentile."""
    return lambda entry: range_of(entry.summary.prediction, metric, "p90")


def _cost(entry: Entry) -> str:
    return usd(None if entry.cost is None else entry.cost.per_million_output_tokens)


def _basis(entry: Entry) -> str:
    said = entry.summary.prediction
    return f"{said.basis} ({said.stack})" if said is not None else UNKNOWN


def _split(entry: Entry) -> str:
    carbon, way = entry.summary.carbon_gco2e, entry.counted or entry.choice
    operational, total = carbon.operational.p50, carbon.total.p50
    if way is not None and way != entry.choice:
        parts = entry.parts(way)
        operational, total = (float(np.median(grams)) for grams in (parts[0], parts[0] + parts[1]))
    return UNKNOWN if operational is None or not total else percent(min(1.0, operational / total), 2)


FINISHED = Line("finished", _requests)
LOST = Line("rejected · unfinished", _lost)
WITHIN_SLO = Line("within SLO", _slo, "within SLO")
STALL = Line("longest stall p99", lambda e: brief(e.summary.longest_stall_s.p99))
RATE = Line("output tokens/s", lambda e: number(e.summary.throughput.output_tokens_per_s), "tokens/s")
LOAD = Line("load, of its capacity", _load)
COST = Line("US$ per million tokens", _cost, COST_COLUMN)
ENERGY = Line("energy per token", _energy_per_token, "energy per token")
TAIL = (
    STALL,
    RATE,
    LOAD,
    ENERGY,
    *_other_shares(_energy_per_token),
    Line("of this idle", _at_rest(0)),
    Line("of this switched off", _at_rest(1)),
    Line("CO2e per request", _carbon("per_request_gco2e"), "carbon per request"),
    Line("CO2e per token", _carbon("per_output_token_gco2e"), PER_TOKEN),
    *_other_shares(_carbon("per_output_token_gco2e")),
    Line("CO2e per token within SLO", _carbon("per_slo_met_token_gco2e")),
    Line("of the CO2e, electricity", _split),
    COST,
    *_other_shares(_cost),
)
ONE = (
    FINISHED,
    LOST,
    WITHIN_SLO,
    Line("first token p50 · p90 · p99", lambda e: _quantiles(e.summary.ttft_s)),
    Line("  90 % range of p90", _within("ttft_s")),
    Line("per token p50 · p90 · p99", lambda e: _quantiles(e.summary.tpot_s)),
    Line("  90 % range of p90", _within("tpot_s")),
    Line("answer p50 · p90 · p99", lambda e: _quantiles(e.summary.e2e_s)),
    Line("  90 % range of p90", _within("e2e_s")),
    *TAIL,
)
"""The lines for one run."""
FEW = (
    FINISHED,
    LOST,
    WITHIN_SLO,
    Line("first token p50", lambda e: brief(e.summary.ttft_s.p50)),
    Line("first token p90", lambda e: brief(e.summary.ttft_s.p90), "TTFT p90"),
    Line("  its 90 % range", _within("ttft_s")),
    Line("first token p99", lambda e: brief(e.summary.ttft_s.p99)),
    Line("per token p50", lambda e: brief(e.summary.tpot_s.p50)),
    Line("per token p90", lambda e: brief(e.summary.tpot_s.p90), "TPOT p90"),
    Line("  its 90 % range", _within("tpot_s")),
    Line("answer p90", lambda e: brief(e.summary.e2e_s.p90), "answer p90"),
    Line("times known from", _basis),
    *TAIL,
)
"""The lines for a few runs, a column each."""
MANY = (
    WITHIN_SLO,
    Line("TTFT p90", lambda e: brief(e.summary.ttft_s.p90), "TTFT p90"),
    Line("TPOT p90", lambda e: brief(e.summary.tpot_s.p90), "TPOT p90"),
    Line("tokens/s", RATE.read, "tokens/s"),
    Line("load", lambda e: percent(e.summary.load.offered_frac)),
    Line("energy/token", _energy_per_token, "energy per token"),
    Line("CO2e/token", _carbon("per_output_token_gco2e"), PER_TOKEN),
    Line("$/M tokens", COST.read, COST_COLUMN),
)
"""The columns for many runs, a line each."""
MANY_NARROW = (
    Line("SLO", _slo, "within SLO"),
    *MANY[1:3],
    Line("load", lambda e: percent(e.summary.load.offered_frac, 2)),
    Line("J/token", _energy_per_token, "energy per token"),
    Line("CO2e/tok", _carbon("per_output_token_gco2e", whole=False), PER_TOKEN),
    Line("$/M tok", COST.read, COST_COLUMN),
)
"""The same for 80 columns."""
MANY_MEDIUM = tuple(
    Line(row.name, MANY_NARROW[5].read, row.metric) if row.name == "CO2e/token" else row for row in MANY
)
"""The same without intervals."""


def print_runs(runs: Sequence[Run], console: "Console | None" = None, report: Path | None = None) -> None:
    """Print the table of one run or several, what must be known of them, and where the report lies.

    Args:
        runs: finished run directories.
        console: where to; standard output if None. Colour and width follow the console: none when piped.
        report: the report's path, printed last.
    """
    from rich.console import Console

    console = console or default_console()
    assert isinstance(console, Console)
    parts = questions(entries(runs))
    group = [entry for part in parts for entry in part.entries]
    for line in _heading(group):
        console.print(line, style="bold", highlight=False, soft_wrap=True)
    console.print(_table(parts, console.width))
    said = list(_rankings(parts)) if len(group) > 1 else [_limits(group[0]), sentence(group[0].summary)]
    said += [interval_text([entry.summary for entry in group])]
    for line in filter(None, said):
        console.print(line, style="dim", highlight=False, markup=False)
    for grid in dict.fromkeys(filter(None, (entry.run.manifest.grid() for entry in group))):
        console.print(grid, style="dim", highlight=False, markup=False, soft_wrap=True)
    _print_notices(group, console)
    if report is not None:
        console.print(f"report: {report}", highlight=False, soft_wrap=True)


def default_console() -> "Console":
    """Give a console on standard output: as wide as the terminal, or 100 columns and plain when piped."""
    import sys

    from rich.console import Console

    if sys.stdout.isatty():
        return Console()
    return Console(width=100, no_color=True, force_terminal=False)


def _heading(group: Sequence[Entry]) -> list[str]:
    if len(group) > 1:
        shared = {entry.summary.model for entry in group}
        sites = list(dict.fromkeys(filter(None, (entry.run.manifest.electricity() for entry in group))))
        return [f"{len(group)} runs" + (f" of {shared.pop()}" if len(shared) == 1 else ""), *sites]
    summary = group[0].summary
    return [" · ".join(filter(None, (summary.hardware, summary.model, group[0].run.manifest.electricity())))]


def _rankings(parts: Sequence[Question]) -> Iterator[str]:
    """Say by which rule runs are ranked, which emit least, and whether the way of counting changes it."""
    yield apart(parts)
    for part in parts:
        if len(part.entries) > 1:
            whose = f"{part.said.partition(':')[0]}: " if part.said else ""
            yield f"{whose}* the best, or within 1 % of it. {contenders(part.entries).rule}"
            yield from standings(part.entries)


def _limits(entry: Entry) -> str | None:
    slo = entry.run.manifest.slo()
    if slo is None:
        return None
    names = [f"{name.removesuffix('_s').upper()} up to {setting(limit)}" for name, limit in slo.thresholds().items()]
    return f"SLO: {listing(names)}; a request longer than the model's context does not count against it."


def _table(parts: Sequence[Question], width: int) -> "Table":
    """Lay runs out as columns where they fit, and as lines where they do not."""
    from rich import box
    from rich.table import Table

    cells = _grid(parts, width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, GAP - 1), header_style="bold")
    for place, name in enumerate(cells[0]):
        table.add_column(name, justify="right" if place else "left", overflow="fold", no_wrap=place > 0)
    for line in cells[1:]:
        table.add_row(*line)
    return table


def _grid(parts: Sequence[Question], width: int) -> list[list[str]]:
    """Choose the fullest layout that fits the width."""
    one = sum(len(part.entries) for part in parts) == 1
    layouts = [_as_columns(parts, ONE if one else FEW)]
    if not one:
        layouts += [_as_lines(parts, rows) for rows in (MANY, MANY_MEDIUM, MANY_NARROW)]
    return next((cells for cells in layouts if _width(cells) <= width), layouts[-1])


def _width(cells: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + GAP for column in zip(*cells, strict=True)) - GAP


def _as_columns(parts: Sequence[Question], rows: Sequence[Line]) -> list[list[str]]:
    lines = [[row.name, *cells] for row in rows if (cells := _cells(parts, row))]
    return [["", *_labels(parts)], *lines]


def _as_lines(parts: Sequence[Question], rows: Sequence[Line]) -> list[list[str]]:
    columns = [["run", *_labels(parts)], *([row.name, *cells] for row in rows if (cells := _cells(parts, row)))]
    return [list(line) for line in zip(*columns, strict=True)]


def _labels(parts: Sequence[Question]) -> list[str]:
    return [entry.label for part in parts for entry in part.entries]


def _cells(parts: Sequence[Question], row: Line) -> list[str]:
    """Fill one line, the best of each question marked; nothing where no run knows it."""
    cells = []
    for part in parts:
        marked = _best(part.entries, row)
        texts = [row.read(entry) for entry in part.entries]
        cells += [f"*{text}" if place in marked else text for place, text in enumerate(texts)]
    return cells if set(cells) != {UNKNOWN} else []


def _best(group: Sequence[Entry], row: Line) -> set[int]:
    metric = next((metric for metric in METRICS if metric.name == row.metric), None)
    if metric is None or len(group) < 2:
        return set()
    return best(group, metric, contenders(group).entries)


def _print_notices(group: Sequence[Entry], console: "Console") -> None:
    """Print each notice once, with the runs of which it is true."""
    said: dict[Notice, list[str]] = {}
    for entry in group:
        for notice in notices(entry.summary, entry.run.manifest):
            said.setdefault(notice, []).append(entry.label)
    for notice, names in sorted(said.items(), key=lambda item: list(LEVEL_STYLES).index(item[0].level)):
        whose = "" if len(group) == 1 else ("all runs: " if len(names) == len(group) else f"{listing(names)}: ")
        console.print(
            f"{whose}{notice.title}. {notice.text}", style=LEVEL_STYLES[notice.level], highlight=False, markup=False
        )

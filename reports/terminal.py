"""What `simulate` prints: one table for one run or several, in 80 to 120 columns, plain when it is piped.

The same words and numbers as the page: both go through reports.format, reports.versus and reports.notices.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from afterwatt.reports.compare import Entry, contenders, entries
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
from afterwatt.reports.rundir import Run
from afterwatt.reports.schema import Stats
from afterwatt.reports.trust import range_of, sentence
from afterwatt.reports.versus import METRICS, best

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
        block = getattr(entry.summary.sci, name)
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


def _energy_per_token(entry: Entry) -> str:
    total_j, tokens = entry.summary.energy_j.total, entry.served.output_tokens
    return energy(total_j / tokens) if total_j is not None and tokens else UNKNOWN


def _idle(entry: Entry) -> str:
    block = entry.summary.energy_j
    return percent(block.idle / block.total) if block.idle is not None and block.total else UNKNOWN


def _within(metric: str) -> Callable[[Entry], str]:
    """Give a reader of the range that the error of the times leaves of a latency's 90th percentile."""
    return lambda entry: range_of(entry.summary.prediction, metric, "p90")


def _basis(entry: Entry) -> str:
    said = entry.summary.prediction
    return f"{said.basis} ({said.stack})" if said is not None else UNKNOWN


def _split(entry: Entry) -> str:
    carbon = entry.summary.carbon_gco2e
    if carbon.operational.p50 is None or not carbon.total.p50:
        return UNKNOWN
    return percent(min(1.0, carbon.operational.p50 / carbon.total.p50), 2)


FINISHED = Line("finished", _requests)
LOST = Line("rejected · unfinished", _lost)
WITHIN_SLO = Line("within SLO", _slo, "within SLO")
STALL = Line("longest stall p99", lambda e: brief(e.summary.longest_stall_s.p99))
RATE = Line("output tokens/s", lambda e: number(e.summary.throughput.output_tokens_per_s), "tokens/s")
LOAD = Line("load, of its capacity", _load)
COST = Line("US$ per million tokens", lambda e: usd(e.summary.cost_usd.per_million_output_tokens), COST_COLUMN)
ENERGY = Line("energy per token", _energy_per_token, "energy per token")
TAIL = (
    STALL,
    RATE,
    LOAD,
    ENERGY,
    Line("of this idle", _idle),
    Line("CO2e per request", _carbon("per_request_gco2e"), "carbon per request"),
    Line("CO2e per token", _carbon("per_output_token_gco2e"), "carbon per token"),
    Line("CO2e per token within SLO", _carbon("per_slo_met_token_gco2e")),
    Line("of the CO2e, electricity", _split),
    COST,
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
    Line("CO2e/token", _carbon("per_output_token_gco2e"), "carbon per token"),
    Line("$/M tokens", COST.read, COST_COLUMN),
)
"""The columns for many runs, a line each."""
MANY_NARROW = (
    Line("SLO", _slo, "within SLO"),
    *MANY[1:3],
    Line("load", lambda e: percent(e.summary.load.offered_frac, 2)),
    Line("J/token", _energy_per_token, "energy per token"),
    Line("CO2e/tok", _carbon("per_output_token_gco2e", whole=False), "carbon per token"),
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
    group = entries(runs)
    for line in _heading(group):
        console.print(line, style="bold", highlight=False, soft_wrap=True)
    console.print(_table(group, console.width))
    if len(group) > 1:
        console.print(f"* the best. {contenders(group).rule}", style="dim", highlight=False)
    else:
        for said in (_limits(group[0]), sentence(group[0].summary)):
            if said is not None:
                console.print(said, style="dim", highlight=False)
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
        return [f"{len(group)} runs" + (f" of {shared.pop()}" if len(shared) == 1 else "")]
    summary = group[0].summary
    parts = [summary.hardware, summary.model, *([f"site {summary.site}"] if summary.site else [])]
    return [" · ".join(parts)]


def _limits(entry: Entry) -> str | None:
    slo = entry.run.manifest.slo()
    if slo is None:
        return None
    names = [f"{name.removesuffix('_s').upper()} up to {setting(limit)}" for name, limit in slo.thresholds().items()]
    return f"SLO: {listing(names)}; a request longer than the model's context does not count against it."


def _table(group: Sequence[Entry], width: int) -> "Table":
    """Lay runs out as columns where they fit, and as lines where they do not."""
    from rich import box
    from rich.table import Table

    cells = _grid(group, width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, GAP - 1), header_style="bold")
    for place, name in enumerate(cells[0]):
        table.add_column(name, justify="right" if place else "left", overflow="fold", no_wrap=place > 0)
    for line in cells[1:]:
        table.add_row(*line)
    return table


def _grid(group: Sequence[Entry], width: int) -> list[list[str]]:
    """Choose the fullest layout that fits the width."""
    layouts = [_as_columns(group, ONE if len(group) == 1 else FEW)]
    if len(group) > 1:
        layouts += [_as_lines(group, rows) for rows in (MANY, MANY_MEDIUM, MANY_NARROW)]
    return next((cells for cells in layouts if _width(cells) <= width), layouts[-1])


def _width(cells: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + GAP for column in zip(*cells, strict=True)) - GAP


def _as_columns(group: Sequence[Entry], rows: Sequence[Line]) -> list[list[str]]:
    lines = [[row.name, *_cells(group, row)] for row in _known(rows, group)]
    return [["", *(entry.label for entry in group)], *lines]


def _as_lines(group: Sequence[Entry], rows: Sequence[Line]) -> list[list[str]]:
    rows = _known(rows, group)
    columns = [["run", *(entry.label for entry in group)], *([row.name, *_cells(group, row)] for row in rows)]
    return [list(line) for line in zip(*columns, strict=True)]


def _known(rows: Sequence[Line], group: Sequence[Entry]) -> list[Line]:
    """Leave out what no run knows."""
    return [row for row in rows if any(row.read(entry) != UNKNOWN for entry in group)]


def _cells(group: Sequence[Entry], row: Line) -> list[str]:
    marked = _best(group, row)
    return [f"*{row.read(entry)}" if place in marked else row.read(entry) for place, entry in enumerate(group)]


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

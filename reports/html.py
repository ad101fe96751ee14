"""The page: one self-contained HTML file from one run directory or several.

Nothing is fetched when it is opened (a content policy in the page forbids it): plotly.js, style and script are inlined
once each. The same runs give the same bytes.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from afterwatt.reports import versus, view
from afterwatt.reports.compare import common_choices, contenders, drawn_ways
from afterwatt.reports.entry import Choice, Entry, entries
from afterwatt.reports.errors import ReportError
from afterwatt.reports.figures import activity, breakeven, carbon, comparison, energy, latency, style, tiers
from afterwatt.reports.figures.style import Figure
from afterwatt.reports.files import write_whole
from afterwatt.reports.format import listing
from afterwatt.reports.notices import Notice, notices
from afterwatt.reports.questions import Question, apart, questions
from afterwatt.reports.rundir import Run
from afterwatt.reports.series import RunSeries
from afterwatt.reports.trust import interval_text, sentence

TEMPLATES = Path(__file__).parent / "templates"
_NOT_OURS: Final = re.compile(r"<(?!/?(?:b|br|i|extra)>)")
"""What plotly would take for markup and no figure of ours writes: a link in a label, say."""


def render(runs: Sequence[Run], beside: Path | None = None, left_out: Sequence[tuple[str, str]] = ()) -> str:
    """Give the page of one run, or of the comparison of several.

    Args:
        runs: finished run directories.
        beside: the folder in which the page will lie; runs with a page of their own are linked relative to it.
        left_out: label and reason of what was asked for beside them and could not be run.

    Raises:
        ReportError: there are no runs, or one of them is not as the contract says.
    """
    if not runs:
        raise ReportError("there is nothing to report; give at least one run directory")
    group = entries(runs)
    if len(group) == 1:
        return render_page("run.html.j2", run_context(group[0]))
    return render_page("comparison.html.j2", comparison_context(group, beside, left_out))


def write_report(runs: Sequence[Run], path: str | Path, left_out: Sequence[tuple[str, str]] = ()) -> Path:
    """Write the page to ``path``, whole or not at all, and give the path; errors as `write_whole`."""
    path = Path(path)
    write_whole(path, render(runs, path.parent, left_out))
    return path


def run_context(entry: Entry) -> dict[str, Any]:
    """Give what the page of one run shows."""
    summary, manifest = entry.summary, entry.run.manifest
    series, told = RunSeries(entry.run), notices(summary, manifest)
    return {
        "title": f"{summary.hardware} · {summary.model}",
        "subtitle": _subtitle(entry),
        "lead": view.sentence(entry),
        "notices": [notice for notice in told if notice.level != "info"],
        "footnotes": [notice.text for notice in told if notice.level == "info"],
        "cards": view.cards(entry),
        "latency": _there(*latency.distributions([entry])),
        "activity": _there(*activity.activity(entry.run, series), *tiers.tiers(series)),
        "power": _there(energy.power(series)),
        "energy": energy.shares(summary),
        "carbon": _there(carbon.split(entry), carbon.over_time(series), carbon.by_choice(entry)),
        "cost": [drawn] if (drawn := comparison.costs([entry])) else [],
        "grounds": view.grounds(entry),
        "interval": _subscripted(interval_text([summary])),
        "method_notes": summary.carbon_gco2e.notes,
        "glossary_table": view.glossary_table(entry),
        "latency_table": view.latency_table(entry),
        "trust": sentence(entry.summary),
        "trust_table": view.trust_table(entry),
        "unit_table": view.unit_table(entry),
        "cost_table": view.cost_table(summary),
        "bytes_table": view.bytes_table(summary),
        "facts_table": view.facts_table(entry),
        "config_table": view.config_table(entry),
        "profiles_table": view.profiles_table(entry),
        "claims": view.claims(entry),
        "quality": summary.quality,
        "thinning": f"{latency.THINNING} Over time, {series.rule()}.",
    }


def comparison_context(
    group: Sequence[Entry], beside: Path | None, left_out: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Give what the page of several runs shows: a part for each question that was asked."""
    parts = questions(group)
    group = [entry for part in parts for entry in part.entries]
    said = [told() for entry in group for told in (entry.run.manifest.electricity, entry.run.manifest.grid)]
    drawn = [entry for entry in group if entry.choices]
    return {
        "title": _title(group),
        "subtitle": _shared(group),
        "lead": apart(parts) or " ".join(versus.standings(parts[0].entries)[:2]),
        "alarms": [*_alarms(group), *_not_run(left_out)],
        "parts": [_part(part, number, beside) for number, part in enumerate(parts, 1)],
        "electricity": "; ".join(dict.fromkeys(filter(None, said))),
        "interval": _subscripted(interval_text([entry.summary for entry in group])),
        "claims": view.claims(group[0]),
        "glossary_table": view.glossary_table(drawn[0]) if drawn else None,
        "thinning": latency.THINNING,
    }


def _part(part: Question, number: int, beside: Path | None) -> dict[str, Any]:
    """Give what the page shows of the runs that were asked one question; figures are numbered from the second on."""
    group, suffix = part.entries, f"-{number}" if number > 1 else ""
    competing, rule = contenders(group)
    among = [entry for entry in competing if entry.choices]
    drawn, ways = drawn_ways(group)
    choices, headline = common_choices(drawn), ways[0] if ways else None
    figures = {
        "tradeoff": _there(
            *(
                figure
                for name in ("ttft_s", "e2e_s")
                for figure in _by_share(ways, partial(comparison.pareto_front, drawn, name))
            )
        ),
        "latency": _there(*latency.distributions(group)),
        "energy": _there(energy.per_token(group)),
        "carbon": _there(*_by_share(ways, partial(carbon.per_unit, drawn))),
        "cost": _there(*_costs(group)),
        "counting": _there(comparison.win_shares(among, choices, headline)) if headline else [],
        "breakeven": breakeven.break_even_figures(drawn, ways) if headline else [],
    }
    return {
        "number": suffix,
        "said": part.said,
        "links": [_link(entry, beside) for entry in group],
        "cards": versus.verdicts(group),
        "standings": versus.standings(group),
        "comparison": versus.comparison_table(group),
        "outcomes": versus.outcome_table(group),
        "ranking": versus.ranking_table(among, choices) if len(among) > 1 else None,
        "flips": versus.flip_texts(among, choices),
        "choices": len(choices) if len(among) > 1 else 0,
        "rule": rule,
        "caveat": _caveat(drawn),
        "crossings": versus.crossing_table(drawn, ways) if headline else None,
        "choice": headline,
        **{
            name: [replace(figure, key=f"{figure.key}{suffix}") for figure in drawings]
            for name, drawings in figures.items()
        },
    }


def _alarms(group: Sequence[Entry]) -> list[tuple[str, list[Notice]]]:
    """Collect what must be known of each run, said once for runs of which the same is true."""
    said: dict[tuple[Notice, ...], list[str]] = {}
    for entry in group:
        grave = [notice for notice in notices(entry.summary, entry.run.manifest) if notice.level != "info"]
        said.setdefault(tuple(grave), []).append(entry.label)
    return [
        ("All runs" if len(names) == len(group) else listing(names), list(found))
        for found, names in said.items()
        if found
    ]


def _not_run(left_out: Sequence[tuple[str, str]]) -> list[tuple[str, list[Notice]]]:
    """Say what was asked for and could not be run, and why."""
    return [("Not run", [Notice("warn", label, f"{reason}.") for label, reason in left_out])] if left_out else []


def _by_share(ways: Sequence[Choice], draw: Callable[[Choice], Figure | None]) -> list[Figure | None]:
    """Draw what depends on how much of a server counts, for each host share that is compared."""
    drawn = [(draw(way), way.host_share) for way in ways]
    if len(ways) < 2:
        return [figure for figure, _ in drawn]
    return [None if figure is None else figure.counted(share, ways[0].host_share) for figure, share in drawn]


def _costs(group: Sequence[Entry]) -> list[Figure | None]:
    own, other = comparison.costs(group), versus.by_other_share(group)
    elsewhere = comparison.costs(other) if other else None
    shares = [entries[0].counted.host_share for entries in (group, other) if entries and entries[0].counted]
    if own is None or elsewhere is None or len(shares) < 2:
        return [own]
    return [own.counted(shares[0], shares[0]), elsewhere.counted(shares[1], shares[0])]


def _there(*figures: Figure | None) -> list[Figure]:
    """Drop what there is nothing to draw of, and widen a figure that would stand alone in its row."""
    shown: list[Figure] = []
    alone = False
    for figure in figures:
        if figure is None:
            continue
        if figure.wide and alone:
            shown[-1] = replace(shown[-1], wide=True)
        alone = not figure.wide and not alone
        shown.append(figure)
    return [*shown[:-1], replace(shown[-1], wide=True)] if alone else shown


def _subtitle(entry: Entry) -> list[str]:
    summary, config = entry.summary, entry.run.manifest.config
    body = {"sim": "simulated", "emulator": "emulated", "engine": "measured"}.get(summary.body or "")
    policies = summary.policies
    if isinstance(policies, Mapping):
        policies = ", ".join(f"{name} {value}" for name, value in policies.items() if isinstance(value, str))
    parts = [
        body,
        f"precision {config['precision']}" if isinstance(config.get("precision"), str) else None,
        f"trace {Path(config['trace']).name}" if isinstance(config.get("trace"), str) else None,
        entry.run.manifest.electricity(),
        str(policies) if policies else None,
        f"seed {entry.run.manifest.seed}" if entry.run.manifest.seed is not None else None,
    ]
    return [part for part in parts if part]


def _caveat(group: Sequence[Entry]) -> str:
    """Warn of runs whose carbon per token is flattered by overload."""
    names = [entry.label for entry in group if entry.overloaded]
    if not names:
        return ""
    are, their = ("is", "its") if len(names) == 1 else ("are", "their")
    return f"{listing(names)} {are} overloaded: {their} carbon per token is that of hardware which never rests."


def _title(group: Sequence[Entry]) -> str:
    names = listing([entry.label for entry in group])
    return f"{names} compared" if len(names) <= 48 else f"{len(group)} runs compared"


def _shared(group: Sequence[Entry]) -> list[str]:
    """Name what all runs have in common."""
    shared = []
    for noun, values in (
        ("model ", {entry.summary.model for entry in group}),
        ("", {entry.run.manifest.electricity() for entry in group}),
    ):
        if len(values) == 1 and (value := values.pop()):
            shared.append(f"{noun}{value}")
    traces = {str(entry.run.manifest.config.get("trace") or "") for entry in group}
    if len(traces) == 1 and (trace := traces.pop()):
        shared.append(f"trace {Path(trace).name}")
    return shared


def _link(entry: Entry, beside: Path | None) -> str | None:
    """Link a run's own page, where it lies under the folder of this one."""
    page = entry.run.path / "report.html"
    if beside is None or not page.is_file():
        return None
    relative = os.path.relpath(page, beside)
    return None if relative.startswith("..") else quote(Path(relative).as_posix())


def render_page(template: str, context: Mapping[str, Any]) -> str:
    """Fill one of the templates, with style, script and plotly.js inlined."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plot_json"] = _plot_json
    environment.filters["glued"] = _glued
    return environment.get_template(template).render(
        context,
        css=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(_plotly_js()),
        twins=Markup(_json(style.DARK_TWINS)),
    )


def _subscripted(text: str | None) -> str:
    return (text or "").replace("CO2e", "CO₂e")


def _glued(text: str) -> str:
    """Keep a number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=[A-Za-zµ%×$])", "\u00a0", text)


def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    code: str = get_plotlyjs()
    return code.replace("</script", "<\\/script")


def _plot_json(figure: Figure) -> Markup:
    """Write a figure as JSON that may stand inside a script element."""
    spec = json.loads(figure.plot.to_json(engine="json"))
    spec["layout"].pop("template", None)
    return Markup(_json(spec))


def _json(data: object) -> str:
    text = _NOT_OURS.sub("&lt;", json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")

"""What users feel: cumulative distributions of the four latencies, against the service level."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from afterwatt.reports.columns import Floats
from afterwatt.reports.entry import Entry, shared_label
from afterwatt.reports.figures import style
from afterwatt.reports.figures.style import Figure
from afterwatt.reports.format import brief, duration, percent, setting
from afterwatt.reports.summary import counted, latency

TITLES = {
    "ttft_s": ("Time to first token", "requests"),
    "tpot_s": ("Time per output token", "requests"),
    "itl_s": ("Inter-token latency", "output tokens"),
    "e2e_s": ("End-to-end latency", "requests"),
}
LEVELS = np.unique(np.concatenate([np.linspace(0.0, 1.0, 201), [0.992, 0.994, 0.996, 0.998, 0.999, 0.9995, 0.9999]]))
MOST_NAMES = 4
THINNING = "The curves pass through the exact quantiles at 208 levels."


def _curve(entry: Entry, name: str) -> tuple[Floats, Floats]:
    """Give a distribution as (latency in seconds, share at or below it), ascending."""
    if name == "itl_s":
        values, weights = entry.run.column("itl", "itl_s"), entry.run.column("itl", "tokens")
        held = weights > 0
        if not held.any():
            return np.zeros(0), np.zeros(0)
        order = np.argsort(values[held], kind="stable")
        values, weights = values[held][order], weights[held][order]
        share = np.cumsum(weights) / weights.sum()
        kept = np.unique(np.minimum(np.searchsorted(share, LEVELS), len(share) - 1))
        return values[kept], share[kept]
    values = latency(entry.run, name, counted(entry.run))
    if not len(values):
        return values, values
    return np.quantile(values, LEVELS), LEVELS


class Curved(NamedTuple):
    """A line of the figure: runs of which it is true share it (the same hardware on two grids)."""

    label: str
    place: int
    entry: Entry
    x: Floats
    y: Floats


def _shown(group: Sequence[Entry], name: str) -> list[Curved]:
    """Give the distributions that there are, equal ones once."""
    held: dict[bytes, list[tuple[Entry, Floats, Floats]]] = {}
    for entry in group:
        x, y = _curve(entry, name)
        if len(x):
            held.setdefault(x.tobytes() + y.tobytes(), []).append((entry, x, y))
    return [
        Curved(shared_label([entry.label for entry, *_ in same]), same[0][0].place, *same[0]) for same in held.values()
    ]


def distribution(group: Sequence[Entry], name: str) -> Figure | None:
    """Draw one latency's distribution, a line per run; None where no run has a value."""
    shown = _shown(group, name)
    if not shown:
        return None
    slo = group[0].run.manifest.slo()
    limit_s = slo.thresholds().get(name) if slo else None
    positive = [line.x[line.x > 0] for line in shown if (line.x > 0).any()]
    if not positive:
        return None
    # a handful of near-zero values must not stretch the axis over empty decades
    low_s = max(min(float(x.min()) for x in positive), min(float(np.quantile(x, 0.01)) for x in positive) / 2)
    high_s = max(float(x.max()) for x in positive)
    if limit_s:
        low_s, high_s = min(low_s, limit_s), max(high_s, limit_s)
    title, of_what = TITLES[name]
    plot = style.figure(
        x=style.log_time_axis(f"{title.lower()} (logarithmic)", low_s, high_s),
        y={"title": f"share of {of_what} (%)", "range": [0, 112], "tickvals": [0, 25, 50, 75, 90, 100]},
    )
    for line in shown:
        plot.add_trace(_line(line, alone=len(group) == 1))
    if len(group) == 1:
        _mark_quantiles(plot, group[0], name, (low_s * high_s) ** 0.5)
    if limit_s:
        plot.add_vline(x=limit_s, line={"color": style.VERMILLION, "dash": "dash", "width": 1.5})
    return Figure(
        key=f"fig-{name.removesuffix('_s')}",
        title=title,
        caption=_caption(shown, name, limit_s),
        plot=plot,
        alt=f"Cumulative distribution of {title.lower()}. " + " ".join(_numbers(line, name) for line in shown),
        keys=_keys(shown, limit_s) if len(group) > 1 else _keys([], limit_s),
    )


def _line(line: Curved, alone: bool) -> go.Scatter:
    return go.Scatter(
        x=line.x.astype(np.float32),
        y=(100 * line.y).astype(np.float32),
        name=line.label,
        legendgroup=line.label,
        mode="lines",
        line={"color": style.run_colour(line.place), "width": 2.2, "dash": style.run_dash(line.place)},
        fill="tozeroy" if alone else None,
        fillcolor=style.rgba(style.BLUE, 0.08) if alone else None,
        hovertemplate="%{y:.3g} % within %{x:.4g} s<extra>" + line.label + "</extra>",
    )


def _mark_quantiles(plot: go.Figure, entry: Entry, name: str, middle_s: float) -> None:
    """Mark p50, p90 and p99; their figures stand on the side where there is room."""
    stats = getattr(entry.summary, name)
    marks = [(level, value) for level, value in ((50, stats.p50), (90, stats.p90), (99, stats.p99)) if value]
    plot.add_trace(
        go.Scatter(
            x=[value for _, value in marks],
            y=[level for level, _ in marks],
            mode="markers+text",
            text=[f" p{level} {brief(value)} " for level, value in marks],
            textposition=["top left" if value > middle_s else "bottom right" for _, value in marks],
            textfont={"color": style.INK, "size": 11.5},
            marker={"color": style.BLUE, "size": 8, "line": {"color": style.PANEL, "width": 1.5}},
            hoverinfo="skip",
            cliponaxis=False,
        )
    )


def _keys(shown: Sequence[Curved], limit_s: float | None) -> tuple[style.Key, ...]:
    keys = tuple(style.run_key(line.label, line.place) for line in shown)
    return (*keys, style.Key(f"SLO {setting(limit_s)}", style.VERMILLION, "dash")) if limit_s else keys


def _within(entry: Entry, name: str, limit_s: float) -> float | None:
    """Give the share of the distribution at or below a limit."""
    if name == "itl_s":
        values, weights = entry.run.column("itl", "itl_s"), entry.run.column("itl", "tokens")
        return float(weights[values <= limit_s].sum() / weights.sum()) if weights.sum() else None
    values = latency(entry.run, name)
    return float((values <= limit_s).mean()) if len(values) else None


def _caption(shown: Sequence[Curved], name: str, limit_s: float | None) -> str:
    of_what = TITLES[name][1]
    if not limit_s:
        return _numbers(shown[0], name) if len(shown) == 1 else f"Share of finished {of_what} at or below each latency."
    shares = [(_within(line.entry, name, limit_s) or 0.0, line.label) for line in shown]
    begin = f"Of finished {of_what}, within {setting(limit_s)}:"
    if len(shares) == 1:
        return f"{begin} {percent(shares[0][0])}."
    if len(shares) <= MOST_NAMES:
        return f"{begin} {', '.join(f'{percent(share)} on {label}' for share, label in shares)}."
    least, most = min(shares), max(shares)
    return f"{begin} from {percent(least[0])} on {least[1]} to {percent(most[0])} on {most[1]}."


def _numbers(line: Curved, name: str) -> str:
    stats = getattr(line.entry.summary, name)
    return (
        f"{line.label}: half within {duration(stats.p50)}, 90 % within {duration(stats.p90)}, "
        f"99 % within {duration(stats.p99)}, the longest {duration(stats.max)}."
    )


def distributions(group: Sequence[Entry]) -> list[Figure]:
    """Draw the four distributions, leaving out those nobody has a value of."""
    return [drawn for name in TITLES if (drawn := distribution(group, name)) is not None]

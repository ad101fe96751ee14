"""What the hardware burns: power by component over time, energy by component and by state."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from afterwatt.reports.columns import COMPONENTS
from afterwatt.reports.entry import IN_WORDS, Entry
from afterwatt.reports.figures import style
from afterwatt.reports.figures.activity import steps
from afterwatt.reports.figures.style import Figure, Key
from afterwatt.reports.format import energy, number, percent, prefix_of, quantity
from afterwatt.reports.schema import Summary
from afterwatt.reports.series import RunSeries


def power(series: RunSeries) -> Figure | None:
    """Draw watts by component over time, stacked; None where the timeline knows no energy."""
    if not series.has_energy:
        return None
    unit = style.time_unit(float(series.edges_s[-1]))
    parts = {name: series.rate(f"energy_{name}_j") for name in COMPONENTS}
    total = series.rate("energy_j")
    factor, watt = prefix_of(float(total.max()), "W")
    plot = style.figure(
        x={"title": unit.title, "range": [0, float(series.edges_s[-1] / unit.seconds)]},
        y={"title": f"power ({watt})", "rangemode": "tozero"},
        height_px=340,
    )
    keys = []
    for name, watts in parts.items():
        if not (watts > 0.0).any():  # of one that is not known neither
            continue
        label, colour = style.COMPONENT_NAMES[name], style.COMPONENT_COLOURS[name]
        plot.add_trace(
            steps(
                series.edges_s / unit.seconds, watts / factor, label, colour, stackgroup="power", fillcolor=colour,
                line={"width": 0, "shape": "hv"},
                hovertemplate=f"{label}: %{{y:.4g}} {watt} at %{{x:.4g}} {unit.name}<extra></extra>",
            )
        )  # fmt: skip
        keys.append(Key(label, colour, "area", label))
    mean_w = float(np.dot(total, series.length_s) / series.length_s.sum())
    caption = (
        f"On average {quantity(mean_w, 'W')} at the meter of the site, at most {quantity(float(total.max()), 'W')}; "
        f"{series.rule()}."
    )
    return Figure(
        "fig-power", "Power by component", caption, plot, f"Power by component over time, stacked. {caption}",
        tuple(keys), wide=True,
    )  # fmt: skip


def shares(summary: Summary) -> list[Figure]:
    """Draw the run's energy by component and by state; nothing where it is unknown."""
    known = summary.energy_j
    figures = (
        _bars("component", known.by_component, style.COMPONENT_COLOURS, style.COMPONENT_NAMES, known.total),
        _bars("state", known.by_state, style.STATE_COLOURS, style.STATE_NAMES, known.total),
    )
    return [drawn for drawn in figures if drawn is not None]


def _bars(
    what: str,
    parts: Mapping[str, float | None],
    colours: Mapping[str, str],
    names: Mapping[str, str],
    total_j: float | None,
) -> Figure | None:
    values = {name: value for name, value in parts.items() if value}
    if not values or not total_j:
        return None
    if what == "component":
        values = dict(sorted(values.items(), key=lambda item: item[1]))
    else:
        values = dict(reversed(values.items()))
    labels = [names.get(name, name) for name in values]
    factor, unit = prefix_of(max(values.values()) / 3600.0, "Wh")
    heights = [value / 3600.0 / factor for value in values.values()]
    plot = style.figure(
        x={"title": f"energy ({unit})", "showgrid": True, "range": [0, 1.5 * max(heights)]},
        y={"title": "", "showgrid": False},
        height_px=70 + 30 * len(values),
        bargap=0.28,
    )
    plot.add_trace(
        go.Bar(
            x=heights,
            y=labels,
            orientation="h",
            marker={"color": [colours.get(name, style.GREY) for name in values]},
            text=[
                f" {number(h)} {unit}, {percent(v / total_j, 2)}" for h, v in zip(heights, values.values(), strict=True)
            ],
            textposition="outside",
            textfont={"color": style.INK, "size": 11.5},
            cliponaxis=False,
            hoverinfo="skip",
        )
    )
    told = ", ".join(f"{names.get(k, k)} {percent(v / total_j, 2)}" for k, v in reversed(values.items()))
    caption = f"{energy(total_j)} in all."
    return Figure(f"fig-energy-{what}", f"Energy by {what}", caption, plot, f"{caption} Of this {told}.")


def per_token(group: Sequence[Entry]) -> Figure | None:
    """Draw joules per output token of several runs, stacked by component."""
    known = [
        (entry, total_j, tokens)
        for entry in group
        if entry.summary.energy_j.by_component
        and (total_j := entry.summary.energy_j.total) is not None
        and (tokens := entry.served.output_tokens)
    ]
    if not known:
        return None
    labels = [entry.label for entry, *_ in known]
    plot = style.figure(
        x={"title": "energy at the site per output token (J)", "showgrid": True, "rangemode": "tozero"},
        y={"title": "", "showgrid": False, "autorange": "reversed"},
        height_px=80 + 36 * len(known),
        barmode="stack",
        bargap=0.3,
    )
    keys = []
    for name in (*COMPONENTS, "standby"):
        values = [(entry.summary.energy_j.by_component.get(name) or 0.0) / tokens for entry, _, tokens in known]
        if not any(values):
            continue
        label, colour = style.COMPONENT_NAMES[name], style.COMPONENT_COLOURS[name]
        hover = f"{label}: %{{x:.3g}} J per token<extra>%{{y}}</extra>"
        bar = {"color": colour, "line": {"width": 0}}
        plot.add_trace(
            go.Bar(x=values, y=labels, orientation="h", name=label, legendgroup=label, marker=bar, hovertemplate=hover)
        )
        keys.append(Key(label, colour, "area", label))
    totals = [total_j / tokens for _, total_j, tokens in known]
    said = [
        f"{number(total)} J{_elsewhere(entry, tokens)}" for total, (entry, _, tokens) in zip(totals, known, strict=True)
    ]
    for label, total, text in zip(labels, totals, said, strict=True):
        short = text.replace(IN_WORDS["whole"], "whole").replace(IN_WORDS["slots"], "by slots")
        plot.add_annotation(
            x=total, y=label, text=f"  {short}", xanchor="left", showarrow=False, font={"color": style.INK, "size": 12}
        )
    plot.update_xaxes(range=[0, (1.2 if max(map(len, said)) < 12 else 1.6) * max(totals)])
    told = ", ".join(f"{label} {text}" for label, text in zip(labels, said, strict=True))
    return Figure(
        "fig-energy-per-token", "Energy per output token",
        "All that the site burns, idle time included; in brackets the same with whole servers, or by the slots in use.",
        plot,
        f"Energy per output token by component: {told}.", tuple(keys), wide=True,
    )  # fmt: skip


def _elsewhere(entry: Entry, tokens: int) -> str:
    """Say what the other host share makes of a run's joules per token; nothing where that is the same or unknown."""
    other = entry.summary.other_host_share
    if other is None or other.energy_j is None or entry.fills_its_hosts:
        return ""
    return f" ({number(other.energy_j / tokens)} {IN_WORDS[other.host_share]})"

"""Several runs against each other: the Pareto front, who wins in how many draws, and what it costs."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from afterwatt.reports.columns import Floats
from afterwatt.reports.compare import Wins, pareto, under_both, wins
from afterwatt.reports.entry import Choice, Entry
from afterwatt.reports.figures import style
from afterwatt.reports.figures.style import Figure, Key
from afterwatt.reports.format import count, duration, grams, listing, percent, prefix_of, usd

MOST_ROWS = 15
MOST_NAMES = 6
LATENCY_NAMES = {"ttft_s": "time to first token", "e2e_s": "end-to-end latency", "tpot_s": "time per output token"}


def pareto_front(group: Sequence[Entry], name: str, choice: Choice) -> Figure | None:
    """Draw carbon per output token against p90 of a latency, with the front that no run beats in both.

    Args:
        group: the runs.
        name: of the latency.
        choice: the way of counting.
    """
    points: list[tuple[Entry, float, Floats]] = []
    for entry in group:
        p90 = getattr(entry.summary, name).p90
        if p90 and entry.served.output_tokens:
            points.append((entry, p90, np.quantile(entry.carbon_draws(choice), [0.05, 0.5, 0.95])))
    if len(points) < 2:
        return None
    factor, unit = prefix_of(float(np.median([span[1] for *_, span in points])), "g")
    lows, highs = ([float(span[i]) / factor for *_, span in points] for i in (0, 2))
    xs = [p90 for _, p90, _ in points]
    ys = [float(span[1]) / factor for *_, span in points]
    able = [i for i, (entry, *_) in enumerate(points) if not entry.fault]
    front = [able[i] for i in pareto([xs[i] for i in able], [ys[i] for i in able])]
    title = LATENCY_NAMES[name]
    plot = style.figure(
        x=style.log_time_axis(f"p90 {title} (logarithmic)", min(xs) / 1.3, max(xs) * 1.3),
        y=style.value_axis("carbon per output token", f"{unit}CO₂e", min(lows), max(highs)),
        height_px=340,
    )
    plot.add_trace(_stairs([xs[i] for i in front], [ys[i] for i in front]))
    middle = (min(xs) * max(xs)) ** 0.5
    for i, (entry, p90, span) in enumerate(points):
        named = len(points) <= MOST_NAMES or i in front
        side = "top left" if p90 > middle else "top right"
        plot.add_trace(_point(entry, p90, span / factor, side if named else None, unit))
    names = [points[i][0].label for i in front]
    missed = [f"{entry.label} ({entry.fault})" for entry, *_ in points if entry.fault]
    caption = f"No other run beats {listing(names)} in both. " if names else ""
    caption += "Lower left is better; whiskers are p5 to p95."
    caption += f" Hollow, and not in the front: {listing(missed)}." if missed else ""
    told = "; ".join(
        f"{entry.label} p90 {duration(p90)}, {grams(float(span[1]))}CO₂e per token" for entry, p90, span in points
    )
    keys = (*(style.run_key(e.label, e.place, lines=False) for e in group), *_front_key(front))
    return Figure(
        f"fig-pareto-{name.removesuffix('_s')}", f"Carbon against {title}", caption, plot,
        f"{told}. Pareto front: {listing(names)}.", keys,
    )  # fmt: skip


def _front_key(front: Sequence[int]) -> list[Key]:
    return [Key("Pareto front", style.MUTED, "dot")] if len(front) > 1 else []


def _stairs(xs: Sequence[float], ys: Sequence[float]) -> go.Scatter:
    return go.Scatter(
        x=list(xs),
        y=list(ys),
        mode="lines",
        line={"color": style.MUTED, "width": 1.5, "dash": "dot", "shape": "hv"},
        hoverinfo="skip",
    )


def _point(entry: Entry, p90: float, span: Floats, side: str | None, unit: str) -> go.Scatter:
    low, y, high = span.tolist()
    colour = style.run_colour(entry.place)
    symbol = style.run_symbol(entry.place) + ("-open" if entry.fault else "")
    return go.Scatter(
        x=[p90],
        y=[y],
        mode="markers+text" if side else "markers",
        text=[f" {entry.label} "],
        textposition=side,
        textfont={"color": style.INK, "size": 12},
        cliponaxis=False,
        name=entry.label,
        legendgroup=entry.label,
        marker={"color": colour, "size": 12, "symbol": symbol, "line": {"width": 2, "color": colour}},
        error_y={
            "type": "data", "symmetric": False, "array": [high - y], "arrayminus": [y - low],
            "color": colour, "thickness": 1.4, "width": 0,
        },
        hovertemplate=f"{entry.label}: p90 {duration(p90)}, %{{y:.3g}} {unit}CO₂e per token<extra></extra>",
    )  # fmt: skip


def win_shares(group: Sequence[Entry], choices: Sequence[Choice], headline: Choice) -> Figure | None:
    """Draw in how many draws each run has the least carbon per output token, a bar per method × allocation."""
    if len(group) < 2:
        return None
    others = [choice for choice in choices if choice != headline]
    if len(others) > MOST_ROWS:  # the headline's neighbours: one of its words changes, the others stay
        others = [choice for choice in others if sum(a != b for a, b in zip(choice, headline, strict=True)) == 1]
    both = under_both(headline, choices)
    ordered = [*both, *(choice for choice in others if choice not in both)]
    results = {choice: wins(group, choice) for choice in ordered}
    rows = [str(choice).replace(" × ", "<br>") for choice in ordered]
    plot = style.figure(
        x={"title": "lowest in share of draws (%)", "showgrid": True, "range": [0, 100]},
        y={"title": "", "showgrid": False, "autorange": "reversed"},
        height_px=90 + 46 * len(rows),
        barmode="stack",
        bargap=0.22,
    )
    for i, entry in enumerate(group):
        shares = [100 * results[choice].shares[i] for choice in ordered]
        plot.add_trace(
            go.Bar(
                x=shares, y=rows, orientation="h", name=entry.label, legendgroup=entry.label,
                marker={
                    "color": style.run_colour(entry.place),
                    "line": {"color": style.PANEL, "width": 1},
                    "pattern": {"shape": "/" if _fill(entry) == "hatch" else "", "fgcolor": style.PANEL},
                },
                text=[f"{share:.0f} %" if share >= 8 else "" for share in shares], textposition="inside",
                insidetextanchor="middle", textangle=0, textfont={"color": style.PANEL, "size": 11},
                hovertemplate=f"{entry.label}: %{{x:.3g}} % of draws<extra>%{{y}}</extra>",
            )
        )  # fmt: skip
    first = results[headline]
    paired = (
        "Runs share their draws of what is uncertain for all of them (one seed), so a common error does not blur this."
        if first.paired
        else "The runs have different seeds, so their draws are independent and the shares are less sharp."
    )
    told = " ".join(_told(group, choice, results[choice]) for choice in both)
    return Figure(
        "fig-wins", "Who emits least per token, draw by draw", f"{told} {paired}", plot, told,
        tuple(Key(e.label, style.run_colour(e.place), _fill(e), e.label) for e in group), wide=True,
    )  # fmt: skip


def _told(group: Sequence[Entry], choice: Choice, found: Wins) -> str:
    """Say who is lowest most often under one way of counting."""
    most = max(found.shares)
    names = sorted(entry.label for entry, share in zip(group, found.shares, strict=True) if share == most)
    return f"Under {choice}, {listing(names)} is lowest in {percent(most)} of {count(found.draws)} draws."


def _fill(entry: Entry) -> str:
    return "area" if style.run_dash(entry.place) == "solid" else "hatch"


def costs(group: Sequence[Entry]) -> Figure | None:
    """Draw dollars per million output tokens: hardware and electricity."""
    rows = [
        (entry, 1e6 * cost.hardware / entry.served.output_tokens, 1e6 * cost.electricity / entry.served.output_tokens)
        for entry in group
        if (cost := entry.cost) is not None
        and cost.hardware is not None
        and cost.electricity is not None
        and entry.served.output_tokens
    ]
    if not rows:
        return None
    labels = [entry.label for entry, *_ in rows]
    highest = max(hardware + electricity for _, hardware, electricity in rows)
    plot = style.figure(
        x={"title": "cost per million output tokens (US$)", "showgrid": True, "range": [0, 1.2 * highest]},
        y={"title": "", "showgrid": False, "autorange": "reversed"},
        height_px=80 + 36 * len(rows),
        barmode="stack",
        bargap=0.3,
    )
    parts = (
        ("hardware", style.EMBODIED, [h for _, h, _ in rows]),
        ("electricity", style.OPERATIONAL, [e for *_, e in rows]),
    )
    for name, colour, values in parts:
        plot.add_trace(
            go.Bar(
                x=values, y=labels, orientation="h", name=name, legendgroup=name, marker={"color": colour},
                hovertemplate=f"{name}: $%{{x:.3g}}<extra>%{{y}}</extra>",
            )
        )  # fmt: skip
    for entry, hardware, electricity in rows:
        plot.add_annotation(
            x=hardware + electricity, y=entry.label, text=f"  {usd(hardware + electricity)}", xanchor="left",
            showarrow=False, font={"color": style.INK, "size": 12},
        )  # fmt: skip
    told = "; ".join(f"{entry.label} {usd(hardware + electricity)}" for entry, hardware, electricity in rows)
    caption = "Hardware by reserved time over its life, and electricity at the site's price, per million output tokens."
    keys = tuple(Key(name, colour, "area", name) for name, colour, _ in parts)
    return Figure("fig-cost", "Cost per million output tokens", caption, plot, told, keys, wide=len(group) > 1)

"""Where the greener choice changes: three charts with the crossings marked."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from afterwatt.reports.breakeven import Crossing, Curve, Curves, crossings, curves, merged
from afterwatt.reports.entry import IN_WORDS, Choice, Entry
from afterwatt.reports.figures import style
from afterwatt.reports.figures.style import Figure, Key
from afterwatt.reports.format import grams, listing, number, percent, prefix_of

HIGHEST_GRID = 1_000.0
"""g/kWh; no yearly mean of a whole grid is far above this."""
POINTS = 160
EDGE = 0.14


def intensity_text(x: float) -> str:
    """Write a grid intensity."""
    return f"{number(x)} g/kWh"


def scale_text(x: float) -> str:
    """Write a factor on all lives."""
    return f"{number(x)}×"


def break_even_figures(group: Sequence[Entry], ways: Sequence[Choice]) -> list[Figure]:
    """Draw carbon per output token against grid intensity, lifetime and duty cycle; what is unknown is left out.

    Args:
        group: the runs.
        ways: the way of counting, and the same under the other host share, under which the grid is drawn too.
    """
    by_way = [_known(group, way) for way in ways]
    known = by_way[0]
    if not known:
        return []
    own_grid = max(found.intensity.own_x for _, found in known)
    counted = [f", {IN_WORDS[way.host_share]}" if len(ways) > 1 else "" for way in ways]
    figures = [
        *(
            _chart(
                f"intensity{f'-{way.host_share}' if place else ''}", f"Grid intensity{said}",
                "grid intensity (gCO₂e/kWh)", _pick(some, lambda c: c.intensity),
                (0.0, max(HIGHEST_GRID, 1.1 * own_grid)), 1.0, intensity_text, "dots mark each run's own grid",
            )
            for place, (way, some, said) in enumerate(zip(ways, by_way, counted, strict=True))
        ),
        _chart(
            "lifetime", f"Lifetime{counted[0]}", "all lives, relative to those assumed (×)",
            _pick(known, lambda c: c.lifetime),
            (0.25, 4.0), 1.0, scale_text, "dots mark the lives assumed; each run on its own grid",
        ),
        _chart(
            "duty", f"Duty cycle{counted[0]}", "share of reserved time under this load (%)",
            _pick(known, lambda c: c.duty),
            (0.05, 1.0), 0.01, percent, "dots mark the duty cycle assumed; each run on its own grid",
        ),
    ]  # fmt: skip
    found = [drawn for drawn in figures if drawn is not None]
    return [replace(found[0], wide=True), *found[1:]] if len(ways) < 2 else found


def _known(group: Sequence[Entry], way: Choice) -> list[tuple[int, Curves]]:
    return [(entry.place, found) for entry in group if (found := curves(entry, way)) is not None]


def _pick(known: Sequence[tuple[int, Curves]], which: Callable[[Curves], Curve | None]) -> list[tuple[int, Curve]]:
    return [(place, curve) for place, found in known if (curve := which(found)) is not None]


def _chart(
    key: str,
    title: str,
    axis: str,
    lines: Sequence[tuple[int, Curve]],
    span: tuple[float, float],
    x_unit: float,
    say: Callable[[float], str],
    dots: str,
) -> Figure | None:
    if not lines:
        return None
    low, high = span
    shown = _merged(lines)
    inside = [meet for meet in crossings([curve for _, curve in shown]) if low <= meet.x <= high]
    own = [(place, curve, max(low, min(curve.own_x, high))) for place, curve in lines]
    # a hyperbola leaves the picture near zero: show all that matters, which is where runs stand and where they meet
    heights = [curve.at(x) for _, curve, x in own] + [meet.gco2e for meet in inside]
    heights += [curve.at(high) for _, curve in shown]
    factor, unit = prefix_of(float(np.median(heights)), "g")
    x_axis: dict[str, object] = {"title": axis, "range": [low / x_unit, high / x_unit]}
    if key == "lifetime":
        x_axis |= {"type": "log", "range": [math.log10(low), math.log10(high)], "tickvals": [0.25, 0.5, 1, 2, 4]}
    y_axis = style.value_axis("carbon per output token", f"{unit}CO₂e", min(heights) / factor, max(heights) / factor)
    plot = style.figure(x=x_axis, y=y_axis, height_px=340)
    x = np.geomspace(low, high, POINTS) if low else np.linspace(low, high, POINTS)
    for place, curve in shown:
        plot.add_trace(_line(place, curve, x / x_unit, np.asarray(curve.at(x)) / factor, unit))
    plot.add_trace(
        go.Scatter(
            x=[x / x_unit for *_, x in own], y=[curve.at(x) / factor for _, curve, x in own],
            mode="markers", hoverinfo="skip", cliponaxis=False,
            marker={"size": 8, "color": [
                style.GREY if curve.fault else style.run_colour(_place_of(curve, shown)) for _, curve, _ in own
            ]},
        )
    )  # fmt: skip
    _mark(plot, inside, x_unit, factor, say)
    told = crossing_text(inside, [curve for _, curve in shown], high, say)
    return Figure(
        f"fig-breakeven-{key}", title, f"{told} ({dots[0].upper()}{dots[1:]}.)", plot, told,
        (*(_key(curve, place) for place, curve in shown), *_crossing_keys(inside)),
    )  # fmt: skip


def _key(curve: Curve, place: int) -> Key:
    """Give the legend's entry of a line; one that may not be called best says why."""
    return style.run_key(curve.label, place) if not curve.fault else Key(_named(curve), style.GREY, "dot", curve.label)


def _named(curve: Curve) -> str:
    return f"{curve.label} ({curve.fault})" if curve.fault else curve.label


def _merged(lines: Sequence[tuple[int, Curve]]) -> list[tuple[int, Curve]]:
    """Draw curves that coincide once, in the colour of the first."""
    places = {(curve.base, curve.slope): place for place, curve in reversed(lines)}
    return [(places[curve.base, curve.slope], curve) for curve in merged([curve for _, curve in lines])]


def _place_of(curve: Curve, shown: Sequence[tuple[int, Curve]]) -> int:
    """Give the place of the line that this curve was merged into."""
    return min(shown, key=lambda line: abs(line[1].base - curve.base) + abs(line[1].slope - curve.slope))[0]


def _crossing_keys(inside: Sequence[Crossing]) -> list[Key]:
    kinds = {meet.decides for meet in inside}
    keys = [Key("the best choice changes", style.INK, "circle")] if True in kinds else []
    return keys + ([Key("two others change places", style.INK, "ring")] if False in kinds else [])


def _line(place: int, curve: Curve, x: np.ndarray, y: np.ndarray, unit: str) -> go.Scatter:
    return go.Scatter(
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        mode="lines",
        name=curve.label,
        legendgroup=curve.label,
        line={"color": style.GREY, "width": 1.6, "dash": "dot"}
        if curve.fault
        else {"color": style.run_colour(place), "width": 2.2, "dash": style.run_dash(place)},
        hovertemplate=f"{_named(curve)}: %{{y:.3g}} {unit}CO₂e at %{{x:.3g}}<extra></extra>",
    )


def _mark(
    plot: go.Figure, inside: Sequence[Crossing], x_unit: float, factor: float, say: Callable[[float], str]
) -> None:
    """Mark every crossing; write its figure at those that decide, or at all where there are few."""
    if not inside:
        return
    plot.add_trace(
        go.Scatter(
            x=[meet.x / x_unit for meet in inside], y=[meet.gco2e / factor for meet in inside], mode="markers",
            marker={"symbol": ["circle" if meet.decides else "circle-open" for meet in inside], "color": style.INK,
                    "size": 9, "line": {"color": style.INK, "width": 1.5}},
            customdata=[[say(meet.x), meet.below, meet.above, grams(meet.gco2e)] for meet in inside],
            hovertemplate="%{customdata[0]}: below it %{customdata[1]}, above it %{customdata[2]} "
            "(%{customdata[3]}CO₂e per token)<extra></extra>",
        )
    )  # fmt: skip
    shown = [meet for meet in inside if meet.decides or len(inside) <= 3]
    left, right = plot.layout.xaxis.range
    bottom, top = plot.layout.yaxis.range
    for place, meet in enumerate(shown[:6]):
        across = (style.place_on(plot.layout.xaxis, meet.x / x_unit) - left) / (right - left)
        aside = 52 if across < EDGE else (-52 if across > 1 - EDGE else 0)  # not over the axis' own figures
        height = style.place_on(plot.layout.yaxis, meet.gco2e / factor)
        under = (height - bottom) / (top - bottom) > 1 - 2 * EDGE  # no room above it
        plot.add_annotation(
            x=style.place_on(plot.layout.xaxis, meet.x / x_unit),
            y=height,
            text=say(meet.x), showarrow=True, arrowhead=0, arrowwidth=1, arrowcolor=style.MUTED,
            ax=aside, ay=(28 if under else -64 if aside else -28) - 18 * (place % 2) * (1 - 2 * under), standoff=5,
            font={"color": style.INK, "size": 12}, bgcolor=style.PANEL, borderpad=2,
        )  # fmt: skip


def crossing_text(found: Sequence[Crossing], lines: Sequence[Curve], high: float, say: Callable[[float], str]) -> str:
    """Say in words where the best choice changes, or that it does not, among the runs that may be called best."""
    lines = [curve for curve in lines if not curve.fault]
    if not lines:
        return "No run here carries the load and keeps its promises, so none is called lowest."
    deciding = [meet for meet in found if meet.decides][:3]
    if deciding:
        return " ".join(f"Below {say(meet.x)}, {meet.below} is lowest; above it, {meet.above}." for meet in deciding)
    floor = min(curve.at(high) for curve in lines)
    lowest = sorted(curve.label for curve in lines if curve.at(high) <= floor * (1.0 + 1e-9))
    others = [f"{meet.below} and {meet.above} change places at {say(meet.x)}" for meet in found[:2]]
    is_lowest = f"{lowest[0]} is" if len(lowest) == 1 else f"{listing(lowest)} are equal and"
    return f"{is_lowest} lowest throughout{''.join(f'; {text}' for text in others)}."

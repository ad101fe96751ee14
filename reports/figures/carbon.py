"""What the planet pays: operational against embodied carbon, under every way of counting, and over time."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from afterwatt.reports.columns import Floats
from afterwatt.reports.entry import Choice, Entry
from afterwatt.reports.figures import style
from afterwatt.reports.figures.activity import steps
from afterwatt.reports.figures.style import Figure, Key
from afterwatt.reports.format import grams, interval, number, prefix_of
from afterwatt.reports.schema import Interval
from afterwatt.reports.series import RunSeries

ALLOCATION_COLOURS = (style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.AMBER, style.SKY, style.GREY)


def split(entry: Entry) -> Figure | None:
    """Draw the run's operational, embodied and total carbon with their intervals."""
    carbon = entry.summary.carbon_gco2e
    rows = [
        ("operational", carbon.operational, style.OPERATIONAL),
        ("embodied", carbon.embodied, style.EMBODIED),
        ("total", carbon.total, style.GREY),
    ]
    known = [(name, block, block.p50, colour) for name, block, colour in rows if block.p50 is not None]
    if not known:
        return None
    far = max(block.p95 or mid for _, block, mid, _ in known)
    factor, unit = prefix_of(far, "g")
    plot = style.figure(
        x={"title": f"whole run ({unit}CO₂e)", "showgrid": True, "range": [0, 1.05 * far / factor]},
        y={"title": "", "showgrid": False, "autorange": "reversed"},
        height_px=70 + 48 * len(known),
        bargap=0.4,
    )
    plot.add_trace(
        go.Bar(
            x=[mid / factor for *_, mid, _ in known],
            y=[f"{name}<br>{interval(block.model_dump(), 'g')}" for name, block, *_ in known],
            orientation="h",
            marker={"color": [style.rgba(colour, 0.85) for *_, colour in known]},
            error_x=_error([_span(block, mid) for _, block, mid, _ in known], factor),
            hoverinfo="skip",
        )
    )
    method = f"Embodied by {carbon.embodied_method}, allocated {carbon.allocation}. " if carbon.embodied_method else ""
    caption = f"{method}Bars are medians, whiskers the range from p5 to p95 of the draws."
    told = "; ".join(f"{name} {interval(block.model_dump(), 'g')}CO2e" for name, block, *_ in known)
    return Figure("fig-carbon", "Operational against embodied", caption, plot, told)


def _span(block: Interval, mid: float) -> tuple[float, float, float]:
    low, high = block.p5, block.p95
    return (mid if low is None else low, mid, mid if high is None else high)


def _error(spans: Sequence[Sequence[float]], factor: float) -> dict[str, object]:
    """Give plotly whiskers from (low, middle, high)."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [(high - mid) / factor for _, mid, high in spans],
        "arrayminus": [(mid - low) / factor for low, mid, _ in spans],
        "color": style.INK,
        "thickness": 1.4,
        "width": 5,
    }


def by_choice(entry: Entry) -> Figure | None:
    """Draw embodied carbon per request under every method × allocation."""
    requests = entry.served.requests
    if not entry.choices or not requests:
        return None
    spans = {
        (choice.method, choice.allocation): np.quantile(entry.run.column("draws", column), [0.05, 0.5, 0.95]) / requests
        for choice, (_, column) in entry.choices.items()
        if choice.host_share == entry.host_share
    }
    methods = list(dict.fromkeys(method for method, _ in spans))
    allocations = list(dict.fromkeys(allocation for _, allocation in spans))
    highest = max(float(span[2]) for span in spans.values())
    factor, unit = prefix_of(highest, "g")
    plot = style.figure(
        x={"title": f"embodied carbon per request ({unit}CO₂e)", "showgrid": True,
           "range": [-0.02 * highest / factor, 1.04 * highest / factor]},
        y={"title": "", "tickvals": [i + 0.5 for i in range(len(methods) - 1)], "showticklabels": False,
           "range": [len(methods) - 0.5, -0.5]},
        height_px=70 + len(methods) * (30 + 12 * len(allocations)),
    )  # fmt: skip
    for place, method in enumerate(methods):
        plot.add_annotation(
            x=0, xref="paper", xanchor="left", y=place - 0.5, yanchor="top", text=f"<b>{method}</b>", showarrow=False,
            font={"color": style.INK, "size": 12},
        )  # fmt: skip
    for place, allocation in enumerate(allocations):
        at = [(i, spans[m, allocation]) for i, m in enumerate(methods) if (m, allocation) in spans]
        plot.add_trace(_choice_dots(place, allocation, len(allocations), [(i, methods[i], s) for i, s in at], factor))
    keys = tuple(
        Key(a, ALLOCATION_COLOURS[i % len(ALLOCATION_COLOURS)], style.run_symbol(i), a)
        for i, a in enumerate(allocations)
    )
    electricity = float(np.median(entry.run.column("draws", "operational_gco2e"))) / requests
    return _choice_figure(plot, keys, spans, electricity)


def _choice_dots(
    place: int, allocation: str, of: int, at: Sequence[tuple[int, str, Floats]], factor: float
) -> go.Scatter:
    """Draw one allocation's medians and whiskers, a row per method, below the method's name."""
    colour = ALLOCATION_COLOURS[place % len(ALLOCATION_COLOURS)]
    error = _error([span.tolist() for *_, span in at], factor) | {"color": colour, "width": 0}
    return go.Scatter(
        x=[float(span[1]) / factor for *_, span in at],
        y=[i - 0.5 + (24 + 12 * (place + 0.5)) / (30 + 12 * of) for i, *_ in at],
        mode="markers",
        name=allocation,
        legendgroup=allocation,
        marker={"color": colour, "size": 9, "symbol": style.run_symbol(place)},
        error_x=error,
        customdata=[[method, interval(_block(span), "g")] for _, method, span in at],
        hovertemplate="%{customdata[0]} × " + allocation + ": %{customdata[1]}CO₂e<extra></extra>",
    )


def _choice_figure(
    plot: go.Figure,
    keys: tuple[Key, ...],
    spans: dict[tuple[str, str], Floats],
    operational: float,
) -> Figure:
    least, most = min(spans, key=lambda c: float(spans[c][1])), max(spans, key=lambda c: float(spans[c][1]))
    told = (
        f"From {grams(float(spans[least][1]))} per request ({' × '.join(least)}) to {grams(float(spans[most][1]))} "
        f"({' × '.join(most)}), on top of {grams(operational)} from electricity."
    )
    caption = f"{told} Methods are scenarios side by side, never averaged; a whisker is p5 to p95 within one."
    return Figure(
        "fig-choices", "Every way of counting embodied carbon", caption, plot, told, keys, wide=True
    )  # fmt: skip


def _block(span: Floats) -> dict[str, float | None]:
    return {"p5": float(span[0]), "p50": float(span[1]), "p95": float(span[2])}


def over_time(series: RunSeries) -> Figure | None:
    """Draw grams per hour and the grid's intensity; None where the intensity is one constant, or energy is unknown."""
    if not series.knows("energy_j", "operational_gco2e"):
        return None
    grams_per_s, watts = series.rate("operational_gco2e"), series.rate("energy_j")
    with np.errstate(invalid="ignore", divide="ignore"):
        intensity = grams_per_s / watts * 3.6e6
    known = intensity[np.isfinite(intensity)]
    if not len(known) or np.ptp(known) < 1e-6 * known.max():
        return None
    unit = style.time_unit(float(series.edges_s[-1]))
    edges = series.edges_s / unit.seconds
    factor, mass = prefix_of(float(grams_per_s.max()) * 3600, "g")
    plot = style.figure(
        x={"title": unit.title, "range": [0, float(edges[-1])]},
        y={"title": f"emissions ({mass}CO₂e per hour)", "rangemode": "tozero"},
        yaxis2=style.AXIS
        | {"title": "grid (gCO₂e/kWh)", "overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False},
    )
    hover = f"%{{y:.3g}} {mass}CO₂e per hour at %{{x:.4g}} {unit.name}<extra></extra>"
    fill = {"fill": "tozeroy", "fillcolor": style.rgba(style.OPERATIONAL, 0.15)}
    per_hour = grams_per_s * 3600 / factor
    plot.add_trace(steps(edges, per_hour, "emissions", style.OPERATIONAL, hovertemplate=hover, **fill))
    grid_hover = f"%{{y:.4g}} gCO₂e/kWh at %{{x:.4g}} {unit.name}<extra></extra>"
    plot.add_trace(steps(edges, intensity, "grid", style.GREY, hovertemplate=grid_hover, yaxis="y2"))
    caption = (
        f"The grid varies from {number(float(known.min()))} to {number(float(known.max()))} gCO₂e/kWh during the run."
    )
    keys = (
        Key("emissions (left)", style.OPERATIONAL, "line", "emissions"),
        Key("grid intensity (right)", style.GREY, "line", "grid"),
    )
    return Figure("fig-grid", "Emissions and the grid", caption, plot, caption, keys, wide=True)


def per_unit(group: Sequence[Entry], choice: Choice) -> Figure | None:
    """Draw carbon per output token of several runs: operational and embodied, with the interval of their sum."""
    rows = [entry for entry in group if entry.served.output_tokens]
    if not rows:
        return None
    labels = [entry.label for entry in rows]
    medians = [[float(np.median(entry.parts(choice)[part])) for entry in rows] for part in (0, 1)]
    spans = [np.quantile(entry.carbon_draws(choice), [0.05, 0.5, 0.95]) for entry in rows]
    factor, unit = prefix_of(max(float(span[2]) for span in spans), "g")
    plot = style.figure(
        x={"title": f"carbon per output token ({unit}CO₂e)", "showgrid": True,
           "range": [0, 1.25 * max(float(span[2]) for span in spans) / factor]},
        y={"title": "", "showgrid": False, "autorange": "reversed"},
        height_px=80 + 36 * len(rows), barmode="stack", bargap=0.3,
    )  # fmt: skip
    parts = (("operational", style.OPERATIONAL, medians[0]), ("embodied", style.EMBODIED, medians[1]))
    for name, colour, values in parts:
        plot.add_trace(
            go.Bar(
                x=[value / factor for value in values], y=labels, orientation="h", name=name, legendgroup=name,
                marker={"color": colour}, hovertemplate=f"{name}: %{{x:.3g}} {unit}CO₂e<extra>%{{y}}</extra>",
            )
        )  # fmt: skip
    plot.add_trace(
        go.Scatter(
            x=[float(span[1]) / factor for span in spans], y=labels, mode="markers", hoverinfo="skip",
            marker={"color": style.INK, "size": 5}, error_x=_error([span.tolist() for span in spans], factor),
        )
    )  # fmt: skip
    for label, span in zip(labels, spans, strict=True):
        plot.add_annotation(
            x=float(span[2]) / factor, y=label, text=f"  {grams(float(span[1]))}", xanchor="left",
            showarrow=False, font={"color": style.INK, "size": 12},
        )  # fmt: skip
    told = "; ".join(f"{label} {interval(_block(span), 'g')}CO₂e" for label, span in zip(labels, spans, strict=True))
    caption = f"Counted by {choice}. Bars are medians, the whisker p5 to p95 of the sum."
    keys = [Key(name, colour, "area", name) for name, colour, _ in parts]
    keys.append(Key("sum, p5 to p95", style.INK, "circle"))
    return Figure("fig-carbon-per-token", "Carbon per output token", caption, plot, told, tuple(keys), wide=True)

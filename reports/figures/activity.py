"""What the hardware does over time: tokens, sequences, memory and the GPUs' hours."""

import numpy as np
import plotly.graph_objects as go

from afterwatt.reports.columns import Floats
from afterwatt.reports.figures import style
from afterwatt.reports.figures.style import Figure, Key, TimeUnit
from afterwatt.reports.format import number, percent, quantity
from afterwatt.reports.rundir import Run
from afterwatt.reports.series import RunSeries


def steps(x: Floats, y: Floats, name: str, colour: str, **more: object) -> go.Scatter:
    """Draw means over bins as steps: ``x`` holds the bins' edges, one more than there are values."""
    return go.Scatter(
        x=x.astype(np.float32),
        y=np.append(y, y[-1]).astype(np.float32),
        name=name,
        legendgroup=name,
        mode="lines",
        **{"line": {"color": colour, "width": 1.6, "shape": "hv"}, **more},
    )


def _x(unit: TimeUnit, series: RunSeries) -> dict[str, object]:
    return {"title": unit.title, "range": [0, float(series.edges_s[-1] / unit.seconds)]}


def activity(run: Run, series: RunSeries) -> list[Figure]:
    """Draw throughput, queue and batch, KV use, and the share of time per state, as far as they are known."""
    if not len(series):
        return []
    unit = style.time_unit(float(series.edges_s[-1]))
    found = []
    if series.knows("prompt_tokens", "output_tokens"):
        found.append(_throughput(series, unit))
    if run.knows("requests", "arrival_s", "finish_s"):
        found.append(_requests(run, series, unit))
    if series.knows("batch_mean", "waiting_mean"):
        found.append(_queue(series, unit))
    if series.knows("kv_used_frac"):
        found.append(_kv(series, unit))
    if series.knows("prefill_s", "decode_s", "idle_s"):
        found.append(_states(series, unit))
    return found


def _throughput(series: RunSeries, unit: TimeUnit) -> Figure:
    edges = series.edges_s / unit.seconds
    prompt, output = series.rate("prompt_tokens"), series.rate("output_tokens")
    plot = style.figure(x=_x(unit, series), y={"title": "tokens per second", "rangemode": "tozero"})
    hover = "%{y:.4g} tokens/s at %{x:.4g} " + unit.name
    prefill, decode = style.STATE_COLOURS["prefill"], style.STATE_COLOURS["decode"]
    plot.add_trace(steps(edges, prompt, "prompt tokens read", prefill, hovertemplate=hover))
    plot.add_trace(steps(edges, output, "output tokens written", decode, hovertemplate=hover))
    mean_in, mean_out = (float(np.dot(rate, series.length_s) / series.length_s.sum()) for rate in (prompt, output))
    caption = f"On average {number(mean_in)} prompt and {number(mean_out)} output tokens per second; {series.rule()}."
    return Figure(
        "fig-throughput", "Throughput", caption, plot, f"Prompt and output tokens per second over time. {caption}",
        (Key("prompt tokens read", prefill, "line", "prompt tokens read"),
         Key("output tokens written", decode, "line", "output tokens written")),
    )  # fmt: skip


def _requests(run: Run, series: RunSeries, unit: TimeUnit) -> Figure:
    bins = max(1, len(series) // 4)  # requests are few: wider bins than the timeline's
    edges = np.linspace(0.0, float(series.edges_s[-1]), bins + 1)
    width_s = edges[1] - edges[0]
    rates = []
    for column in ("arrival_s", "finish_s"):
        values = run.column("requests", column)
        rates.append(np.histogram(values[~np.isnan(values)], bins=edges)[0] / width_s)
    plot = style.figure(x=_x(unit, series), y={"title": "requests per second", "rangemode": "tozero"})
    hover = "%{y:.3g} requests/s at %{x:.4g} " + unit.name
    for name, colour, rate in (("arriving", style.GREY, rates[0]), ("finishing", style.GREEN, rates[1])):
        plot.add_trace(steps(edges / unit.seconds, rate, name, colour, hovertemplate=hover))
    peak = float(rates[0].max())
    caption = f"Requests come at up to {number(peak)} per second (bins of {quantity(float(width_s), 's')})."
    return Figure(
        "fig-requests", "Requests arriving and finishing", caption, plot,
        f"Requests arriving and finishing per second over time. {caption}",
        (Key("arriving", style.GREY, "line", "arriving"), Key("finishing", style.GREEN, "line", "finishing")),
    )  # fmt: skip


def _queue(series: RunSeries, unit: TimeUnit) -> Figure:
    edges = series.edges_s / unit.seconds
    running, waiting = series.level("batch_mean"), series.level("waiting_mean")
    plot = style.figure(x=_x(unit, series), y={"title": "sequences", "rangemode": "tozero"})
    hover = "%{y:.3g} sequences at %{x:.4g} " + unit.name
    fill = {"fill": "tozeroy", "fillcolor": style.rgba(style.BLUE, 0.1)}
    plot.add_trace(steps(edges, running, "running (the batch)", style.BLUE, hovertemplate=hover, **fill))
    plot.add_trace(steps(edges, waiting, "waiting (the queue)", style.VERMILLION, hovertemplate=hover))
    of_all = f", all {series.replicas} replicas together" if series.replicas > 1 else ""
    caption = f"At most {number(running.max())} running and {number(waiting.max())} waiting{of_all}."
    return Figure(
        "fig-queue", "Batch and queue", caption, plot, f"Sequences running and waiting over time. {caption}",
        (Key("running (the batch)", style.BLUE, "line", "running (the batch)"),
         Key("waiting (the queue)", style.VERMILLION, "line", "waiting (the queue)")),
    )  # fmt: skip


def _kv(series: RunSeries, unit: TimeUnit) -> Figure:
    edges = series.edges_s / unit.seconds
    mean = 100 * series.level("kv_used_frac") / series.replicas
    plot = style.figure(x=_x(unit, series), y={"title": "KV blocks in use (%)", "range": [0, 105]})
    keys: tuple[Key, ...] = ()
    if series.replicas > 1:
        low, high = (100 * bound for bound in series.range_over_replicas("kv_used_frac"))
        plot.add_trace(steps(edges, low, "range", style.PURPLE, hoverinfo="skip", line={"width": 0, "shape": "hv"}))
        band = {"line": {"width": 0, "shape": "hv"}, "fill": "tonexty", "fillcolor": style.rgba(style.PURPLE, 0.22)}
        plot.add_trace(steps(edges, high, "range", style.PURPLE, hoverinfo="skip", **band))
        keys = (
            Key("mean of replicas", style.PURPLE, "line", "mean"),
            Key("least to most full", style.PURPLE, "area", "range"),
        )
    hover = "%{y:.3g} % of KV blocks at %{x:.4g} " + unit.name
    plot.add_trace(steps(edges, mean, "mean", style.PURPLE, hovertemplate=hover))
    caption = f"The KV cache is at most {percent(float(mean.max()) / 100)} full (means over each point's time)."
    return Figure("fig-kv", "KV cache", caption, plot, f"Share of KV blocks in use over time. {caption}", keys)


def _states(series: RunSeries, unit: TimeUnit) -> Figure:
    edges = series.edges_s / unit.seconds
    whole = series.length_s * series.replicas
    plot = style.figure(x=_x(unit, series), y={"title": "share of GPU time (%)", "range": [0, 100]})
    shares, keys = {}, []
    for state in ("prefill", "decode", "idle"):
        seconds = series.total(f"{state}_s")
        shares[state] = float(seconds.sum() / whole.sum())
        colour = style.STATE_COLOURS[state]
        plot.add_trace(
            steps(
                edges, 100 * seconds / whole, state, colour, stackgroup="states", fillcolor=colour,
                line={"width": 0, "shape": "hv"}, hovertemplate="%{y:.3g} % " + state + " at %{x:.4g} " + unit.name,
            )
        )  # fmt: skip
        keys.append(Key(state, colour, "area", state))
    caption = "Of the GPUs' time " + ", ".join(f"{percent(share)} {state}" for state, share in shares.items()) + "."
    return Figure("fig-states", "What the GPUs are doing", caption, plot, caption, tuple(keys), wide=True)

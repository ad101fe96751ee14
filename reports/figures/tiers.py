"""Runs whose weights lie in several tiers: where the bytes of a token come from, and what iterations wait for."""

import numpy as np
import plotly.graph_objects as go

from afterwatt.reports.figures import style
from afterwatt.reports.figures.activity import steps
from afterwatt.reports.figures.style import Figure, Key
from afterwatt.reports.format import number, percent, prefix_of
from afterwatt.reports.series import RunSeries

PATHS = {
    "hbm_bytes": ("GPU memory", style.BLUE),
    "dram_to_hbm_bytes": ("host memory, across to the GPU", style.SKY),
    "cpu_bytes": ("host memory, by the CPU", style.AMBER),
    "ssd_to_dram_bytes": ("disk", style.VERMILLION),
}
"""Where bytes are read, the fastest first: column -> name and colour."""
WORKS = {
    "gpu_work_s": ("GPU", style.BLUE),
    "cpu_work_s": ("CPU", style.AMBER),
    "link_work_s": ("link to the GPU", style.SKY),
    "disk_work_s": ("disk", style.VERMILLION),
}
"""What may be waited for: column -> name and colour."""


def tiers(series: RunSeries) -> list[Figure]:
    """Draw the bytes per output token by where they are read, and the share of busy time that each tier works."""
    if not series.knows(*PATHS, *WORKS, "output_tokens", "prefill_s", "decode_s"):
        return []
    drawn = (_bytes_by_tier(series), _bottleneck(series))
    return [figure for figure in drawn if figure is not None]


def _bytes_by_tier(series: RunSeries) -> Figure | None:
    tokens = float(series.total("output_tokens").sum())
    each = {name: float(series.total(column).sum()) / tokens for column, (name, _) in PATHS.items()} if tokens else {}
    read = {name: size for name, size in each.items() if size > 0.0}
    if not read:
        return None
    factor, unit = prefix_of(max(read.values()) / 3.0, "B")
    colours = dict(PATHS.values())
    heights = [size / factor for size in reversed(read.values())]
    plot = style.figure(
        x={"title": f"bytes per output token ({unit})", "showgrid": True, "range": [0, 1.35 * max(heights)]},
        y={"title": "", "showgrid": False},
        height_px=70 + 30 * len(read),
        bargap=0.28,
    )
    plot.add_trace(
        go.Bar(
            x=heights,
            y=list(reversed(read)),
            orientation="h",
            marker={"color": [colours[name] for name in reversed(read)]},
            text=[f" {number(height)} {unit}" for height in heights],
            textposition="outside",
            textfont={"color": style.INK, "size": 11.5},
            cliponaxis=False,
            hoverinfo="skip",
        )
    )
    told = ", ".join(f"{name} {number(size / factor)} {unit}" for name, size in read.items())
    caption = "All bytes read per output token, those of prompts included."
    return Figure("fig-tier-bytes", "Where a token's bytes come from", caption, plot, f"{caption} {told}.")


def _bottleneck(series: RunSeries) -> Figure | None:
    busy_s = series.total("prefill_s") + series.total("decode_s")
    if not busy_s.any():
        return None
    unit = style.time_unit(float(series.edges_s[-1]))
    edges = series.edges_s / unit.seconds
    horizon = {"title": unit.title, "range": [0, float(edges[-1])]}
    plot = style.figure(x=horizon, y={"title": "share of the iterations' time (%)", "range": [0, 105]})
    shares, keys = {}, []
    for column, (name, colour) in WORKS.items():
        work_s = series.total(column)
        if not work_s.any():
            continue
        shares[name] = float(work_s.sum() / busy_s.sum())
        resting = np.full(len(busy_s), np.nan)  # a gap in the line
        share = 100.0 * np.minimum(1.0, np.divide(work_s, busy_s, out=resting, where=busy_s > 0.0))
        hover = "%{y:.3g} % " + name + " at %{x:.4g} " + unit.name
        plot.add_trace(steps(edges, share, name, colour, hovertemplate=hover))
        keys.append(Key(name, colour, "line", name))
    slowest = max(shares, key=lambda name: shares[name])
    told = ", ".join(f"{name} {percent(min(1.0, share))}" for name, share in shares.items())
    caption = f"Mostly waited for: {slowest}. Of the time of iterations: {told}."
    return Figure("fig-tier-work", "What iterations wait for", caption, plot, caption, tuple(keys))

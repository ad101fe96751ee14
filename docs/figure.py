"""The README's figure, drawn from real runs: carbon per token against the grid's intensity, under both host shares.

A hand-made SVG, because an image in a README must show without scripts, in light and in dark.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from afterwatt.hwprofiles import load_site
from afterwatt.reports.breakeven import Curve, crossings, curves
from afterwatt.reports.entry import entries
from afterwatt.reports.figures.style import GRID, INK, MUTED, PANEL, RUN_COLOURS
from afterwatt.reports.rundir import load_run

CARDS = ("m40", "l4", "h100-pcie")
COMMAND = ("simulate", *(word for card in CARDS for word in ("--hw", card)), "--trace", "chat.parquet")
SITES = ("fr", "gb", "world", "pl")
WIDTH, HEIGHT = 820, 700
PANEL_HEIGHT = 330
LEFT, RIGHT, TOP, BOTTOM = 64, 118, 62, 46
MOST_G_PER_KWH = 800.0
TITLES = {
    "slots": "a server counts by its slots in use",
    "whole": "the whole server counts, as if nothing else ran there",
}
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'


class Scale(NamedTuple):
    """Where a grid intensity and a carbon figure stand in a panel that begins at some height, in pixels."""

    most: float
    begin: float = 0.0

    def x(self, intensity: float) -> float:
        """From g/kWh."""
        return LEFT + intensity / MOST_G_PER_KWH * (WIDTH - LEFT - RIGHT)

    def y(self, grams: float) -> float:
        """From grams per token."""
        return self.begin + PANEL_HEIGHT - BOTTOM - grams / self.most * (PANEL_HEIGHT - TOP - BOTTOM)


def text(x: float, y: float, words: str, colour: str = INK, anchor: str = "start", extra: str = "") -> str:
    """Return a line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, extra: str = "") -> str:
    """Return a straight line."""
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" fill="none"{extra}/>'


def axes(scale: Scale, step_mg: float, title: str) -> list[str]:
    """Return the grid, the panel's title and the places that stand at some intensities."""
    parts = []
    floor, top = scale.y(0.0), scale.begin + TOP
    steps = int(scale.most * 1e3 / step_mg + 1e-9)
    for number in range(steps + 1):
        height = scale.y(number * step_mg / 1e3)
        parts.append(line(LEFT, height, WIDTH - RIGHT, height, GRID))
        parts.append(text(LEFT - 8, height + 4, f"{number * step_mg:g}", MUTED, "end"))
    ticks = range(0, int(MOST_G_PER_KWH) + 1, 100)
    parts += [text(scale.x(tick), floor + 18, str(tick), MUTED, "middle") for tick in ticks]
    for key in SITES:
        site = load_site(key)
        at = scale.x(float(site.intensity_gco2e_per_kwh("lifecycle")))
        parts.append(line(at, top, at, floor, MUTED, ' stroke-dasharray="2 4"'))
        parts.append(text(at, top - 6, site.name, MUTED, "middle"))
    parts.append(text(LEFT - 44, top - 26, f"mg CO₂e per output token: {title}", extra=' font-weight="600"'))
    return parts


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move labels apart so that none is closer than `gap` to the next; the order is kept."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = list(heights)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    return placed


def lines(scale: Scale, group: Sequence[Curve]) -> list[str]:
    """Return each card's line, its label at the right end."""
    ends = [(MOST_G_PER_KWH, curve.at(MOST_G_PER_KWH)) for curve in group]
    labels = spread([scale.y(grams) for _, grams in ends], 17)
    parts = []
    for curve, (x, grams), label, colour in zip(group, ends, labels, RUN_COLOURS, strict=False):
        parts.append(
            line(scale.x(0), scale.y(curve.at(0.0)), scale.x(x), scale.y(grams), colour, ' stroke-width="2.5"')
        )
        parts.append(text(scale.x(x) + 8, label + 4, curve.label, colour, extra=' font-weight="600"'))
    return parts


def marks(scale: Scale, group: Sequence[Curve]) -> list[str]:
    """Return a dot and a sentence at each crossing that changes the best choice, or that there is none."""
    found = [meet for meet in crossings(group) if meet.decides and meet.x < MOST_G_PER_KWH]
    height = scale.begin + TOP + 0.3 * (PANEL_HEIGHT - TOP - BOTTOM)
    if not found:
        lowest = min(group, key=lambda curve: curve.at(MOST_G_PER_KWH))
        return [text(scale.x(20), height, f"no crossing here: {lowest.label} is lowest throughout")]
    parts = []
    for place, meet in enumerate(found):
        x, y, at = scale.x(meet.x), scale.y(meet.gco2e), height + 20 * place
        words = f"{meet.x:.0f} g/kWh: below it {meet.below} is lowest, above it {meet.above}"
        parts.append(line(x, y, x, at + 6, INK, ' stroke-width="1"'))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{INK}"/>')
        parts.append(text(x - 4, at, words))
    return parts


def panel(group: Sequence[Curve], begin: float, title: str) -> list[str]:
    """Return one panel, with a grid of its own."""
    highest = max(curve.at(MOST_G_PER_KWH) for curve in group) * 1e3
    step_mg = next(step for step in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0) if highest / step <= 7)
    scale = Scale((int(highest / step_mg) + 1) * step_mg / 1e3, begin)
    return [*axes(scale, step_mg, title), *lines(scale, group), *marks(scale, group)]


def draw(panels: Mapping[str, Sequence[Curve]], caption: str) -> str:
    """Return the picture as SVG: a panel per host share."""
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="13" {FONT}>',
        f"<title>{escape(caption)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="{PANEL}"/>',
    ]
    for place, (share, group) in enumerate(panels.items()):
        parts += panel(group, place * PANEL_HEIGHT, TITLES[share])
    parts += [
        text(
            middle,
            HEIGHT - 28,
            "grid intensity, gCO₂e per kWh; the hardware's own footprint is included",
            INK,
            "middle",
        ),
        text(LEFT - 44, HEIGHT - 8, caption, MUTED, extra=' font-size="11"'),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def of_runs(folders: Sequence[Path], caption: str) -> str:
    """Return the picture of runs, cards by name and without their software."""
    group = entries([load_run(folder) for folder in folders])
    panels = {}
    for share in TITLES:
        found = [curves(entry, entry.choice._replace(host_share=share)) for entry in group if entry.choice]
        named = zip(found, group, strict=True)
        panels[share] = [
            one.intensity._replace(label=entry.summary.hardware) for one, entry in named if one is not None
        ]
    return draw(panels, caption)


def breakeven() -> str:
    """Simulate the cards on the shipped sample, and draw what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "runs"
        program = str(Path(sys.executable).with_name(COMMAND[0]))
        command = [program, *COMMAND[1:], "--no-report", "--json", "--out", str(out)]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        runs = [path.parent for path in sorted(out.rglob("summary.json"))]
        runs.sort(key=lambda run: CARDS.index(json.loads((run / "summary.json").read_text())["hardware"]))
        return of_runs(runs, " ".join(COMMAND))


if __name__ == "__main__":
    sys.stdout.write(of_runs([Path(name) for name in sys.argv[2:]], sys.argv[1]))

"""The parity plot: predicted over measured for every point, one panel per kind of figure. A hand-made, static SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Final

from afterwatt.fidelity.points.score import RATES, Scored
from afterwatt.reports.figures.style import GRID, INK, MUTED, PANEL, RUN_COLOURS

SIDE: Final = 300
GAP: Final = 62
TOP: Final = 74
LEFT: Final = 62
LEGEND: Final = 22
NEAR: Final = 1.25
"""Factor of the band about equality."""
FONT: Final = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'


@dataclass(frozen=True, slots=True)
class _Panel:
    """A square of log-log axes over whole decades."""

    title: str
    unit: str
    left: float
    low: int
    high: int

    def at(self, value: float) -> float:
        """Return how far along an axis a value lies, in pixels."""
        return min(max((log10(value) - self.low) / (self.high - self.low), 0.0), 1.0) * SIDE

    def x(self, value: float) -> float:
        return self.left + self.at(value)

    def y(self, value: float) -> float:
        return TOP + SIDE - self.at(value)


def parity_plot(found: Sequence[Scored], caption: str) -> str:
    """Return the picture as SVG.

    Args:
        found: predictions beside measurements.
        caption: what they are.
    """
    kinds = (
        ("rates", "tokens/s", [one for one in found if one.scenario.metric in RATES]),
        ("latencies", "s", [one for one in found if one.scenario.metric in ("ttft_s", "tpot_s")]),
        ("energy", "J/token", [one for one in found if one.scenario.metric == "energy_j_per_tok"]),
    )
    shown = [(title, unit, members) for title, unit, members in kinds if members]
    stacks = _by_size(found)
    colours = {name: RUN_COLOURS[min(place, len(RUN_COLOURS) - 1)] for place, name in enumerate(stacks)}
    width = LEFT + len(shown) * (SIDE + GAP)
    legend = _legend(stacks, colours, width)
    height = TOP + SIDE + 64 + legend.count("<circle") // 5 * LEGEND + LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-size="13" {FONT}>',
        f"<title>{escape(caption)}</title>",
        f'<rect width="{width}" height="{height}" rx="10" fill="{PANEL}"/>',
        _text(LEFT - 38, 26, caption, INK, extra=' font-weight="600"'),
    ]
    for place, (title, unit, members) in enumerate(shown):
        values = [value for one in members for value in (one.predicted, one.scenario.measured)]
        low, high = floor(log10(min(values))), ceil(log10(max(values)))
        panel = _Panel(title, unit, LEFT + place * (SIDE + GAP), low, max(high, low + 1))
        parts += [*_axes(panel), *_dots(panel, members, colours)]
    return "\n".join([*parts, legend, "</svg>"]) + "\n"


def _by_size(found: Sequence[Scored]) -> list[str]:
    """Return the stacks, those with most points first."""
    counts: dict[str, int] = {}
    for one in found:
        counts[one.scenario.stack] = counts.get(one.scenario.stack, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))


def _axes(panel: _Panel) -> list[str]:
    floor_y = TOP + SIDE
    parts = []
    for decade in range(panel.low, panel.high + 1):
        value = 10.0**decade
        x, y = panel.x(value), panel.y(value)
        parts += [_line(x, TOP, x, floor_y, GRID), _line(panel.left, y, panel.left + SIDE, y, GRID)]
        label = f"{value / 1000:g}k" if 3 <= decade <= 5 else f"{value:g}" if -4 <= decade < 3 else f"1e{decade}"
        parts += [_text(x, floor_y + 18, label, MUTED, "middle"), _text(panel.left - 7, y + 4, label, MUTED, "end")]
    least, most = 10.0**panel.low, 10.0**panel.high
    parts.append(_line(panel.x(least), panel.y(least), panel.x(most), panel.y(most), INK))
    for factor in (NEAR, 1.0 / NEAR):
        begin, end = (least, most / factor) if factor > 1.0 else (least / factor, most)
        parts.append(
            _line(
                panel.x(begin),
                panel.y(begin * factor),
                panel.x(end),
                panel.y(end * factor),
                MUTED,
                ' stroke-dasharray="3 4"',
            )
        )
    middle = panel.left + SIDE / 2
    parts.append(_text(middle, floor_y + 38, f"measured {panel.title}, {panel.unit}", INK, "middle"))
    parts.append(_text(panel.left, TOP - 12, f"predicted, {panel.unit}", INK))
    return parts


def _dots(panel: _Panel, members: Sequence[Scored], colours: dict[str, str]) -> list[str]:
    return [
        f'<circle cx="{panel.x(one.scenario.measured):.1f}" cy="{panel.y(one.predicted):.1f}" r="3.2" '
        f'fill="{colours[one.scenario.stack]}" fill-opacity="0.75"/>'
        for one in members
    ]


def _legend(stacks: Sequence[str], colours: dict[str, str], width: float) -> str:
    parts = []
    per_row = 6
    step = (width - LEFT) / per_row
    for place, name in enumerate(stacks):
        x = LEFT - 38 + place % per_row * step
        y = TOP + SIDE + 62 + place // per_row * LEGEND
        parts.append(f'<circle cx="{x + 5:.1f}" cy="{y - 4:.1f}" r="4" fill="{colours[name]}"/>')
        parts.append(_text(x + 15, y, name, MUTED))
    return "\n".join(parts)


def _text(x: float, y: float, words: str, colour: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, extra: str = "") -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" fill="none"{extra}/>'

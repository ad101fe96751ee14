"""The look of every figure: one small colour system, one layout, one way to say what an axis measures.

Figures are built in the light palette; the page swaps each colour for its dark twin (``DARK_TWINS``) where the reader's
system asks for dark. Titles, captions and legends are HTML around the figure, so that they wrap and can be read aloud.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import plotly.graph_objects as go

from afterwatt.reports.entry import IN_WORDS
from afterwatt.reports.format import setting

INK = "#1f2a30"
MUTED = "#5b6770"
GRID = "#e4e1d9"
PANEL = "#ffffff"

BLUE, VERMILLION, GREEN, PURPLE = "#0069a8", "#c8501e", "#00805e", "#9c4f96"
AMBER, SKY, OLIVE, GREY = "#b07900", "#4c9fcf", "#6b7300", "#6b7280"
RUN_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, AMBER, SKY, OLIVE, GREY)
RUN_DASHES = ("solid", "dash", "dot", "dashdot")
RUN_SYMBOLS = ("circle", "diamond", "square", "triangle-up")

OPERATIONAL, EMBODIED = "#c8501f", "#4a55a8"
STATE_COLOURS = {"prefill": "#0069a9", "decode": "#d98c00", "idle": "#b8bdc2", "off": "#dcdfe2"}
COMPONENT_COLOURS = {
    "gpu": "#332288",
    "cpu": "#88ccee",
    "dram": "#44aa99",
    "fans": "#117733",
    "storage": "#999933",
    "nic": "#ddcc77",
    "board": "#cc6677",
    "psu": "#882255",
    "facility": "#9aa0a6",
    "standby": "#d0d4d8",
}
COMPONENT_NAMES = {
    "gpu": "GPU",
    "cpu": "CPU",
    "dram": "DRAM",
    "fans": "fans",
    "storage": "storage",
    "nic": "network card",
    "board": "board",
    "psu": "power supply loss",
    "facility": "facility (PUE)",
    "standby": "standby, reserved but off",
}
STATE_NAMES = {"prefill": "prefill", "decode": "decode", "idle": "idle", "off": "off, but reserved"}
DARK_TWINS = {
    INK: "#e9e6df",
    MUTED: "#a6b0b8",
    GRID: "#2d373e",
    PANEL: "#1a2127",
    BLUE: "#5ab4f0",
    VERMILLION: "#ff8f61",
    GREEN: "#3fc79a",
    PURPLE: "#d99ad3",
    AMBER: "#f0b83c",
    SKY: "#9bd6f9",
    OLIVE: "#b9c24a",
    GREY: "#a8b0ba",
    OPERATIONAL: "#ff8f62",
    EMBODIED: "#98a2f2",
    "#0069a9": "#5ab4f1",
    "#d98c00": "#f0b83d",
    "#b8bdc2": "#566069",
    "#dcdfe2": "#343d44",
    "#d0d4d8": "#3e4850",
    "#332288": "#8c7ee6",
    "#117733": "#3da563",
    "#999933": "#b8b84d",
    "#cc6677": "#dc7e8d",
    "#882255": "#c45a92",
    "#9aa0a6": "#6f7880",
}
"""Light colour to dark; a colour without a twin serves in both."""


AXIS: dict[str, Any] = {
    "gridcolor": GRID,
    "linecolor": GRID,
    "zeroline": False,
    "ticks": "",
    "automargin": True,
    "title_standoff": 8,
    "title_font_size": 12,
    "tickfont_size": 11.5,
}
"""What all axes have in common."""


class Key(NamedTuple):
    """One entry of a figure's legend, and the traces it switches (their ``legendgroup``)."""

    name: str
    colour: str
    shape: str = "area"  # area | hatch | line | dash | dot | dashdot | ring | circle | diamond | square | triangle-up
    group: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure with everything the page says around it.

    Attributes:
        key: its id in the page.
        title: what it shows.
        caption: what to see in it, in a sentence.
        plot: the plotly figure.
        keys: its legend; empty where the axes name everything.
        alt: what a reader who cannot see it should know.
        wide: takes the page's whole width.
    """

    key: str
    title: str
    caption: str
    plot: go.Figure
    alt: str
    keys: tuple[Key, ...] = ()
    wide: bool = False

    def counted(self, share: str, headline: str) -> "Figure":
        """Return the figure as one of two, its title with the host share that it is counted by.

        Args:
            share: how much of its servers each run answers for.
            headline: the same of the first of the two, whose key stays as it is.
        """
        key = self.key if share == headline else f"{self.key}-{share}"
        return replace(self, key=key, title=f"{self.title}, {IN_WORDS[share]}", wide=False)

    @property
    def height_px(self) -> int:
        """Its height on the page."""
        return int(self.plot.layout.height)


def figure(x: dict[str, Any], y: dict[str, Any], height_px: int = 280, **layout: object) -> go.Figure:
    """Start a figure with the common layout; ``x`` and ``y`` are plotly axis settings and must hold a title."""
    assert x["title"]
    assert y["title"] is not None
    return go.Figure(
        layout={
            "height": height_px,
            "margin": {"l": 10, "r": 16, "t": 10, "b": 10},
            "showlegend": False,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "inherit", "size": 12, "color": MUTED},
            "hovermode": "closest",
            "hoverlabel": {"bgcolor": PANEL, "bordercolor": GRID, "font": {"color": INK, "size": 12}},
            "dragmode": False,
            "template": "none",
            "xaxis": AXIS | {"showgrid": False} | x,
            "yaxis": AXIS | y,
            **layout,
        }
    )


def log_ticks(low: float, high: float) -> list[float]:
    """Give round ticks that lie in a range on a logarithmic axis: decades, or 1-2-5 where these are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [10.0**k for k in decades if low <= 10.0**k <= high]
    if len(ticks) > 7:
        return ticks[:: math.ceil(len(ticks) / 6)]
    if len(ticks) >= 3:
        return ticks
    for steps in ((1, 2, 5), (1, 5), (1,)):
        ticks = [m * 10.0**k for k in decades for m in steps if low <= m * 10.0**k <= high]
        if len(ticks) <= 6:
            break
    return ticks or [low]


WIDE_RANGE = 6.0
"""From this ratio of the highest to the lowest value on, an axis is logarithmic."""


def value_axis(title: str, unit: str, low: float, high: float) -> dict[str, Any]:
    """Set up a vertical axis of positive values: from zero, or logarithmic where they lie far apart."""
    if low <= 0 or high < WIDE_RANGE * low:
        return {"title": f"{title} ({unit})", "range": [0, 1.2 * high]}
    ends = low / 1.6, high * 1.6
    ticks = log_ticks(*ends)
    return {
        "type": "log",
        "title": f"{title} ({unit}, logarithmic)",
        "range": [math.log10(end) for end in ends],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def place_on(axis: go.layout.XAxis | go.layout.YAxis, value: float) -> float:
    """Give where an annotation stands on an axis: plotly wants its logarithm on a logarithmic one."""
    return math.log10(value) if axis.type == "log" else value


def log_time_axis(title: str, low_s: float, high_s: float) -> dict[str, Any]:
    """Set up a logarithmic axis of seconds whose ticks read "10 ms", "1 s"; the unit is written at every tick."""
    margin = max((high_s / low_s) ** 0.06 * 1.04, (2.5 * low_s / high_s) ** 0.5)  # a single value gets room around it
    low_s, high_s = low_s / margin, high_s * margin
    ticks = log_ticks(low_s, high_s)
    return {
        "type": "log",
        "title": title,
        "range": [math.log10(low_s), math.log10(high_s)],
        "tickvals": ticks,
        "ticktext": [tick_text_s(tick) for tick in ticks],
        "showgrid": True,
    }


def tick_text_s(value_s: float) -> str:
    """Write the time at a tick."""
    return setting(value_s) if value_s < 1 else f"{value_s:,.0f} s"


class TimeUnit(NamedTuple):
    """How to count the time of a run on an axis."""

    seconds: float
    name: str

    @property
    def title(self) -> str:
        """The axis title."""
        return f"time since start ({self.name})"


def time_unit(length_s: float) -> TimeUnit:
    """Choose seconds, minutes, hours or days for an axis of this length."""
    for seconds, name, most in ((1.0, "s", 180.0), (60.0, "min", 3 * 3600.0), (3600.0, "h", 72 * 3600.0)):
        if length_s <= most:
            return TimeUnit(seconds, name)
    return TimeUnit(86_400.0, "days")


def rgba(colour: str, alpha: float) -> str:
    """Give a ``#rrggbb`` colour with transparency; the page's dark twins are found in this form too."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def run_colour(place: int) -> str:
    """Give the colour of the n-th run."""
    return RUN_COLOURS[place % len(RUN_COLOURS)]


def run_dash(place: int) -> str:
    """Give the line style of the n-th run: it changes when the colours start again."""
    return RUN_DASHES[place // len(RUN_COLOURS) % len(RUN_DASHES)]


def run_symbol(place: int) -> str:
    """Give the marker of the n-th run: shape and colour together repeat after 32 runs, colour alone after 8."""
    return RUN_SYMBOLS[(place + place // len(RUN_COLOURS)) % len(RUN_SYMBOLS)]


def run_key(name: str, place: int, lines: bool = True) -> Key:
    """Give the legend entry of the n-th run, as a line or as a marker."""
    dash = run_dash(place)
    return Key(name, run_colour(place), ("line" if dash == "solid" else dash) if lines else run_symbol(place), name)

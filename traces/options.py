"""What a caller may ask of a trace beyond its file: a rate, a cut, an order, a unit."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, fields
from urllib.parse import parse_qsl

from afterwatt.traces.errors import TraceError, shown
from afterwatt.traces.peek import closest
from afterwatt.traces.schema import MAX_TOKENS

UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Ticks per second of the units an arrival column may be said to be in."""

_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Options:
    """Wishes about a trace. Each is refused by formats it makes no sense for.

    Attributes:
        seed: root of everything drawn (arrivals of formats that have none, ServeGen's requests, synthesis).
        rate_per_s: mean arrival rate wanted. Stretches the clock of a recorded trace, draws the arrivals of one
            without, scales a generator. None keeps what the file says.
        cv: coefficient of variation of drawn gaps (Gamma renewals; 1 is Poisson, 0 evenly spaced).
        requests: keep at most so many requests from the start.
        duration_s: keep only requests that arrive within so many seconds of the first.
        start_s: where in a rate table (ServeGen) to begin, in seconds from its own start.
        unit: unit of the arrival column (s, ms, us, ns), where its writer used another than the format's.
        block_tokens: tokens per prefix block, where the writer used other blocks than the format's.
        sort: put unsorted rows in order of arrival (stable), holding the trace in memory.
        drop_empty: leave out requests without prompt or output tokens, counted in the notes.
        lengths: a second file with length tables, where a format needs one and it is not found beside the first.
        arrival_column, prompt_column, output_column: of a log of the user's own; then nothing is recognised.
        class_column, session_column: the same, where there are such.
    """

    seed: int = 0
    rate_per_s: float | None = None
    cv: float | None = None
    requests: int | None = None
    duration_s: float | None = None
    start_s: float = 0.0
    unit: str | None = None
    sort: bool = False
    _: KW_ONLY
    drop_empty: bool = False
    lengths: str | None = None
    block_tokens: int | None = None
    arrival_column: str | None = None
    prompt_column: str | None = None
    output_column: str | None = None
    class_column: str | None = None
    session_column: str | None = None

    @property
    def names_columns(self) -> bool:
        """Whether the user says which column is which."""
        return any(getattr(self, field.name) is not None for field in fields(self) if field.name.endswith("_column"))

    def __post_init__(self) -> None:
        """Refuse values no trace could honour."""
        _require(self.seed >= 0, "seed", self.seed, "is negative; seeds are whole numbers from 0")
        if self.rate_per_s is not None:
            sound = math.isfinite(self.rate_per_s) and self.rate_per_s > 0
            _require(sound, "rate", self.rate_per_s, "is not a positive number of requests per second")
        if self.cv is not None:
            _require(0 <= self.cv <= 100, "cv", self.cv, "lies outside 0..100; 1 is Poisson, 0 evenly spaced")
        if self.requests is not None:
            _require(self.requests >= 1, "requests", self.requests, "is below 1; ask for at least one request")
        if self.duration_s is not None:
            sound = math.isfinite(self.duration_s) and self.duration_s > 0
            _require(sound, "duration", self.duration_s, "is not a positive number of seconds")
        _require(math.isfinite(self.start_s) and self.start_s >= 0, "start", self.start_s, "is not a time from 0 on")
        if self.block_tokens is not None:
            _require(
                1 <= self.block_tokens <= MAX_TOKENS, "block", self.block_tokens, "is no number of tokens from 1 on"
            )
        if self.unit is not None:
            _require(self.unit in UNITS, "unit", self.unit, f"is not one of {', '.join(UNITS)}")


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise TraceError(f"{name} = {shown(value)} {rule}")


_NAMES = {
    "seed": "seed",
    "rate": "rate_per_s",
    "cv": "cv",
    "n": "requests",
    "requests": "requests",
    "duration": "duration_s",
    "start": "start_s",
    "unit": "unit",
    "sort": "sort",
    "drop_empty": "drop_empty",
    "lengths": "lengths",
    "block": "block_tokens",
    "arrival": "arrival_column",
    "prompt": "prompt_column",
    "output": "output_column",
    "class": "class_column",
    "session": "session_column",
}


def split_query(address: str) -> tuple[str, dict[str, str]]:
    """Split `file.csv?rate=5&seed=1` at the question mark.

    Raises:
        TraceError: where the part behind it is not name=value pairs, or gives a name twice.
    """
    place, mark, query = address.partition("?")
    if not mark:
        return address, {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=50)
    except ValueError as error:
        raise TraceError(f"{shown(query)} is not a list like rate=5&seed=1", path=place) from error
    if len(dict(pairs)) < len(pairs):
        raise TraceError(f"{shown(query)} gives a name twice; say each once", path=place)
    return place, dict(pairs)


def options_from_query(place: str, query: dict[str, str]) -> dict[str, object]:
    """Typed option values (by field name of Options) from the text behind a question mark.

    Raises:
        TraceError: on an unknown name or a value of the wrong kind.
    """
    kinds = {field.name: str(field.type) for field in fields(Options)}
    values: dict[str, object] = {}
    for name, text in query.items():
        if name not in _NAMES:
            known = ", ".join(_NAMES)
            raise TraceError(f"unknown option '{name}'{closest(name, tuple(_NAMES))}; known: {known}", path=place)
        values[_NAMES[name]] = parse_value(place, name, text, kinds[_NAMES[name]])
    return values


def parse_value(place: str, name: str, text: str, kind: str) -> object:
    """One option's text as the type its annotation names (bool, int, float or str).

    Raises:
        TraceError: where it is not of that type.
    """
    try:
        if kind.startswith("bool"):
            return _FLAGS[text.lower()]
        if kind.startswith("int"):
            return int(text)
        return float(text) if kind.startswith("float") else text
    except (ValueError, KeyError):
        what = "yes or no" if kind.startswith("bool") else "a whole number" if kind.startswith("int") else "a number"
        raise TraceError(f"{name} = {shown(text)} is not {what}", path=place) from None

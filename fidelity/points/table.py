"""A table of measured points: a CSV with the columns of `COLUMNS`, one published or own measurement a row.

    source,url_or_id,hardware,num_gpus,model,params_b,weight_precision,batch,prompt_tokens,output_tokens,metric,value,
    offload,notes

What is not known stays empty; `batch`, `prompt_tokens` and `output_tokens` may be words ("~350-930", "ShareGPT"), as
sources write them. `fidelity.points.scenario` makes a run of a row.
"""

import csv
import hashlib
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

COLUMNS: Final = (
    "source",
    "url_or_id",
    "hardware",
    "num_gpus",
    "model",
    "params_b",
    "weight_precision",
    "batch",
    "prompt_tokens",
    "output_tokens",
    "metric",
    "value",
    "offload",
    "notes",
)
REQUIRED: Final = ("hardware", "model", "metric", "value")
"""Columns that must be there and filled in; the others may be empty, or missing altogether."""
METRICS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "decode_tok_s": (1e-4, 1e7),
        "prefill_tok_s": (1e-4, 1e8),
        "throughput_tok_s": (1e-4, 1e8),
        "throughput_req_s": (1e-6, 1e6),
        "ttft_s": (1e-6, 1e5),
        "tpot_s": (1e-6, 1e4),
        "energy_j_per_tok": (1e-5, 1e6),
    }
)
"""What can be measured, and the bounds outside of which a value is a slip of the unit (in that metric's own unit)."""
OFFLOADS: Final = ("none", "dram", "ssd")
MAX_GPUS: Final = 4096
MAX_PARAMS_B: Final = 100_000.0
MAX_TEXT: Final = 2000
MAX_ROWS: Final = 1_000_000


class PointsError(ValueError):
    """A table of points that cannot be read; the text names file, row, column, value, rule and way out."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured point, as published.

    Attributes:
        row: line of the table it begins on; the header is line 1.
        source, url_or_id: who measured it, and where that stands.
        hardware: the card in words.
        num_gpus: how many; None if not stated.
        model: in words; params_b: billions of parameters, None if not stated.
        weight_precision: in words.
        batch, prompt_tokens, output_tokens: as text: a number, a range, a data set, or empty.
        metric: one of `METRICS`; value: in the unit that the metric's name ends in.
        offload: `none`, `dram` or `ssd`: where weights lie that are not on the GPU.
        notes: remarks.
    """

    row: int
    source: str
    url_or_id: str
    hardware: str
    num_gpus: int | None
    model: str
    params_b: float | None
    weight_precision: str
    batch: str
    prompt_tokens: str
    output_tokens: str
    metric: str
    value: float
    offload: str = "none"
    notes: str = ""


@dataclass(frozen=True, slots=True)
class PointTable:
    """A table of points.

    Attributes:
        path: where it was read.
        points: its rows, in order.
        sha256: of the file's bytes: what a fit was made of.
    """

    path: str
    points: tuple[Point, ...]
    sha256: str


def read_points(path: str | Path) -> PointTable:
    """Read a table of measured points.

    Args:
        path: a CSV in UTF-8 with a header; columns in any order.

    Raises:
        PointsError: the file cannot be read, a column is missing or unknown, or a value breaks its rule.
    """
    name = str(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise PointsError(f"cannot read {name}: {error.strerror or error}; give a CSV of measured points") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PointsError(f"{name} is not UTF-8 at byte {error.start}; save it as UTF-8 text") from None
    points = tuple(_rows(name, text))
    if not points:
        raise PointsError(f"{name} holds no point below its header; add a row for each measurement")
    return PointTable(name, points, hashlib.sha256(raw).hexdigest())


def _rows(name: str, text: str) -> list[Point]:
    if "\0" in text:
        raise PointsError(f"{name} holds a zero byte, so it is no text; save it as a CSV in UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    points: list[Point] = []
    header: tuple[str, ...] | None = None
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if header is None:
                    header = _header(name, cells)
                else:
                    points.append(_point(name, line, header, cells))
            line = reader.line_num + 1
            if len(points) > MAX_ROWS:
                raise PointsError(f"{name} holds more than {MAX_ROWS:,} rows; split it")
    except csv.Error as error:
        raise PointsError(f"{name}, row {line}: {error}; quote text that holds commas or quotes") from None
    if header is None:
        raise PointsError(f"{name} is empty; its first line must be: {','.join(COLUMNS)}")
    return points


def _header(name: str, cells: list[str]) -> tuple[str, ...]:
    names = tuple(cell.strip() for cell in cells)
    for column in names:
        if column not in COLUMNS:
            raise PointsError(f"{name}: column {column[:60]!r} is not known; the columns are {', '.join(COLUMNS)}")
        if names.count(column) > 1:
            raise PointsError(f"{name}: column {column!r} stands twice in the header; keep one")
    if missing := [column for column in REQUIRED if column not in names]:
        raise PointsError(f"{name}: column {missing[0]!r} is missing; the columns are {', '.join(COLUMNS)}")
    return names


def _point(name: str, line: int, header: tuple[str, ...], cells: list[str]) -> Point:
    if len(cells) != len(header):
        raise PointsError(
            f"{name}, row {line}: {len(cells)} cells under {len(header)} columns; quote text that holds commas"
        )
    values = dict.fromkeys(COLUMNS, "") | dict(zip(header, (cell.strip() for cell in cells), strict=True))

    def wrong(column: str, rule: str) -> PointsError:
        return PointsError(f"{name}, row {line}, column {column}: {values[column][:60]!r} {rule}")

    for column in REQUIRED:
        if not values[column]:
            raise wrong(column, "is empty; fill it in or remove the row")
    for column, value in values.items():
        if len(value) > MAX_TEXT:
            raise wrong(column, f"... is longer than {MAX_TEXT} characters; shorten it")
    metric = values["metric"]
    if metric not in METRICS:
        raise wrong("metric", f"is no metric; write one of {', '.join(METRICS)}")
    offload = values["offload"].lower() or "none"
    if offload not in OFFLOADS:
        raise wrong("offload", f"is not known; write one of {', '.join(OFFLOADS)}")
    low, high = METRICS[metric]
    count = _number(values, "num_gpus", 1, MAX_GPUS, wrong)
    if count is not None and count != int(count):
        raise wrong("num_gpus", "must be a whole number")
    measured = _number(values, "value", low, high, wrong)
    assert measured is not None
    return Point(
        row=line,
        source=values["source"],
        url_or_id=values["url_or_id"],
        hardware=values["hardware"],
        num_gpus=None if count is None else int(count),
        model=values["model"],
        params_b=_number(values, "params_b", 1e-3, MAX_PARAMS_B, wrong),
        weight_precision=values["weight_precision"],
        batch=values["batch"],
        prompt_tokens=values["prompt_tokens"],
        output_tokens=values["output_tokens"],
        metric=metric,
        value=measured,
        offload=offload,
        notes=values["notes"],
    )


def _number(
    values: Mapping[str, str], column: str, low: float, high: float, wrong: Callable[[str, str], PointsError]
) -> float | None:
    """Return a cell as a number within bounds; None where it is empty."""
    text = values[column]
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        raise wrong(column, "is not a number; write it with a decimal point and no unit") from None
    if not (math.isfinite(number) and low <= number <= high):
        raise wrong(column, f"must lie in {low:g} to {high:,g}; check its unit")
    return number

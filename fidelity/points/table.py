"""A table of measured points: a CSV with columns of `Point`, one published or own measurement a row.

    source,device,stack,model,precision,batch,prompt_tokens,output_tokens,metric,value

An empty cell is a fact that holds as usual (the column's default), or that there is no such thing. `PUBLISHED` is the
table of published measurements: every fact of a row is resolved there into a column, with what was assumed where its
source leaves one open. `fidelity.points.scenario` makes a run of a row.
"""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from afterwatt.modelspecs.files import check_small

PUBLISHED: Final = Path(__file__).parents[1] / "data" / "points.csv"
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
MAX_TEXT: Final = 2000
MAX_ROWS: Final = 1_000_000
MOST_REQUESTS: Final = 20_000
MARK: Final = " | "
"""Between two assumptions of a row."""


class PointsError(ValueError):
    """A table of points that cannot be read; the text names file, row, column, value, rule and way out."""


Metric = Literal[
    "decode_tok_s", "prefill_tok_s", "throughput_tok_s", "throughput_req_s", "ttft_s", "tpot_s", "energy_j_per_tok"
]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Count = Annotated[int, Field(ge=1, le=MOST_REQUESTS)]
Tokens = Annotated[float, Field(ge=1.0, le=1e7)]


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Point:
    """One measured point.

    Attributes:
        row: line of the table it begins on; the header is line 1.
        source, url, checked: who measured it, where that stands, and the day it was read.
        device: key of the catalogue, or a device TOML; of an excluded row, the card in the source's words.
        gpus: how many; tp: how many share every layer, the others hold other layers (None: as the stack commonly does).
        ep: over how many experts are spread, all else being in each `tp` of them (None: they are not).
        stack: software ("": what is common on the device).
        model: key of the catalogue, or a name with its size; params_b: billions of parameters.
        precision: of the weights.
        batch: equal requests that start at once. Instead of it: `users`: sequences of an engine that is kept full;
            `requests`: so many of mixed lengths, all there at once, or with `rate_per_s`, arriving.
        prompt_tokens, output_tokens: of a request, or their mean; context_tokens: cached before the clock starts.
        iteration_tokens, batching: budget and rule of an iteration, where the stack's usual ones do not hold.
        metric: what is read off the run; published_as: what the source calls it, where that is another.
        value: in the unit that the metric's name ends in.
        per_gpu: a throughput is that of one of the GPUs.
        kv_bytes: per cached element, where not as usual; flash: attention scores stay on the chip.
        power_limit_w: below the card's own; mean_power_w: measured, of all GPUs; joules_of: what was metered.
        offload: where weights lie that are not on the GPU.
        widen: factor on the interval's log width for what was assumed; assumed: what, and why, one by `MARK`.
        doubt: what is known to be the matter with the figure.
        excluded, why: why the row is no run of the simulator: a `Reason`, and in this case.
    """

    row: int = 0
    source: Text = ""
    url: Text = ""
    checked: Text = ""
    device: Name
    gpus: Annotated[int, Field(ge=1, le=4096)] = 1
    tp: Annotated[int, Field(ge=1, le=4096)] | None = None
    ep: Annotated[int, Field(ge=1, le=4096)] | None = None
    stack: Text = ""
    model: Name
    params_b: Annotated[float, Field(ge=1e-3, le=1e5)] | None = None
    precision: Text = "fp16"
    batch: Count | None = None
    users: Count | None = None
    requests: Count | None = None
    rate_per_s: Annotated[float, Field(gt=0.0, lt=1e5)] | None = None
    prompt_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    context_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    iteration_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    batching: Literal["chunked", "prefill-first"] | None = None
    metric: Metric
    published_as: Metric | None = None
    value: float
    per_gpu: bool = False
    kv_bytes: Annotated[float, Field(ge=0.25, le=8.0)] | None = None
    flash: bool = True
    power_limit_w: Annotated[float, Field(ge=5.0, le=3000.0)] | None = None
    mean_power_w: Annotated[float, Field(gt=0.0, le=1e7)] | None = None
    joules_of: Literal["gpus", "machine"] = "gpus"
    offload: Literal["none", "dram", "ssd"] = "none"
    widen: Annotated[float, Field(ge=1.0, le=10.0)] = 1.0
    assumed: Text = ""
    doubt: Text = ""
    excluded: Text = ""
    why: Text = ""

    @property
    def shown_metric(self) -> str:
        """Return what its source calls the metric."""
        return self.published_as or self.metric


_FIELDS: Final = dataclasses.fields(Point)
COLUMNS: Final = tuple(field.name for field in _FIELDS if field.name != "row")
REQUIRED: Final = ("device", "model", "metric", "value")
"""Columns that must be there and filled in; the others may be empty, or missing altogether."""


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
        check_small(Path(path))
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
        raise PointsError(f"{name} is empty; its first line must name columns: {', '.join(COLUMNS)}")
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
    values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
    if empty := [column for column in REQUIRED if not values[column]]:
        raise PointsError(f"{name}, row {line}, column {empty[0]}: it is empty; fill it in or remove the row")
    try:
        point = Point(row=line, **{column: value for column, value in values.items() if value})  # type: ignore[arg-type]
    except ValidationError as fault:
        first = fault.errors()[0]
        column, rule = str(first["loc"][0]), str(first["msg"])
        said = f"{values[column][:60]!r} cannot be: {rule[0].lower()}{rule[1:]}"
        raise PointsError(f"{name}, row {line}, column {column}: {said}; correct it or leave it empty") from None
    low, high = METRICS[point.shown_metric]
    if not low <= point.value <= high:
        said = f"{values['value'][:60]!r} must lie in {low:g} to {high:,g}; check its unit"
        raise PointsError(f"{name}, row {line}, column value: {said}")
    return point

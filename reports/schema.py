"""The two JSON files of a run directory as models: what every body writes and every other tool may rely on.

``null`` is unknown and never stands for 0. An unknown key is an error, so that a misspelt one cannot go unnoticed. A
missing one is an error where a run is written; where an older run is read it is unknown.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from afterwatt.reports.errors import ReportError

SCHEMA_VERSION = "1"

NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1 + 1e-9)]
Json = Any
Body = Literal["sim", "emulator", "engine"]
Basis = Literal["measured", "fitted", "pooled", "assumed"]
Quantile = Literal["mean", "p50", "p90", "p99"]
M = TypeVar("M", bound=BaseModel)
OLDER: Final = "a run of an older version"
"""What a file is validated as when it is read, rather than written."""


class Block(BaseModel):
    """An object of which an older run may have had fewer keys."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Json, info: ValidationInfo) -> Json:
        """Put what is unknown for every key that a run lacks, where one is read."""
        if info.context is not OLDER or not isinstance(data, Mapping):
            return data
        required = {name: field for name, field in cls.model_fields.items() if field.is_required()}
        return {name: _unknown(field.annotation) for name, field in required.items()} | dict(data)


def _unknown(kind: Json) -> Json:
    """Return what stands for the unknown in a field of this type: no keys, a word, or null."""
    origin: object = get_origin(kind)
    if origin is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {}
    return "unknown" if kind is str else None


class Strict(Block):
    """A block in which an unknown key, a NaN or an infinity is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Interval(Strict):
    """Quantiles over the draws of what is uncertain."""

    p5: float | None
    p50: float | None
    p95: float | None


def _spread_null(value: Json) -> Json:
    return {"p5": None, "p50": None, "p95": None} if value is None else value


Band = Annotated[Interval, BeforeValidator(_spread_null)]
"""An interval that may also be given as null, and is then written as three nulls."""


class Range(Strict):
    """Where a value lies nine times in ten."""

    low: NonNegative | None
    high: NonNegative | None


class Stats(Strict):
    """A distribution over finished requests (or tokens) that count; all null where there were none."""

    mean: NonNegative | None
    p50: NonNegative | None
    p90: NonNegative | None
    p99: NonNegative | None
    max: NonNegative | None


class Requests(Strict):
    """What became of every request of the trace; arrived = finished + rejected + unfinished."""

    arrived: Count | None
    finished: Count | None
    rejected: Count | None
    unfinished: Count | None
    slo_met: Count | None


class Throughput(Strict):
    """Finished work per second of the run."""

    requests_per_s: NonNegative | None
    output_tokens_per_s: NonNegative | None


class OfferedLoad(Strict):
    """Offered load over the capacity that a saturating run of the same mix has shown."""

    offered_frac: NonNegative | None
    capacity_requests_per_s: NonNegative | None
    devices_needed: Count | None


class BytesMoved(Strict):
    """Bytes over each kind of path, over the whole run."""

    hbm: NonNegative | None
    dram_to_hbm: NonNegative | None
    ssd_to_dram: NonNegative | None
    link: NonNegative | None


class Energy(Strict):
    """Joules over the whole run; by_component and by_state each add up to the total."""

    total: NonNegative | None
    idle: NonNegative | None
    by_component: dict[str, NonNegative | None]
    by_state: dict[str, NonNegative | None]
    method: str | None


class Assumed(Strict):
    """Carbon at the assumed values of everything uncertain; it need not be the median of the draws."""

    operational: NonNegative | None
    embodied: NonNegative | None


class Carbon(Strict):
    """Grams of CO2 equivalent of the whole run, reserved time included.

    by_method holds embodied carbon per method and allocation; null for a method that does not know this hardware.
    run_error_90 is the error of the run's joules (times and power) that the intervals hold, as factors; null: they
    hold none.
    """

    operational: Band
    embodied: Band
    total: Band
    embodied_method: str | None
    allocation: str | None
    by_method: dict[str, dict[str, Interval] | None]
    assumed: Assumed | None = None
    intensity_gco2e_per_kwh: NonNegative | None = None
    basis: str | None = None
    host_share: str | None = None
    run_error_90: Range | None = None
    notes: dict[str, list[str]] = {}


class Sci(Strict):
    """Software carbon intensity (ISO/IEC 21031): (O + M) per functional unit R."""

    per_request_gco2e: Band
    per_output_token_gco2e: Band
    per_slo_met_token_gco2e: Band


class RunCost(Strict):
    """US dollars of the whole run, hardware by reserved time."""

    hardware: NonNegative | None
    electricity: NonNegative | None
    total: NonNegative | None
    per_million_output_tokens: NonNegative | None


class Quality(Strict):
    """What the model answers are worth: measured elsewhere, or said to be unmeasured."""

    perplexity: NonNegative | None
    source: str


class HardwareLife(Strict):
    """The life of a card or a host as its present owner sees it; ages are seconds since first use."""

    acquired_s: NonNegative | None
    service_s: NonNegative | None
    total_s: NonNegative | None
    second_hand: bool | None
    owned: bool | None


class BreakEven(Strict):
    """What one output token emits, split by what it depends on, so that a report can move grid, life and duty cycle.

    carbon per token = (run_j + (1/duty - 1) x off_w / rate) x CI + embodied / (life scale x duty x rate); see
    reports.breakeven.
    """

    run_j_per_output_token: NonNegative | None
    off_w: NonNegative | None
    output_tokens_per_s: NonNegative | None
    embodied_gco2e_per_reserved_s: dict[str, dict[str, float | None] | None]
    intensity_gco2e_per_kwh: NonNegative | None
    duty_frac: Fraction | None
    between: str | None = None
    lives: dict[str, HardwareLife] = {}


class OtherShare(Strict):
    """What the run comes to under the other rule of how much of its servers it answers for.

    The draws of its carbon end in the name of `host_share`; where there are none, both rules count the same.
    """

    host_share: str
    energy_j: NonNegative | None
    sci: Sci
    cost_usd: RunCost
    breakeven: BreakEven | None


class TimeError(Strict):
    """Factors on predicted service times that hold nine times in ten, found by cross-validation; null: unknown."""

    prefill: Range | None
    decode: Range | None


class Ranges(Strict):
    """What the error of the time model (and of power, for joules) leaves of each metric."""

    ttft_s: dict[Quantile, Range | None]
    tpot_s: dict[Quantile, Range | None]
    itl_s: dict[Quantile, Range | None]
    e2e_s: dict[Quantile, Range | None]
    output_tokens_per_s: Range | None
    offered_frac: Range | None
    devices_needed: Range | None
    duration_s: Range | None = None
    energy_j: Range | None
    other_host_share_energy_j: Range | None = None


class Trust(Strict):
    """How far the times can be trusted.

    basis: `measured` (runs of this class of model on this device with this stack), `fitted` (of other models),
    `pooled` (on cards of the same architecture) or `assumed` (none).
    """

    stack: str
    pool: str
    model_class: str
    basis: Basis | None
    time_error_90: TimeError
    energy_error_90: Range | None
    range_90: Ranges | None


class Summary(Strict):
    """``summary.json``."""

    schema_version: Literal["1"]
    body: Body | None
    model: str
    hardware: str
    policies: Json
    site: str | None
    duration_s: NonNegative | None
    requests: Requests
    rejected_by: dict[str, Count]
    ttft_s: Stats
    tpot_s: Stats
    itl_s: Stats
    e2e_s: Stats
    longest_stall_s: Stats
    throughput: Throughput
    load: OfferedLoad
    bytes_moved: BytesMoved
    energy_j: Energy
    carbon_gco2e: Carbon
    sci: Sci
    cost_usd: RunCost
    quality: Quality
    breakeven: BreakEven | None = None
    other_host_share: OtherShare | None = None
    prediction: Trust | None = None


class FactRow(Strict):
    """One number the run stood on, with where it comes from."""

    field: str
    value: Json
    unit: str | None = None
    kind: str | None = None
    source: str | None = None


class SloThresholds(Strict):
    """Thresholds that one request must all meet; null is no threshold."""

    ttft_s: Annotated[float, Field(gt=0)] | None = None
    tpot_s: Annotated[float, Field(gt=0)] | None = None
    e2e_s: Annotated[float, Field(gt=0)] | None = None

    def thresholds(self) -> dict[str, float]:
        """Give the thresholds that are set, by column."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class Manifest(Block):
    """``manifest.json``: everything needed to run it again. A body may add keys of its own."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, frozen=True)

    schema_version: Literal["1"]
    body: Body | None
    config: dict[str, Json]
    seed: int | None = None
    versions: dict[str, str] = {}
    profiles: dict[str, str] = {}
    deployment: Json = None
    model: Json = None
    site: Json = None
    policies: Json = None
    workload: Json = None
    start_utc: str | None = None
    horizon_s: NonNegative | None = None
    facts: list[FactRow] = []
    modelled: list[str] = []
    not_modelled: list[str] = []
    warnings: list[str] = []
    doubt: str | None = None

    def slo(self) -> SloThresholds | None:
        """Give the service level the run was held to, or None where none was asked for.

        Raises:
            ReportError: config.slo has an unknown key or a threshold that is not above 0.
        """
        raw = self.config.get("slo")
        if raw is None:
            return None
        slo = _validated(SloThresholds, raw, "manifest.json: config.slo")
        return slo if slo.thresholds() else None

    def electricity(self) -> str | None:
        """Name the site, and what its electricity's average is of; None where there is no site."""
        site = self.site if isinstance(self.site, Mapping) else {}
        if (key := site.get("key") or site.get("name")) is None:
            return None
        average = site.get("average")
        if self.grid() is not None or not isinstance(average, Mapping):
            return f"site {key}"
        year = str(average["year"]) if average["year"] else "year not stated"
        basis = str(average["basis"]).replace("lifecycle", "life-cycle")
        mix = "mix not stated" if average["mix"] == "unstated" else average["mix"]
        return f"site {key} ({average['gco2e_per_kwh']:.3g} g/kWh, {basis} of {mix}, {year})"

    def grid(self) -> str | None:
        """Name file, zone and basis of the hourly grid; None where the run has none."""
        carbon = self.config.get("carbon")
        grid = carbon.get("grid") if isinstance(carbon, dict) else None
        if not isinstance(grid, dict):
            return None
        return f"grid: {grid.get('file')}, {grid.get('zone') or 'zone not said'}, {grid.get('basis')}"


def _sentence(error: ValidationError, where: str) -> str:
    """Say the first thing that is wrong, where, with its value, and how many more there are."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "it"
    if first["type"] == "extra_forbidden":
        text = f"{where} has a key {place!r} that the contract in docs/run-directory.md does not know; remove it"
    elif first["type"] == "missing":
        text = f"{where} lacks {place!r}; write it, as null where it is unknown"
    else:
        value = json.dumps(first["input"], default=str)[:60]
        message = first["msg"][:1].lower() + first["msg"][1:]
        text = f"{where}: {place} = {value} but {message}; correct it as in docs/run-directory.md"
    more = error.error_count() - 1
    return text + (f" (and {more} more)" if more else "")


def _validated(model: type[M], data: Json, where: str, older: bool = False) -> M:
    try:
        return model.model_validate(data, context=OLDER if older else None)
    except ValidationError as error:
        raise ReportError(_sentence(error, where)) from None


def _check_version(data: Json, where: str) -> None:
    if not isinstance(data, Mapping):
        raise ReportError(f"{where} holds {type(data).__name__}, not an object; it is not a file of a run directory")
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ReportError(
            f"{where} has schema_version {version!r}, this program reads {SCHEMA_VERSION!r}; "
            "run the simulation again, or read it with the version that wrote it"
        )


def check_summary(data: Json, where: str = "summary.json", older: bool = False) -> Summary:
    """Hold a summary to the contract.

    Args:
        data: what the file holds, parsed.
        where: how to name it in an error.
        older: whether keys may be missing, which are unknown then.

    Raises:
        ReportError: the first thing that is not as the contract says.
    """
    _check_version(data, where)
    summary = _validated(Summary, data, where, older)
    requests = summary.requests
    ended = [count for count in (requests.finished, requests.rejected, requests.unfinished) if count is not None]
    if len(ended) == 3 and requests.arrived not in (sum(ended), None):
        raise ReportError(
            f"{where}: {requests.arrived} requests arrived but finished, rejected and unfinished add up to "
            f"{sum(ended)}; every request ends in exactly one of them"
        )
    return summary


def check_manifest(data: Json, where: str = "manifest.json", older: bool = False) -> Manifest:
    """Hold a manifest to the contract; see :func:`check_summary`."""
    _check_version(data, where)
    return _validated(Manifest, data, where, older)


def read_json(path: Path) -> Json:
    """Read a JSON file.

    Raises:
        ReportError: it is missing, cannot be read, or is not JSON.
    """
    if path.exists() and not path.is_file():
        raise ReportError(f"{path} is no regular file, so {path.parent} is no run directory")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"{path} is missing; {path.parent} is no run directory, or not a whole one") from None
    except (OSError, ValueError, RecursionError) as error:  # no JSON, no UTF-8, numbers and nesting without end
        raise ReportError(f"{path} cannot be read ({error}); the file is damaged, run the simulation again") from None


def write_json(path: Path, data: Json) -> None:
    """Write ``data`` as JSON, the same bytes for the same data: keys in their given order, no NaN."""
    path.write_text(to_json(data), encoding="utf-8")


def to_json(data: Json) -> str:
    """Write ``data`` as the text of a JSON file.

    Raises:
        ReportError: it holds a NaN, an infinity or something JSON has no word for.
    """
    try:
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ReportError(f"not writable as JSON: {error}; give plain numbers, and null for what is unknown") from None


def summary_json_schema() -> dict[str, Json]:
    """Give the JSON Schema (draft 2020-12) of summary.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Summary.model_json_schema()}


def manifest_json_schema() -> dict[str, Json]:
    """Give the JSON Schema (draft 2020-12) of manifest.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}

"""All that `simulate` can be told, gathered from the command line and a study file, checked, not yet looked up.

A study file is TOML with the names of the options:

    hw = ["m40", "h100-sxm"]
    trace = "chat.parquet"        # paths are relative to the file
    slo = "ttft=1s,tpot=200ms"
    no-report = true
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from afterwatt.studies.errors import OptionError, near
from afterwatt.studies.values import Parser, duration_s, flag, number, one_of, slo, start_utc, text, texts, whole

if TYPE_CHECKING:
    from afterwatt.sim.config import Slo

AUTO: Final = "auto"
"""The software stack that is usual on a card."""
SAMPLE: Final = "chat.parquet"
"""The trace where none is named; the shipped sample where the working folder has no such file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A study: lists make a cross product, None leaves a choice to the default of the package that knows it.

    Attributes:
        hw, model, precision, stack, policy, site: what is crossed, as names or paths.
        trace: a path or a `synth:` address; None with a static batch, or for the sample.
        limit: use only the first so many requests; rate_per_s: stretch the trace to this mean rate.
        users, think_s, requests: a closed loop instead of the trace's arrivals.
        batch, prompt, output: one static batch instead of a trace.
        slo: what users are promised.
        start_utc, grid, grid_zone, repeat_year: the wall clock at t = 0, and hourly carbon.
        basis, duty_frac, between, embodied, allocation, host_share, draws: the account (`sim.config.CarbonOptions`).
        horizon_s, warmup_s, seed, single_step, shuffle_ties, decisions: as in `sim.config.RunConfig`.
        replications: how many seeds, from `seed` on.
        out: the run's or study's directory; None chooses a descriptive name under `runs`.
        overwrite: replace what stands there; no_report: write no page; no_bounds: no intervals of times.
        jobs: processes (-1: all cores).
        strict_slo: exit with 3 where no run keeps its service level; json, quiet: what is printed.
    """

    hw: tuple[str, ...] = ("m40",)
    model: tuple[str, ...] = ("llama-2-7b",)
    precision: tuple[str, ...] = ("fp16",)
    stack: tuple[str, ...] = (AUTO,)
    policy: tuple[str, ...] = ("chunked",)
    site: tuple[str, ...] = ("world",)
    trace: str | None = None
    limit: int | None = None
    rate_per_s: float | None = None
    users: int | None = None
    think_s: float | None = None
    requests: int | None = None
    batch: int | None = None
    prompt: int | None = None
    output: int | None = None
    slo: "Slo | None" = None
    start_utc: str | None = None
    grid: str | None = None
    grid_zone: str | None = None
    repeat_year: bool = False
    basis: str | None = None
    duty_frac: float | None = None
    between: str | None = None
    embodied: str | None = None
    allocation: str | None = None
    host_share: str | None = None
    draws: int | None = None
    horizon_s: float | None = None
    warmup_s: float = 0.0
    seed: int = 0
    single_step: bool = False
    shuffle_ties: int | None = None
    decisions: bool = False
    replications: int = 1
    out: str | None = None
    overwrite: bool = False
    no_report: bool = False
    no_bounds: bool = False
    jobs: int = 1
    strict_slo: bool = False
    json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        _check_workload(self)
        _check_account(self)
        if self.horizon_s is not None and self.warmup_s >= self.horizon_s:
            raise OptionError(
                f"--warmup = {self.warmup_s:g}s leaves nothing of --horizon = {self.horizon_s:g}s; shorten it"
            )


OPTIONS: Final[Mapping[str, tuple[str, Parser]]] = MappingProxyType(
    {
        **{name: (name, texts) for name in ("hw", "model", "precision", "stack", "policy", "site")},
        "trace": ("trace", text),
        **{name: (name, whole(1)) for name in ("limit", "users", "requests", "batch", "prompt", "output")},
        "rate": ("rate_per_s", number(0.0)),
        "think": ("think_s", duration_s),
        "slo": ("slo", slo),
        "start": ("start_utc", start_utc),
        **{name: (name, text) for name in ("grid", "embodied", "allocation", "out")},
        "grid-zone": ("grid_zone", text),
        "basis": ("basis", one_of(("lifecycle", "direct", "marginal"))),
        "duty": ("duty_frac", number(0.0, 1.0)),
        "between": ("between", one_of(("off", "idle"))),
        "host-share": ("host_share", one_of(("whole", "slots"))),
        "draws": ("draws", whole(1, 10**7)),
        "horizon": ("horizon_s", duration_s),
        "warmup": ("warmup_s", duration_s),
        "seed": ("seed", whole(0, 2**63 - 1)),
        "shuffle-ties": ("shuffle_ties", whole(0)),
        "replications": ("replications", whole(1, 1000)),
        "jobs": ("jobs", whole(1, 1024, also=(-1,))),
        **{
            name: (name.replace("-", "_"), flag)
            for name in (
                *("repeat-year", "single-step", "decisions", "overwrite", "no-report", "no-bounds"),
                *("strict-slo", "json", "quiet"),
            )
        },
    }
)
"""Option name -> field of `Settings` and parser."""

_PATHS: Final = ("trace", "grid", "out")
_NAMES_OR_PATHS: Final = ("hw", "model", "stack", "site")


def gather(given: Mapping[str, object], study_file: str | Path | None = None) -> Settings:
    """Put settings together: what was given on the command line, then what the study file says, then defaults.

    Args:
        given: option name (`grid-zone`) -> text or value; None, False and empty lists are not given.
        study_file: TOML with the same names.

    Raises:
        OptionError: the file is not readable TOML, a key of it is unknown, or a value is wrong.
    """
    fields: dict[str, Any] = {} if study_file is None else _read_study_file(Path(study_file))
    for name, value in given.items():
        if value is None or value is False or value == [] or value == ():
            continue
        field, parse = OPTIONS[name]
        fields[field] = parse(value, f"--{name}")
    return Settings(**fields)


def _read_study_file(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(
            f"--config {path}: {error.strerror}; give a TOML file with the names of the options"
        ) from None
    except ValueError as error:
        raise OptionError(f"--config {path} is not TOML: {error}") from None
    fields: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in OPTIONS:
            raise OptionError(f"{path}: unknown key {key!r}{near(name, OPTIONS)}")
        field, parse = OPTIONS[name]
        said = parse(value, f"{path}: {key}")
        if name in _PATHS:
            said = _beside(path.parent, said)
        elif name in _NAMES_OR_PATHS and isinstance(said, tuple):
            said = tuple(_beside(path.parent, item) if _is_path(item) else item for item in said)
        fields[field] = said
    return fields


def _is_path(said: str) -> bool:
    return "/" in said or said.endswith((".toml", ".json"))


def _beside(folder: Path, said: Any) -> str:  # noqa: ANN401 - a parsed value, here always text
    """Make a path relative to the study file's folder."""
    is_sample = said == SAMPLE and not (folder / said).exists()
    return str(said) if is_sample or said.startswith("synth:") else str(folder / said)


def _check_workload(settings: Settings) -> None:
    """Refuse options that speak of different workloads."""
    lengths = {"--prompt": settings.prompt, "--output": settings.output}
    if settings.batch is not None:
        for name, value in lengths.items():
            if value is None:
                raise OptionError(f"--batch {settings.batch} needs {name}; write for example {name} 128")
        others = ("trace", "users", "limit", "rate_per_s", "think_s", "requests")
        for field in others:
            if getattr(settings, field) is not None:
                option = "--" + field.removesuffix("_per_s").removesuffix("_s")
                raise OptionError(f"--batch is a workload of its own and {option} speaks of another; drop one of them")
        return
    for name, value in lengths.items():
        if value is not None:
            raise OptionError(f"{name} {value} belongs to --batch; say also --batch 1, or leave it out")
    if settings.users is None:
        if settings.requests is not None:
            raise OptionError(
                f"--requests {settings.requests} belongs to --users; for the first requests of a trace "
                f"say --limit {settings.requests}"
            )
        if settings.think_s is not None:
            raise OptionError("--think belongs to --users; say how many there are, such as --users 8")
    elif settings.rate_per_s is not None:
        raise OptionError("--users send when their answers are there, so --rate has no meaning; drop one")


def _check_account(settings: Settings) -> None:
    """Refuse options of an hourly grid where there is none."""
    if settings.grid is None and settings.grid_zone is not None:
        raise OptionError(f"--grid-zone {settings.grid_zone} belongs to --grid; give its file too")
    if settings.grid is None and settings.basis == "marginal":
        raise OptionError("--basis marginal needs an hourly signal; give one with --grid")

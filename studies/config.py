"""All that a study can be told, checked, not yet looked up.

One model for the command line, a study file and Python. A study file is TOML with the names of the options:

    hw = ["m40", "h100-sxm"]
    trace = "chat.parquet"        # paths are relative to the file
    slo = "ttft=1s,tpot=200ms"
    no-report = true

In Python the same words are keywords: `StudyConfig(hw=["m40", "h100-sxm"], slo="ttft=1s", no_report=True)`.
"""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from afterwatt.hwprofiles.tables import LARGEST_BYTES
from afterwatt.modelspecs.files import read_small
from afterwatt.policies.slo import Slo
from afterwatt.studies.errors import OptionError, near
from afterwatt.studies.values import (
    Parser,
    duration_s,
    flag,
    number,
    one_of,
    share_of_time,
    slo,
    start_utc,
    text,
    texts,
    whole,
)

AUTO: Final = "auto"
"""The software stack that is usual on a card; the precision that a model's checkpoint is stored in."""
SAMPLE: Final = "chat.parquet"
"""The trace where none is named; the shipped sample where the working folder has no such file."""


def _read(parse: Parser) -> BeforeValidator:
    """Read a value by a parser; None is not given."""

    def read(value: object, info: ValidationInfo) -> object:
        word = _word(str(info.field_name))
        return None if value is None else parse(value, (info.context or {}).get(word, word))

    return BeforeValidator(read)


Words = Annotated[tuple[str, ...], _read(texts)]
Text = Annotated[str | None, _read(text)]
Switch = Annotated[bool, _read(flag)]
Count = Annotated[int | None, _read(whole(1))]
Duration = Annotated[float | None, _read(duration_s)]
Promise = Annotated[Slo | None, _read(slo)]
Moment = Annotated[str | None, _read(start_utc)]


class StudyConfig(BaseModel):
    """A study: lists make a cross product, None leaves a choice to the default of the package that knows it.

    Every word is checked when the model is made; a wrong one raises `OptionError`, one sentence.

    Attributes:
        hw, model, precision, stack, policy, site: what is crossed, as names or paths.
        trace: a path or a `synth:` address; None with a static batch, or for the sample.
        limit: use only the first so many requests; rate_per_s: stretch the trace to this mean rate.
        users, think_s, requests: a closed loop instead of the trace's arrivals.
        batch, prompt, output: one static batch instead of a trace.
        slo: what users are promised.
        start_utc, grid, grid_zone, repeat_year: the wall clock at t = 0, and hourly carbon.
        pue, kwh_price_usd, host, server_price_usd, card_price_usd: instead of what the profiles say.
        power_cap_w: that every card is set to.
        quality: what `afterwatt evaluate` measured of the model's answers.
        bought, life_years: how the hardware was come by, and for how long it stays (`hwprofiles.footprint.Ownership`).
        basis, duty_frac, between, embodied, allocation, host_share, draws: the account (`sim.config.CarbonOptions`).
        horizon_s, warmup_s, seed, single_step, shuffle_ties, decisions: as in `sim.config.RunConfig`.
        replications: how many seeds, from `seed` on.
        out: the run's or study's directory; None chooses a descriptive name under `runs`.
        overwrite: replace what stands there; no_report: write no page; no_bounds: no intervals of times.
        jobs: processes (-1: all cores).
        strict_slo: exit with 3 where no run keeps its service level; json_output, quiet: what is printed.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    hw: Words = ("m40",)
    model: Words = ("llama-2-7b",)
    precision: Words = (AUTO,)
    stack: Words = (AUTO,)
    policy: Words = ("chunked",)
    site: Words = ("world",)
    trace: Text = None
    limit: Count = None
    rate_per_s: Annotated[float | None, _read(number(0.0)), Field(alias="rate")] = None
    users: Count = None
    think_s: Annotated[Duration, Field(alias="think")] = None
    requests: Count = None
    batch: Count = None
    prompt: Count = None
    output: Count = None
    slo: Promise = None
    start_utc: Annotated[Moment, Field(alias="start")] = None
    grid: Text = None
    grid_zone: Text = None
    repeat_year: Switch = False
    pue: Annotated[float | None, _read(number(1.0, 4.0, closed=True))] = None
    kwh_price_usd: Annotated[float | None, _read(number(0.0, 2.0)), Field(alias="kwh_price")] = None
    host: Text = None
    server_price_usd: Annotated[float | None, _read(number(0.0, 1e7)), Field(alias="server_price")] = None
    card_price_usd: Annotated[float | None, _read(number(0.0, 1e6)), Field(alias="card_price")] = None
    quality: Text = None
    power_cap_w: Annotated[float | None, _read(number(0.0, 3000.0)), Field(alias="power_cap")] = None
    bought: Annotated[str | None, _read(one_of(("auto", "new", "second-hand", "owned")))] = None
    life_years: Annotated[float | None, _read(number(0.0, 50.0)), Field(alias="life")] = None
    basis: Annotated[str | None, _read(one_of(("lifecycle", "direct", "marginal")))] = None
    duty_frac: Annotated[float | None, _read(share_of_time), Field(alias="duty")] = None
    between: Annotated[str | None, _read(one_of(("off", "idle")))] = None
    embodied: Text = None
    allocation: Text = None
    host_share: Annotated[str | None, _read(one_of(("slots", "whole")))] = None
    draws: Annotated[int | None, _read(whole(1, 10**7))] = None
    horizon_s: Annotated[Duration, Field(alias="horizon")] = None
    warmup_s: Annotated[float, _read(duration_s), Field(alias="warmup")] = 0.0
    seed: Annotated[int, _read(whole(0, 2**63 - 1))] = 0
    replications: Annotated[int, _read(whole(1, 1000))] = 1
    jobs: Annotated[int, _read(whole(1, 1024, also=(-1,)))] = 1
    single_step: Switch = False
    shuffle_ties: Annotated[int | None, _read(whole(0))] = None
    out: Text = None
    overwrite: Switch = False
    no_report: Switch = False
    no_bounds: Switch = False
    decisions: Switch = False
    strict_slo: Switch = False
    json_output: Annotated[Switch, Field(alias="json")] = False
    quiet: Switch = False

    @model_validator(mode="before")
    @classmethod
    def _known(cls, said: Any) -> Any:  # noqa: ANN401 - checked here
        """Refuse unknown words."""
        for key in said:
            if key not in words():
                raise OptionError(f"unknown word {key!r}{near(key, words())}")
        return said

    @model_validator(mode="after")
    def _agree(self, info: ValidationInfo) -> Self:
        """Refuse words that contradict each other."""

        def name(word: str) -> str:
            return word if info.context is None else f"--{word.replace('_', '-')}"

        _check_workload(self, name)
        if self.grid is None and self.grid_zone is not None:
            raise OptionError(f"{name('grid_zone')} {self.grid_zone} belongs to {name('grid')}; give its file too")
        if self.grid is None and self.basis == "marginal":
            raise OptionError(f"{name('basis')} marginal needs an hourly signal; give one with {name('grid')}")
        if self.horizon_s is not None and self.warmup_s >= self.horizon_s:
            raise OptionError(
                f"{name('warmup')} = {self.warmup_s:g}s leaves nothing of {name('horizon')} = {self.horizon_s:g}s; "
                "shorten it"
            )
        return self


def words() -> tuple[str, ...]:
    """Give every word of a study, as Python spells it (`grid_zone`)."""
    return tuple(map(_word, StudyConfig.model_fields))


def _word(field: str) -> str:
    return StudyConfig.model_fields[field].alias or field


def gather(given: Mapping[str, object], study_file: str | Path | None = None) -> StudyConfig:
    """Put a study together: what was given on the command line, then what the study file says, then defaults.

    Args:
        given: word -> text or value; None, False and empty lists are not given.
        study_file: TOML with the names of the options as keys.

    Raises:
        OptionError: the file is not readable TOML, a key of it is unknown, or a value is wrong.
    """
    said, places = ({}, {}) if study_file is None else _read_study_file(Path(study_file))
    for word, value in given.items():
        if value is not None and value is not False and value != []:
            said[word], places[word] = value, f"--{word.replace('_', '-')}"
    return StudyConfig.model_validate(said, context=places)


_PATHS: Final = ("trace", "grid", "out")
_NAMES_OR_PATHS: Final = ("hw", "model", "stack", "site")


def _read_study_file(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a study file: word -> value, and word -> where it stands."""
    try:
        table = tomllib.loads(read_small(path, LARGEST_BYTES))
    except OSError as error:
        raise OptionError(
            f"--config {path}: {error.strerror}; give a TOML file with the names of the options"
        ) from None
    except (ValueError, RecursionError) as error:  # of tomllib: among others nesting, and numbers, without end
        raise OptionError(f"--config {path} is not TOML that can be read: {error}") from None
    keys = {key: key.replace("-", "_") for key in table}
    for key, word in keys.items():
        if word not in words():
            known = [word.replace("_", "-") for word in words()]
            raise OptionError(f"{path}: unknown key {key!r}{near(key.replace('_', '-'), known)}")
    said = {word: _placed(path.parent, word, table[key]) for key, word in keys.items()}
    return said, {word: f"{path}: {key}" for key, word in keys.items()}


def _placed(folder: Path, word: str, value: object) -> object:
    """Make what a study file says of paths relative to its folder."""
    if word in _PATHS and isinstance(value, str) and value.strip():
        is_sample = value == SAMPLE and not (folder / value).exists()
        return value if is_sample or value.startswith("synth:") else str(folder / value)
    if word in _NAMES_OR_PATHS:
        listed = value if isinstance(value, list) else [value]
        placed = [str(folder / item) if isinstance(item, str) and _is_path(item) else item for item in listed]
        return placed if isinstance(value, list) else placed[0]
    return value


def _is_path(said: str) -> bool:
    return "/" in said or said.endswith((".toml", ".json"))


def _check_workload(study: StudyConfig, name: Callable[[str], str]) -> None:
    """Refuse words that speak of different workloads; `name` says how a word is called in the sentence."""
    lengths = {"prompt": study.prompt, "output": study.output}
    if study.batch is not None:
        for word, value in lengths.items():
            if value is None:
                raise OptionError(
                    f"{name('batch')} {study.batch} needs {name(word)}; write for example {name(word)} 128"
                )
        for field in ("trace", "users", "limit", "rate_per_s", "think_s", "requests"):
            if getattr(study, field) is not None:
                raise OptionError(
                    f"{name('batch')} is a workload of its own and {name(_word(field))} speaks of another; "
                    "drop one of them"
                )
        return
    for word, value in lengths.items():
        if value is not None:
            raise OptionError(
                f"{name(word)} {value} belongs to {name('batch')}; say also {name('batch')} 1, or leave it out"
            )
    if study.users is None:
        if study.requests is not None:
            raise OptionError(
                f"{name('requests')} {study.requests} belongs to {name('users')}; for the first requests of a trace "
                f"say {name('limit')} {study.requests}"
            )
        if study.think_s is not None:
            raise OptionError(
                f"{name('think')} belongs to {name('users')}; say how many there are, such as {name('users')} 8"
            )
    elif study.rate_per_s is not None:
        raise OptionError(
            f"{name('users')} send when their answers are there, so {name('rate')} has no meaning; drop one"
        )

"""The cells of a study: every combination of hardware, model, precision, policy and site, looked up and checked."""

import itertools
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from afterwatt.studies.config import AUTO, StudyConfig
from afterwatt.studies.errors import OptionError
from afterwatt.studies.overrides import own_hardware, own_hardware_lives, own_site
from afterwatt.studies.workloads import StudyWorkload

if TYPE_CHECKING:
    from afterwatt.hwprofiles.deployment import Deployment
    from afterwatt.hwprofiles.grid import HourlyGrid
    from afterwatt.hwprofiles.sites import Site
    from afterwatt.modelspecs.precision import Precision
    from afterwatt.modelspecs.spec import ModelSpec
    from afterwatt.policies.config import PolicySet
    from afterwatt.sim.config import Answers, CarbonOptions, RunConfig
    from afterwatt.studies.grids import GridFile


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination, as it was asked for."""

    hw: str
    model: str
    precision: str
    stack: str
    policy: str
    site: str


def cross(study: StudyConfig) -> list[Cell]:
    """Give all combinations, hardware varying slowest."""
    crossed = itertools.product(study.hw, study.model, study.precision, study.stack, study.policy, study.site)
    return [Cell(*names) for names in crossed]


def resolve(study: StudyConfig, cell: Cell, arrivals: StudyWorkload, seed: int, grids: "GridFile") -> "RunConfig":
    """Look up everything a cell names and check the choices of its account, before anything is simulated.

    Args:
        study: what all cells share.
        cell: what this one is.
        arrivals: its workload.
        seed: of everything random.
        grids: the file of --grid, if there is one.

    Raises:
        HardwareError, ModelError, PolicyError: a name or a file is wrong.
        OptionError: the start of an hourly grid is not known, or it is of another place.
    """
    from afterwatt.hwprofiles.catalogue import load_site
    from afterwatt.hwprofiles.stacks import load_stack
    from afterwatt.hwprofiles.support import usual_stack
    from afterwatt.modelspecs import load_model, stored_precision
    from afterwatt.policies.config import parse_policies
    from afterwatt.policies.slo import Slo
    from afterwatt.sim.config import RunConfig
    from afterwatt.sim.run import books_options

    deployment = own_hardware(study, _deployment(cell.hw))
    model = load_model(cell.model)
    precision = stored_precision(model.stored) if cell.precision == AUTO else model.form(cell.precision)
    policies = parse_policies(cell.policy)
    precision = _brought_to(model.form(precision), policies, model)
    device = deployment.pool.device
    site = own_site(study, load_site(cell.site))
    grid = grids.of(site)
    if grid is None and study.start_utc is not None:
        grid = site.hourly_grid(study.repeat_year)
    start_utc = study.start_utc or (arrivals.start_utc if grid is not None else None)
    config = RunConfig(
        deployment=deployment,
        model=model,
        precision=precision,
        stack=load_stack(device, usual_stack(device, precision) if cell.stack == AUTO else cell.stack),
        policies=policies,
        site=site,
        workload=arrivals.workload,
        slo=study.slo or Slo(),
        carbon=_carbon(study, grid),
        start_utc=start_utc,
        horizon_s=study.horizon_s,
        warmup_s=study.warmup_s,
        seed=seed,
        bounds=not study.no_bounds,
        single_step=study.single_step,
        shuffle_ties=study.shuffle_ties,
        decisions=study.decisions,
        answers=_answers(study, model.name, precision.name, policies),
        own_files=tuple(_own_files(study, cell, site)),
    )
    books_options(config)  # refuses what the account does not know, which else came up after the simulation
    _check_intensity(config, arrivals)
    return config


def _deployment(word: str) -> "Deployment":
    from afterwatt.hwprofiles.deployment import parse_deployment
    from afterwatt.hwprofiles.errors import HardwareError

    try:
        return parse_deployment(word)
    except HardwareError as fault:
        raise fault if word in str(fault) else HardwareError(f"--hw {word!r}: {fault}") from None


def _brought_to(precision: "Precision", policies: "PolicySet", model: "ModelSpec") -> "Precision":
    """Return what weights are stored in once their policy has made them smaller."""
    name = policies.make_weights().stored
    if name is None:
        return precision
    smaller = model.form(name)
    if smaller.bits_per_weight >= precision.bits_per_weight:
        raise OptionError(
            f"--policy {policies.weights} brings weights to {name}, and {model.name} in {precision.name} is as small "
            "already; take --policy stream"
        )
    return smaller


def _answers(study: StudyConfig, model: str, precision: str, policies: "PolicySet") -> "Answers":
    """Return what a run's answers are worth, as far as the study says."""
    from afterwatt.sim.config import NOT_MEASURED
    from afterwatt.studies.qualities import answers_of

    return NOT_MEASURED if study.quality is None else answers_of(Path(study.quality), model, precision, policies)


def _own_files(study: StudyConfig, cell: Cell, site: "Site") -> Iterator[Path]:
    """Yield the data files that words of a cell name, with those that they name in turn."""
    from afterwatt.hwprofiles.gridfiles import split_address
    from afterwatt.policies.config import parse_policies

    hardware = Path(cell.hw)
    if hardware.suffix == ".toml":
        named = tomllib.loads(hardware.read_text(encoding="utf-8")).values()
        yield from (hardware, *(hardware.parent / said for said in named if str(said).endswith(".toml")))
    model = Path(cell.model)
    if model.is_dir() or model.suffix in (".json", ".toml"):
        yield model / "config.json" if model.is_dir() else model
    if cell.site.endswith(".toml"):
        yield Path(cell.site)
    if (activity := dict(parse_policies(cell.policy).own).get("activity")) is not None:
        if not Path(activity).is_file():
            raise OptionError(
                f"--policy activity={activity[:200]} is no file; `afterwatt generate --record FILE` makes one"
            )
        yield Path(activity)
    if study.quality is not None:
        yield Path(study.quality)
    if study.grid is not None:
        yield Path(split_address(study.grid)[0])
    elif site.hourly is not None and study.start_utc is not None:
        yield Path(split_address(str(site.hourly.path))[0])


def _carbon(study: StudyConfig, grid: "HourlyGrid | None") -> "CarbonOptions":
    from afterwatt.sim.config import CarbonOptions

    chosen = {
        "basis": study.basis if grid is None else grid.basis,
        "duty_frac": study.duty_frac,
        "between": study.between,
        "embodied_method": study.embodied,
        "allocation": study.allocation,
        "host_share": study.host_share,
        "ownership": own_hardware_lives(study),
        "draws": study.draws,
        "grid": grid,
    }
    return CarbonOptions(**{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]


def _check_intensity(config: "RunConfig", arrivals: StudyWorkload) -> None:
    """See that the grid's intensity is known from the first arrival to the last."""
    grid, start_s = config.carbon.grid, config.start_utc_s
    if grid is None:
        config.site.intensity_gco2e_per_kwh(config.carbon.basis)
    elif start_s is None:
        raise OptionError("an hourly grid needs the wall clock at t = 0; give --start, such as 2023-06-01T00:00:00Z")
    else:
        length_s = min(arrivals.span_s or 0.0, config.horizon_s or float("inf"))
        grid.mean_over([start_s], [start_s + length_s])

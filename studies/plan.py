"""What a study will run: cells, seeds, names and hashes, with everything looked up that can be wrong.

Seeds: replication r runs under seed + r, so that any of them can be run again by itself. Within a replication all cells
share the seed: the same synthetic requests, and the same draws of whatever is uncertain in more than one of them, so
that a comparison is not blurred by luck (common random numbers). A result depends on its own configuration only, not on
where or in which order cells run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from afterwatt.studies.cells import Cell, cross, resolve
from afterwatt.studies.config import AUTO, StudyConfig
from afterwatt.studies.errors import OptionError
from afterwatt.studies.grids import GridFile
from afterwatt.studies.identity import asked_of, digest_of, workload_identity
from afterwatt.studies.places import RUNS, crossed, free, numbered, run_names, slug, takes_study
from afterwatt.studies.workloads import StudyWorkload, open_arrivals, same_for_every_seed

if TYPE_CHECKING:
    from afterwatt.sim.config import RunConfig

_DIGITS: Final = 8
FIXED_NOTE: Final = (
    "The requests are the same in every replication; only what else is seeded varies: the sample that capacity is "
    "measured with, and the draws of what is uncertain about carbon."
)


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run to come: a cell under one seed.

    Attributes:
        seed: of everything random.
        digest: of all that its result depends on; asked: of the words alone; both empty for a single run.
        directory: its name within the study.
        config: what runs.
        total: requests to come; None where unknown.
    """

    seed: int
    digest: str
    asked: str
    directory: str
    config: "RunConfig"
    total: int | None


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One cell: what was asked for, how it is called, its runs, or why there are none."""

    cell: Cell
    names: Cell
    label: str
    jobs: tuple[PlannedRun, ...]
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A study before it runs; a single run is a study of one cell and one seed, in a directory of its own."""

    study: StudyConfig
    seeds: tuple[int, ...]
    cells: tuple[PlannedCell, ...]
    path: Path
    note: str | None

    @property
    def single(self) -> bool:
        """Whether the result is one run directory rather than a study of several."""
        return len(self.cells) == len(self.seeds) == 1

    @property
    def jobs(self) -> list[PlannedRun]:
        """All runs, cell by cell."""
        return [job for cell in self.cells for job in cell.jobs]


def plan_study(study: StudyConfig) -> StudyPlan:
    """Look up and check everything a study needs; nothing is simulated or written.

    Raises:
        HardwareError, ModelError, PolicyError, TraceError, OptionError: something asked for is wrong.
    """
    seeds = tuple(range(study.seed, study.seed + study.replications))
    arrivals, note = _arrivals(study, list(seeds))
    grids = GridFile(study)
    found = [
        (cell, [resolve(study, cell, one, seed, grids) for one, seed in zip(arrivals, seeds, strict=True)])
        for cell in cross(study)
    ]
    names = [_names(cell, configs[0]) for cell, configs in found]
    single = len(found) == len(seeds) == 1
    identities = [{}] * len(seeds) if single else [workload_identity(one) for one in arrivals]
    cells = [
        _planned(study, cell, own, label, configs, arrivals, identities)
        for (cell, configs), own, label in zip(found, names, _labels(names), strict=True)
    ]
    base = RUNS / _base_name(names, arrivals[0].slug, len(seeds))
    directories = {job.directory for cell in cells for job in cell.jobs}
    path = _choose_path(study, base, single, directories)
    return StudyPlan(study, seeds, tuple(cells), path, note)


def _arrivals(study: StudyConfig, seeds: list[int]) -> tuple[list[StudyWorkload], str | None]:
    """Open the workload of every seed; a fixed one is opened once, and the note says so."""
    first = open_arrivals(study, seeds[0])
    if len(seeds) == 1:
        return [first], None
    if same_for_every_seed(study, first, seeds):
        return [first] * len(seeds), FIXED_NOTE
    return [first, *(open_arrivals(study, seed) for seed in seeds[1:])], None


def _names(cell: Cell, config: "RunConfig") -> Cell:
    """Call a cell by what its names turned out to be: `./attic.toml` by its deployment's name."""
    return Cell(
        config.deployment.name,
        config.model.name,
        config.precision.name,
        AUTO if cell.stack == AUTO else config.stack.label,
        config.policies.name,
        config.site.key,
    )


def _labels(names: Sequence[Cell]) -> list[str]:
    """Call each cell by what differs between them; hardware if nothing does."""
    fields = Cell.__slots__
    differing = [field for field in fields if len({getattr(name, field) for name in names}) > 1] or ["hw"]
    labels = [" · ".join(getattr(name, field) for field in differing) for name in names]
    twins = {label for label in labels if labels.count(label) > 1}
    return [f"{label} · {place}" if label in twins else label for place, label in enumerate(labels, 1)]


def _planned(
    study: StudyConfig,
    cell: Cell,
    names: Cell,
    label: str,
    configs: Sequence["RunConfig"],
    arrivals: Sequence[StudyWorkload],
    identities: Sequence[dict[str, object]],
) -> PlannedCell:
    from afterwatt.sim.errors import Infeasible
    from afterwatt.sim.memory import require_runnable
    from afterwatt.sim.run import memory_of

    try:
        require_runnable(configs[0].serving)
        memory_of(configs[0])
    except Infeasible as verdict:
        return PlannedCell(cell, names, label, (), str(verdict))
    jobs = []
    for config, one, identity in zip(configs, arrivals, identities, strict=True):
        digest = digest_of(config, identity) if identity else ""
        asked = asked_of(study, cell, config.seed, identity) if identity else ""
        jobs.append(PlannedRun(config.seed, digest, asked, _directory(names, config.seed, digest), config, one.total))
    return PlannedCell(cell, names, label, tuple(jobs))


def _directory(names: Cell, seed: int, digest: str) -> str:
    """Name a run within a study, the same whatever it is crossed with; the hash alone tells it from all others."""
    return f"{_base_name([names], f'seed{seed}' if seed else '', 1)}-{digest[:_DIGITS]}"


def _base_name(names: Sequence[Cell], workload: str, seeds: int) -> str:
    """Name a directory after what runs: `m40-llama-2-7b-fp16-chat`; what is as by default goes without saying."""
    default = StudyConfig()
    stack = crossed([name.stack for name in names], "stacks")
    policy = crossed([name.policy for name in names], "policies")
    site = crossed([name.site for name in names], "sites")
    return slug(
        crossed([name.hw for name in names], "hw"),
        crossed([name.model for name in names], "models"),
        crossed([name.precision for name in names], "precisions"),
        "" if (stack,) == default.stack else stack,
        "" if (policy,) == default.policy else policy,
        "" if (site,) == default.site else site,
        workload,
        f"{seeds}seeds" if seeds > 1 else "",
    )


def _choose_path(study: StudyConfig, base: Path, single: bool, directories: set[str]) -> Path:
    """Choose where results go.

    A study goes on in a folder that holds some of its runs and no others. Without --out nothing that stands is ever
    taken for another purpose: the name gets a number.

    Raises:
        OptionError: --out is something else than a study, or than nothing.
    """
    if single:
        return Path(study.out) if study.out else base if study.overwrite else free(base)
    if study.out is None and not study.overwrite:
        return next(
            path for path in numbered(base) if takes_study(path, directories) and run_names(path) <= directories
        )
    path = base if study.out is None else Path(study.out)
    if not takes_study(path, directories):
        what = "holds a single run" if (path / "manifest.json").exists() else "holds something else than a study"
        raise OptionError(f"{path} {what}; choose another --out for these {len(directories)} runs")
    return path


def with_config(study: StudyConfig, cell: Cell, seed: int) -> PlannedRun:
    """Plan one run alone, as a worker process does that was told its cell and seed."""
    names = {field: (getattr(cell, field),) for field in Cell.__slots__}
    own = study.model_copy(update={**names, "seed": seed, "replications": 1})
    return plan_study(own).jobs[0]

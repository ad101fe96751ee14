"""Running a study: one run directory per cell and seed, kept if it is there already, a comparison over all of them.

    DIR/m40-1a2b3c4d/       a run directory; the name ends in the hash of its whole configuration
    DIR/h100-sxm-5e6f7a8b/
    DIR/study.json          what was crossed, which runs came of it, headline metrics with intervals over seeds
    DIR/report.html         the comparison

study.json is written last, so a folder without one is a study that was interrupted: run it again and it goes on.
"""

import glob
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afterwatt.reports.errors import ReportError
from afterwatt.reports.files import clear_stale, write_whole
from afterwatt.reports.rundir import Run, find_runs, load_run, without_study_files
from afterwatt.reports.schema import read_json
from afterwatt.studies.config import StudyConfig
from afterwatt.studies.errors import OptionError
from afterwatt.studies.places import STUDY_FILE, no_litter
from afterwatt.studies.plan import PlannedCell, PlannedRun, StudyPlan, plan_study, with_config
from afterwatt.studies.replications import Estimate, estimates
from afterwatt.studies.watch import Watch

if TYPE_CHECKING:
    from afterwatt.studies.cells import Cell

STUDY_VERSION = "1"


@dataclass(frozen=True)
class Study:
    """What came of a study.

    Attributes:
        plan: what was run.
        runs: the first seed of every cell that fits, in order: what is shown and compared.
        every_run: all seeds, cell by cell.
        estimates: label of a cell -> headline -> mean and interval over seeds; empty with one seed.
        report: the page, if one was written.
        kept: how many runs were there already.
        anew: how many were there too, of the same question, and do not count any more.
        changed: the data files that have changed since; none where the program has.
    """

    plan: StudyPlan
    runs: tuple[Run, ...]
    every_run: tuple[Run, ...]
    estimates: dict[str, dict[str, Estimate | None]]
    report: Path | None
    kept: int = 0
    anew: int = 0
    changed: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The run's or the study's directory."""
        return self.plan.path

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Label and reason of every cell that does not fit."""
        return [(cell.label, cell.refusal) for cell in self.plan.cells if cell.refusal is not None]


def run_study(
    study: StudyConfig,
    out: str | Path | None = None,
    jobs: int | None = None,
    backend: str | None = None,
    watch: Watch | None = None,
    spare_core: bool = False,
) -> Study:
    """Run every cell of a study and write directories, pages and study.json; what stands there already is kept.

    Args:
        study: what to run.
        out: where to put it; None: where the study says.
        jobs: runs at a time; None: as many as the study says.
        backend: of joblib, such as `dask` or `ray`, where they are registered; None: processes of this machine.
        watch: told of progress.
        spare_core: whether a run, where there is one at a time, may take a second core.

    Raises:
        Infeasible: no cell fits.
        HardwareError, ModelError, PolicyError, TraceError, ReportError, OptionError: bad input; nothing half-written
            is left behind. Whole runs of other cells stay, and are kept when the study is run again.
    """
    from afterwatt.sim.errors import Infeasible

    watch = watch or Watch()
    own = {"out": None if out is None else str(out), "jobs": jobs}
    plan = plan_study(study.model_copy(update={word: said for word, said in own.items() if said is not None}))
    refusals = [cell.refusal for cell in plan.cells if cell.refusal]
    if len(refusals) == len(plan.cells):
        others = f" (and {len(refusals) - 1} more cells do not fit either)" if len(refusals) > 1 else ""
        raise Infeasible(refusals[0] + others)
    with no_litter(plan.path):
        return _run_one(plan, watch, spare_core) if plan.single else _run_cells(plan, backend, watch, spare_core)


def _run_one(plan: StudyPlan, watch: Watch, spare_core: bool) -> Study:
    cell = plan.cells[0]
    run = _simulate(cell.jobs[0], plan.path, plan.study, watch, f"{cell.names.hw} · {cell.names.model}", spare_core)
    return Study(plan, (run,), (run,), {}, None if plan.study.no_report else plan.path / "report.html")


def _simulate(
    job: PlannedRun, path: Path, study: StudyConfig, watch: Watch, label: str, spare_core: bool = False
) -> Run:
    from afterwatt.sim.run import simulate

    with watch.run(label, job.total) as advance:
        page = not study.no_report and job.seed == study.seed  # further seeds are not shown
        return simulate(job.config, path, advance, study.overwrite, spare_core, page)


def _run_cells(plan: StudyPlan, backend: str | None, watch: Watch, spare_core: bool) -> Study:
    study = plan.study
    earlier = {} if study.overwrite else _asked_before(plan.path)
    _make_folder(plan)
    todo = [(cell, job) for cell in plan.cells for job in cell.jobs if study.overwrite or not _stands(plan, job)]
    if (study.jobs == 1 and backend is None) or len(todo) < 2:
        for number, (cell, job) in enumerate(todo, 1):
            label = f"{number}/{len(todo)}  {cell.label}" + (f" · seed {job.seed}" if len(plan.seeds) > 1 else "")
            _simulate(job, plan.path / job.directory, study, watch, label, spare_core)
    else:
        with watch.run(f"{len(todo)} runs", len(todo)) as advance:
            for done, _ in enumerate(_in_parallel(plan, todo, backend), 1):
                advance(done, 0.0)
    by_cell = [(cell, [load_run(plan.path / job.directory) for job in cell.jobs]) for cell in plan.cells if cell.jobs]
    first = [runs[0] for _, runs in by_cell]
    every = [run for _, runs in by_cell for run in runs]
    several = len(plan.seeds) > 1
    told = {cell.label: estimates([run.summary for run in runs]) for cell, runs in by_cell}
    try:
        report = _pages(plan, first)
        write_whole(plan.path / STUDY_FILE, _study_json(plan, told))
    except ReportError as fault:
        raise ReportError(f"{fault}; all runs stand: run the study again, and it goes on from there") from None
    stale = [(earlier[job.asked], job.directory) for _, job in todo if job.asked in earlier]
    changed = sorted({name for old, new in stale for name in _changed(plan.path / old, plan.path / new)})
    kept = len(plan.jobs) - len(todo)
    shown = told if several else {}
    return Study(plan, tuple(first), tuple(every), shown, report, kept, len(stale), tuple(changed))


def _make_folder(plan: StudyPlan) -> None:
    """Make the study's folder; with --overwrite take away the runs that an earlier study left there."""
    planned = {job.directory for job in plan.jobs}
    try:
        plan.path.mkdir(parents=True, exist_ok=True)
        clear_stale(plan.path)
        if plan.study.overwrite:
            for name in _listed(plan.path) - planned:
                shutil.rmtree(plan.path / name)
            (plan.path / STUDY_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise OptionError(f"cannot write to {plan.path} ({error.strerror}); choose another --out") from None


def _listed(folder: Path) -> set[str]:
    """Name the run directories of the study that stands in a folder, as far as they are there."""
    study = folder / STUDY_FILE
    if not study.is_file():
        return set()
    return {name for name in run_directories(study) if _is_run(folder / name)}


def _asked_before(folder: Path) -> dict[str, str]:
    """Map what the runs of the study in a folder were asked for to their directories, as far as they are there."""
    if not _listed(folder):
        return {}
    told = read_json(folder / STUDY_FILE)
    runs = [run for cell in told["cells"] for run in cell["runs"] if "asked_sha256" in run]
    return {str(run["asked_sha256"]): run["directory"] for run in runs if _is_run(folder / run["directory"])}


def _changed(old: Path, new: Path) -> Iterator[str]:
    """Name the data files of which two runs saw different versions."""
    before, after = (read_json(folder / "manifest.json").get("profiles", {}) for folder in (old, new))
    yield from (name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def run_directories(study: Path, first_seed_only: bool = False) -> list[str]:
    """Name the run directories that a study.json lists, in order.

    Raises:
        ReportError: the file is no study.
    """
    try:
        cells = read_json(study)["cells"]
        listed = [[run["directory"] for run in cell["runs"]] for cell in cells]
        sound = all(Path(name).name == name for names in listed for name in names)
    except (LookupError, TypeError):
        sound = False
    if not sound:
        raise ReportError(f"{study} does not list the runs of a study; run it again, or name the runs")
    return [name for names in listed for name in (names[:1] if first_seed_only else names)]


def runs_in(places: Sequence[str | Path]) -> list[Run]:
    """Open the runs of directories; of a study, the first seed of each of its cells.

    Raises:
        ReportError: a directory is no run, and holds none; or a study has none.
    """
    runs = []
    for place in without_study_files(places):
        study = place / STUDY_FILE
        if study.is_file():
            names = run_directories(study, first_seed_only=True)
            if not names:
                raise ReportError(f"{study} lists no run: none of what it crosses could be run; change the study")
            runs += [load_run(place / name) for name in names]
        else:
            runs += find_runs([place])
    return runs


def _stands(plan: StudyPlan, job: PlannedRun) -> bool:
    return _is_run(plan.path / job.directory)


def _is_run(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def _in_parallel(plan: StudyPlan, todo: Sequence[tuple[PlannedCell, PlannedRun]], backend: str | None) -> Iterator[str]:
    """Run cells in processes of their own; each looks up its cell anew, so that only names travel."""
    import joblib
    from joblib.externals.loky import get_reusable_executor

    work = joblib.Parallel(n_jobs=plan.study.jobs, backend=backend, return_as="generator_unordered")
    calls = (
        joblib.delayed(_run_elsewhere)(plan.study, cell.cell, job.seed, plan.path / job.directory) for cell, job in todo
    )
    try:
        yield from work(calls)
    except BaseException:
        # Workers that are in the middle of a run are stopped hard, and cannot clean up behind themselves.
        if backend is None:
            get_reusable_executor().shutdown(wait=True, kill_workers=True)
        for _, job in todo:
            for partial in plan.path.glob(f".{glob.escape(job.directory)}.partial-*"):
                shutil.rmtree(partial, ignore_errors=True)
        raise


def _run_elsewhere(study: StudyConfig, cell: "Cell", seed: int, path: Path) -> str:
    job = with_config(study, cell, seed)
    return str(_simulate(job, path, study, Watch(), "").path)


def _pages(plan: StudyPlan, compared: Sequence[Run]) -> Path | None:
    """Write the comparison, and the pages of runs that were kept without one; the path of the page to open."""
    if plan.study.no_report:
        return None
    from afterwatt.reports.html import write_report

    for run in compared:
        if not (run.path / "report.html").is_file():
            write_report([run], run.path / "report.html")
    left_out = [(cell.label, cell.refusal) for cell in plan.cells if cell.refusal is not None]
    return write_report(compared, plan.path / "report.html", left_out)


def _study_json(plan: StudyPlan, told: dict[str, dict[str, Estimate | None]]) -> str:
    cells = [_cell_json(cell, told.get(cell.label)) for cell in plan.cells]
    said = {
        "schema_version": STUDY_VERSION,
        "seeds": list(plan.seeds),
        "confidence": 0.95,
        "note": plan.note,
        "cells": cells,
    }
    return json.dumps(said, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _cell_json(cell: PlannedCell, told: dict[str, Estimate | None] | None) -> dict[str, Any]:
    names = {field: getattr(cell.names, field) for field in cell.names.__slots__}
    return {
        "label": cell.label,
        **names,
        "infeasible": cell.refusal,
        "runs": [
            {"seed": job.seed, "directory": job.directory, "sha256": job.digest, "asked_sha256": job.asked}
            for job in cell.jobs
        ],
        "metrics": told and {name: value and value._asdict() for name, value in told.items()},
    }

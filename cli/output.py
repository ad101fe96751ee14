"""What `simulate` prints: results on standard output, remarks on standard error."""

import sys
from typing import TYPE_CHECKING, Any

from afterwatt.cli.tables import Column, print_table

if TYPE_CHECKING:
    from afterwatt.studies.plan import PlannedCell, StudyPlan
    from afterwatt.studies.replications import Estimate
    from afterwatt.studies.running import Study


def complain(text: str) -> None:
    """Say a sentence on standard error."""
    sys.stderr.write(f"{text}\n")


def print_json(data: object) -> None:
    """Print data as JSON on standard output."""
    from afterwatt.reports.schema import to_json

    sys.stdout.write(to_json(data))


def print_study(study: "Study") -> None:
    """Print the table of a run or a study, the intervals over seeds, and where the report lies."""
    from afterwatt.reports.terminal import default_console, print_runs

    console = default_console()
    print_runs(study.runs, console)
    if study.estimates:
        _print_estimates(study)
    _print_remarks(study)
    if study.report is not None:
        console.print(f"report: {study.report}", highlight=False, soft_wrap=True, markup=False)
    else:
        kind = "run" if study.plan.single else "study"
        console.print(f"{kind}: {study.path}", highlight=False, soft_wrap=True, markup=False)


def print_summaries(study: "Study") -> None:
    """Print summary.json of a single run, a list of them for a study (cell by cell, seed by seed)."""
    from afterwatt.reports.rundir import Run
    from afterwatt.reports.schema import read_json

    def summary(run: Run) -> Any:  # noqa: ANN401 - JSON
        return read_json(run.path / "summary.json")

    said = summary(study.runs[0]) if study.plan.single else [summary(run) for run in study.every_run]
    print_json(said)
    _print_remarks(study)


def _print_remarks(study: "Study") -> None:
    for label, reason in study.left_out:
        complain(f"left out: {label}: {reason}")
    if study.anew:
        reason = f"{', '.join(study.changed)} changed" if study.changed else "the program changed"
        complain(f"run anew: {study.anew} of {len(study.plan.jobs)} runs, as {reason} since")
    if study.kept:
        complain(f"kept: {study.kept} of {len(study.plan.jobs)} runs were there already (--overwrite runs them again)")


def _print_estimates(study: "Study") -> None:
    """Print means and half-widths, headlines down, cells across."""
    from afterwatt.studies.replications import HEADLINES

    seeds = study.plan.seeds
    known = {
        place: [found[place] for found in study.estimates.values()]
        for place in HEADLINES
        if any(found[place] is not None for found in study.estimates.values())
    }
    columns = [Column(""), *(Column(label, right=True) for label in study.estimates)]
    rows = [[HEADLINES[place], *(_written(place, value) for value in values)] for place, values in known.items()]
    title = f"Mean ± 95 % t-interval over {len(seeds)} seeds, {seeds[0]} to {seeds[-1]}"
    note = f"The table above and the report are of seed {seeds[0]}. {study.plan.note or ''}".strip()
    print_table(columns, rows, title=title, note=note)


def _written(place: str, value: "Estimate | None") -> str:
    from afterwatt.reports.format import UNKNOWN, number

    if value is None:
        return UNKNOWN
    factor, unit = _unit(place, value.mean)
    if not value.half_width:
        return f"{number(value.mean / factor)}{unit} ± 0"
    return f"{number(value.mean / factor)} ± {number(value.half_width / factor, 2)}{unit}"


def _unit(place: str, mean: float) -> tuple[float, str]:
    from afterwatt.reports.format import prefix_of

    quantity = next((unit for part, unit in (("_s.", "s"), ("gco2e", "g"), ("energy_j", "J")) if part in place), "")
    if place.startswith("load.offered"):
        return 0.01, " %"
    if not quantity:
        return 1.0, ""
    factor, unit = prefix_of(mean, quantity)
    return factor, f" {unit}"


def print_plan(plan: "StudyPlan") -> None:
    """Print the runs of a study without running them."""
    rows = [_plan_row(plan, cell) for cell in plan.cells]
    if plan.study.json_output:
        print_json({"path": str(plan.path), "seeds": list(plan.seeds), "cells": rows})
        return
    from afterwatt.reports.format import plural

    columns = [Column(name) for name in ("hw", "model", "precision", "stack", "policy", "site", "state")]
    seeds = f" under {len(plan.seeds)} seeds" if len(plan.seeds) > 1 else ""
    title = f"{plural(len(plan.cells), 'cell')}{seeds}: {plural(len(plan.jobs), 'run')} in {plan.path}"
    print_table(columns, [[str(row[column.title]) for column in columns] for row in rows], title=title, note=plan.note)


def _plan_row(plan: "StudyPlan", cell: "PlannedCell") -> dict[str, object]:
    names = {field: getattr(cell.names, field) for field in cell.names.__slots__}
    standing = sum((plan.path / job.directory / "manifest.json").is_file() for job in cell.jobs)
    if cell.refusal is not None:
        state = f"does not fit: {cell.refusal}"
    elif plan.single or plan.study.overwrite or not standing:
        state = "to run"
    else:
        state = "finished" if standing == len(cell.jobs) else f"{len(cell.jobs) - standing} of {len(cell.jobs)} to run"
    directories = [plan.path.name] if plan.single else [job.directory for job in cell.jobs]
    return {**names, "state": state, "directories": directories}

"""Writes the shipped profiles anew.

    python -m afterwatt.fidelity.fit.ship [POINTS.csv] [--splitwise PERF_MODEL.csv] [--into FOLDER]

Splitwise's own table, where it is given, stands in for the medians of it that a table of points may hold. Prints how
far the fits are off, in and out of sample, and how the intervals do.
"""

import argparse
import sys
from collections.abc import Sequence
from math import exp
from pathlib import Path
from statistics import median
from typing import Final

from afterwatt.fidelity.fit.fit import candidates
from afterwatt.fidelity.fit.intervals import BASES, KINDS, Miss
from afterwatt.fidelity.fit.profile import write_profile
from afterwatt.fidelity.fit.report import FitReport, judge
from afterwatt.fidelity.points.scenario import scenarios_of
from afterwatt.fidelity.points.table import PUBLISHED, read_points
from afterwatt.fidelity.serving.splitwise_score import points as splitwise_points
from afterwatt.hwprofiles.stacks import STACKS_DIR, software_of

LEAST_POINTS: Final = 2
"""Software with fewer is not shipped: its profile would be the prior's."""
WITHOUT_POINTS: Final = ("zero-inference",)
"""Shipped all the same: points of it are of weights that do not lie on the GPU, which come later."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("points", nargs="?", default=str(PUBLISHED), help="CSV of points [the published ones]")
    parser.add_argument("--splitwise", help="splitwise-sim's perf_model.csv")
    parser.add_argument("--into", default=str(STACKS_DIR), help="folder to write to")
    parser.add_argument("--folds", type=int, default=None, help="groups are held out in so many folds [each by itself]")
    asked = parser.parse_args(arguments)
    table = read_points(asked.points)
    scenarios, refusals = scenarios_of(table)
    if asked.splitwise:
        scenarios = [scenario for scenario in scenarios if scenario.stack != "splitwise"]
    points = candidates(scenarios) + (splitwise_points(asked.splitwise) if asked.splitwise else [])
    report = judge(table, points, refusals, folds=asked.folds)
    for stack in [*report.stacks, *WITHOUT_POINTS]:
        fitted = sum(
            software_of(point.place.stack) == software_of(stack) and point.reading is not None for point in points
        )
        if stack in WITHOUT_POINTS or fitted >= LEAST_POINTS:
            write_profile(Path(asked.into) / f"{stack}.toml", report.text(stack))
    _print(report)


def _print(report: FitReport) -> None:
    for stack in (None, *report.stacks):
        errors = report.errors(stack)
        cells = [f"{test} {count:3d}: {mid:6.1%} {worst:6.1%}" for test, (count, mid, worst) in errors.items()]
        sys.stdout.write(f"{stack or 'all':16s} {'   '.join(cells)}\n")
    for shown, (count, mid, worst) in report.curve_errors().items():
        sys.stdout.write(f"after {shown:2d} points of an unseen card: {count} predictions, {mid:.1%} {worst:.1%}\n")
    calibration = report.calibration
    for basis in BASES:
        for kind in KINDS:
            found = [miss for miss in calibration.misses if (miss.basis, miss.kind) == (basis, kind)]
            _print_intervals(report, f"{basis}, {kind}", found)
    _print_intervals(report, "cross-validated", [found.miss() for found in report.groups])


def _print_intervals(report: FitReport, name: str, found: Sequence[Miss]) -> None:
    if not found:
        return
    halves = [report.calibration.half_width_of(miss) for miss in found]
    inside = sum(abs(miss.log_error) <= half for miss, half in zip(found, halves, strict=True)) / len(found)
    sys.stdout.write(
        f"{name}: {len(found)} points, {inside:.1%} inside, median width x{exp(2.0 * median(halves)):.2f}\n"
    )


if __name__ == "__main__":
    main()

"""One look at a table of points: what can be run, how far off it is, in sample and with points held out.

In sample, the shipped profiles predict, and the simulator runs every point. As a planner runs it, they do as well, but
nobody has told which software it was, how it stores its cache and how much room it found: the card's usual software of
today, and the KV blocks that it would have. With `refit`, profiles are fitted anew
without each group (source, card, model), and without each card, and predict what was left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from afterwatt.fidelity.fit.crossval import HeldOut
from afterwatt.fidelity.fit.intervals import IntervalCalibration
from afterwatt.fidelity.fit.report import fit_table
from afterwatt.fidelity.points.noise import NoiseFloor, noise_floor
from afterwatt.fidelity.points.predict import PointPrediction, predict, predict_all
from afterwatt.fidelity.points.refusals import PointRefusal
from afterwatt.fidelity.points.scenario import Scenario, scenarios_of
from afterwatt.fidelity.points.score import Coverage, PointErrors, Scored, around, coverage_of, errors_of, scored
from afterwatt.fidelity.points.table import PointTable
from afterwatt.hwprofiles.support import usual_stack
from afterwatt.sim.errors import Infeasible

IN_SAMPLE: Final = "shipped profiles"
CROSS: Final = "cross-validated"
DEVICE: Final = "device left out"
PLANNED: Final = "as a planner runs it"


@dataclass(frozen=True)
class Assessment:
    """What came of a table.

    Attributes:
        table: the points.
        scenarios: those that were run; refusals: the others.
        coverage: of the rows.
        tests: name -> predictions, in the order of the rows: `IN_SAMPLE`, `PLANNED` (of those that then fit), and with
            a refit `CROSS` and `DEVICE`.
        noise: how far figures of one set-up differ; None where no two rows speak of one.
        curve: points shown of a card that the fit has not seen -> errors on its others; empty without a refit.
    """

    table: PointTable
    scenarios: Sequence[Scenario]
    refusals: Sequence[PointRefusal]
    coverage: Coverage
    tests: dict[str, list[Scored]]
    noise: NoiseFloor | None
    curve: dict[int, PointErrors]


def assess(table: PointTable, refit: bool, folds: int | None = None) -> Assessment:
    """Predict every point of a table that can be run.

    Args:
        table: the points.
        refit: also fit anew with points held out; takes some ten minutes for 300 points.
        folds: hold groups out in so many folds (None: each by itself).
    """
    scenarios, refusals = scenarios_of(table)
    tests = {
        IN_SAMPLE: [scored(prediction) for prediction in predict_all(scenarios)],
        PLANNED: [scored(prediction) for scenario in scenarios if (prediction := as_planned(scenario)) is not None],
    }
    curve: dict[int, PointErrors] = {}
    if refit:
        report = fit_table(table, folds=folds)
        tests[CROSS] = [_with_interval(found, report.calibration) for found in report.groups]
        tests[DEVICE] = [_with_interval(found, report.calibration) for found in report.devices]
        curve = {
            shown: errors_of(_with_interval(found, report.calibration) for found in results)
            for shown, results in report.curve.items()
        }
    return Assessment(
        table, scenarios, refusals, coverage_of(scenarios, refusals), tests, noise_floor(scenarios), curve
    )


def as_planned(scenario: Scenario) -> PointPrediction | None:
    """Predict a point as one would who knows cards, model, format and load; None if it then does not fit."""
    usual = usual_stack(scenario.deployment.pool.device, scenario.precision)
    planned = replace(scenario, stack=usual, flash=True, kv_bytes=None, least_blocks=0)
    try:
        return predict(planned)
    except (Infeasible, ValueError):  # requests that never fit are served as little
        return None


def _with_interval(found: HeldOut, calibration: IntervalCalibration) -> Scored:
    """Put the interval around a held-out prediction that the other groups' errors give."""
    miss = found.miss()
    half = calibration.half_width(miss.stack, miss.basis, miss.kind, miss.group)
    low, high = around(found.scenario, found.predicted, -half, half)
    return Scored(found.scenario, found.predicted, low, high, found.basis)

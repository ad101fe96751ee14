"""How far off predictions are for points that were not fitted to.

Every test holds points out, fits the rest from the prior on, and predicts what was held out; nothing of what was held
out is looked at before (the prior stands on kernel tables, and variances follow from the points fitted). A group is a
source, a device and a model: rows of one group are next to repetitions of one another and go together.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np

from afterwatt.fidelity.fit.core import LEVELS, Levels
from afterwatt.fidelity.fit.fit import FitCandidate, FittedStacks, fit_candidates
from afterwatt.fidelity.fit.intervals import IntervalCalibration, Miss, calibrate
from afterwatt.fidelity.points.scenario import Scenario
from afterwatt.hwprofiles.stacks import DEFAULT_STACK, software_of

CURVE: Final = (0, 1, 2, 3, 5, 10)
CURVE_DRAWS: Final = 2
LEAST_MEASURED: Final = 3
"""Points of a card, a version of a stack and a class of models from which on a prediction counts as measured."""


@dataclass(frozen=True)
class HeldOut:
    """A prediction of a point that was not fitted to.

    Attributes:
        candidate: the point.
        predicted: its metric.
        basis: what the prediction stood on, of its phase.
    """

    candidate: FitCandidate
    predicted: float
    basis: str

    @property
    def scenario(self) -> Scenario:
        """Return the point's run."""
        return self.candidate.scenario

    @property
    def error_frac(self) -> float:
        """Return (predicted - measured) / measured."""
        return self.predicted / self.scenario.measured - 1.0

    def miss(self) -> Miss:
        """Return what calibration needs of it."""
        scenario = self.scenario
        return Miss(
            self.candidate.place.stack,
            self.basis,
            scenario.kind,
            self.candidate.log_error(self.predicted),
            scenario.widen,
            tuple(map(str, scenario.group)),
        )


def basis_of(point: FitCandidate, fitted_to: Iterable[FitCandidate]) -> str:
    """Say what a prediction stands on: points of its phase, by how near they are.

    Energy follows from times of the decoding phase, and counts as such.
    """
    phase = "prefill" if point.scenario.kind == "prefill" else "decode"
    best, alike, of_phase = "assumed", 0, False
    for other in fitted_to:
        theirs, own = other.place, point.place
        if (theirs.stack, theirs.architecture) != (own.stack, own.architecture):
            continue
        if other.reading is None:
            continue
        same_phase = other.scenario.kind == phase
        if other.place == point.place and other.model_class == point.model_class:
            alike, of_phase = alike + 1, of_phase or same_phase
        if not same_phase:
            continue
        if other.place == point.place:
            best = "fitted"
        elif best == "assumed":
            best = "pooled"
    return "measured" if of_phase and alike >= LEAST_MEASURED else best


def held_out(
    points: Sequence[FitCandidate],
    key: Callable[[FitCandidate], Hashable],
    profile: str = DEFAULT_STACK,
    levels: Levels = LEVELS,
    learn: bool = True,
    near: FittedStacks | None = None,
) -> list[HeldOut]:
    """Predict every point from a fit without its fold, in the order of the points.

    Args:
        points: all of them.
        key: points of equal key are held out together.
        profile: the prior.
        levels: variances to start from.
        learn: whether they follow the evidence.
        near: a fit to all of the points, to begin each search at; None: it is made.
    """
    found: dict[int, HeldOut] = {}
    near = near or fit_candidates(points, profile, levels, learn)
    for inside, outside in _folds(points, key):
        softwares = {software_of(point.place.stack) for point in inside}
        rest = [point for point in outside if software_of(point.place.stack) in softwares]
        fitted = fit_candidates(rest, profile, levels, learn, near)
        for point in inside:
            found[id(point)] = _predicted(point, fitted, rest)
    return [found[id(point)] for point in points]


def cross_validate(
    points: Sequence[FitCandidate],
    profile: str = DEFAULT_STACK,
    folds: int | None = None,
    near: FittedStacks | None = None,
) -> list[HeldOut]:
    """Hold out one group at a time, or several.

    Args:
        points: all of them.
        profile: the prior.
        folds: hold out groups in so many folds, those of one device spread over them; None: each group by itself.
        near: see `held_out`.
    """
    if folds is None:
        return held_out(points, lambda point: point.scenario.group, profile, near=near)
    groups = sorted({(point.place.stack, point.place.device, *map(str, point.scenario.group)) for point in points})
    fold_of = {group[2:]: place % folds for place, group in enumerate(groups)}
    return held_out(points, lambda point: fold_of[tuple(map(str, point.scenario.group))], profile, near=near)


def leave_one_device_out(
    points: Sequence[FitCandidate], profile: str = DEFAULT_STACK, near: FittedStacks | None = None
) -> list[HeldOut]:
    """Hold out one device at a time, of all stacks."""
    return held_out(points, lambda point: point.place.device, profile, near=near)


def leave_one_architecture_out(
    points: Sequence[FitCandidate], profile: str = DEFAULT_STACK, near: FittedStacks | None = None
) -> list[HeldOut]:
    """Hold out one architecture at a time: what is left for its cards is the stack elsewhere, and the prior."""
    return held_out(points, lambda point: point.place.architecture, profile, near=near)


def calibrated(
    points: Sequence[FitCandidate], profile: str = DEFAULT_STACK
) -> tuple[IntervalCalibration, list[HeldOut]]:
    """Calibrate intervals on held-out errors: (calibration, predictions of the cross-validation over groups)."""
    near = fit_candidates(points, profile)
    groups = cross_validate(points, profile, near=near)
    devices = leave_one_device_out(points, profile, near)
    return calibration_of(groups, devices, leave_one_architecture_out(points, profile, near)), groups


def calibration_of(
    groups: Sequence[HeldOut], devices: Sequence[HeldOut], architectures: Sequence[HeldOut]
) -> IntervalCalibration:
    """Calibrate intervals on held-out errors.

    Predictions that stand on points of their device come from holding out groups, those that do not from holding out
    devices and architectures. Runs by the clock are left out, as near saturation their errors are those of queues, and
    so are figures with which something is known to be the matter.
    """
    near = [found for found in groups if found.basis in ("measured", "fitted")]
    far = [found for found in devices if found.basis == "pooled"]
    none = [found for found in architectures if found.basis == "assumed"]
    told = (found.scenario for found in chain(near, far, none))
    usable = [scenario.load.arrivals_s is None and not scenario.point.doubt for scenario in told]
    return calibrate(found.miss() for found, use in zip(chain(near, far, none), usable, strict=True) if use)


def predicted_by(fitted: FittedStacks, points: Sequence[FitCandidate]) -> list[HeldOut]:
    """Predict points with a fit to these very points."""
    return [_predicted(point, fitted, points) for point in points]


def learning_curve(
    points: Sequence[FitCandidate],
    counts: Sequence[int] = CURVE,
    profile: str = DEFAULT_STACK,
    near: FittedStacks | None = None,
) -> dict[int, list[HeldOut]]:
    """Show a fit some points of a device it has never seen, and predict the device's others.

    Devices with more points than the largest count take part, so that all counts are judged by the same devices; where
    there is none, those that have the most. Which points are shown is drawn, twice over.

    Returns:
        count of points shown -> predictions of points not shown.
    """
    by_place: dict[tuple[str, str], list[FitCandidate]] = defaultdict(list)
    for point in points:
        if point.reading is not None:
            by_place[point.place.stack, point.place.device].append(point)
    most = max(map(len, by_place.values()), default=0)
    counts = [count for count in counts if count < most]
    taking_part = {place: own for place, own in by_place.items() if counts and len(own) > max(counts)}
    curve: dict[int, list[HeldOut]] = {count: [] for count in counts}
    for (stack, device), own in sorted(taking_part.items(), key=lambda item: item[0]):
        rest = [
            point
            for point in points
            if software_of(point.place.stack) == software_of(stack) and point.place.device != device
        ]
        for draw in range(CURVE_DRAWS):
            order = np.random.default_rng([draw, len(own)]).permutation(len(own))
            for count in counts:
                if count == 0 and draw:
                    continue
                shown = [own[at] for at in order[:count]]
                fitted = fit_candidates([*rest, *shown], profile, learn=False, near=near)
                hidden = own if count == 0 else [own[at] for at in order[count:]]
                curve[count] += [_predicted(point, fitted, [*rest, *shown]) for point in hidden]
    return curve


def errors_of(found: Sequence[HeldOut]) -> tuple[int, float, float]:
    """Return (count, median, 90th percentile) of the absolute relative errors; NaN where there is none."""
    sizes = np.abs([one.error_frac for one in found])
    if not len(sizes):
        return 0, float("nan"), float("nan")
    return len(sizes), float(np.median(sizes)), float(np.quantile(sizes, 0.9))


def _folds(
    points: Sequence[FitCandidate], key: Callable[[FitCandidate], Hashable]
) -> Iterator[tuple[list[FitCandidate], list[FitCandidate]]]:
    by_key: dict[Hashable, list[FitCandidate]] = defaultdict(list)
    for point in points:
        by_key[key(point)].append(point)
    for held, inside in by_key.items():
        yield inside, [point for other, own in by_key.items() if other != held for point in own]


def _predicted(point: FitCandidate, fitted: FittedStacks, rest: Sequence[FitCandidate]) -> HeldOut:
    return HeldOut(point, point.predict(fitted.stack(point.place)), basis_of(point, rest))

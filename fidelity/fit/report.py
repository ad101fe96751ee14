"""A fit with its account: what moved, how far off it is in and out of sample, and the profiles that come of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from pathlib import PurePath
from typing import Final, NamedTuple

from afterwatt.fidelity.fit.core import StackPlace
from afterwatt.fidelity.fit.crossval import (
    CURVE,
    LEAST_MEASURED,
    HeldOut,
    calibration_of,
    cross_validate,
    errors_of,
    learning_curve,
    leave_one_architecture_out,
    leave_one_device_out,
    predicted_by,
)
from afterwatt.fidelity.fit.fit import REACH_90, FitCandidate, FittedStacks, candidates, fit_candidates
from afterwatt.fidelity.fit.intervals import BORROWED, KINDS, IntervalCalibration, Miss
from afterwatt.fidelity.fit.priors import base_stack, prior_from, profile_of
from afterwatt.fidelity.fit.profile import FitAccount, PoolProfile, place_of_pool, pool_names_of, profile_text
from afterwatt.fidelity.points.refusals import PointRefusal
from afterwatt.fidelity.points.scenario import scenarios_of
from afterwatt.fidelity.points.table import PointsError, PointTable
from afterwatt.hwprofiles.stacks import DEFAULT_STACK, FREE, load_pools

SOURCES_SHOWN: Final = 8
Errors = tuple[int, float, float]


class FittedMove(NamedTuple):
    """How a parameter moved.

    Attributes:
        pool, name: whose.
        prior, value: before and after; low, high: 90 % interval after.
    """

    pool: str
    name: str
    prior: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """A fit of a table of points.

    Attributes:
        table, profile: the points, and the profile that the prior comes from.
        points: those that can be run; refusals: the others.
        fitted: the outcome.
        in_sample: predictions of the points fitted to.
        groups, devices: predictions with groups, and with devices, held out.
        curve: points shown of a device -> predictions of its others.
        calibration: of the intervals.
    """

    table: PointTable
    profile: str
    points: tuple[FitCandidate, ...]
    refusals: tuple[PointRefusal, ...]
    fitted: FittedStacks
    in_sample: tuple[HeldOut, ...]
    groups: tuple[HeldOut, ...]
    devices: tuple[HeldOut, ...]
    curve: Mapping[int, Sequence[HeldOut]]
    calibration: IntervalCalibration

    @property
    def stacks(self) -> list[str]:
        """Return the stacks with points, those with the most first, and today's version of each software."""
        names = {point.place.stack for point in self.points if point.reading is not None} | {*self.fitted.fits}
        count = {name: sum(point.place.stack == name for point in self.points) for name in names}
        return sorted(names, key=lambda name: (-count[name], name))

    def moves(self, stack: str) -> list[FittedMove]:
        """Return how the parameters of a stack's devices moved: those that a point of the device depends on."""
        found = []
        for place in self.fitted.places(stack):
            known, before = self.fitted.known(place), prior_from(self.profile)(place)
            own = {name for point in self._at(place) if point.reading for name in point.reading.names}
            for parameter in FREE:
                if parameter.name not in own:
                    continue
                value, sd = known.log_value[parameter.name], known.log_sd[parameter.name]
                ends = (max(parameter.rule.low, exp(value - REACH_90 * sd)), exp(value + REACH_90 * sd))
                high = min(parameter.rule.high, ends[1])
                prior = exp(before[parameter.name].log_value)
                found.append(FittedMove(place.device, parameter.name, prior, exp(value), ends[0], high))
        return found

    def errors(self, stack: str | None = None) -> dict[str, Errors]:
        """Return (count, median, 90th percentile) by test, of all stacks or one."""
        tests = {"in_sample": self.in_sample, "cross_validated": self.groups, "device_left_out": self.devices}
        return {
            name: errors_of([one for one in found if stack in (None, one.candidate.place.stack)])
            for name, found in tests.items()
        }

    def curve_errors(self) -> dict[int, Errors]:
        """Return the errors on an unseen device by points shown of it."""
        return {count: errors_of(found) for count, found in self.curve.items()}

    def pools(self, stack: str) -> list[PoolProfile]:
        """Return the tables of a stack's profile."""
        return [self._pool(place_of_pool(stack, name), name) for name in pool_names_of(self.fitted, stack)]

    def text(self, stack: str) -> str:
        """Return the TOML of a stack's profile."""
        own = [point for point in self.points if point.place.stack == stack and point.reading is not None]
        cards = len({point.place.device for point in own})
        about = f"{len(own)} points of {cards} card{'s' * (cards != 1)}, prior {PurePath(self.profile).name}."
        errors = {name: found for name, found in self.errors(stack).items() if found[0]}
        account = FitAccount(self.table.sha256, len(own), errors, about)
        return profile_text(stack, self.pools(stack), account)

    def _at(self, place: StackPlace) -> list[FitCandidate]:
        return [point for point in self.points if point.place == place]

    def _pool(self, place: StackPlace, name: str) -> PoolProfile:
        own = [point for point in self._at(place) if point.reading is not None]
        kin = [point for point in self.points if _related(point.place, place) and point.reading is not None]
        before = base_stack(name, place.stack, self.profile)
        stack = replace(self.fitted.stack_with_facts(place, _source(place, own, kin)), pool=name)
        other = profile_of(self.profile, place.stack) == DEFAULT_STACK  # which says nothing about this stack's points
        old_basis, old_seen = ("assumed", ()) if other else (before.basis, before.seen)
        often = Counter(point.model_class for point in own)
        seen = tuple(sorted({*old_seen, *(kind for kind in often if often[kind] >= LEAST_MEASURED)}))
        basis = "fitted" if own or old_basis == "fitted" else "pooled" if kin else old_basis
        spread, spread_seen = {}, {}
        for kind in KINDS:
            if not self.calibration.knows(kind):
                continue
            phase = "prefill" if kind == "prefill" else "decode"
            here = any(point.scenario.kind == phase for point in own)
            near = any(point.scenario.kind == phase for point in kin)
            found = "fitted" if here else "pooled" if near else "assumed"
            spread[kind] = self._factors(place.stack, found, kind)
            spread_seen[kind] = self._factors(place.stack, "measured" if here else found, kind)
        return PoolProfile(stack, basis, seen, spread, spread_seen if seen else None)

    def _factors(self, stack: str, basis: str, kind: str) -> tuple[float, float]:
        return self.calibration.factors(stack, basis, kind)


def fit_table(
    table: PointTable, profile: str = DEFAULT_STACK, stack: str | None = None, folds: int | None = None
) -> FitReport:
    """Fit a table of points and judge the fit.

    Args:
        table: the points.
        profile: shipped stack, or path of a profile, that the prior comes from, or `SHIPPED`.
        stack: fit only the points of this stack.
        folds: see `cross_validate`.

    Raises:
        PointsError: no point can be fitted to.
    """
    scenarios, refusals = scenarios_of(table)
    chosen = [scenario for scenario in scenarios if stack in (None, scenario.stack)]
    points = candidates(chosen, profile)
    if not any(point.reading for point in points):
        others = sorted({scenario.stack for scenario in scenarios if scenario.kind != "energy"})
        known = f"; its points are of {', '.join(others)}" if others else f": {_first_reason(refusals)}"
        raise PointsError(f"{table.path} holds no point{f' of stack {stack}' if stack else ''} to fit to{known}")
    return judge(table, points, refusals, profile, folds)


def judge(
    table: PointTable,
    points: Sequence[FitCandidate],
    refusals: Sequence[PointRefusal],
    profile: str = DEFAULT_STACK,
    folds: int | None = None,
) -> FitReport:
    """Fit points that are ready, and judge the fit.

    Args:
        table: where they come from.
        points: at least one of them to be fitted to.
        refusals: rows of the table that could not be made ready.
        profile: the prior they were made ready with.
        folds: see `cross_validate`.
    """
    fitted = fit_candidates(points, profile)
    groups = cross_validate(points, profile, folds, fitted)
    devices = leave_one_device_out(points, profile, fitted)
    calibration = calibration_of(groups, devices, leave_one_architecture_out(points, profile, fitted))
    for name in {profile_of(profile, name) for name in fitted.fits} - {DEFAULT_STACK}:
        calibration = IntervalCalibration((*calibration.misses, *_prior_misses(name)))
    return FitReport(
        table=table,
        profile=profile,
        points=tuple(points),
        refusals=tuple(refusals),
        fitted=fitted,
        in_sample=tuple(predicted_by(fitted, points)),
        groups=tuple(groups),
        devices=tuple(devices),
        curve=learning_curve(points, CURVE, profile, fitted),
        calibration=calibration,
    )


def _prior_misses(profile: str) -> list[Miss]:
    """Return errors that stand for the intervals of the prior's profile: as many as count from others."""
    found = []
    count = int(BORROWED)
    for pool in load_pools(profile).values():
        for basis, spread in ((pool.basis, pool.spread), ("measured", pool.spread_seen)):
            for kind, factors in spread.items():
                half = max(log(factors.high), -log(factors.low))
                # Of a uniform spread, nine in ten lie within the half-width.
                sizes = [half * (at + 0.5) / (0.9 * count) for at in range(count)]
                found += [Miss("prior", basis, kind, size, 1.0, ("prior", pool.pool, kind)) for size in sizes]
    return found


def _related(one: StackPlace, other: StackPlace) -> bool:
    return (one.stack, one.architecture) == (other.stack, other.architecture)


def _source(place: StackPlace, own: Sequence[FitCandidate], kin: Sequence[FitCandidate]) -> str:
    """Say what a pool's values stand on."""
    points = own or kin
    if not points:
        return f"posterior of `afterwatt fit`: points of {place.stack} on other architectures, and the prior"
    names = list(dict.fromkeys(point.scenario.point.source for point in points))
    shown = "; ".join(names[:SOURCES_SHOWN]) + (
        f"; and {len(names) - SOURCES_SHOWN} more" * (len(names) > SOURCES_SHOWN)
    )
    where = "this card" if own else "cards of its architecture: " + ", ".join(sorted({p.place.device for p in kin}))
    return f"posterior of `afterwatt fit`, {len(points)} published points on {where} ({shown})"


def _first_reason(refusals: Sequence[PointRefusal]) -> str:
    return f"row {refusals[0].point.row}: {refusals[0].why}" if refusals else "it is empty"

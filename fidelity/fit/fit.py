"""The free parameters of software stacks, fitted to measured points that the simulator runs.

Each point's run is recorded once (`fidelity.fit.record`) and timed again under other parameters; runs that depend on
the clock are simulated anew. The parameters of one stack's devices are fitted together (`fidelity.fit.core`); stacks do
not know of one another. Energy, what depends on the clock (a queue near saturation magnifies every error) and attention
that shapes cannot say are predicted, but not fitted to.
"""

import datetime as dt
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Any, Final

from afterwatt.fidelity.fit.core import LEVELS, Belief, Fit, Levels, PointReading, Posterior, StackPlace, fit_readings
from afterwatt.fidelity.fit.priors import base_stack, prior_from
from afterwatt.fidelity.fit.record import record
from afterwatt.fidelity.points.predict import measure, predict, run_columns
from afterwatt.fidelity.points.scenario import Scenario
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.stacks import DEFAULT_STACK, FREE, Stack, model_class, pool_names, software_of
from afterwatt.sim.rows import Columns

REMEMBERED: Final = 40
"""Runs kept per simulation: a step's slopes, for the other points of the same run."""
NEGLIGIBLE: Final = 1e-4
"""A parameter whose threefold moves a prediction by less than this is left alone."""
REACH_90: Final = 1.645
LATENT_ATTENTION: Final = re.compile(r"deepseek-(?:coder-)?(?:v2|v3|v4|r1)", re.IGNORECASE)
"""Models whose attention works on a compressed cache, at several times the arithmetic of our shape for it."""
RATES: Final = frozenset({"decode_tok_s", "prefill_tok_s", "throughput_tok_s", "throughput_req_s"})
"""Metrics that fall as time grows."""
Predict = Callable[[Stack], float]


@dataclass(frozen=True)
class FitCandidate:
    """A point made ready to be fitted to, or predicted.

    Attributes:
        scenario: what is run.
        place: whose parameters it depends on.
        model_class: of the point's model and format.
        predict: gives the metric under a stack.
        reading: what the fit takes; None where it is predicted only.
    """

    scenario: Scenario
    place: StackPlace
    model_class: str
    predict: Predict
    reading: PointReading | None

    def log_error(self, predicted: float) -> float:
        """Return log(measured / predicted) of time (of joules for energy), whatever the metric counts."""
        ratio = log(self.scenario.measured / predicted)
        return -ratio if self.scenario.metric in RATES else ratio


@dataclass(frozen=True)
class FittedStacks:
    """Fits of several stacks to the same points.

    Attributes:
        fits: by software, all its versions together.
        profile: the prior's; a stack without points keeps its values.
        points: how many were fitted.
    """

    fits: Mapping[str, Fit]
    profile: str
    points: int

    def places(self, stack: str) -> list[StackPlace]:
        """Return where points of a stack were fitted to, other versions apart."""
        fit = self.fits.get(software_of(stack))
        return [] if fit is None else [place for place in fit.places if place.stack == stack]

    def known(self, place: StackPlace) -> Posterior:
        """Return the parameters of a place, with or without points of its own."""
        fit = self.fits.get(software_of(place.stack))
        return fit_readings([], prior_from(self.profile)).at(place) if fit is None else fit.at(place)

    def stack(self, place: StackPlace) -> Stack:
        """Return the parameters of a place as values alone: provenance is still the prior's."""
        return base_stack(place.device, place.stack, self.profile).with_values(self.known(place).values())

    def stack_with_facts(self, place: StackPlace, source: str) -> Stack:
        """Return the parameters of a place, each with its interval and source; what no point moved stays as it was."""
        base = base_stack(place.device, place.stack, self.profile)
        known = self.known(place)
        start = prior_from(self.profile)(place)
        today = dt.datetime.now(dt.UTC).date().isoformat()
        facts: dict[str, Any] = {}
        for parameter in FREE:
            name = parameter.name
            value, sd = known.log_value[name], known.log_sd[name]
            if value == start[name].log_value and sd == start[name].log_sd:
                continue
            low, high = (
                max(parameter.rule.low, exp(value - REACH_90 * sd)),
                min(parameter.rule.high, exp(value + REACH_90 * sd)),
            )
            facts[name] = Fact(min(max(exp(value), low), high), source, today, "fitted", low, high)
        return replace(base, **facts)


def place_of(scenario: Scenario) -> StackPlace:
    """Return whose parameters a scenario depends on."""
    device = scenario.deployment.pool.device
    return place_on(scenario.stack, device)


def place_on(stack: str, device: Device) -> StackPlace:
    """Return the place that a device is under a stack."""
    by_memory = pool_names(device)[1]
    return StackPlace(stack, by_memory.rpartition("-")[2], device.architecture, device.key)


def candidates(scenarios: Iterable[Scenario], profile: str = DEFAULT_STACK) -> list[FitCandidate]:
    """Make points ready: run each once, and find out which parameters it depends on.

    Nothing here looks at a measured value.

    Args:
        scenarios: points with their runs.
        profile: whose parameters they are recorded under, and which the prior is taken from.
    """
    prior = prior_from(profile)
    runs: dict[Hashable, _TimedRun] = {}
    chosen = list(scenarios)
    for scenario in chosen:
        if _fits(scenario) and scenario.same_run not in runs:
            place = place_of(scenario)
            runs[scenario.same_run] = _TimedRun(scenario, base_stack(place.device, place.stack, profile))
    names: dict[Hashable, set[str]] = defaultdict(set)
    for scenario in chosen:
        if _fits(scenario):
            run = runs[scenario.same_run]
            names[scenario.same_run] |= _sensitive(prior(place_of(scenario)), run.log_metric(scenario))
    return [_candidate(scenario, runs.get(scenario.same_run), names[scenario.same_run]) for scenario in chosen]


def _candidate(scenario: Scenario, run: "_TimedRun | None", names: Iterable[str]) -> FitCandidate:
    place, kind = place_of(scenario), model_class(scenario.model, scenario.precision)
    if run is None or not _fits(scenario):
        return FitCandidate(scenario, place, kind, lambda stack: predict(scenario, stack).value, None)
    source = f"{scenario.point.source} | {scenario.point.url}"
    reading = PointReading(
        place, tuple(sorted(names)), log(scenario.measured), run.log_metric(scenario), scenario.widen, source
    )
    return FitCandidate(scenario, place, kind, lambda stack: measure(scenario, run.columns(stack)), reading)


def _fits(scenario: Scenario) -> bool:
    """Say whether a point is fitted to: a time that does not hang on arrivals, of attention that is modelled."""
    modelled = not LATENT_ATTENTION.match(scenario.model.name)
    return scenario.kind != "energy" and scenario.load.arrivals_s is None and modelled


class _TimedRun:
    """A simulation that points are read off: timed again where that can be, else simulated again."""

    def __init__(self, scenario: Scenario, base: Stack) -> None:
        self._scenario = scenario
        self._base = base
        config = scenario.config(base)
        self._recording = record(config, scenario.memory(config))
        self._memory: dict[tuple[tuple[str, float], ...], Columns] = {}

    def columns(self, stack: Stack) -> Columns:
        """Return the columns of the requests under a stack."""
        if self._recording is None:
            return run_columns(self._scenario, stack)[0]
        if self._scenario.kv_bytes is not None or self._scenario.flash:
            stack = self._scenario.config(stack).stack
        return self._recording.columns(stack)

    def log_metric(self, scenario: Scenario) -> Callable[[Mapping[str, float]], float]:
        """Return what gives the logarithm of a point's metric under other values of the base's parameters."""

        def log_predicted(values: Mapping[str, float]) -> float:
            key = tuple(values.items())
            columns = self._memory.get(key)
            if columns is None:
                if len(self._memory) >= REMEMBERED:
                    self._memory.pop(next(iter(self._memory)))
                # Bare numbers: a fact's provenance is of no use to the physics, and takes as long to make as a run.
                bare: dict[str, Any] = dict(values)
                columns = self._memory[key] = self.columns(replace(self._base, **bare))
            return log(measure(scenario, columns))

        return log_predicted


def fit_candidates(
    points: Sequence[FitCandidate],
    profile: str = DEFAULT_STACK,
    levels: Levels = LEVELS,
    learn: bool = True,
    near: "FittedStacks | None" = None,
) -> FittedStacks:
    """Fit the stacks of points.

    Args:
        points: from `candidates` with the same profile; those of energy are passed over.
        profile: the prior.
        levels: variances to start from.
        learn: whether they follow the evidence.
        near: a fit to much the same points, to begin the search at.
    """
    by_stack: dict[str, list[PointReading]] = defaultdict(list)
    for point in points:
        if point.reading is not None:
            by_stack[software_of(point.place.stack)].append(point.reading)
    prior = prior_from(profile)
    starts = near.fits if near is not None else {}
    fits = {name: fit_readings(readings, prior, levels, learn, starts.get(name)) for name, readings in by_stack.items()}
    return FittedStacks(fits, profile, sum(map(len, by_stack.values())))


def _sensitive(beliefs: Mapping[str, Belief], log_predicted: Callable[[Mapping[str, float]], float]) -> set[str]:
    """Return the parameters that a prediction depends on, by moving each of them up and down threefold."""
    here = log_predicted({})
    names = set()
    for name, belief in beliefs.items():
        value = exp(belief.log_value)
        moved = {min(3.0 * value, belief.most), max(value / 3.0, belief.least)}
        if any(abs(log_predicted({name: other}) - here) > NEGLIGIBLE for other in moved):
            names.add(name)
    return names

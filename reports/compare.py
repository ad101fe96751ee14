"""Several runs side by side: who is best at what, who wins under uncertainty, and where the answer turns.

Pure arithmetic on the files of finished runs. A *unit* of service is one output token of a finished request; carbon per
unit is what runs of different length and size have in common.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from afterwatt.reports.columns import Floats
from afterwatt.reports.errors import ReportError
from afterwatt.reports.format import listing, percent
from afterwatt.reports.rundir import Run
from afterwatt.reports.schema import Summary
from afterwatt.reports.summary import ServedUnits, served

MEETS_SLO_FRAC = 0.9
SEPARATOR = " · "
"""Between the parts of a run's label."""
Choice = tuple[str, str]
"""(embodied method, allocation)."""


@dataclass(frozen=True)
class Entry:
    """One run in a comparison, under a name that tells it from the others; ``place`` chooses its colour."""

    label: str
    run: Run
    place: int = 0

    @property
    def summary(self) -> Summary:
        """The run's summary."""
        return self.run.summary

    @cached_property
    def served(self) -> ServedUnits:
        """What carbon is divided by."""
        return served(self.run, self.run.manifest.slo())

    @property
    def attainment_frac(self) -> float | None:
        """Share of requests served within the SLO; those longer than the model's context are nobody's to serve."""
        requests, met = self.summary.requests, self.summary.requests.slo_met
        servable = (requests.arrived or 0) - self.summary.rejected_by.get("over_context", 0)
        return met / servable if met is not None and servable > 0 else None

    @property
    def meets_slo(self) -> bool | None:
        """Whether at least 90 % of what could be served was served within the SLO; None where there is no SLO."""
        share = self.attainment_frac
        return None if share is None else share >= MEETS_SLO_FRAC

    @property
    def overloaded(self) -> bool:
        """Whether more arrives than the hardware can serve."""
        return (self.summary.load.offered_frac or 0.0) > 1.0

    @property
    def choice(self) -> Choice | None:
        """The method and allocation of the summary's headline."""
        carbon = self.summary.carbon_gco2e
        if carbon.embodied_method is None or carbon.allocation is None:
            return None
        return carbon.embodied_method, carbon.allocation

    @cached_property
    def choices(self) -> dict[Choice, str]:
        """Every (method, allocation) that was drawn, with its column; none where only a part of the carbon was."""
        return self.run.embodied_draws() if self.run.knows("draws", "operational_gco2e") else {}

    def carbon_draws(self, choice: Choice) -> Floats:
        """Give grams of CO2e per output token in every draw, operational and embodied together."""
        if not self.served.output_tokens:
            return np.zeros(0)
        operational = self.run.column("draws", "operational_gco2e")
        return (operational + self.run.column("draws", self.choices[choice])) / self.served.output_tokens


def entries(runs: Sequence[Run]) -> list[Entry]:
    """Name each run by what differs between them."""
    return [Entry(label, run, place) for place, (label, run) in enumerate(zip(labels(runs), runs, strict=True))]


def labels(runs: Sequence[Run]) -> list[str]:
    """Give each run the shortest name that tells it apart: hardware, then whatever else is not the same for all."""
    traits = [_traits(run) for run in runs]
    differing = [key for key in traits[0] if len({trait[key] for trait in traits}) > 1] if traits else []
    names = [SEPARATOR.join(filter(None, (trait[key] for key in differing or ["hardware"]))) for trait in traits]
    further = (
        [f"seed {run.manifest.seed}" for run in runs],
        [run.name for run in runs],
        [f"#{number}" for number in range(1, len(runs) + 1)],
    )
    for more in further:
        told = {name: {extra for other, extra in zip(names, more, strict=True) if other == name} for name in names}
        names = [f"{name}{SEPARATOR}{x}" if len(told[name]) > 1 else name for name, x in zip(names, more, strict=True)]
    return names


def shared_label(names: Sequence[str]) -> str:
    """Give what some labels have in common, or all of them where they have nothing."""
    parts = [name.split(SEPARATOR) for name in names]
    shared = [part for part in parts[0] if all(part in other for other in parts)]
    return SEPARATOR.join(shared) or " / ".join(names)


def _traits(run: Run) -> dict[str, str]:
    summary, config = run.summary, run.manifest.config
    policies = summary.policies
    if isinstance(policies, Mapping):
        policies = "/".join(str(value) for value in policies.values() if value is not None)
    return {
        "hardware": summary.hardware,
        "model": summary.model,
        "precision": str(config.get("precision") or ""),
        "stack": str(config.get("stack") or ""),
        "site": summary.site or "",
        "policy": str(policies or ""),
    }


def pareto(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Give the places of the points that none other beats in both (smaller is better), in ascending x."""
    order = sorted(range(len(x)), key=lambda place: (x[place], y[place]))
    front: list[int] = []
    for place in order:
        if not front or y[place] < y[front[-1]]:
            front.append(place)
    return front


def common_choices(group: Sequence[Entry]) -> list[Choice]:
    """Give the (method, allocation) pairs that every run has drawn, in the first run's order."""
    return [choice for choice in group[0].choices if all(choice in entry.choices for entry in group)] if group else []


def headline_choice(group: Sequence[Entry]) -> Choice | None:
    """Give the choice a comparison is made under: the first run's headline, or else what all runs have drawn."""
    common = common_choices(group)
    wished = group[0].choice if group else None
    return wished if wished in common else next(iter(common), None)


class Contenders(NamedTuple):
    """The runs that compete for being best, and the rule, in words."""

    entries: list[Entry]
    rule: str


def contenders(group: Sequence[Entry]) -> Contenders:
    """Give the runs that may be called best: they meet the SLO or, where none was asked for, carry the load.

    All runs that finished something compete where fewer than two do.
    """
    able = [entry for entry in group if entry.served.output_tokens]
    if any(entry.meets_slo is None for entry in able):
        fit, what = [entry for entry in able if not entry.overloaded], "can carry the load"
    else:
        fit = [entry for entry in able if entry.meets_slo]
        what = f"serve at least {percent(MEETS_SLO_FRAC, 2)} of their servable requests within the SLO"
    if len(fit) < 2:
        who = f"Only {fit[0].label} counts among" if fit else "There are no"
        return Contenders(able, f"{who} runs that {what}, so all compete.")
    left_out = [entry.label for entry in group if entry not in fit]
    if not left_out:
        return Contenders(fit, f"Runs compete that {what}: all of them.")
    return Contenders(
        fit, f"Runs compete that {what}; {listing(left_out)} {'does' if len(left_out) == 1 else 'do'} not."
    )


class Wins(NamedTuple):
    """In how many draws each run has the least carbon per output token."""

    shares: list[float]
    draws: int
    paired: bool


def wins(group: Sequence[Entry], choice: Choice) -> Wins:
    """Count, draw by draw, which run has the least carbon per output token; a tie is shared.

    Runs of one seed share their draws of what is uncertain for all of them (the grid, a method's bias), so that a
    common error does not blur the comparison. Runs of different seeds are compared as independent samples.

    Raises:
        ReportError: a run has no draws under this choice.
    """
    for entry in group:
        if choice not in entry.choices:
            raise ReportError(f"{entry.run.path} has no draws for {choice[0]} × {choice[1]}; simulate it again")
    samples = [entry.carbon_draws(choice) for entry in group]
    length = min(len(sample) for sample in samples)
    stacked = np.stack([sample[:length] for sample in samples])
    least = stacked == stacked.min(axis=0) if length else np.zeros(stacked.shape, dtype=bool)
    shares = (least / np.maximum(least.sum(axis=0), 1)).sum(axis=1) / max(length, 1)
    paired = len({entry.run.manifest.seed for entry in group}) == 1
    return Wins([float(share) for share in shares], length, paired)


def ranking(group: Sequence[Entry], choice: Choice) -> list[int]:
    """Rank the runs by median carbon per output token under one choice: 1 is the least."""
    medians = [float(np.median(entry.carbon_draws(choice))) for entry in group]
    return [1 + sum(other < own for other in medians) for own in medians]


class Flip(NamedTuple):
    """Two runs of which neither is the greener one under every choice."""

    first: str
    second: str
    first_wins: list[Choice]
    second_wins: list[Choice]


def flips(group: Sequence[Entry], choices: Sequence[Choice]) -> list[Flip]:
    """Find the pairs of runs whose order depends on how embodied carbon is counted."""
    ranks = {choice: ranking(group, choice) for choice in choices}
    found = []
    for i, j in itertools.combinations(range(len(group)), 2):
        first = [choice for choice in choices if ranks[choice][i] < ranks[choice][j]]
        second = [choice for choice in choices if ranks[choice][i] > ranks[choice][j]]
        if first and second:
            found.append(Flip(group[i].label, group[j].label, first, second))
    return found

"""Several runs side by side: who is best at what, who wins under uncertainty, and where the answer turns.

Pure arithmetic on the files of finished runs. A *unit* of service is one output token of a finished request; carbon per
unit is what runs of different length and size have in common. Runs are ranked within a question only: the same model,
requests, load, promises and account (`reports.questions`).
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from afterwatt.reports.entry import MEETS_SLO_FRAC, Choice, Entry
from afterwatt.reports.errors import ReportError
from afterwatt.reports.format import listing, percent

TIE_FRAC: Final = 0.01
"""Two figures that differ by less count as equal: intervals are wider, and three digits hardly show it."""


def pareto(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Give the places of the points that none other beats in both (smaller is better), in ascending x."""
    order = sorted(range(len(x)), key=lambda place: (x[place], y[place]))
    front: list[int] = []
    for place in order:
        if not front or y[place] < y[front[-1]]:
            front.append(place)
    return front


def common_choices(group: Sequence[Entry]) -> list[Choice]:
    """Give the ways of counting that every run has drawn."""
    return [choice for choice in group[0].choices if all(choice in entry.choices for entry in group)] if group else []


def headline_choice(group: Sequence[Entry]) -> Choice | None:
    """Give the choice a comparison is made under: the headline of most runs, or else the first that all have drawn.

    It does not depend on the order of the runs.
    """
    common = common_choices(group)
    wished = Counter(entry.choice for entry in group if entry.choice in common)
    return min(common, key=lambda choice: -wished[choice]) if common else None


def drawn_ways(group: Sequence[Entry]) -> tuple[list[Entry], list[Choice]]:
    """Give the runs whose carbon per token is known, and the ways of counting that a comparison of them shows."""
    drawn = [entry for entry in group if entry.choices and entry.served.output_tokens]
    headline = headline_choice(drawn)
    return drawn, [] if headline is None else under_both(headline, common_choices(drawn))


def under_both(choice: Choice, choices: Sequence[Choice]) -> list[Choice]:
    """Give a choice, and the same one under the other host share where that is among some choices."""
    return [choice, *(one for one in choices if one[:2] == choice[:2] and one != choice)]


class Contenders(NamedTuple):
    """The runs that compete for being best, and the rule, in words."""

    entries: list[Entry]
    rule: str


def contenders(group: Sequence[Entry]) -> Contenders:
    """Give the runs that may be called best: they carry the load, and meet the SLO where one was asked for."""
    fit = [entry for entry in group if not entry.fault]
    what = "carry the load"
    if any(entry.meets_slo is not None for entry in group):
        what += f" and serve at least {percent(MEETS_SLO_FRAC, 2)} of their servable requests within the SLO"
    others = [f"{entry.label} ({entry.fault})" for entry in group if entry.fault]
    if not fit:
        return Contenders(fit, f"No run is called best, as none does {what}: {listing(others)}.")
    if not others:
        return Contenders(fit, f"Runs compete that {what}: all of them.")
    return Contenders(fit, f"Runs compete that {what}; {listing(others)} {'does' if len(others) == 1 else 'do'} not.")


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
            raise ReportError(f"{entry.run.path} has no draws for {choice}; simulate it again")
    samples = [entry.carbon_draws(choice) for entry in group]
    length = min(len(sample) for sample in samples)
    stacked = np.stack([sample[:length] for sample in samples])
    least = stacked == stacked.min(axis=0) if length else np.zeros(stacked.shape, dtype=bool)
    shares = (least / np.maximum(least.sum(axis=0), 1)).sum(axis=1) / max(length, 1)
    paired = len({entry.run.manifest.seed for entry in group}) == 1
    return Wins([float(share) for share in shares], length, paired)


def ranks(values: Sequence[float]) -> list[int]:
    """Rank figures: 1 is the least, and what is less than 1 % above another is not behind it."""
    return [1 + sum(other * (1.0 + TIE_FRAC) < own for other in values) for own in values]


def ranking(group: Sequence[Entry], choice: Choice) -> list[int]:
    """Rank the runs by median carbon per output token under one choice; those within 1 % of each other are equal."""
    return ranks([float(np.median(entry.carbon_draws(choice))) for entry in group])


def least(group: Sequence[Entry], choice: Choice) -> list[Entry]:
    """Give the runs with the least carbon per output token under one choice: several where they are equal."""
    return [entry for entry, rank in zip(group, ranking(group, choice), strict=True) if rank == 1]


class Flip(NamedTuple):
    """Two runs of which neither is the greener one under every choice."""

    first: str
    second: str
    first_wins: list[Choice]
    second_wins: list[Choice]


def flips(group: Sequence[Entry], choices: Sequence[Choice]) -> list[Flip]:
    """Find the pairs of runs whose order depends on the way of counting; the run that wins more often comes first."""
    placed = {choice: ranking(group, choice) for choice in choices}
    found = []
    for i, j in itertools.combinations(sorted(range(len(group)), key=lambda k: group[k].label), 2):
        first = [choice for choice in choices if placed[choice][i] < placed[choice][j]]
        second = [choice for choice in choices if placed[choice][i] > placed[choice][j]]
        if first and second:
            sides = ((group[i].label, first), (group[j].label, second))
            (one, more), (other, fewer) = sides if len(first) >= len(second) else sides[::-1]
            found.append(Flip(one, other, more, fewer))
    return found

"""Several runs as page and terminal compare them: verdicts, the table with the best marked, ranks and crossings."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from afterwatt.reports.breakeven import Crossing, Curve, Curves, crossings, curves, merged
from afterwatt.reports.compare import (
    TIE_FRAC,
    common_choices,
    contenders,
    flips,
    headline_choice,
    least,
    ranking,
    under_both,
    wins,
)
from afterwatt.reports.entry import IN_WORDS, Choice, Entry
from afterwatt.reports.format import UNKNOWN, count, duration, energy, grams, listing, number, percent, plural, usd
from afterwatt.reports.schema import Interval
from afterwatt.reports.trust import range_of
from afterwatt.reports.view import Headline, TextTable, co2e

MOST_FLIPS = 6
MOST_WAYS = 3
PER_REQUEST, PER_TOKEN = "carbon per request", "carbon per token"


class Metric(NamedTuple):
    """A column of the comparison: how to read it, how to write it, and which end is better."""

    name: str
    read: Callable[[Entry], float | None]
    write: Callable[[Entry], str]
    better: str  # low | high | none


def _two_lines(block: Interval) -> str:
    """Write an interval as its middle, and its ends on a second line."""
    text = co2e(block)
    middle, _, rest = text.partition(" (")
    ends, _, unit = rest.partition(") ")
    return f"{middle} {unit}\n{ends}" if rest else text


def _p90(latency: str, entry: Entry) -> float | None:
    value: float | None = getattr(entry.summary, latency).p90
    return value


def _p90_text(latency: str, entry: Entry) -> str:
    """Write a latency's 90th percentile, and on a second line the range that the error of the times leaves."""
    within = range_of(entry.summary.prediction, latency, "p90")
    text = duration(_p90(latency, entry))
    return text if within == UNKNOWN else f"{text}\n{within}"


def _usd_per_million(entry: Entry) -> float | None:
    cost = entry.cost
    return None if cost is None else cost.per_million_output_tokens


METRICS = (
    Metric("within SLO", lambda e: e.attainment_frac, lambda e: percent(e.attainment_frac), "high"),
    *(
        Metric(f"{noun} p90", partial(_p90, name), partial(_p90_text, name), "low")
        for noun, name in (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("answer", "e2e_s"))
    ),
    Metric(
        "tokens/s",
        lambda e: e.summary.throughput.output_tokens_per_s,
        lambda e: number(e.summary.throughput.output_tokens_per_s),
        "high",
    ),
    Metric("load", lambda e: e.summary.load.offered_frac, lambda e: percent(e.summary.load.offered_frac), "none"),
    Metric("energy per token", lambda e: e.energy_per_token_j, lambda e: energy(e.energy_per_token_j), "low"),
    Metric(
        PER_REQUEST,
        lambda e: e.band("per_request_gco2e").p50,
        lambda e: _two_lines(e.band("per_request_gco2e")),
        "low",
    ),
    Metric(
        PER_TOKEN,
        lambda e: e.band("per_output_token_gco2e").p50,
        lambda e: _two_lines(e.band("per_output_token_gco2e")),
        "low",
    ),
    Metric("cost per million tokens", _usd_per_million, lambda e: usd(_usd_per_million(e)), "low"),
)


def best(group: Sequence[Entry], metric: Metric, among: Sequence[Entry]) -> set[int]:
    """Give the places of the runs with the best value of a metric, within 1 %; none where no end is better."""
    values = {i: value for i, entry in enumerate(group) if entry in among and (value := metric.read(entry)) is not None}
    if metric.better == "none" or len(values) < 2:
        return set()
    sign = 1.0 if metric.better == "low" else -1.0
    goal = min(values.values(), key=lambda value: sign * value)
    return {i for i, value in values.items() if abs(value - goal) <= TIE_FRAC * abs(goal)}


def comparison_table(group: Sequence[Entry]) -> TextTable:
    """Put all runs side by side, the best of each column marked."""
    among, rule = contenders(group)
    per_token, other = next(metric for metric in METRICS if metric.name == PER_TOKEN), by_other_share(group)
    columns = [(metric, group) for metric in METRICS if not (other and metric.name == PER_REQUEST)]
    columns += [(per_token, other)] if other else []
    shown = [(metric, of) for metric, of in columns if any(metric.read(entry) is not None for entry in of)]
    rows = [[_flagged(entry), *(metric.write(of[row]) for metric, of in shown)] for row, entry in enumerate(group)]
    marked = frozenset(
        (row, column)
        for column, (metric, of) in enumerate(shown, 1)
        for row in best(of, metric, [of[place] for place, entry in enumerate(group) if entry in among])
    )
    head = ["run", *(f"{metric.name}{_as(of[0].counted) if of is other else ''}" for metric, of in shown)]
    counted = (
        f" Energy, carbon and cost count servers{_as(group[0].counted)} where nothing else is said." if other else ""
    )
    note = f"The best of each column is marked, and what is within 1 % of it.{counted} {rule}"
    return TextTable("Side by side", head, rows, note, marked)


def _flagged(entry: Entry) -> str:
    said = entry.summary.prediction
    flags = [f"times {said.basis}"] if said is not None and said.basis else []
    if entry.overloaded:
        flags.append("overloaded")
    if entry.meets_slo is False:
        flags.append("misses the SLO")
    if entry.fault and len(flags) < 2 and not entry.overloaded and entry.meets_slo is not False:
        flags.append(entry.fault)
    return f"{entry.label}\n{', '.join(flags)}" if flags else entry.label


def verdicts(group: Sequence[Entry]) -> list[Headline]:
    """Name the fastest, the leanest and the greenest among those that may be called best; all that are equal."""
    among, _ = contenders(group)
    by_name = {metric.name: metric for metric in METRICS}
    chosen = (
        ("feel", "Shortest wait for an answer", by_name["answer p90"]),
        ("does", "Least energy per token", by_name["energy per token"]),
        ("pays", "Least carbon per token", by_name[PER_TOKEN]),
    )
    found = []
    for kind, title, metric in chosen:
        known = [(value, entry) for entry in among if (value := metric.read(entry)) is not None]
        known.sort(key=lambda pair: (pair[0], pair[1].label))
        if len(known) < 2:
            continue
        first = best(group, metric, among)
        winners = [entry.label for _, entry in known if group.index(entry) in first]
        rows = [
            (entry.label, f"{metric.write(entry).splitlines()[0]}{_times(value, known[0][0])}")
            for value, entry in known[:4]
        ]
        left_out = [entry for entry in group if entry.fault]
        if left_out:
            rows.append((f"{plural(len(left_out), 'run')} left out", listing([entry.label for entry in left_out])))
        equal = f", equal within {percent(TIE_FRAC, 1)}" if len(winners) > 1 else ""
        other = [] if kind == "feel" else _elsewhere(among, metric)
        counted = f", {IN_WORDS[share]}" if other and (share := _share(group)) in IN_WORDS else ""
        rows += other
        found.append(Headline(kind, title, listing(winners), f"{metric.name}{counted}{equal}", rows))
    return found


def _share(group: Sequence[Entry]) -> str:
    return group[0].counted.host_share if group and group[0].counted is not None else ""


def by_other_share(group: Sequence[Entry]) -> list[Entry]:
    """Give runs as they count under the other host share; none where it is unknown, or the same for all."""
    ways = [entry.counted for entry in group]
    share = next((share for share in IN_WORDS if share != _share(group)), "")
    other = [None if way is None else way._replace(host_share=share) for way in ways]
    if all(entry.fills_its_hosts for entry in group):
        return []
    known = all(way in entry.choices for way, entry in zip(other, group, strict=True))
    return [replace(entry, counted=way) for way, entry in zip(other, group, strict=True)] if known else []


def _elsewhere(among: Sequence[Entry], metric: Metric) -> list[tuple[str, str]]:
    """Give who is best under the other host share, as a row of a verdict."""
    known = [(value, entry) for entry in by_other_share(among) if (value := metric.read(entry)) is not None]
    if len(known) < 2:
        return []
    least_of = min(value for value, _ in known)
    winners = [entry for value, entry in known if value <= least_of * (1.0 + TIE_FRAC)]
    figure = metric.write(min(known, key=lambda pair: pair[0])[1]).splitlines()[0]
    return [(f"best{_as(winners[0].counted)}", f"{listing(sorted(one.label for one in winners))} · {figure}")]


def _times(value: float, least: float) -> str:
    return f" · {number(value / least, 2)}×" if least and value > least else ""


def standings(group: Sequence[Entry]) -> list[str]:
    """Say which runs emit least per token under either host share, whether the order changes, and in how many ways.

    Only runs that may be called best are spoken of; nothing is said where there are fewer than two.
    """
    among = [entry for entry in contenders(group).entries if entry.choices]
    choice, choices = headline_choice(among), common_choices(among)
    if len(among) < 2 or choice is None:
        return []
    ways = under_both(choice, choices)
    told = [f"{_first(among, way)}{_as(way)}" for way in ways]
    orders = [_order(among, way) for way in ways]
    said = [f"Least carbon per token: {', '.join(told)}.", _in_ways(among, choices)]
    if len(set(orders)) > 1:
        placed = "; ".join(f"{order}{_as(way)}" for order, way in zip(orders, ways, strict=True))
        return [*said, f"The order changes with the host share: {placed}."]
    return [*said, f"The order {'is the same under either host share' if len(ways) > 1 else 'is'}: {orders[0]}."]


def _as(way: Choice | None) -> str:
    return f" {IN_WORDS[way.host_share]}" if way is not None and way.host_share in IN_WORDS else ""


def _first(group: Sequence[Entry], way: Choice) -> str:
    winners = sorted(least(group, way), key=lambda entry: entry.label)
    value = grams(min(float(np.median(entry.carbon_draws(way))) for entry in winners))
    equal = f", equal within {percent(TIE_FRAC, 1)}" if len(winners) > 1 else ""
    return f"{listing([entry.label for entry in winners])} ({value}{equal})"


def _order(group: Sequence[Entry], way: Choice) -> str:
    """Write all runs from the least on; `=` stands between those that are equal."""
    placed = sorted(zip(ranking(group, way), [entry.label for entry in group], strict=True))
    text = placed[0][1]
    for (before, _), (rank, label) in itertools.pairwise(placed):
        text += f"{' = ' if rank == before else ' < '}{label}"
    return text


def _in_ways(group: Sequence[Entry], choices: Sequence[Choice]) -> str:
    """Say in how many ways of counting each run is lowest."""
    lowest = Counter(entry.label for choice in choices for entry in least(group, choice))
    told = sorted(lowest.items(), key=lambda pair: (-pair[1], pair[0]))
    shared = " Runs that are equal count for both." if lowest.total() > len(choices) else ""
    of = f"{len(choices)} ways of counting (method × allocation × host share)"
    if len(told) == 1:
        return f"Under all {of}, {told[0][0]} is lowest."
    return f"Of {of} {listing([f'{label} is lowest under {number}' for label, number in told])}.{shared}"


def outcome_table(group: Sequence[Entry]) -> TextTable:
    """List what was run and what became of its requests."""
    rows = []
    for entry in group:
        summary, requests = entry.summary, entry.summary.requests
        rows.append(
            [
                entry.label,
                summary.model,
                summary.site or UNKNOWN,
                *map(count, (requests.arrived, requests.finished, requests.rejected, requests.unfinished)),
                number(summary.load.capacity_requests_per_s),
                count(summary.load.devices_needed),
            ]
        )
    head = [
        "run",
        "model",
        "site",
        "arrived",
        "finished",
        "rejected",
        "unfinished",
        "capacity (requests/s)",
        "devices needed",
    ]
    return TextTable("The runs", head, rows)


def ranking_table(group: Sequence[Entry], choices: Sequence[Choice]) -> TextTable:
    """List carbon per output token and rank under every way of counting; ranks unlike the headline's are marked."""
    headline = headline_choice(group)
    if headline is None:
        return TextTable("", [], [])
    usual = ranking(group, headline)
    rows, marked = [], set()
    for row, choice in enumerate(choices):
        placed = ranking(group, choice)
        shares = wins(group, choice).shares
        cells = [
            f"{grams(float(np.median(e.carbon_draws(choice))))}\nrank {rank}, lowest in {percent(share, 2)}"
            for rank, e, share in zip(placed, group, shares, strict=True)
        ]
        rows.append([str(choice), *cells])
        marked |= {(row, column) for column, rank in enumerate(placed, 1) if rank != usual[column - 1]}
    note = (
        "Median carbon (CO₂e) per output token, rank (runs within 1 % of each other share one), and the share of draws "
        f"in which the run is lowest. Marked: a rank that differs from that under {headline}."
    )
    head = ["method × allocation × host share", *(e.label for e in group)]
    return TextTable("Ranking under every way of counting", head, rows, note, frozenset(marked), "other")


def flip_texts(group: Sequence[Entry], choices: Sequence[Choice]) -> list[str]:
    """Say which pairs of runs change places, and under what."""
    pairs = flips(group, choices)
    found = [
        f"{flip.first} emits less per token than {flip.second} {_where(flip.first_wins, choices)}, {flip.second} less "
        f"than {flip.first} {_where(flip.second_wins, choices)}."
        for flip in pairs[:MOST_FLIPS]
    ]
    if len(pairs) > MOST_FLIPS:
        found.append(f"So do {len(pairs) - MOST_FLIPS} more pairs of runs; the table shows them.")
    return found


def _where(some: Sequence[Choice], choices: Sequence[Choice]) -> str:
    """Say under which ways of counting something holds: by the one word they share, by name, or how many."""
    for place, words in enumerate(("by method {}", "allocated {}", "{}")):
        for word in dict.fromkeys(choice[place] for choice in some):
            if set(some) == {choice for choice in choices if choice[place] == word}:
                return words.format(IN_WORDS.get(word, word))
    if len(some) > MOST_WAYS:
        return f"under {len(some)} of {len(choices)} ways of counting"
    return f"under {listing([str(choice) for choice in some])}"


class Axis(NamedTuple):
    """What moves: its name, a noun for it, the key of its unit, which curve, its bounds, how a place is written."""

    name: str
    noun: str
    key: str
    curve: Callable[[Curves], Curve | None]
    bounds: tuple[float, float]
    say: Callable[[float], str]


AXES: Final = (
    Axis(
        "grid intensity",
        "grid intensity",
        "gco2e_per_kwh",
        lambda known: known.intensity,
        (0.0, 2000.0),
        lambda x: f"{number(x)} gCO₂e/kWh",
    ),
    Axis(
        "all lives, relative to those assumed",
        "length of all lives",
        "lives_factor",
        lambda known: known.lifetime,
        (0.1, 10.0),
        lambda x: f"{number(x)}×",
    ),
    Axis("duty cycle", "duty cycle", "duty_frac", lambda known: known.duty, (0.0, 1.0), percent),
)


class Meetings(NamedTuple):
    """Where runs meet on one axis under one way of counting, and who is lowest throughout where nobody does."""

    axis: Axis
    way: Choice
    crossings: list[Crossing]
    lowest: str | None


def meetings(group: Sequence[Entry], ways: Sequence[Choice]) -> list[Meetings]:
    """Find the break-even points of every pair under one host share or both, as far as they mean something.

    Args:
        group: the runs; those that may not be called best meet nobody.
        ways: a way of counting, and the same under the other host share.
    """
    found = []
    for way in ways:
        known = [told for entry in group if (told := curves(entry, way)) is not None]
        for axis in AXES:
            lines = merged([line for told in known if (line := axis.curve(told)) is not None])
            low, high = axis.bounds
            met = [meet for meet in crossings(lines) if low <= meet.x <= high]
            sound = sorted((line.at(high), line.label) for line in lines if not line.fault)
            throughout = sound[0][1] if len(sound) > 1 and not any(meet.decides for meet in met) else None
            found.append(Meetings(axis, way, met, throughout))
    return found


def crossing_table(group: Sequence[Entry], ways: Sequence[Choice]) -> TextTable:
    """List the break-even points of every pair; arguments as in `meetings`."""
    rows = [
        [
            f"{found.axis.name}{_as(found.way) if len(ways) > 1 else ''}",
            found.axis.say(meet.x),
            meet.below,
            meet.above,
            f"{grams(meet.gco2e)}CO₂e",
            "yes" if meet.decides else "no",
        ]
        for found in meetings(group, ways)
        for meet in found.crossings
    ]
    note = (
        "CI* = (m_new − m_old) / (e_old − e_new), and its likes for life and duty cycle. "
        "Best changes: no third run is lower there. Listed up to 2,000 g/kWh and from a tenth to ten times the lives."
    )
    head = ["what moves", "break-even at", "lower below it", "lower above it", "carbon per token there", "best changes"]
    return TextTable("Break-even points", head, rows, note)


def throughout(group: Sequence[Entry], ways: Sequence[Choice]) -> list[str]:
    """Say who emits least per token wherever an axis stands, where the best does not change along it."""
    said = []
    for found in meetings(group, ways):
        low, high = map(found.axis.say, found.axis.bounds)
        if found.lowest is not None:
            counted = _as(found.way) if len(ways) > 1 else ""
            said.append(f"Whatever the {found.axis.noun} ({low} to {high}){counted}: {found.lowest} is lowest.")
    return said

"""Several runs as page and terminal compare them: verdicts, the table with the best marked, ranks and crossings."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from afterwatt.reports.breakeven import Curve, crossings, curves, merged
from afterwatt.reports.compare import Choice, Entry, contenders, flips, headline_choice, ranking, wins
from afterwatt.reports.format import UNKNOWN, count, duration, energy, grams, listing, number, percent, plural, usd
from afterwatt.reports.schema import Interval
from afterwatt.reports.trust import range_of
from afterwatt.reports.view import Headline, TextTable, co2e

MOST_FLIPS = 6


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


def _energy_per_token(entry: Entry) -> float | None:
    total_j, tokens = entry.summary.energy_j.total, entry.served.output_tokens
    return total_j / tokens if total_j is not None and tokens else None


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
    Metric("energy per token", _energy_per_token, lambda e: energy(_energy_per_token(e)), "low"),
    Metric(
        "carbon per request",
        lambda e: e.summary.sci.per_request_gco2e.p50,
        lambda e: _two_lines(e.summary.sci.per_request_gco2e),
        "low",
    ),
    Metric(
        "carbon per token",
        lambda e: e.summary.sci.per_output_token_gco2e.p50,
        lambda e: _two_lines(e.summary.sci.per_output_token_gco2e),
        "low",
    ),
    Metric(
        "cost per million tokens",
        lambda e: e.summary.cost_usd.per_million_output_tokens,
        lambda e: usd(e.summary.cost_usd.per_million_output_tokens),
        "low",
    ),
)


def best(group: Sequence[Entry], metric: Metric, among: Sequence[Entry]) -> set[int]:
    """Give the places of the runs with the best value of a metric, ties included; none where no end is better."""
    values = {i: value for i, entry in enumerate(group) if entry in among and (value := metric.read(entry)) is not None}
    if metric.better == "none" or len(values) < 2:
        return set()
    goal = min(values.values()) if metric.better == "low" else max(values.values())
    return {i for i, value in values.items() if value == goal}


def comparison_table(group: Sequence[Entry]) -> TextTable:
    """Put all runs side by side, the best of each column marked."""
    among, rule = contenders(group)
    shown = [metric for metric in METRICS if any(metric.read(entry) is not None for entry in group)]
    rows = [[_flagged(entry), *(metric.write(entry) for metric in shown)] for entry in group]
    marked = frozenset((row, column) for column, m in enumerate(shown, 1) for row in best(group, m, among))
    return TextTable(
        "Side by side",
        ["run", *(metric.name for metric in shown)],
        rows,
        f"The best of each column is marked. {rule}",
        marked,
    )


def _flagged(entry: Entry) -> str:
    said = entry.summary.prediction
    flags = [f"times {said.basis}"] if said is not None and said.basis else []
    if entry.overloaded:
        flags.append("overloaded")
    if entry.meets_slo is False:
        flags.append("misses the SLO")
    return f"{entry.label}\n{', '.join(flags)}" if flags else entry.label


def verdicts(group: Sequence[Entry]) -> list[Headline]:
    """Name the fastest, the leanest and the greenest among those that may be called best."""
    among, _ = contenders(group)
    by_name = {metric.name: metric for metric in METRICS}
    chosen = (
        ("feel", "Shortest wait for an answer", by_name["answer p90"]),
        ("does", "Least energy per token", by_name["energy per token"]),
        ("pays", "Least carbon per token", by_name["carbon per token"]),
    )
    found = []
    for kind, title, metric in chosen:
        known = [(value, entry) for entry in among if (value := metric.read(entry)) is not None]
        known.sort(key=lambda pair: pair[0])
        if not known:
            continue
        rows = [
            (entry.label, f"{metric.write(entry).splitlines()[0]}{_times(value, known[0][0])}")
            for value, entry in known[:4]
        ]
        left_out = len(group) - len(among)
        if left_out:
            why = "not within SLO" if all(entry.meets_slo is not None for entry in group) else "overloaded"
            rows.append((f"{plural(left_out, 'run')} left out", why))
        found.append(Headline(kind, title, known[0][1].label, metric.name, rows))
    return found


def _times(value: float, least: float) -> str:
    return f" · {number(value / least, 2)}×" if least and value > least else ""


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
    """List carbon per output token and rank under every method × allocation; ranks unlike the headline's are marked."""
    headline = headline_choice(group)
    if headline is None:
        return TextTable("", [], [])
    usual = ranking(group, headline)
    rows, marked = [], set()
    for row, choice in enumerate(choices):
        ranks = ranking(group, choice)
        shares = wins(group, choice).shares
        cells = [
            f"{grams(float(np.median(e.carbon_draws(choice))))}\nrank {rank}, lowest in {percent(share, 2)}"
            for rank, e, share in zip(ranks, group, shares, strict=True)
        ]
        rows.append([" × ".join(choice), *cells])
        marked |= {(row, column) for column, rank in enumerate(ranks, 1) if rank != usual[column - 1]}
    note = (
        "Median carbon (CO₂e) per output token, rank, and the share of draws in which the run is lowest. "
        f"Marked: a rank that differs from that under {' × '.join(headline)}."
    )
    return TextTable(
        "Ranking under every way of counting",
        ["method × allocation", *(e.label for e in group)],
        rows,
        note,
        frozenset(marked),
        "other",
    )


def flip_texts(group: Sequence[Entry], choices: Sequence[Choice]) -> list[str]:
    """Say which pairs of runs change places, and under what."""
    pairs = flips(group, choices)
    found = []
    for flip in pairs[:MOST_FLIPS]:
        few, many, loser, winner = (
            (flip.first_wins, flip.second_wins, flip.first, flip.second)
            if len(flip.first_wins) <= len(flip.second_wins)
            else (flip.second_wins, flip.first_wins, flip.second, flip.first)
        )
        named = [" × ".join(choice) for choice in few[:4]] + ([f"{len(few) - 4} more"] if len(few) > 4 else [])
        found.append(
            f"{winner} emits less per token than {loser} under {len(many)} of {len(choices)} ways of counting, "
            f"{loser} less than {winner} under {listing(named)}."
        )
    if len(pairs) > MOST_FLIPS:
        found.append(f"So do {len(pairs) - MOST_FLIPS} more pairs of runs; the table shows them.")
    return found


def crossing_table(group: Sequence[Entry], choice: Choice) -> TextTable:
    """List the break-even points of every pair, also those outside of the charts as far as they mean something."""
    known = [found for entry in group if (found := curves(entry, choice)) is not None]
    axes: tuple[tuple[str, list[Curve], tuple[float, float], Callable[[float], str]], ...] = (
        ("grid intensity", [c.intensity for c in known], (0.0, 2000.0), lambda x: f"{number(x)} gCO₂e/kWh"),
        ("all lives, relative to those assumed", [c.lifetime for c in known], (0.1, 10.0), lambda x: f"{number(x)}×"),
        ("duty cycle", [c.duty for c in known if c.duty], (0.0, 1.0), percent),
    )
    rows = [
        [name, say(meet.x), meet.below, meet.above, f"{grams(meet.gco2e)}CO₂e", "yes" if meet.decides else "no"]
        for name, lines, (low, high), say in axes
        for meet in crossings(merged(lines))
        if low <= meet.x <= high
    ]
    note = (
        "CI* = (m_new − m_old) / (e_old − e_new), and its likes for life and duty cycle. "
        "Best changes: no third run is lower there. Listed up to 2,000 g/kWh and from a tenth to ten times the lives."
    )
    head = ["what moves", "break-even at", "lower below it", "lower above it", "carbon per token there", "best changes"]
    return TextTable("Break-even points", head, rows, note)

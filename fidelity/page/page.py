"""The fidelity page: what was measured, how far off predictions are, and why. Written by a program, never by hand."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Final

from afterwatt.fidelity.page.assess import CROSS, DEVICE, IN_SAMPLE, Assessment
from afterwatt.fidelity.points.score import (
    BASIS,
    HARDWARE,
    METRIC,
    STACK,
    PointErrors,
    Scored,
    by,
    errors_of,
    intervals_of,
    reasons,
    worst,
)

WORST_SHOWN: Final = 20
LONGEST_LINE: Final = 118


@dataclass(frozen=True, slots=True)
class Claim:
    """One of the things that were asked for.

    Attributes:
        what: in words.
        asked, reached: figures with units.
        met: whether it was reached; None where it could not be measured.
    """

    what: str
    asked: str
    reached: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        text: Markdown.
        claims: what it adds to the table at the head.
        images: figures that the text refers to as images/NAME: (name, SVG).
    """

    title: str
    text: str
    claims: tuple[Claim, ...] = ()
    images: tuple[tuple[str, str], ...] = ()


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *map(list, rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def percent(frac: float, digits: int = 0) -> str:
    """Write a share; "–" where it is not known."""
    return "–" if isnan(frac) else f"{100.0 * frac:.{digits}f} %"


def fidelity_page(found: Assessment, sections: Sequence[Section], image: str) -> str:
    """Return the page.

    Args:
        found: what came of the points.
        sections: what else was measured.
        image: path of the parity plot, from the page.
    """
    claims = [*claims_of(found), *(claim for section in sections for claim in section.claims)]
    parts = [
        "# Fidelity: predictions held against measurements\n",
        wrapped(
            "Written by `benchmarks/fidelity.py` from a table of published measurements and the tables beside it; no "
            "figure here was typed. Every point is predicted by running the simulator on its workload. *Error* is the "
            "absolute value of (predicted - measured) / measured."
        ),
        "## What was asked, what was reached\n",
        table(
            ("what", "asked", "reached", ""),
            ((claim.what, claim.asked, claim.reached, _mark(claim.met)) for claim in claims),
        ),
        points_part(found, f"![Predicted over measured]({image})\n"),
        *(f"## {section.title}\n\n{section.text.strip()}\n" for section in sections),
    ]
    return "\n".join(parts)


def claims_of(found: Assessment) -> list[Claim]:
    """Return what was asked of the points, and what came of it."""
    cover = found.coverage
    claims = [
        Claim(
            "rows that are run", "≥ 90 %", f"{percent(cover.frac, 1)} ({cover.run}/{cover.counted})", cover.frac >= 0.9
        )
    ]
    for name, words, median, p90 in (
        (CROSS, "points, cross-validated over groups", 0.09, 0.28),
        (DEVICE, "points, one card at a time left out", 0.11, None),
    ):
        if name not in found.tests:
            continue
        errors = errors_of(found.tests[name])
        claims.append(_claim(f"{words}: median", median, errors.median_frac))
        if p90 is not None:
            claims.append(_claim(f"{words}: 90th percentile", p90, errors.p90_frac))
    if DEVICE in found.tests:
        p100 = [one for one in found.tests[DEVICE] if one.scenario.device_key.startswith("p100")]
        if p100:
            off = max(abs(one.error_frac) for one in p100)
            claims.append(_claim("P100 left out: largest error", 0.35, off))
    if CROSS in found.tests:
        intervals = intervals_of(found.tests[CROSS])
        claims.append(
            Claim(
                "90 % intervals, cross-validated: share inside",
                "85 to 95 %",
                f"{percent(intervals.inside_frac, 1)}, median width ×{intervals.median_width:.2f}",
                0.85 <= intervals.inside_frac <= 0.95,
            )
        )
    return claims


def _claim(what: str, most_frac: float, reached_frac: float) -> Claim:
    return Claim(what, f"≤ {percent(most_frac)}", percent(reached_frac, 1), reached_frac <= most_frac)


def _mark(met: bool | None) -> str:
    return "not measured" if met is None else ("met" if met else "**missed**")


def points_part(found: Assessment, picture: str = "") -> str:
    """Return what came of the points: errors by software, card and metric, intervals, and the rows without a run.

    Args:
        found: what came of them.
        picture: Markdown of the parity plot.
    """
    judged = found.tests.get(CROSS, found.tests[IN_SAMPLE])
    parts = [
        "## Published points\n",
        wrapped(
            f"{found.coverage.rows} rows, {found.coverage.counted} of them with a known card, weights on it and no "
            f"speculation; {found.coverage.run} are run. *Shipped profiles* were fitted to these very rows; *as a "
            "planner runs it*, they are not told which software it was nor how many KV blocks it had; "
            "*cross-validated* predictions come from fits without any row of the same source, card and model; with a "
            "*device left out*, without any row of the card."
        ),
        picture,
        _tests(found),
        "### By software\n",
        _by_group(found, STACK, "software"),
        "### By card\n",
        _by_group(found, HARDWARE, "card"),
        "### By metric\n",
        _by_group(found, METRIC, "metric"),
        "### Intervals\n",
        _intervals(found),
        *_curve(found),
        "### Noise floor\n",
        _noise(found),
        "### Farthest off\n",
        _worst(judged),
        "### Rows without a run\n",
        _refusals(found),
        "### What was assumed\n",
        _assumptions(found),
    ]
    return "\n".join(parts)


def _tests(found: Assessment) -> str:
    rows = []
    for name, results in found.tests.items():
        errors = errors_of(results)
        rows.append([name, *_figures(errors), f"{errors.bias:.2f}"])
    return table(("test", "points", "median error", "90th percentile", "predicted / measured"), rows)


def _figures(errors: PointErrors | None) -> list[str]:
    if errors is None:
        return ["", "", ""]
    return [str(errors.count), percent(errors.median_frac), percent(errors.p90_frac)]


def _by_group(found: Assessment, key: object, word: str) -> str:
    grouped = {name: by(results, key) for name, results in found.tests.items()}  # type: ignore[arg-type]
    names = sorted({group for groups in grouped.values() for group in groups})
    head = [word, "points"]
    for test in grouped:
        head += [f"{test}: median", "p90"]
    rows = []
    for name in names:
        counts = [groups[name].count for groups in grouped.values() if name in groups]
        cells = [name, str(max(counts))]
        for groups in grouped.values():
            cells += _figures(groups.get(name))[1:]
        rows.append(cells)
    return table(head, rows)


def _intervals(found: Assessment) -> str:
    rows = []
    for test, results in found.tests.items():
        groups: dict[str, list[Scored]] = {"all": list(results)}
        for one in results:
            groups.setdefault(one.basis, []).append(one)
        for name, members in groups.items():
            told = intervals_of(members)
            width = "–" if isnan(told.median_width) else f"×{told.median_width:.2f}"
            rows.append([test, name, str(told.count), percent(told.inside_frac), width])
    words = wrapped(
        "Share of measured values within the 90 % interval, and the median of its upper over its lower end, by what a "
        "prediction stands on. Cross-validated intervals are made without the errors of the point's own group."
    )
    return words + "\n" + table(("test", "stands on", "points", "inside", "width"), rows)


def _curve(found: Assessment) -> list[str]:
    """Return how errors fall with the points that a user adds of a card of their own."""
    if not found.curve:
        return []
    words = wrapped(
        "Cards with more points than the largest number below take part. Of each, some points, drawn three times over, "
        "are shown to a fit that knows all other cards, and the rest is predicted."
    )
    rows = [
        [str(shown), str(errors.count), percent(errors.median_frac), percent(errors.p90_frac)]
        for shown, errors in sorted(found.curve.items())
    ]
    return [
        "### A card of one's own\n",
        words,
        table(("points shown", "points predicted", "median error", "90th percentile"), rows),
    ]


def _noise(found: Assessment) -> str:
    floor = found.noise
    if floor is None:
        return "No two rows of the table speak of one set-up.\n"
    words = wrapped(
        f"{len(floor.pairs)} pairs of rows speak of one set-up: two sources about the same card, software, batch and "
        "lengths and about weights of the same size, or one source about two forms of a card. Per byte of "
        f"weights (of twins, per byte of bandwidth) they differ by a factor of {floor.median_ratio:.2f} in the median. "
        "So few pairs tell the order of magnitude and no more."
    )
    rows = [
        [
            pair.kind,
            f"{pair.rows[0]}, {pair.rows[1]}",
            pair.what,
            " / ".join(f"{value:.4g}" for value in pair.values),
            f"×{pair.ratio:.2f}",
        ]
        for pair in floor.pairs
    ]
    return words + "\n" + table(("pair", "rows", "set-up", "measured", "apart"), rows)


def _worst(results: Sequence[Scored]) -> str:
    rows = []
    for one in worst(results, WORST_SHOWN):
        point = one.scenario.point
        rows.append(
            [
                str(point.row),
                point.source,
                one.scenario.deployment.name,
                f"{one.scenario.model.name}, {one.scenario.precision.name}",
                point.shown_metric,
                f"{point.value:.4g}",
                f"{one.predicted:.4g}",
                point.doubt or one.basis,
            ]
        )
    head = ("row", "source", "cards", "model", "metric", "measured", "predicted", "why, or what it stands on")
    return table(head, rows)


def _refusals(found: Assessment) -> str:
    rows = []
    for reason, members in reasons(found.refusals).items():
        cases: dict[str, list[int]] = {}
        for refusal in members:
            cases.setdefault(refusal.why, []).append(refusal.point.row)
        for why, lines in cases.items():
            rows.append([reason, why, ", ".join(map(str, lines))])
    return table(("reason", "in this case", "rows"), rows) if rows else "None.\n"


def _assumptions(found: Assessment) -> str:
    counts: dict[str, int] = {}
    for scenario in found.scenarios:
        for text in scenario.assumed:
            counts[text] = counts.get(text, 0) + 1
    rows = [[text, str(count)] for text, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return table(("assumed", "rows"), rows) if rows else "Nothing.\n"


def wrapped(text: str) -> str:
    """Return prose broken into lines."""
    whole = " ".join(text.split())
    return textwrap.fill(whole, LONGEST_LINE, break_long_words=False, break_on_hyphens=False) + "\n"


def summary_of(found: Assessment) -> Mapping[str, object]:
    """Return the figures as plain data, for JSON."""
    return {
        "table": found.table.path,
        "sha256": found.table.sha256,
        "rows": found.coverage.rows,
        "counted": found.coverage.counted,
        "run": found.coverage.run,
        "coverage_frac": found.coverage.frac,
        "tests": {
            name: {
                "all": _plain(errors_of(results)),
                **{word: {group: _plain(errors) for group, errors in by(results, key).items()} for word, key in _KEYS},
                "intervals": _plain(intervals_of(results)),
                "points": [_point(one) for one in results],
            }
            for name, results in found.tests.items()
        },
        "points_shown_of_an_unseen_card": {str(shown): _plain(errors) for shown, errors in found.curve.items()},
        "noise_floor": None
        if found.noise is None
        else {"median_ratio": found.noise.median_ratio, "pairs": [_plain(pair) for pair in found.noise.pairs]},
        "refused": [
            {"row": refusal.point.row, "reason": refusal.reason.name.lower(), "why": refusal.why}
            for refusal in found.refusals
        ],
    }


_KEYS: Final = (("by_hardware", HARDWARE), ("by_stack", STACK), ("by_metric", METRIC), ("by_basis", BASIS))


def _plain(record: object) -> dict[str, object]:
    """Return a small record's fields; what is not known is null."""
    fields = getattr(type(record), "__slots__", ())
    values = {name: getattr(record, name) for name in fields}
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in values.items()}


def _point(one: Scored) -> dict[str, object]:
    scenario = one.scenario
    return {
        "row": scenario.point.row,
        "stack": scenario.stack,
        "hardware": scenario.deployment.name,
        "model": scenario.model.name,
        "precision": scenario.precision.name,
        "load": scenario.load.name,
        "metric": scenario.point.shown_metric,
        "measured": scenario.measured,
        "predicted": one.predicted,
        "low": one.low,
        "high": one.high,
        "basis": one.basis,
        "assumed": list(scenario.assumed),
    }

"""An assessment as plain text."""

from collections.abc import Callable, Iterable, Sequence
from math import isnan
from typing import Final

from afterwatt.fidelity.page.assess import CROSS, IN_SAMPLE, Assessment
from afterwatt.fidelity.page.page import percent
from afterwatt.fidelity.points.noise import Pair
from afterwatt.fidelity.points.score import HARDWARE, METRIC, STACK, Scored, by, errors_of, intervals_of, reasons, worst

WORST_SHOWN: Final = 12
ASSUMED_SHOWN: Final = 12


def as_text(found: Assessment) -> str:
    """Return everything that a terminal shows."""
    cover = found.coverage
    parts = [
        f"{found.table.path}: {cover.rows} rows, sha256 {found.table.sha256[:12]}",
        (
            f"run: {cover.run} of {cover.counted} rows with a known card, resident weights and no speculation "
            f"({percent(cover.frac, 1)})"
        ),
        *_refusals(found),
        "",
        *_errors(found),
    ]
    for title, key in (("software", STACK), ("card", HARDWARE), ("metric", METRIC)):
        parts += ["", *_grouped(found, title, key)]
    if found.curve:
        rows = [("points shown of an unseen card", "predicted", "median", "p90")]
        rows += [
            (str(shown), str(errors.count), percent(errors.median_frac, 1), percent(errors.p90_frac, 1))
            for shown, errors in sorted(found.curve.items())
        ]
        parts += ["", *_columns(rows)]
    parts += ["", *_intervals(found), "", *_noise(found), "", *_worst(found), "", *_assumed(found)]
    return "\n".join(parts) + "\n"


def _refusals(found: Assessment) -> list[str]:
    lines = []
    for reason, members in reasons(found.refusals).items():
        outside = " (not counted)" if members[0].reason.outside else ""
        lines.append(f"not run, {reason}{outside}: {len(members)}")
        cases: dict[str, list[int]] = {}
        for refusal in members:
            cases.setdefault(refusal.why, []).append(refusal.point.row)
        lines += [f"    row {', '.join(map(str, rows))}: {why}" for why, rows in cases.items()]
    return lines


def _errors(found: Assessment) -> list[str]:
    rows = [("error", "points", "median", "p90", "predicted/measured")]
    for name, results in found.tests.items():
        errors = errors_of(results)
        figures = (str(errors.count), percent(errors.median_frac, 1), percent(errors.p90_frac, 1))
        rows.append((name, *figures, "–" if isnan(errors.bias) else f"{errors.bias:.2f}"))
    return _columns(rows)


def _grouped(found: Assessment, title: str, key: Callable[[Scored], str]) -> list[str]:
    tests = {name: by(results, key) for name, results in found.tests.items()}
    rows = [(title, "points", *(f"{name}: median, p90" for name in tests))]
    for name in sorted({group for groups in tests.values() for group in groups}):
        counts = max(groups[name].count for groups in tests.values() if name in groups)
        cells = (
            f"{percent(groups[name].median_frac)}, {percent(groups[name].p90_frac)}" if name in groups else "–"
            for groups in tests.values()
        )
        rows.append((name, str(counts), *cells))
    return _columns(rows)


def _intervals(found: Assessment) -> list[str]:
    rows = [("90 % interval", "points", "inside", "median width")]
    for name, results in found.tests.items():
        told = intervals_of(results)
        width = "–" if isnan(told.median_width) else f"x{told.median_width:.2f}"
        rows.append((name, str(told.count), percent(told.inside_frac, 1), width))
    return _columns(rows)


def _noise(found: Assessment) -> list[str]:
    floor = found.noise
    if floor is None:
        return ["noise floor: no two rows speak of one set-up"]
    head = (
        f"noise floor: {len(floor.pairs)} pairs of rows about one set-up differ by a factor of "
        f"{floor.median_ratio:.2f} in the median"
    )
    rows = [
        (f"    x{pair.ratio:.2f}", pair.kind, f"rows {pair.rows[0]}, {pair.rows[1]}", _both(pair), pair.what)
        for pair in floor.pairs
    ]
    return [head, *_columns(rows)]


def _both(pair: Pair) -> str:
    return " / ".join(f"{value:.4g}" for value in pair.values)


def _worst(found: Assessment) -> list[str]:
    name = CROSS if CROSS in found.tests else IN_SAMPLE
    head = ("cards", "model", "metric", "measured", "predicted", "90 %", "stands on", "source")
    rows = [(f"farthest off, {name}: row", *head)]
    for one in worst(found.tests[name], WORST_SHOWN):
        scenario, point = one.scenario, one.scenario.point
        model = f"{scenario.model.name} {scenario.precision.name}"
        figures = (f"{point.value:.4g}", f"{one.predicted:.4g}", _interval(one), one.basis, point.source[:40])
        rows.append((str(point.row), scenario.deployment.name, model, point.shown_metric, *figures))
    return _columns(rows)


def _interval(one: Scored) -> str:
    return "–" if one.low is None or one.high is None else f"{one.low:.3g} to {one.high:.3g}"


def _assumed(found: Assessment) -> list[str]:
    """Say what was guessed about the rows, by how many of them it concerns."""
    rows: dict[str, list[int]] = {}
    for scenario in found.scenarios:
        for text in scenario.assumed:
            rows.setdefault(text, []).append(scenario.point.row)
    if not rows:
        return ["assumed: nothing"]
    common = sorted(rows, key=lambda text: (-len(rows[text]), text))[:ASSUMED_SHOWN]
    lines = [f"    {_rows(rows[text])}: {text}" for text in common]
    more = len(rows) - len(common)
    return ["assumed:", *lines, *([f"    and {more} more (--json lists them all)"] if more else [])]


def _rows(numbers: Sequence[int]) -> str:
    few = ", ".join(map(str, numbers[:6]))
    return f"row {few}" if len(numbers) <= 6 else f"row {few}, ... ({len(numbers)} in all)"


def _columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Align cells; the first column to the left, the others too, as they hold words as well."""
    lines = list(rows)
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]

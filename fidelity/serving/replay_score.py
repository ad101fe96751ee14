"""What replaying measured serving runs shows: tables, the distributions over one another, and what an error would do.

Nothing is fitted to the runs that are judged here.
"""

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from afterwatt.fidelity.page.page import Claim, Section, percent, table, wrapped
from afterwatt.fidelity.serving.replay import STATS, Distribution, Replay, replay
from afterwatt.fidelity.serving.run import ServingRun, read_meta, read_run
from afterwatt.hwprofiles.stacks import Stack
from afterwatt.reports.figures.style import BLUE, GRID, INK, MUTED, PANEL, VERMILLION
from afterwatt.sim.errors import Infeasible

Floats = NDArray[np.float64]
TARGET: Final = 0.08
"""Largest error asked for, of any statistic of either metric."""
SHIFTS: Final = (0.95, 1.05)
NAMES: Final = {"ttft": "TTFT", "tpot": "TPOT"}
_UNITS: Final = {"ttft": (1.0, "s"), "tpot": (1e3, "ms")}
RUNS: Final = "kernels/llmservingsim/vllm_runs"
PROMPTS: Final = "traces/sharegpt_llmservingsim"
_MOST_STEPS: Final = 1000
_WIDE, _HIGH, _LEFT, _TOP, _GAP = 400, 240, 64, 78, 76


def section(shared: Path) -> Section | None:
    """Replay the measured runs under a folder of reference data; None where there is none.

    Args:
        shared: holds `RUNS`, and `PROMPTS` with the token ids that the runs were made with.
    """
    folders = sorted(path.parent for path in (shared / RUNS).rglob("meta.json"))
    if not folders:
        return None
    texts, claims, images = [wrapped(_METHOD)], [], []
    for folder in folders:
        run = read_run(folder, prompts_of(folder, shared / PROMPTS))
        found = replay(run)
        image = f"replay-{run.hw}-{run.model.name}.svg"
        images.append((image, cdf_plot(found)))
        texts += [f"### {run.model.name} on {run.hw}\n", f"![TTFT and TPOT, measured and predicted](images/{image})\n"]
        texts += [errors_table(found), wrapped(_remarks(found)), sensitivity_table(run, found.stack)]
        planned = replay(replace(run, policies=replace(run.policies, kv_blocks=None)))
        texts += [wrapped(_PLANNED), errors_table(planned)]
        for told, shown in ((f"replayed {run.stack} run", found), ("the same, KV blocks by utilisation", planned)):
            claims += [
                Claim(
                    f"{told}, {run.model.name} on {run.hw}: {NAMES[each.metric]} at mean, p50, p90, p99",
                    f"≤ {percent(TARGET)} each",
                    ", ".join(f"{100.0 * each.error_frac(stat):+.1f} %" for stat in STATS),
                    max(abs(each.error_frac(stat)) for stat in STATS) <= TARGET,
                )
                for each in shown.distributions
            ]
    return Section("A serving run replayed", "\n".join(texts), tuple(claims), tuple(images))


_METHOD: Final = (
    "Each request of a measured run arrives in the simulator at its own time, with its own lengths and prompt blocks, "
    "at an engine with as many KV blocks as the measured one had. *TTFT* runs from the moment at which the scheduler "
    "was given the request (vLLM's `queued_ts`; its `arrival_time` is of another clock) to the first token; *TPOT* is "
    "the time from the first token to the last over the tokens after the first. *Demerit* is the root mean square "
    "horizontal distance between the two cumulative distributions (Ruemmler and Wilkes, IEEE Computer 27(3), 1994), "
    "in their unit and as a share of the measured mean. Nothing is fitted to these runs: kernels come from "
    "tables of single layers (of the RTX 4090, the same model's among them), the rest from the stack's profile."
)


_PLANNED: Final = (
    "As a planner would run it, who does not know how many KV blocks the engine found: as many as its share of the "
    "memory leaves beside weights and activations."
)


def prompts_of(folder: Path, prompts: Path) -> Path | None:
    """Return the file of token ids that a run's `meta.json` names by `dataset_path`, if it lies under `prompts`."""
    name = read_meta(folder / "meta.json").get("dataset_path")
    if not isinstance(name, str):
        return None
    found = [prompts / f"{Path(name).stem}{suffix}" for suffix in (".parquet", ".jsonl")]
    return next((path for path in found if path.exists()), None)


def errors_table(found: Replay) -> str:
    """Return measured, predicted and error of every statistic, and the demerit figures, as Markdown."""
    rows = []
    for each in found.distributions:
        scale, unit = _UNITS[each.metric]
        for stat in STATS:
            measured, predicted = each.values(stat)
            name = f"{NAMES[each.metric]} {stat}, {unit}"
            rows.append([name, f"{scale * measured:.1f}", f"{scale * predicted:.1f}", _signed(each, stat)])
        demerit = f"{scale * each.demerit_s:.2f} {unit}"
        rows.append([f"{NAMES[each.metric]} demerit", "", demerit, percent(each.demerit_frac, 1)])
    return table(("", "measured", "predicted", "error"), rows)


def replay_text(run: ServingRun, found: Replay) -> str:
    """Return a replay's figures for the terminal."""
    lines = [f"{run.name}: {len(run.ttft_s)} requests, {run.model.name} {run.precision.name} on {run.hw}"]
    lines += [f"policies {run.policies.name}, stack {found.stack.name} [{found.stack.pool}]", *run.notes, ""]
    lines.append(f"{'':<12}{'measured':>12}{'predicted':>12}{'error':>10}")
    for each in found.distributions:
        scale, unit = _UNITS[each.metric]
        for stat in STATS:
            measured, predicted = (_amount(scale * value, unit) for value in each.values(stat))
            lines.append(f"{NAMES[each.metric]} {stat:<7}{measured:>12}{predicted:>12}{_signed(each, stat):>10}")
        demerit = _amount(scale * each.demerit_s, unit)
        lines.append(f"{NAMES[each.metric]} {'demerit':<19}{demerit:>12}{percent(each.demerit_frac, 1):>10}")
    lines += ["", f"{found.preemptions} preemptions, {found.cached_tokens:,} prompt tokens found in the prefix cache"]
    return "\n".join(lines) + "\n"


def _amount(value: float, unit: str) -> str:
    return f"{value:.2f} {unit:<2}"


def sensitivity_table(run: ServingRun, stack: Stack) -> str:
    """Return what an error of 5 % in the time of iterations, or in the KV blocks, would do to the errors."""
    cases: list[tuple[str, dict[str, Any]]] = [("as predicted", {})]
    cases += [(f"iterations × {shift:g}", {"slowness": shift}) for shift in SHIFTS]
    cases += [(f"KV blocks × {shift:g}", {"memory": shift}) for shift in SHIFTS]
    rows = []
    for name, changed in cases:
        try:
            found = replay(run, stack, **changed)
        except Infeasible:
            rows.append([f"{name}: more than the card holds", *[""] * (len(STATS) * len(NAMES) + 1)])
            continue
        cells = [_signed(each, stat) for each in found.distributions for stat in STATS]
        rows.append([name, *cells, str(found.preemptions)])
    head = [f"{NAMES[metric]} {stat}" for metric in NAMES for stat in STATS]
    return table(("", *head, "preemptions"), rows)


def _signed(each: Distribution, stat: str) -> str:
    return f"{100.0 * each.error_frac(stat):+.1f} %"


def _remarks(found: Replay) -> str:
    run = found.run
    basis = f"{found.stack.name} [{found.stack.pool}]"
    shared = f", {found.cached_tokens:,} prompt tokens found in the prefix cache" if found.cached_tokens else ""
    alone = " and ".join(
        f"{percent(each.median_request_error_frac, 1)} ({NAMES[each.metric]})" for each in found.distributions
    )
    notes = "".join(f" {note[0].upper()}{note[1:]}." for note in run.notes)
    return (
        f"{len(run.ttft_s)} requests, policies `{run.policies.name}`, stack {basis}; {found.preemptions} preemptions"
        f"{shared}. Request by request, the median error is {alone}.{notes} What errors of 5 % would do:"
    )


# -- the figure --------------------------------------------------------------------------------------------------------


def cdf_plot(found: Replay) -> str:
    """Return the cumulative distributions of both metrics, measured and predicted, as SVG."""
    run = found.run
    width = 2 * _LEFT + 2 * _WIDE + _GAP - 20
    height = _TOP + _HIGH + 62
    title = f"{run.model.name} on {run.hw}, {len(run.ttft_s)} requests: measured and predicted"
    font = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-size="13" {font}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="10" fill="{PANEL}"/>',
        _text(24, 28, title, INK, extra=' font-weight="600"'),
    ]
    for place, (words, colour) in enumerate((("measured", BLUE), ("predicted", VERMILLION))):
        x = 24 + 120 * place
        parts += [f'<path d="M{x} 48H{x + 26}" stroke="{colour}" stroke-width="2"/>', _text(x + 32, 52, words, MUTED)]
    for place, each in enumerate(found.distributions):
        parts += _panel(each, _LEFT + place * (_WIDE + _GAP))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(each: Distribution, left: float) -> list[str]:
    scale, unit = _UNITS[each.metric]
    most = scale * float(max(each.measured.max(), each.predicted.max()))
    ticks = _ticks(most)
    end = max(most, ticks[-1])
    floor = _TOP + _HIGH
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = floor - share * _HIGH
        parts += [f'<path d="M{left} {y:.1f}h{_WIDE}" stroke="{GRID}"/>']
        parts += [_text(left - 8, y + 4, f"{share:g}", MUTED, "end")]
    for tick in ticks:
        x = left + tick / end * _WIDE
        parts += [
            f'<path d="M{x:.1f} {_TOP}V{floor}" stroke="{GRID}"/>',
            _text(x, floor + 18, f"{tick:g}", MUTED, "middle"),
        ]
    for values, colour in ((each.measured, BLUE), (each.predicted, VERMILLION)):
        path = _steps(scale * values, left, floor, _WIDE / end)
        parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="1.8" fill="none"/>')
    words = f"{NAMES[each.metric]}, {unit} (demerit {percent(each.demerit_frac, 1)})"
    parts.append(_text(left + _WIDE / 2, floor + 40, words, INK, "middle"))
    return [*parts, _text(left, _TOP - 10, "share of requests", MUTED)]


def _steps(values: Floats, left: float, floor: float, per_unit: float) -> str:
    """Return the path of a cumulative distribution; of very many values, of evenly spaced ranks."""
    ordered = np.sort(values)
    if len(ordered) > _MOST_STEPS:
        ordered = ordered[np.linspace(0, len(ordered) - 1, _MOST_STEPS).astype(int)]
    steps = [f"M{left:.1f} {floor}"]
    for rank, value in enumerate(ordered, 1):
        steps.append(f"H{left + value * per_unit:.1f}V{floor - rank / len(ordered) * _HIGH:.1f}")
    return "".join(steps)


def _ticks(most: float) -> Sequence[float]:
    """Return round numbers from 0 to `most`, four to eight of them."""
    step = 10.0 ** np.floor(np.log10(most))
    for part in (5.0, 2.0, 1.0):
        if most / (step / part) <= 8.0:
            step /= part
            break
    return [float(step * count) for count in range(int(most / step) + 1)]


def _text(x: float, y: float, words: str, colour: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'

"""Power's part of the fidelity page."""

from pathlib import Path
from typing import Final

import numpy as np

from afterwatt.fidelity.page.page import Claim, Section, percent, table
from afterwatt.fidelity.power.anchors import UNMEASURED_FACTOR
from afterwatt.fidelity.power.score import Off, PowerScores, ServedScore, score

KERNEL_TARGET: Final = 0.12
RUN_TARGET: Final = 0.08
FEW: Final = 100
"""Kernels below which a table claims nothing."""
HELD_OUT: Final = "simulated, a TP degree held out"
READ: Final = ("once (under 0.1 s)", "0.1 to 1 s", "1 s and more")
"""The classes of `fidelity.power.tables.SPANS`."""
_LAGGING: Final = (
    "Watts of these tables are means of NVML's readings, one every 0.1 s and each an average over a second, while a",
    "kernel is repeated for a second, but at most 3,000 times. A kernel of 10 us is read once, for what ran before it;",
    "no law of shapes can say that. The shorter the reading the farther off, and the farther apart two readings of the",
    "same attention kernel, which stands in the tables twice where a sliding window is no shorter than the context.",
    "A perfect prediction would still be off by such a difference over the root of two:",
)


def section(shared: Path) -> Section | None:
    """Return the score of power as a part of the fidelity page; None where no table is there.

    Args:
        shared: folder of published data.
    """
    scores = score(shared)
    return section_of(scores) if scores.kernels or scores.runs or scores.served else None


def section_of(scores: PowerScores) -> Section:
    """Write a score down."""
    text = [*_kernels(scores), *_runs(scores), *_served(scores), *_left_out(scores)]
    return Section("Power and energy", "\n".join(text) + "\n", _claims(scores))


def _kernels(scores: PowerScores) -> list[str]:
    if not scores.kernels:
        return []
    head = ["H200 kernels", "rows", "fitted", "held-out shapes, median", "90th percentile", "by the shipped anchors"]
    rows = [
        [
            one.name,
            f"{one.fitted.rows:,}",
            percent(one.fitted.median, 1),
            percent(one.held_out.median, 1),
            percent(one.held_out.p90),
            percent(one.shipped.median, 1),
        ]
        for one in scores.kernels
    ]
    return [
        "Kernels, at their measured times (aiconfigurator, vLLM 0.22.0):",
        "",
        table(head, rows),
        *_LAGGING,
        "",
        table(["held-out shapes, median error of watts read", *READ], [*_spans(scores), *_again(scores)]),
        "Matrices and experts that were read for a second mostly ran into the power limit, which any law gets right.",
        "Where tables and runs disagree, runs hold: mixtures of experts draw in serving what bytes and FLOPs tell, so",
        "that the shipped anchors leave out most of what the tables of experts add.",
        "",
    ]


def _spans(scores: PowerScores) -> list[list[str]]:
    """Return errors by how long kernels were read."""
    return [
        [one.name, *(f"{percent(off.median, 1)} of {off.rows:,}" if off else "" for off in one.by_span)]
        for one in scores.kernels
        if one.held_out.rows >= FEW and one.by_span
    ]


def _again(scores: PowerScores) -> list[list[str]]:
    """Return how far two readings of one kernel are apart."""
    return [
        [
            f"two readings of one kernel, {one.name} (times {percent(one.seconds, 1)} apart)",
            *(f"{percent(pair[1], 1)} of {pair[0]:,}" if pair else "" for pair in one.by_span),
        ]
        for one in scores.again
        if one.by_span
    ]


def _runs(scores: PowerScores) -> list[str]:
    if not scores.runs:
        return []
    head = ["A100 runs of Splitwise", "average power, median", "90th percentile", "peak, median", "both, median"]
    rows = [
        [
            one.name,
            percent(one.average.median, 1),
            percent(one.average.p90),
            percent(one.peak.median, 1),
            percent(one.both.median, 1),
        ]
        for one in scores.runs
    ]
    return [
        f"{scores.runs[0].average.rows} runs of Llama-2-70B on 2, 4 and 8 A100s that have measured power:",
        "",
        table(head, rows),
        "The 90th percentile is that of prompts of 8192 tokens, whose published average (0.17 to 0.18 of the limit on",
        "2, 4 and 8 GPUs alike) cannot be that of the run, and of peaks: a sensor misses short prompts, and sees more",
        "of long ones than their mean.",
        "",
    ]


def _served(scores: PowerScores) -> list[str]:
    if not scores.served:
        return []
    head = ["serving run", "W per GPU", "at the measured speed", "its error", "error of time", "error of J/token"]
    rows = [
        [
            _named(one),
            f"{one.served.watts:.0f}",
            f"{one.at_speed_w:.0f} ({one.low_w:.0f} to {one.high_w:.0f})",
            _signed(one.power_frac),
            _signed(one.time_frac),
            _signed(one.joules_frac),
        ]
        for one in scores.served
    ]
    power, joules = (np.abs([getattr(one, name) for one in scores.served]) for name in ("power_frac", "joules_frac"))
    inside = sum(one.inside for one in scores.served)
    return [
        "Joules per token, time and power apart (ML.ENERGY, vLLM; prompt lengths are assumed):",
        "",
        table(head, rows),
        f"Median error of power at the measured speed {percent(float(np.median(power)), 1)}, of joules per token as",
        f"simulated {percent(float(np.median(joules)), 1)}; {inside} of {len(scores.served)} lie in the 90 %",
        "interval of power.",
        "",
    ]


def _named(one: ServedScore) -> str:
    scenario = one.served.scenario
    return f"{scenario.deployment.name}, {scenario.model.name}, {scenario.load.seats} at a time"


def _left_out(scores: PowerScores) -> list[str]:
    if not scores.left_out:
        return []
    head = ["streaming power of", "runs", "predicted without its architecture, median error", "within the factor"]
    rows = [
        [f"{one.name} ({one.architecture})", str(one.runs), percent(one.median, 1), f"{one.inside} of {one.runs}"]
        for one in scores.left_out
    ]
    return [
        "Cards that nobody measured get the geometric mean of two rules: the joules per byte of measured cards with",
        "the same kind of memory, and their share of the power limit at full bandwidth; the interval holds either",
        f"rule's value and at least the factor {UNMEASURED_FACTOR:g}. What that says of measured cards, leaving their",
        "architecture out:",
        "",
        table(head, rows),
    ]


def _claims(scores: PowerScores) -> tuple[Claim, ...]:
    kernels, floors = [], {one.name: one for one in scores.again}
    for one in scores.kernels:
        if one.held_out.rows < FEW:
            continue
        name, floor = f"H200 kernel power, {one.name}, held-out shapes", floors.get(one.name)
        kernels.append(_claim(name, KERNEL_TARGET, one.held_out, floor.watts if floor else None))
        wholly = one.by_span[-1] if one.by_span else None
        if wholly is not None and wholly.rows >= FEW:
            pair = floor.by_span[-1] if floor and floor.by_span else None
            kernels.append(_claim(f"{name}, read for 1 s", KERNEL_TARGET, wholly, pair[1] if pair else None))
    name = "A100 power, leaving out one TP degree, simulated"
    runs = [_claim(name, RUN_TARGET, one.both) for one in scores.runs if one.name == HELD_OUT]
    return (*kernels, *runs)


def _claim(what: str, target: float, off: Off, floor: float | None = None) -> Claim:
    reached = percent(off.median, 1)
    if floor is not None:
        reached += f" (one kernel read twice: {percent(floor, 1)})"
    return Claim(what, f"median <= {percent(target)}", reached, off.median <= target)


def _signed(frac: float) -> str:
    return f"{100.0 * frac:+.0f} %"

"""Operations: an engine's iterations, one by one, against what the time model says, and the model fitted to them.

The kernels' own parameters come from a table of kernel times; what an engine adds around them (per layer, iteration and
sequence), and what its kernels reach in company, only its iterations tell.
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from afterwatt.engine.runtime.record import read_steps
from afterwatt.engine.runtime.request import StepRecord
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.roofline import PS_PER_S, TimeModel
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import PARAMETERS, Stack

Floats = NDArray[np.float64]
FITTED: Final = (
    "mem_efficiency",
    "compute_efficiency",
    "roofline_sharpness",
    "attention_mem_efficiency",
    "attention_compute_efficiency",
    "attention_block_s",
    "layer_overhead_s",
    "step_overhead_s",
    "sequence_overhead_s",
)
SOMETIMES_FITTED: Final = {"few_rows": ("few_rows_mem_efficiency",), "wake_s": ("wake_s", "wake_after_s")}
"""What is fitted as well, where a stack has the first of them at all."""
"""What iterations of one model tell; a kernel's latency and a layer's overhead look the same to them."""
KINDS: Final = ("decode", "prompt", "mixed")
_PRIOR: Final = 0.05
"""Weight of a parameter's distance (in factors of e) from where it began against one iteration's error."""
_REACH: Final = 1.25
_MOST_ALIKE: Final = 16
_RULES: Final = {parameter.name: parameter for parameter in PARAMETERS}
_BOUNDS: Final = {
    # A shared machine may be faster now than when its peaks were measured.
    name: (one.low, one.rule.high if name.endswith("efficiency") else one.high)
    for name, one in _RULES.items()
} | {
    "few_rows_mem_efficiency": (0.02, _RULES["few_rows_mem_efficiency"].rule.high),
    "wake_s": (1e-5, 0.5),
    "wake_after_s": (1e-2, 10.0),
}


@dataclass(frozen=True, slots=True)
class Iteration:
    """An iteration that was timed.

    Attributes:
        decoding, context_tokens, emits: as in a plan.
        chunks: (tokens, past tokens) of each prompt piece.
        seconds: from its boundary to the next one, or to its end where the worker then had nothing to do.
        rest_s: how long the worker had had nothing to do before it.
    """

    decoding: int
    context_tokens: int
    chunks: tuple[tuple[int, int], ...]
    emits: int
    seconds: float
    rest_s: float = 0.0

    @property
    def kind(self) -> str:
        """One of `KINDS`: what it held."""
        return ("mixed" if self.decoding else "prompt") if self.chunks else "decode"


@dataclass(frozen=True, slots=True)
class IterationError:
    """How far predictions of one kind of iteration are off.

    Attributes:
        kind: one of `KINDS`, or "all".
        iterations: how many there were.
        median, p90: of the absolute relative error.
        bias: by what share their sum is off, which is what requests feel.
    """

    kind: str
    iterations: int
    median: float
    p90: float
    bias: float


def iterations_of(steps: Sequence[StepRecord], start_ns: int = 0) -> list[Iteration]:
    """Turn an engine's records into timed iterations; `start_ns`: when the first rest began."""
    ends = [after.done_ns if after is step else after.plan_ns for step, after in _pairs(steps)]
    begins = [start_ns, *(step.done_ns for step in steps)]
    return [
        Iteration(
            step.decoding,
            step.context_tokens,
            tuple((chunk.tokens, chunk.past_tokens) for chunk in step.chunks),
            step.emits,
            (end - step.plan_ns) * 1e-9,
            max(0, step.plan_ns - before) * 1e-9 if step.rested else 0.0,
        )
        for step, before, end in zip(steps, begins, ends, strict=False)
    ]


def _pairs(steps: Sequence[StepRecord]) -> Iterable[tuple[StepRecord, StepRecord]]:
    """Yield each iteration with the one that followed at once, or with itself."""
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        yield step, step if after is None or after.rested else after


def read_iterations(folder: Path) -> list[Iteration]:
    """Read the iterations of an engine's run directory.

    Raises:
        ReportError: they are not there.
    """
    return iterations_of(read_steps(folder / "steps.parquet"))


def predicted_s(times: TimeModel, iterations: Sequence[Iteration]) -> Floats:
    """Return what a time model says each takes."""
    return (
        np.array(
            [
                times.step(
                    one.decoding,
                    one.context_tokens,
                    [(None, tokens, past) for tokens, past in one.chunks],
                    one.emits,
                    1,
                )[0]
                + times.wake_ps(round(one.rest_s * PS_PER_S))
                for one in iterations
            ]
        )
        / PS_PER_S
    )


def iteration_errors(times: TimeModel, iterations: Sequence[Iteration]) -> list[IterationError]:
    """Return the errors by kind, and of all together."""
    measured = np.array([one.seconds for one in iterations])
    predicted = predicted_s(times, iterations)
    kinds = np.array([one.kind for one in iterations])
    found = []
    for kind in (*KINDS, "all"):
        some = np.ones(len(kinds), dtype=bool) if kind == "all" else kinds == kind
        if some.any():
            off = np.abs(predicted[some] / measured[some] - 1.0)
            bias = float(predicted[some].sum() / measured[some].sum() - 1.0)
            found.append(
                IterationError(kind, int(some.sum()), float(np.median(off)), float(np.quantile(off, 0.9)), bias)
            )
    return found


def fit_iterations(start: Serving, iterations: Sequence[Iteration], source: str) -> Stack:
    """Fit what an engine reaches and adds to its own iterations.

    Robust least squares on the logarithm of predicted over measured time (scipy, soft L1), held near where it begins
    as far as the iterations do not speak against it. Of equal iterations the mean is fitted, since requests feel sums;
    they count by the root of their number: a run has thousands of decoding ones, and few prompts.

    Args:
        start: what ran, with the stack to begin with; parameters that iterations cannot tell are left as they are.
        iterations: measured ones.
        source: where they come from, for the parameters' provenance.
    """
    values = _fitted(start, _grouped(iterations))
    today = dt.datetime.now(dt.UTC).date().isoformat()
    text = f"soft-L1 fit on log time to {len(iterations)} iterations of {start.model.name}, {source}"
    facts: dict[str, Any] = {}
    for name, value in values.items():
        rule = _RULES[name].rule
        facts[name] = Fact(value, text, today, "fitted", max(rule.low, value / _REACH), min(rule.high, value * _REACH))
    return dataclasses.replace(start.stack, basis="fitted", **facts)


def _fitted(start: Serving, groups: Mapping[Iteration, Sequence[float]]) -> dict[str, float]:
    """Return what the free parameters come to."""
    first = start.stack
    names = [*FITTED, *chain.from_iterable(SOMETIMES_FITTED[name] for name in SOMETIMES_FITTED if getattr(first, name))]
    shapes, seconds = list(groups), list(groups.values())
    measured = np.log([np.mean(some) for some in seconds])
    weights = np.sqrt([min(len(some), _MOST_ALIKE) for some in seconds])
    low, high = np.log([_BOUNDS[name] for name in names]).T
    begin = np.clip(np.log([float(getattr(first, name)) for name in names]), low + 1e-6, high - 1e-6)

    def residuals(logs: Floats) -> Floats:
        stack = first.with_values(dict(zip(names, np.exp(logs).tolist(), strict=True)))
        off = np.log(predicted_s(TimeModel(dataclasses.replace(start, stack=stack)), shapes)) - measured
        return np.concatenate([weights * off, _PRIOR * (logs - begin)])

    found = least_squares(residuals, begin, bounds=(low, high), loss="soft_l1", f_scale=0.1, x_scale=3.0)
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def _grouped(iterations: Sequence[Iteration]) -> Mapping[Iteration, list[float]]:
    """Gather iterations of a shape, contexts and rests in eighths of an octave: a typical one -> all their times."""
    keys: dict[tuple[object, ...], list[Iteration]] = {}
    for one in iterations:
        context = 0 if not one.context_tokens else round(8 * np.log2(one.context_tokens / max(1, one.decoding)))
        rest = round(8 * np.log2(1e-3 + one.rest_s))
        keys.setdefault((one.decoding, context, one.chunks, one.emits, rest), []).append(one)
    found = {}
    for some in keys.values():
        middle = sorted(some, key=lambda one: one.context_tokens)[len(some) // 2]
        found[middle] = [one.seconds for one in some]
    return found

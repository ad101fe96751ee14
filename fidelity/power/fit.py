"""The fit of power: joules per byte and FLOP and watts of kinds of kernels, from measured kernels and runs.

    python -m afterwatt.fidelity.power.fit --shared ../shared [--write]

Three steps, each robust least squares on the logarithm of watts (soft L1), each judged on shapes, tensor-parallel
degrees or architectures held out:

1. H200 kernels: matrix products tell busy watts, joules per byte and FLOP and the cap; with these fixed, the other
   tables tell what attention, experts and fp8 add.
2. A100 runs of Splitwise, at their measured times: busy watts, joules per byte and FLOP, cap.
3. Cards that nobody measured: by two rules (`pooled`), with what leaving one architecture out says of them.

`--write` replaces `hwprofiles/data/power/anchors.toml`.
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, log, sqrt
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from afterwatt.fidelity.power.tables import FOLDS, READING_S, KernelWatts
from afterwatt.fidelity.serving.splitwise import SplitwiseRun
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.deployment import make_deployment
from afterwatt.hwprofiles.effort import occupancy, work
from afterwatt.hwprofiles.mixers import StepShape
from afterwatt.hwprofiles.power import PowerModel
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.hwprofiles.step import StepModel
from afterwatt.modelspecs import load_model
from afterwatt.modelspecs.precision import load_precision

Floats = NDArray[np.float64]

RUNS_FILE: Final = Path(__file__).parent / "data" / "power_runs.csv"
SAMPLE: Final = 4000
"""Kernels per table that a fit looks at; scores look at all."""
SOFT: Final = 0.06
"""Relative error of watts beyond which a kernel or run pulls less."""
CAP_QUANTILE: Final = 0.9
"""Of the readings of matrix products: large ones run into the limit, and more than a tenth of them are large."""
Z_90: Final = 1.6448536269514722


# -- kernels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KernelPower:
    """Watts of kernels on one GPU.

    Attributes:
        busy_w: while a kernel runs, before any byte or FLOP.
        j_per_byte, cached_j_per_byte: from memory, and from the L2 cache.
        j_per_flop, fp8_j_per_flop: by arithmetic.
        attention_w, expert_w: on top in such kernels.
        cap_w: highest reading.
    """

    busy_w: float
    j_per_byte: float
    cached_j_per_byte: float
    j_per_flop: float
    fp8_j_per_flop: float
    attention_w: float
    expert_w: float
    cap_w: float

    def watts(self, kernels: KernelWatts) -> Floats:
        """Return predicted watts at the measured times."""
        base = self.busy_w + {"attention": self.attention_w, "experts": self.expert_w}.get(kernels.kind, 0.0)
        per_flop = self.fp8_j_per_flop if kernels.arithmetic == "fp8" else self.j_per_flop
        joules = self.j_per_byte * kernels.dram_bytes + self.cached_j_per_byte * kernels.cache_bytes
        watts: Floats = np.minimum(self.cap_w, base + (joules + per_flop * kernels.flops) / kernels.seconds)
        return watts


def fit_kernels(tables: Sequence[KernelWatts], tdp_w: float) -> KernelPower:
    """Fit kernel power: 16-bit matrix products first, then fp8's joules, then what attention and experts add.

    fp8's joules come from experts that ran for their whole second of readings. Products of single fp8 matrices take
    50 us at least, of which the device works a part, and were read over a third of a second: their watts are mostly
    those of their predecessors.
    """
    chosen = [table.sample(SAMPLE) for table in tables]
    plain = [table for table in chosen if table.kind == "matrices" and table.arithmetic == "fp16"]
    cap_w = float(np.quantile(np.concatenate([table.watts for table in plain]), CAP_QUANTILE))

    def of_matrices(p: Floats) -> KernelPower:
        return KernelPower(p[0], p[1], p[2], p[3], p[3], 0.0, 0.0, cap_w)

    starts, bounds = (0.2 * tdp_w, 1.2e-10, 5e-11, 1e-12), (0.6 * tdp_w, 1e-9, 1e-9, 1e-11)
    first = of_matrices(_minimum(lambda p: _log_ratios(of_matrices(p), plain), starts, bounds))

    def with_extra(power: KernelPower, p: Floats) -> KernelPower:
        return replace(power, fp8_j_per_flop=p[1], attention_w=p[0], expert_w=p[0])

    long = [table.only(table.read_s >= READING_S) for table in tables]
    narrow = [table.sample(SAMPLE) for table in long if table.kind == "experts" and table.arithmetic == "fp8"]
    fp8_j = first.j_per_flop
    if narrow:
        start, most = (0.2 * tdp_w, fp8_j), (0.6 * tdp_w, 1e-11)
        fp8_j = float(_minimum(lambda p: _log_ratios(with_extra(first, p), narrow), start, most)[1])

    def extra_of(kind: str) -> float:
        mine = [table for table in chosen if table.kind == kind]
        if not mine:
            return 0.0

        def residuals(p: Floats) -> Floats:
            return _log_ratios(with_extra(first, np.array([p[0], fp8_j])), mine)

        return float(_minimum(residuals, (0.1 * tdp_w,), (0.6 * tdp_w,))[0])

    return replace(first, fp8_j_per_flop=fp8_j, attention_w=extra_of("attention"), expert_w=extra_of("experts"))


def fit_folds(tables: Sequence[KernelWatts], tdp_w: float) -> list[KernelPower]:
    """Return one fit per fold of shapes, made without that fold."""
    return [fit_kernels([table.only(table.fold != fold) for table in tables], tdp_w) for fold in range(FOLDS)]


def held_out_watts(table: KernelWatts, fits: Sequence[KernelPower]) -> Floats:
    """Return a table's predicted watts, each kernel's by the fit that did not see its shape."""
    predicted = np.empty(len(table))
    for fold, fit in enumerate(fits):
        predicted[table.fold == fold] = fit.watts(table)[table.fold == fold]
    return predicted


def _log_ratios(power: KernelPower, tables: Iterable[KernelWatts]) -> Floats:
    return np.concatenate([np.log(power.watts(table) / table.watts) for table in tables])


def _minimum(residuals: Callable[[Floats], Floats], start: Sequence[float], most: Sequence[float]) -> Floats:
    """Minimise a soft-L1 loss over positive parameters, in units of their starts."""
    unit = np.array(start)
    found = least_squares(
        lambda p: residuals(p * unit),
        np.ones(len(unit)),
        bounds=(1e-3, np.array(most) / unit),
        loss="soft_l1",
        f_scale=SOFT,
    )
    return found.x * unit  # type: ignore[no-any-return]


# -- runs --------------------------------------------------------------------------------------------------------------


class RunWork(NamedTuple):
    """What measured runs did on one of their GPUs, as arrays over runs: the prompt iteration and the mean decoding one.

    Attributes:
        seconds, moved_bytes, flops, attention_s: each (prompt, decoding).
        steps: decoding iterations.
        average_w, peak_w: measured.
        tp: tensor-parallel degree.
    """

    seconds: tuple[Floats, Floats]
    moved_bytes: tuple[Floats, Floats]
    flops: tuple[Floats, Floats]
    attention_s: tuple[Floats, Floats]
    steps: Floats
    average_w: Floats
    peak_w: Floats
    tp: NDArray[np.int64]

    def only(self, where: NDArray[np.bool_]) -> "RunWork":
        """Return some of the runs."""

        def pick(pair: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
            return pair[0][where], pair[1][where]

        seconds, moved, flops, attention = (pick(pair) for pair in self[:4])
        rest = (self.steps[where], self.average_w[where], self.peak_w[where], self.tp[where])
        return RunWork(seconds, moved, flops, attention, *rest)


def run_work(runs: Sequence[SplitwiseRun]) -> RunWork:
    """Return what Splitwise's A100 runs with measured power did, at their measured times."""
    device, model, precision = load_device("a100-80"), load_model("llama-2-70b"), load_precision("fp16")
    stack, tdp_w = load_stack(device), float(device.tdp_w)
    rows = []
    for run in runs:
        if run.average_frac is None or run.peak_frac is None:
            continue
        step = StepModel(Serving(make_deployment(device, run.tp, tp=run.tp), model, precision, stack))
        steps, tokens = run.output_tokens - 1.0, float(run.batch * run.prompt_tokens)
        pairs = tokens * (run.prompt_tokens + 1.0) / 2.0
        context = run.batch * (run.prompt_tokens + run.output_tokens / 2.0)
        shape = StepShape(
            *(np.array(pair) for pair in ((0.0, run.batch), (0.0, context), (run.batch, run.batch))),
            *(np.array(pair) for pair in ((tokens, 0.0), (0.0, 0.0), (pairs, 0.0), (0.0, 0.0))),
        )
        done, kernels = work(step, shape), occupancy(step, shape)
        totals = np.concatenate([done.hbm_bytes, done.flops, kernels.attention_s]) / run.tp
        powers = (run.average_frac * tdp_w, run.peak_frac * tdp_w)
        rows.append((run.ttft_s, run.tpot_s, *totals, steps, *powers, run.tp))
    columns = np.array(rows).T
    seconds, moved, flops, attention = ((columns[2 * i], columns[2 * i + 1]) for i in range(4))
    steps, average_w, peak_w, tp = columns[8:]
    return RunWork(seconds, moved, flops, attention, steps, average_w, peak_w, tp.astype(np.int64))


def run_watts(power: PowerModel, runs: RunWork) -> tuple[Floats, Floats]:
    """Return (average, peak) watts of runs at their measured times; the peak is that of the hungrier iteration."""
    watts = []
    for seconds, moved, flops, attention in zip(*runs[:4], strict=True):
        work_w = power.work_j(moved, flops, np.minimum(attention, seconds), 0.0, 0.0) / seconds
        watts.append(np.minimum(power.cap_w, power.busy_w + work_w))
    prompt_s, decode_s = runs.seconds[0], runs.seconds[1] * runs.steps
    average: Floats = (watts[0] * prompt_s + watts[1] * decode_s) / (prompt_s + decode_s)
    return average, np.maximum(*watts)


def fit_runs(runs: RunWork, tdp_w: float, idle_w: float, attention_w: float) -> PowerModel:
    """Fit busy watts, joules per byte and FLOP and the cap to the average and peak power of runs."""

    def model(p: Floats) -> PowerModel:
        return PowerModel(idle_w, idle_w + p[0], p[1], p[2], p[3], attention_w=attention_w)

    def residuals(p: Floats) -> Floats:
        average, peak = run_watts(model(p), runs)
        return np.concatenate([np.log(average / runs.average_w), np.log(peak / runs.peak_w)])

    start, most = (0.1 * tdp_w, 1.3e-10, 1.5e-12, tdp_w), (0.5 * tdp_w, 1e-9, 1e-11, 1.1 * tdp_w)
    return model(_minimum(residuals, start, most))


def fit_without_each(runs: RunWork, tdp_w: float, idle_w: float, attention_w: float) -> dict[int, PowerModel]:
    """Return tensor-parallel degree -> the fit to the other degrees' runs."""
    degrees = sorted({int(tp) for tp in runs.tp})
    return {tp: fit_runs(runs.only(runs.tp != tp), tdp_w, idle_w, attention_w) for tp in degrees}


# -- cards that nobody measured ---------------------------------------------------------------------------------------


class PoweredCard(NamedTuple):
    """What is known of a card's streaming power: its own numbers, and measured (bytes/s, watts) of decoding runs."""

    name: str
    architecture: str
    memory: str
    tdp_w: float
    idle_w: float
    peak_bytes_per_s: float
    rates: Floats
    watts: Floats


class Law(NamedTuple):
    """Power of streaming on a measured card: idle + busy_frac x TDP + joules x bytes/s."""

    name: str
    architecture: str
    memory: str
    busy_frac: float
    j_per_byte: float
    stream_frac: float


class PowerRule(NamedTuple):
    """Power of streaming on cards that nobody measured.

    Attributes:
        busy_frac: on top of idling.
        stream_frac: share of the limit at the datasheet's bandwidth.
        j_per_byte: kind of memory -> joules.
    """

    busy_frac: float
    stream_frac: float
    j_per_byte: dict[str, float]

    def joules(self, memory: str, tdp_w: float, peak_bytes_per_s: float) -> float:
        """Return joules per byte: the geometric mean of the two rules."""
        by_share = self.stream_frac * tdp_w / peak_bytes_per_s
        return sqrt(by_share * self.j_per_byte.get(memory, by_share))

    def watts(self, card: PoweredCard) -> Floats:
        """Return predicted watts of a card's runs."""
        joules = self.joules(card.memory, card.tdp_w, card.peak_bytes_per_s)
        watts: Floats = np.minimum(card.tdp_w, card.idle_w + self.busy_frac * card.tdp_w + joules * card.rates)
        return watts


def read_cards(path: Path = RUNS_FILE) -> list[PoweredCard]:
    """Read decoding runs whose watts somebody published, by card."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cards = []
    for name in dict.fromkeys(row["device"] for row in rows):
        mine = [row for row in rows if row["device"] == name]
        first = mine[0]
        rates = np.array([float(row["weight_bytes"]) * float(row["passes_per_s"]) for row in mine])
        watts = np.array([float(row["watts"]) for row in mine])
        tdp_w, idle_w, bandwidth = (float(first[key]) for key in ("tdp_w", "idle_w", "peak_bytes_per_s"))
        cards.append(PoweredCard(name, first["architecture"], first["memory"], tdp_w, idle_w, bandwidth, rates, watts))
    return cards


def law_of(card: PoweredCard) -> Law:
    """Fit the line of a card with runs at several rates."""
    found = _minimum(
        lambda p: np.log((card.idle_w + p[0] + p[1] * card.rates) / card.watts),
        start=(0.07 * card.tdp_w, 2e-10),
        most=(0.5 * card.tdp_w, 2e-9),
    )
    share = found[1] * card.peak_bytes_per_s / card.tdp_w
    return Law(card.name, card.architecture, card.memory, found[0] / card.tdp_w, found[1], share)


def pooled(laws: Sequence[Law]) -> PowerRule:
    """Return the rule for cards of other architectures: geometric means over measured ones."""
    kinds = dict.fromkeys(law.memory for law in laws)
    return PowerRule(
        _mean([law.busy_frac for law in laws]),
        _mean([law.stream_frac for law in laws]),
        {kind: _mean([law.j_per_byte for law in laws if law.memory == kind]) for kind in kinds},
    )


def spread(values: Sequence[float]) -> float:
    """Return the factor that holds nine of ten further values: exp(1.645 sd of the logs), small samples widened."""
    logs = np.log(values)
    return exp(Z_90 * float(np.std(logs, ddof=1)) * sqrt(1.0 + 1.0 / len(logs)))


def _mean(values: Sequence[float]) -> float:
    return exp(sum(log(value) for value in values) / len(values))

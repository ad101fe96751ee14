"""From the fit of power to `hwprofiles/data/power/anchors.toml`: which pool stands on what, and how wide.

python -m afterwatt.fidelity.power.anchors --shared ../shared [--write]
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from afterwatt.fidelity.points.table import PUBLISHED, read_points
from afterwatt.fidelity.power.fit import (
    KernelPower,
    Law,
    PoweredCard,
    fit_kernels,
    fit_runs,
    law_of,
    pooled,
    read_cards,
    run_work,
    spread,
)
from afterwatt.fidelity.power.served import ServedPower, served_runs
from afterwatt.fidelity.power.tables import KernelWatts, read_kernel_watts
from afterwatt.fidelity.serving.splitwise import read_runs
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.power import ANCHORS_FILE, PowerModel, anchors_of

KERNELS: Final = "kernels/aiconfigurator/h200_sxm"
SPLITWISE: Final = "traces/splitwise_sim/perf_model_llama2_70b.csv"
SEVERAL_RATES: Final = 0.3
"""Runs of a card tell a line where their rates spread over at least this share of the largest."""
BYTE_FACTOR: Final = 1.3
FLOP_FACTOR: Final = 1.4
"""90 % factors of joules per byte and FLOP of a measured chip in a run that was not fitted; `fidelity.power.score`
prints how many served runs, at their measured speed, lie inside."""
UNMEASURED_FACTOR: Final = 1.5
"""The same of a chip of another architecture: at least what leaving one architecture out shows."""
POOLS: Final = {
    "kepler": "gddr",
    "maxwell": "gddr",
    "pascal-hbm": "hbm",
    "pascal-gddr": "gddr",
    "volta": "hbm",
    "turing": "gddr",
    "ampere-gddr": "gddr",
    "cdna2": "hbm",
    "cdna3": "hbm",
    "gcn5": "hbm",
    "xehpg": "gddr",
    "xe2": "gddr",
}
"""Pools without measured power, and their memory."""


class AnchorShares(NamedTuple):
    """A pool to be written: name -> (value, low, high, source id)."""

    pool: str
    facts: dict[str, tuple[float, float, float, str]]


class FittedPower(NamedTuple):
    """All that the anchors are made of.

    Attributes:
        kernels: H200 kernels; runs: A100 runs.
        expert_w: what experts add in served runs on an H100.
        cards: published decoding runs; laws: lines of the measured chips.
    """

    kernels: KernelPower
    runs: PowerModel
    expert_w: float
    cards: list[PoweredCard]
    laws: list[Law]


def fit_all(shared: Path, tables: Sequence[KernelWatts] | None = None) -> FittedPower:
    """Fit everything to the tables below `shared`; those of kernels may be given if they are read already."""
    h200, a100 = load_device("h200"), load_device("a100-80")
    kernels = fit_kernels(tables or read_kernel_watts(shared / KERNELS), float(h200.tdp_w))
    attention_w = kernels.attention_w / h200.tdp_w * a100.tdp_w
    runs, _ = read_runs(shared / SPLITWISE)
    mine = run_work([run for run in runs if run.hardware.startswith("a100")])
    fitted = fit_runs(mine, float(a100.tdp_w), float(a100.idle_w), attention_w)
    served = served_runs(read_points(PUBLISHED).points)
    cards = read_cards()
    laws = [
        _law(h200, kernels.busy_w, kernels.j_per_byte),
        _law(a100, fitted.busy_w, fitted.j_per_byte),
        *(law_of(card) for card in cards if _several_rates(card)),
    ]
    return FittedPower(kernels, fitted, expert_watts(served, kernels), cards, laws)


def expert_watts(served: Iterable[ServedPower], kernels: KernelPower) -> float:
    """Return watts that experts add in mixtures on an H100, whose chip is the H200's: the median, at least 0."""
    device = load_device("h100-sxm")
    busy_w = device.idle_w + kernels.busy_w - load_device("h200").idle_w
    plain = PowerModel(
        float(device.idle_w), busy_w, kernels.j_per_byte, kernels.j_per_flop, kernels.cap_w, kernels.attention_w
    )
    needed = [
        (run.watts - run.power(plain)) * run.seconds / run.expert_s
        for run in served
        if run.expert_s > 0.0 and run.scenario.device_key == device.key and run.computed_in != "fp8"
    ]
    return max(0.0, float(np.median(needed))) if needed else kernels.expert_w


def pools_of(fitted: FittedPower) -> list[AnchorShares]:
    """Return the pools to write, measured ones first."""
    hopper = _hopper(fitted)
    same = {name: hopper.facts[name] for name in ("attention_frac", "expert_frac", "unpack_frac")}
    ampere = _ampere(fitted, same)
    by_name = {law.name: law for law in fitted.laws}
    cap = {"cap_frac": (1.0, 0.95, 1.06, "limit")}
    compute = float(np.sqrt(hopper.facts["compute_frac"][0] * ampere.facts["compute_frac"][0]))
    shared = same | cap | {"compute_frac": (compute, compute / 1.6, compute * 1.6, "pooled")}
    pools = [hopper, ampere, _blackwell(fitted, same | cap)]
    for pool, name in (("ada", "RTX 4090D"), ("blackwell-gddr", "RTX 5090")):
        law = by_name[name]
        facts = {"busy_frac": _around(law.busy_frac, 2.0, "runs"), "j_per_byte": _around(law.j_per_byte, 1.3, "runs")}
        pools.append(AnchorShares(pool, facts | shared))
    rule = pooled(fitted.laws)
    busy = _around(rule.busy_frac, spread([law.busy_frac for law in fitted.laws]), "pooled")
    share = max(UNMEASURED_FACTOR, spread([law.stream_frac for law in fitted.laws]))
    for pool, memory in POOLS.items():
        facts = {
            "busy_frac": busy,
            "stream_frac": _around(rule.stream_frac, share, "pooled"),
            "j_per_byte": _around(rule.j_per_byte[memory], UNMEASURED_FACTOR, "pooled"),
        }
        pools.append(AnchorShares(pool, facts | shared))
    return pools


def _hopper(fitted: FittedPower) -> AnchorShares:
    kernels, device = fitted.kernels, load_device("h200")
    tdp_w, table = float(device.tdp_w), kernels.expert_w / float(device.tdp_w)
    busy = max(0.0, kernels.busy_w - device.idle_w) / tdp_w
    attention, expert = kernels.attention_w / tdp_w, fitted.expert_w / tdp_w
    facts = {
        "busy_frac": (busy, 0.0, busy + 0.08, "h200-kernels"),
        "j_per_byte": _around(kernels.j_per_byte, BYTE_FACTOR, "h200-kernels"),
        "cached_j_per_byte": _around(kernels.cached_j_per_byte, 1.5, "h200-kernels"),
        "compute_frac": _at_full_rate(kernels.j_per_flop, device, "fp16", "h200-kernels"),
        "fp8_compute_frac": _at_full_rate(kernels.fp8_j_per_flop, device, "fp8", "h200-kernels"),
        "attention_frac": _around(attention, 1.8, "h200-kernels"),
        "expert_frac": (expert, 0.0, max(table, expert), "experts"),
        "unpack_frac": (0.25, 0.05, 0.6, "unpacking"),
        "cap_frac": (kernels.cap_w / tdp_w, 0.95, 1.03, "h200-kernels"),
    }
    return AnchorShares("hopper", facts)


def _ampere(fitted: FittedPower, same: dict[str, tuple[float, float, float, str]]) -> AnchorShares:
    runs, device = fitted.runs, load_device("a100-80")
    tdp_w = float(device.tdp_w)
    facts = {
        "busy_frac": _around((runs.busy_w - device.idle_w) / tdp_w, 1.6, "splitwise"),
        "j_per_byte": _around(runs.j_per_byte, BYTE_FACTOR, "splitwise"),
        "compute_frac": _at_full_rate(runs.j_per_flop, device, "fp16", "splitwise"),
        "cap_frac": (runs.cap_w / tdp_w, 0.97, 1.09, "splitwise"),
    }
    return AnchorShares("ampere-hbm", facts | same)


def _blackwell(fitted: FittedPower, same: dict[str, tuple[float, float, float, str]]) -> AnchorShares:
    kernels, device = fitted.kernels, load_device("b200")
    busy = max(0.0, kernels.busy_w - load_device("h200").idle_w) / load_device("h200").tdp_w
    joules = pooled(fitted.laws).j_per_byte["hbm"]
    facts = {
        "busy_frac": (busy, 0.0, busy + 0.1, "as-hopper"),
        "j_per_byte": _around(joules, UNMEASURED_FACTOR, "as-hopper"),
        "compute_frac": _at_full_rate(kernels.j_per_flop, device, "fp16", "as-hopper"),
        "fp8_compute_frac": _at_full_rate(kernels.fp8_j_per_flop, device, "fp8", "as-hopper"),
    }
    return AnchorShares("blackwell-hbm", facts | same)


def _law(device: Device, busy_w: float, j_per_byte: float) -> Law:
    share = j_per_byte * device.mem_bandwidth_bytes_per_s / device.tdp_w
    memory = "hbm" if device.memory_type.lower().startswith("hbm") else "gddr"
    busy = (busy_w - device.idle_w) / device.tdp_w
    return Law(device.key, device.architecture, memory, busy, j_per_byte, share)


def _several_rates(card: PoweredCard) -> bool:
    return len(card.rates) > 2 and float(np.ptp(card.rates)) > SEVERAL_RATES * float(card.rates.max())


def _around(value: float, factor: float, source: str) -> tuple[float, float, float, str]:
    return value, value / factor, value * factor, source


def _at_full_rate(j_per_flop: float, device: Device, arithmetic: str, source: str) -> tuple[float, float, float, str]:
    return _around(j_per_flop * device.flops_per_s[arithmetic] / device.tdp_w, FLOP_FACTOR, source)


# -- leaving one architecture out -------------------------------------------------------------------------------------


class LeftOutArchitecture(NamedTuple):
    """A measured card predicted by the rule of the other architectures: median of |predicted / measured - 1|."""

    name: str
    architecture: str
    runs: int
    median: float
    inside: int


def leave_one_architecture_out(fitted: FittedPower) -> list[LeftOutArchitecture]:
    """Predict the streaming power of each measured card from the other architectures' laws.

    Chips known by kernels or by many runs are taken at a quarter, a half and three quarters of their bandwidth.
    """
    cards = [*fitted.cards, *(_card_of(law) for law in fitted.laws if law.name in ("h200", "a100-80"))]
    found = []
    for card in cards:
        others = [law for law in fitted.laws if law.architecture != card.architecture]
        predicted = pooled(others).watts(card)
        off = predicted / card.watts
        inside = int(((off < UNMEASURED_FACTOR) & (off > 1.0 / UNMEASURED_FACTOR)).sum())
        found.append(
            LeftOutArchitecture(card.name, card.architecture, len(off), float(np.median(np.abs(off - 1.0))), inside)
        )
    return found


def _card_of(law: Law) -> PoweredCard:
    device = load_device(law.name)
    tdp_w, idle_w, bandwidth = (float(x) for x in (device.tdp_w, device.idle_w, device.mem_bandwidth_bytes_per_s))
    rates = np.array([0.25, 0.5, 0.75]) * bandwidth
    watts = idle_w + law.busy_frac * tdp_w + law.j_per_byte * rates
    return PoweredCard(law.name, law.architecture, law.memory, tdp_w, idle_w, bandwidth, rates, watts)


# -- the file ---------------------------------------------------------------------------------------------------------

HEAD_FILE: Final = Path(__file__).with_name("head.toml")
"""What the file begins with: what its words mean, and its sources, with places for two figures."""


def text_of(fitted: FittedPower) -> str:
    """Return the file."""
    left = [one for one in leave_one_architecture_out(fitted) if one.runs > 1]
    errors = ", ".join(f"{one.name} {one.median:.0%}" for one in left)
    table = fitted.kernels.expert_w / load_device("h200").tdp_w
    head = HEAD_FILE.read_text(encoding="utf-8").replace("{table}", f"{table:.2f}").replace("{errors}", errors)
    lines = [head.rstrip()]
    for pool in pools_of(fitted):
        lines += ["", f"[{pool.pool}]"]
        for name, (value, low, high, source) in pool.facts.items():
            numbers = f"value = {value:.4g}, low = {low:.4g}, high = {high:.4g}"
            lines.append(f'{name} = {{ {numbers}, source = "{source}" }}')
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, print, and with `--write` replace the shipped file."""
    parser = argparse.ArgumentParser(
        prog="python -m afterwatt.fidelity.power.anchors", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder with kernels/ and traces/")
    parser.add_argument("--write", action="store_true", help=f"replace {ANCHORS_FILE.name}")
    options = parser.parse_args(arguments)
    fitted = fit_all(options.shared)
    text = text_of(fitted)
    sys.stdout.write(text)
    for one in leave_one_architecture_out(fitted):
        sys.stdout.write(f"# {one.architecture} left out: {one.name}, {one.runs} runs, median error {one.median:.1%}, ")
        sys.stdout.write(f"{one.inside} within the factor {UNMEASURED_FACTOR:g}\n")
    if options.write:
        ANCHORS_FILE.write_text(text, encoding="utf-8")
        anchors_of(load_device("h200"))  # says what is wrong with it
    return 0


if __name__ == "__main__":
    sys.exit(main())

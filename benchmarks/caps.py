"""Hold what a power cap does to speed against published sweeps, as ratios to each sweep's fastest row.

    python benchmarks/caps.py          # the table of docs/physics-energy-carbon.md
    python benchmarks/caps.py --fit    # fit the RTX 3090's curves anew: what data/capping/curves.toml holds

Reads ../shared/reference/power_limits.csv. Sweeps of one card with its limit, its phase and a model of the catalogue
are run; rows above 335 W of the air-cooled RTX 3090 are not, as something else than the cap held it there.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from afterwatt.hwprofiles.capping import CapCurve, Draw, Voltage, cap_curve
from afterwatt.hwprofiles.deployment import capped, parse_deployment
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.modelspecs import load_model
from afterwatt.modelspecs.precision import load_precision
from afterwatt.sim.capped import CappedTimes

TABLE = Path(__file__).parents[1] / ".." / "shared" / "reference" / "power_limits.csv"
CONTEXT, PROMPT = 1024, 2048
MOST_W = {"RTX 3090 24GB (air)": 335.0}
TOP_MHZ = 1935.0
MEASURED = ("3090",)
"""Cards whose curves stand on these very rows."""


class Sweep(NamedTuple):
    """One series of the table: what its rows say, and what runs it here.

    Attributes:
        hardware: and the others, as the table has them.
        hw, like, precision, stack: what stands for it here.
        batch: sequences that decode.
    """

    hardware: str
    model: str
    phase: str
    hw: str
    like: str
    precision: str
    stack: str = "llama.cpp-cuda"
    batch: int = 1


SWEEPS = (
    Sweep("RTX 3090 24GB (air)", "Qwen3.6-27B", "decode", "rtx3090", "qwen3.5-27b", "q3_k_m"),
    Sweep("RTX 3090 24GB (air)", "Qwen3.6-35B-A3B", "decode", "rtx3090", "qwen3.5-35b-a3b", "q4_k_m"),
    Sweep("RTX 3090 24GB (air)", "Qwen3.6-27B", "prefill", "rtx3090", "qwen3.5-27b", "q3_k_m"),
    Sweep("RTX 3090 24GB (air)", "Qwen3.6-35B-A3B", "prefill", "rtx3090", "qwen3.5-35b-a3b", "q4_k_m"),
    Sweep("RTX 4090 24GB (air)", "Qwen3.6-27B", "decode", "rtx4090", "qwen3.5-27b", "q3_k_m"),
    Sweep("RTX 4090 24GB (air)", "Qwen3.6-27B", "decode, 4 streams", "rtx4090", "qwen3.5-27b", "q3_k_m", batch=4),
    Sweep("RTX 5090 32GB (air)", "Qwen3.6-27B", "prefill", "rtx5090", "qwen3.5-27b", "int4", "vllm"),
)


def rows_of(sweep: Sweep, table: Sequence[Mapping[str, str]]) -> list[tuple[float, float, float]]:
    """Return (limit in watts, clock in MHz or 0, rate) of a sweep's rows, by limit."""
    found = [
        (float(row["power_limit_w"]), float(row["sm_clock_mhz"] or 0.0), float(row["value"]))
        for row in table
        if (row["hardware"], row["model"], row["phase"]) == (sweep.hardware, sweep.model, sweep.phase)
        and float(row["power_limit_w"]) <= MOST_W.get(sweep.hardware, float("inf"))
    ]
    return sorted(found)


def seconds_under(sweep: Sweep) -> Callable[[float], float]:
    """Return what gives the seconds of a typical iteration under a cap."""
    deployment = parse_deployment(sweep.hw)
    stack = load_stack(deployment.pool.device, sweep.stack)
    serving = Serving(deployment, load_model(sweep.like), load_precision(sweep.precision), stack)
    chunks = ((None, PROMPT, 0),) if sweep.phase == "prefill" else ()
    decoding = 0 if chunks else sweep.batch

    def seconds(cap_w: float) -> float:
        pool = capped(deployment.pool, min(cap_w, float(deployment.pool.device.tdp_w)))
        times = CappedTimes(Serving(deployment.with_pool(pool), serving.model, serving.precision, stack))
        return times.step(decoding, decoding * CONTEXT, chunks, max(decoding, 1), 1)[0] * 1e-12

    return seconds


def score(table: Sequence[Mapping[str, str]]) -> None:
    """Print a line per sweep."""
    print("| card, model, phase | curve | rows | median error | largest, from 0.6 of the limit | largest below |")
    print("| --- | --- | --- | --- | --- | --- |")
    for sweep in SWEEPS:
        rows, seconds = rows_of(sweep, table), seconds_under(sweep)
        most_w, _, most = rows[-1]
        limit_w = float(parse_deployment(sweep.hw).pool.device.tdp_w)
        off = [(limit, seconds(most_w) / seconds(limit) / (rate / most) - 1.0) for limit, _, rate in rows[:-1]]
        high = [abs(error) for limit, error in off if limit >= 0.6 * limit_w]
        low = [abs(error) for limit, error in off if limit < 0.6 * limit_w]
        curve = "its own" if any(card in sweep.hw for card in MEASURED) else "assumed"
        middle = median(abs(error) for _, error in off)
        lowest = f"{max(low):.1%}" if low else "no such row"
        what = f"{sweep.hardware}, {sweep.model}, {sweep.phase}"
        print(f"| {what} | {curve} | {len(off)} | {middle:.1%} | {max(high):.1%} | {lowest} |")


def fit(table: Sequence[Mapping[str, str]]) -> None:
    """Print the RTX 3090's curves: power against clock and rate against the cap together, voltage common to all."""
    sweeps = [sweep for sweep in SWEEPS if sweep.hw == "rtx3090"]
    series = [rows_of(sweep, table) for sweep in sweeps]
    begin = [0.75, 0.75]
    for rows in series:
        begin += [127.0, 320.0, 1.1, 1.05 * rows[-1][2]]

    def residuals(values: NDArray[np.float64]) -> NDArray[np.float64]:
        off: list[float] = []
        for number, rows in enumerate(series):
            static_w, dynamic_w, ratio, rate = values[2 + 4 * number : 6 + 4 * number].tolist()
            curve = _curve(float(values[0]), float(values[1]), ratio, Draw(static_w, dynamic_w))
            for limit_w, mhz, measured in rows:
                draw = curve.draw(0.0)
                off.append(0.3 * np.log(curve.power_w(draw, mhz / TOP_MHZ) / limit_w))
                off.append(np.log(rate / curve.slowness(curve.clock(draw, limit_w)) / measured))
        return np.array(off)

    low = [0.3, 0.3] + [10.0, 50.0, 0.05, 1.0] * len(series)
    high = [1.0, 0.99] + [300.0, 1000.0, 20.0, 1e5] * len(series)
    found = least_squares(
        residuals, begin, bounds=(low, high), x_scale=np.abs(begin), loss="soft_l1", f_scale=0.02
    ).x.tolist()
    print(f"low_voltage {found[0]:.3f}, knee {found[1]:.3f}")
    for number, sweep in enumerate(sweeps):
        static_w, dynamic_w, ratio, _ = found[2 + 4 * number : 6 + 4 * number]
        kind = f"{sweep.phase}-{'moe' if 'a3b' in sweep.like else 'dense'}"
        print(f"{kind}: static_w {static_w:.1f}, dynamic_w {dynamic_w:.1f}, compute_ratio {ratio:.3f}")


def _curve(low_voltage: float, knee: float, ratio: float, draw: Draw) -> CapCurve:
    floor = cap_curve(parse_deployment("rtx3090").pool.device, "decode", False).voltage.floor

    def fact(value: float) -> Fact:
        return Fact(value, "a fit under way", "", "assumed", value, value)

    voltage = Voltage(low_voltage=fact(low_voltage), knee=fact(knee), floor=floor)
    return CapCurve(voltage, fact(ratio), fact(0.25), draw)


def main() -> int:
    """Read the table and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="fit the RTX 3090's curves instead")
    wishes = parser.parse_args()
    if not TABLE.is_file():
        print(f"{TABLE} is not here: the sweeps are in the developers' reference tables", file=sys.stderr)
        return 2
    with TABLE.open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    (fit if wishes.fit else score)(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

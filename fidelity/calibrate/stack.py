"""The engine's software stack on a calibrated device: what its kernels reach, and first guesses of the rest."""

import dataclasses
import datetime as dt
from typing import Any, Final

import pandas as pd

from afterwatt.fidelity.calibrate.measure import Calibration
from afterwatt.fidelity.fit.kernels import REACH
from afterwatt.fidelity.fit.profile import FitAccount, PoolProfile, profile_text
from afterwatt.fidelity.kernels.fit import KernelFit, fit_kernels
from afterwatt.fidelity.kernels.table import COLUMNS, checked
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.stacks import DEFAULT_STACK, ENGINE, PARAMETERS, Stack, load_stack
from afterwatt.modelspecs.precision import load_precision

_UNSURE: Final = 3.0
"""Factor to either side of an overhead that was measured on tiny tensors and not in an engine's iterations."""
_RULES: Final = {parameter.name: parameter.rule for parameter in PARAMETERS}


def kernel_table(calibration: Calibration, device: Device, path: str, source: str) -> pd.DataFrame:
    """Return what was measured as a table of kernel times; see `fidelity.kernels.table`.

    Args:
        calibration: what was measured.
        device: its profile: products in precisions that it does not compute in are left out.
        path: of the device's profile, for the column `device`.
        source: for the column `source`.
    """
    told = {*device.flops_per_s, calibration.machine.stored}
    rows = [
        {**one.row, "seconds": one.seconds.median}
        for one in calibration.found.values()
        if one.row and one.row["dtype"] in told
    ]
    software = f"torch {calibration.machine.versions['torch'].partition('+')[0]}"
    table = pd.DataFrame(rows).assign(device=path, software=software, source=source)
    return checked(table, source)[list(COLUMNS)]


def engine_stack(calibration: Calibration, device: Device, table: pd.DataFrame, source: str) -> tuple[Stack, KernelFit]:
    """Return the stack, and how well its formulas meet kernels that were held out of the fit.

    Args:
        calibration: what was measured.
        device: its profile.
        table: its kernel times; the column `device` names a file that is there.
        source: where they come from.
    """
    start = dataclasses.replace(_start(calibration, device), pool=device.key)
    plain = table[table["dtype"] == calibration.machine.stored]
    (fit,) = fit_kernels(plain, start)
    told = "; ".join(f"{one.op.replace('_', ' ')} {100 * one.median:.0f} %" for one in fit.errors if one.dtype == "all")
    text = f"soft-L1 fit on log time to {fit.rows} kernels, {source}" + (
        f"; median error on held-out shapes: {told}" if told else ""
    )
    return dataclasses.replace(start, **_fitted(fit, text)), fit


def _start(calibration: Calibration, device: Device) -> Stack:
    base = load_stack(device, ENGINE if device.architecture == "cpu" else DEFAULT_STACK)
    machine = calibration.machine
    facts: dict[str, Any] = {}
    for name, held in (("kv_bytes_per_element", machine.stored), ("activation_bytes_per_element", machine.dtype)):
        width = load_precision(held).bytes_per_weight
        text = f"the engine caches in {machine.stored} and computes in {machine.dtype} here"
        facts[name] = Fact(width, text, _today(), "assumed", width, width)
    facts |= _overheads(calibration) | ({} if base.wake_s else _waking())
    # A GPU's decoding is replayed as graphs, of a few shapes (`engine.model.graphs`).
    facts["decode_shape"] = "as-is" if device.architecture == "cpu" else "padded"
    return dataclasses.replace(base, name=ENGINE, basis="pooled", seen=(), spread={}, spread_seen={}, **facts)


def _overheads(calibration: Calibration) -> dict[str, Fact]:
    """Return a layer's and an iteration's overheads: their small operations on tiny tensors, to be refined."""
    text = (
        "`afterwatt calibrate`: the small operations of a layer (norms, rotary embedding, cache, activation) and of an "
        "iteration (inputs, embedding, sampling) on tiny tensors; an engine's own iterations tell better"
    )
    found = {}
    for name, probe in (("layer_overhead_s", "overhead/layer"), ("step_overhead_s", "overhead/step")):
        if probe in calibration.found:
            value = calibration.found[probe].seconds.median
            found[name] = Fact(value, text, _today(), "assumed", value / _UNSURE, value * _UNSURE)
    return found


def _waking() -> dict[str, Fact]:
    """Return a guess at what a rest costs, which no single kernel tells, for an engine's iterations to refine."""
    text = "assumption of this project, wide: a device's clocks sink while it rests; the engine's own iterations tell"
    return {
        "wake_s": Fact(1e-4, text, _today(), "assumed", 1e-6, 1e-2),
        "wake_after_s": Fact(0.3, text, _today(), "assumed", 0.03, 3.0),
    }


def _fitted(fit: KernelFit, text: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name, value in fit.values.items():
        rule = _RULES[name]
        low, high = max(rule.low, value / REACH), min(rule.high, value * REACH)
        facts[name] = Fact(value, text, _today(), "fitted", min(low, value), max(high, value))
    return facts


FIRST_GUESS: Final = "kernel times of `afterwatt calibrate`; overheads are first guesses."


def stack_text(stack: Stack, how: str = FIRST_GUESS) -> str:
    """Return the TOML of a stack with the one pool; `how` it was come by, in a sentence."""
    account = FitAccount("", 0, {}, how)
    return profile_text(ENGINE, [PoolProfile(stack, stack.basis, stack.seen)], account)


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()

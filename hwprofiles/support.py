"""What a software stack runs on and which formats it loads, from `data/support.toml`; and the usual stack of a card."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.facts import Fact, Rule
from afterwatt.hwprofiles.stacks import DEFAULT_STACK, default_stack, holds, software_of
from afterwatt.hwprofiles.tables import DATA_DIR, Table, read_profile
from afterwatt.modelspecs.gguf import FORMATS as GGUF_FORMATS
from afterwatt.modelspecs.precision import PRECISIONS, Precision

_NUMBER: Final = re.compile(r"[0-9]{1,2}(\.[0-9])?")
_CAPABILITY: Final = Rule(0.0, 20.0)
_YES_OR_NO: Final = Rule(0.0, 1.0)
_USUAL: Final = ("llama.cpp-cuda", "vllm")
"""What takes the place of a card's usual stack where that cannot run what is asked for, in this order."""


@dataclass(frozen=True, slots=True)
class Support:
    """What one stack claims.

    Attributes:
        nvidia: compute capability from which it runs; None: it claims nothing.
        vendors: whose cards it runs on; empty: it claims nothing.
        amd: targets that it is built for; empty: it claims nothing.
        formats: format of weights -> compute capability from which it is loaded.
        spreads_experts: 1 if it can spread whole experts over GPUs, 0 if not; None: it claims nothing.
    """

    nvidia: Fact | None
    vendors: tuple[str, ...]
    amd: tuple[str, ...]
    formats: Mapping[str, Fact]
    spreads_experts: Fact | None

    def obstacle(self, device: Device, precision: Precision) -> str | None:
        """Say why the stack cannot run weights of a precision on a card; None if nothing is known against it."""
        key, has = device.key, device.compute_capability
        if self.vendors and device.vendor not in self.vendors:
            return f"runs on cards of {' and '.join(self.vendors)} only; {key} is of {device.vendor}"
        if device.vendor == "AMD" and self.amd and has not in self.amd:
            return f"is built for {', '.join(self.amd)}; {key} is {has}"
        if device.vendor != "NVIDIA" or not _NUMBER.fullmatch(has):
            return None
        if self.nvidia is not None and float(has) < self.nvidia:
            return f"needs compute capability {self.nvidia:.1f} or newer; {key} has {has}"
        needed = self.formats.get(
            "gguf" if precision.name in GGUF_FORMATS and "gguf" in self.formats else precision.name
        )
        if needed is None:
            return f"does not load {precision.name}; it loads {', '.join(self.formats)}"
        if float(has) < needed:
            return f"needs compute capability {needed:.1f} or newer for {precision.name}; {key} has {has}"
        return None


@functools.cache
def supports() -> Mapping[str, Support]:
    """Return what the stacks claim, by name."""

    def build(table: Table) -> dict[str, Support]:
        return {name: _read(table.table(name)) for name in table.keys()}  # noqa: SIM118 - a Table is no dict

    return read_profile(DATA_DIR / "support.toml", build)


def _read(table: Table) -> Support:
    vendors, amd = (table.texts(key) if table.has(key) else () for key in ("vendors", "amd"))
    nvidia, spreads = table.optional_fact("nvidia", _CAPABILITY), table.optional_fact("spreads_experts", _YES_OR_NO)
    return Support(nvidia, vendors, amd, table.facts("formats", _CAPABILITY), spreads)


def obstacle(stack: str, device: Device, precision: Precision) -> str | None:
    """Say why a stack (`vllm`, `vllm@2023`) cannot run a precision on a card; None if it can or claims nothing."""
    known = supports().get(software_of(stack))
    return None if known is None else known.obstacle(device, precision)


def spread_refusal(stack: str) -> str | None:
    """Say in one sentence why a stack cannot spread whole experts over GPUs; None if it can or claims nothing."""
    known = supports().get(software_of(stack))
    if known is None or known.spreads_experts != 0.0:
        return None
    others = ", ".join(f"--stack {name}" for name, one in supports().items() if one.spreads_experts == 1.0)
    return f"{stack} does not spread experts over GPUs (ep); would run: {others}, --stack {DEFAULT_STACK}"


def refusal(stack: str, device: Device, precision: Precision) -> str | None:
    """Say in one sentence why a stack cannot run a precision on a card, and what would run; None if it can."""
    why = obstacle(stack, device, precision)
    if why is None:
        return None
    others = [f"--stack {name}" for name in supports() if not obstacle(name, device, precision)]
    near = [form for form in PRECISIONS.values() if form.family == precision.family and form.name != precision.name]
    stored = [f"--precision {form.name}" for form in near if not obstacle(stack, device, form)]
    return f"{stack} {why}; would run: {', '.join((*others, *stored[:2], f'--stack {DEFAULT_STACK}'))}"


def usual_stack(device: Device, precision: Precision) -> str:
    """Return the stack that a card is commonly run with and that loads a precision on it; else `DEFAULT_STACK`."""
    held = (name for name in _USUAL if holds(name, device))
    wanted = chain((default_stack(device),), held)  # read no file before it is asked for
    return next((name for name in wanted if not obstacle(name, device, precision)), DEFAULT_STACK)

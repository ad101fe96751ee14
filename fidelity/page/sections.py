"""What else the fidelity page tells, beside the points: each from a module of its own, where its data is there."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from afterwatt.fidelity.page.page import Section

MODULES: Final = (
    "afterwatt.fidelity.offload.section",
    "afterwatt.fidelity.serving.splitwise_score",
    "afterwatt.fidelity.kernels.report",
    "afterwatt.fidelity.power.section",
    "afterwatt.fidelity.serving.replay_score",
)
"""Modules with a function `section(shared) -> Section | None`."""


def other_sections(shared: Path) -> list[Section]:
    """Return the sections whose tables lie under a folder."""
    found = []
    for name in MODULES:
        if find_spec(name) is None:
            continue
        make: Callable[[Path], Section | None] | None = getattr(import_module(name), "section", None)
        section = make(shared) if make is not None else None
        if section is not None:
            found.append(section)
    return found

"""What runs were asked: only answers to one question are ranked together.

Hardware, software, precision, policy and site are answers. The model, the requests and how they arrive, what users were
promised, and the basis and the duty cycle of the account are the question.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from afterwatt.reports.compare import headline_choice
from afterwatt.reports.entry import SEPARATOR, Entry, labels
from afterwatt.reports.format import count, duration, listing, percent, setting
from afterwatt.reports.rundir import Run

MOST_NAMED: Final = 4
_CLOSED_LOOP: Final = re.compile(r"(\d+ users.*?), lengths of ")


class Question(NamedTuple):
    """Runs that were asked the same.

    Attributes:
        entries: the runs, shown under one way of counting.
        said: what sets the question apart from the others on the page; empty where it is the only one.
    """

    entries: list[Entry]
    said: str


def questions(group: Sequence[Entry]) -> list[Question]:
    """Part runs by what they were asked, in order of the first run of each; of several, labels end in Q1, Q2, ..."""
    asked = [_asked(entry.run) for entry in group]
    differing = [noun for noun in asked[0] if len({one[noun] for one in asked}) > 1] if asked else []
    parts: dict[tuple[Asked, ...], list[Entry]] = {}
    for entry, one in zip(group, asked, strict=True):
        parts.setdefault(tuple(one[noun] for noun in differing), []).append(entry)
    if len(parts) < 2:
        return [Question(_counted(members), "") for members in parts.values()]
    found = []
    for number, (key, members) in enumerate(parts.items(), 1):
        said = listing([f"{noun} {one.said}" for noun, one in zip(differing, key, strict=True)])
        names = labels([entry.run for entry in members])
        named = [replace(one, label=f"{name}{SEPARATOR}Q{number}") for one, name in zip(members, names, strict=True)]
        found.append(Question(_counted(named), f"Q{number}: {said}"))
    return found


def _counted(members: Sequence[Entry]) -> list[Entry]:
    """Show all runs under one way of counting, as far as they know it."""
    choice = headline_choice([entry for entry in members if entry.choices])
    return [replace(entry, counted=choice if choice in entry.choices else None) for entry in members]


def apart(parts: Sequence[Question]) -> str:
    """Say why not all runs are ranked together; empty where they are."""
    if len(parts) < 2:
        return ""
    told = [f"{part.said} ({_named(part.entries)})" for part in parts]
    return f"Runs that were not asked the same are not ranked together: {'; '.join(told)}."


def _named(members: Sequence[Entry]) -> str:
    return listing([entry.label for entry in members]) if len(members) <= MOST_NAMED else f"{len(members)} runs"


class Asked(NamedTuple):
    """A part of what a run was asked: what must be equal, and how it is said."""

    key: object
    said: str


def _asked(run: Run) -> dict[str, Asked]:
    config, known = run.manifest.config, run.summary.breakeven
    duty, between = (None, None) if known is None else (known.duty_frac, known.between)
    rest = f", {between} between" if duty is not None and duty < 1 else ""
    return {
        "model": Asked(run.summary.model, run.summary.model),
        "requests": _requests(run),
        "load": _load(run),
        "service level": _promise(run),
        "horizon": _time(config.get("horizon_s")),
        "warm-up": _time(config.get("warmup_s")),
        "duty cycle": Asked((duty, rest), "unknown" if duty is None else f"{percent(duty)}{rest}"),
        "carbon basis": _basis(run),
    }


def _requests(run: Run) -> Asked:
    name = run.manifest.config.get("trace")
    of = f" of {Path(name).name}" if isinstance(name, str) else ""
    if _users(run) and run.manifest.horizon_s:  # how many get their turn depends on the hardware
        return Asked(of, f"as many as get their turn{of}")
    columns = run.columns("requests", "prompt_tokens", "output_tokens")
    prompts, outputs = (None if np.isnan(column).any() else float(column.sum()) for column in columns)
    arrived = run.summary.requests.arrived
    return Asked((arrived, prompts, outputs), f"{count(arrived)}{of} with {count(prompts)} + {count(outputs)} tokens")


def _load(run: Run) -> Asked:
    """Say how requests came: by users who wait, or in which time."""
    if users := _users(run):
        return Asked(users, f"of {users}")
    arrivals_s = run.column("requests", "arrival_s")
    if np.isnan(arrivals_s).any():
        return Asked(None, "unknown")
    if not len(arrivals_s) or not arrivals_s.max():
        return Asked("at once", "all at once")
    last_s, mean_s = float(arrivals_s.max()), float(arrivals_s.mean())
    return Asked((last_s, mean_s), f"within {duration(last_s)}")


def _users(run: Run) -> str:
    """Say how many users there are in a closed loop; empty where requests come when they come."""
    found = _CLOSED_LOOP.match(str(run.manifest.config.get("workload") or ""))
    return found[1] if found else ""


def _promise(run: Run) -> Asked:
    slo = run.manifest.slo()
    limits = {} if slo is None else slo.thresholds()
    said = [f"{name.removesuffix('_s').upper()} up to {setting(limit)}" for name, limit in limits.items()]
    return Asked(tuple(limits.items()), listing(said) or "none")


def _basis(run: Run) -> Asked:
    carbon = run.manifest.config.get("carbon")
    older = carbon.get("basis") if isinstance(carbon, Mapping) else None
    basis = run.summary.carbon_gco2e.basis or older or "unknown"
    return Asked(basis, str(basis))


def _time(seconds: object) -> Asked:
    known = float(seconds) if isinstance(seconds, int | float) else 0.0
    return Asked(known, setting(known) if known else "none")

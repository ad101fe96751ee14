"""Writing a stack's profile: what its pools do not have from their parent, each value with interval and source."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from afterwatt.fidelity.fit.core import StackPlace
from afterwatt.fidelity.fit.fit import FittedStacks, place_on
from afterwatt.fidelity.fit.priors import profile_of
from afterwatt.hwprofiles.catalogue import device_names, load_device
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.stacks import (
    DECODE_SHAPES,
    DEFAULT_STACK,
    PARAMETERS,
    PHASES,
    QUANTISED_IN,
    SUMS_IN,
    Stack,
    load_pools,
    parent_pool,
    stated_pools,
    value_of,
)
from afterwatt.reports.files import taking_place

DIGITS: Final = 4
MEMORIES: Final = ("hbm", "gddr")
Factors = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class PoolProfile:
    """A table of the profile.

    Attributes:
        stack: its parameters, with facts.
        basis: what they stand on; seen: model classes among the points.
        spread: phase -> factors on time (joules) that hold nine times in ten; spread_seen: the same for `seen`.
    """

    stack: Stack
    basis: str
    seen: tuple[str, ...] = ()
    spread: Factors | None = None
    spread_seen: Factors | None = None


@dataclass(frozen=True)
class FitAccount:
    """What a profile was fitted to.

    Attributes:
        sha256: of the table of points; points: how many of its rows were fitted to.
        errors: name of a test -> (points, median, 90th percentile) of the absolute relative error.
        about: a sentence for the head of the file.
    """

    sha256: str
    points: int
    errors: Mapping[str, tuple[int, float, float]]
    about: str


def place_of_pool(stack: str, pool: str) -> StackPlace:
    """Return the place that a pool's name stands for: a device, or any other card of an architecture."""
    if pool in device_names():
        return place_on(stack, load_device(pool))
    for memory in MEMORIES:
        architecture = pool.removesuffix(f"-{memory}")
        if architecture != pool:
            return StackPlace(stack, memory, architecture, pool)
    return StackPlace(stack, "", pool, pool)


def pool_names_of(fitted: FittedStacks, stack: str) -> list[str]:
    """Return the pools that a profile has: those of its prior, and each device with points."""
    devices = {place.device for place in fitted.places(stack)}
    pools = load_pools(profile_of(fitted.profile, stack))
    return [*sorted(devices), *(pool for pool in pools if pool not in devices)]


def profile_text(name: str, pools: Sequence[PoolProfile], account: FitAccount, parent: str = DEFAULT_STACK) -> str:
    """Return the TOML of a profile, in which a pool states what it does not have from its parent.

    Args:
        name: of the stack.
        pools: of the stack.
        account: of the fit.
        parent: stack that it inherits from; a file of one's own lies beside the profile.
    """
    sources = _SourceIds()
    known = stated_pools(parent)
    own = {pool.stack.pool: known.get(parent_pool(pool.stack.pool, known) or "", {}) for pool in pools}
    tables = [_pool_text(pool, own[pool.stack.pool], sources) for pool in pools]
    head = [f"# Software stack {name}: {account.about}", "# Written by `afterwatt fit`; refit rather than edit.", ""]
    inherits = [f"inherits = {_quoted(Path(parent).name)}", ""] if any(own.values()) else []
    return "\n".join([*head, *inherits, sources.text(), _account_text(account), *tables])


def write_profile(path: Path, text: str) -> None:
    """Write a profile whole or not at all.

    Raises:
        HardwareError: what was written cannot be read back.
        ReportError: the place cannot be written to, or what stands there is no file.
    """
    with taking_place(path) as partial:
        partial.write_text(text, encoding="utf-8")
        load_pools(str(partial))


class _SourceIds:
    """Texts of sources under short ids, in the order of their use."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str, str], str] = {}
        self._today = dt.datetime.now(dt.UTC).date().isoformat()

    def cite_held_out(self) -> str:
        """Return the id of the source of intervals."""
        text = "errors of predictions whose points were held out (fidelity.fit.intervals)"
        return self.cite(Fact(1.0, text, self._today, "fitted", 1.0, 1.0))

    def cite(self, fact: Fact) -> str:
        """Return the id of a fact's source."""
        key = (fact.source, fact.checked, fact.kind)
        if key not in self._ids:
            self._ids[key] = f"s{len(self._ids) + 1}"
        return self._ids[key]

    def text(self) -> str:
        """Return the table of sources."""
        lines = [
            f"{name} = {{ text = {_quoted(text)}, checked = {checked}, kind = {_quoted(kind)} }}"
            for (text, checked, kind), name in self._ids.items()
        ]
        return "\n".join(["[sources]", *lines, ""])


def _pool_text(pool: PoolProfile, inherited: Mapping[str, Any], sources: _SourceIds) -> str:
    stack = pool.stack
    lines = [f"[{stack.pool}]", f"basis = {_quoted(pool.basis)}"]
    if pool.seen and pool.seen != inherited.get("seen"):
        lines.append(f"seen = [{', '.join(map(_quoted, pool.seen))}]")
    for name, choices in (("quantised_in", QUANTISED_IN), ("sums_in", SUMS_IN), ("decode_shape", DECODE_SHAPES)):
        if (word := getattr(stack, name)) != inherited.get(name, choices[0]):
            lines.append(f"{name} = {_quoted(word)}")
    facts: dict[str, Fact] = {parameter.name: getattr(stack, parameter.name) for parameter in PARAMETERS}
    for name, fact in facts.items():
        without = {other: known for other, known in facts.items() if other != name}
        left_out = value_of(name, {**without, name: inherited[name]} if name in inherited else without)
        if left_out is None or _written(fact) != _written(left_out):
            lines.append(f"{name} = {_fact_text(fact, sources)}")
    for name, factors in (("spread", pool.spread), ("spread_seen", pool.spread_seen)):
        if factors and _spread_written(factors) != _spread_written(inherited.get(name, {})):
            lines += ["", f"[{stack.pool}.{name}]"]
            lines += [f"{phase} = {_spread_text(factors[phase], sources)}" for phase in PHASES if phase in factors]
    return "\n".join([*lines, ""])


def _written(fact: Fact) -> tuple[object, ...]:
    """Return what a file says of a fact: facts that differ by less than the digits written are one."""
    ends = None if fact.low is None or fact.high is None else (_number(fact.low), _number(fact.high))
    return _number(fact), ends, fact.source, fact.checked, fact.kind, fact.note


def _spread_written(factors: Factors) -> dict[str, tuple[str, str]]:
    return {phase: (_number(low), _number(high)) for phase, (low, high) in factors.items()}


def _fact_text(fact: Fact, sources: _SourceIds) -> str:
    parts = [f"value = {_number(fact)}"]
    if fact.low is not None and fact.high is not None:
        parts += [f"low = {_number(fact.low)}", f"high = {_number(fact.high)}"]
    parts.append(f"source = {_quoted(sources.cite(fact))}")
    if fact.note:
        parts.append(f"note = {_quoted(fact.note)}")
    return f"{{ {', '.join(parts)} }}"


def _spread_text(factors: tuple[float, float], sources: _SourceIds) -> str:
    source = _quoted(sources.cite_held_out())
    return f"{{ value = 1.0, low = {_number(factors[0])}, high = {_number(factors[1])}, source = {source} }}"


def _account_text(account: FitAccount) -> str:
    today = dt.datetime.now(dt.UTC).date().isoformat()
    lines = ["[fit]", f"date = {today}", f"points_sha256 = {_quoted(account.sha256)}", f"points = {account.points}"]
    for test, (count, median, worst) in account.errors.items():
        lines.append(f"{test} = {{ points = {count}, median_error_frac = {median:.4f}, p90_error_frac = {worst:.4f} }}")
    return "\n".join([*lines, ""])


def _number(value: float) -> str:
    text = f"{value:.{DIGITS}g}"
    return text if any(mark in text for mark in ".e") else f"{text}.0"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(mark if mark.isprintable() else " " for mark in escaped) + '"'

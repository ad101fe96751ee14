"""Strict reading of profile TOML: what a loader does not ask for is an error, and a number without a source is one too.

A number is an inline table:

    mem_bandwidth_bytes_per_s = { value = 288.4e9, source = "https://...", checked = 2026-11-20, kind = "datasheet" }

with `low` and `high` (required where the kind is fitted or assumed) and, if useful, a `note`. Where many numbers share
a source, it is written once under a short id, and `source = "id"` refers to it; date and kind then come from there
too, unless the number gives its own:

    [sources]
    vendor = { text = "https://...", checked = 2026-11-20, kind = "datasheet" }

Ids of `data/sources.toml` can be used from every file. The loaded `Fact` always carries the full text.

Usage: `read_profile(path, build)`, where `build(table)` asks a `Table` for everything it knows of.
"""

import datetime as dt
import difflib
import functools
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_origin, get_type_hints

from afterwatt.hwprofiles.errors import HardwareError, did_you_mean
from afterwatt.hwprofiles.facts import KINDS, Fact, Rule
from afterwatt.modelspecs.files import read_small

LARGEST_BYTES: Final = 16 << 20
"""The largest shipped profile has 40 kB."""
DATA_DIR: Final = Path(__file__).parent / "data"
_FACT_KEYS: Final = ("value", "source", "checked", "kind", "low", "high", "note")
_SOURCE_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]*\Z")
_EXAMPLE: Final = '{ value = ..., source = "...", checked = 2026-11-20, kind = "datasheet" }'
_FIRST_DATE: Final = dt.date(2000, 1, 1)
_LAST_DATE: Final = dt.date(2100, 1, 1)

Profile = TypeVar("Profile")


class Sources:
    """The `[sources]` of one file over those shared by all shipped profiles; remembers which were used."""

    def __init__(self, own: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Mapping[str, Any]]) -> None:
        self._own = own
        self._all = {**shared, **own}
        self._used: set[str] = set()

    def find(self, source_id: str) -> Mapping[str, Any] | None:
        """Return the entry of a short id, or None where no such id exists."""
        self._used.add(source_id)
        return self._all.get(source_id)

    def ids(self) -> list[str]:
        """Return all ids that could have been meant."""
        return sorted(self._all)

    def unused(self) -> list[str]:
        """Return the ids of the file itself that nothing refers to."""
        return sorted(set(self._own) - self._used)


class Table:
    """One TOML table being read: each getter checks and marks its key, `close` refuses what is left over."""

    def __init__(self, data: Mapping[str, Any], file: str, path: str, sources: Sources) -> None:
        self._data = data
        self._file = file
        self._path = path
        self._sources = sources
        self._asked: set[str] = set()
        self._children: list[Table] = []

    def error(self, message: str) -> HardwareError:
        """Return an error that names this file."""
        return HardwareError(f"{self._file}: {message}")

    def has(self, key: str) -> bool:
        """Say whether the key is there, and mark it as known."""
        self._asked.add(key)
        return key in self._data

    def keys(self) -> list[str]:
        """Return the table's keys in the order of the file."""
        return list(self._data)

    def close(self) -> None:
        """Check that everything in this table and those below was asked for.

        Raises:
            HardwareError: there is a key that no loader knows.
        """
        for key in self._data:
            if key not in self._asked:
                known = ", ".join(sorted(self._asked))
                hint = did_you_mean(key, self._asked) or ";"
                raise self.error(f"unknown key {self._name(key)!r}{hint} known keys: {known}")
        for child in self._children:
            child.close()

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _get(self, key: str) -> object:
        self._asked.add(key)
        if key not in self._data:
            near = difflib.get_close_matches(key, [name for name in self._data if name not in self._asked], n=1)
            raise self.error(f"{self._name(key)} is missing" + (f"; is {near[0]!r} a slip for it?" if near else ""))
        return self._data[key]

    def text(self, key: str, choices: Sequence[str] = (), default: str | None = None) -> str:
        """Return a non-empty string, one of `choices` if any are given."""
        if default is not None and not self.has(key):
            return default
        value = self._get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{self._name(key)} = {value!r} must be a non-empty string")
        if choices and value not in choices:
            hint = did_you_mean(value, choices) or ";"
            raise self.error(f"{self._name(key)} = {value!r} is not known{hint} expected one of {', '.join(choices)}")
        return value

    def texts(self, key: str, choices: Sequence[str] = ()) -> tuple[str, ...]:
        """Return a non-empty list of strings."""
        value = self._get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise self.error(f'{self._name(key)} = {value!r} must be a list of strings such as ["pcie"]')
        for item in value:
            if choices and item not in choices:
                hint = did_you_mean(item, choices) or ";"
                raise self.error(f"{self._name(key)} holds {item!r}{hint} expected of {', '.join(choices)}")
        return tuple(value)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number within low..high (a count or a year: no unit, no source)."""
        if default is not None and not self.has(key):
            return default
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(f"{self._name(key)} = {value!r} must be a whole number in {low}..{high}")
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return true or false."""
        if default is not None and not self.has(key):
            return default
        value = self._get(key)
        if not isinstance(value, bool):
            raise self.error(f"{self._name(key)} = {value!r} must be true or false")
        return value

    def table(self, key: str) -> "Table":
        """Return the table under a key, to be read in turn."""
        value = self._get(key)
        if not isinstance(value, dict):
            raise self.error(f"{self._name(key)} = {value!r} must be a table")
        return self._child(value, self._name(key))

    def tables(self, key: str) -> "list[Table]":
        """Return the list of tables under a key; an absent key is an empty list."""
        if not self.has(key):
            return []
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(f"{self._name(key)} must be a list of tables")
        return [self._child(item, f"{self._name(key)}[{number}]") for number, item in enumerate(value)]

    def _child(self, data: Mapping[str, Any], path: str) -> "Table":
        child = Table(data, self._file, path, self._sources)
        self._children.append(child)
        return child

    def fact(self, key: str, rule: Rule) -> Fact:
        """Return the number under a key with its provenance.

        Raises:
            HardwareError: it is missing, is a bare number, has no source, date, kind or interval, or breaks the rule.
        """
        value = self._get(key)
        name = self._name(key)
        if not isinstance(value, dict):
            raise self.error(f"{name} = {value!r} has no source; write {name} = {_EXAMPLE}")
        table = self._child(value, name)
        return table.as_fact(rule)

    def optional_fact(self, key: str, rule: Rule) -> Fact | None:
        """Return the fact under a key; None (unknown, or there is no such thing) where the key is absent."""
        return self.fact(key, rule) if self.has(key) else None

    def facts(self, key: str, rule: Rule, names: Sequence[str] = ()) -> dict[str, Fact]:
        """Return a table of facts by name; `names`, if given, are all the names there can be."""
        table = self.table(key)
        for name in table.keys():  # noqa: SIM118 - a Table is no dict
            if names and name not in names:
                hint = did_you_mean(name, names) or ";"
                raise self.error(f"unknown key '{table._name(name)}'{hint} expected of {', '.join(names)}")
        return {name: table.fact(name, rule) for name in table.keys()}  # noqa: SIM118

    def as_fact(self, rule: Rule, also: Sequence[str] = ()) -> Fact:
        """Return this table itself as a fact; keys in `also` are the caller's (the year of an intensity, say)."""
        for key in self._data:
            if key not in _FACT_KEYS and key not in also:
                hint = did_you_mean(key, _FACT_KEYS) or ";"
                raise self.error(f"unknown key '{self._name(key)}'{hint} a number has {', '.join(_FACT_KEYS)}")
        value = self.number("value", rule)
        source, checked, kind = self._provenance()
        low = self.number("low", rule) if self.has("low") else None
        high = self.number("high", rule) if self.has("high") else None
        note = self.text("note") if self.has("note") else ""
        try:
            return Fact(value, source, checked, kind, low, high, note)
        except HardwareError as fault:
            raise self.error(f"{self._path}: {fault}") from None

    def of_source(self, key: str, choices: Sequence[str]) -> str | None:
        """Return what the entry of this number's source says under a key of its own; None if nothing."""
        source = self.text("source")
        said = (self._sources.find(source) or {}).get(key)
        if said is not None and said not in choices:
            raise self.error(f"source {source!r}: {key} = {said!r} must be one of {', '.join(choices)}")
        return said

    def number(self, key: str, rule: Rule) -> float:
        """Return the bare number under a key: what somebody chooses, or part of a fact."""
        value = self._get(key)
        name = self._path if key == "value" else self._name(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
            raise self.error(f"{name} = {value!r} must be a finite number")
        if abs(value) >= 1e300:
            raise self.error(f"{name} is no number that anything has; give one below 1e300")
        if fault := rule.fault(value):
            raise self.error(f"{name} = {value:g} {fault}")
        return float(value)

    def _provenance(self) -> tuple[str, str, str]:
        if not self.has("source"):
            raise self.error(f"{self._path} has no source; every number says where it comes from: {_EXAMPLE}")
        text = self.text("source")
        entry: Mapping[str, Any] = {}
        if _SOURCE_ID.match(text):
            found = self._sources.find(text)
            if found is None:
                hint = did_you_mean(text, self._sources.ids()) or ";"
                raise self.error(f"{self._path}: source id {text!r} is not in [sources]{hint} or write the full source")
            entry = found
        checked = self._data.get("checked", entry.get("checked"))
        kind = self._data.get("kind", entry.get("kind"))
        self._asked.update(("checked", "kind"))
        if checked is None:
            raise self.error(f"{self._path} has no date; add checked = 2026-11-20, the day its source was read")
        if isinstance(checked, dt.datetime) or not isinstance(checked, dt.date):
            raise self.error(f"{self._path}.checked = {checked!r} must be a TOML date such as 2026-11-20 (no quotes)")
        if not _FIRST_DATE <= checked < _LAST_DATE:
            raise self.error(f"{self._path}.checked = {checked} must lie in {_FIRST_DATE}..{_LAST_DATE}")
        if kind is None:
            raise self.error(f"{self._path} has no kind; add kind = one of {', '.join(KINDS)}")
        return str(entry.get("text", text)), checked.isoformat(), str(kind)


@functools.cache
def _annotations(kind: Callable[..., object]) -> Mapping[str, Any]:
    return get_type_hints(kind, include_extras=True)


def read_fields(table: Table, kind: Callable[..., Profile], **known: object) -> Profile:
    """Make a profile of a table whose keys are the fields of the profile's class, each held to its annotation.

    `Annotated[Fact, RULE]` is a number with its source, which may be absent where the class says `Fact | None`. Texts
    are annotated with their choices, whole numbers with their range; a `note` may be absent.

    Args:
        table: to read.
        kind: the class.
        known: fields that are read otherwise.

    Raises:
        HardwareError: a key is missing or breaks its rule.
    """
    found = dict(known)
    for name, hint in _annotations(kind).items():
        if name in found:
            continue
        annotated = get_origin(hint) is Annotated
        said: Any = hint.__origin__ if annotated else hint
        rule: Any = hint.__metadata__[0] if annotated else ()
        if name == "note":
            found[name] = table.text(name, default=" ").strip()
        elif said is Fact:
            found[name] = table.fact(name, rule)
        elif said == Fact | None:
            found[name] = table.optional_fact(name, rule)
        elif said is int:
            found[name] = table.integer(name, rule.start, rule.stop - 1)
        else:
            found[name] = table.text(name, rule) if said is str else table.texts(name, rule)
    return kind(**found)


def read_profile(path: Path, build: Callable[[Table], Profile]) -> Profile:
    """Read one TOML file through `build` and refuse what it did not ask for.

    Args:
        path: the file.
        build: makes the profile from the file's top table; the file's `[sources]` are taken care of here.

    Raises:
        HardwareError: the file is missing, is no TOML, or breaks a rule.
    """
    label = profile_label(path)
    data = _parse(path, label)
    own = data.pop("sources", {})
    _check_sources(own, label)
    sources = Sources(own, shared_sources())
    table = Table(data, label, "", sources)
    profile = build(table)
    table.close()
    if unused := sources.unused():
        raise HardwareError(f"{label}: source {unused[0]!r} is never referred to; use it or remove it")
    return profile


def profile_label(path: Path) -> str:
    """Return how messages name a file: shipped ones from the package's folder on, others as given."""
    try:
        return str(Path("hwprofiles") / path.relative_to(DATA_DIR.parent))
    except ValueError:
        return str(path)


@functools.cache
def shared_sources() -> Mapping[str, Mapping[str, Any]]:
    """Return the sources that every profile may refer to (`data/sources.toml`)."""
    path = DATA_DIR / "sources.toml"
    data = _parse(path, profile_label(path))
    _check_sources(data, profile_label(path))
    return data


def _parse(path: Path, label: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_small(path, LARGEST_BYTES))
    except FileNotFoundError:
        raise HardwareError(f"{label}: no such file") from None
    except OSError as fault:
        raise HardwareError(f"{label}: cannot be read ({fault.strerror})") from None
    except (ValueError, RecursionError) as fault:  # tomllib's own, UTF-8, numbers of thousands of digits, deep nesting
        raise HardwareError(f"{label}: not valid TOML: {fault}") from None


def _check_sources(entries: object, label: str) -> None:
    if not isinstance(entries, dict):
        raise HardwareError(f"{label}: sources must be a table of short ids")
    for name, entry in entries.items():
        if not _SOURCE_ID.match(name):
            raise HardwareError(f"{label}: source id {name!r} must be of lower-case letters, digits and hyphens")
        wrong = not isinstance(entry, dict) or not set(entry) <= {"text", "checked", "kind", "mix"}
        if wrong or not isinstance(entry.get("text"), str) or len(entry["text"]) < 8:
            example = '{ text = "https://...", checked = 2026-11-20, kind = "datasheet" }'
            raise HardwareError(f"{label}: source {name!r} must be a table such as {example}")

"""From text to values: durations, service levels, numbers, times; the same for the command line and for a study file.

Every parser takes the value and how its place is called (`--think`, or `study.toml: think`), for the error.
"""

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from afterwatt.studies.errors import OptionError, near

if TYPE_CHECKING:
    from afterwatt.policies.slo import Slo

Parser: TypeAlias = Callable[[object, str], object]

HOURS_PER_DAY: Final = 24.0
UNITS_S: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-zµ]*)\Z", re.IGNORECASE)
_LATENCIES: Final = ("ttft", "tpot", "e2e")


def text(value: object, where: str) -> str:
    """Take a word as it is."""
    if not isinstance(value, str) or not value.strip():
        raise OptionError(f"{where} = {value!r} must be a word; leave it out for the default")
    return value.strip()


def texts(value: object, where: str) -> tuple[str, ...]:
    """Take a word or a list of words; the same one twice counts once."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise OptionError(f'{where} = {value!r} must be a word or a list of words, such as ["m40", "t4"]')
    return tuple(dict.fromkeys(text(item, where) for item in listed))


def flag(value: object, where: str) -> bool:
    """Take true or false."""
    if not isinstance(value, bool):
        raise OptionError(f"{where} = {value!r} must be true or false")
    return value


def _shown(value: object) -> str:
    """Show a value that is refused; of one without end, where it begins."""
    try:
        said = repr(value)
    except ValueError:  # Python prints no whole number of over 4,300 digits
        return "a number of thousands of digits"
    return said if len(said) <= 80 else f"{said[:60]}... ({len(said)} characters)"


def whole(least: int, most: int = 10**12, also: tuple[int, ...] = ()) -> Parser:
    """Give a parser of whole numbers in a range."""

    def parse(value: object, where: str) -> int:
        said = value
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value.strip().replace("_", "")):
            said = int(value.replace("_", ""))
        if isinstance(said, bool) or not isinstance(said, int) or not (least <= said <= most or said in also):
            other = f", or {' or '.join(map(str, also))}" if also else ""
            bound = f"from {least} on" if most >= 10**12 else f"from {least} to {most:,}"
            raise OptionError(f"{where} = {_shown(value)} must be a whole number {bound}{other}")
        return said

    return parse


def number(above: float, most: float = math.inf, *, closed: bool = False) -> Parser:
    """Give a parser of numbers above one bound (or from it on, if closed) and up to another."""

    def parse(value: object, where: str) -> float:
        try:
            said = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
        except (ValueError, OverflowError):
            said = math.nan
        if not (above < said <= most or (closed and said == above)) or math.isinf(said):
            bound = f"{'from' if closed else 'above'} {above:g}" + ("" if math.isinf(most) else f" and up to {most:g}")
            raise OptionError(f"{where} = {_shown(value)} must be a number {bound}")
        return said

    return parse


def share_of_time(value: object, where: str) -> object:
    """Take a share of all time, or hours a day: `6h` is 0.25."""
    if isinstance(value, str) and value.strip().endswith("h"):
        hours = number(0.0, HOURS_PER_DAY)(value.strip().removesuffix("h"), where)
        assert isinstance(hours, float)
        return hours / HOURS_PER_DAY
    return number(0.0, 1.0)(value, where)


def one_of(known: tuple[str, ...]) -> Parser:
    """Give a parser of one word out of a few."""

    def parse(value: object, where: str) -> str:
        said = text(value, where)
        if said not in known:
            raise OptionError(f"{where} = {said!r} is unknown{near(said, known)}")
        return said

    return parse


def duration_s(value: object, where: str) -> float:
    """Read `200ms`, `1.5s`, `10min`, `2h` as seconds; a bare number is refused, as nobody can tell its unit."""
    said = value.strip() if isinstance(value, str) else str(value)
    match = _DURATION.match(said)
    if isinstance(value, bool) or match is None:
        raise OptionError(f"{where} = {value!r} is no duration; write for example 200ms, 1.5s, 10min or 2h")
    amount, unit = match.groups()
    if not unit:
        raise OptionError(f"{where} = {said} has no unit; write {said}s for seconds or {said}ms for milliseconds")
    if unit.lower() not in UNITS_S:
        raise OptionError(f"{where} = {said!r} has the unknown unit {unit!r}{near(unit, UNITS_S)}")
    return float(amount) * UNITS_S[unit.lower()]


def slo(value: object, where: str) -> "Slo":
    """Read a service level such as `ttft=1s,tpot=200ms,e2e=30s`; each part may be left out, one must be there."""
    from afterwatt.policies.slo import Slo

    limits: dict[str, float] = {}
    for part in text(value, where).split(","):
        name, equals, limit = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise OptionError(f"{where}: {part.strip()!r} is no name=time; write for example ttft=1s,tpot=200ms")
        if name.lower() not in _LATENCIES:
            raise OptionError(f"{where}: unknown latency {name!r}{near(name, _LATENCIES)}")
        if name.lower() in limits:
            raise OptionError(f"{where} says {name} twice; keep one")
        limits[name.lower()] = duration_s(limit, f"{where}: {name}")
        if limits[name.lower()] <= 0.0:
            raise OptionError(f"{where}: {name} = {limit} must be above 0; leave it out for no limit")
    return Slo(**{f"{name}_s": limit_s for name, limit_s in limits.items()})


def start_utc(value: object, where: str) -> str:
    """Read the wall clock of t = 0, with its zone: `2023-06-01T00:00:00Z`."""
    said = value.isoformat() if isinstance(value, datetime) else text(value, where)
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        raise OptionError(f"{where} = {said!r} is no time; write for example 2023-06-01T00:00:00Z") from None
    if moment.tzinfo is None:
        better = moment.isoformat()
        raise OptionError(f"{where} = {said!r} has no time zone; write {better}Z for UTC, or {better}+02:00")
    return moment.isoformat()

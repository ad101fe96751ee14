"""How every number of a report is written: one formatter for the terminal and the page.

Values come in SI (seconds, joules, grams, watts, bytes) and leave with a readable prefix and three significant digits.
``None`` is unknown and is written as such, never as a number.
"""

import math
from collections.abc import Mapping, Sequence

UNKNOWN = "–"
J_PER_KWH = 3_600_000.0

_PREFIXES: tuple[tuple[float, str], ...] = (
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
)
_CANCELLED = 1e-12  # a share that is less is what the rounding of a difference leaves of nothing
_SMALL_ONLY = {"s"}  # a thousand seconds is not a "ks"


def number(value: float | None, digits: int = 3) -> str:
    """Write a bare number with ``digits`` significant digits, thousands separated, without exponent if it can."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    rounded = round(value, digits - 1 - magnitude)
    magnitude = math.floor(math.log10(abs(rounded)))
    if not -5 < magnitude < 15:
        return f"{rounded:.{digits - 1}e}"
    return f"{rounded:,.{max(0, digits - 1 - magnitude)}f}"


def count(value: float | None) -> str:
    """Write a count in full, thousands separated."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def percent(value_frac: float | None, digits: int | None = None) -> str:
    """Write a fraction as per cent; 1 is exactly "100 %", and nothing short of it is rounded up to that."""
    if value_frac is None:
        return UNKNOWN
    if abs(value_frac) < _CANCELLED:
        value_frac = 0.0
    text = number(100.0 * value_frac, digits or (3 if abs(value_frac) >= 0.1 else 2))
    if text == "100" and value_frac < 1.0:
        text = "99.9" if value_frac < 0.9995 else ">99.9"
    return f"{text} %"


def prefix_of(value: float, unit: str) -> tuple[float, str]:
    """Choose factor and unit in which ``value`` reads as 1 to 1000: ``prefix_of(2300, "J") == (1e3, "kJ")``."""
    size = abs(value)
    if unit == "g" and size >= 1e6:
        return 1e6, "t"
    for factor, prefix in _PREFIXES:
        if unit in _SMALL_ONLY and factor > 1.0:
            continue
        if unit == "g" and factor > 1e3:
            continue
        if size >= 0.9995 * factor:
            return factor, prefix + unit
    return (1e-9, "n" + unit) if size else (1.0, unit)


def quantity(value: float | None, unit: str, digits: int = 3) -> str:
    """Write ``value`` of an SI ``unit`` with the prefix that suits it: ``quantity(0.0123, "J") == "12.3 mJ"``."""
    if value is None:
        return UNKNOWN
    factor, prefixed = prefix_of(value, unit)
    return f"{number(value / factor, digits)} {prefixed}"


def duration(value_s: float | None) -> str:
    """Write a time as a person would say it: "85.2 ms", "12.3 s", "4 min 05 s", "2 h 10 min", "1.50 d"."""
    if value_s is None:
        return UNKNOWN
    if value_s < 120:
        return quantity(value_s, "s")
    if value_s < 7199.5:
        minutes, seconds = divmod(round(value_s), 60)
        return f"{minutes} min {seconds:02d} s"
    if value_s < 172_800:
        hours, minutes = divmod(round(value_s / 60), 60)
        return f"{hours} h {minutes:02d} min"
    if value_s < 3 * 365.25 * 86_400 / 2:
        return f"{number(value_s / 86_400)} d"
    return f"{number(value_s / (365.25 * 86_400))} years"


def brief(value_s: float | None) -> str:
    """Write a time as short as it goes, for a label or a narrow column: "85.2 ms", "10.9 min", "2.17 h"."""
    if value_s is None or value_s < 120:
        return duration(value_s)
    if value_s < 7200:
        return f"{number(value_s / 60)} min"
    return f"{number(value_s / 3600)} h" if value_s < 172_800 else duration(value_s)


def setting(value_s: float) -> str:
    """Write a time that a person chose, or that stands at a tick, without trailing zeros: "2 s", "250 ms"."""
    text, unit = quantity(value_s, "s", 6).rsplit(" ", 1)
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"


def energy(value_j: float | None) -> str:
    """Write an energy in joules below one watt-hour, in watt-hours above, as on a bill."""
    if value_j is None:
        return UNKNOWN
    if value_j < 3600.0:
        return quantity(value_j, "J")
    return quantity(value_j / 3600.0, "Wh")


def grams(value_g: float | None) -> str:
    """Write a mass of CO2 equivalent, without the name of the substance: "3.20 mg", "1.05 kg"."""
    return quantity(value_g, "g")


def usd(value_usd: float | None) -> str:
    """Write an amount of money: "$0.0123", "$12.30", "$1,230"; below a tenth of a cent, for a million."""
    if value_usd is None:
        return UNKNOWN
    if 0 < value_usd < 1e-3:
        return f"{usd(1e6 * value_usd)} per million"
    if value_usd >= 1000 or value_usd == 0:
        return f"${value_usd:,.0f}"
    return f"${value_usd:,.2f}" if value_usd >= 1 else f"${number(value_usd)}"


def interval(block: Mapping[str, float | None] | None, unit: str) -> str:
    """Write ``{p5, p50, p95}`` in one unit: "12.3 (9.8–15.1) mg"; alone where the ends are unknown or equal."""
    if block is None or block.get("p50") is None:
        return UNKNOWN
    low, mid, high = block.get("p5"), block["p50"], block.get("p95")
    assert mid is not None
    if low is None or high is None or low == high:
        return quantity(mid, unit)
    factor, prefixed = prefix_of(mid or high, unit)
    return f"{number(mid / factor)} ({number(low / factor)}–{number(high / factor)}) {prefixed}"


def listing(names: Sequence[str], last: str = "and") -> str:
    """Join names as a sentence does: "a", "a and b", "a, b and c"."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def plural(value: float, noun: str, many: str | None = None) -> str:
    """Write a count with its noun: "1 request", "1,612 requests"."""
    return f"{count(value)} {noun if value == 1 else many or noun + 's'}"

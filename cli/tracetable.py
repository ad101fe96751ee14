"""What `afterwatt trace describe` prints."""

from collections.abc import Mapping
from typing import Any, Final

from afterwatt.cli.tables import Column, print_table

_PERCENTILES: Final = ("mean", "p5", "p50", "p90", "p99", "max")


def print_description(found: Mapping[str, Any]) -> None:
    """Print what `traces.describe` measured: lengths as a table, the rest as lines."""
    print_table([Column("", folds=False), Column("")], _facts(found), title=f"{found['path']} ({found['format']})")
    lengths = [
        [f"{name} tokens", *(_count(found[f"{name}_tokens"][place]) for place in _PERCENTILES)]
        for name in ("prompt", "output")
        if found[f"{name}_tokens"]
    ]
    notes = " ".join(f"{note.rstrip('.')}." for note in found["notes"])
    print_table([Column(""), *(Column(place, right=True) for place in _PERCENTILES)], lengths, note=notes)


def _facts(found: Mapping[str, Any]) -> list[list[str]]:
    from afterwatt.reports.format import count, duration, number, percent

    rows = [["requests", count(found["rows"])], ["span", duration(found["span_s"])]]
    rows.append(["requests per second", number(found["rate_per_s"])])
    if found["peak_rate_per_s"] is not None:
        rows.append(["in the busiest minute", number(found["peak_rate_per_s"])])
    if gap := found["gap_s"]:
        rows.append(["gap between arrivals", f"mean {duration(gap['mean'])}, longest {duration(gap['max'])}"])
        rows.append(["its variation (cv; Poisson 1)", number(gap["cv"])])
    windows = [f"{number(value)} in {window}" for window, value in found["dispersion"].items() if value is not None]
    if windows:
        rows.append(["dispersion (Poisson 1)", ", ".join(windows)])
    if daily := found["daily"]:
        said = f"amplitude {percent(daily['amplitude_frac'])}, peak at {daily['peak_hour']:.1f} h"
        rows.append(["daily cycle", f"{said} ({daily['clock']}), over {daily['days']} days"])
    if found["spearman"] is not None:
        rows.append(["prompt and output, rank correlation", number(found["spearman"])])
    if found["classes"]:
        rows.append(["classes", ", ".join(f"{name} {count(times)}" for name, times in found["classes"].items())])
    if prefix := found["prefix"]:
        hits = f"{percent(prefix['ideal_hit_frac'])} of {count(prefix['blocks'])} blocks"
        rows.append(["shared prefixes", f"{hits} of {prefix['block_tokens']} tokens are found in an endless cache"])
    if found["start_utc"]:
        rows.append(["first arrival", found["start_utc"]])
    return rows


def _count(value: float) -> str:
    return f"{value:,.0f}"

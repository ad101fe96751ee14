"""The page of a validation: what was predicted over what was measured, load by load, from the files it has left.

Reads `validation.json` (docs/validate.md has its keys) and the run directories that it names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from afterwatt.reports.entry import entries
from afterwatt.reports.errors import ReportError
from afterwatt.reports.figures import latency
from afterwatt.reports.figures.style import Figure
from afterwatt.reports.files import write_whole
from afterwatt.reports.format import duration, listing, number, plural
from afterwatt.reports.html import render_page
from afterwatt.reports.rundir import load_run
from afterwatt.reports.schema import read_json
from afterwatt.reports.view import TextTable

SCHEMA: Final = 1
NAMES: Final = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "itl_s": "inter-token",
    "e2e_s": "end-to-end",
    "output_tokens_per_s": "output tokens/s",
    "batch_mean": "sequences running",
    "energy_j": "energy of the device, J",
}
Json = Mapping[str, Any]


def write_validation_page(folder: Path) -> Path:
    """Write the page `report.html` of the validation in a folder.

    Raises:
        ReportError: the folder holds none, or one of its runs is not whole.
    """
    found = read_json(folder / "validation.json")
    if not isinstance(found, Mapping) or found.get("schema") != SCHEMA:
        raise ReportError(f"{folder / 'validation.json'} is of another version than {SCHEMA}; validate again")
    page = folder / "report.html"
    write_whole(page, render_page("validation.html.j2", context_of(found, folder)))
    return page


def context_of(found: Json, folder: Path) -> dict[str, Any]:
    """Return what the page shows."""
    return {
        "title": f"{found['model']} on {found['hardware']}: predicted and measured",
        "lead": verdict(found),
        "subtitle": [
            f"{found['requests']} requests of {found['trace']}",
            plural(found["repetitions"], "repetition"),
            f"{found['policies']}, {found['dtype']}, {found['kv_blocks']:,} KV blocks",
            f"measured capacity {number(found['capacity_requests_per_s'])} requests/s",
        ],
        "bounds": bounds_table(found),
        "loads": [
            {
                "short": f"{load['frac']:.0%} load",
                "title": f"At {load['frac']:.0%} of capacity, {number(load['rate_per_s'])} requests/s",
                "figures": _figures(load, folder, place),
                "table": figures_table(load),
                "sensitivity": sensitivity_sentence(load),
            }
            for place, load in enumerate(found["loads"])
        ],
        "checks": [decisions_table(found), operations_table(found), composition_table(found)],
        "prediction": found["checks"]["prediction"],
        "drift": drift_sentence(found["drift"]),
        "command": found["command"],
        "thinning": latency.THINNING,
    }


def _figures(load: Json, folder: Path, place: int) -> list[Figure]:
    """Draw the distributions of the prediction and of the first repetition over one another."""
    runs = [load_run(folder / load["sim"]), *(load_run(folder / name) for name in load["engine"])]
    group = entries(runs)
    labels = ["predicted", *(f"measured, repetition {number}" for number in range(1, len(runs)))]
    named = [replace(entry, label=label) for entry, label in zip(group, labels, strict=True)]
    drawn = latency.distributions(named)
    return [replace(figure, key=f"{figure.key}-{place}") for figure in drawn]


def verdict(found: Json) -> str:
    """Say whether the stated bounds are kept."""
    exceeded = [_named(one["what"]) for one in found["bounds"] if not one["kept"]]
    if not exceeded:
        return f"All {len(found['bounds'])} stated bounds are kept."
    return f"{len(exceeded)} of {len(found['bounds'])} stated bounds are exceeded: {listing(exceeded)}."


def _named(what: str) -> str:
    """Write "tpot_s p50 at 30%" as people say it."""
    metric, _, rest = what.partition(" ")
    return f"{NAMES[metric]} {rest}" if metric in NAMES else what


def bounds_table(found: Json) -> TextTable:
    """Return the bounds and what was found."""
    rows = [
        [_named(one["what"]), _percent(one["most"]), _signed(one["error_frac"]), "kept" if one["kept"] else "exceeded"]
        for one in found["bounds"]
    ]
    return TextTable("Stated bounds", ["", "at most", "error", ""], rows)


def figures_table(load: Json) -> TextTable:
    """Return predicted, measured, error and spread of every figure of a load."""
    rows = []
    for one in load["figures"]:
        metric, _, stat = one["name"].partition(" ")
        written = duration if stat else number
        values = ["unknown" if value is None else written(value) for value in (one["predicted"], one["measured"])]
        spread = "" if one["spread_frac"] is None else _percent(one["spread_frac"])
        rows.append([f"{NAMES[metric]} {stat}".strip(), *values, _signed(one["error_frac"]), spread])
    for metric, value in load["demerit_frac"].items():
        if value is not None:
            rows.append([f"{NAMES[metric]} demerit", "", "", _percent(value), ""])
    note = (
        "Error: predicted over measured (median of the repetitions), less 1. Spread: largest less least repetition, "
        "over their median. Demerit: root mean square distance of the two distributions over the measured mean. "
        f"Energy: {load['energy_method'] or 'unknown'}."
    )
    return TextTable("Predicted and measured", ["", "predicted", "measured", "error", "spread"], rows, note=note)


def sensitivity_sentence(load: Json) -> str:
    """Say what a little more or less load would do to the prediction."""
    told = load["sensitivity"]
    less, more = told["ttft_s p90"]
    if less is None or more is None:
        return ""
    return (
        f"Sensitivity: with {told['load_step']:.0%} less or more load the predicted TTFT p90 is {duration(less)} or "
        f"{duration(more)}."
    )


def decisions_table(found: Json) -> TextTable:
    """Return the decision check."""
    rows = [
        [
            f"{one['frac']:.0%}",
            f"{one['entries']:,}",
            str(one["preemptions"]),
            "; ".join(one["mismatches"]) or "none",
        ]
        for one in found["checks"]["decisions"]
    ]
    note = "The engine's recorded outcomes, fed to the simulator: its decision log must be the engine's, view by view."
    return TextTable("Decisions", ["load", "entries equal", "preemptions", "mismatches"], rows, note=note)


def operations_table(found: Json) -> TextTable:
    """Return the time model against single iterations."""
    rows = [
        [
            f"{one['of']}: {one['kind']}",
            f"{one['iterations']:,}",
            _percent(one["median"]),
            _percent(one["p90"]),
            _signed(one["bias"]),
        ]
        for one in found["checks"]["operations"]
    ]
    note = "Iterations one by one: absolute error, and by what share their sum is off. Fitted to the calibration only."
    return TextTable("Operations", ["", "iterations", "median", "p90", "sum"], rows, note=note)


def composition_table(found: Json) -> TextTable:
    """Return the simulator with measured iteration times."""
    rows = [
        [
            f"{one['frac']:.0%}, repetition {one['repetition']}",
            f"{one['requests']:,}",
            _percent(one["ttft"]),
            _percent(one["e2e"]),
            _signed(one["mean_ttft"]),
            _signed(one["mean_e2e"]),
        ]
        for one in found["checks"]["composition"]
    ]
    note = "The simulator with the engine's own iteration times: what is left is queueing, waking and hand-over."
    head = ["load", "requests", "TTFT, median of each", "end-to-end", "mean TTFT", "mean end-to-end"]
    return TextTable("Composition", head, rows, note=note)


def drift_sentence(drift: Json) -> str:
    """Say how far the machine has moved."""
    if drift["median"] is None:
        return ""
    return (
        f"The machine's own drift: {drift['probe']}, timed before and after each run of the trace, took "
        f"{drift['low']:.2f} to {drift['high']:.2f} times (median {drift['median']:.2f}) its median around the "
        "calibration."
    )


def _percent(value: float) -> str:
    return f"{100.0 * value:.1f} %"


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{100.0 * value:+.1f} %"


def text_of(found: Json) -> Sequence[TextTable]:
    """Return the tables that a terminal shows: bounds, then each load's most asked-for figures."""
    shown = [bounds_table(found)]
    for load in found["loads"]:
        table = figures_table(load)
        rows = [row for row in table.rows if "mean" not in row[0] or "running" in row[0]]
        shown.append(table._replace(caption=f"At {load['frac']:.0%} of capacity", rows=rows))
    return shown

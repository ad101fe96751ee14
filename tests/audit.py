"""The auditor: checks that a ledger adds up, from the files of a run alone. Every test run passes through it."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.carbon import operational_gco2e
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.ledger import COMPONENTS, STATES, Floats, sum_columns

ROW_TOLERANCE: Final = 1e-12
"""Relative difference of two ways to sum one row."""
RUN_TOLERANCE: Final = 1e-9
"""Relative difference of two ways to sum a run."""


class ConservationError(HardwareError):
    """Energy or carbon went missing or came from nowhere; a fault of the program, never of its input."""


def check_conservation(timeline: Mapping[str, NDArray[np.generic]], summary: Mapping[str, Any]) -> None:
    """Check a run's timeline (ledger columns included) against itself and against its summary.

    Components sum to the row's energy and so do states, all non-negative; the integral of the timeline plus the time
    reserved around it is the total, by component and by state; carbon is energy times intensity; time in states is the
    interval.

    Raises:
        ConservationError: the first identity that does not hold, with both sides.
    """
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in timeline.items() if _numeric(column)}
    energy_j = columns["energy_j"]
    _check_rows(columns, [f"energy_{name}_j" for name in COMPONENTS], energy_j)
    _check_rows(columns, [f"energy_{name}_j" for name in STATES], energy_j)
    _check_rows(columns, [f"{name}_s" for name in STATES], columns["interval_s"], RUN_TOLERANCE)
    expected_g = operational_gco2e(energy_j, columns["intensity_gco2e_per_kwh"])
    _check_close(
        "operational_gco2e against energy x intensity", columns["operational_gco2e"], expected_g, ROW_TOLERANCE
    )
    _check_totals(columns, summary["energy_j"])


def _check_totals(columns: Mapping[str, Floats], energy: Mapping[str, Any]) -> None:
    run_j = float(columns["energy_j"].sum())
    by_component, by_state = energy["by_component"], energy["by_state"]
    for name in COMPONENTS:
        _check_sum(f"energy of component {name}", by_component[name], float(columns[f"energy_{name}_j"].sum()))
    for name in ("prefill", "decode"):
        _check_sum(f"energy of state {name}", by_state[name], float(columns[f"energy_{name}_j"].sum()))
    resting_j = float(columns["energy_idle_j"].sum()) + by_component["standby"]
    _check_sum("energy of the states idle and off", by_state["idle"] + by_state["off"], resting_j)
    _check_sum("total energy against its components", energy["total"], sum(by_component.values()))
    _check_sum("total energy against its states", energy["total"], sum(by_state.values()))
    _check_sum("total energy against the timeline", energy["total"], run_j + by_component["standby"])
    _check_sum("idle energy", energy["idle"], by_state["idle"])


def _check_rows(
    columns: Mapping[str, Floats], names: list[str], expected: Floats, tolerance: float = ROW_TOLERANCE
) -> None:
    for name in names:
        if (columns[name] < 0.0).any():
            row = int(columns[name].argmin())
            raise ConservationError(f"{name} = {columns[name][row]!r} in row {row} is negative")
    _check_close(" + ".join(names), sum_columns(columns[name] for name in names), expected, tolerance)


def _check_close(what: str, got: Floats, expected: Floats, tolerance: float) -> None:
    off = np.abs(got - expected) > tolerance * np.maximum(np.abs(expected), np.finfo(np.float64).tiny)
    if off.any() or not np.isfinite(got).all():
        row = int(off.argmax())
        raise ConservationError(f"{what}: {got[row]!r} is not {expected[row]!r} in row {row}")


def _check_sum(what: str, got: float, expected: float) -> None:
    if not abs(got - expected) <= RUN_TOLERANCE * max(abs(expected), abs(got)):
        raise ConservationError(f"{what}: {got!r} is not {expected!r}")


def _numeric(column: NDArray[np.generic]) -> bool:
    return np.asarray(column).dtype.kind in "iuf"

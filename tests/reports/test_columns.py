"""One table of columns: what the bodies tell is what it says they know, and what follows from it is in closed form."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.engine.runtime.drive import Recording
from afterwatt.engine.runtime.record import request_columns
from afterwatt.reports.columns import BODIES, REQUESTS, TABLES, TableColumn, completed, schema
from afterwatt.sim.rows import columns_of

WRITERS = {"sim": lambda: columns_of([]), "engine": lambda: request_columns(Recording(0))}
times_s = st.one_of(st.just(np.nan), st.floats(0.0, 1e6))
requests = st.tuples(times_s, times_s, times_s, st.integers(1, 3), st.sampled_from([None, "never_fits"]))


@pytest.mark.parametrize("body", BODIES)
def test_a_body_tells_what_the_table_says_it_knows_in_its_order(body: str):
    assert list(WRITERS[body]()) == [column.name for column in REQUESTS if body in column.bodies]


@given(st.lists(requests, max_size=5))
def test_what_follows_from_times_does_so_row_by_row(rows):
    first, finish, stall, output, reasons = (list(column) for column in zip(*rows, strict=True)) if rows else [[]] * 5
    given_columns = {
        "arrival_s": np.full(len(rows), 0.5),
        "first_token_s": np.array(first, dtype=float),
        "finish_s": np.array(finish, dtype=float),
        "longest_stall_s": np.array(stall, dtype=float),
        "output_tokens": np.array(output, dtype=np.int32),
        "reject_reason": reasons,
        "energy_j": np.ones(len(rows)),
    }
    found = completed(given_columns)
    for place, (first_s, finish_s, stall_s, tokens, reason) in enumerate(rows):
        several = tokens > 1 and not np.isnan(finish_s)
        wanted = {
            "ttft_s": first_s - 0.5,
            "e2e_s": finish_s - 0.5,
            "tpot_s": (finish_s - first_s) / (tokens - 1) if several else np.nan,
            "longest_stall_s": stall_s if several else np.nan,
            "energy_j": np.nan if reason else 1.0,
        }
        np.testing.assert_equal({name: float(found[name][place]) for name in wanted}, wanted)
        ended = "unfinished" if np.isnan(finish_s) else "finished"
        assert found["status"][place] == ("rejected" if reason else ended)


def test_what_lacks_an_ingredient_is_left_out_and_nothing_else():
    times = {"arrival_s": np.zeros(1), "finish_s": np.ones(1)}
    assert list(completed(times)) == ["arrival_s", "finish_s", "e2e_s"]


def test_formulas_are_about_columns_of_the_table():
    names = {column.name for column in REQUESTS}
    for column in REQUESTS:
        assert set(column.formula.of if column.formula else ()) <= names


def test_quantities_have_a_unit_and_names_are_unique():
    counts = {"request_id", "replica", "preemptions", "draw", "batch_mean", "waiting_mean"}
    for columns in TABLES.values():
        assert len({column.name for column in columns}) == len(columns)
        numbers = [column for column in columns if not pa.types.is_boolean(column.kind) and column.kind != pa.string()]
        for column in numbers:
            assert bool(column.unit) != (column.name in counts or pa.types.is_dictionary(column.kind)), column.name
    units = {column.name: column.unit for column in TABLES["timeline"]}
    assert units["operational_gco2e"] == "gCO₂e"
    assert units["intensity_gco2e_per_kwh"] == "gCO₂e/kWh"


@pytest.mark.parametrize("known", [True, False])
def test_null_is_allowed_where_a_column_may_be_unknown(known: bool):
    assert schema([TableColumn("x_s", pa.float64(), "x", known=known)]).field("x_s").nullable == (not known)


def test_values_become_arrays_where_numpy_can_hold_them():
    assert TableColumn("x_s", pa.float64(), "x").array([1, None]).tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    known = TableColumn("x", pa.int32(), "x", known=True).array([1, 2])
    assert (known.dtype, known.tolist()) == (np.dtype(np.int32), [1, 2])
    assert TableColumn("x", pa.int32(), "x").array([1, None]) == [1, None]

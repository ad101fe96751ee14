"""The logarithmic histogram: exact sums, quantiles within a bin, in constant memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.sim.histogram import RELATIVE_WIDTH, LogHistogram

values = st.lists(st.tuples(st.floats(1e-6, 1e4), st.integers(1, 20)), min_size=1, max_size=60)
runs = st.lists(
    st.tuples(st.floats(1e-3, 1.0), st.floats(0.0, 1e-3), st.integers(1, 3000), st.integers(1, 9)),
    min_size=1,
    max_size=8,
)


def arrays(items: list[tuple[float, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(column, dtype=np.float64) for column in zip(*items, strict=True))


def quantile(table: dict[str, np.ndarray], share: float) -> float:
    """The value of the bin that holds the item of this rank."""
    total = np.cumsum(table["weight"])
    return float(table["value"][np.searchsorted(total, share * total[-1] * (1.0 - 1e-12))])


def assert_like(table: dict[str, np.ndarray], expanded: np.ndarray, width: float) -> None:
    """Count, mean and maximum; and quantiles within a bin's width, above or below."""
    assert table["weight"].sum() == pytest.approx(len(expanded), rel=1e-12)
    assert (table["weight"] * table["value"]).sum() == pytest.approx(expanded.sum(), rel=1e-9)
    assert table["largest"].max() == pytest.approx(expanded.max(), rel=width)
    assert (np.diff(table["value"]) > 0).all()
    expanded = np.sort(expanded)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        true = expanded[max(0, int(np.ceil(share * len(expanded))) - 1)]
        assert quantile(table, share) == pytest.approx(true, rel=1.01 * width)


@given(values)
@settings(max_examples=100, deadline=None)
def test_single_values(items):
    histogram = LogHistogram()
    value, weight = arrays(items)
    histogram.add(value, weight)
    assert_like(histogram.table(), np.repeat(value, weight.astype(int)), RELATIVE_WIDTH)


@given(values)
@settings(max_examples=30, deadline=None)
def test_the_largest_value_is_exact(items):
    histogram = LogHistogram()
    value, weight = arrays(items)
    histogram.add(value, weight)
    assert histogram.table()["largest"].max() == value.max()


@given(runs)
@settings(max_examples=100, deadline=None)
def test_arithmetic_progressions(items):
    """Each as many values as it stands for; the largest of a run, too, is within a bin."""
    histogram = LogHistogram()
    first, slope, counts, weight = arrays(items)
    histogram.add_runs(first, slope, counts.astype(np.int64), weight)
    expanded = [
        np.repeat(f + s * np.arange(int(c)), int(w)) for f, s, c, w in zip(first, slope, counts, weight, strict=True)
    ]
    assert_like(histogram.table(), np.concatenate(expanded), RELATIVE_WIDTH)


def test_a_long_run_that_doubles_its_value():
    """As when a context grows until its attention costs as much as the weights: still within two bins everywhere."""
    histogram = LogHistogram()
    histogram.add_runs(np.array([0.05]), np.array([1e-6]), np.array([50_000]), np.ones(1))
    assert_like(histogram.table(), 0.05 + 1e-6 * np.arange(50_000), 2.0 * RELATIVE_WIDTH)


@given(values, values)
@settings(max_examples=30, deadline=None)
def test_the_order_of_adding_does_not_matter(one, other):
    tables = []
    for batches in ((one, other), (other, one), ([*one, *other],)):
        histogram = LogHistogram()
        for batch in batches:
            histogram.add(*arrays(batch))
        tables.append(histogram.table())
    for table in tables[1:]:
        for name in ("value", "largest", "weight"):
            np.testing.assert_allclose(table[name], tables[0][name], rtol=1e-12)


def test_what_weighs_nothing_is_not_there():
    histogram = LogHistogram()
    histogram.add(np.array([1.0, 5.0]), np.array([0.0, 2.0]))
    histogram.add(np.empty(0), np.empty(0))
    histogram.add_runs(np.array([1.0]), np.array([0.1]), np.array([0]), np.array([4.0]))
    table = histogram.table()
    assert (table["value"].tolist(), table["weight"].tolist()) == ([5.0], [2.0])


def test_values_beyond_its_range_go_into_the_outermost_bins():
    histogram = LogHistogram(1e-3, 1e3)
    histogram.add(np.array([1e-9, 1e9]), np.ones(2))
    assert histogram.table()["value"].tolist() == [1e-9, 1e9]


def test_no_time_at_all_has_a_bin_of_its_own():
    histogram = LogHistogram()
    histogram.add(np.array([0.0, 2.0]), np.array([3.0, 1.0]))
    assert {name: column.tolist() for name, column in histogram.table().items()} == {
        "value": [0.0, 2.0], "largest": [0.0, 2.0], "weight": [3.0, 1.0],
    }  # fmt: skip

"""An hourly series answers with exact means, and only for what it covers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles import HardwareError, HourlyGrid
from afterwatt.hwprofiles.units import S_PER_CALENDAR_YEAR


def series(values: list[float], step_s: float = 3600.0, start_s: float = 0.0, repeat_year: bool = False) -> HourlyGrid:
    times = start_s + step_s * np.arange(len(values), dtype=np.float64)
    return HourlyGrid(times, np.array(values), step_s, "lifecycle", "XX", "a test", None, repeat_year)


def brute_force(grid: HourlyGrid, start_s: float, end_s: float) -> float:
    """Integrate step by step."""
    total = 0.0
    for time_s, value in zip(grid.times, grid.gco2e_per_kwh, strict=True):
        overlap = min(end_s, time_s + grid.step_s) - max(start_s, time_s)
        total += value * max(overlap, 0.0)
    return total / (end_s - start_s)


def test_means_of_a_step_series_in_closed_form() -> None:
    grid = series([100.0, 200.0, 400.0])
    got = grid.mean_over(
        [0.0, 0.0, 1800.0, 3600.0, 5400.0, 0.0, 7200.0], [3600.0, 7200.0, 5400.0, 10800.0, 5400.0, 10800.0, 10800.0]
    )
    assert got == pytest.approx([100.0, 150.0, 150.0, 300.0, 200.0, 700.0 / 3.0, 400.0])


@given(
    st.lists(st.floats(0.0, 1500.0), min_size=2, max_size=30),
    st.sampled_from([300.0, 900.0, 3600.0]),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_means_equal_the_integral_and_lie_within_the_values(
    values: list[float], step_s: float, a: float, b: float
) -> None:
    grid = series(values, step_s, start_s=1.7e9)
    span = grid.end_s - grid.start_s
    start_s, end_s = sorted((grid.start_s + a * span, grid.start_s + b * span))
    if end_s - start_s < 1e-3:
        return
    got = float(grid.mean_over(start_s, end_s))
    assert got == pytest.approx(brute_force(grid, start_s, end_s), rel=1e-6, abs=1e-6)
    assert min(values) - 1e-6 <= got <= max(values) + 1e-6


@given(
    st.lists(st.floats(0.0, 1500.0), min_size=2, max_size=20), st.lists(st.floats(0.0, 1.0), min_size=3, max_size=12)
)
def test_means_add_up_over_any_cut(values: list[float], cuts: list[float]) -> None:
    grid = series(values, start_s=1.6e9)
    edges = np.unique(np.array([0.0, 1.0, *cuts]) * (grid.end_s - grid.start_s) + grid.start_s)
    parts = grid.mean_over(edges[:-1], edges[1:]) * np.diff(edges)
    whole = float(grid.mean_over(edges[0], edges[-1])) * (edges[-1] - edges[0])
    assert parts.sum() == pytest.approx(whole, rel=1e-9, abs=1e-3)


def test_a_time_outside_of_the_series_is_an_error_unless_the_year_repeats() -> None:
    hours = int(S_PER_CALENDAR_YEAR / 3600)
    grid = series([float(hour % 24) for hour in range(hours)], start_s=1.6e9)
    with pytest.raises(HardwareError, match="choose a start within the series or repeat_year"):
        grid.mean_over(grid.end_s - 10.0, grid.end_s + 10.0)
    with pytest.raises(HardwareError, match="the series covers 2020-"):
        grid.mean_over(grid.start_s - 1.0, grid.start_s)
    round_the_year = grid.repeating()
    year = S_PER_CALENDAR_YEAR
    for shift in (-2 * year, 0.0, year, 3 * year):
        got = round_the_year.mean_over(grid.start_s + 5 * 3600 + shift, grid.start_s + 6 * 3600 + shift)
        assert float(got) == pytest.approx(5.0)
    across = round_the_year.mean_over(grid.end_s - 3600.0, grid.end_s + 3600.0)
    assert float(across) == pytest.approx((23.0 + 0.0) / 2)
    many = round_the_year.mean_over(grid.start_s, grid.start_s + 7 * year + 3600.0)
    assert float(many) == pytest.approx((7 * year * 11.5 + 0.0) / (7 * year + 3600.0))


def test_a_time_that_the_series_covers_is_never_moved() -> None:
    """8,784 hours of 2024: 100 g/kWh, but 900 on 31 December; 2025 then repeats the last 365 days."""
    grid = series([100.0] * 8760 + [900.0] * 24).repeating()
    last_day, year = S_PER_CALENDAR_YEAR, S_PER_CALENDAR_YEAR
    assert float(grid.mean_over(0.0, last_day)) == pytest.approx(100.0)
    assert float(grid.mean_over(last_day + 5 * 3600.0, last_day + 6 * 3600.0)) == pytest.approx(900.0)
    assert float(grid.mean_over(grid.end_s, grid.end_s + 3600.0)) == 100.0
    assert float(grid.mean_over(last_day + year, last_day + year + 3600.0)) == 900.0
    assert float(grid.mean_over(grid.end_s, grid.end_s + year)) == pytest.approx((364 * 100.0 + 900.0) / 365)
    assert float(grid.mean_over(-3600.0, 0.0)) == 100.0, "before it, its first 365 days"
    assert float(grid.mean_over(-year, 0.0)) == pytest.approx(100.0)
    assert float(grid.mean_over(grid.end_s, grid.end_s)) == 100.0, "the last step has ended"


@given(
    st.integers(8760, 9000),
    st.lists(st.floats(0.0, 1500.0), min_size=5, max_size=5),
    st.floats(-2.5, 2.5),
    st.floats(0.0, 2.0),
)
def test_a_repeated_series_adds_up_over_any_cut(hours: int, ends: list[float], at: float, length: float) -> None:
    grid = series([*ends, *[300.0] * (hours - 10), *ends[::-1]]).repeating()
    start_s, year = at * S_PER_CALENDAR_YEAR, S_PER_CALENDAR_YEAR
    edges = np.array([start_s, start_s + length * year / 3, start_s + length * year])
    parts = grid.mean_over(edges[:-1], edges[1:]) * np.diff(edges)
    whole = float(grid.mean_over(edges[0], edges[-1])) * (edges[-1] - edges[0])
    assert parts.sum() == pytest.approx(whole, rel=1e-9, abs=1.0)


def test_a_short_series_does_not_repeat() -> None:
    with pytest.raises(HardwareError, match="holds 1 days; repeat_year needs at least 365"):
        series([1.0] * 24).repeating()


@pytest.mark.parametrize(("start", "end", "says"), [(10.0, 5.0, "runs backwards"), (0.0, float("nan"), "not finite")])
def test_intervals_that_are_none(start: float, end: float, says: str) -> None:
    with pytest.raises(HardwareError, match=says):
        series([1.0, 2.0]).mean_over(start, end)

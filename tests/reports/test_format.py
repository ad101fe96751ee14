"""One formatter writes every number; these are its promises."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.reports import format as fmt


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (math.nan, "–"), (0.0, "0"), (1234.0, "1,230"), (12.345, "12.3"), (0.9996, "1.00"),
        (0.00123, "0.00123"), (-5.0, "-5.00"), (1e-9, "1.00e-09"), (999.7, "1,000"),
    ],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    assert fmt.number(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2300.0, "J", "2.30 kJ"), (0.0123, "s", "12.3 ms"), (999.9, "W", "1.00 kW"), (1.5e6, "g", "1.50 t"),
        (1.0e-4, "g", "100 µg"), (0.0, "B", "0 B"), (None, "J", "–"), (3600.0, "s", "3,600 s"), (5e4, "g", "50.0 kg"),
    ],
)  # fmt: skip
def test_quantities_choose_a_readable_prefix(value: float | None, unit: str, text: str) -> None:
    assert fmt.quantity(value, unit) == text


@given(st.floats(1e-8, 1e14))
def test_a_quantity_reads_as_what_it_is(value: float) -> None:
    text, unit = fmt.quantity(value, "J").split(" ")
    factor = {"n": 1e-9, "µ": 1e-6, "m": 1e-3, "J": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[unit[0]]
    assert float(text.replace(",", "")) * factor == pytest.approx(value, rel=5.01e-3)


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (0.0852, "85.2 ms"), (12.3, "12.3 s"), (119.0, "119 s"), (245.0, "4 min 05 s"), (7800.0, "2 h 10 min"),
        (7199.9, "2 h 00 min"), (200_000.0, "2.31 d"), (3.15576e8, "10.0 years"), (None, "–"),
    ],
)  # fmt: skip
def test_times_read_as_a_person_would_say_them(value_s: float | None, text: str) -> None:
    assert fmt.duration(value_s) == text


def test_energy_turns_into_watt_hours_where_a_bill_would() -> None:
    assert fmt.energy(3599.0) == "3.60 kJ"
    assert fmt.energy(3600.0) == "1.00 Wh"
    assert fmt.energy(7.2e6) == "2.00 kWh"


def test_an_interval_is_written_in_one_unit() -> None:
    assert fmt.interval({"p5": 0.0098, "p50": 0.0123, "p95": 0.0151}, "g") == "12.3 (9.80–15.1) mg"
    assert fmt.interval({"p5": 2.0, "p50": 2.0, "p95": 2.0}, "g") == "2.00 g"
    assert fmt.interval({"p5": None, "p50": None, "p95": None}, "g") == "–"
    assert fmt.interval(None, "g") == "–"


@given(st.floats(0.0, 1.0, exclude_max=True))
def test_only_all_is_a_hundred_per_cent(share: float) -> None:
    assert fmt.percent(share) != "100 %"
    assert fmt.percent(1.0) == "100 %"
    assert fmt.percent(3.8e-17) == fmt.percent(0.0) == "0 %" != fmt.percent(1e-6)


def test_tiny_sums_of_money_are_told_per_million() -> None:
    assert fmt.usd(3.78e-7) == "$0.378 per million"
    assert fmt.usd(12.3) == "$12.30"
    assert fmt.usd(1234.5) == "$1,234"
    assert fmt.usd(None) == "–"


def test_settings_keep_no_trailing_zeros() -> None:
    assert [fmt.setting(value) for value in (2.0, 0.25, 1.5, 100.0)] == ["2 s", "250 ms", "1.5 s", "100 s"]


def test_lists_read_as_sentences() -> None:
    assert [fmt.listing(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert [fmt.plural(n, "request") for n in (1, 1612)] == ["1 request", "1,612 requests"]

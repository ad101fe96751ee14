"""Carbon formulas: the SCI's worked example, scaling, and a token's parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles.carbon import (
    TokenCarbon,
    m2cache_gco2e,
    operational_gco2e,
    sci_gco2e,
)
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.units import J_PER_KWH

energies = st.floats(1e-3, 1e4)
grams = st.floats(1e-9, 1e-1)
intensities = st.floats(1.0, 1200.0)
tokens = st.builds(TokenCarbon, energies, st.floats(0.0, 500.0), grams, st.floats(0.1, 1e4))


def test_the_worked_example_of_the_sci_gives_130_g_per_million_tokens():
    per_token = sci_gco2e(operational=6_500_000.0, embodied=0.0, functional_units=50e9)
    assert per_token * 1e6 == pytest.approx(130.0, rel=1e-12)


def test_operational_and_embodied_enter_the_sci_alike():
    assert sci_gco2e(30.0, 12.0, 21.0) == 2.0


def test_what_served_nothing_has_no_sci():
    assert sci_gco2e(30.0, 12.0, 0.0) is None


def test_a_negative_count_is_refused():
    with pytest.raises(HardwareError, match="0 or more"):
        sci_gco2e(1.0, 1.0, -1.0)


def test_a_kilowatt_hour_at_400_is_400_grams():
    assert operational_gco2e(J_PER_KWH, 400.0) == 400.0


@given(energies, intensities)
def test_twice_the_intensity_is_twice_the_operational_carbon(energy_j, intensity):
    assert operational_gco2e(energy_j, 2 * intensity) == 2 * operational_gco2e(energy_j, intensity)


@given(tokens, intensities, st.floats(0.05, 0.95))
def test_a_machine_used_less_emits_more_per_token(token, ci, duty):
    assert token.total(ci, 1.0, duty) >= token.total(ci, 1.0, 1.0)


@given(tokens, intensities)
def test_a_life_twice_as_long_halves_the_embodied_part(token, ci):
    assert token.embodied(2.0) == pytest.approx(token.embodied(1.0) / 2.0)
    assert token.total(ci, 2.0) == pytest.approx(token.operational(ci) + token.embodied(1.0) / 2.0)


@given(st.floats(1e9, 1e12), st.integers(0, 4), st.floats(1.0, 1e5), st.floats(0.1, 20.0))
def test_m2cache_s_grams_follow_runtime_and_memory_alone(dram_bytes, ssds, runtime_s, faster):
    """An hour of 256 GB and a disk is 28 Wh of coal; at equal memory, carbon falls as runtime does."""
    assert m2cache_gco2e(256e9, 1, 3600.0) == pytest.approx(0.028 * 820.0)
    slow, fast = (m2cache_gco2e(dram_bytes, ssds, s) for s in (runtime_s, runtime_s / faster))
    assert slow / fast == pytest.approx(faster)

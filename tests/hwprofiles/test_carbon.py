"""Carbon formulas: the SCI's worked example, scaling, and that a crossing really is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles.carbon import (
    TokenCarbon,
    breakeven_duty,
    breakeven_intensity,
    breakeven_lifetime_scale,
    breakeven_new_lifetime_scale,
    carbon_per_token,
    operational_gco2e,
    sci_gco2e,
)
from hwprofiles.errors import HardwareError
from hwprofiles.units import G_PER_KG, J_PER_KWH

energies = st.floats(1e-3, 1e4)
grams = st.floats(1e-9, 1e-1)
intensities = st.floats(1.0, 1200.0)
tokens = st.builds(TokenCarbon, energies, st.floats(0.0, 500.0), grams, st.floats(0.1, 1e4))


def test_the_worked_example_of_the_sci_gives_130_g_per_million_tokens():
    per_token = sci_gco2e(operational=6_500 * G_PER_KG, embodied=0.0, functional_units=50e9)
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


@given(energies, grams, energies, grams)
def test_at_the_breakeven_intensity_both_choices_emit_the_same(e_old, m_old, e_new, m_new):
    ci = breakeven_intensity(e_old, m_old, e_new, m_new)
    if ci is None:
        never = (m_new - m_old) * (e_old - e_new) <= 0.0
        assert never or e_old == e_new
    else:
        assert e_old * ci + m_old == pytest.approx(e_new * ci + m_new, rel=1e-9)


def test_the_older_hungrier_card_wins_below_the_breakeven_intensity():
    ci = breakeven_intensity(e_old_kwh=2e-5, m_old_gco2e=1e-4, e_new_kwh=1e-5, m_new_gco2e=4e-4)
    assert ci == pytest.approx(30.0)
    for factor, old_wins in ((0.5, True), (2.0, False)):
        old, new = 2e-5 * ci * factor + 1e-4, 1e-5 * ci * factor + 4e-4
        assert (old < new) == old_wins


@pytest.mark.parametrize(
    ("case", "numbers"),
    [
        ("old is better in both", (1e-5, 1e-4, 2e-5, 4e-4)),
        ("old is worse in both", (2e-5, 4e-4, 1e-5, 1e-4)),
        ("same energy, never equal", (1e-5, 1e-4, 1e-5, 4e-4)),
        ("the same thing", (1e-5, 1e-4, 1e-5, 1e-4)),
    ],
)
def test_where_there_is_no_breakeven_intensity_it_is_none(case, numbers):
    assert breakeven_intensity(*numbers) is None, case


@given(tokens, tokens, intensities, st.floats(0.05, 1.0))
def test_at_a_breakeven_lifetime_both_choices_emit_the_same(old, new, ci, duty):
    both = breakeven_lifetime_scale(old, new, ci, duty)
    if both is not None:
        assert old.total(ci, both, duty) == pytest.approx(new.total(ci, both, duty), rel=1e-6)
    only_new = breakeven_new_lifetime_scale(old, new, ci, duty)
    if only_new is not None:
        new_total = new.operational(ci, duty) + new.embodied(only_new, duty)
        assert new_total == pytest.approx(old.total(ci, 1.0, duty), rel=1e-6)


def test_a_new_card_that_burns_more_than_the_old_emits_in_all_never_pays_off_by_lasting():
    old, new = TokenCarbon(1.0, 0.0, 1e-6, 10.0), TokenCarbon(50.0, 0.0, 1e-6, 10.0)
    assert breakeven_new_lifetime_scale(old, new, 500.0) is None


@given(tokens, tokens, intensities)
def test_at_the_breakeven_duty_both_choices_emit_the_same(old, new, ci):
    duty = breakeven_duty(old, new, ci)
    if duty is None:
        at = [old.total(ci, 1.0, share) - new.total(ci, 1.0, share) for share in (1e-9, 1.0)]
        assert at[0] * at[1] >= 0.0 or min(map(abs, at)) < 1e-9 * old.total(ci)
    else:
        assert 0.0 < duty <= 1.0
        assert old.total(ci, 1.0, duty) == pytest.approx(new.total(ci, 1.0, duty), rel=1e-6)


@given(tokens, intensities, st.floats(0.1, 10.0), st.floats(0.01, 1.0))
def test_the_pure_function_of_a_summary_is_the_sum_of_its_parts(token, ci, scale, duty):
    got = carbon_per_token(
        token.run_j_per_token,
        token.embodied_gco2e_per_s,
        token.tokens_per_s,
        ci,
        lifetime_scale=scale,
        duty_frac=duty,
        off_w=token.off_w,
    )
    assert got == pytest.approx(token.operational(ci, duty) + token.embodied(scale, duty))


@given(tokens, intensities, st.floats(0.05, 0.95))
def test_a_machine_used_less_emits_more_per_token(token, ci, duty):
    assert token.total(ci, 1.0, duty) >= token.total(ci, 1.0, 1.0)


@given(tokens, intensities)
def test_a_life_twice_as_long_halves_the_embodied_part(token, ci):
    assert token.embodied(2.0) == pytest.approx(token.embodied(1.0) / 2.0)
    assert token.total(ci, 2.0) == pytest.approx(token.operational(ci) + token.embodied(1.0) / 2.0)

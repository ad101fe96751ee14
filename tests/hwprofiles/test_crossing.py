"""How long two laws keep their order, counted one step after the other."""

from itertools import product

from afterwatt.hwprofiles.roofline import steps_to_crossing


def test_a_sign_is_kept_for_as_many_steps_as_counting_finds():
    for gap, slope, most in product(range(-9, 10), range(-4, 5), range(13)):
        kept = 0
        while kept < most and (gap + slope * kept >= 0) == (gap >= 0):
            kept += 1
        assert steps_to_crossing(gap, slope, most) == kept, (gap, slope, most)

"""A policy that wants to be asked again at a time is asked at that very picosecond, whatever the worker is doing."""

from fractions import Fraction
from math import ulp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.policies.batching import BATCHING
from afterwatt.policies.plans import first_tick
from tests.helpers import PS_PER_S, Outcome, Requests, run_body
from tests.policies.holding import AsksEverySecond, HoldsForCompany, HoldsUntil
from tests.sim.test_strides import assert_same

BODIES = ["m40", "2xm40:pp2"]


@pytest.fixture
def holding(monkeypatch: pytest.MonkeyPatch):
    """Run under a policy that is made for the test."""

    def run(kind: type[HoldsUntil], time_s: float, requests: Requests, hw: str = "m40", **options) -> Outcome:
        monkeypatch.setitem(BATCHING, "holding", lambda: kind(time_s))
        return run_body(requests, hw, "holding", **options)

    return run


def asked(outcome: Outcome) -> list[float]:
    return outcome.body.workers[0].scheduler.batching.asked_s


@given(st.floats(0.0, 1e9), st.sampled_from([10**9, 10**12]))
@settings(deadline=None)
def test_the_first_tick_at_which_a_time_has_come(time_s, per_s):
    tick = first_tick(time_s, per_s)
    assert tick / per_s >= time_s
    assert abs(Fraction(tick, per_s) - Fraction(time_s)) <= Fraction(1, per_s) + 2 * Fraction(ulp(time_s))


@given(st.integers(0, 2**50), st.sampled_from([10**9, 10**12]))
def test_the_time_of_a_tick_has_come_at_that_tick(tick, per_s):
    assert first_tick(tick / per_s, per_s) == tick


@pytest.mark.parametrize("hw", BODIES)
@pytest.mark.parametrize("time_s", [0.1, 1 / 3, 5.0, 0.1 + 0.2, 86_400.3])
def test_held_requests_run_at_that_picosecond_and_finish(holding, hw, time_s):
    outcome = holding(HoldsUntil, time_s, Requests([0, 10**10], [30, 20], [5, 9]), hw)
    expected = first_tick(time_s, PS_PER_S)
    first, second = outcome.tickets
    assert first.scheduled_ps == expected
    assert second.scheduled_ps == expected or hw != "m40"  # another group's plan waits for the first stage
    assert all(ticket.finish_ps is not None for ticket in outcome.tickets)
    assert outcome.result.duration_s == max(ticket.finish_ps for ticket in outcome.tickets) * 1e-12
    assert expected / PS_PER_S in asked(outcome)


def test_an_arrival_before_then_wakes_the_worker_earlier_and_the_alarm_is_forgotten(holding):
    pipelined = holding(HoldsForCompany, 1e4, Requests([0, PS_PER_S], [30, 20], [5, 9]), "2xm40:pp2")
    assert pipelined.tickets[0].scheduled_ps == PS_PER_S
    outcome = holding(HoldsForCompany, 1e4, Requests([0, PS_PER_S], [30, 20], [5, 9]))
    assert [ticket.scheduled_ps for ticket in outcome.tickets] == [PS_PER_S, PS_PER_S]
    assert outcome.result.duration_s == max(ticket.finish_ps for ticket in outcome.tickets) * 1e-12
    assert all(time_s < 1e4 for time_s in asked(outcome))


@pytest.mark.parametrize("offset_ps", [-1, 0, 1, 10**9])
@pytest.mark.parametrize("single_step", [False, True])
def test_a_stride_ends_with_the_iteration_under_way_when_the_time_comes(holding, offset_ps, single_step):
    """The first decodes alone for long; the second waits for a time that falls on, before or after a boundary."""

    class HoldsTheSecond(HoldsUntil):
        def select(self, view):
            if view.decoding == 0 or view.prefilling:
                return super(HoldsUntil, self).select(view)
            return super().select(view)

    requests = Requests([0, 10**10], [30, 20], [300, 4])
    free = holding(HoldsUntil, 0.0, requests.first(1), single_step=True)
    time_ps = free.boundaries_ps[40] + offset_ps
    outcome = holding(HoldsTheSecond, time_ps / PS_PER_S, requests, single_step=single_step)
    boundary = free.boundaries_ps[41 if offset_ps > 0 else 40]
    assert outcome.tickets[1].scheduled_ps == boundary
    other = holding(HoldsTheSecond, time_ps / PS_PER_S, requests, single_step=not single_step)
    assert_same(outcome, other)
    if not single_step:
        assert len(asked(outcome)) < len(asked(other)) / 2  # between two askings it takes strides


@pytest.mark.parametrize("hw", ["m40"])
def test_a_rest_is_one_however_often_the_policy_is_asked_in_it(holding, hw):
    requests = Requests([0], [30], [5])
    often, once = (holding(kind, 10.5, requests, hw, wake=(0.5, 4.0)) for kind in (AsksEverySecond, HoldsUntil))
    assert asked(often)[:11] == [*range(11)]
    assert len(asked(once)) < len(asked(often))
    np.testing.assert_array_equal(often.rows["first_token_s"], once.rows["first_token_s"])
    quick = holding(HoldsUntil, 10.5, requests, hw, wake=(0.0, 4.0))
    waking_ps = round(0.5 * PS_PER_S * -np.expm1(-10.5 / 4.0))
    assert once.tickets[0].first_ps - quick.tickets[0].first_ps == pytest.approx(waking_ps, abs=1)

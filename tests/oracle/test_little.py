"""Little's law as what it is on a sample path: an identity, not a statistic."""

import numpy as np
import pytest

from tests.helpers import PS_PER_S, S_PER_PS, Outcome, between, poisson, run_body

RUNS = [
    ("m40", "chunked", None),
    ("m40", "prefill-first+swap", 200),
    ("3xm40", "decode-first+round-robin", None),
    ("2xm40:tp2", "chunked+budget=200", 300),
    ("4xm40:pp2", "chunked", 250),
]


def integral_of_number_inside(outcome: Outcome) -> int:
    """Sweep over arrivals and departures, in request-picoseconds."""
    steps = [(ticket.arrival_ps, 1) for ticket in outcome.finished] + [(t.finish_ps, -1) for t in outcome.finished]
    inside = area = before = 0
    for time, change in sorted(steps):
        area += inside * (time - before)
        inside, before = inside + change, time
    assert inside == 0
    return area


@pytest.mark.parametrize(("hw", "policy", "kv_blocks"), RUNS)
def test_requests_inside_integrated_are_the_sojourns_added(hw, policy, kv_blocks):
    outcome = run_body(poisson(150, 0.4, between(1, 1200), between(1, 250), 8), hw, policy, kv_blocks)
    area_ps = integral_of_number_inside(outcome)
    assert area_ps == sum(ticket.finish_ps - ticket.arrival_ps for ticket in outcome.finished)
    rows, timeline = outcome.rows, outcome.result.timeline
    np.testing.assert_allclose(rows["e2e_s"].sum(), area_ps * S_PER_PS, rtol=1e-9)
    inside = ((timeline["batch_mean"] + timeline["waiting_mean"]) * timeline["interval_s"]).sum()
    np.testing.assert_allclose(inside, area_ps * S_PER_PS, rtol=1e-9)


@pytest.mark.parametrize("hw", ["m40", "3xm40", "4xm40:pp2"])
def test_it_holds_in_every_interval(hw):
    """Bin by bin and replica by replica, against the requests' own times."""
    outcome = run_body(poisson(60, 0.4, between(1, 1200), between(1, 250), 9), hw, "chunked")
    timeline = outcome.result.timeline
    for row in range(0, len(timeline["start_s"]), 37):
        start = round(timeline["start_s"][row] * PS_PER_S)
        end = start + round(timeline["interval_s"][row] * PS_PER_S)
        inside = sum(
            max(0, min(end, ticket.finish_ps) - max(start, ticket.arrival_ps))
            for ticket in outcome.finished
            if ticket.replica == timeline["replica"][row]
        )
        level = timeline["batch_mean"][row] + timeline["waiting_mean"][row]
        assert level * timeline["interval_s"][row] == pytest.approx(inside * S_PER_PS, rel=1e-6, abs=1e-9)

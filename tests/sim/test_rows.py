"""Rows leave in order of their ids, as early as they can."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.sim.rows import RowOrder, columns_of
from afterwatt.sim.ticket import Ticket


def ticket(number: int) -> Ticket:
    return Ticket(number, 10, 5, (), number * 10**12)


@given(st.permutations(range(12)), st.lists(st.integers(1, 5), min_size=1))
def test_whatever_the_order_of_finishing_rows_leave_in_order_of_ids(order, sizes):
    out: list[list[int]] = []
    rows = RowOrder(lambda columns: out.append(columns["request_id"].tolist()))
    left = list(order)
    for size in sizes * 12:
        batch, left = left[:size], left[size:]
        rows.add([ticket(number) for number in batch])
        seen = set(order[: len(order) - len(left)])
        complete = next(number for number in range(13) if number not in seen)
        assert list(chain(*out)) == list(range(complete))  # all that can leave has left
        assert rows.count == complete
    assert list(chain(*out)) == list(range(12))


def test_at_the_end_nothing_is_held_back():
    out: list[int] = []
    rows = RowOrder(lambda columns: out.extend(columns["request_id"].tolist()))
    rows.add([ticket(3), ticket(0)])
    assert out == [0]
    rows.add([ticket(5)], last=True)
    assert out == [0, 3, 5]


def test_who_arrives_within_the_warm_up_is_left_out_of_the_statistics():
    out: list[bool] = []
    rows = RowOrder(lambda columns: out.extend(columns["in_stats"].tolist()), warmup_ps=2 * 10**12)
    rows.add([ticket(number) for number in range(4)])  # they arrive at 0, 1, 2 and 3 s
    assert out == [False, False, True, True]


def test_rows_wait_for_others_but_for_the_last():
    out = []
    rows = RowOrder(lambda columns: out.append(columns["request_id"].tolist()), at_once=3)
    for numbers in ((0, 1), (3, 2), (4,)):
        rows.add([ticket(number) for number in numbers])
    assert out == [[0, 1, 2, 3]]
    assert rows.count == 5
    rows.add([ticket(5)], last=True)
    assert out == [[0, 1, 2, 3], [4, 5]]


def test_rows_that_nobody_wants_are_counted():
    rows = RowOrder(None)
    rows.add([ticket(1), ticket(0), ticket(3)])
    assert rows.count == 2


def test_columns_say_null_where_nothing_is_known():
    refused, waiting, running, done = (ticket(number) for number in range(4))
    refused.refused = "over_context"
    waiting.replica = running.replica = done.replica = 1
    running.scheduled_ps, running.first_ps, running.energy_j = 10**12, 2 * 10**12, 7.0  # it arrived at 2 s
    done.scheduled_ps, done.first_ps, done.finish_ps = 3 * 10**12, 4 * 10**12, 6 * 10**12
    done.stall_ps = 10**12
    columns = columns_of([refused, waiting, running, done])
    assert list(columns["status"]) == ["rejected", "unfinished", "unfinished", "finished"]
    assert list(columns["reject_reason"]) == ["over_context", None, None, None]
    assert list(columns["replica"]) == [None, 1, 1, 1]
    np.testing.assert_array_equal(columns["scheduled_s"], [np.nan, np.nan, 1.0, 3.0])
    np.testing.assert_array_equal(columns["ttft_s"], [np.nan, np.nan, 0.0, 1.0])
    np.testing.assert_array_equal(columns["e2e_s"], [np.nan, np.nan, np.nan, 3.0])
    np.testing.assert_array_equal(columns["tpot_s"], [np.nan, np.nan, np.nan, 0.5])
    np.testing.assert_array_equal(columns["longest_stall_s"], [np.nan, np.nan, np.nan, 1.0])
    np.testing.assert_array_equal(columns["energy_j"], [np.nan, 0.0, 7.0, 0.0])


def test_one_token_has_no_time_per_further_token():
    single = Ticket(0, 10, 1, (), 0)
    single.scheduled_ps, single.first_ps, single.finish_ps = 0, 5, 5
    columns = columns_of([single])
    assert np.isnan(columns["tpot_s"]).all()
    assert np.isnan(columns["longest_stall_s"]).all()


@given(st.integers(1, 10**12), st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_front_end_delays_what_the_client_sees_and_nothing_else(front_ps, first_ps, more_ps):
    served = ticket(1)
    served.scheduled_ps, served.first_ps, served.finish_ps = 10**12, 10**12 + first_ps, 10**12 + first_ps + more_ps
    plain, behind = columns_of([served]), columns_of([served], front_ps=front_ps)
    for name in ("arrival_s", "scheduled_s"):
        assert behind[name] == plain[name]
    for name in ("first_token_s", "finish_s", "ttft_s", "e2e_s"):
        assert float(behind[name][0]) == pytest.approx(float(plain[name][0]) + front_ps * 1e-12, rel=1e-12)
    assert float(behind["tpot_s"][0]) == pytest.approx(float(plain["tpot_s"][0]), abs=1e-12)

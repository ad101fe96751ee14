"""A validation that has to end in time begins no run that would not."""

import pytest

from afterwatt.fidelity.validation import session


def test_no_run_is_begun_that_may_end_later_than_the_longest_so_far_would(monkeypatch: pytest.MonkeyPatch):
    now_s = [100.0]
    monkeypatch.setattr(session.time, "monotonic", lambda: now_s[0])
    clock = session._Clock(30.0)
    begun = []
    for takes_s in (5.0, 12.0, 3.0, 1.0):
        with clock.room() as room:
            begun.append(room)
            if room:
                now_s[0] += takes_s
    assert begun == [True, True, True, False]  # 20 s have gone by: another 12 s would end after 30


def test_without_a_limit_there_is_always_room():
    with session._Clock(float("inf")).room() as room:
        assert room


def test_no_time_at_all_begins_nothing():
    with session._Clock(0.0).room() as room:
        assert not room

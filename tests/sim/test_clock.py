"""Virtual time: integers, and an order within an instant that does not depend on who was made first."""

import itertools
import random

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st
from simpy.core import EmptySchedule

from afterwatt.sim.clock import Alarm, Kind, VirtualEnvironment, priority

EVENTS = [(Kind.STEP, 1), (Kind.PLAN, 0), (Kind.ARRIVAL, 7), (Kind.ARRIVAL, 2), (Kind.TRANSFER, 0), (Kind.STEP, 0)]


def order_of(events: list[tuple[Kind, int]], shuffle: int | None = None) -> list[tuple[Kind, int]]:
    env = VirtualEnvironment(shuffle)
    seen: list[tuple[Kind, int]] = []
    for kind, number in events:
        alarm = Alarm(env, priority(kind, number), 5)
        alarm.callbacks.append(lambda _, key=(kind, number): seen.append(key))
    env.run()
    return seen


def test_events_of_one_instant_are_handled_by_kind_and_id_however_they_were_made():
    expected = sorted(EVENTS)
    assert [kind for kind, _ in expected] == sorted(kind for kind, _ in EVENTS)
    for events in itertools.islice(itertools.permutations(EVENTS), 0, 720, 7):
        assert order_of(list(events)) == expected
    assert order_of(EVENTS, shuffle=3) == expected


def test_arrivals_come_before_transfers_before_ends_of_steps_before_plans():
    assert Kind.ARRIVAL < Kind.TRANSFER < Kind.STEP < Kind.PLAN
    assert priority(Kind.ARRIVAL, 10**11) < priority(Kind.TRANSFER, 0)


def test_time_is_a_whole_number_of_picoseconds_however_far_it_goes():
    env = VirtualEnvironment()
    Alarm(env, priority(Kind.STEP, 0), 10**20 + 1)
    env.run()
    assert env.now == 10**20 + 1
    assert isinstance(env.now, int)


def test_an_alarm_that_is_brought_forward_happens_once():
    env = VirtualEnvironment()
    times = []
    alarm = Alarm(env, priority(Kind.STEP, 0), 100)
    alarm.callbacks.append(lambda _: times.append(env.now))
    env.schedule(alarm, priority(Kind.STEP, 0), 30)
    env.run()
    assert times == [30]


@pytest.mark.parametrize("by_steps", [False, True])
def test_run_and_step_agree_with_simpy_itself(by_steps):
    """The same processes in SimPy's environment and in ours: one log."""

    def play(env: simpy.Environment, log: list[tuple[float, int]]) -> None:
        draw = random.Random(5)

        def walk(name: int):
            for _ in range(20):
                yield env.timeout(draw.randint(1, 9))
                log.append((env.now, name))

        for name in range(5):
            env.process(walk(name))
        if not by_steps:
            env.run()
            return
        while True:
            try:
                env.step()
            except EmptySchedule:
                return

    ours: list[tuple[float, int]] = []
    theirs: list[tuple[float, int]] = []
    play(VirtualEnvironment(), ours)
    play(simpy.Environment(), theirs)
    assert ours == theirs


def test_time_is_skipped_only_where_nothing_is_due_by_then():
    env = VirtualEnvironment()
    rank = priority(Kind.STEP, 0)
    late = Alarm(env, rank, 100)
    assert not env.skip(100)  # that instant included
    assert env.now == 0
    assert env.skip(99)
    assert env.now == 99
    env.schedule(late, rank, 0)  # brought forward, it leaves an entry at 100 behind
    env.run(until=late)
    assert env.skip(50)
    assert env.now == 149
    env.run()
    assert env.now == 149


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(0, 40))
def test_who_skips_time_where_it_can_sees_what_one_who_waits_sees(delays, horizon):
    def play(skipping: bool) -> tuple[list[tuple[int, int]], int]:
        env, log = VirtualEnvironment(), []

        def walk(name: int):
            for delay in delays[name]:
                if not (skipping and env.skip(delay)):
                    yield Alarm(env, priority(Kind.STEP, name), delay)
                log.append((env.now, name))

        for name in range(len(delays)):
            env.process(walk(name))
        env.run(until=Alarm(env, priority(Kind.ARRIVAL, 0), horizon))
        return log, env.now

    assert play(skipping=True) == play(skipping=False)


def test_an_error_in_a_process_stops_the_run():
    env = VirtualEnvironment()

    def fail():
        yield Alarm(env, priority(Kind.STEP, 0), 1)
        raise ValueError("a fault in a process")

    env.process(fail())
    with pytest.raises(ValueError, match="a fault in a process"):
        env.run()

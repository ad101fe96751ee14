"""Links serve one transfer at a time, the urgent first, and otherwise in the order of asking."""

from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.sim.clock import Alarm, Kind, VirtualEnvironment, priority
from afterwatt.sim.links import Link

RATE, LATENCY_S = 1e9, 1e-5


def play(requests: list[tuple[int, float, int]]) -> tuple[list[tuple[int, int]], Link]:
    """Ask for (time, bytes, urgency); return (time, which) of what is done, in order."""
    env = VirtualEnvironment()
    link = Link(env, 0, RATE, LATENCY_S)
    done: list[tuple[int, int]] = []

    def ask(number: int, at_ps: int, size: float, urgency: int):
        yield Alarm(env, priority(Kind.ARRIVAL, number), at_ps)
        yield link.transfer(size, urgency)
        done.append((env.now, number))

    for number, request in enumerate(requests):
        env.process(ask(number, *request))
    env.run()
    return done, link


def test_a_transfer_takes_its_latency_and_its_bytes():
    done, link = play([(7, 3e6, 0)])
    assert done == [(7 + link.duration_ps(3e6), 0)]
    assert link.duration_ps(3e6) == 3_010_000_000
    assert link.moved_bytes == 3e6


def test_first_come_first_served():
    done, link = play([(0, 1e6, 0), (1, 5e6, 0), (2, 1e3, 0)])
    assert [number for _, number in done] == [0, 1, 2]
    assert done[-1][0] == sum(link.duration_ps(size) for size in (1e6, 5e6, 1e3))


def test_a_demand_overtakes_prefetches_but_not_the_transfer_under_way():
    done, _ = play([(0, 1e6, 1), (1, 1e6, 1), (2, 1e6, 0)])
    assert [number for _, number in done] == [0, 2, 1]


@given(
    st.lists(
        st.tuples(st.integers(0, 10**11), st.integers(0, 10**8).map(float), st.integers(0, 2)), min_size=1, max_size=20
    )
)
@settings(deadline=None)
def test_against_a_queue_by_hand(requests):
    """Whenever the link is free, the most urgent of those that have asked goes next; of equals, who asked first."""
    done, link = play(requests)
    waiting = sorted(range(len(requests)), key=lambda number: (requests[number][0], number))
    expected, now = [], 0
    while waiting:
        asked = [number for number in waiting if requests[number][0] <= now]
        if not asked:
            now = requests[waiting[0]][0]
            continue
        number = min(asked, key=lambda one: (requests[one][2], requests[one][0], one))
        waiting.remove(number)
        now += link.duration_ps(requests[number][1])
        expected.append((now, number))
    assert done == expected
    assert link.moved_bytes == sum(size for _, size, _ in requests)

"""The flow shop against closed forms, against itself in pieces, and against a model of events."""

from collections.abc import Generator, Sequence

import numpy as np
import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.flow import After, FlowShop, Picoseconds, Slots

IN_ORDER = (After(1, 0, 0), After(2, 1, 0))
WORK = st.integers(0, 40)
ORDERS = st.sampled_from(
    (
        (IN_ORDER, ()),
        (IN_ORDER, (Slots(0, 1, 1), Slots(1, 2, 2))),
        (IN_ORDER, (Slots(0, 2, 2),)),
        ((*IN_ORDER, After(1, 2, 2), After(0, 2, 3)), ()),  # asked for while an earlier job is computed
        ((*IN_ORDER, After(0, 2, 3)), (Slots(0, 1, 1), Slots(0, 2, 3))),
        ((After(1, 0, 0), After(1, 2, 1), After(2, 1, 1)), (Slots(0, 1, 2),)),  # the last stage beside the second
    )
)


def by_events(works: Picoseconds, after: Sequence[After], slots: Sequence[Slots]) -> list[list[int]]:
    """Return when jobs end stages, found by processes that wait for events; slots are SimPy's resources."""
    env = simpy.Environment()
    jobs, stages = works.shape
    done = [[env.event() for _ in range(stages)] for _ in range(jobs)]
    ends = [[-1] * stages for _ in range(jobs)]
    rooms = [simpy.Resource(env, room.places) for room in slots]

    def giving_back(room: int, taken: simpy.resources.resource.Request, until: simpy.Event) -> Generator:  # type: ignore[type-arg]
        yield until
        rooms[room].release(taken)

    def finish(job: int, stage: int) -> None:
        ends[job][stage] = int(env.now)
        done[job][stage].succeed()

    def passing(job: int, stage: int) -> Generator:  # type: ignore[type-arg]
        yield env.all_of([done[job][need.earlier] for need in after if need.stage == stage and need.lag == 0])
        finish(job, stage)

    def serving(stage: int) -> Generator:  # type: ignore[type-arg]
        for job in range(jobs):
            work = int(works[job, stage])
            if not work:
                continue
            needs = [n for n in after if n.stage == stage and n.lag <= job]
            yield env.all_of([done[job - need.lag][need.earlier] for need in needs])
            for number, room in enumerate(slots):
                if room.stage == stage:
                    taken = rooms[number].request()
                    yield taken
                    env.process(giving_back(number, taken, done[job][room.until]))
            yield env.timeout(work)
            finish(job, stage)

    for stage in range(stages):
        env.process(serving(stage))
        for job in np.flatnonzero(works[:, stage] == 0).tolist():
            env.process(passing(job, stage))
    env.run()
    return ends


@given(st.lists(st.tuples(WORK, WORK, WORK), min_size=1, max_size=12), ORDERS)
def test_equals_a_model_of_events_to_the_picosecond(
    works: list[tuple[int, int, int]], order: tuple[Sequence[After], Sequence[Slots]]
) -> None:
    table = np.array(works, dtype=np.int64)
    shop = FlowShop(3, *order)
    ends, _ = shop.run(table, shop.begin())
    assert ends.tolist() == by_events(table, *order)


@given(st.lists(st.tuples(WORK, WORK, WORK), max_size=12), ORDERS, st.integers(0, 12), st.integers(0, 100))
def test_in_pieces_and_later_it_is_the_same(
    works: list[tuple[int, int, int]], order: tuple[Sequence[After], Sequence[Slots]], cut: int, at_ps: int
) -> None:
    table = np.array(works, dtype=np.int64).reshape(-1, 3)
    shop = FlowShop(3, *order)
    whole, last = shop.run(table, shop.begin())
    first, between = shop.run(table[:cut], shop.begin())
    second, after = shop.run(table[cut:], between)
    assert np.array_equal(np.concatenate([first, second]), whole)
    assert after == last
    used = table[:, 0] > 0  # who needs nothing of the first stage has been there since the beginning
    later, _ = shop.run(table[used], shop.begin(at_ps))
    sooner, _ = shop.run(table[used], shop.begin())
    assert np.array_equal(later[:, 0], sooner[:, 0] + at_ps)


@given(st.tuples(*[st.integers(1, 50)] * 3), st.integers(1, 30))
def test_with_room_the_slowest_stage_sets_the_pace_and_with_one_slot_all_add_up(
    work: tuple[int, int, int], jobs: int
) -> None:
    works = np.tile(np.array(work, dtype=np.int64), (jobs, 1))
    roomy = FlowShop(3, IN_ORDER)
    ends, _ = roomy.run(works, roomy.begin())
    assert ends[-1, 2] == sum(work) + (jobs - 1) * max(work)
    tight = FlowShop(3, IN_ORDER, (Slots(0, 2, 1),))
    ends, _ = tight.run(works, tight.begin())
    assert ends[-1, 2] == jobs * sum(work)
    double = FlowShop(2, IN_ORDER[:1], (Slots(0, 1, 2),))  # while one is computed, the next one comes
    ends, _ = double.run(works[:, :2], double.begin())
    assert ends[-1, 1] == work[0] + work[1] + (jobs - 1) * max(work[:2])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 12))
def test_what_is_asked_for_ahead_comes_that_much_earlier(load: int, compute: int, ahead: int, jobs: int) -> None:
    """Asked for when the job `ahead` before begins, a load is waited for where that computation does not hide it."""
    shop = FlowShop(2, (After(1, 0, 0), After(0, 1, ahead + 1)))
    works = np.tile(np.array((load, compute), dtype=np.int64), (jobs, 1))
    ends, _ = shop.run(works, shop.begin())
    if load <= compute:
        assert ends[-1, 1] == load + jobs * compute
    assert ends[-1, 1] >= max(load + jobs * compute, compute + jobs * load)


@pytest.mark.parametrize("order", [(After(0, 1, 0),), (After(1, 1, 0),), (After(3, 0, 0),), (After(1, 0, -1),)])
def test_a_job_that_would_wait_for_itself_is_refused(order: Sequence[After]) -> None:
    with pytest.raises(HardwareError, match="let a job wait for what comes before it"):
        FlowShop(2, order)


@pytest.mark.parametrize("room", [Slots(0, 1, 0), Slots(1, 0, 1), Slots(0, 2, 1)])
def test_room_for_nobody_is_refused(room: Slots) -> None:
    with pytest.raises(HardwareError, match="give at least one slot"):
        FlowShop(2, (), (room,))

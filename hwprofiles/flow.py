"""A flow shop: layers pass disk, link and processor in order, token after token, with little room in between.

Each layer of each token is a job; each stage serves one job at a time, in order. All times are whole picoseconds, so
that a run in pieces ends exactly as the run in one.
"""

from collections.abc import Sequence
from heapq import heappush, heappushpop
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.errors import HardwareError

Picoseconds = NDArray[np.int64]


class After(NamedTuple):
    """A job begins `stage` when the job `lag` before it has ended `earlier`; lag 0: when it has ended that itself."""

    stage: int
    earlier: int
    lag: int


class Slots(NamedTuple):
    """A job takes one of `places` slots when it begins `stage`, and gives it back when it has ended `until`."""

    stage: int
    until: int
    places: int


class FlowState(NamedTuple):
    """Where a flow shop stands: what the next jobs have to wait for.

    Attributes:
        free_ps: of each stage, when it has ended the last job that it served.
        ends_ps: of the last jobs, oldest first, when they ended each stage.
        held_ps: of each kind of slots, when those that were taken come free: a heap of as many as there are.
    """

    free_ps: tuple[int, ...]
    ends_ps: tuple[tuple[int, ...], ...]
    held_ps: tuple[tuple[int, ...], ...]


class FlowShop:
    """Stages that jobs pass in order.

    A job without work at a stage passes it by: it waits for what it needs itself (lag 0) and takes neither the stage
    nor a slot.

    Args:
        stages: how many; each serves those that need it in the order of their numbers.
        after: what waits for what.
        slots: room between stages.

    Raises:
        HardwareError: a stage that is not there, a job that waits for itself, or no slot at all.
    """

    def __init__(self, stages: int, after: Sequence[After], slots: Sequence[Slots] = ()) -> None:
        for need in after:
            inside = 0 <= need.stage < stages and 0 <= need.earlier < stages
            if not inside or need.lag < 0 or (need.lag == 0 and need.earlier >= need.stage):
                raise HardwareError(f"{need} is no order of {stages} stages; let a job wait for what comes before it")
        for room in slots:
            if not 0 <= room.stage <= room.until < stages or room.places < 1:
                raise HardwareError(f"{room} is no room between {stages} stages; give at least one slot")
        self.stages, self._slots = stages, tuple(slots)
        self._stages = tuple(
            (
                stage,
                tuple(need.earlier for need in after if need.stage == stage and need.lag == 0),
                tuple((need.earlier, need.lag) for need in after if need.stage == stage and need.lag),
                tuple((number, room.places) for number, room in enumerate(slots) if room.stage == stage),
            )
            for stage in range(stages)
        )
        self._lag = max((need.lag for need in after), default=0)

    def begin(self, at_ps: int = 0) -> FlowState:
        """Return the state in which nothing has been done, and nothing begins before a time."""
        nobody = ((at_ps,) * self.stages,) * self._lag
        return FlowState((at_ps,) * self.stages, nobody, ((),) * len(self._slots))

    def run(self, works_ps: Picoseconds, state: FlowState) -> tuple[Picoseconds, FlowState]:
        """Let jobs pass.

        Args:
            works_ps: what each job takes at each stage, int64[jobs, stages]; 0: it passes the stage by.
            state: where the shop stands.

        Returns:
            (when each job ends each stage, int64[jobs, stages]; where the shop stands then).
        """
        free, ends = list(state.free_ps), list(state.ends_ps)
        held = [list(times) for times in state.held_ps]
        slots, stages = tuple(enumerate(self._slots)), self._stages
        for works in works_ps.tolist():
            ended: list[int] = []
            for stage, own, past, rooms in stages:
                ready = 0
                for earlier in own:
                    if ended[earlier] > ready:
                        ready = ended[earlier]
                if work := works[stage]:
                    if free[stage] > ready:
                        ready = free[stage]
                    for earlier, lag in past:
                        if ends[-lag][earlier] > ready:
                            ready = ends[-lag][earlier]
                    for room, places in rooms:
                        if len(held[room]) == places and held[room][0] > ready:
                            ready = held[room][0]
                    free[stage] = ready = ready + work
                ended.append(ready)
            for room, (stage, until, places) in slots:
                if works[stage]:  # the slots that come free last are what the next job waits for
                    (heappush if len(held[room]) < places else heappushpop)(held[room], ended[until])
            ends.append(tuple(ended))
        done = np.array(ends[self._lag :], dtype=np.int64).reshape(-1, self.stages)
        last = tuple(ends[len(ends) - self._lag :])
        return done, FlowState(tuple(free), last, tuple(tuple(times) for times in held))

"""Virtual time: SimPy with an integer clock and a canonical order within an instant.

Time is counted in picoseconds. SimPy orders the events of one instant by a priority before it falls back on the order
in which they were made; here the priority names what an event is and whose (kind, id), so that the order of creation
never decides anything. Arrivals and transfers come before the ends of steps, and these before new plans: a plan made at
a boundary sees all that happened at that very instant.
"""

import random
from collections.abc import Generator, Iterator
from enum import IntEnum
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.core import EmptySchedule

PS_PER_S = 1_000_000_000_000
S_PER_PS = 1e-12
_IDS = 1 << 40


class Kind(IntEnum):
    """What an event is, in the order in which events of one instant are handled (SimPy's own come first)."""

    ARRIVAL = 2
    TRANSFER = 3
    STEP = 4
    PLAN = 5


def priority(kind: Kind, number: int) -> int:
    """Rank of an event within its instant: by kind, then by whose it is."""
    return kind * _IDS + number


class Alarm(simpy.Event):
    """An event at a set time, in a set place within its instant. It may be brought forward; the first time counts."""

    def __init__(self, env: simpy.Environment, rank: int, delay_ps: int) -> None:
        self.env = env
        self.callbacks: Any = []  # mypyc holds a list to be one for good
        self._value = None
        self._ok = True
        # As Environment.schedule does; one call less in the innermost loop.
        heappush(env._queue, (env._now + delay_ps, rank, next(env._eid), self))  # type: ignore[misc]

    def again(self, rank: int, delay_ps: int, callbacks: list[Any]) -> None:
        """Set it anew, once it has come to pass and unless it was brought forward: cheaper than another one."""
        self.callbacks = callbacks
        env = self.env
        heappush(env._queue, (env._now + delay_ps, rank, next(env._eid), self))  # type: ignore[misc]


class VirtualProcess(simpy.Process):
    """A process all of whose events come to pass: none fails, none is past when waited for, none is interrupted."""

    def _resume(self, event: simpy.Event) -> None:  # noqa: ARG002 - SimPy's signature
        target = next(self._generator, None)
        if target is not None:
            target.callbacks.append(self._resume)


class VirtualEnvironment(simpy.Environment):
    """SimPy's environment, counting picoseconds.

    Args:
        shuffle_ties: a seed that scrambles the order of creation of same-instant, same-rank events; for tests that show
            that nothing depends on it.
    """

    _now: int

    def __init__(self, shuffle_ties: int | None = None) -> None:
        super().__init__(0)
        if shuffle_ties is not None:
            self._eid = _scrambled(shuffle_ties)  # type: ignore[assignment]

    @property
    def now(self) -> int:
        """The current time in picoseconds."""
        return self._now

    def schedule(self, event: simpy.Event, priority: int = 1, delay: int = 0) -> None:  # type: ignore[override]
        """Let an event come to pass after a delay, in picoseconds. SimPy's, as it compiles."""
        heappush(self._queue, (self._now + delay, priority, next(self._eid), event))  # type: ignore[misc]

    def skip(self, delay_ps: int) -> bool:
        """Let time pass at once, for the process that runs now; tell whether that was possible.

        It is where nothing else is due until then, that instant included: all that is to come stands in the queue.
        """
        queue: Any = self._queue
        end = self._now + delay_ps
        while queue and queue[0][0] <= end:
            if queue[0][3].callbacks is not None:
                return False
            first = heappop(queue)  # it was brought forward
            if first[3].callbacks is not None:  # a signal came in between
                heappush(queue, first)
                return False
        self._now = end
        return True

    def process(self, generator: Generator[simpy.Event, None, None]) -> simpy.Process:
        """Begin a process, now."""
        return VirtualProcess(self, generator)

    def step(self) -> None:
        """Handle the next event; what is left of one that was brought forward is skipped."""
        queue: Any = self._queue
        try:
            now, _, _, event = heappop(queue)
        except IndexError:
            raise EmptySchedule from None
        callbacks = event.callbacks
        if callbacks is None:
            return
        self._now = now
        event.callbacks = None
        for callback in callbacks:
            callback(event)
        if not event._ok and not hasattr(event, "_defused"):
            raise event._value

    def run(self, until: simpy.Event | None = None) -> None:  # type: ignore[override]
        """Handle events until there are none left, or until one has happened. `step`, without a call for each."""
        queue: Any = self._queue
        end: Any = simpy.Event(self) if until is None else until
        while queue and end.callbacks is not None:
            now, _, _, event = heappop(queue)
            callbacks = event.callbacks
            if callbacks is None:
                continue
            self._now = now
            event.callbacks = None
            for callback in callbacks:
                callback(event)
            if not event._ok and not hasattr(event, "_defused"):
                raise event._value


def _scrambled(seed: int) -> Iterator[int]:
    draw = random.Random(seed)
    while True:
        yield draw.getrandbits(53)

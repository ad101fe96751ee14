"""Links and disks: one transfer at a time, in order of priority and then of asking."""

from collections.abc import Generator, Sequence
from heapq import heappop, heappush
from itertools import count, groupby

import simpy

from afterwatt.policies.plans import Move
from afterwatt.sim.clock import PS_PER_S, Alarm, Kind, VirtualEnvironment, priority


class Link:
    """A FIFO server that moves bytes: latency, then bytes over rate. Low urgency numbers go first.

    Attributes:
        moved_bytes: so far.
    """

    def __init__(self, env: VirtualEnvironment, number: int, bytes_per_s: float, latency_s: float) -> None:
        self._env = env
        self._rank = priority(Kind.TRANSFER, number)
        self._bytes_per_s = bytes_per_s
        self._latency_s = latency_s
        self._order = count()
        self._queue: list[tuple[int, int, float, simpy.Event]] = []
        self._idle: simpy.Event | None = None
        self.moved_bytes = 0.0
        env.process(self._run())

    def duration_ps(self, size_bytes: float) -> int:
        """Return how long a transfer holds the link."""
        return round((self._latency_s + size_bytes / self._bytes_per_s) * PS_PER_S)

    def transfer(self, size_bytes: float, urgency: int = 0) -> simpy.Event:
        """Ask for a transfer; the event happens when it is done."""
        done = self._env.event()
        done._ok, done._value = True, None
        heappush(self._queue, (urgency, next(self._order), size_bytes, done))
        if self._idle is not None:
            idle, self._idle = self._idle, None
            self._env.schedule(idle, self._rank)
        return done

    def _run(self) -> Generator[simpy.Event, None, None]:
        env = self._env
        while True:
            if not self._queue:
                self._idle = idle = env.event()
                idle._ok, idle._value = True, None
                yield idle
            _, _, size_bytes, done = heappop(self._queue)
            yield Alarm(env, self._rank, self.duration_ps(size_bytes))
            self.moved_bytes += size_bytes
            env.schedule(done, self._rank)


class SwapLink:
    """A worker's way to host memory and back, for KV blocks.

    Args:
        link: that they take.
        block_bytes: of a block, on each of the worker's GPUs.
    """

    def __init__(self, link: Link, block_bytes: float) -> None:
        self._link = link
        self._block_bytes = block_bytes

    def move(self, moves: Sequence[Move]) -> Generator[simpy.Event, None, None]:
        """Move what a plan says, in its order; those that go the same way one after another are one transfer."""
        for _, run in groupby(moves, lambda move: (move.what, move.src, move.dst)):
            yield self._link.transfer(sum([move.units for move in run]) * self._block_bytes)

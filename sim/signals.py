"""Ctrl-C during a run: answered between two events, never amid one."""

import signal
from heapq import heappush
from threading import current_thread, main_thread
from time import monotonic
from types import FrameType
from typing import Any, Final

import simpy

from afterwatt.sim.clock import VirtualEnvironment

PATIENCE_S: Final = 2.0
"""How long a signal may wait for the event under way before the next one ends it: it may have no end."""
FIRST: Final = -1
"""Its rank within an instant: before all that has a kind."""


class SignalsBetweenEvents:
    """A context in which a signal becomes an event of the present, whose coming to pass calls the signal's handler.

    mypyc takes an exception that a handler raises within a product of long integers for a lack of memory, and aborts
    the process. Only what has a handler in Python is deferred, and only in the thread where Python calls it.

    Args:
        env: whose events they are.
    """

    def __init__(self, env: VirtualEnvironment) -> None:
        self._env = env
        self._handlers: dict[int, Any] = {}
        self._held: list[tuple[int, FrameType | None]] = []
        self._since_s = 0.0

    def __enter__(self) -> None:
        if current_thread() is main_thread():
            found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self._handlers = {number: handler for number, handler in found.items() if callable(handler)}
            for number in self._handlers:
                signal.signal(number, self._hold)

    def __exit__(self, *fault: object) -> None:
        for number, handler in reversed(self._handlers.items()):
            signal.signal(number, handler)
        while self._held:  # it came with the last event
            self._answer()

    def _hold(self, number: int, frame: FrameType | None) -> None:
        now_s = monotonic()
        if self._held and now_s - self._since_s > PATIENCE_S:
            self._call(number, frame)
        self._since_s = self._since_s if self._held else now_s
        self._held.append((number, frame))
        event = simpy.Event(self._env)
        event._ok, event._value = True, None
        event.callbacks.append(self._answer)
        heappush(self._env._queue, (self._env._now, FIRST, -len(self._held), event))  # type: ignore[misc]

    def _answer(self, event: simpy.Event | None = None) -> None:  # noqa: ARG002 - as SimPy calls it
        self._call(*self._held.pop(0))

    def _call(self, number: int, frame: FrameType | None) -> None:
        handler = self._handlers[number]
        while isinstance(around := getattr(handler, "__self__", None), SignalsBetweenEvents):  # a run within a run
            handler = around._handlers[number]
        handler(number, frame)

"""Two computations at once: the second on another core, where there is one."""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def both(call: Callable[[A], B], first: A, second: A) -> tuple[B, B]:
    """Return (call(first), call(second)), the latter from a copy of this process where a core is free for it.

    The copy is a fork: it has all that the call needs, in milliseconds. It touches nothing that other threads may hold
    (no stream, no log), sends its answer and is gone; it ends at once when this process does. If it fails, the call is
    made here, which shows how.
    """
    if sys.platform != "linux" or cores() < 2:
        return call(first), call(second)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    copy = context.Process(target=_answer, args=(call, second, sender), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12 on
        copy.start()
    sender.close()
    try:
        near = call(first)
        try:
            return near, receiver.recv()
        except EOFError:
            return near, call(second)
    finally:
        copy.kill()
        copy.join()
        receiver.close()


def _answer(call: Callable[[Any], Any], argument: object, sender: Connection) -> None:
    """Send what a call returns, or nothing where it fails; then end without the interpreter's farewells."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the whole group is interrupted; this process says nothing of it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sender.send(call(argument))
    finally:
        os._exit(0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)

"""Decision log entries of several workers in one order, whenever each of them is written."""

from collections.abc import Callable

from afterwatt.policies.log import DecisionEntry

MOST_HELD = 65_536


def _key(entry: DecisionEntry) -> tuple[float, int]:
    return entry.time_s, entry.worker


class InOrder:
    """Holds entries back until nothing can come before them, and passes them on by time, then by worker.

    A worker that skips ahead writes many iterations when they are done, one that does not writes each: the order of
    writing differs, that of the entries does not.
    """

    def __init__(self, sink: Callable[[DecisionEntry], None]) -> None:
        self._sink = sink
        self._held: list[DecisionEntry] = []

    @property
    def full(self) -> bool:
        """Whether so many are held that some should be passed on."""
        return len(self._held) > MOST_HELD

    def add(self, entry: DecisionEntry) -> None:
        """Take an entry; those of one worker come in order of time."""
        self._held.append(entry)

    def flush(self, before_s: float) -> None:
        """Pass on all from before a time, from which on all further entries are."""
        held = sorted(self._held, key=_key)
        self._held = [entry for entry in held if entry.time_s >= before_s]
        for entry in held[: len(held) - len(self._held)]:
            self._sink(entry)

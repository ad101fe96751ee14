"""Policies that hold requests back for a time, for tests of bodies that are to ask them again."""

from afterwatt.policies.batching import ChunkedPrefill
from afterwatt.policies.views import BatchDecision, BatchView


class HoldsUntil(ChunkedPrefill):
    """Admits nobody before a time, and then as its parent does; those who decode go on meanwhile."""

    def __init__(self, time_s: float) -> None:
        self.time_s = time_s
        self.asked_s: list[float] = []

    def select(self, view: BatchView) -> BatchDecision:
        """Hold back, or chunk."""
        self.asked_s.append(view.now_s)
        if view.now_s >= self.time_s:
            return super().select(view)
        next(view.queue, None)
        return BatchDecision(decode=view.decoding > 0, ask_at_s=self.time_s)


class HoldsForCompany(HoldsUntil):
    """Does not hold two or more."""

    def select(self, view: BatchView) -> BatchDecision:
        """Chunk if two wait; else hold back, or chunk."""
        waiting = list(view.queue)
        again = BatchView(view.now_s, view.decoding, view.prefilling, iter(waiting), view.free_blocks, view.limits)
        return ChunkedPrefill.select(self, again) if len(waiting) > 1 else super().select(again)


class AsksEverySecond(HoldsUntil):
    """Holds until a time, and looks at the clock every second until then."""

    def select(self, view: BatchView) -> BatchDecision:
        """Hold back, or chunk."""
        decision = super().select(view)
        if decision.ask_at_s is not None:
            decision.ask_at_s = min(view.now_s + 1.0, decision.ask_at_s)
        return decision

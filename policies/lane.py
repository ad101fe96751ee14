"""A decode group with what it holds besides its decoding members."""

from collections.abc import Sequence as Items
from typing import Generic

from afterwatt.policies.plans import StepPlan
from afterwatt.policies.sequence import DecodeGroup, S
from afterwatt.policies.sizes import Holding
from afterwatt.policies.views import BatchView, Prefilling
from afterwatt.policies.windows import FOREVER, WindowedGroup


class Lane(Generic[S]):
    """One decode group of a scheduler.

    Attributes:
        group: its number; decode: its decoding members; windowed: the same where layers have a window.
        prefilling: those in the middle of their prompts, oldest first.
        plan: that is in flight, if any; view: what the policy was shown for it (None: nothing, it was not asked).
    """

    __slots__ = ("decode", "group", "plan", "prefilling", "view", "windowed")

    def __init__(self, group: int, block_tokens: int, holding: Holding | None = None) -> None:
        self.group = group
        self.windowed: WindowedGroup[S] | None = None
        if holding is not None and holding.window_tokens:
            self.windowed = WindowedGroup(block_tokens, holding)
        self.decode: DecodeGroup[S] = DecodeGroup(block_tokens) if self.windowed is None else self.windowed
        self.prefilling: list[S] = []
        self.plan: StepPlan[S] | None = None
        self.view: BatchView | None = None

    def seen(self) -> tuple[int, int, int]:
        """Return what layers with a window see of the context of those that decode in the plan in flight.

        Returns:
            (KV entries, their growth per iteration, for how many iterations both hold).
        """
        if self.plan is None or not self.plan.decoding or self.windowed is None:
            return 0, 0, FOREVER
        return self.windowed.seen()

    def begun(self) -> Items[Prefilling]:
        """Return the prompts that are begun, and what is left of each."""
        return [Prefilling(seq.seq_id, seq.fill_tokens - seq.kv_tokens) for seq in self.prefilling]

"""A decode group with what it holds besides its decoding members."""

from collections.abc import Sequence as Items
from typing import Generic

from afterwatt.policies.plans import StepPlan
from afterwatt.policies.sequence import DecodeGroup, S
from afterwatt.policies.views import BatchView, Prefilling


class Lane(Generic[S]):
    """One decode group of a scheduler.

    Attributes:
        group: its number; decode: its decoding members.
        prefilling: those in the middle of their prompts, oldest first.
        plan: that is in flight, if any; view: what the policy was shown for it (None: nothing, it was not asked).
    """

    __slots__ = ("decode", "group", "plan", "prefilling", "view")

    def __init__(self, group: int, block_tokens: int) -> None:
        self.group = group
        self.decode: DecodeGroup[S] = DecodeGroup(block_tokens)
        self.prefilling: list[S] = []
        self.plan: StepPlan[S] | None = None
        self.view: BatchView | None = None

    def begun(self) -> Items[Prefilling]:
        """Return the prompts that are begun, and what is left of each."""
        return [Prefilling(seq.seq_id, seq.fill_tokens - seq.kv_tokens) for seq in self.prefilling]

"""Sequences that decode together, of which the longest is known: what a batch is padded to."""

from collections.abc import Mapping
from heapq import heappop, heappush

from afterwatt.policies.sequence import FOREVER, DecodeGroup, S


class PaddedGroup(DecodeGroup[S]):
    """A decode group that also knows its longest member."""

    __slots__ = ("_offsets",)

    def __init__(self, block_tokens: int, most_tokens: int = 1) -> None:
        """Start empty; see `DecodeGroup`."""
        super().__init__(block_tokens, most_tokens)
        self._offsets: list[tuple[int, int]] = []  # heap of (-(KV tokens - step), id), with members of before

    def seen(self) -> tuple[int, int, int]:
        """Return (KV entries of the longest member in the next iteration, their growth, for how many iterations)."""
        offsets, members = self._offsets, self.members
        while True:
            offset, seq_id = offsets[0]
            member = members.get(seq_id)
            if member is not None and member.kv_offset == -offset:
                return self.step + 1 - offset, 1, FOREVER
            heappop(offsets)

    def join(self, seq: S) -> None:
        """Let a sequence with complete KV decode what is left of its output."""
        DecodeGroup.join(self, seq)
        heappush(self._offsets, (-seq.kv_offset, seq.seq_id))

    def run_ahead(self, extra: Mapping[int, int]) -> None:
        """Let members yield more tokens than the others; see `DecodeGroup.run_ahead`."""
        DecodeGroup.run_ahead(self, extra)
        for seq_id in extra:
            heappush(self._offsets, (-self.members[seq_id].kv_offset, seq_id))

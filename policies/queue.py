"""Who waits for memory, and what a batching policy has been shown of them."""

from collections import deque
from collections.abc import Iterator
from typing import Generic

from afterwatt.policies.kv import KvPool
from afterwatt.policies.sequence import S
from afterwatt.policies.views import Candidate, candidate_of

NOBODY: tuple[Candidate, ...] = ()


class WaitingLine(Generic[S]):
    """The waiting sequences of one worker, in queue order, and how far the policy has looked.

    Attributes:
        waiting: the sequences; the preempted rejoin at its head.
        looked: id -> (whom, cached prefix blocks found, own KV blocks found) of those that the last view has shown.
        evictable_blocks: of the prefixes found, KV blocks that nobody uses: evicting one would falsify the view.
        exhausted: whether the policy has seen the end of the queue, so that whoever arrives could matter to it.
    """

    __slots__ = ("_pool", "evictable_blocks", "exhausted", "looked", "waiting")

    def __init__(self, pool: KvPool) -> None:
        self.waiting: deque[S] = deque()
        self.looked: dict[int, tuple[S, int, int]] = {}
        self.evictable_blocks = 0
        self.exhausted = False
        self._pool = pool

    def show(self, growth: int, closed: bool) -> Iterator[Candidate]:
        """Return the waiting sequences in order, one by one as somebody looks at them.

        Args:
            growth: KV blocks that decoding takes first.
            closed: nobody is admitted, as others come first.
        """
        self.looked.clear()
        self.evictable_blocks = 0
        if closed or not self.waiting:
            self.exhausted = not closed  # a policy that did look would find the end
            return iter(NOBODY)
        self.exhausted = False
        return self._look(growth)

    def _look(self, growth: int) -> Iterator[Candidate]:
        pool, looked = self._pool, self.looked
        for seq in self.waiting:
            matched = used_blocks = own = 0
            tokens = seq.fill_tokens
            if seq.prefix and pool.unit_tokens:
                matched, used_blocks = pool.match(seq.prefix, self._sharable(seq, pool.unit_tokens))
                self.evictable_blocks += matched * pool.unit_blocks - used_blocks
                tokens -= matched * pool.unit_tokens
            if seq.preemptions:
                own = self._own(seq, matched, growth)
                tokens -= own * pool.block_tokens
            looked[seq.seq_id] = seq, matched, own
            yield candidate_of((seq.seq_id, tokens, pool.blocks_for(seq.fill_tokens) - used_blocks))
        self.exhausted = True

    def still_shown(self, taken: set[int], growth: int) -> list[tuple[int, int, int, int]]:
        """Return what a policy would see, at a later boundary of a plan, of those it has looked at.

        Args:
            taken: ids that the plan has admitted.
            growth: KV blocks that decoding has taken since, and takes next.

        Returns:
            (id, tokens to fill, cached prefix blocks, own KV blocks found) of each of the others.
        """
        return [
            (seq.seq_id, seq.fill_tokens, matched, self._own(seq, matched, growth))
            for seq, matched, _ in self.looked.values()
            if seq.seq_id not in taken
        ]

    def take_out(self, seq_id: int) -> tuple[S, int, int] | None:
        """Take a sequence that was shown out of the queue, and hold what it finds in memory.

        Returns:
            (whom, prefix blocks that it now shares, KV blocks that are its own again); None if it was not shown.
        """
        found = self.looked.get(seq_id)
        if found is None:
            return None
        seq, matched, own = found
        waiting, pool = self.waiting, self._pool
        if waiting[0] is seq:
            waiting.popleft()
        else:
            waiting.remove(seq)
        if matched:
            idle = pool.evictable_blocks
            pool.hold(seq.prefix[:matched], seq.seq_id)
            self.evictable_blocks -= idle - pool.evictable_blocks  # those that others look at are left
            seq.held = matched
        if seq.preemptions:
            pool.reclaim(seq_id, own)
        return found

    def prefix_tokens(self, seq: S) -> int:
        """Return the prompt tokens whose KV is cached; asking changes nothing."""
        unit = self._pool.unit_tokens
        return 0 if unit is None else unit * self._pool.cached_units(seq.prefix, self._sharable(seq, unit))

    def _own(self, seq: S, matched: int, growth: int) -> int:
        """Return how many blocks a sequence finds again that it had before it was preempted, behind a matched prefix.

        Growing (by so many blocks) comes first. The block of its last token is never one of them: that token is new.
        """
        return self._pool.left(seq.seq_id, matched * self._pool.unit_blocks, growth) if seq.preemptions else 0

    @staticmethod
    def _sharable(seq: S, unit: int) -> int:
        """Return how many prefix blocks of a sequence may be found: whole ones, and one token is left to compute."""
        return min(seq.prompt_tokens, seq.fill_tokens - 1) // unit

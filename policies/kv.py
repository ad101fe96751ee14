"""Paged KV memory: blocks by count, and shared prefixes by the hash of what they hold.

Only numbers are kept, never addresses: which physical block holds what is the business of a body with memory, which
gives the scheduler a pool of its own that also does what it is told here with real blocks. Hence the owners. A
*prefix block* is the unit in which a trace names shared content (512 tokens in Mooncake's, 16 in Qwen's) and is made of
whole KV blocks. A prefix block nobody uses stays until its room is needed; the least recently used goes first.

Free blocks form a queue, as in vLLM: taken at its head, given back at its tail, a sequence's last block first. What a
preempted sequence had computed is therefore still there until the head has reached it. Of the queue only places are
known: everything ever given back lies before `given_blocks`, and the `free_blocks` before that are still free.
"""

from collections import OrderedDict
from collections.abc import Sequence

from mypy_extensions import mypyc_attr

from afterwatt.policies.errors import PolicyError
from afterwatt.policies.sizes import Holding


@mypyc_attr(allow_interpreted_subclasses=True)
class KvPool:
    """The KV blocks of one worker.

    Attributes:
        total_blocks: capacity.
        block_tokens: tokens per KV block.
        unit_tokens: tokens per prefix block (None: nothing is shared).
        unit_blocks: KV blocks per prefix block.
        free_blocks: blocks that nobody holds, cached prefixes apart.
        given_blocks: place of the free queue's tail: blocks ever put there, less those taken out of its middle.
        evictable_blocks: blocks of cached prefixes that no sequence uses.
    """

    __slots__ = (
        "_cached",
        "_holding",
        "_idle",
        "_left",
        "block_tokens",
        "evictable_blocks",
        "free_blocks",
        "given_blocks",
        "total_blocks",
        "unit_blocks",
        "unit_tokens",
    )

    def __init__(
        self, total_blocks: int, block_tokens: int, unit_tokens: int | None = None, holding: Holding | None = None
    ) -> None:
        if unit_tokens is not None and unit_tokens % block_tokens:
            raise PolicyError(
                f"prefix blocks of {unit_tokens} tokens are not a whole number of KV blocks of {block_tokens} tokens; "
                "choose a KV block size that divides it"
            )
        self.total_blocks = total_blocks
        self.block_tokens = block_tokens
        self.unit_tokens = unit_tokens
        self._holding = holding
        groups = 1 if holding is None else holding.full  # what a window hides is not shared
        self.unit_blocks = 0 if unit_tokens is None else unit_tokens // block_tokens * groups
        self.free_blocks = self.given_blocks = total_blocks
        self.evictable_blocks = 0
        self._left: dict[
            int, tuple[int, int, int]
        ] = {}  # who was preempted -> (first block, place of the last, blocks)
        self._cached: dict[int, int] = {}  # prefix block -> sequences that use it
        self._idle: OrderedDict[int, None] = OrderedDict()  # those with none, least recently used first

    @property
    def available_blocks(self) -> int:
        """Blocks that can be had, cached prefixes given up."""
        return self.free_blocks + self.evictable_blocks

    @property
    def used_blocks(self) -> int:
        """Blocks that sequences hold."""
        return self.total_blocks - self.free_blocks - self.evictable_blocks

    def blocks_for(self, tokens: int) -> int:
        """Return how many blocks a sequence of this many tokens holds."""
        blocks = -(-tokens // self.block_tokens)
        return blocks if self._holding is None else self._holding.kv_blocks(blocks)

    def match(self, prefix: Sequence[int], most: int) -> tuple[int, int]:
        """Look up a prompt: (leading prefix blocks that are cached, at most `most`; KV blocks of those in use).

        What matches counts as recently used, its beginning most of all: of one prefix the end goes first, however often
        it is looked at. Looking twice in a row is the same as looking once.
        """
        cached, idle = self._cached, self._idle
        matched = 0
        unused: list[int] = []
        for key in prefix[:most]:
            users = cached.get(key)
            if users is None:
                break
            matched += 1
            if not users:
                unused.append(key)
        for key in reversed(unused):
            idle.move_to_end(key)
        return matched, (matched - len(unused)) * self.unit_blocks

    def cached_units(self, prefix: Sequence[int], most: int) -> int:
        """Return how many leading prefix blocks are cached, at most `most`; asking changes nothing."""
        cached = self._cached
        return next((count for count, key in enumerate(prefix[:most]) if key not in cached), min(most, len(prefix)))

    def hold(self, keys: Sequence[int], owner: int) -> None:  # noqa: ARG002 - for pools with addresses
        """Use cached prefix blocks; every key must be cached."""
        cached, idle = self._cached, self._idle
        for key in keys:
            users = cached[key]
            if not users:
                del idle[key]
                self.evictable_blocks -= self.unit_blocks
            cached[key] = users + 1

    def take(self, blocks: int, owner: int | None = None) -> None:  # noqa: ARG002 - for pools with addresses
        """Take blocks for a sequence of its own, giving up cached prefixes as needed.

        Args:
            blocks: how many, those reclaimed before included.
            owner: the sequence; None for what decoding sequences together have grown by in iterations now done.

        Raises:
            PolicyError: more than is available: the scheduler that asks has not counted.
        """
        free = self.free_blocks
        if blocks > free:
            if blocks > free + self.evictable_blocks:
                raise PolicyError(
                    f"{blocks} KV blocks asked for, {self.available_blocks} available; plan() must preempt first"
                )
            while blocks > free:
                self.evict(next(iter(self._idle)))
                free += self.unit_blocks
                self.given_blocks += self.unit_blocks
                self.evictable_blocks -= self.unit_blocks
        self.free_blocks = free - blocks

    def evict(self, key: int) -> None:
        """Forget a cached prefix block that nobody uses; called by `take`, which counts its blocks."""
        del self._idle[key], self._cached[key]

    def publish(self, keys: Sequence[int], owner: int) -> int:  # noqa: ARG002 - for pools with addresses
        """Make a sequence's own, now computed prefix blocks shareable; it goes on using them.

        Stops at the first one that another sequence has published meanwhile: what follows stays private.

        Returns:
            How many of the keys were published.
        """
        cached = self._cached
        for count, key in enumerate(keys):
            if key in cached:
                return count
            cached[key] = 1
        return len(keys)

    def release(self, keys: Sequence[int], private_blocks: int, owner: int) -> None:  # noqa: ARG002 - as above
        """Give back what a sequence held; its last prefix block becomes the first to be evicted."""
        cached, idle = self._cached, self._idle
        for key in reversed(keys):
            users = cached[key] - 1
            cached[key] = users
            if not users:
                idle[key] = None
                self.evictable_blocks += self.unit_blocks
        self.free_blocks += private_blocks
        self.given_blocks += private_blocks

    def give_back(self, blocks: int, owner: int) -> None:  # noqa: ARG002 - as above
        """Take back what a decoding sequence was given for tokens that it has not kept: its last blocks."""
        self.free_blocks += blocks
        self.given_blocks += blocks

    def leave(self, owner: int, first: int, blocks: int) -> None:
        """Note what a preempted sequence has just given back last: computed blocks of its own, from its `first` on."""
        self._left[owner] = first, self.given_blocks - blocks, blocks

    def left(self, owner: int, first: int, ahead: int) -> int:
        """Return how many of those blocks are still there, from the same `first` on, once `ahead` more are taken."""
        note = self._left.get(owner)
        if note is None or note[0] != first:
            return 0
        _, place, blocks = note
        gone = self.given_blocks - self.free_blocks + ahead - place
        return blocks if gone <= 0 else max(0, blocks - gone)

    def reclaim(self, owner: int, blocks: int) -> None:
        """Find that many of those blocks again, which come out of the middle of the queue; the rest is forgotten.

        They are counted as taken by the `take` that follows, for all blocks of the sequence.
        """
        note = self._left.pop(owner, None)
        if note is None or not blocks:
            return
        self.given_blocks -= blocks
        for other, (first, place, count) in self._left.items():
            if place > note[1]:
                self._left[other] = first, place - blocks, count

    def check_integrity(self, private_blocks: int) -> None:
        """Assert that every block is accounted for, given those that sequences hold privately."""
        shared = sum(1 for users in self._cached.values() if users) * self.unit_blocks
        assert self.evictable_blocks == len(self._idle) * self.unit_blocks
        assert all(self._cached[key] == 0 for key in self._idle)
        assert sum(1 for users in self._cached.values() if not users) == len(self._idle)
        assert self.free_blocks >= 0
        assert sum(self.left(owner, first, 0) for owner, (first, _, _) in self._left.items()) <= self.free_blocks
        assert self.free_blocks + self.evictable_blocks + shared + private_blocks == self.total_blocks

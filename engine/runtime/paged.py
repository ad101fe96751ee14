"""KV blocks by address: the scheduler's pool, whose every move is also made with real blocks.

The scheduler counts, and this pool does what it counts, call by call: so that a prefix found again, or what a preempted
sequence finds left of its own, really is in memory. Free blocks form the queue that `policies.kv` describes: taken at
its head, given back at its tail, a sequence's last block first.
"""

from collections import deque
from collections.abc import Sequence

from afterwatt.policies.errors import PolicyError
from afterwatt.policies.kv import KvPool


class PagedPool(KvPool):
    """A KV pool that knows which block is whose.

    Attributes:
        tables: sequence -> its physical blocks in order, those shared with others first.
        released: sequence -> the blocks it had when it last gave them back; the body empties it.
    """

    __slots__ = ("_early", "_gone", "_held", "_queue", "_reclaimed", "_units", "released", "tables")

    def __init__(self, total_blocks: int, block_tokens: int, unit_tokens: int | None = None) -> None:
        super().__init__(total_blocks, block_tokens, unit_tokens)
        self.tables: dict[int, list[int]] = {}
        self.released: dict[int, list[int]] = {}
        self._queue = deque(range(total_blocks))
        self._units: dict[int, list[int]] = {}  # cached prefix block -> its KV blocks
        self._held: dict[int, int] = {}  # sequence -> prefix blocks it shares
        self._gone: dict[int, list[int]] = {}  # who was preempted -> the computed blocks given back, in order
        self._reclaimed: dict[int, int] = {}  # sequence -> blocks found again and not yet counted by `take`
        self._early: set[int] = set()  # prefix blocks that growth has used up before the count gives them up

    def hold(self, keys: Sequence[int], owner: int) -> None:
        """Use cached prefix blocks: they come first in the sequence's table."""
        super().hold(keys, owner)
        table = self.tables.setdefault(owner, [])
        for key in keys:
            table += self._units[key]
        self._held[owner] = self._held.get(owner, 0) + len(keys)

    def take(self, blocks: int, owner: int | None = None) -> None:
        """Take blocks for a sequence; growth (no owner) is counted only: `grow` has taken its blocks before."""
        super().take(blocks, owner)
        if owner is not None:
            table = self.tables.setdefault(owner, [])
            for _ in range(blocks - self._reclaimed.pop(owner, 0)):
                table.append(self._queue.popleft())

    def grow(self, owner: int) -> None:
        """Give a decoding sequence the block that its next token needs, before the iteration that fills it.

        Raises:
            PolicyError: there is none: the iteration was not planned.
        """
        if not self._queue:
            key = next((key for key in self._idle if key not in self._early), None)
            if key is None:
                raise PolicyError(f"no KV block is left for sequence {owner}; only planned iterations may grow")
            self._queue.extend(self._units.pop(key))
            self._early.add(key)
        self.tables[owner].append(self._queue.popleft())

    def evict(self, key: int) -> None:
        """Forget a cached prefix block, whose KV blocks are free from now on."""
        super().evict(key)
        if key in self._early:
            self._early.remove(key)
        else:
            self._queue.extend(self._units.pop(key))

    def publish(self, keys: Sequence[int], owner: int) -> int:
        """Make a sequence's computed prefix blocks shareable."""
        count = super().publish(keys, owner)
        first, unit = self._held.get(owner, 0), self.unit_blocks
        for place, key in enumerate(keys[:count], first):
            self._units[key] = self.tables[owner][place * unit : (place + 1) * unit]
        self._held[owner] = first + count
        return count

    def release(self, keys: Sequence[int], private_blocks: int, owner: int) -> None:
        """Give back what a sequence held: its own blocks to the queue, last one first."""
        super().release(keys, private_blocks, owner)
        table = self.tables.pop(owner)
        shared = len(keys) * self.unit_blocks
        if len(table) != shared + private_blocks or self._held.pop(owner, 0) != len(keys):
            raise PolicyError(
                f"sequence {owner} has {len(table)} KV blocks, {shared + private_blocks} are counted; every growth is "
                "to be made before its iteration"
            )
        self._queue.extend(reversed(table[shared:]))
        self.released[owner] = table

    def give_back(self, blocks: int, owner: int) -> None:
        """Put a decoding sequence's last blocks back into the queue."""
        super().give_back(blocks, owner)
        table = self.tables[owner]
        for _ in range(blocks):
            self._queue.append(table.pop())

    def leave(self, owner: int, first: int, blocks: int) -> None:
        """Remember where a preempted sequence's computed blocks lie."""
        super().leave(owner, first, blocks)
        self._gone[owner] = self.released[owner][first : first + blocks]

    def reclaim(self, owner: int, blocks: int) -> None:
        """Find so many of a sequence's own blocks again, out of the middle of the queue."""
        super().reclaim(owner, blocks)
        found = self._gone.pop(owner, [])[:blocks]
        for block in found:
            self._queue.remove(block)
        self.tables.setdefault(owner, []).extend(found)
        self._reclaimed[owner] = len(found)

    def check_integrity(self, private_blocks: int) -> None:
        """Assert that counts and blocks agree, and that no block is in two places."""
        super().check_integrity(private_blocks)
        assert not self._early
        assert len(self._queue) == self.free_blocks
        shared = {owner: held * self.unit_blocks for owner, held in self._held.items()}
        private = [block for owner, table in self.tables.items() for block in table[shared.get(owner, 0) :]]
        cached = [block for unit in self._units.values() for block in unit]
        assert sorted([*self._queue, *private, *cached]) == list(range(self.total_blocks))

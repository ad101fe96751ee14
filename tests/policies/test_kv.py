"""The KV pool: blocks are counted right whatever happens, and prefixes are found, shared and given up in order."""

from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from afterwatt.policies.errors import PolicyError
from afterwatt.policies.kv import KvPool

BLOCK, UNIT = 4, 8
PER_UNIT = UNIT // BLOCK


def pool_of(blocks: int = 20) -> KvPool:
    return KvPool(blocks, BLOCK, UNIT)


def cache(pool: KvPool, *keys: int) -> None:
    """Compute prefix blocks, share them and go."""
    pool.take(len(keys) * PER_UNIT)
    assert pool.publish(keys, 0) == len(keys)
    pool.release(keys, 0, 0)


def test_blocks_for_tokens_round_up():
    pool = pool_of()
    assert [pool.blocks_for(tokens) for tokens in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]


def test_a_unit_that_is_not_made_of_whole_blocks_is_refused():
    with pytest.raises(PolicyError, match="12 tokens are not a whole number of KV blocks of 8 tokens; choose"):
        KvPool(10, 8, 12)


def test_taking_more_than_there_is_names_both_numbers():
    with pytest.raises(PolicyError, match="21 KV blocks asked for, 20 available"):
        pool_of().take(21)


def test_a_match_ends_at_the_first_block_that_is_missing():
    pool = pool_of()
    cache(pool, 1, 2, 3)
    assert pool.match((1, 2, 3), 3) == (3, 0)
    assert pool.match((1, 2, 9, 3), 4) == (2, 0)
    assert pool.match((9, 1, 2), 3) == (0, 0)
    assert pool.match((1, 2, 3), 2) == (2, 0)  # at most so many
    assert pool.match((), 3) == (0, 0)


def test_a_match_says_which_of_its_blocks_cost_nothing():
    """Those in use need no room; idle ones are taken out of the evictable ones."""
    pool = pool_of()
    cache(pool, 1, 2, 3)
    pool.hold((1, 2), 0)
    assert pool.match((1, 2, 3), 3) == (3, 2 * PER_UNIT)
    assert (pool.evictable_blocks, pool.used_blocks, pool.free_blocks) == (PER_UNIT, 2 * PER_UNIT, 14)


def test_a_shared_block_is_idle_only_when_its_last_user_has_gone():
    pool = pool_of()
    cache(pool, 1)
    pool.hold((1,), 0)
    pool.hold((1,), 0)
    pool.release((1,), 0, 0)
    assert pool.evictable_blocks == 0
    pool.release((1,), 0, 0)
    assert pool.evictable_blocks == PER_UNIT


def test_the_least_recently_used_goes_first():
    pool = pool_of(6)
    cache(pool, 1)
    cache(pool, 2)
    cache(pool, 3)
    pool.match((1,), 1)  # looked at: recently used
    pool.take(PER_UNIT)
    assert [pool.match((key,), 1)[0] for key in (1, 2, 3)] == [1, 0, 1]


def test_of_one_prefix_the_end_goes_first():
    """Its beginning alone is still worth something, its end alone is not."""
    pool = pool_of(6)
    cache(pool, 1, 2, 3)
    pool.take(1)
    assert pool.match((1, 2, 3), 3) == (2, 0)
    assert (pool.free_blocks, pool.evictable_blocks) == (PER_UNIT - 1, 2 * PER_UNIT)


def test_the_end_goes_first_even_if_the_whole_prefix_is_looked_at_again_and_again():
    """As a request does that waits for room: what is left of its prefix must stay of use."""
    pool = pool_of(8)
    cache(pool, 1, 2, 3, 4)
    for left in (4, 3, 2, 1):
        assert pool.match((1, 2, 3, 4), 4) == (left, 0)
        pool.take(PER_UNIT)


def test_a_block_in_use_is_never_given_up():
    pool = pool_of(6)
    cache(pool, 1, 2, 3)
    pool.hold((1,), 0)
    assert pool.available_blocks == 4
    pool.take(4)
    assert pool.match((1, 2), 2) == (1, PER_UNIT)
    with pytest.raises(PolicyError):
        pool.take(1)


def test_publishing_stops_at_what_another_has_published_meanwhile():
    pool = pool_of()
    pool.take(2 * 3 * PER_UNIT)
    assert pool.publish((1, 2, 3), 0) == 3
    assert pool.publish((7, 2, 8), 0) == 1  # what follows stays the sequence's own
    assert pool.match((8,), 1) == (0, 0)


class PoolAgainstModel(RuleBasedStateMachine):
    """Sequences come and go; a model that lists every block says what the counts must be."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = KvPool(24, BLOCK, UNIT)
        self.users: dict[int, int] = {}
        self.idle: OrderedDict[int, None] = OrderedDict()
        self.held: list[tuple[list[int], int]] = []  # (shared keys, private blocks) of each sequence

    def free(self) -> int:
        private = sum(blocks for _, blocks in self.held)
        return 24 - private - len(self.users) * PER_UNIT

    @rule(path=st.lists(st.integers(0, 2), max_size=4), extra=st.integers(0, 5), share=st.booleans())
    def come(self, path: list[int], extra: int, share: bool) -> None:
        """Prefixes are the paths of a tree, so that many begin alike."""
        keys = [hash_of(path[: depth + 1]) for depth in range(len(path))]
        expected = 0
        while expected < len(keys) and keys[expected] in self.users:
            expected += 1
        in_use = sum(PER_UNIT for key in keys[:expected] if self.users[key])
        assert self.pool.match(keys, len(keys)) == (expected, in_use)
        for key in reversed(keys[:expected]):
            if not self.users[key]:
                self.idle.move_to_end(key)
        private = len(keys) * PER_UNIT - expected * PER_UNIT + extra
        idle = expected * PER_UNIT - in_use
        if private + idle > self.pool.available_blocks:
            return
        self.pool.hold(keys[:expected], 0)
        for key in keys[:expected]:
            self.idle.pop(key, None)
            self.users[key] += 1
        self.evict(private)
        self.pool.take(private)
        shared = keys[:expected]
        if share:
            count = self.pool.publish(keys[expected:], 0)
            assert count == len(keys) - expected or keys[expected + count] in self.users
            for key in keys[expected : expected + count]:
                self.users[key] = 1
            shared = keys[: expected + count]
            private -= count * PER_UNIT
        self.held.append((shared, private))

    def evict(self, blocks: int) -> None:
        while blocks > self.free():
            key, _ = self.idle.popitem(last=False)
            del self.users[key]

    @rule(which=st.integers(0, 99))
    def go(self, which: int) -> None:
        if not self.held:
            return
        keys, private = self.held.pop(which % len(self.held))
        self.pool.release(keys, private, 0)
        for key in reversed(keys):
            self.users[key] -= 1
            if not self.users[key]:
                self.idle[key] = None

    @invariant()
    def counts_agree(self) -> None:
        self.pool.check_integrity(sum(blocks for _, blocks in self.held))
        assert self.pool.free_blocks == self.free()
        assert self.pool.evictable_blocks == len(self.idle) * PER_UNIT
        assert self.pool.used_blocks == 24 - self.free() - len(self.idle) * PER_UNIT


def hash_of(path: list[int]) -> int:
    return int("1" + "".join(map(str, path)))


TestPoolAgainstModel = PoolAgainstModel.TestCase
TestPoolAgainstModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


# -- what is left of the preempted -----------------------------------------------------------------------------------


class QueueAgainstModel(RuleBasedStateMachine):
    """Owners take, give back and find again; a model keeps the queue itself, block by block."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = KvPool(24, BLOCK)
        self.queue: list[tuple[int, int] | None] = [
            None
        ] * 24  # what a free block still holds: (owner, the how manieth)
        self.held: dict[int, int] = {}
        self.preempted: dict[int, int] = {}  # owner -> blocks that it wants again
        self.next_owner = 0

    def taken(self, owner: int, blocks: int) -> None:
        self.pool.take(blocks)
        del self.queue[:blocks]
        self.held[owner] = blocks

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def come(self, data: st.DataObject) -> None:
        self.taken(self.next_owner, data.draw(st.integers(1, min(8, len(self.queue)))))
        self.next_owner += 1

    @precondition(lambda self: self.queue and self.held)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.held)))
        blocks = self.held[owner]
        self.taken(owner, data.draw(st.integers(1, min(3, len(self.queue)))))
        self.held[owner] += blocks

    @precondition(lambda self: self.held)
    @rule(data=st.data(), preempt=st.booleans(), unfinished=st.integers(0, 2))
    def go(self, data: st.DataObject, preempt: bool, unfinished: int) -> None:
        owner = data.draw(st.sampled_from(sorted(self.held)))
        blocks = self.held.pop(owner)
        self.pool.release((), blocks, 0)
        full = max(0, blocks - unfinished) if preempt else 0
        if preempt:
            self.pool.leave(owner, 0, full)
            self.preempted[owner] = blocks
        self.queue += [(owner, index) if index < full else None for index in reversed(range(blocks))]

    @rule(data=st.data(), growth=st.integers(0, 3))
    def resume(self, data: st.DataObject, growth: int) -> None:
        fitting = sorted(owner for owner, blocks in self.preempted.items() if blocks + growth <= len(self.queue))
        if not fitting:
            return
        owner = data.draw(st.sampled_from(fitting))
        spare = set(self.queue[growth:])
        found = next(count for count in range(25) if (owner, count) not in spare)
        assert self.pool.left(owner, 0, growth) == found
        assert self.pool.left(owner, 1, growth) == 0  # behind another prefix than before
        self.pool.reclaim(owner, found)
        again = {(owner, index) for index in range(found)}
        blocks = self.preempted.pop(owner)
        left = [held for held in self.queue if held not in again]
        # What else of it lies there is forgotten: growing would have taken it, had it come to that.
        self.queue = [None] * found + [None if held is not None and held[0] == owner else held for held in left]
        self.taken(owner, blocks)

    @invariant()
    def counts_agree(self) -> None:
        self.pool.check_integrity(sum(self.held.values()))
        assert self.pool.free_blocks == len(self.queue)
        for owner in self.preempted:
            assert self.pool.left(owner, 0, 0) == sum(1 for held in self.queue if held is not None and held[0] == owner)


TestQueueAgainstModel = QueueAgainstModel.TestCase
TestQueueAgainstModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)

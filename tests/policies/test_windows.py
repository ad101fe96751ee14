"""Sequences behind a window, held against each of them counted by itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.policies.kv import KvPool
from afterwatt.policies.sequence import Sequence
from afterwatt.policies.sizes import Holding
from afterwatt.policies.windows import Marks, WindowedGroup


def held(tokens: int, block: int, holding: Holding) -> int:
    """KV blocks of a sequence, block of tokens by block of tokens."""
    blocks = (tokens + block - 1) // block
    kept = sum(holding.full + (holding.windowed if place < holding.window_blocks else 0) for place in range(blocks))
    return kept + (holding.fixed if blocks else 0)


holdings = st.builds(
    Holding,
    full=st.integers(0, 2),
    windowed=st.integers(1, 3),
    window_blocks=st.integers(1, 4),
    window_tokens=st.integers(1, 30),
    fixed=st.integers(0, 3),
)


@settings(max_examples=200, deadline=None)
@given(st.data(), holdings, st.sampled_from([1, 3, 4, 16]))
def test_a_group_is_its_members(data: st.DataObject, holding: Holding, block: int) -> None:
    """Entries seen, their growth, blocks taken: of each member alone, in strides and step by step."""
    group: WindowedGroup[Sequence] = WindowedGroup(block, holding)
    pool = KvPool(10**6, block, None, holding)
    tokens: dict[int, int] = {}
    for turn in range(data.draw(st.integers(1, 12))):
        if not tokens or data.draw(st.booleans()):
            seq = Sequence(turn, data.draw(st.integers(1, 60)), data.draw(st.integers(2, 40)))
            seq.kv_tokens, seq.emitted = seq.prompt_tokens, 1
            group.join(seq)
            tokens[turn] = seq.kv_tokens
        elif data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(tokens)))
            group.leave(group.members[gone])
            del tokens[gone]
            continue
        window = holding.window_tokens
        entries, growing, lasting = group.seen()
        for ahead in range(min(lasting, 50)):
            assert entries + growing * ahead == sum(min(length + 1 + ahead, window) for length in tokens.values())
        assert growing == sum(1 for length in tokens.values() if length + 1 < window)
        most, room = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 40))
        steps = group.stride(most, room)
        needs = [
            sum(held(n + ahead, block, holding) - held(n, block, holding) for n in tokens.values())
            for ahead in range(most + 1)
        ]
        assert group.next_blocks() == needs[1]
        assert [group.new_blocks(ahead) for ahead in range(steps + 1)] == needs[: steps + 1]
        assert steps == 0 or needs[steps] <= room
        assert steps > 0 or needs[1] > room
        if not steps:
            continue
        done = group.advance(steps)
        assert group.grown_blocks == needs[steps]
        tokens = {seq_id: length + steps for seq_id, length in tokens.items()}
        for seq in done:
            assert tokens.pop(seq.seq_id) == seq.kv_tokens
        assert set(tokens) == set(group.members)
        for seq_id, length in tokens.items():
            assert pool.blocks_for(length) == held(length, block, holding), seq_id


def test_a_stride_goes_on_past_what_a_window_shows() -> None:
    """It is cut where blocks are used again, not where entries stop growing: that is physics."""
    group: WindowedGroup[Sequence] = WindowedGroup(4, Holding(full=1, windowed=1, window_blocks=3, window_tokens=5))
    seq = Sequence(0, 2, 100)
    seq.kv_tokens, seq.emitted = 2, 1
    group.join(seq)
    assert group.seen() == (3, 1, 3)  # 3, 4, 5 entries
    assert group.stride(1000, 1000) == 7  # to 9 tokens in 3 blocks, the last that are taken twice
    group.advance(7)
    assert group.seen()[:2] == (5, 0)
    assert group.stride(1000, 1000) == 92


def test_marks_come_in_order_and_forget_who_left() -> None:
    marks = Marks()
    for seq_id, step in ((1, 5), (2, 3), (3, 9), (1, 7)):  # the last takes the place of the first
        marks.put(seq_id, step)
    assert not marks.drop(4)
    assert marks.drop(2)
    assert (marks.first(), len(marks)) == (7, 2)
    assert marks.take(8) == [1]
    assert marks.take(8) == []
    assert marks.take(9) == [3]
    assert marks.first() > 10**15


@pytest.mark.parametrize(
    ("holding", "units"), [(None, 4), (Holding(full=1, windowed=3, window_blocks=2), 4), (Holding(full=3), 12)]
)
def test_shared_prefixes_are_blocks_of_layers_that_keep_all(holding: Holding | None, units: int) -> None:
    assert KvPool(100, 4, 16, holding).unit_blocks == units

"""The decode group's sums and closed forms, against sequences that are stepped one by one."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from afterwatt.policies.sequence import DecodeGroup, Sequence


@dataclass
class Plain:
    """A sequence that counts for itself."""

    seq: Sequence
    kv_tokens: int
    emitted: int

    def step_needs_block(self, block: int) -> bool:
        return self.kv_tokens % block == 0

    @property
    def left(self) -> int:
        return self.seq.output_tokens - self.emitted


class GroupAgainstPlainSequences(RuleBasedStateMachine):
    block = 4

    def __init__(self) -> None:
        super().__init__()
        self.group: DecodeGroup[Sequence] = DecodeGroup(self.block)
        self.plain: dict[int, Plain] = {}
        self.count = 0

    @rule(prompt=st.integers(1, 30), output=st.integers(2, 30), emitted=st.integers(1, 29))
    def join(self, prompt: int, output: int, emitted: int) -> None:
        """A prompt has just been completed: afresh, or again after a preemption."""
        seq = Sequence(self.count, prompt, output)
        seq.emitted = min(emitted, output - 1)
        seq.kv_tokens = prompt + seq.emitted - 1
        self.count += 1
        self.plain[seq.seq_id] = Plain(seq, seq.kv_tokens, seq.emitted)
        self.group.join(seq)

    @precondition(lambda self: self.plain)
    @rule(which=st.integers(0, 99))
    def leave(self, which: int) -> None:
        plain = self.plain.pop(list(self.plain)[which % len(self.plain)])
        self.group.leave(plain.seq)
        assert (plain.seq.kv_tokens, plain.seq.emitted) == (plain.kv_tokens, plain.emitted)
        assert plain.seq.finish_step is None

    @precondition(lambda self: self.plain)
    @rule(part=st.floats(0.0, 1.0))
    def advance(self, part: float) -> None:
        steps = 1 + round(part * (min(plain.left for plain in self.plain.values()) - 1))
        done = self.group.advance(steps)
        for plain in self.plain.values():
            plain.kv_tokens += steps
            plain.emitted += steps
        finished = [seq_id for seq_id, plain in self.plain.items() if plain.left == 0]
        assert [seq.seq_id for seq in done] == sorted(finished)
        for seq_id in finished:
            plain = self.plain.pop(seq_id)
            assert plain.seq.emitted == plain.seq.output_tokens
            assert plain.seq.kv_tokens == plain.kv_tokens == plain.seq.prompt_tokens + plain.seq.output_tokens - 1

    def blocks_of_step(self, ahead: int) -> int:
        """Blocks that the iteration after `ahead` others takes, nobody finishing."""
        return sum((plain.kv_tokens + ahead) % self.block == 0 for plain in self.plain.values())

    @invariant()
    def sums_agree(self) -> None:
        group, plain = self.group, self.plain
        assert list(group.members) == list(plain)
        assert group.context_tokens() == sum(one.kv_tokens + 1 for one in plain.values())
        assert all(group.kv_tokens(one.seq) == one.kv_tokens for one in plain.values())
        assert group.next_blocks() == self.blocks_of_step(0)

    @invariant()
    def closed_forms_agree(self) -> None:
        needs = [self.blocks_of_step(ahead) for ahead in range(14)]
        for steps in range(15):
            assert self.group.new_blocks(steps) == sum(needs[:steps])
        for blocks in range(0, sum(needs) + 3, 2):
            within = 0
            while within < 13 and sum(needs[: within + 1]) <= blocks:
                within += 1
            assert self.group.steps_within(blocks, 13) == within
            if self.plain:
                first_finish = min(one.left for one in self.plain.values())
                expected = min(13, first_finish, within)
                assert self.group.stride(13, blocks) == expected


TestBlocksOfFour = GroupAgainstPlainSequences.TestCase
TestBlocksOfFour.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


class GroupWithBlocksOfOne(GroupAgainstPlainSequences):
    block = 1


TestBlocksOfOne = GroupWithBlocksOfOne.TestCase
TestBlocksOfOne.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


class GroupWithBlocksOfSixteen(GroupAgainstPlainSequences):
    block = 16


TestBlocksOfSixteen = GroupWithBlocksOfSixteen.TestCase
TestBlocksOfSixteen.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


@given(
    st.integers(1, 40),
    st.lists(st.integers(1, 5000), min_size=1, max_size=30),
    st.integers(0, 3000),
    st.integers(0, 20_000),
)
@settings(deadline=None)
def test_the_longest_stride_uses_no_more_than_the_blocks_and_the_next_one_would(block, kv_tokens, most, blocks):
    group: DecodeGroup[Sequence] = DecodeGroup(block)
    for number, tokens in enumerate(kv_tokens):
        seq = Sequence(number, tokens, 10**6)
        seq.kv_tokens, seq.emitted = tokens, 1
        group.join(seq)
    steps = group.steps_within(blocks, most)
    assert 0 <= steps <= most
    assert group.new_blocks(steps) <= blocks
    assert steps == most or group.new_blocks(steps + 1) > blocks

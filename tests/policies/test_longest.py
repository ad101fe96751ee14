"""The longest of those that decode together, held against looking at each of them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.policies.longest import PaddedGroup
from afterwatt.policies.sequence import Sequence


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_longest_member_whoever_joins_leaves_finishes_or_runs_ahead(data: st.DataObject) -> None:
    group: PaddedGroup[Sequence] = PaddedGroup(4, 3)
    tokens: dict[int, int] = {}
    for turn in range(data.draw(st.integers(1, 20))):
        what = data.draw(st.sampled_from(["join", "leave", "step", "ahead"])) if tokens else "join"
        if what == "join":
            seq = Sequence(turn, data.draw(st.integers(1, 60)), data.draw(st.integers(2, 20)))
            seq.kv_tokens, seq.emitted = seq.prompt_tokens, 1
            group.join(seq)
            tokens[turn] = seq.kv_tokens
        elif what == "leave":
            gone = data.draw(st.sampled_from(sorted(tokens)))
            group.leave(group.members[gone])
            del tokens[gone]
        else:
            members = group.members.values()
            extra = {seq.seq_id: data.draw(st.integers(0, min(2, group.left(seq) - 1))) for seq in members}
            if what == "ahead":
                group.run_ahead(extra)
            for seq_id in tokens:
                tokens[seq_id] += 1 + (extra[seq_id] if what == "ahead" else 0)
            for seq in group.advance(1):
                assert tokens.pop(seq.seq_id) == seq.kv_tokens
        if tokens:
            assert group.seen()[:2] == (max(tokens.values()) + 1, 1)

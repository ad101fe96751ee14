"""The books of a scheduler, added up another way."""

from afterwatt.policies.scheduler import Scheduler
from afterwatt.policies.sequence import Sequence


def check_integrity(scheduler: Scheduler[Sequence]) -> None:
    """Assert that blocks, sequences and sums agree."""
    pool = scheduler.pool
    own = sum(blocks for _, blocks in scheduler.leaving.values())
    for lane in scheduler._lanes:
        kv_tokens = {seq: lane.decode.kv_tokens(seq) for seq in lane.decode.members.values()}
        held = kv_tokens | {seq: seq.fill_tokens for seq in lane.prefilling}
        own += sum(pool.blocks_for(tokens) - seq.held * pool.unit_blocks for seq, tokens in held.items())
        assert lane.decode.context_tokens() == sum(kv_tokens.values()) + len(kv_tokens)
    pool.check_integrity(own)

"""A decode group with what it holds besides its decoding members."""

from collections.abc import Sequence as Items
from typing import Any, Generic

from afterwatt.policies.errors import PolicyError
from afterwatt.policies.kv import KvPool
from afterwatt.policies.longest import PaddedGroup
from afterwatt.policies.plans import PrefillChunk, StepOutcome, StepPlan
from afterwatt.policies.sequence import FOREVER, DecodeGroup, S
from afterwatt.policies.sizes import SchedulerConfig
from afterwatt.policies.views import BatchView, Prefilling
from afterwatt.policies.windows import WindowedGroup

UNBOUNDED = 1 << 60


def prompt_stride(chunks: tuple[PrefillChunk[S], ...], strides: bool) -> tuple[int, int]:
    """Return (iterations until the last equal chunk of a prompt, prompts completed by the first iteration).

    Without `strides` a plan holds for one iteration.
    """
    finishing = 0
    for seq, tokens, past in chunks:
        if past + tokens == seq.fill_tokens:
            finishing += 1
    if not strides or finishing or len(chunks) > 1:
        return 1, finishing
    if not chunks:
        return UNBOUNDED, 0
    seq, tokens, past = chunks[0]
    return (seq.fill_tokens - past - 1) // tokens, 0


def _group_of(config: SchedulerConfig) -> DecodeGroup[Any]:
    """Return an empty decode group that knows what times depend on.

    Raises:
        PolicyError: tokens are to be guessed although layers have a window.
    """
    if config.holding is not None and config.holding.window_tokens:
        if config.draft_tokens:
            raise PolicyError(
                f"draft_tokens = {config.draft_tokens}, and layers of the model have a window; guess no tokens"
            )
        return WindowedGroup(config.block_tokens, config.holding)
    kind = PaddedGroup if config.padded else DecodeGroup
    return kind(config.block_tokens, 1 + config.draft_tokens)


class Lane(Generic[S]):
    """One decode group of a scheduler.

    Attributes:
        group: its number; decode: its decoding members.
        prefilling: those in the middle of their prompts, oldest first.
        plan: that is in flight, if any; view: what the policy was shown for it (None: nothing, it was not asked).
    """

    __slots__ = ("_pool", "decode", "group", "plan", "prefilling", "view")

    def __init__(self, group: int, pool: KvPool, config: SchedulerConfig) -> None:
        self.group = group
        self._pool = pool
        self.decode: DecodeGroup[S] = _group_of(config)
        self.prefilling: list[S] = []
        self.plan: StepPlan[S] | None = None
        self.view: BatchView | None = None

    def seen(self) -> tuple[int, int, int]:
        """Return what else the time of those that decode in the plan in flight depends on.

        Returns:
            (KV entries, their growth per iteration, for how many iterations both hold): where layers have a window,
            what they see of all contexts; where batches are padded, the longest context; else zeros.
        """
        if self.plan is None or not self.plan.decoding:
            return 0, 0, FOREVER
        return self.decode.seen()

    def begun(self) -> Items[Prefilling]:
        """Return the prompts that are begun, and what is left of each."""
        return [Prefilling(seq.seq_id, seq.fill_tokens - seq.kv_tokens) for seq in self.prefilling]

    def release(self, seq: S, blocks: int) -> None:
        """Give back the KV blocks of a sequence, so many with those that it shares."""
        pool = self._pool
        pool.release(seq.prefix[: seq.held], blocks - seq.held * pool.unit_blocks, seq.seq_id)
        seq.held = 0

    def publish(self, seq: S) -> None:
        """Make the complete prefix blocks of a prompt shareable."""
        full = min(len(seq.prefix), seq.prompt_tokens // (self._pool.unit_tokens or 1))
        if full > seq.held:
            seq.held += self._pool.publish(seq.prefix[seq.held : full], seq.seq_id)

    def stop(self, stopped: Items[int]) -> tuple[list[S], int]:
        """End members of which a body has found that nothing follows the token they have just emitted.

        Returns:
            (the sequences, tokens that were granted to them and will not come).

        Raises:
            PolicyError: one does not decode here.
        """
        ended, unused = [], 0
        for seq_id in stopped:
            seq = self.decode.members.get(seq_id)
            if seq is None:
                raise PolicyError(f"sequence {seq_id} is said to have stopped, and does not decode; name one that does")
            self.decode.leave(seq)
            unused += seq.output_tokens - seq.emitted
            seq.output_tokens = seq.emitted
            self.release(seq, self._pool.blocks_for(seq.kv_tokens))
            ended.append(seq)
        return ended, unused

    def advance_unevenly(self, plan: StepPlan[S], outcome: StepOutcome) -> tuple[list[S], int]:
        """Let each member yield tokens of its own number, and give back the blocks of those that it might have yielded.

        All blocks are taken first: a body has written to them, whether or not it has kept what it wrote.

        Returns:
            (members that finish, tokens beyond one per member and iteration).

        Raises:
            PolicyError: somebody else is named, or not everybody, or tokens that were not granted.
        """
        decode, pool, iterations = self.decode, self._pool, outcome.iterations
        extra = self._extra(plan, outcome)
        members = list(decode.members.values()) if plan.decoding else []
        before = [decode.kv_tokens(seq) for seq in members]
        span = plan.most_tokens if plan.most_tokens > 1 else iterations
        taken = decode.new_blocks(span) if members else 0
        pool.take(taken)
        if extra:
            decode.run_ahead(extra)
        finished = decode.advance(iterations) if members else []
        for seq, kv_tokens in zip(members, before, strict=True):
            now = seq.kv_tokens if seq.finish_step is None else decode.kv_tokens(seq)
            unused = pool.blocks_for(kv_tokens + span) - pool.blocks_for(now)
            if unused:
                pool.give_back(unused, seq.seq_id)
                taken -= unused
        decode.grown_blocks = taken
        for seq in finished:
            self.release(seq, pool.blocks_for(seq.kv_tokens))
        return finished, sum(extra.values())

    def _extra(self, plan: StepPlan[S], outcome: StepOutcome) -> dict[int, int]:
        """Return the tokens beyond one per iteration of those who have yielded such."""
        tokens, iterations = outcome.tokens, outcome.iterations
        if tokens is None:
            return {}
        if set(tokens) != (set(self.decode.members) if plan.decoding else set()):
            raise PolicyError(f"tokens of sequences {sorted(tokens)} are told; name each that decodes, and nobody else")
        extra = {}
        for seq_id, count in tokens.items():
            most = min(iterations * plan.most_tokens, self.decode.left(self.decode.members[seq_id]))
            if not iterations <= count <= most:
                raise PolicyError(
                    f"sequence {seq_id} is said to have yielded {count} tokens; it yields {iterations} to {most}"
                )
            if count > iterations:
                extra[seq_id] = count - iterations
        return extra

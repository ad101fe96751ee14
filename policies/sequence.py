"""One request as the brain knows it, and the set of those that decode together."""

from collections.abc import Mapping
from collections.abc import Sequence as Keys
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from mypy_extensions import mypyc_attr

from afterwatt.policies.slo import Slo
from afterwatt.policies.views import Phase, RequestView


@mypyc_attr(allow_interpreted_subclasses=True)
class Sequence:
    """A request in the hands of a scheduler. Bodies may subclass it to keep their own records beside.

    Attributes:
        seq_id: unique, and the tie-break everywhere.
        prompt_tokens, output_tokens: lengths; the output's is known because traces replay recorded requests.
        prefix: hashes of the prompt's full prefix blocks, () where nothing is shared.
        emitted: output tokens produced.
        kv_tokens: tokens whose KV is in memory (not kept current while decoding: see `DecodeGroup.kv_tokens`).
        fill_tokens: tokens whose KV a prefill must complete before the next output token.
        held: leading prefix blocks that it shares.
        finish_step, kv_offset: its place in a decode group (None outside).
        preemptions: how often it lost its memory.
    """

    __slots__ = (
        "emitted",
        "fill_tokens",
        "finish_step",
        "held",
        "kv_offset",
        "kv_tokens",
        "output_tokens",
        "preemptions",
        "prefix",
        "prompt_tokens",
        "seq_id",
    )

    def __init__(self, seq_id: int, prompt_tokens: int, output_tokens: int, prefix: Keys[int] = ()) -> None:
        self.seq_id = seq_id
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.prefix = prefix
        self.emitted = 0
        self.kv_tokens = 0
        self.fill_tokens = prompt_tokens
        self.held = 0
        self.finish_step: int | None = None
        self.kv_offset = 0
        self.preemptions = 0

    def view(self, slo: Slo) -> RequestView:
        """Return what a policy may see of it; bodies that know its class and arrival say them."""
        return RequestView(self.seq_id, self.prompt_tokens, self.output_tokens, None, None, slo, self.phase())

    def phase(self) -> Phase:
        """Return what it needs next."""
        return "prefill" if self.kv_tokens < self.fill_tokens else "decode"


FOREVER = 1 << 60
"""More iterations than anybody plans."""
S = TypeVar("S", bound=Sequence)
"""A body's own kind of sequence."""


class DecodeGroup(Generic[S]):
    """Sequences that advance by one token together, kept in sums so that an iteration costs nothing per sequence.

    Everything that changes by one per step is stored less the step counter, and therefore does not change.

    Attributes:
        step: decode iterations done.
        members: the sequences by id, in order of joining.
        grown_blocks: KV blocks that the last `advance` took.
    """

    __slots__ = (
        "_block_tokens",
        "_finishes",
        "_kv_sum",
        "_most_tokens",
        "_residues",
        "grown_blocks",
        "members",
        "step",
    )

    def __init__(self, block_tokens: int, most_tokens: int = 1) -> None:
        """Start empty; `most_tokens`: that a member may yield in one iteration."""
        self._most_tokens = most_tokens
        self.step = 0
        self.grown_blocks = 0
        self.members: dict[int, S] = {}
        self._block_tokens = block_tokens
        self._finishes: list[tuple[int, int]] = []  # heap of the members' (finish step, id)
        self._kv_sum = 0  # sum over members of (KV tokens - step)
        self._residues = [0] * block_tokens  # members by the step, modulo the block size, at which they need a block

    def context_tokens(self) -> int:
        """Return the KV entries that the next iteration's attention reads, its own new ones included."""
        return self._kv_sum + len(self.members) * (self.step + 1)

    def seen(self) -> tuple[int, int, int]:
        """Return what else the time of the next iteration depends on; nothing here. There must be a member."""
        return 0, 0, FOREVER

    def kv_tokens(self, seq: S) -> int:
        """Return the KV entries that a member has in memory."""
        return seq.kv_offset + self.step

    def join(self, seq: S) -> None:
        """Let a sequence with complete KV decode what is left of its output."""
        step = self.step
        offset = seq.kv_tokens - step
        seq.kv_offset = offset
        seq.finish_step = finish = step + seq.output_tokens - seq.emitted
        self.members[seq.seq_id] = seq
        self._kv_sum += offset
        self._residues[-offset % self._block_tokens] += 1
        heappush(self._finishes, (finish, seq.seq_id))

    def leave(self, seq: S) -> None:
        """Take a member out that is not done, its counters brought up to date."""
        self._finishes.remove((seq.finish_step or 0, seq.seq_id))
        heapify(self._finishes)
        self._take_out(seq)

    def _take_out(self, seq: S) -> None:
        step, offset = self.step, seq.kv_offset
        del self.members[seq.seq_id]
        self._kv_sum -= offset
        self._residues[-offset % self._block_tokens] -= 1
        seq.kv_tokens = offset + step
        seq.emitted = seq.output_tokens - (seq.finish_step or 0) + step
        seq.finish_step = None

    def stride(self, most: int, blocks: int) -> int:
        """Return how many of the next `most` iterations end before a member finishes in the next, or blocks run out.

        The iteration with which a member finishes counts. There must be a member; 0: blocks lack for one iteration.
        """
        if self._most_tokens > 1:
            return 1 if self.next_blocks() <= blocks else 0
        steps = self._finishes[0][0] - self.step
        if most < steps:
            steps = most
        if len(self.members) * (steps // self._block_tokens + 1) <= blocks:
            return steps
        return self.steps_within(blocks, steps)

    def next_blocks(self) -> int:
        """Return the KV blocks that the next iteration takes, at most."""
        if self._most_tokens > 1:
            return self.new_blocks(self._most_tokens)
        return self._residues[self.step % self._block_tokens]

    def new_blocks(self, steps: int) -> int:
        """Return the KV blocks that the next iterations take."""
        size, residues = self._block_tokens, self._residues
        members = len(self.members)
        first = self.step % size
        last = first + steps % size
        blocks = steps // size * members
        if last <= size:
            for residue in range(first, last):  # compiled, sooner than the sum of a slice
                blocks += residues[residue]
            return blocks
        for residue in range(last - size, first):  # round the corner: all but those left out
            members -= residues[residue]
        return blocks + members

    def steps_within(self, blocks: int, most: int) -> int:
        """Return how many of the next `most` iterations can run on this many new blocks."""
        size, residues = self._block_tokens, self._residues
        cycles = min(blocks // max(1, len(self.members)), most // size)
        steps = cycles * size
        left = blocks - cycles * len(self.members)
        while steps < most:
            left -= residues[(self.step + steps) % size]
            if left < 0:
                return steps
            steps += 1
        return most

    def left(self, seq: S) -> int:
        """Return the output tokens that a member has still to produce."""
        return (seq.finish_step or 0) - self.step

    def run_ahead(self, extra: Mapping[int, int]) -> None:
        """Let members (by id) yield so many tokens more than the others in the iteration to come."""
        size, residues = self._block_tokens, self._residues
        for seq_id, tokens in extra.items():
            seq = self.members[seq_id]
            residues[-seq.kv_offset % size] -= 1
            seq.kv_offset += tokens
            residues[-seq.kv_offset % size] += 1
            self._kv_sum += tokens
            seq.finish_step = (seq.finish_step or 0) - tokens
        self._finishes = [(seq.finish_step or 0, seq_id) for seq_id, seq in self.members.items()]
        heapify(self._finishes)

    def advance(self, steps: int) -> list[S]:
        """Do iterations; return the members that finished with the last one, taken out, by id.

        No member may finish before the last iteration.
        """
        self.grown_blocks = self.new_blocks(steps)
        self.step = now = self.step + steps
        finishes = self._finishes
        done: list[S] = []
        while finishes and finishes[0][0] <= now:
            seq = self.members[heappop(finishes)[1]]
            done.append(seq)
            self._take_out(seq)
        return done

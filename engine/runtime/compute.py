"""What a worker asks of a model: one iteration's work as arrays of numbers, and runs of tokens back.

The runtime knows a model by this protocol only. `engine.model` fulfils it with torch; tests do so with arithmetic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from afterwatt.policies.plans import Move

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request's tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token.
        seed: of this request; its token at a position depends on (seed, position) and on nothing else that runs.
        top_k: choose among so many of the likeliest; 0: among all.
    """

    temperature: float = 0.0
    seed: int = 0
    top_k: int = 0


GREEDY = Sampling()


@dataclass(slots=True)
class StepBatch:
    """One iteration over m sequences, n tokens in all; prompt pieces first, then those that decode one token each.

    Attributes:
        seq_ids: whose, m.
        tokens: ids of the tokens to process, one sequence's after the other's, int64[n].
        query_tokens: how many of them are whose, m; 1 for those that decode.
        past_tokens: KV entries that each has in memory before this iteration, m.
        prompts: how many of the m sequences are prompt pieces.
        block_tables: physical KV blocks of each, in order, m lists; they hold the past and query tokens at least, and
            one token less than it may be answered beyond.
        emits: whether the sequence's last token is to be followed by a chosen one, m. Pieces of a prompt that are not
            its last do not.
        sampling: how each chooses, m.
        most_tokens: that each may be answered, m: more than one where a model guesses ahead; () is one each.
    """

    seq_ids: Sequence[int]
    tokens: Ints
    query_tokens: Sequence[int]
    past_tokens: Sequence[int]
    prompts: int
    block_tables: Sequence[Sequence[int]]
    emits: Sequence[bool]
    sampling: Sequence[Sampling]
    _: KW_ONLY
    most_tokens: Sequence[int] = ()


class PlacedMove(NamedTuple):
    """A move of KV blocks with its addresses.

    Attributes:
        move: what the scheduler asked for.
        src_blocks, dst_blocks: numbers of the blocks in the tier that they leave and in the one that they go to; each
            is copied to its partner.
    """

    move: Move
    src_blocks: Sequence[int]
    dst_blocks: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeInfo:
    """What a run's manifest says of what computed it.

    Attributes:
        model: its name; params: how many it has.
        device: as software names it; dtype, kv_dtype: of weights as stored, and of the cache.
        kv_blocks, block_tokens: sizes of the cache; host_blocks: KV blocks in host memory for swapping.
        max_context: tokens that the model takes; vocab: ids that there are.
        draft_tokens: that it guesses in an iteration for each sequence that decodes.
        versions: of what it is built on.
        more: whatever else is worth knowing.
    """

    model: str
    params: int
    device: str
    dtype: str
    kv_dtype: str
    kv_blocks: int
    block_tokens: int
    host_blocks: int
    max_context: int
    vocab: int
    versions: Mapping[str, str]
    draft_tokens: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


class Compute(Protocol):
    """A model with a paged KV pool, all of whose memory is taken before the first request."""

    info: ComputeInfo

    def step(self, batch: StepBatch) -> list[list[int]]:
        """Process one iteration; return the run of chosen tokens of each sequence that emits, in order.

        A run has one token at least, and what it would have one by one. It has really been done when this returns (a
        device is synchronised). KV entries of the processed tokens, and of a run's but the last, are in the given
        blocks. Blocks and sequences that the batch does not name are left as they are.
        """

    def move(self, moves: Sequence[PlacedMove]) -> None:
        """Copy KV blocks between the device's memory (`hbm`) and the host's (`dram`), one move after the other."""

    def close(self) -> None:
        """Give its memory back."""

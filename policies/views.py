"""What a policy may see, and what it answers.

Views and decisions are records: made once, read, never changed. One of each is made per scheduling step, the
innermost loop of the simulator, where dataclasses cost less than half of named tuples to make and to read by name,
and a third of frozen ones to make; slotted or generic ones do not compile, and a constructor compiles where it is
written out. What policies take apart in a loop (candidates, chunks) are named tuples; the `_of` functions make one of
a plain tuple in half the time of its class, whose constructor goes by way of Python.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol

from afterwatt.policies.errors import PolicyError
from afterwatt.policies.slo import NO_PROMISE, Slo


@dataclass
class BatchLimits:
    """What a worker's configuration allows in one iteration.

    Attributes:
        max_seqs: most sequences admitted at a time (decoding, or in the middle of their prompt).
        token_budget: most tokens one iteration may compute; a prompt longer than that runs alone, unless chunked.
        tokens_each: that a decoding sequence takes out of the budget: one, and those guessed ahead.
    """

    max_seqs: int
    token_budget: int
    tokens_each: int = 1


class Candidate(NamedTuple):
    """A waiting sequence.

    Attributes:
        seq_id: whom the decision will name.
        tokens: tokens still to be computed before its next output token; prefix hits are taken off.
        blocks: KV blocks that admitting it takes out of the free and evictable ones.
    """

    seq_id: int
    tokens: int
    blocks: int


candidate_of: Callable[[tuple[int, int, int]], Candidate] = partial(tuple.__new__, Candidate)


class Prefilling(NamedTuple):
    """An admitted sequence whose prompt is not yet complete; its KV blocks are already its own."""

    seq_id: int
    tokens: int


Phase = Literal["prefill", "decode"]
"""Which of its two parts a request is in: tokens of its prompt are to be computed, or of its output to be produced."""


class RequestView(NamedTuple):
    """What a policy sees of a request.

    Attributes:
        request_id: its number, and its sequence's; prompt_tokens, output_tokens: its lengths.
        klass: its class in the trace; arrival_s: when it came, on the clock of `now_s` (None: nobody has said).
        slo: what was promised.
        phase: what it needs next.
    """

    request_id: int
    prompt_tokens: int
    output_tokens: int
    klass: str | None = None
    arrival_s: float | None = None
    slo: Slo = NO_PROMISE
    phase: Phase = "prefill"


def unseen(seq_id: int) -> RequestView:
    """Refuse: a view by itself shows numbers only."""
    raise PolicyError(f"nothing more is known of sequence {seq_id}; ask in the view that a scheduler has made")


@dataclass(init=False)
class BatchView:
    """The state of one worker at an iteration boundary.

    Attributes:
        now_s: time of the boundary.
        decoding: sequences ready to produce their next token.
        prefilling: admitted sequences in the middle of their prompt, oldest first.
        queue: waiting sequences in queue order, produced lazily. A policy stops taking when it has seen enough; what
            it did not look at cannot have mattered to it, which is what lets a simulator skip ahead.
        free_blocks: KV blocks that may be handed out, the next decode iteration's need and the watermark set aside.
        limits: the worker's limits.
        about: tells more of a sequence that the view has shown, by id: class, arrival, what was promised.
    """

    now_s: float
    decoding: int
    prefilling: Sequence[Prefilling]
    queue: Iterator[Candidate]
    free_blocks: int
    limits: BatchLimits
    about: Callable[[int], RequestView] = unseen

    def __init__(
        self,
        now_s: float,
        decoding: int,
        prefilling: Sequence[Prefilling],
        queue: Iterator[Candidate],
        free_blocks: int,
        limits: BatchLimits,
        about: Callable[[int], RequestView] = unseen,
    ) -> None:
        self.now_s = now_s
        self.decoding = decoding
        self.prefilling = prefilling
        self.queue = queue
        self.free_blocks = free_blocks
        self.limits = limits
        self.about = about


class Chunk(NamedTuple):
    """Prompt tokens of one sequence to compute in the next iteration; naming a candidate admits it."""

    seq_id: int
    tokens: int


chunk_of: Callable[[tuple[int, int]], Chunk] = partial(tuple.__new__, Chunk)


@dataclass(init=False)
class BatchDecision:
    """What runs next.

    Attributes:
        decode: one token for every decoding sequence, or for none of them.
        chunks: the prompt pieces.
        ask_at_s: when to ask again at the latest, a time to come (None: when something has happened). A steady policy
            stands by its answer until then.
    """

    decode: bool
    chunks: tuple[Chunk, ...]
    ask_at_s: float | None

    def __init__(self, decode: bool, chunks: tuple[Chunk, ...] = (), ask_at_s: float | None = None) -> None:
        self.decode = decode
        self.chunks = chunks
        self.ask_at_s = ask_at_s


class ReplicaView(NamedTuple):
    """What a router sees of a replica.

    Attributes:
        replica: its number.
        outstanding_tokens: prompt tokens not yet computed plus output tokens not yet produced, of all it was given.
        prefix_tokens: prompt tokens of the request at hand whose KV the replica holds (0 without prefix sharing).
    """

    replica: int
    outstanding_tokens: int
    prefix_tokens: int


class BatchPolicy(Protocol):
    """Which sequences run in the next iteration?

    Attributes:
        steady: whether the answer stays the same while time passes, free blocks shrink and the one prompt it is
            working on gets shorter by equal chunks; and whether it decodes when there is nothing else to do. A policy
            that watches the clock says until when (`BatchDecision.ask_at_s`), or says no and is asked at every
            boundary.
    """

    steady: bool

    def select(self, view: BatchView) -> BatchDecision:
        """Answer for one iteration; called again at the next boundary, unless nothing it saw can have changed."""


class RoutePolicy(Protocol):
    """Which replica gets a request?

    Attributes:
        looks: whether the answer depends on the replicas' state; if not, the views come without it, which is cheaper.
    """

    looks: bool

    def route(self, request: RequestView, replicas: Sequence[ReplicaView]) -> int:
        """Return the number of the chosen replica."""

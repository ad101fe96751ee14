"""A request in the engine's hands: what to compute with, and when what came of it."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from afterwatt.engine.runtime.compute import GREEDY, Ints, Sampling
from afterwatt.policies.log import DecisionEntry
from afterwatt.policies.sequence import Sequence
from afterwatt.policies.slo import Slo
from afterwatt.policies.views import RequestView

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for.

    Attributes:
        request_id: unique, counted from 0 in order of arrival.
        prompt_ids: the prompt's tokens.
        output_tokens: most tokens to produce; exactly so many if nothing stops it.
        arrival_ns: when it arrived, by `time.monotonic_ns`.
        sampling: how its tokens are chosen.
        stop_ids: tokens after which nothing follows; () replays a trace's lengths whatever the model says.
        prefix: hashes of its full prefix blocks, () where nothing is shared.
        klass: its class in the trace (None: unknown).
    """

    request_id: int
    prompt_ids: Ints
    output_tokens: int
    arrival_ns: int = 0
    sampling: Sampling = GREEDY
    stop_ids: frozenset[int] = frozenset()
    prefix: tuple[int, ...] = ()
    klass: str | None = None


class Job(Sequence):
    """A request as a sequence that the scheduler moves.

    Attributes:
        request: what was asked for.
        output_ids: tokens produced.
        token_ns: when each was.
        scheduled_ns: when it was first admitted (None: not yet).
        cached_tokens: prompt tokens found in the cache then.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request.request_id, len(request.prompt_ids), request.output_tokens, request.prefix)
        self.request = request
        self.output_ids: list[int] = []
        self.token_ns: list[int] = []
        self.scheduled_ns: int | None = None
        self.cached_tokens = 0

    def view(self, slo: Slo) -> RequestView:
        """Return what a policy may see of it."""
        request = self.request
        arrival_s = request.arrival_ns / NS_PER_S
        return RequestView(
            self.seq_id, self.prompt_tokens, self.output_tokens, request.klass, arrival_s, slo, self.phase()
        )

    def tokens(self, first: int, count: int) -> Ints:
        """Return `count` tokens from place `first` on of the prompt and what was produced so far, int64[count]."""
        prompt = self.request.prompt_ids
        if first + count <= len(prompt):
            return prompt[first : first + count]
        produced = np.array(self.output_ids[max(0, first - len(prompt)) : first + count - len(prompt)], dtype=np.int64)
        return np.concatenate([prompt[first:], produced]) if first < len(prompt) else produced

    @property
    def left(self) -> int:
        """Tokens that it may still produce."""
        return self.output_tokens - len(self.output_ids)

    def stops_with(self, token: int) -> bool:
        """Whether a token ends it although it was granted more."""
        return token in self.request.stop_ids and self.left > 0


class Chunked(NamedTuple):
    """A prompt piece in a record."""

    seq_id: int
    tokens: int
    past_tokens: int


@dataclass(slots=True, kw_only=True)
class StepRecord:
    """What one iteration was and what came of it; times by `time.monotonic_ns`.

    Attributes:
        plan_ns: the boundary: what had arrived by then, the plan has seen.
        rested: whether the worker had found nothing to do since the iteration before.
        compute_ns, done_ns: when the model began and when it had finished.
        arrivals: ids of the requests that the scheduler was given at this boundary, refused ones apart.
        decoding, context_tokens, chunks, emits: as in the plan.
        emitted: (id, token) of each token produced; those of a sequence follow one another.
        stopped: ids of those that a stop token ended.
        finished: ids of those that are done.
        waiting, running, used_blocks: sequences in the queue and admitted, and KV blocks held, while it ran.
        swapped_blocks: KV blocks moved before it.
        free_blocks, outstanding_tokens: of the scheduler once the outcome was applied.
    """

    plan_ns: int
    rested: bool
    compute_ns: int
    done_ns: int
    arrivals: tuple[int, ...]
    decoding: int
    context_tokens: int
    chunks: tuple[Chunked, ...]
    emits: int
    emitted: tuple[tuple[int, int], ...]
    stopped: tuple[int, ...]
    finished: tuple[int, ...]
    waiting: int
    running: int
    used_blocks: int
    swapped_blocks: int
    free_blocks: int
    outstanding_tokens: int


@dataclass(slots=True)
class Refusal:
    """A request that was not taken in, when and why."""

    request_id: int
    at_ns: int
    reason: str


@dataclass(slots=True)
class Admission:
    """When a request was first given memory, and what it found there."""

    request_id: int
    at_ns: int
    cached_tokens: int


@dataclass(slots=True)
class Report:
    """What a worker tells of a stretch of its life, in order.

    Attributes:
        steps: iterations; decisions: their entries in the decision log.
        refusals, admissions: of requests; preempted: ids, once for each time that one lost its memory.
    """

    steps: list[StepRecord] = field(default_factory=list)
    decisions: list[DecisionEntry] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    admissions: list[Admission] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.steps or self.refusals)

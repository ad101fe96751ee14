"""What passes between a scheduler and the body that works for it."""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, NamedTuple

from afterwatt.policies.sequence import S
from afterwatt.policies.views import Prefilling


class PrefillChunk(NamedTuple, Generic[S]):
    """Prompt tokens of one sequence: `tokens` of them, after `past_tokens` whose KV is in memory."""

    seq: S
    tokens: int
    past_tokens: int


prefill_chunk_of: Callable[[tuple[Any, int, int]], PrefillChunk[Any]] = partial(tuple.__new__, PrefillChunk)
"""Makes one of a plain tuple; see `policies.views`."""


Tier = Literal["hbm", "dram", "ssd", "peer"]
"""Where memory lies for a worker: on its device, in its host, on the host's disks, on another worker's device."""


class Move(NamedTuple):
    """Memory to move between tiers: `units` of it, from `src` to `dst`.

    A scheduler counts in units (a KV block, say) and does not say where they lie: that and their bytes the body knows.

    Attributes:
        what: that moves; owner: id of the sequence whose it is.
        units: how many; src, dst: tiers.
        needed: by when: before the plan's first iteration, layer by layer within it, or some time later.
        urgency: who goes first on a link that others want too; low numbers do.
    """

    what: Literal["kv", "weights", "draft"]
    owner: int
    units: int
    src: Tier
    dst: Tier
    needed: Literal["before", "by-layer", "later"] = "before"
    urgency: int = 0


NO_MOVES: tuple[Move, ...] = ()


class StepPlan(Generic[S]):
    """What a worker does next.

    Attributes:
        group: decode group (pipeline slot) that the plan belongs to.
        decoding: sequences that decode, one token each.
        context_tokens: KV entries that their attention reads in the first iteration; each further one adds `decoding`.
        chunks: prompt pieces; each further iteration computes the next piece of the same size.
        emits: sequences that produce an output token in each iteration.
        repeat: further identical iterations that hold after the first.
        open_to_arrivals: whether a request that arrives now could change the plan of the next boundary.
        running: admitted sequences of the group; used_blocks: KV blocks that sequences hold, of all groups.
        moves: memory to move, in this order.
        most_tokens: that each decoding sequence may yield per iteration, while its output lasts. Above one, it has room
            for so many in memory until the outcome tells how many it has kept.
        ask_at_s: when the plan no longer holds: the iteration that ends then, or is under way, is its last.
    """

    __slots__ = (
        "ask_at_s",
        "chunks",
        "context_tokens",
        "decoding",
        "emits",
        "group",
        "most_tokens",
        "moves",
        "open_to_arrivals",
        "repeat",
        "running",
        "used_blocks",
    )

    def __init__(
        self,
        group: int,
        decoding: int,
        context_tokens: int,
        chunks: tuple[PrefillChunk[S], ...],
        emits: int,
        repeat: int,
        open_to_arrivals: bool,
        running: int,
        used_blocks: int,
        moves: tuple[Move, ...] = NO_MOVES,
        ask_at_s: float | None = None,
        most_tokens: int = 1,
    ) -> None:
        self.group = group
        self.decoding = decoding
        self.context_tokens = context_tokens
        self.chunks = chunks
        self.emits = emits
        self.repeat = repeat
        self.open_to_arrivals = open_to_arrivals
        self.running = running
        self.used_blocks = used_blocks
        self.moves = moves
        self.ask_at_s = ask_at_s
        self.most_tokens = most_tokens


class Idle(NamedTuple):
    """Nothing to do until something happens, or until a time: the body asks again then, if nothing did."""

    wake_at_s: float | None = None


def earlier(one: Idle, other: Idle) -> Idle:
    """Return which of two asks to be woken first."""
    if one.wake_at_s is None or other.wake_at_s is None:
        return other if one.wake_at_s is None else one
    return min(one, other)


def first_tick(time_s: float, ticks_per_s: int) -> int:
    """Return the first tick of a clock whose number of seconds is not below a time: who waits for it is there then."""
    tick = round(time_s * ticks_per_s)
    if tick / ticks_per_s >= time_s:
        return tick
    numerator, denominator = time_s.as_integer_ratio()
    return -(-numerator * ticks_per_s // denominator)


@dataclass
class StepOutcome:
    """What came of a plan: it ends at an iteration boundary, perhaps an earlier one than planned.

    Attributes:
        iterations: that were done.
        stopped: ids of sequences whose last token ended them although they were granted more (a stop token came).
        tokens: by id of each sequence that decodes, how many it has yielded in all of these iterations; None: one each
            in every iteration. Prompts that are complete yield one, and are not named.
    """

    iterations: int
    stopped: Items[int] = ()
    tokens: Mapping[int, int] | None = None


class Applied(Generic[S]):
    """What an outcome changed.

    Attributes:
        first: sequences whose prompt is now complete, with a token out; finished: those that are done.
        leaving: those that decode elsewhere; their KV stays here until `Scheduler.release_after`.
    """

    __slots__ = ("finished", "first", "leaving")

    def __init__(self, first: list[S], finished: list[S], leaving: Items[S] = ()) -> None:
        self.first = first
        self.finished = finished
        self.leaving = leaving


class Shown(NamedTuple):
    """What a batching policy was shown for one iteration, for the decision log.

    Attributes:
        decoding: sequences ready to decode.
        prefilling: those in the middle of their prompts.
        looked: (id, tokens to fill, cached prefix blocks, own KV blocks found again) of the candidates it looked at.
        free_blocks: as in `BatchView`.
    """

    decoding: int
    prefilling: Items[Prefilling]
    looked: Items[tuple[int, int, int, int]]
    free_blocks: int

    def numbers(self) -> list[int]:
        """Return all of it as one list of whole numbers, lengths included."""
        numbers = [self.decoding, self.free_blocks, len(self.prefilling), len(self.looked)]
        for begun in self.prefilling:
            numbers += begun
        for seen in self.looked:
            numbers += seen
        return numbers

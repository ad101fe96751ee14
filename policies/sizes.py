"""How large a worker is: what a scheduler is made with, and why it may refuse a request."""

from dataclasses import dataclass
from typing import Literal

RejectReason = Literal["over_context", "never_fits", "queue_full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a sequence holds where not every layer keeps every token; a KV block belongs to one group of layers.

    Attributes:
        full: groups that keep all: so many KV blocks for each block of tokens.
        windowed: groups with a window: so many for each of the last `window_blocks` blocks of tokens.
        window_blocks: that the window reaches into at most.
        window_tokens: that it shows, a token itself included; 0: no layer has one.
        fixed: KV blocks that a sequence's states fill, whatever its length.
    """

    full: int = 1
    windowed: int = 0
    window_blocks: int = 0
    window_tokens: int = 0
    fixed: int = 0

    def kv_blocks(self, blocks: int) -> int:
        """Return the KV blocks of a sequence of so many blocks of tokens."""
        if not blocks:
            return 0
        return self.full * blocks + self.windowed * min(blocks, self.window_blocks) + self.fixed


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Sizes of one worker.

    Attributes:
        kv_blocks: KV blocks it has; block_tokens: tokens per block.
        max_seqs, token_budget: limits per iteration, see `BatchLimits`.
        max_context_tokens: longest prompt and output together that the model takes.
        watermark_blocks: blocks that admission leaves free, so that an admitted sequence is not preempted at once.
        max_queue: most waiting sequences (None: no bound).
        swap_blocks: KV blocks that host memory can hold; 0 preempts by recomputing.
        prefix_unit_tokens: tokens per shared prefix block (None: prefixes are not shared).
        keep_preempted: a preempted sequence finds again what nobody has written over when it resumes.
        groups: decode groups, one per pipeline stage.
        holding: what a sequence holds where not every layer keeps every token (None: all do).
        draft_tokens: that an iteration guesses for each decoding sequence: it then yields one token up to one more
            than these, and no plan holds beyond its iteration.
        hands_over: sequences leave with their first token, to decode elsewhere.
        padded: batches that only decode are padded to their longest sequence, so that times depend on it.
    """

    kv_blocks: int
    block_tokens: int
    max_seqs: int
    token_budget: int
    max_context_tokens: int
    watermark_blocks: int = 0
    max_queue: int | None = None
    swap_blocks: int = 0
    prefix_unit_tokens: int | None = None
    keep_preempted: bool = False
    groups: int = 1
    holding: Holding | None = None
    draft_tokens: int = 0
    hands_over: bool = False
    padded: bool = False

    @property
    def windowed(self) -> bool:
        """Whether layers have a window, so that plans see less than their contexts."""
        return self.holding is not None and self.holding.window_tokens > 0

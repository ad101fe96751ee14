"""How large a worker is: what a scheduler is made with, and why it may refuse a request."""

from dataclasses import dataclass
from typing import Literal

RejectReason = Literal["over_context", "never_fits", "queue_full"]


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

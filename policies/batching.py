"""Continuous batching: which sequences run in the next iteration."""

from collections.abc import Callable, Mapping

from mypy_extensions import mypyc_attr

from afterwatt.policies.views import BatchDecision, BatchPolicy, BatchView, Chunk, chunk_of

DECODE_ALL = BatchDecision(decode=True)
_NO_BUDGET = 1 << 60


def _whole_prompts(view: BatchView, tokens_left: int) -> tuple[Chunk, ...]:
    """Take waiting sequences in order, each with its whole prompt, while sequences, tokens and blocks last."""
    seats = view.limits.max_seqs - view.decoding - len(view.prefilling)
    if seats <= 0:
        return ()
    blocks_left = view.free_blocks
    chunks: list[Chunk] = []
    for seq_id, tokens, blocks in view.queue:
        if blocks > blocks_left or (tokens > tokens_left and chunks):
            break
        chunks.append(chunk_of((seq_id, tokens)))
        tokens_left -= tokens
        blocks_left -= blocks
        if len(chunks) == seats or tokens_left <= 0:
            break
    return tuple(chunks)


@mypyc_attr(allow_interpreted_subclasses=True)
class PrefillFirst:
    """Prompts interrupt decoding: an iteration is either whole prompts or one token for everybody.

    The scheduler of Orca and of vLLM up to 0.5: shortest TTFT, at the price of stalls in the streams that decode.
    A prompt above the token budget runs alone.
    """

    steady = True

    def select(self, view: BatchView) -> BatchDecision:
        """Admit what fits; decode when nothing does."""
        chunks = _whole_prompts(view, view.limits.token_budget)
        return BatchDecision(decode=False, chunks=chunks) if chunks else DECODE_ALL


@mypyc_attr(allow_interpreted_subclasses=True)
class DecodeFirst:
    """A batch decodes to its end before the next prompts are admitted (request-level batching, FasterTransformer).

    A batch is all that seats and blocks take, its prompts computed at once, whatever the budget of tokens. No stream
    ever stalls; TTFT pays for it.
    """

    steady = True

    def select(self, view: BatchView) -> BatchDecision:
        """Admit only when nothing decodes."""
        if view.decoding:
            return DECODE_ALL
        return BatchDecision(decode=False, chunks=_whole_prompts(view, _NO_BUDGET))


@mypyc_attr(allow_interpreted_subclasses=True)
class ChunkedPrefill:
    """Every iteration decodes everybody and fills the rest of its token budget with pieces of prompts.

    Sarathi-Serve (arXiv:2403.02310) and vLLM's V1 scheduler: bounded stalls at a small cost in TTFT.
    """

    steady = True

    def select(self, view: BatchView) -> BatchDecision:
        """Finish begun prompts first, then admit in queue order while sequences, tokens and blocks last."""
        chunks: list[Chunk] = []
        tokens_left = view.limits.token_budget - view.decoding * view.limits.tokens_each
        if tokens_left <= 0:
            return DECODE_ALL
        for seq_id, tokens in view.prefilling:
            take = min(tokens, tokens_left)
            chunks.append(chunk_of((seq_id, take)))
            tokens_left -= take
            if tokens_left == 0:
                return BatchDecision(True, tuple(chunks))
        seats = view.limits.max_seqs - view.decoding - len(view.prefilling)
        blocks_left = view.free_blocks
        if seats > 0:
            for seq_id, tokens, blocks in view.queue:
                if blocks > blocks_left:
                    break
                take = min(tokens, tokens_left)
                chunks.append(chunk_of((seq_id, take)))
                tokens_left -= take
                blocks_left -= blocks
                seats -= 1
                if tokens_left == 0 or seats == 0:
                    break
        return BatchDecision(True, tuple(chunks)) if chunks else DECODE_ALL


BATCHING: Mapping[str, Callable[..., BatchPolicy]] = {
    "prefill-first": PrefillFirst,
    "chunked": ChunkedPrefill,
    "decode-first": DecodeFirst,
}

"""Work of a phase: FLOPs and bytes of a prefill, of a decode step and of a batch, from a shape.

Every function is pure and exact for what it counts: matrices, attention scores and values, LM head. Left out are norms,
activations and residuals (linear in the hidden size) and the softmax (a few FLOPs per pair and head, where a head's
scores and values take four times its width): under two percent of the FLOPs of any model here. Bytes are those of the
weights and of the cache, each read once per iteration; activations stay out.
"""

from typing import TYPE_CHECKING, TypeVar

from afterwatt.modelspecs.errors import ModelError
from afterwatt.modelspecs.precision import Precision
from afterwatt.modelspecs.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Count = TypeVar("Count", int, "NDArray[np.int64]")


def causal_pairs(new_tokens: int, past_tokens: int = 0) -> int:
    """Query-key pairs when `new_tokens` are processed after `past_tokens` that are already cached.

    The i-th new token sees the past, the new ones before it, and itself.

    Args:
        new_tokens: tokens processed now, 0 or more.
        past_tokens: tokens in the cache, 0 or more.
    """
    if new_tokens < 0 or past_tokens < 0:
        raise ModelError(f"new_tokens = {new_tokens} and past_tokens = {past_tokens} must both be 0 or more")
    return pairs_after(new_tokens, past_tokens)


def pairs_after(new_tokens: Count, past_tokens: Count) -> Count:
    """Return n * p + n * (n + 1) / 2 for n new tokens after p past ones, of numbers or arrays of whole numbers."""
    return new_tokens * past_tokens + new_tokens * (new_tokens + 1) // 2


def windowed_pairs(new_tokens: Count, past_tokens: Count, window: int) -> Count:
    """Return the pairs where a token sees only so many, itself included: the sum of min(p + i, window) over i = 1..n.

    Args:
        new_tokens: n, of numbers or arrays of whole numbers.
        past_tokens: p.
        window: tokens that one sees.
    """
    room = _positive(window - past_tokens)
    growing = room - _positive(room - new_tokens)  # so many of them see all there is
    pairs: Count = pairs_after(growing, past_tokens) + (new_tokens - growing) * window
    return pairs


def _positive(number: Count) -> Count:
    kept: Count = number * (number > 0)
    return kept


def prefill_flops(spec: ModelSpec, new_tokens: int, past_tokens: int = 0) -> int:
    """FLOPs to process a prompt (or a chunk of one) up to its first output token.

    Matrices for every token, attention for every causal pair, the LM head for the last position only. Kaplan et al.
    2020 (arXiv:2001.08361) section 2.1 for the matrices, Narayanan et al. 2021 (arXiv:2104.04473) appendix for the
    attention, here with the causal half only.

    Args:
        spec: the model.
        new_tokens: tokens processed now.
        past_tokens: tokens of the same sequence already in the cache.
    """
    matrices = new_tokens * spec.linear_flops_per_token
    return matrices + causal_pairs(new_tokens, past_tokens) * spec.attention_flops_per_pair + spec.head_flops_per_token


def decode_flops(spec: ModelSpec, context_tokens: int) -> int:
    """FLOPs of one output token of one sequence.

    Args:
        spec: the model.
        context_tokens: tokens it attends to, itself included.
    """
    return prefill_flops(spec, 1, context_tokens - 1)


def weight_bytes_read(spec: ModelSpec, tokens: int, precision: str | Precision) -> float:
    """Weight bytes one iteration reads: every layer once, of its experts those that `tokens` touch, and the head.

    The embedding is a lookup of `tokens` rows and left out. For a dense model this does not depend on `tokens`: that is
    why batching pays (Pope et al. 2022, arXiv:2211.05102, section 2).

    Args:
        spec: the model.
        tokens: tokens in the iteration, 1 or more.
        precision: name in `PRECISIONS`, or one of one's own.
    """
    return spec.layers * spec.layer_bytes(precision, spec.distinct_experts(tokens)) + spec.head_bytes(precision)


def kv_bytes_read(spec: ModelSpec, context_tokens: int, bytes_per_element: float = 2.0) -> float:
    """Cache bytes that one output token of one sequence reads.

    Args:
        spec: the model.
        context_tokens: tokens in the sequence's cache.
        bytes_per_element: 2 for fp16, 1 for an 8-bit cache.
    """
    return context_tokens * spec.kv_bytes_per_token(bytes_per_element)


def decode_intensity(spec: ModelSpec, batch: int, context_tokens: int, precision: str | Precision) -> float:
    """FLOPs per byte of one decode step of `batch` equal sequences: what a roofline compares with a device's ratio.

    Williams et al. 2009, "Roofline" (doi:10.1145/1498765.1498785).

    Args:
        spec: the model.
        batch: sequences.
        context_tokens: tokens each attends to, itself included.
        precision: of the weights; the cache is taken as 16 bit.
    """
    moved = weight_bytes_read(spec, batch, precision) + batch * kv_bytes_read(spec, context_tokens)
    return batch * decode_flops(spec, context_tokens) / moved

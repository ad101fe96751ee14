"""What mixes the tokens of a layer: attention to all, to a window, to latent vectors, or a state of fixed size."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from afterwatt.hwprofiles.kernels import (
    QUERIES_PER_BLOCK,
    AttentionCosts,
    attention_costs,
    beside_sequence_s,
    decode_entry_s,
)
from afterwatt.hwprofiles.operations import ATTENTION, CACHE, Amount, Floats, Term
from afterwatt.hwprofiles.rates import Rates
from afterwatt.hwprofiles.residence import kv_heads_held
from afterwatt.hwprofiles.serving import Serving
from afterwatt.modelspecs.layers import Latent, State

_ALL: Final = 1e18  # tokens: a window that bounds nothing, and may be multiplied by none


class Bounded(NamedTuple):
    """What layers that do not see everything take of plans, in their first iteration; float64, over plans.

    Attributes:
        pieces: prompt pieces.
        entries: KV entries that a layer with a window reads, new ones included; entries_slope: their growth.
        pairs: query-key pairs there; pairs_slope: their growth.
    """

    pieces: Floats
    entries: Floats
    entries_slope: Floats
    pairs: Floats
    pairs_slope: Floats


class StepShape(NamedTuple):
    """Columns of plans, in their first iteration; float64.

    Attributes:
        decoding, context_tokens, emits: as in `TimeModel.step`.
        chunk_tokens, chunk_past: summed over the prompt pieces.
        chunk_pairs: query-key pairs of the prompt pieces (causal); chunk_pairs_slope: their growth per iteration.
    """

    decoding: Floats
    context_tokens: Floats
    emits: Floats
    chunk_tokens: Floats
    chunk_past: Floats
    chunk_pairs: Floats
    chunk_pairs_slope: Floats

    def within(self, window: int | None) -> Bounded:
        """Return what layers with a window take if all sequences are of the same length, in one prompt piece at most.

        Args:
            window: tokens that they look back on; None: all.
        """
        pieces = np.minimum(self.chunk_tokens, 1.0)
        most = _ALL if window is None else float(window)
        decoded = np.minimum(self.context_tokens, self.decoding * most)
        grows = np.where(decoded < self.context_tokens, 0.0, self.decoding)
        past = np.minimum(self.chunk_past, most - 1.0)
        pairs = np.minimum(self.chunk_pairs, self.chunk_tokens * most)
        within = (past == self.chunk_past) & (pairs == self.chunk_pairs)
        entries = decoded + past + self.chunk_tokens
        slope = grows + np.where(within, self.chunk_tokens, 0.0)
        pairs_slope = grows + np.where(within, self.chunk_pairs_slope, 0.0)
        return Bounded(pieces, entries, slope, decoded + pairs, pairs_slope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Attention of one layer, per thing counted.

    Attributes:
        costs: seconds on each GPU, as for prompts.
        decode_entry_s: per KV entry of sequences that decode by themselves.
        beside_entry_s, beside_sequence_s: per KV entry and sequence of those that decode beside prompts.
        entry_elements: of the keys and values of a token, on all GPUs; entry_element_bytes: of one.
        pair_flops: per query-key pair, on all GPUs.
        past_s: per KV entry before a prompt piece, on top of what reading it takes.
    """

    costs: AttentionCosts
    decode_entry_s: float
    beside_entry_s: float
    beside_sequence_s: float
    entry_elements: float
    entry_element_bytes: float
    pair_flops: float
    past_s: float = 0.0

    def terms(self, shape: StepShape, times: int) -> tuple[Term, ...]:
        """Return what is read and multiplied, and the new keys and values that are written.

        Each entry is read once per decoding sequence or prompt piece, its new ones included.
        """
        tokens = shape.decoding + shape.chunk_tokens
        read = Amount(self.entry_elements, shape.context_tokens + shape.chunk_past + shape.chunk_tokens, tokens)
        pairs = shape.context_tokens + shape.chunk_pairs
        flops = Amount(self.pair_flops, pairs, shape.decoding + shape.chunk_pairs_slope)
        written = Term(CACHE, times, Amount(self.entry_elements, tokens), self.entry_element_bytes)
        return Term(ATTENTION, times, read, self.entry_element_bytes, flops), written

    def windowed_terms(self, shape: StepShape, bounded: Bounded, times: int) -> tuple[Term, Term]:
        """Return the same of layers with a window."""
        read = Amount(self.entry_elements, bounded.entries, bounded.entries_slope)
        flops = Amount(self.pair_flops, bounded.pairs, bounded.pairs_slope)
        written = Amount(self.entry_elements, shape.decoding + shape.chunk_tokens)
        return (
            Term(ATTENTION, times, read, self.entry_element_bytes, flops),
            Term(CACHE, times, written, self.entry_element_bytes),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention(Attention):
    """Attention to vectors that stand for the keys and values of all heads (DeepSeek-V2, arXiv:2405.04434).

    Who decodes multiplies with the vectors themselves: the matrix that unfolds them is absorbed into queries and
    outputs. Prompts unfold keys and values first, also those of what was cached before a piece (vLLM, MLACommonImpl).
    Every GPU keeps the whole of each vector.

    Attributes:
        prompt_elements: of the keys and values of a token, unfolded, on all GPUs; prompt_element_bytes: of one.
        prompt_pair_flops: per query-key pair of a prompt, on all GPUs.
        unfold_flops: per vector, on all GPUs.
    """

    prompt_elements: float
    prompt_element_bytes: float
    prompt_pair_flops: float
    unfold_flops: float

    def terms(self, shape: StepShape, times: int) -> tuple[Term, ...]:
        """Return what decoding and prompts read and multiply, what is unfolded, and what is written."""
        decoding, size = shape.decoding, shape.chunk_tokens
        read = Amount(self.entry_elements, shape.context_tokens, decoding)
        flops = Amount(self.pair_flops, shape.context_tokens, decoding)
        unfolded = Amount(self.prompt_elements, shape.chunk_past + size, size)
        multiplied = Amount(self.prompt_pair_flops, shape.chunk_pairs, shape.chunk_pairs_slope)
        return (
            Term(ATTENTION, times, read, self.entry_element_bytes, flops),
            Term(ATTENTION, times, unfolded, self.prompt_element_bytes, multiplied),
            Term(
                CACHE,
                times,
                Amount(self.entry_elements, shape.chunk_past, size),
                self.entry_element_bytes,
                Amount(self.unfold_flops, shape.chunk_past, size),
            ),
            Term(CACHE, times, Amount(self.prompt_elements, shape.chunk_past, size), self.prompt_element_bytes),
            Term(CACHE, times, Amount(self.entry_elements, decoding + size), self.entry_element_bytes),
        )


@dataclass(frozen=True, slots=True)
class StateUpdate:
    """Reading, changing and writing a state that does not grow: in order of its tokens, whatever their number.

    Attributes:
        state: what it is.
        sequence_s: per sequence and iteration, on each GPU.
        token_s: per token, on each GPU.
    """

    state: State
    sequence_s: float
    token_s: float

    def seconds(self, tokens: int) -> float:
        """Return the seconds of the tokens' arithmetic."""
        return tokens * self.token_s

    def term(self, tokens: Floats, times: int) -> Term:
        """Return the tokens' arithmetic."""
        return Term(ATTENTION, times, flops=Amount(float(self.state.flops_per_token), tokens))

    def moved(self, sequences: Floats, times: int) -> Term:
        """Return what so many sequences' states take to be read and written."""
        return Term(ATTENTION, times, Amount(2.0 * self.state.state_bytes, sequences), 1.0)


_LATENT_BLOCK: Final = QUERIES_PER_BLOCK
"""Heads whose queries a thread block multiplies with the vectors (FlashMLA's block of rows)."""


def attention_of(serving: Serving, rates: Rates) -> Attention:
    """Describe attention of a layer of what is served.

    Args:
        serving: what is computed, and where.
        rates: what its GPUs reach.
    """
    model, stack, tp = serving.model, serving.stack, serving.pool.tp
    if model.latent is not None:
        return _latent_attention(serving, rates, model.latent)
    heads, kv_heads = model.heads / tp, kv_heads_held(model, tp)
    widths = (stack.kv_bytes_per_element, stack.activation_bytes_per_element)
    costs = attention_costs(heads, kv_heads, model.head_dim, rates.attention, *widths)
    return Attention(
        costs=costs,
        decode_entry_s=decode_entry_s(costs),
        beside_entry_s=decode_entry_s(costs, stack.mixed_query_rows),
        beside_sequence_s=beside_sequence_s(rates.attention, heads, kv_heads, stack.mixed_query_rows),
        entry_elements=2.0 * kv_heads * tp * model.head_dim,
        entry_element_bytes=float(stack.kv_bytes_per_element),
        pair_flops=4.0 * model.heads * model.head_dim,
    )


def _latent_attention(serving: Serving, rates: Rates, latent: Latent) -> LatentAttention:
    model, stack, tp = serving.model, serving.stack, serving.pool.tp
    kept, moved = float(stack.kv_bytes_per_element), float(stack.activation_bytes_per_element)
    heads, reached = model.heads / tp, rates.attention
    wide = latent.nope_dim + latent.rope_dim + latent.value_dim
    blocks_s = max(1.0, heads / _LATENT_BLOCK) * reached.block_s
    costs = attention_costs(heads, heads, wide / 2.0, reached, moved, moved)._replace(sequence_s=blocks_s)
    pair_flops = 2.0 * (2.0 * latent.kv_rank + latent.rope_dim)
    entry_s = latent.cached * kept / reached.bytes_per_s
    pair_s = heads * pair_flops / reached.flops_per_s + heads * reached.score_bytes / reached.bytes_per_s
    unfold_flops = 2.0 * latent.kv_rank * (latent.nope_dim + latent.value_dim)
    written_s = heads * wide * moved / reached.bytes_per_s
    return LatentAttention(
        costs=costs,
        decode_entry_s=entry_s + pair_s,
        beside_entry_s=entry_s + pair_s,
        beside_sequence_s=blocks_s,
        entry_elements=float(latent.cached * tp),
        entry_element_bytes=kept,
        pair_flops=model.heads * pair_flops,
        past_s=entry_s + written_s + heads * unfold_flops / rates.matrices.flops_per_s,
        prompt_elements=float(model.heads * wide),
        prompt_element_bytes=moved,
        prompt_pair_flops=2.0 * model.heads * wide,
        unfold_flops=model.heads * unfold_flops,
    )


def state_update_of(serving: Serving, rates: Rates) -> StateUpdate | None:
    """Describe what a layer with a state takes besides its matrices; None where there is no such layer."""
    state, tp = serving.model.state, serving.pool.tp
    if state is None:
        return None
    sequence_s = 2.0 * state.state_bytes / tp / rates.attention.bytes_per_s
    return StateUpdate(state, sequence_s, state.flops_per_token / tp / rates.attention.flops_per_s)

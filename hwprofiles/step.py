"""What an iteration of a transformer consists of: the one place that knows.

A layer is a tuple of operations (`hwprofiles.operations`), the LM head is one more. Attention alone also depends on
contexts, evenly: it is given by its costs per entry, pair and sequence.

Time (`hwprofiles.roofline`), what energy follows from (`hwprofiles.effort`) and memory (`hwprofiles.residence`) are
sums over these. A model with another kind of layer has another tuple.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from afterwatt.hwprofiles.kernels import AttentionCosts, attention_costs, beside_sequence_s, decode_entry_s
from afterwatt.hwprofiles.operations import (
    ATTENTION,
    CACHE,
    HEAD,
    LINKS,
    MATRICES,
    ROUTER,
    AllReduces,
    Amount,
    Experts,
    Floats,
    Operation,
    Products,
    Small,
    Term,
)
from afterwatt.hwprofiles.rates import reached_rates
from afterwatt.hwprofiles.residence import kv_heads_held
from afterwatt.hwprofiles.serving import Serving

_ROUTER_BYTES: Final = 2.0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Attention of one layer, per thing counted.

    Attributes:
        costs: seconds on each GPU, as for prompts.
        decode_entry_s: per KV entry of sequences that decode by themselves.
        beside_entry_s, beside_sequence_s: per KV entry and sequence of those that decode beside prompts.
        entry_elements: of the keys and values of a token, on all GPUs; entry_element_bytes: of one.
        pair_flops: per query-key pair, on all GPUs.
    """

    costs: AttentionCosts
    decode_entry_s: float
    beside_entry_s: float
    beside_sequence_s: float
    entry_elements: float
    entry_element_bytes: float
    pair_flops: float

    def terms(self, shape: StepShape, times: int) -> tuple[Term, Term]:
        """Return what is read and multiplied, and the new keys and values that are written.

        Each entry is read once per decoding sequence or prompt piece, its new ones included.
        """
        tokens = shape.decoding + shape.chunk_tokens
        read = Amount(self.entry_elements, shape.context_tokens + shape.chunk_past + shape.chunk_tokens, tokens)
        pairs = shape.context_tokens + shape.chunk_pairs
        flops = Amount(self.pair_flops, pairs, shape.decoding + shape.chunk_pairs_slope)
        written = Term(CACHE, times, Amount(self.entry_elements, tokens), self.entry_element_bytes)
        return Term(ATTENTION, times, read, self.entry_element_bytes, flops), written


class StepModel:
    """An iteration of what is served.

    Attributes:
        serving: what is computed, and where.
        rates: what its GPUs reach.
        layer: operations of one layer, in order; attention: beside them.
        head: the LM head's product.
    """

    def __init__(self, serving: Serving) -> None:
        pool, model, stack = serving.pool, serving.model, serving.stack
        self.serving = serving
        self.rates = reached_rates(pool.device, pool.ecc_on, serving.precision, stack)
        self._token_bytes = model.hidden * float(stack.activation_bytes_per_element)
        self.attention = self._attention()
        self.layer = self._layer()
        self.head = Products(
            HEAD,
            ((float(model.hidden), model.head_params / model.hidden / pool.tp),),
            model.head_params,
            serving.precision.bytes_per_head,
            self.rates.head,
            float(stack.activation_bytes_per_element),
        )

    def _attention(self) -> Attention:
        serving, rates = self.serving, self.rates.attention
        model, stack, tp = serving.model, serving.stack, serving.pool.tp
        heads, kv_heads = model.heads / tp, kv_heads_held(model, tp)
        widths = (stack.kv_bytes_per_element, stack.activation_bytes_per_element)
        costs = attention_costs(heads, kv_heads, model.head_dim, rates, *widths)
        return Attention(
            costs=costs,
            decode_entry_s=decode_entry_s(costs),
            beside_entry_s=decode_entry_s(costs, stack.mixed_query_rows),
            beside_sequence_s=beside_sequence_s(rates, heads, kv_heads, stack.mixed_query_rows),
            entry_elements=2.0 * kv_heads * tp * model.head_dim,
            entry_element_bytes=float(stack.kv_bytes_per_element),
            pair_flops=4.0 * model.heads * model.head_dim,
        )

    def _layer(self) -> tuple[Operation, ...]:
        model, stack, tp = self.serving.model, self.serving.stack, self.serving.pool.tp
        hidden, inner = float(model.hidden), float(model.heads * model.head_dim) / tp
        keys_and_values = 2.0 * kv_heads_held(model, tp) * model.head_dim
        projections = Products(
            MATRICES,
            ((hidden, inner + keys_and_values), (inner, hidden)),
            model.attention_matrix_params,
            self.serving.precision.bytes_per_attention_weight,
            self.rates.matrices,
            float(stack.activation_bytes_per_element),
        )
        costs = self.attention.costs
        between_s = _traffic_bytes(self.serving) / self.rates.matrices.bytes_per_s
        small = (Small(costs.latency_s + stack.layer_overhead_s, 0.0), Small(0.0, costs.token_s + between_s))
        reduces = (AllReduces(self.serving, self._token_bytes),) if tp > 1 else ()
        return (projections, *self._ffn(), *small, *reduces)

    def _ffn(self) -> tuple[Operation, ...]:
        """Return a dense feed-forward network, or a router, its experts and the one that all tokens share."""
        model, stack, rates = self.serving.model, self.serving.stack, self.rates
        hidden, width, inner = float(model.hidden), model.ffn / self.serving.pool.tp, model.ffn_matrices - 1.0
        weight_bytes, moved = self.serving.precision.bytes_per_weight, float(stack.activation_bytes_per_element)
        if model.experts == 1:
            shapes = ((hidden, inner * width), (width, hidden))
            return (Products(MATRICES, shapes, model.ffn_matrix_params, weight_bytes, rates.matrices, moved),)
        to_all, overhead_s = ((hidden, float(model.experts)),), float(stack.router_overhead_s)
        router = Products(ROUTER, to_all, model.layer_router_params, _ROUTER_BYTES, rates.router, moved, overhead_s)
        experts = Experts(
            hidden=hidden,
            width=width,
            inner=inner,
            experts=model.experts,
            active=model.active_experts,
            weights=model.ffn_matrix_params,
            weight_bytes=weight_bytes,
            rates=rates.experts,
            activation_bytes=moved,
        )
        if not model.shared_ffn:
            return router, experts
        shared = model.shared_ffn / self.serving.pool.tp
        shapes, weights = (
            ((hidden, inner * shared), (shared, hidden)),
            model.ffn_matrices * model.hidden * model.shared_ffn,
        )
        return router, experts, Products(MATRICES, shapes, weights, weight_bytes, rates.matrices, moved)

    def layer_s(self, tokens: int) -> float:
        """Return the seconds of a layer over this many tokens, but for what attention reads and multiplies."""
        return sum(operation.seconds(tokens) for operation in self.layer)

    def hop_s(self, tokens: int) -> float:
        """Return the seconds to hand this many tokens' activations to the next pipeline stage."""
        stack, link = self.serving.stack, self.serving.stage_link
        rate = float(link.bytes_per_s) * stack.comm_efficiency
        return float(link.latency_s) + stack.comm_latency_s + tokens * self._token_bytes / rate

    def terms(self, shape: StepShape) -> list[Term]:
        """Return what every kind of kernel takes: of the layers, of what runs once, and of attention."""
        tokens, layers = shape.decoding + shape.chunk_tokens, self.serving.model.layers
        hops = Amount((self.serving.pool.pp - 1) * self._token_bytes, tokens)
        return [
            *(operation.term(tokens, layers) for operation in self.layer),
            self.head.term(shape.emits, 1),
            Term(LINKS, 1, link_bytes=hops),
            *self.attention.terms(shape, layers),
        ]


def _traffic_bytes(serving: Serving) -> float:
    """Return bytes per token that a layer moves on one GPU outside of matrix products and attention.

    Norms with their residual (two vectors read, two written), rotary embedding of queries and keys (read, written), the
    activation between the FFN's matrices (its inputs read, its output written), new keys and values written.
    """
    model, stack, tp = serving.model, serving.stack, serving.pool.tp
    kv_heads = kv_heads_held(model, tp)
    norms = 4.0 * model.norms_per_layer * model.hidden
    rotary = 2.0 * (model.heads / tp + kv_heads) * model.head_dim
    between = model.ffn_matrices * (model.ffn * model.active_experts + model.shared_ffn) / tp
    written = 2.0 * kv_heads * model.head_dim * stack.kv_bytes_per_element
    return (norms + rotary + between) * stack.activation_bytes_per_element + written

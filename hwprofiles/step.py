"""What an iteration of a transformer consists of: the one place that knows.

Each kind of layer is a tuple of operations (`hwprofiles.operations`), the LM head is one more. What mixes tokens
(`hwprofiles.mixers`) also depends on contexts and sequences, evenly: it is given by its costs per entry, pair and
sequence.

Time (`hwprofiles.roofline`), what energy follows from (`hwprofiles.effort`) and memory (`hwprofiles.residence`) are
sums over these. A model with another kind of layer has another tuple.
"""

from collections.abc import Mapping
from typing import Final

from afterwatt.hwprofiles.experts import reach_frac
from afterwatt.hwprofiles.mixers import Bounded, StepShape, attention_of, state_update_of
from afterwatt.hwprofiles.operations import (
    HEAD,
    LINKS,
    MATRICES,
    ROUTER,
    AllReduces,
    AllToAlls,
    Amount,
    Experts,
    Operation,
    Products,
    Small,
    Term,
)
from afterwatt.hwprofiles.rates import reached_rates
from afterwatt.hwprofiles.residence import kv_heads_held
from afterwatt.hwprofiles.serving import Serving
from afterwatt.modelspecs.layers import FULL, ROUTED, STATE, WINDOW, Latent, LayerKind, State

_ROUTER_BYTES: Final = 2.0

Shapes = tuple[tuple[float, float], ...]


class StepModel:
    """An iteration of what is served.

    Args:
        serving: what is computed, and where.
        kinds: layers that the GPUs compute; None: all of the model's.

    Attributes:
        serving: what is computed, and where.
        rates: what its GPUs reach.
        kinds: how many layers there are of each kind; layers: operations of each kind, in order.
        attention, state: what mixes their tokens, beside those.
        head: the LM head's product.
    """

    def __init__(self, serving: Serving, kinds: Mapping[LayerKind, int] | None = None) -> None:
        pool, model, stack = serving.pool, serving.model, serving.stack
        self.serving = serving
        self.rates = reached_rates(pool.device, pool.ecc_on, serving.precision, stack)
        self._moved = float(stack.activation_bytes_per_element)
        self._token_bytes = model.hidden * self._moved
        self.attention = attention_of(serving, self.rates)
        self.state = state_update_of(serving, self.rates)
        self.kinds = model.kinds() if kinds is None else kinds
        self.layers: dict[LayerKind, tuple[Operation, ...]] = {kind: self._layer(kind) for kind in self.kinds}
        self._seeing = {mixer: count_mixers(self.kinds, mixer) for mixer in (FULL, WINDOW, STATE)}
        shape = (float(model.hidden), model.head_params / model.hidden / pool.tp)
        head_bytes = serving.precision.bytes_per_head
        self.head = Products(HEAD, (shape,), model.head_params, head_bytes, self.rates.head, self._moved)

    @property
    def window(self) -> int | None:
        """Tokens that layers with a window look back on; None where there is no such layer."""
        return self.serving.model.window

    def _layer(self, kind: LayerKind) -> tuple[Operation, ...]:
        stack, costs = self.serving.stack, self.attention.costs
        parts = (kind.mixer is not None) + (kind.network is not None)
        latency_s = costs.latency_s if kind.mixer is not None else 0.0
        token_s = costs.token_s if kind.mixer in (FULL, WINDOW) else 0.0
        between_s = _traffic_bytes(self.serving, kind) / self.rates.matrices.bytes_per_s
        overhead_s = stack.layer_overhead_s * (parts / 2.0)
        small = (Small(latency_s + overhead_s, 0.0), Small(0.0, token_s + between_s))
        return (*self._mixer(kind), *self._network(kind), *small, *self._collectives(kind, parts))

    def _collectives(self, kind: LayerKind, parts: int) -> tuple[Operation, ...]:
        """Return what a layer's GPUs send one another.

        An all-reduce behind each part over the GPUs of a replica. Experts that replicas share get their tokens by an
        all-to-all instead, each of the replica's GPUs sending its part: then a half, the gathering, is left of the
        all-reduce, and the whole where there is a shared expert, whose parts are summed.
        """
        serving, model, pool = self.serving, self.serving.model, self.serving.pool
        exchanged = kind.network == "experts" and pool.sharing > 1
        count = parts - 0.5 if exchanged and not model.shared_ffn else float(parts)
        reduces = (AllReduces(serving, self._token_bytes, count),) if pool.tp > 1 and parts > 0 else ()
        if not exchanged:
            return reduces
        nearby = pool.host.gpus(pool.device)
        across = pool.ep - (nearby if pool.ep > nearby else 1)
        sent = AllToAlls(
            link=serving.expert_link,
            efficiency=float(serving.stack.comm_efficiency),
            latency_s=float(serving.stack.comm_latency_s),
            token_bytes=self._token_bytes,
            reached=across * reach_frac(model.experts, model.active_experts, pool.ep),
            split=pool.tp,
            imbalance=pool.expert_load,
        )
        return (*reduces, sent)

    def _mixer(self, kind: LayerKind) -> tuple[Operation, ...]:
        """Return the matrices around what mixes a layer's tokens, and a state's arithmetic."""
        model, tp = self.serving.model, self.serving.pool.tp
        if kind.mixer is None:
            return ()
        hidden, weights = float(model.hidden), model.mixer_params(kind)[0]
        if kind.mixer == STATE and model.state is not None and self.state is not None:
            shapes = _state_shapes(model.state, hidden, tp)
            return self._products(shapes, weights), self.state
        if model.latent is not None:
            copied = (tp - 1) * model.latent.copied_params(model.hidden)
            return (self._products(_latent_shapes(model.latent, hidden, model.heads / tp), weights + copied),)
        inner = float(model.heads * model.head_dim) / tp
        keys_and_values = 2.0 * kv_heads_held(model, tp) * model.head_dim
        queries = 2.0 * inner if model.query_gate else inner
        return (self._products(((hidden, queries + keys_and_values), (inner, hidden)), weights),)

    def _products(self, shapes: Shapes, weights: int) -> Products:
        weight_bytes = self.serving.precision.bytes_per_attention_weight
        return Products(MATRICES, shapes, weights, weight_bytes, self.rates.matrices, self._moved)

    def _network(self, kind: LayerKind) -> tuple[Operation, ...]:
        """Return a dense feed-forward network, or a router, its experts and the one that all tokens share."""
        model, stack, rates = self.serving.model, self.serving.stack, self.rates
        weight_bytes, inner = self.serving.precision.bytes_per_weight, model.ffn_matrices - 1.0
        if kind.network is None:
            return ()
        if kind.network == "dense":
            return (self._dense(model.dense_width),)
        hidden, pool = float(model.hidden), self.serving.pool
        to_all, overhead_s = ((hidden, float(model.experts)),), float(stack.router_overhead_s)
        routed = model.layer_router_params
        router = Products(ROUTER, to_all, routed, _ROUTER_BYTES, rates.router, self._moved, overhead_s)
        shared = (self._dense(model.shared_ffn),) if model.shared_ffn else ()
        if kind.network == ROUTED:
            return (router, *shared)
        experts = Experts(
            hidden=hidden,
            width=model.ffn / (pool.tp if pool.ep == 1 else 1),
            inner=inner,
            experts=model.experts,
            active=model.active_experts,
            weights=model.ffn_matrix_params,
            weight_bytes=weight_bytes,
            rates=rates.experts,
            activation_bytes=self._moved,
            ways=pool.ep,
            sharing=pool.sharing,
            imbalance=pool.expert_load,
        )
        return (router, experts, *shared)

    def _dense(self, width: int) -> Products:
        """Return a network that all tokens pass through."""
        model, weight_bytes = self.serving.model, self.serving.precision.bytes_per_weight
        hidden, own, inner = float(model.hidden), width / self.serving.pool.tp, model.ffn_matrices - 1.0
        shapes, weights = ((hidden, inner * own), (own, hidden)), model.ffn_matrices * model.hidden * width
        return Products(MATRICES, shapes, weights, weight_bytes, self.rates.matrices, self._moved)

    def layers_s(self, tokens: int, kinds: Mapping[LayerKind, int]) -> float:
        """Return the seconds of layers over this many tokens, but for what depends on contexts and sequences.

        Args:
            tokens: in the iteration.
            kinds: how many layers of each kind.
        """
        return sum(
            count * sum(operation.seconds(tokens) for operation in self.layers[kind]) for kind, count in kinds.items()
        )

    def hop_s(self, tokens: int) -> float:
        """Return the seconds to hand this many tokens' activations to the next pipeline stage."""
        stack, link = self.serving.stack, self.serving.stage_link
        rate = float(link.bytes_per_s) * stack.comm_efficiency
        return float(link.latency_s) + stack.comm_latency_s + tokens * self._token_bytes / rate

    def terms(self, shape: StepShape, bounded: Bounded | None = None) -> list[Term]:
        """Return what every kind of kernel takes: of the layers, of what runs once, and of what mixes tokens.

        Args:
            shape: of the plans.
            bounded: what layers with a window or a state take of them; None: as sequences of the same length would.
        """
        tokens = shape.decoding + shape.chunk_tokens
        hops = Amount((self.serving.pool.pp - 1) * self._token_bytes, tokens)
        full, windowed, states = (self._seeing[mixer] for mixer in (FULL, WINDOW, STATE))
        terms = [
            *(operation.term(tokens, count) for kind, count in self.kinds.items() for operation in self.layers[kind]),
            self.head.term(shape.emits, 1),
            Term(LINKS, 1, link_bytes=hops),
        ]
        if full:
            terms += self.attention.terms(shape, full)
        if windowed or states:
            bounded = shape.within(self.window) if bounded is None else bounded
            if windowed:
                terms += self.attention.windowed_terms(shape, bounded, windowed)
            if states and self.state is not None:
                terms.append(self.state.moved(shape.decoding + bounded.pieces, states))
        return terms


def count_mixers(kinds: Mapping[LayerKind, int], mixer: str) -> int:
    """Return how many layers mix tokens in one way."""
    return sum(count for kind, count in kinds.items() if kind.mixer == mixer)


def _latent_shapes(latent: Latent, hidden: float, heads: float) -> Shapes:
    """Return matrices of latent attention on one GPU: what leads to the vectors is there whole, on each."""
    queries = heads * (latent.nope_dim + latent.rope_dim)
    unfolded = heads * (latent.nope_dim + latent.value_dim)
    squeezed: Shapes = ((hidden, queries), (hidden, float(latent.cached)))
    if latent.q_rank is not None:
        squeezed = ((hidden, float(latent.q_rank + latent.cached)), (float(latent.q_rank), queries))
    return (*squeezed, (float(latent.kv_rank), unfolded), (heads * latent.value_dim, hidden))


def _state_shapes(state: State, hidden: float, tp: int) -> Shapes:
    """Return the matrices into and out of a mixer with a state, on one GPU."""
    into = state.matrix_params / hidden - state.width
    return ((hidden, into / tp), (state.width / tp, hidden))


def _traffic_bytes(serving: Serving, kind: LayerKind) -> float:
    """Return bytes per token that a layer moves on one GPU outside of matrix products and attention.

    Norms with their residual (two vectors read, two written), rotary embedding of queries and keys (read, written), the
    activation between the FFN's matrices (its inputs read, its output written), new keys and values written; what goes
    into a mixer with a state and comes out of it.
    """
    model, stack, tp = serving.model, serving.stack, serving.pool.tp
    norms, rotary, between, written = 4.0 * model.norms_per_layer * model.hidden, 0.0, 0.0, 0.0
    if kind.mixer == STATE and model.state is not None:
        rotary = model.state.matrix_params / model.hidden / tp
    elif kind.mixer is not None and model.latent is not None:
        rotary = 2.0 * (model.heads / tp + 1.0) * model.latent.rope_dim
        written = model.latent.cached * float(stack.kv_bytes_per_element)
    elif kind.mixer is not None:
        kv_heads = kv_heads_held(model, tp)
        rotary = 2.0 * (model.heads / tp + kv_heads) * model.head_dim
        written = 2.0 * kv_heads * model.head_dim * stack.kv_bytes_per_element
    if kind.network == "dense":
        between = model.ffn_matrices * model.dense_width / tp
    elif kind.network is not None:
        routed = 0 if kind.network == ROUTED else model.ffn * model.active_experts
        between = model.ffn_matrices * (routed + model.shared_ffn) / tp
    return (norms + rotary + between) * stack.activation_bytes_per_element + written

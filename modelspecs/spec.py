"""`ModelSpec`: the shape of a decoder-only transformer, and every count that follows from it.

Nothing here knows hardware or time. Parameter counts are exact (biases, norms, learned positions); FLOPs count two per
multiply-accumulate and leave out what is linear in the hidden size (norms, activations, residuals, biases).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar, get_args

from afterwatt.modelspecs import gguf
from afterwatt.modelspecs.errors import ModelError
from afterwatt.modelspecs.layers import STATE, WINDOW, Latent, LayerKind, State, check_pattern, layer_kinds
from afterwatt.modelspecs.precision import Precision, load_precision
from afterwatt.modelspecs.stored import Stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Real = TypeVar("Real", float, "NDArray[np.float64]")

NORM_VECTORS: Mapping[str, int] = MappingProxyType({"rms": 1, "layer": 2, "layer-plain": 0})
"""Learned vectors of the hidden size per norm: RMSNorm has a gain, LayerNorm a gain and a bias, or neither."""

_UPPER_BOUNDS: Mapping[str, int] = MappingProxyType(
    {
        "layers": 2_000,
        "hidden": 1_000_000,
        "heads": 10_000,
        "kv_heads": 10_000,
        "head_dim": 10_000,
        "ffn": 10_000_000,
        "experts": 10_000,
        "active_experts": 10_000,
        "vocab": 100_000_000,
        "max_context": 100_000_000,
        "norms_per_layer": 4,
        "embedding_width": 1_000_000,
        "sliding_window": 100_000_000,
        "dense_ffn": 10_000_000,
        "published_params": 10**15,
        "published_rounding": 10**12,
    }
)
"""Sizes far beyond any model ever built: past them a value is a slip (a unit, a wrong field), not a shape."""

MADE_UP = "generic"
"""Family of shapes that are made from a parameter count (`modelspecs.generic`)."""

_OPTIONAL = frozenset(
    {"embedding_width", "sliding_window", "dense_ffn", "latent", "state", "stored", "published_params"}
)
_COUNTS_FROM_ZERO = (
    "learned_positions",
    "published_excess",
    "layer_vectors",
    "expert_vectors",
    "shared_ffn",
    "dense_layers",
)
_TYPE_WORDS: Mapping[object, str] = MappingProxyType({int: "a whole number", bool: "true or false", str: "a text"})


def experts_touched(experts: Real, active: Real, tokens: Real) -> Real:
    """Return the expected experts of a layer that tokens touch, each sent to a uniformly drawn set.

    An expert is missed by a token with probability 1 - k/E, so E * (1 - (1 - k/E)^n) are expected to be touched. Real
    routers are less even, which touches fewer.

    Args:
        experts: in the layer.
        active: that each token is sent to.
        tokens: in the iteration.
    """
    return experts * (1.0 - (1.0 - active / experts) ** tokens)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of one decoder-only transformer.

    Attributes:
        name: how reports call it.
        family: architecture family (llama, mistral, qwen3, gemma2, ...: `modelspecs.hf.READERS`), or `generic`.
        layers: transformer blocks.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key/value heads (fewer than heads: grouped-query; 1: multi-query attention).
        head_dim: width of one head; heads * head_dim need not equal hidden.
        ffn: intermediate width of one expert's feed-forward network.
        ffn_matrices: 3 for gated networks (gate, up, down), 2 for plain ones.
        experts: feed-forward networks per layer; 1 is a dense model.
        active_experts: experts that one token passes through.
        vocab: rows of the embedding table.
        tied_embeddings: the LM head is the embedding table, stored once.
        max_context: prompt plus output tokens the model was built for.
        learned_positions: rows of a learned position table (0: rotary or ALiBi).
        qkv_bias: biases on the query, key and value projections.
        attention_out_bias: bias on the attention's output projection.
        ffn_bias: biases on the feed-forward matrices.
        norm: "rms", "layer", or "layer-plain" (LayerNorm without learned vectors).
        norms_per_layer: 2 as a rule; 1 where attention and FFN share one (Falcon-7B).
        final_norm: a norm after the last layer.
        embedding_norm: a norm right after the embedding (BLOOM).
        head_bias: a bias on the LM head (GPT-J, Phi-2).
        layer_vectors: parameters of the vectors of a layer with attention that nothing else here names: query and key
            norms (Qwen3, Gemma 3), attention sinks and the router's bias (gpt-oss).
        query_gate: queries come with a gate on attention's output, as wide as they are (Qwen3-Next).
        expert_vectors: the same of a layer with experts: the router's bias (DeepSeek-V3), the shared expert's gate.
        shared_ffn: width of the network beside the experts that every token passes through; 0: none.
        dense_layers: how many layers of a mixture have one dense network instead, counted as the first ones.
        dense_ffn: its width; None: as an expert's.
        embedding_width: columns of the embedding table; None: hidden. Others are projected in and out (OPT-350m).
        parallel_attention: attention and FFN read the same input and are added (Falcon).
        sliding_window: tokens a position can look back on in layers with a window, None if there are none.
        pattern: one letter per layer, repeated as often as needed (`layers.PATTERN_LETTERS`); empty: all alike, with a
            window if there is one.
        latent: latent attention in place of keys and values per head.
        state: what layers keep that have no cache.
        stored: how its checkpoint stores the weights, None: in 16 bits.
        notes: what a reader must know of how the shape was read.
        published_params: parameter count as published, None if unknown.
        published_rounding: 1 if that is a count; for a name such as "30B" the unit it is rounded to.
        published_excess: elements of a published count that are no parameters or are counted twice.
        published_source: where that count is published, and what the excess is.
        source: where the shape comes from.
        checked: date (ISO) on which it was read there; empty for a file of the user's own.
    """

    name: str
    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    ffn_matrices: int
    vocab: int
    max_context: int
    norm: str
    experts: int = 1
    active_experts: int = 1
    tied_embeddings: bool = False
    learned_positions: int = 0
    qkv_bias: bool = False
    attention_out_bias: bool = False
    ffn_bias: bool = False
    norms_per_layer: int = 2
    final_norm: bool = True
    embedding_norm: bool = False
    head_bias: bool = False
    layer_vectors: int = 0
    embedding_width: int | None = None
    parallel_attention: bool = False
    query_gate: bool = False
    expert_vectors: int = 0
    shared_ffn: int = 0
    dense_layers: int = 0
    dense_ffn: int | None = None
    sliding_window: int | None = None
    pattern: str = ""
    latent: Latent | None = None
    state: State | None = None
    stored: Stored | None = None
    notes: tuple[str, ...] = ()
    published_params: int | None = None
    published_rounding: int = 1
    published_excess: int = 0
    published_source: str = ""
    source: str = ""
    checked: str = ""

    def __post_init__(self) -> None:
        for field in (field for field in fields(self) if field.name != "notes"):
            self._check_type(field.name, next(iter(get_args(field.type)), field.type))
        for name, upper in _UPPER_BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= upper:
                raise ModelError(f"{self.name}: {name} = {value} is out of range; expected 1 to {upper:,}")
        for name in _COUNTS_FROM_ZERO:
            if getattr(self, name) < 0:
                raise ModelError(f"{self.name}: {name} = {getattr(self, name)} must be 0 (none) or more")
        if self.ffn_matrices not in (2, 3):
            raise ModelError(f"{self.name}: ffn_matrices = {self.ffn_matrices} must be 2 (plain) or 3 (gated)")
        if self.heads % self.kv_heads:
            raise ModelError(f"{self.name}: kv_heads = {self.kv_heads} must divide heads = {self.heads}")
        if self.active_experts > self.experts:
            raise ModelError(f"{self.name}: active_experts = {self.active_experts} exceeds experts = {self.experts}")
        if self.norm not in NORM_VECTORS:
            raise ModelError(f"{self.name}: norm = {self.norm!r} must be one of {', '.join(NORM_VECTORS)}")
        if self.dense_layers > self.layers:
            raise ModelError(f"{self.name}: dense_layers = {self.dense_layers} exceeds layers = {self.layers}")
        if self.pattern:
            check_pattern(self.name, self.pattern, self.sliding_window is not None, self.state is not None)

    def _check_type(self, name: str, expected: object) -> None:
        """Refuse what a dataclass would take silently: 4096.0, "4096", True for a count."""
        value = getattr(self, name)
        if type(value) is not expected and not (value is None and name in _OPTIONAL):
            raise ModelError(f"{self.name}: {name} = {value!r} must be {_TYPE_WORDS.get(expected, expected)}")

    # ---- layers ----------------------------------------------------------------------------------------------------

    def kinds(self, first: int = 0, last: int | None = None) -> Mapping[LayerKind, int]:
        """Count the layers of each kind.

        Args:
            first: of the layers from this one on, counted from 0.
            last: of those before this one; None: to the end.
        """
        pattern = self.pattern or ("f" if self.sliding_window is None else "w")
        if self.sliding_window is not None and self.sliding_window >= self.max_context:
            pattern = pattern.replace("w", "f").replace("W", "F")  # it hides nothing
        return _counted(pattern, self.layers, self.dense_layers, self.experts > 1, first, last)

    @property
    def window(self) -> int | None:
        """Tokens that layers with a window look back on; None where all that attend see everything."""
        return self.sliding_window if any(kind.mixer == WINDOW for kind in self.kinds()) else None

    @property
    def attention_layers(self) -> int:
        """Layers that attend, to all or to a window."""
        return sum(count for kind, count in self.kinds().items() if kind.mixer not in (None, STATE))

    @property
    def expert_layers(self) -> int:
        """Layers with experts."""
        return sum(count for kind, count in self.kinds().items() if kind.network == "experts")

    # ---- parameters ------------------------------------------------------------------------------------------------

    @property
    def attention_matrix_params(self) -> int:
        """Weights of one attention layer's query, key, value and output matrices."""
        if self.latent is not None:
            return self.latent.matrix_params(self.hidden, self.heads)
        query_and_out = (3 if self.query_gate else 2) * self.hidden * self.heads * self.head_dim
        key_and_value = 2 * self.hidden * self.kv_heads * self.head_dim
        return query_and_out + key_and_value

    @property
    def layer_attention_params(self) -> int:
        """One layer's attention: its matrices, biases and other vectors."""
        qkv_bias = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        vectors = self.layer_vectors + (self.latent.vectors if self.latent is not None else 0)
        return self.attention_matrix_params + qkv_bias + (self.hidden if self.attention_out_bias else 0) + vectors

    @property
    def ffn_matrix_params(self) -> int:
        """Weights of one expert's feed-forward matrices."""
        return self.ffn_matrices * self.hidden * self.ffn

    @property
    def layer_ffn_params(self) -> int:
        """One expert's feed-forward network: matrices and biases, router apart."""
        return self.ffn_matrix_params + self._ffn_bias_params(self.ffn)

    def _ffn_bias_params(self, width: int) -> int:
        return (self.ffn_matrices - 1) * width + self.hidden if self.ffn_bias else 0

    @property
    def dense_width(self) -> int:
        """Width of a layer's one network, where it has no experts."""
        return self.ffn if self.dense_ffn is None or self.experts == 1 else self.dense_ffn

    @property
    def layer_router_params(self) -> int:
        """One layer's router, 0 in a dense model."""
        return self.hidden * self.experts if self.experts > 1 else 0

    @property
    def norm_params(self) -> int:
        """One norm."""
        return NORM_VECTORS[self.norm] * self.hidden

    def mixer_params(self, kind: LayerKind) -> tuple[int, int]:
        """Return (weights of matrices, parameters of vectors) of what mixes a layer's tokens."""
        if kind.mixer is None:
            return 0, 0
        if kind.mixer == STATE:
            return (0, 0) if self.state is None else (self.state.matrix_params, self.state.vectors)
        return self.attention_matrix_params, self.layer_attention_params - self.attention_matrix_params

    def network_params(self, kind: LayerKind, experts: float) -> tuple[float, int]:
        """Return (weights of matrices, parameters of vectors and the router) of a layer's feed-forward network.

        Args:
            kind: of the layer.
            experts: matrices of so many experts, vectors of all.
        """
        if kind.network is None:
            return 0, 0
        if kind.network == "dense":
            return self.ffn_matrices * self.hidden * self.dense_width, self._ffn_bias_params(self.dense_width)
        shared = self.ffn_matrices * self.hidden * self.shared_ffn
        biases = self.experts * (self.layer_ffn_params - self.ffn_matrix_params)
        return experts * self.ffn_matrix_params + shared, biases + self.layer_router_params + self.expert_vectors

    def layer_params(self, kind: LayerKind) -> int:
        """One layer: its mixer, all experts, router, norms and other vectors."""
        matrices, vectors = self.network_params(kind, self.experts)
        return sum(self.mixer_params(kind)) + int(matrices) + vectors + self.norms_per_layer * self.norm_params

    @property
    def table_width(self) -> int:
        """Columns of the embedding table."""
        return self.hidden if self.embedding_width is None else self.embedding_width

    @property
    def _projection_params(self) -> int:
        """Matrix between a narrow embedding and the residual stream (OPT-350m), in each direction."""
        return 0 if self.table_width == self.hidden else self.table_width * self.hidden

    @property
    def embedding_params(self) -> int:
        """Everything before the first layer: token and position tables, projection in, embedding norm."""
        tables = self.vocab * self.table_width + self.learned_positions * self.hidden
        return tables + self._projection_params + (self.norm_params if self.embedding_norm else 0)

    @property
    def head_params(self) -> int:
        """Weights read and multiplied at the LM head, tied or not."""
        return self.vocab * self.table_width + self._projection_params

    @property
    def stored_head_params(self) -> int:
        """Weights the LM head adds to storage: without the table, if that is the embedding's; its bias."""
        weights = self._projection_params if self.tied_embeddings else self.head_params
        return weights + (self.vocab if self.head_bias else 0)

    @property
    def final_norm_params(self) -> int:
        """The norm after the last layer."""
        return self.norm_params if self.final_norm else 0

    @property
    def params(self) -> int:
        """All parameters, tied ones once."""
        layers = sum(count * self.layer_params(kind) for kind, count in self.kinds().items())
        return layers + self.embedding_params + self.stored_head_params + self.final_norm_params

    @property
    def active_params(self) -> int:
        """Parameters one token passes through: all but the experts it is not routed to."""
        return self.params - self.expert_layers * (self.experts - self.active_experts) * self.layer_ffn_params

    # ---- work ------------------------------------------------------------------------------------------------------

    @property
    def linear_flops_per_token(self) -> int:
        """FLOPs of all layers' matrices for one token, LM head and attention scores apart.

        Two per active weight: Kaplan et al. 2020 (arXiv:2001.08361), section 2.1, table 1.
        """
        flops = 0
        for kind, count in self.kinds().items():
            matrices = self.mixer_params(kind)[0] + int(self.network_params(kind, self.active_experts)[0])
            router = self.layer_router_params if kind.network == "experts" else 0
            state = self.state.flops_per_token if self.state is not None and kind.mixer == STATE else 0
            flops += count * (2 * (matrices + router) + state)
        return flops

    @property
    def head_flops_per_token(self) -> int:
        """FLOPs of the LM head for one position: two per weight (Narayanan et al. 2021, arXiv:2104.04473, appendix)."""
        return 2 * self.head_params

    @property
    def attention_flops_per_pair(self) -> int:
        """FLOPs for one query token looking at one key token, all layers with attention.

        QK^T and AV cost 2 * heads * head_dim each: Narayanan et al. 2021 (arXiv:2104.04473), appendix (4 * B * s^2 * h
        a layer). The caller counts the pairs; causal ones with `modelspecs.work.causal_pairs`.
        """
        if self.latent is not None:
            wide = self.latent.nope_dim + self.latent.rope_dim + self.latent.value_dim
            return 2 * self.attention_layers * self.heads * wide
        return 4 * self.attention_layers * self.heads * self.head_dim

    @property
    def cached_per_layer(self) -> int:
        """Numbers that an attention layer keeps of one token.

        Two vectors per key/value head: Pope et al. 2022 (arXiv:2211.05102), section 2. Latent attention keeps one for
        all heads: DeepSeek-V2 (arXiv:2405.04434), section 2.1.
        """
        return 2 * self.kv_heads * self.head_dim if self.latent is None else self.latent.cached

    def kv_bytes_per_token(self, bytes_per_element: float = 2.0) -> float:
        """Key and value cache of one token over all layers that have one, bytes; of a token within every window.

        Args:
            bytes_per_element: 2 for fp16, 1 for an 8-bit cache.
        """
        return self.attention_layers * self.cached_per_layer * bytes_per_element

    def kv_bytes(self, tokens: int, bytes_per_element: float = 2.0) -> float:
        """Everything kept of one sequence, bytes: layers with a window keep no more than it, others a fixed state.

        Args:
            tokens: in its context.
            bytes_per_element: 2 for fp16, 1 for an 8-bit cache; states have their own width.
        """
        kept = 0
        for kind, count in self.kinds().items():
            if kind.mixer == WINDOW:
                kept += count * min(tokens, self.sliding_window or tokens)
            elif kind.mixer not in (None, STATE):
                kept += count * tokens
        return kept * self.cached_per_layer * bytes_per_element + self.state_bytes

    @property
    def state_bytes(self) -> int:
        """Kept of one sequence by the layers that have no cache, whatever its length."""
        if self.state is None:
            return 0
        return self.state.state_bytes * sum(count for kind, count in self.kinds().items() if kind.mixer == STATE)

    def distinct_experts(self, tokens: int) -> float:
        """Expected experts of one layer that `tokens` tokens touch, if each is routed to a uniformly drawn set.

        Args:
            tokens: tokens in the batch, 0 or more.
        """
        if tokens < 0:
            raise ModelError(f"{self.name}: tokens = {tokens} must be 0 or more to ask how many experts they touch")
        return float(experts_touched(self.experts, self.active_experts, tokens))

    def form(self, precision: str | Precision) -> Precision:
        """Return a format as it comes out for this model's matrices: llama.cpp's depend on the length of their rows."""
        named = load_precision(precision) if isinstance(precision, str) else precision
        if self.family == MADE_UP:  # its widths are what came out, not what anybody stores
            return named
        return _fitted(self, named) if named.name in gguf.RECIPES and named is load_precision(named.name) else named

    # ---- storage ---------------------------------------------------------------------------------------------------

    def kind_bytes(self, kind: LayerKind, precision: str | Precision, experts: float | None = None) -> float:
        """One layer's weights as stored, bytes.

        Args:
            kind: of the layer.
            precision: of the weights.
            experts: with only so many of its experts; None: all.
        """
        form = self.form(precision)
        attention, vectors = self.mixer_params(kind)
        matrices, other = self.network_params(kind, self.experts if experts is None else experts)
        other += vectors + self.norms_per_layer * self.norm_params
        return (
            attention * form.bytes_per_attention_weight
            + matrices * form.bytes_per_weight
            + other * form.bytes_per_other
        )

    def layer_expert_bytes(self, precision: str | Precision) -> float:
        """All experts of a layer that has some as stored, bytes."""
        form = self.form(precision)
        biases = self.layer_ffn_params - self.ffn_matrix_params
        return self.experts * (self.ffn_matrix_params * form.bytes_per_weight + biases * form.bytes_per_other)

    def layer_bytes(self, precision: str | Precision, experts: float | None = None) -> float:
        """One layer's weights as stored, bytes: the mean of the layers where they differ.

        Args:
            precision: of the weights.
            experts: with only so many of its experts; None: all.
        """
        form = self.form(precision)
        kinds = self.kinds()
        if len(kinds) == 1:
            return self.kind_bytes(next(iter(kinds)), form, experts)
        return sum(count * self.kind_bytes(kind, form, experts) for kind, count in kinds.items()) / self.layers

    def head_bytes(self, precision: str | Precision) -> float:
        """Bytes read at the LM head (most formats leave it wide, see `modelspecs.precision`)."""
        form = self.form(precision)
        return self.head_params * form.bytes_per_head

    def embedding_bytes(self, precision: str | Precision) -> float:
        """Bytes of everything before the first layer; a table that is also the LM head is stored as that."""
        form = self.form(precision)
        if not self.tied_embeddings:
            return self.embedding_params * form.bytes_per_other
        table = self.vocab * self.table_width
        return table * form.bytes_per_head + (self.embedding_params - table) * form.bytes_per_other

    def stored_bytes(self, precision: str | Precision) -> float:
        """All weights as stored, bytes, tied ones once."""
        form = self.form(precision)
        outside = self.stored_head_params * form.bytes_per_head + self.final_norm_params * form.bytes_per_other
        return self.layers * self.layer_bytes(form) + self.embedding_bytes(form) + outside


@lru_cache(maxsize=256)
def _counted(
    pattern: str, layers: int, dense: int, mixture: bool, first: int, last: int | None
) -> Mapping[LayerKind, int]:
    return MappingProxyType(Counter(layer_kinds(pattern, layers, dense, mixture)[first:last]))


@lru_cache(maxsize=256)
def _fitted(spec: ModelSpec, named: Precision) -> Precision:
    attends, keeps = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    sizes = {"q": (spec.hidden, attends), "k": (spec.hidden, keeps), "v": (spec.hidden, keeps)}
    sizes |= {"out": (attends, spec.hidden), "up": (spec.hidden, spec.ffn), "down": (spec.ffn, spec.hidden)}
    if spec.ffn_matrices == 3:
        sizes["gate"] = sizes["up"]
    rows = {matrix: (row, row * columns) for matrix, (row, columns) in sizes.items()}
    found = gguf.fitted(named.name, gguf.GgufRows(rows, spec.hidden, spec.family == "gpt_oss"))
    if found is None:
        return named
    return replace(
        named,
        bits_per_weight=found.matrices,
        bits_per_other=found.embedding,
        head_bits=found.head,
        attention_bits=found.attention,
    )

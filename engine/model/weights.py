"""A model's weights as it computes with them, and which tensor of a checkpoint goes where in them.

Query, key and value matrices are one matrix, gate and up another: one product each instead of three and two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from afterwatt.engine.model.config import ModelConfig
from afterwatt.engine.model.devices import DtypePolicy
from afterwatt.engine.model.rope import pair_order
from afterwatt.modelspecs.decoders import DECODERS
from afterwatt.modelspecs.spec import ModelSpec


@dataclass(slots=True, kw_only=True)
class LayerWeights:
    """One layer; matrices as [outputs, inputs].

    Attributes:
        attention_norm, ffn_norm: gains, [hidden].
        qkv: [(heads + 2 kv_heads) head_dim, hidden]; query and key rows in neighbouring pairs (`engine.model.rope`).
        out: [hidden, heads head_dim].
        gate_up: [2 ffn, hidden], gate first; of a mixture [experts, 2 ffn, hidden]; None where bundles take its place.
        down: [hidden, ffn]; of a mixture [experts, hidden, ffn]; likewise.
        query_norm, key_norm: gains of the heads of families that normalise them, [head_dim], in pairs as their rows.
        router: of a mixture, [experts, hidden].
        qkv_bias, out_bias, gate_up_bias, down_bias: beside them, None where the model has none.
    """

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    ffn_norm: torch.Tensor
    gate_up: torch.Tensor | None
    down: torch.Tensor | None
    qkv_bias: torch.Tensor | None = None
    out_bias: torch.Tensor | None = None
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None
    query_norm: torch.Tensor | None = None
    key_norm: torch.Tensor | None = None
    router: torch.Tensor | None = None


@dataclass(slots=True)
class Weights:
    """All of a model.

    Attributes:
        embedding: [vocab, hidden].
        layers: in order.
        norm: gain of the norm after the last, [hidden].
        head: [vocab, hidden]; the very `embedding` where they are tied.
    """

    embedding: torch.Tensor
    layers: list[LayerWeights]
    norm: torch.Tensor
    head: torch.Tensor

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield every tensor once."""
        yield self.embedding
        yield self.norm
        if self.head is not self.embedding:
            yield self.head
        for layer in self.layers:
            for name in LayerWeights.__slots__:
                tensor = getattr(layer, name)
                if tensor is not None:
                    yield tensor

    @property
    def bytes(self) -> int:
        """What they take in memory."""
        return sum(tensor.nbytes for tensor in self.tensors())


class TensorPlace(NamedTuple):
    """Where a tensor of a checkpoint goes.

    Attributes:
        part: which it is; see `modelspecs.decoders.LLAMA_NAMES`.
        into: rows of a weight that take it, and have its shape.
        order: row i of the tensor goes to row order[i] of `into`; None: to row i.
    """

    part: str
    into: torch.Tensor
    order: torch.Tensor | None = None


def allocate(config: ModelConfig, policy: DtypePolicy, device: torch.device, networks: bool = True) -> Weights:
    """Make room for a model; nothing is in it yet.

    Norms and biases are kept in the dtype computed in, matrices in the one they are stored in.

    Args:
        config: the model.
        policy: formats.
        device: where; torch's "meta" only counts.
        networks: make room for the feed-forward networks too.
    """
    spec = config.spec
    mixture = (spec.experts,) if spec.experts > 1 else ()

    def matrix(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=policy.weights, device=device)

    def vector(size: int) -> torch.Tensor:
        return torch.empty(size, dtype=policy.compute, device=device)

    width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    layers = [
        LayerWeights(
            attention_norm=vector(spec.hidden),
            qkv=matrix(width + 2 * kv_width, spec.hidden),
            out=matrix(spec.hidden, width),
            ffn_norm=vector(spec.hidden),
            gate_up=matrix(*mixture, 2 * spec.ffn, spec.hidden) if networks else None,
            down=matrix(*mixture, spec.hidden, spec.ffn) if networks else None,
            qkv_bias=vector(width + 2 * kv_width) if spec.qkv_bias else None,
            out_bias=vector(spec.hidden) if spec.attention_out_bias else None,
            gate_up_bias=vector(2 * spec.ffn) if spec.ffn_bias else None,
            down_bias=vector(spec.hidden) if spec.ffn_bias else None,
            query_norm=vector(spec.head_dim) if DECODERS[spec.family].head_norms else None,
            key_norm=vector(spec.head_dim) if DECODERS[spec.family].head_norms else None,
            router=matrix(spec.experts, spec.hidden) if mixture else None,
        )
        for _ in range(spec.layers)
    ]
    embedding = matrix(spec.vocab, spec.hidden)
    head = embedding if spec.tied_embeddings else matrix(spec.vocab, spec.hidden)
    return Weights(embedding, layers, vector(spec.hidden), head)


def places(config: ModelConfig, weights: Weights) -> dict[str, TensorPlace]:
    """Return every tensor that a checkpoint of this model must have, by name, and where it goes."""
    spec = config.spec
    names = DECODERS[spec.family].names
    parts = [("embedding", weights.embedding), ("norm", weights.norm)]
    parts += [] if spec.tied_embeddings else [("head", weights.head)]
    found = {f"{names[part]}.weight": TensorPlace(part, into) for part, into in parts}
    for number, layer in enumerate(weights.layers):
        for part, expert, weight, bias, order in _parts(spec, layer):
            name = names[part].format(layer=number, expert=expert)
            found[f"{name}.weight"] = TensorPlace(part, weight, order)
            if bias is not None:
                found[f"{name}.bias"] = TensorPlace(part, bias, order)
    return found


def head_name(config: ModelConfig) -> str:
    """Return what a checkpoint calls the LM head, which may be there although it is tied."""
    return f"{DECODERS[config.spec.family].names['head']}.weight"


Part = tuple[str, int, torch.Tensor, torch.Tensor | None, torch.Tensor | None]


def _parts(spec: ModelSpec, layer: LayerWeights) -> Iterator[Part]:
    """Yield (part, of which expert, its rows of a weight, those of a bias, their order) of a layer."""
    yield "attention_norm", 0, layer.attention_norm, None, None
    yield "ffn_norm", 0, layer.ffn_norm, None, None
    for part, gain in (("query_norm", layer.query_norm), ("key_norm", layer.key_norm)):
        if gain is not None:
            yield part, 0, gain, None, pair_order(1, spec.head_dim)
    widths = [heads * spec.head_dim for heads in (spec.heads, spec.kv_heads, spec.kv_heads)]
    orders = (pair_order(spec.heads, spec.head_dim), pair_order(spec.kv_heads, spec.head_dim), None)
    fused = _split(layer.qkv, layer.qkv_bias, widths)
    yield from (
        (part, 0, *rows, order) for part, rows, order in zip(("query", "key", "value"), fused, orders, strict=True)
    )
    yield "attention_out", 0, layer.out, layer.out_bias, None
    if layer.router is not None:
        yield "router", 0, layer.router, None, None
    if layer.gate_up is None or layer.down is None:
        return
    gate_up, down = layer.gate_up.view(-1, 2 * spec.ffn, spec.hidden), layer.down.view(-1, spec.hidden, spec.ffn)
    for expert in range(spec.experts):
        fused = _split(gate_up[expert], layer.gate_up_bias, [spec.ffn, spec.ffn])
        yield from ((part, expert, *rows, None) for part, rows in zip(("gate", "up"), fused, strict=True))
        yield "down", expert, down[expert], layer.down_bias, None


def _split(
    weight: torch.Tensor, bias: torch.Tensor | None, rows: list[int]
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Return the parts of a fused weight and its bias."""
    biases = [None] * len(rows) if bias is None else torch.split(bias, rows)
    return list(zip(torch.split(weight, rows), biases, strict=True))

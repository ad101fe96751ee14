"""Variants of a model whose networks are kept at other precisions, or computed in part: what quality is measured of.

A variant by rank has its weights rounded as bundles are (`engine.runtime.quant`). One whose units are chosen anew for
each token is computed densely under masks: slow, plainly right, and what faster ways are held against.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from afterwatt.engine.model.compute import LoadedModel
from afterwatt.engine.model.ffn import ACTIVATION, Ffn, LayerSource, MakeSource
from afterwatt.engine.model.products import Linear
from afterwatt.engine.model.weights import LayerWeights, Weights
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.preparing import Ranking
from afterwatt.engine.runtime.quant import Floats, decode, encode
from afterwatt.modelspecs.bundles import PRECISIONS, neuron_bytes
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.policies.precision import Shares, parse_shares, uniform

STATIC, GATE = "static", "gate"


@dataclass(frozen=True, slots=True)
class Variant:
    """Precisions by rank, and how rank is told.

    Attributes:
        name: as it was asked for.
        shares: of a layer's units, the most important first; what they leave is not computed.
        rank: `static`, by importance on a calibration text; `gate`, for each token by |act(gate)| (CATS,
            arXiv:2404.08763).
    """

    name: str
    shares: Shares
    rank: str

    @property
    def ranked(self) -> bool:
        """Whether a unit's rank changes anything."""
        return len(self.shares.shares) > 1 or sum(share.frac for share in self.shares.shares) < 1.0

    def stored_bytes(self, spec: ModelSpec) -> int:
        """Return the bytes of all networks' weights that this takes: those that it computes with.

        One that chooses anew for each token reads so many for it, beside the whole gate by which it chooses.
        """
        units, neurons = (spec.ffn, 1) if spec.experts == 1 else (spec.experts, spec.ffn)
        return spec.layers * self.shares.stored_bytes(units, lambda name: neurons * neuron_bytes(spec.hidden, name))


def parse_variant(text: str, wide: str) -> Variant:
    """Read a variant: `int8`; `25/25/50` of the model's own format, int8 and int4; `fp16:50+rank=gate`.

    Args:
        text: shares by rank, and the word `rank`.
        wide: the model's own format.

    Raises:
        EngineError: an unknown precision or word.
        PolicyError: shares that make no sense.
    """
    shares_text, *words = text.split("+")
    ranks = [word.removeprefix("rank=") for word in words]
    if len(words) > 1 or any(rank not in (STATIC, GATE) for rank in ranks):
        raise EngineError(f"policy {text!r}: expected precisions or shares, then rank=static or rank=gate")
    named = "/" in shares_text or ":" in shares_text
    shares = parse_shares(shares_text, (wide, "int8", "int4")) if named else uniform(shares_text)
    unknown = next((share.precision for share in shares.shares if share.precision not in PRECISIONS), None)
    if unknown is not None:
        raise EngineError(f"policy {text!r}: unknown precision {unknown!r}; known: {', '.join(PRECISIONS)}")
    return Variant(text, shares, ranks[0] if ranks else STATIC)


def realised(model: LoadedModel, variant: Variant, ranking: Ranking | None) -> tuple[LoadedModel, MakeSource | None]:
    """Return a model whose weights are those of a variant, and what gives its networks where the weights do not.

    Args:
        model: as it was loaded.
        variant: of it.
        ranking: units by importance; only ranks that are static ask for it.

    Raises:
        EngineError: a static rank without a ranking, or a choice per token among experts.
    """
    if variant.ranked and variant.rank == GATE:
        if model.config.spec.experts > 1:
            raise EngineError(f"policy {variant.name!r}: a router chooses among experts already; rank them statically")
        return model, _masked(model, variant)
    if variant.ranked and ranking is None:
        raise EngineError(f"policy {variant.name!r} ranks units by importance; give a text with --calibrate")
    layers = []
    for number, layer in enumerate(model.weights.layers):
        scores = None if ranking is None else ranking.importance[number]
        layers.append(_rounded(layer, variant.shares, scores))
    weights = Weights(model.weights.embedding, layers, model.weights.norm, model.weights.head)
    return replace(model, weights=weights), None


def _rounded(layer: LayerWeights, shares: Shares, scores: Sequence[float] | None) -> LayerWeights:
    """Return a layer with each unit at the precision of its rank; those that are left out become zeros."""
    gate_up, down = layer.gate_up, layer.down
    assert gate_up is not None
    assert down is not None
    networks = gate_up.reshape(-1, *gate_up.shape[-2:]), down.reshape(-1, *down.shape[-2:])
    dense = gate_up.dim() == 2
    rows = np.stack([_rows(*pair) for pair in zip(*networks, strict=True)])  # [networks, ffn, 3, hidden]
    units = rows[0][:, None] if dense else rows  # [units, neurons, 3, hidden]
    order = np.arange(len(units)) if scores is None else np.argsort(-np.asarray(scores), kind="stable")
    found = np.zeros_like(units)
    begin = 0
    for share, count in zip(shares.shares, shares.counts(len(units)), strict=True):
        chosen = order[begin : begin + count]
        flat = units[chosen].reshape(-1, *units.shape[2:])
        if len(flat):
            found[chosen] = _through(flat, share.precision).reshape(units[chosen].shape)
        begin += count
    found = found.reshape(len(rows), -1, *units.shape[2:])
    gates = torch.from_numpy(np.concatenate((found[:, :, 0], found[:, :, 1]), axis=1)).to(gate_up).view(gate_up.shape)
    downs = torch.from_numpy(found[:, :, 2].transpose(0, 2, 1).copy()).to(down).view(down.shape)
    return replace(layer, gate_up=gates, down=downs)


def _rows(gate_up: torch.Tensor, down: torch.Tensor) -> Floats:
    """Return a network neuron by neuron, fp32[ffn, 3, hidden]."""
    gate, up = torch.chunk(gate_up, 2)
    rows: Floats = torch.stack((gate, up, down.t()), dim=1).float().cpu().numpy()
    return rows


def _through(rows: Floats, precision: str) -> Floats:
    """Return weights as they come back from a precision."""
    try:
        return decode(encode(rows, precision), rows.shape[2], precision)
    except OverflowError as fault:
        raise EngineError(f"{precision} does not hold this model: {fault}") from None


def _masked(model: LoadedModel, variant: Variant) -> MakeSource:
    copies: dict[str, list[LayerWeights]] = {
        share.precision: [_rounded(layer, uniform(share.precision), None) for layer in model.weights.layers]
        for share in variant.shares.shares
    }
    counts = variant.shares.counts(model.config.spec.ffn)

    def source(linear: Linear) -> LayerSource:
        return _MaskedSource(model, copies, counts, linear)

    return source


class _MaskedSource:
    """Gives `Masked` networks (`LayerSource`)."""

    def __init__(
        self, model: LoadedModel, copies: Mapping[str, list[LayerWeights]], counts: Sequence[int], linear: Linear
    ) -> None:
        activation = ACTIVATION[model.config.activation]
        self._networks: list[Ffn] = [
            Masked(layer, [kept[number] for kept in copies.values()], counts, linear, activation)
            for number, layer in enumerate(model.weights.layers)
        ]

    def ffn(self, number: int) -> Ffn:
        """Return a layer's network (`LayerSource.ffn`)."""
        return self._networks[number]


class Masked:
    """One gated network whose neurons are ranked for each token, and computed at the precision of their rank.

    Args:
        layer: at full precision: its gate ranks.
        copies: the same at each precision, the most precise first.
        counts: neurons of a token that each of these computes; what is left over is not computed.
        linear: multiplies.
        activation: of the gate.
    """

    def __init__(
        self,
        layer: LayerWeights,
        copies: Sequence[LayerWeights],
        counts: Sequence[int],
        linear: Linear,
        activation: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        assert layer.gate_up is not None
        self._gate = torch.chunk(layer.gate_up, 2)[0]
        self._copies, self._counts = copies, counts
        self._linear, self._activation = linear, activation

    def __call__(self, normed: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        """Return onto + the network of normed (`Ffn`)."""
        rows = normed.view(-1, normed.shape[-1])
        order = (
            self._activation(self._linear(rows, self._gate, None)).abs().argsort(dim=-1, descending=True, stable=True)
        )
        total = onto.reshape(rows.shape)
        begin = 0
        for copy, count in zip(self._copies, self._counts, strict=True):
            assert copy.gate_up is not None
            assert copy.down is not None
            mask = torch.zeros_like(order, dtype=rows.dtype).scatter_(1, order[:, begin : begin + count], 1.0)
            gate, up = torch.chunk(self._linear(rows, copy.gate_up, None), 2, -1)
            total = total + self._linear(self._activation(gate) * up * mask, copy.down, None)
            begin += count
        return total.view(onto.shape)

"""What stands behind attention in a layer: one gated network, or several of which each token takes a few.

The decoder asks a `LayerSource` for it layer by layer, so that a network may lie elsewhere until it is due.
"""

from collections.abc import Callable
from typing import Final, Protocol

import torch
from torch.nn.functional import relu, silu

from afterwatt.engine.model.config import ModelConfig
from afterwatt.engine.model.products import Linear
from afterwatt.engine.model.weights import LayerWeights, Weights

ACTIVATION: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {"silu": silu, "relu": relu}
Watch = Callable[[torch.Tensor], None]
"""Is shown what the neurons of a dense network give, [n, ffn], or which experts tokens take, int64[n, chosen]."""


class Ffn(Protocol):
    """A layer's network."""

    def __call__(self, normed: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        """Return what it makes of normed activations, [hidden] or [n, hidden], added to the residual stream."""


class LayerSource(Protocol):
    """Gives the network of each layer; layers are asked for in order, again and again."""

    def ffn(self, number: int) -> Ffn:
        """Return a layer's network, good until the next one is asked for."""


MakeSource = Callable[[Linear], LayerSource]
"""Gives the networks of a decoder that multiplies so."""


class Dense:
    """One gated network: down (act(gate x) * up x).

    Args:
        layer: its matrices.
        linear: multiplies.
        activation: of the gate.
        watch: is shown what its neurons give.
    """

    def __init__(
        self,
        layer: LayerWeights,
        linear: Linear,
        activation: Callable[[torch.Tensor], torch.Tensor],
        watch: Watch | None = None,
    ) -> None:
        assert layer.gate_up is not None
        assert layer.down is not None
        self._gate_up, self._down, self._layer = layer.gate_up, layer.down, layer
        self._linear, self._activation, self._watch = linear, activation, watch

    def __call__(self, normed: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        """Return onto + the network of normed (`Ffn`)."""
        gate, up = torch.chunk(self._linear(normed, self._gate_up, self._layer.gate_up_bias), 2, -1)
        given = self._activation(gate).mul_(up)
        if self._watch is not None:
            self._watch(given)
        return self._linear(given, self._down, self._layer.down_bias, onto)


class Router:
    """Chooses each token's experts and what each counts (Mixtral, arXiv:2401.04088, section 2.1).

    Args:
        matrix: [experts, hidden].
        linear: multiplies.
        chosen: experts of a token.
        renormalised: whether their weights are brought to a sum of 1.
    """

    def __init__(self, matrix: torch.Tensor, linear: Linear, chosen: int, renormalised: bool) -> None:
        self._matrix, self._linear = matrix, linear
        self._chosen, self._renormalised = chosen, renormalised

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (weights in the format of rows, experts int64), both [n, chosen], of rows [n, hidden]."""
        shares = self._linear(rows, self._matrix, None).float().softmax(-1)
        weights, experts = shares.topk(self._chosen, dim=-1)
        if self._renormalised:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights.to(rows.dtype), experts


class Experts:
    """Several gated networks, of which each token takes a few.

    Args:
        layer: their matrices, and the router's.
        linear: multiplies.
        activation: of the gates.
        router: chooses.
        watch: is shown which experts tokens take.
    """

    def __init__(
        self,
        layer: LayerWeights,
        linear: Linear,
        activation: Callable[[torch.Tensor], torch.Tensor],
        router: Router,
        watch: Watch | None = None,
    ) -> None:
        assert layer.gate_up is not None
        assert layer.down is not None
        self._gate_up, self._down = layer.gate_up, layer.down
        self._linear, self._activation = linear, activation
        self._router, self._watch = router, watch

    def __call__(self, normed: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        """Return onto + the weighted networks of normed (`Ffn`)."""
        rows = normed.view(-1, normed.shape[-1])
        weights, experts = self._router(rows)
        if self._watch is not None:
            self._watch(experts)
        total = onto.reshape(rows.shape).clone()
        for expert in sorted(set(experts.flatten().tolist())):
            own, place = torch.where(experts == expert)
            total.index_add_(0, own, self._one(rows[own], expert) * weights[own, place, None])
        return total.view(onto.shape)

    def _one(self, rows: torch.Tensor, expert: int) -> torch.Tensor:
        gate, up = torch.chunk(self._linear(rows, self._gate_up[expert], None), 2, -1)
        return self._linear(self._activation(gate).mul_(up), self._down[expert], None)


class Resident:
    """All networks lie where they are computed (`LayerSource`).

    Args:
        config: the model.
        weights: of it.
        linear: multiplies.
        watch: of a layer's number, gives what is shown what goes on in it.
    """

    def __init__(
        self, config: ModelConfig, weights: Weights, linear: Linear, watch: Callable[[int], Watch] | None = None
    ) -> None:
        activation = ACTIVATION[config.activation]
        self._networks: list[Ffn] = []
        for number, layer in enumerate(weights.layers):
            shown = None if watch is None else watch(number)
            if layer.router is None:
                self._networks.append(Dense(layer, linear, activation, shown))
            else:
                router = Router(layer.router, linear, config.spec.active_experts, config.renormalised)
                self._networks.append(Experts(layer, linear, activation, router, shown))

    def ffn(self, number: int) -> Ffn:
        """Return a layer's network (`LayerSource.ffn`)."""
        return self._networks[number]

"""Kernels of an iteration: what each takes, and how long, for so many tokens on every GPU that shares a layer.

Each says what it reads, multiplies and sends on all of these GPUs together; the precision of its weights is its own.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.kernels import GemmRates, all_reduce_s, experts_s, gemm_s
from afterwatt.hwprofiles.serving import Serving
from afterwatt.modelspecs.spec import experts_touched

Floats = NDArray[np.float64]

MATRICES: Final = "matrices"
EXPERTS: Final = "experts"
ROUTER: Final = "router"
HEAD: Final = "head"
ATTENTION: Final = "attention"
CACHE: Final = "cache"
SMALL: Final = "small"
LINKS: Final = "links"

NONE: Final[Floats] = np.zeros(())


class Amount(NamedTuple):
    """So much for each of so many units: each * (units + growth * k) in iteration k of plans."""

    each: float
    units: Floats
    growth: Floats = NONE


NOTHING: Final = Amount(0.0, NONE)


class Term(NamedTuple):
    """What one kind of kernel takes in plans, on all GPUs that share a layer.

    Attributes:
        kind: one of this module's words in capitals.
        times: layers that it runs in; 1 where it runs once per iteration.
        elements: of weights and of the KV cache, read or written.
        element_bytes: of one.
        flops: arithmetic.
        link_bytes: sent to other GPUs.
    """

    kind: str
    times: int
    elements: Amount = NOTHING
    element_bytes: float = 0.0
    flops: Amount = NOTHING
    link_bytes: Amount = NOTHING


class Operation(Protocol):
    """Kernels of a layer that depend on nothing but the number of tokens."""

    def seconds(self, tokens: int, /) -> float:
        """Return how long they take."""

    def term(self, tokens: Floats, times: int, /) -> Term:
        """Return what they read, multiply and send."""


@dataclass(frozen=True, slots=True)
class Products:
    """Products of tokens with matrices that each of them passes through.

    Attributes:
        kind: as in `Term`.
        shapes: (inputs, outputs) of each matrix, on one GPU.
        weights: of all of them, on all GPUs.
        weight_bytes: of one, as stored.
        rates: what they reach.
        activation_bytes: per element of what passes through.
        overhead_s: beside the products.
    """

    kind: str
    shapes: tuple[tuple[float, float], ...]
    weights: int
    weight_bytes: float
    rates: GemmRates
    activation_bytes: float
    overhead_s: float = 0.0

    def seconds(self, tokens: int) -> float:
        """Return the seconds of one after the other."""
        total = self.overhead_s
        for inputs, outputs in self.shapes:
            total += gemm_s(tokens, inputs, outputs, self.rates, self.weight_bytes, self.activation_bytes)
        return total

    def term(self, tokens: Floats, times: int) -> Term:
        """Return weights, read once if anything passes through (a router's few are left out), and FLOPs."""
        read = NOTHING if self.kind == ROUTER else Amount(float(self.weights), np.minimum(tokens, 1.0))
        return Term(self.kind, times, read, self.weight_bytes, Amount(2.0 * self.weights, tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Grouped products with a mixture's experts, of which every token is sent to some.

    Attributes:
        hidden: width of the residual stream.
        width: of one expert on one GPU.
        inner: matrices into an expert: 2 for gated ones, else 1.
        experts: in the layer.
        active: that a token is sent to.
        weights: of one, on all GPUs.
        weight_bytes, rates, activation_bytes: as in `Products`.
    """

    hidden: float
    width: float
    inner: float
    experts: int
    active: int
    weights: int
    weight_bytes: float
    rates: GemmRates
    activation_bytes: float

    def seconds(self, tokens: int) -> float:
        """Return the seconds of both products."""
        sizes = (tokens, self.hidden, self.width, float(self.experts), float(self.active))
        return experts_s(*sizes, self.rates, self.weight_bytes, self.activation_bytes, self.inner)

    def term(self, tokens: Floats, times: int) -> Term:
        """Return weights of the experts that so many tokens are expected to touch, and FLOPs."""
        sizes, where = np.unique(tokens, return_inverse=True)
        touched: Floats = np.array([experts_touched(self.experts, self.active, size) for size in sizes.tolist()])[where]
        flops = Amount(2.0 * self.active * self.weights, tokens)
        return Term(EXPERTS, times, Amount(float(self.weights), touched), self.weight_bytes, flops)


class Small(NamedTuple):
    """Kernels between the others, whose activations are left out of what energy counts.

    Attributes:
        fixed_s: whatever the number of tokens.
        token_s: for each.
    """

    fixed_s: float
    token_s: float

    def seconds(self, tokens: int) -> float:
        """Return their seconds."""
        return self.fixed_s + tokens * self.token_s

    def term(self, _tokens: Floats, times: int) -> Term:
        """Return nothing: only their time counts."""
        return Term(SMALL, times)


@dataclass(frozen=True, slots=True)
class AllReduces:
    """The all-reduces of a layer over the GPUs that share it.

    Attributes:
        serving: what is computed, and where.
        token_bytes: of a token's residual stream.
        count: one behind what mixes tokens, one behind the network.
    """

    serving: Serving
    token_bytes: float
    count: float

    def seconds(self, tokens: int) -> float:
        """Return the seconds of all."""
        link, stack = self.serving.tensor_link, self.serving.stack
        rate, start_s = float(link.bytes_per_s), link.latency_s if link.peer_latency_s is None else link.peer_latency_s
        latency_s = start_s + stack.comm_latency_s
        bulk = (stack.comm_bulk_tokens * self.token_bytes, rate * stack.comm_bulk_efficiency)
        payload = tokens * self.token_bytes
        return self.count * all_reduce_s(payload, self.serving.pool.tp, rate * stack.comm_efficiency, latency_s, *bulk)

    def term(self, tokens: Floats, times: int) -> Term:
        """Return what all GPUs send: of the payload, twice the part that is not their own."""
        others = self.serving.pool.tp - 1
        return Term(LINKS, times, link_bytes=Amount(self.count * 2.0 * others * self.token_bytes, tokens))

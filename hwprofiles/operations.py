"""Kernels of an iteration: what each takes, and how long, for so many tokens on every GPU that shares a layer.

Each says what it reads, multiplies and sends on all of these GPUs together; the precision of its weights is its own.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.kernels import GemmRates, all_reduce_s, experts_s, gemm_s
from afterwatt.hwprofiles.links import Link
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
        ways: GPUs that they are spread over, each whole on one; 1: every GPU has a slice of each.
        sharing: replicas whose tokens they serve, as many of each.
        imbalance: load of the busiest GPU over the mean.
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
    ways: int = 1
    sharing: int = 1
    imbalance: float = 1.0

    def seconds(self, tokens: int) -> float:
        """Return the seconds of both products, on the busiest GPU."""
        sizes = (tokens * self.sharing, self.hidden, self.width, float(self.experts), float(self.active))
        moved = (self.rates, self.weight_bytes, self.activation_bytes)
        return float(experts_s(*sizes, *moved, self.inner, self.ways, self.imbalance))

    def term(self, tokens: Floats, times: int) -> Term:
        """Return FLOPs, and a replica's part of the weights of all experts that its group's tokens should touch."""
        sizes, where = np.unique(tokens * self.sharing, return_inverse=True)
        all_touched = [experts_touched(self.experts, self.active, size) for size in sizes.tolist()]
        touched: Floats = np.array(all_touched)[where] / self.sharing
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AllToAlls:
    """A layer's tokens to the GPUs of their experts, and what these make of them back to where they came from.

    Attributes:
        link: between the GPUs that experts are spread over.
        efficiency, latency_s: the software's share of its bandwidth, and what it adds to a start.
        token_bytes: of a token's residual stream.
        reached: GPUs across the link that a token is expected to be sent to; to each it goes once.
        split: GPUs that share out a replica's tokens.
        imbalance: tokens that the busiest GPU receives, over the mean.
    """

    link: Link
    efficiency: float
    latency_s: float
    token_bytes: float
    reached: float
    split: int
    imbalance: float

    def seconds(self, tokens: int) -> float:
        """Return the seconds of both: a start, and what the busiest GPU receives over the link's rate."""
        link = self.link
        start_s = float(link.latency_s if link.peer_latency_s is None else link.peer_latency_s) + self.latency_s
        payload = tokens / self.split * self.reached * self.token_bytes * self.imbalance
        return 2.0 * (start_s + payload / (float(link.bytes_per_s) * self.efficiency))

    def term(self, tokens: Floats, times: int) -> Term:
        """Return what the GPUs of a replica send and get back."""
        return Term(LINKS, times, link_bytes=Amount(2.0 * self.reached * self.token_bytes, tokens))

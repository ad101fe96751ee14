"""Seeded arrival times: renewal processes drawn in fixed blocks, so that no caller's batch size can change them.

Randomness is counter-based (Philox): block k of a named stream depends on (seed, name, k) alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from afterwatt.traces.schema import Floats

BLOCK_ROWS = 8192
"""Rows drawn at once. Part of the meaning of a seed: changing it changes every synthetic trace."""

Family = Literal["gamma", "weibull"]


@dataclass(frozen=True, slots=True)
class Gaps:
    """Distribution of the time between arrivals, scaled to mean 1.

    Attributes:
        family: gamma or weibull.
        shape: 1 is exponential (Poisson arrivals), below 1 burstier, infinity evenly spaced.
    """

    family: Family
    shape: float

    @property
    def cv(self) -> float:
        """Coefficient of variation: 1/sqrt(k) for Gamma, from the Gamma function for Weibull (textbook moments)."""
        if math.isinf(self.shape):
            return 0.0
        if self.family == "gamma":
            return 1 / math.sqrt(self.shape)
        log_ratio = math.lgamma(1 + 2 / self.shape) - 2 * math.lgamma(1 + 1 / self.shape)
        return math.sqrt(math.expm1(log_ratio))

    def draw(self, rng: np.random.Generator, n: int) -> Floats:
        """Draw n gaps of mean 1."""
        if math.isinf(self.shape):
            return np.ones(n)
        if self.family == "gamma":
            return rng.standard_gamma(self.shape, n) / self.shape
        log_mean = math.lgamma(1 + 1 / self.shape)  # by logarithms: the Gamma function itself overflows below 0.006
        return np.asarray(np.exp(np.log(rng.standard_exponential(n)) / self.shape - log_mean), np.float64)


def gamma_gaps(cv: float) -> Gaps:
    """Gamma gaps of a given coefficient of variation (0: evenly spaced, 1: Poisson)."""
    return Gaps("gamma", math.inf if cv == 0 else 1 / cv**2)


def stream(seed: int, name: str, block: int) -> np.random.Generator:
    """The random generator of one block of a named stream: the same in any process, order or batch size."""
    key = np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(2, np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, block]))


def unit_arrivals(gaps: Gaps, seed: int, name: str) -> Iterator[Floats]:
    """Endless blocks of arrival times of a renewal process of rate 1, the first arrival at 0."""
    end = 0.0
    block = 0
    while True:
        drawn = gaps.draw(stream(seed, name, block), BLOCK_ROWS)
        if block == 0:
            drawn[0] = 0.0
        times = end + np.cumsum(drawn)
        yield times
        end = float(times[-1])
        block += 1


class Tap:
    """Hands out an endless sequence of blocks in pieces of any size."""

    def __init__(self, blocks: Iterator[Floats]) -> None:
        self._blocks = blocks
        self._left = np.empty(0)

    def take(self, n: int) -> Floats:
        """The next n values."""
        pieces = [self._left]
        held = len(self._left)
        while held < n:
            pieces.append(next(self._blocks))
            held += len(pieces[-1])
        joined = np.concatenate(pieces)
        self._left = joined[n:]
        return joined[:n]

"""Placements whose GPU computes with units that a cache brings to it: what neurons and experts have in common."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Final

from afterwatt.policies.caching.activity import ActivationSource
from afterwatt.policies.caching.cache import UnitCache
from afterwatt.policies.caching.making import WORDS, make_cache
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.placement import CPU, GPU, Piece, WeightLayout, WeightView

AUTO: Final = "auto"
COLD: Final = (GPU, CPU, AUTO)
"""Where a unit is computed that is not on the GPU: there, once it has crossed; where it lies; or where it is sooner."""
_CACHE_WORDS: Final = tuple(sorted({word for words in WORDS.values() for word in words}))


class CachedUnits(ABC):
    """Keeps some units of each layer on the GPU, as a cache decides.

    Args:
        words: `cache`: of `policies.caching.CACHES`, with its words; `cold`: of `COLD` [gpu]; `activity`: file that an
            engine has recorded active units in, in place of draws.
        cache: the one where none is named.

    Attributes:
        cold: where units are computed that are not on the GPU; activity: file of recorded activity (None: drawn).
    """

    words: ClassVar[tuple[str, ...]] = ("cache", "cold", "room", "activity", *_CACHE_WORDS)
    stored: str | None = None
    part: ClassVar[str]
    """The part of a layer whose units are cached."""
    known_ahead: ClassVar[int]
    """Layers between one that is asked for its units and the one that tells: 1 is the layer before."""

    def __init__(self, words: Mapping[str, str], cache: str) -> None:
        self.cold = words.get("cold", GPU)
        if self.cold not in COLD:
            raise PolicyError(
                f"policy option cold={self.cold[:40]} is no place to compute what is not on the GPU; known: "
                f"{', '.join(COLD)}"
            )
        self.activity = words.get("activity")
        self._cache = words.get("cache", cache)
        self._own = {word: words[word] for word in _CACHE_WORDS if word in words}
        make_cache(self._cache, 1, 1, 1, self._own)

    @abstractmethod
    def layout(self, view: WeightView, /) -> WeightLayout:
        """Return the place of every piece (`WeightPolicy.layout`)."""

    @abstractmethod
    def room_frac(self, view: WeightView, /) -> float:
        """Return the share of a layer's units that the GPU has room for."""

    @abstractmethod
    def source(self, units: int, chosen: int, seed: int, /) -> ActivationSource:
        """Return which units are active.

        Args:
            units: of a layer.
            chosen: experts that a token is routed to.
            seed: of the draws.
        """

    def cache(self, layers: int, units: int, view: WeightView) -> UnitCache:
        """Return an empty cache of the units of each layer on the GPU."""
        return make_cache(self._cache, layers, units, self.capacity(units, view), self._own)

    def capacity(self, units: int, view: WeightView) -> int:
        """Return how many units of a layer the GPU has room for."""
        return math.ceil(units * self.room_frac(view))


def share_of(piece: Piece, frac: float) -> Piece:
    """Return a share of a piece."""
    return piece._replace(size_bytes=piece.size_bytes * frac)


def percent_of(word: str, said: str) -> float:
    """Read a percentage above 0 as a share.

    Raises:
        PolicyError: it is none.
    """
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,4})?", said) or not 0.0 < float(said) <= 100.0:
        raise PolicyError(f"policy option {word}={said[:40]} is no percentage above 0 and up to 100; write {word}=10")
    return float(said) / 100.0


def exponent_of(word: str, said: str) -> float:
    """Read an exponent of popularity.

    Raises:
        PolicyError: it is none from 0 to 3.
    """
    if not re.fullmatch(r"[0-9](\.[0-9]{1,4})?", said) or float(said) > 3.0:
        raise PolicyError(f"policy option {word}={said[:40]} is no exponent from 0 to 3; write {word}=0.9")
    return float(said)

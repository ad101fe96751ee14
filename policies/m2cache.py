"""M2Cache: attention on the GPU, the neurons of a token beside it, layers in host memory, everything on the disk.

arXiv:2410.14740: of a feed-forward network only the active neurons are computed, at mixed precision by rank; a cache on
the GPU keeps some from token to token; whole layers are read ahead from disk into host memory.
"""

import math
import re
from collections.abc import Mapping
from typing import Final

from afterwatt.policies.caching.activity import Neurons
from afterwatt.policies.caching.cache import UnitCache
from afterwatt.policies.caching.layers import LayerArea
from afterwatt.policies.caching.making import WORDS, make_cache
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.making import CostModel
from afterwatt.policies.placement import DENSE, EXPERTS, Piece, Placed, WeightLayout, WeightView
from afterwatt.policies.precision import parse_shares

OVERLAP: Final = 0.8
"""Of a token's neurons, those that the token before had: published for large ReLU models (M2Cache, NeuroPrefetcher)."""
AHEAD: Final = 2
"""Layers between the one that is computed and the one that is read from disk (M2Cache, section 5.3)."""
_CACHE_WORDS: Final = tuple(sorted({word for words in WORDS.values() for word in words}))


class M2Cache:
    """Computes the active neurons of dense networks on the GPU and keeps weights on three levels.

    Args:
        words: `density`: percent of the neurons that a token activates, which nothing can be said without; `overlap`:
            percent of them that the token before had [80]; `cache`: of `policies.caching.CACHES`, with its words
            [adjacent]; `room`: percent of the neurons that the GPU has room for [density]; `shares`: of precisions by
            rank [25/25/50]; `dram`: layers that stay in host memory/layers on their way [what fits]; `ahead`: layers
            between what is computed and what is read [2].

    Attributes:
        density, overlap, room: as shares; shares: of precisions; ahead: layers.
    """

    words = ("density", "overlap", "cache", "room", "shares", "dram", "ahead", *_CACHE_WORDS)
    stored: str | None = None

    def __init__(self, words: Mapping[str, str], _costs: CostModel) -> None:
        if "density" not in words:
            raise PolicyError(
                "m2cache computes the neurons that a token activates, and how many that are is the model's: say so, as "
                "in m2cache+density=10 (percent; about 10 of ReLU models, 50 of SwiGLU ones)"
            )
        self.density = _percent("density", words["density"])
        self.overlap = _percent("overlap", words.get("overlap", f"{100.0 * OVERLAP:g}"))
        self.room = _percent("room", words["room"]) if "room" in words else self.density
        self.shares = parse_shares(words.get("shares", "25/25/50"))
        self.ahead = _whole("ahead", words.get("ahead", str(AHEAD)))
        self._cache = words.get("cache", "adjacent")
        self._own = {word: words[word] for word in _CACHE_WORDS if word in words}
        self._dram = _areas(words["dram"]) if "dram" in words else None
        self.cache(1, 1)

    def layout(self, view: WeightView) -> WeightLayout:
        """Return the place of every piece (`WeightPolicy.layout`).

        Raises:
            PolicyError: the model is a mixture of experts, or a share is of no known precision.
        """
        if any(piece.part == EXPERTS for piece in view.pieces):
            raise PolicyError("m2cache caches neurons of dense networks, and this model has experts; take experts=cpu")
        mean = self.mean_ratio(view.ratios)
        fixed, dynamic = self._areas(view, mean)
        placed: list[Placed] = []
        for piece in view.pieces:
            if piece.part != DENSE:
                placed.append(Placed(piece, "hbm"))
                continue
            whole = piece._replace(size_bytes=piece.size_bytes * mean)
            placed += [Placed(_share(whole, self.room), "hbm", copy=True), Placed(whole, "ssd")]
            if piece.layer < fixed + dynamic:
                placed.append(Placed(whole, "dram", copy=True))
        return WeightLayout(tuple(placed))

    def mean_ratio(self, ratios: Mapping[str, float]) -> float:
        """Return the bytes of a layer's neurons at mixed precision over those as the model is stored.

        Args:
            ratios: the same of each precision.
        """
        for share in self.shares.shares:
            if share.precision not in ratios:
                raise PolicyError(f"shares={self.shares} name {share.precision}, which nobody stores weights in")
        return sum(share.frac * ratios[share.precision] for share in self.shares.shares)

    def cache(self, layers: int, units: int) -> UnitCache:
        """Return an empty cache of the neurons of each layer on the GPU."""
        return make_cache(self._cache, layers, units, math.ceil(units * self.room), self._own)

    def source(self, units: int, seed: int) -> Neurons:
        """Return which neurons are active, as the words state it."""
        return Neurons(units, self.density, self.overlap, seed)

    def area(self, view: WeightView) -> LayerArea:
        """Return the layers in host memory."""
        fixed, dynamic = self._areas(view, self.mean_ratio(view.ratios))
        return LayerArea(view.layers, fixed, dynamic, min(self.ahead, max(1, view.layers - 1)))

    def _areas(self, view: WeightView, mean: float) -> tuple[int, int]:
        """Return (layers that stay in host memory, layers on their way): as stated, or as many as fit."""
        if self._dram is not None:
            return self._dram
        largest = max(piece.size_bytes for piece in view.pieces if piece.part == DENSE) * mean
        fits = int(view.room_bytes["dram"] // largest)
        return (view.layers, 0) if fits >= view.layers else (max(0, fits - self.ahead - 1), self.ahead + 1)


def is_cached(name: str) -> bool:
    """Return whether a placement computes with caches, so that iterations differ from one another."""
    return name == "m2cache"


def _share(piece: Piece, frac: float) -> Piece:
    return piece._replace(size_bytes=piece.size_bytes * frac)


def _percent(word: str, said: str) -> float:
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,4})?", said) or not 0.0 < float(said) <= 100.0:
        raise PolicyError(f"policy option {word}={said[:40]} is no percentage above 0 and up to 100; write {word}=10")
    return float(said) / 100.0


def _whole(word: str, said: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]?", said):
        raise PolicyError(f"policy option {word}={said[:40]} is no whole number from 1 to 99; write {word}=2")
    return int(said)


def _areas(said: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", said)
    if match is None:
        raise PolicyError(
            f"policy option dram={said[:40]} is no pair of layers; write those that stay/those on their way, as in "
            "dram=20/3"
        )
    return int(match[1]), int(match[2])

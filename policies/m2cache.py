"""M2Cache: attention on the GPU, the neurons of a token beside it, layers in host memory, everything on the disk.

arXiv:2410.14740: of a feed-forward network only the active neurons are computed, at mixed precision by rank; a cache on
the GPU keeps some from token to token; whole layers are read ahead from disk into host memory.
"""

import re
from collections.abc import Mapping
from typing import ClassVar, Final

from afterwatt.policies.cached import CachedUnits, exponent_of, percent_of, share_of
from afterwatt.policies.caching.activity import Neurons
from afterwatt.policies.caching.layers import LayerArea
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.making import CostModel
from afterwatt.policies.placement import DENSE, EXPERTS, Placed, WeightLayout, WeightView
from afterwatt.policies.precision import parse_shares

OVERLAP: Final = 0.8
"""Of a token's neurons, those that the token before had: published for large ReLU models (M2Cache, NeuroPrefetcher)."""
DENSITY: Final = 0.1
"""Of a layer's neurons, those that a token activates: LLaMA-2 after training with ReLU (LLM in a flash: about 90 % are
inactive). A SwiGLU checkpoint as it was published has no such sparsity."""
AHEAD: Final = 2
"""Layers between the one that is computed and the one that is read from disk (M2Cache, section 5.3)."""


class M2Cache(CachedUnits):
    """Computes the active neurons of dense networks on the GPU and keeps weights on three levels.

    Args:
        words: `density`: percent of the neurons that a token activates [10, of checkpoints trained for it]; `overlap`:
            percent of them that the token before had [80]; `skew`: Zipf's exponent of how often neurons are active
            [0, all alike]; `room`: percent of the neurons that the GPU has room for [density]; `shares`: of precisions
            by rank [25/25/50]; `dram`: layers that stay in host memory/layers on their way [what fits]; `ahead`: layers
            between what is computed and what is read [2]; those of `CachedUnits` [adjacent].

    Attributes:
        density, overlap, room: as shares; shares: of precisions; ahead: layers; assumed: whether nobody stated density.
    """

    words: ClassVar[tuple[str, ...]] = (*CachedUnits.words, "density", "overlap", "skew", "shares", "dram", "ahead")
    part = DENSE
    known_ahead = 2  # neurons are predicted from what the layer before theirs is given

    def __init__(self, words: Mapping[str, str], _costs: CostModel) -> None:
        super().__init__(words, "adjacent")
        self.density = percent_of("density", words.get("density", f"{100.0 * DENSITY:g}"))
        self.assumed = "density" not in words
        self.overlap = percent_of("overlap", words.get("overlap", f"{100.0 * OVERLAP:g}"))
        self.room = percent_of("room", words["room"]) if "room" in words else self.density
        self.shares = parse_shares(words.get("shares", "25/25/50"))
        self.ahead = _whole("ahead", words.get("ahead", str(AHEAD)))
        self._skew = exponent_of("skew", words.get("skew", "0"))
        self._dram = _areas(words["dram"]) if "dram" in words else None

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
            placed += [Placed(share_of(whole, self.room), "hbm", copy=True), Placed(whole, "ssd")]
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

    def room_frac(self, view: WeightView) -> float:  # noqa: ARG002 - it is stated
        """Return the share of a layer's neurons that the GPU has room for."""
        return self.room

    def source(self, units: int, chosen: int, seed: int) -> Neurons:  # noqa: ARG002 - no experts
        """Return which neurons are active, as the words state it."""
        return Neurons(units, self.density, self.overlap, seed, skew=self._skew)

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

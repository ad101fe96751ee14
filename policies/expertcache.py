"""Experts in a cache on the GPU, the rest of them in host memory and on the disk."""

from collections.abc import Mapping
from typing import ClassVar, Final

from afterwatt.policies.cached import CachedUnits, exponent_of, percent_of, share_of
from afterwatt.policies.caching.activity import Experts
from afterwatt.policies.caching.cache import LeastRecent, UnitCache
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.making import CostModel
from afterwatt.policies.placement import EXPERTS, Placed, WeightLayout, WeightView

SKEW: Final = 0.9
"""Zipf's exponent of experts' popularity: six of eight published hit rates lie within 0.04 of it (0.7 to 1.2)."""
FILL: Final = 0.8
"""Share of the GPU memory beside all else that holds experts: the rest is left to the KV cache."""


class CachedExperts(CachedUnits):
    """Keeps experts on the GPU as a cache decides; all lie in host memory, or some there and all on the disk.

    Args:
        words: of `CachedUnits`; `room`: percent of the experts that the GPU has room for [80 percent of the memory that
            all else leaves]; `skew`: Zipf's exponent of their popularity [0.9]; `memory-room`: percent of them in host
            memory, the most recent [what fits; less than all read the rest from the disk].
    """

    words: ClassVar[tuple[str, ...]] = (*CachedUnits.words, "skew", "memory-room")
    part = EXPERTS
    known_ahead = 1  # a layer's experts are known once its router has run

    def __init__(self, words: Mapping[str, str], _costs: CostModel) -> None:
        super().__init__(words, "lru")
        self._skew = exponent_of("skew", words.get("skew", f"{SKEW:g}"))
        self._room = percent_of("room", words["room"]) if "room" in words else None
        self._host = percent_of("memory-room", words["memory-room"]) if "memory-room" in words else None

    def layout(self, view: WeightView) -> WeightLayout:
        """Return the place of every piece (`WeightPolicy.layout`).

        Raises:
            PolicyError: the model has no experts.
        """
        if not any(piece.part == EXPERTS for piece in view.pieces):
            raise PolicyError(
                "expert-cache needs a mixture of experts, and this model is dense; take m2cache or stream"
            )
        room, host = self.room_frac(view), self.host_frac(view)
        placed: list[Placed] = []
        for piece in view.pieces:
            if piece.part != EXPERTS:
                placed.append(Placed(piece, "hbm"))
                continue
            placed.append(Placed(share_of(piece, room), "hbm", copy=True))
            if host < 1.0:
                placed += [Placed(share_of(piece, host), "dram", copy=True), Placed(piece, "ssd")]
            else:
                placed.append(Placed(piece, "dram"))
        return WeightLayout(tuple(placed))

    def room_frac(self, view: WeightView) -> float:
        """Return the share of a layer's experts that the GPU has room for."""
        if self._room is not None:
            return self._room
        experts = sum(piece.size_bytes for piece in view.pieces if piece.part == EXPERTS)
        beside = sum(piece.size_bytes for piece in view.pieces) - experts
        return min(1.0, max(0.0, FILL * (view.room_bytes["hbm"] - beside) / experts))

    def host_frac(self, view: WeightView) -> float:
        """Return the share of a layer's experts in host memory."""
        if self._host is not None:
            return self._host
        experts = sum(piece.size_bytes for piece in view.pieces if piece.part == EXPERTS)
        return min(1.0, view.room_bytes["dram"] / experts)

    def source(self, units: int, chosen: int, seed: int) -> Experts:
        """Return which experts are active."""
        return Experts(units, chosen, self._skew, seed)

    def host_cache(self, layers: int, units: int, view: WeightView) -> UnitCache | None:
        """Return the experts of each layer in host memory, empty; None where all are there."""
        frac = self.host_frac(view)
        return None if frac >= 1.0 else LeastRecent(layers, units, int(units * frac))

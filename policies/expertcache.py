"""Experts in a cache on the GPU, the rest of them in host memory and on the disk."""

import re
from collections.abc import Mapping
from typing import ClassVar, Final

from afterwatt.policies.cached import CachedUnits, exponent_of, percent_of, share_of
from afterwatt.policies.caching.activity import Experts
from afterwatt.policies.caching.cache import LeastRecent, LowOnMiss, UnitCache
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.making import CostModel
from afterwatt.policies.placement import EXPERTS, GPU, Placed, WeightLayout, WeightView

SKEW: Final = 0.9
"""Zipf's exponent of experts' popularity: six of eight published hit rates lie within 0.04 of it (0.7 to 1.2)."""
FILL: Final = 0.8
"""Share of the GPU's memory for weights, and for those that pass through it: the rest is left to the KV cache."""
_PASSING: Final = 2
"""Layers' experts whose room a prompt needs that brings them over: those computed with, and the next."""
_ROUNDING: Final = 1e-9
"""Of an expert: 29 percent of 100 are 29."""


class CachedExperts(CachedUnits):
    """Keeps experts on the GPU as a cache decides; all lie in host memory, or some there and all on the disk.

    Args:
        words: of `CachedUnits`; `room`: percent of the experts that the GPU has room for [what 80 percent of its memory
            has, all else apart]; `low`: precision in which misses come that matter less (HOBBIT), `certain`: so many of
            a token's experts always come as they are stored [1]; `skew`: Zipf's exponent of their popularity [0.9];
            `memory-room`: percent of them in host memory, the most recent [what fits; less than all read the rest from
            the disk].
    """

    words: ClassVar[tuple[str, ...]] = (*CachedUnits.words, "skew", "memory-room", "low", "certain")
    part = EXPERTS
    known_ahead = 1  # a layer's experts are known once its router has run

    def __init__(self, words: Mapping[str, str], _costs: CostModel) -> None:
        super().__init__(words, "lru")
        self.low = words.get("low")
        certain = words.get("certain", "1")
        if not re.fullmatch(r"[0-9]{1,3}", certain) or (self.low is None and "certain" in words):
            raise PolicyError(
                f"policy option certain={certain[:40]} is no whole number beside low=; write low=int4+certain=1"
            )
        if self.low is not None and (self.cold != GPU or self.activity is not None):
            raise PolicyError("low= brings drawn experts over; it goes with cold=gpu, and with no activity=")
        self._certain = int(certain)
        self._skew = exponent_of("skew", words.get("skew", f"{SKEW:g}"))
        self._room = percent_of("room", words["room"]) if "room" in words else None
        self._host = percent_of("memory-room", words["memory-room"]) if "memory-room" in words else None

    def cache(self, layers: int, units: int, view: WeightView) -> UnitCache:
        """Return an empty cache of the experts of each layer on the GPU."""
        whole = super().cache(layers, units, view)
        return whole if self.low is None else LowOnMiss(whole, self._certain)

    def layout(self, view: WeightView) -> WeightLayout:
        """Return the place of every piece (`WeightPolicy.layout`).

        Raises:
            PolicyError: the model has no experts.
        """
        if not any(piece.part == EXPERTS for piece in view.pieces):
            raise PolicyError(
                "expert-cache needs a mixture of experts, and this model is dense; take m2cache or stream"
            )
        if self.low is not None and self.low not in view.ratios:
            raise PolicyError(f"low={self.low[:40]} is no precision that anybody stores weights in; write low=int4")
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
        sizes = [piece.size_bytes for piece in view.pieces if piece.part == EXPERTS]
        beside = sum(piece.size_bytes for piece in view.pieces) - sum(sizes) + _PASSING * max(sizes)
        return min(1.0, max(0.0, (FILL * view.room_bytes["hbm"] - beside) / sum(sizes)))

    def capacity(self, units: int, view: WeightView) -> int:
        """Return how many experts of a layer the GPU has room for: whole ones."""
        return int(units * self.room_frac(view) + _ROUNDING)

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

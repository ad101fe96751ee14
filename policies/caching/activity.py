"""Which units are active: a protocol, draws of stated statistics, and recordings."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from afterwatt.policies.caching.cache import Ids
from afterwatt.policies.errors import PolicyError

_LONGEST_STAY: Final = 4096
"""Steps after which a slot is renewed in any case; at an overlap of 0.99 one slot in 10^17 gets there."""
_PREDICTION: Final = 1 << 32


class ActivationSource(Protocol):
    """Says which units of a layer are active."""

    def active(self, step: int, layer: int, streams: Sequence[int]) -> Ids:
        """Return the units that any of the streams (requests) activates in a layer at a step, ascending."""


def expected_union(density: float, streams: int) -> float:
    """Return the share of units that any of some independent streams activates: 1 - (1 - p)^B."""
    return 1.0 - (1.0 - density) ** streams


def slots(units: int, count: int, skew: float) -> Ids:
    """Cut a layer's ranks into parts that hold one active unit each, int64[count + 1]: smaller where units are popular.

    Args:
        units: of a layer.
        count: that are active.
        skew: exponent: a unit is active c * rank^-skew of the time, but no more than always.
    """
    popular = np.arange(1, units + 1) ** -skew
    always = 0  # units of which c * rank^-skew exceeds 1; the others share what these leave
    while always < count and popular[always] * (count - always) > popular[always:].sum():
        always += 1
    expected = np.concatenate([np.ones(always), popular[always:] * (count - always) / popular[always:].sum()])
    ends = np.searchsorted(np.cumsum(expected), np.arange(1, count) - 1e-9) + 1
    first = np.arange(count + 1)  # where parts of one unit each would begin: no part is empty
    later = np.maximum.accumulate(np.concatenate([[0], ends, [units]]) - first)
    return (first + np.minimum(later, units - count)).astype(np.int64)


class Neurons:
    """Neurons of a layer that are active for a token, of which a share is those of the token before.

    A layer's units are cut into as many parts as there are active ones; a slot of each part holds one unit, and is
    renewed at a step with such a probability that the stated overlap comes about. All draws are keyed by (seed, layer,
    stream, step): asking in another order changes nothing.

    Args:
        units: of a layer.
        density: share that a token activates.
        overlap: share of a token's units that the token before has activated too.
        seed: of the draws.
        recall: look-ahead in layers -> share of the active units that a predictor names so early.
        skew: Zipf's exponent of how often units are active by rank, at most always; 0: all alike.

    Raises:
        PolicyError: shares outside of 0 to 1, or an overlap that so dense a layer cannot be without.
    """

    def __init__(
        self,
        units: int,
        density: float,
        overlap: float,
        seed: int = 0,
        recall: Mapping[int, float] | None = None,
        skew: float = 0.0,
    ) -> None:
        self.count = round(units * density)
        if not (1 <= self.count <= units and 0.0 <= overlap <= 1.0):
            raise PolicyError(
                f"{density:g} of {units} units active with an overlap of {overlap:g}; give shares from 0 to 1, and at "
                "least one unit"
            )
        self._units = units
        edges = np.arange(self.count + 1) * units // self.count if skew == 0.0 else slots(units, self.count, skew)
        self._first, self._sizes = edges[:-1], np.diff(edges)
        again = float((1.0 / self._sizes).mean())  # a slot that is renewed may draw the unit that it held
        if again < 1.0 and overlap < again:
            raise PolicyError(
                f"overlap = {overlap:g} is below {again:.3g}, what chance alone gives where {density:g} are active"
            )
        self._renewed = min(1.0, (1.0 - overlap) / (1.0 - again)) if again < 1.0 else 0.0
        self._seed, self._recall = seed, dict(recall or {})
        self._last: dict[tuple[int, int], tuple[int, Ids]] = {}  # layer, stream -> step asked for last, units then

    def active(self, step: int, layer: int, streams: Sequence[int]) -> Ids:
        """Return the active units (`ActivationSource.active`)."""
        drawn = [self._of_stream(step, layer, stream) for stream in streams]
        if len(drawn) == 1:
            return drawn[0]  # slots are parts of the layer in order: their units ascend
        active = np.zeros(self._units, dtype=bool)
        for units in drawn:
            active[units] = True
        return np.flatnonzero(active)

    def predicted(self, step: int, layer: int, streams: Sequence[int], ahead: int) -> Ids:
        """Return those of the active units that a predictor names so many layers ahead; all where nothing is known."""
        active = self.active(step, layer, streams)
        recall = self._recall.get(ahead, 1.0)
        draws = self._random(layer, _PREDICTION + ahead, step).random(len(active))
        return active[draws < recall]

    def _of_stream(self, step: int, layer: int, stream: int) -> Ids:
        """Return what one stream activates: each slot's unit as drawn when it was last renewed."""
        found = np.full(self.count, -1, dtype=np.int64)
        open_slots = np.ones(self.count, dtype=bool)
        before, units = self._last.get((layer, stream), (step, found))
        for when in range(step, max(-1, step - _LONGEST_STAY), -1):
            draws = self._random(layer, stream, when).random((2, self.count))
            renewed = open_slots & ((draws[0] < self._renewed) | (when == 0) | (when == step - _LONGEST_STAY + 1))
            found[renewed] = (self._first + (draws[1] * self._sizes).astype(np.int64))[renewed]
            open_slots &= ~renewed
            if when == before + 1:  # what has not been renewed since is as it was then
                found[open_slots] = units[open_slots]
                break
            if not open_slots.any():
                break
        self._last[layer, stream] = step, found
        return found

    def _random(self, layer: int, stream: int, step: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self._seed, counter=[0, layer, stream, step]))


class Experts:
    """Experts of a layer that tokens are routed to, some more popular than others.

    Popularity is Zipf's, rank^-skew; each token draws its experts without replacement (the largest of log popularity
    plus Gumbel noise), keyed by (seed, layer, stream, step).

    Args:
        experts: of a layer.
        chosen: that a token is routed to.
        skew: exponent; 0: all alike.
        seed: of the draws.

    Raises:
        PolicyError: more chosen than there are, or a negative exponent.
    """

    def __init__(self, experts: int, chosen: int, skew: float = 0.0, seed: int = 0) -> None:
        if not (1 <= chosen <= experts and skew >= 0.0):
            raise PolicyError(
                f"{chosen} of {experts} experts with a skew of {skew:g}; choose at least one and no more than there "
                "are, with a skew from 0"
            )
        self._chosen, self._seed = chosen, seed
        self._popularity = -skew * np.log(np.arange(1, experts + 1))

    def active(self, step: int, layer: int, streams: Sequence[int]) -> Ids:
        """Return the experts that any of the streams' tokens is routed to (`ActivationSource.active`)."""
        return np.unique(np.concatenate([self.ranked(step, layer, stream) for stream in streams]))

    def ordered(self, step: int, layer: int, streams: Sequence[int]) -> Ids:
        """Return the experts of `active`, the ones that weigh most in any token first."""
        places = np.stack([self.ranked(step, layer, stream) for stream in streams], axis=1).ravel()
        _, first = np.unique(places, return_index=True)
        found: Ids = places[np.sort(first)]
        return found

    def ranked(self, step: int, layer: int, stream: int) -> Ids:
        """Return one token's experts, the one that weighs most first."""
        random = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, layer, stream, step]))
        keys = self._popularity + random.gumbel(size=len(self._popularity))
        order: Ids = np.argsort(-keys, kind="stable")[: self._chosen]
        return order


class Recorded:
    """What an engine has recorded: the active units of each step and layer, of all that it served together.

    Args:
        offsets: where each (step, layer) begins in `units`, one more for the end, int64[steps * layers + 1].
        units: ascending within each, int64.
        layers: of the model.

    Raises:
        PolicyError: the arrays do not belong together.
    """

    def __init__(self, offsets: NDArray[np.int64], units: Ids, layers: int) -> None:
        if layers < 1 or len(offsets) % layers != 1 % layers or offsets[0] or offsets[-1] != len(units):
            raise PolicyError(
                f"{len(offsets)} offsets over {len(units)} units of {layers} layers do not belong together; record one "
                "more offset than steps times layers, from 0 to the number of units"
            )
        if (np.diff(offsets) < 0).any():
            raise PolicyError("offsets of a recording fall; record each step's units after those of the step before")
        self._offsets, self._units, self._layers = offsets, units, layers

    @property
    def steps(self) -> int:
        """Return how many steps were recorded."""
        return (len(self._offsets) - 1) // self._layers

    def active(self, step: int, layer: int, streams: Sequence[int]) -> Ids:  # noqa: ARG002 - recorded together
        """Return the active units (`ActivationSource.active`).

        Raises:
            PolicyError: a step that was not recorded.
        """
        if not (0 <= step < self.steps and 0 <= layer < self._layers):
            raise PolicyError(
                f"step {step} of layer {layer} was not recorded; there are {self.steps} steps of {self._layers} layers"
            )
        at = step * self._layers + layer
        return self._units[self._offsets[at] : self._offsets[at + 1]]

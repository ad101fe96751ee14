"""Caches of a layer's units (neurons, or experts) in fast memory, by what becomes of the units that are not used.

A unit's number is its rank by importance in its layer: where nothing else tells two apart, the lower one stays. A cache
is a fold of the sets of active units that it was shown, layer by layer; bodies ask it and move what it says.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from afterwatt.policies.errors import PolicyError

Ids = NDArray[np.int64]
"""Numbers of units of a layer, ascending."""
_NONE: Ids = np.empty(0, dtype=np.int64)


class Touched(NamedTuple):
    """What came of showing a cache the active units of a layer; all ascending.

    Attributes:
        hits: active units that were inside.
        misses: those that were not: they are to be brought in, or computed where they lie.
        loads: units to keep inside from now on; misses, and others that come with them.
        evicted: those that make room.
        low: misses that do with a copy of lower precision.
    """

    hits: Ids
    misses: Ids
    loads: Ids
    evicted: Ids
    low: Ids = _NONE


class UnitCache(Protocol):
    """Keeps units of each layer in fast memory."""

    def touch(self, layer: int, active: Ids) -> Touched:
        """Show it the active units of a layer, each once, in any order; return what moves."""

    def inside(self, layer: int) -> Ids:
        """Return the units of a layer that are inside."""


class ScoredCache(ABC):
    """Keeps, of what is inside and what may come in, the units with the highest scores.

    Args:
        layers: of the model.
        units: of each layer.
        capacity: units of a layer that fit.

    Raises:
        PolicyError: no unit, or no layer, or a capacity below 0.
    """

    def __init__(self, layers: int, units: int, capacity: int) -> None:
        if layers < 1 or units < 1 or capacity < 0:
            raise PolicyError(
                f"a cache of {capacity} of {units} units in {layers} layers makes no sense; give at least one unit "
                "and one layer, and no negative capacity"
            )
        self.units, self.capacity = units, min(capacity, units)
        self._inside = np.zeros((layers, units), dtype=bool)
        self._turn = np.zeros(layers, dtype=np.int64)  # of each layer, touches so far

    def inside(self, layer: int) -> Ids:
        """Return the units of a layer that are inside (`UnitCache.inside`)."""
        return np.flatnonzero(self._inside[layer])

    def touch(self, layer: int, active: Ids) -> Touched:
        """Show it the active units of a layer (`UnitCache.touch`).

        Raises:
            PolicyError: a unit that the layer does not have.
        """
        active = np.sort(np.asarray(active, dtype=np.int64))
        if len(active) and not 0 <= active[0] <= active[-1] < self.units:
            raise PolicyError(f"units {active[0]} to {active[-1]} of a layer of {self.units}; number them from 0")
        self._turn[layer] += 1
        inside = self._inside[layer]
        hit = inside[active]
        self._saw(layer, active)
        wanted = inside.copy()
        wanted[self._admitted(layer, active[~hit])] = True
        kept = self._best(layer, np.flatnonzero(wanted))
        after = np.zeros_like(inside)
        after[kept] = True
        loads, evicted = np.flatnonzero(after & ~inside), np.flatnonzero(inside & ~after)
        self._inside[layer] = after
        return Touched(active[hit], active[~hit], loads, evicted)

    def _best(self, layer: int, units: Ids) -> Ids:
        """Return the units with the highest scores that fit; of equal ones the lower."""
        units = self._worth(layer, units)
        if len(units) <= self.capacity:
            return units
        order = np.lexsort((units, *(-score[units] for score in reversed(self._scores(layer)))))
        return units[order[: self.capacity]]

    def _admitted(self, layer: int, misses: Ids) -> Ids:  # noqa: ARG002 - for those that choose
        """Return which of the misses may come in."""
        return misses

    def _worth(self, layer: int, units: Ids) -> Ids:  # noqa: ARG002 - for those that choose
        """Return which units are worth keeping even where there is room."""
        return units

    @abstractmethod
    def _saw(self, layer: int, active: Ids) -> None:
        """Take the active units of a layer into account."""

    @abstractmethod
    def _scores(self, layer: int) -> tuple[NDArray[np.float64], ...]:
        """Return scores of all units of a layer, the one that counts first, first."""


class _RecentCache(ScoredCache):
    """Knows when each unit was last active."""

    def __init__(self, layers: int, units: int, capacity: int) -> None:
        super().__init__(layers, units, capacity)
        self._last = np.zeros((layers, units))

    def _saw(self, layer: int, active: Ids) -> None:
        self._last[layer, active] = self._turn[layer]

    def _scores(self, layer: int) -> tuple[NDArray[np.float64], ...]:
        return (self._last[layer],)


class AdjacentTokens(_RecentCache):
    """Holds the active units of the last token and nothing else (M2Cache's ATU, arXiv:2410.14740, section 5.2).

    What differs between two tokens is replaced, and the cache is the very array that is computed with.
    """

    def __init__(self, layers: int, units: int, capacity: int) -> None:
        super().__init__(layers, units, capacity)
        self._before = np.zeros((layers, units))  # whether a unit was inside before the touch

    def touch(self, layer: int, active: Ids) -> Touched:
        """Show it the active units of a layer (`UnitCache.touch`)."""
        self._before[layer] = self._inside[layer]
        return super().touch(layer, active)

    def _worth(self, layer: int, units: Ids) -> Ids:
        kept: Ids = units[self._last[layer, units] == self._turn[layer]]
        return kept

    def _scores(self, layer: int) -> tuple[NDArray[np.float64], ...]:
        return (self._before[layer],)  # where not all fit, those that are inside need no move


class LeastRecent(_RecentCache):
    """Makes room by what was active longest ago (LRU)."""


class SlidingWindow(_RecentCache):
    """Holds what was active in the last tokens (LLM in a flash, arXiv:2312.11514, section 3.1).

    Args:
        layers: as in `ScoredCache`.
        units: as in `ScoredCache`.
        capacity: as in `ScoredCache`; of more, the most recent.
        tokens: of the window.
    """

    def __init__(self, layers: int, units: int, capacity: int, tokens: int = 5) -> None:
        if tokens < 1:
            raise PolicyError(f"a window of {tokens} tokens holds nothing; give at least 1")
        super().__init__(layers, units, capacity)
        self._tokens = tokens

    def _worth(self, layer: int, units: Ids) -> Ids:
        kept: Ids = units[self._last[layer, units] > self._turn[layer] - self._tokens]
        return kept


class LeastFrequent(_RecentCache):
    """Makes room by what was active least often, of those longest ago (LFU)."""

    def __init__(self, layers: int, units: int, capacity: int) -> None:
        super().__init__(layers, units, capacity)
        self._count = np.zeros((layers, units))

    def _saw(self, layer: int, active: Ids) -> None:
        super()._saw(layer, active)
        self._count[layer, active] += 1.0

    def _scores(self, layer: int) -> tuple[NDArray[np.float64], ...]:
        return self._count[layer], self._last[layer]


class Momentum(ScoredCache):
    """Lets a unit in when it has been active for a while: S <- m S + (1 - m) A (KAIROX's TAM).

    A unit comes in only above the score (1 - m) + margin, which a single use does not reach: most cold units are used
    once. Room is made by the lowest score. What does not come in is computed where it lies.

    Args:
        layers: as in `ScoredCache`.
        units: as in `ScoredCache`.
        capacity: as in `ScoredCache`.
        memory: m, from 0 up to, not including, 1.
        margin: above the score of a single use.
    """

    def __init__(self, layers: int, units: int, capacity: int, memory: float = 0.5, margin: float = 1e-3) -> None:
        super().__init__(layers, units, capacity)
        if not 0.0 <= memory < 1.0 or margin < 0.0:
            raise PolicyError(
                f"memory = {memory:g}, margin = {margin:g}; give a memory from 0 up to, not including, 1, and a margin "
                "from 0"
            )
        self.memory, self._margin = memory, margin
        self._score = np.zeros((layers, units))

    def adapt(self, link_bound: bool, share: float = 0.1) -> None:
        """Let fewer units in where the link is what is waited for, more where the processor is.

        Args:
            link_bound: whether the link is.
            share: by which m grows or shrinks.
        """
        self.memory = min(0.99, self.memory * (1.0 + share if link_bound else 1.0 - share))

    def _saw(self, layer: int, active: Ids) -> None:
        scores = self._score[layer]
        scores *= self.memory
        scores[active] += 1.0 - self.memory

    def _admitted(self, layer: int, misses: Ids) -> Ids:
        warm: Ids = misses[self._score[layer, misses] > 1.0 - self.memory + self._margin]
        return warm

    def _scores(self, layer: int) -> tuple[NDArray[np.float64], ...]:
        return (self._score[layer],)


class Static(ScoredCache):
    """Holds the most important units from the start, and never another (PowerInfer, arXiv:2312.12456)."""

    def __init__(self, layers: int, units: int, capacity: int) -> None:
        super().__init__(layers, units, capacity)
        self._inside[:, : self.capacity] = True

    def _saw(self, layer: int, active: Ids) -> None:
        """Learn nothing."""

    def _admitted(self, layer: int, misses: Ids) -> Ids:  # noqa: ARG002
        return _NONE

    def _scores(self, layer: int) -> tuple[NDArray[np.float64], ...]:  # noqa: ARG002
        return ()


class Grouped:
    """Moves units in groups that are active together: fewer, larger transfers, of which some is not needed.

    Args:
        cache: over groups: its units are groups, its capacity counts them.
        group_of: of each unit, the number of its group, int64[units].
    """

    def __init__(self, cache: ScoredCache, group_of: Ids) -> None:
        groups = len(np.unique(group_of))
        if groups != cache.units or not np.array_equal(np.unique(group_of), np.arange(groups)):
            raise PolicyError(f"{groups} groups for a cache of {cache.units}; number as many from 0, none empty")
        self._cache, self._group_of = cache, np.asarray(group_of)

    def inside(self, layer: int) -> Ids:
        """Return the units of a layer that are inside (`UnitCache.inside`)."""
        return self._units(self._cache.inside(layer))

    def touch(self, layer: int, active: Ids) -> Touched:
        """Show it the active units of a layer (`UnitCache.touch`)."""
        active = np.sort(np.asarray(active, dtype=np.int64))
        of_groups = self._cache.touch(layer, np.unique(self._group_of[active]))
        hit = np.isin(self._group_of[active], of_groups.hits)
        return Touched(active[hit], active[~hit], self._units(of_groups.loads), self._units(of_groups.evicted))

    def _units(self, groups: Ids) -> Ids:
        return np.flatnonzero(np.isin(self._group_of, groups))


class LowOnMiss:
    """Serves the less important misses from copies of lower precision (HOBBIT, arXiv:2411.01433).

    Args:
        cache: of full precision, which the misses that matter come into.
        certain: of the active units so many, as they are given, are worth full precision.
    """

    def __init__(self, cache: UnitCache, certain: int) -> None:
        if certain < 0:
            raise PolicyError(f"{certain} units of full precision; give 0 or more")
        self._cache, self._certain = cache, certain

    def inside(self, layer: int) -> Ids:
        """Return the units of a layer that are inside at full precision (`UnitCache.inside`)."""
        return self._cache.inside(layer)

    def touch(self, layer: int, active: Ids) -> Touched:
        """Show it the active units of a layer, the most important first (`UnitCache.touch`)."""
        inside = self._cache.inside(layer)
        low = np.setdiff1d(active[self._certain :], inside)
        of_full = self._cache.touch(layer, np.setdiff1d(active, low))
        misses = np.union1d(of_full.misses, low)
        return Touched(of_full.hits, misses, of_full.loads, of_full.evicted, low)

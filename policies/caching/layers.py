"""Which layers lie in host memory while the whole model lies on disk."""

from collections import deque
from typing import NamedTuple

from afterwatt.policies.errors import PolicyError


class Layers(NamedTuple):
    """What a step moves.

    Attributes:
        loads: layers to read from disk; evicted: layers that make room for them.
    """

    loads: tuple[int, ...]
    evicted: tuple[int, ...]


class LayerArea:
    """M2Cache's two-level cache in DRAM: the first layers always, the ones that come next in turn (section 5.3).

    A pass reads the layers in order, again and again. While layer i is computed, layer i + ahead is asked for: whole
    layers, since which neurons of it will be active is not known so early. The fixed area holds the first layers, so
    that a new token does not wait for them; the dynamic area is first in, first out.

    Args:
        layers: of the model.
        fixed: layers that stay.
        dynamic: layers that fit beside.
        ahead: layers between what is computed and what is asked for.

    Raises:
        PolicyError: a layer that is asked for would be gone before it is computed.
    """

    def __init__(self, layers: int, fixed: int, dynamic: int, ahead: int = 2) -> None:
        if layers < 1 or not 0 <= fixed <= layers or dynamic < 0 or not 1 <= ahead < max(2, layers):
            raise PolicyError(
                f"{fixed} fixed and {dynamic} dynamic of {layers} layers, {ahead} ahead, make no sense; give 0 to "
                f"{layers} fixed ones, and look 1 to {layers - 1} ahead"
            )
        if fixed < layers and dynamic <= ahead and fixed + dynamic < layers:
            raise PolicyError(
                f"{dynamic} layers of host memory for those on their way do not hold what is asked for {ahead} layers "
                f"ahead; give room for {ahead + 1}, or look less far ahead"
            )
        self._layers, self._fixed, self._room, self._ahead = layers, fixed, dynamic, ahead
        self._dynamic: deque[int] = deque()
        self._begun = False

    def begin(self) -> Layers:
        """Fill the fixed area and the first layers that are computed; once, before the first step."""
        self._begun = True
        first = range(self._fixed, min(self._fixed + self._room, self._layers, self._ahead))
        self._dynamic.extend(first)
        return Layers((*range(self._fixed), *first), ())

    def holds(self, layer: int) -> bool:
        """Say whether a layer is in host memory, or on its way there."""
        return (self._begun and layer < self._fixed) or layer in self._dynamic

    def step(self, layer: int) -> Layers:
        """Ask for what is needed soon, while a layer is computed."""
        wanted = (layer + self._ahead) % self._layers
        if self.holds(wanted):
            return Layers((), ())
        evicted = (self._dynamic.popleft(),) if len(self._dynamic) == self._room else ()
        self._dynamic.append(wanted)
        return Layers((wanted,), evicted)

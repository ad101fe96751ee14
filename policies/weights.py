"""Placements of weights by name."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from afterwatt.policies.cached import CachedUnits
from afterwatt.policies.expertcache import CachedExperts
from afterwatt.policies.m2cache import M2Cache
from afterwatt.policies.placement import (
    HostExperts,
    LayerSplit,
    Resident,
    Split,
    Stream,
    StreamInt4,
    StreamInt8,
    WeightPolicy,
)

WEIGHTS: Final[Mapping[str, Callable[..., WeightPolicy]]] = {
    "resident": Resident,
    "stream": Stream,
    "stream-int8": StreamInt8,
    "stream-int4": StreamInt4,
    "split": Split,
    "layers": LayerSplit,
    "experts": HostExperts,
    "m2cache": M2Cache,
    "expert-cache": CachedExperts,
}
"""Placements by name; one whose first word is its own name is chosen by that word: `layers=20`."""


PLACEMENT_WORDS: Final = frozenset(word for kind in WEIGHTS.values() for word in getattr(kind, "words", ()))
"""All words of placements' own."""


def placement_words() -> Iterable[str]:
    """Return the words that choose a placement, as one types them."""
    return (f"{name}=" if name in getattr(kind, "words", ()) else name for name, kind in WEIGHTS.items())


def is_cached(name: str) -> bool:
    """Return whether a placement computes with caches, so that iterations differ from one another."""
    kind = WEIGHTS.get(name)
    return isinstance(kind, type) and issubclass(kind, CachedUnits)

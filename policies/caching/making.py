"""Caches by name and by words of their own."""

from collections.abc import Callable, Mapping
from typing import Final

from afterwatt.policies.caching.cache import (
    AdjacentTokens,
    LeastFrequent,
    LeastRecent,
    Momentum,
    ScoredCache,
    SlidingWindow,
    Static,
)
from afterwatt.policies.errors import PolicyError

CACHES: Final[Mapping[str, type[ScoredCache]]] = {
    "adjacent": AdjacentTokens,
    "lru": LeastRecent,
    "lfu": LeastFrequent,
    "window": SlidingWindow,
    "momentum": Momentum,
    "static": Static,
}
WORDS: Final[Mapping[str, Mapping[str, Callable[[str], float]]]] = {
    "window": {"tokens": int},
    "momentum": {"memory": float, "margin": float},
}
"""Which words a cache takes, and what each is."""


def make_cache(name: str, layers: int, units: int, capacity: int, own: Mapping[str, str] | None = None) -> ScoredCache:
    """Return an empty cache.

    Args:
        name: of `CACHES`.
        layers: of the model.
        units: of each layer.
        capacity: units of a layer that fit.
        own: words of its own, such as {"tokens": "5"}.

    Raises:
        PolicyError: no such cache or word, or a value that makes no sense.
    """
    if name not in CACHES:
        raise PolicyError(f"unknown cache {name!r}; known: {', '.join(CACHES)}")
    known, said = WORDS.get(name, {}), {}
    for word, text in (own or {}).items():
        if word not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no words"
            raise PolicyError(f"unknown word {word!r} of cache {name!r}, which {takes}")
        try:
            said[word] = known[word](text)
        except ValueError:
            noun = "a whole number" if known[word] is int else "a number"
            raise PolicyError(f"{word} = {text!r} of cache {name!r} must be {noun}") from None
    return CACHES[name](layers, units, capacity, **said)

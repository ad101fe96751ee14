"""Prompts for traces that tell lengths only: ids drawn by seed, equal where the trace says beginnings are equal."""

from collections.abc import Sequence

import numpy as np

from afterwatt.engine.runtime.compute import Ints


def prompt_ids(
    tokens: int, vocab: int, seed: int, request_id: int, prefix: Sequence[int] = (), unit_tokens: int | None = None
) -> Ints:
    """Draw a prompt, int64[tokens]: a prefix block's ids by its hash, the rest by (seed, request)."""
    parts: list[Ints] = []
    if unit_tokens:
        whole = prefix[: tokens // unit_tokens]
        parts += [np.random.default_rng([seed, key % 2**64]).integers(0, vocab, unit_tokens) for key in whole]
    rest = tokens - sum(map(len, parts))
    parts.append(np.random.default_rng([seed, request_id, 0xB0D1]).integers(0, vocab, rest))
    return np.concatenate(parts)

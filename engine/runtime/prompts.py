"""Prompts for traces that tell lengths only: ids drawn by seed, equal where the trace says beginnings are equal."""

from collections.abc import Iterator, Sequence

import numpy as np

from afterwatt.engine.runtime.compute import GREEDY, Ints, Sampling
from afterwatt.engine.runtime.drive import NS_PER_S
from afterwatt.engine.runtime.request import Request
from afterwatt.traces.schema import Trace


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


def requests_of(
    trace: Trace, vocab: int, seed: int = 0, limit: int | None = None, stretch: float = 1.0, sampling: Sampling = GREEDY
) -> Iterator[Request]:
    """Turn a trace into requests that produce exactly the lengths it tells; `arrival_ns` counts from 0.

    Args:
        trace: lengths and arrival times.
        vocab: token ids of the model.
        seed: of the prompts.
        limit: only the first so many (None: all).
        stretch: arrival times are multiplied by this: 2 halves the rate.
        sampling: how tokens are chosen.
    """
    unit = trace.info.prefix_block_tokens if trace.info.has_prefixes else None
    number = 0
    for batch in trace.batches():
        prefixes = batch.prefixes if batch.prefixes is not None else [()] * len(batch)
        rows = zip(
            batch.arrival_s.tolist(), batch.prompt_tokens.tolist(), batch.output_tokens.tolist(), prefixes, strict=True
        )
        for arrival_s, prompt, output, prefix in rows:
            if limit is not None and number >= limit:
                return
            ids = prompt_ids(prompt, vocab, seed, number, prefix, unit)
            at_ns = round(arrival_s * stretch * NS_PER_S)
            yield Request(number, ids, output, at_ns, sampling, frozenset(), tuple(prefix))
            number += 1

"""Synthetic prefix sharing: which blocks of a drawn prompt are those of an earlier one."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from statistics import NormalDist

import numpy as np

from afterwatt.traces.arrivals import stream
from afterwatt.traces.presets import Sharing
from afterwatt.traces.schema import Floats, Ints, Prefixes


class Sharer:
    """Gives prompts their block hashes. Holds the latest prompts' hashes, and nothing else that grows."""

    def __init__(self, sharing: Sharing, seed: int) -> None:
        self._sharing = sharing
        self._seed = seed
        fifths = len(sharing.follow_frac)
        self._edges = [NormalDist().inv_cdf(k / fifths) for k in range(1, fifths)]
        self._live: deque[tuple[int, tuple[int, ...]]] = deque()  # (number, ids), oldest first
        self._by_length: list[tuple[int, int, tuple[int, ...]]] = []  # (blocks, number, ids), shortest first
        self._made = 0
        self._next_id = 1  # id 0 is the first block of every prompt

    def prefixes(self, block: int, scores: Floats, prompt: Ints) -> Prefixes:
        """Hash ids of a block of rows: the shared part of an earlier prompt, then ids never seen before."""
        sharing, n = self._sharing, len(prompt)
        rng = stream(self._seed, "prefixes", block)
        follows = rng.random(n) < np.array(sharing.follow_frac)[np.searchsorted(self._edges, scores)]
        grid = np.linspace(0, 1, len(sharing.share_frac))
        wanted = np.interp(rng.random(n), grid, sharing.share_frac)
        picks = rng.random(n).tolist()
        counts = -(-prompt // sharing.block_tokens)
        shares = np.where(follows, np.rint(wanted * counts), 0).astype(np.int64)
        return [self._one(*row) for row in zip(counts.tolist(), shares.tolist(), picks, strict=True)]

    def _one(self, count: int, share: int, pick: float) -> tuple[int, ...]:
        shared = self._parent(share, pick)[:share] or (0,)
        start, self._next_id = self._next_id, self._next_id + count - len(shared)
        ids = (*shared, *range(start, self._next_id))
        if len(self._live) == self._sharing.live_prompts:
            number, oldest = self._live.popleft()
            del self._by_length[bisect_left(self._by_length, (len(oldest), number))]
        self._live.append((self._made, ids))
        insort(self._by_length, (count, self._made, ids))
        self._made += 1
        return ids

    def _parent(self, share: int, pick: float) -> tuple[int, ...]:
        """Any of the live prompts with `share` blocks or more; the longest where there is none."""
        if share < 2 or not self._live:
            return ()
        first = bisect_left(self._by_length, (share, -1))
        if first == len(self._live):
            return self._by_length[-1][2]
        return self._by_length[first + int(pick * (len(self._live) - first))][2]

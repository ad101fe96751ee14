"""Decode batches padded to a few sizes, so that a GPU can replay them as CUDA graphs.

A graph fixes shapes and addresses: batches and their contexts are padded to the next of a few sizes, at most half as
large again, and their numbers are copied into buffers that stay where they are. What padding writes goes to the pool's
scratch block. On a CPU the same padded batches run as plain calls, which is how they are tested.

All sequences of a padded batch are as long as its longest. Where that would read much more than they hold, the batch
runs as it is, in groups of like lengths (`engine.model.attention`); `modelspecs.padding` has the rule.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from afterwatt.engine.model.attention import Together, gathered_bytes, length_mask
from afterwatt.engine.model.devices import memory_of
from afterwatt.engine.model.kv import KVPool
from afterwatt.engine.model.llama import Decoder
from afterwatt.engine.runtime.compute import Ints, StepBatch
from afterwatt.modelspecs.padding import SMALLEST_TOKENS, ladder, padded_shape

Key = tuple[int, int]


class PaddedDecode:
    """Runs pure decode batches, each in the smallest padded shape that holds it.

    Args:
        decoder: the model.
        pool: its cache.
        max_seqs: largest batch that is padded for.
        max_context: longest context.
        capture: replay CUDA graphs, captured when a shape is first needed; else call the same function.

    Attributes:
        refused: padded shapes that could not be captured, and why; their batches run unpadded.
    """

    def __init__(self, decoder: Decoder, pool: KVPool, max_seqs: int, max_context: int, capture: bool) -> None:
        self._decoder, self._pool, self._capture = decoder, pool, capture
        self._device = pool.device
        self._block_tokens = pool.shape.block_tokens
        self._sizes = ladder(1, max_seqs)
        blocks = [-(-tokens // self._block_tokens) for tokens in ladder(SMALLEST_TOKENS, max_context)]
        self._buckets = list(dict.fromkeys(blocks))
        token_bytes = 2 * pool.shape.kv_heads * pool.shape.head_dim * pool.dtype.itemsize
        self._most_blocks = gathered_bytes(memory_of(pool.device)) // token_bytes // self._block_tokens
        room = max((size * (3 + width) for size, width in self._keys(self._buckets[-1])), default=0)
        self._inputs = torch.zeros(room, dtype=torch.int64, device=self._device)
        self._staging = torch.zeros(room, dtype=torch.int64, pin_memory=capture)
        self._replays: dict[Key, Callable[[], torch.Tensor]] = {}
        self.refused: dict[Key, str] = {}
        # Of all graphs: they never run at the same time, so that one memory and one stream's workspaces do for all.
        self._memory: Any = None
        self._aside: Any = torch.cuda.Stream(self._device) if capture else None  # type: ignore[no-untyped-call]
        decoder.rope.reserve(max_context)  # a graph keeps the table's address

    def _keys(self, widest: int) -> Iterator[Key]:
        """Yield the padded shapes (sequences, blocks each) that may be gathered at once, the largest first."""
        for size in reversed(self._sizes):
            for width in reversed(self._buckets):
                if width <= widest and size * width <= self._most_blocks:
                    yield size, width

    def shape_of(self, batch: StepBatch) -> Key | None:
        """Return the padded shape (sequences, blocks each) for a batch; None if it must run as it is."""
        if batch.prompts or not all(batch.emits) or len(batch.seq_ids) > self._sizes[-1]:
            return None
        longest, count = max(batch.past_tokens) + 1, len(batch.seq_ids)
        shape = padded_shape(count, longest, sum(batch.past_tokens) + count)
        if shape is None or longest > self._buckets[-1] * self._block_tokens:
            return None
        blocks = min(-(-shape[1] // self._block_tokens), self._buckets[-1])
        key = min(shape[0], self._sizes[-1]), blocks
        return key if key[0] * key[1] <= self._most_blocks and key not in self.refused else None

    def logits(self, batch: StepBatch, slots: Ints, key: Key) -> torch.Tensor:
        """Run a batch in a padded shape that holds it.

        Args:
            batch: decoding sequences only, all of which emit.
            slots: of their tokens, int64[m].
            key: from `shape_of`.

        Returns:
            fp32[m, vocab]; a graph's own memory, which the next batch overwrites.
        """
        self._fill(batch, slots, key)
        return self._replay(key)()[: len(batch.seq_ids)]

    def warm_up(self, context_tokens: int) -> None:
        """Capture every shape for contexts of up to so many tokens, largest first: the others then share its memory."""
        for key in self._keys(_up(self._buckets, -(-context_tokens // self._block_tokens))):
            self._fill(None, np.empty(0, dtype=np.int64), key)
            self._replay(key)()

    def _fill(self, batch: StepBatch | None, slots: Ints, key: Key) -> None:
        """Put a batch's numbers where the padded function reads them: tokens, positions, slots, block tables."""
        size, width = key
        numbers = self._staging[: size * (3 + width)].numpy()
        scratch = self._pool.scratch_block
        rows = len(slots)
        tokens, positions, places, tables = np.split(numbers, [size, 2 * size, 3 * size])
        tokens[rows:] = positions[rows:] = 0
        places[rows:] = scratch * self._block_tokens
        tables[:] = scratch
        if batch is not None:
            tokens[:rows], positions[:rows], places[:rows] = batch.tokens, batch.past_tokens, slots
            for line, table, past in zip(tables.reshape(key), batch.block_tables, batch.past_tokens, strict=False):
                filled = past // self._block_tokens + 1
                line[:filled] = table[:filled]
        self._inputs[: len(numbers)].copy_(self._staging[: len(numbers)])

    def _padded(self, key: Key) -> torch.Tensor:
        """Compute the logits of what `_fill` has put there, fp32[size, vocab]."""
        size, width = key
        tokens, positions, slots = (self._inputs[i * size : (i + 1) * size] for i in range(3))
        blocks = self._inputs[3 * size : size * (3 + width)]
        mask = length_mask(positions + 1, width * self._block_tokens, self._decoder.compute)
        part = Together(slice(0, size), blocks, mask, self._decoder.mix)
        return self._decoder.logits(self._decoder.forward(tokens, positions, slots, self._pool, [part]))

    def _replay(self, key: Key) -> Callable[[], torch.Tensor]:
        if key not in self._replays:
            self._replays[key] = self._captured(key) if self._capture else lambda: self._padded(key)
        return self._replays[key]

    def _captured(self, key: Key) -> Callable[[], torch.Tensor]:
        """Capture one shape; the runs before only write again what the replay will write.

        Where that fails the shape is refused from then on, and what is returned computes it call by call.
        """
        current = torch.cuda.current_stream(self._device)
        try:
            self._aside.wait_stream(current)
            with torch.cuda.stream(self._aside):
                for _ in range(2):
                    self._padded(key)
            current.wait_stream(self._aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._memory, stream=self._aside):
                logits = self._padded(key)
        except RuntimeError as fault:
            torch.cuda.set_stream(current)  # a capture that breaks off may leave its own stream in place
            self.refused[key] = str(fault).partition("\n")[0]
            return lambda: self._padded(key)
        self._memory = graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return replay


def _up(sorted_values: list[int], least: int) -> int:
    """Return the smallest of them that is enough, or the largest."""
    return next((value for value in sorted_values if value >= least), sorted_values[-1])

"""A model made of arithmetic: the next token is a hash of every token it finds through its block table.

A block of memory holds what was written there, token by token with its place; so that a wrong block, a block written
over, or a context cut short changes the answer.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from afterwatt.engine.runtime.compute import Compute, ComputeInfo, PlacedMove, StepBatch

VOCAB = 251


def next_token(context: Sequence[int], seed: int = 0) -> int:
    """What follows a context."""
    digest = blake2b(np.asarray([seed, *context], dtype="<i8").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % VOCAB


def expected_output(prompt: Sequence[int], tokens: int, seed: int = 0, stop: frozenset[int] = frozenset()) -> list[int]:
    """What a request produces, whatever it is batched with."""
    context, produced = [int(token) for token in prompt], []
    for _ in range(tokens):
        produced.append(next_token(context, seed))
        context.append(produced[-1])
        if produced[-1] in stop:
            break
    return produced


class ArithmeticCompute:
    """Fulfils `Compute`; `step_s` is slept in each iteration, `fail_at` is the iteration that kills the process."""

    def __init__(
        self, kv_blocks: int, block_tokens: int, host_blocks: int = 0, step_s: float = 0.0, max_context: int = 10_000
    ) -> None:
        self.memory = np.full((kv_blocks, block_tokens, 2), -1, dtype=np.int64)
        self.host = np.full((host_blocks, block_tokens, 2), -1, dtype=np.int64)
        self.step_s = step_s
        self.info = ComputeInfo(
            model="arithmetic",
            params=0,
            device="cpu",
            dtype="int64",
            kv_dtype="int64",
            kv_blocks=kv_blocks,
            block_tokens=block_tokens,
            host_blocks=host_blocks,
            max_context=max_context,
            vocab=VOCAB,
            versions={},
        )

    def step(self, batch: StepBatch) -> list[int]:
        size = self.memory.shape[1]
        chosen, start = [], 0
        for index, count in enumerate(batch.query_tokens):
            past, table = batch.past_tokens[index], batch.block_tables[index]
            for place, token in enumerate(batch.tokens[start : start + count].tolist(), past):
                self.memory[table[place // size], place % size] = token, place
            start += count
            if batch.emits[index]:
                slots = [self.memory[table[place // size], place % size] for place in range(past + count)]
                assert [int(place) for _, place in slots] == list(range(past + count)), "a block was written over"
                chosen.append(next_token([int(token) for token, _ in slots], batch.sampling[index].seed))
        time.sleep(self.step_s)
        return chosen

    def move(self, moves: Sequence[PlacedMove]) -> None:
        tiers = {"hbm": self.memory, "dram": self.host}
        for move, src_blocks, dst_blocks in moves:
            assert move.units == len(src_blocks) == len(dst_blocks)
            tiers[move.dst][list(dst_blocks)] = tiers[move.src][list(src_blocks)]

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class ArithmeticFactory:
    """Makes it in another process."""

    kv_blocks: int
    block_tokens: int
    host_blocks: int = 0
    step_s: float = 0.0

    def __call__(self) -> Compute:
        return ArithmeticCompute(self.kv_blocks, self.block_tokens, self.host_blocks, self.step_s)

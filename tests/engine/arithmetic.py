"""A model made of arithmetic: the next token is a hash of every token it finds through its block table.

A block of memory holds what was written there, token by token with its place; so that a wrong block, a block written
over, or a context cut short changes the answer.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
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

    def step(self, batch: StepBatch) -> list[list[int]]:
        chosen, start = [], 0
        for index, count in enumerate(batch.query_tokens):
            past, table = batch.past_tokens[index], batch.block_tables[index]
            self.write(table, past, batch.tokens[start : start + count].tolist())
            start += count
            if batch.emits[index]:
                chosen.append([self.next(table, past + count, batch.sampling[index].seed)])
        time.sleep(self.step_s)
        return chosen

    def write(self, table: Sequence[int], first: int, tokens: Sequence[int]) -> None:
        size = self.memory.shape[1]
        for place, token in enumerate(tokens, first):
            self.memory[table[place // size], place % size] = token, place

    def next(self, table: Sequence[int], count: int, seed: int) -> int:
        """What follows the first tokens that a table holds."""
        size = self.memory.shape[1]
        slots = [self.memory[table[place // size], place % size] for place in range(count)]
        assert [int(place) for _, place in slots] == list(range(count)), "a block was written over"
        return next_token([int(token) for token, _ in slots], seed)

    def move(self, moves: Sequence[PlacedMove]) -> None:
        tiers = {"hbm": self.memory, "dram": self.host}
        for move, src_blocks, dst_blocks in moves:
            assert move.units == len(src_blocks) == len(dst_blocks)
            tiers[move.dst][list(dst_blocks)] = tiers[move.src][list(src_blocks)]

    def close(self) -> None:
        pass


class GuessingCompute(ArithmeticCompute):
    """Guesses what follows, two times of three rightly, and writes all that it guesses; keeps what is right."""

    def __init__(self, kv_blocks: int, block_tokens: int, host_blocks: int = 0, draft_tokens: int = 3) -> None:
        super().__init__(kv_blocks, block_tokens, host_blocks)
        self.info = replace(self.info, draft_tokens=draft_tokens)

    def step(self, batch: StepBatch) -> list[list[int]]:
        runs = super().step(batch)
        emitting = [index for index, emits in enumerate(batch.emits) if emits]
        for index, run in zip(emitting, runs, strict=True):
            first, table = batch.past_tokens[index] + batch.query_tokens[index], batch.block_tables[index]
            for kept in range(1, batch.most_tokens[index]):
                guess = run[-1] if run[-1] % 3 else run[-1] + 1
                self.write(table, first + kept - 1, [guess] * (batch.most_tokens[index] - kept))
                if guess != run[-1]:
                    break
                run.append(self.next(table, first + kept, batch.sampling[index].seed))
        return runs


@dataclass(frozen=True)
class ArithmeticFactory:
    """Makes it in another process."""

    kv_blocks: int
    block_tokens: int
    host_blocks: int = 0
    step_s: float = 0.0

    def __call__(self) -> Compute:
        return ArithmeticCompute(self.kv_blocks, self.block_tokens, self.host_blocks, self.step_s)

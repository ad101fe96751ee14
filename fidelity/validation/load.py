"""The load that an engine is calibrated on: batches of every size, prompts of every length, prompts among decoding.

Unlike what it is tested on afterwards: nothing arrives as in a trace here.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from afterwatt.engine.runtime.compute import ComputeInfo
from afterwatt.engine.runtime.drive import NS_PER_S, Recording, drive
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.process import WorkerProcess, WorkerSetup, scheduler_config
from afterwatt.engine.runtime.prompts import prompt_ids
from afterwatt.engine.runtime.request import Request
from afterwatt.fidelity.validation.iterations import Iteration, iterations_of

BATCHES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
PROMPTS: Final = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
CONTEXTS: Final = (32, 160, 640)
RESTS_S: Final = (0.0, 0.1, 0.3, 0.9)
"""Before prompts that are alone: they are what comes after a rest, and a rest has a price."""
_DECODED: Final = 8
_BUSY: Final = (1, 4, 8)
_BUSY_DECODED: Final = 16

_SCHEMA: Final = pa.schema(
    [
        ("decoding", pa.int64()),
        ("context_tokens", pa.int64()),
        ("chunks", pa.list_(pa.list_(pa.int64(), 2))),
        ("emits", pa.int64()),
        ("seconds", pa.float64()),
        ("rest_s", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that are there at once: (prompt, output) of each; rests: whether the worker may rest before."""

    requests: tuple[tuple[int, int], ...]
    rests: bool = False


def groups_of(info: ComputeInfo, setup: WorkerSetup, longest_tokens: int) -> list[Group]:
    """Return what to run, smallest first, as far as it fits the worker.

    Args:
        info: of the model.
        setup: of the worker.
        longest_tokens: prompt and output of the longest request that matters.
    """
    config = scheduler_config(setup, info)
    memory = (config.kv_blocks - config.watermark_blocks) * config.block_tokens
    most = min(longest_tokens, config.max_context_tokens, memory)

    def fits(group: Group) -> bool:
        needed = sum(-(-(prompt + output) // config.block_tokens) for prompt, output in group.requests)
        longest = max(prompt + output for prompt, output in group.requests)
        return len(group.requests) <= config.max_seqs and longest <= most and needed * config.block_tokens <= memory

    alone = [Group(((prompt, 2),), rests=True) for prompt in PROMPTS]
    together = [Group(((context, _DECODED),) * batch) for batch in BATCHES for context in CONTEXTS]
    # Some that decode on while prompts come in behind them, in one queue: each length beside one of several numbers.
    beside = [Group(((16, _BUSY_DECODED),) * busy + ((prompt, 2),) * 2) for busy, prompt in zip(cycle(_BUSY), PROMPTS)]
    return [group for group in (*alone, *together, *beside) if fits(group)]


def calibration_load(
    worker: WorkerProcess, setup: WorkerSetup, longest_tokens: int, rounds: int = 1, seed: int = 0
) -> list[Iteration]:
    """Run the load, all of it in each round, and return its iterations.

    Args:
        worker: ready and idle.
        setup: how it works.
        longest_tokens: prompt and output of the longest request that matters.
        rounds: how often.
        seed: of the prompts, and of how long rests are.

    Raises:
        EngineError: the worker was lost.
        KeyboardInterrupt: somebody ended it.
    """
    found: list[Iteration] = []
    groups = groups_of(worker.info, setup, longest_tokens)
    for number, (turn, group) in enumerate(product(range(rounds), groups)):
        # From round to round each prompt comes after another rest.
        rest_s = RESTS_S[(seed + turn + number % len(groups)) % len(RESTS_S)] if group.rests else 0.0
        requests = _requests(group.requests, rest_s, worker.info.vocab, seed + number)
        recording = undisturbed(drive(worker, requests))
        found += iterations_of(recording.steps, recording.start_ns)
    return found


def undisturbed(recording: Recording) -> Recording:
    """Return a recording that ran to its end.

    Raises:
        EngineError: its worker was lost.
        KeyboardInterrupt: somebody ended it.
    """
    if recording.lost:
        raise EngineError(f"the validation ends here: {recording.lost}")
    if recording.interrupted:
        raise KeyboardInterrupt
    return recording


def save_load(iterations: Sequence[Iteration], path: Path) -> None:
    """Write a load's iterations, a row each, so that a fit to them can be done again."""
    pq.write_table(pa.Table.from_pylist([asdict(one) for one in iterations], schema=_SCHEMA), path, compression="zstd")


def _requests(lengths: Sequence[tuple[int, int]], rest_s: float, vocab: int, seed: int) -> list[Request]:
    return [
        Request(number, prompt_ids(prompt, vocab, seed, number), output, round(rest_s * NS_PER_S))
        for number, (prompt, output) in enumerate(lengths)
    ]

"""How much of the memory's read bandwidth batch-1 decoding reaches: `python benchmarks/decode.py DIR`.

Steps of the engine and plain readers of as many bytes (a sum, a matrix-vector product) take turns, so that whatever
else the machine does meets all of them; the best reader of a round is what the step of that round is held against.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from engine.model.compute import TorchCompute, load_model
from engine.model.options import ComputeOptions
from engine.runtime.compute import GREEDY, StepBatch

CONTEXT_TOKENS = 64


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def decoding(past: int, blocks: int) -> StepBatch:
    """One step of one sequence."""
    return StepBatch([0], np.array([7]), [1], [past], 0, [list(range(blocks))], [True], [GREEDY])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    asked = parser.parse_args()
    options = ComputeOptions(dtype=asked.dtype, threads=asked.threads, kv_blocks=32, max_seqs=1, max_batch_tokens=256)
    model = load_model(asked.directory, options)
    compute = TorchCompute(model, options)
    weights = model.weights
    tied = weights.head is weights.embedding
    read_bytes = weights.bytes - (0 if tied else weights.embedding.nbytes)
    rows = torch.randn(read_bytes // 4 // 4096, 4096)
    vector = torch.randn(4096)
    readers: dict[str, Callable[[], object]] = {
        "sum": rows.sum,
        "GEMV": lambda: torch.mv(rows, vector),
    }
    batch = decoding(CONTEXT_TOKENS, 32)
    for work in (lambda: compute.step(batch), *readers.values()):
        seconds(work)
    steps: list[float] = []
    references: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(asked.rounds):
        steps.append(seconds(lambda: compute.step(batch)))
        for name, work in readers.items():
            references[name].append(rows.nbytes / seconds(work))
    step_s = statistics.median(steps)
    best = [max(both) for both in zip(*references.values(), strict=True)]
    shares = sorted(read_bytes / step / rate for step, rate in zip(steps, best, strict=True))
    sys.stdout.write(
        f"{compute.info.params / 1e6:.0f} M parameters, {read_bytes / 1e6:.0f} MB read per step, median "
        f"{step_s * 1e3:.1f} ms = {read_bytes / step_s / 1e9:.2f} GB/s\n"
        + "".join(f"{name}: median {statistics.median(v) / 1e9:.2f} GB/s\n" for name, v in references.items())
        + f"share of the best reader, round by round: median {statistics.median(shares):.1%}, "
        f"quartiles {shares[len(shares) // 4]:.1%} to {shares[3 * len(shares) // 4]:.1%}; "
        f"ratio of medians {read_bytes / step_s / statistics.median(best):.1%}\n"
    )
    compute.close()


if __name__ == "__main__":
    main()

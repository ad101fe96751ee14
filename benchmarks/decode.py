"""How much of the memory's read bandwidth batch-1 decoding reaches: `python benchmarks/decode.py DIR`.

Steps of the engine and plain readers of as many bytes (a matrix-vector product, a sum) take turns, so that whatever
else the machine does meets all of them. Shares are given by wall clock and by CPU time, which others who run meanwhile
disturb less.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from afterwatt.engine.model.compute import TorchCompute, load_model
from afterwatt.engine.model.options import ComputeOptions
from afterwatt.engine.runtime.compute import GREEDY, StepBatch


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return (wall clock, CPU time) of a call."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - begin_cpu


def decoding(past: int, blocks: int) -> StepBatch:
    """One step of one sequence."""
    return StepBatch([0], np.array([7]), [1], [past], 0, [list(range(blocks))], [True], [GREEDY])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--context", type=int, default=64)
    asked = parser.parse_args()
    blocks = asked.context // 16 + 1
    options = ComputeOptions(
        dtype=asked.dtype, threads=asked.threads, kv_blocks=blocks, max_seqs=1, max_batch_tokens=256
    )
    model = load_model(asked.directory, options)
    compute = TorchCompute(model, options)
    weights = model.weights
    tied = weights.head is weights.embedding
    read_bytes = weights.bytes - (0 if tied else weights.embedding.nbytes)
    block_bytes = int(compute.info.more["block_bytes"])
    read_bytes += block_bytes * (asked.context + 1) // options.block_tokens  # its keys and values
    rows = torch.randn(read_bytes // 4 // 4096, 4096)
    vector = torch.randn(4096)
    batch = decoding(asked.context, blocks)
    works: dict[str, Callable[[], object]] = {
        "step": lambda: compute.step(batch),
        "GEMV": lambda: torch.mv(rows, vector),
        "sum": rows.sum,
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for round_ in range(asked.rounds + 2):
        for name, work in works.items():
            found = seconds(work)
            if round_ > 1:  # the first ones find memory and caches cold
                taken[name].append(found)
    params = compute.info.params / 1e6
    sys.stdout.write(f"{params:.0f} M parameters, {read_bytes / 1e6:.0f} MB of weights and cache per step\n")
    for clock, place in (("wall clock", 0), ("CPU time", 1)):
        rates = {name: read_bytes / statistics.median(t[place] for t in times) for name, times in taken.items()}
        told = ", ".join(f"{name} {rate / 1e9:.2f} GB/s" for name, rate in rates.items())
        share = rates["step"] / max(rates["GEMV"], rates["sum"])
        sys.stdout.write(f"{clock}: {told} (medians of {asked.rounds}); step at {share:.1%} of the best\n")
    compute.close()


if __name__ == "__main__":
    main()

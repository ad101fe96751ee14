"""Stream a model from disk through host memory on this machine, and hold it against what the disk gives.

    python benchmarks/tiers.py [--runs 3] [--tokens 12] [--out FILE.json]     # a few minutes, 3 GB of disk

A random checkpoint whose networks are 1.2 GB in fp32, prepared; host memory for a third of them. Each run measures the
disk by direct reads of the same file, in turns with streaming tokens, and prints: the share of the disk's rate that
streaming reaches, the bytes that the kernel says were read over those that were planned, and seconds per token against
what the simulator's own law says of this disk (the slowest of disk and processor, bytes over rate). A drive that keeps
what was read in a cache of its own is measured with it.
"""

import argparse
import datetime as dt
import json
import mmap
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = ["--like", "llama-2-7b", "--layers", "8", "--hidden", "1536", "--heads", "12", "--kv-heads", "4"]
SIZES = ["--ffn", "8192", "--vocab", "1000", "--dtype", "fp32"]
PROMPT = [5, 17, 80, 211]
_PIECE = 1 << 20


def afterwatt(*words: str) -> None:
    """Run a command of ours.

    Raises:
        CalledProcessError: it failed.
    """
    subprocess.run([str(Path(sys.executable).with_name("afterwatt")), *words], check=True, capture_output=True)


def read_bytes() -> int:
    """Return the bytes that this process has had read from disks, as the kernel counts them."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def disk_bytes_per_s(path: Path, size: int) -> float:
    """Return the rate of direct reads of a file, in order, from its beginning."""
    from afterwatt.engine.runtime.tiers import SsdFile

    file, buffer = SsdFile(path), mmap.mmap(-1, _PIECE)
    begin, done = time.perf_counter(), 0
    with memoryview(buffer) as into:
        while done + _PIECE <= size:
            file.read(into, done)
            done += _PIECE
    took = time.perf_counter() - begin
    file.close()
    return done / took


def streamed(directory: Path, precision: str, dram_bytes: int, tokens: int) -> dict[str, float]:
    """Decode some tokens with networks streamed; return seconds per token, bytes planned and read."""
    import numpy as np

    from afterwatt.engine.model.compute import TorchCompute, load_model
    from afterwatt.engine.model.options import ComputeOptions, TierOptions
    from afterwatt.engine.runtime.compute import GREEDY, StepBatch
    from afterwatt.policies.config import parse_policies

    tiers = TierOptions(policies=parse_policies("stream"), precision=precision, dram_bytes=dram_bytes)
    options = ComputeOptions(kv_blocks=8, threads=1, tiers=tiers)
    compute = TorchCompute(load_model(directory, options), options)
    assert compute.host is not None
    ids, past, times = list(PROMPT), 0, []
    before, planned = read_bytes(), compute.host.traffic.to("dram")
    for _ in range(tokens + 1):
        begin = time.perf_counter()
        batch = StepBatch(
            seq_ids=[0],
            tokens=np.array(ids, dtype=np.int64),
            query_tokens=[len(ids)],
            past_tokens=[past],
            prompts=int(not past),
            block_tables=[[0, 1, 2, 3]],
            emits=[True],
            sampling=[GREEDY],
        )
        ((token,),) = compute.step(batch)
        times.append(time.perf_counter() - begin)
        past, ids = past + len(ids), [token]
    compute.close()  # lets reads end
    planned, read = compute.host.traffic.to("dram") - planned, read_bytes() - before
    return {"token_s": statistics.median(times[1:]), "planned_bytes": planned, "read_bytes": read, "all_s": sum(times)}


def computing_s(directory: Path, precision: str, tokens: int) -> float:
    """Return seconds per token where everything lies in host memory."""
    return streamed(directory, precision, 1 << 40, tokens)["token_s"]


def one_run(directory: Path, precision: str, tokens: int) -> dict[str, Any]:
    """Measure disk, processor and streaming once."""
    from afterwatt.engine.runtime.modular import BUNDLES, read_modular

    bundles = read_modular(directory).bundles
    section = bundles.section_bytes(precision)
    budget = bundles.layers * section // 3
    before = disk_bytes_per_s(directory / BUNDLES, bundles.layers * section)
    found = streamed(directory, precision, budget, tokens)
    after = disk_bytes_per_s(directory / BUNDLES, bundles.layers * section)
    rate, own_s = statistics.fmean((before, after)), computing_s(directory, precision, tokens)
    kept = max(0, budget // (bundles.blocks(precision) * bundles.block_bytes(precision)) - 2)
    per_token = (bundles.layers - kept) * section
    predicted_s = max(per_token / rate, own_s)
    return {
        "disk_bytes_per_s": rate,
        "computing_s": own_s,
        "token_s": found["token_s"],
        "bytes_per_token": per_token,
        "disk_share": per_token / found["token_s"] / rate,
        "kernel_over_planned": found["read_bytes"] / found["planned_bytes"],
        "predicted_s": predicted_s,
        "tpot_error": predicted_s / found["token_s"] - 1.0,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--folder", type=Path, help="where to make the checkpoint [a temporary folder]")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as made:
        folder = Path(made)
        afterwatt("model", "make-random", *MODEL, *SIZES, "--out", str(folder / "plain"))
        afterwatt("prepare", str(folder / "plain"), str(folder / "modular"), "--quiet")
        runs = [one_run(folder / "modular", chosen.precision, chosen.tokens) for _ in range(chosen.runs)]
    print(
        "| run | disk, GB/s | computing, s | token, s | of the disk's rate | kernel / planned | predicted, s | error |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for number, run in enumerate(runs, 1):
        print(
            f"| {number} | {run['disk_bytes_per_s'] / 1e9:.2f} | {run['computing_s']:.3f} | {run['token_s']:.3f} | "
            f"{run['disk_share']:.2f} | {run['kernel_over_planned']:.4f} | {run['predicted_s']:.3f} | "
            f"{100.0 * run['tpot_error']:+.1f} % |"
        )
    if chosen.out is not None:
        told = {
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        }
        chosen.out.write_text(json.dumps(told | {"runs": runs}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Hold the simulated M2Cache against what its paper says: the table of docs/caching.md.

    python benchmarks/m2cache.py

One sequence, 64 tokens in and 64 out (8 where layers stream), an RTX 3090 in a desktop computer with 64 GB and a PCIe
3.0 x4 disk. Density, overlap and shares are those of the page, set before the comparison.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import afterwatt as aw
from afterwatt.sim.errors import Infeasible

RIG = 'device = "rtx3090"\nhost = "desktop"\nstorage = "nvme-gen3"\n'
MIXED, FP16 = "25/25/50", "fp16:100"


class Case(NamedTuple):
    """One row: what is run, and what the paper says."""

    name: str
    model: str
    precision: str
    policy: str
    published: str
    output: int = 64


CASES = (
    Case("LLaMA-2-70B, ZeRO-Infinity (`stream`)", "llama-2-70b", "fp16", "stream", "about 0.02", 8),
    Case("LLaMA-2-70B, attention in fp16", "llama-2-70b", "fp16", "m2cache+density=10", "up to 0.3835"),
    Case("LLaMA-2-70B, attention in int8", "llama-2-70b", "int8", "m2cache+density=10", "up to 0.3835"),
    Case("the same, `dram=20/3`", "llama-2-70b", "int8", "m2cache+density=10+dram=20/3", "", 16),
    Case("LLaMA-2-13B", "llama-2-13b", "fp16", "m2cache+density=10", "4.62"),
    Case("LLaMA-2-13B, all neurons in fp16", "llama-2-13b", "fp16", f"m2cache+density=10+shares={FP16}", ""),
    Case("LLaMA-2-13B, overlap of chance", "llama-2-13b", "fp16", "m2cache+density=10+overlap=10.1", ""),
)


def row_of(case: Case, rig: str) -> str:
    """Run a case; return its row."""
    words: dict[str, Any] = {"model": case.model, "precision": case.precision, "policy": case.policy}
    try:
        run = aw.compare(hw=rig, batch=1, prompt=64, output=case.output, no_bounds=True, **words).loc[0]
    except Infeasible:
        return f"| {case.name} | refused | {case.published} | |"
    moved_gb = run["moved_dram_to_hbm_bytes"] / case.output / 1e9
    return f"| {case.name} | {1.0 / run['tpot_mean_s']:.3g} | {case.published} | {moved_gb:.2f} |"


def main() -> int:
    """Print the table."""
    print("| case | simulated, tokens/s decoding | published | GB to the GPU per token, prompt included |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        rig = Path(folder) / "rig.toml"
        rig.write_text(RIG, encoding="utf-8")
        for case in CASES:
            print(row_of(case, str(rig)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

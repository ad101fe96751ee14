"""A synthetic week of a busy service, streamed through with its outputs written.

    python benchmarks/week.py [--requests N] [--keep DIR]

Lengths of Azure's conversations of 2023 (or a synthetic trace of the same kind where that is not in ../shared/traces),
drawn anew batch by batch; Poisson arrivals at 73 requests/s, 44 million of them in a week; 16 A100-80, each a replica
of Llama-2-7B. Prints the wall time, CPU time and peak memory, and what a request costs. Not part of the tests; they
run a short version to see that memory does not grow.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from afterwatt.compiled import IN_USE
from afterwatt.hwprofiles.catalogue import load_site
from afterwatt.hwprofiles.deployment import parse_deployment
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.modelspecs import load_model
from afterwatt.modelspecs.precision import load_precision
from afterwatt.policies.config import parse_policies
from afterwatt.sim.config import RunConfig
from afterwatt.sim.run import simulate
from afterwatt.sim.workload import TraceWorkload
from afterwatt.traces import open_trace
from afterwatt.traces.schema import Batch, Trace, TraceInfo

AZURE = Path(__file__).parents[1] / ".." / "shared" / "traces" / "azure2023" / "AzureLLMInferenceTrace_conv.csv"
RATE_PER_S = 73.0
WEEK = 44_000_000


class Week(Trace):
    """Poisson arrivals with lengths drawn from a sample; nothing is held but a batch."""

    def __init__(self, requests: int, prompts: NDArray[np.int64], outputs: NDArray[np.int64]) -> None:
        self.requests = requests
        self.prompts = prompts
        self.outputs = outputs

    @property
    def info(self) -> TraceInfo:
        """A name and a count."""
        return TraceInfo("week", "synthetic", rows=self.requests)

    def batches(self, size: int = 8192) -> Iterator[Batch]:
        """Yield batches, the same ones each time."""
        random = np.random.default_rng(1)
        now_s, left = 0.0, self.requests
        while left:
            count = min(size, left)
            arrival_s = now_s + np.cumsum(random.exponential(1.0 / RATE_PER_S, count))
            which = random.integers(len(self.prompts), size=count)
            yield Batch(arrival_s, self.prompts[which], self.outputs[which])
            now_s, left = float(arrival_s[-1]), left - count


def config_of(requests: int) -> RunConfig:
    """Return a week, or its first so many requests."""
    sample = open_trace(str(AZURE) if AZURE.exists() else "synth:chat?n=20000").head(1_000_000)
    deployment = parse_deployment("16xa100-80")
    return RunConfig(
        deployment,
        load_model("llama-2-7b"),
        load_precision("fp16"),
        load_stack(deployment.pool.device),
        parse_policies("chunked"),
        load_site("world"),
        TraceWorkload(Week(requests, sample.prompt_tokens, sample.output_tokens)),
    )


def main() -> None:
    """Run it and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=WEEK)
    said = parser.parse_args()
    config = config_of(said.requests)
    with tempfile.TemporaryDirectory(prefix="afterwatt-week-") as folder:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        run = simulate(config, Path(folder) / "run")
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        written = sum(path.stat().st_size for path in run.path.iterdir())
        load = run.summary.load.offered_frac
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{said.requests:,} requests on 16 A100-80 at {load or 0.0:.0%} of capacity; {IN_USE.why}")
    print(f"wall {wall_s:.1f} s, CPU {cpu_s:.1f} s: {cpu_s / said.requests * 1e6:.1f} us of CPU per request")
    print(f"peak memory {peak_bytes / 1e6:.0f} MB, outputs {written / 1e6:.0f} MB")
    print(f"a week of {WEEK:,} at this pace: {wall_s / said.requests * WEEK / 60:.0f} minutes")


if __name__ == "__main__":
    main()

"""Peak memory of a long run: a synthetic trace that streams through the simulator into a run directory.

    python benchmarks/stream.py [--requests 5000000] [--hw 8xa100-80] [--rate 30]

Prints requests, seconds and the process's peak resident memory, whole process, outputs written, no report.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

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


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5_000_000)
    parser.add_argument("--hw", default="8xa100-80")
    parser.add_argument("--rate", type=float, default=30.0)
    options = parser.parse_args()
    deployment = parse_deployment(options.hw)
    config = RunConfig(
        deployment,
        load_model("llama-2-7b"),
        load_precision("fp16"),
        load_stack(deployment.pool.device),
        parse_policies("chunked"),
        load_site("world"),
        TraceWorkload(open_trace(f"synth:chat?n={options.requests}&rate={options.rate}&seed=1")),
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        summary = simulate(config, Path(folder) / "run").summary
        seconds = time.perf_counter() - start
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kibibytes on Linux
    print(
        f"{summary.requests.arrived:,} requests in {seconds:.0f} s "
        f"({seconds / options.requests * 1e6:.1f} us each), {summary.requests.finished:,} finished, "
        f"load {summary.load.offered_frac:.2f}, peak memory {peak_bytes / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()

"""How long a simulated request takes, in units of one bare SimPy timeout of the same process.

    python benchmarks/speed.py [--rounds N] [--requests N] [--json] [--only CASE] [--phases] [--replicas]
    python benchmarks/speed.py --whole [--beside COMMAND]

Three workloads with Llama-2-7B, outputs written, no report: Poisson arrivals of 512 in and 128 out at 4/s on one
A100-80; Azure 2023 conversation lengths, Poisson at 8/s on four; Mooncake's conversation trace on one, with chunked
prefill and shared prefixes, its arrivals paced to 70 % of capacity. What counts is processor time; rounds are
interleaved with the unit's own measurement and medians are quoted, as machines are noisy. `loop` is the part of a case
that a simulator cannot do without: no energy, no rows, no summary. The two traces are read from ../shared/traces where
they are there; else synthetic traces of the same kind stand in, and the table says so. Mooncake's contexts need a model
that takes them: Llama-3.1-8B, with its 131,072.

`--whole` times whole processes instead, compiled and interpreted in turn: `--help`, a run of one request, and the first
workload from a CSV file, with and without its 90 % range. `--beside` takes another version's command, which runs each
of these in turn with them. `--replicas` holds 200 replicas against one, at equal load each.
"""

import argparse
import gc
import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simpy
from numpy.typing import NDArray

import afterwatt.sim.run
from afterwatt.compiled import IN_USE
from afterwatt.hwprofiles.catalogue import load_site
from afterwatt.hwprofiles.deployment import parse_deployment
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.modelspecs import load_model
from afterwatt.modelspecs.precision import load_precision
from afterwatt.policies.config import parse_policies
from afterwatt.reports.rundir import RunWriter
from afterwatt.sim.body import Body
from afterwatt.sim.capacity import measure_capacity
from afterwatt.sim.config import RunConfig
from afterwatt.sim.run import memory_of, simulate
from afterwatt.sim.workload import TraceWorkload
from afterwatt.traces import open_trace
from afterwatt.traces.schema import Batch, Trace, TraceInfo

SHARED = Path(__file__).parents[1] / ".." / "shared" / "traces"
UNIT_EVENTS = 100_000


class MemoryTrace:
    """A trace held in memory, so that what is timed is the simulation."""

    def __init__(self, name: str, batch: Batch, unit: int | None = None) -> None:
        self.batch = batch
        self.info = TraceInfo(name, "memory", rows=len(batch), has_prefixes=unit is not None, prefix_block_tokens=unit)

    def batches(self, size: int = 8192) -> Iterator[Batch]:
        """Yield slices."""
        for start in range(0, len(self.batch), size):
            yield self.batch.sliced(start, min(start + size, len(self.batch)))

    def head(self, n: int) -> Batch:
        """Return the first rows."""
        return self.batch.sliced(0, min(n, len(self.batch)))

    def paced(self, factor: float) -> "MemoryTrace":
        """Stretch the arrivals in time."""
        return MemoryTrace(
            self.info.path, replace(self.batch, arrival_s=self.batch.arrival_s * factor), self.info.prefix_block_tokens
        )


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    target: float | None
    config: RunConfig
    requests: int


def poisson_arrivals(requests: int, rate_per_s: float) -> NDArray[np.float64]:
    """Return arrival times, the first at 0."""
    arrival_s: NDArray[np.float64] = np.cumsum(np.random.default_rng(1).exponential(1.0 / rate_per_s, requests))
    arrival_s -= arrival_s[0]
    return arrival_s


def config_of(trace: Trace, model: str, policy: str, hardware: str = "a100-80") -> RunConfig:
    """Return a run on one A100-80, or on other hardware."""
    deployment = parse_deployment(hardware)
    return RunConfig(
        deployment,
        load_model(model),
        load_precision("fp16"),
        load_stack(deployment.pool.device),
        parse_policies(policy),
        load_site("world"),
        TraceWorkload(trace),
    )


def at_load(trace: MemoryTrace, model: str, policy: str, frac: float) -> RunConfig:
    """Return a run whose arrivals are paced to a share of the measured capacity."""
    config = config_of(trace, model, policy)
    memory = memory_of(config)
    capacity = measure_capacity(config, memory, config.workload)
    assert capacity is not None
    offered = (len(trace.batch) - 1) / float(trace.batch.arrival_s[-1])
    return config_of(trace.paced(offered / (frac * capacity)), model, policy)


def read(path: str, fallback: str) -> tuple[str, Batch, int | None]:
    """Read a whole trace from ../shared, or draw a synthetic one of the same kind."""
    there = (SHARED / path).exists()
    trace = open_trace(str(SHARED / path) if there else fallback)
    batch = trace.head(1_000_000)
    return (Path(path).name if there else fallback), batch, trace.info.prefix_block_tokens


def cases(requests: int) -> list[Case]:
    """Return the three workloads."""
    fixed = Batch(
        arrival_s=poisson_arrivals(requests, 4.0),
        prompt_tokens=np.full(requests, 512),
        output_tokens=np.full(requests, 128),
    )
    found = [
        Case("poisson 512/128, 4/s", 28.0, config_of(MemoryTrace("poisson", fixed), "llama-2-7b", "chunked"), requests)
    ]
    name, batch, _ = read("azure2023/AzureLLMInferenceTrace_conv.csv", f"synth:chat?n={requests}")
    lengths = batch.sliced(0, min(requests, len(batch)))
    azure = MemoryTrace(name, replace(lengths, arrival_s=poisson_arrivals(len(lengths), 8.0)))
    found.append(Case(f"{name}, 8/s on four", 32.0, config_of(azure, "llama-2-7b", "chunked", "4xa100-80"), requests))
    name, batch, unit = read("mooncake/conversation_trace.parquet", f"synth:long-context?n={requests}")
    lengths = batch.sliced(0, min(requests, len(batch)))
    mooncake = MemoryTrace(name, lengths, unit)
    found.append(Case(f"{name}, 70 % load", 60.0, at_load(mooncake, "llama-3.1-8b", "chunked", 0.7), len(lengths)))
    return found


def unit_s() -> float:
    """Time one bare SimPy timeout: one process that does nothing else."""

    def idle(env: simpy.Environment) -> Generator[simpy.Event, None, None]:
        for _ in range(UNIT_EVENTS):
            yield env.timeout(1)

    env = simpy.Environment()
    env.process(idle(env))
    return timed(env.run) / UNIT_EVENTS


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of processor time that a call takes."""
    gc.collect()
    start = time.process_time()
    call()
    return time.process_time() - start


def loop(case: Case) -> None:
    """Run a case without whatever follows from its events: energy, rows and the summary."""
    Body(case.config, memory_of(case.config), case.config.workload, None, None).run()


PHASES = (
    (afterwatt.sim.run, "simulate", "all of it"),
    (Body, "run", "event loops: the run's and the capacity measurement's"),
    (Body, "_settle", "of them, settling strides: energy, gaps, time series, rows"),
    (afterwatt.sim.run, "measure_capacity", "measuring capacity"),
    (afterwatt.sim.run, "_close", "closing: capacity, energy, carbon, cost, summary"),
    (RunWriter, "__exit__", "committing the files to disk"),
)


def print_phases(case: Case, rounds: int) -> None:
    """Print what the phases of a case take; they are nested, and do not add up."""
    spent: dict[str, list[float]] = {}

    def watch(owner: object, name: str, label: str) -> None:
        inner = getattr(owner, name)

        def outer(*args: object, **options: object) -> object:
            start = time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                spent.setdefault(label, []).append(time.perf_counter() - start)

        setattr(owner, name, outer)

    for owner, name, label in PHASES:
        watch(owner, name, label)
    units = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            if number == 1:
                spent.clear()  # the first round warms up
            units.append(unit_s())
            afterwatt.sim.run.simulate(case.config, Path(folder) / "run", overwrite=True)
    unit = statistics.median(units)
    for label, times in spent.items():
        each = sum(times) / rounds / case.requests
        print(f"{label:<60} {each * 1e6:6.2f} us/request = {each / unit:6.1f} timeouts")


class Spent(NamedTuple):
    """Seconds of one process and its children."""

    wall_s: float
    cpu_s: float


def whole(command: str, words: str, compiled: bool, folder: Path) -> Spent:
    """Time one process of `simulate`; Python keeps what it makes of the sources, as of an installed package."""
    environment = os.environ | {"AFTERWATT_COMPILED": str(int(compiled)), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPYCACHEPREFIX": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": ""}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [*shlex.split(command), *words.split()], cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True
    )
    wall_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def print_whole(requests: int, rounds: int, beside: str | None) -> None:
    """Print what whole processes take, compiled and interpreted, and by another version's command."""
    plain = "--hw a100-80 --model llama-2-7b --trace poisson.csv --no-report --out run --overwrite"
    kinds = {
        "--help": "--help",
        "one request": f"{plain} --limit 1",
        f"{requests:,} requests": plain,
        f"{requests:,} requests, --no-bounds": f"{plain} --no-bounds",
    }
    mine = str(Path(sys.executable).with_name("simulate"))
    commands = {"compiled": (mine, True), "interpreted": (mine, False)} | ({"beside": (beside, True)} if beside else {})
    print(f"this process is {IN_USE.why}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = "".join(f"{arrival_s:.6f},512,128\n" for arrival_s in poisson_arrivals(requests, 4.0))
        (folder / "poisson.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
        for label, words in kinds.items():
            spent: dict[str, list[Spent]] = {kind: [] for kind in commands}
            for _ in range(rounds + 1):
                for kind, (command, compiled) in commands.items():
                    spent[kind].append(whole(command, words, compiled, folder))
            spent = {kind: times[1:] for kind, times in spent.items()}  # the first round warms up
            for kind, times in spent.items():
                wall, cpu = (
                    statistics.median(
                        here[part] / there[part] for here, there in zip(spent["compiled"], times, strict=True)
                    )
                    for part in (0, 1)
                )
                print(
                    f"{label:<32} {kind:<11} wall {statistics.median(one.wall_s for one in times):6.2f} s, processor "
                    f"{statistics.median(one.cpu_s for one in times):6.2f} s; compiled to it: {wall:.2f}, {cpu:.2f}"
                )


def print_replicas(requests: int, rounds: int) -> None:
    """Print what a request costs behind 200 replicas and behind one, each at 4 requests/s."""
    each: dict[int, list[float]] = {1: [], 200: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for replicas, times in each.items():
                count = np.full(requests, 512), np.full(requests, 128)
                batch = Batch(poisson_arrivals(requests, 4.0 * replicas), *count)
                config = config_of(MemoryTrace("poisson", batch), "llama-2-7b", "chunked", f"{replicas}xa100-80")
                spent = timed(partial(simulate, config, Path(folder) / "run", overwrite=True))
                times.append(spent / requests / unit_s())
    one, many = (statistics.median(times) for times in each.values())
    print(f"1 replica {one:.1f}, 200 replicas {many:.1f} timeouts per request: {many / one:.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--only", help="run only cases whose name contains this")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--phases", action="store_true", help="where the time of the first case goes")
    parser.add_argument("--whole", action="store_true", help="time whole processes")
    parser.add_argument("--beside", help="with --whole: another version's command")
    parser.add_argument("--replicas", action="store_true", help="time 200 replicas against one")
    options = parser.parse_args()
    if options.whole or options.replicas:
        if options.whole:
            print_whole(options.requests, options.rounds, options.beside)
        else:
            print_replicas(options.requests, options.rounds)
        return
    chosen = [case for case in cases(options.requests) if not options.only or options.only in case.name]
    if options.phases:
        print_phases(chosen[0], options.rounds)
        return
    ratios: dict[str, list[float]] = {case.name: [] for case in chosen}
    loops: dict[str, list[float]] = {case.name: [] for case in chosen}
    seconds: dict[str, list[float]] = {case.name: [] for case in chosen}
    units: list[float] = []
    folder = Path(tempfile.mkdtemp())
    try:
        for number in range(options.rounds + 1):
            for case in chosen:
                before = unit_s()
                spent = timed(partial(simulate, case.config, folder / "run", overwrite=True))
                bare = timed(partial(loop, case))
                unit = (before + unit_s()) / 2
                if number:  # the first round warms up
                    ratios[case.name].append(spent / case.requests / unit)
                    loops[case.name].append(bare / case.requests / unit)
                    seconds[case.name].append(spent / case.requests)
                    units.append(unit)
    finally:
        shutil.rmtree(folder)
    table = [
        {
            "case": case.name,
            "requests": case.requests,
            "us_per_request": statistics.median(seconds[case.name]) * 1e6,
            "simpy_timeouts_per_request": statistics.median(ratios[case.name]),
            "least": min(ratios[case.name]),
            "most": max(ratios[case.name]),
            "loop": statistics.median(loops[case.name]),
            "target": case.target,
        }
        for case in chosen
    ]
    if options.json:
        print(json.dumps({"unit_us": statistics.median(units) * 1e6, "cases": table}, indent=2))
        return
    print(f"one bare SimPy timeout: {statistics.median(units) * 1e6:.3f} us (median)")
    for row in table:
        print(
            f"{row['case']:<52} {row['us_per_request']:7.1f} us/request = {row['simpy_timeouts_per_request']:6.1f} "
            f"timeouts ({row['least']:.1f}-{row['most']:.1f}), loop {row['loop']:.1f}; target {row['target']:.0f}"
        )


if __name__ == "__main__":
    main()

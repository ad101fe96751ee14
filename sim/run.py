"""One simulation from a resolved configuration to a run directory that stands whole."""

import gc
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

from afterwatt.hwprofiles.books import BooksOptions, Counts, books_of, ledgers_of
from afterwatt.hwprofiles.hostwork import host_rates
from afterwatt.hwprofiles.power import gpu_power_model
from afterwatt.hwprofiles.replicas import replica_power
from afterwatt.hwprofiles.step import StepModel
from afterwatt.modelspecs.layers import LayerKind
from afterwatt.policies.log import DecisionEntry
from afterwatt.policies.weights import is_cached
from afterwatt.reports.decisions import DecisionWriter
from afterwatt.reports.rundir import Run, RunWriter, load_run
from afterwatt.reports.schema import SCHEMA_VERSION
from afterwatt.reports.summary import assemble_summary, served, summarise
from afterwatt.sim.body import Body, BodyResult
from afterwatt.sim.bounds import KeptRows, energies, errors_of, extent, prediction
from afterwatt.sim.cached import cached_servings
from afterwatt.sim.capacity import Load, load_of, measure_capacity
from afterwatt.sim.config import RunConfig
from afterwatt.sim.manifest import manifest_of
from afterwatt.sim.memory import MemoryPlan, plan_memory, require_fit, require_runnable, with_stated_blocks
from afterwatt.sim.meter import Meter
from afterwatt.sim.placement import placement_of
from afterwatt.sim.recorder import StrideMeter
from afterwatt.sim.tiermeter import CachedMeter, TieredMeter
from afterwatt.sim.times import own_times
from afterwatt.sim.workload import Workload

Progress = Callable[[int, float], None]
"""Called now and then with (requests done, virtual seconds)."""
LEAST_S = 0.05
"""What a run must take for a process beside it to save more than it costs."""


def simulate(
    config: RunConfig,
    out: str | Path,
    progress: Progress | None = None,
    overwrite: bool = False,
    spare_core: bool = False,
    page: bool = False,
) -> Run:
    """Simulate one run and write its directory.

    Args:
        config: the run.
        out: the directory to come.
        progress: called now and then with (requests done, virtual seconds).
        overwrite: replace a run that stands there.
        spare_core: whether a core is free, on which one of the two runs for the range may go on beside the other.
        page: whether to write report.html too.

    Returns:
        The run directory, whole.

    Raises:
        Infeasible: the model does not fit.
        ReportError: the directory cannot be written, or something stands there.
        ValueError: an input file turns out to be faulty on the way; nothing is left behind.
    """
    require_runnable(config.serving)
    memory = memory_of(config)
    meter = meter_of(config, memory)
    workload: Workload = config.workload
    with RunWriter(out, overwrite) as writer, _without_gc():
        decisions = DecisionWriter(writer.file("decisions.parquet")) if config.decisions else None
        sink: Callable[[DecisionEntry], None] | None = decisions.add if decisions else None
        body = Body(config, memory, workload, meter, lambda rows: writer.write("requests", rows), sink, progress)
        begun_s = perf_counter()
        result = body.run()
        spare_core = spare_core and perf_counter() - begun_s > LEAST_S
        if decisions is not None:
            decisions.close()
        gaps = result.gaps.table()
        writer.write("itl", {"itl_s": gaps["value"], "tokens": gaps["weight"]})
        _close(config, memory, result, writer, spare_core)
        if page:
            from afterwatt.reports.html import render

            writer.write_page(render([writer.run()]))
    return load_run(out)


def memory_of(config: RunConfig) -> MemoryPlan:
    """Lay out the memory of a run's replicas, or raise `Infeasible`."""
    policies, serving = config.policies, config.serving
    if policies.kv_blocks is None:
        return require_fit(serving, policies)
    return with_stated_blocks(plan_memory(serving, policies), policies.kv_blocks)


def meter_of(config: RunConfig, memory: MemoryPlan) -> StrideMeter:
    """Build the virtual meter of a run."""
    placement = placement_of(config.serving, config.policies)
    if placement is None:
        return gpu_meter(config, memory)
    if is_cached(config.policies.weights):
        policy, one_byte = config.policies.make_weights(), replace(memory, replica_block_bytes=1.0)
        few, many = (
            replace(config, precision=s.precision, model=s.model) for s in cached_servings(config.serving, policy)
        )
        return CachedMeter(gpu_meter(few, one_byte), gpu_meter(many, one_byte))
    own, whole = gpu_meter(config, memory, placement.kinds), gpu_meter(config, memory)
    serving, stages = config.serving, list(enumerate(placement.stages))
    few_times = [own_times(config, serving, number, stage.kinds) for number, stage in stages]
    many_times = [own_times(config, serving, number) for number, _ in stages]
    return TieredMeter(own, whole, placement, host_rates(serving), few_times, many_times)


def gpu_meter(config: RunConfig, memory: MemoryPlan, kinds: Mapping[LayerKind, int] | None = None) -> Meter:
    """Build the meter of what GPUs compute.

    Args:
        config: the run.
        memory: its replicas' memory.
        kinds: layers that they compute; None: all.
    """
    step, pool = StepModel(config.serving, kinds), config.deployment.pool
    gpu = gpu_power_model(pool.device, step.rates.computed_in, power_cap_w=pool.power_cap_w)
    replica = replica_power(pool, config.site, config.carbon.host_share)
    return Meter(step, gpu, replica, memory.replica_block_bytes)


def _close(config: RunConfig, memory: MemoryPlan, result: BodyResult, writer: RunWriter, spare_core: bool) -> None:
    """Measure capacity, settle energy, carbon and cost, and write what is left of the directory."""
    load = offered_load(config, memory, result)
    writer.write_manifest(manifest_of(config, memory, _versions()))
    requests = writer.settled("requests")  # the ledger counts what was served, and is itself part of the summary
    done = served(requests, requests.manifest.slo())
    counts = Counts(done.requests or 0, done.output_tokens or 0, done.slo_met_tokens)
    pool, options = config.deployment.pool, books_options(config)
    ledgers = ledgers_of(result.timeline, pool, config.site, options)
    writer.write("timeline", next(iter(ledgers.values())).columns)
    writer.settled("timeline")
    computed = summarise(writer.settled("itl"), done)
    predicted = {**computed, "load": asdict(load), **energies(ledgers)}
    trust = prediction(config, predicted, partial(bounding_run, memory=memory), spare_core)
    options = replace(options, errors=errors_of(config, predicted, trust))
    books = books_of(ledgers, pool, config.site, counts, options)
    writer.write("draws", books.draw_columns())
    run = writer.run()
    blocks: dict[str, Any] = {
        "model": config.model.name,
        "hardware": config.deployment.name,
        "policies": config.policies.name,
        "site": config.site.key,
        "load": asdict(load),
        "quality": config.answers._asdict(),
        **books.summary(),
        "prediction": trust,
    }
    writer.write_summary(assemble_summary(run, blocks, computed))


def bounding_run(config: RunConfig, memory: MemoryPlan) -> dict[str, Any]:
    """Simulate a run of which only the range is wanted; nothing is written.

    Returns:
        What a summary's range spans, as the summary of the whole run would say it.
    """
    kept = KeptRows()
    result = Body(config, memory, config.workload, meter_of(config, memory), kept.add).run()
    ledgers = ledgers_of(result.timeline, config.deployment.pool, config.site, books_options(config))
    rated = config.workload.open_loop  # else there is no load whose range could be told
    load = offered_load(config, memory, result) if rated else Load(None, None, None)
    return extent(kept, result, ledgers, load)


def offered_load(config: RunConfig, memory: MemoryPlan, result: BodyResult) -> Load:
    """Hold what a body took in against what the deployment can carry.

    That is measured by a run of its own, of hundreds of requests: not where all that arrives of itself is one request.
    """
    open_loop = config.workload.open_loop
    measured = result.accepted > int(open_loop)
    capacity = measure_capacity(config, memory, config.workload) if measured else None
    return load_of(config, capacity, result.accepted, result.last_arrival_s, open_loop)


def books_options(config: RunConfig) -> BooksOptions:
    """Turn a run's carbon options into the ledger's."""
    carbon = config.carbon
    return BooksOptions(
        seed=config.seed,
        draws=carbon.draws,
        basis=carbon.basis,
        grid=carbon.grid,
        start_utc_s=config.start_utc_s,
        duty_frac=carbon.duty_frac,
        between=carbon.between,
        method=carbon.embodied_method,
        allocation=carbon.allocation,
        host_share=carbon.host_share,
        ownership=carbon.ownership,
    )


@contextmanager
def _without_gc() -> Iterator[None]:
    """Keep the cycle collector out of the hot loop, which makes no cycles that outlive an event."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def _versions() -> dict[str, str]:
    names = ("afterwatt", "simpy", "numpy", "pyarrow")
    return {"schema": SCHEMA_VERSION, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }

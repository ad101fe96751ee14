"""What arrives, from study: a trace opened and checked, users in a closed loop, or one static batch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afterwatt.studies.config import SAMPLE, StudyConfig
from afterwatt.studies.errors import OptionError

if TYPE_CHECKING:
    from afterwatt.sim.workload import Workload
    from afterwatt.traces import Batch, Trace

_COMPARED = 256


@dataclass(frozen=True)
class StudyWorkload:
    """A workload and what is known of it.

    Attributes:
        workload: for the simulator.
        slug: how a directory is called after it.
        address: the trace as it was opened; empty for a static batch.
        total: requests to come, for the progress bar; None where unknown.
        span_s: when the last one arrives; None where unknown.
        start_utc: wall clock of the trace's first arrival, if it has one.
        trace: the trace behind it; None for a static batch.
    """

    workload: "Workload"
    slug: str
    address: str
    total: int | None
    span_s: float | None = None
    start_utc: str | None = None
    trace: "Trace | None" = None


def open_arrivals(study: StudyConfig, seed: int) -> StudyWorkload:
    """Build the workload of one seed.

    Raises:
        TraceError: the trace is not there, or a row of it is wrong.
        OptionError: the options do not make a workload.
    """
    from afterwatt.sim.workload import ClosedLoop, StaticBatch, TraceWorkload

    if study.batch is not None:
        assert study.prompt is not None
        assert study.output is not None
        batch = StaticBatch(study.batch, study.prompt, study.output)
        return StudyWorkload(batch, f"batch{study.batch}-{study.prompt}in-{study.output}out", "", study.batch)
    address = trace_address(study.trace)
    if study.users is None:
        trace = _open(address, study, seed, study.limit)
        info = trace.info
        limit = study.limit
        total = info.rows if limit is None or info.rows is None else min(info.rows, limit)
        workload = TraceWorkload(trace, limit)
        return StudyWorkload(workload, trace_slug(address), address, total, info.span_s, info.start_utc, trace)
    lengths = _open_lengths(address, study, seed)
    requests = study.requests or lengths.info.rows
    if requests is None:
        raise OptionError(f"how many requests {address} holds is not known beforehand; say how many: --requests 1000")
    loop = ClosedLoop(study.users, lengths, requests, study.think_s or 0.0)
    return StudyWorkload(loop, f"{study.users}users-{trace_slug(address)}", address, requests, trace=lengths)


def trace_address(said: str | None) -> str:
    """Give the address of the trace; the shipped sample where its name is meant and no such file is here."""
    from afterwatt.traces import sample_path

    place, mark, query = (said or SAMPLE).partition("?")
    if place == SAMPLE and not Path(place).exists():
        place = str(sample_path())
    return place + mark + query


def trace_slug(address: str) -> str:
    """Name a trace in a few letters: `chat`, `synth-code`."""
    place = address.partition("?")[0]
    return f"synth-{place.removeprefix('synth:')}" if place.startswith("synth:") else Path(place).stem


def same_for_every_seed(study: StudyConfig, arrivals: StudyWorkload, seeds: list[int]) -> bool:
    """Tell whether the workload is a fixed one: its first requests do not depend on the seed."""
    if arrivals.trace is None:
        return True
    other = open_arrivals(study, seeds[-1]).trace
    assert other is not None
    return _same(arrivals.trace.head(_COMPARED), other.head(_COMPARED))


def _same(one: "Batch", other: "Batch") -> bool:
    import numpy as np

    columns = ("arrival_s", "prompt_tokens", "output_tokens")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)


def _open(address: str, study: StudyConfig, seed: int, limit: int | None) -> "Trace":
    from afterwatt.traces import open_trace

    wishes: dict[str, Any] = {"seed": seed}
    if study.rate_per_s is not None:
        if "rate=" in address.partition("?")[2]:
            raise OptionError(f"--rate {study.rate_per_s:g} and {address} both name a rate; keep one")
        wishes["rate_per_s"] = study.rate_per_s
    if limit is not None:
        wishes["requests"] = limit
    return open_trace(address, **wishes)


def _open_lengths(address: str, study: StudyConfig, seed: int) -> "Trace":
    """Open a trace for its lengths only; one without arrivals is given some, which nobody looks at."""
    from afterwatt.traces import TraceError, open_trace

    limit = study.limit or study.requests
    try:
        return _open(address, study, seed, limit)
    except TraceError as fault:
        try:
            return open_trace(address, seed=seed, rate_per_s=1.0, requests=limit)
        except TraceError:
            raise fault from None

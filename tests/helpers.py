"""Small worlds to run bodies in, and what must add up in every one of them.

`run_body` runs one body without writing files and audits it before anybody looks at it: every test run passes through
`audit`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from afterwatt.hwprofiles import parse_deployment
from afterwatt.hwprofiles.catalogue import load_site
from afterwatt.hwprofiles.deployment import Deployment
from afterwatt.hwprofiles.ledger import Ledger, account
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.modelspecs import ModelSpec, load_model
from afterwatt.modelspecs.precision import load_precision
from afterwatt.policies.config import PolicySet, parse_policies
from afterwatt.policies.log import DecisionEntry
from afterwatt.sim.body import Body, BodyResult
from afterwatt.sim.clock import VirtualEnvironment
from afterwatt.sim.config import RunConfig
from afterwatt.sim.memory import MemoryPlan
from afterwatt.sim.parts import Parts, parts_of
from afterwatt.sim.run import memory_of, meter_of
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.workload import StaticBatch, TraceWorkload, Workload
from afterwatt.traces.schema import Batch, TraceInfo
from tests.audit import check_conservation
from tests.policies.accounts import check_integrity

PS_PER_S = 10**12
S_PER_PS = 1e-12


class Requests:
    """A trace in memory; arrivals in picoseconds, so that a test can place them exactly."""

    def __init__(self, arrival_ps, prompts, outputs, prefixes=None, unit_tokens=None):
        self.arrival_ps = [int(time) for time in arrival_ps]
        self.prompts, self.outputs, self.prefixes = list(prompts), list(outputs), prefixes
        self.info = TraceInfo(
            "memory", "memory", len(self.prompts), has_prefixes=prefixes is not None, prefix_block_tokens=unit_tokens
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        shared = "" if self.prefixes is None else f", {self.prefixes}, {self.info.prefix_block_tokens}"
        return f"Requests({self.arrival_ps}, {self.prompts}, {self.outputs}{shared})"

    def batches(self, size: int = 8192) -> Iterator[Batch]:
        whole = self._batch()
        for start in range(0, len(self), size):
            yield whole.sliced(start, start + size)

    def head(self, n: int) -> Batch:
        return self._batch().sliced(0, n)

    def first(self, n: int) -> "Requests":
        """The first n of them, as a trace of its own."""
        prefixes = None if self.prefixes is None else self.prefixes[:n]
        return Requests(
            self.arrival_ps[:n], self.prompts[:n], self.outputs[:n], prefixes, self.info.prefix_block_tokens
        )

    def _batch(self) -> Batch:
        return Batch(
            np.array(self.arrival_ps, dtype=np.float64) * S_PER_PS,
            np.array(self.prompts, dtype=np.int64),
            np.array(self.outputs, dtype=np.int64),
            prefixes=self.prefixes,
        )


def poisson(count: int, rate_per_s: float, prompts, outputs, seed: int = 0) -> Requests:
    """Poisson arrivals; lengths are numbers or functions of a generator and a count."""
    draw = np.random.default_rng(seed)
    arrival_s = np.cumsum(draw.exponential(1.0 / rate_per_s, count))
    lengths = [
        side(draw, count) if callable(side) else np.full(count, side, dtype=np.int64) for side in (prompts, outputs)
    ]
    return Requests(np.rint((arrival_s - arrival_s[0]) * PS_PER_S), lengths[0].tolist(), lengths[1].tolist())


def between(low: int, high: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Uniform lengths, both ends included."""
    return lambda draw, count: draw.integers(low, high + 1, count)


class Watched:
    """A workload that keeps the tickets it submits: their times are exact, those of the rows are floats."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self.tickets: list[Ticket] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workload, name)

    def start(self, env: VirtualEnvironment, submit: Callable[[Ticket], None]) -> None:
        def watch(ticket: Ticket) -> None:
            self.tickets.append(ticket)
            submit(ticket)

        self._workload.start(env, watch)


@dataclass(frozen=True)
class Outcome:
    """What a body left behind."""

    config: RunConfig
    memory: MemoryPlan
    body: Body
    result: BodyResult
    rows: dict[str, np.ndarray]
    tickets: list[Ticket]
    log: list[DecisionEntry]

    @property
    def finished(self) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.finish_ps is not None]

    @property
    def ledger(self) -> Ledger:
        return account(self.result.timeline, self.config.deployment.pool, self.config.site)

    @property
    def boundaries_ps(self) -> list[int]:
        """Times at which iterations begin, from the decision log of a single-step run."""
        return sorted({round(entry.time_s * PS_PER_S) for entry in self.log})


@cache
def _parts(hw: str, model: str | ModelSpec, precision: str, site: str):
    deployment = parse_deployment(hw)
    shape = load_model(model) if isinstance(model, str) else model
    return deployment, shape, load_precision(precision), load_stack(deployment.pool.device), load_site(site)


def make_config(
    workload: Workload,
    hw: str | Deployment = "m40",
    policy: str | PolicySet = "chunked",
    model: str | ModelSpec = "llama-2-7b",
    precision: str = "fp16",
    site: str = "world",
    wake: tuple[float, float] | None = None,
    decode_shape: str = "as-is",
    **options: Any,
) -> RunConfig:
    """A run's configuration from names; wake: (wake_s, wake_after_s) of the stack, if not its own."""
    word = hw if isinstance(hw, str) else "m40"
    deployment, spec, stored, stack, place = _parts(word, model, precision, site)
    if not isinstance(hw, str):
        deployment, stack = hw, load_stack(hw.pool.device)
    if wake is not None:
        stack = stack.with_values(dict(zip(("wake_s", "wake_after_s"), wake, strict=True)))
    stack = replace(stack, decode_shape=decode_shape)
    policies = parse_policies(policy) if isinstance(policy, str) else policy
    return RunConfig(deployment, spec, stored, stack, policies, place, workload, **options)


def run_body(
    source: Requests | Workload,
    hw: str | Deployment = "m40",
    policy: str | PolicySet = "chunked",
    kv_blocks: int | None = None,
    keep_log: bool = True,
    parts: Callable[[RunConfig, MemoryPlan], Parts] = parts_of,
    **options: Any,
) -> Outcome:
    """Run one body and audit it.

    Args:
        source: a trace or a workload.
        hw, policy, options: as in `make_config`.
        kv_blocks: KV blocks per replica (None: as many as fit).
        keep_log: whether to write a decision log, which costs more than the run.
        parts: makes what its workers consist of.
    """
    watched = Watched(TraceWorkload(source) if isinstance(source, Requests) else source)
    config = make_config(watched, hw, policy, **options)
    memory = memory_of(config)
    if kv_blocks is not None:
        memory = replace(memory, kv_blocks=kv_blocks)
    batches: list[dict[str, Any]] = []
    log: list[DecisionEntry] = []
    meter, writes = meter_of(config, memory), log.append if keep_log else None
    body = Body(config, memory, watched, meter, batches.append, writes, parts=parts(config, memory))
    result = body.run()
    rows = {name: np.concatenate([np.asarray(batch[name]) for batch in batches]) for name in batches[0]}
    tickets = watched.tickets[: result.arrived]  # a body that has closed takes no notice of what comes later
    outcome = Outcome(config, memory, body, result, rows, tickets, log)
    audit(outcome)
    return outcome


def solo_batch(batch: int, prompt: int, output: int) -> StaticBatch:
    return StaticBatch(batch, prompt, output)


# -- what must add up ------------------------------------------------------------------------------------------------


def audit(outcome: Outcome) -> None:
    """Check everything that is conserved, whatever the run."""
    _audit_requests(outcome)
    _audit_energy(outcome)
    if outcome.log:
        _audit_log(outcome)
    for worker in outcome.body.workers:
        check_integrity(worker.scheduler)
    if outcome.config.horizon_s is None:
        _audit_tokens(outcome)
        _audit_gaps(outcome)
        _audit_emptiness(outcome)
    # Cut by a horizon, replicas end at times of their own, and a transfer under way is not an iteration under way.
    if outcome.config.horizon_s is None or (
        len(outcome.body.workers) == 1 and outcome.config.policies.preemption == "recompute"
    ):
        _audit_little(outcome)


def _audit_requests(outcome: Outcome) -> None:
    """Every request is there once, with times that run forward."""
    rows, result = outcome.rows, outcome.result
    count = len(outcome.tickets)
    assert rows["request_id"].tolist() == list(range(count)) == [ticket.seq_id for ticket in outcome.tickets]
    status = rows["status"]
    assert result.arrived == count
    assert result.accepted == int((status != "rejected").sum())
    assert set(status) <= {"finished", "rejected", "unfinished"}
    if outcome.config.horizon_s is None:
        assert "unfinished" not in status
    for ticket, said in zip(outcome.tickets, status, strict=True):
        assert (said == "rejected") == (ticket.refused is not None)
        assert (said == "finished") == (ticket.finish_ps is not None)
        times = [ticket.arrival_ps, ticket.scheduled_ps, ticket.first_ps, ticket.finish_ps]
        known = [time for time in times if time is not None]
        assert known == sorted(known)
        assert times[: len(known)] == known
        if ticket.finish_ps is not None:
            assert ticket.scheduled_ps < ticket.first_ps
            assert (ticket.first_ps == ticket.finish_ps) == (ticket.output_tokens == 1)
            assert ticket.stall_ps <= ticket.finish_ps - ticket.first_ps
            assert ticket.stall_ps * max(1, ticket.output_tokens - 1) >= ticket.finish_ps - ticket.first_ps


def _audit_tokens(outcome: Outcome) -> None:
    """What was produced is what was asked for; what was computed is the prompts, less hits, plus what was lost."""
    timeline = outcome.result.timeline
    finished = outcome.finished
    produced = sum(ticket.output_tokens for ticket in finished)
    np.testing.assert_allclose(timeline["output_tokens"].sum(), produced, rtol=1e-12, atol=1e-6)
    needed = sum(ticket.prompt_tokens - ticket.cached_tokens for ticket in finished)
    computed = timeline["prompt_tokens"].sum()
    if any(ticket.preemptions for ticket in finished):
        assert computed >= needed * (1.0 - 1e-12) or any(ticket.prefix for ticket in finished)
    else:
        np.testing.assert_allclose(computed, needed, rtol=1e-12, atol=1e-6)


def _audit_gaps(outcome: Outcome) -> None:
    """Each token but the first ends a gap, and the gaps of a request add up to its decoding time."""
    table = outcome.result.gaps.table()
    finished = outcome.finished
    np.testing.assert_allclose(
        table["weight"].sum(), sum(ticket.output_tokens - 1 for ticket in finished), rtol=1e-12, atol=1e-9
    )
    decoding_s = sum(ticket.finish_ps - ticket.first_ps for ticket in finished) * S_PER_PS
    np.testing.assert_allclose((table["weight"] * table["value"]).sum(), decoding_s, rtol=1e-9, atol=1e-12)
    if finished:
        stall_s = max(ticket.stall_ps for ticket in finished) * S_PER_PS
        np.testing.assert_allclose(table["largest"].max(initial=0.0), stall_s, rtol=1e-3)


def _audit_emptiness(outcome: Outcome) -> None:
    """When all is done, nothing is held, owed or waited for."""
    for worker in outcome.body.workers:
        scheduler = worker.scheduler
        assert not scheduler.waiting
        assert not scheduler.away
        assert scheduler.outstanding_tokens == 0 == worker.outstanding_tokens()
        assert scheduler.pool.used_blocks == 0
        assert scheduler.pool.available_blocks == outcome.memory.kv_blocks


def _audit_energy(outcome: Outcome) -> None:
    """Components and states sum to the integral, and requests plus idle to the total."""
    ledger = outcome.ledger
    by_state = ledger.by_state_j
    energy = {"total": ledger.total_j, "idle": by_state["idle"]}
    check_conservation(
        ledger.columns, {"energy_j": energy | {"by_component": ledger.by_component_j, "by_state": by_state}}
    )
    timeline = outcome.result.timeline
    for name, column in timeline.items():
        assert np.isfinite(column).all(), name
        assert (np.asarray(column) >= 0).all(), name
    assert timeline["kv_used_frac"].max() <= 1.0 + 1e-9
    shared_j = np.nansum(outcome.rows["energy_j"])
    np.testing.assert_allclose(shared_j + by_state["idle"], ledger.run_j, rtol=1e-9)


def _audit_little(outcome: Outcome) -> None:
    """Little's law on the sample path: the time series' N(t), integrated, is the time that requests spent here."""
    timeline = outcome.result.timeline
    inside_s = ((timeline["batch_mean"] + timeline["waiting_mean"]) * timeline["interval_s"]).sum()
    end_ps = round(outcome.result.duration_s * PS_PER_S)
    sojourns_ps = [
        (end_ps if ticket.finish_ps is None else ticket.finish_ps) - ticket.arrival_ps
        for ticket in outcome.tickets
        if ticket.refused is None
    ]
    np.testing.assert_allclose(inside_s, sum(sojourns_ps) * S_PER_PS, rtol=1e-9, atol=1e-9)


def _audit_log(outcome: Outcome) -> None:
    """The decisions account for every token; limits hold in every iteration."""
    policies = outcome.config.policies
    for entry in outcome.log:
        assert entry.decoding or entry.chunk_ids
        assert len(set(entry.chunk_ids)) == len(entry.chunk_ids) == len(entry.chunk_tokens)
        assert entry.decoding <= policies.max_seqs
        tokens = entry.decoding + sum(entry.chunk_tokens)
        alone = len(entry.chunk_ids) + entry.decoding == 1 or entry.decoding >= policies.token_budget
        assert tokens <= policies.token_budget or alone or policies.batching == "decode-first"
    if outcome.config.horizon_s is None:
        finished = outcome.finished
        recomputed = sum(ticket.preemptions for ticket in finished)
        decoded = sum(entry.decoding if entry.tokens is None else sum(entry.tokens) for entry in outcome.log)
        owed = sum(ticket.output_tokens - 1 for ticket in finished)
        assert owed - recomputed <= decoded <= owed

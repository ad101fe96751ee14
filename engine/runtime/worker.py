"""One worker: plan, compute, apply. The scheduler decides, the model computes, this loop carries between them.

Knows no clock but the one it is given, no process and no torch.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import compress

import numpy as np

from afterwatt.engine.runtime.compute import Compute, PlacedMove, StepBatch
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.paged import PagedPool
from afterwatt.engine.runtime.request import NS_PER_S, Admission, Chunked, Job, Refusal, Report, Request, StepRecord
from afterwatt.policies.log import DecisionEntry, DecisionLog
from afterwatt.policies.plans import Idle, Move, StepOutcome, StepPlan, first_tick
from afterwatt.policies.scheduler import Scheduler
from afterwatt.policies.sizes import SchedulerConfig
from afterwatt.policies.slo import NO_PROMISE, Slo
from afterwatt.policies.views import BatchPolicy

Emitted = tuple[tuple[int, int], ...]
"""(id, token) of each token produced."""


class EngineWorker:
    """A model under a scheduler.

    Args:
        compute: the model; its pool has the configuration's KV blocks.
        config: the worker's sizes.
        batching: the policy.
        clock_ns: what time it is.
        number: the worker's, for the decision log.
        slo: what users were promised.

    Attributes:
        scheduler: its brain.
        report: what has happened since somebody last took it away (`take_report`).
        wake_ns: with nothing to do, when to take the next step even if nothing has happened (None: no such time).
    """

    def __init__(
        self,
        compute: Compute,
        config: SchedulerConfig,
        batching: BatchPolicy,
        clock_ns: Callable[[], int],
        number: int = 0,
        slo: Slo = NO_PROMISE,
    ) -> None:
        self.pool = PagedPool(config.kv_blocks, config.block_tokens, config.prefix_unit_tokens)
        self.scheduler: Scheduler[Job] = Scheduler(config, batching, self.pool, slo)
        self.report = Report()
        self.wake_ns: int | None = None
        self._compute = compute
        self._clock_ns = clock_ns
        self._number = number
        self._log = DecisionLog(self._decided)
        self._host_free = list(range(config.swap_blocks))
        self._host_tables: dict[int, list[int]] = {}  # whose KV lies in host memory -> in which blocks
        self._arrived: list[int] = []
        self._rested = True

    def take(self, requests: Iterable[Request]) -> None:
        """Take in requests, or refuse them; the next plan sees them."""
        for request in requests:
            job = Job(request)
            refused = self.scheduler.refusal(job)
            if refused is None:
                self.scheduler.add(job)
                self._arrived.append(job.seq_id)
            else:
                self.report.refusals.append(Refusal(job.seq_id, self._clock_ns(), refused))

    def take_report(self) -> Report:
        """Return what has happened since the last call."""
        report, self.report = self.report, Report()
        return report

    def step(self) -> bool:
        """Run one iteration; False if there is nothing to do, before `wake_ns` at least."""
        scheduler = self.scheduler
        plan_ns = self._clock_ns()
        plan = scheduler.plan(plan_ns / NS_PER_S)
        if isinstance(plan, Idle):
            self._rested = True
            self.wake_ns = None if plan.wake_at_s is None else first_tick(plan.wake_at_s, NS_PER_S)
            return False
        swapped = self._follow(plan, plan_ns)
        waiting = len(scheduler.waiting) + len(scheduler.away)
        batch, emitting = self._batch(plan)
        compute_ns = self._clock_ns()
        runs = self._compute.step(batch)
        done_ns = self._clock_ns()
        emitted, stopped = _emit(emitting, batch, runs, done_ns)
        tokens = self._told(plan, emitted)
        self._log.write(self._number, (plan_ns / NS_PER_S,), plan, scheduler, tokens)
        finished = scheduler.apply(plan, StepOutcome(1, stopped, tokens)).finished
        self.pool.released.clear()
        arrivals, self._arrived = tuple(self._arrived), []
        self.report.steps.append(
            StepRecord(
                plan_ns=plan_ns,
                rested=self._rested,
                compute_ns=compute_ns,
                done_ns=done_ns,
                arrivals=arrivals,
                decoding=plan.decoding,
                context_tokens=plan.context_tokens,
                chunks=tuple(Chunked(chunk.seq.seq_id, chunk.tokens, chunk.past_tokens) for chunk in plan.chunks),
                emits=plan.emits,
                emitted=emitted,
                stopped=stopped,
                finished=tuple(job.seq_id for job in finished),
                waiting=waiting,
                running=plan.running,
                used_blocks=plan.used_blocks,
                swapped_blocks=swapped,
                free_blocks=self.pool.free_blocks,
                outstanding_tokens=scheduler.outstanding_tokens,
            )
        )
        self._rested = False
        return True

    def _decided(self, entry: DecisionEntry) -> None:
        self.report.decisions.append(entry)

    def _follow(self, plan: StepPlan[Job], plan_ns: int) -> int:
        """Do with memory what the plan has decided about it; return the KV blocks swapped."""
        scheduler, pool = self.scheduler, self.pool
        if not scheduler.moved:
            return 0
        self.report.preempted += [job.seq_id for job in scheduler.preempted]
        if plan.moves:
            self._compute.move([self._placed(move) for move in plan.moves])
        for job in scheduler.admitted:
            if job.scheduled_ns is None:
                job.scheduled_ns, job.cached_tokens = plan_ns, job.kv_tokens
                self.report.admissions.append(Admission(job.seq_id, plan_ns, job.kv_tokens))
        pool.released.clear()
        return sum(move.units for move in plan.moves)

    def _placed(self, move: Move) -> PlacedMove:
        """Give a move of KV blocks its addresses."""
        if move.dst == "dram":
            blocks = self.pool.released[move.owner]
            self._host_tables[move.owner] = host = [self._host_free.pop() for _ in blocks]
            return PlacedMove(move, blocks, host)
        host = self._host_tables.pop(move.owner)
        self._host_free += host
        return PlacedMove(move, host, self.pool.tables[move.owner])

    def _batch(self, plan: StepPlan[Job]) -> tuple[StepBatch, list[Job]]:
        """Turn a plan into arrays: (the work, the sequences that will emit, in order)."""
        pool = self.pool
        decoding = self.scheduler.decoding(plan)
        for job, kv_tokens in decoding:
            for _ in range(pool.blocks_for(kv_tokens + plan.most_tokens) - pool.blocks_for(kv_tokens)):
                pool.grow(job.seq_id)
        pieces = [(chunk.seq, chunk.past_tokens, chunk.tokens) for chunk in plan.chunks]
        work = pieces + [(job, kv_tokens, 1) for job, kv_tokens in decoding]
        emits = [past + tokens == job.fill_tokens for job, past, tokens in pieces] + [True] * len(decoding)
        tokens = [job.tokens(past, count) for job, past, count in pieces]
        tokens.append(np.array([job.output_ids[-1] for job, _ in decoding], dtype=np.int64))
        jobs = [job for job, _, _ in work]
        batch = StepBatch(
            seq_ids=[job.seq_id for job in jobs],
            tokens=np.concatenate(tokens),
            query_tokens=[count for _, _, count in work],
            past_tokens=[past for _, past, _ in work],
            prompts=len(pieces),
            block_tables=[pool.tables[job.seq_id] for job in jobs],
            emits=emits,
            sampling=[job.request.sampling for job in jobs],
            most_tokens=[1] * len(pieces) + [min(plan.most_tokens, job.left) for job, _ in decoding],
        )
        return batch, [job for job, emit in zip(jobs, emits, strict=True) if emit]

    def _told(self, plan: StepPlan[Job], emitted: Emitted) -> dict[int, int] | None:
        """Return how many tokens each sequence that decodes has yielded; None where each yields one."""
        if plan.most_tokens == 1:
            return None
        counts = Counter(seq_id for seq_id, _ in emitted)
        return {job.seq_id: counts[job.seq_id] for job, _ in self.scheduler.decoding(plan)}


def _emit(emitting: list[Job], batch: StepBatch, runs: list[list[int]], now_ns: int) -> tuple[Emitted, tuple[int, ...]]:
    """Give each sequence its tokens, up to one that stops it: (ids with tokens, ids of those that are stopped)."""
    emitted, stopped = [], []
    for job, most, run in zip(emitting, compress(batch.most_tokens, batch.emits), runs, strict=True):
        if not 1 <= len(run) <= most:
            raise EngineError(f"the model answers sequence {job.seq_id} with {len(run)} tokens; give it 1 to {most}")
        for token in run:
            job.output_ids.append(token)
            job.token_ns.append(now_ns)
            emitted.append((job.seq_id, token))
            if job.stops_with(token):
                stopped.append(job.seq_id)
                break
    return tuple(emitted), tuple(stopped)

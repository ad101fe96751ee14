"""The virtual body: workers, router and workload in one environment, and what comes out of them.

Knows nothing of files: rows of finished requests go to a sink as columns, in order of their ids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf

import numpy as np
from numpy.typing import NDArray

from afterwatt.policies.log import DecisionEntry, DecisionLog
from afterwatt.policies.ordered import InOrder
from afterwatt.policies.routing import LeastOutstanding
from afterwatt.policies.scheduler import Scheduler
from afterwatt.policies.sizes import SchedulerConfig
from afterwatt.policies.views import ReplicaView
from afterwatt.sim.clock import PS_PER_S, S_PER_PS, Alarm, Kind, VirtualEnvironment, priority
from afterwatt.sim.config import RunConfig
from afterwatt.sim.costs import PhysicalCosts
from afterwatt.sim.histogram import LogHistogram
from afterwatt.sim.memory import MemoryPlan
from afterwatt.sim.parts import Parts, parts_of
from afterwatt.sim.recorder import HOLDING, QUANTITIES, RUNNING, TIER_QUANTITIES, WAITING, StrideMeter, settle
from afterwatt.sim.rows import Columns, RowOrder
from afterwatt.sim.signals import SignalsBetweenEvents
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.timeline import Bins
from afterwatt.sim.worker import Loads, Worker
from afterwatt.sim.workload import Workload

SETTLE_EVERY = 2048
SETTLE_LEAST = 512
"""A replica is settled when it has finished so many requests: its share of the former, and not below the latter."""
ROWS_AT_ONCE = 8192
"""Rows that are handed to the sink together, or more: checking a column costs far more per call than per row."""
SETTLE_WITHIN_PS = 10 * 86_400 * PS_PER_S  # ten days: what 64-bit times may count from the last settlement is 106


@dataclass(frozen=True, slots=True)
class BodyResult:
    """What a body measured.

    Attributes:
        duration_s: from 0 to the end of the last iteration (or the horizon).
        timeline: columns per interval and replica, before the energy account.
        gaps: the inter-token latencies' histogram.
        arrived: requests submitted; last_arrival_s: when the last one was.
        accepted: those taken in.
    """

    duration_s: float
    timeline: Mapping[str, NDArray[np.generic]]
    gaps: LogHistogram
    arrived: int
    accepted: int
    last_arrival_s: float


class Body:
    """One run in virtual time.

    Args:
        config: the run; memory: its replicas' memory; workload: what arrives.
        meter: works out energy; None where only the requests' times are wanted.
        sink: takes rows of requests.parquet as columns; None where nobody wants them.
        log: takes decision log entries; progress: called now and then with (requests done, virtual seconds).
        parts: what its workers consist of (None: what the configuration says, see `sim.parts`).
    """

    def __init__(
        self,
        config: RunConfig,
        memory: MemoryPlan,
        workload: Workload,
        meter: StrideMeter | None,
        sink: Callable[[Columns], None] | None,
        log: Callable[[DecisionEntry], None] | None = None,
        progress: Callable[[int, float], None] | None = None,
        parts: Parts | None = None,
    ) -> None:
        self.config = config
        self._workload = workload
        self._meter = meter
        self._progress = progress
        self._env = env = VirtualEnvironment(config.shuffle_ties)
        front_ps = round(config.stack.front_s * PS_PER_S)
        self._rows = RowOrder(sink, round(config.warmup_s * PS_PER_S), front_ps, ROWS_AT_ONCE)
        self._costs = PhysicalCosts(config, memory)
        self._router = config.policies.make_routing(self._costs)
        self._log = InOrder(log) if log else None
        made = parts or parts_of(config, memory)
        self._loads = Loads(config.deployment.pool.replicas)
        sizes = made.sizes()
        self.workers = [self._worker(number, made, sizes) for number in range(config.deployment.pool.replicas)]
        self._views = [ReplicaView(number, 0, 0) for number in range(len(self.workers))]
        self._quantities = QUANTITIES + (TIER_QUANTITIES if meter is not None and meter.tiers else ())
        self._bins = Bins(len(self._quantities), 3, len(self.workers))
        self._gaps = LogHistogram()
        self._done: list[list[Ticket]] = [[] for _ in self.workers]
        self._settle_every = max(SETTLE_EVERY // len(self.workers), SETTLE_LEAST)
        self._arrived = self._refused = 0
        self._closed = False
        self._open_loop = workload.open_loop
        self._settle_by_ps = SETTLE_WITHIN_PS
        self._last_arrival_ps = 0
        self._kv_blocks = memory.kv_blocks
        workload.start(env, self.submit)

    def _worker(self, number: int, parts: Parts, sizes: SchedulerConfig) -> Worker:
        env, config = self._env, self.config
        batching = config.policies.make_batching(self._costs)
        scheduler: Scheduler[Ticket] = Scheduler(sizes, batching, slo=config.slo)
        log = DecisionLog(self._log.add) if self._log else None
        executor, mover = parts.executor(env, number), parts.mover(env, number)
        return Worker(env, number, scheduler, executor, self._finished, self._loads, mover, log)

    # -- requests ------------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Take in a request that arrives now: refuse it, or route it to a replica."""
        if self._closed:
            return
        self._last_arrival_ps = now = ticket.arrival_ps
        if now > self._settle_by_ps:
            self._settle_all()
        self._arrived += 1
        worker = self.workers[0]
        refused = worker.scheduler.refusal(ticket)
        if (refused is None or refused == "queue_full") and len(self.workers) > 1:
            worker = self.workers[self._route(ticket)]
            refused = worker.scheduler.refusal(ticket)
        if refused is None:
            ticket.replica = worker.number
            worker.arrive(ticket)
            return
        ticket.refused = refused
        self._refused += 1
        self._done[0].append(ticket)
        self._workload.finished(ticket)

    def _route(self, ticket: Ticket) -> int:
        router, workers = self._router, self.workers
        if type(router) is LeastOutstanding:
            return self._loads.least(workers, self._env.now)
        views = self._views
        if router.looks:
            views = [
                ReplicaView(
                    worker.number,
                    worker.outstanding_tokens(),
                    worker.scheduler.prefix_tokens(ticket) if ticket.prefix else 0,
                )
                for worker in workers
            ]
        return router.route(ticket.view(self.config.slo), views)

    def _finished(self, ticket: Ticket) -> None:
        replica = ticket.replica or 0
        done = self._done[replica]
        done.append(ticket)
        if not self._open_loop:
            self._workload.finished(ticket)
        if self._log is not None and self._log.full:
            self._log.flush(min(worker.executor.since_ps() for worker in self.workers) * S_PER_PS)
        if len(done) >= self._settle_every:
            # A ticket's last stride is noted before it is reported finished, so that all about it is known by now.
            self._settle((replica,))

    def _settle_all(self) -> None:
        self._settle(range(len(self.workers)))
        self._settle_by_ps = self._env.now + SETTLE_WITHIN_PS

    def _settle(self, replicas: Sequence[int]) -> None:
        """Work out everything about what replicas have done since the last time."""
        done: list[Ticket] = []
        for replica in replicas:
            if self._meter is not None:
                for lane in self.workers[replica].lanes:
                    settle(lane, self._meter, self._bins, self._gaps)
            done += self._done[replica]
            self._done[replica] = []
        self._rows.add(done)
        if self._progress is not None:
            self._progress(self._rows.count, self._env.now * S_PER_PS)

    # -- running -------------------------------------------------------------------------------------------------

    def run(self) -> BodyResult:
        """Run to the end, or to the horizon; Ctrl-C ends it between two events."""
        with SignalsBetweenEvents(self._env):
            return self._run()

    def _run(self) -> BodyResult:
        env = self._env
        if self.config.horizon_s is None:
            env.run()
        else:
            env.run(until=Alarm(env, priority(Kind.ARRIVAL, -1), round(self.config.horizon_s * PS_PER_S)))
            self._stop()
        self._settle_all()
        if self._log is not None:
            self._log.flush(inf)
        unfinished = chain.from_iterable(worker.scheduler.sequences() for worker in self.workers)
        self._rows.add([*unfinished], last=True)
        duration_ps = max(env.now, 1)
        return BodyResult(
            duration_ps * S_PER_PS,
            self._timeline(duration_ps),
            self._gaps,
            self._arrived,
            self._arrived - self._refused,
            self._last_arrival_ps * S_PER_PS,
        )

    def _stop(self) -> None:
        """End with the iterations under way; nothing arrives any more."""
        env = self._env
        self._closed = True
        for worker in self.workers:
            worker.stop()
        last = max((worker.executor.busy_until_ps() for worker in self.workers), default=env.now)
        if last >= env.now:  # what ends at this very instant is still to be noted
            env.run(until=Alarm(env, priority(Kind.PLAN, 1 << 39), last - env.now))

    def _timeline(self, duration_ps: int) -> dict[str, NDArray[np.generic]]:
        """Return the timeline, replica by replica within each interval."""
        edges = self._bins.edges_s(duration_ps)
        count = len(edges) - 1
        amounts = dict(zip(self._quantities, self._bins.amounts[:, :, :count], strict=True))
        waiting_s, running_s, holding_s = (
            self._bins.level_integrals(level, duration_ps) for level in (WAITING, RUNNING, HOLDING)
        )
        replicas = len(self.workers)
        interval_s = np.tile(np.diff(edges), (replicas, 1))
        busy_s = amounts["prefill_s"] + amounts["decode_s"]
        columns = {
            "start_s": np.tile(edges[:-1], (replicas, 1)),
            "interval_s": interval_s,
            "replica": np.repeat(np.arange(replicas, dtype=np.int32)[:, None], count, axis=1),
            "prefill_s": amounts["prefill_s"],
            "decode_s": amounts["decode_s"],
            # What is left of a busy interval is rounding, not rest.
            "idle_s": np.where(interval_s - busy_s > 1e-12 * interval_s, interval_s - busy_s, 0.0),
            "batch_mean": (amounts["batch_s"] + np.maximum(running_s, 0.0)) / interval_s,
            "waiting_mean": np.maximum(waiting_s, 0.0) / interval_s,
            "kv_used_frac": (amounts["kv_block_s"] + np.maximum(holding_s, 0.0)) / interval_s / max(1, self._kv_blocks),
        }
        for name in self._quantities[QUANTITIES.index("prompt_tokens") :]:
            columns[name] = amounts[name]
        return {name: values.T.reshape(-1) for name, values in columns.items()}

"""A replica split into pipeline stages: several plans outstanding, one per decode group."""

from collections.abc import Callable, Generator, Sequence

import simpy

from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.policies.log import DecisionLog
from afterwatt.policies.plans import Idle, StepOutcome, StepPlan
from afterwatt.policies.scheduler import Scheduler
from afterwatt.sim.clock import PS_PER_S, S_PER_PS, Alarm, Kind, VirtualEnvironment, priority
from afterwatt.sim.links import Link, together
from afterwatt.sim.recorder import Lane, pack_jump, pack_level_jump, pack_stride, pack_window
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.worker import note_admissions, note_finished, note_prefills, resting


class PipelineWorker:
    """One replica of several stages: a plan passes them in order, each stage serves plans in order.

    A decode group's next iteration needs the token of its last one, so that a single group leaves all stages but one
    idle: the pipeline's bubble. Iterations are taken singly; see `Worker` for the arguments.
    """

    def __init__(
        self,
        env: VirtualEnvironment,
        number: int,
        scheduler: Scheduler[Ticket],
        stages: Sequence[TimeModel],
        swap: Link | None,
        block_bytes: float,
        on_finish: Callable[[Ticket], None],
        log: DecisionLog | None = None,
    ) -> None:
        self.number = number
        self.scheduler = scheduler
        self.lanes = [Lane(number) for _ in stages]
        self._env = env
        self._stages = stages
        self._free_ps = [0] * len(stages)
        self._swap = swap
        self._block_bytes = block_bytes
        self._on_finish = on_finish
        self._log = log
        self._step_rank = priority(Kind.STEP, number)
        self._plan_rank = priority(Kind.PLAN, number)
        self._rest: simpy.Event | None = None
        self._stopped = False
        self._running = self._used_blocks = 0  # as last noted
        self._seen = [(0, 0, 0)] * len(stages)  # by the plans under way, of each group
        env.process(self._run())

    def arrive(self, ticket: Ticket) -> None:
        """Take in a request; the next plan sees it."""
        self.scheduler.add(ticket)
        lane = self.lanes[0]
        if self._rest is not None:
            for resting_lane in self.lanes:
                resting_lane.count_from(self._env.now)
        lane.queue_jumps += pack_jump(self._env.now - lane.origin_ps, 1)
        self._wake()

    def outstanding_tokens(self) -> int:
        """Return the tokens still to compute and to produce."""
        return self.scheduler.outstanding_tokens

    def stop(self) -> None:
        """Make no further plans; what is under way ends."""
        self._stopped = True

    def since_ps(self) -> int:
        """Return the present: plans are written down when they are made."""
        return self._env.now

    def busy_until_ps(self) -> int:
        """Return when the plans under way leave the last stage."""
        return max(self._free_ps[-1], self._env.now)

    def _note_levels(self) -> None:
        """Note by how much the running sequences and the KV blocks in use have changed: plans overlap here."""
        running, used = self.scheduler.admitted_sequences(), self.scheduler.pool.used_blocks
        lane = self.lanes[0]
        lane.level_jumps += pack_level_jump(
            self._env.now - lane.origin_ps, running - self._running, used - self._used_blocks
        )
        self._running, self._used_blocks = running, used

    def _wake(self) -> None:
        rest = self._rest
        if rest is not None:
            self._rest = None
            self._env.schedule(rest, self._plan_rank)  # type: ignore[arg-type]

    def _run(self) -> Generator[simpy.Event, None, None]:
        env, scheduler = self._env, self.scheduler
        while not self._stopped:
            plan = scheduler.plan(env.now / PS_PER_S)
            if isinstance(plan, Idle):
                self._rest = rest = resting(env, plan.wake_at_s, self._plan_rank)
                yield rest
                self._rest = None
                continue
            lane = self.lanes[plan.group]
            begin = env.now
            if scheduler.moved:
                note_admissions(scheduler, self.lanes, lane, begin)
            self._note_levels()
            if self._log is not None:
                self._log.write(self.number, (begin * S_PER_PS,), plan, scheduler)
            if plan.moves and self._swap is not None:
                for blocks in together(plan.moves):
                    yield self._swap.transfer(blocks * self._block_bytes)
            if self._stopped:
                return
            end, busy = self._pass_stages(plan)
            done = Alarm(env, self._step_rank, end - env.now)
            done.callbacks.append(lambda _, p=plan, b=begin, w=busy: self._finish(p, b, w))
            yield Alarm(env, self._plan_rank, self._free_ps[0] - env.now)

    def _pass_stages(self, plan: StepPlan[Ticket]) -> tuple[int, int]:
        """Book the plan through the stages: (when it leaves the last one, time that stages work on it)."""
        ready = self._env.now
        busy = 0
        tokens = plan.decoding + sum(chunk.tokens for chunk in plan.chunks)
        seen = self._seen[plan.group] = self.scheduler.seen(plan.group)
        for number, stage in enumerate(self._stages):
            if number:
                ready += stage.hop_ps(tokens)
            work = stage.step(plan.decoding, plan.context_tokens, plan.chunks, plan.emits, 1, seen)[0]
            free = self._free_ps[number]
            work += stage.wake_ps(max(0, ready - free))
            ready = max(ready, free) + work
            self._free_ps[number] = ready
            busy += work
        return ready, busy

    def _finish(self, plan: StepPlan[Ticket], begin: int, busy: int) -> None:
        scheduler, lane, now = self.scheduler, self.lanes[plan.group], self._env.now
        applied = scheduler.apply(plan, StepOutcome(1))
        # The iteration's duration stands for the time that stages work: energy follows from it, gaps from the ends.
        start, end = begin - lane.origin_ps, now - lane.origin_ps
        lane.strides += pack_stride(
            *(start, busy // len(self._stages), end, 1, busy, 0, plan.decoding, plan.context_tokens, plan.emits),
            *(0, 0, 0, sum(move.units for move in plan.moves)),
        )
        if scheduler.config.windowed:
            entries, growth, _ = self._seen[plan.group]
            lane.windows += pack_window(entries, growth)
        lane.noted += 1
        self._note_levels()
        if plan.chunks:
            note_prefills(lane, plan.chunks, applied.first, now)
        note_finished(lane, applied.finished, now, self._on_finish)
        self._wake()

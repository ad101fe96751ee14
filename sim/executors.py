"""Executors: plain strides of a replica that is one stage, uneven ones, and the stages of a pipeline."""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Any

import simpy
from mypy_extensions import mypyc_attr

from afterwatt.policies.plans import StepOutcome, StepPlan, first_tick
from afterwatt.sim.clock import PS_PER_S, S_PER_PS, Alarm, Kind, VirtualEnvironment, priority
from afterwatt.sim.recorder import pack_jump, pack_level_jump, pack_stride, pack_window
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.times import IterationTimes
from afterwatt.sim.worker import NEVER_PS, Executor, Worker


def next_end(elapsed_ps: int, first_ps: int, slope_ps: int) -> tuple[int, int]:
    """Return (n, T(n)) of the first of the iterations first + slope * k to end at or after a time since their start.

    T(n) = n first + slope n (n-1) / 2 >= elapsed is inverted in floating point, and put right in integers: exact, and
    faster than `isqrt` of numbers this long.
    """
    if elapsed_ps <= first_ps:
        return 1, first_ps
    # n^2 slope / 2 + n (first - slope / 2) = elapsed; of the two forms of its root the one in which nothing cancels
    half = 2.0 * first_ps - slope_ps
    steps = int(4.0 * elapsed_ps / (half + sqrt(half * half + 8.0 * slope_ps * elapsed_ps))) or 1
    end = steps * first_ps + slope_ps * (steps * (steps - 1) // 2)
    while end < elapsed_ps:
        end += first_ps + slope_ps * steps
        steps += 1
    while steps > 1 and (before := end - first_ps - slope_ps * (steps - 1)) >= elapsed_ps:
        end = before
        steps -= 1
    return steps, end


def starts_s(start_ps: int, first_ps: int, slope_ps: int, steps: int) -> list[float]:
    """Return when each of the iterations first + slope * k begins, in seconds."""
    return [(start_ps + k * first_ps + slope_ps * (k * (k - 1) // 2)) * S_PER_PS for k in range(steps)]


def steps_within(elapsed_ps: int, first_ps: int, slope_ps: int, most: int) -> int:
    """Return how many of the iterations first + slope * k have ended: the largest n <= most with T(n) <= elapsed."""
    return min(most, next_end(elapsed_ps + 1, first_ps, slope_ps)[0] - 1)


@mypyc_attr(allow_interpreted_subclasses=True)
class Strides(Executor):
    """Iterations one after another, as many as a plan holds for under one alarm.

    A request that arrives meanwhile and could change the plan brings the alarm forward to the end of the iteration that
    is under way.

    Args:
        times: its physics.
        single_step: take every iteration singly; for comparison.
    """

    def __init__(self, times: IterationTimes, single_step: bool = False) -> None:
        self.lanes, self.overlaps = 1, False
        self._times = times
        self._step: Callable[[int, int, Any, int, int], tuple[int, int, int]] = times.step
        self._wake_ps = times.wake_ps
        self._single_step = single_step
        self._outcome = StepOutcome(0)  # one for all plans: nobody keeps it
        self._ended_ps = 0  # the last iteration
        self._begin_ps = self._start_ps = self._first_ps = self._slope_ps = self._steps = 0
        self._under_way = False  # under an alarm, so that others may look at it
        self._alarm: Alarm | None = None  # to be set anew, unless it was brought forward
        self._open = False  # to a request that comes meanwhile
        self._step_tokens = 0  # what each of its iterations computes and emits
        self._windowed = False  # whether layers see a part of the context only, which the meter wants to know
        self._seen = (0, 0, 0)  # by the plan under way, see `Scheduler.seen`
        self._crossed = 0  # to the GPU beside what the plan moves, in the meter's units

    def attach(self, worker: Worker) -> None:
        """Take up work for a worker."""
        self.worker = worker
        self._env: VirtualEnvironment = worker.env
        self._step_rank = priority(Kind.STEP, worker.number)
        config = worker.scheduler.config
        self._windowed = config.windowed
        if config.windowed or config.padded:
            self._step = self._seeing_step

    def _seeing_step(
        self, decoding: int, context_tokens: int, chunks: Sequence[Any], emits: int, iterations: int
    ) -> tuple[int, int, int]:
        """Return how long the plan in flight takes where that depends on more than sums."""
        self._seen = seen = self.worker.scheduler.seen(0)
        return self._times.step(decoding, context_tokens, chunks, emits, iterations, seen)

    def start(self, plan: StepPlan[Ticket], begin_ps: int, single: bool) -> simpy.Event | None:
        """Begin a stride (`Executor.start`)."""
        env, worker = self._env, self.worker
        rested_ps = begin_ps - self._ended_ps
        wake_ps = self._wake_ps(rested_ps) if rested_ps else 0
        start, chunks, emits = env._now, plan.chunks, plan.emits
        iterations = 1 if single or wake_ps or self._single_step else plan.repeat + 1
        first, slope, steps = self._step(plan.decoding, plan.context_tokens, chunks, emits, iterations)
        first += wake_ps
        if plan.ask_at_s is not None:
            steps = min(steps, next_end(first_tick(plan.ask_at_s, PS_PER_S) - start, first, slope)[0])
        span = first if steps == 1 else steps * first + slope * (steps * (steps - 1) // 2)
        self._plan = plan
        self._begin_ps, self._start_ps, self._first_ps, self._slope_ps = begin_ps, start, first, slope
        self._steps = steps
        if env.skip(span):
            return None
        self._under_way, self._open = True, steps > 1 and plan.open_to_arrivals
        self._step_tokens = emits + sum([chunk.tokens for chunk in chunks]) if chunks else emits
        loads, number = worker.loads, worker.number
        loads.tokens[number], loads.until_ps[number] = worker.scheduler.outstanding_tokens, start + first
        alarm = self._alarm
        if alarm is None:
            self._alarm = alarm = Alarm(env, self._step_rank, span)
        else:
            alarm.again(self._step_rank, span, [])
        return alarm

    def ended(self) -> None:
        """Apply the stride and write it down."""
        worker, plan = self.worker, self._plan
        lane, begin, steps = worker.lanes[0], self._begin_ps, self._steps
        first, slope = self._first_ps, self._slope_ps
        self._under_way = self._open = False
        if worker.log is not None:
            began_s = starts_s(self._start_ps, first, slope, steps)
            worker.log.write(worker.number, began_s, plan, worker.scheduler, self._outcome.tokens)
        self._outcome.iterations = steps
        applied = worker.apply(plan, self._outcome)
        self._ended_ps = now = self._env._now
        origin, moves = lane.origin_ps, plan.moves
        # fmt: off
        lane.strides += pack_stride(
            begin - origin, now - begin, now - origin, steps, first, slope, plan.decoding, plan.context_tokens,
            plan.emits, plan.running, plan.used_blocks, worker.scheduler.grown_blocks,
            sum([move.units for move in moves]) if moves else self._crossed,
        )
        # fmt: on
        if self._windowed:
            lane.windows += pack_window(self._seen[0], self._seen[1])
        worker.note(plan, lane, applied, now)

    def arrived(self) -> None:
        """End the stride early if the request could change what comes next."""
        if self._open:
            self._cut()

    def stop(self) -> None:
        """End with the iteration under way."""
        if self._under_way:
            self._cut()

    def _cut(self) -> None:
        """End the stride with the iteration under way; one that ends at this very instant counts as under way."""
        self._open = False
        elapsed = self._env._now - self._start_ps
        steps, end = next_end(elapsed, self._first_ps, self._slope_ps)
        if steps < self._steps:
            self._steps = steps
            assert self._alarm is not None
            self._env.schedule(self._alarm, self._step_rank, end - elapsed)
            self._alarm = None  # its first time still stands in the queue

    def progress(self, now_ps: int) -> tuple[int, int]:
        """Return what the iterations that have ended since have done (`Executor.progress`)."""
        if not self._under_way:
            return 0, NEVER_PS
        first, slope = self._first_ps, self._slope_ps
        done = steps_within(now_ps - self._start_ps, first, slope, self._steps)
        ended = done + 1
        end_ps = self._start_ps + ended * first + slope * (ended * done // 2)
        return done * self._step_tokens, end_ps if done < self._steps else NEVER_PS

    def since_ps(self) -> int:
        """Return when the iterations under way began, or the present if there are none."""
        return self._start_ps if self._under_way else self._env._now

    def busy_until_ps(self) -> int:
        """Return when the iterations under way end."""
        first, slope, steps = self._first_ps, self._slope_ps, self._steps
        if not self._under_way:
            return self._env._now
        return self._start_ps + steps * first + slope * (steps * (steps - 1) // 2)


class Uneven(Strides):
    """Iterations in which sequences that decode yield tokens of their own number, as far as plans grant them.

    Args:
        times: their physics.
        tokens: says of a plan how many each sequence that decodes has yielded, by id.
    """

    def __init__(self, times: IterationTimes, tokens: Callable[[StepPlan[Ticket]], Mapping[int, int]]) -> None:
        super().__init__(times)
        self._tokens = tokens

    def ended(self) -> None:
        """Find out what each has yielded, apply the stride and write it down."""
        self._outcome.tokens = tokens = self._tokens(self._plan)
        lane = self.worker.lanes[0]
        lane.extras += pack_jump(lane.noted, sum(tokens.values()) - self._plan.decoding * self._steps)
        Strides.ended(self)


class Stages(Executor):
    """The stages of a pipeline: a plan passes them in order, each stage serves plans in order.

    A decode group's next iteration needs the token of its last one, so that a single group leaves all stages but one
    idle: the pipeline's bubble. Iterations are taken singly.

    Args:
        stages: the physics of each.
    """

    def __init__(self, stages: Sequence[IterationTimes]) -> None:
        self.lanes, self.overlaps = len(stages), True
        self._stages = stages
        self._free_ps = [0] * len(stages)
        self._running = self._used_blocks = 0  # as last noted
        self._seen = [(0, 0, 0)] * len(stages)  # by the plans under way, of each group

    def attach(self, worker: Worker) -> None:
        """Take up work for a worker."""
        self.worker = worker
        self._env: VirtualEnvironment = worker.env
        self._step_rank = priority(Kind.STEP, worker.number)
        self._plan_rank = priority(Kind.PLAN, worker.number)

    def planned(self, plan: StepPlan[Ticket], begin_ps: int) -> None:
        """Write the plan down at once: others' outcomes come before its own."""
        self._note_levels()
        worker = self.worker
        if worker.log is not None:
            worker.log.write(worker.number, (begin_ps * S_PER_PS,), plan, worker.scheduler)

    def start(self, plan: StepPlan[Ticket], begin_ps: int, single: bool) -> simpy.Event | None:  # noqa: ARG002
        """Book the plan through the stages; the next one may be made when the first stage is free."""
        end, busy = self._pass_stages(plan)
        done = Alarm(self._env, self._step_rank, end - self._env._now)
        done.callbacks.append(lambda _: self._finish(plan, begin_ps, busy))
        return Alarm(self._env, self._plan_rank, self._free_ps[0] - self._env._now)

    def ended(self) -> None:
        """Go on: the first stage is free; the outcome comes when the plan leaves the last one."""

    def busy_until_ps(self) -> int:
        """Return when the plans under way leave the last stage."""
        return max(self._free_ps[-1], self._env._now)

    def _note_levels(self) -> None:
        """Note by how much the running sequences and the KV blocks in use have changed: plans overlap here."""
        scheduler, lane = self.worker.scheduler, self.worker.lanes[0]
        running, used = scheduler.admitted_sequences(), scheduler.pool.used_blocks
        lane.level_jumps += pack_level_jump(
            self._env._now - lane.origin_ps, running - self._running, used - self._used_blocks
        )
        self._running, self._used_blocks = running, used

    def _pass_stages(self, plan: StepPlan[Ticket]) -> tuple[int, int]:
        """Book the plan through the stages: (when it leaves the last one, time that stages work on it)."""
        ready = self._env._now
        busy = 0
        tokens = plan.decoding + sum([chunk.tokens for chunk in plan.chunks])
        seen = self._seen[plan.group] = self.worker.scheduler.seen(plan.group)
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

    def _finish(self, plan: StepPlan[Ticket], begin_ps: int, busy_ps: int) -> None:
        worker, lane, now = self.worker, self.worker.lanes[plan.group], self._env._now
        applied = worker.apply(plan, StepOutcome(1))
        # The iteration's duration stands for the time that stages work: energy follows from it, gaps from the ends.
        start, end = begin_ps - lane.origin_ps, now - lane.origin_ps
        lane.strides += pack_stride(
            *(start, busy_ps // len(self._stages), end, 1, busy_ps, 0, plan.decoding, plan.context_tokens, plan.emits),
            *(0, 0, 0, sum([move.units for move in plan.moves])),
        )
        if worker.scheduler.config.windowed:
            entries, growth, _ = self._seen[plan.group]
            lane.windows += pack_window(entries, growth)
        self._note_levels()
        worker.note(plan, lane, applied, now)
        worker.wake()

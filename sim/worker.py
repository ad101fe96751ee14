"""A worker: one replica's loop of planning, waiting and applying, in virtual time."""

from collections.abc import Callable, Generator
from math import sqrt
from typing import Any, Final

import simpy

from afterwatt.policies.log import DecisionLog
from afterwatt.policies.plans import Idle, PrefillChunk, StepOutcome, StepPlan, first_tick
from afterwatt.policies.scheduler import Scheduler
from afterwatt.sim.clock import PS_PER_S, S_PER_PS, Alarm, Kind, VirtualEnvironment, priority
from afterwatt.sim.links import Link, together
from afterwatt.sim.recorder import Lane, pack_chunk, pack_jump, pack_stride, pack_window
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.times import IterationTimes

NEVER_PS: Final = -1


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


class Loads:
    """Outstanding tokens of replicas that a router looks at: brought up to now where an iteration has ended since.

    Attributes:
        tokens: by replica; until_ps: when they change if nothing else happens.
    """

    def __init__(self, replicas: int) -> None:
        self.tokens = [0] * replicas
        self.until_ps = [NEVER_PS] * replicas

    def least(self, workers: list["Worker"], now_ps: int) -> int:
        """Return the number of the worker with the fewest outstanding tokens; of equals, the first one's."""
        tokens, chosen, fewest = self.tokens, 0, -1
        for number, until_ps in enumerate(self.until_ps):
            if NEVER_PS < until_ps <= now_ps:
                workers[number].note_load()
            outstanding = tokens[number]
            if outstanding < fewest or fewest < 0:
                chosen, fewest = number, outstanding
        return chosen


class Worker:
    """One replica, single-staged: a SimPy process over a `Scheduler` and a `TimeModel`.

    A plan that holds for many iterations is one alarm. A request that arrives meanwhile and could change the plan
    brings the alarm forward to the end of the iteration under way.

    Args:
        env: the clock.
        number: the replica's number.
        scheduler: its brain.
        times: its physics.
        swap: link to host memory (None: nothing is ever swapped).
        block_bytes: bytes of a KV block on each of its GPUs.
        on_finish: called with each request that finishes.
        single_step: take every iteration singly; for comparison.
        log: decision log to write to.

    Attributes:
        outcome_of: what comes of so many iterations, where a replay of another body's run tells; set before it runs.
        loads: where it notes its outstanding tokens, beside other replicas'; set before it runs.
    """

    def __init__(
        self,
        env: VirtualEnvironment,
        number: int,
        scheduler: Scheduler[Ticket],
        times: IterationTimes,
        swap: Link | None,
        block_bytes: float,
        on_finish: Callable[[Ticket], None],
        single_step: bool = False,
        log: DecisionLog | None = None,
    ) -> None:
        self.number = number
        self.scheduler = scheduler
        self.lanes = [Lane(number)]
        self._env = env
        self._times = times
        self._swap = swap
        self._block_bytes = block_bytes
        self._on_finish = on_finish
        self._single_step = single_step
        self._log = log
        self._step_time: Callable[[int, int, Any, int, int], tuple[int, int, int]] = times.step
        self._pack: Callable[..., bytes] = pack_stride
        if scheduler.config.windowed:
            self._step_time, self._pack = self._step_windowed, self._pack_windowed
        self._seen = (0, 0, 0)
        self._step_rank = priority(Kind.STEP, number)
        self._plan_rank = priority(Kind.PLAN, number)
        self.outcome_of: Callable[[int], StepOutcome] | None = None
        self.loads = Loads(number + 1)
        self._rest: simpy.Event | None = None
        self._alarm: Alarm | None = None  # of the stride under way, if an arrival may cut it
        self._stride: Alarm  # under way, and what it computes and emits in each of its iterations
        self._step_tokens = 0
        self._stopped = False
        self._came = False
        self._slept_ps = 0  # since the last iteration
        self._start_ps = self._first_ps = self._slope_ps = self._steps = 0
        env.process(self._run())

    # -- what the world does to it ---------------------------------------------------------------------------------

    def arrive(self, ticket: Ticket) -> None:
        """Take in a request; the next plan sees it, at once if idle, else at the next iteration boundary."""
        self.scheduler.add(ticket)
        self.loads.tokens[self.number] += ticket.prompt_tokens + ticket.output_tokens
        lane, rest, now = self.lanes[0], self._rest, self._env._now
        if rest is not None:
            lane.count_from(now)
        lane.queue_jumps += pack_jump(now - lane.origin_ps, 1)
        if rest is not None:
            self._rest = None
            self._env.schedule(rest, self._plan_rank)  # type: ignore[arg-type]
        elif self._alarm is not None:
            self._cut(self._alarm)
        else:
            self._came = True

    def outstanding_tokens(self) -> int:
        """Return the tokens still to compute and to produce, the stride under way brought up to now."""
        tokens = self.scheduler.outstanding_tokens
        if self._steps:
            done = steps_within(self._env._now - self._start_ps, self._first_ps, self._slope_ps, self._steps)
            tokens -= done * self._step_tokens
        return tokens

    def note_load(self) -> None:
        """Note the outstanding tokens of now, and when the iteration under way will change them."""
        loads, number, first, slope = self.loads, self.number, self._first_ps, self._slope_ps
        done = steps_within(self._env._now - self._start_ps, first, slope, self._steps)
        loads.tokens[number] = self.scheduler.outstanding_tokens - done * self._step_tokens
        ended = done + 1
        end_ps = self._start_ps + ended * first + slope * (ended * done // 2)
        loads.until_ps[number] = end_ps if done < self._steps else NEVER_PS

    def stop(self) -> None:
        """Make no further plans; the iteration under way ends."""
        self._stopped = True
        if self._steps:
            self._cut(self._stride)

    def since_ps(self) -> int:
        """Return when the iterations under way began, or the present if there are none."""
        return self._start_ps if self._steps else self._env.now

    def busy_until_ps(self) -> int:
        """Return when the iterations under way end."""
        first, slope, steps = self._first_ps, self._slope_ps, self._steps
        return self._start_ps + steps * first + slope * (steps * (steps - 1) // 2) if steps else self._env.now

    def _cut(self, alarm: Alarm) -> None:
        """End the stride with the iteration under way; one that ends at this very instant counts as under way."""
        self._alarm = None
        elapsed = self._env._now - self._start_ps
        steps, end = next_end(elapsed, self._first_ps, self._slope_ps)
        if steps < self._steps:
            self._steps = steps
            self._env.schedule(alarm, self._step_rank, end - elapsed)  # type: ignore[arg-type]

    # -- what it does -----------------------------------------------------------------------------------------------

    def _run(self) -> Generator[simpy.Event, None, None]:
        env, scheduler, step_time, pack = self._env, self.scheduler, self._step_time, self._pack
        lane, single_step, log, queue = self.lanes[0], self._single_step, self._log, env._queue
        step_rank, plan_rank, on_finish = self._step_rank, self._plan_rank, self._on_finish
        outcome, outcome_of = StepOutcome(0), self.outcome_of  # one for all plans: nobody keeps it
        number, tokens, until_ps = self.number, self.loads.tokens, self.loads.until_ps
        wake_ps = 0
        while not self._stopped:
            plan = scheduler.plan(env._now / PS_PER_S)  # Python takes five times as long to multiply by a float
            if isinstance(plan, Idle):
                tokens[number] = scheduler.outstanding_tokens
                yield from self._sleep(plan)
                continue
            if self._slept_ps:
                wake_ps, self._slept_ps = self._times.wake_ps(self._slept_ps), 0
            decoding, context, emits, chunks = plan.decoding, plan.context_tokens, plan.emits, plan.chunks
            iterations = 1 if single_step or wake_ps else plan.repeat + 1
            begin = start = env._now
            swapped = 0
            if scheduler.moved:  # else nobody's memory was
                note_admissions(scheduler, self.lanes, lane, begin)
                swapped = sum([move.units for move in plan.moves])
                tokens[number] = scheduler.outstanding_tokens  # less what they found cached
            if swapped:
                iterations = yield from self._move(plan, iterations)
                if self._stopped:
                    return
                start = env._now
            first, slope, steps = step_time(decoding, context, chunks, emits, iterations)
            first, wake_ps = first + wake_ps, 0
            if plan.ask_at_s is not None:
                steps = min(steps, next_end(first_tick(plan.ask_at_s, PS_PER_S) - start, first, slope)[0])
            span = first if steps == 1 else steps * first + slope * (steps * (steps - 1) // 2)
            if not env.skip(span):
                self._start_ps, self._first_ps, self._slope_ps, self._steps = start, first, slope, steps
                self._step_tokens = emits + sum([chunk.tokens for chunk in chunks]) if chunks else emits
                tokens[number], until_ps[number] = scheduler.outstanding_tokens, start + first
                self._stride = alarm = Alarm(env, step_rank, span)
                if steps > 1 and plan.open_to_arrivals:
                    self._alarm = alarm
                yield alarm
                self._alarm = None
                steps = self._steps
                self._steps = 0
            if log is not None:
                log.write(number, starts_s(start, first, slope, steps), plan, scheduler)
            outcome.iterations = steps
            told = outcome if outcome_of is None else outcome_of(steps)
            applied = scheduler.apply(plan, told)
            tokens[number], until_ps[number] = scheduler.outstanding_tokens, NEVER_PS
            now, origin = env._now, lane.origin_ps
            # fmt: off
            lane.strides += pack(
                begin - origin, now - begin, now - origin, steps, first, slope, decoding, context, emits,
                plan.running, plan.used_blocks, scheduler.grown_blocks, swapped,
            )
            # fmt: on
            lane.noted += 1
            if chunks:
                note_prefills(lane, chunks, applied.first, now)
            if applied.finished:
                note_finished(lane, applied.finished, now, on_finish)
            # What else happens at this instant comes before the next plan, which is to see it.
            if queue and queue[0][0] == now:
                yield Alarm(env, plan_rank, 0)

    def _step_windowed(
        self, decoding: int, context: int, chunks: tuple[PrefillChunk[Ticket], ...], emits: int, iterations: int
    ) -> tuple[int, int, int]:
        """Return how long the plan in flight takes where layers have a window."""
        self._seen = seen = self.scheduler.seen(0)
        return self._times.step(decoding, context, chunks, emits, iterations, seen)

    def _pack_windowed(self, *stride: int) -> bytes:
        """Pack a stride, and beside it what it saw through a window."""
        self.lanes[0].windows += pack_window(self._seen[0], self._seen[1])
        return pack_stride(*stride)

    def _sleep(self, idle: Idle) -> Generator[simpy.Event, None, None]:
        """Wait until somebody arrives, or until a time."""
        self._rest = rest = resting(self._env, idle.wake_at_s, self._plan_rank)
        since = self._env._now
        yield rest
        self._rest = None
        self._slept_ps += self._env._now - since

    def _move(self, plan: StepPlan[Ticket], iterations: int) -> Generator[simpy.Event, None, int]:
        """Move KV blocks over the link to host memory; return how many of the iterations then hold."""
        assert self._swap is not None
        self._came = False
        for blocks in together(plan.moves):
            yield self._swap.transfer(blocks * self._block_bytes)
        # Who came meanwhile is seen at the next boundary.
        return 1 if self._came and plan.open_to_arrivals else iterations


def note_admissions(scheduler: Scheduler[Ticket], lanes: list[Lane], lane: Lane, now_ps: int) -> None:
    """Write down who lost its memory, who got it back, and who was admitted (to this lane) by the last plan."""
    at_ps = now_ps - lane.origin_ps
    for ticket in scheduler.preempted:
        lane.queue_jumps += pack_jump(at_ps, 1)
        for other in lanes:
            if ticket.seq_id in other.live:
                other.lose(ticket)
    for ticket in scheduler.resumed:
        lane.queue_jumps += pack_jump(at_ps, -1)
        lane.join(ticket)
    for ticket in scheduler.admitted:
        lane.queue_jumps += pack_jump(at_ps, -1)
        if ticket.scheduled_ps is None:
            ticket.scheduled_ps = now_ps
            ticket.cached_tokens = ticket.kv_tokens


def note_prefills(
    lane: Lane, chunks: tuple[PrefillChunk[Ticket], ...], first_tokens: list[Ticket], now_ps: int
) -> None:
    """Write down whose prompts advanced, and who produced a first token or its next one after a preemption.

    Called when the stride has been noted.
    """
    index = lane.noted - 1
    for ticket, tokens, past in chunks:
        lane.prefill_tickets.append(ticket)
        lane.prefills += pack_chunk(index, tokens, past)
    for ticket in first_tokens:
        if ticket.first_ps is None:
            ticket.first_ps = now_ps
        else:
            gap = now_ps - ticket.last_ps
            ticket.stall_ps = max(ticket.stall_ps, gap)
            lane.lost_gaps.append(gap)
        ticket.last_ps = now_ps
        if ticket.finish_step is not None:
            lane.join(ticket)


def note_finished(lane: Lane, finished: list[Ticket], now_ps: int, on_finish: Callable[[Ticket], None]) -> None:
    """Write down who is done, and say so."""
    for ticket in finished:
        ticket.finish_ps = now_ps
        if ticket.seq_id in lane.live:
            lane.leave(ticket)
        on_finish(ticket)


def resting(env: VirtualEnvironment, wake_at_s: float | None, rank: int) -> simpy.Event:
    """An event that an arrival schedules, and a time if there is one."""
    event = env.event()
    event._ok, event._value = True, None
    if wake_at_s is not None:
        env.schedule(event, rank, first_tick(wake_at_s, PS_PER_S) - env.now)  # type: ignore[arg-type]
    return event

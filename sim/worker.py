"""A worker: one replica's loop of planning and applying, in virtual time. Its executor says what happens in between."""

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

import simpy
from mypy_extensions import mypyc_attr

from afterwatt.policies.log import DecisionLog
from afterwatt.policies.plans import Applied, Idle, Move, StepOutcome, StepPlan, first_tick
from afterwatt.policies.scheduler import Scheduler
from afterwatt.sim.clock import PS_PER_S, Alarm, Kind, VirtualEnvironment, priority
from afterwatt.sim.notes import note_admissions, note_finished, note_prefills
from afterwatt.sim.recorder import LaneNotes, pack_jump
from afterwatt.sim.ticket import Ticket

NEVER_PS = -1
Apply = Callable[[StepPlan[Ticket], StepOutcome], Applied[Ticket]]


@mypyc_attr(allow_interpreted_subclasses=True)
class Executor:
    """What happens between a plan and its outcome. A worker has one; it knows its worker from `attach` on.

    For each plan the worker calls `planned` if plans overlap, moves what the plan moves, calls `start`, waits for the
    event that it returns, and calls `ended`. The executor gives each plan's outcome to `Worker.apply`, in `ended` or
    later, packs the stride into the plan's lane, and hands what was applied to `Worker.note`.

    Attributes:
        worker: whose it is.
        lanes: decode groups: how many plans may be under way at a time.
        overlaps: whether more than one may be, so that other plans' outcomes come between a plan and its own.
    """

    lanes: int
    overlaps: bool

    def attach(self, worker: "Worker") -> None:
        """Take up work for a worker."""
        self.worker = worker

    def planned(self, plan: StepPlan[Ticket], begin_ps: int) -> None:
        """Hear of a plan when it is made, before what it moves is moved; only where plans overlap."""

    @abstractmethod
    def start(self, plan: StepPlan[Ticket], begin_ps: int, single: bool) -> simpy.Event | None:
        """Begin a plan, now.

        Args:
            plan: which; its moves have been made.
            begin_ps: when it was made.
            single: whether it holds for one iteration only, as somebody came while memory was moved.

        Returns:
            What happens before the next plan is made; None if that has been, the clock put forward.
        """

    @abstractmethod
    def ended(self) -> None:
        """Go on: what `start` has returned has happened."""

    def arrived(self) -> None:
        """Hear that a request has come while plans are under way."""

    def stop(self) -> None:
        """End what is under way as soon as it can be; no further plan is made."""

    def progress(self, now_ps: int) -> tuple[int, int]:  # noqa: ARG002 - where outcomes tell everything
        """Return (tokens computed and produced that no outcome has told yet, when there will be more or NEVER_PS)."""
        return 0, NEVER_PS

    def since_ps(self) -> int:
        """Return when the earliest iteration began that is not yet written down; the present if all are."""
        return self.worker.env._now

    def busy_until_ps(self) -> int:
        """Return when what is under way ends."""
        return self.worker.env._now


class Mover(Protocol):
    """What moves a worker's memory."""

    def move(self, moves: Sequence[Move]) -> Generator[simpy.Event, None, None]:
        """Move what a plan says, in its order; it is done with the last event."""


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
    """One replica: a SimPy process over a `Scheduler` and an `Executor`.

    Args:
        env: the clock.
        number: the replica's number.
        scheduler: its brain.
        executor: what happens between its plans and their outcomes.
        on_finish: called with each request that finishes.
        loads: where it notes its outstanding tokens, beside other replicas'.
        mover: moves its memory (None: nothing is ever moved).
        log: decision log to write to.
        apply: takes outcomes in the scheduler's place, where somebody listens (None: nobody does).

    Attributes:
        lanes: what it has written down, by decode group.
    """

    def __init__(
        self,
        env: VirtualEnvironment,
        number: int,
        scheduler: Scheduler[Ticket],
        executor: Executor,
        on_finish: Callable[[Ticket], None],
        loads: Loads,
        mover: Mover | None = None,
        log: DecisionLog | None = None,
        apply: Apply | None = None,
    ) -> None:
        self.env = env
        self.number = number
        self.scheduler = scheduler
        self.executor = executor
        self.loads = loads
        self.log = log
        self.lanes = [LaneNotes(number) for _ in range(executor.lanes)]
        self.stopped = False
        self.came = False  # somebody has, since memory began to be moved
        self._on_finish = on_finish
        self._mover = mover
        self._apply = apply
        self._plan_rank = priority(Kind.PLAN, number)
        self._rest: simpy.Event | None = None
        executor.attach(self)
        env.process(self._run())

    # -- what the world does to it ---------------------------------------------------------------------------------

    def arrive(self, ticket: Ticket) -> None:
        """Take in a request; the next plan sees it, at once if idle, else at the next iteration boundary."""
        self.scheduler.add(ticket)
        self.loads.tokens[self.number] += ticket.prompt_tokens + ticket.output_tokens
        now, lane = self.env._now, self.lanes[0]
        if self._rest is not None:
            for resting_lane in self.lanes:
                resting_lane.count_from(now)
        lane.queue_jumps += pack_jump(now - lane.origin_ps, 1)
        if self._rest is not None:
            self.wake()
        else:
            self.came = True
            self.executor.arrived()

    def wake(self) -> None:
        """Make the next plan now, if it rests: something has happened that may have changed the answer."""
        rest = self._rest
        if rest is not None:
            self._rest = None
            self.env.schedule(rest, self._plan_rank)

    def outstanding_tokens(self) -> int:
        """Return the tokens still to compute and to produce, what is under way brought up to now."""
        return self.scheduler.outstanding_tokens - self.executor.progress(self.env._now)[0]

    def note_load(self) -> None:
        """Note the outstanding tokens of now, and when what is under way will change them."""
        done, until_ps = self.executor.progress(self.env._now)
        self.loads.tokens[self.number] = self.scheduler.outstanding_tokens - done
        self.loads.until_ps[self.number] = until_ps

    def stop(self) -> None:
        """Make no further plans; the iteration under way ends."""
        self.stopped = True
        self.executor.stop()

    # -- what it does -----------------------------------------------------------------------------------------------

    def _run(self) -> Generator[simpy.Event, None, None]:
        env, scheduler, executor, queue = self.env, self.scheduler, self.executor, self.env._queue
        tokens, number, overlaps = self.loads.tokens, self.number, executor.overlaps
        while not self.stopped:
            begin_ps = env._now
            plan = scheduler.plan(begin_ps / PS_PER_S)  # Python takes five times as long to multiply by a float
            if isinstance(plan, Idle):
                tokens[number] = scheduler.outstanding_tokens
                self._rest = rest = resting(env, plan.wake_at_s, self._plan_rank)
                yield rest
                self._rest = None
                continue
            single = False
            if scheduler.moved:  # else nobody's memory was
                note_admissions(scheduler, self.lanes, self.lanes[plan.group], begin_ps)
                tokens[number] = scheduler.outstanding_tokens  # less what they found cached
            if overlaps:
                executor.planned(plan, begin_ps)
            if plan.moves:
                self.came = False
                assert self._mover is not None
                yield from self._mover.move(plan.moves)
                if self.stopped:
                    return
                single = self.came and plan.open_to_arrivals
            event = executor.start(plan, begin_ps, single)
            if event is not None:
                yield event
            executor.ended()
            # What else happens at this instant comes before the next plan, which is to see it.
            if queue and queue[0][0] == env._now:
                yield Alarm(env, self._plan_rank, 0)

    # -- what its executor has for it ------------------------------------------------------------------------------

    def apply(self, plan: StepPlan[Ticket], outcome: StepOutcome) -> Applied[Ticket]:
        """Tell the scheduler what came of a plan."""
        scheduler = self.scheduler
        applied = scheduler.apply(plan, outcome) if self._apply is None else self._apply(plan, outcome)
        self.loads.tokens[self.number] = scheduler.outstanding_tokens
        self.loads.until_ps[self.number] = NEVER_PS
        return applied

    def note(self, plan: StepPlan[Ticket], lane: LaneNotes, applied: Applied[Ticket], now_ps: int) -> None:
        """Write down whose prompts advanced and who is done, once the plan's stride is packed into its lane.

        Args:
            plan: that has ended.
            lane: of its group.
            applied: what its outcome changed.
            now_ps: when it ended.
        """
        lane.noted += 1
        if plan.chunks:
            note_prefills(lane, plan.chunks, applied.first, now_ps)
        if applied.finished:
            note_finished(lane, applied.finished, now_ps, self._on_finish)


def resting(env: VirtualEnvironment, wake_at_s: float | None, rank: int) -> simpy.Event:
    """An event that an arrival schedules, and a time if there is one."""
    event = env.event()
    event._ok, event._value = True, None
    if wake_at_s is not None:
        env.schedule(event, rank, first_tick(wake_at_s, PS_PER_S) - env.now)
    return event

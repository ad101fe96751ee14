"""A run's plans, recorded once from the simulator and timed again under other parameters of the stack.

Where everything is there at time 0, decisions depend on the order of iterations and not on how long they take. The run
is then a list of plans, one after another, and each request's times are ends of such plans: another set of parameters
gives other durations and nothing else. `RunRecord.columns` is what the simulator would have said, for a hundredth of
its time. Runs for which that does not hold (arrivals by the clock, several replicas, plans that overlap in a pipeline)
are refused, and have to be simulated anew each time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.roofline import Seen, TimeModel
from afterwatt.hwprofiles.stacks import Stack
from afterwatt.reports.columns import completed
from afterwatt.sim.body import Body
from afterwatt.sim.clock import PS_PER_S, S_PER_PS
from afterwatt.sim.config import RunConfig
from afterwatt.sim.memory import MemoryPlan
from afterwatt.sim.parts import ResidentParts
from afterwatt.sim.recorder import STRIDE_COLUMNS
from afterwatt.sim.rows import SEEN_BY_CLIENTS, Columns
from afterwatt.sim.run import memory_of
from afterwatt.sim.times import IterationTimes

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Chunks = tuple[tuple[None, int, int], ...]
_AT: Final = {name: place for place, name in enumerate(STRIDE_COLUMNS)}
_UNTIMED: Final = ("request_id", "prompt_tokens", "output_tokens")
_TIMES: Final = ("arrival_s", "first_token_s", "finish_s")


class RecordedPlan(NamedTuple):
    """What `TimeModel.step` is asked, for which decode group, and how many iterations came of it."""

    group: int
    decoding: int
    context_tokens: int
    emits: int
    iterations: int
    chunks: Chunks
    seen: Seen = None

    def goes_on_as(self, other: "RecordedPlan") -> bool:
        """Say whether another plan is what this one would have done next."""
        grown = self.context_tokens + self.iterations * self.decoding
        same = (self.group, self.decoding, self.emits) == (other.group, other.decoding, other.emits)
        alone = same and not self.chunks and not other.chunks and grown == other.context_tokens
        return alone and other.seen == self.seen_after(self.iterations)

    def seen_after(self, done: int) -> Seen:
        """Return what layers with a window see after so many of the iterations."""
        if self.seen is None:
            return None
        entries, growing, lasting = self.seen
        return entries + done * growing, growing, lasting - done


class _Listener:
    """The times of a stage, and a memory of the prompt pieces that were asked about, and of what windows showed."""

    def __init__(self, times: IterationTimes) -> None:
        self._times = times
        self.wake_ps, self.hop_ps = times.wake_ps, times.hop_ps
        self.heard: list[tuple[Chunks, Seen]] = []

    def step(
        self,
        decoding: int,
        context_tokens: int,
        chunks: Sequence[Any],
        emits: int,
        iterations: int,
        seen: Seen = None,
    ) -> tuple[int, int, int]:
        """Return the time of a plan's iterations (`IterationTimes.step`)."""
        self.heard.append((tuple((None, size, past) for _, size, past in chunks), seen))
        return self._times.step(decoding, context_tokens, chunks, emits, iterations, seen)


@dataclass(frozen=True)
class RunRecord:
    """A run that can be timed again.

    Attributes:
        config: the run.
        plans: in the order in which they were made.
        overlaps: whether they pass the stages of a pipeline one behind the other, rather than one after another.
        rows: the simulator's own columns of the requests that no time changes.
        ends: column of times -> index of the plan at whose end each request's time lies (-1: time 0).
    """

    config: RunConfig
    plans: tuple[RecordedPlan, ...]
    overlaps: bool
    rows: Columns
    ends: Mapping[str, Ints]

    def ends_ps(self, stack: Stack) -> Ints:
        """Return when each plan ends under a stack, in picoseconds."""
        serving = replace(self.config.serving, stack=stack)
        stages = [TimeModel(serving, stage) for stage in range(serving.pool.pp)]
        if self.overlaps:
            return _pipelined(stages, self.plans)
        spans = [sum(_span_ps(stage, plan) for stage in stages) + _hops_ps(stages, plan) for plan in self.plans]
        return np.cumsum(np.array(spans, dtype=np.int64))

    def columns(self, stack: Stack) -> Columns:
        """Return the columns of the requests as the simulator would with this stack.

        What does not follow from the ends of plans (energies, stalls, times of admission) is left out.
        """
        ends = np.append(self.ends_ps(stack), 0)  # index -1: time 0
        late = round(stack.front_s * PS_PER_S)
        times = {name: (ends[where] + late * (name in SEEN_BY_CLIENTS)) * S_PER_PS for name, where in self.ends.items()}
        return completed({**self.rows, **times})


def record(config: RunConfig, memory: MemoryPlan | None = None) -> RunRecord | None:
    """Run the simulator and keep its plans; None where they cannot be timed again.

    Args:
        config: the run.
        memory: of its replicas; None: as found for it.

    Raises:
        Infeasible: the model does not fit.
    """
    if config.deployment.pool.replicas > 1 or config.slowness is not None or config.horizon_s is not None:
        return None
    config = replace(config, stack=config.stack.with_values({"front_s": 0.0}))  # ends of plans, as the worker has them
    parts: list[Columns] = []
    stages = [_Listener(TimeModel(config.serving, stage)) for stage in range(config.deployment.pool.pp)]
    held = memory or memory_of(config)
    workers = ResidentParts(config, held, stages.__getitem__)
    body = Body(config, held, config.workload, None, parts.append, parts=workers)
    body.run()
    heard = stages[0].heard
    strides, groups = _strides(body)
    begin, end = strides[:, _AT["start_ps"]], strides[:, _AT["end_ps"]]
    rows = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    overlaps = not np.array_equal(begin, np.concatenate(([0], end[:-1])))
    if overlaps and np.any(np.asarray(rows["output_tokens"], dtype=np.int64) > 1):
        return None  # which group's turn it is may depend on time
    ends = {name: _which(end, np.asarray(rows[name], dtype=np.float64)) for name in _TIMES}
    found = {name: where for name, where in ends.items() if where is not None}
    if len(found) < len(ends) or len(strides) != len(heard) or np.any(strides[:, _AT["swapped_blocks"]]):
        return None
    plans = [
        RecordedPlan(
            group,
            int(stride[_AT["decoding"]]),
            int(stride[_AT["context_tokens"]]),
            int(stride[_AT["emits"]]),
            int(stride[_AT["steps"]]),
            chunks,
            seen,
        )
        for stride, group, (chunks, seen) in zip(strides, groups, heard, strict=True)
    ]
    kept = {name: rows[name] for name in _UNTIMED}
    recording = RunRecord(config, tuple(plans), overlaps, kept, found)
    if not np.array_equal(recording.ends_ps(config.stack), end):
        return None
    return recording if overlaps else _merged(recording)


def _merged(recording: RunRecord) -> RunRecord:
    """Join plans that go on as one, where no request's time lies between: a pipeline takes iterations singly."""
    marks = {int(where) for column in recording.ends.values() for where in column}
    plans: list[RecordedPlan] = []
    index: dict[int, int] = {-1: -1}
    for place, plan in enumerate(recording.plans):
        last = plans[-1] if plans else None
        if last is not None and place - 1 not in marks and last.goes_on_as(plan):
            plans[-1] = last._replace(iterations=last.iterations + plan.iterations)
        else:
            plans.append(plan)
        index[place] = len(plans) - 1
    ends = {
        name: np.array([index[at] for at in where.tolist()], dtype=np.int64) for name, where in recording.ends.items()
    }
    return replace(recording, plans=tuple(plans), ends=ends)


def with_stack(config: RunConfig, stack: Stack) -> RunConfig:
    """Return the run under another stack."""
    return replace(config, stack=stack)


def _strides(body: Body) -> tuple[Ints, list[int]]:
    """Return a body's strides in the order of their plans, and the group of each."""
    lanes = body.workers[0].lanes
    packed = [np.frombuffer(bytes(lane.strides), dtype=np.int64).reshape(-1, len(_AT)) for lane in lanes]
    groups = np.repeat(np.arange(len(packed)), [len(rows) for rows in packed])
    strides = np.concatenate(packed)
    order = np.lexsort((strides[:, _AT["end_ps"]], strides[:, _AT["start_ps"]]))
    return strides[order], groups[order].tolist()


def _which(end_ps: Ints, times_s: Floats) -> Ints | None:
    """Return the index of the plan that ends at each time, -1 for time 0; None where some time is no plan's end."""
    if np.isnan(times_s).any():
        return None
    with_zero = np.concatenate(([0], end_ps)) * S_PER_PS
    near = np.clip(np.searchsorted(with_zero, times_s), 0, len(with_zero) - 1)
    before = np.maximum(near - 1, 0)
    near = np.where(np.abs(with_zero[before] - times_s) < np.abs(with_zero[near] - times_s), before, near)
    if np.any(np.abs(with_zero[near] - times_s) > 0.5 / PS_PER_S + 1e-15 * times_s):
        return None
    return near.astype(np.int64) - 1


def _span_ps(times: TimeModel, plan: RecordedPlan) -> int:
    """Return how long a plan's iterations take, asking again where the law changes within."""
    total, done = 0, 0
    while done < plan.iterations:
        chunks = [(whose, size, past + done * size) for whose, size, past in plan.chunks]
        context = plan.context_tokens + done * plan.decoding
        first, slope, steps = times.step(
            plan.decoding, context, chunks, plan.emits, plan.iterations - done, plan.seen_after(done)
        )
        steps = min(steps, plan.iterations - done)
        total += steps * first + slope * (steps * (steps - 1) // 2)
        done += steps
    return total


def _hops_ps(stages: Sequence[TimeModel], plan: RecordedPlan) -> int:
    if len(stages) == 1:
        return 0
    tokens = plan.decoding + sum(size for _, size, _ in plan.chunks)
    return plan.iterations * sum(stage.hop_ps(tokens) for stage in stages[1:])


def _pipelined(stages: Sequence[TimeModel], plans: Sequence[RecordedPlan]) -> Ints:
    """Return when plans leave the last stage: each stage takes them in order, a group one at a time."""
    free_ps = [0] * len(stages)
    group_ps: dict[int, int] = {}
    ends = []
    for plan in plans:
        tokens = plan.decoding + sum(size for _, size, _ in plan.chunks)
        ready = max(free_ps[0], group_ps.get(plan.group, 0))
        for number, stage in enumerate(stages):
            if number:
                ready += stage.hop_ps(tokens)
            ready = free_ps[number] = max(ready, free_ps[number]) + _span_ps(stage, plan)
        group_ps[plan.group] = ready
        ends.append(ready)
    return np.array(ends, dtype=np.int64)

"""A worker does what its executor says, and nothing of it is the worker's own."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.policies.batching import ChunkedPrefill
from afterwatt.policies.plans import StepOutcome
from afterwatt.policies.scheduler import Scheduler
from afterwatt.policies.sizes import SchedulerConfig
from afterwatt.sim.body import Body
from afterwatt.sim.clock import Alarm, Kind, VirtualEnvironment, priority
from afterwatt.sim.executors import Stages, Strides, Uneven
from afterwatt.sim.parts import ResidentParts
from afterwatt.sim.recorder import STRIDE_COLUMNS, pack_stride
from afterwatt.sim.run import memory_of
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.times import times_of
from afterwatt.sim.worker import Executor, Loads, Worker
from tests.helpers import Requests, make_config, run_body, solo_batch

SIZES = SchedulerConfig(kv_blocks=200, block_tokens=16, max_seqs=8, token_budget=64, max_context_tokens=4096)


class Steady:
    """Times that anybody can add up: 10 ps a token computed, 1 ps an entry read, 100 ps besides."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def step(self, decoding, context_tokens, chunks, emits, iterations, seen=None):
        tokens = decoding + sum(chunk[1] for chunk in chunks)
        self.asked.append((decoding, context_tokens, tokens))
        return 100 + 10 * tokens + context_tokens, decoding if not chunks else 0, iterations if not chunks else 1

    def wake_ps(self, rest_ps):
        return 0

    def hop_ps(self, tokens):
        return tokens


class Fixed(Executor):
    """An executor of a test: every plan takes 7 ps, one iteration, through an event of its own."""

    def __init__(self) -> None:
        self.lanes, self.overlaps = 1, False
        self.heard: list[str] = []

    def start(self, plan, begin_ps, single):
        self.plan, self.begin_ps = plan, begin_ps
        self.heard.append("start")
        return Alarm(self.worker.env, priority(Kind.STEP, self.worker.number), 7)

    def arrived(self):
        self.heard.append("arrived")

    def ended(self):
        worker, lane = self.worker, self.worker.lanes[0]
        applied = worker.apply(self.plan, StepOutcome(1))
        start, end = self.begin_ps - lane.origin_ps, worker.env.now - lane.origin_ps
        lane.strides += pack_stride(start, 7, end, 1, 7, 0, self.plan.decoding, 0, self.plan.emits, 0, 0, 0, 0)
        worker.note(self.plan, lane, applied, worker.env.now)
        self.heard.append("ended")


def lived(executor: Executor, requests: list[tuple[int, int, int]], log=None) -> dict[int, Ticket]:
    """Run (arrival, prompt, output) of each request through a worker; return the finished ones by id."""
    env, done = VirtualEnvironment(), {}
    scheduler = Scheduler(dataclasses.replace(SIZES, groups=executor.lanes), ChunkedPrefill())
    worker = Worker(
        env, 0, scheduler, executor, lambda ticket: done.setdefault(ticket.seq_id, ticket), Loads(1), log=log
    )

    def arrive(number: int, arrival_ps: int, prompt: int, output: int):
        yield Alarm(env, priority(Kind.ARRIVAL, number), arrival_ps)
        worker.arrive(Ticket(number, prompt, output, (), arrival_ps))

    for number, request in enumerate(requests):
        env.process(arrive(number, *request))
    env.run()
    return done


def test_an_executor_of_ones_own_needs_nothing_of_the_worker():
    """Two requests there at once: a prompt each in one iteration, then decoding together, 7 ps each time."""
    executor = Fixed()
    done = lived(executor, [(0, 20, 3), (0, 20, 5)])
    assert {number: ticket.first_ps for number, ticket in done.items()} == {0: 7, 1: 7}
    assert {number: ticket.finish_ps for number, ticket in done.items()} == {0: 21, 1: 35}
    assert executor.heard.count("start") == executor.heard.count("ended") == 5


def test_a_request_that_comes_under_way_is_told_to_the_executor_and_one_that_wakes_is_not():
    executor = Fixed()
    lived(executor, [(0, 20, 2), (3, 20, 2)])
    assert executor.heard == ["start", "arrived", "ended", "start", "ended", "start", "ended"]


def test_a_plain_stride_takes_what_its_times_add_up_to():
    """100 + 10 per prompt token, then 100 + 10 + entries (its own with them), one entry more each time."""
    (ticket,) = lived(Strides(Steady()), [(0, 20, 4)]).values()
    first = 100 + 200
    assert ticket.first_ps == first
    assert ticket.finish_ps == first + sum(100 + 10 + entries for entries in (21, 22, 23))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 150), st.integers(1, 12)), min_size=1, max_size=8).map(
        sorted
    )
)
def test_a_pipeline_of_one_stage_is_a_plain_replica(requests):
    """Times, order and decisions: strides, single steps, and a pipeline whose only stage does everything."""
    found = []
    for executor in (Strides(Steady()), Strides(Steady(), single_step=True), Stages([Steady()])):
        done = lived(executor, requests)
        found.append([(t.seq_id, t.scheduled_ps, t.first_ps, t.finish_ps) for t in done.values()])
    assert sorted(found[0]) == sorted(found[1]) == sorted(found[2])
    assert len(found[0]) == len(requests)


def test_a_second_stage_takes_its_own_time_and_the_way_there():
    (ticket,) = lived(Stages([Steady(), Steady()]), [(0, 20, 2)]).values()
    assert ticket.first_ps == 2 * (100 + 200) + 20
    assert ticket.finish_ps - ticket.first_ps == 2 * (100 + 10 + 21) + 1


def test_whoever_listens_in_hears_every_stride_and_changes_nothing():
    config = make_config(solo_batch(6, 200, 30))
    plain = run_body(solo_batch(6, 200, 30))
    heard = []

    class Listener:
        def __init__(self, times):
            self._times = times
            self.wake_ps, self.hop_ps = times.wake_ps, times.hop_ps

        def step(self, *asked):
            heard.append(asked)
            return self._times.step(*asked)

    parts = []
    memory = memory_of(config)
    workers = ResidentParts(config, memory, lambda stage: Listener(times_of(config, stage)))
    body = Body(config, memory, config.workload, None, parts.append, parts=workers)
    body.run()
    finish = np.concatenate([np.asarray(part["finish_s"]) for part in parts])
    assert finish.tolist() == np.asarray(plain.rows["finish_s"]).tolist()
    assert len(heard) == body.workers[0].lanes[0].noted
    lane = np.frombuffer(bytes(body.workers[0].lanes[0].strides), dtype=np.int64).reshape(-1, len(STRIDE_COLUMNS))
    assert [asked[0] for asked in heard] == lane[:, STRIDE_COLUMNS.index("decoding")].tolist()


def test_outcomes_may_be_taken_in_the_schedulers_place():
    env, seen = VirtualEnvironment(), []
    scheduler = Scheduler(SIZES, ChunkedPrefill())

    def apply(plan, outcome):
        seen.append(outcome.iterations)
        return scheduler.apply(plan, outcome)

    worker = Worker(env, 0, scheduler, Strides(Steady()), lambda _: None, Loads(1), apply=apply)
    worker.arrive(Ticket(0, 20, 9, (), 0))
    env.run()
    assert seen == [1, 8]


class Carried:
    """Moves memory in no time, and notes how much."""

    def __init__(self) -> None:
        self.units: list[tuple[str, int]] = []

    def move(self, moves):
        self.units += [(move.dst, move.units) for move in moves]
        return iter(())


class OwnParts(ResidentParts):
    """Parts of a test: a body that is given them has no executor, no mover and no size of another's."""

    def __init__(self, config, memory):
        super().__init__(config, memory)
        self.executors, self.carried = [], Carried()

    def sizes(self):
        return dataclasses.replace(SIZES, kv_blocks=6, swap_blocks=100)

    def executor(self, env, number):
        self.executors.append(Fixed())
        return self.executors[-1]

    def mover(self, env, number):
        return self.carried


def test_a_body_builds_its_workers_of_what_it_is_given():
    """Prompts of a block each, three for six blocks of memory: they outgrow it, and are carried out and in again."""
    config = make_config(solo_batch(6, 16, 30), "2xm40")
    parts = OwnParts(config, memory_of(config))
    rows = []
    body = Body(config, memory_of(config), config.workload, None, rows.append, parts=parts)
    duration_s = body.run().duration_s
    assert [worker.executor for worker in body.workers] == parts.executors
    assert duration_s == max(executor.heard.count("start") for executor in parts.executors) * 7e-12
    assert np.concatenate([row["output_tokens"] for row in rows]).tolist() == [30] * 6
    out, back = ([units for dst, units in parts.carried.units if dst == tier] for tier in ("dram", "hbm"))
    assert out
    assert sorted(out) == sorted(back)


def scripted(most: int):
    """Says that each yields 1 to `most` tokens, as its number and its context decide, while its output lasts."""

    def tokens(scheduler, plan):
        decoding = scheduler.decoding(plan)
        return {
            seq.seq_id: min(1 + (kv * 7 + seq.seq_id * 3) % most, seq.prompt_tokens + seq.output_tokens - kv - 1)
            for seq, kv in decoding
        }

    return tokens


def uneven_parts(draft_tokens: int, tokens):
    """Parts whose workers guess so many tokens, of which `tokens` says what they keep."""

    class Parts(ResidentParts):
        def sizes(self):
            return dataclasses.replace(super().sizes(), draft_tokens=draft_tokens)

        def executor(self, env, number):
            executor = Uneven(Steady(), lambda plan: tokens(executor.worker.scheduler, plan))
            return executor

    return Parts


REQUESTS = st.lists(
    st.tuples(st.integers(0, 9000), st.integers(1, 150), st.integers(1, 40)), min_size=1, max_size=12
).map(sorted)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.integers(1, 4), st.sampled_from([12, 40, 2000]), st.sampled_from(["chunked", "prefill-first"]))
def test_whatever_each_yields_everything_adds_up(requests, draft_tokens, kv_blocks, policy):
    """Tokens, gaps, energy, queue and memory are audited, with memory that is short and with plenty."""
    parts = uneven_parts(draft_tokens, scripted(1 + draft_tokens))
    run_body(Requests(*zip(*requests, strict=True)), policy=policy, kv_blocks=kv_blocks, parts=parts)


@settings(max_examples=30, deadline=None)
@given(REQUESTS)
def test_one_token_each_is_what_a_lock_step_yields(requests):
    """All but what it reserves: with room for everybody, guesses that are never right change nothing."""
    ones = uneven_parts(1, lambda scheduler, plan: {seq.seq_id: 1 for seq, _ in scheduler.decoding(plan)})
    plain = uneven_parts(0, None)
    plain.executor = lambda self, env, number: Strides(Steady())
    found, wanted = (run_body(Requests(*zip(*requests, strict=True)), parts=parts) for parts in (ones, plain))
    assert found.result.duration_s == wanted.result.duration_s
    assert [ticket.finish_ps for ticket in found.tickets] == [ticket.finish_ps for ticket in wanted.tickets]
    assert [entry[3:8] for entry in found.log] == [entry[3:8] for entry in wanted.log]
    assert {entry.tokens for entry in wanted.log} <= {None}


def test_four_tokens_at_a_time_take_a_quarter_of_the_iterations():
    """20 tokens of prompt and 9 of output: one with the prompt, then twice four; their attention reads 21, then 25."""
    parts = uneven_parts(3, lambda scheduler, plan: {seq.seq_id: 4 for seq, _ in scheduler.decoding(plan)})
    outcome = run_body(solo_batch(1, 20, 9), parts=parts)
    (ticket,) = outcome.tickets
    assert ticket.first_ps == 100 + 200
    assert ticket.finish_ps == ticket.first_ps + (100 + 10 + 21) + (100 + 10 + 25)
    assert [entry.tokens for entry in outcome.log] == [(), (4,), (4,)]

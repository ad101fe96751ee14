"""What every policy promises, whatever it decides. A policy's tests inherit the class of its kind and name the policy:

class TestMine(BatchPolicyConformance):
    make = Mine

Scheduler and bodies rely on each of these; a policy that breaks one breaks the equality of strides and single steps.
"""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afterwatt.policies.views import (
    BatchDecision,
    BatchLimits,
    BatchPolicy,
    BatchView,
    Candidate,
    Chunk,
    Prefilling,
    ReplicaView,
    RequestView,
    RoutePolicy,
)

ROOT = Path(__file__).parents[2]
inherited = settings(deadline=None, suppress_health_check=[HealthCheck.differing_executors])


class Shown(NamedTuple):
    """A view that can be shown more than once: a `BatchView` holds an iterator, which can be walked only once."""

    now_s: float
    decoding: int
    prefilling: tuple[Prefilling, ...]
    queue: tuple[Candidate, ...]
    free_blocks: int
    limits: BatchLimits

    def view(self) -> BatchView:
        return BatchView(*self._replace(queue=iter(self.queue)))


def shown_views(whole_prompts: bool) -> st.SearchStrategy[Shown]:
    """Views such as a scheduler makes; where prompts are never split, none is ever left half done."""
    return st.integers(0, 2**32).map(lambda seed: random_view(random.Random(seed), whole_prompts))


def random_view(draw: random.Random, whole_prompts: bool) -> Shown:
    """A view from a seed: the same in every process."""
    limits = BatchLimits(draw.randint(1, 8), draw.choice([1, 7, 64, 512]))
    begun = 0 if whole_prompts else draw.randint(0, min(3, limits.max_seqs))
    decoding = draw.randint(0, limits.max_seqs - begun)
    ids = iter(draw.sample(range(1000), 20))
    longest = draw.choice([3, 70, 900])
    return Shown(
        draw.random() * 1e4,
        decoding,
        tuple(Prefilling(next(ids), draw.randint(1, longest)) for _ in range(begun)),
        tuple(
            Candidate(next(ids), draw.randint(1, longest), draw.randint(1, 12))
            for _ in range(draw.choice([0, 1, 2, 9]))
        ),
        draw.choice([-2, 0, 5, 30, 200]),
        limits,
    )


class BatchPolicyConformance:
    """Attributes to set: `make`, which builds the policy; `whole_prompts`, if it never splits a prompt."""

    make: type[BatchPolicy]
    whole_prompts = False

    def shown(self, data: st.DataObject) -> Shown:
        return data.draw(shown_views(self.whole_prompts))

    def admitted(self, shown: Shown, decision: BatchDecision) -> list[Candidate]:
        """The candidates that a decision names."""
        named = {chunk.seq_id for chunk in decision.chunks}
        return [candidate for candidate in shown.queue if candidate.seq_id in named]

    @given(st.data())
    @inherited
    def test_the_same_views_give_the_same_decisions(self, data):
        views = [self.shown(data) for _ in range(4)]
        one, other = self.make(), self.make()
        first = [one.select(shown.view()) for shown in views]
        assert first == [other.select(shown.view()) for shown in views]
        # No memory either: shown again in another order, each view gets the same answer.
        assert first[::-1] == [one.select(shown.view()) for shown in views[::-1]]

    @given(st.data())
    @inherited
    def test_it_names_only_what_the_view_showed_each_once_and_no_token_too_many(self, data):
        shown = self.shown(data)
        decision = self.make().select(shown.view())
        tokens = {item.seq_id: item.tokens for item in (*shown.prefilling, *shown.queue)}
        named = [chunk.seq_id for chunk in decision.chunks]
        assert len(set(named)) == len(named)
        for chunk in decision.chunks:
            assert 1 <= chunk.tokens <= tokens[chunk.seq_id]

    @given(st.data())
    @inherited
    def test_it_never_seats_more_than_there_are_seats(self, data):
        shown = self.shown(data)
        admitted = self.admitted(shown, self.make().select(shown.view()))
        taken = shown.decoding + len(shown.prefilling)
        assert taken + len(admitted) <= max(taken, shown.limits.max_seqs)

    @given(st.data())
    @inherited
    def test_it_keeps_to_the_token_budget_except_for_one_whole_prompt_alone(self, data):
        shown = self.shown(data)
        decision = self.make().select(shown.view())
        if not decision.chunks:
            return  # decoding everybody is always allowed
        tokens = sum(chunk.tokens for chunk in decision.chunks) + (shown.decoding if decision.decode else 0)
        whole = [Chunk(candidate.seq_id, candidate.tokens) for candidate in shown.queue]
        alone = len(decision.chunks) == 1 and not (decision.decode and shown.decoding)
        assert tokens <= shown.limits.token_budget or (alone and decision.chunks[0] in whole)

    @given(st.data())
    @inherited
    def test_it_never_promises_blocks_that_are_not_free(self, data):
        shown = self.shown(data)
        admitted = self.admitted(shown, self.make().select(shown.view()))
        assert not admitted or sum(candidate.blocks for candidate in admitted) <= shown.free_blocks

    @given(st.data())
    @inherited
    def test_first_come_first_served(self, data):
        """Begun prompts before waiting ones, each in order, and nobody gets anything while one before is not done."""
        shown = self.shown(data)
        decision = self.make().select(shown.view())
        in_order = [*shown.prefilling, *shown.queue][: len(decision.chunks)]
        assert [chunk.seq_id for chunk in decision.chunks] == [item.seq_id for item in in_order]
        for chunk, item in zip(decision.chunks[:-1], in_order[:-1], strict=True):
            assert chunk.tokens == item.tokens

    @given(st.data())
    @inherited
    def test_something_always_runs_if_something_can(self, data):
        shown = self.shown(data)
        decision = self.make().select(shown.view())
        fits = bool(shown.queue) and shown.queue[0].blocks <= shown.free_blocks
        if shown.decoding or shown.prefilling or fits:
            assert decision.chunks or (decision.decode and shown.decoding)

    @given(st.data())
    @inherited
    def test_what_it_did_not_look_at_does_not_matter(self, data):
        """A body does not ask again for an arrival that the last answer cannot have depended on."""
        shown = self.shown(data)
        looked = iter(shown.queue)
        decision = self.make().select(BatchView(*shown._replace(queue=looked)))
        some = next(looked, None) is not None
        if some or not shown.queue:
            queue = (*shown.queue, Candidate(5000, 1, 1)) if some else shown.queue
            assert self.make().select(shown._replace(queue=queue).view()) == decision

    @given(st.data(), st.floats(0.0, 100.0), st.integers(0, 20), st.integers(0, 50))
    @inherited
    def test_steady_means_that_the_answer_stays(self, data, later_s, fewer_blocks, more_tokens):
        """No other answer than before while nothing happens but that time passes, that blocks are used up, those that
        somebody waiting had computed among them, and that one prompt gets shorter by equal chunks.
        """
        policy = self.make()
        if not policy.steady:
            pytest.skip("says of itself that it must be asked at every boundary")
        shown = self.shown(data)
        decision = policy.select(shown.view())
        taken = {chunk.seq_id for chunk in decision.chunks}
        after = shown._replace(
            now_s=shown.now_s + later_s,
            free_blocks=shown.free_blocks - fewer_blocks,
            queue=tuple(
                item if item.seq_id in taken else item._replace(tokens=item.tokens + more_tokens)
                for item in shown.queue
            ),
        )
        if not decision.chunks:
            assert policy.select(after.view()) == decision
            return
        chunk = decision.chunks[0]
        begun = {item.seq_id: item.tokens for item in (*shown.prefilling, *shown.queue)}
        left = begun[chunk.seq_id] - chunk.tokens
        if len(decision.chunks) > 1 or left == 0:
            return  # the next iteration is another one: a body plans anew
        while left > chunk.tokens:
            after = after._replace(
                prefilling=(Prefilling(chunk.seq_id, left), *shown.prefilling[1:]),
                queue=tuple(item for item in after.queue if item.seq_id != chunk.seq_id),
                free_blocks=after.free_blocks - fewer_blocks,
            )
            assert policy.select(after.view()) == decision
            left -= chunk.tokens

    @given(st.data())
    @inherited
    def test_steady_means_that_it_decodes_when_there_is_nothing_else_to_do(self, data):
        policy = self.make()
        if not policy.steady:
            pytest.skip("says of itself that it must be asked at every boundary")
        shown = self.shown(data)._replace(prefilling=(), queue=(), decoding=data.draw(st.integers(1, 8)))
        assert policy.select(shown.view()) == BatchDecision(decode=True)

    def test_another_process_with_another_hash_seed_decides_alike(self):
        assert_alike_elsewhere("batch", self.make, self.whole_prompts)


class RoutePolicyConformance:
    """Attribute to set: `make`, which builds the policy."""

    make: type[RoutePolicy]

    @given(st.integers(0, 2**32))
    @inherited
    def test_the_same_history_gives_the_same_answers(self, seed):
        assert route_all(self.make(), seed) == route_all(self.make(), seed)

    @given(st.integers(0, 2**32), st.integers(1, 9), st.integers(0, 100))
    @inherited
    def test_it_names_a_replica_that_it_was_shown(self, seed, count, offset):
        draw = random.Random(seed)
        policy = self.make()
        for _ in range(5):
            views = [random_replica(draw, 3 * number + offset) for number in range(count)]
            assert policy.route(random_request(draw), views) in {view.replica for view in views}

    @given(st.integers(0, 2**32))
    @inherited
    def test_one_that_says_it_does_not_look_does_not_look(self, seed):
        policy, blind = self.make(), self.make()
        if policy.looks:
            pytest.skip("says of itself that it looks")
        draw = random.Random(seed)
        for _ in range(10):
            views = [random_replica(draw, number) for number in range(4)]
            request = random_request(draw)
            unseen = [ReplicaView(view.replica, 0, 0) for view in views]
            assert policy.route(request, views) == blind.route(request, unseen)

    @given(st.integers(1, 6))
    @inherited
    def test_equal_requests_for_equal_replicas_are_shared_out_equally(self, count):
        """Nobody finishes meanwhile: what a replica was given, it still has to do."""
        policy = self.make()
        given_to = [0] * count
        for number in range(5 * count):
            views = [ReplicaView(replica, 100 * given_to[replica], 0) for replica in range(count)]
            given_to[policy.route(RequestView(number, 60, 40), views)] += 1
        assert given_to == [5] * count

    def test_another_process_with_another_hash_seed_decides_alike(self):
        assert_alike_elsewhere("route", self.make)


def random_replica(draw: random.Random, number: int) -> ReplicaView:
    return ReplicaView(number, draw.choice([0, 10, draw.randint(0, 5000)]), draw.choice([0, 0, 512, 1024]))


def random_request(draw: random.Random) -> RequestView:
    return RequestView(draw.randint(0, 10**6), draw.randint(1, 4000), draw.randint(1, 1000))


def route_all(policy: RoutePolicy, seed: int) -> list[int]:
    """Answers to a history of fifty requests."""
    draw = random.Random(seed)
    return [
        policy.route(random_request(draw), [random_replica(draw, number) for number in range(5)]) for _ in range(50)
    ]


def _answers(kind: str, policy: BatchPolicy | RoutePolicy, whole_prompts: bool) -> Iterator[object]:
    for seed in range(100):
        if kind == "route":
            yield route_all(policy, seed)
        else:
            yield policy.select(random_view(random.Random(seed), whole_prompts).view())


def digest(kind: str, make: type, whole_prompts: bool) -> str:
    """Hash of a policy's answers to a hundred seeded questions."""
    return sha256(repr(list(_answers(kind, make(), whole_prompts))).encode()).hexdigest()


def assert_alike_elsewhere(kind: str, make: type, whole_prompts: bool = False) -> None:
    """Compare with a child whose hashes are seeded otherwise (this process's are random, as a rule)."""
    command = [sys.executable, __file__, kind, make.__module__, make.__qualname__, str(int(whole_prompts))]
    there = subprocess.run(
        command,
        env={"PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == digest(kind, make, whole_prompts)


if __name__ == "__main__":
    print(digest(sys.argv[1], getattr(import_module(sys.argv[2]), sys.argv[3]), sys.argv[4] == "1"))

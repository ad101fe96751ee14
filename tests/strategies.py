"""Hypothesis strategies for workloads, policy sets and whole small worlds."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from afterwatt.policies.batching import BATCHING
from afterwatt.policies.config import PolicySet
from afterwatt.policies.routing import ROUTING
from tests.helpers import S_PER_PS, Outcome, Requests, run_body

UNIT_TOKENS = 8
"""Tokens per prefix block in the worlds below."""
ITERATION_PS = 80_000_000_000
"""About one iteration of llama-2-7b on an M40: the scale on which arrivals matter."""

token_counts = st.integers(1, 60) | st.integers(1, 6)
output_counts = st.integers(1, 5) | st.integers(20, 80)


@st.composite
def policy_sets(draw: st.DrawFn, preemption: str | None = None, prefixes: bool = False) -> PolicySet:
    """Policy sets tight enough to be felt by a dozen short requests."""
    return PolicySet(
        batching=draw(st.sampled_from(sorted(BATCHING))),
        routing=draw(st.sampled_from(sorted(ROUTING))),
        preemption=preemption or draw(st.sampled_from(["recompute", "swap"])),
        share_prefixes=prefixes or draw(st.booleans()),
        token_budget=draw(st.integers(1, 30) | st.integers(30, 200)),
        max_seqs=draw(st.integers(1, 3) | st.just(8)),
        block_tokens=draw(st.sampled_from([1, 2, 4, 8] if prefixes else [1, 3, 4, 16])),
        watermark_frac=draw(st.sampled_from([0.0, 0.01, 0.1])),
        max_queue=draw(st.none() | st.integers(1, 4)),
    )


@st.composite
def prefixes_of(draw: st.DrawFn, prompts: list[int]) -> list[tuple[int, ...]]:
    """Block hashes as a trace names them: a few conversations that share their beginnings, then go their own ways."""
    hashes = []
    for number, prompt in enumerate(prompts):
        blocks = prompt // UNIT_TOKENS
        session, shared = draw(st.integers(0, 2)), draw(st.integers(0, blocks))
        own = [1_000_000 + 1_000 * number + i for i in range(shared, blocks)]
        hashes.append(tuple([1_000 * session + i for i in range(shared)] + own))
    return hashes


@dataclass(frozen=True)
class World:
    """A run in miniature; `run` plays it.

    Attributes:
        hw, policies, kv_blocks: what runs.
        requests: what arrives.
        options: further ones of `run_body`.
    """

    hw: str
    policies: PolicySet
    kv_blocks: int
    requests: Requests
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, **options: Any) -> Outcome:
        return run_body(self.requests, self.hw, self.policies, self.kv_blocks, **self.options | options)


@st.composite
def worlds(
    draw: st.DrawFn, hardware: list[str], prefixes: bool = False, preemption: str | None = None, most: int = 9
) -> World:
    """Worlds in which about half of the requests arrive exactly when an iteration ends.

    Where the boundaries lie depends on everything before: each such request is placed after a run of those before it.
    """
    hw = draw(st.sampled_from(hardware))
    policies = draw(policy_sets(preemption, prefixes))
    count = draw(st.integers(2, most))
    prompts = draw(st.lists(st.integers(9, 60) if prefixes else token_counts, min_size=count, max_size=count))
    outputs = draw(st.lists(output_counts, min_size=count, max_size=count))
    hashes = draw(prefixes_of(prompts)) if prefixes else None
    longest = max(prompt + output for prompt, output in zip(prompts, outputs, strict=True))
    kv_blocks = -(-longest // policies.block_tokens) * draw(st.integers(2, 5)) // 2 + draw(st.integers(0, 3))
    # A gap in picoseconds, or a number: the so manieth boundary after the arrival before.
    steps = draw(
        st.lists(
            st.tuples(st.booleans(), st.integers(1, 6), st.integers(0, 3 * ITERATION_PS)),
            min_size=count,
            max_size=count,
        )
    )
    unit = UNIT_TOKENS if prefixes else None
    requests = Requests([0] * count, prompts, outputs, hashes, unit)
    options = {"wake": draw(st.sampled_from([None, (0.03, ITERATION_PS * S_PER_PS)]))}
    world = World(hw, policies, max(1, kv_blocks), requests, options)
    time_ps = 0
    for number, (on_boundary, which, gap_ps) in enumerate(steps):
        if number and on_boundary:
            before = World(hw, policies, world.kv_blocks, requests.first(number), options).run(single_step=True)
            later = [time for time in before.boundaries_ps if time > time_ps]
            time_ps = later[min(which, len(later)) - 1] if later else time_ps
        elif number:
            time_ps += gap_ps
        requests.arrival_ps[number] = time_ps
    assert all(round(time * S_PER_PS * 10**12) == time for time in requests.arrival_ps)
    return world

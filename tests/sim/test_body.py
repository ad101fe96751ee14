"""What a body gives its replicas, and what a router sees of them."""

import pytest

from afterwatt.policies.routing import ROUTING, LeastOutstanding
from afterwatt.sim.parts import SWAP_FRAC
from afterwatt.sim.workload import StaticBatch
from tests.helpers import Requests, between, poisson, run_body


@pytest.mark.parametrize("hw", ["m40", "2xm40", "3xm40", "2xm40:tp2", "4xm40:tp2", "2xm40:pp2"])
def test_replicas_share_the_hosts_memory_for_swapping(hw: str):
    outcome = run_body(StaticBatch(1, 5, 5), hw, "swap")
    deployment, block_bytes = outcome.config.deployment.pool, outcome.memory.replica_block_bytes
    room_bytes = SWAP_FRAC * float(deployment.host.dram_bytes) * deployment.hosts
    counts = [worker.scheduler.config.swap_blocks for worker in outcome.body.workers]
    assert len(counts) == deployment.replicas
    assert len(set(counts)) == 1
    used_bytes = sum(counts) * block_bytes
    assert room_bytes - len(counts) * block_bytes < used_bytes <= room_bytes


def test_nothing_is_set_aside_where_nothing_is_swapped():
    assert run_body(StaticBatch(1, 5, 5)).body.workers[0].scheduler.config.swap_blocks == 0


class Watching(LeastOutstanding):
    """Remembers what it was shown."""

    shown: list[tuple[int, ...]]

    def route(self, request, replicas):
        self.shown.append(tuple(view.outstanding_tokens for view in replicas))
        return super().route(request, replicas)


@pytest.mark.parametrize("policy", ["chunked+budget=40", "prefill-first", "decode-first"])
@pytest.mark.parametrize("hw", ["2xm40", "3xm40"])
def test_a_router_sees_replicas_as_they_are_in_mid_stride(monkeypatch: pytest.MonkeyPatch, hw: str, policy: str):
    """Iteration by iteration nothing is ever under way that is done: the same views, arrival by arrival."""
    requests = poisson(60, 1.5, between(1, 400), between(1, 120), seed=3)
    monkeypatch.setitem(ROUTING, "watching", Watching)
    shown = []
    for single_step in (False, True):
        Watching.shown = []
        run_body(requests, hw, f"{policy}+watching", single_step=single_step, keep_log=False)
        shown.append(Watching.shown)
    assert shown[0] == shown[1]
    assert len(shown[0]) == len(requests)
    assert len({tokens for views in shown[0] for tokens in views}) > len(requests)


def test_tokens_that_are_done_are_owed_no_longer():
    """One request alone, then another far into its decoding: what is left of the first is its tokens to come."""
    alone = run_body(Requests([0], [30], [200]), "2xm40", single_step=True)
    boundary_ps = alone.boundaries_ps
    Watching.shown = []
    ROUTING["watching"] = Watching
    try:
        late = Requests([0, boundary_ps[50] + 1], [30, 5], [200, 5])
        run_body(late, "2xm40", "watching", keep_log=False)
    finally:
        del ROUTING["watching"]
    assert Watching.shown == [(0, 0), (200 - 50, 0)]

"""Whole runs: a directory that says what happened, byte for byte the same wherever it is made."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from afterwatt.hwprofiles import load_device, make_deployment
from afterwatt.policies.config import PolicySet
from afterwatt.policies.routing import ROUTING, LeastOutstanding
from afterwatt.reports.errors import ReportError
from afterwatt.sim.errors import Infeasible
from afterwatt.sim.run import simulate
from afterwatt.sim.workload import ClosedLoop, StaticBatch, TraceWorkload
from tests.helpers import PS_PER_S, Requests, Watched, between, make_config, poisson, run_body

ROOT = Path(__file__).parents[2]
TRACE = poisson(150, 0.6, between(1, 1200), between(1, 250), 7)
TABLES = ["decisions", "draws", "itl", "requests", "timeline"]

RUNS = {
    "replicas": lambda: make_config(TraceWorkload(TRACE), "3xm40", "chunked+swap", decisions=True),
    "prefixes": lambda: make_config(
        TraceWorkload(shared()), "2xm40", "chunked+prefix-affinity+block=8", decisions=True
    ),
    "users": lambda: make_config(ClosedLoop(6, TRACE, 60, 0.5), "2xm40", "prefill-first", decisions=True),
    "pipelines": lambda: make_config(TraceWorkload(TRACE), "4xm40:pp2", "chunked", decisions=True, horizon_s=90.0),
}


def shared() -> Requests:
    """Conversations whose turns begin alike."""
    hashes = [tuple(1000 * (n % 5) + block for block in range(prompt // 8)) for n, prompt in enumerate(TRACE.prompts)]
    return Requests(TRACE.arrival_ps, TRACE.prompts, TRACE.outputs, hashes, 8)


def digests(directory: Path) -> dict[str, str]:
    """Hash of every table of a run."""
    return {name: hashlib.sha256((directory / f"{name}.parquet").read_bytes()).hexdigest() for name in TABLES}


def elsewhere(name: str, out: Path, hash_seed: str) -> dict[str, str]:
    """Make the run in a process of its own."""
    child = subprocess.run(
        [sys.executable, __file__, name, str(out)],
        env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(child.stdout)


@pytest.mark.parametrize("name", RUNS)
def test_another_process_with_another_hash_seed_writes_the_same_bytes(name, tmp_path):
    simulate(RUNS[name](), tmp_path / "here")
    here = digests(tmp_path / "here")
    assert elsewhere(name, tmp_path / "there", "12345") == here


@pytest.mark.parametrize("name", RUNS)
def test_the_order_in_which_same_instant_events_are_made_does_not_matter(name, tmp_path):
    config = RUNS[name]()
    simulate(config, tmp_path / "plain")
    for seed in (1, 2):
        shuffled = type(config)(
            **{field: getattr(config, field) for field in config.__slots__} | {"shuffle_ties": seed}
        )
        simulate(shuffled, tmp_path / str(seed))
        assert digests(tmp_path / str(seed)) == digests(tmp_path / "plain")


def test_another_seed_draws_other_carbon_but_serves_alike(tmp_path):
    runs = [simulate(make_config(TraceWorkload(TRACE), seed=seed), tmp_path / str(seed)) for seed in (1, 2)]
    assert runs[0].file("requests").read_bytes() == runs[1].file("requests").read_bytes()
    assert runs[0].file("draws").read_bytes() != runs[1].file("draws").read_bytes()


def test_decisions_are_written_iteration_by_iteration(tmp_path):
    run = simulate(make_config(TraceWorkload(TRACE), decisions=True), tmp_path / "run")
    table = pq.read_table(run.path / "decisions.parquet")
    log = run_body(TRACE).log
    assert table.num_rows == len(log)
    for name in ("decoding", "context_tokens", "free_blocks", "view"):
        assert table[name].to_pylist() == [getattr(entry, name) for entry in log]
    for name in ("chunk_ids", "chunk_tokens", "admitted", "preempted"):
        assert table[name].to_pylist() == [list(getattr(entry, name)) for entry in log]


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_requests_beyond_the_context_are_refused_and_counted(tmp_path):
    requests = Requests([0, 1, 2], [4000, 4000, 10], [96, 97, 10])
    summary = simulate(make_config(TraceWorkload(requests)), tmp_path / "run").summary
    assert summary.requests.rejected == 1
    assert summary.rejected_by["over_context"] == 1
    assert summary.requests.finished == 2


def test_a_request_that_no_empty_memory_would_hold_is_refused():
    outcome = run_body(Requests([0, 1], [100, 33], [30, 32]), policy="chunked+block=16", kv_blocks=4)
    assert outcome.rows["reject_reason"].tolist() == ["never_fits", None]


def test_a_bounded_queue_turns_away_who_comes_too_many(tmp_path):
    requests = Requests([0] * 10, [100] * 10, [20] * 10)
    outcome = run_body(requests, policy="chunked+seqs=1+queue=3")
    assert outcome.rows["status"].tolist() == ["finished"] * 3 + ["rejected"] * 7
    assert set(outcome.rows["reject_reason"][3:]) == {"queue_full"}


def test_each_replica_has_a_queue_of_its_own():
    outcome = run_body(Requests([0] * 10, [100] * 10, [20] * 10), "2xm40", "chunked+seqs=1+queue=3+round-robin")
    assert int((outcome.rows["status"] == "finished").sum()) == 6


class AsksForViews(LeastOutstanding):
    """The same policy, which the body does not know for it."""


@pytest.mark.parametrize("policy", ["chunked", "prefill-first", "chunked+swap", "chunked+seqs=3"])
@pytest.mark.parametrize("rate_per_s", [2.0, 20.0])
def test_the_least_loaded_replica_is_the_one_that_all_views_show(policy, rate_per_s, monkeypatch):
    """The body keeps the loads of replicas at hand; asked one by one they come out the same, in mid-stride too."""
    trace = poisson(200, rate_per_s, between(1, 300), between(1, 60))
    quick = run_body(trace, "7xm40", policy, kv_blocks=40)
    monkeypatch.setitem(ROUTING, "least-outstanding", AsksForViews)
    slow = run_body(trace, "7xm40", policy, kv_blocks=40)
    assert [t.replica for t in quick.tickets] == [t.replica for t in slow.tickets]
    assert len({t.replica for t in quick.tickets if t.replica is not None}) == 7


def test_a_model_that_does_not_fit_leaves_no_directory(tmp_path):
    with pytest.raises(Infeasible, match="bytes short"):
        simulate(make_config(StaticBatch(1, 1, 1), model="llama-2-70b"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_trace_that_turns_out_to_be_faulty_leaves_no_directory(tmp_path):
    class Broken(Requests):
        def batches(self, size: int = 8192):
            yield from super().batches(size)
            raise ValueError("row 4711 is not a request")

    with pytest.raises(ValueError, match="row 4711"):
        simulate(make_config(TraceWorkload(Broken([0, 1], [5, 5], [5, 5]))), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_overwritten_unless_asked(tmp_path):
    config = make_config(StaticBatch(2, 10, 5))
    simulate(config, tmp_path / "run")
    with pytest.raises(ReportError, match="already holds a run"):
        simulate(config, tmp_path / "run")
    simulate(config, tmp_path / "run", overwrite=True)


# -- horizon and warm-up -----------------------------------------------------------------------------------------------


def test_a_horizon_ends_with_the_iterations_under_way():
    whole = run_body(TRACE)
    cut = run_body(TRACE, horizon_s=60.0)
    following_s = min(entry.time_s for entry in whole.log if entry.time_s >= 60.0)
    assert 60.0 <= cut.result.duration_s <= following_s + 1e-9
    arrived = sum(time < 60 * PS_PER_S for time in TRACE.arrival_ps)
    assert len(cut.tickets) == arrived
    for before, after in zip(cut.tickets, whole.tickets, strict=False):
        if after.finish_ps <= 60 * PS_PER_S:
            assert (before.first_ps, before.finish_ps) == (after.first_ps, after.finish_ps)
        elif before.finish_ps is not None:
            assert before.finish_ps == after.finish_ps <= round(cut.result.duration_s * PS_PER_S)
    assert "unfinished" in cut.rows["status"]


def test_a_horizon_beyond_the_end_changes_nothing_but_the_duration():
    whole, beyond = run_body(TRACE), run_body(TRACE, horizon_s=3600.0)
    np.testing.assert_array_equal(whole.rows["finish_s"], beyond.rows["finish_s"])
    assert beyond.result.duration_s == 3600.0
    idle_s = beyond.result.timeline["idle_s"].sum() - whole.result.timeline["idle_s"].sum()
    assert idle_s == pytest.approx(3600.0 - whole.result.duration_s, rel=1e-9)


def test_the_warm_up_is_served_but_left_out_of_the_statistics(tmp_path):
    run = simulate(make_config(TraceWorkload(TRACE), warmup_s=50.0), tmp_path / "run")
    rows = run.requests
    assert (rows["in_stats"] == (rows["arrival_s"] >= 50.0)).all()
    counted = rows[rows["in_stats"]]
    assert run.summary.ttft_s.mean == pytest.approx(counted["ttft_s"].mean(), rel=1e-9)
    assert run.summary.ttft_s.max == pytest.approx(counted["ttft_s"].max(), rel=1e-9)


# -- policies at work --------------------------------------------------------------------------------------------------


def test_prefill_first_answers_first_and_decode_first_never_stalls():
    outcomes = {
        policy: run_body(TRACE, policy=policy) for policy in ("prefill-first", "decode-first", "chunked+budget=128")
    }
    ttft = {policy: outcome.rows["ttft_s"].mean() for policy, outcome in outcomes.items()}
    stall = {policy: np.nanmax(outcome.rows["longest_stall_s"]) for policy, outcome in outcomes.items()}
    assert ttft["prefill-first"] < ttft["decode-first"]
    assert stall["decode-first"] < stall["chunked+budget=128"] < stall["prefill-first"]


def test_cached_prefixes_save_their_prefill():
    policies = ("chunked+block=8", "chunked+block=8+no-prefix")
    together, apart = (run_body(shared(), "a100-80", policy) for policy in policies)
    assert together.rows["cached_tokens"].sum() > 0.3 * sum(TRACE.prompts)
    assert apart.rows["cached_tokens"].sum() == 0
    saved = apart.result.timeline["prompt_tokens"].sum() - together.result.timeline["prompt_tokens"].sum()
    assert saved == pytest.approx(together.rows["cached_tokens"].sum(), rel=1e-9)
    assert together.rows["ttft_s"].mean() < apart.rows["ttft_s"].mean()


def test_swapped_bytes_cross_the_link_and_cost_time():
    swapping, recomputing = (run_body(TRACE, policy=policy, kv_blocks=120) for policy in ("chunked+swap", "chunked"))
    moved = swapping.result.timeline["dram_to_hbm_bytes"].sum()
    blocks = moved / swapping.memory.replica_block_bytes
    assert blocks == pytest.approx(round(blocks), abs=1e-6)
    assert blocks > 0
    assert recomputing.result.timeline["dram_to_hbm_bytes"].sum() == 0
    assert recomputing.result.timeline["prompt_tokens"].sum() > swapping.result.timeline["prompt_tokens"].sum()


def test_memory_of_two_hosts_is_no_larger_than_it_is():
    """A card of one's own making: the body takes any deployment, not only the catalogue's."""
    deployment = make_deployment(load_device("m40"), 3, name="attic")
    outcome = run_body(TRACE.first(20), deployment, PolicySet(routing="round-robin"))
    assert {ticket.replica for ticket in outcome.tickets} == {0, 1, 2}


def test_the_body_asks_the_workload_for_nothing_but_its_protocol():
    assert isinstance(run_body(StaticBatch(1, 5, 5)).config.workload, Watched)


if __name__ == "__main__":
    simulate(RUNS[sys.argv[1]](), sys.argv[2])
    print(json.dumps(digests(Path(sys.argv[2]))))

"""The summary says what the rows say: every number against an independent computation."""

import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.reports import tables
from afterwatt.reports.errors import ReportError
from afterwatt.reports.rundir import Run, RunWriter
from afterwatt.reports.summary import assemble_summary, latency, served, stats, summarise, weighted_stats


def test_counts_add_up_to_what_arrived(overloaded: Run) -> None:
    requests = overloaded.summary.requests
    frame = overloaded.requests
    assert requests.arrived == len(frame) == requests.finished + requests.rejected + requests.unfinished
    for status in ("finished", "rejected", "unfinished"):
        assert getattr(requests, status) == int((frame["status"] == status).sum())
    assert overloaded.summary.rejected_by == frame["reject_reason"].value_counts().to_dict()


@pytest.mark.parametrize("name", ["ttft_s", "tpot_s", "e2e_s", "longest_stall_s"])
def test_latencies_are_those_of_finished_requests_after_the_warm_up(m40: Run, name: str) -> None:
    frame = m40.requests
    values = frame[(frame["status"] == "finished") & frame["in_stats"]][name].dropna().to_numpy()
    assert 0 < len(values) < int((frame["status"] == "finished").sum())
    found = getattr(m40.summary, name)
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.max == values.max()
    for level in (50, 90, 99):
        assert getattr(found, f"p{level}") == pytest.approx(np.percentile(values, level), rel=1e-12)


def test_a_column_is_read_alike_in_one_piece_and_in_many(m40: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {name: latency(m40, name) for name in ("ttft_s", "tpot_s")}
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 7)
    for name, values in whole.items():
        assert 14 < len(values) < len(m40.requests)
        np.testing.assert_array_equal(latency(m40, name), values)


def test_inter_token_latency_is_weighted_by_tokens(m40: Run) -> None:
    frame = m40.frame("itl").sort_values("itl_s")
    found = m40.summary.itl_s
    assert found.mean == pytest.approx(np.average(frame["itl_s"], weights=frame["tokens"]), rel=1e-12)
    below = frame["tokens"][frame["itl_s"] <= found.p90].sum() / frame["tokens"].sum()
    before = frame["tokens"][frame["itl_s"] < found.p90].sum() / frame["tokens"].sum()
    assert before < 0.9 <= below
    assert found.max == frame["itl_s"].max()


def test_the_slo_needs_every_threshold_and_forgives_what_is_not_there(m40: Run) -> None:
    frame = m40.requests
    finished = frame[frame["status"] == "finished"]
    assert finished["tpot_s"].isna().any() or (finished["output_tokens"] > 1).all()
    met = (finished["ttft_s"] <= 2.0) & ((finished["tpot_s"] <= 0.2) | finished["tpot_s"].isna())
    assert m40.summary.requests.slo_met == int(met.sum())
    done = served(m40, m40.manifest.slo())
    assert done.requests == len(finished)
    assert done.output_tokens == int(finished["output_tokens"].sum())
    assert done.slo_met_tokens == int(finished.loc[met, "output_tokens"].sum())


def test_throughput_is_finished_work_over_the_run(m40: Run) -> None:
    timeline, frame = m40.timeline, m40.requests
    length_s = float((timeline["start_s"] + timeline["interval_s"]).max())
    assert m40.summary.duration_s == pytest.approx(length_s)
    finished = frame[frame["status"] == "finished"]
    assert m40.summary.throughput.requests_per_s == pytest.approx(len(finished) / length_s)
    assert m40.summary.throughput.output_tokens_per_s == pytest.approx(finished["output_tokens"].sum() / length_s)


def test_bytes_are_those_of_the_timeline(fleet: list[Run]) -> None:
    for run in fleet:
        assert run.summary.bytes_moved.hbm == pytest.approx(run.timeline["hbm_bytes"].sum())
        assert run.summary.bytes_moved.ssd_to_dram is None


def test_without_an_slo_nothing_is_met_or_missed(tmp_path: Path, synthetic: ModuleType) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.Toy(requests=60, slo=None))
    assert run.summary.requests.slo_met is None
    assert run.summary.sci.per_slo_met_token_gco2e.p50 is None


def test_the_mean_of_nothing_is_unknown(empty: Run) -> None:
    summary = empty.summary
    assert summary.requests.finished == 0
    assert summary.rejected_by == {"never_fits": 5}
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "longest_stall_s"):
        assert set(getattr(summary, name).model_dump().values()) == {None}
    assert summary.energy_j.total is None
    assert summary.throughput.output_tokens_per_s == 0.0


@given(
    st.lists(st.tuples(st.floats(1e-6, 1e3), st.integers(0, 5)), min_size=1, max_size=40).filter(
        lambda pairs: sum(weight for _, weight in pairs) > 0
    )
)
def test_a_histogram_is_described_like_the_sample_it_counts(pairs: list[tuple[float, int]]) -> None:
    values, weights = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    sample = np.repeat(values, weights.astype(int))
    found = weighted_stats(values, weights)
    assert found["mean"] == pytest.approx(sample.mean())
    assert found["max"] == sample.max()
    for name, level in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert found[name] == np.quantile(sample, level, method="inverted_cdf")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_quantiles_are_ordered_and_within_the_sample(values: list[float]) -> None:
    found = stats(np.array(values))
    assert min(values) <= found["p50"] <= found["p90"] <= found["p99"] <= found["max"] == max(values)


def test_a_rejected_request_needs_a_reason(tmp_path: Path, synthetic: ModuleType) -> None:
    toy = synthetic.Toy(requests=80)
    requests: dict[str, Any] = synthetic.requests_of(toy)
    requests["reject_reason"] = [None] * toy.requests
    with pytest.raises(ReportError, match="1 requests are rejected but 0 have a reason"):
        synthetic.write_run(tmp_path / "run", toy, requests=requests)


def test_blocks_may_not_contradict_the_files(m40: Run) -> None:
    with pytest.raises(ReportError, match="'requests' is computed from the run's files"):
        assemble_summary(m40, {"requests": {}})


def test_what_is_left_out_is_unknown(m40: Run) -> None:
    made = assemble_summary(m40, {"model": "llama-2-7b", "hardware": "m40"}, summarise(m40))
    assert made["cost_usd"]["total"] is None
    assert made["carbon_gco2e"]["total"] == {"p5": None, "p50": None, "p95": None}
    assert made["quality"] == {"perplexity": None, "source": "not measured"}
    assert made["requests"] == m40.summary.requests.model_dump()


@pytest.mark.slow
def test_five_million_requests_are_summarised_in_half_a_gigabyte(tmp_path: Path, synthetic: ModuleType) -> None:
    rows, batch = 5_000_000, 100_000
    with RunWriter(tmp_path / "big") as writer:
        writer.write_manifest(synthetic.manifest_of(synthetic.M40))
        for first in range(0, rows, batch):
            ids = np.arange(first, first + batch)
            latency = (ids % 997 + 1) / 100
            columns = dict.fromkeys(("ttft_s", "tpot_s", "e2e_s", "longest_stall_s"), latency)
            zero = np.zeros(batch, np.int32)
            writer.write("requests", columns | {
                "request_id": ids, "arrival_s": ids / 10, "prompt_tokens": zero + 5, "output_tokens": zero + 7,
                "status": np.full(batch, "finished", object), "cached_tokens": zero, "preemptions": zero,
                "in_stats": zero == 0,
            })  # fmt: skip
        run = writer.run()
        program = f"""
            from afterwatt.reports.rundir import Run
            from pathlib import Path
            from afterwatt.reports.summary import summarise
            made = summarise(Run(Path({str(run.path)!r})))
            # Not getrusage: what that says outlives exec, and so holds the size of the process that runs the tests.
            peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
            print(made["requests"]["finished"], made["ttft_s"]["max"], peak.split()[1])
        """
        found = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        finished, longest, peak_kib = found.stdout.split()
        assert (int(finished), float(longest)) == (rows, 9.97)
        assert int(peak_kib) < 500 * 1024
        writer.write_summary(assemble_summary(run, {"model": "m", "hardware": "h"}))

"""Replays: what is compared and how, on runs whose answer is known, and the real one where its data is at hand."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.fidelity.serving.replay import (
    METRICS,
    STATS,
    Distribution,
    Replay,
    config_of,
    demerit,
    replay,
    statistic,
)
from afterwatt.fidelity.serving.replay_score import (
    TARGET,
    cdf_plot,
    errors_table,
    prompts_of,
    section,
    sensitivity_table,
)
from afterwatt.fidelity.serving.run import ReplayError, block_hashes, read_run
from afterwatt.sim.body import Body
from afterwatt.sim.run import memory_of

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared"
REAL = SHARED / "kernels/llmservingsim/vllm_runs/RTX4090/Llama-3.1-8B"
META = {
    "hw": "m40",
    "model": "llama-2-7b",
    "precision": "fp16",
    "policy": "chunked+kv=300+budget=256",
    "stack": "generic",
}
FIELDS = ("prompt_tokens", "output_tokens", "arrival_s", "first_token_s", "finish_s")
times = st.lists(st.floats(0.0, 1e3), min_size=1, max_size=30).map(np.array)


def write(
    folder: Path, rows: list[dict[str, object]], meta: dict[str, object] | None = None, kind: str = "jsonl"
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "meta.json").write_text(json.dumps(META if meta is None else meta))
    path = folder / f"requests.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def row(prompt: int, output: int, arrival: float, first: float | None, finish: float | None) -> dict[str, object]:
    return dict(zip(FIELDS, (prompt, output, arrival, first, finish), strict=True))


def lengths(count: int, seed: int = 1) -> list[dict[str, object]]:
    """Requests that an M40 with 300 KV blocks cannot serve all at once."""
    draw = np.random.default_rng(seed)
    arrivals = np.cumsum(draw.exponential(0.7, count))
    return [
        row(int(draw.integers(20, 900)), int(draw.integers(1, 200)), float(arrival), None, None) for arrival in arrivals
    ]


def served(folder: Path, rows: list[dict[str, object]], **meta: object) -> list[dict[str, object]]:
    """Fill in the times that our own simulator gives the requests."""
    run = read_run(write(folder, rows, META | meta))
    config = config_of(run)
    columns: list = []
    Body(config, memory_of(config), config.workload, None, columns.append).run()
    (found,) = columns
    return [{name: np.asarray(found[name])[number].item() for name in FIELDS} for number in range(len(rows))]


# -- figures -----------------------------------------------------------------------------------------------------------


def test_the_demerit_figure_of_a_shift_is_the_shift():
    """Every quantile lies as far away as every other."""
    values = np.array([3.0, 1.0, 10.0, 4.0])
    assert demerit(values, values) == 0.0
    assert demerit(values, values + 2.5) == pytest.approx(2.5)
    assert demerit(values + 2.5, values) == pytest.approx(2.5)


def test_the_demerit_figure_of_a_scaling_is_the_root_mean_square():
    values = np.array([1.0, 2.0, 3.0])
    assert demerit(values, 3.0 * values) == pytest.approx(2.0 * np.sqrt(14.0 / 3.0))


@given(times, times)
def test_the_demerit_figure_is_a_distance_of_distributions(first, second):
    found = demerit(first, second)
    assert found == pytest.approx(demerit(second, first))
    assert found >= abs(first.mean() - second.mean()) * (1.0 - 1e-9) - 1e-9  # Jensen
    assert demerit(first, np.repeat(first, 3)) == pytest.approx(0.0, abs=1e-9)  # of the shares, not of the counts
    if len(first) == len(second):
        assert found == pytest.approx(np.sqrt(np.mean((np.sort(first) - np.sort(second)) ** 2)))


def test_the_demerit_figure_needs_values():
    with pytest.raises(ValueError, match="needs values on both sides"):
        demerit(np.array([]), np.array([1.0]))


def test_errors_are_of_the_statistics_and_signed():
    each = Distribution("ttft", np.array([1.0, 2.0, 6.0]), np.array([3.0, 1.0, 2.0]))
    assert [each.values(stat) for stat in ("mean", "p50")] == [(3.0, 2.0), (2.0, 2.0)]
    assert [each.error_frac(stat) for stat in ("mean", "p50")] == pytest.approx([-1.0 / 3.0, 0.0])
    assert statistic(np.arange(101.0), "p90") == pytest.approx(90.0)
    assert each.median_request_error_frac == pytest.approx(2.0 / 3.0)


# -- what a run says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_times_are_counted_from_the_arrival_and_sorted_by_it(tmp_path, kind):
    rows = [row(10, 5, 103.0, 104.5, 106.5), row(20, 1, 101.0, 101.25, 101.25), row(30, 3, 102.0, None, None)]
    run = read_run(write(tmp_path, rows, kind=kind))
    batch = run.trace.head(9)
    assert batch.arrival_s.tolist() == [0.0, 1.0, 2.0]
    assert batch.prompt_tokens.tolist() == [20, 30, 10]
    np.testing.assert_allclose(run.ttft_s, [0.25, np.nan, 1.5])
    np.testing.assert_allclose(run.tpot_s, [np.nan, np.nan, 0.5])  # one token has no time after the first
    assert [batch.arrival_s.tolist() for batch in run.trace.batches(2)] == [[0.0, 1.0], [2.0]]


def vllm_meta(**changes: object) -> dict[str, object]:
    return {
        "engine_kwargs": {
            "model": "meta-llama/Llama-3.1-8B",
            "tensor_parallel_size": 1,
            "max_num_seqs": 64,
            "max_num_batched_tokens": 512,
            "dtype": "bfloat16",
        },
        "kv_cache": {"num_gpu_blocks": 1000, "block_size": 32, "enable_prefix_caching": False},
        "hardware": {"device_name": "NVIDIA GeForce RTX 4090"},
        "resolved_config": {"scheduler_config": {"enable_chunked_prefill": True}},
    } | changes


def test_a_vllm_engine_s_own_words_are_translated(tmp_path):
    """Its clock of arrivals is not that of its tokens; one of its blocks is the null block."""
    rows = [
        {
            "input_toks": 10,
            "output_toks": 3,
            "arrival_time": 1.7e9,
            "queued_ts": 7.0,
            "first_token_ts": 8.0,
            "last_token_ts": 9.0,
        }
    ]
    run = read_run(write(tmp_path, rows, vllm_meta()))
    assert (run.hw, run.model.name, run.precision.name, run.stack) == ("rtx4090", "llama-3.1-8b", "bf16", "vllm")
    assert run.policies.name == "chunked+no-prefix+budget=512+seqs=64+block=32+kv=999+watermark=0"
    assert (run.ttft_s.tolist(), run.tpot_s.tolist()) == ([1.0], [0.5])
    kwargs = vllm_meta()["engine_kwargs"] | {"tensor_parallel_size": 2, "data_parallel_size": 2}
    assert read_run(write(tmp_path, rows, vllm_meta(engine_kwargs=kwargs))).hw == "4xrtx4090:tp2"
    older = {name: value for name, value in vllm_meta().items() if name == "engine_kwargs"} | {"hw": "l40s"}
    run = read_run(write(tmp_path, rows, older))  # recorded before vLLM's bench noted cards and blocks
    assert (run.hw, run.policies.kv_blocks) == ("l40s", None)


def test_equal_beginnings_have_equal_hashes_and_nothing_else_has():
    one, other = block_hashes([1, 2, 3, 4, 5, 6, 7], 2), block_hashes([1, 2, 3, 9, 5, 6], 2)
    assert len(one) == len(other) == 3
    assert one[0] == other[0]
    assert not {*one[1:]} & {*other}  # the third blocks hold the same tokens behind another beginning
    assert block_hashes([1], 2) == ()


def test_prompts_that_are_alike_are_computed_once(tmp_path):
    rows = [row(64, 2, 0.0, 1.0, 2.0), row(64, 2, 50.0, 51.0, 52.0)]
    alone = replay(read_run(write(tmp_path, rows)))
    ids = [list(range(64)), [*range(48), *range(900, 916)]]
    rows = [each | {"input_tok_ids": tokens} for each, tokens in zip(rows, ids, strict=True)]
    shared = replay(read_run(write(tmp_path, rows)))
    assert (alone.cached_tokens, shared.cached_tokens) == (0, 48)
    (tmp_path / "ids.jsonl").write_text("".join(json.dumps({"input_tok_ids": tokens}) + "\n" for tokens in ids))
    assert read_run(tmp_path, tmp_path / "ids.jsonl").trace.head(2).prefixes == shared.run.trace.head(2).prefixes


GOOD = row(10, 5, 1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("rows", "meta", "sentence"),
    [
        ([GOOD | {"arrival_s": None}], META, "request 1: it has no arrival"),
        ([GOOD, GOOD | {"first_token_s": 0.5}], META, "request 2: its first token came before it arrived"),
        ([GOOD | {"finish_s": 1.5}], META, "request 1: its last token came before its first"),
        ([GOOD | {"output_tokens": 0}], META, "request 1: output_tokens must be at least 1"),
        ([GOOD | {"prompt_tokens": "many"}], META, "request 1: prompt_tokens = 'many' is no number"),
        ([GOOD | {"arrival_s": 1.7e9}], META, "so of two clocks"),
        ([{"prompt_tokens": 3}], META, "has no column output_tokens; it may also be called output_toks or"),
        ([GOOD], {"hw": "m40"}, "does not say model nor precision"),
        ([GOOD], META | {"policy": "chunky"}, "unknown policy 'chunky'"),
        ([GOOD], META | {"model": "llama-9"}, "unknown model 'llama-9'"),
        ([GOOD], vllm_meta(hardware={"device_name": "Voodoo 2"}), "no card of the catalogue"),
        ([GOOD], vllm_meta(hardware={}), "does not say which card it ran on; add"),
        ([GOOD | {"input_tok_ids": [1, 2]}], META, "token ids are not as many as the requests say"),
    ],
)
def test_a_fault_is_one_sentence_that_says_where(tmp_path, rows, meta, sentence):
    with pytest.raises(ReplayError) as caught:
        read_run(write(tmp_path, rows, meta))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ReplayError, match=r"holds neither requests\.jsonl nor requests\.csv"):
        read_run(tmp_path)
    (tmp_path / "requests.csv").write_text("prompt_tokens\n1\n")
    with pytest.raises(ReplayError, match=r"meta\.json is not there; write one beside"):
        read_run(tmp_path)


# -- replays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["chunked+kv=300+budget=256", "prefill-first+kv=200+no-prefix+watermark=0"])
def test_what_our_own_simulator_has_served_is_replayed_without_error(tmp_path, policy):
    rows = served(tmp_path / "first", lengths(40), policy=policy)
    found = replay(read_run(write(tmp_path / "again", rows, META | {"policy": policy}, "csv")))
    assert found.preemptions > 0
    for each in found.distributions:
        np.testing.assert_allclose(each.predicted, each.measured, rtol=1e-9)
        assert each.demerit_frac < 1e-9
    assert found.worst_error_frac < 1e-9


def test_a_slower_engine_shows_as_that(tmp_path):
    """One request at a time: nothing but the iterations' time counts."""
    rows = [each | {"arrival_s": 1000.0 * number} for number, each in enumerate(lengths(5))]
    run = read_run(write(tmp_path / "again", served(tmp_path / "first", rows)))
    for factor in (0.9, 1.2):
        for each in replay(run, slowness=factor).distributions:
            np.testing.assert_allclose(each.predicted, factor * each.measured, rtol=1e-6)


def test_fewer_blocks_mean_longer_waits(tmp_path):
    run = read_run(write(tmp_path / "again", served(tmp_path / "first", lengths(40))))
    exact, fewer = replay(run), replay(run, memory=0.6)
    assert fewer.run.policies == exact.run.policies
    assert fewer.ttft.values("mean")[1] > exact.ttft.values("mean")[1]


def test_a_request_that_was_served_but_is_refused_is_an_error(tmp_path):
    folder = write(tmp_path, [row(5000, 5, 1.0, 2.0, 3.0)])
    with pytest.raises(ReplayError, match="request 1 was served, but the simulator refuses it"):
        replay(read_run(folder))


# -- the real one ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Replay:
    if not REAL.exists():
        pytest.skip("needs ../shared: the measured run is not part of this repository")
    return replay(read_run(REAL, prompts_of(REAL, SHARED / "traces/sharegpt_llmservingsim")))


def test_the_real_run_reads_as_its_source_says(real):
    """The measured figures of its summary.txt, in milliseconds to a decimal."""
    said = {}
    for line in (REAL / "summary.txt").read_text().splitlines():
        words = line.split()
        if words and words[0] in ("TTFT", "TPOT"):
            said[words[0].lower(), {"Mean": "mean", "Median": "p50"}.get(words[1], words[1].lower())] = float(words[2])
    for each in real.distributions:
        for stat in STATS:
            assert 1e3 * each.values(stat)[0] == pytest.approx(said[each.metric, stat], abs=0.06)


def test_the_real_run_s_set_up_is_the_engine_s(real):
    assert real.run.hw == "rtx4090"
    assert real.run.policies.name == "chunked+kv=2587+watermark=0"
    assert real.preemptions > 100
    assert real.cached_tokens > 4000


@pytest.mark.parametrize("metric", METRICS)
def test_the_real_run_is_within_the_bound(real, metric):
    each = getattr(real, metric)
    errors = {stat: each.error_frac(stat) for stat in STATS}
    assert max(map(abs, errors.values())) <= TARGET, errors
    assert each.demerit_frac <= TARGET


def test_the_page_s_section_is_made_of_the_replay(real):
    found = section(SHARED)
    assert found is not None
    assert errors_table(real) in found.text
    assert sensitivity_table(real.run, real.stack) in found.text
    assert len(found.claims) == 4  # told how many KV blocks there were, and not told
    assert all(claim.met for claim in found.claims)
    ((name, picture),) = found.images
    assert f"images/{name}" in found.text
    assert picture == cdf_plot(real)
    assert max(map(len, found.text.splitlines())) < 200


def test_there_is_no_section_without_runs(tmp_path):
    assert section(tmp_path) is None


def test_a_run_is_replayed_from_the_command_line(tmp_path):
    folder = write(tmp_path / "again", served(tmp_path / "first", lengths(10)))
    script = [sys.executable, str(ROOT / "benchmarks/fidelity.py"), "--replay"]
    done = subprocess.run([*script, str(folder)], capture_output=True, text=True, check=True)
    assert "TTFT mean" in done.stdout
    assert "+0.0 %" in done.stdout
    failed = subprocess.run([*script, str(tmp_path / "none")], capture_output=True, text=True)
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr


def test_more_blocks_than_the_card_holds_are_a_remark_in_the_table(tmp_path):
    rows = served(tmp_path / "first", lengths(5))
    memory = memory_of(config_of(read_run(tmp_path / "first")))
    blocks = int((memory.capacity_bytes - memory.weights_bytes) // memory.block_bytes)
    run = read_run(write(tmp_path / "again", rows, META | {"policy": f"chunked+budget=256+kv={blocks}"}))
    table = sensitivity_table(run, replay(run).stack)
    assert table.count("more than the card holds") == 1
    assert table.splitlines()[2].count("+0.0 %") == len(METRICS) * len(STATS)

"""Requests drawn from rate and length tables keep the rates, the burstiness and the lengths of the tables."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afterwatt.traces import TraceError, describe, open_trace

SHARED = Path(__file__).parents[2] / "../shared/traces/servegen"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="ServeGen's tables do not lie in ../shared/traces")

RATES = [
    # client, window_start_s, rate, cv, pattern, arg1, arg2
    (0, 0, 2.0, 1.0, "Gamma", 1.0, 0.5),
    (0, 600, 4.0, 1.0, "Gamma", 1.0, 0.25),
    (1, 0, 0.0, 0.0, None, 0.0, 0.0),
    (1, 600, 1.0, 3.0, "Weibull", 0.5, 0.5),
]
LENGTHS = [
    (client, 0, field, tokens, prob)
    for client in (0, 1)
    for field, tokens, prob in (("input_tokens", 10, 0.25), ("input_tokens", 20, 0.75), ("output_tokens", 5, 1.0))
]
RATE_COLUMNS = ["client", "window_start_s", "rate", "cv", "pattern", "arg1", "arg2"]
LENGTH_COLUMNS = ["client", "window_start_s", "field", "bin", "prob"]


def tables(folder, rates=RATES, lengths=LENGTHS):
    pd.DataFrame(rates, columns=RATE_COLUMNS).to_parquet(folder / "tiny_trace.parquet")
    pd.DataFrame(lengths, columns=LENGTH_COLUMNS).to_parquet(folder / "tiny_dataset.parquet")
    return folder / "tiny_trace.parquet"


def originals(folder):
    """The same tables in ServeGen's own form: a header-less CSV and a JSON of Python dicts in text, per client."""
    for client in (0, 1):
        rows = [row[1:] for row in RATES if row[0] == client]
        text = "\n".join(",".join("" if cell is None else str(cell) for cell in row) for row in rows)
        (folder / f"chunk-{client}-trace.csv").write_text(text + "\n")
        fields = {"input_tokens": "{10: 0.25, 20: 0.75}", "output_tokens": "{5: 1.0}"}
        (folder / f"chunk-{client}-dataset.json").write_text(json.dumps({"0": fields}))
    return folder


def test_rates_and_lengths_are_kept(tmp_path):
    trace = open_trace(tables(tmp_path), seed=4)
    whole = trace.head(10**6)
    expected = 600 * 2 + 600 * 4 + 600 * 1
    assert len(whole) == pytest.approx(expected, abs=4 * np.sqrt(expected * 2))
    assert whole.arrival_s[0] == 0.0
    assert (np.diff(whole.arrival_s) >= 0).all()
    assert whole.arrival_s[-1] <= 1200
    assert set(whole.output_tokens.tolist()) == {5}
    assert (whole.prompt_tokens == 20).mean() == pytest.approx(0.75, abs=0.03)
    assert trace.info.rows is None


def test_the_original_form_gives_the_very_same_trace(tmp_path):
    (tmp_path / "original").mkdir()
    left = open_trace(tables(tmp_path), seed=4).head(10**6)
    right = open_trace(originals(tmp_path / "original"), seed=4).head(10**6)
    np.testing.assert_array_equal(left.arrival_s, right.arrival_s)
    np.testing.assert_array_equal(left.prompt_tokens, right.prompt_tokens)


def test_one_client_alone_in_the_original_form(tmp_path):
    trace = open_trace(originals(tmp_path) / "chunk-1-trace.csv")
    assert len(trace.head(10**6)) == pytest.approx(600, abs=200)


def test_batch_sizes_do_not_matter(tmp_path):
    trace = open_trace(tables(tmp_path))
    whole = trace.head(10**6)
    pieces = np.concatenate([batch.arrival_s for batch in trace.batches(7)])
    np.testing.assert_array_equal(pieces, whole.arrival_s)


def test_a_span_and_a_rate_can_be_chosen(tmp_path):
    trace = open_trace(f"{tables(tmp_path)}?start=600&duration=300&rate=20&seed=1")
    whole = trace.head(10**6)
    assert len(whole) == pytest.approx(6000, abs=600)
    assert whole.arrival_s[-1] <= 300
    assert any("all rates scaled by 4" in note for note in trace.info.notes)


def test_bursty_clients_are_neither_faster_nor_slower_on_average(tmp_path):
    """An ordinary renewal process started at each window would overshoot by (cv^2 - 1)/2 requests a window."""
    windows = 1000
    rates = [(0, 600 * k, 0.1, 4.0, "Gamma", 1 / 16, 0.0) for k in range(windows)]
    counts = [len(open_trace(tables(tmp_path, rates), seed=seed).head(10**6)) for seed in range(4)]
    expected = windows * 60
    assert np.mean(counts) == pytest.approx(expected, abs=4 * 4 * np.sqrt(expected / 4))


def test_requests_without_tokens_are_left_out_and_told(tmp_path):
    lengths = [*LENGTHS[:2], (0, 0, "output_tokens", 0, 0.5), (0, 0, "output_tokens", 5, 0.5), *LENGTHS[3:]]
    trace = open_trace(tables(tmp_path, lengths=lengths))
    assert set(trace.head(10**6).output_tokens.tolist()) == {5}
    assert any("bins of 0 tokens" in note for note in trace.info.notes)


def test_clients_without_lengths_are_left_out_and_told(tmp_path):
    trace = open_trace(tables(tmp_path, lengths=LENGTHS[:3]))
    assert "1 of 2 clients, with 14.3% of the rate, have no length tables and are left out" in trace.info.notes


def test_images_add_to_the_prompt(tmp_path):
    fields = [
        ("text_tokens", 100, 1.0),
        ("output_tokens", 5, 1.0),
        ("image_count", 2, 1.0),
        ("image_tokens", 1000, 1.0),
    ]
    lengths = [(client, 0, *field) for client in (0, 1) for field in fields]
    assert set(open_trace(tables(tmp_path, lengths=lengths)).head(99).prompt_tokens.tolist()) == {2100}


@pytest.mark.parametrize(
    ("rates", "lengths", "words"),
    [
        ([(0, 0, 2.0, 1.0, "Pareto", 1.0, 0.5)], LENGTHS, "neither Gamma nor Weibull"),
        ([(0, 0, -2.0, 1.0, "Gamma", 1.0, 0.5)], LENGTHS, "-2.0 is no rate"),
        ([(0, 0, float("inf"), 1.0, "Gamma", 1.0, 0.5)], LENGTHS, "inf is not a finite number"),
        ([(0, 0, 2.0, 1.0, "Gamma", 0.0, 0.5)], LENGTHS, "no usable shape"),
        ([(0, 0, 2.0, 1.0, "Weibull", 0.01, 0.5)], LENGTHS, "0.01 is no usable shape of Weibull gaps"),
        ([(0, 30, 2.0, 1.0, "Gamma", 1.0, 0.5)], LENGTHS, "not the start of a window"),
        ([RATES[0], RATES[0]], LENGTHS, "two rows for the window at 0 s"),
        ([(0, 0, 0.0, 0.0, None, 0.0, 0.0)], LENGTHS, "no window of any client has traffic"),
        (RATES, [(0, 0, "input_tokens", 10, 0.5), *LENGTHS[2:]], "add up to 0.5"),
        (RATES, [(0, 0, "input_tokens", 10, 1.5), *LENGTHS[2:]], "1.5 is no probability"),
        (RATES, [(0, 0, "input_tokens", -10, 1.0), *LENGTHS[2:]], "is below 0"),
        (RATES, LENGTHS[:2], "a table of output_tokens is missing"),
        (RATES, [(7, *row[1:]) for row in LENGTHS[:3]], "no client with traffic has length tables"),
        (RATES, [(row[0], 600, *row[2:]) for row in LENGTHS], "before its first length table"),
    ],
)
def test_faulty_tables_are_refused(tmp_path, rates, lengths, words):
    with pytest.raises(TraceError) as caught:
        open_trace(tables(tmp_path, rates, lengths))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{10: 0.25, 20:",
        "[1, 2]",
        "{'a': 1.0}",
        "{10: 'x'}",
        "{10.5: 1.0}",
        "__import__('os').getcwd()",
        "{}",
        "{-1: 1.0}",
        7,
    ],
)
def test_length_tables_are_read_as_literals_only(tmp_path, text):
    originals(tmp_path)
    fields = {"input_tokens": text, "output_tokens": "{5: 1.0}"}
    (tmp_path / "chunk-0-dataset.json").write_text(json.dumps({"0": fields}))
    with pytest.raises(TraceError, match="table"):
        open_trace(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": {}}', '{"0": 3}'])
def test_other_json_is_refused(tmp_path, content):
    originals(tmp_path)
    (tmp_path / "chunk-0-dataset.json").write_text(content)
    with pytest.raises(TraceError, match="ServeGen's JSON"):
        open_trace(tmp_path)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("cv=2", "the tables fix cv"),
        ("unit=ms", "the tables fix unit"),
        ("start=5000", "the table ends at 1200"),
        ("duration=0.0001&rate=0.01", "no request was drawn"),
    ],
)
def test_wishes_the_tables_cannot_honour_are_refused(tmp_path, query, words):
    with pytest.raises(TraceError, match=words):
        open_trace(f"{tables(tmp_path)}?{query}")


def test_missing_length_tables_are_asked_for(tmp_path):
    path = tables(tmp_path)
    (tmp_path / "tiny_dataset.parquet").rename(tmp_path / "elsewhere.parquet")
    with pytest.raises(TraceError, match="lengths=FILE"):
        open_trace(path)
    assert open_trace(path, lengths=str(tmp_path / "elsewhere.parquet")).head(1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_damaged_tables_are_a_trace_or_a_trace_error(tmp_path, data):
    originals(tmp_path)
    for name in ("chunk-0-trace.csv", "chunk-1-dataset.json"):
        content = bytearray((tmp_path / name).read_bytes())
        for _ in range(data.draw(st.integers(0, 2))):
            at = data.draw(st.integers(0, len(content)))
            alphabet = st.sampled_from(list(b'0123456789.,-:{}"eE \nNa\x00'))
            content[at : at + data.draw(st.integers(0, 4))] = bytes(data.draw(st.lists(alphabet, max_size=4)))
        (tmp_path / name).write_bytes(bytes(content))
    with contextlib.suppress(TraceError):
        open_trace(tmp_path, requests=200, duration_s=60).head(200)


@needs_shared
def test_a_day_of_deepseek_r1_has_the_published_rate_and_lengths():
    said = describe(open_trace(SHARED / "deepseek-r1_trace.parquet", seed=1))
    assert said["rate_per_s"] == pytest.approx(16.0, rel=0.02)
    found = [said["prompt_tokens"][key] for key in ("p50", "p90", "mean")]
    assert found == pytest.approx([208, 2092, 1268], rel=0.02)
    found = [said["output_tokens"][key] for key in ("p50", "p90", "p99", "mean")]
    assert found == pytest.approx([792, 3432, 12607, 1527], rel=0.02)


@needs_shared
def test_the_clients_missing_from_m_small_are_told():
    notes = open_trace(SHARED / "m-small_trace.parquet", duration_s=600).info.notes
    assert "5 of 43 clients, with 56.8% of the rate, have no length tables and are left out" in notes


@needs_shared
def test_the_original_sample_needs_its_length_tables(tmp_path):
    sample = tmp_path / "chunk-1-trace.csv"
    shutil.copy(SHARED / "sample_deepseek-r1_chunk-1-trace.csv", sample)
    with pytest.raises(TraceError, match="no length tables lie beside it"):
        open_trace(sample)
    trace = open_trace(sample, lengths=str(SHARED / "deepseek-r1_dataset.parquet"), requests=100)
    assert len(trace.head(1000)) == 100


def test_a_window_of_many_requests_is_drawn_in_parts_of_the_same_rate(tmp_path, monkeypatch):
    monkeypatch.setattr("afterwatt.traces.ratetable._MOST_EXPECTED", 500)
    trace = open_trace(tables(tmp_path, [(0, 0, 50.0, 1.0, "Gamma", 1.0, 0.5)]))
    parts = [part for part in trace._windows() if len(part[0])]
    sent = sum(len(times) for times, *_ in parts)
    assert len(parts) == 60
    assert sent == pytest.approx(50 * 600, abs=4 * (50 * 600) ** 0.5)  # of a Poisson process
    assert max(len(times) for times, *_ in parts) < 700
    assert (np.diff(np.concatenate([times for times, *_ in parts])) >= 0).all()


def test_of_a_rate_table_so_many_requests_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("afterwatt.traces.stats._MOST_DRAWN", 100)
    found = describe(open_trace(tables(tmp_path)))
    assert found["rows"] == 100
    assert "measured on the first 100 requests; n= says how many" in found["notes"]

"""Addresses, options, and things that are not files."""

import os
import subprocess
import sys

import numpy as np
import pytest

from afterwatt.traces import TraceError, open_trace, preset_names, sample_path

OWN = "arrival_s,prompt_tokens,output_tokens\n0,10,1\n1,20,2\n3,30,3\n4,40,4\n"


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(OWN)
    return path


def refused(address, **wishes):
    with pytest.raises(TraceError) as caught:
        open_trace(address, **wishes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_suggests_its_neighbour(trace_file):
    assert "did you mean 'mine.csv'" in refused(trace_file.with_name("mine.cvs"))


def test_a_folder_is_refused(tmp_path):
    assert "directory" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8b\x08\x00abc", "gunzip"),
        (b"PK\x03\x04abc", "unzip"),
        (b"\x00\x01\x02\x03" * 50, "neither Parquet nor text"),
        (bytes(range(128, 256)), "neither Parquet nor UTF-8"),
        (b"PAR1", "damaged"),
        (b"PAR1" + b"\x00" * 100 + b"PAR1", "damaged"),
        (b"arrival_s,prompt_tokens,output_tokens", "no request"),
        (b"arrival_s,prompt_tokens,output_tokens\n", "no request"),
        (b"{}", "no trace format known here"),
        (b"[]", "no request"),
        (b"[", "broken"),
        (b"{", "not JSON"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path, content, words):
    path = tmp_path / "other"
    path.write_bytes(content)
    assert words in refused(path, **({"rate_per_s": 1} if content == b"[]" else {}))


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused(tmp_path / "pipe")


def test_an_unreadable_name_is_refused():
    assert "no such file" in refused("a\0b")
    assert "empty" in refused("")


def test_content_decides_not_the_name(tmp_path):
    path = tmp_path / "trace.parquet"
    path.write_text(OWN)
    assert open_trace(path).info.format == "afterwatt"


def test_options_stand_behind_a_question_mark_or_in_the_call(trace_file):
    in_call = open_trace(trace_file, rate_per_s=2.0, requests=3)
    in_address = open_trace(f"{trace_file}?rate=2&n=3")
    assert in_call.info == in_address.info
    assert in_call.info.rows == 3
    np.testing.assert_allclose(in_call.head(9).arrival_s, np.array([0, 1, 3]) / 2)


def test_a_file_whose_name_has_a_question_mark_is_itself(tmp_path):
    path = tmp_path / "a?n=1"
    path.write_text(OWN)
    assert open_trace(path).info.rows == 4


def test_the_rate_stretches_the_clock_and_says_so(trace_file):
    info = open_trace(trace_file, rate_per_s=10.0).info
    assert info.rows / info.span_s == pytest.approx(10.0)
    assert any("becomes 10" in note for note in info.notes)


def test_a_duration_keeps_the_requests_that_arrive_within_it(trace_file):
    trace = open_trace(trace_file, duration_s=3.0)
    assert trace.head(9).arrival_s.tolist() == [0.0, 1.0, 3.0]
    assert (trace.info.rows, trace.info.span_s) == (3, 3.0)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"rate_per_s": 0.0}, "rate = 0.0 is not a positive"),
        ({"rate_per_s": float("nan")}, "is not a positive"),
        ({"requests": 0}, "is below 1"),
        ({"duration_s": -1.0}, "not a positive number of seconds"),
        ({"seed": -1}, "is negative"),
        ({"unit": "min"}, "is not one of s, ms, us, ns"),
        ({"cv": 2.0}, "arrival times of its own"),
        ({"format": "azur-2023"}, "did you mean 'azure-2023'"),
        ({"format": "mooncake"}, "lacks 'timestamp'"),
        ({"ratte": 3}, "unknown option 'ratte'"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(trace_file, wishes, words):
    assert words in refused(trace_file, **wishes)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("ratte=3", "unknown option 'ratte' (did you mean 'rate'?)"),
        ("rate=fast", "rate = 'fast' is not a number"),
        ("n=2.5", "n = '2.5' is not a whole number"),
        ("sort=maybe", "is not yes or no"),
        ("rate=1&rate=2", "gives a name twice"),
        ("rate", "is not a list like"),
    ],
)
def test_malformed_queries_are_refused(trace_file, query, words):
    assert words in refused(f"{trace_file}?{query}")


def test_arrivals_at_one_instant_cannot_be_given_a_rate(tmp_path):
    path = tmp_path / "batch.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n5,10,1\n5,20,2\n")
    assert open_trace(path).info.span_s == 0.0
    assert "one instant" in refused(path, rate_per_s=1.0)


def test_a_batch_size_below_one_is_refused(trace_file):
    with pytest.raises(TraceError, match="below 1 row"):
        open_trace(trace_file).batches(0)


def test_batches_are_of_the_size_asked_and_hold_the_same_rows(trace_file):
    trace = open_trace(trace_file)
    for size in range(1, 6):
        batches = list(trace.batches(size))
        assert [len(batch) for batch in batches] == [size] * (4 // size) + ([4 % size] if 4 % size else [])
        assert np.concatenate([batch.prompt_tokens for batch in batches]).tolist() == [10, 20, 30, 40]


def test_a_file_that_changes_after_opening_is_still_checked(trace_file):
    trace = open_trace(trace_file)
    trace_file.write_text(OWN.replace("20", "-20"))
    with pytest.raises(TraceError, match="row 2"):
        list(trace.batches())
    trace_file.unlink()
    with pytest.raises(TraceError):
        list(trace.batches())


def test_the_rows_of_a_short_file_are_read_once(trace_file, monkeypatch):
    trace = open_trace(trace_file)
    first = trace.head(10)
    monkeypatch.setattr(type(trace), "_records", None)
    again = trace.head(10)
    assert again.arrival_s.tolist() == first.arrival_s.tolist()
    assert again.prompt_tokens.tolist() == first.prompt_tokens.tolist()


def test_importing_the_package_loads_neither_arrow_nor_numpy():
    code = "import sys, afterwatt.traces; assert not {'pyarrow', 'numpy', 'pandas'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_shipped_sample_opens_and_fits_its_promise():
    trace = open_trace(sample_path())
    whole = trace.head(10_000)
    assert trace.info.rows == len(whole) == 2000
    assert (whole.prompt_tokens + whole.output_tokens).max() <= 4096
    assert 200 < whole.prompt_tokens.mean() < 600


def test_presets_have_names():
    assert preset_names() == ("chat", "code", "summarisation", "long-context")

"""What we write, we read back the same; what we are given, we never choke on."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from afterwatt.traces import (
    Batch,
    TraceError,
    TraceInfo,
    open_trace,
    sample_path,
    write_csv,
    write_parquet,
    write_trace,
)
from afterwatt.traces.sample import sample_trace
from afterwatt.traces.schema import Trace
from afterwatt.traces.write import sha256_of

CORPUS = Path(__file__).parents[1] / "corpus" / "traces"

LABELS = st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=8)


@dataclass(frozen=True)
class MadeUp(Trace):
    """A trace held in one batch."""

    whole: Batch
    said: TraceInfo

    @property
    def info(self):
        return self.said

    def batches(self, size=8192):
        for start in range(0, len(self.whole), size):
            yield self.whole.sliced(start, start + size)


@st.composite
def made_up_traces(draw):
    n = draw(st.integers(1, 60))
    gaps = draw(st.lists(st.floats(0, 90, allow_subnormal=False), min_size=n - 1, max_size=n - 1))
    arrival_s = np.concatenate([[0.0], np.cumsum(np.array(gaps, np.float64))]) if n > 1 else np.zeros(1)
    tokens = st.lists(st.integers(1, 100_000), min_size=n, max_size=n)
    prompt, output = (np.array(draw(tokens), np.int64) for _ in range(2))
    klass, session = (draw(st.none() | st.lists(LABELS, min_size=n, max_size=n)) for _ in range(2))
    block = draw(st.none() | st.sampled_from([1, 16, 512]))
    prefixes = None
    if block is not None:
        prefixes = [
            tuple(draw(st.lists(st.integers(0, 2**62), max_size=min(5, int(-(-tokens // block))))))
            for tokens in prompt.tolist()
        ]
    info = TraceInfo("made-up", "made-up", n, float(arrival_s[-1]), None, block is not None, block)
    return MadeUp(Batch(arrival_s, prompt, output, klass, prefixes, session), info)


def examples(n):
    """Settings for tests that share one temporary folder over all their examples."""
    return settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=n)


def same(one, other):
    assert len(one) == len(other)
    np.testing.assert_array_equal(one.arrival_s, other.arrival_s)
    np.testing.assert_array_equal(one.prompt_tokens, other.prompt_tokens)
    np.testing.assert_array_equal(one.output_tokens, other.output_tokens)
    assert (one.klass, one.session, one.prefixes) == (other.klass, other.session, other.prefixes)


@examples(60)
@given(trace=made_up_traces(), size=st.integers(1, 70))
def test_parquet_round_trip(tmp_path, trace, size):
    path = tmp_path / "trace.parquet"
    assert write_parquet(trace, path) == len(trace.whole)
    back = open_trace(path, unit="s")
    same(back.head(100), trace.whole)
    assert back.info.prefix_block_tokens == trace.info.prefix_block_tokens
    assert (back.info.rows, back.info.span_s) == (trace.info.rows, trace.info.span_s)
    assert sum(len(batch) for batch in back.batches(size)) == len(trace.whole)


@examples(60)
@given(trace=made_up_traces())
def test_csv_round_trip(tmp_path, trace):
    path = tmp_path / "trace.csv"
    write_csv(trace, path)
    same(open_trace(path, unit="s").head(100), trace.whole)


@examples(60)
@given(trace=made_up_traces(), seed=st.integers(0, 99))
def test_sorting_undoes_a_shuffle(tmp_path, trace, seed):
    write_csv(trace, tmp_path / "sorted.csv")
    header, *rows = (tmp_path / "sorted.csv").read_text().splitlines()
    order = np.random.default_rng(seed).permutation(len(rows))
    (tmp_path / "shuffled.csv").write_text("\n".join([header, *(rows[i] for i in order)]) + "\n")
    back = open_trace(tmp_path / "shuffled.csv", sort=True, unit="s").head(100)
    np.testing.assert_array_equal(back.arrival_s, trace.whole.arrival_s)
    assert sorted(back.prompt_tokens.tolist()) == sorted(trace.whole.prompt_tokens.tolist())


def _never_another_error(path):
    try:
        trace = open_trace(path)
    except TraceError as error:
        said = str(error)
    else:
        said = ""
        assert sum(len(batch) for batch in trace.batches(7)) == trace.info.rows
    assert "\n" not in said


@examples(300)
@given(content=st.binary(max_size=400))
@example(content=b'{"timestamp": 1e400}')
@example(content=b"\xef\xbb\xbf")
@example(content=b"\r\r\r")
@example(content=b'"\n')
@example(content=b",,,,,\n,,,,,")
def test_any_bytes_are_a_trace_or_a_trace_error(tmp_path, content):
    path = tmp_path / "any"
    path.write_bytes(content)
    _never_another_error(path)


SEEDS = sorted(file for part in ("bad", "fine") for file in (CORPUS / part).iterdir() if file.stat().st_size < 5000)


@examples(400)
@given(data=st.data())
def test_a_damaged_text_trace_is_a_trace_or_a_trace_error(tmp_path, data):
    content = bytearray(data.draw(st.sampled_from(SEEDS)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 6))
        alphabet = st.sampled_from(list(b'0123456789,.:-+"[]{}\r\n eEnaNinf\x00\xff'))
        content[at : at + cut] = bytes(data.draw(st.lists(alphabet, max_size=6)))
    path = tmp_path / "damaged"
    path.write_bytes(bytes(content))
    _never_another_error(path)


@examples(300)
@given(data=st.data())
def test_a_damaged_parquet_trace_is_a_trace_or_a_trace_error(tmp_path, data):
    source = tmp_path / "whole.parquet"
    if not source.exists():
        write_parquet(open_trace("synth:long-context?n=40&rate=1"), source)
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.parquet"
    path.write_bytes(bytes(content))
    _never_another_error(path)


def test_the_metadata_tells_where_a_trace_came_from(tmp_path):
    source = CORPUS / "fine" / "azure_2024.csv"
    write_trace(open_trace(source), tmp_path / "a.parquet")
    said = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"afterwatt.trace"])
    assert said == {
        "format_version": 1,
        "source": "azure_2024.csv",
        "source_format": "azure-2024",
        "source_sha256": sha256_of(source),
        "start_utc": "2024-05-10T00:00:00+00:00",
        "notes": [],
    }
    assert open_trace(tmp_path / "a.parquet").info.start_utc == "2024-05-10T00:00:00+00:00"


def test_a_trace_is_written_whole_or_not_at_all(tmp_path):
    source = tmp_path / "source.csv"
    source.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,2,2\n")
    trace = open_trace(source)
    source.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,-2,2\n")
    for name in ("out.parquet", "out.csv"):
        with pytest.raises(TraceError, match="row 2"):
            write_trace(trace, tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.csv"]


def test_a_file_may_be_sorted_in_its_place(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n3,1,1\n1,2,2\n")
    write_trace(open_trace(path, sort=True), path)
    assert open_trace(path).head(2).prompt_tokens.tolist() == [2, 1]


def test_places_that_cannot_be_written_are_refused(tmp_path):
    trace = open_trace("synth:chat?n=3")
    with pytest.raises(TraceError, match="no ending this program writes"):
        write_trace(trace, tmp_path / "trace.json")
    with pytest.raises(TraceError, match="cannot be written"):
        write_trace(trace, tmp_path / "nowhere" / "trace.csv")


def test_csv_refuses_labels_with_line_breaks(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1, "class": "a\\nb"}\n')
    write_parquet(open_trace(path), tmp_path / "a.parquet")
    assert open_trace(tmp_path / "a.parquet").head(1).klass == ["a\nb"]
    with pytest.raises(TraceError, match="line break"):
        write_csv(open_trace(path), tmp_path / "a.csv")


def test_the_same_trace_gives_the_same_bytes_and_the_sample_is_such(tmp_path):
    write_parquet(sample_trace(), tmp_path / "a.parquet")
    write_parquet(sample_trace(), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    same(open_trace(sample_path()).head(2000), sample_trace().head(2000))

"""A log of one's own: columns as they are named, times as they are said to count, and nothing guessed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from afterwatt.traces import open_trace
from afterwatt.traces.errors import TraceError
from afterwatt.traces.schema import Trace


def rows(trace: Trace) -> tuple[list[float], list[int], list[int]]:
    (batch,) = trace.batches()
    return batch.arrival_s.tolist(), batch.prompt_tokens.tolist(), batch.output_tokens.tolist()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text("when,in_tok,out_tok,who\n1000,100,20,a\n2500,300,40,b\n2500,50,10,a\n")
    return path


@pytest.mark.parametrize(("unit", "ticks_per_s"), [("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
def test_columns_are_those_that_are_named_and_times_count_what_is_said(log: Path, unit: str, ticks_per_s: float):
    trace = open_trace(f"{log}?arrival=when&prompt=in_tok&output=out_tok&class=who&unit={unit}")
    arrivals, prompts, outputs = rows(trace)
    assert arrivals == [0.0, 1500 / ticks_per_s, 1500 / ticks_per_s]
    assert (prompts, outputs) == ([100, 300, 50], [20, 40, 10])
    (batch,) = trace.batches()
    assert batch.klass is not None
    assert list(batch.klass) == ["a", "b", "a"]
    read = "arrival from 'when' (numbers), prompt tokens from 'in_tok', output tokens from 'out_tok'"
    assert trace.info.notes[0] == f"read as told: {read}"


def test_what_is_not_named_is_not_carried_on(log: Path):
    trace = open_trace(f"{log}?arrival=when&prompt=in_tok&output=out_tok&unit=ms")
    assert "columns not carried on: who" in trace.info.notes


def test_times_of_day_are_seconds_apart_and_keep_their_wall_clock(tmp_path: Path):
    path = tmp_path / "log.csv"
    for zone, said in (("Z", False), ("+02:00", False), ("", True)):
        path.write_text(
            f"created_at,i,o\n2026-01-31T09:30:00.25{zone},5,6\n2026-01-31T09:30:01.75{zone},7,8\n2026-02-01T09:30:00.25{zone},1,1\n"
        )
        trace = open_trace(f"{path}?arrival=created_at&prompt=i&output=o")
        assert rows(trace)[0] == [0.0, 1.5, 86_400.0]
        start = pd.Timestamp("2026-01-31T09:30:00.25", tz="UTC") - pd.Timedelta(hours=2 if zone == "+02:00" else 0)
        assert pd.Timestamp(trace.info.start_utc) == start
        assert any("no zone and is read as UTC" in note for note in trace.info.notes) is said


def test_parquet_holds_instants_of_its_own(tmp_path: Path):
    path = tmp_path / "log.parquet"
    when = pd.to_datetime(["2026-03-01 00:00:00", "2026-03-01 00:00:10"], utc=True)
    pd.DataFrame({"t": when, "p": [3, 4], "o": [1, 2]}).to_parquet(path)
    trace = open_trace(f"{path}?arrival=t&prompt=p&output=o")
    assert rows(trace) == ([0.0, 10.0], [3, 4], [1, 2])
    assert trace.info.start_utc.startswith("2026-03-01T00:00:00")


def test_json_may_hold_its_columns_deeper(tmp_path: Path):
    """As responses of OpenAI's interface do."""
    path = tmp_path / "usage.jsonl"
    used = [{"prompt_tokens": 10 + number, "completion_tokens": 5} for number in range(3)]
    lines = [json.dumps({"created": 1_760_000_000 + number, "usage": usage}) for number, usage in enumerate(used)]
    path.write_text("\n".join(lines) + "\n")
    trace = open_trace(f"{path}?arrival=created&prompt=usage.prompt_tokens&output=usage.completion_tokens&unit=s")
    assert rows(trace) == ([0.0, 1.0, 2.0], [10, 11, 12], [5, 5, 5])
    path.write_text(path.read_text() + '{"created": 1760000009, "usage": {}}\n')
    with pytest.raises(TraceError, match=r"row 4.*usage\.prompt_tokens.*the key is missing"):
        open_trace(f"{path}?arrival=created&prompt=usage.prompt_tokens&output=usage.completion_tokens&unit=s")


def test_lengths_alone_need_a_rate(log: Path):
    with pytest.raises(TraceError, match="rate=5"):
        open_trace(f"{log}?prompt=in_tok&output=out_tok")
    drawn = rows(open_trace(f"{log}?prompt=in_tok&output=out_tok&rate=2&seed=1"))
    assert drawn[1:] == ([100, 300, 50], [20, 40, 10])
    assert (np.diff(drawn[0]) >= 0).all()


@pytest.mark.parametrize(
    ("header", "row", "typed"),
    [
        ("time,input_tokens,output_tokens", "0,1,2", "arrival=time&prompt=input_tokens&output=output_tokens&unit=s"),
        ("created_at,in_tok,out_tok", "2026-01-01T00:00:00Z,1,2", "arrival=created_at&prompt=in_tok&output=out_tok"),
        ("prompt_tokens,completion_tokens", "1,2", "prompt=prompt_tokens&output=completion_tokens&rate=0.5"),
    ],
)
def test_what_to_type_is_said_and_works(tmp_path: Path, header: str, row: str, typed: str):
    path = tmp_path / "log.csv"
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(TraceError) as fault:
        open_trace(path)
    assert f"say '{path}?{typed}'" in str(fault.value)
    assert rows(open_trace(f"{path}?{typed}"))[1:] == ([1], [2])


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("arrival=when&prompt=in_tok&output=out_tok", "'1000' may count anything; say unit=s, unit=ms"),
        ("arrival=when&prompt=in_tok", "needs both of its columns of tokens named"),
        (
            "arrival=wen&prompt=in_tok&output=out_tok&unit=s",
            r"'wen' is no column of it \(did you mean 'when'\?\)",
        ),
        ("arrival=when&prompt=in_tok&output=in_tok&unit=s", "two words name the same column"),
        ("arrival=when&prompt=who&output=out_tok&unit=s", "'a'"),
        ("arrival=who&prompt=in_tok&output=out_tok&unit=s", "is a time of day, and unit=s counts"),
        ("arrival=who&prompt=in_tok&output=out_tok", "'a'"),
    ],
)
def test_what_cannot_be_read_is_refused(log: Path, query: str, says: str):
    with pytest.raises(TraceError, match=says):
        open_trace(f"{log}?{query}")


def test_a_format_and_named_columns_contradict_each_other(log: Path):
    with pytest.raises(TraceError, match="name either the format or the columns"):
        open_trace(f"{log}?arrival=when&prompt=in_tok&output=out_tok&unit=s", format="vidur")

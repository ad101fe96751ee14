"""The columns of Mooncake as others write them: ids of 64 bits, seconds, fractions of milliseconds, blocks of 16."""

import json
from pathlib import Path
from typing import Any

import pytest

from afterwatt.traces import TraceError, open_trace, write_trace

LARGEST = 2**64 - 1


def write(tmp_path: Path, *rows: tuple[float, int, list[int]], name: str = "trace.jsonl") -> str:
    path = tmp_path / name
    lines = [
        json.dumps({"timestamp": at, "input_length": prompt, "output_length": 5, "hash_ids": ids})
        for at, prompt, ids in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_ids_of_64_bits_stay_what_they_are(tmp_path: Path, suffix: str) -> None:
    ids = [(LARGEST, 2**32 + 1), (2**63, 1), (LARGEST - 2**32, 0)]
    path = write(tmp_path, *((1000 * place, 1024, list(both)) for place, both in enumerate(ids)))
    trace = open_trace(path)
    if suffix != "jsonl":
        write_trace(trace, tmp_path / f"copy.{suffix}")
        trace = open_trace(tmp_path / f"copy.{suffix}")
    assert trace.head(3).prefixes == ids


def test_ids_that_differ_above_bit_32_are_no_shared_prefix(tmp_path: Path) -> None:
    apart = write(tmp_path, (0, 512, [1]), (1000, 512, [2**32 + 1]), (2000, 512, [2**63 + 1]))
    assert len(set(open_trace(apart).head(3).prefixes or ())) == 3


@pytest.mark.parametrize("ids", [[2**64], [-1], [None], [1.5], ["1"], [-1, 2**63]])
def test_ids_that_are_none_are_refused(tmp_path: Path, ids: list[Any]) -> None:
    with pytest.raises(TraceError) as caught:
        open_trace(write(tmp_path, (0, 512, [3]), (1000, 512 * len(ids), ids)))
    assert (caught.value.column, "\n" in str(caught.value)) == ("hash_ids", False)


SECONDS = ((0, 600, [0, 1]), (10, 600, [0, 2]), (20, 600, [0, 3]))


def test_the_unit_is_what_the_user_says(tmp_path: Path) -> None:
    path = write(tmp_path, *SECONDS)
    assert open_trace(f"{path}?unit=s").info.span_s == 20.0
    assert open_trace(f"{path}?unit=us").info.span_s == pytest.approx(20e-6)
    read = open_trace(path).info
    assert read.span_s == pytest.approx(0.02)
    assert read.notes == ("arrivals read as milliseconds come at 100 requests/s; if they count seconds, say unit=s",)
    assert open_trace(f"{path}?unit=ms").info.notes == open_trace(f"{path}?unit=s").info.notes == ()
    slow = write(tmp_path, (0, 600, [0, 1]), (20, 600, [0, 2]), name="slow.jsonl")
    assert open_trace(slow).info.notes == (), "50 requests/s may be"


@pytest.mark.parametrize(
    ("times", "unit", "span_s"),
    [((0.0, 1031.5), "", 1.0315), ((0.0, 1031.5), "?unit=ms", 1.0315), ((0.0, 0.2, 0.4), "?unit=s", 0.4)],
)
def test_fractions_of_a_tick_count(tmp_path: Path, times: tuple[float, ...], unit: str, span_s: float) -> None:
    path = write(tmp_path, *((at, 600, [0, 1]) for at in times))
    assert open_trace(path + unit).info.span_s == pytest.approx(span_s, rel=1e-12)


def test_a_time_beyond_63_bits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n5,374,44\n9223372036854775808,396,109\n")
    for unit in ("", "?unit=ms", "?unit=ns"):
        with pytest.raises(TraceError) as caught:
            open_trace(f"{path}{unit}")
        assert (caught.value.row, caught.value.column) == (2, "arrival_s")


def test_the_size_of_a_block_is_what_the_user_says(tmp_path: Path) -> None:
    """100 tokens are 6 whole blocks of 16 and one of 4, which Dynamo hashes too and vLLM does not."""
    path = write(tmp_path, (0, 100, [0, 1, 2, 3, 4, 5, 6]), (1000, 100, [0, 1, 2, 3, 4, 5]))
    with pytest.raises(TraceError, match=r"more hash ids than its prompt has blocks of 512 tokens.* say block=16"):
        open_trace(path)
    trace = open_trace(f"{path}?block=16")
    assert trace.info.prefix_block_tokens == 16
    assert [len(ids) for ids in trace.head(2).prefixes or ()] == [7, 6]
    for block, says in ((17, "more hash ids"), (14, "fewer hash ids")):
        with pytest.raises(TraceError, match=says):
            open_trace(f"{path}?block={block}")
    with pytest.raises(TraceError, match="block = 0 is no number of tokens"):
        open_trace(f"{path}?block=0")
    own = tmp_path / "own.csv"
    own.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,5\n")
    with pytest.raises(TraceError, match="blocks of a fixed size or none; leave block=16 out"):
        open_trace(f"{own}?block=16")

"""What can be wrong, or merely unusual, in a Parquet file; the files are made here."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afterwatt.traces import TraceError, open_trace

ROWS = {"arrival_s": [0.0, 1.0, 2.5], "prompt_tokens": [10, 20, 30], "output_tokens": [1, 2, 3]}


def write(path, metadata=None, **columns):
    table = pa.table({**ROWS, **columns})
    pq.write_table(table if metadata is None else table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize(
    ("columns", "row", "column", "words"),
    [
        ({"prompt_tokens": [10, None, 30]}, 2, "prompt_tokens", "null stands"),
        ({"arrival_s": [0.0, None, 2.5]}, 2, "arrival_s", "null stands"),
        ({"arrival_s": [0.0, float("nan"), 2.5]}, 2, "arrival_s", "nan is not a finite number"),
        ({"arrival_s": [0.0, 1.0, float("inf")]}, 3, "arrival_s", "inf is not a finite number"),
        ({"arrival_s": [0.0, -1.0, 2.5]}, 2, "arrival_s", "-1.0 is no arrival time"),
        ({"arrival_s": [0.0, 2.5, 1.0]}, 3, "arrival_s", "--sort"),
        ({"output_tokens": [1, 0, 3]}, 2, "output_tokens", "0 is below 1"),
        ({"output_tokens": [1, -7, 3]}, 2, "output_tokens", "-7 is below 1"),
        ({"prompt_tokens": [10, 10**12, 30]}, 2, "prompt_tokens", "1000000000000 is more than"),
        ({"prompt_tokens": [10.0, 20.5, 30.0]}, 2, "prompt_tokens", "20.5 has a fraction"),
        ({"prompt_tokens": [10.0, float("nan"), 30.0]}, 2, "prompt_tokens", "nan is not a number"),
        ({"prompt_tokens": ["10", "20", "30"]}, 1, "prompt_tokens", "'10' is text where a number belongs"),
        ({"prompt_tokens": [True, False, True]}, 1, "prompt_tokens", "of type bool"),
        ({"prompt_tokens": pa.array([10, 2**63 + 5, 30], pa.uint64())}, 2, "prompt_tokens", "is more than"),
        ({"arrival_s": pa.array([0, 1, 2], pa.timestamp("s"))}, 1, "arrival_s", "of type timestamp"),
        ({"arrival_s": pa.array([0, 1, 2], pa.duration("s"))}, 1, "arrival_s", "of type duration"),
        ({"class": [1.5, 2.5, 3.5]}, 1, "class", "neither text nor a whole number"),
        ({"request_id": [4, 5, 5]}, 3, "request_id", "5 stands on the row above too"),
        ({"prefix_hashes": [[1], [2], None], "prefix_block_tokens": [16] * 3}, 3, "prefix_hashes", "null stands"),
        ({"prefix_hashes": [[1], [None], []], "prefix_block_tokens": [16] * 3}, 2, "prefix_hashes", "null or negative"),
        ({"prefix_hashes": [["a"], [], []], "prefix_block_tokens": [16] * 3}, 1, "prefix_hashes", "not whole numbers"),
        ({"prefix_hashes": [1, 2, 3], "prefix_block_tokens": [16] * 3}, 1, "prefix_hashes", "1 is not a list"),
        ({"prefix_hashes": [[1], [1, 2, 3], []], "prefix_block_tokens": [16] * 3}, 2, "prefix_hashes", "more hash ids"),
        (
            {"prefix_hashes": [[1], [2], []], "prefix_block_tokens": [16, 16, 32]},
            3,
            "prefix_block_tokens",
            "32 differs",
        ),
        ({"prefix_hashes": [[1], [2], []]}, None, "prefix_hashes", "prefix_block_tokens"),
    ],
)
def test_a_bad_column_is_refused_with_row_and_value(tmp_path, columns, row, column, words):
    path = write(tmp_path / "bad.parquet", **columns)
    with pytest.raises(TraceError) as caught:
        open_trace(path)
    assert words in str(caught.value)
    assert (caught.value.row, caught.value.column, caught.value.path) == (row, column, str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt_tokens": pa.array([10, 20, 30], pa.int32())},
        {"prompt_tokens": pa.array([10, 20, 30], pa.uint8())},
        {"prompt_tokens": pa.array([10.0, 20.0, 30.0], pa.float32())},
        {"prompt_tokens": pa.array([10, 20, 30]).dictionary_encode()},
        {"arrival_s": pa.array([0.0, 1.0, 2.5], pa.float32())},
        {"arrival_s": pa.array([7.0, 8.0, 9.5])},
        {"class": pa.array(["a", "b", None], pa.large_string())},
        {"class": pa.array(["a", "b", None]).dictionary_encode()},
        {"class": pa.array(["a", "b", None], pa.string_view())},
        {"class": pa.array([1, 2, 3], pa.int8())},
        {"class": pa.nulls(3)},
        {"session": pa.array(["s", "s", "t"])},
        {"request_id": [4, 5, 9]},
        {"prefix_hashes": [[1], [2, 3], []], "prefix_block_tokens": pa.array([16] * 3, pa.int16())},
        {"prefix_hashes": pa.array([[1], [2, 3], []], pa.large_list(pa.uint32())), "prefix_block_tokens": [16] * 3},
        {"something_else": ["x", "y", "z"]},
    ],
)
def test_other_types_of_the_same_values_are_fine(tmp_path, columns):
    batch = open_trace(write(tmp_path / "fine.parquet", **columns)).head(3)
    assert batch.arrival_s.tolist() == [0.0, 1.0, 2.5]
    assert batch.prompt_tokens.tolist() == [10, 20, 30]
    assert batch.prompt_tokens.dtype == np.int64


def test_labels_of_any_type_become_text(tmp_path):
    assert open_trace(write(tmp_path / "a.parquet", **{"class": [1, 2, 3]})).head(3).klass == ["1", "2", "3"]
    coded = pa.array(["a", None, "a"]).dictionary_encode()
    assert open_trace(write(tmp_path / "b.parquet", **{"class": coded})).head(3).klass == ["a", None, "a"]


def test_a_whole_second_column_of_integers_is_seconds(tmp_path):
    assert open_trace(write(tmp_path / "a.parquet", arrival_s=[5, 6, 9])).head(3).arrival_s.tolist() == [0.0, 1.0, 4.0]


@pytest.mark.parametrize("keep", [4, 8, 12, 100, 0.5, 0.9, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = write(tmp_path / "cut.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(TraceError, match="damaged"):
        open_trace(path)


def test_a_damaged_data_page_is_refused(tmp_path):
    path = tmp_path / "torn.parquet"
    pq.write_table(pa.table({**ROWS, "class": ["a", "b", "c"]}), path, compression="zstd")
    whole = bytearray(path.read_bytes())
    whole[4:60] = b"\xff" * 56
    path.write_bytes(whole)
    with pytest.raises(TraceError, match="damaged"):
        open_trace(path)


def test_a_file_without_rows_is_refused(tmp_path):
    path = tmp_path / "none.parquet"
    pq.write_table(pa.table(ROWS).slice(0, 0), path)
    with pytest.raises(TraceError, match="holds no request"):
        open_trace(path)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff", b"c"]).buffers())
    path = write(tmp_path / "bytes.parquet", **{"class": broken})
    with pytest.raises(TraceError, match="damaged"):
        open_trace(path)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"not json", "convert it anew"),
        (b"[1]", "convert it anew"),
        (json.dumps({"format_version": 99}).encode(), "format version 99"),
        (json.dumps({"format_version": 1, "start_utc": "2024-05-10T00:00:00"}).encode(), "has no zone"),
        (json.dumps({"format_version": 1, "start_utc": "soon"}).encode(), "convert it anew"),
    ],
)
def test_our_own_metadata_is_checked(tmp_path, said, words):
    path = write(tmp_path / "meta.parquet", metadata={b"afterwatt.trace": said})
    with pytest.raises(TraceError, match=words):
        open_trace(path)


def test_the_wall_clock_moves_with_the_first_arrival(tmp_path):
    said = json.dumps({"format_version": 1, "start_utc": "2024-05-10T00:00:00+00:00", "notes": ["kept"]}).encode()
    path = write(tmp_path / "late.parquet", metadata={b"afterwatt.trace": said}, arrival_s=[60.0, 61.0, 62.0])
    info = open_trace(path).info
    assert info.start_utc == "2024-05-10T00:01:00+00:00"
    assert info.notes == ("kept",)


def test_azure_timestamps_may_be_stored_as_timestamps_with_a_zone(tmp_path):
    moments = np.array(["2024-05-10T00:00:00", "2024-05-10T00:00:01.5"], "datetime64[us]")
    for zone, sound in (("UTC", True), ("Europe/Paris", True), (None, False)):
        table = pa.table({
            "TIMESTAMP": pa.array(moments, pa.timestamp("us", zone)),
            "ContextTokens": [10, 20],
            "GeneratedTokens": [1, 2],
        })  # fmt: skip
        path = tmp_path / "azure.parquet"
        pq.write_table(table, path)
        if sound:
            assert open_trace(path).info.start_utc == "2024-05-10T00:00:00+00:00"
        else:
            with pytest.raises(TraceError, match="no time zone"):
                open_trace(path)


def test_one_huge_row_group_is_cut_into_batches(tmp_path):
    n = 300_000
    path = tmp_path / "huge.parquet"
    columns = {"arrival_s": np.arange(n) / 7, "prompt_tokens": np.full(n, 9), "output_tokens": np.full(n, 3)}
    pq.write_table(pa.table(columns), path, row_group_size=n)
    sizes = [len(batch) for batch in open_trace(path).batches(1000)]
    assert sizes == [1000] * 300

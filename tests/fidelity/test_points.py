"""The table of points: what is read, and that a bad file ends in one sentence that says where and why."""

import csv
import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.fidelity.points.table import COLUMNS, METRICS, PUBLISHED, REQUIRED, PointsError, PointTable, read_points

ROW = {
    "source": "mine",
    "device": "p40",
    "gpus": "1",
    "stack": "llama.cpp-cuda",
    "model": "llama-2-7b",
    "params_b": "6.74",
    "precision": "q4_0",
    "batch": "1",
    "prompt_tokens": "512",
    "metric": "prefill_tok_s",
    "value": "900",
    "offload": "none",
}


def table(*rows, columns=COLUMNS) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([row.get(name, "") for name in columns])
    return out.getvalue()


def read(tmp_path: Path, text: str | bytes) -> PointTable:
    path = tmp_path / "points.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_points(path)


def complaint(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(PointsError) as caught:
        read(tmp_path, text)
    said = str(caught.value)
    assert "\n" not in said
    assert "points.csv" in said
    return said


def test_a_row_keeps_its_line_and_its_values(tmp_path: Path):
    text = table(ROW, ROW | {"assumed": "two\nlines"}, ROW | {"value": "1e3"})
    found = read(tmp_path, text)
    assert [point.row for point in found.points] == [2, 3, 5]
    assert [point.value for point in found.points] == [900.0, 900.0, 1000.0]
    assert found.points[0].gpus == 1
    assert found.points[0].output_tokens is None
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_columns_may_come_in_any_order_and_optional_ones_may_be_missing(tmp_path: Path):
    columns = tuple(reversed(REQUIRED))
    (point,) = read(tmp_path, table(ROW, columns=columns)).points
    assert (point.device, point.gpus, point.params_b, point.offload) == ("p40", 1, None, "none")


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path):
    text = "\ufeff" + table(ROW) + "\n,,,\n".replace(",,,", "," * (len(COLUMNS) - 1))
    assert len(read(tmp_path, text).points) == 1


@pytest.mark.parametrize(
    ("change", "column", "rule"),
    [
        ({"metric": "tokens"}, "metric", "'tokens' cannot be: input should be 'decode_tok_s', 'prefill_tok_s'"),
        ({"metric": ""}, "metric", "is empty"),
        ({"value": "fast"}, "value", "valid number"),
        ({"value": "nan"}, "value", "finite number"),
        ({"value": "inf"}, "value", "finite number"),
        ({"value": "-1"}, "value", "'-1' must lie in 0.0001 to 1e+08; check its unit"),
        ({"value": "0"}, "value", "must lie in"),
        ({"value": ""}, "value", "is empty"),
        ({"metric": "ttft_s", "published_as": "prefill_tok_s", "value": "2e8"}, "value", "must lie in"),
        ({"gpus": "1.5"}, "gpus", "valid integer"),
        ({"gpus": "0"}, "gpus", "greater than or equal to 1"),
        ({"params_b": "6740000000"}, "params_b", "less than or equal to 100000"),
        ({"offload": "tape"}, "offload", "'none', 'dram' or 'ssd'"),
        ({"device": " "}, "device", "is empty"),
        ({"batch": "~50"}, "batch", "valid integer"),
        ({"flash": "maybe"}, "flash", "valid boolean"),
        ({"assumed": "x" * 5000}, "assumed", "at most 2000 characters"),
    ],
)
def test_a_wrong_cell_is_named_with_its_row_column_value_and_rule(tmp_path: Path, change, column, rule):
    said = complaint(tmp_path, table(ROW, ROW | change))
    assert f"row 3, column {column}" in said
    assert rule in said


@pytest.mark.parametrize("metric", METRICS)
def test_bounds_belong_to_the_metric(tmp_path: Path, metric: str):
    low, high = METRICS[metric]
    values = [{"metric": metric, "value": repr(value)} for value in (low, high)]
    assert len(read(tmp_path, table(*(ROW | value for value in values))).points) == 2
    complaint(tmp_path, table(ROW | {"metric": metric, "value": repr(high * 1.01)}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (table(), "no point below its header"),
        ("model,value\n", "'device' is missing"),
        (table(ROW, columns=(*COLUMNS, "speed")), "'speed' is not known"),
        (table(ROW, columns=(*COLUMNS, "row")), "'row' is not known"),
        (table(ROW, columns=(*COLUMNS, "model")), "stands twice"),
        (table(ROW) + "one,two\n", "row 3: 2 cells"),
        (table(ROW) + '"open\n', "row 3"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (table(ROW) + "\0", "zero byte"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
    ],
)
def test_a_wrong_file_is_said_in_a_sentence(tmp_path: Path, text, said: str):
    assert said in complaint(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(PointsError, match="cannot read"):
        read_points(tmp_path / "absent.csv")
    with pytest.raises(PointsError, match="cannot read"):
        read_points(tmp_path)


def outcome(path: Path) -> object:
    """Rows that were read, or "one line" where a sentence said why not."""
    try:
        return len(read_points(path).points)
    except PointsError as fault:
        return "one line" if len(str(fault).splitlines()) == 1 else str(fault)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes):
    path = tmp_path_factory.mktemp("fuzz") / "points.csv"
    path.write_bytes(raw)
    with pytest.raises(PointsError):
        read_points(path)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(COLUMNS), st.text(max_size=30), max_size=4))
def test_any_cells_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, cells: dict[str, str]):
    path = tmp_path_factory.mktemp("fuzz") / "points.csv"
    path.write_text(table(ROW | cells), encoding="utf-8", newline="")
    assert outcome(path) in (1, "one line")


def test_the_published_table_is_read_whole():
    found = read_points(PUBLISHED)
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        assert len(found.points) == len(list(csv.DictReader(file)))

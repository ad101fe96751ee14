"""The reader of Splitwise's runs, on rows made from the law it reads them by."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.fidelity.points.table import PointsError
from afterwatt.fidelity.serving.splitwise import COLUMNS, Setup, read_runs, setups_of

SHARED = Path(__file__).parents[2] / "../shared/traces/splitwise_sim/perf_model_llama2_70b.csv"
ROW = {
    "model": "llama2-70b",
    "hardware": "a100-80gb",
    "prompt_size": "512",
    "batch_size": "8",
    "token_size": "128",
    "peak_power": "1.01",
    "average_power": "0.7",
    "prompt_time": "200",
    "token_time": "50",
    "e2e_time": str(200 + 127 * 50),
    "tensor_parallel": "2",
}


def write(path: Path, *rows: dict[str, str]) -> Path:
    lines = [",".join(COLUMNS), *(",".join((ROW | row)[column] for column in COLUMNS) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def setup_that_took(path: Path, e2e_ms: float, **cells: str) -> Setup:
    runs, _ = read_runs(write(path, {**cells, "e2e_time": repr(e2e_ms)}))
    return setups_of(runs)[0]


def test_times_are_seconds_and_missing_power_is_not_zero(tmp_path: Path) -> None:
    runs, synthetic = read_runs(write(tmp_path / "t.csv", {}, {"peak_power": "0.0", "average_power": "0.0"}))
    assert synthetic == 0
    assert [(run.row, run.ttft_s, run.tpot_s) for run in runs] == [(2, 0.2, 0.05), (3, 0.2, 0.05)]
    assert [(run.peak_frac, run.average_frac) for run in runs] == [(1.01, 0.7), (None, None)]


def test_scaled_rows_are_counted_and_left_out(tmp_path: Path) -> None:
    runs, synthetic = read_runs(write(tmp_path / "t.csv", {"hardware": "h100-80gb-pcap"}, {"hardware": "h100-80gb"}))
    assert synthetic == 1
    assert [run.hardware for run in runs] == ["h100-80gb"]


def test_repeats_are_gathered_and_their_median_is_the_point(tmp_path: Path) -> None:
    rows = [{"prompt_time": repr(time)} for time in (210.0, 200.0, 900.0)]
    other = {"batch_size": "1"}
    setups = setups_of(read_runs(write(tmp_path / "t.csv", rows[0], other, *rows[1:]))[0])
    assert [(setup.batch, len(setup.runs)) for setup in setups] == [(8, 3), (1, 1)]
    ttft, tpot = setups[0].points()
    assert (ttft.metric, ttft.value, tpot.metric, tpot.value) == ("ttft_s", 0.21, "tpot_s", 0.05)
    assert (ttft.gpus, ttft.batch, ttft.prompt_tokens, ttft.output_tokens) == (2, 8, 512, 128)


@given(st.integers(2, 120))
def test_an_answer_that_stopped_early_has_the_tokens_its_time_allows(
    tmp_path_factory: pytest.TempPathFactory, answered: int
) -> None:
    setup = setup_that_took(tmp_path_factory.mktemp("t") / "t.csv", 200.0 + (answered - 1) * 50.0)
    assert setup.answered_tokens == answered
    assert not setup.in_parts
    assert setup.batch_at_once == 8


@given(st.sampled_from([2, 4, 8, 16]))
def test_a_batch_that_took_several_times_as_long_ran_in_as_many_parts(
    tmp_path_factory: pytest.TempPathFactory, parts: int
) -> None:
    whole_ms = 200.0 + 127 * 50.0
    setup = setup_that_took(tmp_path_factory.mktemp("t") / "t.csv", parts * whole_ms, batch_size="64")
    assert setup.in_parts
    assert setup.batch_at_once * parts == 64
    assert setup.answered_tokens == 128


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"hardware": "abacus"}, "'abacus' is not known"),
        ({"model": "eliza"}, "'eliza' is not known"),
        ({"token_time": "soon"}, "column token_time: 'soon' must be a number"),
        ({"token_time": "nan"}, "column token_time: 'nan' must be a number"),
        ({"prompt_time": "0"}, "no run takes 0 ms"),
        ({"batch_size": "1.5"}, "must be a whole number from 1"),
        ({"tensor_parallel": "0"}, "must be a whole number from 1"),
    ],
)
def test_a_row_of_another_form_is_refused_by_line(tmp_path: Path, cells: dict[str, str], said: str) -> None:
    with pytest.raises(PointsError, match="row 3") as error:
        read_runs(write(tmp_path / "t.csv", {}, cells))
    assert said in str(error.value)


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PointsError, match="cannot read"):
        read_runs(tmp_path / "nowhere.csv")
    (tmp_path / "t.csv").write_text("model,hardware\n", encoding="utf-8")
    with pytest.raises(PointsError, match="column 'prompt_size' is missing"):
        read_runs(tmp_path / "t.csv")


@pytest.mark.skipif(not SHARED.is_file(), reason="Splitwise's runs do not lie in ../shared/traces")
def test_the_published_table_is_read_whole() -> None:
    runs, synthetic = read_runs(SHARED)
    assert (len(runs), synthetic) == (630, 0)
    setups = setups_of(runs)
    assert sum(len(setup.runs) for setup in setups) == 630
    assert {(setup.tp, setup.batch) for setup in setups if setup.in_parts} == {(2, 64)}
    # Who was free to answer with 8192 tokens stopped as early as who was free to answer with 2048.
    free = {(s.hardware, s.tp, s.output_tokens): s.answered_tokens for s in setups if s.output_tokens in (2048, 8192)}
    assert free["a100-80gb", 4, 2048] == free["a100-80gb", 4, 8192] < 2048

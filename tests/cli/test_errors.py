"""Bad input: one sentence, the right exit code, and nothing left behind."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afterwatt.cli import main
from afterwatt.cli.errors import exit_code_of
from tests.cli.running import elsewhere, left_in

CORPUS = Path(__file__).parents[1] / "corpus"
TRACES = sorted((CORPUS / "traces" / "bad").glob("*"))
PROFILES = sorted(path for path in (CORPUS / "profiles").glob("*.toml") if not path.name.startswith("fine"))
STUDIES = sorted((CORPUS / "cli").glob("*.toml"))


def sentence(said, code: int = 2) -> str:
    """The one line of complaint."""
    assert (said.code, said.out) == (code, ""), said
    lines = said.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def expected(path: Path) -> str:
    return path.read_text().partition("\n")[0].removeprefix("# says: ")


def test_there_is_a_corpus():
    assert (len(TRACES) > 50, len(PROFILES) > 15, len(STUDIES) > 20) == (True, True, True)


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.name)
def test_a_bad_trace(folder: Path, simulate, path: Path):
    assert sentence(simulate("--trace", path)).startswith(f"error: {path}")
    assert left_in(folder) == []


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_a_bad_profile(folder: Path, simulate, path: Path):
    line = sentence(simulate("--hw", path))
    assert expected(path) in line
    assert str(path) in line
    assert left_in(folder) == []


@pytest.mark.parametrize("option", ["--hw", "--model", "--trace", "--grid", "--site", "--config", "--stack", "--out"])
def test_a_name_that_is_no_utf8_is_refused_before_anything_is_written(folder: Path, simulate, option: str):
    """Linux takes any bytes for a name; Python shows the odd ones as halves of pairs, which no file can hold."""
    assert "is no UTF-8" in sentence(simulate(option, "a\udcff.toml"))
    assert left_in(folder) == []


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_a_bad_study_file(folder: Path, simulate, path: Path):
    assert expected(path) in sentence(simulate("--config", path))
    assert left_in(folder) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--hww m40", "there is no option --hww; did you mean --hw?"),
        ("--replication 3", "did you mean --replications?"),
        ("--xyz", "--help lists them all"),
        ("m40", "unexpected extra argument"),
        ("--hw", "requires an argument"),
        ("--hw m4O", "did you mean 'm40'"),
        ("--hw 2m40", "did you mean"),
        ("--hw 3xm40:tp2", "take a multiple of 2"),
        ("--hw m40:tp2", "write 2xm40:tp2"),
        ("--hw nowhere.toml", "nowhere.toml"),
        ("--model lama-2-7b", "did you mean 'llama-2-7b'"),
        ("--model nowhere/config.json", "nowhere/config.json"),
        ("--site fra", "did you mean 'fr'"),
        ("--precision fp61", "did you mean 'fp16'"),
        ("--policy chunked+bugdet=3", "did you mean 'budget'"),
        ("--policy chunked+chunked", "twice"),
        ("--policy chunked+budget=0", "out of range"),
        ("--trace nowhere.csv", "nowhere.csv: there is no such file"),
        ("--trace .", "directory"),
        ("--trace synth:cat?n=3", "did you mean 'chat'"),
        ("--trace synth:chat", "say n=2000 or duration=3600"),
        ("--trace synth:chat?n=5&rate=2 --rate 3", "keep one"),
        ("--limit 0", "--limit = '0' must be a whole number from 1"),
        ("--limit 1e3", "must be a whole number"),
        ("--rate -1", "must be a number above 0"),
        ("--rate nan", "must be a number above 0"),
        ("--slo ttft=1", "write 1s for seconds or 1ms for milliseconds"),
        ("--slo ttft=1m", "did you mean 'ms'"),
        ("--slo tfft=1s", "did you mean 'ttft'"),
        ("--slo ttft", "write for example ttft=1s,tpot=200ms"),
        ("--slo ttft=-1s", "is no duration"),
        ("--slo ttft=0s", "must be above 0"),
        ("--slo ttft=1s,ttft=2s", "twice"),
        ("--users 0", "must be a whole number from 1"),
        ("--users 2 --rate 3", "drop one"),
        ("--users 2 --think 5", "write 5s for seconds"),
        ("--requests 5", "say --limit 5"),
        ("--think 5s", "--think belongs to --users"),
        ("--batch 8", "needs --prompt"),
        ("--batch 8 --prompt 5 --output 5 --trace x.csv", "--trace speaks of another"),
        ("--prompt 5", "belongs to --batch"),
        ("--horizon 5", "has no unit"),
        ("--horizon 1s --warmup 2s", "leaves nothing"),
        ("--start 2023-06-01T00:00:00", "no time zone"),
        ("--start yesterday", "is no time"),
        ("--grid-zone FR", "belongs to --grid"),
        ("--grid nowhere.csv --start 2023-06-01T00:00:00Z", "nowhere.csv: no such file"),
        ("--basis direct", "site world has no direct intensity"),
        ("--basis marginal", "--grid"),
        ("--duty 1.5", "up to 1"),
        ("--embodied atc", "did you mean 'act'"),
        ("--allocation liner", "did you mean 'linear'"),
        ("--seed -1", "from 0 on"),
        ("--replications 0", "from 1 to 1,000"),
        ("--jobs 0", "or -1"),
        ("--config nowhere.toml", "nowhere.toml"),
    ],
)
def test_a_slip_on_the_command_line(folder: Path, simulate, words: str, says: str):
    assert says in sentence(simulate(*words.split()))
    assert left_in(folder) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("simulat", "did you mean 'simulate'"),
        ("report", "missing argument"),
        ("report nowhere", "there is no run directory"),
        ("report .", "is not a run directory"),
        ("hw lst", "did you mean 'list'"),
        ("hw list --kind gpu", "did you mean 'gpus'"),
        ("hw show m4o", "did you mean 'm40'"),
        ("hw show nowhere.toml", "nowhere.toml"),
        ("model show lama-2-7b", "did you mean 'llama-2-7b'"),
        ("trace describe nowhere.csv", "nowhere.csv"),
        ("trace describe chat.parquet --format azure2024", "did you mean 'azure-2024'"),
        ("trace describe chat.parquet --unit hours", "unit"),
        ("trace convert chat.parquet out.json", "use .parquet or .csv"),
        ("trace convert chat.parquet nowhere/out.csv", "nowhere/out.csv"),
        ("trace synth cat out.csv --n 3", "did you mean 'chat'"),
        ("trace synth chat out.csv", "say n=2000"),
        ("trace synth chat out.csv --n ten", "is not a whole number"),
    ],
)
def test_a_slip_in_another_command(folder: Path, afterwatt, words: str, says: str):
    assert says in sentence(afterwatt(*words.split())).replace("Did", "did")
    assert left_in(folder) == []


def test_what_does_not_fit_is_infeasible_by_so_many_bytes_and_a_way_out(folder: Path, simulate):
    line = sentence(simulate("--hw", "m40", "--model", "llama-2-70b"), 3)
    assert re.search(r"does not fit m40: .* [\d,]{15} bytes short", line)
    assert "Would fit: --policy " in line
    assert "--hw 8xm40:tp8" in line
    assert left_in(folder) == []


def test_where_no_cell_fits_the_study_is_infeasible(folder: Path, simulate):
    said = simulate("--hw", "m40", "--hw", "k80", "--model", "llama-2-70b")
    assert "(and 1 more cells do not fit either)" in sentence(said, 3)
    assert left_in(folder) == []


def test_exit_codes_and_sentences_as_a_shell_sees_them(folder: Path):
    said = elsewhere(folder, "simulate", "--hw", "m4O")
    assert "did you mean 'm40'" in sentence(said)
    assert "does not fit" in sentence(elsewhere(folder, "simulate", "--model", "llama-2-70b"), 3)
    assert left_in(folder) == []


def test_a_row_that_breaks_in_the_middle_of_a_run_leaves_nothing(folder: Path, simulate, monkeypatch):
    """The file was sound when it was opened: another process has changed it since."""
    path = folder / "t.parquet"
    n = 40_000
    columns = {"arrival_s": [float(i) for i in range(n)], "prompt_tokens": [8] * n, "output_tokens": [2] * n}
    pq.write_table(pa.table(columns), path, row_group_size=8192)

    import afterwatt.sim.run

    def changed(*arguments, **options):
        columns["prompt_tokens"][30_000] = -1
        pq.write_table(pa.table(columns), path, row_group_size=8192)
        return original(*arguments, **options)

    original = afterwatt.sim.run.simulate
    monkeypatch.setattr(afterwatt.sim.run, "simulate", changed)
    line = sentence(simulate("--hw", "h100", "--trace", path))
    assert "row 30001, column 'prompt_tokens'" in line
    assert left_in(folder) == ["t.parquet"]


def test_a_place_that_cannot_be_written(folder: Path, simulate):
    (folder / "file").write_text("in the way")
    for cells in ((), ("--hw", "m40", "--hw", "t4")):
        assert "choose another --out" in sentence(simulate("--limit", 5, *cells, "--out", "file/deeper"))
    assert left_in(folder) == ["file"]


def test_a_fault_of_ours_keeps_its_traceback(simulate, monkeypatch):
    """Only errors that a user can mend are turned into a sentence: a plain ValueError is none of these."""
    import afterwatt.studies.running

    def broken(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(afterwatt.studies.running, "plan_study", broken)
    with pytest.raises(ValueError, match="a bug"):
        simulate("--limit", 5)
    assert exit_code_of(ValueError()) is None
    assert exit_code_of(KeyError()) is None


def test_an_interrupt_is_130_and_leaves_nothing(folder: Path, simulate, monkeypatch):
    import afterwatt.sim.run

    def interrupted(config, out, *_):
        from afterwatt.reports.rundir import RunWriter

        with RunWriter(out):
            raise KeyboardInterrupt

    monkeypatch.setattr(afterwatt.sim.run, "simulate", interrupted)
    for words in ((), ("--hw", "m40", "--hw", "t4")):
        said = simulate("--limit", 5, *words)
        assert (said.code, said.out) == (130, "")
        assert "interrupted" in said.err
        assert left_in(folder) == []


def test_run_returns_what_main_exits_with(monkeypatch):
    monkeypatch.setattr("sys.argv", ["simulate", "--hw", "m4O"])
    with pytest.raises(SystemExit) as end:
        main.simulate_main()
    assert end.value.code == 2

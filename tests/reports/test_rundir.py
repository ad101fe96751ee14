"""A run directory stands whole or not at all, and equal rows give equal bytes."""

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afterwatt.reports.columns import DRAWS, ITL, LEDGER, REQUESTS, TIMELINE, schema
from afterwatt.reports.errors import ReportError
from afterwatt.reports.rundir import Run, RunWriter, find_runs, load_run
from afterwatt.reports.tables import ROWS_PER_GROUP, TableWriter

CONFTEST = Path(__file__).with_name("conftest.py")


def hashes(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.iterdir())}


def request_columns(n: int, first: int = 0) -> dict[str, Any]:
    ids = np.arange(first, first + n)
    return {
        "request_id": ids, "arrival_s": ids / 10, "class": np.where(ids % 3 == 0, "chat", "code"),
        "prompt_tokens": ids % 100 + 1, "output_tokens": ids % 50 + 1, "status": np.full(n, "finished", object),
        "cached_tokens": ids * 0, "ttft_s": ids / 7, "preemptions": ids * 0, "in_stats": ids > 10,
    }  # fmt: skip


def write_requests(path: Path, batches: list[dict[str, Any]]) -> None:
    writer = TableWriter(path, "requests")
    for batch in batches:
        writer.write(batch)
    writer.close()


class TestColumns:
    def test_files_hold_exactly_the_columns_of_the_contract(self, m40: Run) -> None:
        assert m40.column_names("requests") == schema(REQUESTS).names
        assert m40.column_names("timeline") == [*schema(TIMELINE).names, *schema(LEDGER).names]
        assert m40.column_names("itl") == schema(ITL).names
        assert m40.column_names("draws")[:2] == schema(DRAWS).names
        for table, columns in (("requests", REQUESTS), ("itl", ITL)):
            assert pq.read_schema(m40.file(table)).remove_metadata().equals(schema(columns))

    def test_nan_is_written_as_null_and_read_back_as_nan(self, m40: Run) -> None:
        column = pq.read_table(m40.file("requests"), columns=["ttft_s"]).column(0)
        rejected = int((m40.requests["status"] == "rejected").sum())
        assert column.null_count == rejected == 49
        assert int(np.isnan(m40.column("requests", "ttft_s")).sum()) == rejected

    def test_integers_may_be_unknown_too(self, m40: Run) -> None:
        assert m40.requests["replica"].isna().sum() == 49
        masked = np.ma.masked_equal(np.array([0, 9, 1]), 9)
        table = request_columns(3) | {"replica": masked}
        path = m40.path.parent / "masked.parquet"
        write_requests(path, [table])
        assert pq.read_table(path).column("replica").to_pylist() == [0, None, 1]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"arival_s": [1.0, 2.0]}, ["'arival_s'", "did you mean 'arrival_s'"]),
            ({"arrival_s": [1.0, np.nan]}, ["row 1 of 'arrival_s' is null", "fill it in"]),
            ({"arrival_s": [1.0, np.inf]}, ["row 1 of 'arrival_s' is inf"]),
            ({"ttft_s": [np.inf, 1.0]}, ["row 0 of 'ttft_s' is inf", "null where it is unknown"]),
            ({"arrival_s": [1.0]}, ["differ in length"]),
            ({"status": [None, "finished"]}, ["row 0 of 'status' is null"]),
            ({"prompt_tokens": ["a", "b"]}, ["'prompt_tokens' does not fit int32"]),
            ({"prompt_tokens": [2**40, 1]}, ["'prompt_tokens' does not fit int32"]),
            ({"request_id": [4, 4]}, ["request 4 comes after request 4", "in order of request_id"]),
        ],
    )
    def test_wrong_columns_are_refused_in_one_sentence(
        self, tmp_path: Path, change: dict[str, Any], words: list[str]
    ) -> None:
        with pytest.raises(ReportError) as caught:
            TableWriter(tmp_path / "requests.parquet", "requests").write(request_columns(2) | change)
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value)

    def test_a_missing_column_is_named(self, tmp_path: Path) -> None:
        columns = request_columns(2)
        del columns["status"]
        with pytest.raises(ReportError, match="'status' is missing"):
            TableWriter(tmp_path / "requests.parquet", "requests").write(columns)

    def test_order_is_held_across_batches(self, tmp_path: Path) -> None:
        writer = TableWriter(tmp_path / "requests.parquet", "requests")
        writer.write(request_columns(5))
        with pytest.raises(ReportError, match="request 3 comes after request 4"):
            writer.write(request_columns(2, first=3))

    def test_a_ledger_may_not_come_half_way(self, tmp_path: Path) -> None:
        writer = TableWriter(tmp_path / "timeline.parquet", "timeline")
        row = {name: [0.0] for name in schema(TIMELINE).names} | {"replica": [0]}
        writer.write(row)
        with pytest.raises(ReportError, match="same columns throughout"):
            writer.write(row | {name: [1.0] for name in schema(LEDGER).names})

    def test_draws_have_a_column_per_method_and_allocation(self, m40: Run) -> None:
        choices = m40.embodied_draws()
        assert choices["act", "linear-total", ""] == "embodied_gco2e__act__linear-total"
        assert choices["act", "linear-total", "whole"] == "embodied_gco2e__act__linear-total__whole"
        assert len(choices) == 24
        with pytest.raises(ReportError, match="<method>__<allocation>"):
            TableWriter(m40.path.parent / "x", "draws").write(
                {"draw": [0], "operational_gco2e": [1.0], "embodied_gco2e__act": [1.0]}
            )


class TestBytes:
    def test_bytes_do_not_depend_on_how_rows_were_batched(self, tmp_path: Path) -> None:
        n = ROWS_PER_GROUP + 1000
        whole = request_columns(n)
        cuts = [0, 1, 777, 70_000, n]
        parts = [{k: v[a:b] for k, v in whole.items()} for a, b in itertools.pairwise(cuts)]
        write_requests(tmp_path / "a", [whole])
        write_requests(tmp_path / "b", parts)
        arrow = pa.table({k: pa.array(v) for k, v in whole.items()})
        encoded = arrow.set_column(2, "class", arrow.column("class").combine_chunks().dictionary_encode())
        write_requests(tmp_path / "c", [encoded])
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
        assert pq.ParquetFile(tmp_path / "a").metadata.num_row_groups == 2

    def test_another_process_with_another_hash_seed_writes_the_same_bytes(self, m40: Run, tmp_path: Path) -> None:
        program = f"""
            import importlib.util, pathlib, sys
            spec = importlib.util.spec_from_file_location("synthetic", {str(CONFTEST)!r})
            module = importlib.util.module_from_spec(spec)
            sys.modules["synthetic"] = module
            spec.loader.exec_module(module)
            module.write_run(pathlib.Path({str(tmp_path / "m40")!r}))
        """
        environment = {**os.environ, "PYTHONHASHSEED": "4711"}
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], check=True, env=environment, cwd=CONFTEST.parents[2]
        )
        ours = {name: digest for name, digest in hashes(m40.path).items() if name != "report.html"}
        assert hashes(tmp_path / "m40") == ours


class TestCrashes:
    def manifest(self, synthetic: ModuleType) -> dict[str, Any]:
        made: dict[str, Any] = synthetic.manifest_of(synthetic.M40)
        return made

    def test_an_exception_leaves_nothing(self, tmp_path: Path, synthetic: ModuleType) -> None:
        with contextlib.suppress(ZeroDivisionError), RunWriter(tmp_path / "run") as writer:
            writer.write_manifest(self.manifest(synthetic))
            writer.write("requests", request_columns(10))
            assert not (tmp_path / "run").exists()
            _ = 1 // 0
        assert list(tmp_path.iterdir()) == []

    def test_a_run_without_summary_is_not_kept(self, tmp_path: Path, synthetic: ModuleType) -> None:
        with pytest.raises(ReportError, match=r"no summary\.json"), RunWriter(tmp_path / "run") as writer:
            writer.write_manifest(self.manifest(synthetic))
        assert list(tmp_path.iterdir()) == []

    def test_sigkill_leaves_nothing_that_looks_finished(self, tmp_path: Path) -> None:
        program = """
            import sys, time
            import numpy as np
            from afterwatt.reports.rundir import RunWriter
            with RunWriter(sys.argv[1]) as writer:
                ids = np.arange(200_000)
                zero = ids * 0
                writer.write("requests", {"request_id": ids, "arrival_s": ids / 10, "prompt_tokens": zero + 1,
                    "output_tokens": zero + 1, "status": ["finished"] * len(ids), "cached_tokens": zero,
                    "preemptions": zero, "in_stats": ids > 5})
                print("written", flush=True)
                time.sleep(60)
        """
        target = tmp_path / "run"
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), str(target)],
            stdout=subprocess.PIPE,
            cwd=CONFTEST.parents[2],
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=20) == -signal.SIGKILL
        child.stdout.close()
        assert not target.exists()
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".run.partial-")
        with pytest.raises(ReportError, match="interrupted run"):
            load_run(left)
        with pytest.raises(ReportError, match="not a run directory"):
            find_runs([tmp_path])

    def test_what_stands_under_the_name_is_not_touched_before_the_end(
        self, tmp_path: Path, synthetic: ModuleType
    ) -> None:
        synthetic.write_run(tmp_path / "run", synthetic.Toy(requests=50))
        before = hashes(tmp_path / "run")
        with contextlib.suppress(ZeroDivisionError), RunWriter(tmp_path / "run", overwrite=True) as writer:
            writer.write("requests", request_columns(10))
            _ = 1 // 0
        assert hashes(tmp_path / "run") == before

    def test_a_run_is_replaced_only_when_asked(self, tmp_path: Path, synthetic: ModuleType) -> None:
        toy = synthetic.Toy(requests=50)
        synthetic.write_run(tmp_path / "run", toy)
        with pytest.raises(ReportError, match="already holds a run"):
            RunWriter(tmp_path / "run")
        stamp = (tmp_path / "run").stat().st_ino
        with RunWriter(tmp_path / "run", overwrite=True) as writer:
            for file in (tmp_path / "run").iterdir():
                shutil.copy(file, writer.file(file.name))
            writer.run = lambda: Run(writer.path)  # type: ignore[method-assign]
        assert (tmp_path / "run").stat().st_ino != stamp
        assert [child.name for child in tmp_path.iterdir()] == ["run"]

    def test_a_folder_that_is_no_run_is_never_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "diary.txt").write_text("dear")
        with pytest.raises(ReportError, match="left alone"):
            RunWriter(tmp_path / "home", overwrite=True)
        (tmp_path / "empty").mkdir()
        RunWriter(tmp_path / "empty")  # an empty folder is as good as none

    def test_an_unwritable_place_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ReportError, match="cannot write to"), RunWriter(tmp_path / "file" / "run"):
            pass


class TestReading:
    def test_a_foreign_or_missing_directory_is_refused(self, tmp_path: Path, m40: Run) -> None:
        with pytest.raises(ReportError, match="not a run directory"):
            load_run(tmp_path)
        with pytest.raises(ReportError, match=r"runs beside it: .*m40"):
            load_run(m40.path.parent / "m4O")

    @pytest.mark.parametrize("name", ["requests.parquet", "timeline.parquet", "itl.parquet", "summary.json"])
    def test_a_missing_file_is_named(self, tmp_path: Path, m40: Run, name: str) -> None:
        shutil.copytree(m40.path, tmp_path / "run")
        (tmp_path / "run" / name).unlink()
        with pytest.raises(ReportError, match=f"{name} is missing"):
            load_run(tmp_path / "run")

    @pytest.mark.parametrize("name", ["requests.parquet", "summary.json", "manifest.json"])
    def test_a_truncated_file_is_named(self, tmp_path: Path, m40: Run, name: str) -> None:
        shutil.copytree(m40.path, tmp_path / "run")
        file = tmp_path / "run" / name
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(ReportError, match=f"{name}.*damaged"):
            load_run(tmp_path / "run")

    def test_a_folder_of_runs_opens_as_its_runs(self, fleet: list[Run]) -> None:
        names = [run.name for run in find_runs([fleet[0].path.parent])]
        assert names == sorted(names)
        assert {"m40", "4xm40", "a100-80", "h100-sxm"} <= set(names)
        assert [run.name for run in find_runs([run.path for run in fleet])] == [run.name for run in fleet]

    def test_what_a_shell_finds_in_a_study_beside_its_runs_is_passed_over(self, m40: Run, tmp_path: Path) -> None:
        shutil.copytree(m40.path, tmp_path / "study" / "m40")
        for name in ("study.json", "report.html"):
            (tmp_path / "study" / name).write_text("{}")
        assert [run.name for run in find_runs(sorted((tmp_path / "study").iterdir()))] == [m40.name]
        with pytest.raises(ReportError, match=r"study\.json is not a run directory"):
            find_runs([tmp_path / "study" / "study.json"])

    def test_opening_a_run_loads_no_table(self, m40: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a table was read")

        monkeypatch.setattr(pq, "read_table", refuse)
        monkeypatch.setattr(pq.ParquetFile, "read", refuse)
        assert load_run(m40.path).summary.requests.arrived == 2000

    def test_a_notebook_gets_frames(self, m40: Run) -> None:
        assert len(m40.requests) == 2000
        assert m40.timeline["energy_j"].sum() == pytest.approx(m40.summary.energy_j.total)
        assert m40.draws is not None
        assert len(m40.draws) == 512

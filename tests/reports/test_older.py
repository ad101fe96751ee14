"""Runs of older versions: what they lack is unknown, wherever it would be shown; what is damaged is still refused."""

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from afterwatt.reports.checksums import SUMS
from afterwatt.reports.columns import LEDGER, REQUESTS, TIMELINE
from afterwatt.reports.entry import Entry, entries
from afterwatt.reports.errors import ReportError
from afterwatt.reports.html import comparison_context, run_context
from afterwatt.reports.rundir import Run, load_run
from afterwatt.reports.schema import Summary
from afterwatt.reports.series import RunSeries
from afterwatt.reports.summary import counted, served
from afterwatt.reports.terminal import print_runs
from afterwatt.reports.versus import outcome_table
from afterwatt.reports.view import unit_table

SHORT = {"requests": 120, "draws": 16}
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def new(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic.write_run(tmp_path_factory.mktemp("new") / "a100", synthetic.Toy(hardware="a100-80", **SHORT))


@pytest.fixture
def older(synthetic: ModuleType, tmp_path: Path, old: Run) -> Callable[..., Run]:
    """A copy of a run without some columns of a table, or with one of its JSON files changed."""

    def make(table: str | None = None, names: tuple[str, ...] = (), file: str = "summary.json", change: Change = dict):
        shutil.copytree(old.path, tmp_path / "older", ignore=shutil.ignore_patterns(SUMS))
        if table is not None:
            path = tmp_path / "older" / f"{table}.parquet"
            pq.write_table(pq.read_table(path).drop_columns(list(names)), path)
        path = tmp_path / "older" / file
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
        return load_run(tmp_path / "older")

    return make


@pytest.fixture(scope="module")
def old(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic.write_run(tmp_path_factory.mktemp("old") / "m40", synthetic.Toy(**SHORT))


def dropped(*keys: str) -> Change:
    """Take a key out of an object in an object."""

    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return change


def unknown(value: object) -> bool:
    """Whether nothing in it is known."""
    return value in (None, "unknown") or (isinstance(value, dict) and all(map(unknown, value.values())))


def printed(*runs: Run) -> str:
    out = StringIO()
    print_runs(runs, Console(file=out, width=120))
    return out.getvalue()


def shown(run: Run, new: Run) -> None:
    """Make everything that is ever made of a run, alone and beside another."""
    group = entries([run, new])
    assert run_context(group[0])["cards"]
    assert all(part["outcomes"].rows for part in comparison_context(group, None)["parts"])
    assert "nan" not in printed(run).replace("finance", "")
    assert printed(run, new)


@pytest.mark.parametrize("name", [column.name for column in REQUESTS])
def test_a_run_without_a_column_of_requests_is_read_shown_and_compared(name: str, older, new: Run):
    run = older("requests", (name,))
    assert run.requests[name].isna().all()
    assert name in new.requests
    if name not in ("class", "session", "status", "reject_reason"):
        assert np.isnan(run.column("requests", name)).all()
    shown(run, new)


GROUPS = [
    ("timeline", ("start_s",)),
    ("timeline", ("replica",)),
    ("timeline", ("interval_s", "idle_s")),
    ("timeline", ("kv_used_frac", "batch_mean", "prompt_tokens", "prefill_s")),
    ("timeline", ("operational_gco2e",)),
    ("timeline", ("energy_j", "energy_gpu_j")),
    ("timeline", tuple(column.name for column in LEDGER)),
    ("itl", ("itl_s",)),
    ("itl", ("tokens",)),
    ("draws", ("operational_gco2e",)),
    ("draws", ("draw", "embodied_gco2e__act__linear-total")),
]


@pytest.mark.parametrize(("table", "names"), GROUPS)
def test_a_run_without_columns_of_another_table_is_read_shown_and_compared(table: str, names, older, new: Run):
    run = older(table, names)
    for name in names:
        if not name.startswith("embodied"):
            assert run.frame(table)[name].isna().all()
            assert np.isnan(run.column(table, name)).all()
    shown(run, new)


@pytest.mark.parametrize("name", [name for name in Summary.model_fields if name != "schema_version"])
def test_a_run_without_a_key_of_its_summary_is_read_shown_and_compared(name: str, older, new: Run):
    run = older(change=dropped(name))
    assert unknown(run.summary.model_dump()[name])
    shown(run, new)


@pytest.mark.parametrize(
    "keys",
    [
        *(("requests", name) for name in ("arrived", "finished", "rejected", "unfinished", "slo_met")),
        ("ttft_s", "p90"),
        ("energy_j", "by_component"),
        ("energy_j", "total"),
        ("carbon_gco2e", "operational", "p50"),
        ("sci", "per_request_gco2e"),
        ("breakeven", "lives", "card", "service_s"),
        ("breakeven", "embodied_gco2e_per_reserved_s"),
        ("quality", "source"),
    ],
)
def test_keys_within_blocks_may_be_missing_too(keys: tuple[str, ...], older, new: Run):
    run = older(change=dropped(*keys))
    found = run.summary.model_dump()
    for key in keys:
        found = found[key]
    assert unknown(found)
    shown(run, new)


@pytest.mark.parametrize("name", ["body", "config", "seed", "versions", "deployment", "policies", "facts"])
def test_a_run_without_a_key_of_its_manifest_is_read_shown_and_compared(name: str, older, new: Run):
    run = older(file="manifest.json", change=dropped(name))
    assert getattr(run.manifest, name) in (None, {}, [])
    shown(run, new)


def test_what_is_missing_is_a_dash_and_not_a_nought(older, new: Run):
    run = older("requests", ("output_tokens",), change=dropped("requests", "finished"))
    entry = Entry("old", run)
    assert entry.served == (new.summary.requests.finished, None, entry.served.slo_met_requests, None)
    assert unit_table(entry).rows[1][1] == "–"
    assert outcome_table(entries([run, new])).rows[0][4] == "–"
    assert "– of 120" in printed(run)


def test_a_run_that_drew_nothing_is_shown_and_compared(older, new: Run):
    run = older()
    run.file("draws").unlink()
    assert not run.knows("draws", "draw")
    assert Entry("old", run).choices == {}
    shown(run, new)


def test_a_threshold_on_a_figure_that_is_not_there_is_met_by_nobody_knows_whom(older):
    run = older("requests", ("tpot_s",))
    done = served(run, run.manifest.slo())
    assert done.requests
    assert done.output_tokens
    assert done.slo_met_requests is done.slo_met_tokens is None


def test_who_is_not_known_to_be_warm_up_counts(older, old: Run):
    finished = old.requests["status"] == "finished"
    assert 0 < counted(old).sum() < finished.sum()
    assert counted(older("requests", ("in_stats",))).tolist() == finished.tolist()


def test_without_a_status_nothing_counts(older):
    run = older("requests", ("status",))
    assert not counted(run).any()
    assert served(run, run.manifest.slo()) == (None, None, None, None)


def test_a_figure_over_time_needs_its_columns_throughout(older, old: Run):
    assert RunSeries(old).knows(*(column.name for column in TIMELINE))
    series = RunSeries(older("timeline", ("hbm_bytes",)))
    assert series.knows("batch_mean", "energy_j")
    assert not series.knows("batch_mean", "hbm_bytes")


def test_intervals_of_which_nobody_knows_when_they_were_are_none(older):
    assert len(RunSeries(older("timeline", ("replica",)))) == 0


def test_a_name_that_no_version_has_is_refused(old: Run):
    with pytest.raises(ReportError, match=r"has no column 'ttft'; did you mean 'ttft_s'\?"):
        old.column("requests", "ttft")
    with pytest.raises(ReportError, match="has no column 'kv'"):
        old.frame("timeline", ["kv"])


def test_columns_come_as_they_were_asked_for(old: Run, older):
    run = older("requests", ("e2e_s",))
    frame = run.frame("requests", ["finish_s", "e2e_s", "request_id"])
    assert list(frame) == ["finish_s", "e2e_s", "request_id"]
    assert frame["finish_s"].equals(old.requests["finish_s"])
    finish, e2e = run.columns("requests", "finish_s", "e2e_s")
    np.testing.assert_array_equal(finish, old.column("requests", "finish_s"))
    assert np.isnan(e2e).all()
    assert list(run.requests) == list(old.requests)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(extra=1), "'extra'"),
        (lambda data: data["requests"].update(finished=-1), "requests.finished = -1"),
        (lambda data: data["ttft_s"].update(p90="slow"), 'ttft_s.p90 = "slow"'),
        (lambda data: data.update(ttft_s=None), "ttft_s = null"),
        (lambda data: data["requests"].update(arrived=7), "7 requests arrived"),
        (dropped("schema_version"), "schema_version None"),
    ],
)
def test_what_is_damaged_is_refused_in_one_sentence(change: Change, words: str, older):
    with pytest.raises(ReportError) as caught:
        older(change=change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_no_parquet_or_gone_is_refused(older):
    run = older()
    run.file("itl").write_bytes(b"PAR1")
    with pytest.raises(ReportError, match="damaged"):
        load_run(run.path)
    run.file("itl").unlink()
    with pytest.raises(ReportError, match="is missing"):
        load_run(run.path)


def test_a_column_of_another_type_is_no_older_one(older):
    run = older()
    table = pq.read_table(run.file("requests"))
    place = table.schema.names.index("ttft_s")
    pq.write_table(table.set_column(place, "ttft_s", pa.array(["x"] * len(table))), run.file("requests"))
    with pytest.raises(ReportError, match="'ttft_s' holds string, not numbers"):
        run.column("requests", "ttft_s")

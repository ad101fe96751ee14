"""What page and terminal say of the error of the times."""

import io
import re

import pytest
from rich.console import Console

from afterwatt.reports.html import render
from afterwatt.reports.rundir import RunWriter, load_run
from afterwatt.reports.schema import Trust, write_json
from afterwatt.reports.terminal import print_runs
from afterwatt.reports.trust import BASES, ranges, sentence

RANGE = {"low": 0.001, "high": 900.0}


def prediction(with_range=True, **changes):
    """A statement that honours the contract."""
    quantiles = dict.fromkeys(("mean", "p50", "p90", "p99"), RANGE)
    spans = dict.fromkeys(("ttft_s", "tpot_s", "itl_s", "e2e_s"), quantiles)
    spans |= dict.fromkeys(("output_tokens_per_s", "offered_frac", "energy_j"), RANGE)
    said = {
        "stack": "vllm",
        "pool": "maxwell",
        "model_class": "dense:fp16",
        "basis": "pooled",
        "time_error_90": {"prefill": {"low": 0.71, "high": 1.42}, "decode": {"low": 0.83, "high": 1.21}},
        "energy_error_90": None,
        "range_90": {**spans, "devices_needed": None} if with_range else None,
    }
    return Trust.model_validate(said | changes).model_dump()


@pytest.fixture
def told(m40, tmp_path):
    """Give a run that says how far its times can be trusted."""

    def tell(**changes):
        path = tmp_path / "told"
        summary = m40.summary.model_dump() | {"prediction": prediction(**changes)}
        with RunWriter(path, overwrite=True) as writer:
            for table in ("requests", "timeline", "itl", "draws"):
                (writer.path / f"{table}.parquet").write_bytes(m40.file(table).read_bytes())
            writer.write_manifest(m40.manifest.model_dump())
            write_json(writer.path / "summary.json", summary)
        return load_run(path)

    return tell


def printed(run):
    out = io.StringIO()
    print_runs([run], Console(file=out, width=100, no_color=True))
    return out.getvalue()


@pytest.mark.parametrize("basis", BASES)
def test_every_basis_is_explained_on_page_and_terminal(told, basis):
    run = told(basis=basis)
    assert BASES[basis] in sentence(run.summary)
    assert BASES[basis].split(":")[0] in " ".join(printed(run).split())
    assert BASES[basis].split(":")[0] in render([run])


def test_the_factors_are_stated_as_they_are(told):
    said = sentence(told().summary)
    assert "prompts 0.71 to 1.4" in said
    assert "output tokens 0.83 to 1.2" in said


def test_ranges_stand_beside_their_predictions(told):
    run = told()
    rows = {name: (value, within) for name, value, within in ranges(run.summary)}
    assert rows["first token p90"][1] == "1.00 ms – 15.0 min"
    assert len(re.findall(r"90 % range of p90", printed(run))) == 3
    assert "How far to trust it" in render([run])


def test_without_a_range_there_is_no_empty_row(told):
    run = told(with_range=False)
    assert ranges(run.summary) == []
    assert "90 % range" not in printed(run)
    assert "How far to trust it" not in render([run])


def test_an_error_that_is_not_known_is_said_to_be(told):
    run = told(with_range=False, time_error_90={"prefill": None, "decode": None})
    assert "not known" in sentence(run.summary)


def test_a_body_that_measures_states_no_prediction(m40):
    assert sentence(m40.summary) is None
    assert ranges(m40.summary) == []

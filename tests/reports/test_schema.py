"""summary.json and manifest.json are contracts: what is wrong with one is said in one sentence."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from afterwatt.reports.errors import ReportError
from afterwatt.reports.rundir import Run
from afterwatt.reports.schema import (
    Summary,
    check_manifest,
    check_summary,
    manifest_json_schema,
    read_json,
    summary_json_schema,
    to_json,
)

CONTRACT = {
    "requests": {"arrived", "finished", "rejected", "unfinished", "slo_met"},
    "throughput": {"requests_per_s", "output_tokens_per_s"},
    "load": {"offered_frac", "capacity_requests_per_s", "devices_needed"},
    "bytes_moved": {"hbm", "dram_to_hbm", "ssd_to_dram", "link"},
    "energy_j": {"total", "idle", "by_component", "by_state", "method"},
    "sci": {"per_request_gco2e", "per_output_token_gco2e", "per_slo_met_token_gco2e"},
    "cost_usd": {"hardware", "electricity", "total", "per_million_output_tokens"},
    "quality": {"perplexity", "source"},
} | {f"{name}_s": {"mean", "p50", "p90", "p99", "max"} for name in ("ttft", "tpot", "itl", "e2e", "longest_stall")}


def _summary(run: Run) -> dict[str, Any]:
    data: dict[str, Any] = read_json(run.path / "summary.json")
    return data


def test_a_summary_has_every_key_of_the_contract(m40: Run) -> None:
    data = _summary(m40)
    assert {"schema_version", "body", "model", "hardware", "policies", "site", "duration_s", "rejected_by"} <= set(data)
    for block, keys in CONTRACT.items():
        assert set(data[block]) == keys, block
    for name in ("operational", "embodied", "total"):
        assert set(data["carbon_gco2e"][name]) == {"p5", "p50", "p95"}
    assert {"embodied_method", "allocation", "by_method"} <= set(data["carbon_gco2e"])


def test_reading_and_writing_a_summary_changes_nothing(m40: Run) -> None:
    text = (m40.path / "summary.json").read_text()
    assert to_json(check_summary(json.loads(text)).model_dump()) == text


def test_the_json_schema_describes_the_files(m40: Run) -> None:
    schema = summary_json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert set(_summary(m40)) == set(schema["properties"])
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {name for name, f in Summary.model_fields.items() if f.is_required()}
    for name in _references(schema):
        assert name in schema["$defs"]
    assert "config" in manifest_json_schema()["required"]


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"].rsplit("/", 1)[1]} if "$ref" in node else set()
        return own.union(*map(_references, node.values()))
    return set().union(*map(_references, node)) if isinstance(node, list) else set()


def test_an_unknown_carbon_block_may_be_given_as_null(m40: Run) -> None:
    data = _summary(m40)
    data["sci"]["per_request_gco2e"] = None
    assert check_summary(data).sci.per_request_gco2e.model_dump() == {"p5": None, "p50": None, "p95": None}


def _drop(block: str, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data[block].pop(key)


def _put(block: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data[block].update({key: value})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data.pop("schema_version"), ["schema_version None", "reads '1'"]),
        (lambda data: data.update(schema_version="2"), ["schema_version '2'", "run the simulation again"]),
        (lambda data: data.update(body="dream"), ["body", '"dream"']),
        (lambda data: data.update(extra=1), ["'extra'", "docs/run-directory.md"]),
        (_drop("requests", "finished"), ["requests.finished", "null where it is unknown"]),
        (_put("requests", "finished", -1), ["requests.finished = -1", "greater than or equal to 0"]),
        (_put("requests", "finished", "many"), ["requests.finished", '"many"']),
        (_put("ttft_s", "p90", float("nan")), ["ttft_s.p90 = NaN", "finite"]),
        (_put("ttft_s", "p95", 1.0), ["ttft_s.p95"]),
        (_put("requests", "arrived", 7), ["7 requests arrived", "add up to 2000"]),
    ],
)
def test_a_summary_off_the_contract_is_refused_in_one_sentence(
    m40: Run, spoil: Callable[[dict[str, Any]], None], words: list[str]
) -> None:
    data = copy.deepcopy(_summary(m40))
    spoil(data)
    with pytest.raises(ReportError) as caught:
        check_summary(data, "runs/x/summary.json")
    text = str(caught.value)
    assert text.startswith("runs/x/summary.json")
    assert "\n" not in text
    for word in words:
        assert word in text


def test_a_manifest_may_have_keys_of_its_own_but_needs_a_config(m40: Run) -> None:
    data = read_json(m40.path / "manifest.json")
    assert check_manifest({**data, "note": "mine"}).config == data["config"]
    del data["config"]
    with pytest.raises(ReportError, match="lacks 'config'"):
        check_manifest(data)


@pytest.mark.parametrize(
    ("slo", "match"), [({"ttft": 1.0}, "'ttft'"), ({"ttft_s": 0.0}, "greater than 0"), ({"tpot_s": "fast"}, "tpot_s")]
)
def test_a_wrong_slo_is_refused(m40: Run, slo: dict[str, Any], match: str) -> None:
    data = read_json(m40.path / "manifest.json")
    data["config"]["slo"] = slo
    with pytest.raises(ReportError, match=match):
        check_manifest(data).slo()


def test_no_threshold_is_no_slo(m40: Run) -> None:
    data = read_json(m40.path / "manifest.json")
    data["config"]["slo"] = {"ttft_s": None, "tpot_s": None, "e2e_s": None}
    assert check_manifest(data).slo() is None


def test_nan_never_reaches_a_file() -> None:
    with pytest.raises(ReportError, match="null for what is unknown"):
        to_json({"x": float("nan")})

"""What was measured of answers is quoted for the precision that a run stores weights in, or said to be missing."""

import json

import pytest

from afterwatt.policies.config import parse_policies
from afterwatt.sim.config import NOT_MEASURED
from afterwatt.studies.errors import OptionError
from afterwatt.studies.qualities import answers_of

LINES = [
    {"policy": "fp32", "perplexity": 2.8, "kl_nats": 0.0, "agreement_frac": 1.0},
    {"policy": "int4", "perplexity": 2.9, "kl_nats": 0.0045, "agreement_frac": 0.974},
]
FILE = {"model": "tiny", "dtype": "fp32", "text": "held-out.txt", "tokens": 4096, "policies": LINES, "torch": "2"}


@pytest.fixture
def measured(tmp_path):
    path = tmp_path / "quality.json"
    path.write_text(json.dumps(FILE))
    return path


def test_the_line_of_the_precision_is_quoted(measured):
    plain = parse_policies("chunked")
    found = answers_of(measured, "tiny", "int4", plain)
    assert found.perplexity == 2.9
    assert found.source.startswith("int4 on held-out.txt (4,096 tokens): KL 0.0045 nats from fp32, ")
    assert found.source.endswith("the same token likeliest in 97.4 % (quality.json)")
    assert answers_of(measured, "tiny", "fp16", plain).perplexity == 2.8


@pytest.mark.parametrize(("precision", "policy"), [("q4_k_m", "chunked"), ("int4", "m2cache")])
def test_what_the_file_does_not_say_is_missing(measured, precision, policy):
    found = answers_of(measured, "tiny", precision, parse_policies(policy))
    assert found.perplexity is None
    assert found.source.startswith("not measured: quality.json says nothing of")
    assert found != NOT_MEASURED


def test_another_model_and_other_files_are_refused(measured, tmp_path):
    with pytest.raises(OptionError, match=r"is of 'tiny' and the run of 'llama-2-7b'"):
        answers_of(measured, "llama-2-7b", "int4", parse_policies("chunked"))
    for content in ("", "[]", '{"model": "tiny"}', json.dumps(FILE | {"policies": []})):
        measured.write_text(content)
        with pytest.raises(OptionError, match="holds no figures"):
            answers_of(measured, "tiny", "int4", parse_policies("chunked"))
    with pytest.raises(OptionError, match="No such file"):
        answers_of(tmp_path / "nothing.json", "tiny", "int4", parse_policies("chunked"))

"""Help answers at once, and tells the defaults as they are."""

import json
import re
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.running import elsewhere, script

HEAVY = ("numpy", "pandas", "pyarrow", "pydantic", "scipy", "plotly", "simpy", "joblib", "rich", "jinja2", "torch")
LONGEST_S = 0.3


@pytest.mark.parametrize("name", ["simulate", "afterwatt", "validate"])
def test_help_answers_within_three_tenths_of_a_second(tmp_path: Path, name: str):
    """Processor time of the whole process, the best of a few: it reads nothing and waits for nobody."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*script(name), "--help"], cwd=tmp_path, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert b"Usage" in done.stdout
    assert min(taken) < LONGEST_S


@pytest.mark.parametrize("name", ["simulate_main", "main", "validate_main"])
def test_help_imports_nothing_heavy(tmp_path: Path, name: str):
    program = f"""
import json, sys
sys.argv = ["x", "--help"]
from afterwatt.cli.main import {name}
try:
    {name}()
except SystemExit as end:
    sys.stderr.write(json.dumps([end.code, sorted(sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stderr)
    assert code == 0
    assert [module for module in HEAVY if module in modules] == []


def test_help_tells_the_defaults_as_they_are(simulate):
    """Defaults stand in the help as text, so that it need not import them; here they are held against the truth."""
    from afterwatt.hwprofiles.draws import DEFAULT_DRAWS
    from afterwatt.sim.config import CarbonOptions
    from afterwatt.studies.config import SAMPLE, StudyConfig

    entries = (" ".join(entry.split()) for entry in re.split(r"\n  (?=-)|\n\n", simulate("--help").out))
    told = dict(found.groups() for entry in entries if (found := re.match(r"--([a-z-]+).*\[([^\]]+)\]$", entry)))
    plain, carbon = StudyConfig(), CarbonOptions()
    crossed = {name: getattr(plain, name)[0] for name in ("hw", "model", "policy", "site")}
    assert told | crossed == told
    assert all(told[name].startswith(f"{getattr(plain, name)[0]}:") for name in ("precision", "stack"))
    assert told["trace"].startswith(SAMPLE)
    assert (told["seed"], told["replications"], told["jobs"]) == ("0", "1", "1")
    assert told["draws"] == str(DEFAULT_DRAWS)
    assert told["basis"] == carbon.basis
    assert (told["duty"], told["between"]) == (f"{carbon.duty_frac:g}", carbon.between)
    assert (told["embodied"], told["allocation"]) == (carbon.embodied_method, carbon.allocation)
    assert told["host-share"] == carbon.host_share


def test_the_account_is_offered_the_words_it_knows():
    """What a study checks early must be what the account would take late."""
    from afterwatt.hwprofiles.ledger import BETWEEN
    from afterwatt.hwprofiles.replicas import HOST_SHARES
    from afterwatt.studies.config import StudyConfig
    from afterwatt.studies.errors import OptionError

    for name, words in (("between", BETWEEN), ("host_share", HOST_SHARES)):
        assert [getattr(StudyConfig(**{name: word}), name) for word in words] == list(words)
        with pytest.raises(OptionError):
            StudyConfig(**{name: "neither"})


def test_every_word_of_a_study_can_be_given_on_the_command_line():
    from afterwatt.cli.flags import FLAGS
    from afterwatt.studies.config import words

    assert {name.replace("_", "-") for name in words()} | {"config", "dry-run"} == set(FLAGS)


@pytest.mark.parametrize("name", ["simulate", "afterwatt"])
def test_version(tmp_path: Path, name: str):
    assert elsewhere(tmp_path, name, "--version") == (0, f"afterwatt {version('afterwatt')}\n", "")


def test_python_m_cli_is_afterwatt(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "afterwatt.cli", "policy", "list"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "least-outstanding *" in done.stdout


def test_no_command_prints_the_help_and_is_an_error(afterwatt):
    for words in ([], ["hw"], ["trace"]):
        said = afterwatt(*words)
        assert (said.code, said.out) == (2, "")
        assert "Commands:" in said.err

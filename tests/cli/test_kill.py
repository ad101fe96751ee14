"""Signals from outside: what is killed leaves nothing that looks finished, what is interrupted nothing at all."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.running import elsewhere, finished_in, left_in, script

LONG = ("--trace", "synth:chat?n=400000&rate=0.3", "--no-report")


def stopped(folder: Path, how: signal.Signals, *words: str, alone: bool = False) -> int:
    """Start a run in a process group of its own, stop it once it has begun to write, and give how it ended."""
    process = subprocess.Popen(
        [*script("simulate"), *LONG, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob("runs/**/.*partial*/requests.parquet")):
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (os.kill if alone else os.killpg)(process.pid, how)
    ended = process.wait(timeout=60)
    while how != signal.SIGKILL and _anybody_in(process.pid):  # joblib's tracker ends when it sees that nobody is left
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return ended


def _anybody_in(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("words", [(), ("--hw", "m40", "--hw", "t4")], ids=["run", "study"])
def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path: Path, words):
    assert stopped(tmp_path, signal.SIGKILL, *words) == -signal.SIGKILL
    assert finished_in(tmp_path) == []
    said = elsewhere(tmp_path, "afterwatt", "report", "runs")
    assert said.code == 2, "and no command takes it for a result"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
@pytest.mark.parametrize(
    "words",
    [(), ("--hw", "m40", "--hw", "t4"), pytest.param(("--hw", "m40", "--hw", "t4", "--jobs", "2"), id="jobs")],
)
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, words, how: signal.Signals):
    """Ctrl-C, and a terminal or a batch system that closes, tell the whole process group, workers included."""
    assert stopped(tmp_path, how, *words) == 130
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("words", [(), ("--hw", "m40", "--hw", "t4", "--jobs", "2")], ids=["run", "jobs"])
def test_a_run_that_alone_is_told_to_end_takes_its_workers_along(tmp_path: Path, words):
    assert stopped(tmp_path, signal.SIGTERM, *words, alone=True) == 130
    assert left_in(tmp_path) == []


def test_a_study_clears_what_a_killed_one_left_and_goes_on(tmp_path: Path):
    words = ("--hw", "m40", "--hw", "t4", "--out", "runs/s")
    assert stopped(tmp_path, signal.SIGKILL, *words, "--jobs", "2") == -signal.SIGKILL
    assert [place for place in left_in(tmp_path) if "partial" in place]
    said = elsewhere(tmp_path, "simulate", "--trace", "synth:chat?n=20&rate=0.3", "--no-report", *words)
    assert said.code == 0, said.err
    assert [place for place in left_in(tmp_path) if "partial" in place] == []

"""Signals from outside: what is killed leaves nothing that looks finished, what is interrupted nothing at all."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.running import elsewhere, finished_in, left_in, script

LONG = ("--trace", "synth:chat?n=400000&rate=0.3", "--no-report")


def stopped(folder: Path, how: signal.Signals, *words: str) -> int:
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
    os.killpg(process.pid, how)
    return process.wait(timeout=60)


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

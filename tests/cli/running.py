"""Commands in processes of their own, and what they leave behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Said(NamedTuple):
    """How a command ended, and what it left on the screen."""

    code: int
    out: str
    err: str


def script(name: str) -> list[str]:
    """The command line of a script, installed or not."""
    installed = Path(sys.executable).with_name(name)
    if installed.exists():
        return [str(installed)]
    called = {"simulate": "simulate_main", "validate": "validate_main"}.get(name, "main")
    return [sys.executable, "-c", f"from afterwatt.cli.main import {called}; {called}()"]


def elsewhere(folder: Path, name: str, *words: object, **environment: str) -> Said:
    """Run a script in a process of its own, with pipes for streams."""
    done = subprocess.run(
        [*script(name), *map(str, words)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def left_in(folder: Path) -> list[str]:
    """Everything that stands in a folder, hidden things too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def finished_in(folder: Path) -> list[str]:
    """Everything that looks like a finished run, study or page."""
    wanted = ("manifest.json", "summary.json", "study.json", "report.html")
    return [place for place in left_in(folder) if place.endswith(wanted)]

"""Compiled modules run only where they are what the sources say, and then to the same bytes."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import repeat
from pathlib import Path

import pytest

from afterwatt.compile import MODULES, make, missing, sources
from afterwatt.compiled import HOME, IN_USE, RECORD, examine, folder_of, sha256
from benchmarks.golden import WORLDS, differences, run_world

SOURCES = ("policies/kv.py", "sim/worker.py")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A package of two sources, compiled."""
    folder = folder_of(tmp_path)
    for name in SOURCES:
        for path in (tmp_path / name, folder / "afterwatt" / name.replace(".py", EXTENSION_SUFFIXES[0])):
            path.parent.mkdir(parents=True)
            path.write_text(f"# {name}")
    (folder / f"afterwatt__mypyc{EXTENSION_SUFFIXES[0]}").touch()
    (folder / RECORD).write_text("".join(f"{sha256(tmp_path / name)} {name}\n" for name in SOURCES))
    return tmp_path


def test_what_is_current_is_used(home: Path):
    standing = examine(home)
    assert set(standing.places) == {"afterwatt.policies.kv", "afterwatt.sim.worker", "afterwatt__mypyc"}
    assert all(Path(place).is_file() for place in standing.places.values())
    assert standing.why == "compiled: 2 modules"


@pytest.mark.parametrize("name", SOURCES)
def test_one_edited_source_and_all_are_interpreted(home: Path, name: str):
    (home / name).write_text("# another")
    standing = examine(home)
    assert not standing.places
    assert name in standing.why


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_is_gone_or_a_record_that_is_damaged_is_no_match(home: Path, name: str):
    (home / name).unlink()
    assert not examine(home).places
    (folder_of(home) / RECORD).write_text("no record at all")
    assert not examine(home).places
    (folder_of(home) / RECORD).unlink()
    assert not examine(home).places


def said(program: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def test_it_can_be_switched_off():
    program = (
        "import afterwatt.policies.kv as kv; from afterwatt.compiled import IN_USE; print(kv.__file__, IN_USE.why)"
    )
    assert "kv.py interpreted: AFTERWATT_COMPILED=0" in said(program, AFTERWATT_COMPILED="0")


def test_the_record_names_what_the_compiler_may_have_copied_from():
    named = sources(HOME)
    assert set(MODULES) <= set(named)
    assert "policies/sizes.py" in named  # from which policies/scheduler.py takes names
    assert all((HOME / name).is_file() for name in named)


def test_without_a_compiler_nothing_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    lack = missing()
    assert lack is not None
    assert "apt-get install" in lack
    assert make(force=True) == ({}, f"interpreted: {lack}")


@pytest.mark.slow
@pytest.mark.skipif(not IN_USE.places, reason=IN_USE.why)
def test_compiled_and_interpreted_worlds_are_the_same_to_the_byte():
    simulate = str(Path(sys.executable).with_name("simulate"))
    commands = [["env", f"AFTERWATT_COMPILED={switch}", simulate] for switch in ("0", "1")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [dict(zip(WORLDS, pool.map(run_world, WORLDS, repeat(command)), strict=True)) for command in commands]
    assert not any("error" in world for world in found[1].values())
    assert differences(*found) == []

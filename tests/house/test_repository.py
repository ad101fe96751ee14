"""The repository: what is in it, what it depends on, and that its front doors open."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("cli", "engine", "fidelity", "hwprofiles", "modelspecs", "policies", "reports", "sim", "studies", "traces")
LARGEST_BYTES = 1_000_000
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = map(Requirement, lines)
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


NEEDED = requirements(PROJECT["dependencies"])
NEEDED_BY_THE_ENGINE = requirements(PROJECT["optional-dependencies"]["engine"])
NEEDED_FOR_TESTS = requirements(PROJECT["optional-dependencies"]["test"]) | NEEDED_BY_THE_ENGINE
CALLED = {"pynvml": "nvidia-ml-py"}
"""Distributions that are imported under another name."""


def imported(folder: Path) -> set[str]:
    """Top-level names that modules import, wherever in the module."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names


def foreign(names: set[str]) -> set[str]:
    return {canonicalize_name(CALLED.get(name, name)) for name in names - set(sys.stdlib_module_names) - {"afterwatt"}}


def tracked() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    return [path for name in listing.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_is_large():
    """Clones stay quick; data that big belongs to whoever publishes it.

    The weights of the tiny models are ours: nobody else publishes them, and tests cannot spend an hour on training.
    """
    weights = {path for path in tracked() if path.match("tests/data/tiny-llama*/model.safetensors")}
    assert [path for path in tracked() if path not in weights and path.stat().st_size > LARGEST_BYTES] == []
    assert sum(path.stat().st_size for path in weights) < 20_000_000


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    used = foreign(set().union(*(imported(ROOT / package) for package in PACKAGES)))
    assert used == set(NEEDED) | set(NEEDED_BY_THE_ENGINE)


def test_only_the_engine_needs_its_extra():
    """`simulate` installs and runs without torch."""
    for package in set(PACKAGES) - {"engine"}:
        assert not foreign(imported(ROOT / package)) & set(NEEDED_BY_THE_ENGINE)


def test_what_tests_benchmarks_and_docs_import_is_declared():
    folders = [ROOT / name for name in ("tests", "benchmarks", "docs")]
    used = foreign(set().union(*map(imported, folders)))
    helpers = {canonicalize_name(path.stem) for folder in folders for path in folder.rglob("*.py")}
    assert used - helpers - {"tests", "benchmarks"} <= set(NEEDED) | set(NEEDED_FOR_TESTS)


def test_ci_tests_with_versions_that_the_project_admits():
    """A pin for everything declared, inside the declared range: else CI tests something that nobody gets."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = requirements(lines)
    for name, wanted in (NEEDED | NEEDED_FOR_TESTS).items():
        if name == "afterwatt":
            continue
        (pin,) = pins[name].specifier
        assert pin.operator == "=="
        assert wanted.specifier.contains(pin.version), f"{pins[name]} is outside of {wanted}"


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    # Not the environment of a make that runs these tests.
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_make_alone_lists_what_it_can_do():
    text = make().stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert {line.split()[1] for line in text.splitlines()} == set(phony[1].split())


def test_an_old_python_is_refused_with_the_way_out(tmp_path: Path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = make("install", f"PYTHON={old}", cwd=tmp_path)
    assert result.returncode == 2
    assert "needs Python 3.11 or newer" in result.stderr
    assert "make PYTHON=" in result.stderr


def test_ci_runs_from_a_clean_clone_by_name():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    for target in ("dev", "lint", "test"):
        assert f"make --no-print-directory {target}" in text


@pytest.mark.slow
def test_the_demo_works_in_a_fresh_clone_in_a_folder_with_spaces(tmp_path: Path):
    """The promise of the first screen, kept in a copy of what is under version control and nothing else."""
    clone = tmp_path / "a fresh clone"
    for path in tracked():
        if path.relative_to(ROOT).parts[0] != "tests":
            target = clone / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    first = make("demo", f"PYTHON={sys.executable}", cwd=clone)
    assert first.returncode == 0, first.stdout + first.stderr
    report = clone / "demo" / "report.html"
    assert report.is_file()
    assert "report.html" in first.stdout
    again = make("demo", cwd=clone)  # nothing is installed twice, and an earlier demo is no obstacle
    assert again.returncode == 0, again.stdout + again.stderr
    assert "installing" not in again.stdout

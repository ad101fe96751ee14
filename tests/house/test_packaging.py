"""What is built is what was written: no file missing, none too many, and it runs away from the sources."""

import email
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"cli", "engine", "fidelity", "hwprofiles", "modelspecs", "policies", "reports", "sim", "studies", "traces"}


LEFT_OUT = tuple(
    f"afterwatt{entry}"
    for entry in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]["exclude"]
)
"""Files and folders, at the places that they would have in the wheel."""


def left_out(path: str) -> bool:
    return any(path == entry or path.startswith(f"{entry}/") for entry in LEFT_OUT)


def run(*command: str | Path, **options) -> str:
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def written() -> set[str]:
    """Every file of the packages, as a clone would have it, at its place in the wheel."""
    packages = {
        f"afterwatt/{path.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    own = (path.name for path in (ROOT / "src" / "afterwatt").iterdir() if path.is_file())
    return packages | {f"afterwatt/{name}" for name in own}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, and the wheel built from it rather than from the tree."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked by pip, its dependencies taken from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "-qq", "install", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


def test_the_wheel_has_one_top_level_name(wheel: Path):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    (info,) = (name for name in names if name.endswith(".dist-info"))
    assert names == {"afterwatt", info}
    assert info.startswith("afterwatt-")


def test_the_wheel_holds_every_file_of_the_packages_but_those_of_maintainers(wheel: Path):
    """Profiles, templates and the sample are files too: forgetting one shows only where it is installed."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {name for name in written() if not left_out(name)}


def test_left_out_of_the_wheel_is_what_nothing_in_it_imports():
    """All of it and no more: of `fidelity/`, whatever commands, bodies and studies do not lead to."""
    graph = grimp.build_graph("afterwatt")
    reached: set[str] = set()
    ahead = {name for name in graph.modules if not name.startswith("afterwatt.fidelity")}
    while ahead:
        reached |= ahead
        ahead = {found for name in ahead for found in graph.find_modules_directly_imported_by(name)} - reached
    paths = {name: name.replace(".", "/") for name in graph.modules if not graph.find_children(name)}
    assert {name for name, path in paths.items() if left_out(path) or left_out(f"{path}.py")} == set(paths) - reached
    for entry in LEFT_OUT:
        assert (ROOT / entry.removeprefix("afterwatt/")).exists(), f"{entry} is left out and not there"


def test_all_of_the_fidelity_package_that_is_in_the_wheel_imports(installed: Path, tmp_path: Path):
    program = """
import importlib, pkgutil
import afterwatt.fidelity as package
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    print(importlib.import_module(found.name).__file__)
"""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    lines = run(sys.executable, "-c", program, cwd=tmp_path, env=environment).splitlines()
    assert len(lines) > 30
    assert all(line.startswith(str(installed)) for line in lines), lines


def test_the_package_says_that_it_is_typed(wheel: Path):
    assert "afterwatt/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_the_source_distribution_holds_the_packages_and_what_builds_them(built: Path):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    mapped = {"afterwatt/" + name.removeprefix("src/afterwatt/") for name in names if "/" in name}
    assert mapped == written()
    assert {name for name in names if "/" not in name} == {"PKG-INFO", ".gitignore", "README.md", "pyproject.toml"}


def test_the_metadata_says_what_python_it_needs(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_installed_copy_finds_its_own_data(installed: Path, tmp_path: Path):
    program = f"names = {sorted(PACKAGES)}"
    program += """
import importlib
for name in names:
    print(importlib.import_module(f"afterwatt.{name}").__file__)
from afterwatt.hwprofiles.catalogue import load_device, load_site
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.modelspecs import load_model
from afterwatt.traces.sample import sample_path
load_stack(load_device("m40")), load_site("world"), load_model("llama-2-7b")
assert sample_path().is_file()
print(sample_path())
"""
    # The editable install of the sources stays on the path behind it; PYTHONPATH comes first.
    environment = os.environ | {"PYTHONPATH": str(installed)}
    lines = run(sys.executable, "-c", program, cwd=tmp_path, env=environment).splitlines()
    assert len(lines) == len(PACKAGES) + 1
    assert all(line.startswith(str(installed)) for line in lines), lines


@pytest.mark.parametrize("script", ["simulate", "afterwatt"])
def test_the_installed_commands_answer_from_anywhere(script: str, installed: Path, tmp_path: Path):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    assert "usage" in run(installed / "bin" / script, "--help", cwd=tmp_path, env=environment).lower()

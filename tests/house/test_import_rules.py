"""The arrows between the packages hold, and the tool that says so does notice when they do not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cli", "engine", "fidelity", "hwprofiles", "modelspecs", "policies", "reports", "sim", "studies", "traces")
LINT = Path(sys.executable).with_name("lint-imports")

# Who may import whom, from the table in docs/architecture.md.
MAY_IMPORT = {
    "cli": {"engine", "fidelity", "hwprofiles", "modelspecs", "policies", "reports", "sim", "studies", "traces"},
    "studies": {"engine", "fidelity", "hwprofiles", "modelspecs", "policies", "reports", "sim", "traces"},
    "fidelity": {"engine", "hwprofiles", "modelspecs", "policies", "reports", "sim", "traces"},
    "engine": {"hwprofiles", "modelspecs", "policies", "reports", "traces"},
    "sim": {"hwprofiles", "modelspecs", "policies", "reports", "traces"},
    "reports": {"hwprofiles"},
    "policies": set(),
    "traces": set(),
    "hwprofiles": {"modelspecs"},
    "modelspecs": set(),
}
FORBIDDEN = [(a, b) for a in PACKAGES for b in PACKAGES if a != b and b not in MAY_IMPORT[a]]
FORBIDDEN += [(a, "simpy") for a in PACKAGES if a != "sim"]
FORBIDDEN += [(a, "torch") for a in PACKAGES if a != "engine"] + [
    ("engine/runtime", "torch"),
    ("engine/runtime", "engine.model"),
]


def dotted(name: str) -> str:
    """Give a name as it is imported: ours stand under one."""
    return f"afterwatt.{name}" if name.split(".", maxsplit=1)[0] in PACKAGES else name


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    return subprocess.run([LINT, "--no-cache"], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the packages in which a test may do what it likes."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    home = tmp_path / "src" / "afterwatt"
    home.mkdir(parents=True)
    for module in (ROOT / "src" / "afterwatt").glob("*.py"):
        shutil.copy(module, home)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, home / package, ignore=shutil.ignore_patterns("__pycache__", "data"))
    return tmp_path


def test_the_arrows_hold():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert " 0 broken" in result.stdout


def test_every_allowed_import_is_allowed(house: Path):
    """Else the rules are stricter than the design, and somebody will loosen them in a hurry."""
    for package, others in MAY_IMPORT.items():
        imports = "".join(f"import {dotted(other)}\n" for other in sorted(others))
        house.joinpath("src/afterwatt", package, "allowed.py").write_text(imports)
    result = lint(house)
    assert result.returncode == 0, result.stdout


def test_every_forbidden_import_is_noticed(house: Path):
    """A module of its own for each, so that every one is named in the report."""
    for package, other in FORBIDDEN:
        path = house / "src" / "afterwatt" / package / f"wrong_{other.replace('.', '_')}.py"
        path.write_text(f"import {dotted(other)}\n")
    result = lint(house)
    assert result.returncode != 0
    missed = [
        (a, b)
        for a, b in FORBIDDEN
        if f"{dotted(a.replace('/', '.'))}.wrong_{b.replace('.', '_')} -> {dotted(b)}" not in result.stdout
    ]
    assert not missed, result.stdout


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("policies", ("simpy", "torch", "sim", "hwprofiles", "modelspecs", "reports", "traces")),
        ("traces", ("simpy", "torch", "pyarrow", "sim", "hwprofiles", "modelspecs", "reports", "policies")),
        ("hwprofiles", ("simpy", "torch", "pandas", "pyarrow", "plotly", "sim", "reports", "traces", "policies")),
        ("modelspecs", ("simpy", "torch", "hwprofiles", "sim", "reports", "traces", "policies")),
        ("reports", ("simpy", "torch", "pandas", "plotly", "sim", "modelspecs", "traces", "policies")),
        ("sim", ("torch", "pandas", "plotly", "cli")),
        ("engine", ("torch", "simpy", "pandas", "plotly", "sim", "cli")),
        ("engine.runtime", ("torch", "simpy", "pandas", "plotly", "sim", "cli")),
        ("fidelity", ("torch", "pandas", "plotly", "pyarrow", "scipy", "cli")),
        ("studies", ("torch", "numpy", "pandas", "plotly", "pyarrow", "pydantic", "scipy", "simpy", "cli")),
        ("cli", ("torch", "pandas", "plotly", "pyarrow", "scipy")),
    ],
)
def test_importing_a_package_loads_nothing_it_should_not(package: str, absent: tuple[str, ...]):
    """What is loaded, not what is written: `import policies` must be cheap and clean in an engine too."""
    names = tuple(map(dotted, absent))
    program = f"import afterwatt.{package}, sys; print(*sorted(name for name in {names!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []

"""Change one operator, number or condition at a time, and count the changes that no test notices.

    pip install cosmic-ray            # in any environment; --python names the one in which the tests run
    python benchmarks/mutants.py [--sample 150] [--seed 1] [--only sim/meter.py] [--jobs 1] [--show] [--python ...]

Cosmic Ray makes the mutants: one, drawn by the seed, for each of a sample of places in the brain, the virtual body and
the physics. Each runs in a copy of the checkout against the tests of its package, those of its own module first.
Printed are the share that is killed, with its 95 % interval (Wilson), and every survivor with its line. A survivor is
either a missing test or a change that changes nothing: somebody has to look. It takes about half a minute per mutant,
and is part of no other run.
"""

import argparse
import importlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
TARGETS: Final = ("policies", "sim", "hwprofiles")
PHYSICS: Final = (
    *("carbon", "cost", "deployment", "effort", "embodied", "fabric", "kernels", "ledger", "links", "lives"),
    *("power", "rates", "replicas", "roofline", "serving", "step"),
)
"""Modules of `hwprofiles` that compute; the others read files."""
TESTS: Final = {
    "policies": ("tests/policies", "tests/sim", "tests/oracle"),
    "sim": ("tests/sim", "tests/oracle", "tests/policies"),
    "hwprofiles": ("tests/hwprofiles", "tests/oracle", "tests/sim"),
}
ELSEWHERE: Final = {"sim/replay.py": ("tests/engine/test_decision_replay.py", "tests/engine/test_two_bodies.py")}
"""Tests of modules that lie in none of these."""
LEFT_OUT: Final = ("tests/sim/test_streaming.py", "tests/oracle/test_queues.py")
"""Slow for what they would notice that others do not."""
TIMEOUT_S: Final = 400.0
CRUDE: Final = ("_RShift", "_LShift", "_BitOr", "_BitXor", "_Pow", "_Mod")
"""Replacements that mostly raise an error at once, on floats for example: they would flatter the share."""
PLUGIN: Final = """
from hypothesis import Phase, settings
settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), derandomize=True, deadline=None)
settings.load_profile("mutants")
"""
"""What fails need not be made small."""


Way = tuple[str, dict[str, Any], int]
"""An operator of Cosmic Ray, its arguments, and at which of its places in the module."""


class Place(NamedTuple):
    """Where a mutation could be made: in which module, from (line, column), and the ways to make one."""

    module: str
    start: tuple[int, int]
    ways: tuple[Way, ...]


class Verdict(NamedTuple):
    """What came of one mutant."""

    module: str
    line: int
    change: str
    killed: bool
    seconds: float


def cosmic_ray(module: str) -> Any:  # noqa: ANN401 - a module, of a package that is not among the project's own needs
    """Import a module of Cosmic Ray, or say how to get it."""
    try:
        return importlib.import_module(f"cosmic_ray.{module}")
    except ImportError:
        sys.exit("this needs Cosmic Ray: pip install cosmic-ray")


def modules(only: Sequence[str]) -> list[str]:
    """Name the modules to change."""
    names = [path.relative_to(ROOT).as_posix() for target in TARGETS for path in sorted((ROOT / target).glob("*.py"))]
    physics = {f"hwprofiles/{name}.py" for name in PHYSICS}
    names = [name for name in names if not name.startswith("hwprofiles/") or name in physics]
    return [name for name in names if not only or name in only]


def places(names: Sequence[str]) -> list[Place]:
    """List all places where Cosmic Ray knows a mutation."""
    found: dict[tuple[str, tuple[int, int]], list[Way]] = defaultdict(list)
    for item in cosmic_ray("commands.init")._all_work_items([ROOT / name for name in names], {}):
        (spec,) = item.mutations
        if spec.operator_name.endswith(CRUDE):
            continue
        module = Path(spec.module_path).relative_to(ROOT).as_posix()
        found[module, tuple(spec.start_pos)].append((spec.operator_name, dict(spec.operator_args), spec.occurrence))
    return [Place(module, start, tuple(ways)) for (module, start), ways in sorted(found.items())]


def worth_it(place: Place) -> bool:
    """Tell whether a place is one of logic: annotations, constants of a module and decorators are not."""
    line = (ROOT / place.module).read_text(encoding="utf-8").splitlines()[place.start[0] - 1]
    before = line[: place.start[1]]
    in_annotation = "|" in line[place.start[1] : place.start[1] + 2] and (":" in before or "->" in before)
    return not in_annotation and not line.startswith("@") and "lru_cache" not in line


def mutated(place: Place, way: Way) -> str | None:
    """Return the module's text with one change."""
    name, arguments, occurrence = way
    operator = cosmic_ray("plugins").get_operator(name)(**arguments)
    text: str | None = cosmic_ray("mutating").mutate_code(
        (ROOT / place.module).read_text(encoding="utf-8").encode(), operator, occurrence
    )
    return text


def tests_of(module: str) -> list[str]:
    """Order the tests of a module's package: those that bear its name first."""
    package, stem = module.split("/", maxsplit=1)[0], Path(module).stem
    own = [f"tests/{package}/test_{stem}.py"]
    return [name for name in own if (ROOT / name).is_file()] + list(ELSEWHERE.get(module, ())) + list(TESTS[package])


def passes(module: str, copy: Path, python: str) -> bool:
    """Tell whether the tests of a module pass in a copy of the checkout; what never ends does not."""
    left_out = [f"--ignore={name}" for name in LEFT_OUT]
    command = [python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "mutant_plugin", *left_out]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(copy / "src"), str(copy))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "AFTERWATT_COMPILED": "0",
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            [*command, *tests_of(module)],
            cwd=copy,
            env=environment,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            # A shell in the background hands down that Ctrl-C is ignored; some tests send it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def run_mutant(place: Place, way: Way, copy: Path, python: str) -> Verdict | None:
    """Run the tests against one mutant in a copy of the checkout; None where the change changes no text."""
    text = mutated(place, way)
    original = (ROOT / place.module).read_text(encoding="utf-8")
    if text is None or text == original:
        return None
    line = place.start[0]
    change = text.splitlines()[line - 1].strip() if line <= len(text.splitlines()) else ""
    target = copy / place.module
    target.write_text(text, encoding="utf-8")
    began = time.monotonic()
    try:
        killed = not passes(place.module, copy, python)
    finally:
        target.write_text(original, encoding="utf-8")
    return Verdict(place.module, line, change, killed, time.monotonic() - began)


def copies(count: int, folder: Path) -> Iterator[Path]:
    """Make copies of the checkout to be changed."""
    for number in range(count):
        copy = folder / str(number)
        shutil.copytree(
            ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv*", ".mypy_cache", "runs")
        )
        (copy / "mutant_plugin.py").write_text(PLUGIN, encoding="utf-8")
        yield copy


def wilson(killed: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z = 1.96
    share, part = killed / total, z * z / total
    middle = (share + part / 2.0) / (1.0 + part)
    half = z * math.sqrt(share * (1.0 - share) / total + part / (4.0 * total)) / (1.0 + part)
    return middle - half, middle + half


def report(verdicts: Sequence[Verdict]) -> None:
    """Print shares by package, and the survivors."""
    for package in TARGETS:
        mine = [verdict for verdict in verdicts if verdict.module.startswith(package)]
        if mine:
            print(f"{package:12} {sum(verdict.killed for verdict in mine):4} of {len(mine):4} killed")
    killed = sum(verdict.killed for verdict in verdicts)
    low, high = wilson(killed, len(verdicts))
    print(
        f"all          {killed:4} of {len(verdicts):4} killed: {killed / len(verdicts):.1%} ({low:.0%} to {high:.0%})"
    )
    for verdict in verdicts:
        if not verdict.killed:
            print(f"survived  {verdict.module}:{verdict.line}  {verdict.change}")


def main() -> int:
    """Draw the mutants, run them, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--show", action="store_true", help="print each verdict as it comes")
    said = parser.parse_args()
    chance = random.Random(said.seed)
    known = [place for place in places(modules(said.only)) if worth_it(place)]
    drawn = [(place, chance.choice(place.ways)) for place in chance.sample(known, min(said.sample, len(known)))]
    print(f"{len(known)} places; {len(drawn)} drawn", flush=True)
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(said.jobs) as pool:
        lanes = list(copies(said.jobs, Path(folder)))
        for package in sorted({place.module.split("/")[0] for place, _ in drawn}):
            if not passes(f"{package}/__init__.py", lanes[0], said.python):
                sys.exit(f"the tests of {package} fail as the code stands: every mutant would seem killed")

        def work(lane: int) -> None:
            for place, way in drawn[lane :: said.jobs]:
                verdict = run_mutant(place, way, lanes[lane], said.python)
                if verdict is not None:
                    verdicts.append(verdict)
                    if said.show or not verdict.killed:
                        state = "killed" if verdict.killed else "SURVIVED"
                        print(
                            f"{state} {verdict.seconds:.0f} s {verdict.module}:{verdict.line} {verdict.change}",
                            flush=True,
                        )

        list(pool.map(work, range(said.jobs)))
    report(sorted(verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main())

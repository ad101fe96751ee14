"""Change one operator, number or condition at a time, and count the changes that no test notices.

    pip install cosmic-ray coverage   # Cosmic Ray in any environment; --python names the one in which the tests run,
                                      # and where coverage must be importable
    python benchmarks/mutants.py [--sample 150] [--seed 1] [--only sim/meter.py] [--jobs 1] [--show] [--python ...]

Cosmic Ray makes the mutants: one, drawn by the seed, for each of a sample of places in the brain, the virtual body and
the physics. One run of the tests that are not slow notes which test comes through which line (--map keeps it for the
next time). Each mutant then runs in a copy of the checkout against the tests that come through its line, the quickest
first. Printed are the share that is killed, with its 95 % interval (Wilson), and every survivor with its line. A
survivor is either a missing test or a change that changes nothing: somebody has to look. It is part of no other run.
"""

import argparse
import importlib
import json
import math
import os
import random
import shutil
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
    *("capping", "carbon", "cost", "deployment", "draws", "effort", "embodied", "experts", "fabric", "kernels"),
    *("ledger", "links", "lives", "mixers", "operations", "power", "rates", "replicas", "residence", "roofline"),
    *("serving", "step"),
)
"""Modules of `hwprofiles` that compute; the others read files."""
TESTS: Final = (
    *("tests/policies", "tests/sim", "tests/oracle", "tests/hwprofiles"),
    *("tests/engine/test_decision_replay.py", "tests/engine/test_two_bodies.py"),
)
LEFT_OUT: Final = ("tests/sim/test_streaming.py", "tests/oracle/test_queues.py", "tests/policies/caching")
"""Slow for what they would notice that others do not, or of modules that are not changed."""
FIRST: Final = 60
"""So many tests are tried in the first process; most mutants need no second one."""
TIMEOUT_S: Final = 400
CRUDE: Final = ("_RShift", "_LShift", "_BitOr", "_BitXor", "_Pow", "_Mod")
"""Replacements that mostly raise an error at once, on floats for example: they would flatter the share."""
PLUGIN: Final = """
from hypothesis import HealthCheck, Phase, settings
settings.register_profile(
    "mutants", phases=(Phase.explicit, Phase.generate), derandomize=True, deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutants")
"""
"""What fails need not be made small, and a loaded machine is no failure."""
MAPPER: Final = """
import json, os
import coverage, pytest
from hypothesis import settings
cover = coverage.Coverage(data_file=None, source=["policies", "sim", "hwprofiles"])
cover.start()
seconds = {}
def pytest_collection_modifyitems(items):
    for item in items:
        test = getattr(item.obj, "__func__", item.obj)
        said = getattr(test, "_hypothesis_internal_use_settings", None)
        if said is not None and said.max_examples > 10:
            test._hypothesis_internal_use_settings = settings(said, max_examples=10)
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    cover.switch_context(item.nodeid)
    yield
    cover.switch_context("")
def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        seconds[report.nodeid] = report.duration
def pytest_sessionfinish():
    cover.stop()
    data, lines = cover.get_data(), {}
    for path in data.measured_files():
        lines[os.path.relpath(path)] = {
            line: [name for name in names if name in seconds] for line, names in data.contexts_by_lineno(path).items()
        }
    with open("map.json", "w") as file:
        json.dump({"seconds": seconds, "lines": lines}, file)
"""
"""Which test comes through which line, and how long each takes; a few examples of a property tell it."""
SERVER: Final = """
import json, os, signal, sys
import numpy, pandas, pyarrow, pydantic, pytest, scipy.optimize
signal.signal(signal.SIGINT, signal.default_int_handler)
for line in sys.stdin:
    timeout_s, arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.alarm(timeout_s)
        code = pytest.main(arguments)
        sys.stdout.flush()
        os._exit(int(code))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Reads [timeout in s, arguments of pytest] per line, and writes the exit code; 0 s are no limit."""

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


class Choice:
    """Which tests come through which line, the quickest first.

    Args:
        noted: What the mapper wrote.
    """

    def __init__(self, noted: dict[str, Any]) -> None:
        self._seconds: dict[str, float] = noted["seconds"]
        self._lines: dict[str, dict[int, list[str]]] = {
            module: {int(line): names for line, names in lines.items()} for module, lines in noted["lines"].items()
        }

    def quickest(self) -> list[str]:
        """List some tests that take no time."""
        return sorted(self._seconds, key=self._seconds.__getitem__)[:FIRST]

    def of(self, place: Place) -> list[str]:
        """List the tests of a place; where no test notes the line, those of the nearest lines above and below."""
        lines = {line: names for line, names in self._lines.get(place.module, {}).items() if names}
        near = {place.start[0]} & lines.keys() or {
            *sorted(line for line in lines if line < place.start[0])[-1:],
            *sorted(line for line in lines if line > place.start[0])[:1],
        }
        return sorted({name for line in near for name in lines[line]}, key=self._seconds.__getitem__)


class Runner:
    """A process in a copy of the checkout that has imported what tests need, and forks for each run of tests.

    Args:
        copy: the copy.
        python: the interpreter with the tests' environment.
    """

    def __init__(self, copy: Path, python: str) -> None:
        self.copy, self.serial = copy, 1
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(copy / "src"), str(copy), os.environ.get("PYTHONPATH", ""))),
            "AFTERWATT_COMPILED": "0",
            "OMP_NUM_THREADS": "1",
            "CI": "1",  # else tests/conftest.py has a profile of its own
        }
        (copy / "mutant_plugin.py").write_text(PLUGIN, encoding="utf-8")
        (copy / "mutant_mapper.py").write_text(MAPPER + PLUGIN, encoding="utf-8")
        pipe = subprocess.PIPE
        # A shell in the background hands down that Ctrl-C is ignored; some tests send it.
        self._process = subprocess.Popen(
            [python, "-c", SERVER], cwd=copy, env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def run(self, plugin: str, arguments: Sequence[str], timeout_s: int) -> int:
        """Run pytest and return its exit code; negative where it did not end by itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = ["-q", "-p", "no:cacheprovider", "-p", plugin, *arguments]
        self._process.stdin.write(json.dumps([timeout_s, command]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def map(self) -> dict[str, Any]:
        """Run the tests once, and note which of them comes through which line."""
        left_out = [f"--ignore={name}" for name in LEFT_OUT]
        if self.run("mutant_mapper", ["-m", "not slow", *left_out, *TESTS], 0):
            print("tests fail as the code stands, and count for nothing", flush=True)
        noted: dict[str, Any] = json.loads((self.copy / "map.json").read_text(encoding="utf-8"))
        return noted

    def passes(self, tests: Sequence[str]) -> bool:
        """Tell whether tests pass."""
        for some in (tests[:FIRST], tests[FIRST:]):
            code = self.run("mutant_plugin", ["-x", *some], TIMEOUT_S) if some else 0
            if code == 4:  # a test is not there: its file does not load, or data that names its cases has changed
                code = self.run("mutant_plugin", ["-x", *sorted({name.partition("::")[0] for name in some})], TIMEOUT_S)
            if code != 0:
                return False
        return True


def run_mutant(place: Place, way: Way, runner: Runner, tests: Sequence[str]) -> Verdict | None:
    """Run tests against one mutant in a copy of the checkout; None where the change changes no text.

    Args:
        place: Where.
        way: What is changed there.
        runner: Of a copy.
        tests: Names of tests, as pytest has them.
    """
    text = mutated(place, way)
    original = (ROOT / place.module).read_text(encoding="utf-8")
    if text is None or text == original:
        return None
    line = place.start[0]
    change = text.splitlines()[line - 1].strip() if line <= len(text.splitlines()) else ""
    target = runner.copy / place.module
    before_s = target.stat().st_mtime
    target.write_text(text, encoding="utf-8")
    os.utime(target, (runner.serial, runner.serial))  # bytecode is told by the second and the size of its source
    runner.serial += 1
    began = time.monotonic()
    try:
        killed = not runner.passes(tests)
    finally:
        target.write_text(original, encoding="utf-8")
        os.utime(target, (before_s, before_s))
    return Verdict(place.module, line, change, killed, time.monotonic() - began)


def copies(count: int, folder: Path) -> Iterator[Path]:
    """Make copies of the checkout to be changed."""
    for number in range(count):
        copy = folder / str(number)
        shutil.copytree(
            ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv*", ".mypy_cache", "runs")
        )
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
    parser.add_argument("--map", type=Path, help="a file that keeps which test comes through which line")
    parser.add_argument("--show", action="store_true", help="print each verdict as it comes")
    said = parser.parse_args()
    chance = random.Random(said.seed)
    known = [place for place in places(modules(said.only)) if worth_it(place)]
    drawn = [(place, chance.choice(place.ways)) for place in chance.sample(known, min(said.sample, len(known)))]
    print(f"{len(known)} places; {len(drawn)} drawn", flush=True)
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(said.jobs) as pool:
        lanes = [Runner(copy, said.python) for copy in copies(said.jobs, Path(folder))]
        if said.map is None or not said.map.is_file():
            noted = lanes[0].map()
            if said.map is not None:
                said.map.write_text(json.dumps(noted), encoding="utf-8")
        else:
            noted = json.loads(said.map.read_text(encoding="utf-8"))
        choice = Choice(noted)
        if not all(runner.passes(choice.quickest()) for runner in lanes):
            sys.exit("tests fail as the code stands: every mutant would seem killed")

        def work(lane: int) -> None:
            for place, way in drawn[lane :: said.jobs]:
                verdict = run_mutant(place, way, lanes[lane], choice.of(place))
                if verdict is not None:
                    verdicts.append(verdict)
                    if said.show or not verdict.killed:
                        state = "killed" if verdict.killed else "SURVIVED"
                        print(
                            f"{state} {verdict.seconds:.0f} s {verdict.module}:{verdict.line} {verdict.change}",
                            flush=True,
                        )

        list(pool.map(work, range(said.jobs)))
        for runner in lanes:
            runner.close()
    report(sorted(verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a result depends on is in its name: the configuration, the data files, the sources, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from afterwatt.studies.identity import SOURCES, sources_digest

ROOT = Path(__file__).parents[2]
WORDS = ("--hw", "m40", "--hw", "t4", "--limit", "10", "--no-report", "--no-bounds", "--out", "s")


class Copy(NamedTuple):
    """The program in a folder of its own, where a test may change it."""

    package: Path
    work: Path

    def run(self, program: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(self.package.parent), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    def simulate(self) -> str:
        """Run the study, and give the remarks on it."""
        program = (
            f"from afterwatt.cli.main import run, simulate_app; raise SystemExit(run(simulate_app(), {list(WORDS)}))"
        )
        return self.run(program).stderr

    def joules(self) -> list[float]:
        """The energy that the study shows, cell by cell."""
        cells = json.loads((self.work / "s" / "study.json").read_text())["cells"]
        return [cell["metrics"]["energy_j.total"]["mean"] for cell in cells]

    def digest(self) -> str:
        return self.run("from afterwatt.studies.identity import sources_digest; print(sources_digest())").stdout.strip()


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    package, work = tmp_path / "elsewhere" / "afterwatt", tmp_path / "work"
    work.mkdir()
    package.mkdir(parents=True)
    for module in (ROOT / "src" / "afterwatt").glob("*.py"):
        shutil.copy(module, package)
    for name in (*SOURCES, "cli", "engine", "fidelity", "studies"):
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Copy(package, work)


def test_a_changed_power_file_makes_the_study_run_anew_and_say_so(copy: Copy):
    assert copy.simulate() == ""
    before = copy.joules()
    power = copy.package / "hwprofiles" / "data" / "power" / "anchors.toml"
    text = power.read_text()
    power.write_text(text)
    assert "kept: 2 of 2" in copy.simulate(), "written anew with the same content"
    power.write_text(
        text.replace("stream_frac = { value = 0.788", "stream_frac = { value = 0.7").replace(
            "value = 1,", "value = 0.96,"
        )
    )
    assert copy.simulate() == "run anew: 2 of 2 runs, as power/anchors.toml changed since\n"
    after = copy.joules()
    assert all(new != old for new, old in zip(after, before, strict=True))
    shutil.rmtree(copy.work / "s")
    copy.simulate()
    assert copy.joules() == after


def test_sources_count_by_their_content_and_not_by_their_time(copy: Copy):
    copy.simulate()
    for path in copy.package.rglob("*.py"):
        os.utime(path, (1, 1))
    assert copy.simulate().startswith("kept: 2 of 2")
    meter = copy.package / "sim" / "meter.py"
    meter.write_text(meter.read_text() + "\n")
    assert copy.simulate() == "run anew: 2 of 2 runs, as the program changed since\n"


def test_the_place_and_what_lies_beside_sources_do_not_matter(copy: Copy):
    (copy.package / "sim" / "worker.cpython-311.so").write_bytes(b"compiled")
    (copy.package / "cli" / "main.py").write_text("# what prints a result does not make it\n")
    assert copy.digest() == sources_digest()
    (copy.package / "policies" / "kv.py").rename(copy.package / "policies" / "vk.py")
    assert copy.digest() != sources_digest()


def test_a_run_is_made_of_no_other_packages(tmp_path: Path):
    """Else a change of theirs would change results and keep their name."""
    program = """
import sys
from afterwatt.studies.config import StudyConfig
from afterwatt.studies.plan import plan_study
from afterwatt.sim.run import simulate
(job,) = plan_study(StudyConfig(limit=5, trace="synth:chat?n=5&rate=1")).jobs
simulate(job.config, "out")
print(*{name.split(".")[1] for name in sys.modules if name.startswith("afterwatt.")})
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {*SOURCES, "studies", "compiled"}, "of which the last only finds modules"

"""`benchmarks/gpu.sh` ends with what it could measure, whatever is missing and however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from afterwatt.engine.model.devices import NAMES, dtype_policy
from benchmarks.gpu_sizes import expected_decode_s, gpu_sizes, plan_lines, processor_sizes

HOUSE = Path(__file__).parents[2]
GIB = 2**30


def script(folder: Path, *words: str) -> list[str]:
    return ["bash", str(HOUSE / "benchmarks" / "gpu.sh"), "--device", "cpu", "--out", str(folder / "out"), *words]


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | changes


@pytest.mark.parametrize("gib", [11, 12, 16, 23, 24, 40, 80, 141])
@pytest.mark.parametrize("capability", [(5, 2), (6, 0), (7, 0), (8, 6), (9, 0)])
def test_what_is_chosen_fits_the_free_memory(gib: int, capability):
    free = int(0.97 * gib * GIB)
    sizes = gpu_sizes(capability, gib * GIB, free)
    assert 0 < sizes.needed_bytes <= 0.9 * free
    assert sizes.dtype == NAMES[dtype_policy(capability).weights]
    assert sizes.batches[0] == 1
    assert sizes.batches[-1] >= 8


def test_more_memory_never_means_a_smaller_model():
    layers = [gpu_sizes((7, 0), gib * GIB, gib * GIB).model.layers for gib in range(6, 64, 2)]
    assert layers == sorted(layers)
    assert layers[0] < layers[-1] == 32


def test_a_card_without_room_is_refused():
    with pytest.raises(ValueError, match="free some"):
        gpu_sizes((9, 0), 80 * GIB, GIB // 2)


def test_the_plan_names_every_card_and_ends_in_time():
    head, rule, *rows = plan_lines()
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [row[0] for row in cells] == ["m40-12", "m40-24", "p100-16", "v100-sxm-16", "rtx3090", "h100-sxm", "h200"]
    assert all(len(row) == len(head.strip("| ").split(" | ")) for row in cells)
    assert rule.count("---") == len(cells[0])
    for row in cells:
        decode_s, energy_s, others_s = map(float, row[-3:])
        assert decode_s + energy_s + others_s == pytest.approx(420.0, abs=2.0)
        assert others_s > 240.0


def test_expected_seconds_fall_with_bandwidth_to_what_launches_take():
    sizes = gpu_sizes((9, 0), 141 * GIB, 141 * GIB)
    slow, fast, endless = (expected_decode_s(sizes, rate) for rate in (1e12, 2e12, 1e30))
    assert slow - endless == pytest.approx(2.0 * (fast - endless))
    steps = (60 + 3) * len(sizes.batches) + 5 * (30 + 3)
    assert endless == pytest.approx(steps * 32 * 60e-6)


@pytest.mark.slow
def test_without_three_packages_it_measures_the_rest_and_says_so(tmp_path: Path):
    hidden = tmp_path / "hidden"
    for name in ("pydantic", "plotly", "simpy"):
        (hidden / name).mkdir(parents=True)
        (hidden / name / "__init__.py").write_text(f'raise ModuleNotFoundError("No module named {name}")\n')
    done = subprocess.run(
        script(tmp_path), env=environment(PYTHONPATH=str(hidden)), cwd=tmp_path, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "measurement.json").read_text())
    assert found["parity"]["met"]
    assert [one["batch"] for one in found["decode"]["batches"]] == list(processor_sizes().batches)
    assert len(found["energy"]["runs"]) == 3
    for part in ("calibrate", "validate"):
        assert found[part]["left_out"] == "pydantic is not installed; pip install pydantic"
    page = (tmp_path / "out" / "page.md").read_text()
    assert "Not measured: pydantic is not installed" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hidden", "out"], "all results lie in one folder"


@pytest.mark.slow
def test_what_is_done_outlives_a_kill(tmp_path: Path):
    running = subprocess.Popen(script(tmp_path), env=environment(), cwd=tmp_path, start_new_session=True)
    result, end = tmp_path / "out" / "measurement.json", time.monotonic() + 120.0
    try:
        while not result.exists():
            assert running.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert json.loads(result.read_text())["parity"]["met"]

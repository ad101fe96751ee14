"""The smallest inputs that once went wrong: a result or one sentence."""

from pathlib import Path

import pytest

from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.reports.errors import ReportError
from afterwatt.reports.rundir import Run, vouched_for
from tests.cli.running import elsewhere

CASES = Path(__file__).parents[2] / "../shared/reference/cases/robustness"
BATCH = ("--batch", "1", "--prompt", "8", "--output", "8", "--dry-run")
GRID = ("simulate", *BATCH, "--start", "2024-01-01T00:00:00Z", "--grid")
DEVICE = """
name = "own"
vendor = "NVIDIA"
architecture = "maxwell"
year = 2016
slot = "pcie"
compute_capability = "5.2"
default_hosts = ["ddr3-2u"]
memory_bytes = { value = NUMBER, source = "own" }
[sources]
own = { text = "a sheet of one's own", checked = 2026-11-20, kind = "datasheet" }
"""


@pytest.mark.skipif(not CASES.exists(), reason="the shared folder is not here")
@pytest.mark.parametrize(
    ("words", "file", "code"),
    [
        (("simulate", *BATCH, "--hw"), "bigint_device.toml", 0),  # a sound card
        (("simulate", *BATCH, "--hw"), "deep.toml", 2),
        (("simulate", *BATCH, "--hw"), "int4301.toml", 2),
        (("simulate", *BATCH, "--hw"), "nul_deploy.toml", 2),
        (("simulate", "--dry-run", "--config"), "rate400.toml", 2),
        (("trace", "describe"), "bigint.jsonl", 0),
        (("trace", "describe"), "tiny.csv", 0),
        (("trace", "describe"), "neg.csv", 2),
        (("trace", "describe"), "trace_duration.parquet", 2),
        (GRID, "grid_list.parquet", 2),
        (GRID, "grid_year.csv", 2),
        (GRID, "sup.csv", 2),
        (("fit", "--stack", "generic", "--out", "new.toml", "--kernels"), "kernels_utf16.csv", 2),
    ],
)
def test_the_smallest_inputs_that_went_wrong(tmp_path: Path, words: tuple[str, ...], file: str, code: int):
    said = elsewhere(tmp_path, "afterwatt", *words, CASES.resolve() / file)
    assert said.code == code, said.err
    assert said.err.count("\n") <= 1
    assert "Traceback" not in said.err


@pytest.mark.parametrize("number", ["9" * 400, "1e400", "-" + "9" * 400, "1e299", "true", "²", "9" * 5000])
def test_a_number_beyond_all_bounds_is_refused_wherever_it_stands(tmp_path: Path, number: str):
    (tmp_path / "own.toml").write_text(DEVICE.replace("NUMBER", number), encoding="utf-8")
    with pytest.raises(HardwareError):
        load_device(str(tmp_path / "own.toml"))


def test_only_files_that_nothing_vouches_for_are_blamed(tmp_path: Path):
    ours, old = Run(tmp_path / "ours"), Run(tmp_path / "old", checked=False)
    blamed = pytest.raises(ReportError, match=r"old cannot be shown \(IndexError: far\): .* no checksums vouch")
    with blamed, vouched_for([ours, old]):
        raise IndexError("far")
    with pytest.raises(IndexError), vouched_for([ours]):
        raise IndexError("far")
    with pytest.raises(ReportError, match="as it is"), vouched_for([old]):
        raise ReportError("as it is")

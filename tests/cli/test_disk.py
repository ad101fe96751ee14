"""A disk that is full, by a limit on the size of files: what stands is kept, what does not stand leaves nothing."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from afterwatt.reports.rundir import load_run

QUICK = ("--trace", "synth:chat?n=20&rate=0.2", "--no-bounds", "--quiet")


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let writing fail past a size, as it would where no room is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_run_whose_page_finds_no_room_stands_and_says_how_to_draw_it(simulate, afterwatt):
    with files_of_at_most(1 << 20):
        said = simulate(*QUICK, "--out", "r")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert said.err.rstrip().endswith(f"write it with: afterwatt report {Path('r').absolute()}")
    assert load_run("r").checked
    assert not Path("r/report.html").exists()
    assert afterwatt("report", "r", "--quiet").code == 0
    assert Path("r/report.html").stat().st_size > 1 << 20


def test_a_run_that_finds_no_room_leaves_nothing(simulate):
    with files_of_at_most(1 << 10):
        said = simulate(*QUICK, "--out", "r")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "nothing is left of it: make room" in said.err
    assert not [path for path in Path().iterdir() if path.name.startswith((".r", "r"))]


def test_a_study_goes_on_where_its_comparison_found_no_room(simulate):
    words = (*QUICK, "--hw", "m40", "--hw", "l4", "--out", "s")
    assert simulate(*words, "--no-report").code == 0
    Path("s/study.json").unlink()
    with files_of_at_most(1 << 20):
        said = simulate(*words)
    assert said.code == 2
    assert "run the study again, and it goes on from there" in said.err
    assert simulate(*words).code == 0
    assert Path("s/report.html").is_file()

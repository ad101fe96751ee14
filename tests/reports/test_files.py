"""Files come to stand whole or not at all, replace nothing that is no file, and what they were is held to."""

import os
import platform
import random
import re
import shutil
import stat
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from afterwatt.reports.checksums import SUMS, check_sums
from afterwatt.reports.errors import ReportError
from afterwatt.reports.files import clear_stale, partial_name, write_whole
from afterwatt.reports.html import render, write_report
from afterwatt.reports.rundir import UNCHECKED, Run, load_run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class TestWriting:
    def test_a_regular_file_is_replaced_and_a_new_one_made_as_others_are(self, tmp_path: Path) -> None:
        (tmp_path / "page").write_text("old")
        for place in (tmp_path / "page", tmp_path / "new" / "page"):
            write_whole(place, "fresh")
            assert place.read_text() == "fresh"
        (tmp_path / "plain").write_text("")
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("page", "plain")}
        assert len(modes) == 1
        assert names(tmp_path) == {"page", "new", "plain"}

    @pytest.mark.parametrize("kind", ["pipe", "device", "dangling", "folder"])
    def test_what_is_no_regular_file_is_left_alone(self, tmp_path: Path, kind: str) -> None:
        place = tmp_path / "page"
        if kind == "pipe":
            os.mkfifo(place)
        elif kind == "folder":
            place.mkdir()
        else:
            place.symlink_to("/dev/null" if kind == "device" else tmp_path / "nowhere")
        before = place.lstat().st_ino
        with pytest.raises(ReportError, match="is no regular file, and is left alone"):
            write_whole(place, "page")
        assert place.lstat().st_ino == before
        assert names(tmp_path) == {"page"}

    def test_a_link_planted_under_the_name_to_come_is_not_followed(self, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")
        for planted in (f".page.partial-{os.getpid()}", partial_name("page")):
            (tmp_path / planted).symlink_to(victim)
        write_whole(tmp_path / "page", "page")
        assert victim.read_text() == "precious"
        assert not (tmp_path / "page").is_symlink()

    @pytest.mark.parametrize("place", ["x" * 300, "nul\0", "file/page"])
    def test_a_place_that_cannot_be_is_named(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ReportError, match="cannot write"):
            write_whole(tmp_path / place, "page")
        assert names(tmp_path) == {"file"}


class TestStale:
    def test_leavings_of_the_dead_go_and_those_of_the_living_stay(self, tmp_path: Path) -> None:
        child = subprocess.Popen(["true"])
        child.wait()
        dead = partial_name("run").replace(f"-{os.getpid()}-", f"-{child.pid}-")
        elsewhere = f".run.partial-{child.pid}-not{platform.node()}"
        for name in (dead, f"{dead}-x7", elsewhere, partial_name("run"), dead.replace(".run.", ".other.")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "requests.parquet").write_text("")
        clear_stale(tmp_path, "run")
        assert names(tmp_path) == {elsewhere, partial_name("run"), dead.replace(".run.", ".other.")}
        clear_stale(tmp_path)
        assert names(tmp_path) == {elsewhere, partial_name("run")}

    def test_a_run_clears_what_an_earlier_one_of_its_name_left(self, tmp_path: Path, synthetic: ModuleType) -> None:
        child = subprocess.Popen(["true"])
        child.wait()
        (tmp_path / partial_name("run").replace(f"-{os.getpid()}-", f"-{child.pid}-")).mkdir()
        synthetic.write_run(tmp_path / "run", synthetic.Toy(requests=5, draws=8))
        assert names(tmp_path) == {"run"}


class TestChecksums:
    def test_they_are_what_sha256sum_reads(self, m40: Run) -> None:
        listed = dict(reversed(line.split("  ")) for line in (m40.path / SUMS).read_text().splitlines())
        assert set(listed) == names(m40.path) - {SUMS, "report.html"}
        said = subprocess.run(["sha256sum", "-c", SUMS], cwd=m40.path, capture_output=True, text=True, check=False)
        assert (said.returncode, said.stdout.count(": OK")) == (0, len(listed))

    def test_no_flipped_bit_goes_unseen(self, tmp_path: Path, synthetic: ModuleType) -> None:
        path = synthetic.write_run(tmp_path / "run", synthetic.Toy(requests=5, draws=8)).path
        for seed in range(60):
            draw = random.Random(seed)
            file = path / draw.choice(sorted(names(path)))
            whole = file.read_bytes()
            content = bytearray(whole)
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            file.write_bytes(content)
            with pytest.raises(ReportError, match=r"damaged|missing"):
                load_run(path)
            file.write_bytes(whole)
        load_run(path)

    def test_a_run_without_them_is_read_and_says_so(self, tmp_path: Path, m40: Run) -> None:
        shutil.copytree(m40.path, tmp_path / "m40", ignore=shutil.ignore_patterns(SUMS))
        older = load_run(tmp_path / "m40")
        assert older.manifest.warnings == [*m40.manifest.warnings, UNCHECKED]
        assert UNCHECKED in render([older])
        assert UNCHECKED not in render([m40])

    def test_a_page_drawn_again_does_not_count(self, tmp_path: Path, m40: Run) -> None:
        shutil.copytree(m40.path, tmp_path / "m40")
        write_report([load_run(tmp_path / "m40")], tmp_path / "m40" / "report.html")
        assert check_sums(tmp_path / "m40")


class TestMarkup:
    LABEL = '<a href="https://evil.example">card</a><B onclick=x><img src=y>'

    def test_names_are_no_markup_anywhere(self, tmp_path: Path, synthetic: ModuleType, m40: Run) -> None:
        toy = synthetic.Toy(requests=40, draws=8, hardware=self.LABEL, model=self.LABEL)
        odd = synthetic.write_run(tmp_path / "a <a href='z'>b", toy)
        for page in (render([odd]), render([odd, m40], tmp_path)):
            figures = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
            assert figures
            for drawn in figures:
                assert not re.search(r"\\u003c/?(?!/?(?:b|br|i|extra)\\u003e)", drawn)
            body = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
            assert "evil.example" in body
            assert not re.search(r"<a [^>]*evil|<img|onclick=x>", body)

    def test_a_folder_called_like_a_script_is_a_folder(self, tmp_path: Path, synthetic: ModuleType, m40: Run) -> None:
        odd = synthetic.write_run(tmp_path / "javascript:alert(1)", synthetic.Toy(requests=5, draws=8))
        (odd.path / "report.html").write_text("page")
        page = render([odd, m40], tmp_path)
        assert 'href="javascript%3Aalert%281%29/report.html"' in page
        assert 'href="javascript:' not in page

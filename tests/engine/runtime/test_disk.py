"""Reads past the page cache: every byte is counted, nothing is left behind, and what cannot be measured says why."""

import os
from pathlib import Path

import pytest

from afterwatt.engine.runtime import disk
from afterwatt.engine.runtime.disk import (
    DEPTHS,
    MIB,
    RANDOM_BYTES,
    SEQUENTIAL_BYTES,
    DirectFile,
    DiskError,
    device_read_bytes,
    open_disk,
    place_of,
)


def needs_direct(folder: Path) -> None:
    place = place_of(folder)
    if place.direct is not True:
        pytest.skip(f"no O_DIRECT here: {place.why_not}")


def test_every_probe_reads_what_it_says_it_reads(tmp_path: Path):
    needs_direct(tmp_path)
    with open_disk(tmp_path, 8 * MIB) as session:
        names = [probe.name for probe in session.probes]
        assert len(names) == len(SEQUENTIAL_BYTES) + len(DEPTHS)
        for probe in session.probes:
            before = session.file.read_bytes
            assert probe.run(2) > 0.0
            assert session.file.read_bytes - before == 2 * probe.work
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_comes_from_the_device(tmp_path: Path):
    """The kernel counts at least what was asked for: no page cache answers in its place."""
    needs_direct(tmp_path)
    if device_read_bytes() is None:
        pytest.skip("/proc/self/io is not readable")
    with open_disk(tmp_path, 8 * MIB) as session:
        for probe in session.probes:
            probe.run(1)
        share = session.device_frac()
    assert share is not None
    assert share >= 1.0


def test_reads_give_the_bytes_that_are_there(tmp_path: Path):
    """Offsets are where they should be: a file of numbered blocks is read block by block."""
    needs_direct(tmp_path)
    path = tmp_path / "numbered"
    blocks = 4
    path.write_bytes(b"".join(bytes([number]) * RANDOM_BYTES for number in range(blocks)))
    file = DirectFile(path, 1, RANDOM_BYTES)
    try:
        for number in range(blocks):
            file.read([number * RANDOM_BYTES], RANDOM_BYTES, 1)
            assert set(file._buffers[0][:RANDOM_BYTES]) == {number}
        with pytest.raises(DiskError, match="gave 0"):
            file.read([blocks * RANDOM_BYTES], RANDOM_BYTES, 1)
    finally:
        file.close()


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_fault_in_a_thread_reaches_the_caller(tmp_path: Path, depth: int):
    needs_direct(tmp_path)
    path = tmp_path / "short"
    path.write_bytes(bytes(RANDOM_BYTES))
    file = DirectFile(path, depth, RANDOM_BYTES)
    try:
        with pytest.raises(DiskError):
            file.read([0, *[RANDOM_BYTES] * depth], RANDOM_BYTES, depth)
    finally:
        file.close()


def test_memory_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk, "_mount_of", lambda _folder: ("tmpfs", "tmpfs", "0:1"))
    place = place_of(tmp_path)
    assert place.direct is False
    with pytest.raises(DiskError, match="tmpfs, which is memory"), open_disk(tmp_path, 8 * MIB):
        pass


def test_a_real_tmpfs_is_recognised():
    folder = Path("/dev/shm")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        pytest.skip("no /dev/shm")
    place = place_of(folder)
    assert (place.direct is False) == (place.filesystem in ("tmpfs", "ramfs"))


def test_a_folder_that_is_not_there_says_so(tmp_path: Path):
    place = place_of(tmp_path / "nowhere")
    assert place.direct is None
    assert "cannot be written" in place.why_not


def test_a_file_that_is_too_small_is_refused(tmp_path: Path):
    needs_direct(tmp_path)
    with pytest.raises(DiskError, match="too small"), open_disk(tmp_path, MIB):
        pass
    assert list(tmp_path.iterdir()) == []


def test_closing_leaves_a_buffer_to_the_thread_that_still_reads_into_it(tmp_path: Path):
    needs_direct(tmp_path)
    path = tmp_path / "bytes"
    path.write_bytes(bytes([7]) * RANDOM_BYTES)
    file = DirectFile(path, 2, RANDOM_BYTES)
    file.read([0], RANDOM_BYTES, 1)
    with memoryview(file._buffers[0]) as view:
        file.close()
        assert set(view[:RANDOM_BYTES]) == {7}
    with pytest.raises(ValueError, match="closed"):
        file._buffers[1].read()

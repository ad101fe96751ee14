"""How fast a disk reads when the page cache is out of the way: O_DIRECT, aligned buffers, threads for depth.

A read that the page cache answers measures memory. So what the kernel says it fetched from the device
(`/proc/self/io`, `read_bytes`) is compared with what was read. What lies below that, a hypervisor's or a controller's
cache, cannot be seen from here.
"""

import mmap
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.probes import MIB, Probe

ALIGNMENT: Final = 4096
SEQUENTIAL_BYTES: Final = (1 * MIB, 8 * MIB)
RANDOM_BYTES: Final = 64 * 1024
DEPTHS: Final = (1, 4, 16, 32)
_IN_MEMORY: Final = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")
_CHUNK: Final = 4 * MIB


class DiskError(EngineError):
    """A folder's disk cannot be measured; the text says why."""


@dataclass(frozen=True, slots=True)
class DiskPlace:
    """What a folder stands on.

    Attributes:
        folder: the folder.
        filesystem: its type: ext4, xfs, tmpfs, ...
        device: what is mounted: /dev/nvme0n1p2, ...
        direct: whether files can be read past the page cache; None if nothing could be written there to try.
        why_not: where `direct` is not True, the reason.
        read_ahead_bytes: of the block device; None where unknown.
    """

    folder: Path
    filesystem: str
    device: str
    direct: bool | None
    why_not: str
    read_ahead_bytes: int | None


def place_of(folder: Path) -> DiskPlace:
    """Return what a folder stands on, trying O_DIRECT with a small file of its own."""
    filesystem, device, number = _mount_of(folder)
    direct, why_not = _direct(folder, filesystem)
    return DiskPlace(folder, filesystem, device, direct, why_not, _read_ahead_bytes(number))


def _mount_of(folder: Path) -> tuple[str, str, str]:
    """Return type, source and device number of the mount that a folder lies in (`man 5 proc_pid_mountinfo`)."""
    path = str(folder.resolve())
    best = ("", "unknown", "unknown", "")
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            left, _, right = line.partition(" - ")
            fields, (kind, source, *_) = left.split(), right.split()
            point = fields[4].replace("\\040", " ")
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best[0]):
                best = (point, kind, source, fields[2])
    return best[1:]


def _read_ahead_bytes(number: str) -> int | None:
    block = Path(f"/sys/dev/block/{number}")
    for queue in (block / "queue", block / ".." / "queue"):
        with suppress(OSError, ValueError):
            return 1024 * int((queue / "read_ahead_kb").read_text(encoding="ascii"))
    return None


def _direct(folder: Path, filesystem: str) -> tuple[bool | None, str]:
    if filesystem in _IN_MEMORY:
        return False, f"{folder} is on {filesystem}, which is memory"
    if not hasattr(os, "O_DIRECT"):
        return False, "this system has no O_DIRECT"
    try:
        with _written(folder, ALIGNMENT) as path:
            try:
                file = os.open(path, os.O_RDONLY | os.O_DIRECT)
            except OSError as fault:
                return False, f"{filesystem} refuses O_DIRECT ({fault.strerror})"
            try:
                with mmap.mmap(-1, ALIGNMENT) as buffer, memoryview(buffer) as view:
                    os.preadv(file, [view], 0)
            except OSError as fault:
                return False, f"{filesystem} refuses to read with O_DIRECT ({fault.strerror})"
            finally:
                os.close(file)
    except DiskError as fault:
        return None, str(fault)
    return True, ""


@contextmanager
def _written(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Give a file of random bytes that is on the disk, and remove it."""
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=".afterwatt-disk-")
    except OSError as fault:
        raise DiskError(f"{folder} cannot be written to ({fault.strerror}); choose another --disk-dir") from None
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            try:
                for start in range(0, size_bytes, _CHUNK):
                    file.write(os.urandom(min(_CHUNK, size_bytes - start)))
                file.flush()
                os.fsync(file.fileno())
            except OSError as fault:
                raise DiskError(
                    f"{folder} does not take {size_bytes} bytes ({fault.strerror}); choose another --disk-dir"
                ) from None
        yield path
    finally:
        path.unlink(missing_ok=True)


def device_read_bytes() -> int | None:
    """Return what this process has had fetched from storage so far; None where the kernel does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
            if line.startswith("read_bytes:"):
                return int(line.split()[1])
    return None


class DirectFile:
    """A file read past the page cache by threads with a buffer each."""

    def __init__(self, path: Path, threads: int, most_bytes: int) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self.size_bytes = os.fstat(self._file).st_size
        self._buffers = [mmap.mmap(-1, most_bytes) for _ in range(threads)]
        self.read_bytes = 0

    def read(self, offsets: Sequence[int], size_bytes: int, depth: int) -> float:
        """Read pieces of the file, `depth` at a time, and return the seconds from first to last.

        Args:
            offsets: multiples of `ALIGNMENT`.
            size_bytes: of a piece; a multiple of it too.
            depth: threads.

        Raises:
            DiskError: the disk gives an error, or less than was asked for.
        """
        faults: list[str] = []
        workers = [
            threading.Thread(target=self._worker, args=(offsets[number::depth], size_bytes, buffer, faults))
            for number, buffer in enumerate(self._buffers[:depth])
        ]
        start = time.perf_counter()
        if depth == 1:
            self._worker(offsets, size_bytes, self._buffers[0], faults)
        else:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        elapsed_s = time.perf_counter() - start
        if faults:
            raise DiskError(faults[0])
        self.read_bytes += size_bytes * len(offsets)
        return elapsed_s

    def _worker(self, offsets: Sequence[int], size_bytes: int, buffer: mmap.mmap, faults: list[str]) -> None:
        with memoryview(buffer) as whole, whole[:size_bytes] as view:
            for offset in offsets:
                try:
                    got = os.preadv(self._file, [view], offset)
                except OSError as fault:
                    faults.append(f"a read of {size_bytes} bytes at {offset} failed ({fault.strerror})")
                    return
                if got != size_bytes:
                    faults.append(f"a read of {size_bytes} bytes at {offset} gave {got}")
                    return

    def close(self) -> None:
        """Close the file and free the buffers."""
        os.close(self._file)
        for buffer in self._buffers:
            with suppress(BufferError):  # a thread still reads into it: it goes with the thread's view
                buffer.close()


@dataclass(frozen=True, slots=True)
class DiskSession:
    """A disk ready to be measured.

    Attributes:
        place: where.
        probes: sequential and random reads; work in bytes.
        file: what they read.
        before_bytes: `device_read_bytes` at the start.
    """

    place: DiskPlace
    probes: tuple[Probe, ...]
    file: DirectFile
    before_bytes: int | None

    def device_frac(self) -> float | None:
        """Return bytes that came from the device over bytes read: 1 where no cache was in between; None if unknown."""
        now = device_read_bytes()
        if now is None or self.before_bytes is None or not self.file.read_bytes:
            return None
        return (now - self.before_bytes) / self.file.read_bytes


@contextmanager
def open_disk(folder: Path, size_bytes: int, seed: int = 0) -> Iterator[DiskSession]:
    """Write a file of random bytes and give what reads it past the page cache; the file goes afterwards.

    Args:
        folder: where.
        size_bytes: of the file; at least 8 MiB.
        seed: of the places that random reads go to.

    Raises:
        DiskError: the folder is in memory, its file system has no O_DIRECT, or it cannot hold the file.
    """
    place = place_of(folder)
    if place.direct is not True:
        raise DiskError(f"disk not measured: {place.why_not}")
    if size_bytes < max(SEQUENTIAL_BYTES):
        raise DiskError(f"a file of {size_bytes} bytes is too small to read; expected {max(SEQUENTIAL_BYTES)} or more")
    with _written(folder, size_bytes) as path:
        file = DirectFile(path, max(DEPTHS), max(SEQUENTIAL_BYTES))
        try:
            yield DiskSession(place, tuple(_probes(file, random.Random(seed))), file, device_read_bytes())
        finally:
            file.close()


def _probes(file: DirectFile, places: random.Random) -> Iterator[Probe]:
    for piece in SEQUENTIAL_BYTES:
        count = file.size_bytes // piece
        yield Probe(
            f"disk/sequential/{piece // MIB}MiB",
            _sequential(file, piece, count),
            float(piece * count),
            "bytes",
            calls=1,
        )
    pieces = file.size_bytes // RANDOM_BYTES
    for depth in DEPTHS:
        count = min(pieces, 16 * max(depth, 8))
        yield Probe(
            f"disk/random/64KiB/depth{depth}",
            _random(file, count, depth, pieces, places),
            float(RANDOM_BYTES * count),
            "bytes",
            calls=1,
        )


def _sequential(file: DirectFile, piece: int, count: int) -> Callable[[int], float]:
    offsets = [number * piece for number in range(count)]
    return lambda times: sum(file.read(offsets, piece, 1) for _ in range(times))


def _random(file: DirectFile, count: int, depth: int, pieces: int, places: random.Random) -> Callable[[int], float]:
    def run(times: int) -> float:
        taken = [[RANDOM_BYTES * piece for piece in places.sample(range(pieces), count)] for _ in range(times)]
        return sum(file.read(offsets, RANDOM_BYTES, depth) for offsets in taken)

    return run

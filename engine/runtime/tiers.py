"""From disk to host memory: layers of a modular checkpoint in an arena of fixed size, read ahead and verified.

Reads go past the page cache (O_DIRECT), into memory that is taken once. Which layers lie in the arena is the policy's
to say (`policies.caching.layers`); a thread reads while another computes.
"""

import mmap
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from afterwatt.engine.runtime.errors import CheckpointError, EngineError
from afterwatt.engine.runtime.modular import BUNDLES, Modular
from afterwatt.engine.runtime.quant import Bytes
from afterwatt.policies.caching.layers import LayerArea, Layers

FILL, PREFETCH, DEMAND, HIT, AGAIN = "fill", "prefetch", "demand", "hit", "again"
Reader = Callable[[int, list[memoryview], int], int]
"""`os.preadv`, or what stands for it in a test: (file, buffers, offset) -> bytes read."""


class Traffic:
    """Bytes that were moved, by where to and why.

    Attributes:
        moved: (tier that they came to, reason) -> bytes. Reasons: `fill` before the first token, `prefetch` ahead of
            need, `demand` at need, `again` after a checksum did not match; `hit` counts what needed no move.
    """

    def __init__(self) -> None:
        self.moved: Counter[tuple[str, str]] = Counter()

    def count(self, tier: str, reason: str, size_bytes: int) -> None:
        """Note down a move."""
        self.moved[tier, reason] += size_bytes

    def to(self, tier: str) -> int:
        """Return the bytes that came to a tier."""
        return sum(size for (where, reason), size in self.moved.items() if where == tier and reason != HIT)


class SsdFile:
    """A file read in aligned pieces past the page cache.

    Args:
        path: the file.
        reader: reads.

    Attributes:
        direct: whether the page cache is out of the way; why_not: where it is not, the reason.

    Raises:
        CheckpointError: it cannot be opened.
    """

    def __init__(self, path: Path, reader: Reader = os.preadv) -> None:
        self._path, self._reader = path, reader
        self.direct, self.why_not = hasattr(os, "O_DIRECT"), "" if hasattr(os, "O_DIRECT") else "no O_DIRECT here"
        try:
            try:
                self._file = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
            except OSError as fault:
                if not path.is_file():
                    raise
                self.direct, self.why_not = False, f"its file system refuses O_DIRECT ({fault.strerror})"
                self._file = os.open(path, os.O_RDONLY)
        except OSError as fault:
            raise CheckpointError(f"cannot read {path}: {fault.strerror}") from None

    def read(self, into: memoryview, offset: int) -> None:
        """Fill a buffer from a place in the file.

        Args:
            into: its address and length multiples of 4096, as is the offset.
            offset: bytes from the file's beginning.

        Raises:
            CheckpointError: the disk gives an error, or the file ends early; the text says where.
        """
        done = 0
        while done < len(into):
            try:
                got = self._reader(self._file, [into[done:]], offset + done)
            except OSError as fault:
                raise CheckpointError(
                    f"{self._path}: {len(into)} bytes at {offset} cannot be read: {fault.strerror}"
                ) from None
            if not got:
                raise CheckpointError(f"{self._path}: {len(into)} bytes at {offset} asked for, {done} read; it is cut")
            done += got

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class HostLayers:
    """One precision's sections of some layers, in host memory that is taken once.

    Args:
        modular: the checkpoint.
        precision: of the sections.
        budget_bytes: that the arena must not exceed.
        ahead: layers between what is computed and what is read.
        reader: reads the disk.

    Attributes:
        traffic: what was moved.
        arena_bytes: what is taken of the budget.

    Raises:
        EngineError: the budget does not hold the layers that must be there at once; says how many bytes are missing.
    """

    def __init__(
        self, modular: Modular, precision: str, budget_bytes: int, ahead: int = 2, reader: Reader = os.preadv
    ) -> None:
        self._modular, self._precision = modular, precision
        bundles = modular.bundles
        self._slot_bytes = bundles.blocks(precision) * bundles.block_bytes(precision)
        least = min(bundles.layers, ahead + 1)
        slots = min(bundles.layers, budget_bytes // self._slot_bytes)
        if slots < least:
            missing = least * self._slot_bytes - budget_bytes
            raise EngineError(
                f"{least} layers of {self._slot_bytes:,} bytes ({precision}) must be in host memory at once: "
                f"{missing:,} bytes are missing of {least * self._slot_bytes:,}; give more, read less far ahead, or "
                "take a narrower precision"
            )
        fixed = slots if slots == bundles.layers else slots - least
        self.arena_bytes = slots * self._slot_bytes
        self.traffic = Traffic()
        self._arena = mmap.mmap(-1, self.arena_bytes)
        self._area = LayerArea(bundles.layers, fixed, slots - fixed, min(ahead, max(1, bundles.layers - 1)))
        self._free = list(range(slots))
        self._slot_of: dict[int, tuple[int, Future[None]]] = {}
        self._file = SsdFile(modular.directory / BUNDLES, reader)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ssd")
        self._checks = ThreadPoolExecutor(1, thread_name_prefix="crc")  # a block is checked while the next is read
        self._started: set[int] = set()
        self._move(self._area.begin(), FILL)

    def layer(self, number: int) -> Bytes:
        """Return a layer's units once they are there, and have what comes next read meanwhile.

        Args:
            number: which; layers are asked for in order, again and again.

        Returns:
            uint8[blocks, units of a block, bytes of a unit], good until so many layers further have been asked for as
            are read ahead.

        Raises:
            CheckpointError: it could not be read, or does not match its checksum when read again.
        """
        if number in self._slot_of:
            fresh = number in self._started
            if not fresh:
                self.traffic.count("dram", HIT, self._modular.bundles.section_bytes(self._precision))
            self._started.discard(number)
        else:
            self._move(Layers((number,), ()), DEMAND)
        slot, read = self._slot_of[number]
        self._move(self._area.step(number), PREFETCH)
        try:
            read.result()
        except EngineError:
            del self._slot_of[number]
            self._free.append(slot)
            raise
        return self._units(slot)

    def close(self) -> None:
        """Let reads end, and give file and thread back; the arena goes with its last view."""
        self._thread.shutdown()
        self._checks.shutdown()
        self._file.close()

    def _move(self, wanted: Layers, reason: str) -> None:
        for number in wanted.evicted:
            slot, read = self._slot_of.pop(number)
            read.exception()
            self._free.append(slot)
        for number in wanted.loads:
            if number in self._slot_of:
                continue
            slot = self._free.pop(0)
            self._started.add(number)
            self._slot_of[number] = slot, self._thread.submit(self._read, number, slot, reason)

    def _read(self, number: int, slot: int, reason: str) -> None:
        """Read a layer's section into a slot, block by block, each verified; one that does not match once more."""
        bundles, precision = self._modular.bundles, self._precision
        with memoryview(self._arena) as arena:
            blocks = []
            for block in range(bundles.blocks(precision)):
                begin = slot * self._slot_bytes + block * bundles.block_bytes(precision)
                into = arena[begin : begin + bundles.block_at(number, precision, block)[1]]
                self._fill(number, block, into, reason)
                blocks.append((into, self._checks.submit(self._modular.check_block, number, precision, block, into)))
            for block, (into, sound) in enumerate(blocks):
                if sound.result():
                    continue
                self._fill(number, block, into, AGAIN)
                if not self._modular.check_block(number, precision, block, into):
                    raise CheckpointError(
                        f"{self._modular.directory / BUNDLES}: block {block} of layer {number} in {precision} does not "
                        "match its checksum, nor when read again; run `afterwatt prepare` anew"
                    )

    def _fill(self, number: int, block: int, into: memoryview, reason: str) -> None:
        self._file.read(into, self._modular.bundles.block_at(number, self._precision, block)[0])
        self.traffic.count("dram", reason, len(into))

    def _units(self, slot: int) -> Bytes:
        bundles, precision = self._modular.bundles, self._precision
        each, size = bundles.block_units(precision), bundles.unit_bytes(precision)
        whole = np.frombuffer(self._arena, np.uint8, self._slot_bytes, slot * self._slot_bytes)
        blocks = whole.reshape(bundles.blocks(precision), -1)[:, : each * size]
        return blocks.reshape(len(blocks), each, size)


def rows_of(units: Bytes, ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Bytes:
    """Return copies of some units of a layer, one after the other, uint8[n, bytes of a unit]."""
    each = units.shape[1]
    found: Bytes = units[ids // each, ids % each]
    return found

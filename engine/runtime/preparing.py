"""From a Hugging Face checkpoint to a modular one, layer by layer; what was interrupted goes on where it stopped.

What is unfinished lies in a hidden directory beside the one that is made, with a journal of the layers that are on the
disk. The same command finds both, and the end is the same to the byte.
"""

import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from afterwatt.engine.runtime.errors import CheckpointError, EngineError
from afterwatt.engine.runtime.layout import read_layout
from afterwatt.engine.runtime.manifest import SIDE_FILES
from afterwatt.engine.runtime.modular import (
    BUNDLES,
    INDEX,
    REST,
    ModularLayer,
    index_text,
    is_modular,
    layer_fields,
    layer_of,
)
from afterwatt.engine.runtime.networks import Networks
from afterwatt.engine.runtime.quant import encode
from afterwatt.engine.runtime.shards import Shard, TensorEntry, chunks
from afterwatt.modelspecs.bundles import BLOCK_BYTES, Bundles
from afterwatt.modelspecs.errors import ModelError
from afterwatt.modelspecs.hf import read_hf_config
from afterwatt.reports.files import write_whole

JOURNAL: Final = "journal.jsonl"
_INDEX_BYTES: Final = 64
"""Room that the index takes per unit: a number, an importance, a share of a checksum."""
_SAMPLE_NEURONS: Final = 64
_SAMPLE_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Ranking:
    """Which units of each layer matter most, as measured.

    Attributes:
        importance: of each layer's units, as the source numbers them.
        about: what it was measured on, for the index.
    """

    importance: Sequence[Sequence[float]]
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PreparePlan:
    """What there is to do.

    Attributes:
        source: the checkpoint.
        out: the directory to make.
        networks: the source's networks.
        bundles: sizes of what is made of them.
        rest_bytes: of all other tensors and files.
        ranking: order of the units; None keeps the source's.
    """

    source: Path
    out: Path
    networks: Networks
    bundles: Bundles
    rest_bytes: int
    ranking: Ranking | None

    @property
    def unfinished(self) -> Path:
        """Where it lies until it is whole."""
        return self.out.with_name(f".{self.out.name}.unfinished")

    @property
    def total_bytes(self) -> int:
        """What it takes on the disk, at most."""
        return self.bundles.total_bytes + self.rest_bytes + _INDEX_BYTES * self.bundles.layers * self.bundles.units


def plan_prepare(
    source: Path,
    out: Path,
    precisions: Sequence[str] = ("int8", "int4"),
    ranking: Ranking | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> PreparePlan:
    """Look at a checkpoint and say what would be made of it.

    Args:
        source: a Hugging Face directory.
        out: the directory to make.
        precisions: of the sections beside the one in the source's own format.
        ranking: order of the units.
        block_bytes: of units, up to which a block is filled.

    Raises:
        CheckpointError: the checkpoint is damaged, or of a kind that is not prepared.
        EngineError: `out` exists.
    """
    if out.exists():
        raise EngineError(f"{out} exists already; name a new directory")
    if is_modular(source):
        raise CheckpointError(f"{source} is a modular checkpoint already; give the one that it was made of")
    layout = read_layout(source)
    try:
        spec = read_hf_config(source)
    except ModelError as error:
        raise CheckpointError(str(error)) from None
    networks = Networks(layout, spec)
    units, neurons = (spec.ffn, 1) if spec.experts == 1 else (spec.experts, spec.ffn)
    bundles = Bundles(spec.layers, units, neurons, spec.hidden, (networks.stored, *precisions), block_bytes)
    rest = sum(entry.end - entry.begin for _, entry in networks.rest())
    sides = sum((source / name).stat().st_size for name in _side_files(source))
    return PreparePlan(source, out, networks, bundles, rest + sides, ranking)


def check_room(plan: PreparePlan, free_bytes: int | None = None) -> None:
    """Refuse where the disk does not hold what is going to be written beyond what is there already.

    Args:
        plan: what is written.
        free_bytes: on the disk; None asks it.

    Raises:
        EngineError: it does not; the text says how many bytes are missing.
    """
    folder = plan.out.absolute().parent
    there = plan.unfinished / BUNDLES
    held = there.stat().st_size if there.exists() else 0
    free = shutil.disk_usage(_existing(folder)).free if free_bytes is None else free_bytes
    missing = plan.total_bytes - held - free
    if missing > 0:
        raise EngineError(
            f"{plan.out} needs {plan.total_bytes - held:,} bytes and {folder} has {free:,} free: {missing:,} are "
            "missing; free as many, or leave a precision out"
        )


def estimate_s(plan: PreparePlan) -> float:
    """Return about how long writing takes, from encoding some neurons and writing some bytes."""
    sample = min(_SAMPLE_NEURONS, plan.bundles.units) if plan.bundles.neurons == 1 else 1
    rows = plan.networks.rows(0, range(sample))[:_SAMPLE_NEURONS]
    begin = time.perf_counter()
    for precision in plan.bundles.precisions:
        encode(rows, precision)
    encoding = (time.perf_counter() - begin) / len(rows)
    path = _existing(plan.out.absolute().parent) / f".afterwatt-estimate-{os.getpid()}"
    begin = time.perf_counter()
    try:
        with path.open("wb") as file:
            file.write(os.urandom(_SAMPLE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as fault:
        raise EngineError(f"{path.parent} cannot be written to ({fault.strerror}); name another place") from None
    finally:
        path.unlink(missing_ok=True)
    writing = (time.perf_counter() - begin) / _SAMPLE_BYTES
    neurons = plan.bundles.layers * plan.bundles.units * plan.bundles.neurons
    return neurons * encoding + plan.total_bytes * writing


def prepare(plan: PreparePlan, told: Callable[[int], None] = lambda _: None) -> None:
    """Write a modular checkpoint, or what an earlier call left of it to be written.

    Args:
        plan: what is written.
        told: is called with the layers that are done, each time that one is.

    Raises:
        CheckpointError: a weight cannot be stored.
        EngineError: what is unfinished is of another plan, or the disk takes no more; what is written is kept.
    """
    folder = plan.unfinished
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = _journal(plan, folder / JOURNAL)
        with (folder / BUNDLES).open("r+b" if done else "wb") as file:
            file.truncate(len(done) * plan.bundles.layer_bytes)
            told(len(done))
            for number in range(len(done), plan.bundles.layers):
                done.append(_write_layer(plan, number, file))
                file.flush()
                os.fsync(file.fileno())
                _note(folder / JOURNAL, layer_fields(done[-1]))
                told(len(done))
        _finish(plan, folder, done)
        folder.rename(plan.out)
    except OSError as fault:
        raise EngineError(
            f"cannot write {plan.out}: {fault.strerror or fault}; what is done lies in {folder}, and the same command "
            "goes on from there"
        ) from None


def _journal(plan: PreparePlan, path: Path) -> list[ModularLayer]:
    """Return the layers that are on the disk, and begin a journal where there is none."""
    ranked = None if plan.ranking is None else plan.ranking.about
    head = {
        "bundles": {name: getattr(plan.bundles, name) for name in Bundles.__slots__},
        "first_sha256": plan.networks.sha256(0),
        "calibration": ranked,
        "ranking_sha256": None if plan.ranking is None else _sha256(json.dumps(plan.ranking.importance)),
    }
    text = json.dumps(head, sort_keys=True)
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    if not lines:
        path.write_text(text + "\n", encoding="utf-8")
        return []
    if lines[0] != text:
        raise EngineError(
            f"{path.parent} is what is unfinished of another checkpoint, or of other options; remove it, or name "
            "another directory"
        )
    return [layer_of(json.loads(line)) for line in lines[1:]]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _note(path: Path, fields: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _write_layer(plan: PreparePlan, number: int, file: BinaryIO) -> ModularLayer:
    """Write a layer's sections, and return what the index says of it."""
    importance = None if plan.ranking is None else np.asarray(plan.ranking.importance[number])
    order = np.arange(plan.bundles.units) if importance is None else np.argsort(-importance, kind="stable")
    sums: dict[str, list[int]] = {}
    for precision in plan.bundles.precisions:
        sums[precision] = []
        for block in range(plan.bundles.blocks(precision)):
            content = _block(plan, number, precision, block, order.tolist())
            file.seek(plan.bundles.block_at(number, precision, block)[0])
            file.write(content)
            sums[precision].append(zlib.crc32(content))
    ranked = None if importance is None else [float(f"{value:.6g}") for value in importance[order]]
    return ModularLayer(order.tolist(), ranked, sums, plan.networks.sha256(number))


def _block(plan: PreparePlan, number: int, precision: str, block: int, order: Sequence[int]) -> bytes:
    """Return the bytes of one block."""
    each = plan.bundles.block_units(precision)
    rows = plan.networks.rows(number, order[block * each : (block + 1) * each])
    try:
        content = encode(rows, precision).tobytes()
    except OverflowError as fault:
        raise CheckpointError(f"{plan.source}: layer {number}: {fault}; leave {precision} out") from None
    return content.ljust(plan.bundles.block_at(number, precision, block)[1], b"\0")


def _finish(plan: PreparePlan, folder: Path, layers: Sequence[ModularLayer]) -> None:
    """Write what stands beside the bundles; the index last."""
    for name in _side_files(plan.source):
        shutil.copyfile(plan.source / name, folder / name)
    rest = _write_rest(plan.networks.rest(), folder / REST)
    calibration = None if plan.ranking is None else plan.ranking.about
    write_whole(folder / INDEX, index_text(plan.bundles, layers, rest, calibration))
    (folder / JOURNAL).unlink()


def _write_rest(entries: Sequence[tuple[Shard, TensorEntry]], path: Path) -> str:
    """Write tensors as they are into a safetensors file of their own; return its SHA-256."""
    header: dict[str, Any] = {}
    place = 0
    for _, entry in entries:
        size = entry.end - entry.begin
        header[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in _pieces(text, entries):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _pieces(header: bytes, entries: Sequence[tuple[Shard, TensorEntry]]) -> Iterator[bytes | memoryview]:
    yield len(header).to_bytes(8, "little")
    yield header
    for shard, entry in entries:
        yield from chunks(shard.path, entry.begin, entry.end)


def _side_files(source: Path) -> list[str]:
    """Return what a directory holds beside its shards, but for the index of these."""
    return [name for name in SIDE_FILES if (source / name).is_file() and not name.endswith(".index.json")]


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())

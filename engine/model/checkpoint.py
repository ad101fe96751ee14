"""From safetensors to weights in memory, read plainly and verified on the way.

Files are read, not mapped: with a mapping the page cache becomes a second copy, and each 4 KiB page a fault. Bytes go
straight to their place where dtype and order allow, else through one small buffer, so that a load needs little more
memory than the weights.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import torch

from afterwatt.engine.model.config import ModelConfig
from afterwatt.engine.model.devices import DtypePolicy
from afterwatt.engine.model.weights import TensorPlace, Weights, allocate, head_name, places
from afterwatt.engine.runtime.errors import CheckpointError
from afterwatt.engine.runtime.layout import Layout, read_layout
from afterwatt.engine.runtime.manifest import FileRecord, check_files, check_tensor, read_manifest
from afterwatt.engine.runtime.shards import CHUNK_BYTES, Shard, TensorEntry

STORED: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_HARMLESS: Final = "rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files are there and whose headers are sound.

    Attributes:
        layout: its shards.
        records: what the manifest says of its files; None if there is none, or it is not asked.
    """

    layout: Layout
    records: Mapping[str, FileRecord] | None


def open_checkpoint(directory: Path, verify: bool = True) -> Checkpoint:
    """Find a checkpoint's files; against the manifest, where there is one, all but their tensors are verified at once.

    Call it before anything else of the directory is read.

    Args:
        directory: a Hugging Face directory.
        verify: ask the manifest.

    Raises:
        CheckpointError: files are missing, too many, damaged, or not those of the manifest.
    """
    records = read_manifest(directory) if verify else None
    if records is not None:
        check_files(directory, records)
    return Checkpoint(read_layout(directory), records)


def load_weights(
    checkpoint: Checkpoint, config: ModelConfig, policy: DtypePolicy, device: torch.device, networks: bool = True
) -> Weights:
    """Read a model's weights.

    Args:
        checkpoint: where from.
        config: which model they must be of.
        policy: formats to keep them in.
        device: where to.
        networks: whether the feed-forward networks are among them.

    Raises:
        CheckpointError: a tensor is missing, unexpected, of another shape or dtype, or does not match its checksum.
    """
    if networks:
        _check_size(checkpoint.layout, config)
    weights = allocate(config, policy, device, networks)
    wanted = places(config, weights)
    tied_head = head_name(config) if config.spec.tied_embeddings else None
    _check_names(checkpoint.layout, wanted, tied_head)
    for shard in checkpoint.layout.shards.values():
        with shard.path.open("rb", buffering=0) as file:
            for entry in shard.tensors.values():
                _read(file, shard, entry, wanted.get(entry.name), checkpoint.records)
    if tied_head is not None:
        _check_tied_head(checkpoint.layout, tied_head, weights)
    return weights


def _check_size(layout: Layout, config: ModelConfig) -> None:
    """Refuse a config.json that implies far more than the files hold, before room is made for it."""
    held = sum(math.prod(entry.shape) for _, entry in layout.entries())
    if config.spec.params > 2 * held:
        raise CheckpointError(
            f"{layout.directory}: config.json implies {config.spec.params:,} parameters, its files hold {held:,}; they "
            "are not of one model, or a shard is missing"
        )


def _check_names(layout: Layout, wanted: Mapping[str, TensorPlace], tied_head: str | None) -> None:
    """Refuse a checkpoint of another model, or of a part of one, before anything of it is read."""
    seen = set()
    for shard, entry in layout.entries():
        if entry.name in seen:
            raise CheckpointError(f"{shard.path}: tensor {entry.name!r} is in another shard too")
        seen.add(entry.name)
        place = wanted.get(entry.name)
        if place is None:
            if entry.name.endswith(_HARMLESS) or (entry.name == tied_head and entry.dtype in STORED):
                continue
            raise CheckpointError(f"{shard.path}: tensor {entry.name!r} is not one that config.json implies")
        if entry.shape != place.into.shape:
            raise CheckpointError(
                f"{shard.path}: tensor {entry.name!r} has shape {list(entry.shape)}, but config.json implies "
                f"{list(place.into.shape)}"
            )
        if entry.dtype not in STORED:
            raise CheckpointError(
                f"{shard.path}: tensor {entry.name!r} is stored in {entry.dtype}; known: {', '.join(STORED)}"
            )
    for name in wanted:
        if name not in seen:
            files = ", ".join(layout.shards)
            raise CheckpointError(f"{layout.directory}: tensor {name!r} is missing; looked in {files}")


def _read(
    file: BinaryIO,
    shard: Shard,
    entry: TensorEntry,
    place: TensorPlace | None,
    records: Mapping[str, FileRecord] | None,
) -> None:
    """Read one tensor to its place, or to nowhere, and hold its bytes against the manifest."""
    digest = hashlib.sha256() if records is not None else None
    for rows, piece in _pieces(file, shard, entry, place):
        if digest is not None:
            digest.update(_bytes(piece))
        if place is None:
            continue
        if place.order is not None:
            place.into.index_copy_(0, place.order[rows].to(place.into.device), piece.to(place.into))
        elif place.into[rows].data_ptr() != piece.data_ptr():
            place.into[rows].copy_(piece)
    if digest is not None and records is not None:
        check_tensor(shard.path, entry.name, digest.hexdigest(), records[shard.path.name])


def _pieces(
    file: BinaryIO, shard: Shard, entry: TensorEntry, place: TensorPlace | None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (rows, their values as stored) of a tensor; read into their place at once where they need no change."""
    dtype = STORED.get(entry.dtype, torch.uint8)
    shape = entry.shape if dtype != torch.uint8 else (entry.end - entry.begin,)
    rows = shape[0] if shape else 1
    row_shape = shape[1:]
    row_bytes = (entry.end - entry.begin) // rows if rows else 0
    at_once = max(1, CHUNK_BYTES // max(row_bytes, 1))
    direct = place is not None and place.order is None and place.into.dtype == dtype and place.into.device.type == "cpu"
    buffer = torch.empty(0 if direct else min(at_once, rows), *row_shape, dtype=dtype)
    file.seek(entry.begin)
    for first in range(0, rows, at_once):
        part = slice(first, min(first + at_once, rows))
        piece = place.into[part] if direct and place is not None else buffer[: part.stop - part.start]
        _fill(file, shard.path, _bytes(piece))
        yield part, piece


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Return a contiguous tensor's memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _fill(file: BinaryIO, path: Path, memory: memoryview) -> None:
    done = 0
    while done < len(memory):
        got = os.readv(file.fileno(), [memory[done:]])
        if not got:
            raise CheckpointError(f"{path} ended while it was read; it is truncated")
        done += got


def _check_tied_head(layout: Layout, name: str, weights: Weights) -> None:
    """Refuse a stored LM head that is not the embedding it is said to be."""
    for shard, entry in layout.entries():
        if entry.name != name:
            continue
        if entry.shape != tuple(weights.head.shape):
            raise CheckpointError(f"{shard.path}: tensor {name!r} has shape {list(entry.shape)}, unlike the embedding")
        with shard.path.open("rb", buffering=0) as file:
            for rows, piece in _pieces(file, shard, entry, None):
                if not torch.equal(piece.to(weights.head), weights.head[rows]):
                    raise CheckpointError(
                        f"{shard.path}: tensor {name!r} differs from the embedding, but config.json ties them"
                    )

"""The safetensors container, read without trust: where each tensor's bytes lie in a file, and nothing else.

A file is eight bytes of header length (little-endian), a JSON header padded with spaces, and the tensors' bytes end to
end (https://github.com/huggingface/safetensors, README, "Format"). A header that claims anything else is refused, so
that every byte of a file belongs to its length field, its header or exactly one tensor.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from afterwatt.engine.runtime.errors import CheckpointError
from afterwatt.modelspecs.files import check_small

DTYPE_BYTES: Final[Mapping[str, int]] = MappingProxyType(
    {
        **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
        **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
        **dict.fromkeys(("I32", "U32", "F32"), 4),
        **dict.fromkeys(("I64", "U64", "F64"), 8),
    }
)
"""Element types of the format that fill whole bytes -> bytes of one element."""

LENGTH_BYTES: Final = 8
LARGEST_HEADER_BYTES: Final = 25_000_000
"""A header of 100,000 tensors takes 12 MB; a longer one is a damaged length field, or made to fill the memory."""
MOST_DIMENSIONS: Final = 16
LONGEST_NAME: Final = 1000
LARGEST_NUMBER: Final = 2**63 - 1
CHUNK_BYTES: Final = 4 << 20
_FIELDS: Final = {"dtype", "shape", "data_offsets"}
_METADATA: Final = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a shard.

    Attributes:
        name: as the checkpoint calls it.
        dtype: as the format spells it: F32, BF16, ...
        shape: elements along each dimension.
        begin, end: byte range in the file, counted from its first byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Shard:
    """What a file's header says, found consistent with itself and with the file's size.

    Attributes:
        path: the file.
        size_bytes: of all of it.
        header_bytes: of length field and header; the tensors begin there.
        tensors: by name, in the order of their bytes.
    """

    path: Path
    size_bytes: int
    header_bytes: int
    tensors: Mapping[str, TensorEntry]


def read_shard(path: Path) -> Shard:
    """Read and check the header of a safetensors file.

    Raises:
        CheckpointError: the file is missing, cut off, or its header does not describe it.
    """
    try:
        check_small(path, LARGEST_NUMBER)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, LARGEST_HEADER_BYTES):
                raise CheckpointError(
                    f"{path}: its first bytes claim a header of {length:,} bytes, but the file has {size:,}; it is "
                    "truncated or no safetensors file"
                )
            header = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}; the checkpoint is incomplete") from None
    begin = LENGTH_BYTES + length
    tensors = _entries(path, _parsed(path, header), begin)
    _check_layout(path, tensors, begin, size)
    return Shard(path, size, begin, MappingProxyType({entry.name: entry for entry in tensors}))


def _parsed(path: Path, header: bytes) -> Mapping[str, Any]:
    try:
        fields = json.loads(header.decode("utf-8"), object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is not valid JSON ({error}); the file is damaged") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: its header is a JSON {type(fields).__name__}, not an object")
    return fields


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name given twice, which JSON readers settle each in their own way."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name stands there twice")
    return fields


def _entries(path: Path, fields: Mapping[str, Any], begin: int) -> list[TensorEntry]:
    """Return the tensors that a header lists, in the order of their bytes."""
    found = []
    for name, told in fields.items():
        if len(name) > LONGEST_NAME:
            raise CheckpointError(f"{path}: tensor {name[:60]!r}... has a name of {len(name):,} letters; it is damaged")
        if name == _METADATA:
            # The library writes null where there is none.
            if told is not None and not (isinstance(told, dict) and all(isinstance(x, str) for x in told.values())):
                raise CheckpointError(f"{path}: {_METADATA} must map names to texts; the header is damaged")
            continue
        if not isinstance(told, dict) or set(told) != _FIELDS:
            raise CheckpointError(f"{path}: tensor {name!r} must have exactly dtype, shape and data_offsets")
        dtype, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
            shown = repr(dtype)[:60]
            raise CheckpointError(f"{path}: tensor {name!r} has dtype {shown}; known: {', '.join(DTYPE_BYTES)}")
        if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {_shown(shape)} at {_shown(offsets)}; expected whole numbers, at "
                f"most {MOST_DIMENSIONS}"
            )
        if offsets[1] - offsets[0] != math.prod(shape) * DTYPE_BYTES[dtype]:
            raise CheckpointError(
                f"{path}: tensor {name!r} of shape {shape} in {dtype} needs "
                f"{math.prod(shape) * DTYPE_BYTES[dtype]:,} bytes, but {offsets[1] - offsets[0]:,} are set aside for it"
            )
        found.append(TensorEntry(name, dtype, tuple(shape), begin + offsets[0], begin + offsets[1]))
    return sorted(found, key=lambda entry: (entry.begin, entry.end))


def _counts(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= MOST_DIMENSIONS
        and all(type(value) is int and 0 <= value <= LARGEST_NUMBER for value in values)
    )


def _shown(value: object) -> str:
    """Return a value as it may stand in a message."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value[:4]))}{', ...' if len(value) > 4 else ''}]"
    return (
        f"a number of {value.bit_length()} bits" if type(value) is int and value > LARGEST_NUMBER else repr(value)[:60]
    )


def _check_layout(path: Path, tensors: list[TensorEntry], begin: int, size: int) -> None:
    """Refuse gaps, overlaps, and a file that ends elsewhere than its last tensor."""
    place = begin
    for entry in tensors:
        if entry.begin != place:
            raise CheckpointError(
                f"{path}: tensor {entry.name!r} begins at byte {entry.begin:,}, but the one before it ends at "
                f"{place:,}; the header is damaged"
            )
        place = entry.end
        if place > size:
            raise CheckpointError(
                f"{path}: tensor {entry.name!r} ends at byte {place:,}, but the file has {size:,}; it is truncated"
            )
    if place != size:
        raise CheckpointError(f"{path}: {size - place:,} bytes follow the last tensor; the file is damaged")


def chunks(path: Path, begin: int, end: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
    """Yield a byte range of a file piece by piece, each valid until the next is asked for.

    Args:
        path: the file.
        begin: where the range begins, bytes.
        end: where it ends.
        chunk_bytes: how much at a time.

    Raises:
        CheckpointError: the file cannot be read or ends before the range does.
    """
    buffer = memoryview(bytearray(min(chunk_bytes, max(end - begin, 1))))
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(begin)
            while begin < end:
                got = file.readinto(buffer[: min(len(buffer), end - begin)])
                if not got:
                    raise CheckpointError(f"{path} ends at byte {begin:,} where {end:,} were expected; it is truncated")
                yield buffer[:got]
                begin += got
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None

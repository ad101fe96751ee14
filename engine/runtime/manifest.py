"""`afterwatt-manifest.json`: what a checkpoint's files must be, byte for byte.

A shard's header and each of its tensors has a checksum of its own, so that a tensor is verified while it is read and
named when it is damaged. Together they cover every byte of the file; the checksum of the whole file stands beside them
for other tools (`sha256sum`). The manifest carries its own checksum too.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from afterwatt.engine.runtime.errors import CheckpointError
from afterwatt.engine.runtime.layout import CONFIG, INDEX, read_layout, weight_files
from afterwatt.engine.runtime.shards import Shard, chunks, read_shard
from afterwatt.modelspecs.files import read_json
from afterwatt.reports.files import write_whole

NAME: Final = "afterwatt-manifest.json"
VERSION: Final = 1
SIDE_FILES: Final = (
    CONFIG,
    INDEX,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What is read of a directory beside its shards; covered where it is there."""
_MEND: Final = f"restore the file, or if it was meant to change run `afterwatt prepare` anew ({NAME})"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What one file must be.

    Attributes:
        size_bytes: of the file.
        sha256: of all its bytes.
        header_sha256: of a shard's length field and header; empty for other files.
        tensors: checksum of each tensor's bytes; empty for other files.
    """

    size_bytes: int
    sha256: str
    header_sha256: str
    tensors: Mapping[str, str]


def write_manifest(directory: Path) -> Path:
    """Read all of a checkpoint and note down what its files are.

    Returns:
        The manifest, written whole or not at all.

    Raises:
        CheckpointError: the checkpoint is damaged or incomplete as it stands.
        ReportError: the manifest cannot be written there.
    """
    if not (directory / CONFIG).is_file():
        raise CheckpointError(f"{directory / CONFIG} is missing; give the directory of a Hugging Face checkpoint")
    layout = read_layout(directory)
    files: dict[str, Any] = {name: _side_file(directory / name) for name in SIDE_FILES if (directory / name).is_file()}
    files |= {name: _shard(shard) for name, shard in layout.shards.items()}
    target = directory / NAME
    text = json.dumps({"version": VERSION, "files": files, "sha256": _seal(files)}, indent=1, sort_keys=True)
    write_whole(target, text + "\n")
    return target


def read_manifest(directory: Path) -> Mapping[str, FileRecord] | None:
    """Return what a checkpoint's files must be, by name; None if nobody has prepared it.

    Raises:
        CheckpointError: the manifest itself is damaged.
    """
    path = directory / NAME
    try:
        fields: Any = read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}; run `afterwatt prepare` anew") from None
    if not isinstance(fields, dict) or set(fields) != {"version", "files", "sha256"}:
        raise CheckpointError(f"{path}: expected version, files and sha256; run `afterwatt prepare` anew")
    if fields["version"] != VERSION:
        raise CheckpointError(f"{path}: version {fields['version']!r} is unknown; run `afterwatt prepare` anew")
    if fields["sha256"] != _seal(fields["files"]):
        raise CheckpointError(f"{path} does not match its own checksum; run `afterwatt prepare` anew")
    try:
        return {name: _record(told) for name, told in fields["files"].items()}
    except (AttributeError, KeyError, TypeError):
        raise CheckpointError(f"{path}: its files are not as expected; run `afterwatt prepare` anew") from None


def check_files(directory: Path, records: Mapping[str, FileRecord]) -> None:
    """Hold a directory against its manifest: everything but the bytes of the tensors, which loading holds against it.

    Raises:
        CheckpointError: a file is missing, one too many, of another size, or differs; it is named.
    """
    for name in [*filter(lambda name: (directory / name).exists(), SIDE_FILES), *weight_files(directory)]:
        if name not in records:
            raise CheckpointError(f"{directory / name} is not in the manifest; {_MEND}")
    for name, record in records.items():
        path = directory / name
        try:
            size = path.stat().st_size
        except OSError:
            raise CheckpointError(f"{path} is missing; {_MEND}") from None
        if size != record.size_bytes:
            raise CheckpointError(f"{path} has {size:,} bytes, not {record.size_bytes:,}; {_MEND}")
        if not record.header_sha256:
            if _digest(path, 0, size) != record.sha256:
                raise CheckpointError(f"{path} does not match its checksum; {_MEND}")
            continue
        # The length field is not to be trusted before the checksum over it holds, and bounds what is read.
        length = int.from_bytes(next(chunks(path, 0, min(8, size)), b""), "little")
        if 8 + length > size or _digest(path, 0, 8 + length) != record.header_sha256:
            raise CheckpointError(f"{path}: its header does not match its checksum; {_MEND}")


def check_tensor(path: Path, name: str, sha256: str, record: FileRecord) -> None:
    """Refuse a tensor whose bytes, just read, are not what they were.

    Raises:
        CheckpointError: they differ; file and tensor are named.
    """
    if record.tensors.get(name) != sha256:
        raise CheckpointError(f"{path}: tensor {name!r} does not match its checksum; {_MEND}")


def verify(directory: Path) -> None:
    """Hold all of a checkpoint against its manifest, without loading it.

    Raises:
        CheckpointError: anything differs, or there is no manifest.
    """
    records = read_manifest(directory)
    if records is None:
        raise CheckpointError(f"{directory / NAME} is missing; run `afterwatt prepare {directory}`")
    check_files(directory, records)
    for name, record in records.items():
        if record.header_sha256:
            for entry in read_shard(directory / name).tensors.values():
                digest = _digest(directory / name, entry.begin, entry.end)
                check_tensor(directory / name, entry.name, digest, record)


def _side_file(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"size_bytes": size, "sha256": _digest(path, 0, size)}


def _shard(shard: Shard) -> dict[str, Any]:
    """Describe a shard in one pass over its bytes."""
    whole = hashlib.sha256()
    header = hashlib.sha256()
    for chunk in chunks(shard.path, 0, shard.header_bytes):
        whole.update(chunk)
        header.update(chunk)
    tensors = {}
    for entry in shard.tensors.values():
        own = hashlib.sha256()
        for chunk in chunks(shard.path, entry.begin, entry.end):
            whole.update(chunk)
            own.update(chunk)
        tensors[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "begin": entry.begin,
            "end": entry.end,
            "sha256": own.hexdigest(),
        }
    return {
        "size_bytes": shard.size_bytes,
        "sha256": whole.hexdigest(),
        "header_sha256": header.hexdigest(),
        "tensors": tensors,
    }


def _record(told: Mapping[str, Any]) -> FileRecord:
    tensors = {name: entry["sha256"] for name, entry in told.get("tensors", {}).items()}
    return FileRecord(told["size_bytes"], told["sha256"], told.get("header_sha256", ""), tensors)


def _digest(path: Path, begin: int, end: int) -> str:
    digest = hashlib.sha256()
    for chunk in chunks(path, begin, end):
        digest.update(chunk)
    return digest.hexdigest()


def _seal(files: object) -> str:
    return hashlib.sha256("".join(_canonical(files)).encode()).hexdigest()


def _canonical(files: object) -> Iterator[str]:
    return json.JSONEncoder(sort_keys=True, separators=(",", ":")).iterencode(files)

"""Which files of a Hugging Face directory hold a model's tensors, one safetensors file or several with an index.

Nothing else is looked at: pickled checkpoints (`*.bin`, `*.pt`) run code when they are opened, and are never read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from afterwatt.engine.runtime.errors import CheckpointError
from afterwatt.engine.runtime.shards import Shard, TensorEntry, read_shard
from afterwatt.modelspecs.files import read_json

CONFIG: Final = "config.json"
SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
SUFFIX: Final = ".safetensors"
_FOREIGN: Final = "consolidated"
"""Mistral ships the same weights once more under the names of its own loader; they are nobody's shards."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A model's shards, headers read and found to agree with the index.

    Attributes:
        directory: where they lie.
        shards: by file name, sorted.
        index: whether an index names them.
    """

    directory: Path
    shards: Mapping[str, Shard]
    index: bool

    def entries(self) -> list[tuple[Shard, TensorEntry]]:
        """Return every tensor with the file that holds it, in the order of reading."""
        return [(shard, entry) for shard in self.shards.values() for entry in shard.tensors.values()]


def weight_files(directory: Path) -> list[str]:
    """Return the names of all files in a directory that count as shards, sorted, wanted or not."""
    try:
        names = sorted(path.name for path in directory.iterdir() if path.name.endswith(SUFFIX))
    except OSError as error:
        raise CheckpointError(f"cannot read {directory}: {error.strerror or error}; give a model's directory") from None
    return [name for name in names if not name.startswith(_FOREIGN)]


def read_layout(directory: Path) -> Layout:
    """Find a model's shards and read their headers.

    Raises:
        CheckpointError: no shards; one is missing, damaged or one too many; index and headers disagree.
    """
    there = weight_files(directory)
    index = directory / INDEX
    if not index.exists():
        if there != [SINGLE]:
            found = ", ".join(there) or "none"
            raise CheckpointError(
                f"{directory}: expected {SINGLE}, or {INDEX} and the shards it names; found {found} and no index"
            )
        return Layout(directory, {SINGLE: read_shard(directory / SINGLE)}, index=False)
    wanted = _weight_map(index)
    named = sorted(set(wanted.values()))
    for name in named:
        if name not in there:
            raise CheckpointError(f"{directory / name} is missing; {INDEX} names it, the checkpoint is incomplete")
    for name in there:
        if name not in named:
            raise CheckpointError(f"{directory / name} is one shard too many; {INDEX} does not name it")
    layout = Layout(directory, {name: read_shard(directory / name) for name in named}, index=True)
    _check_index(index, wanted, layout)
    return layout


def _weight_map(index: Path) -> Mapping[str, str]:
    try:
        fields: Any = read_json(index)
    except OSError as error:
        raise CheckpointError(f"cannot read {index}: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{index} is not valid JSON: {error}; the file is damaged") from None
    wanted = fields.get("weight_map") if isinstance(fields, dict) else None
    if not isinstance(wanted, dict) or not wanted:
        raise CheckpointError(f"{index}: weight_map must be an object that says which tensor is in which file")
    for tensor, name in wanted.items():
        # A name with a folder in it could lead out of the directory.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(SUFFIX):
            raise CheckpointError(
                f"{index}: tensor {tensor!r} is said to be in {name!r}; expected a {SUFFIX} file's name"
            )
    return wanted


def _check_index(index: Path, wanted: Mapping[str, str], layout: Layout) -> None:
    for tensor, name in wanted.items():
        if tensor not in layout.shards[name].tensors:
            raise CheckpointError(
                f"{layout.directory / name}: tensor {tensor!r} is missing; {index.name} says it is there"
            )
    for shard, entry in layout.entries():
        if wanted.get(entry.name) != shard.path.name:
            raise CheckpointError(f"{shard.path}: tensor {entry.name!r} is there, but {index.name} does not say so")

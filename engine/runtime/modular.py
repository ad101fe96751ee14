"""A modular checkpoint: a directory whose feed-forward networks lie as bundles, ready to be read in pieces.

`ffn.nrn` holds the bundles (`modelspecs.bundles`), `rest.safetensors` every other tensor as it was, `modular.json` says
what is what; config.json and tokenizer files are the source's own. docs/modular.md has the format, byte for byte.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from afterwatt.engine.runtime.errors import CheckpointError
from afterwatt.modelspecs.bundles import GROUP, PRECISIONS, Bundles
from afterwatt.modelspecs.files import read_json

INDEX: Final = "modular.json"
BUNDLES: Final = "ffn.nrn"
REST: Final = "rest.safetensors"
VERSION: Final = 1
_MEND: Final = "run `afterwatt prepare` anew"


@dataclass(frozen=True, slots=True)
class ModularLayer:
    """One layer's bundles.

    Attributes:
        order: units as the source numbers them, most important first: unit k of a section is the source's order[k].
        importance: of the units in that order: mean |activation| of a neuron, share of the picks of an expert; None
            where nothing was measured.
        crc32: precision -> checksum of each block, padding included.
        source_sha256: of the tensors that the layer was made of, as stored.
    """

    order: Sequence[int]
    importance: Sequence[float] | None
    crc32: Mapping[str, Sequence[int]]
    source_sha256: str


@dataclass(frozen=True, slots=True)
class Modular:
    """What a modular checkpoint's index says.

    Attributes:
        directory: where it lies.
        bundles: sizes of its file of bundles.
        layers: in order.
        calibration: what importance was measured on; None where it was not.
    """

    directory: Path
    bundles: Bundles
    layers: Sequence[ModularLayer]
    calibration: Mapping[str, Any] | None

    def check_block(self, layer: int, precision: str, block: int, content: memoryview) -> bool:
        """Say whether a block, just read, is what was written."""
        return zlib.crc32(content) == self.layers[layer].crc32[precision][block]


def is_modular(directory: Path) -> bool:
    """Say whether a directory is a modular checkpoint."""
    return (directory / INDEX).is_file()


def index_text(
    bundles: Bundles,
    layers: Sequence[ModularLayer],
    rest_sha256: str,
    calibration: Mapping[str, Any] | None,
) -> str:
    """Return the content of `modular.json`.

    Args:
        bundles: sizes.
        layers: in order.
        rest_sha256: of `rest.safetensors`.
        calibration: what importance was measured on.
    """
    source = hashlib.sha256("".join([*(layer.source_sha256 for layer in layers), rest_sha256]).encode()).hexdigest()
    fields: dict[str, Any] = {
        "version": VERSION,
        "bundles": {name: getattr(bundles, name) for name in Bundles.__slots__} | {"group": GROUP},
        "bytes": bundles.total_bytes,
        "rest_sha256": rest_sha256,
        "source_sha256": source,
        "calibration": calibration,
        "layers": [layer_fields(layer) for layer in layers],
    }
    return json.dumps(fields | {"sha256": _seal(fields)}, sort_keys=True, separators=(",", ":")) + "\n"


def layer_fields(layer: ModularLayer) -> dict[str, Any]:
    """Return a layer as JSON holds it."""
    return {
        "order": list(layer.order),
        "importance": None if layer.importance is None else list(layer.importance),
        "crc32": {name: "".join(f"{sum_:08x}" for sum_ in sums) for name, sums in layer.crc32.items()},
        "source_sha256": layer.source_sha256,
    }


def layer_of(fields: Mapping[str, Any]) -> ModularLayer:
    """Return a layer from what JSON holds of it."""
    sums = {
        name: [int(text[at : at + 8], 16) for at in range(0, len(text), 8)] for name, text in fields["crc32"].items()
    }
    return ModularLayer(fields["order"], fields["importance"], sums, fields["source_sha256"])


def read_modular(directory: Path) -> Modular:
    """Read a modular checkpoint's index, and hold its file's size against it.

    Raises:
        CheckpointError: there is none, it is damaged, or the file of bundles is not as long as it says.
    """
    path = directory / INDEX
    try:
        fields: Any = read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; `afterwatt prepare MODEL {directory}` makes it") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}; {_MEND}") from None
    told = fields.pop("sha256", None) if isinstance(fields, dict) else None
    if told is None or fields.get("version") != VERSION or told != _seal(fields):
        raise CheckpointError(f"{path} does not match its own checksum, or is of another version; {_MEND}")
    sizes = dict(fields["bundles"])
    group, precisions = sizes.pop("group"), tuple(sizes.pop("precisions"))
    if group != GROUP or not set(precisions) <= set(PRECISIONS):
        raise CheckpointError(f"{path}: groups of {group}, precisions {', '.join(precisions)} are unknown; {_MEND}")
    bundles = Bundles(precisions=precisions, **sizes)
    file = directory / BUNDLES
    try:
        size = file.stat().st_size
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}; {_MEND}") from None
    if size != bundles.total_bytes:
        raise CheckpointError(f"{file} has {size:,} bytes, not {bundles.total_bytes:,}; {_MEND}")
    return Modular(directory, bundles, list(map(layer_of, fields["layers"])), fields["calibration"])


def _seal(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

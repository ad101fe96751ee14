"""The feed-forward networks of a checkpoint, read neuron by neuron without torch."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from afterwatt.engine.runtime.errors import CheckpointError
from afterwatt.engine.runtime.layout import Layout
from afterwatt.engine.runtime.quant import Floats, widened
from afterwatt.engine.runtime.shards import Shard, TensorEntry, chunks
from afterwatt.modelspecs.decoders import DECODERS
from afterwatt.modelspecs.spec import ModelSpec

FORMATS: Final = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_PARTS: Final = ("gate", "up", "down")
Stored = NDArray[np.uint8]


class Networks:
    """Reads bundles out of a checkpoint's own tensors; of one network at a time, the last that was asked for.

    Args:
        layout: the checkpoint.
        spec: the model that it is of.

    Attributes:
        stored: what the networks are stored in: fp32, fp16 or bf16.

    Raises:
        CheckpointError: a tensor is missing, or of another shape or kind.
    """

    def __init__(self, layout: Layout, spec: ModelSpec) -> None:
        if spec.family not in DECODERS:
            raise CheckpointError(f"{layout.directory}: {spec.family!r} models are not prepared; they are not computed")
        if spec.ffn_bias:
            raise CheckpointError(f"{layout.directory}: its networks have biases, for which bundles have no place")
        self._spec, self._names = spec, DECODERS[spec.family].names
        self._entries = {entry.name: (shard, entry) for shard, entry in layout.entries()}
        self._directory = layout.directory
        self._held: tuple[int, int] | None = None
        self._rows: tuple[NDArray[np.generic], ...] = ()
        kinds = {self._found(layer, 0, part)[1].dtype for layer in range(spec.layers) for part in _PARTS}
        if len(kinds) > 1 or not kinds <= set(FORMATS):
            raise CheckpointError(
                f"{layout.directory}: networks are stored in {', '.join(sorted(kinds))}; give one of F32, F16 and BF16"
            )
        self.stored = FORMATS[kinds.pop()]

    def names(self, layer: int) -> Iterator[str]:
        """Yield the tensors of a layer that bundles take the place of."""
        for expert in range(self._spec.experts):
            yield from (self._name(layer, expert, part) for part in _PARTS)

    def rest(self) -> list[tuple[Shard, TensorEntry]]:
        """Return every other tensor, in the order of reading."""
        taken = {name for layer in range(self._spec.layers) for name in self.names(layer)}
        return [found for name, found in self._entries.items() if name not in taken]

    def sha256(self, layer: int) -> str:
        """Return a checksum over all of a layer's tensors, as stored."""
        digest = hashlib.sha256()
        for name in self.names(layer):
            shard, entry = self._entries[name]
            for chunk in chunks(shard.path, entry.begin, entry.end):
                digest.update(chunk)
        return digest.hexdigest()

    def rows(self, layer: int, units: Sequence[int]) -> Floats:
        """Return gate, up and down of units' neurons, fp32[neurons, 3, hidden].

        Args:
            layer: which.
            units: neurons of a dense network, or experts.

        Raises:
            CheckpointError: a weight is not finite.
        """
        if self._spec.experts == 1:
            self._hold(layer, 0)
            found = self._taken(np.asarray(units))
        else:
            every = np.arange(self._spec.ffn)
            parts = []
            for expert in units:
                self._hold(layer, expert)
                parts.append(self._taken(every))
            found = np.concatenate(parts)
        if not np.isfinite(found).all():
            raise CheckpointError(f"{self._directory}: a network of layer {layer} has weights that are not finite")
        return found

    def _taken(self, neurons: NDArray[np.int64]) -> Floats:
        gate, up, down = self._rows
        stored = np.stack((gate[neurons], up[neurons], down[:, neurons].T), axis=1)
        raw = np.ascontiguousarray(stored).view(np.uint8).reshape(-1)
        return widened(raw, self.stored).reshape(len(neurons), 3, self._spec.hidden)

    def _hold(self, layer: int, expert: int) -> None:
        """Read one network, unless it is at hand."""
        if self._held == (layer, expert):
            return
        self._rows = tuple(self._tensor(layer, expert, part) for part in _PARTS)
        self._held = (layer, expert)

    def _tensor(self, layer: int, expert: int, part: str) -> NDArray[np.generic]:
        shard, entry = self._found(layer, expert, part)
        content = np.empty(entry.end - entry.begin, dtype=np.uint8)
        place = 0
        for chunk in chunks(shard.path, entry.begin, entry.end):
            content[place : place + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
            place += len(chunk)
        return content.view(np.uint32 if entry.dtype == "F32" else np.uint16).reshape(entry.shape)

    def _found(self, layer: int, expert: int, part: str) -> tuple[Shard, TensorEntry]:
        name = self._name(layer, expert, part)
        if name not in self._entries:
            raise CheckpointError(f"{self._directory}: tensor {name!r} is missing")
        shard, entry = self._entries[name]
        shape = (self._spec.ffn, self._spec.hidden)
        wanted = shape[::-1] if part == "down" else shape
        if entry.shape != wanted:
            raise CheckpointError(
                f"{shard.path}: tensor {name!r} has shape {list(entry.shape)}, but config.json implies {list(wanted)}"
            )
        return shard, entry

    def _name(self, layer: int, expert: int, part: str) -> str:
        return f"{self._names[part].format(layer=layer, expert=expert)}.weight"

"""Sizes of a modular checkpoint, exact to the byte: what `afterwatt prepare` writes is what a planner counts.

A neuron's bundle is its gate row, its up row and its down column, one after the other, at one precision. A unit is what
a cache moves: one neuron of a dense network, or one expert, which is all its neurons' bundles end to end. A section is
all units of a layer at one precision; it is cut into blocks that begin at multiples of 4096 bytes, as direct reads ask.
"""

from dataclasses import dataclass
from typing import Final

from afterwatt.modelspecs.errors import ModelError

ALIGNMENT: Final = 4096
"""Bytes that blocks begin at multiples of: the largest logical sector in use."""
GROUP: Final = 128
"""Weights of a row that share an int4 scale, as in `formats/precisions.toml`."""
BLOCK_BYTES: Final = 1 << 20
"""Bytes of units up to which a block is filled; larger units have a block each. From 1 MiB on one thread reads a disk
at its full rate."""
WIDE_BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2}
PRECISIONS: Final = (*WIDE_BYTES, "int8", "int4")
_SCALE_BYTES: Final = 2
_PADDED_TO: Final = 16


def aligned(size_bytes: int, to: int = ALIGNMENT) -> int:
    """Return a size rounded up to a multiple."""
    return -(-size_bytes // to) * to


def neuron_bytes(hidden: int, precision: str) -> int:
    """Return the bytes of one neuron's bundle, padded to a multiple of 16.

    Args:
        hidden: width of the residual stream, and so of each of its three rows.
        precision: of `PRECISIONS`. int8 has one fp16 scale per row, int4 one per row and group of 128.

    Raises:
        ModelError: no such precision.
    """
    if precision in WIDE_BYTES:
        row = hidden * WIDE_BYTES[precision]
    elif precision == "int8":
        row = hidden + _SCALE_BYTES
    elif precision == "int4":
        row = -(-hidden // 2) + _SCALE_BYTES * -(-hidden // GROUP)
    else:
        raise ModelError(f"bundles in {precision!r} are not stored; known: {', '.join(PRECISIONS)}")
    return aligned(3 * row, _PADDED_TO)


@dataclass(frozen=True, slots=True)
class Bundles:
    """The file of all bundles: layer after layer, of each layer one section per precision.

    Attributes:
        layers: of the model.
        units: of a layer: neurons, or experts.
        neurons: of a unit; 1 in a dense network.
        hidden: width of the residual stream.
        precisions: of the sections, in their order.
        most_block_bytes: of units, up to which a block is filled.
    """

    layers: int
    units: int
    neurons: int
    hidden: int
    precisions: tuple[str, ...]
    most_block_bytes: int = BLOCK_BYTES

    def unit_bytes(self, precision: str) -> int:
        """Return the bytes of one unit."""
        return self.neurons * neuron_bytes(self.hidden, precision)

    def block_units(self, precision: str) -> int:
        """Return how many units a block holds; the last of a section may hold fewer."""
        return min(self.units, max(1, self.most_block_bytes // self.unit_bytes(precision)))

    def block_bytes(self, precision: str) -> int:
        """Return the bytes of a full block, padding included."""
        return aligned(self.block_units(precision) * self.unit_bytes(precision))

    def blocks(self, precision: str) -> int:
        """Return how many blocks a section has."""
        return -(-self.units // self.block_units(precision))

    def section_bytes(self, precision: str) -> int:
        """Return the bytes of a section, padding included."""
        full = self.blocks(precision) - 1
        rest = self.units - full * self.block_units(precision)
        return full * self.block_bytes(precision) + aligned(rest * self.unit_bytes(precision))

    @property
    def layer_bytes(self) -> int:
        """Bytes of all sections of a layer."""
        return sum(map(self.section_bytes, self.precisions))

    @property
    def total_bytes(self) -> int:
        """Bytes of the file."""
        return self.layers * self.layer_bytes

    def section_at(self, layer: int, precision: str) -> int:
        """Return where a section begins in the file."""
        before = self.precisions[: self.precisions.index(precision)]
        return layer * self.layer_bytes + sum(map(self.section_bytes, before))

    def block_at(self, layer: int, precision: str, block: int) -> tuple[int, int]:
        """Return where a block begins in the file, and its bytes."""
        begin = block * self.block_bytes(precision)
        return self.section_at(layer, precision) + begin, min(
            self.block_bytes(precision), self.section_bytes(precision) - begin
        )

    def place_in_section(self, precision: str, unit: int) -> int:
        """Return where a unit begins, counted from its section's first byte."""
        block, within = divmod(unit, self.block_units(precision))
        return block * self.block_bytes(precision) + within * self.unit_bytes(precision)

"""Weight precisions as *stored*: bits per weight with their scales.

What a device can *compute* in is a fact about the device (`hwprofiles`): an M40 stores fp16 and computes fp32. The
quantised formats here shrink only the layers' matrices; embeddings, LM head, norms, biases and routers stay at 16 bits,
as GPTQ, AWQ, LLM.int8() and vLLM's fp8 leave them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from modelspecs.errors import ModelError, hint

BITS_PER_BYTE = 8


@dataclass(frozen=True, slots=True)
class Precision:
    """How weights are stored.

    Attributes:
        name: key in `PRECISIONS`.
        bits_per_weight: of the layers' matrices, scales included.
        bits_per_other: of everything else (embeddings, LM head, norms, biases, routers).
        quantised: True if a matrix must be scaled back (dequantised) before or while it is multiplied.
        source: where the storage format is described.
    """

    name: str
    bits_per_weight: float
    bits_per_other: float
    quantised: bool
    source: str

    @property
    def bytes_per_weight(self) -> float:
        """Bytes per weight of the layers' matrices, scales included."""
        return self.bits_per_weight / BITS_PER_BYTE

    @property
    def bytes_per_other(self) -> float:
        """Bytes per weight of everything that is not a layer's matrix."""
        return self.bits_per_other / BITS_PER_BYTE


_FORMATS = (
    Precision("fp32", 32.0, 32.0, quantised=False, source="IEEE 754-2019 binary32"),
    Precision("fp16", 16.0, 16.0, quantised=False, source="IEEE 754-2019 binary16"),
    Precision("bf16", 16.0, 16.0, quantised=False, source="bfloat16: the upper half of a binary32"),
    # One fp16 scale per output channel; a channel has about 4,096 inputs.
    Precision("int8", 8.0 + 16 / 4096, 16.0, quantised=True, source="LLM.int8(), arXiv:2208.07339, vector-wise scales"),
    # One scale per matrix: nothing per weight.
    Precision("fp8", 8.0, 16.0, quantised=True, source="FP8 formats, arXiv:2209.05433, one scale per tensor"),
    # One fp16 scale per group of 128 weights; a zero point would add 4 / 128 bits more.
    Precision("int4", 4.0 + 16 / 128, 16.0, quantised=True, source="GPTQ, arXiv:2210.17323, groups of 128, symmetric"),
)

PRECISIONS: Mapping[str, Precision] = MappingProxyType({p.name: p for p in _FORMATS})


def load_precision(name: str) -> Precision:
    """Look up a precision by name.

    Raises:
        ModelError: the name is none of `PRECISIONS`.
    """
    try:
        return PRECISIONS[name.lower()]
    except KeyError:
        raise ModelError(f"unknown precision {name!r}{hint(name, PRECISIONS)}") from None

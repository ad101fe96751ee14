"""llama.cpp's storage formats: bits per weight, from the sizes of ggml's blocks and the mixtures of llama-quantize.

A block holds a fixed number of weights with their scales (`ggml/src/ggml-common.h`). A mixture such as Q4_K_M stores
most matrices in one block type and the more sensitive ones, or some of their layers, in a larger one
(`llama_tensor_get_type_impl` of `src/llama-quant.cpp`); here its average over the matrices of a Llama-3.1-8B layer
(four query heads per key/value head, 32 layers, no importance matrix but where the format demands one). Other shapes
differ by under 2 %; whole files of Llama-3.1-8B come out as published in `tools/quantize/README.md`.

Blocks of 256 need rows of a multiple of 256 weights. A matrix that has others is stored in a block of 32
(`FALLBACK`), which is larger; and gpt-oss keeps its experts in MXFP4 whatever a file is called. `fitted` counts a
mixture for the rows that a model has.
"""

import tomllib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from afterwatt.modelspecs.files import DATA_DIR

_DATA: Final = tomllib.loads((DATA_DIR / "formats" / "gguf.toml").read_text(encoding="utf-8"))
SOURCE: Final[str] = _DATA["source"]
BLOCKS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(_DATA["blocks"])
"""Block type -> (bytes, weights) of one block."""

_HIDDEN, _FFN, _KV = 4096, 14336, 1024
_MATRICES: Final = {
    "q": _HIDDEN * _HIDDEN,
    "k": _HIDDEN * _KV,
    "v": _HIDDEN * _KV,
    "out": _HIDDEN * _HIDDEN,
    "gate": _HIDDEN * _FFN,
    "up": _HIDDEN * _FFN,
    "down": _HIDDEN * _FFN,
}
"""Weights of each matrix of a Llama-3.1-8B layer."""


class GgufFormat(NamedTuple):
    """Bits per weight of one llama.cpp format.

    Attributes:
        matrices: of the layers' matrices, on average.
        embedding: of the token embedding.
        head: of the LM head (and of a table that is both).
        attention: of the attention's matrices where they differ from the experts' (MXFP4); None elsewhere.
    """

    matrices: float
    embedding: float
    head: float
    attention: float | None = None


def block_bits(name: str) -> float:
    """Return bits per weight of a ggml block type, scales included."""
    size_bytes, weights = BLOCKS[name]
    return 8.0 * size_bytes / weights


class GgufRecipe(NamedTuple):
    """Which blocks a mixture is made of.

    Attributes:
        base: of most matrices.
        embedding, head: of the token embedding and of the LM head.
        parts: matrix -> another block type, or the share of layers that have it in one.
    """

    base: str
    embedding: str
    head: str
    parts: Mapping[str, str | tuple[float, str]]

    def bits(self, matrix: str, row: int = 256) -> float:
        """Return bits per weight of a layer's matrix, on average over the layers.

        Args:
            matrix: one of q, k, v, out, gate, up, down.
            row: weights in one of its rows.
        """
        part = self.parts.get(matrix, self.base)
        share, other = (1.0, part) if isinstance(part, str) else part
        return share * row_bits(other, row) + (1.0 - share) * row_bits(self.base, row)


FALLBACK: Final[Mapping[str, str]] = MappingProxyType(_DATA["fallback"])
"""Block of 256 -> block of 32 in its place where rows are no multiple of 256; all others fall back to IQ4_NL
(`tensor_type_fallback` of `src/llama-quant.cpp`)."""


def row_bits(name: str, row: int) -> float:
    """Return bits per weight of a matrix that is meant to be in a block type, whose rows have so many weights."""
    if row % BLOCKS[name][1]:
        name = FALLBACK.get(name, "IQ4_NL") if BLOCKS[name][1] == 256 else name
    return 16.0 if row % BLOCKS[name][1] else block_bits(name)


def _usual(recipe: GgufRecipe) -> GgufFormat:
    """Count a mixture's bits for the matrices of Llama-3.1-8B."""
    bits = sum(weights * recipe.bits(matrix) for matrix, weights in _MATRICES.items())
    return GgufFormat(bits / sum(_MATRICES.values()), block_bits(recipe.embedding), block_bits(recipe.head))


def _recipe(base: str, embedding: str = "", head: str = "Q6_K", **parts: str | tuple[float, str]) -> GgufRecipe:
    return GgufRecipe(base, embedding or base, head, parts)


RECIPES: Final[Mapping[str, GgufRecipe]] = MappingProxyType(
    {name: _recipe(**said) for name, said in _DATA["mixtures"].items()}
)
"""Mixtures by the names of llama-quantize, in lower case."""

FORMATS: Final[Mapping[str, GgufFormat]] = MappingProxyType(
    {name: _usual(recipe) for name, recipe in RECIPES.items()}
    | {"mxfp4": GgufFormat(block_bits("MXFP4"), block_bits("Q8_0"), block_bits("Q8_0"), block_bits("Q8_0"))}
)
"""Formats by the names of llama-quantize, in lower case; *_L and Q3_K_XL, which others publish, keep embedding and head
in Q8_0. MXFP4 is MXFP4_MOE: experts in MXFP4, everything else in Q8_0."""


class GgufRows(NamedTuple):
    """Weights in the rows of a model's matrices, and in the matrices.

    Attributes:
        matrices: matrix -> (weights in a row, weights), of one layer; of experts, those of one.
        hidden: width of the tables' rows.
        mxfp4_experts: the experts exist in MXFP4 only.
    """

    matrices: Mapping[str, tuple[int, int]]
    hidden: int
    mxfp4_experts: bool


def fitted(name: str, rows: GgufRows) -> GgufFormat | None:
    """Count a mixture's bits for the rows of a model; None where they are as usual.

    Args:
        name: a key of `FORMATS`.
        rows: of the model.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        return None
    whole = [row for row, _ in rows.matrices.values()] + [rows.hidden]
    if not rows.mxfp4_experts and all(row % 256 == 0 for row in whole):
        return None

    def mean(names: tuple[str, ...]) -> float:
        sizes = {matrix: rows.matrices[matrix] for matrix in names if matrix in rows.matrices}
        bits = sum(weights * recipe.bits(matrix, row) for matrix, (row, weights) in sizes.items())
        return bits / sum(weights for _, weights in sizes.values())

    experts = block_bits("MXFP4") if rows.mxfp4_experts else mean(("gate", "up", "down"))
    tables = row_bits(recipe.embedding, rows.hidden), row_bits(recipe.head, rows.hidden)
    return GgufFormat(experts, *tables, mean(("q", "k", "v", "out")))

"""llama.cpp's storage formats: bits per weight, from the sizes of ggml's blocks and the mixtures of llama-quantize.

A block holds a fixed number of weights with their scales (`ggml/src/ggml-common.h`). A mixture such as Q4_K_M stores
most matrices in one block type and the more sensitive ones, or some of their layers, in a larger one
(`llama_tensor_get_type_impl` of `src/llama-quant.cpp`); here its average over the matrices of a Llama-3.1-8B layer
(four query heads per key/value head, 32 layers, no importance matrix but where the format demands one). Other shapes
differ by under 2 %; whole files of Llama-3.1-8B come out as published in `tools/quantize/README.md`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

SOURCE: Final = "ggml-org/llama.cpp 01243c5 ggml-common.h (blocks), 007dbbf llama-quant.cpp (mixtures), read 2026-11-20"

BLOCKS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "Q4_0": (18, 32), "Q4_1": (20, 32), "Q5_0": (22, 32), "Q5_1": (24, 32), "Q8_0": (34, 32),
        "MXFP4": (17, 32), "NVFP4": (36, 64), "TQ1_0": (54, 256), "TQ2_0": (66, 256),
        "Q2_K": (84, 256), "Q3_K": (110, 256), "Q4_K": (144, 256), "Q5_K": (176, 256), "Q6_K": (210, 256),
        "IQ1_S": (50, 256), "IQ1_M": (56, 256), "IQ2_XXS": (66, 256), "IQ2_XS": (74, 256), "IQ2_S": (82, 256),
        "IQ3_XXS": (98, 256), "IQ3_S": (110, 256), "IQ4_NL": (18, 32), "IQ4_XS": (136, 256),
    }
)  # fmt: skip
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


def _mix(base: str, *, embedding: str = "", head: str = "Q6_K", **parts: str | tuple[float, str]) -> GgufFormat:
    """Make a mixture: `parts` names matrices in another block type, or the share of layers that have them so."""
    bits = 0.0
    for matrix, weights in _MATRICES.items():
        part = parts.get(matrix, base)
        share, other = (1.0, part) if isinstance(part, str) else part
        bits += weights * (share * block_bits(other) + (1.0 - share) * block_bits(base))
    return GgufFormat(bits / sum(_MATRICES.values()), block_bits(embedding or base), block_bits(head))


_HALF = 0.5
_EIGHTH = 0.125
"""Layers that get more bits: the first and the last eighth and every third between; or the first eighth alone."""

FORMATS: Final[Mapping[str, GgufFormat]] = MappingProxyType(
    {
        "iq1_s": _mix("IQ1_S", v="Q4_K", down=(_EIGHTH, "Q2_K"), out="IQ2_XXS", embedding="Q2_K", head="Q5_K"),
        "iq1_m": _mix("IQ1_M", v="Q4_K", down=(_EIGHTH, "Q2_K"), out="IQ2_XXS", embedding="Q2_K", head="Q5_K"),
        "tq1_0": _mix("TQ1_0", embedding="Q4_K"),
        "tq2_0": _mix("TQ2_0", embedding="Q4_K"),
        "iq2_xxs": _mix("IQ2_XXS", v="Q4_K", down=(_EIGHTH, "Q2_K"), embedding="Q2_K", head="Q5_K"),
        "iq2_xs": _mix("IQ2_XS", v="Q4_K", down=(_EIGHTH, "Q2_K"), embedding="Q2_K", head="Q5_K"),
        "iq2_s": _mix("IQ2_XS", v="Q4_K", down=(_EIGHTH, "IQ3_S"), out="IQ3_S", embedding="IQ3_S", head="Q5_K"),
        "iq2_m": _mix("IQ2_S", v="Q4_K", down=(_EIGHTH, "IQ3_S"), out="IQ3_S", embedding="IQ3_S", head="Q5_K"),
        "q2_k_s": _mix("Q2_K", v="Q4_K", down=(_EIGHTH, "Q4_K")),
        "q2_k": _mix("Q2_K", v="Q4_K", down="Q3_K", out="Q3_K"),
        "iq3_xxs": _mix("IQ3_XXS", q="IQ2_S", k="IQ2_S", v="Q4_K", out="IQ3_S", embedding="IQ3_S", head="Q5_K"),
        "iq3_xs": _mix(
            "IQ3_S",
            q="IQ3_XXS",
            k="IQ3_XXS",
            v="Q4_K",
            gate=(1 - 2 * _EIGHTH, "IQ3_XXS"),
            up=(1 - 2 * _EIGHTH, "IQ3_XXS"),
        ),
        "iq3_s": _mix("IQ3_S", v="Q4_K"),
        "iq3_m": _mix("IQ3_S", v="Q4_K", out="Q4_K", down=(_EIGHTH, "Q4_K")),
        "q3_k_s": _mix("Q3_K"),
        "q3_k_m": _mix("Q3_K", v="Q4_K", out="Q4_K", down="Q4_K"),
        "q3_k_l": _mix("Q3_K", v="Q5_K", out="Q5_K", down="Q5_K"),
        "q3_k_xl": _mix("Q3_K", v="Q5_K", out="Q5_K", down="Q5_K", embedding="Q8_0", head="Q8_0"),
        "iq4_xs": _mix("IQ4_XS", v="Q5_K", down=(_EIGHTH, "Q5_K")),
        "iq4_nl": _mix("IQ4_NL", v="Q5_K", down=(_EIGHTH, "Q5_K")),
        "q4_0": _mix("Q4_0"),
        "q4_1": _mix("Q4_1"),
        "q4_k_s": _mix("Q4_K", v=(_EIGHTH, "Q5_K"), down=(_EIGHTH, "Q5_K")),
        "q4_k_m": _mix("Q4_K", v=(_HALF, "Q6_K"), down=(_HALF, "Q6_K")),
        "q4_k_l": _mix("Q4_K", v=(_HALF, "Q6_K"), down=(_HALF, "Q6_K"), embedding="Q8_0", head="Q8_0"),
        "q5_0": _mix("Q5_0"),
        "q5_1": _mix("Q5_1"),
        "q5_k_s": _mix("Q5_K"),
        "q5_k_m": _mix("Q5_K", v=(_HALF, "Q6_K"), down=(_HALF, "Q6_K")),
        "q5_k_l": _mix("Q5_K", v=(_HALF, "Q6_K"), down=(_HALF, "Q6_K"), embedding="Q8_0", head="Q8_0"),
        "q6_k": _mix("Q6_K"),
        "q6_k_l": _mix("Q6_K", embedding="Q8_0", head="Q8_0"),
        "q8_0": _mix("Q8_0", head="Q8_0"),
        "mxfp4": GgufFormat(block_bits("MXFP4"), block_bits("Q8_0"), block_bits("Q8_0"), block_bits("Q8_0")),
    }
)
"""Formats by the names of llama-quantize, in lower case; *_L and Q3_K_XL, which others publish, keep embedding and head
in Q8_0. MXFP4 is MXFP4_MOE: experts in MXFP4, everything else in Q8_0."""

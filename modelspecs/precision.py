"""Weight precisions as *stored*: bits per weight with their scales, and the arithmetic a format is made for.

What a device can *compute* in is a fact about the device (`hwprofiles`): an M40 stores fp16 and computes fp32. GPTQ,
AWQ, LLM.int8() and vLLM's fp8 shrink only the layers' matrices; llama.cpp and gpt-fast shrink the LM head as well, and
llama.cpp the embedding too. Norms, biases and routers are counted at the width of the embedding: they hardly weigh.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from afterwatt.modelspecs import gguf
from afterwatt.modelspecs.errors import ModelError, hint
from afterwatt.modelspecs.files import DATA_DIR

BITS_PER_BYTE = 8

FAMILIES: Final = ("fp32", "fp16", "fp8", "int8", "int6", "int5", "int4", "fp4", "int3", "int2")
"""How weights are unpacked before they are multiplied: what a stack's rates are told apart by."""


@dataclass(frozen=True, slots=True)
class Precision:
    """How weights are stored.

    Attributes:
        name: key in `PRECISIONS`.
        bits_per_weight: of the layers' matrices, scales included.
        bits_per_other: of everything else (embeddings, LM head, norms, biases, routers).
        quantised: True if a matrix must be scaled back (dequantised) before or while it is multiplied.
        source: where the storage format is described.
        family: one of `FAMILIES`; empty: the name.
        arithmetic: what the matrices are multiplied in: the first of these that the device has. Formats that quantise
            only weights are unpacked to fp16.
        head_bits: of the LM head where it differs from `bits_per_other`.
        attention_bits: of the attention's matrices where they differ from the experts'.
        unpacking: vector instructions that a weight takes to unpack, in those of a plain block of 4 bits and a scale.
        group: weights of a row that share a scale, where GPUs must split rows between groups; None: any split will do.
    """

    name: str
    bits_per_weight: float
    _: KW_ONLY
    source: str
    bits_per_other: float = 16.0
    quantised: bool = True
    family: str = ""
    arithmetic: tuple[str, ...] = ("fp16", "fp32")
    head_bits: float | None = None
    attention_bits: float | None = None
    unpacking: float = 1.0
    group: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", self.family or self.name)
        object.__setattr__(self, "arithmetic", tuple(self.arithmetic))

    @property
    def bytes_per_weight(self) -> float:
        """Bytes per weight of the layers' matrices, scales included."""
        return self.bits_per_weight / BITS_PER_BYTE

    @property
    def bytes_per_attention_weight(self) -> float:
        """Bytes per weight of the attention's matrices, scales included."""
        return (self.bits_per_weight if self.attention_bits is None else self.attention_bits) / BITS_PER_BYTE

    @property
    def bytes_per_other(self) -> float:
        """Bytes per weight of everything that is not a layer's matrix, the LM head apart."""
        return self.bits_per_other / BITS_PER_BYTE

    @property
    def bytes_per_head(self) -> float:
        """Bytes per weight of the LM head, and of an embedding table that is one with it."""
        return (self.bits_per_other if self.head_bits is None else self.head_bits) / BITS_PER_BYTE


_BELOW_4_BITS: Final = 6.5
"""On a P40, Q2_K and Q3_K decode as if a weight took six to seven times the instructions of one in Q4_0: its bits lie
in two planes, 16 weights have a scale of their own, and that one a scale above it. The other formats of so few bits
look weights up in a code book, and are taken to cost as much."""


def _gguf_family(name: str) -> str:
    """Return the family by the bits in the name: q4_k_m and iq4_xs are int4, mxfp4 is fp4."""
    if name == "mxfp4":
        return "fp4"
    bits = int(name.lstrip("itq")[0])
    return f"int{max(bits, 2)}"


def _gguf_precision(name: str, form: gguf.GgufFormat) -> Precision:
    return Precision(
        name,
        form.matrices,
        bits_per_other=form.embedding,
        source=gguf.SOURCE,
        family=_gguf_family(name),
        head_bits=form.head,
        attention_bits=form.attention,
        arithmetic=("fp4", "fp16", "fp32") if name == "mxfp4" else ("fp16", "fp32"),
        unpacking=_BELOW_4_BITS if _gguf_family(name) in ("int3", "int2") else 1.0,
    )


_SAID: Final = tomllib.loads((DATA_DIR / "formats" / "precisions.toml").read_text(encoding="utf-8"))
_ALIASES: Final = _SAID.pop("aliases") | {name: said.pop("aliases", ()) for name, said in _SAID.items()}
_COMMON: Final = [name for name, said in _SAID.items() if said.pop("common", False)]

PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {name: Precision(name, **said) for name, said in _SAID.items()}
    | {name: _gguf_precision(name, form) for name, form in gguf.FORMATS.items()}
)
COMMON_PRECISIONS: Mapping[str, Precision] = MappingProxyType({name: PRECISIONS[name] for name in _COMMON})
"""The formats that a list for people shows; all of them are in `PRECISIONS`."""

_SPELLINGS: Final[Mapping[str, str]] = MappingProxyType(
    {re.sub(r"[^a-z0-9]", "", name): name for name in PRECISIONS}
    | {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
)
_EXL: Final = re.compile(r"(?:exl[23]?[\s_-]*)?(\d(?:\.\d+)?)\s*bpw|exl[23][\s_-]*(\d(?:\.\d+)?)(?:\s*bits?)?\Z")
_MARKS: Final = re.compile(
    r"\(.*?\)|\bgguf\b|\bggml\b|\bud\b|\bweights?\b|\bonly\b|\bquant(?:ized|ised)?\b|\bimatrix\b"
)


def load_precision(name: str) -> Precision:
    """Look up a precision by name, as people write it: `Q4_K_M`, `awq-int4`, `W4A16`, `nf4`, `exl2 4.25bpw`.

    Raises:
        ModelError: the name is none of `PRECISIONS` nor a known spelling of one.
    """
    lowered = name.strip().lower()
    if lowered in PRECISIONS:
        return PRECISIONS[lowered]
    if match := _EXL.fullmatch(lowered):
        return _exl(float(match[1] or match[2]))
    for text in (lowered, _MARKS.sub(" ", lowered.replace("_", "-"))):
        squashed = re.sub(r"[^a-z0-9]", "", text)
        if squashed in _SPELLINGS:
            return PRECISIONS[_SPELLINGS[squashed]]
    usual = get_close_matches(lowered, COMMON_PRECISIONS, n=1)
    known = COMMON_PRECISIONS if usual else PRECISIONS  # of two that are as near, the one more often meant
    raise ModelError(f"unknown precision {name!r}{hint(lowered, known)}")


def _exl(bits: float) -> Precision:
    """Make ExLlama's format at so many bits per weight: a mixture with that average, and the head in six bits."""
    if not 1.0 <= bits <= 8.5:
        raise ModelError(f"precision exl2 at {bits:g} bits per weight is out of range; expected 1 to 8.5")
    family = f"int{min(8, max(2, round(bits)))}".replace("int7", "int8")
    source = (
        "turboderp/exllamav2 convert.py: average bits per weight as asked for, head in 6 bits unless told otherwise"
    )
    return Precision(f"exl2-{bits:g}bpw", bits, source=source, family=family, head_bits=6.0)

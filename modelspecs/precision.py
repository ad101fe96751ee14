"""Weight precisions as *stored*: bits per weight with their scales, and the arithmetic a format is made for.

What a device can *compute* in is a fact about the device (`hwprofiles`): an M40 stores fp16 and computes fp32. GPTQ,
AWQ, LLM.int8() and vLLM's fp8 shrink only the layers' matrices; llama.cpp and gpt-fast shrink the LM head as well, and
llama.cpp the embedding too. Norms, biases and routers are counted at the width of the embedding: they hardly weigh.
"""

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from afterwatt.modelspecs import gguf
from afterwatt.modelspecs.errors import ModelError, hint

BITS_PER_BYTE = 8

FAMILIES: Final = ("fp32", "fp16", "fp8", "int8", "int6", "int5", "int4", "fp4", "int3", "int2")
"""How weights are unpacked before they are multiplied: what a stack's rates are told apart by."""

_WEIGHT_ONLY: Final = ("fp16", "fp32")


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
        group: weights of a row that share a scale, where GPUs must split rows between groups; None: any split will do.
    """

    name: str
    bits_per_weight: float
    bits_per_other: float
    quantised: bool
    source: str
    family: str = ""
    arithmetic: tuple[str, ...] = _WEIGHT_ONLY
    _: KW_ONLY
    head_bits: float | None = None
    attention_bits: float | None = None
    group: int | None = None

    def __post_init__(self) -> None:
        if not self.family:
            object.__setattr__(self, "family", self.name)

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


_COMMON = (
    Precision("fp32", 32.0, 32.0, quantised=False, source="IEEE 754-2019 binary32", arithmetic=("fp32",)),
    Precision("fp16", 16.0, 16.0, quantised=False, source="IEEE 754-2019 binary16"),
    Precision(
        "bf16",
        16.0,
        16.0,
        quantised=False,
        source="bfloat16: the upper half of a binary32",
        family="fp16",
        arithmetic=("bf16", "fp16", "fp32"),  # cast to fp16 on cards that lack it, as engines do
    ),
    # One fp16 scale per output channel; a channel has about 4,096 inputs.
    Precision("int8", 8.0 + 16 / 4096, 16.0, quantised=True, source="LLM.int8(), arXiv:2208.07339, vector-wise scales"),
    # One scale per matrix: nothing per weight.
    Precision(
        "fp8",
        8.0,
        16.0,
        quantised=True,
        source="FP8 formats, arXiv:2209.05433, one scale per tensor",
        arithmetic=("fp8", "fp16", "fp32"),
    ),
    # One fp16 scale per group of 128 weights; a zero point would add 4 / 128 bits more.
    Precision(
        "int4",
        4.0 + 16 / 128,
        16.0,
        quantised=True,
        source="GPTQ, arXiv:2210.17323, groups of 128, symmetric",
        group=128,
    ),
)

_GPT_FAST = "pytorch-labs/gpt-fast 0055c42 quantize.py: every linear layer, the head too"
_OTHERS = (
    ("gptq", 4 + 20 / 128, None, "int4", "GPTQ, arXiv:2210.17323, groups of 128, fp16 scale and 4-bit zero point"),
    ("awq", 4 + 20 / 128, None, "int4", "AWQ, arXiv:2306.00978, groups of 128, fp16 scale and 4-bit zero point"),
    ("int3", 3 + 19 / 128, None, "int3", "GPTQ, arXiv:2210.17323, groups of 128, fp16 scale and 3-bit zero point"),
    ("int4-g32", 4 + 32 / 32, 4 + 32 / 32, "int4", f"{_GPT_FAST}; groups of 32, a bf16 scale and zero point"),
    ("int4-g128", 4 + 32 / 128, 4 + 32 / 128, "int4", f"{_GPT_FAST}; groups of 128, a bf16 scale and zero point"),
    ("int8-head", 8 + 16 / 4096, 8 + 16 / 4096, "int8", f"{_GPT_FAST}; one bf16 scale per output channel"),
    (
        "q4f16",
        4.5,
        4.5,
        "int4",
        "mlc-ai/mlc-llm quantization.py q4f16_1: groups of 32 with an fp16 scale, head included",
    ),
    ("nf4", 4 + 32 / 64, None, "int4", "QLoRA, arXiv:2305.14314: blocks of 64 with an fp32 scale"),
    ("nf4-dq", 4.127, None, "int4", "QLoRA, arXiv:2305.14314: double quantisation, 0.127 bits of scales per weight"),
    ("fp6", 6.0, None, "int6", "FP6-LLM, arXiv:2401.14112, one scale per output channel"),
    (
        "aqlm-2bit",
        2.3,
        None,
        "int2",
        "AQLM README (Vahe1994/AQLM): Llama-2-7B 1x16 is 2.4 GB, less fp16 embedding and head",
    ),
    ("quip-2bit", 2.0, None, "int2", "QuIP#, arXiv:2402.04396: E8P codebook, 2 bits, no group scales"),
    ("qtip-2bit", 2.0, None, "int2", "QTIP, arXiv:2406.11235: trellis codes, 2 bits, no group scales"),
)
_COMPUTED_NARROW = (
    ("w8a8", 8 + 16 / 4096, "int8", ("int8", *_WEIGHT_ONLY), "SmoothQuant, arXiv:2211.10438: weights and activations"),
    ("w4a8", 4 + 20 / 128, "int4", ("int8", *_WEIGHT_ONLY), "QServe, arXiv:2405.04532: groups of 128"),
    ("fp8-weight-only", 8.0, "fp8", _WEIGHT_ONLY, "FP8 formats, arXiv:2209.05433; unpacked to fp16, as Marlin does"),
    (
        "nvfp4",
        gguf.block_bits("NVFP4"),
        "fp4",
        ("fp4", "fp8", *_WEIGHT_ONLY),
        f"blocks of 16 with an fp8 scale: {gguf.SOURCE}; devices list no fp4 rate yet, so fp8's is taken",
    ),
)


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
        form.embedding,
        quantised=True,
        source=gguf.SOURCE,
        family=_gguf_family(name),
        head_bits=form.head,
        attention_bits=form.attention,
    )


_GROUPS = {"gptq": 128, "awq": 128, "int3": 128, "int4-g32": 32, "int4-g128": 128, "w4a8": 128, "nvfp4": 16}
"""Formats whose scales belong to groups of so many weights of a row."""

_EXPERTS_ONLY = Precision(
    "mxfp4-bf16",
    gguf.block_bits("MXFP4"),
    16.0,
    quantised=True,
    source="openai/gpt-oss config.json: experts in MXFP4 (OCP Microscaling v1.0), all else in bf16",
    family="fp4",
    attention_bits=16.0,
    group=32,
)

_FORMATS = (
    *_COMMON,
    *(
        Precision(n, bits, 16.0, True, src, fam, head_bits=head, group=_GROUPS.get(n))
        for n, bits, head, fam, src in _OTHERS
    ),
    *(
        Precision(n, bits, 16.0, True, src, fam, arithmetic, group=_GROUPS.get(n))
        for n, bits, fam, arithmetic, src in _COMPUTED_NARROW
    ),
    _EXPERTS_ONLY,
    *(_gguf_precision(name, form) for name, form in gguf.FORMATS.items()),
)

PRECISIONS: Mapping[str, Precision] = MappingProxyType({p.name: p for p in _FORMATS})
COMMON_PRECISIONS: Mapping[str, Precision] = MappingProxyType({p.name: p for p in _COMMON})
"""The formats that a list for people shows; all of them are in `PRECISIONS`."""

_ALIASES: Final = {
    "fp32": ("f32", "float32", "float", "single"),
    "fp16": ("f16", "float16", "half", "16bit", "w16a16"),
    "bf16": ("bfloat16",),
    "fp8": ("f8", "float8", "e4m3", "fp8e4m3", "fp8e5m2", "w8a8fp8", "fp8w8a8"),
    "fp8-weight-only": ("w8a16fp8", "fp8w8a16", "fp8marlin"),
    "int8": (
        "i8",
        "8bit",
        "llmint8",
        "bnb8bit",
        "bnbint8",
        "bitsandbytes8bit",
        "w8a16",
        "int8wo",
        "gptqint8",
        "gptq8bit",
    ),
    "w8a8": ("smoothquant", "smoothquantw8a8", "w8a8smoothquant", "int8w8a8", "w8a8int8", "int8smoothquant", "int8sq"),
    "int4": ("i4", "4bit", "u4", "uint4", "int4wo"),
    "gptq": ("w4a16", "gptqint4", "gptq4bit", "gptqmarlin", "marlin", "int4gptq", "4bitgptq", "w4a16gptq"),
    "awq": ("awqint4", "awq4bit", "awqmarlin", "int4awq", "4bitawq", "w4a16awq"),
    "int3": ("3bit", "gptq3bit", "gptqint3", "awqint3", "awq3bit"),
    "int4-g32": ("int4g32",),
    "q4f16": ("q4f161", "q4f160", "mlcint4", "mlcq4"),
    "nf4": ("bnb4bit", "bnbnf4", "bnbint4", "bitsandbytes", "bnb", "bitsandbytes4bit", "qlora"),
    "w4a8": ("qserve", "qoq"),
    "nvfp4": ("fp4", "w4a4nvfp4", "modelopt4bit"),
    "mxfp4": ("mxfp4moe",),
    "aqlm-2bit": ("aqlm", "aqlm2"),
    "quip-2bit": ("quip", "quipsharp", "quip2"),
    "qtip-2bit": ("qtip", "qtip2"),
    "q2_k": ("q2", "q2k"),
    "q3_k_m": ("q3", "q3k"),
    "q4_k_m": ("q4", "q4k", "gguf4bit"),
    "q5_k_m": ("q5", "q5k"),
    "q6_k": ("q6",),
    "q8_0": ("q8", "gguf8bit"),
    "q4_k_l": ("q4kxl",),
    "q5_k_l": ("q5kxl",),
    "q6_k_l": ("q6kxl",),
}
"""Other spellings, in letters and digits only. A bare "Q4" is llama.cpp's usual Q4_K_M; the XL of others is the L."""

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
    return Precision(f"exl2-{bits:g}bpw", bits, 16.0, True, source, family, head_bits=6.0)

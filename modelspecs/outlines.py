"""Models that a `ModelSpec` cannot say in full: their counts, and what else is known of them, each with its source.

Latent or linear attention, experts shared by all tokens, vision towers and layers of unequal width have no place in a
shape. Such a model becomes a generic one of its counts, with its own depth, width, cache and vocabulary where a
config.json gives them. Numbers of key/value heads are chosen such that a token's cache has the right size: one layer in
four of Qwen3.5 keeps one, and DeepSeek keeps 576 numbers a layer whatever its heads.
"""

import re
from typing import Final, NamedTuple

from afterwatt.modelspecs.generic import Outline

_AIC = "{}: model_configs of ai-dynamo/aiconfigurator 095f58a"
_QWEN_VOCAB, _GEMMA_VOCAB = 248_320, 262_144


class KnownModel(NamedTuple):
    """What is known of such a model.

    Attributes:
        params, active: parameters in all, and those one token passes through; without vision tower.
        outline: depth, widths, cache and vocabulary; None where they are unknown.
        source: where all that is published.
    """

    params: float
    active: float
    outline: Outline | None
    source: str


_TABLE: Final[tuple[tuple[str, KnownModel], ...]] = (
    (
        r"qwen3\.[5-8]-27b",
        KnownModel(
            26.9e9,
            26.9e9,
            Outline(64, 5120, 24, 2, 128, _QWEN_VOCAB, tied=False),
            _AIC.format("Qwen3.5-27B") + "; 26.90 B in public llama-bench tables",
        ),
    ),
    (
        r"qwen3\.[5-8]-35b-a3b",
        KnownModel(
            34.66e9,
            3e9,
            Outline(40, 2048, 16, 1, 128, _QWEN_VOCAB, tied=False),
            _AIC.format("Qwen3.5-35B-A3B") + "; 34.66 B in public llama-bench tables",
        ),
    ),
    (
        r"qwen3\.[5-8]-122b-a10b",
        KnownModel(
            122e9,
            10e9,
            Outline(48, 3072, 32, 1, 128, _QWEN_VOCAB, tied=False),
            _AIC.format("Qwen3.5-122B-A10B") + "; counts by its name",
        ),
    ),
    (
        r"qwen3\.[5-8]-9b",
        KnownModel(
            8.95e9,
            8.95e9,
            Outline(32, 4096, 16, 2, 128, _QWEN_VOCAB, tied=False),
            "config.json of Qwen3.5-9B quoted in public files: 32 layers of 4,096, 16/4 heads of 256; keras-hub "
            "71453d0: 9.41 B with a vision tower of 0.46",
        ),
    ),
    (
        r"qwen3\.[5-8]-4b",
        KnownModel(
            4.2e9,
            4.2e9,
            Outline(32, 2560, 16, 2, 128, _QWEN_VOCAB, tied=True),
            "config.json of Qwen3.5-4B quoted in public files: 32 layers of 2,560, 16/4 heads of 256, tied; keras-hub "
            "71453d0: 4.54 B with a vision tower, here taken as 0.34",
        ),
    ),
    (
        r"gemma-?4-31b",
        KnownModel(
            31e9,
            31e9,
            Outline(60, 5376, 32, 16, 256, _GEMMA_VOCAB, tied=True),
            _AIC.format("Gemma-4-31B-IT") + "; 31.0 B by keras-hub 71453d0; the cache is that of its windowed layers",
        ),
    ),
    (
        r"gemma-?4-26b-a4b",
        KnownModel(
            26e9,
            4e9,
            Outline(30, 2816, 16, 8, 256, _GEMMA_VOCAB, tied=True),
            _AIC.format("gemma-4-26B-A4B") + "; 26.0 B by keras-hub 71453d0; the cache is that of its windowed layers",
        ),
    ),
    (
        r"gemma-?4-e4b",
        KnownModel(
            4.65e9,
            4.65e9,
            Outline(42, 2560, 8, 1, 256, _GEMMA_VOCAB, tied=True),
            "config.json quoted in tests of NVIDIA-NeMo/Megatron-Bridge's E4B recipe: 42 layers of 2,560 and "
            "10,240, 8/2 heads of 256 (512 in one layer of six), 18 layers without a cache of their own; counted from "
            "it: 3.98 B in matrices, 0.67 B in the embedding; 2.8 B of embeddings per layer are looked up, left out",
        ),
    ),
    (
        r"deepseek-(?:coder-)?v2-lite",
        KnownModel(
            15.7e9,
            2.4e9,
            Outline(27, 2048, 16, 2, 128, 102_400, tied=False),
            "DeepSeek-V2 README: 16B in total (15.7B in the paper), 2.4B activated; mlc-ai/mlc-llm 79d603f presets",
        ),
    ),
    (r"deepseek-v2", KnownModel(236e9, 21e9, None, "DeepSeek-V2 README: 236B in total, 21B activated")),
    (
        r"deepseek-(?:v3|r1)",
        KnownModel(
            671e9,
            37e9,
            Outline(61, 7168, 128, 2, 128, 129_280, tied=False),
            _AIC.format("DeepSeek-V3 and R1") + "; arXiv:2412.19437, abstract: 671B in total, 37B activated",
        ),
    ),
    (
        r"deepseek-v4-flash",
        KnownModel(284e9, 13e9, None, "mlx-community/DeepSeek-V4-Flash-2bit-DQ: 284B in total, about 13B active"),
    ),
    (
        r"llama-?4-scout",
        KnownModel(
            109e9,
            17e9,
            Outline(48, 5120, 40, 8, 128, 202_048, tied=False),
            _AIC.format("Llama-4-Scout") + "; model card quoted in public files: 109B in total, 17B active",
        ),
    ),
    (
        r"lfm-?2(?:\.\d)?-1\.2b",
        KnownModel(
            1.17e9,
            1.17e9,
            Outline(16, 2048, 32, 4, 64, 65_536, tied=True),
            "ollama.com/library/lfm2.5-thinking quoted in public files: 1.17 B, 16 layers, 6 of them with a cache, "
            "vocabulary 65,536; width by the usual weights of a layer",
        ),
    ),
    (
        r"llama-?4-maverick",
        KnownModel(400e9, 17e9, None, "model card quoted in public files: 400B in total, 17B active"),
    ),
)


def known_model(plain: str) -> KnownModel | None:
    """Return what is known of a model whose cleaned name (`resolve`) begins like one of these; None for all others."""
    return next((known for pattern, known in _TABLE if re.match(pattern, plain)), None)

"""What a row leaves unsaid: which software it is about, and how that software's users and each source measure.

All of it is data, with the reason beside it. A habit fills in what a cell leaves empty; every use of one is written on
the scenario (`assumed`), and what is a guess rather than a known command widens its interval (`widen`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from afterwatt.fidelity.points.table import Point


@dataclass(frozen=True, slots=True)
class Habit:
    """How a source measures with a stack.

    Attributes:
        stack: name of the software stack; None: the default of the device.
        layers: several GPUs hold whole layers, one after another, instead of sharing every layer.
        form: form of the cards it means by "A100 80GB": `sxm`, `pcie`; None: not known.
        prompt_tokens, output_tokens: of a row that does not say.
        piece_tokens: prompts are computed in pieces of so many tokens (None: a batch's prompts at once).
        overlaps: a prompt's pieces pass the GPUs of a layer split one behind the other.
        saturates: `batch` is the engine's limit of sequences, and more requests than that wait.
        token_budget: tokens of an iteration while serving; chunked: prompts share iterations with decoding.
        kv_bytes: bytes per cached element where that is not the stack's usual (None).
        flash: attention scores stay on the chip; llama.cpp's default since August 2025 (PR 15434), not before.
        per_gpu: throughput is divided by the number of GPUs.
        widen: factor on the interval's log width where a length is missing.
        why: where this is from.
    """

    stack: str | None
    layers: bool = False
    form: str | None = None
    prompt_tokens: int = 128
    output_tokens: int = 128
    piece_tokens: int | None = None
    overlaps: bool = False
    saturates: bool = False
    token_budget: int = 8192
    chunked: bool = True
    kv_bytes: float | None = None
    flash: bool = True
    per_gpu: bool = False
    widen: float = 1.5
    why: str = "no habit known: a short chat of 128 tokens in and 128 out is assumed"


_LLAMA_CPP: Final = Habit(
    "llama.cpp-cuda",
    layers=True,
    prompt_tokens=1,
    output_tokens=128,
    piece_tokens=512,
    overlaps=True,
    widen=1.4,
    why="llama.cpp: llama-bench tg128 starts from an empty context; prompts in pieces of n_ubatch = 512; several GPUs "
    "hold whole layers (split mode layer), pieces of a prompt follow one another through them",
)
STACKS: Final[Mapping[str, Habit]] = MappingProxyType(
    {
        "llama.cpp-cuda": _LLAMA_CPP,
        "vllm": Habit("vllm", why="vLLM: continuous batching; since 2025 prompts share iterations of 8192 tokens"),
        "tensorrt-llm": Habit("tensorrt-llm", chunked=False, why="TensorRT-LLM: static batches of equal requests"),
        "gpt-fast": Habit(
            "gpt-fast",
            form="sxm",
            prompt_tokens=5,
            output_tokens=200,
            widen=1.0,
            why="gpt-fast: generate.py's defaults, a prompt of 5 tokens and 200 new ones",
        ),
        "flexgen": Habit("flexgen", prompt_tokens=512, output_tokens=32, why="FlexGen: 512 tokens in, 32 out"),
        "zero-inference": Habit(
            "zero-inference", prompt_tokens=512, output_tokens=32, why="as FlexGen: 512 in, 32 out"
        ),
        "splitwise": Habit(
            "splitwise",
            form="sxm",
            prompt_tokens=512,
            output_tokens=128,
            why="Splitwise: DGX machines; the prompts of a batch run as one iteration",
        ),
        "mlc": Habit(
            "mlc",
            prompt_tokens=32,
            output_tokens=256,
            why="MLC's llm-perf-bench: a short question and 256 tokens of answer",
        ),
        "exllama": Habit(
            "exllama", layers=True, prompt_tokens=32, output_tokens=256, why="ExLlama: one stream, layers over GPUs"
        ),
        "transformers": Habit(
            "transformers",
            layers=True,
            why="Hugging Face Transformers: one static batch, layers over GPUs (device_map)",
        ),
        "petals": Habit("petals", layers=True, why="Petals: layers over GPUs, one after another"),
        "tinychat": Habit(
            "tinychat", prompt_tokens=32, output_tokens=200, why="TinyChat (AWQ): a short prompt, one stream"
        ),
    }
)
"""How each stack is used where the source has no habit of its own."""

_WORDS: Final = (
    (r"zero.?inference|deepspeed", "zero-inference"),
    (r"flexgen|flexllmgen", "flexgen"),
    (r"petals", "petals"),
    (r"accelerate|transformers|hugging ?face|\bhf\b", "transformers"),
    (r"tensorrt|trt-?llm", "tensorrt-llm"),
    (r"gpt-?fast", "gpt-fast"),
    (r"splitwise", "splitwise"),
    (r"exllama|exl2|tabbyapi", "exllama"),
    (r"\bmlc\b", "mlc"),
    (r"tinychat", "tinychat"),
    (r"\bvllm\b|ml\.energy|aphrodite", "vllm"),
    (
        r"llama\.?cpp|llama-?bench|llamafile|ollama|gguf|koboldcpp|lm ?studio|ggml|localscore|llama-swap",
        "llama.cpp-cuda",
    ),
)
_GGUF: Final = re.compile(r"^(?:ud-)?i?q\d(?:_|$)|^mxfp4$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """A source's own way.

    Attributes:
        pattern: what its name, its address or the weights' format hold.
        stack: its software; None: recognised as usual.
        changes: what differs from the stack's habit.
    """

    pattern: re.Pattern[str]
    stack: str | None
    changes: Mapping[str, object]


def _source(pattern: str, stack: str | None, **changes: object) -> Source:
    return Source(re.compile(pattern, re.IGNORECASE), stack, changes)


SOURCES: Final = (
    _source(r"T4 AWQ load test", "vllm", why="vLLM with AWQ weights under an open load"),
    _source(
        r"xiongjiedai|GPU-Benchmarks-on-LLM",
        "llama.cpp-cuda",
        flash=False,
        widen=1.0,
        why="XiongjieDai's README: llama-bench -p 512,1024,4096,8192 -n 512,1024,4096,8192, so generation starts from "
        "an empty context",
    ),
    _source(
        r"llama\.cpp PR (?:\d{1,4}|1[0-4]\d{3})\b",
        "llama.cpp-cuda",
        flash=False,
        widen=1.0,
        why="llama.cpp pull requests up to mid-2025: llama-bench, generation from an empty context",
    ),
    _source(
        r"llama\.cpp PR|ggml-org/llama\.cpp",
        "llama.cpp-cuda",
        widen=1.0,
        why="llama.cpp pull requests: llama-bench, generation from an empty context",
    ),
    _source(
        r"llama-?bench log|ai-benchmarks|geerling",
        "llama.cpp-cuda",
        widen=1.0,
        why="llama-bench: generation from an empty context",
    ),
    _source(
        r"pavlokhmel|pavlo khmel",
        "llama.cpp-cuda",
        prompt_tokens=64,
        output_tokens=512,
        widen=1.3,
        why="Khmel: one request at a time; its lengths are not stated, 64 in and 512 out assumed",
    ),
    _source(
        r"localscore",
        "llama.cpp-cuda",
        flash=False,
        prompt_tokens=1024,
        output_tokens=512,
        widen=1.5,
        why="LocalScore averages nine tests of 16 to 4096 tokens in and 16 to 3072 out; 1024 in and 512 out assumed",
    ),
    _source(
        r"ml\.energy|ml-energy",
        "vllm",
        form="sxm",
        saturates=True,
        why="ML.ENERGY: vLLM kept full at max_num_seqs, iterations of up to 8192 tokens, steady state, GPU energy only",
    ),
    _source(r"splitwise", "splitwise", form="sxm"),
    _source(
        r"TensorRT-LLM official",
        "tensorrt-llm",
        form="sxm",
        why="TensorRT-LLM's performance page: static batches; DGX A100 and H100",
    ),
    _source(r"baseten", "tensorrt-llm", prompt_tokens=512, output_tokens=128),
    _source(r"FlexGen\+4bit", "flexgen", kv_bytes=0.5625, why="FlexGen with compression: weights and cache in 4 bits"),
    _source(r"petals \(per gpu\)", "petals", per_gpu=True, why="FlexGen's table gives Petals' throughput per GPU"),
    _source(
        r"vllm issue|vllm-project/vllm/issues",
        "vllm",
        chunked=False,
        token_budget=2560,
        why="vLLM of 2023: prompts first, iterations of at most 2560 prompt tokens, 256 sequences",
    ),
    _source(
        r"\baqlm\b",
        "aqlm",
        prompt_tokens=5,
        output_tokens=200,
        widen=1.3,
        why="AQLM: kernels of its own, one stream; 5 in and 200 out assumed, as in QTIP's README",
    ),
    _source(
        r"\bqtip\b|\bquip#?",
        "qtip",
        prompt_tokens=5,
        output_tokens=200,
        widen=1.3,
        why="QTIP's README: one stream through compiled PyTorch, as gpt-fast does; 5 in and 200 out assumed",
    ),
    _source(r"ntransformer", "ntransformer", layers=True, why="nTransformer: an engine of its own, one stream"),
    _source(
        r"AWQ paper figure",
        None,
        prompt_tokens=32,
        output_tokens=200,
        widen=1.3,
        why="AWQ's figure: one stream, a short prompt and 200 tokens assumed",
    ),
    _source(
        r"mlco2|codecarbon",
        "transformers",
        prompt_tokens=64,
        output_tokens=256,
        widen=1.3,
        why="one stream through Transformers; prompt of 64 tokens assumed",
    ),
)
"""The first that fits a row counts."""

DATASETS: Final[Mapping[str, tuple[float, float, str]]] = MappingProxyType(
    {
        "sharegpt": (161.31, 337.99, "ShareGPT: mean 161 in and 338 out (vLLM paper, arXiv:2309.06180, section 6.1)"),
        "lm-arena-chat": (
            600.0,
            560.0,
            (
                "lm-arena-chat: one request per turn, with all turns before it (ml-energy/benchmark, datasets.py): a "
                "question of 100 to 200 tokens after one earlier exchange on average, mean 600 in assumed"
            ),
        ),
        "gpqa": (250.0, 5000.0, "gpqa: questions of 250 tokens in and 5000 of reasoning out assumed"),
        "sourcegraph-fim": (1500.0, 60.0, "sourcegraph-fim: 1500 tokens of code in and 60 out assumed"),
        "alpaca": (19.31, 58.45, "Alpaca: mean 19 in and 58 out (vLLM paper, arXiv:2309.06180, section 6.1)"),
    }
)
"""Data set -> mean prompt and output tokens, and where that is from; single lengths fall off exponentially."""

OUTPUTS: Final = (
    (r"lm-arena", r"llama-?3\.[13]-?70b", 350.0, "ML.ENERGY: Llama-3.1-70B answers with 350 tokens on average"),
    (r"lm-arena", r"llama-?3\.?1?-?8b", 389.0, "ML.ENERGY: Llama-3.1-8B answers with 389 tokens on average"),
    (r"lm-arena", r"qwen3-30b", 927.0, "ML.ENERGY: Qwen3-30B-A3B answers with 927 tokens on average"),
)
"""(data set, model, mean output tokens, where that is from): how talkative a model is on a data set."""


def habit_of(point: Point) -> Habit:
    """Return how a row was measured, by its source, its address, its notes, and the format of its weights."""
    where = f"{point.source} | {point.url_or_id} | {point.weight_precision}"
    own = next((source for source in SOURCES if source.pattern.search(where)), None)
    stack = (own.stack if own else None) or _stack_of(point)
    base = STACKS.get(stack or "", Habit(stack))
    return replace(base, **dict(own.changes)) if own else base  # type: ignore[arg-type]


def _stack_of(point: Point) -> str | None:
    """Recognise the software: what stands after the colon of a source counts before the rest of it."""
    before, _, after = point.source.rpartition(":")
    for text in (after, before, point.notes, point.url_or_id):
        for pattern, stack in _WORDS:
            if re.search(pattern, text, re.IGNORECASE):
                return stack
    stored = point.weight_precision
    if _GGUF.search(stored):
        return "llama.cpp-cuda"
    if re.search(r"exl2|exl3|\bbpw\b", stored, re.IGNORECASE):
        return "exllama"
    return "tinychat" if "awq" in stored.lower() and point.batch in ("", "1") else None

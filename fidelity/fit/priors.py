"""What is believed of a stack's parameters before its points: the values and 90 % intervals of another profile.

By default that profile is `generic`, whose values come from kernel tables and typical overheads. A refit takes a
shipped profile instead, whose values and intervals hold what its own points told: the table they came from is not
needed again.
"""

import functools
from collections.abc import Mapping
from dataclasses import replace
from math import log
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from afterwatt.fidelity.fit.core import Belief, Prior, StackPlace
from afterwatt.hwprofiles.catalogue import device_names, load_device
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.stacks import (
    DEFAULT_STACK,
    ENGINE,
    FREE,
    Stack,
    load_pools,
    load_stack,
    pool_names,
    software_of,
    stack_names,
)

SHIPPED: Final = "shipped"
"""Every stack starts from its own shipped profile, or from the generic one where it has none."""
SD_PER_REACH: Final = 1.0 / 3.29
"""Standard deviations per width of a normal distribution's 90 % interval."""
LEAST_LOG_SD: Final = 0.02
UNSURE_LOG_SD: Final = 0.7
"""Where an interval reaches down to zero: known within a factor of two to either side."""


class Guess(NamedTuple):
    """A value with its 90 % interval, and why.

    Attributes:
        value, low, high: as believed; of what a host takes, in the year `HOST_YEAR`.
        why: the reason.
        host: whether it is time of the host, which is taken to be as old as its card.
        source: where it stands, if it is no assumption.
    """

    value: float
    low: float
    high: float
    why: str
    host: bool = False
    source: str = ""

    def fact(self, year: int) -> Fact:
        """Return it as a profile would hold it, for a card of a year."""
        if self.source:
            return Fact(self.value, self.source, CHECKED, "datasheet", self.low, self.high, self.why)
        pace = HOST_PACE ** (HOST_YEAR - year) if self.host else 1.0
        source = f"assumption of this project: {self.why}"
        if self.host:
            source += f"; a host of {HOST_YEAR}, and {HOST_PACE - 1:.0%} less for each year that a card is newer"
        return Fact(self.value * pace, source, CHECKED, "assumed", self.low * pace, self.high * pace)


CHECKED: Final = "2026-11-20"
HOST_YEAR: Final = 2020
HOST_PACE: Final = 1.2
"""What Python on one thread of a server's processor gained a year, by judgement: clocks, instructions per clock and the
interpreter together. Hosts are as old as the cards they came with."""
QUANTISED_IN: Final[Mapping[str, str]] = MappingProxyType({"llama.cpp-cuda": "int8", "llama.cpp-vulkan": "int8"})
"""Software that multiplies quantised weights with quantised activations in integers where the device can (llama.cpp's
MMQ kernels by dp4a: ggml-org/llama.cpp PR 4766); all other software scales weights back to 16 bits."""


SUMS_IN: Final[Mapping[str, str]] = MappingProxyType({"llama.cpp-cuda": "fp16"})
"""Software whose products in fp16 are added up in fp16 (ggml-cuda: CUBLAS_COMPUTE_16F), on GeForce twice as fast."""


EAGER: Final[Mapping[str, Guess]] = MappingProxyType(
    {
        "launch_s": Guess(
            4.5e-4, 1.5e-4, 1.4e-3, "eager PyTorch: 15 to 20 kernels a layer, 10 to 30 us of Python each", True
        ),
        "prompt_launch_s": Guess(
            7e-4, 2.3e-4, 2.1e-3, "eager PyTorch: prompts launch more kernels than decoding does", True
        ),
        "sequence_overhead_s": Guess(1e-4, 2e-5, 5e-4, "sampling in Python, sequence by sequence", True),
    }
)
"""Engines that launch each kernel from Python, without CUDA graphs. The host's time then hides the device's: a fit can
only find that from a start where launching matters."""
_MMVQ: Final = "github.com/ggml-org/llama.cpp ggml/src/ggml-cuda/mmvq.cuh: MMVQ_MAX_BATCH_SIZE"
_MMQ: Final = "github.com/ggml-org/llama.cpp ggml/src/ggml-cuda/mmq.cu: ggml_cuda_should_use_mmq"
_COLUMN: Final = "each further row takes 0.018 to 0.03 of the first, times GB/s over dp4a TOPS (MI50, V100, RTX 3090)"
LLAMA_CPP: Final[Mapping[str, Guess]] = MappingProxyType(
    {
        "step_overhead_s": Guess(4e-4, 5e-5, 3e-3, "a loop in C++; logits come to the host, which samples from them"),
        "layer_overhead_s": Guess(2e-5, 4e-6, 1e-4, "small kernels of a layer, one by one or in a CUDA graph"),
        "attention_score_bytes": Guess(0.01, 0.01, 0.01, "flash attention keeps scores on the chip"),
        "quantised_compute_efficiency": Guess(0.25, 0.1, 0.5, "share of the tensor cores' peak, scales apart"),
        "dequant_int4_ops_per_weight": Guess(3.0, 1.0, 9.0, "about 1.3 instructions by dp4a, issued at 0.2 to 0.9"),
        "dequant_int8_ops_per_weight": Guess(2.5, 0.8, 8.0, "about 1 instruction by dp4a, issued at 0.2 to 0.9"),
        "vector_rows": Guess(8.0, 8.0, 8.0, "", source=_MMVQ),
        "vector_ops_per_weight": Guess(2.25, 1.7, 2.8, _COLUMN),
        "activation_bytes_per_element": Guess(4.0, 2.0, 4.0, "ggml's graphs keep hidden states in 32 bits"),
    }
)
"""llama.cpp's own kernels, which kernel tables do not hold."""
_SMALL_EXPERTS: Final = Guess(
    3e-4, 3e-5, 1e-3, "small experts on old cards take 0.4 to 1 ms a layer whatever their bytes"
)
LLAMA_CPP_BY_DP4A: Final[Mapping[str, Guess]] = MappingProxyType(
    {
        "quantised_compute_efficiency": Guess(0.3, 0.12, 0.7, "share of the dp4a peak, with scales apart"),
        "router_overhead_s": _SMALL_EXPERTS,
    }
)
"""What differs where int8 products are vector instructions, a dp4a each: unpacking and scaling weigh less beside them
than beside tensor cores."""
LLAMA_CPP_ON_VOLTA: Final[Mapping[str, Guess]] = MappingProxyType(
    {**LLAMA_CPP_BY_DP4A, "unpack_rows": Guess(64.0, 64.0, 64.0, "MMQ_DP4A_MAX_BATCH_SIZE", source=_MMQ)}
)
"""The same on tensor cores for fp16 alone, which take over from 64 rows on."""
WITHOUT_DP4A: Final = "5 to 6 instructions: a product of 3, its two bytes to extract; issued at 0.25 to 0.9"
LLAMA_CPP_WITHOUT_DP4A: Final[Mapping[str, Guess]] = MappingProxyType(
    {
        "quantised_compute_efficiency": Guess(0.3, 0.1, 0.8, "share of the fp16 or fp32 peak, weights unpacked before"),
        "dequant_int4_ops_per_weight": Guess(13.0, 7.0, 25.0, WITHOUT_DP4A),
        "dequant_int8_ops_per_weight": Guess(11.0, 6.0, 21.0, WITHOUT_DP4A),
        "vector_ops_per_weight": Guess(6.75, 3.0, 13.0, f"three times what dp4a takes; {WITHOUT_DP4A}"),
        "unpack_rows": Guess(9.0, 9.0, 9.0, "all that MMVQ does not take", source=_MMQ),
        "router_overhead_s": _SMALL_EXPERTS,
    }
)
"""What differs where dp4a (four products of bytes in one instruction: Pascal GP102 and newer) has to be put together
from 32-bit multiplications, which Maxwell and Pascal do in three instructions each; larger products go to cuBLAS."""
_IN_16_BITS: Final = Guess(
    0.45, 0.15, 1.0, "cuBLAS adding up in 16 bits, whose peak is hard to feed; results are widened to 32 bits beside it"
)
LLAMA_CPP_ON: Final[Mapping[str, Mapping[str, Guess]]] = MappingProxyType(
    {
        "none": LLAMA_CPP_WITHOUT_DP4A,
        "dp4a": LLAMA_CPP_BY_DP4A,
        "dp4a, fp16 tensor cores": LLAMA_CPP_ON_VOLTA,
        "tensor": {"compute_efficiency": _IN_16_BITS},
    }
)
"""By what a card multiplies bytes with, as `int8_of` says it."""
LLAMA_CPP_2024: Final[Mapping[str, Guess]] = MappingProxyType(
    {
        "attention_score_bytes": Guess(
            20.0, 5.0, 60.0, "without flash attention scores of 4 bytes are written, scaled, masked, read, narrowed"
        ),
        "quantised_compute_efficiency": Guess(0.15, 0.05, 0.45, "share of the tensor cores' peak, scales apart"),
    }
)
"""What differed until flash attention was there for quantised models, and kernels for tensor cores (PR 7676, 8062)."""
_RAY: Final = "Vidur's measured overheads of vLLM over Ray on A100 (cpu_overheads_a100.csv): 8 to 9 ms an iteration"
_VLLM_CACHE: Final = "https://docs.vllm.ai/en/v0.14.0/api/vllm/config/cache/: gpu_memory_utilization"
_TRT_CACHE: Final = "https://nvidia.github.io/TensorRT-LLM/examples/kvcacheconfig.html: free_gpu_memory_fraction"
_FRONT: Final = (
    "HTTP, tokeniser, queues between processes, detokeniser: Mooncake's rows of vLLM have 46 ms to the first token of "
    "a prompt of 128 tokens, of which 5 compute"
)
OWN: Final[Mapping[str, Mapping[str, Guess]]] = MappingProxyType(
    {
        "splitwise": {
            **EAGER,
            "step_overhead_s": Guess(8.5e-3, 5e-3, 1.5e-2, _RAY, True),
            "comm_bulk_efficiency": Guess(0.3, 0.05, 1.0, "prompts beyond a batch of 2048 tokens, as assumed"),
            "comm_latency_s": Guess(2e-6, 5e-7, 8e-6, "NCCL called from Python, as assumed"),
            "comm_bulk_tokens": Guess(2048.0, 2048.0, 2048.0, "a batch of prompts in which one token more costs more"),
        },
        "llama.cpp-cuda": LLAMA_CPP,
        "llama.cpp-vulkan": LLAMA_CPP,
        "vllm": {
            "memory_utilisation": Guess(0.9, 0.9, 0.92, "0.92 in later versions", source=_VLLM_CACHE),
            "front_s": Guess(0.04, 0.02, 0.1, _FRONT),
        },
        "tensorrt-llm": {"free_memory_share": Guess(0.9, 0.85, 0.9, "0.85 in 2023", source=_TRT_CACHE)},
        "transformers": EAGER,
        "petals": EAGER,
        "flexgen": EAGER,
        "zero-inference": EAGER,
    }
)
"""What is known of a stack beforehand that its prior's profile does not know; a stack's own profile replaces it."""


def base_stack(device: str, stack: str, prior: str = DEFAULT_STACK) -> Stack:
    """Return the parameters that a stack is believed to have on a device before its points.

    Args:
        device: key of the catalogue, path of a device TOML, or name of a pool of the prior.
        stack: whose.
        prior: shipped stack or path of a profile to start from, or `SHIPPED`.
    """
    profile = profile_of(prior, stack)
    pools = load_pools(profile)
    base = pools[device] if device in pools else load_stack(load_device(device), profile)
    if profile != DEFAULT_STACK:
        return replace(base, name=stack)
    own: dict[str, Any] = {name: guess.fact(year_of(device)) for name, guess in _guesses(device, stack).items()}
    software = software_of(stack)
    quantised_in, sums_in = QUANTISED_IN.get(software, base.quantised_in), SUMS_IN.get(software, base.sums_in)
    return replace(base, name=stack, quantised_in=quantised_in, sums_in=sums_in, **own)


def _guesses(device: str, stack: str) -> Mapping[str, Guess]:
    """Return what is known of a stack beforehand, by what the card multiplies bytes with."""
    guesses = OWN.get(software_of(stack), {})
    if guesses is not LLAMA_CPP:
        return guesses
    kind = int8_of(device)
    older = LLAMA_CPP_2024 if stack.endswith("@2024") else {}
    return {**guesses, **older, **LLAMA_CPP_ON.get(kind, {})}


@functools.cache
def year_of(pool: str) -> int:
    """Return the year of a card, or the middle one of the cards that a pool holds for."""
    years = sorted(card.year for card in map(load_device, device_names()) if pool in pool_names(card))
    return years[len(years) // 2] if years else HOST_YEAR


def profile_of(prior: str, stack: str) -> str:
    """Return the profile that a stack's prior comes from: its own if `SHIPPED` and there is one, else as given."""
    if prior != SHIPPED:
        return prior
    known = (*stack_names(), ENGINE)
    return next((name for name in (stack, software_of(stack)) if name in known), DEFAULT_STACK)


@functools.cache
def int8_of(pool: str) -> str:
    """Return what a card, or the cards that a pool holds for, multiply bytes with: a key of `LLAMA_CPP_ON`."""
    cards = [card for card in map(load_device, device_names()) if pool in pool_names(card)]
    if not all("int8" in card.flops_per_s for card in cards):
        return "none"
    if any(card.architecture == "volta" for card in cards):
        return "dp4a, fp16 tensor cores"
    return "dp4a" if any(card.architecture == "pascal" for card in cards) else "tensor"


def beliefs_of(stack: Stack) -> dict[str, Belief]:
    """Return the beliefs that a profile's values and intervals state, of its free parameters."""
    beliefs = {}
    for parameter in FREE:
        fact = getattr(stack, parameter.name)
        value = min(max(float(fact), parameter.low), parameter.high)
        low, high = fact.interval
        reach = log(max(high, value) / low) * SD_PER_REACH if low > 0.0 else UNSURE_LOG_SD
        beliefs[parameter.name] = Belief(log(value), max(reach, LEAST_LOG_SD), parameter.low, parameter.high)
    return beliefs


def prior_from(profile: str = DEFAULT_STACK) -> Prior:
    """Return the prior that a profile states, for any place."""

    @functools.cache
    def prior(place: StackPlace) -> Mapping[str, Belief]:
        return beliefs_of(base_stack(place.device, place.stack, profile))

    return prior

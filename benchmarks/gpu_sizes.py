"""What `benchmarks/gpu.sh` runs on a device of so much memory: chosen from the memory, before any of it is taken."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from afterwatt.engine.model.config import ModelConfig, Rope
from afterwatt.engine.model.devices import NAMES, dtype_policy
from afterwatt.engine.model.kv import KVShape
from afterwatt.engine.model.memory import CUDA_SHARE, working_bytes
from afterwatt.engine.model.options import ComputeOptions
from afterwatt.engine.model.random_checkpoint import shrunk
from afterwatt.engine.model.weights import allocate
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.modelspecs import load_model as load_spec
from afterwatt.modelspecs.spec import ModelSpec

BLOCK_TOKENS = 16
WITHIN_S = 420.0
"""For everything; validation gets what the other parts leave of it."""
PLANNED = ("m40-12", "m40-24", "p100-16", "v100-sxm-16", "rtx3090", "h100-sxm", "h200")
_LAYERS = (32, 24, 16, 8, 4, 2)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_WORTHWHILE = 8
"""Layers are left out before batches get smaller than this."""
_REACHED = 0.5
"""Share of a datasheet's bandwidth that a plan reckons with (assumption, for expected seconds only)."""
_LAYER_S = 60e-6
"""A layer's launches and small kernels, likewise."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is run.

    Attributes:
        model: of the decode and energy parts, its weights random; dtype: they are stored in.
        context: tokens of each sequence; batches: sequences decoded together.
        steps: timed at each batch; energy_s: of each metered stretch.
        validated: words of `model make-random`; validation: of `validate`.
        needed_bytes: of the device, for the largest batch.
    """

    model: ModelSpec
    dtype: str
    context: int
    batches: tuple[int, ...]
    steps: int
    energy_s: float
    validated: tuple[str, ...]
    validation: tuple[str, ...]
    needed_bytes: int = 0


def options_of(sizes: Sizes, device: str) -> ComputeOptions:
    """Return how the model of the decode part runs, its cache large enough for the largest batch."""
    most = max(sizes.batches)
    return ComputeOptions(
        device,
        sizes.dtype,
        kv_blocks=most * -(-(sizes.context + 1) // BLOCK_TOKENS),
        block_tokens=BLOCK_TOKENS,
        max_seqs=most,
        max_batch_tokens=512,
        max_context=2 * sizes.context,
    )


def config_of(spec: ModelSpec, context: int) -> ModelConfig:
    """Return a model that serves so many tokens a sequence at most."""
    return ModelConfig(dataclasses.replace(spec, max_context=context), 1e-5, Rope(10_000.0), "silu", (1,), (2,))


def gpu_sizes(capability: tuple[int, int], memory_bytes: int, free_bytes: int) -> Sizes:
    """Return what a GPU runs: the most layers of a 7B and the largest batches that its free memory holds.

    Raises:
        ValueError: not even two layers and one sequence fit.
    """
    dtype = NAMES[dtype_policy(capability).weights]
    made = ("--like", "tinyllama-1.1b", "--dtype", "fp16")
    run = ["--requests", "200", "--loads", "60,110", "--repetitions", "1", "--rounds", "1", "--shrink", "2"]
    for sizes in _candidates(Sizes(load_spec("llama-2-7b"), dtype, 512, _BATCHES, 60, 6.0, made, tuple(run))):
        needed = _needed_bytes(sizes, capability, memory_bytes)
        if needed <= CUDA_SHARE * free_bytes:
            return dataclasses.replace(sizes, needed_bytes=needed)
    raise ValueError(f"{free_bytes:,} free bytes of {memory_bytes:,} hold no model worth measuring; free some")


def _candidates(whole: Sizes) -> Iterator[Sizes]:
    """Yield sizes, the most telling first: many layers with batches of 8 at least; then small batches."""
    for few in (False, True):
        for layers in _LAYERS:
            model = whole.model if layers == whole.model.layers else shrunk(whole.model, layers=layers)
            for most in reversed(_BATCHES):
                if (most < _WORTHWHILE) is few:
                    yield dataclasses.replace(whole, model=model, batches=tuple(b for b in _BATCHES if b <= most))


def _needed_bytes(sizes: Sizes, capability: tuple[int, int], memory_bytes: int) -> int:
    options, policy = options_of(sizes, "cuda:0"), dtype_policy(capability, sizes.dtype)
    config = config_of(sizes.model, 2 * sizes.context)
    weights = allocate(config, policy, torch.device("meta")).bytes
    block = KVShape.of(config.spec, BLOCK_TOKENS).block_bytes(policy.kv)
    return weights + working_bytes(config, policy, options, memory_bytes) + ((options.kv_blocks or 0) + 1) * block


def processor_sizes() -> Sizes:
    """Return small sizes for a processor, to try the script out."""
    small = shrunk(load_spec("llama-2-7b"), layers=2, hidden=512, vocab=4000)
    made = ("--like", "llama-2-7b", "--layers", "2", "--hidden", "256", "--vocab", "1000", "--dtype", "fp32")
    run = (
        "--requests 20 --loads 60,110 --repetitions 1 --rounds 1 --shrink 16 --policy chunked+budget=256+seqs=8+kv=512"
    )
    return Sizes(small, "fp32", 64, (1, 2, 4, 8), 8, 1.0, made, tuple(run.split()))


def plan_lines() -> Iterator[str]:
    """Yield what would run on some cards of the catalogue, as Markdown; nothing of it is measured."""
    yield "| card | free of | stored | layers | batches | GB needed | decode s | energy s | others at most s |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in PLANNED:
        card = load_device(name)
        memory = int(card.memory_bytes)
        major, _, minor = (card.compute_capability).partition(".")
        try:
            sizes = gpu_sizes((int(major), int(minor)), memory, int(0.97 * memory))
        except ValueError as fault:
            yield f"| {name} | {fault} |"
            continue
        decode = expected_decode_s(sizes, float(card.mem_bandwidth_bytes_per_s))
        energy = 3 * sizes.energy_s
        yield (
            f"| {name} | {0.97 * memory / 1e9:.1f} of {memory / 1e9:.1f} GB | {sizes.dtype} | {sizes.model.layers} | "
            f"1 to {sizes.batches[-1]} | {sizes.needed_bytes / 1e9:.1f} | {decode:.0f} | {energy:.0f} | "
            f"{WITHIN_S - decode - energy:.0f} |"
        )


def expected_decode_s(sizes: Sizes, bandwidth_bytes_per_s: float) -> float:
    """Return about how long the decode part takes: bytes over half the bandwidth, and launches."""
    width = {"fp32": 4, "fp16": 2, "bf16": 2}[sizes.dtype]
    weights = sizes.model.params * width
    kv = sizes.model.kv_bytes_per_token(width) * sizes.context
    steps = dict.fromkeys(sizes.batches, sizes.steps + 3)
    steps[1] += 5 * (sizes.steps // 2 + 3)
    rate = _REACHED * bandwidth_bytes_per_s
    return sum(n * ((weights + batch * kv) / rate + sizes.model.layers * _LAYER_S) for batch, n in steps.items())

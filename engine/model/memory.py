"""What a model needs beside its weights, and how many KV blocks a budget leaves room for, before any is taken."""

from dataclasses import dataclass
from typing import Final

import torch

from afterwatt.engine.model.attention import MASKED_PAIRS, gathered_bytes
from afterwatt.engine.model.config import ModelConfig
from afterwatt.engine.model.devices import DtypePolicy, memory_of
from afterwatt.engine.model.kv import KVShape
from afterwatt.engine.model.machine import free_host_bytes
from afterwatt.engine.model.options import ComputeOptions
from afterwatt.engine.model.products import CAST_ELEMENTS
from afterwatt.engine.model.weights import allocate
from afterwatt.engine.runtime.errors import EngineError

CUDA_SHARE: Final = 0.9
_HOST_SHARE: Final = 0.5
_FRAGMENTED: Final = 1.25
"""What allocators keep of freed pieces of other sizes; on a CPU 1.18 was seen."""
_GRAPH_BYTES: Final = 256 << 20
"""What the driver keeps of some hundred captured graphs, and cuBLAS as its workspace on their stream (assumption)."""
_SAMPLING_BYTES: Final = 4 + 4 * 8
"""Per logit: itself in fp32, and scores, bits and noise of sampling in 64."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Where a budget goes, bytes.

    Attributes:
        weights_bytes: of the model.
        working_bytes: activations, masks, copies and logits of the largest batch: an upper estimate.
        block_bytes: of one KV block.
        kv_blocks: how many there will be.
    """

    weights_bytes: int
    working_bytes: int
    block_bytes: int
    kv_blocks: int


def plan_memory(
    config: ModelConfig,
    policy: DtypePolicy,
    options: ComputeOptions,
    device: torch.device,
    weights_bytes: int | None = None,
) -> PoolPlan:
    """Size the cache.

    Args:
        config: the model.
        policy: its formats.
        options: how it runs.
        device: where.
        weights_bytes: of what the device holds of it; None: all.

    Raises:
        EngineError: not one block fits.
    """
    shape = KVShape.of(config.spec, options.block_tokens)
    weights = allocate(config, policy, torch.device("meta")).bytes if weights_bytes is None else weights_bytes
    working = working_bytes(config, policy, options, memory_of(device))
    block = shape.block_bytes(policy.kv)
    useful = options.max_seqs * -(-config.spec.max_context // options.block_tokens)
    if options.kv_blocks is not None:
        if options.kv_blocks < 1:
            raise EngineError(f"kv_blocks = {options.kv_blocks} must be 1 or more")
        useful = options.kv_blocks
    budget = free_bytes(device) if options.memory_bytes is None else options.memory_bytes
    # One block more than can be owned: the pool's scratch.
    fitting = (budget - weights - working) // block - 1
    least = 1 if options.kv_blocks is None else options.kv_blocks
    if fitting < least:
        needed = weights + working + (least + 1) * block
        raise EngineError(
            f"{config.spec.name} needs {needed:,} bytes ({weights:,} of weights, {working:,} to work in, "
            f"{least} KV blocks of {block:,}), {needed - budget:,} more than the {budget:,} there are; take fewer "
            "layers, a narrower dtype, or a smaller max_batch_tokens or max_seqs"
        )
    return PoolPlan(weights, working, block, min(fitting, useful))


def free_bytes(device: torch.device) -> int:
    """Return what may be taken of a device's memory, with a margin for what is not ours."""
    if device.type == "cuda":
        return int(CUDA_SHARE * torch.cuda.mem_get_info(device)[0])
    return int(_HOST_SHARE * free_host_bytes())


def working_bytes(config: ModelConfig, policy: DtypePolicy, options: ComputeOptions, memory_bytes: int | None) -> int:
    """Return an upper estimate of what the largest batch needs while it runs.

    At most five tensors as wide as the residual stream live at once, with a layer's queries, keys, values and what they
    are mixed to, or its gates, ups and their product.

    Args:
        config: the model.
        policy: its formats.
        options: how it runs.
        memory_bytes: of the GPU; None: a CPU.
    """
    spec = config.spec
    size = policy.compute.itemsize
    attention = (2 * spec.heads + 2 * spec.kv_heads) * spec.head_dim
    per_token = (5 * spec.hidden + max(2 * attention, 3 * spec.ffn)) * size
    entry = 2 * spec.kv_heads * spec.head_dim
    whole = options.max_seqs * spec.max_context * entry * policy.kv.itemsize
    gathered = max(min(gathered_bytes(memory_bytes), whole), spec.max_context * entry * policy.kv.itemsize)
    if policy.kv != policy.compute:
        gathered += gathered * size // policy.kv.itemsize
    graphs = 0
    if memory_bytes is not None and options.pads("cuda"):
        gathered *= 2  # graphs keep a memory pool of their own
        graphs = _GRAPH_BYTES
    masks = 2 * min(MASKED_PAIRS, options.max_batch_tokens * spec.max_context) * size
    cast = CAST_ELEMENTS * size if policy.weights != policy.compute else 0
    turns = spec.max_context * spec.head_dim // 2 * 8
    logits = options.max_seqs * spec.vocab * _SAMPLING_BYTES
    return int(_FRAGMENTED * (options.max_batch_tokens * per_token + gathered + masks + cast + turns + logits)) + graphs

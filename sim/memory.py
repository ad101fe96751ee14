"""Does it fit? Weights, KV cache and reserves on the GPUs of a replica, and what would help if not."""

from dataclasses import dataclass, replace

from hwprofiles.catalogue import device_names, load_device
from hwprofiles.deployment import Deployment
from hwprofiles.roofline import stage_layers
from hwprofiles.stacks import Stack
from modelspecs.precision import PRECISIONS, Precision
from modelspecs.spec import ModelSpec
from sim.errors import Infeasible

RUNTIME_BYTES = 600e6
"""Driver context, libraries and slack on each GPU: 0.5-0.7 GB with PyTorch and CUDA (assumption of this project)."""
FRAGMENTATION_FRAC = 0.03
"""Share of memory that no block fits into (assumed; paged caches waste under 4 %, arXiv:2309.06180)."""
_GIGA = 1e9


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory of the fullest GPU of a replica.

    Attributes:
        capacity_bytes: usable, ECC's share taken off.
        weights_bytes: model weights on it.
        reserve_bytes: runtime, activations of one iteration, fragmentation.
        block_bytes: one KV block on it; replica_block_bytes: over all GPUs of the replica.
        kv_blocks: blocks that fit (the scarcest stage decides).
    """

    capacity_bytes: float
    weights_bytes: float
    reserve_bytes: float
    block_bytes: float
    replica_block_bytes: float
    kv_blocks: int

    @property
    def missing_bytes(self) -> float:
        """Bytes by which a first sequence's block does not fit (negative: there is room)."""
        return self.weights_bytes + self.reserve_bytes + self.block_bytes - self.capacity_bytes


def plan_memory(
    deployment: Deployment, model: ModelSpec, precision: Precision, stack: Stack, block_tokens: int, token_budget: int
) -> MemoryPlan:
    """Lay out a replica's memory.

    Activations: the widest intermediate of a layer for every token of an iteration, 16 bits, in and out, and the logits
    of one token per sequence are small against it.
    """
    tp = deployment.tp
    capacity = deployment.usable_memory_bytes
    activations = 2.0 * token_budget * (model.hidden * 4 + model.ffn * model.active_experts * model.ffn_matrices / tp)
    reserve = RUNTIME_BYTES + activations + FRAGMENTATION_FRAC * capacity
    kv_heads = max(model.kv_heads, tp) / tp
    stages = stage_layers(model.layers, deployment.pp)
    tightest: MemoryPlan | None = None
    for number, layers in enumerate(stages):
        weights = _stage_weights(model, precision, layers, number == 0, number == len(stages) - 1) / tp
        block = 2.0 * layers * kv_heads * model.head_dim * stack.kv_bytes_per_element * block_tokens
        blocks = max(0, int((capacity - weights - reserve) // block))
        total = model.kv_bytes_per_token(stack.kv_bytes_per_element) * max(1.0, tp / model.kv_heads) * block_tokens
        plan = MemoryPlan(capacity, weights, reserve, block, total, blocks)
        if tightest is None or plan.kv_blocks < tightest.kv_blocks or plan.missing_bytes > tightest.missing_bytes:
            tightest = plan
    assert tightest is not None
    return tightest


def _stage_weights(model: ModelSpec, precision: Precision, layers: int, first: bool, last: bool) -> float:
    """Bytes of a stage's layers, with the embedding on the first and the head on the last (one table if tied)."""
    if first and last:
        return model.stored_bytes(precision)
    weights = layers * model.layer_bytes(precision)
    if first:
        weights += model.embedding_params * precision.bytes_per_other
    if last:
        weights += model.head_params * precision.bytes_per_other
    return weights


def require_fit(
    deployment: Deployment, model: ModelSpec, precision: Precision, stack: Stack, block_tokens: int, token_budget: int
) -> MemoryPlan:
    """Lay out memory, or say by how much it does not fit and what would help.

    Raises:
        Infeasible: no KV block fits beside the weights.
    """
    plan = plan_memory(deployment, model, precision, stack, block_tokens, token_budget)
    if plan.kv_blocks > 0:
        return plan
    options = _options(deployment, model, precision, stack, block_tokens, token_budget)
    help_text = "; ".join(options) if options else "no option of the catalogue would make it fit"
    raise Infeasible(
        f"{model.name} in {precision.name} does not fit {deployment.name}: each GPU needs "
        f"{(plan.weights_bytes + plan.reserve_bytes + plan.block_bytes) / _GIGA:.2f} GB (weights "
        f"{plan.weights_bytes / _GIGA:.2f}, reserve {plan.reserve_bytes / _GIGA:.2f}, one KV block) and has "
        f"{plan.capacity_bytes / _GIGA:.2f} GB, {plan.missing_bytes:,.0f} bytes short. Would fit: {help_text}"
    )


def _options(
    deployment: Deployment, model: ModelSpec, precision: Precision, stack: Stack, block_tokens: int, token_budget: int
) -> list[str]:
    """Return what would make the model fit: fewer bits, more GPUs per replica, a larger card."""

    def fits(other: Deployment, stored: Precision) -> bool:
        return plan_memory(other, model, stored, stack, block_tokens, token_budget).kv_blocks > 0

    options = [
        f"--precision {name}"
        for name, stored in PRECISIONS.items()
        if stored.bits_per_weight < precision.bits_per_weight and fits(deployment, stored)
    ]
    key = deployment.device.key
    for ways in (2, 4, 8, 16):
        split = replace(deployment, tp=deployment.tp * ways, count=max(deployment.count, deployment.tp * ways))
        if model.heads % split.tp == 0 and fits(split, precision):
            options.append(f"--hw {split.tp}x{key}:tp{split.tp}")
            break
    larger = [load_device(name) for name in device_names()]
    larger = sorted(
        (d for d in larger if d.memory_bytes > deployment.device.memory_bytes), key=lambda d: d.memory_bytes
    )
    fitting = [device.key for device in larger if fits(replace(deployment, device=device), precision)]
    if fitting:
        options.append("a card with more memory: " + ", ".join(f"--hw {name}" for name in dict.fromkeys(fitting[:4])))
    return options

"""What memory holds of a model that is served: weights, keys and values, activations."""

from afterwatt.hwprofiles.serving import Serving
from afterwatt.modelspecs.spec import ModelSpec


def kv_heads_held(model: ModelSpec, tp: int) -> float:
    """Return the KV heads on one GPU; where there are fewer heads than GPUs, every GPU keeps a copy of one."""
    return max(model.kv_heads, tp) / tp


def stage_layers(layers: int, stages: int) -> list[int]:
    """Split layers over pipeline stages as evenly as they go, the first ones taking what is over."""
    even, over = divmod(layers, stages)
    return [even + (stage < over) for stage in range(stages)]


def stage_kv_bytes(serving: Serving, stage: int) -> float:
    """Return bytes of a token's keys and values on one GPU of a pipeline stage."""
    model, pool = serving.model, serving.pool
    layers = stage_layers(model.layers, pool.pp)[stage]
    return 2.0 * layers * kv_heads_held(model, pool.tp) * model.head_dim * serving.stack.kv_bytes_per_element


def replica_kv_bytes(serving: Serving) -> float:
    """Return bytes of a token's keys and values on all GPUs of a replica."""
    return serving.pool.tp * sum(stage_kv_bytes(serving, stage) for stage in range(serving.pool.pp))


def stage_weight_bytes(serving: Serving, stage: int) -> float:
    """Return bytes of weights on one GPU of a pipeline stage.

    Its layers, with the embedding on the first stage and the head on the last (one table if tied).
    """
    model, precision, pool = serving.model, serving.precision, serving.pool
    first, last = stage == 0, stage == pool.pp - 1
    if first and last:
        return model.stored_bytes(precision) / pool.tp
    weights = stage_layers(model.layers, pool.pp)[stage] * model.layer_bytes(precision)
    if first:
        weights += model.embedding_bytes(precision)
    if last:
        weights += model.head_bytes(precision)
    return weights / pool.tp


def activation_bytes(serving: Serving, tokens: int) -> float:
    """Return the most bytes of activations on one GPU: the widest intermediate of a layer, in and out, in 16 bits.

    The logits of one token per sequence are small against it.
    """
    model, tp = serving.model, serving.pool.tp
    return 2.0 * tokens * (model.hidden * 4 + model.ffn * model.active_experts * model.ffn_matrices / tp)

"""What memory holds of a model that is served: weights, keys and values, states, activations."""

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

from afterwatt.hwprofiles.serving import Serving
from afterwatt.modelspecs.layers import FULL, WINDOW, LayerKind
from afterwatt.modelspecs.spec import ModelSpec

_NEARLY = 1.5


class Pages(NamedTuple):
    """How layers share KV blocks: a block holds so many tokens of one group of layers (vLLM's hybrid cache manager).

    Layers that attend to all and layers with a window are put into groups of the same size, the last one filled up.

    Attributes:
        layers: of a group.
        full, windowed: groups that attend to all, and to a window.
    """

    layers: int
    full: int
    windowed: int


def pages_of(model: ModelSpec) -> Pages:
    """Return how a model's layers share KV blocks.

    A group has as many layers as the rarer kind; as many as the other one where that has less than half again as many.
    vLLM 0.27.0, vllm/v1/core/kv_cache_utils.py, `_get_kv_cache_groups_uniform_page_size` (read at 001cabc; a quarter in
    place of the half when it came, pull request 29303).
    """
    kinds = model.kinds()
    full, windowed = (sum(n for kind, n in kinds.items() if kind.mixer == mixer) for mixer in (FULL, WINDOW))
    if not full or not windowed:
        return Pages(full + windowed, int(full > 0), int(windowed > 0))
    few, many = min(full, windowed), max(full, windowed)
    size = many if many < _NEARLY * few else few
    return Pages(size, ceil(full / size), ceil(windowed / size))


def kv_heads_held(model: ModelSpec, tp: int) -> float:
    """Return the KV heads on one GPU; where there are fewer heads than GPUs, every GPU keeps a copy of one."""
    return max(model.kv_heads, tp) / tp


def stage_layers(layers: int, stages: int) -> list[int]:
    """Split layers over pipeline stages as evenly as they go, the first ones taking what is over."""
    even, over = divmod(layers, stages)
    return [even + (stage < over) for stage in range(stages)]


def stage_kinds(model: ModelSpec, stages: int, stage: int) -> Mapping[LayerKind, int]:
    """Return how many layers of each kind a pipeline stage has.

    Args:
        model: the shape.
        stages: of the pipeline.
        stage: counted from 0.
    """
    split = stage_layers(model.layers, stages)
    first = sum(split[:stage])
    return model.kinds(first, first + split[stage])


def stage_kv_bytes(serving: Serving, stage: int) -> float:
    """Return bytes of a token's keys and values in one KV block's layers, on one GPU of a pipeline stage.

    Where all layers keep all tokens, a block holds all of the stage's layers; else its share of a group of layers.
    """
    model, pool = serving.model, serving.pool
    layers: float = stage_layers(model.layers, pool.pp)[stage]
    pages = pages_of(model)
    if pages.layers < model.layers:
        layers = pages.layers * layers / model.layers
    if model.latent is not None:
        return layers * model.latent.cached * serving.stack.kv_bytes_per_element
    return 2.0 * layers * kv_heads_held(model, pool.tp) * model.head_dim * serving.stack.kv_bytes_per_element


def replica_kv_bytes(serving: Serving) -> float:
    """Return bytes of a token's keys and values in one KV block's layers, on all GPUs of a replica."""
    return serving.pool.tp * sum(stage_kv_bytes(serving, stage) for stage in range(serving.pool.pp))


def state_blocks(serving: Serving, block_tokens: int) -> int:
    """Return the KV blocks that a sequence's states fill, whatever its length."""
    return ceil(serving.model.state_bytes / (replica_kv_bytes(serving) * block_tokens))


def window_blocks(serving: Serving, block_tokens: int) -> int:
    """Return the blocks of tokens that a window reaches into at most; 0: there is none."""
    window = serving.model.window
    return 0 if window is None else -(-(window - 1) // block_tokens) + 1


def stage_weight_bytes(serving: Serving, stage: int) -> float:
    """Return bytes of weights on one GPU of a pipeline stage.

    Its layers, with the embedding on the first stage and the head on the last (one table if tied). Experts that are
    spread over more GPUs than a replica has are as much less on each.
    """
    model, precision, pool = serving.model, serving.precision, serving.pool
    first, last = stage == 0, stage == pool.pp - 1
    copied = _copied_bytes(serving, stage)
    if first and last:
        return model.stored_bytes(precision) / pool.tp + copied - _spread_bytes(serving, stage)
    weights = stage_layers(model.layers, pool.pp)[stage] * model.layer_bytes(precision)
    if first:
        weights += model.embedding_bytes(precision)
    if last:
        weights += model.head_bytes(precision)
    return weights / pool.tp + copied - _spread_bytes(serving, stage)


def _spread_bytes(serving: Serving, stage: int) -> float:
    """Return bytes of experts that one GPU leaves to GPUs of other replicas."""
    model, pool = serving.model, serving.pool
    if pool.sharing == 1:
        return 0.0
    share = stage_layers(model.layers, pool.pp)[stage] / model.layers
    experts = share * model.expert_layers * model.layer_expert_bytes(serving.precision)
    return experts * (1.0 / pool.tp - 1.0 / pool.ep)


def _copied_bytes(serving: Serving, stage: int) -> float:
    """Return bytes of what each GPU keeps whole although others do too, beyond its share."""
    model, pool = serving.model, serving.pool
    if model.latent is None:
        return 0.0
    layers = stage_layers(model.layers, pool.pp)[stage]
    weight_bytes = model.form(serving.precision).bytes_per_attention_weight
    return layers * model.latent.copied_params(model.hidden) * weight_bytes * (1.0 - 1.0 / pool.tp)


def activation_bytes(serving: Serving, tokens: int) -> float:
    """Return the most bytes of activations on one GPU: the widest intermediate of a layer, in and out, in 16 bits.

    The logits of one token per sequence are small against it.
    """
    model, tp = serving.model, serving.pool.tp
    networks = {kind.network for kind in model.kinds()}
    dense = model.dense_width if "dense" in networks else 0
    widest = max(dense, model.ffn * model.active_experts * serving.pool.expert_load if "experts" in networks else 0)
    return 2.0 * tokens * (model.hidden * 4 + widest * model.ffn_matrices / tp)

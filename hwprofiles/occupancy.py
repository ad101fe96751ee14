"""Seconds that plans keep GPUs in kinds of kernels which draw more than their bytes and FLOPs tell.

Attention, grouped products of experts, and scaling weights back; see `hwprofiles.power.Anchors`. They follow from the
very rates that `hwprofiles.roofline` times kernels with, latencies and waiting apart.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.roofline import PlanArrays, Rates, experts_touched
from afterwatt.hwprofiles.serving import Serving

Floats = NDArray[np.float64]


class Occupancy(NamedTuple):
    """GPU-seconds of iteration k = 0, 1, ... of plans, summed over a replica: first + slope * k; arrays over plans.

    Attributes:
        attention_s, attention_slope_s: attention kernels.
        expert_s: grouped products of experts.
        unpack_s: scaling weights back.
    """

    attention_s: Floats
    attention_slope_s: Floats
    expert_s: Floats
    unpack_s: Floats


def occupancy(serving: Serving, rates: Rates, plans: PlanArrays) -> Occupancy:
    """Return the seconds that plans keep GPUs in attention, in experts and in scaling weights back."""
    model, stack, tp = serving.model, serving.stack, serving.deployment.tp
    kv_copies = max(model.kv_heads, tp) / model.kv_heads
    entry_s = model.kv_bytes_per_token(stack.kv_bytes_per_element) * kv_copies / rates.attention.bytes_per_s
    pair_s = model.attention_flops_per_pair / rates.attention.flops_per_s
    read = plans.context_tokens + plans.chunk_past + plans.chunk_tokens
    attention = entry_s * read + pair_s * (plans.context_tokens + plans.chunk_pairs)
    slope = entry_s * (plans.decoding + plans.chunk_tokens) + pair_s * (plans.decoding + plans.chunk_pairs_slope)
    tokens = plans.decoding + plans.chunk_tokens
    touched = model.layers * model.ffn_matrix_params * experts_touched(model, tokens)
    unpacked = touched + model.layers * model.attention_matrix_params
    expert = _expert_s(serving, rates, tokens, touched) if model.experts > 1 else np.zeros(len(tokens))
    return Occupancy(attention, slope, expert, unpacked * rates.matrices.dequant_s)


def _expert_s(serving: Serving, rates: Rates, tokens: Floats, touched: Floats) -> Floats:
    """Return GPU-seconds of the products of experts over so many tokens: the longer of traffic and arithmetic."""
    model, share = serving.model, float(serving.stack.expert_efficiency)
    memory_s = touched * serving.precision.bytes_per_weight / (rates.matrices.bytes_per_s * share)
    flops = 2.0 * model.layers * model.active_experts * model.ffn_matrix_params * tokens
    seconds: Floats = np.maximum(memory_s, flops / (rates.matrices.flops_per_s * share))
    return seconds

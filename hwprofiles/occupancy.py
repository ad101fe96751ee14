"""Seconds that plans keep GPUs in kinds of kernels which draw more than their bytes and FLOPs tell.

Attention, grouped products of experts, and scaling weights back; see `hwprofiles.power.Anchors`. They follow from the
very rates that `hwprofiles.roofline` times kernels with, latencies and waiting apart.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.deployment import Deployment
from afterwatt.hwprofiles.roofline import PlanArrays, Rates, experts_touched
from afterwatt.hwprofiles.stacks import Stack
from afterwatt.modelspecs.precision import Precision
from afterwatt.modelspecs.spec import ModelSpec

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


def occupancy(
    deployment: Deployment, model: ModelSpec, precision: Precision, stack: Stack, rates: Rates, plans: PlanArrays
) -> Occupancy:
    """Return the seconds that plans keep GPUs in attention, in experts and in scaling weights back."""
    kv_copies = max(model.kv_heads, deployment.tp) / model.kv_heads
    entry_s = model.kv_bytes_per_token(stack.kv_bytes_per_element) * kv_copies / rates.attention.bytes_per_s
    pair_s = model.attention_flops_per_pair / rates.attention.flops_per_s
    read = plans.context_tokens + plans.chunk_past + plans.chunk_tokens
    attention = entry_s * read + pair_s * (plans.context_tokens + plans.chunk_pairs)
    slope = entry_s * (plans.decoding + plans.chunk_tokens) + pair_s * (plans.decoding + plans.chunk_pairs_slope)
    tokens = plans.decoding + plans.chunk_tokens
    touched = model.layers * model.ffn_matrix_params * experts_touched(model, tokens)
    unpacked = touched + model.layers * model.attention_matrix_params
    expert = _expert_s(model, precision, stack, rates, tokens, touched) if model.experts > 1 else np.zeros(len(tokens))
    return Occupancy(attention, slope, expert, unpacked * rates.matrices.dequant_s)


def _expert_s(
    model: ModelSpec, precision: Precision, stack: Stack, rates: Rates, tokens: Floats, touched: Floats
) -> Floats:
    """Return GPU-seconds of the products of experts over so many tokens: the longer of traffic and arithmetic."""
    share = float(stack.expert_efficiency)
    memory_s = touched * precision.bytes_per_weight / (rates.matrices.bytes_per_s * share)
    flops = 2.0 * model.layers * model.active_experts * model.ffn_matrix_params * tokens
    seconds: Floats = np.maximum(memory_s, flops / (rates.matrices.flops_per_s * share))
    return seconds

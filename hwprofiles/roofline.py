"""Work over rate: how long an iteration takes, and what it moves and computes.

Per iteration: matrix products over all its tokens, attention of the decoding sequences over their contexts and of
prompt pieces over query-key pairs, the LM head for those that emit a token, plus overheads per layer and step; each
kernel by the formulas of `hwprofiles.kernels`. Matrix products depend on nothing but the number of tokens, so they may
have any form; attention is linear in what grows from one iteration to the next.

Time is an integer count of picoseconds. Every coefficient is rounded once, when it is made; all later sums are exact,
so that a stride of iterations takes exactly as long as its iterations one by one.
"""

from collections.abc import Sequence
from math import expm1
from typing import NamedTuple

import numpy as np
from mypy_extensions import mypyc_attr
from numpy.typing import NDArray

from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.kernels import (
    QUERIES_PER_BLOCK,
    QUERY_TILE,
    AttentionRates,
    GemmRates,
    all_reduce_s,
    attention_costs,
    beside_sequence_s,
    decode_entry_s,
    experts_s,
    gemm_s,
    layer_traffic_bytes,
)
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import Stack, dequant_parameter
from afterwatt.modelspecs.precision import Precision
from afterwatt.modelspecs.spec import ModelSpec

PS_PER_S = 1_000_000_000_000
WIDE = ("fp16", "fp32")
"""What attention and matrices that are not quantised are computed in: the first that the device is fast at."""

Floats = NDArray[np.float64]


class Rates(NamedTuple):
    """What one GPU of a deployment reaches with a software stack; shares of the datasheet's peak already applied.

    Attributes:
        computed_in: precision of the layers' matrix products.
        matrices: products of the layers' matrices.
        experts: grouped products of a mixture's experts.
        head: product of the LM head.
        router: products of a mixture's router.
        attention: attention kernels.
    """

    computed_in: str
    matrices: GemmRates
    experts: GemmRates
    head: GemmRates
    router: GemmRates
    attention: AttentionRates

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Return the rate at which weights stream."""
        return self.matrices.bytes_per_s

    @property
    def flops_per_s(self) -> float:
        """Return the rate of large matrix products."""
        return self.matrices.flops_per_s


def computed_precision(device: Device, precision: Precision, quantised_in: str = "fp16") -> str:
    """Return the precision that a device computes in when weights are stored so: an M40 stores fp16 and computes fp32.

    Args:
        device: the card.
        precision: the format; quantised weights are unpacked to the first of its arithmetic that the device is fast at.
        quantised_in: "int8" where the software multiplies quantised weights in int8 on devices that have it.
    """
    wanted = precision.arithmetic
    if precision.quantised and quantised_in != "fp16":
        wanted = (quantised_in, *wanted)
    return next(name for name in wanted if name in device.flops_per_s)


def reached_rates(device: Device, ecc_on: bool, precision: Precision, stack: Stack) -> Rates:
    """Apply a stack's efficiencies to a device's peaks."""
    bandwidth = device.bandwidth_bytes_per_s(ecc_on)
    computed, matrices = _matrix_rates(device, bandwidth, precision, stack)
    wide_in = next(name for name in WIDE if name in device.flops_per_s)
    wide_flops = float(device.flops_per_s[wide_in])
    wide = matrices._replace(flops_per_s=wide_flops * stack.compute_efficiency, dequant_s=0.0, narrow=False)
    attention = AttentionRates(
        bandwidth * stack.attention_mem_efficiency,
        wide_flops * stack.attention_compute_efficiency,
        float(stack.attention_latency_s),
        float(stack.attention_block_s),
        float(stack.attention_score_bytes),
    )
    narrow_head = precision.quantised and precision.head_bits is not None and precision.head_bits < 16.0
    share = stack.expert_efficiency
    experts = matrices._replace(
        bytes_per_s=matrices.bytes_per_s * share,
        flops_per_s=matrices.flops_per_s * share,
        few_bytes_per_s=matrices.few_bytes_per_s * share,
    )
    return Rates(computed, matrices, experts, matrices if narrow_head else wide, wide, attention)


def _matrix_rates(device: Device, bandwidth: float, precision: Precision, stack: Stack) -> tuple[str, GemmRates]:
    computed = computed_precision(device, precision, stack.quantised_in)
    share, dequant_s = stack.compute_efficiency, 0.0
    if computed == "fp8":
        share = stack.fp8_compute_efficiency
    elif precision.quantised:
        share = stack.quantised_compute_efficiency
    if precision.quantised and not (computed == precision.family and computed in precision.arithmetic):
        multiply_adds_per_s = device.flops_per_s["fp32"] / 2.0
        dequant_s = getattr(stack, dequant_parameter(precision.family)) / multiply_adds_per_s
    return computed, GemmRates(
        bandwidth * stack.mem_efficiency,
        device.flops_per_s[computed] * share,
        dequant_s,
        float(stack.kernel_latency_s),
        float(stack.roofline_sharpness),
        narrow=computed in ("int8", "fp8"),
        few_rows=float(stack.few_rows),
        few_bytes_per_s=bandwidth * stack.few_rows_mem_efficiency,
    )


@mypyc_attr(allow_interpreted_subclasses=True)
class TimeModel:
    """Seconds per iteration of one pipeline stage of a replica, in picoseconds.

    Args:
        serving: what is computed, and where.
        stage: which of the replica's pipeline stages; the last one holds the LM head.
    """

    def __init__(self, serving: Serving, stage: int = 0) -> None:
        deployment, model, precision, stack = serving.deployment, serving.model, serving.precision, serving.stack
        tp = deployment.tp
        self.rates = rates = reached_rates(deployment.device, deployment.ecc_on, precision, stack)
        self._model, self._precision, self._stack, self._deployment = model, precision, stack, deployment
        self._layers = layers = stage_layers(model.layers, deployment.pp)[stage]
        self._has_head = stage == deployment.pp - 1
        self._tokens_ps: dict[int, int] = {}
        self._emit_ps: dict[int, tuple[int, int]] = {}
        self._decode_ps: dict[int, tuple[int, int, int]] = {}
        kv_heads = max(model.kv_heads, tp) / tp  # fewer heads than devices: every device keeps a copy of one
        heads = model.heads / tp
        activation_bytes, kv_bytes = stack.activation_bytes_per_element, stack.kv_bytes_per_element
        costs = attention_costs(heads, kv_heads, model.head_dim, rates.attention, kv_bytes, activation_bytes)
        self._token_s = costs.token_s + layer_traffic_bytes(model, tp, activation_bytes, kv_bytes) / (
            rates.bandwidth_bytes_per_s
        )
        self._fixed_s = costs.latency_s + stack.layer_overhead_s
        self._entry_ps = _ps(layers * costs.entry_s)
        self._pair_ps = _ps(layers * costs.pair_s)
        self._sequence_ps = _ps(layers * costs.sequence_s)
        self._prompt_token_ps = _ps(layers * costs.prompt_token_s)
        self._decode_entry_ps = _ps(layers * decode_entry_s(costs))
        beside_s = beside_sequence_s(rates.attention, heads, kv_heads, stack.mixed_query_rows)
        self._least_rows = round(stack.mixed_query_rows)
        self._mixed_sequence_ps = _ps(layers * beside_s)
        self._mixed_entry_ps = _ps(layers * decode_entry_s(costs, stack.mixed_query_rows))
        self._launch_ps = _ps(layers * stack.launch_s)
        self._prompt_launch_ps = _ps(layers * stack.prompt_launch_s)
        self._step_ps = _ps(stack.step_overhead_s)
        self._wake_ps, self._wake_after_ps = _ps(stack.wake_s), _ps(stack.wake_after_s)

    def step(
        self, decoding: int, context_tokens: int, chunks: Sequence[tuple[object, int, int]], emits: int, iterations: int
    ) -> tuple[int, int, int]:
        """Return the time of a plan's iterations.

        Args:
            decoding: sequences that decode.
            context_tokens: KV entries that they read in the first iteration; grows by `decoding` each time.
            chunks: (whose, tokens, past tokens) of each prompt piece; past grows by tokens each time.
            emits: sequences that need logits.
            iterations: how many are planned.

        Returns:
            (first, slope, n): iteration k takes first + slope * k picoseconds, for n of the iterations. Where the
            device, with ever more to read, comes to need longer than the host takes to launch its kernels, the law
            ends before and the caller asks again.
        """
        if not chunks:
            known = self._decode_ps.get(decoding)
            if known is None:
                law = self._base_ps(decoding, decoding * self._sequence_ps, decoding, self._launch_ps)
                known = self._decode_ps[decoding] = (*law, self._decode_entry_ps * decoding)
            base, spare, slope = known
            grown = self._decode_entry_ps * context_tokens
        else:
            tokens = decoding
            grown = self._mixed_entry_ps * context_tokens
            slope = self._mixed_entry_ps * decoding
            for _, size, past in chunks:
                tokens += size
                if size < QUERY_TILE:
                    rows = max(1 << (size - 1).bit_length(), self._least_rows)
                else:
                    rows = -(-size // QUERY_TILE) * QUERY_TILE
                pairs = rows * past + size * (size + QUERIES_PER_BLOCK) // 2
                grown += self._pair_ps * pairs + self._entry_ps * (past + size) + self._prompt_token_ps * size
                if iterations > 1:
                    slope += self._pair_ps * rows * size + self._entry_ps * size
            blocks_ps = decoding * self._mixed_sequence_ps + len(chunks) * self._sequence_ps
            base, spare = self._base_ps(tokens, blocks_ps, emits, self._prompt_launch_ps)
        if grown >= spare:
            return base + grown, slope, iterations
        return base + spare, 0, _steps_to_crossing(grown - spare, slope, iterations)

    def wake_ps(self, rest_ps: int) -> int:
        """Return what an iteration after a rest takes longer: wake_s (1 - exp(-rest / wake_after_s)).

        A law of this project, from a processor whose neighbours take its cache (docs/time-model.md).
        """
        return round(self._wake_ps * -expm1(-rest_ps / self._wake_after_ps)) if self._wake_ps else 0

    def _base_ps(self, tokens: int, blocks_ps: int, emits: int, launch_ps: int) -> tuple[int, int]:
        """Return the time of an iteration but for what attention reads and multiplies, and how much of that hides.

        What the host needs to launch the kernels runs beside the device: until the device has that much to do, an
        iteration takes as long as launching does.
        """
        device = self._tokens_ps.get(tokens)
        if device is None:
            device = self._tokens_ps[tokens] = _ps(self._layers * self._layer_s(tokens))
        emit = self._emit_ps.get(emits)
        if emit is None:
            emit = self._emit_ps[emits] = self._emitting_ps(emits)
        device += blocks_ps + emit[0]
        return device + emit[1] + self._step_ps, launch_ps - device if launch_ps > device else 0

    def _layer_s(self, tokens: int) -> float:
        """Return the seconds of a layer over this many tokens, but for what attention reads and multiplies."""
        model, stack, rates, tp = self._model, self._stack, self.rates.matrices, self._deployment.tp
        moved = float(stack.activation_bytes_per_element)
        attention_bytes, bytes_per_weight = self._precision.bytes_per_attention_weight, self._precision.bytes_per_weight
        hidden, inner = float(model.hidden), float(model.heads * model.head_dim) / tp
        keys_and_values = 2.0 * max(model.kv_heads, tp) / tp * model.head_dim
        seconds = gemm_s(tokens, hidden, inner + keys_and_values, rates, attention_bytes, moved)
        seconds += gemm_s(tokens, inner, hidden, rates, attention_bytes, moved)
        width, inner = float(model.ffn) / tp, model.ffn_matrices - 1.0
        if model.experts > 1:
            seconds += gemm_s(tokens, hidden, float(model.experts), self.rates.router, 2.0, moved)
            seconds += stack.router_overhead_s
            shape = (tokens, hidden, width, float(model.experts), float(model.active_experts))
            seconds += experts_s(*shape, self.rates.experts, bytes_per_weight, moved, inner)
        else:
            seconds += gemm_s(tokens, hidden, inner * width, rates, bytes_per_weight, moved)
            seconds += gemm_s(tokens, width, hidden, rates, bytes_per_weight, moved)
        return seconds + self._fixed_s + tokens * self._token_s + 2.0 * self._all_reduce_s(tokens)

    def _all_reduce_s(self, tokens: int) -> float:
        stack, link = self._stack, self._deployment.gpu_link
        if self._deployment.tp == 1:
            return 0.0
        payload = tokens * self._model.hidden * stack.activation_bytes_per_element
        rate = float(link.bytes_per_s)
        latency_s = link.latency_s + stack.comm_latency_s
        bulk_rate = rate * stack.comm_bulk_efficiency
        return all_reduce_s(
            payload, self._deployment.tp, rate * stack.comm_efficiency, latency_s, stack.comm_bulk_bytes, bulk_rate
        )

    def _emitting_ps(self, emits: int) -> tuple[int, int]:
        """Return the time of the LM head and of the bookkeeping for the sequences that produce a token."""
        if not (emits and self._has_head):
            return 0, 0
        model, tp, precision = self._model, self._deployment.tp, self._precision
        vocabulary = model.head_params / model.hidden / tp
        moved = float(self._stack.activation_bytes_per_element)
        head_s = gemm_s(emits, float(model.hidden), vocabulary, self.rates.head, precision.bytes_per_head, moved)
        return _ps(head_s), _ps(emits * self._stack.sequence_overhead_s)

    def hop_ps(self, tokens: int) -> int:
        """Return the time to hand this many tokens' activations to the next pipeline stage."""
        payload = tokens * self._model.hidden * self._stack.activation_bytes_per_element
        link = self._deployment.stage_link
        return _ps(
            float(link.latency_s)
            + self._stack.comm_latency_s
            + payload / (float(link.bytes_per_s) * self._stack.comm_efficiency)
        )


def stage_layers(layers: int, stages: int) -> list[int]:
    """Split layers over pipeline stages as evenly as they go, the first ones taking what is over."""
    even, over = divmod(layers, stages)
    return [even + (stage < over) for stage in range(stages)]


def _ps(seconds: float) -> int:
    return round(seconds * PS_PER_S)


def _steps_to_crossing(gap: int, slope: int, most: int) -> int:
    """Return for how many k = 0, 1, ... the sign of gap + slope * k stays what it is at 0 (0 counts as positive)."""
    if gap >= 0:
        return most if slope >= 0 else min(most, gap // -slope + 1)
    return most if slope <= 0 else min(most, -(gap // slope))


class Work(NamedTuple):
    """What iteration k = 0, 1, ... of plans takes on all GPUs of a replica: first + slope * k; arrays over plans."""

    hbm_bytes: Floats
    hbm_slope_bytes: Floats
    flops: Floats
    flops_slope: Floats
    link_bytes: Floats


def work(serving: Serving, plans: "PlanArrays") -> Work:
    """Bytes moved to and from HBM, FLOPs and bytes over the GPU links, summed over a replica's GPUs.

    Weights are read once per iteration (experts as far as the tokens reach them), each context entry once per
    decoding sequence, keys and values written once per token.
    """
    model, precision, stack = serving.model, serving.precision, serving.stack
    tp, pp = serving.deployment.tp, serving.deployment.pp
    kv_copies = max(model.kv_heads, tp) / model.kv_heads
    kv_bytes = model.kv_bytes_per_token(stack.kv_bytes_per_element) * kv_copies
    tokens = plans.decoding + plans.chunk_tokens
    experts = experts_touched(model, tokens)
    attention_bytes = model.attention_matrix_params * precision.bytes_per_attention_weight
    matrix_bytes = model.layers * (attention_bytes + model.ffn_matrix_params * precision.bytes_per_weight * experts)
    head_bytes = model.head_bytes(precision) * (plans.emits > 0)
    read = plans.context_tokens + plans.chunk_past + plans.chunk_tokens
    hbm = matrix_bytes + head_bytes + kv_bytes * (read + tokens)
    hbm_slope = kv_bytes * (plans.decoding + plans.chunk_tokens)
    pairs = plans.context_tokens + plans.chunk_pairs
    flops = (
        model.linear_flops_per_token * tokens
        + model.head_flops_per_token * plans.emits
        + model.attention_flops_per_pair * pairs
    )
    flops_slope = model.attention_flops_per_pair * (plans.decoding + plans.chunk_pairs_slope)
    payload = tokens * (model.hidden * stack.activation_bytes_per_element)
    link = payload * (2 * model.layers * 2 * (tp - 1) + (pp - 1))
    return Work(hbm, hbm_slope, flops, flops_slope, link)


def experts_touched(model: ModelSpec, tokens: Floats) -> Floats:
    """Return the experts of one layer that each of these numbers of tokens is expected to touch; 1 of 1 if dense."""
    if model.experts == 1:
        return np.minimum(tokens, 1.0)
    sizes, where = np.unique(tokens, return_inverse=True)
    touched: Floats = np.array([model.distinct_experts(int(size)) for size in sizes])[where]
    return touched


class PlanArrays(NamedTuple):
    """Columns of plans, in their first iteration; float64.

    Attributes:
        decoding, context_tokens, emits: as in `TimeModel.step`.
        chunk_tokens, chunk_past: summed over the prompt pieces.
        chunk_pairs: query-key pairs of the prompt pieces (causal); chunk_pairs_slope: their growth per iteration.
    """

    decoding: Floats
    context_tokens: Floats
    emits: Floats
    chunk_tokens: Floats
    chunk_past: Floats
    chunk_pairs: Floats
    chunk_pairs_slope: Floats

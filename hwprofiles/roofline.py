"""Work over rate: how long an iteration takes, and what it moves and computes.

Per iteration: GEMMs over all its tokens, attention of the decoding sequences over their contexts, attention of prompt
pieces over query-key pairs, the LM head for those that emit a token; each is the larger of its compute and its memory
time (Williams et al., Roofline, CACM 2009), plus overheads per layer and step. GEMM time by shape follows Hockney,
t = (n + n_half) / r (Parallel Computing 1988), which stays linear in the tokens n.

Time is an integer count of picoseconds. Every coefficient is rounded once, when it is made; all later sums are exact,
so that a stride of iterations takes exactly as long as its iterations one by one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwprofiles.deployment import Deployment
from hwprofiles.devices import Device
from hwprofiles.stacks import Stack
from modelspecs.precision import Precision
from modelspecs.spec import ModelSpec

PS_PER_S = 1_000_000_000_000
COMPUTED_IN = {
    "fp32": ("fp32",),
    "fp16": ("fp16", "fp32"),
    "bf16": ("bf16", "fp16", "fp32"),
    "fp8": ("fp8", "fp16", "fp32"),
    "int8": ("fp16", "fp32"),
    "int4": ("fp16", "fp32"),
}
"""What a stored precision is computed in: the first that the device is fast at. int8 and int4 are weight-only formats;
bf16 is cast to fp16 on cards that lack it, as engines do."""

Floats = NDArray[np.float64]


class Rates(NamedTuple):
    """What one GPU of a deployment reaches with a software stack; shares of the datasheet's peak already applied.

    Attributes:
        computed_in: precision of its arithmetic.
        bandwidth_bytes_per_s: streaming weights.
        flops_per_s: large GEMMs.
        attention_bandwidth_bytes_per_s, attention_flops_per_s: attention kernels.
        dequant_per_s: weights scaled back per second (None: hidden behind the multiplication).
    """

    computed_in: str
    bandwidth_bytes_per_s: float
    flops_per_s: float
    attention_bandwidth_bytes_per_s: float
    attention_flops_per_s: float
    dequant_per_s: float | None


def computed_precision(device: Device, stored: str) -> str:
    """Return the precision a device computes in when weights are stored so: an M40 stores fp16 and computes fp32."""
    return next(name for name in COMPUTED_IN[stored] if name in device.flops_per_s)


def reached_rates(device: Device, ecc_on: bool, stored: str, stack: Stack) -> Rates:
    """Apply a stack's efficiencies to a device's peaks."""
    computed = computed_precision(device, stored)
    peak = float(device.flops_per_s[computed])
    bandwidth = float(device.bandwidth_bytes_per_s(ecc_on))
    dequant = stack.dequant_elements_per_s.get(stored)
    return Rates(
        computed,
        bandwidth * stack.mem_efficiency,
        peak * stack.compute_efficiency,
        bandwidth * stack.attention_mem_efficiency,
        peak * stack.attention_compute_efficiency,
        None if dequant is None else float(dequant),
    )


def all_reduce_s(payload_bytes: float, devices: int, bytes_per_s: float, latency_s: float) -> float:
    """Time of an all-reduce: each device sends and receives 2 (p-1)/p of the payload, over 2 ceil(log2 p) hops.

    The bandwidth term is the lower bound that rings reach (Patarasuk and Yuan, JPDC 2009), the latency term that of
    trees (Sanders et al., Parallel Computing 2009); NCCL picks by size.
    """
    if devices == 1:
        return 0.0
    hops = 2 * (devices - 1).bit_length()
    return hops * latency_s + 2.0 * (devices - 1) / devices * payload_bytes / bytes_per_s


class TimeModel:
    """Seconds per iteration of one pipeline stage of a replica, in picoseconds.

    Args:
        deployment: devices, how a replica is split over them, and its links.
        model: the shape.
        precision: weights as stored.
        stack: efficiencies and overheads of the software on this device.
        stage: which of `deployment.pp` pipeline stages; the last one holds the LM head.
    """

    def __init__(
        self, deployment: Deployment, model: ModelSpec, precision: Precision, stack: Stack, stage: int = 0
    ) -> None:
        tp = deployment.tp
        self.rates = rates = reached_rates(deployment.device, deployment.ecc_on, precision.name, stack)
        self._model, self._precision, self._stack, self._deployment = model, precision, stack, deployment
        self._layers = layers = stage_layers(model.layers, deployment.pp)[stage]
        self._has_head = stage == deployment.pp - 1
        self._gemm_ps: dict[int, int] = {}
        self._emit_ps: dict[int, int] = {}
        self._decode_ps: dict[int, int] = {}
        kv_heads = max(model.kv_heads, tp)  # fewer heads than devices: every device keeps a copy of one
        kv_bytes = 2.0 * kv_heads * model.head_dim * stack.kv_bytes_per_element / tp * layers
        pair_flops = model.attention_flops_per_pair / model.layers * layers / tp
        self._kv_read_ps = _ps(kv_bytes / rates.attention_bandwidth_bytes_per_s)
        self._pair_ps = _ps(pair_flops / rates.attention_flops_per_s)
        self._context_ps = max(self._kv_read_ps, self._pair_ps)  # one query per context entry: both grow alike

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
            (first, slope, n): iteration k takes first + slope * k picoseconds, for n of the iterations. Where
            attention of a long prompt turns from memory-bound to compute-bound or back, the law ends before and the
            caller asks again.
        """
        if not chunks:
            base = self._decode_ps.get(decoding)
            if base is None:
                base = self._decode_ps[decoding] = self._base_ps(decoding, decoding)
            return base + self._context_ps * context_tokens, self._context_ps * decoding, iterations
        tokens = decoding
        first = self._context_ps * context_tokens
        slope = self._context_ps * decoding
        for _, size, past in chunks:
            tokens += size
            compute = self._pair_ps * (size * past + size * (size + 1) // 2)
            memory = self._kv_read_ps * (past + size)
            if iterations > 1:
                compute_slope, memory_slope = self._pair_ps * size * size, self._kv_read_ps * size
                iterations = _steps_to_crossing(compute - memory, compute_slope - memory_slope, iterations)
                slope += compute_slope if compute >= memory else memory_slope
            first += max(compute, memory)
        return first + self._base_ps(tokens, emits), slope, iterations

    def _base_ps(self, tokens: int, emits: int) -> int:
        """Time of an iteration but for attention: GEMMs over these tokens, and tokens produced."""
        gemm = self._gemm_ps.get(tokens)
        if gemm is None:
            gemm = self._gemm_ps[tokens] = _ps(self._gemm_s(tokens))
        emit = self._emit_ps.get(emits)
        if emit is None:
            emit = self._emit_ps[emits] = _ps(self._emit_s(emits))
        return gemm + emit

    def _gemm_s(self, tokens: int) -> float:
        """All matrix products of the stage's layers over this many tokens, with overheads and all-reduces."""
        model, stack, rates, tp = self._model, self._stack, self.rates, self._deployment.tp
        attention = model.attention_matrix_params
        expert = model.ffn_matrix_params
        touched = attention + expert * model.distinct_experts(tokens)
        worked = attention + expert * model.active_experts
        memory_s = touched * self._precision.bytes_per_weight / tp / rates.bandwidth_bytes_per_s
        compute_s = 2.0 * worked / tp * (tokens + stack.gemm_half_tokens) / rates.flops_per_s
        scale_s = 0.0 if rates.dequant_per_s is None else touched / tp / rates.dequant_per_s
        link = self._deployment.gpu_link
        payload = tokens * model.hidden * stack.activation_bytes_per_element
        reduce_s = all_reduce_s(
            payload, tp, float(link.bytes_per_s) * stack.comm_efficiency, float(link.latency_s) + stack.comm_latency_s
        )
        per_layer = max(memory_s, compute_s, scale_s) + stack.layer_overhead_s + 2.0 * reduce_s
        return self._layers * per_layer + stack.step_overhead_s

    def _emit_s(self, emits: int) -> float:
        """LM head and bookkeeping for the sequences that produce a token."""
        if not (emits and self._has_head):
            return 0.0
        model, rates, tp = self._model, self.rates, self._deployment.tp
        memory_s = model.head_params * self._precision.bytes_per_other / tp / rates.bandwidth_bytes_per_s
        compute_s = 2.0 * model.head_params / tp * (emits + self._stack.gemm_half_tokens) / rates.flops_per_s
        return max(memory_s, compute_s) + emits * self._stack.sequence_overhead_s

    def hop_ps(self, tokens: int) -> int:
        """Time to hand this many tokens' activations to the next pipeline stage."""
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


def work(deployment: Deployment, model: ModelSpec, precision: Precision, stack: Stack, plans: "PlanArrays") -> Work:
    """Bytes moved to and from HBM, FLOPs and bytes over the GPU links, summed over a replica's GPUs.

    Weights are read once per iteration (experts as far as the tokens reach them), each context entry once per
    decoding sequence, keys and values written once per token.
    """
    tp = deployment.tp
    kv_copies = max(model.kv_heads, tp) / model.kv_heads
    kv_bytes = model.kv_bytes_per_token(stack.kv_bytes_per_element) * kv_copies
    tokens = plans.decoding + plans.chunk_tokens
    sizes, where = np.unique(tokens, return_inverse=True)
    experts = np.array([model.distinct_experts(int(size)) for size in sizes])[where]
    matrices = model.layers * (model.attention_matrix_params + model.ffn_matrix_params * experts)
    head_bytes = model.head_params * precision.bytes_per_other * (plans.emits > 0)
    read = plans.context_tokens + plans.chunk_past + plans.chunk_tokens
    hbm = matrices * precision.bytes_per_weight + head_bytes + kv_bytes * (read + tokens)
    hbm_slope = kv_bytes * (plans.decoding + plans.chunk_tokens)
    pairs = plans.context_tokens + plans.chunk_pairs
    flops = (
        model.linear_flops_per_token * tokens
        + model.head_flops_per_token * plans.emits
        + model.attention_flops_per_pair * pairs
    )
    flops_slope = model.attention_flops_per_pair * (plans.decoding + plans.chunk_pairs_slope)
    payload = tokens * (model.hidden * stack.activation_bytes_per_element)
    link = payload * (2 * model.layers * 2 * (tp - 1) + (deployment.pp - 1))
    return Work(hbm, hbm_slope, flops, flops_slope, link)


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

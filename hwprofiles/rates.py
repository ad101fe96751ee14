"""What one GPU reaches with a software stack: the stack's shares applied to the datasheet's peaks."""

from typing import NamedTuple

from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.kernels import AttentionRates, GemmRates
from afterwatt.hwprofiles.stacks import Stack, dequant_parameter
from afterwatt.modelspecs.precision import Precision

WIDE = ("fp16", "fp32")
"""What attention and matrices that are not quantised are computed in: the first that the device is fast at."""
NARROW_FLOATS = ("fp8", "fp4")
NEVER = 1e12
"""Rows from which on nobody unpacks."""


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
    bandwidth = device.peak_bytes_per_s(ecc_on)
    computed, matrices = _matrix_rates(device, bandwidth, precision, stack)
    wide_in = next(name for name in WIDE if name in device.flops_per_s)
    wide = GemmRates(
        matrices.bytes_per_s,
        _peak(device, wide_in, stack) * stack.compute_efficiency,
        0.0,
        matrices.latency_s,
        matrices.sharpness,
        few_rows=matrices.few_rows,
        few_bytes_per_s=matrices.few_bytes_per_s,
    )
    attention = AttentionRates(
        bandwidth * stack.attention_mem_efficiency,
        device.flops_per_s[wide_in] * stack.attention_compute_efficiency,
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
        wide_flops_per_s=matrices.wide_flops_per_s * share,
    )
    return Rates(computed, matrices, experts, matrices if narrow_head else wide, wide, attention)


def _matrix_rates(device: Device, bandwidth: float, precision: Precision, stack: Stack) -> tuple[str, GemmRates]:
    computed = computed_precision(device, precision, stack.quantised_in)
    share, dequant_s = stack.compute_efficiency, 0.0
    vector_ops_per_s = device.flops_per_s["fp32"] / 2.0
    if computed in NARROW_FLOATS:
        share = stack.fp8_compute_efficiency
    elif precision.quantised:
        share = stack.quantised_compute_efficiency
    if precision.quantised and not (computed == precision.family and computed in precision.arithmetic):
        dequant_s = getattr(stack, dequant_parameter(precision.family)) * precision.unpacking / vector_ops_per_s
    rates = GemmRates(
        bandwidth * stack.mem_efficiency,
        _peak(device, computed, stack) * share,
        dequant_s,
        float(stack.kernel_latency_s),
        float(stack.roofline_sharpness),
        narrow=computed in ("int8", *NARROW_FLOATS),
        few_rows=float(stack.few_rows),
        few_bytes_per_s=bandwidth * stack.few_rows_mem_efficiency,
    )
    return computed, _own_kernels(rates, device, stack) if precision.quantised else rates


def _peak(device: Device, arithmetic: str, stack: Stack) -> float:
    """Return the datasheet's rate of matrix products, by what the stack adds them up in."""
    summed = f"{arithmetic}-{stack.sums_in}"
    return float(device.flops_per_s[summed if summed in device.flops_per_s else arithmetic])


def _own_kernels(rates: GemmRates, device: Device, stack: Stack) -> GemmRates:
    """Return the rates of quantised products with what runs few rows, and many, where those kernels are others."""
    if stack.vector_rows:
        vector_s = stack.vector_ops_per_weight / (device.flops_per_s["fp32"] / 2.0)
        rates = rates._replace(vector_rows=float(stack.vector_rows), vector_s=vector_s)
    if stack.unpack_rows < NEVER:
        wide_in = next(name for name in WIDE if name in device.flops_per_s)
        rates = rates._replace(
            unpack_rows=float(stack.unpack_rows),
            wide_flops_per_s=_peak(device, wide_in, stack) * stack.compute_efficiency,
            wide_bytes=2.0 if wide_in == "fp16" else 4.0,
        )
    return rates

"""Neurons' bundles as bytes: rows of weights encoded at a precision, and back.

Integers are symmetric and rounded to nearest: a weight w becomes round(w / s), with s the largest magnitude of its row
(int8) or group of 128 (int4) over 127 or 7. A scale is rounded up to fp16, so that no integer is cut off and no weight
is off by more than half a scale.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from afterwatt.modelspecs.bundles import GROUP, WIDE_BYTES, neuron_bytes

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
LARGEST: Final = {"int8": 127, "int4": 7}
_NIBBLE_ZERO: Final = 8
"""int4 is kept as a nibble of q + 8, 1 to 15."""


def encode(rows: Floats, precision: str) -> Bytes:
    """Return neurons' bundles.

    Args:
        rows: gate, up and down of each neuron, [n, 3, hidden], finite.
        precision: of `modelspecs.bundles.PRECISIONS`.

    Returns:
        uint8[n, neuron_bytes]: three rows of weights, then their scales, then zeros.

    Raises:
        OverflowError: a weight or scale that the format does not hold.
    """
    count, _, hidden = rows.shape
    found = np.zeros((count, neuron_bytes(hidden, precision)), dtype=np.uint8)
    if precision in WIDE_BYTES:
        wide = narrowed(rows, precision).reshape(count, -1).view(np.uint8)
        found[:, : wide.shape[1]] = wide
        return found
    scales, codes = _quantised(rows, precision)
    packed = _packed(codes) if precision == "int4" else np.ascontiguousarray(codes).view(np.uint8)
    packed = packed.reshape(count, -1)
    tail = scales.reshape(count, -1).view(np.uint8)
    found[:, : packed.shape[1]] = packed
    found[:, packed.shape[1] : packed.shape[1] + tail.shape[1]] = tail
    return found


def decode(bundles: Bytes, hidden: int, precision: str) -> Floats:
    """Return the weights of bundles, fp32[n, 3, hidden].

    Args:
        bundles: uint8[n, neuron_bytes].
        hidden: weights of a row.
        precision: that they are stored in.
    """
    count = len(bundles)
    if precision in WIDE_BYTES:
        wide = np.ascontiguousarray(bundles[:, : 3 * hidden * WIDE_BYTES[precision]])
        return widened(wide.view(np.uint8), precision).reshape(count, 3, hidden)
    width = hidden if precision == "int8" else -(-hidden // 2)
    codes = np.ascontiguousarray(bundles[:, : 3 * width])
    groups = 1 if precision == "int8" else -(-hidden // GROUP)
    tail = np.ascontiguousarray(bundles[:, 3 * width : 3 * (width + 2 * groups)])
    scales = tail.view(np.float16).astype(np.float32).reshape(count, 3, groups)
    if precision == "int8":
        return codes.view(np.int8).reshape(count, 3, hidden).astype(np.float32) * scales
    pairs = codes.reshape(count, 3, width)
    values = np.stack((pairs & 15, pairs >> 4), axis=-1).reshape(count, 3, 2 * width)[..., :hidden]
    return (values.astype(np.float32) - _NIBBLE_ZERO) * np.repeat(scales, GROUP, axis=-1)[..., :hidden]


def narrowed(values: Floats, precision: str) -> NDArray[np.generic]:
    """Return fp32 values in a wide format, to the nearest; bf16 as its bits, uint16.

    Raises:
        OverflowError: a value is beyond the format.
    """
    if precision == "fp32":
        return values
    if precision == "fp16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise OverflowError(f"a weight of {np.abs(values).max():g} is beyond fp16")
        return half
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(raw: Bytes, precision: str) -> Floats:
    """Return stored values of a wide format, given as contiguous bytes, in fp32."""
    if precision == "bf16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return raw.view(np.float32 if precision == "fp32" else np.float16).astype(np.float32)


def _quantised(rows: Floats, precision: str) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
    """Return (scales [n, 3, groups], integers [n, 3, hidden])."""
    count, _, hidden = rows.shape
    group = hidden if precision == "int8" else GROUP
    padded = np.zeros((count, 3, -(-hidden // group) * group), dtype=np.float32)
    padded[..., :hidden] = rows
    grouped = padded.reshape(count, 3, -1, group)
    exact = np.abs(grouped).max(-1) / LARGEST[precision]
    with np.errstate(over="ignore"):
        scales = exact.astype(np.float16)
        scales = np.where(scales.astype(np.float32) < exact, np.nextafter(scales, np.float16(np.inf)), scales)
    if not np.isfinite(scales).all():
        raise OverflowError(f"a weight of {np.abs(rows).max():g} is too large for a scale in fp16")
    divisors = np.where(scales == 0, np.float32(1), scales.astype(np.float32))[..., None]
    return scales, np.rint(grouped / divisors).astype(np.int8).reshape(padded.shape)[..., :hidden]


def _packed(codes: NDArray[np.int8]) -> Bytes:
    """Pack int4 in pairs, the first of each in the low nibble."""
    nibbles = (codes + _NIBBLE_ZERO).astype(np.uint8)
    if nibbles.shape[-1] % 2:
        nibbles = np.concatenate((nibbles, np.zeros_like(nibbles[..., :1])), axis=-1)
    packed: Bytes = nibbles[..., ::2] | (nibbles[..., 1::2] << np.uint8(4))
    return packed

"""Products of activations with a matrix, in the way that costs least on the device."""

from typing import Final

import torch
from torch.nn.functional import linear

_UNPACKED_ROWS: Final = range(4, 256)
"""Rows for which, on a CPU in fp32, oneDNN is asked to multiply the matrix as it lies.

`linear` streams the matrix past up to 3 rows, and repacks all of it first for more: oneDNN takes 0.5 to 0.9 of its time
from 4 rows to 96, and 0.9 to 1 up to 255. From 256 on it takes longer, for some numbers of rows by a third. Measured
with torch 2.13, its MKL 2024.2 and its oneDNN 3.12 on an AVX-512 Xeon, one thread, matrices of 9 to 50 MB.
"""
_UNPACKED_ELEMENTS: Final = 1 << 20
"""Elements below which a matrix is left to `linear`: at the first use of each number of rows oneDNN takes 0.3 to 1.4 ms
(256 x 256 and 1536 x 1536), which is as long as an iteration of a tiny model."""
_ONEDNN: Final = bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return x weight^T + bias, contiguous.

    Args:
        x: [n, inputs].
        weight: [outputs, inputs].
        bias: [outputs].
    """
    large = weight.numel() >= _UNPACKED_ELEMENTS and len(x) in _UNPACKED_ROWS
    if _ONEDNN and large and x.is_cpu and x.dtype == torch.float32:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return result
    return linear(x, weight, bias)

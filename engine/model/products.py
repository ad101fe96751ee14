"""Products of activations with a matrix, in the way that costs least on the device."""

import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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


# -- matrices stored narrower than is computed with -------------------------------------------------------------------

CAST_ELEMENTS: Final = 1 << 24
"""Weights cast at a time where they are stored narrower than computed with: 64 MiB of fp32, whatever the model."""
_TRIED_ROWS: Final = (1, 8, 64, 512)
_TRIALS: Final = 5
WideProduct = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Returns x weight^T in the format of x, from (x: [..., inputs], weight: [outputs, inputs] in another format)."""


class CastProduct:
    """Casts some of a matrix's rows at a time, right before they are multiplied with: 10 bytes moved per fp16 weight.

    Args:
        compute: the format computed in.
        device: where.
    """

    name = "cast"
    chosen: Mapping[str, str] = {"all": name}

    def __init__(self, compute: torch.dtype, device: torch.device) -> None:
        self._wide = torch.empty(CAST_ELEMENTS, dtype=compute, device=device)

    def __call__(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return x weight^T (`WideProduct`)."""
        outputs, inputs = weight.shape
        at_once = max(1, self._wide.numel() // inputs)
        result = torch.empty(*x.shape[:-1], outputs, dtype=x.dtype, device=x.device)
        for first in range(0, outputs, at_once):
            some = weight[first : first + at_once]
            wide = self._wide[: some.numel()].view(some.shape).copy_(some)
            result[..., first : first + at_once] = linear(x, wide)
        return result


class NarrowProduct:
    """Narrows the activations instead, and asks for sums in the wide format: 2 bytes moved per fp16 weight.

    cuBLAS multiplies fp16 with fp16 into fp32 from compute capability 5.0 on (cublasGemmEx). A row with an element that
    the narrow format does not hold is divided before and multiplied after.

    Args:
        multiply: returns a b in the wide format, of two narrow matrices; torch's is CUDA's only.
    """

    name = "narrow"

    def __init__(self, multiply: WideProduct | None = None) -> None:
        self._multiply = multiply or partial(torch.mm, out_dtype=torch.float32)

    def __call__(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return x weight^T (`WideProduct`), with the rounding of the narrow format in x."""
        rows, scale = narrowed(x.reshape(-1, x.shape[-1]), weight.dtype)
        return self._multiply(rows, weight.t()).mul_(scale).view(*x.shape[:-1], len(weight))


def narrowed(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (x / scale in a narrower format, the scale of each row [..., 1]: 1 where the format holds the row)."""
    scale = x.abs().amax(-1, keepdim=True).div_(torch.finfo(dtype).max).clamp_(min=1.0)
    return (x / scale).to(dtype), scale


class FasterProduct:
    """The faster of several ways, by the number of rows, as timed on the device itself.

    Args:
        ways: to choose from.
        weight: a matrix of the model to try them with.
        compute: the format computed in.
        clock: returns seconds when all that was asked for is done.

    Attributes:
        chosen: number of rows -> name of the way that is taken up to there, and for the largest beyond.
    """

    def __init__(
        self,
        ways: Sequence["CastProduct | NarrowProduct"],
        weight: torch.Tensor,
        compute: torch.dtype,
        clock: Callable[[], float],
    ) -> None:
        self._ways = []
        for rows in _TRIED_ROWS:
            x = torch.ones(rows, weight.shape[1], dtype=compute, device=weight.device)
            times = [median_s(partial(way, x, weight), clock) for way in ways]
            self._ways.append(ways[times.index(min(times))])
        self.chosen: Mapping[str, str] = {str(n): way.name for n, way in zip(_TRIED_ROWS, self._ways, strict=True)}

    def __call__(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return x weight^T (`WideProduct`)."""
        rows = x.numel() // x.shape[-1]
        return self._ways[min(bisect_left(_TRIED_ROWS, rows), len(_TRIED_ROWS) - 1)](x, weight)


def median_s(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return how long a call takes; for ever where the device refuses it.

    Args:
        call: what to time; it is called once before.
        clock: returns seconds when all that was asked for is done.
    """
    try:
        call()
    except RuntimeError:
        return float("inf")
    times = []
    for _ in range(_TRIALS):
        begin = clock()
        call()
        times.append(clock() - begin)
    return statistics.median(times)


class Linear:
    """A matrix, its bias and what is added, applied to one token or to n.

    Args:
        wide: multiplies with matrices that are stored in another format than is computed in; None: none are.

    Attributes:
        wide: the same.
    """

    def __init__(self, wide: "CastProduct | FasterProduct | None" = None) -> None:
        self.wide = wide

    def __call__(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, onto: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return onto + x weight^T + bias, of one token [inputs] or of n [n, inputs]."""
        if self.wide is not None:
            result = self.wide(x, weight)
            if onto is not None:
                result.add_(onto)
        elif x.dim() > 1:
            result = product(x, weight, bias)
            return result if onto is None else result.add_(onto)
        elif onto is not None:
            result = torch.addmv(onto, weight, x)
        elif bias is not None:
            return torch.addmv(bias, weight, x)
        else:
            return torch.mv(weight, x)
        return result if bias is None else result.add_(bias)


def device_clock(device: torch.device) -> Callable[[], float]:
    """Return a clock that waits for a GPU to have done what it was asked for."""

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def wide_product(weight: torch.Tensor, compute: torch.dtype) -> "CastProduct | FasterProduct":
    """Return how to multiply with matrices that are stored like this one and computed with in another format.

    Args:
        weight: one of the model's, to try on: [outputs, inputs].
        compute: the format computed in.
    """
    cast = CastProduct(compute, weight.device)
    if not (weight.is_cuda and weight.dtype == torch.float16 and compute == torch.float32):
        return cast

    with torch.inference_mode():
        return FasterProduct((cast, NarrowProduct()), weight, compute, device_clock(weight.device))

"""Attention of single queries over gathered keys and values, in the way that costs least on the device."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from afterwatt.engine.model.products import device_clock, median_s, narrowed

Mix = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Returns [n, kv_heads, group, head_dim] in the query's format, of (query of that shape, keys and values as they are
stored [n, kv_heads, tokens, head_dim], what is added to the scores [n, 1, 1, tokens] or None)."""
_TRIED_SEQUENCES = 4
_TRIED_TOKENS = 1024


def cast_mix(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Cast keys and values to what is computed in, where they are stored otherwise (`Mix`).

    Args:
        query: [n, kv_heads, group, head_dim].
        key: [n, kv_heads, tokens, head_dim].
        value: as key.
        mask: added to the scores.
    """
    return scaled_dot_product_attention(query, key.to(query.dtype), value.to(query.dtype), attn_mask=mask)


class NarrowMix:
    """Narrows queries and weights of the mean instead, and asks for sums in the wide format.

    Keys and values are read as they are stored: 2 bytes per element where casting moves 8 (fp16 read, fp32 written and
    read).

    Args:
        multiply: returns a b in the wide format, of two batches of narrow matrices; torch's is CUDA's only.
    """

    def __init__(self, multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None) -> None:
        self._multiply = multiply or partial(torch.bmm, out_dtype=torch.float32)

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend (`Mix`), with the rounding of the narrow format in queries and weights of the mean."""
        narrow, scale = narrowed(query * query.shape[-1] ** -0.5, key.dtype)
        scores = self._products(narrow, key.transpose(2, 3)).mul_(scale)
        if mask is not None:
            scores.add_(mask)
        return self._products(scores.softmax(-1).to(value.dtype), value)

    def _products(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Multiply for each sequence and head; of several sequences head by head, as heads lie between tokens."""
        if len(left) == 1:
            return self._multiply(left[0], right[0]).unsqueeze(0)
        return torch.stack([self._multiply(left[:, head], right[:, head]) for head in range(left.shape[1])], 1)


def chosen_mix(heads: tuple[int, int, int], stored: torch.dtype, compute: torch.dtype, device: torch.device) -> Mix:
    """Return the faster way on this device, timed on it where there is a choice: fp16 stored, fp32 computed, CUDA.

    Args:
        heads: (heads, kv_heads, head_dim).
        stored: format of keys and values.
        compute: format computed in.
        device: where.
    """
    if not (device.type == "cuda" and stored == torch.float16 and compute == torch.float32):
        return cast_mix
    with torch.inference_mode():
        return faster_mix((cast_mix, NarrowMix()), heads, stored, compute, device, device_clock(device))


def faster_mix(
    ways: tuple[Mix, ...],
    heads: tuple[int, int, int],
    stored: torch.dtype,
    compute: torch.dtype,
    device: torch.device,
    clock: Callable[[], float],
) -> Mix:
    """Return the way that takes the least time for a few sequences; one that the device refuses takes for ever.

    Args:
        ways: to choose from.
        heads: (heads, kv_heads, head_dim).
        stored: format of keys and values.
        compute: format computed in.
        device: where.
        clock: returns seconds when all that was asked for is done.
    """
    all_heads, kv_heads, width = heads
    query = torch.ones(_TRIED_SEQUENCES, kv_heads, all_heads // kv_heads, width, dtype=compute, device=device)
    lying = torch.ones(2, _TRIED_SEQUENCES, _TRIED_TOKENS, kv_heads, width, dtype=stored, device=device)
    key, value = lying.transpose(2, 3)
    mask = torch.zeros(_TRIED_SEQUENCES, 1, 1, _TRIED_TOKENS, dtype=compute, device=device)
    return min(ways, key=lambda way: median_s(lambda: way(query, key, value, mask), clock))

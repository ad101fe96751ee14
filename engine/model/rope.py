"""Rotary positions as complex turns.

A head's components are kept as neighbouring pairs, so that one complex product turns them all. Checkpoints of the three
families pair component i with i + head_dim / 2 instead; `pair_order` is applied to the rows of their query and key
matrices once, at load. Scores do not notice: queries and keys are reordered alike.
"""

import math

import torch

from afterwatt.engine.model.config import Rope


def frequencies(rope: Rope, head_dim: int) -> torch.Tensor:
    """Return how far each pair turns from one position to the next, radians, fp32[head_dim / 2].

    transformers 5.24 `modeling_rope_utils.py`: `_compute_linear_scaling_rope_parameters`, `_compute_llama3_parameters`.
    """
    # In fp32 throughout, as checkpoints were trained: at position 100,000 rounding shows.
    turns = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope.kind == "linear":
        return turns / rope.factor
    if rope.kind == "llama3":
        waves = rope.original_max_position * turns / (2 * math.pi)  # whole turns within the first context
        share = (waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        share = share.clamp(0.0, 1.0)
        return (1 - share) * turns / rope.factor + share * turns
    return turns


def pair_order(heads: int, head_dim: int) -> torch.Tensor:
    """Return where the rows of a query or key matrix go so that pairs become neighbours, int64[heads * head_dim]."""
    within = torch.arange(head_dim).view(2, head_dim // 2).t().reshape(-1).argsort()
    return (torch.arange(heads)[:, None] * head_dim + within).reshape(-1)


class RopeTable:
    """Turns by position, computed up to the farthest position asked for so far.

    Args:
        rope: the model's.
        head_dim: width of a head.
        max_context: positions there are.
        device: where the table lies.
    """

    def __init__(self, rope: Rope, head_dim: int, max_context: int, device: torch.device) -> None:
        self._frequencies = frequencies(rope, head_dim)
        self._max_context = max_context
        self._device = device
        self.turns = torch.empty(0, 1, head_dim // 2, dtype=torch.complex64, device=device)
        self.reserve(min(max_context, 2048))

    def reserve(self, positions: int) -> None:
        """See to it that the table has so many rows; it at least doubles when it grows."""
        if positions <= len(self.turns):
            return
        rows = min(self._max_context, max(positions, 2 * len(self.turns)))
        angles = torch.outer(torch.arange(rows, dtype=torch.float32), self._frequencies)
        self.turns = torch.polar(torch.ones_like(angles), angles).unsqueeze(1).to(self._device)


def rotate_(heads: torch.Tensor, turns: torch.Tensor) -> None:
    """Turn queries and keys to their positions, in place and in fp32.

    Args:
        heads: [n, heads, head_dim], components in neighbouring pairs.
        turns: the rows of a `RopeTable` for their positions, complex64[n, 1, head_dim / 2].
    """
    pairs = heads.view(*heads.shape[:-1], -1, 2)
    if heads.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(turns)
    else:
        pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()) * turns))

"""The decoder of the Llama, Mistral and Qwen2 families: RMSNorm, rotary grouped-query attention, a gated network.

Touvron et al. 2023 (arXiv:2302.13971), section 2.2; Jiang et al. 2023 (arXiv:2310.06825); Qwen2 (arXiv:2407.10671),
section 2.2. One pass over all tokens of a batch, whoever's they are; only attention tells sequences apart.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import addmv, mv
from torch.nn.functional import linear, relu, rms_norm, silu

from engine.model.attention import Part
from engine.model.config import ModelConfig
from engine.model.kv import KVPool
from engine.model.rope import RopeTable, rotate_
from engine.model.weights import LayerWeights, Weights

CAST_ELEMENTS: Final = 1 << 24
"""Weights cast at a time where they are stored narrower than computed with: 64 MiB of fp32, whatever the model."""


class Decoder:
    """A model's arithmetic.

    Args:
        config: the model.
        weights: its weights.
        compute: the dtype of activations.
        device: where all of it is.

    Attributes:
        rope: its table of rotary turns; see that it reaches far enough before `forward`.
    """

    def __init__(self, config: ModelConfig, weights: Weights, compute: torch.dtype, device: torch.device) -> None:
        spec = config.spec
        self.weights = weights
        self.compute = compute
        self.rope = RopeTable(config.rope, spec.head_dim, spec.max_context, device)
        self._eps = config.rms_norm_eps
        self._activation = {"silu": silu, "relu": relu}[config.activation]
        self._hidden = (spec.hidden,)
        self._head_dim = spec.head_dim
        self._heads, self._kv_heads, self._ffn = spec.heads, spec.kv_heads, spec.ffn
        # On a CPU a matrix product of one row packs the matrix first; the matrix-vector product only reads it.
        self._gemv = device.type == "cpu" and compute == torch.float32
        cast = weights.embedding.dtype != compute
        self._cast = torch.empty(CAST_ELEMENTS if cast else 0, dtype=compute, device=device)

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, pool: KVPool, parts: Sequence[Part]
    ) -> torch.Tensor:
        """Run a batch's tokens through all layers; their keys and values go to the pool.

        Args:
            tokens: ids, int64[n].
            positions: in their sequences, int64[n].
            slots: of the pool, int64[n].
            pool: the cache.
            parts: who attends to what; together all n tokens.

        Returns:
            What the last layer leaves, before the final norm, [n, hidden].
        """
        x = self.weights.embedding.index_select(0, tokens).to(self.compute)
        turns = self.rope.turns.index_select(0, positions)
        for layer, keys, values in zip(self.weights.layers, pool.keys, pool.values, strict=True):
            normed = rms_norm(x, self._hidden, layer.attention_norm, self._eps)
            x = x + self._attention(layer, normed, turns, slots, keys, values, parts)
            normed = rms_norm(x, self._hidden, layer.ffn_norm, self._eps)
            gate_up = self._linear(normed, layer.gate_up, layer.gate_up_bias)
            gated = self._activation(gate_up[:, : self._ffn]).mul_(gate_up[:, self._ffn :])
            x = x + self._linear(gated, layer.down, layer.down_bias)
        return x

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return what follows positions, fp32[n, vocab], from what the last layer left of them."""
        normed = rms_norm(x, self._hidden, self.weights.norm, self._eps)
        return self._linear(normed, self.weights.head, None).float()

    def _attention(
        self,
        layer: LayerWeights,
        x: torch.Tensor,
        turns: torch.Tensor,
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        parts: Sequence[Part],
    ) -> torch.Tensor:
        turned = self._heads + self._kv_heads
        qkv = self._linear(x, layer.qkv, layer.qkv_bias).view(len(x), -1, self._head_dim)
        rotate_(qkv[:, :turned], turns)
        query = qkv[:, : self._heads]
        keys.index_copy_(0, slots, qkv[:, self._heads : turned].to(keys.dtype))
        values.index_copy_(0, slots, qkv[:, turned:].to(values.dtype))
        if len(parts) == 1:
            mixed = parts[0].attend(query, keys, values)
        else:
            mixed = torch.empty(len(x), self._heads * self._head_dim, dtype=x.dtype, device=x.device)
            for part in parts:
                mixed[part.rows] = part.attend(query[part.rows], keys, values)
        return self._linear(mixed, layer.out, layer.out_bias)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Multiply, casting the matrix some rows at a time right before if it is stored in another dtype."""
        if weight.dtype == x.dtype:
            if self._gemv and len(x) == 1:
                return (mv(weight, x[0]) if bias is None else addmv(bias, weight, x[0])).unsqueeze(0)
            return linear(x, weight, bias)
        outputs, inputs = weight.shape
        at_once = max(1, self._cast.numel() // inputs)
        result = torch.empty(len(x), outputs, dtype=x.dtype, device=x.device)
        for first in range(0, outputs, at_once):
            some = weight[first : first + at_once]
            wide = self._cast[: some.numel()].view(some.shape).copy_(some)
            result[:, first : first + at_once] = linear(x, wide)
        return result if bias is None else result.add_(bias)

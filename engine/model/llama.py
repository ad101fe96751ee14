"""The decoder of the families in `modelspecs.decoders`: RMSNorm, rotary grouped-query attention, a gated network.

Touvron et al. 2023 (arXiv:2302.13971), section 2.2; Jiang et al. 2023 (arXiv:2310.06825); Qwen2 (arXiv:2407.10671),
section 2.2. One pass over all tokens of a batch, whoever's they are; only attention tells sequences apart.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import rms_norm

from afterwatt.engine.model.attention import Part
from afterwatt.engine.model.config import ModelConfig
from afterwatt.engine.model.ffn import MakeSource, Resident
from afterwatt.engine.model.kv import KVPool, LayerCache
from afterwatt.engine.model.mixing import Mix, cast_mix
from afterwatt.engine.model.products import Linear, wide_product
from afterwatt.engine.model.rope import RopeTable, rotate_
from afterwatt.engine.model.weights import Weights


class Decoder:
    """A model's arithmetic.

    Args:
        config: the model.
        weights: its weights.
        compute: the dtype of activations.
        device: where all of it is.
        source: what gives each layer's network; None: the weights have them all.

    Attributes:
        rope: its table of rotary turns; see that it reaches far enough before `forward`.
        linear: multiplies with its matrices.
        source: gives each layer's network.
        mix: how decoding sequences attend; of a cache in the format that is computed in, unless somebody sets it.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        compute: torch.dtype,
        device: torch.device,
        source: MakeSource | None = None,
    ) -> None:
        spec = config.spec
        self.weights = weights
        self.compute = compute
        self.rope = RopeTable(config.rope, spec.head_dim, spec.max_context, device)
        self._eps = config.rms_norm_eps
        self._hidden = (spec.hidden,)
        self._head_dim = spec.head_dim
        self._heads, self._kv_heads = spec.heads, spec.kv_heads
        # On a CPU one token is a vector: its products take residual and bias along, and reshape nothing.
        self._vectors = device.type == "cpu"
        self._least = torch.tensor([config.rms_norm_eps], device=device)
        same = weights.embedding.dtype == compute
        self.linear = Linear(None if same else wide_product(weights.layers[0].qkv, compute))
        self.source = Resident(config, weights, self.linear) if source is None else source(self.linear)
        self.mix: Mix = cast_mix

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor | slice,
        pool: KVPool,
        parts: Sequence[Part],
    ) -> torch.Tensor:
        """Run a batch's tokens through all layers; their keys and values go to the pool.

        Args:
            tokens: ids, int64[n].
            positions: in their sequences, int64[n].
            slots: of the pool, int64[n], or the run that they are.
            pool: the cache.
            parts: who attends to what; together all n tokens.

        Returns:
            What the last layer leaves, before the final norm, [n, hidden].
        """
        x = self.weights.embedding.index_select(0, tokens).to(self.compute)
        if self._vectors and len(x) == 1:
            x = x[0]
        turns = self.rope.turns.index_select(0, positions)
        for number, (layer, cache) in enumerate(zip(self.weights.layers, pool.layers, strict=True)):
            normed = self._norm(x, layer.attention_norm)
            qkv = self.linear(normed, layer.qkv, layer.qkv_bias).view(len(tokens), -1, self._head_dim)
            if layer.query_norm is not None and layer.key_norm is not None:
                self._norm_heads(qkv, layer.query_norm, layer.key_norm)
            mixed = self._attention(qkv, turns, slots, cache, parts)
            x = self.linear(mixed.view(*x.shape[:-1], -1), layer.out, layer.out_bias, x)
            normed = self._norm(x, layer.ffn_norm)
            x = self.source.ffn(number)(normed, x)
        return x.view(len(tokens), -1)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return what follows positions, fp32[n, vocab], from what the last layer left of them."""
        normed = self._norm(x, self.weights.norm)
        if self._vectors and len(x) == 1:
            return self.linear(normed[0], self.weights.head, None).unsqueeze(0).float()
        return self.linear(normed, self.weights.head, None).float()

    def products(self) -> dict[str, str]:
        """Return which way of multiplying is taken, by the number of rows up to which it is."""
        return {"all": "plain"} if self.linear.wide is None else dict(self.linear.wide.chosen)

    def _norm(self, x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        """RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4), in fp32 whatever is computed in."""
        if not (x.is_cpu and x.dtype == torch.float32):
            return rms_norm(x, self._hidden, gain, self._eps)
        # On a CPU the operator is made up of others; these are fewer, which between two large matrices is what counts.
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * gain).mul_(torch.addcmul(self._least, length, length, value=1 / self._hidden[0]).rsqrt_())

    def _norm_heads(self, qkv: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> None:
        """Normalise each head of queries and of keys by itself, in place; [n, heads, head_dim]."""
        keys = self._heads + self._kv_heads
        for heads, gain in ((qkv[:, : self._heads], query), (qkv[:, self._heads : keys], key)):
            heads.copy_(rms_norm(heads, (self._head_dim,), gain, self._eps))

    def _attention(
        self,
        qkv: torch.Tensor,
        turns: torch.Tensor,
        slots: torch.Tensor | slice,
        cache: LayerCache,
        parts: Sequence[Part],
    ) -> torch.Tensor:
        """Keep the keys and values of all tokens, and mix the values that each part of them sees."""
        n, _, head_dim = qkv.shape
        rotate_(qkv[:, : self._heads + self._kv_heads], turns)
        kept = qkv[:, self._heads :].view(n, 2, self._kv_heads, head_dim).transpose(0, 1)
        if isinstance(slots, slice):
            cache.slots[:, slots] = kept
        else:
            cache.slots.index_copy_(1, slots, kept.to(cache.slots.dtype))
        query = qkv[:, : self._heads]
        if len(parts) == 1:
            return parts[0].attend(query, cache)
        mixed = torch.empty(n, self._heads * head_dim, dtype=qkv.dtype, device=qkv.device)
        for part in parts:
            mixed[part.rows] = part.attend(query[part.rows], cache)
        return mixed

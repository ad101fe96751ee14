"""Attention over a paged cache, as `scaled_dot_product_attention` over what each part of a batch needs to see.

A batch falls into parts: prompt pieces one by one, decoding sequences together or, where copying their blocks costs
more than a call, alone. Key/value heads are never repeated for the query heads that share them: a decoding sequence's
group of query heads stands where the operator expects query positions, a prompt's where it expects heads over a
broadcast (stride 0) key. `plan_attention` decides once per batch; the parts then work layer by layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from afterwatt.engine.model.devices import memory_of
from afterwatt.engine.model.kv import KVShape, LayerCache
from afterwatt.engine.model.mixing import Mix, cast_mix
from afterwatt.engine.runtime.compute import Ints, StepBatch
from afterwatt.engine.runtime.errors import EngineError

MASKED_PAIRS: Final = 1 << 22
"""Query-key pairs per masked call: bounds the mask, 16 MiB in fp32."""
_GATHERED_BYTES: Final = 256 << 20
_GATHERED_SHARE: Final = 1 / 64
ALONE_BYTES: Final = 128 << 10
"""Keys and values of one layer from which on a CPU a decoding sequence is served alone, in place where it can be."""
_SMALLEST_BUCKET: Final = 256
"""Context up to which sequences are gathered together however their lengths differ, tokens."""


def gathered_bytes(memory_bytes: int | None) -> int:
    """Return how many bytes of one layer's keys and values are gathered at a time, unless one sequence alone has more.

    Bounds a batch's copies: 256 MiB, or a 64th of a larger card's memory, which then decodes larger batches at once.

    Args:
        memory_bytes: of the GPU; None: a CPU.
    """
    return max(_GATHERED_BYTES, 0 if memory_bytes is None else int(_GATHERED_SHARE * memory_bytes))


class Part(Protocol):
    """A part of a batch that attends in one go."""

    @property
    def rows(self) -> slice | torch.Tensor:
        """Its tokens in the batch, n of them."""

    def attend(self, query: torch.Tensor, cache: LayerCache) -> torch.Tensor:
        """Attend in one layer.

        Args:
            query: of the part's tokens, [n, heads, head_dim].
            cache: the layer's, the same tokens included.

        Returns:
            [n, heads * head_dim].
        """


@dataclass(slots=True)
class Context:
    """The cache entries of one sequence, in place if its blocks follow one another, else gathered.

    Attributes:
        tokens: how many there are.
        first_slot: of the run of blocks, or None.
        blocks: their numbers, int64[blocks], if they are no run.
        block_tokens: tokens per block.
    """

    tokens: int
    first_slot: int | None
    blocks: torch.Tensor | None
    block_tokens: int

    @classmethod
    def of(cls, table: Ints, tokens: int, block_tokens: int, device: torch.device) -> "Context":
        """Look at a sequence's blocks, in order."""
        run = len(table) == 1 or bool((np.diff(table) == 1).all())
        if run:
            return cls(tokens, int(table[0]) * block_tokens, None, block_tokens)
        return cls(tokens, None, torch.from_numpy(table).to(device), block_tokens)

    def of_layer(self, cache: LayerCache) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values as they are stored, each [1, kv_heads, tokens, head_dim]."""
        if self.blocks is None:
            assert self.first_slot is not None
            end = self.first_slot + self.tokens
            key, value = cache.keys[:, :, self.first_slot : end], cache.values[:, :, self.first_slot : end]
        else:
            gathered = cache.blocks.index_select(1, self.blocks).flatten(1, 2)[:, : self.tokens].transpose(1, 2)
            key, value = gathered[:1], gathered[1:]
        return key, value


@dataclass(slots=True)
class Prompt:
    """A piece of a prompt.

    Attributes:
        rows: its tokens in the batch.
        past: entries of its sequence before it.
        context: entries up to its last token.
    """

    rows: slice
    past: int
    context: Context

    def attend(self, query: torch.Tensor, cache: LayerCache) -> torch.Tensor:
        """Attend causally (`Part.attend`)."""
        n, heads, head_dim = query.shape
        key, value = (kept.to(query.dtype) for kept in self.context.of_layer(cache))
        kv_heads = key.shape[1]
        group = heads // kv_heads
        key, value = (kept.transpose(0, 1).expand(-1, group, -1, -1) for kept in (key, value))
        grouped = query.view(n, kv_heads, group, head_dim).permute(1, 2, 0, 3)
        mask = self._mask(n, query) if self.past and n > 1 else None
        causal = self.past == 0 and n > 1
        out = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, is_causal=causal)
        return out.permute(2, 0, 1, 3).reshape(n, -1)

    def _mask(self, n: int, like: torch.Tensor) -> torch.Tensor:
        """Hide what comes after each token, [n, tokens of context]."""
        ahead = torch.full((n, self.past + n), float("-inf"), dtype=like.dtype, device=like.device)
        return ahead.triu_(self.past + 1)


@dataclass(slots=True)
class Alone:
    """One decoding sequence.

    Attributes:
        rows: its token in the batch.
        context: all its entries.
        mix: the way to attend on a GPU.
    """

    rows: slice
    context: Context
    mix: Mix

    def attend(self, query: torch.Tensor, cache: LayerCache) -> torch.Tensor:
        """Attend to everything (`Part.attend`)."""
        key, value = self.context.of_layer(cache)
        grouped = query.view(1, key.shape[1], -1, query.shape[-1])
        if query.is_cpu:
            # For one position plain products cost less than setting up the fused operator.
            key, value = key.to(query.dtype), value.to(query.dtype)
            scores = torch.bmm(grouped[0] * query.shape[-1] ** -0.5, key[0].transpose(1, 2))
            return torch.bmm(scores.softmax(-1), value[0]).view(1, -1)
        return self.mix(grouped, key, value, None).reshape(1, -1)


@dataclass(slots=True)
class Together:
    """Decoding sequences, their blocks gathered into one padded tensor.

    Attributes:
        rows: their tokens in the batch.
        blocks: their tables, padded and one after the other, int64[n * blocks].
        mask: what of it is context, 0 or -inf, [n, 1, 1, tokens that the blocks hold].
        mix: the way to attend.
    """

    rows: slice | torch.Tensor
    blocks: torch.Tensor
    mask: torch.Tensor
    mix: Mix

    def attend(self, query: torch.Tensor, cache: LayerCache) -> torch.Tensor:
        """Attend to everything that the mask shows (`Part.attend`)."""
        gathered = cache.blocks.index_select(1, self.blocks)
        kv_heads, head_dim = gathered.shape[-2:]
        key, value = gathered.view(2, len(query), -1, kv_heads, head_dim).transpose(2, 3)
        grouped = query.view(len(query), kv_heads, -1, head_dim)
        return self.mix(grouped, key, value, self.mask).reshape(len(query), -1)


def length_mask(lengths: torch.Tensor, tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """Hide what lies beyond each sequence's context.

    Args:
        lengths: entries of each, int64[n].
        tokens: length that all are padded to.
        dtype: that is computed in.

    Returns:
        0 or -inf, [n, 1, 1, tokens].
    """
    hidden = torch.arange(tokens, device=lengths.device) >= lengths[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=lengths.device).masked_fill_(hidden, float("-inf"))
    return mask[:, None, None, :]


def slots_of(batch: StepBatch, block_tokens: int) -> Ints:
    """Return where the keys and values of a batch's tokens go, int64[n].

    Raises:
        EngineError: a sequence has too few blocks for its tokens.
    """
    slots = []
    for table, past, query in zip(batch.block_tables, batch.past_tokens, batch.query_tokens, strict=True):
        if len(table) * block_tokens < past + query:
            raise EngineError(f"{len(table)} KV blocks of {block_tokens} tokens do not hold {past + query} tokens")
        if query == 1:
            slots.append(table[past // block_tokens] * block_tokens + past % block_tokens)
        else:
            places = np.arange(past, past + query)
            slots.extend(np.asarray(table)[places // block_tokens] * block_tokens + places % block_tokens)
    return np.array(slots, dtype=np.int64)


def plan_attention(
    batch: StepBatch, shape: KVShape, dtype: torch.dtype, device: torch.device, mix: Mix = cast_mix
) -> list[Part]:
    """Cut a batch into the parts that attend together.

    Args:
        batch: the iteration's work.
        shape: sizes of the cache.
        dtype: that is computed in.
        device: where.
        mix: how decoding sequences attend there.
    """
    parts: list[Part] = []
    row = 0
    for number in range(batch.prompts):
        past, query = batch.past_tokens[number], batch.query_tokens[number]
        parts.extend(_prompt_parts(row, past, query, batch.block_tables[number], shape.block_tokens, device))
        row += query
    decoding = range(batch.prompts, len(batch.query_tokens))
    lengths = {number: batch.past_tokens[number] + 1 for number in decoding}
    token_bytes = 2 * shape.kv_heads * shape.head_dim * dtype.itemsize
    alone_tokens = ALONE_BYTES // token_bytes if device.type == "cpu" else None
    shared = []
    for number, length in lengths.items():
        if len(lengths) == 1 or (alone_tokens is not None and length >= alone_tokens):
            at = row + number - batch.prompts
            table = _table(batch.block_tables[number], length, shape.block_tokens)
            parts.append(Alone(slice(at, at + 1), Context.of(table, length, shape.block_tokens, device), mix))
        else:
            shared.append(number)
    offset = row - batch.prompts
    groups = _groups(shared, lengths, gathered_bytes(memory_of(device)) // token_bytes)
    for group in groups:
        tables = {number: _table(batch.block_tables[number], lengths[number], shape.block_tokens) for number in group}
        counts = torch.tensor([lengths[number] for number in sorted(group)], device=device)
        parts.append(_together(tables, counts, offset, shape.block_tokens, dtype, mix))
    return parts


def _table(blocks: Sequence[int], tokens: int, block_tokens: int) -> Ints:
    """Return the blocks that so many tokens fill."""
    return np.array(blocks[: -(-tokens // block_tokens)], dtype=np.int64)


def _prompt_parts(
    row: int, past: int, query: int, blocks: Sequence[int], block_tokens: int, device: torch.device
) -> list[Part]:
    """Return a piece of a prompt, cut further where its mask would be large."""
    at_once = max(1, MASKED_PAIRS // (past + query)) if past else query  # without a past there is no mask
    parts: list[Part] = []
    for first in range(0, query, at_once):
        n = min(at_once, query - first)
        seen = past + first + n
        context = Context.of(_table(blocks, seen, block_tokens), seen, block_tokens, device)
        parts.append(Prompt(slice(row + first, row + first + n), past + first, context))
    return parts


def _groups(numbers: list[int], lengths: dict[int, int], most_tokens: int) -> list[list[int]]:
    """Put sequences together whose lengths differ by no more than a factor of two, as many as may be gathered."""
    groups: list[list[int]] = []
    longest = 0
    for number in sorted(numbers, key=lambda number: -lengths[number]):
        full = not groups or (len(groups[-1]) + 1) * longest > most_tokens
        if full or (longest > _SMALLEST_BUCKET and 2 * lengths[number] <= longest):
            groups.append([])
            longest = lengths[number]
        groups[-1].append(number)
    return groups


def _together(
    tables: Mapping[int, Ints], counts: torch.Tensor, offset: int, block_tokens: int, dtype: torch.dtype, mix: Mix
) -> Together:
    """Put sequences together.

    Args:
        tables: by number, the blocks that each fills.
        counts: entries of each, in order of numbers, int64[n], on the device.
        offset: from a sequence's number to its token in the batch.
        block_tokens: tokens per block.
        dtype: that is computed in.
        mix: how they attend.
    """
    numbers = sorted(tables)
    width = max(len(filled) for filled in tables.values())
    blocks = np.zeros((len(numbers), width), dtype=np.int64)
    for line, number in zip(blocks, numbers, strict=True):
        line[:] = tables[number][0]  # padding reads a block of its own, whose finite values the mask then hides
        line[: len(tables[number])] = tables[number]
    first, last = numbers[0] + offset, numbers[-1] + offset
    rows: slice | torch.Tensor = slice(first, last + 1)
    if last - first + 1 > len(numbers):
        rows = torch.tensor([number + offset for number in numbers], device=counts.device)
    mask = length_mask(counts, width * block_tokens, dtype)
    return Together(rows, torch.from_numpy(blocks).flatten().to(counts.device), mask, mix)

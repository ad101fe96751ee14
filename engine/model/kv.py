"""The paged cache: one pool of KV blocks, taken once, and one of host memory for blocks that are swapped out.

Paged attention's memory (Kwon et al. 2023, arXiv:2309.06180, section 4), without its kernel. Which block is whose is
told with every batch; nothing here keeps count.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from afterwatt.engine.runtime.errors import EngineError
from afterwatt.modelspecs.spec import ModelSpec

_SWAP_AT_ONCE = 8
"""Blocks gathered on the device before they are copied; bounds the extra memory that swapping takes there."""


@dataclass(frozen=True, slots=True)
class KVShape:
    """Sizes of a cache.

    Attributes:
        layers, kv_heads, head_dim: the model's.
        block_tokens: tokens per block.
    """

    layers: int
    kv_heads: int
    head_dim: int
    block_tokens: int

    @classmethod
    def of(cls, spec: ModelSpec, block_tokens: int) -> "KVShape":
        """Return the sizes that a model's cache has."""
        return cls(spec.layers, spec.kv_heads, spec.head_dim, block_tokens)

    def block_bytes(self, dtype: torch.dtype) -> int:
        """Return what one block takes over all layers, keys and values."""
        return 2 * self.layers * self.block_tokens * self.kv_heads * self.head_dim * dtype.itemsize


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's keys and values: the same memory, viewed in the ways that writing and attending need.

    Token t of block b lies in slot b block_tokens + t.

    Attributes:
        slots: [2, slots, kv_heads, head_dim], keys first.
        blocks: [2, blocks, block_tokens, kv_heads, head_dim].
        keys: [1, kv_heads, slots, head_dim].
        values: [1, kv_heads, slots, head_dim].
    """

    slots: torch.Tensor
    blocks: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor

    @classmethod
    def over(cls, blocks: torch.Tensor) -> "LayerCache":
        """View a layer's blocks, [2, blocks, block_tokens, kv_heads, head_dim], in all ways."""
        slots = blocks.flatten(1, 2)
        heads = slots.transpose(1, 2)
        return cls(slots, blocks, heads[:1], heads[1:])


class KVPool:
    """KV blocks on the device, and one more that nobody owns, for what padding writes.

    Args:
        shape: sizes.
        blocks: how many can be owned; they are numbered from 0.
        dtype: of keys and values.
        device: where.
        host_blocks: blocks of host memory to swap to.

    Attributes:
        scratch_block: the one that nobody owns.
        layers: of the model, in order.
        device: where they lie.
        dtype: that they are kept in.
    """

    def __init__(
        self, shape: KVShape, blocks: int, dtype: torch.dtype, device: torch.device, host_blocks: int = 0
    ) -> None:
        self.shape = shape
        self.scratch_block = blocks
        per_layer = (blocks + 1, shape.block_tokens, shape.kv_heads, shape.head_dim)
        try:
            self._pool = torch.zeros(shape.layers, 2, *per_layer, dtype=dtype, device=device)
        except (RuntimeError, MemoryError):
            needed = (blocks + 1) * shape.block_bytes(dtype)
            raise EngineError(
                f"{blocks} KV blocks need {needed:,} bytes, which {device} does not have; ask for fewer"
            ) from None
        self.layers = [LayerCache.over(blocks) for blocks in self._pool]
        self.device, self.dtype = device, dtype
        self.host = HostPool(shape, host_blocks, dtype, pinned=device.type == "cuda")

    def swap_out(self, blocks: Sequence[int], host_blocks: Sequence[int]) -> None:
        """Copy blocks to host memory, each to its partner."""
        for some, partners in _some(blocks, host_blocks):
            index = torch.tensor(some, device=self._pool.device)
            gathered = self._pool.index_select(2, index).permute(2, 0, 1, 3, 4, 5).contiguous()
            for block, partner in zip(gathered, partners, strict=True):
                self.host.blocks[partner].copy_(block, non_blocking=True)
            _wait(self._pool.device)

    def swap_in(self, host_blocks: Sequence[int], blocks: Sequence[int]) -> None:
        """Copy blocks back from host memory."""
        for some, partners in _some(blocks, host_blocks):
            for block, partner in zip(some, partners, strict=True):
                self._pool[:, :, block].copy_(self.host.blocks[partner].to(self._pool.device, non_blocking=True))
            _wait(self._pool.device)

    def fill(self, seed: int = 0) -> None:
        """Put numbers around 1 everywhere: memory of zeros costs less power to read, and may be read faster."""
        generator = torch.Generator(self.device).manual_seed(seed)
        for layer in self._pool:
            layer.normal_(generator=generator)

    def close(self) -> None:
        """Give the memory back."""
        self.layers = []
        self._pool = torch.empty(0)
        self.host.close()


class HostPool:
    """Blocks in host memory, each in one piece; on a GPU's host in one pinned arena.

    torch's own pinned allocator rounds up to powers of two, so the arena is an anonymous mapping that is registered.
    """

    def __init__(self, shape: KVShape, blocks: int, dtype: torch.dtype, pinned: bool) -> None:
        sizes = (blocks, shape.layers, 2, shape.block_tokens, shape.kv_heads, shape.head_dim)
        self._arena: mmap.mmap | None = None
        self._address = 0
        if not pinned or not blocks:
            self.blocks = torch.empty(sizes, dtype=dtype)
            return
        size = blocks * shape.block_bytes(dtype)
        self._arena = mmap.mmap(-1, size)
        self.blocks = torch.frombuffer(self._arena, dtype=dtype).view(sizes)
        code = int(torch.cuda.cudart().cudaHostRegister(self.blocks.data_ptr(), size, 0))  # type: ignore[no-untyped-call]
        if code:
            raise EngineError(f"{size:,} bytes of host memory could not be pinned (CUDA error {code}); swap to less")
        self._address = self.blocks.data_ptr()

    def close(self) -> None:
        """Unpin and give back."""
        if self._address:
            torch.cuda.cudart().cudaHostUnregister(self._address)  # type: ignore[no-untyped-call]
            self._address = 0
        self.blocks = torch.empty(0)
        self._arena = None


def _some(blocks: Sequence[int], partners: Sequence[int]) -> list[tuple[Sequence[int], Sequence[int]]]:
    if len(blocks) != len(partners):
        raise EngineError(f"{len(blocks)} blocks cannot be swapped with {len(partners)} host blocks; give as many")
    starts = range(0, len(blocks), _SWAP_AT_ONCE)
    return [(blocks[i : i + _SWAP_AT_ONCE], partners[i : i + _SWAP_AT_ONCE]) for i in starts]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()

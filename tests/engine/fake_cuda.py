"""CUDA as far as code paths go: devices by their properties, streams in name only, graphs that replay what they saw.

A graph records every operation of its capture with the very tensors, and runs them again into the same memory: what a
captured function keeps from the host (a length, a copy, an address) is stale in the replay, as on a GPU.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


@dataclass
class Card:
    """One GPU: its name, compute capability and memory."""

    name: str = "NVIDIA H200"
    capability: tuple[int, int] = (9, 0)
    memory_bytes: int = 141 * 10**9
    free_bytes: int | None = None
    uuid: str = "12345678-0000-0000-0000-000000000000"


class _Recorder(TorchDispatchMode):
    def __init__(self, operations: list) -> None:
        super().__init__()
        self._operations = operations

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, out))
        return out


class FakeGraph:
    """Replays recorded operations."""

    def __init__(self, cuda: "FakeCuda") -> None:
        self._cuda = cuda
        self.operations: list = []
        self.memory: Any = None

    def pool(self) -> Any:
        return self.memory

    def replay(self) -> None:
        self._cuda.replays += 1
        for func, args, kwargs, out in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_flatten(out)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class FakeCuda:
    """What was asked of it.

    Attributes:
        captures, replays: how many; pools: of the captures; streams: that were made; current: the stream in use.
        fail_captures: whether a capture breaks off, its stream left in place.
    """

    def __init__(self, cards: list[Card], arch_list: tuple[str, ...]) -> None:
        self.cards, self.arch_list = cards, arch_list
        self.captures = self.replays = 0
        self.pools: list[Any] = []
        self.streams: list[Any] = []
        self.current: Any = "default"
        self.device: int | None = None
        self.fail_captures = False

    def stream(self, _device: Any) -> Any:
        made = SimpleNamespace(wait_stream=lambda _other: None, number=len(self.streams))
        self.streams.append(made)
        return made

    @contextmanager
    def on(self, stream: Any):
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextmanager
    def capture(self, graph: FakeGraph, pool: Any = None, stream: Any = None):
        self.captures += 1
        before, self.current = self.current, stream
        if self.fail_captures:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
        graph.memory = object() if pool is None else pool
        self.pools.append(graph.memory)
        with _Recorder(graph.operations):
            yield
        self.current = before


def install(monkeypatch: pytest.MonkeyPatch, *cards: Card, arch_list: tuple[str, ...] = ("sm_80", "sm_90")) -> FakeCuda:
    """Put a fake in CUDA's place."""
    fake = FakeCuda(list(cards), arch_list)
    zeros = torch.zeros

    def number(device: Any) -> int:
        return (torch.device(device).index or 0) if not isinstance(device, int) else device

    def properties(device: Any) -> Any:
        card = fake.cards[number(device)]
        major, minor = card.capability
        return SimpleNamespace(
            name=card.name, major=major, minor=minor, total_memory=card.memory_bytes, uuid=card.uuid,
            L2_cache_size=50 << 20,
        )  # fmt: skip

    def mem_get_info(device: Any) -> tuple[int, int]:
        card = fake.cards[number(device)]
        return (card.memory_bytes if card.free_bytes is None else card.free_bytes), card.memory_bytes

    changes = {
        "is_available": lambda: bool(cards),
        "device_count": lambda: len(cards),
        "get_arch_list": lambda: list(arch_list),
        "get_device_capability": lambda device: fake.cards[number(device)].capability,
        "get_device_name": lambda device: fake.cards[number(device)].name,
        "get_device_properties": properties,
        "mem_get_info": mem_get_info,
        "set_device": lambda device: setattr(fake, "device", number(device)),
        "Stream": fake.stream,
        "current_stream": lambda _device=None: fake.current,
        "set_stream": lambda stream: setattr(fake, "current", stream),
        "stream": fake.on,
        "CUDAGraph": lambda: FakeGraph(fake),
        "graph": fake.capture,
    }
    for name, value in changes.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def unpinned(*sizes: int, pin_memory: bool = False, **words: Any) -> torch.Tensor:
        return zeros(*sizes, **words)

    monkeypatch.setattr(torch, "zeros", unpinned)
    fake.current = SimpleNamespace(wait_stream=lambda _other: None, number=None)
    return fake

"""What a device does with plain ATen operations: bandwidth, matrix products, attention, the cost of a call.

Weights and keys come from one large array, a different part of it each time, so that no product finds its matrix in a
cache: a model's layers do not either. Arrays hold +-1.x in whichever 16-bit format they are read: nothing overflows,
and no product is slowed by denormal numbers.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from afterwatt.engine.model.attention import ALONE_BYTES
from afterwatt.engine.model.devices import settle
from afterwatt.engine.model.machine import Machine, describe, free_host_bytes
from afterwatt.engine.model.mixing import chosen_mix
from afterwatt.engine.model.products import product, wide_product
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.probes import MIB, Effort, Probe

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
_LEAST_ARRAY: Final = 256 * MIB
_LEAST_GPU_ARRAY: Final = 2048 * MIB  # less would be read in the time that a few launches take
_TIMES_CACHE: Final = 4
_SHARE_OF_MEMORY: Final = 0.125
_TINY: Final = 64
_BLOCK_TOKENS: Final = 16


class TorchBench:
    """A device with the arrays that it is measured over.

    Args:
        device: `cpu` or `cuda:N`.
        threads: torch's, for work on the processor.
        effort: sizes.
    """

    def __init__(self, device: str, threads: int, effort: Effort) -> None:
        torch.set_num_threads(threads)
        self.device, self.effort = torch.device(device), effort
        settle(self.device)
        self.machine = describe(self.device, threads)
        self.skipped: dict[str, str] = {}
        self.dtype, self.stored = DTYPES[self.machine.dtype], DTYPES[self.machine.stored]
        size = effort.array_bytes or _array_bytes(self.machine)
        self.array = _filled(size // (8 * MIB) * 8 * MIB or 8 * MIB, self.device)
        self._at = 0
        self._graphs = self.device.type == "cuda"
        # Of all graphs: they never run at the same time, so that one memory and one stream's workspaces do for all.
        self._memory: Any = None
        self._aside: Any = torch.cuda.Stream(self.device) if self._graphs else None  # type: ignore[no-untyped-call]
        # One thread's time on the processor is what a product takes; what others take away in between is not.
        self.clock = "processor" if self.device.type == "cpu" and threads == 1 else "wall"
        self._spent = {"processor": 0.0, "wall": 0.0}

    @property
    def array_bytes(self) -> int:
        """Return the size of the array that is read."""
        return self.array.numel() * self.array.element_size()

    @property
    def processor_share(self) -> float | None:
        """Return which share of the time the processor was ours while it was measured; None where that says nothing."""
        if self.clock != "processor" or not self._spent["wall"]:
            return None
        return min(1.0, self._spent["processor"] / self._spent["wall"])

    # -- bandwidth ------------------------------------------------------------------------------------------------

    def bandwidth_probes(self) -> Iterator[Probe]:
        """Yield reading (a sum), copying (bytes read and written counted) and a matrix times a vector."""
        array = self.array.view(torch.float32)
        half = array.numel() // 2
        source, target = array[:half], array[half:]
        matrix = array.view(-1, 4096)
        vector = torch.randn(4096, device=self.device)
        whole = float(self.array_bytes)
        yield self._probe("bandwidth/read", array.sum, whole, "bytes")
        yield self._probe("bandwidth/copy", lambda: target.copy_(source), whole, "bytes")
        yield self._probe("bandwidth/gemv", lambda: torch.mv(matrix, vector), whole, "bytes")

    # -- matrix products ------------------------------------------------------------------------------------------

    def square_probes(self) -> Iterator[Probe]:
        """Yield square products by precision, for peak rates; sizes go on until one takes too long."""
        for name in self._precisions():
            for side in self.effort.squares:
                probe = self._square(name, side)
                if probe is None:
                    break
                yield probe
                if 8.0 * min(probe.run(1), probe.run(1)) > self.effort.most_s:
                    break  # the next has eight times the work

    def _precisions(self) -> list[str]:
        if self.device.type == "cpu":
            return ["fp32", "bf16", "fp16", "int8"]
        major, minor = torch.cuda.get_device_capability(self.device)
        names = ["fp32", "fp16"]
        if major >= 8:
            names.append("bf16")
        else:
            self.skipped["gemm/bf16"] = f"compute capability {major}.{minor} has no bf16 units (8.0 and newer)"
        if (major, minor) >= (7, 5):
            names.append("int8")
        else:
            self.skipped["gemm/int8"] = (
                f"torch multiplies int8 on compute capability 7.5 and newer, not {major}.{minor}"
            )
        return names

    def _square(self, name: str, side: int) -> Probe | None:
        call = self._product(name, side, side, side)
        label = f"gemm/{name}/{side}x{side}x{side}"
        try:
            call()
        except RuntimeError as fault:
            self.skipped[label] = str(fault).splitlines()[0]
            return None
        row = {"op": "gemm", "dtype": name, "m": side, "n": side, "k": side}
        return self._probe(label, call, 2.0 * side**3, "flops", row if name != "int8" else {})

    def _product(self, name: str, rows: int, outputs: int, inputs: int) -> Callable[[], Any]:
        dtype = DTYPES[name]
        if name == "int8":
            left = torch.ones(rows, inputs, dtype=dtype, device=self.device)
            return lambda: torch._int_mm(left, self._part(dtype, inputs, outputs))
        left = torch.randn(rows, inputs, device=self.device).to(dtype)
        return lambda: product(left, self._part(dtype, outputs, inputs))

    def _served_product(self, rows: int, outputs: int, inputs: int) -> Callable[[], Any]:
        """Return a product as a model's are: activations computed in, the matrix as it is stored."""
        if self.stored == self.dtype:
            return self._product(self.machine.dtype, rows, outputs, inputs)
        left = self._random(rows, inputs)
        wide = wide_product(self._part(self.stored, outputs, inputs), self.dtype)
        return lambda: wide(left, self._part(self.stored, outputs, inputs))

    def product_probes(self) -> Iterator[Probe]:
        """Yield the products of serving: few rows through a model's matrices, stored and computed as the engine's."""
        name = self.machine.stored
        for outputs, inputs in self.effort.products:
            for rows in self.effort.rows:
                if outputs > 8 * inputs and rows > self.effort.head_rows:
                    continue  # the head is multiplied with sequences, not with prompts
                call = self._served_product(rows, outputs, inputs)
                row = {"op": "gemm", "dtype": name, "m": rows, "n": outputs, "k": inputs}
                label = f"gemm/{name}/{rows}x{outputs}x{inputs}"
                yield self._probe(label, call, 2.0 * rows * outputs * inputs, "flops", row)

    # -- attention ------------------------------------------------------------------------------------------------

    def attention_probes(self) -> Iterator[Probe]:
        """Yield attention of decoding sequences over contexts, and of prompt pieces."""
        for heads in self.effort.heads:
            for batch in self.effort.batches:
                for context in self.effort.contexts:
                    if (probe := self._attention(heads, batch, 1, context)) is not None:
                        yield probe
            for queries, past in self.effort.prompts:
                if (probe := self._attention(heads, 1, queries, past + queries)) is not None:
                    yield probe

    def _attention(self, shape: tuple[int, int, int], batch: int, queries: int, context: int) -> Probe | None:
        heads, kv_heads, width = shape
        entry_bytes = 2 * kv_heads * width * self.stored.itemsize
        if 2 * batch * context * entry_bytes > self.array_bytes:
            return None  # it would find its keys in the cache
        call = self._decoding(shape, batch, context) if queries == 1 else self._prompt(shape, queries, context)
        op = "decode_attention" if queries == 1 else "prefill_attention"
        row: dict[str, object] = {"op": op, "dtype": self.machine.stored, "batch": batch, "context": context}
        row |= {"heads": heads, "kv_heads": kv_heads, "head_dim": width}
        if queries > 1:
            row["queries"] = queries
        label = f"{op}/{heads}h{kv_heads}kv{width}/b{batch}q{queries}c{context}"
        return self._probe(label, call, float(batch * context * entry_bytes), "bytes", row)

    def _decoding(self, shape: tuple[int, int, int], batch: int, context: int) -> Callable[[], Any]:
        """Return the engine's attention of sequences that decode.

        One sequence reads its entries as they lie. Of several, blocks are scattered over the pool and gathered first:
        on a processor each sequence for itself once it is long enough, else all together, padded, under a mask.
        """
        heads, kv_heads, width = shape
        alone = self.device.type == "cpu" and 2 * context * kv_heads * width * self.stored.itemsize >= ALONE_BYTES
        together = 1 if alone or batch == 1 else batch
        query = self._random(together, kv_heads, heads // kv_heads, width)
        mix = chosen_mix(shape, self.stored, self.dtype, self.device)
        blocks = torch.randperm(together * context // _BLOCK_TOKENS).to(self.device)
        mask = torch.zeros(together, 1, 1, context, dtype=self.dtype, device=self.device) if together > 1 else None

        def entries() -> torch.Tensor:
            if batch == 1:
                lying = self._part(self.stored, context, kv_heads, width)
                return lying.transpose(0, 1).unsqueeze(0)
            cache = self._part(self.stored, len(blocks), _BLOCK_TOKENS, kv_heads, width)
            gathered = cache.index_select(0, blocks)
            return gathered.view(together, context, kv_heads, width).transpose(1, 2)

        def attend() -> None:
            for _ in range(batch // together):
                mix(query, entries(), entries(), mask)

        return attend

    def _prompt(self, shape: tuple[int, int, int], queries: int, context: int) -> Callable[[], torch.Tensor]:
        """Return the engine's attention of a prompt piece."""
        heads, kv_heads, width = shape
        group, past = heads // kv_heads, context - queries
        query = self._random(kv_heads, group, queries, width)
        ahead = torch.full((queries, context), float("-inf"), dtype=self.dtype, device=self.device)
        mask = ahead.triu_(past + 1) if past else None

        def entries() -> torch.Tensor:
            cache = self._part(self.stored, context, kv_heads, width).to(self.dtype)
            return cache.transpose(0, 1).unsqueeze(1).expand(-1, group, -1, -1)

        return lambda: scaled_dot_product_attention(query, entries(), entries(), attn_mask=mask, is_causal=not past)

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device).to(self.dtype)

    # -- the cost of a call ---------------------------------------------------------------------------------------

    def overhead_probes(self) -> Iterator[Probe]:
        """Yield a tiny operation, the small operations of a layer, and those of an iteration around the layers."""
        one = torch.ones(1, device=self.device)
        yield self._probe("overhead/launch", lambda: one.add_(1.0), 1.0, "ops")
        yield self._probe("overhead/layer", self._small_operations(), 1.0, "ops", replayed=True)
        table = torch.randn(1024, _TINY, device=self.device).to(self.dtype)
        ids = [1]

        def step() -> list[int]:
            tokens = torch.tensor(ids, device=self.device)
            hidden = rms_norm(table[tokens], (_TINY,))
            chosen: list[int] = linear(hidden, table).argmax(-1).tolist()
            return chosen

        yield self._probe("overhead/step", step, 1.0, "ops")

    def _small_operations(self) -> Callable[[], Any]:
        """Return what a layer does beside products and attention, of one token and next to no width."""
        hidden = torch.randn(1, _TINY, device=self.device).to(self.dtype)
        weight = torch.ones(_TINY, device=self.device).to(self.dtype)
        cos, sin = (torch.rand(1, 1, 8, device=self.device).to(self.dtype) for _ in range(2))
        cache = torch.zeros(2, 64, 1, 16, device=self.device).to(self.dtype)
        slot = torch.zeros(1, dtype=torch.long, device=self.device)

        def rotated(heads: torch.Tensor) -> torch.Tensor:
            left, right = heads.chunk(2, dim=-1)
            return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)

        def layer() -> torch.Tensor:
            heads = rms_norm(hidden, (_TINY,), weight).view(1, -1, 16)
            keys = rotated(heads[:, :1])
            cache[0].index_copy_(0, slot, keys)
            cache[1].index_copy_(0, slot, keys)
            taken = cache[:, slot]
            mixed = hidden + rotated(heads).reshape(1, -1) * taken.sum()
            return mixed + silu(rms_norm(mixed, (_TINY,), weight)) * mixed

        return layer

    def link_probes(self, size_bytes: int = 64 * MIB) -> Iterator[Probe]:
        """Yield copies between host and device, from pinned and pageable memory; none on a processor."""
        if self.device.type == "cpu":
            self.skipped["link"] = "the processor computes in the host's memory: no copy lies between"
            return
        there = torch.empty(size_bytes, dtype=torch.uint8, device=self.device)
        for kind in ("pinned", "pageable"):
            try:
                here = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=kind == "pinned")
            except RuntimeError as fault:
                self.skipped[f"link/{kind}"] = str(fault).splitlines()[0]
                continue
            here.fill_(1)  # pages that were never touched are not there yet
            for way, target, source in (("to_device", there, here), ("to_host", here, there)):
                call = _copier(target, source)
                yield self._probe(f"link/{kind}/{way}", call, float(size_bytes), "bytes")

    # -- loads for the meter --------------------------------------------------------------------------------------

    def load(self, kind: str, seconds: float) -> int:
        """Keep the device busy for a while, streaming or multiplying; return how often it did that."""
        side = 2048 if self.device.type == "cpu" else 8192
        array = self.array.view(torch.float32)
        if seconds <= 0.0:
            return 0
        call = array.sum if kind == "streaming" else self._product(self.machine.dtype, side, side, side)
        end, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            call()
            count += 1
            self._wait()
        return count

    def close(self) -> None:
        """Give the memory back."""
        self.array = torch.empty(0, dtype=torch.int16)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # -- within ---------------------------------------------------------------------------------------------------

    def _part(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """Return a tensor over the next part of the array, from its beginning again where it ends."""
        view = self.array.view(dtype)
        count = 1
        for side in shape:
            count *= side
        if count > view.numel():
            raise EngineError(f"a tensor of {count} elements does not fit into an array of {view.numel()}")
        start = self._at * 2 // dtype.itemsize
        if start + count > view.numel():
            start = 0
        step = 64 // dtype.itemsize  # a cache line
        self._at = (start + -(-count // step) * step) * dtype.itemsize // 2
        return view[start : start + count].view(shape)

    def _probe(
        self,
        name: str,
        call: Callable[[], Any],
        work: float,
        unit: str,
        row: dict[str, object] | None = None,
        replayed: bool = False,
    ) -> Probe:
        """Return what times a call; kernels, and what an engine's decoding replays, as CUDA graphs on a GPU."""
        replays: dict[int, Callable[[], None]] = {}

        def run(times: int) -> float:
            with torch.inference_mode():
                if (row or replayed) and self._graphs and times not in replays:
                    replays.clear()  # a graph keeps its memory
                    replays[times] = self._captured(call, times)
                repeat = replays.get(times) or _repeated(call, times)
                self._wait()
                processor_s, wall_s = time.thread_time(), time.perf_counter()
                repeat()
                self._wait()
                taken = {"wall": time.perf_counter() - wall_s, "processor": time.thread_time() - processor_s}
            for clock, seconds in taken.items():
                self._spent[clock] += seconds
            return taken[self.clock]

        return Probe(name, run, work, unit, row or {})

    def _captured(self, call: Callable[[], Any], times: int) -> Callable[[], None]:
        """Return what replays so many calls as one CUDA graph: a kernel's time, without what launching it takes.

        Where something cannot be captured, calls one by one, from then on; `skipped` says so.
        """
        current = torch.cuda.current_stream(self.device)
        try:
            self._aside.wait_stream(current)
            with torch.cuda.stream(self._aside):
                call()  # libraries set themselves up at the first call, which a graph must not hold
            current.wait_stream(self._aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._memory, stream=self._aside):
                for _ in range(times):
                    call()
        except RuntimeError as fault:
            torch.cuda.set_stream(current)  # a capture that breaks off may leave its own stream in place
            self._graphs = False
            self.skipped["graphs"] = f"kernels are launched one by one ({str(fault).splitlines()[0]})"
            return _repeated(call, times)
        self._memory = graph.pool()
        return graph.replay

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _repeated(call: Callable[[], Any], times: int) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(times):
            call()

    return repeat


def _copier(target: torch.Tensor, source: torch.Tensor) -> Callable[[], Any]:
    return lambda: target.copy_(source, non_blocking=True)


def _filled(size_bytes: int, device: torch.device) -> torch.Tensor:
    """Return 16-bit words that are +-1.x as bf16, +-1.9 as fp16, and two by two +-1.x as fp32."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randint(0, 2**15, (4 * MIB,), dtype=torch.int32, generator=generator)
    words = ((block & 0x7F) | 0x3F80 | ((block & 0x80) << 8)).to(torch.int32)
    signed = torch.where(words >= 2**15, words - 2**16, words).to(torch.int16).to(device)
    whole = torch.empty(size_bytes // 2, dtype=torch.int16, device=device)
    for start in range(0, whole.numel(), signed.numel()):
        end = min(start + signed.numel(), whole.numel())
        whole[start:end] = signed[: end - start]
    return whole


def _array_bytes(machine: Machine) -> int:
    least = _LEAST_ARRAY if machine.device == "cpu" else _LEAST_GPU_ARRAY
    wanted = max(least, _TIMES_CACHE * (machine.cache_bytes or 0))
    free = free_host_bytes() if machine.device == "cpu" else torch.cuda.mem_get_info(machine.device)[0]
    return int(min(wanted, _SHARE_OF_MEMORY * free))

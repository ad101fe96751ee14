"""`TorchCompute`: the runtime's `Compute`, with torch."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from afterwatt.engine.model.attention import plan_attention, slots_of
from afterwatt.engine.model.checkpoint import load_weights, open_checkpoint
from afterwatt.engine.model.config import ModelConfig, read_config
from afterwatt.engine.model.devices import (
    NAMES,
    DtypePolicy,
    capability_of,
    device_name,
    dtype_policy,
    find_device,
    settle,
)
from afterwatt.engine.model.ffn import MakeSource
from afterwatt.engine.model.graphs import PaddedDecode
from afterwatt.engine.model.kv import KVPool, KVShape
from afterwatt.engine.model.llama import Decoder
from afterwatt.engine.model.machine import gpu_uuid
from afterwatt.engine.model.memory import PoolPlan, plan_memory
from afterwatt.engine.model.mixing import cast_mix, chosen_mix
from afterwatt.engine.model.options import ComputeOptions, TierOptions
from afterwatt.engine.model.sampling import choose
from afterwatt.engine.model.tiered import TieredSource, load_rest
from afterwatt.engine.model.tierplan import TierPlan, plan_tiers, write_record
from afterwatt.engine.model.weights import Weights
from afterwatt.engine.runtime.compute import ComputeInfo, Ints, PlacedMove, StepBatch
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.modular import is_modular
from afterwatt.engine.runtime.tiers import HostLayers


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        config: what it is.
        weights: its weights.
        policy: formats.
        device: where.
        memory: what was planned for it before it was loaded.
        tiers: where its networks lie; None: with its weights.
    """

    config: ModelConfig
    weights: Weights
    policy: DtypePolicy
    device: torch.device
    memory: PoolPlan
    tiers: TierPlan | None = None


def load_model(directory: Path, options: ComputeOptions) -> LoadedModel:
    """Load a checkpoint, if it and its cache fit.

    Raises:
        CheckpointError: it is damaged, incomplete, or of a kind that is not computed.
        EngineError: no such device or dtype, or too little memory.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = find_device(options.device)
    settle(device)
    policy = dtype_policy(capability_of(device), options.dtype)
    if options.tiers is not None:
        return _load_tiered(directory, options, options.tiers, policy, device)
    if is_modular(directory):
        raise EngineError(f"{directory} is a modular checkpoint; say where its networks lie, as in --policy stream")
    checkpoint = open_checkpoint(directory, options.verify)
    config = read_config(directory, options.max_context)
    memory = plan_memory(config, policy, options, device)
    return LoadedModel(config, load_weights(checkpoint, config, policy, device), policy, device, memory)


def _load_tiered(
    directory: Path, options: ComputeOptions, tiers: TierOptions, policy: DtypePolicy, device: torch.device
) -> LoadedModel:
    """Load all but the networks; what a cache keeps of these is part of the device's budget."""
    plan = plan_tiers(directory, tiers)
    config, weights = load_rest(directory, policy, device)
    held = weights.bytes + plan.pool_bytes
    return LoadedModel(config, weights, policy, device, plan_memory(config, policy, options, device, held), plan)


class TorchCompute:
    """A model with a paged cache on one device (`engine.runtime.compute.Compute`).

    Args:
        model: loaded.
        options: as it was loaded with.

    Attributes:
        info: what a run's manifest says of it; host: its layers in host memory, where it has tiers.
    """

    def __init__(self, model: LoadedModel, options: ComputeOptions) -> None:
        spec = model.config.spec
        self._config, self._device, self._policy = model.config, model.device, model.policy
        self._shape = KVShape.of(spec, options.block_tokens)
        self._tiers = model.tiers
        self.host = None if model.tiers is None else model.tiers.host()
        self._record = None if options.tiers is None else options.tiers.record
        source = None if self.host is None else self._tiered(model, self.host)
        self._decoder = Decoder(model.config, model.weights, model.policy.compute, model.device, source)
        heads = (spec.heads, spec.kv_heads, spec.head_dim)
        self._decoder.mix = chosen_mix(heads, model.policy.kv, model.policy.compute, model.device)
        self._pool = KVPool(self._shape, model.memory.kv_blocks, model.policy.kv, model.device, options.host_blocks)
        self._padded = _padded_decode(self._decoder, self._pool, options, spec.max_context, model.device)
        self.info = ComputeInfo(
            model=spec.name,
            params=spec.params,
            device=device_name(model.device),
            dtype=NAMES[model.policy.weights],
            kv_dtype=NAMES[model.policy.kv],
            kv_blocks=model.memory.kv_blocks,
            block_tokens=options.block_tokens,
            host_blocks=options.host_blocks,
            max_context=spec.max_context,
            vocab=spec.vocab,
            versions={"torch": torch.__version__, "python": platform.python_version()},
            more={
                "compute_dtype": NAMES[model.policy.compute],
                "graphs": self._padded is not None,
                "products": self._decoder.products(),
                "attention": "cast" if self._decoder.mix is cast_mix else "narrow",
                "threads": torch.get_num_threads(),
                "uuid": gpu_uuid(model.device),
                "weights_bytes": model.weights.bytes,
                "working_bytes": model.memory.working_bytes,
                "block_bytes": model.memory.block_bytes,
                "bos_ids": list(model.config.bos_ids),
                "eos_ids": list(model.config.eos_ids),
            },
        )

    def _tiered(self, model: LoadedModel, host: HostLayers) -> MakeSource:
        plan = self._tiers
        assert plan is not None
        return lambda linear: plan.source((model.config, model.weights), host, linear)

    def step(self, batch: StepBatch) -> list[list[int]]:
        """Process one iteration and choose the token that follows (`Compute.step`).

        Raises:
            EngineError: blocks too few for a sequence, or logits that are not finite.
        """
        emitting = [number for number, emits in enumerate(batch.emits) if emits]
        logits = self.logits(batch)
        if not emitting:
            self._synchronize()
            return []
        with torch.inference_mode():
            positions = [batch.past_tokens[number] + batch.query_tokens[number] for number in emitting]
            chosen = choose(logits, [batch.sampling[number] for number in emitting], positions)
        return [[token] for token in chosen]

    @torch.inference_mode()
    def logits(self, batch: StepBatch) -> torch.Tensor:
        """Process one iteration and return what may follow each sequence that emits, fp32[emitting, vocab].

        On a GPU it may not have been computed yet when this returns.
        """
        farthest = max(past + query for past, query in zip(batch.past_tokens, batch.query_tokens, strict=True))
        if farthest > self._config.spec.max_context:
            raise EngineError(f"a sequence of {farthest} tokens exceeds the context of {self._config.spec.max_context}")
        slots = slots_of(batch, self._shape.block_tokens)
        if self._padded is not None and (key := self._padded.shape_of(batch)) is not None:
            return self._padded.logits(batch, slots, key)
        self._decoder.rope.reserve(farthest)
        parts = plan_attention(batch, self._shape, self._policy.compute, self._device, self._decoder.mix)
        run = len(slots) == 1 or bool((np.diff(slots) == 1).all())
        where = slice(int(slots[0]), int(slots[-1]) + 1) if run else self._moved(slots)
        left = self._decoder.forward(
            self._moved(batch.tokens), self._moved(_positions(batch)), where, self._pool, parts
        )
        last = np.cumsum(batch.query_tokens)[np.asarray(batch.emits, dtype=bool)] - 1
        if len(last) < len(left):
            left = left.index_select(0, self._moved(last))
        return self._decoder.logits(left)

    @torch.inference_mode()
    def warm_up(self, context_tokens: int) -> None:
        """Capture the graphs for contexts of up to so many tokens, so that no request waits for them; 0: none."""
        if self._padded is not None and context_tokens:
            self._padded.warm_up(context_tokens)
            self._synchronize()

    def fill_cache(self) -> None:
        """Put numbers into the whole cache, for measurements without prompts."""
        self._pool.fill()

    def replays(self, batch: StepBatch) -> bool:
        """Say whether a batch runs as one CUDA graph (on a processor: padded as for one)."""
        return self._padded is not None and self._padded.shape_of(batch) is not None

    def move(self, moves: Sequence[PlacedMove]) -> None:
        """Copy KV blocks to host memory and back (`Compute.move`)."""
        for move, src_blocks, dst_blocks in moves:
            copy = self._pool.swap_out if move.dst == "dram" else self._pool.swap_in
            copy(src_blocks, dst_blocks)

    def close(self) -> None:
        """Give its memory back."""
        self._synchronize()
        self._pool.close()
        if self.host is not None and self._tiers is not None:
            source = self._decoder.source
            self.host.close()
            if self._record is not None and isinstance(source, TieredSource):
                write_record(self._record, self._tiers, source, self.host)
        del self._decoder, self._padded

    def _moved(self, values: Ints) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64, copy=False)).to(self._device, non_blocking=True)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _padded_decode(
    decoder: Decoder, pool: KVPool, options: ComputeOptions, max_context: int, device: torch.device
) -> PaddedDecode | None:
    # Which experts are multiplied with is known on the host only: nothing that a graph could replay.
    if not options.pads(device.type) or decoder.weights.layers[0].router is not None:
        return None
    with torch.inference_mode():
        return PaddedDecode(decoder, pool, options.max_seqs, max_context, capture=device.type == "cuda")


def _positions(batch: StepBatch) -> Ints:
    """Return where in its sequence each token stands, int64[n]."""
    query = np.asarray(batch.query_tokens)
    starts = np.cumsum(query) - query
    positions: Ints = np.arange(query.sum()) + np.repeat(np.asarray(batch.past_tokens) - starts, query)
    return positions

"""How a model is to be loaded and run, as a value that can be sent to another process; needs no torch itself."""

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from afterwatt.policies.config import PolicySet

if TYPE_CHECKING:
    from afterwatt.engine.model.compute import TorchCompute


@dataclass(frozen=True, slots=True, kw_only=True)
class TierOptions:
    """Where a modular checkpoint's networks lie while it runs.

    Attributes:
        policies: of which the placement of weights counts: `stream` and its kin, `m2cache` or `expert-cache`.
        precision: that networks are read in; None: the placement's, or the widest that the checkpoint has.
        dram_bytes: of host memory for networks, not to be exceeded; None: half of what is free.
        hbm_bytes: of the device's memory for what a cache keeps, not to be exceeded; None: what the cache asks for.
        record: file to write active units and bytes moved to when the model is closed; None: none.
    """

    policies: PolicySet
    precision: str | None = None
    dram_bytes: int | None = None
    hbm_bytes: int | None = None
    record: Path | None = None


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """How a model runs.

    Attributes:
        device: cpu, cuda or cuda:N.
        dtype: of weights and cache in memory: auto, fp32, fp16 or bf16 (`engine.model.devices`).
        kv_blocks: blocks of the cache; None: as many as the memory holds.
        memory_bytes: for weights, activations and cache together; None: what the device has free, with a margin.
        block_tokens: tokens per block.
        host_blocks: blocks of host memory to swap to.
        threads: of torch in this process; None leaves them as they are.
        max_seqs: sequences that a batch has at most.
        max_batch_tokens: tokens that a batch has at most.
        max_context: tokens that a sequence has at most; None: what the model takes.
        graphs: replay decode batches as CUDA graphs; None: where the device is CUDA. On a CPU, True runs the same
            padded batches as plain calls.
        warm_tokens: contexts up to which graphs are captured before the first request; others are when first needed.
        verify: hold the checkpoint against its manifest, where it has one.
        tiers: of a modular checkpoint, where its networks lie; None: a plain one, all of it in the device's memory.
    """

    device: str = "cpu"
    dtype: str = "auto"
    kv_blocks: int | None = None
    memory_bytes: int | None = None
    block_tokens: int = 16
    host_blocks: int = 0
    threads: int | None = None
    max_seqs: int = 64
    _: KW_ONLY
    max_batch_tokens: int = 2048
    max_context: int | None = None
    graphs: bool | None = None
    warm_tokens: int = 0
    verify: bool = True
    tiers: TierOptions | None = None

    def pads(self, device_type: str) -> bool:
        """Return whether decode batches are padded on a device of this type, "cpu" or "cuda"."""
        if self.tiers is not None:  # what is active is known on the host only: nothing that a graph could replay
            return False
        return device_type == "cuda" if self.graphs is None else self.graphs


@dataclass(frozen=True, slots=True)
class TorchComputeFactory:
    """Builds a `TorchCompute`, in whichever process calls it.

    Attributes:
        directory: of the checkpoint.
        options: how it runs.
    """

    directory: Path
    options: ComputeOptions = field(default_factory=ComputeOptions)

    def __call__(self) -> "TorchCompute":
        """Load the model, take all its memory and warm it up.

        Raises:
            EngineError: it cannot be loaded, or does not fit.
        """
        from afterwatt.engine.model.compute import TorchCompute, load_model

        compute = TorchCompute(load_model(self.directory, self.options), self.options)
        compute.warm_up(self.options.warm_tokens)
        return compute

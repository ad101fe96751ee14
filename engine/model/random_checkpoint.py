"""Random checkpoints of any shape, for work on speed: Hugging Face directories that say nothing sensible, quickly.

Every tensor is drawn from a generator of its own, keyed by seed and name, so that how it is cut into shards changes
nothing. Scales follow the rule that keeps activations near 1 (He et al. 2015, arXiv:1502.01852: variance 1 / fan-in;
Radford et al. 2019: residual branches divided by sqrt(2 layers)), so that logits are finite in fp16 too.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from afterwatt.engine.model.config import ModelConfig, Rope
from afterwatt.engine.model.devices import DTYPES, DtypePolicy
from afterwatt.engine.model.weights import TensorPlace, allocate, places
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.layout import CONFIG, INDEX, SINGLE
from afterwatt.modelspecs.decoders import DECODERS
from afterwatt.modelspecs.spec import ModelSpec

_TORCH_NAMES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
SHARD_BYTES: Final = 512 << 20
"""Default bound of a shard, and so of the memory that writing takes."""


def write_random(
    spec: ModelSpec, directory: Path, dtype: str = "fp16", seed: int = 0, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a random checkpoint, whole or not at all.

    Args:
        spec: its shape, of a family in `modelspecs.decoders`.
        directory: to make; must not exist yet.
        dtype: fp32, fp16 or bf16.
        seed: of its values.
        shard_bytes: size that a shard should not exceed; a tensor is never cut.

    Raises:
        EngineError: the directory exists or cannot be written, the family is unknown, or the dtype.
    """
    if spec.family not in DECODERS:
        raise EngineError(f"{spec.name} is of the family {spec.family!r}; the engine computes {', '.join(DECODERS)}")
    if dtype not in DTYPES:
        raise EngineError(f"dtype {dtype!r} is unknown; known: {', '.join(DTYPES)}")
    if directory.exists():
        raise EngineError(f"{directory} exists already; name a new directory")
    unfinished = directory.with_name(f".{directory.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        (unfinished / CONFIG).write_text(json.dumps(_config(spec, dtype), indent=2) + "\n", encoding="utf-8")
        _write_shards(spec, unfinished, DTYPES[dtype], seed, shard_bytes)
        unfinished.rename(directory)
    except OSError as error:
        raise EngineError(f"cannot write {directory}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def shrunk(spec: ModelSpec, **sizes: int | None) -> ModelSpec:
    """Return a shape with some sizes changed.

    Where the hidden size is, heads and FFN that are not given change in proportion, their groups kept.

    Args:
        spec: the shape.
        sizes: fields of `ModelSpec`; None leaves one as it is.

    Raises:
        ModelError: no such shape can be.
    """
    changed: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    if not changed:
        return spec
    hidden = changed.get("hidden", spec.hidden)
    if hidden != spec.hidden:
        changed.setdefault("heads", max(1, spec.heads * hidden // spec.hidden))
        changed.setdefault("ffn", max(1, spec.ffn * hidden // spec.hidden))
    heads = changed.get("heads", spec.heads)
    if heads != spec.heads:
        wanted = max(1, spec.kv_heads * heads // spec.heads)
        changed.setdefault("kv_heads", next(count for count in range(wanted, 0, -1) if heads % count == 0))
    return replace(spec, **changed, published_params=None)


def _config(spec: ModelSpec, dtype: str) -> dict[str, Any]:
    """Return a config.json that transformers reads too."""
    family = DECODERS[spec.family]
    fields: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": spec.family,
        "vocab_size": spec.vocab,
        "hidden_size": spec.hidden,
        "intermediate_size": spec.ffn,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": spec.max_context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": spec.tied_embeddings,
        "torch_dtype": _TORCH_NAMES[dtype],
        "bos_token_id": None,
        "eos_token_id": None,
    }
    fields |= {told: getattr(spec, flag) for flag, told in family.biases.items() if isinstance(told, str)}
    if family.experts is not None:
        fields |= {family.experts[0]: spec.experts, "num_experts_per_tok": spec.active_experts}
        fields[family.experts[1]] = spec.ffn
    if isinstance(family.renormalised, str):
        fields[family.renormalised] = True
    if family.windowed and family.window_flag is None:
        fields["sliding_window"] = None
    return fields


def _write_shards(spec: ModelSpec, directory: Path, dtype: torch.dtype, seed: int, shard_bytes: int) -> None:
    groups = list(_grouped(_tensors(spec), dtype, shard_bytes))
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = SINGLE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {key: _drawn(key, place, spec, seed).to(dtype) for key, place in group.items()}
        save_file(tensors, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, name)
    if len(groups) > 1:
        total = sum(place.into.numel() * dtype.itemsize for group in groups for place in group.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _tensors(spec: ModelSpec) -> dict[str, TensorPlace]:
    """Return the tensors of a checkpoint: those that loading one would ask for."""
    config = ModelConfig(spec, 1e-5, Rope(), "silu")
    weights = allocate(config, DtypePolicy(torch.float32, torch.float32, torch.float32), torch.device("meta"))
    return places(config, weights)


def _grouped(
    tensors: Mapping[str, TensorPlace], dtype: torch.dtype, shard_bytes: int
) -> Iterator[dict[str, TensorPlace]]:
    """Cut the tensors into shards, in order."""
    group: dict[str, TensorPlace] = {}
    size = 0
    for name, place in tensors.items():
        own = place.into.numel() * dtype.itemsize
        if group and size + own > shard_bytes:
            yield group
            group, size = {}, 0
        group[name] = place
        size += own
    yield group


def _drawn(name: str, place: TensorPlace, spec: ModelSpec, seed: int) -> torch.Tensor:
    """Draw one tensor, fp32."""
    shape = place.into.shape
    if place.part in ("norm", "attention_norm", "ffn_norm", "query_norm", "key_norm"):
        return torch.ones(shape)
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
    if name.endswith("bias"):
        spread = 0.02
    elif place.part == "embedding":
        spread = shape[-1] ** -0.5 if spec.tied_embeddings else 1.0
    else:
        spread = shape[-1] ** -0.5
        if place.part in ("attention_out", "down"):
            spread /= math.sqrt(2 * spec.layers)
    return torch.empty(shape).normal_(0.0, spread, generator=generator)

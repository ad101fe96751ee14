"""Tiny random checkpoints of every kind that the engine computes, with transformers as the oracle, and a driver."""

import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afterwatt.engine.model.compute import TorchCompute, load_model
from afterwatt.engine.model.options import ComputeOptions
from afterwatt.engine.runtime.compute import GREEDY, Sampling, StepBatch
from afterwatt.modelspecs.decoders import DECODERS

VOCAB = 97
TOLERANCE = 1e-4
BLOCK_TOKENS = 4
KV_BLOCKS = 64
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_QWEN3 = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "head_dim": 16,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in DECODERS},
    "llama-mha": ("llama", {"num_key_value_heads": 4}),
    "llama-mqa": ("llama", {"num_key_value_heads": 1}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}}),
    "llama-wide-heads": ("llama", {"head_dim": 16}),
    "llama-relu": ("llama", {"hidden_act": "relu"}),
    "mistral-heads": ("mistral", {"sliding_window": None, "head_dim": 8}),
    "mistral-theta": ("mistral", {"sliding_window": None, "rope_parameters": {"rope_theta": 1e6}}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("qwen3_moe", _QWEN3),
    "qwen3_moe-plain": ("qwen3_moe", {**_QWEN3, "norm_topk_prob": False, "num_experts_per_tok": 3}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True, "num_attention_heads": 8}),
}


def oracle(kind: str) -> Any:
    """A random model of transformers' own, weights large enough that every part of it shows in the logits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
    family, changes = KINDS[kind]
    architecture = DECODERS[family].architecture
    made = getattr(transformers, f"{architecture.removesuffix('ForCausalLM')}Config")
    model = getattr(transformers, architecture)(made(**{**SHAPE, **changes}, pad_token_id=None)).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor_name, tensor in model.named_parameters():
            spread = 0.3 if "bias" in tensor_name else 1.0 if "embed" in tensor_name else 1.5 * tensor.shape[-1] ** -0.5
            centre = 1.0 if "norm" in tensor_name else 0.0
            tensor.copy_(centre + torch.randn(tensor.shape, generator=generator) * (0.2 if centre else spread))
    return model


def load(directory: Path, **changes: Any) -> TorchCompute:
    """The engine on a checkpoint, small."""
    options = ComputeOptions(**{"kv_blocks": 64, "block_tokens": 4, "max_batch_tokens": 512, **changes})
    return TorchCompute(load_model(directory, options), options)


@dataclass
class Sequence:
    """A sequence as the runtime would keep it.

    Attributes:
        tokens: all that are known.
        blocks: its physical blocks.
        past: tokens whose keys and values are in the cache.
        sampling: how it chooses.
    """

    tokens: list[int]
    blocks: list[int]
    past: int = 0
    sampling: Sampling = field(default=GREEDY)


def batch_of(pieces: list[tuple[Sequence, int]]) -> StepBatch:
    """One iteration that processes so many further tokens of each; pieces that reach the end emit."""
    decoding = [query == 1 and seq.past > 0 and seq.past + 1 == len(seq.tokens) for seq, query in pieces]
    ordered = [piece for piece, last in zip(pieces, decoding, strict=True) if not last]
    ordered += [piece for piece, last in zip(pieces, decoding, strict=True) if last]
    return StepBatch(
        seq_ids=list(range(len(ordered))),
        tokens=np.concatenate([seq.tokens[seq.past : seq.past + query] for seq, query in ordered]).astype(np.int64),
        query_tokens=[query for _, query in ordered],
        past_tokens=[seq.past for seq, _ in ordered],
        prompts=len(ordered) - sum(decoding),
        block_tables=[seq.blocks for seq, _ in ordered],
        emits=[seq.past + query == len(seq.tokens) for seq, query in ordered],
        sampling=[seq.sampling for seq, _ in ordered],
    )


def logits_of(compute: TorchCompute, pieces: list[tuple[Sequence, int]]) -> dict[int, torch.Tensor]:
    """Run one iteration; the logits of the sequences that emit, by their place in the list."""
    batch = batch_of(pieces)
    found = iter(compute.logits(batch).clone())
    places = {id(seq): place for place, (seq, _) in enumerate(pieces)}
    # batch_of has put prompts first; find them again by where they read.
    order = sorted(
        pieces, key=lambda piece: piece[1] == 1 and piece[0].past > 0 and piece[0].past + 1 == len(piece[0].tokens)
    )
    by_place = {places[id(seq)]: next(found) for seq, query in order if seq.past + query == len(seq.tokens)}
    for seq, query in pieces:
        seq.past += query
    return by_place


def generate(compute: TorchCompute, seq: Sequence, count: int) -> list[int]:
    """Decode alone."""
    for _ in range(count):
        ((token,),) = compute.step(batch_of([(seq, len(seq.tokens) - seq.past)]))
        seq.past = len(seq.tokens)
        seq.tokens.append(token)
    return seq.tokens[-count:]


@cache
def expected(model: Any, tokens: tuple[int, ...]) -> torch.Tensor:
    """The oracle's logits at every position of a text."""
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float()


def text(length: int, seed: int) -> list[int]:
    """Random ids."""
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """See that logits are the same."""
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)

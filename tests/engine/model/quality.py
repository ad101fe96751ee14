"""What a model's answers are worth: the likelihood that it gives to a text, in nats per token."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from afterwatt.engine.model.attention import plan_attention, slots_of
from afterwatt.engine.model.compute import LoadedModel
from afterwatt.engine.model.kv import KVPool, KVShape
from afterwatt.engine.model.llama import Decoder
from afterwatt.engine.runtime.compute import GREEDY, Ints, StepBatch
from afterwatt.engine.runtime.errors import EngineError

_BLOCK_TOKENS = 16


def nats_per_token(model: LoadedModel, ids: Ints, window_tokens: int) -> float:
    """Return the mean negative log-likelihood of a text's tokens; its exponential is the perplexity.

    The text is cut into windows, each read without what came before it; every token but a window's first is scored.

    Args:
        model: loaded.
        ids: the text, int64[n]; what is left over at its end is a shorter window.
        window_tokens: tokens per window, at least 2 and at most the model's context.

    Raises:
        EngineError: the windows are too short or too long, or there is nothing to score.
    """
    if not 2 <= window_tokens <= model.config.spec.max_context:
        raise EngineError(f"a window of {window_tokens} tokens must lie in 2..{model.config.spec.max_context}")
    nats, scored = 0.0, 0
    for logits, following in _predictions(model, ids, window_tokens):
        nats += float(cross_entropy(logits, following, reduction="sum"))
        scored += len(following)
    if not scored:
        raise EngineError(f"a text of {len(ids)} tokens has nothing to score; give at least 2")
    return nats / scored


def perplexity(model: LoadedModel, ids: Ints, window_tokens: int) -> float:
    """Return e to the `nats_per_token`."""
    return math.exp(nats_per_token(model, ids, window_tokens))


@torch.inference_mode()
def _predictions(model: LoadedModel, ids: Ints, window_tokens: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield, window by window, (logits before each token but the first, fp32[n - 1, vocab]; those tokens)."""
    shape = KVShape.of(model.config.spec, _BLOCK_TOKENS)
    blocks = list(range(-(-window_tokens // _BLOCK_TOKENS)))
    pool = KVPool(shape, len(blocks), model.policy.kv, model.device)
    decoder = Decoder(model.config, model.weights, model.policy.compute, model.device)
    decoder.rope.reserve(window_tokens)
    for first in range(0, len(ids) - 1, window_tokens):
        window = ids[first : first + window_tokens]
        count = len(window)
        batch = StepBatch([0], window, [count], [0], 1, [blocks], [True], [GREEDY])
        tokens = torch.from_numpy(np.ascontiguousarray(window)).to(model.device)
        positions = torch.arange(count, device=model.device)
        slots = torch.from_numpy(slots_of(batch, _BLOCK_TOKENS)).to(model.device)
        parts = plan_attention(batch, shape, model.policy.compute, model.device)
        yield decoder.logits(decoder.forward(tokens, positions, slots, pool, parts)[:-1]), tokens[1:]
    pool.close()

"""What a model's answers are worth: the likelihood that it gives to a text, and how far a variant of it strays."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy, log_softmax

from afterwatt.engine.model.attention import plan_attention, slots_of
from afterwatt.engine.model.compute import LoadedModel
from afterwatt.engine.model.ffn import LayerSource, MakeSource, Resident, Watch
from afterwatt.engine.model.kv import KVPool, KVShape
from afterwatt.engine.model.llama import Decoder
from afterwatt.engine.model.products import Linear
from afterwatt.engine.runtime.compute import GREEDY, Ints, StepBatch
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.preparing import Ranking

_BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Quality:
    """How a variant of a model does on a text, each token predicted from those before it in its window.

    Attributes:
        nats_per_token: mean negative log-likelihood; its exponential is the perplexity.
        kl_nats: mean divergence KL(full || variant) of what may follow.
        kl_error_nats: its standard error over windows; None of a single window.
        agreement_frac: share of positions at which both hold the same token likeliest.
        tokens: scored.
    """

    nats_per_token: float
    kl_nats: float
    kl_error_nats: float | None
    agreement_frac: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """Return e to the `nats_per_token`."""
        return math.exp(self.nats_per_token)


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
    nats, scored = 0.0, 0
    for logits, following in _predictions(model, ids, window_tokens):
        nats += float(cross_entropy(logits, following, reduction="sum"))
        scored += len(following)
    return nats / scored


def compare(
    full: LoadedModel,
    variant: LoadedModel,
    ids: Ints,
    window_tokens: int,
    source: MakeSource | None = None,
) -> Quality:
    """Hold a variant of a model against the model.

    Args:
        full: the model.
        variant: the same with other weights; or the same, with another source.
        ids: the text, int64[n].
        window_tokens: as in `nats_per_token`.
        source: gives the variant's networks; None: its weights have them.

    Raises:
        EngineError: as in `nats_per_token`.
    """
    nats, agreed, divergences, sizes = 0.0, 0, [], []
    both = zip(_predictions(full, ids, window_tokens), _predictions(variant, ids, window_tokens, source), strict=True)
    for (wanted, following), (found, _) in both:
        nats += float(cross_entropy(found, following, reduction="sum"))
        agreed += int((wanted.argmax(-1) == found.argmax(-1)).sum())
        truth = log_softmax(wanted.double(), -1)
        apart = (truth.exp() * (truth - log_softmax(found.double(), -1))).sum(-1)
        divergences.append(float(apart.mean()))
        sizes.append(len(following))
    tokens = sum(sizes)
    mean = float(np.average(divergences, weights=sizes))
    error = float(np.std(divergences, ddof=1)) / math.sqrt(len(sizes)) if len(sizes) > 1 else None
    return Quality(nats / tokens, mean, error, agreed / tokens, tokens)


def importance(model: LoadedModel, ids: Ints, window_tokens: int, about: dict[str, object]) -> Ranking:
    """Measure what a model's units do on a text.

    Args:
        model: loaded.
        ids: the text, int64[n].
        window_tokens: as in `nats_per_token`.
        about: what the text is, for the index.

    Returns:
        The mean |activation| of each neuron of a dense network; each expert's share of all picks of a mixture.

    Raises:
        EngineError: as in `nats_per_token`.
    """
    spec = model.config.spec
    dense = spec.experts == 1
    sums = torch.zeros(spec.layers, spec.ffn if dense else spec.experts, dtype=torch.float64)

    def watch(number: int) -> Watch:
        def shown(given: torch.Tensor) -> None:
            if dense:
                sums[number] += given.view(-1, spec.ffn).abs().sum(0, dtype=torch.float64).cpu()
            else:
                sums[number] += torch.bincount(given.flatten().cpu(), minlength=spec.experts)

        return shown

    def watched(linear: Linear) -> LayerSource:
        return Resident(model.config, model.weights, linear, watch)

    for _ in _predictions(model, ids, window_tokens, watched):
        pass
    scale = len(ids) if dense else len(ids) * spec.active_experts
    return Ranking((sums / scale).tolist(), about)


@torch.inference_mode()
def _predictions(
    model: LoadedModel, ids: Ints, window_tokens: int, source: MakeSource | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield, window by window, (logits before each token but the first, fp32[n - 1, vocab]; those tokens)."""
    if not 2 <= window_tokens <= model.config.spec.max_context:
        raise EngineError(f"a window of {window_tokens} tokens must lie in 2..{model.config.spec.max_context}")
    if len(ids) < 2:
        raise EngineError(f"a text of {len(ids)} tokens has nothing to score; give at least 2")
    shape = KVShape.of(model.config.spec, _BLOCK_TOKENS)
    blocks = list(range(-(-window_tokens // _BLOCK_TOKENS)))
    pool = KVPool(shape, len(blocks), model.policy.kv, model.device)
    decoder = Decoder(model.config, model.weights, model.policy.compute, model.device, source)
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

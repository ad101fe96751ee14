"""Which token follows: the likeliest, or one drawn by noise that depends on (seed, position, token id) only.

Gumbel-max: argmax(logits / T + G), with G independent standard Gumbel, is distributed as softmax(logits / T) (Gumbel
1954; Maddison et al. 2014, arXiv:1411.0030, section 2). The noise comes from a counter, not a stream: SplitMix64's
finalizer (Steele et al. 2014, doi:10.1145/2660193.2660195) over the three numbers. So the noise is the same
whatever a request is batched with, and after any preemption; tokens are too, as far as logits are.
"""

from collections.abc import Sequence
from typing import Final

import torch

from afterwatt.engine.runtime.compute import Sampling
from afterwatt.engine.runtime.errors import EngineError

_GOLDEN: Final = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST: Final = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND: Final = 0x94D049BB133111EB - (1 << 64)
_MANTISSA_BITS: Final = 52
"""One fewer than a double has, so that halfway between two steps is exact, and 1 is never reached."""


def choose(logits: torch.Tensor, sampling: Sequence[Sampling], positions: Sequence[int]) -> list[int]:
    """Choose the token that follows each of n positions.

    Args:
        logits: fp32[n, vocab].
        sampling: how, n.
        positions: of the tokens to choose, in their sequences, n.

    Raises:
        EngineError: a temperature or top_k below 0, or logits that are no numbers.
    """
    best, chosen = logits.max(dim=-1)
    if not bool(best.isfinite().all()):
        raise EngineError("the model's logits are not finite; its weights overflow in this dtype, try --dtype fp32")
    rows = [row for row, how in enumerate(sampling) if how.temperature != 0]
    if rows:
        some = logits if len(rows) == len(sampling) else logits[torch.tensor(rows, device=logits.device)]
        drawn = _draw(some, [sampling[row] for row in rows], [positions[row] for row in rows])
        chosen[torch.tensor(rows, device=logits.device)] = drawn
    return [int(token) for token in chosen.tolist()]


def _draw(logits: torch.Tensor, sampling: Sequence[Sampling], positions: Sequence[int]) -> torch.Tensor:
    """Draw one token of each row by Gumbel-max, int64[n]."""
    for how in sampling:
        if not how.temperature > 0 or how.top_k < 0:
            raise EngineError(f"temperature {how.temperature} and top_k {how.top_k} must be 0 or more")
    device = logits.device
    temperatures = torch.tensor([how.temperature for how in sampling], dtype=torch.float64, device=device)
    scores = logits.double() / temperatures[:, None]
    for row, how in enumerate(sampling):
        if 0 < how.top_k < logits.shape[-1]:
            # Ties with the last of them stay in: which of equals came first would be the sort's whim.
            least = logits[row].topk(how.top_k).values[-1]
            scores[row].masked_fill_(logits[row] < least, float("-inf"))
    seeds = torch.tensor([_signed(how.seed) for how in sampling], dtype=torch.int64, device=device)
    places = torch.tensor(positions, dtype=torch.int64, device=device)
    return (scores + gumbel_noise(seeds, places, logits.shape[-1])).argmax(dim=-1)


def gumbel_noise(seeds: torch.Tensor, positions: torch.Tensor, vocab: int) -> torch.Tensor:
    """Return standard Gumbel noise, fp64[n, vocab], a function of seed, position and token id alone.

    Args:
        seeds: of the requests, int64[n].
        positions: of the tokens to choose, int64[n].
        vocab: ids that there are.
    """
    keys = _mixed(_mixed(seeds) ^ positions)
    bits = _mixed(keys[:, None] + _GOLDEN * torch.arange(1, vocab + 1, device=seeds.device))
    uniform = (_shifted(bits, 64 - _MANTISSA_BITS).double() + 0.5) * 2.0**-_MANTISSA_BITS
    return -torch.log(-torch.log(uniform))


def _mixed(bits: torch.Tensor) -> torch.Tensor:
    """SplitMix64's next output for states; products wrap modulo 2^64, as int64's do."""
    bits = bits + _GOLDEN
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Shift right, zeros moving in; on int64 alone the sign would."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(seed: int) -> int:
    """Return the int64 of the same 64 bits."""
    low = seed & ((1 << 64) - 1)
    return low - (1 << 64) if low >= 1 << 63 else low

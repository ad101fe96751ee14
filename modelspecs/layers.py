"""Kinds of layers: what mixes the tokens (attention to all, to a window, a state of fixed size), and what follows."""

from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

from afterwatt.modelspecs.errors import ModelError

FULL, WINDOW, STATE = "full", "window", "state"
ROUTED: Final = "routed"
_LETTERS: Final = {"f": FULL, "w": WINDOW, "s": STATE}
PATTERN_LETTERS: Final = (
    "f, w, s (attends to all, to a window, keeps a state), in capitals without a network, or n (a network alone)"
)


class LayerKind(NamedTuple):
    """A kind of layer.

    Attributes:
        mixer: `full`, `window` or `state`; None: a feed-forward network alone.
        network: `experts`, `dense`, or None: a mixer alone; `routed` of a layer whose experts are computed elsewhere.
    """

    mixer: str | None
    network: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Latent attention: keys and values of all heads unfolded from one small vector (DeepSeek-V2, arXiv:2405.04434).

    Attributes:
        q_rank: width that queries are squeezed through; None: they are not.
        kv_rank: width of the vector that is cached.
        nope_dim, rope_dim: of a head's query and key, without and with positions; the latter part of a key is shared.
        value_dim: of a head's value.
    """

    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int

    def matrix_params(self, hidden: int, heads: int) -> int:
        """Weights of one layer's matrices.

        Args:
            hidden: width of the residual stream.
            heads: query heads.
        """
        query = heads * (self.nope_dim + self.rope_dim)
        down = hidden * (self.kv_rank + self.rope_dim)
        up = self.kv_rank * heads * (self.nope_dim + self.value_dim)
        queries = hidden * query if self.q_rank is None else self.q_rank * (hidden + query)
        return queries + down + up + heads * self.value_dim * hidden

    def copied_params(self, hidden: int) -> int:
        """Weights of one layer's matrices that lead to what all heads share: every GPU keeps them whole."""
        return hidden * (self.cached + (self.q_rank or 0))

    @property
    def vectors(self) -> int:
        """Parameters of the norms on what is squeezed."""
        return self.kv_rank + (self.q_rank or 0)

    @property
    def cached(self) -> int:
        """Numbers kept per token and layer, for all heads together."""
        return self.kv_rank + self.rope_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A mixer that keeps a state of fixed size per sequence: gated delta rule, Mamba-2, short convolution.

    Attributes:
        kind: what it is, in words.
        width: of what leaves the mixer, before the matrix that leads out.
        matrix_params: weights of one layer's matrices.
        vectors: parameters of its vectors, small convolutions and norms.
        state_bytes: kept per sequence and layer.
        flops_per_token: of updating and reading the state, per layer.
    """

    kind: str
    width: int
    matrix_params: int
    vectors: int
    state_bytes: int
    flops_per_token: int


def layer_kinds(pattern: str, layers: int, dense: int, mixture: bool) -> tuple[LayerKind, ...]:
    """Return the kind of every layer, in order.

    Args:
        pattern: one letter per layer, repeated as often as needed.
        layers: how many there are.
        dense: the first so many networks of a mixture are dense.
        mixture: layers have experts.
    """
    kinds, networks = [], 0
    for place in range(layers):
        letter = pattern[place % len(pattern)]
        mixer = _LETTERS.get(letter.lower())
        network = None
        if letter.islower():
            network = "experts" if mixture and networks >= dense else "dense"
            networks += 1
        kinds.append(LayerKind(mixer, network))
    return tuple(kinds)


def check_pattern(name: str, pattern: str, window: bool, state: bool) -> None:
    """Refuse a pattern that says nothing, or speaks of a window or a state that is not described.

    Args:
        name: of the model.
        pattern: one letter per layer.
        window: the model has one.
        state: the model has one.

    Raises:
        ModelError: it does.
    """
    if not pattern or any(letter.lower() not in _LETTERS and letter != "n" for letter in pattern):
        raise ModelError(f"{name}: pattern = {pattern!r} must be made of {PATTERN_LETTERS}")
    mixers = Counter(pattern.lower())
    for letter, known, missing in (("w", window, "sliding_window"), ("s", state, "[shape.state]")):
        if mixers[letter] and not known:
            raise ModelError(f"{name}: pattern = {pattern!r} has {letter!r}, but {missing} is missing; add it")

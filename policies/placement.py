"""Where weights lie and where they are computed: on the GPU, in host memory, on the disk.

A policy is given the bytes of every part of every layer, and what each tier has room for. It answers with a layout: the
tier of each part, and whether the GPU or the CPU computes it. What lies outside of the GPU's memory and is computed on
the GPU is streamed to it in every iteration.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from afterwatt.policies.errors import PolicyError
from afterwatt.policies.making import CostModel
from afterwatt.policies.plans import Tier

ATTENTION, DENSE, EXPERTS, EMBEDDING, HEAD = "attention", "dense", "experts", "embedding", "head"
GPU, CPU = "gpu", "cpu"
HBM: Final[Tier] = "hbm"
DRAM: Final[Tier] = "dram"
SSD: Final[Tier] = "ssd"
_MOST: Final = 10_000
UBATCH: Final = "512"
"""Tokens that llama.cpp lets pass the layers at a time, unless told (-ub; common/common.h)."""


class Piece(NamedTuple):
    """Weights that are placed together.

    Attributes:
        layer: counted from 0; the embedding belongs to the first, the head to the last.
        part: what mixes tokens (`attention`), the network that all tokens pass through (`dense`: router, norms and a
            shared expert too), the routed `experts`, `embedding` or `head`.
        size_bytes: as stored.
    """

    layer: int
    part: str
    size_bytes: float


class Placed(NamedTuple):
    """A piece, or a share of one, at its place.

    Attributes:
        piece: of which bytes.
        tier: where they lie: `hbm`, `dram` or `ssd`.
        computed: `gpu` or `cpu`.
        copy: of what lies whole in a slower tier.
    """

    piece: Piece
    tier: Tier
    computed: str = GPU
    copy: bool = False

    @property
    def streamed(self) -> bool:
        """Whether the GPU reads it from elsewhere in every iteration."""
        return self.computed == GPU and self.tier != HBM and not self.copy


@dataclass(frozen=True, slots=True)
class WeightView:
    """What a placement may see.

    Attributes:
        pieces: of the model, layer by layer.
        layers: how many there are.
        room_bytes: tier -> bytes that weights of a replica may take there.
        ratios: precision -> bytes of a layer's dense network in it over those as stored.
    """

    pieces: tuple[Piece, ...]
    layers: int
    room_bytes: Mapping[Tier, float]
    ratios: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """Where everything lies.

    Attributes:
        placed: all pieces; copies apart, the bytes of their tiers add up to the model's as it is stored there.
        depth: layers that are fetched ahead of the one that is computed; 0: none, fetching and computing take turns.
        kv_in: tier of the KV cache; in `dram`, that of each layer crosses to the GPU with its weights.
        batch_tokens: that many tokens of an iteration at a time pass the layers, and bring over what the CPU has where
            they are many; None: all at once.
    """

    placed: tuple[Placed, ...]
    depth: int = 1
    kv_in: Tier = HBM
    batch_tokens: int | None = None

    def tier_bytes(self, tier: Tier) -> float:
        """Return the bytes that lie in a tier."""
        return sum(at.piece.size_bytes for at in self.placed if at.tier == tier)


class WeightPolicy(Protocol):
    """Decides where weights lie, and says what they are stored in."""

    @property
    def stored(self) -> str | None:
        """Return the precision that the weights are brought to; None: as they are."""

    def layout(self, view: WeightView, /) -> WeightLayout:
        """Return the place of every piece."""


class Resident:
    """All weights lie in the GPU's memory."""

    stored: str | None = None

    def layout(self, view: WeightView) -> WeightLayout:
        """Return the place of every piece (`WeightPolicy.layout`)."""
        return WeightLayout(tuple(Placed(piece, HBM) for piece in view.pieces))


class Stream:
    """Layers lie in host memory, or on the disk, and cross to the GPU in every iteration (ZeRO-Infinity).

    Embedding and head stay on the GPU.

    Args:
        words: `depth`: layers fetched ahead [1]; `from`: dram or ssd [dram, where the layers fit there]; `kv-in`: hbm
            or dram, where the KV cache lies [hbm].
    """

    words = ("depth", "from", "kv-in")
    stored: str | None = None

    def __init__(self, words: Mapping[str, str], _costs: CostModel) -> None:
        self._depth = _number("depth", words.get("depth", "1"), 0, 64)
        self._kv_in = _kv_in(words)
        self._source = words.get("from")
        if self._source not in (None, DRAM, SSD):
            raise PolicyError(f"policy option from={self._source[:40]} is no place to stream from; write dram or ssd")

    def layout(self, view: WeightView) -> WeightLayout:
        """Return the place of every piece (`WeightPolicy.layout`)."""
        layers = sum(piece.size_bytes for piece in view.pieces if piece.part not in (EMBEDDING, HEAD))
        source = DRAM if self._source == DRAM or (self._source is None and layers <= view.room_bytes[DRAM]) else SSD
        placed = (Placed(piece, HBM if piece.part in (EMBEDDING, HEAD) else source) for piece in view.pieces)
        return WeightLayout(tuple(placed), self._depth, self._kv_in)


class StreamInt8(Stream):
    """The same with weights in int8: half of the bytes, at a loss that is not measured here."""

    stored = "int8"


class StreamInt4(Stream):
    """The same with weights in int4: a quarter of the bytes, at a loss that is not measured here."""

    stored = "int4"


class Split:
    """Shares of every layer in percent, GPU/host memory, the rest on the disk: split=20/50 (FlexGen).

    Args:
        words: `split`: the shares; `depth`: layers fetched ahead [1]; `kv-in`: hbm or dram, where the KV cache lies
            [hbm].
    """

    words = ("split", "depth", "kv-in")
    stored: str | None = None

    def __init__(self, words: Mapping[str, str], _costs: CostModel) -> None:
        said = words.get("split", "")
        match = re.fullmatch(r"([0-9]{1,3})/([0-9]{1,3})", said)
        if match is None or int(match[1]) + int(match[2]) > 100:
            raise PolicyError(
                f"policy option split={said[:40]} is no split; write percent of GPU/host memory of at most 100 in all, "
                "such as split=20/50 (the rest lies on the disk)"
            )
        self._shares = int(match[1]) / 100.0, int(match[2]) / 100.0
        self._kv_in = _kv_in(words)
        self._depth = _number("depth", words.get("depth", "1"), 0, 64)

    def layout(self, view: WeightView) -> WeightLayout:
        """Return the place of every piece (`WeightPolicy.layout`)."""
        on_gpu, in_memory = self._shares
        placed: list[Placed] = []
        for piece in view.pieces:
            if piece.part in (EMBEDDING, HEAD):
                placed.append(Placed(piece, HBM))
                continue
            hbm, dram = piece.size_bytes * on_gpu, piece.size_bytes * in_memory
            rest = piece.size_bytes - hbm - dram if on_gpu + in_memory < 1.0 else 0.0
            dram = piece.size_bytes - hbm - rest
            shares: tuple[tuple[float, Tier], ...] = ((hbm, HBM), (dram, DRAM), (rest, SSD))
            placed += [Placed(piece._replace(size_bytes=size), tier) for size, tier in shares if size > 0.0]
        return WeightLayout(tuple(placed), self._depth, self._kv_in)


class LayerSplit:
    """So many layers on the GPU, the last ones and the head; the CPU computes the others (llama.cpp -ngl).

    Args:
        words: `layers`: how many; `ubatch`: tokens that pass the layers at a time [512, llama.cpp's -ub].
    """

    words = ("layers", "ubatch")
    stored: str | None = None

    def __init__(self, words: Mapping[str, str], _costs: CostModel) -> None:
        self._layers = _number("layers", words.get("layers", ""), 1, _MOST)
        self._ubatch = _number("ubatch", words.get("ubatch", UBATCH), 1, 1_000_000)

    def layout(self, view: WeightView) -> WeightLayout:
        """Return the place of every piece (`WeightPolicy.layout`)."""
        first = view.layers - self._layers
        on_cpu = (piece.part == EMBEDDING or (piece.part != HEAD and piece.layer < first) for piece in view.pieces)
        placed = (_on(piece, away) for piece, away in zip(view.pieces, on_cpu, strict=True))
        return WeightLayout(tuple(placed), batch_tokens=self._ubatch)


class HostExperts:
    """The CPU computes routed experts, of all layers or of the last ones (llama.cpp --cpu-moe, --n-cpu-moe).

    Args:
        words: `experts`: cpu; `last`: of so many layers [all]; `ubatch`: tokens that pass the layers at a time [512,
            llama.cpp's -ub].
    """

    words = ("experts", "last", "ubatch")
    stored: str | None = None

    def __init__(self, words: Mapping[str, str], _costs: CostModel) -> None:
        if words.get("experts") != CPU:
            raise PolicyError(
                f"policy option experts={words.get('experts', '')[:40]} is no place for experts; write experts=cpu, or "
                "experts=cpu+last=N for those of the last N layers"
            )
        self._last = _number("last", words.get("last", str(_MOST)), 1, _MOST)
        self._ubatch = _number("ubatch", words.get("ubatch", UBATCH), 1, 1_000_000)

    def layout(self, view: WeightView) -> WeightLayout:
        """Return the place of every piece (`WeightPolicy.layout`).

        Raises:
            PolicyError: the model has no experts.
        """
        having = {piece.layer for piece in view.pieces if piece.part == EXPERTS}
        if not having:
            raise PolicyError(
                "experts=cpu needs a mixture of experts, and this model is dense; take layers=N or stream"
            )
        moved = set(sorted(having)[-self._last :])
        placed = (_on(piece, piece.part == EXPERTS and piece.layer in moved) for piece in view.pieces)
        return WeightLayout(tuple(placed), batch_tokens=self._ubatch)


def _on(piece: Piece, cpu: bool) -> Placed:
    return Placed(piece, DRAM, CPU) if cpu else Placed(piece, HBM)


def _kv_in(words: Mapping[str, str]) -> Tier:
    said = words.get("kv-in", HBM)
    if said not in (HBM, DRAM):
        raise PolicyError(f"policy option kv-in={said[:40]} is no place for the KV cache; write hbm or dram")
    return DRAM if said == DRAM else HBM


def _number(word: str, said: str, low: int, high: int) -> int:
    if not (said.isdecimal() and len(said) <= 6 and low <= int(said) <= high):
        raise PolicyError(
            f"policy option {word} = {said[:40]!r} is no whole number from {low:,} to {high:,}; write {word}=8, say"
        )
    return int(said)

"""Where a run's weights lie: pieces for its policy to place, what each pipeline stage does with them, and room."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from afterwatt.hwprofiles.hostwork import host_work
from afterwatt.hwprofiles.residence import replica_kv_bytes, stage_layers
from afterwatt.hwprofiles.serving import Serving
from afterwatt.modelspecs.layers import ROUTED, LayerKind
from afterwatt.modelspecs.precision import PRECISIONS
from afterwatt.policies.config import RESIDENT, PolicySet
from afterwatt.policies.placement import (
    ATTENTION,
    CPU,
    DENSE,
    EMBEDDING,
    EXPERTS,
    HEAD,
    Piece,
    Placed,
    WeightLayout,
    WeightView,
)
from afterwatt.policies.plans import Tier
from afterwatt.policies.weights import PLACEMENT_WORDS
from afterwatt.sim.errors import Infeasible

_GIGA = 1e9
_ENDS = (EMBEDDING, HEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWeights:
    """What a pipeline stage does with its weights.

    Attributes:
        kinds: layers that its GPUs compute.
        hbm_frac: share of its bytes in GPU memory.
        buffer_bytes: of GPU memory, on all of its GPUs, for weights that pass through.
        kv_frac: share of its layers' keys and values in GPU memory, on their way through too; the rest is in host
            memory.
        kv_entry_bytes: of a token's keys and values, what crosses to the GPUs when they are read.
        ahead: whether what is streamed comes ahead of the layer that is computed.
        link_bytes: streamed in every iteration, from the disk or not; disk_bytes: those from the disk.
        cpu_bytes: that the CPU computes with in every iteration; expert_bytes: of routed experts, of which tokens touch
            some.
        cpu_layers: handed to the CPU.
        cpu_mixers: of them, with their attention.
        batch_tokens: of an iteration, that pass the layers at a time; None: all.
    """

    kinds: Mapping[LayerKind, int]
    hbm_frac: float
    buffer_bytes: float
    kv_frac: float
    kv_entry_bytes: float
    ahead: bool
    link_bytes: float
    disk_bytes: float
    cpu_bytes: float
    expert_bytes: float
    cpu_layers: int
    cpu_mixers: int
    batch_tokens: int | None


class Placement(NamedTuple):
    """A layout, and what it means for each pipeline stage."""

    layout: WeightLayout
    stages: tuple[StageWeights, ...]

    @property
    def kinds(self) -> Mapping[LayerKind, int]:
        """Return the layers that GPUs compute."""
        total: Counter[LayerKind] = Counter()
        for stage in self.stages:
            total.update(stage.kinds)
        return dict(total)


def pieces_of(serving: Serving) -> tuple[Piece, ...]:
    """Return the weights of a model in pieces: their bytes add up to the model's."""
    model, form = serving.model, serving.model.form(serving.precision)
    pieces = [Piece(0, EMBEDDING, model.embedding_bytes(form))]
    for layer in range(model.layers):
        (kind,) = model.kinds(layer, layer + 1)
        mixer = model.kind_bytes(LayerKind(kind.mixer, None), form)
        experts = model.layer_expert_bytes(form) if kind.network == "experts" else 0.0
        dense = model.kind_bytes(kind, form) - mixer - experts
        sizes = ((ATTENTION, mixer), (DENSE, dense), (EXPERTS, experts))
        pieces += [Piece(layer, part, size) for part, size in sizes if size > 0.0]
    outside = model.stored_head_params * form.bytes_per_head + model.final_norm_params * form.bytes_per_other
    return (*pieces, Piece(model.layers - 1, HEAD, outside))


def placement_of(serving: Serving, policies: PolicySet) -> Placement | None:
    """Return where a replica's weights lie; None where all of them are on its GPUs.

    Args:
        serving: what is computed, and where.
        policies: of the run.

    Raises:
        PolicyError: the placement does not go with the model.
    """
    return None if policies.weights == RESIDENT else _placed(serving, policies.weights, policies.own)


@lru_cache(maxsize=64)
def _placed(serving: Serving, weights: str, own: tuple[tuple[str, str], ...]) -> Placement:
    policy = PolicySet(
        weights=weights, own=tuple((word, said) for word, said in own if word in PLACEMENT_WORDS)
    ).make_weights()
    model, view = serving.model, weight_view(serving)
    layout = policy.layout(view)
    if layout.kv_in != "hbm" and (model.window is not None or model.state_bytes):
        raise Infeasible(
            f"kv-in={layout.kv_in}: of {model.name} some layers keep a window or a state, whose way to the GPU is not "
            "modelled; take kv-in=hbm"
        )
    split, first, stages = stage_layers(model.layers, serving.pool.pp), 0, []
    for layers in split:
        mine = [at for at in layout.placed if first <= at.piece.layer < first + layers]
        whole_bytes = sum(piece.size_bytes for piece in view.pieces if first <= piece.layer < first + layers)
        stages.append(_stage(serving, mine, whole_bytes, (first, layers), layout))
        first += layers
    return Placement(layout, tuple(stages))


def weight_view(serving: Serving) -> WeightView:
    """Return what a placement may see of a replica."""
    model = serving.model
    stored = model.form(serving.precision).bytes_per_weight
    ratios = {name: model.form(name).bytes_per_weight / stored for name in PRECISIONS}
    return WeightView(pieces_of(serving), model.layers, room_bytes(serving), ratios)


def room_bytes(serving: Serving) -> Mapping[Tier, float]:
    """Return the bytes that a replica has in each tier, its KV cache and all else apart."""
    pool = serving.pool
    hosts = pool.hosts / pool.replicas
    return {
        "hbm": pool.gpus_per_replica * pool.usable_memory_bytes,
        "dram": max(0.0, hosts * (pool.host.dram_bytes - host_work().kept_bytes)),
        "ssd": hosts * pool.host.disks * pool.storage.capacity_bytes,
    }


def _stage(
    serving: Serving, placed: list[Placed], whole_bytes: float, span: tuple[int, int], layout: WeightLayout
) -> StageWeights:
    """Add up what a stage does."""
    model, depth, kv_away = serving.model, layout.depth, layout.kv_in == "dram"
    on_cpu = {(at.piece.layer, at.piece.part) for at in placed if at.computed == CPU}
    kinds: Counter[LayerKind] = Counter()
    first, layers = span
    for layer in range(first, first + layers):
        (kind,) = model.kinds(layer, layer + 1)
        mixer = None if (layer, ATTENTION) in on_cpu else kind.mixer
        network = None if (layer, DENSE) in on_cpu else kind.network
        if network == "experts" and (layer, EXPERTS) in on_cpu:
            network = ROUTED
        if mixer is not None or network is not None:
            kinds[LayerKind(mixer, network)] += 1
    streamed, host = [at for at in placed if at.streamed], [at for at in placed if at.computed == CPU]
    per_layer: dict[int, float] = {}
    for at in (*streamed, *host):
        if at.piece.part not in _ENDS:
            per_layer[at.piece.layer] = per_layer.get(at.piece.layer, 0.0) + at.piece.size_bytes
    cpu_mixers = len({layer for layer, part in on_cpu if part == ATTENTION})
    return StageWeights(
        kinds=dict(kinds),
        hbm_frac=sum(at.piece.size_bytes for at in placed if at.tier == "hbm") / whole_bytes,
        buffer_bytes=(depth + 1 if streamed else 1) * max(per_layer.values(), default=0.0),
        kv_frac=min(1.0, (depth + 1) / layers) if kv_away else 1.0 - cpu_mixers / layers,
        kv_entry_bytes=replica_kv_bytes(serving) / model.layers * layers if kv_away else 0.0,
        ahead=depth > 0,
        link_bytes=sum(at.piece.size_bytes for at in streamed),
        disk_bytes=sum(at.piece.size_bytes for at in streamed if at.tier == "ssd"),
        cpu_bytes=sum(at.piece.size_bytes for at in host if at.piece.part not in (EXPERTS, *_ENDS)),
        expert_bytes=sum(at.piece.size_bytes for at in host if at.piece.part == EXPERTS),
        cpu_layers=len({at.piece.layer for at in host if at.piece.part not in _ENDS}),
        cpu_mixers=cpu_mixers,
        batch_tokens=layout.batch_tokens,
    )


def require_room(serving: Serving, placement: Placement, policies: PolicySet) -> None:
    """Refuse a layout for which host memory or disk is too small, with the bytes that are missing.

    Raises:
        Infeasible: it is.
    """
    room, names = room_bytes(serving), {"dram": "host memory", "ssd": "the disk"}
    tiers: tuple[Tier, ...] = ("dram", "ssd")
    short = [
        f"{names[tier]} ({serving.pool.host.key if tier == 'dram' else serving.pool.storage.key}) has room for "
        f"{room[tier] / _GIGA:.2f} GB and {needed / _GIGA:.2f} GB lie there, {needed - room[tier]:,.0f} bytes short"
        for tier in tiers
        if (needed := placement.layout.tier_bytes(tier)) >= room[tier] + 1.0  # less is the rounding of shares' sum
    ]
    if short:
        raise Infeasible(
            f"{serving.model.name} in {serving.precision.name} does not fit {serving.deployment.name} with --policy "
            f"{policies.name}: {'; '.join(short)}. A larger server (--host, or dram_bytes in a TOML of your own) or "
            "fewer bits (--precision) help"
        )

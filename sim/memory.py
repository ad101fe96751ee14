"""Does it fit? Weights, KV cache and reserves on the GPUs of a replica, and what would help if not."""

from dataclasses import dataclass, replace

from afterwatt.hwprofiles.catalogue import ALIASES, device_names, load_device
from afterwatt.hwprofiles.deployment import parse_deployment, short_name
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.residence import (
    activation_bytes,
    pages_of,
    replica_kv_bytes,
    stage_kv_bytes,
    stage_weight_bytes,
    state_blocks,
    window_blocks,
)
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.support import refusal, spread_refusal
from afterwatt.modelspecs.precision import COMMON_PRECISIONS, PRECISIONS
from afterwatt.modelspecs.split import split_obstacles, splits_that_work, spread_obstacle, spreads_that_work
from afterwatt.policies.config import RESIDENT, PolicySet
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.sizes import Holding
from afterwatt.sim.errors import Infeasible
from afterwatt.sim.placement import Placement, placement_of, require_room, room_bytes

RUNTIME_BYTES = 600e6
"""Driver context, libraries and slack on each GPU: 0.5-0.7 GB with PyTorch and CUDA (assumption of this project)."""
UNSEEN_BYTES = 0.5e9
"""What the driver keeps of a card before a framework sees any: of an RTX 4090's 24 GiB, torch sees 25,250,627,584 bytes
(casys-kaist/LLMServingSim 5daddb2, RTX4090 meta.json)."""
LOGIT_BYTES = 10.0
"""Per word and sequence while an engine tries out how much it needs: logits in 16 bits, and their like in 32 twice."""
FRAGMENTATION_FRAC = 0.03
"""Share of memory that no block fits into (assumed; paged caches waste under 4 %, arXiv:2309.06180)."""
_GIGA = 1e9
_UNBOUNDED = 1 << 60


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory of the fullest GPU of a replica.

    Attributes:
        capacity_bytes: usable, ECC's share taken off.
        weights_bytes: model weights on it.
        reserve_bytes: runtime, activations of one iteration, fragmentation, and what the software leaves free.
        block_bytes: one KV block on it; replica_block_bytes: over all GPUs of the replica.
        kv_blocks: blocks that fit (the scarcest stage decides).
        lost_frac: share of the capacity that can hold nothing, however large it is: part of the reserve.
    """

    capacity_bytes: float
    weights_bytes: float
    reserve_bytes: float
    block_bytes: float
    replica_block_bytes: float
    kv_blocks: int
    lost_frac: float = FRAGMENTATION_FRAC

    @property
    def needed_bytes(self) -> float:
        """Capacity with which a first KV block would fit."""
        fixed = self.weights_bytes + self.block_bytes + self.reserve_bytes - self.lost_frac * self.capacity_bytes
        return fixed / (1.0 - self.lost_frac)

    @property
    def missing_bytes(self) -> float:
        """Bytes of capacity that lack for a first KV block (negative: there is room)."""
        return self.needed_bytes - self.capacity_bytes


def plan_memory(serving: Serving, policies: PolicySet) -> MemoryPlan:
    """Lay out a replica's memory: the tightest of its pipeline stages.

    Three ways of engines to size a cache. Most take what is left. One with a utilisation (vLLM) keeps within that share
    of what the framework sees, after a trial with all sequences and a full budget of tokens; its cache is one piece, in
    which nothing is lost. One with a share of what is free (TensorRT-LLM) takes that.
    """
    pool, stack = serving.pool, serving.stack
    capacity = pool.usable_memory_bytes
    utilisation = float(stack.memory_utilisation if policies.utilisation_frac is None else policies.utilisation_frac)
    lost, fixed = FRAGMENTATION_FRAC, RUNTIME_BYTES + activation_bytes(serving, policies.token_budget)
    if utilisation < 1.0:
        lost = 1.0 - utilisation
        words = serving.model.head_params / serving.model.hidden / pool.tp
        fixed += utilisation * UNSEEN_BYTES + policies.max_seqs * words * LOGIT_BYTES
    free = float(stack.free_memory_share)
    lost = 1.0 - free * (1.0 - lost)
    total = replica_kv_bytes(serving) * policies.block_tokens
    placement = placement_of(serving, policies)
    tightest: MemoryPlan | None = None
    for stage in range(pool.pp):
        weights, block = stage_weight_bytes(serving, stage), stage_kv_bytes(serving, stage) * policies.block_tokens
        if placement is not None:
            placed = placement.stages[stage]
            weights = weights * placed.hbm_frac + placed.buffer_bytes / pool.tp
            block = max(1.0, block * placed.kv_frac)  # no block is nothing
        reserve = lost * capacity + free * fixed - (1.0 - free) * weights
        blocks = max(0, int((capacity - weights - reserve) // block))
        plan = MemoryPlan(capacity, weights, reserve, block, total, blocks, lost)
        if tightest is None or plan.kv_blocks < tightest.kv_blocks or plan.missing_bytes > tightest.missing_bytes:
            tightest = plan
    assert tightest is not None
    if placement is None:
        return tightest
    return replace(tightest, kv_blocks=min(tightest.kv_blocks, _host_blocks(serving, placement, total)))


def _host_blocks(serving: Serving, placement: Placement, block_bytes: float) -> int:
    """Return the KV blocks whose part in host memory fits beside the weights there."""
    layers = sum(stage.cpu_mixers for stage in placement.stages)
    share = 1.0 if placement.layout.kv_in == "dram" else layers / serving.model.layers
    if not share:
        return _UNBOUNDED
    free = room_bytes(serving)["dram"] - placement.layout.tier_bytes("dram")
    return max(0, int(free // (block_bytes * share)))


def holding_of(serving: Serving, block_tokens: int) -> Holding | None:
    """Return what a sequence holds in KV blocks; None where every layer keeps every token.

    Args:
        serving: what is computed, and where.
        block_tokens: tokens per KV block.
    """
    model = serving.model
    if model.window is None and not model.state_bytes:
        return None
    pages = pages_of(model)
    return Holding(
        full=pages.full,
        windowed=pages.windowed,
        window_blocks=window_blocks(serving, block_tokens),
        window_tokens=model.window or 0,
        fixed=state_blocks(serving, block_tokens),
    )


def require_fit(serving: Serving, policies: PolicySet) -> MemoryPlan:
    """Lay out memory, or say by how much it does not fit and what would help.

    Raises:
        Infeasible: no KV block fits beside the weights.
    """
    plan, placement = plan_memory(serving, policies), placement_of(serving, policies)
    if placement is not None:
        require_room(serving, placement, policies)
    if plan.kv_blocks > 0:
        return plan
    options = _options(serving, policies)
    help_text = "; ".join(options) if options else "no option of the catalogue would make it fit"
    raise Infeasible(
        f"{serving.model.name} in {serving.precision.name} does not fit {serving.deployment.name}: each GPU needs "
        f"{plan.needed_bytes / _GIGA:.2f} GB (weights {plan.weights_bytes / _GIGA:.2f}, the rest reserve and one KV "
        f"block) and has {plan.capacity_bytes / _GIGA:.2f} GB, {plan.missing_bytes:,.0f} bytes short. "
        f"Would fit: {help_text}"
    )


def with_stated_blocks(plan: MemoryPlan, kv_blocks: int) -> MemoryPlan:
    """Return the plan with as many KV blocks as somebody says there are, such as an engine's log.

    What the engine reserves besides is its own business; only what the card cannot hold is refused.

    Raises:
        Infeasible: weights and blocks together exceed the memory.
    """
    needed = plan.weights_bytes + kv_blocks * plan.block_bytes
    if needed > plan.capacity_bytes:
        most = max(0, int((plan.capacity_bytes - plan.weights_bytes) // plan.block_bytes))
        raise Infeasible(
            f"kv={kv_blocks} does not fit: {kv_blocks:,} KV blocks of {plan.block_bytes / 1e6:.3f} MB beside "
            f"{plan.weights_bytes / _GIGA:.2f} GB of weights need {needed / _GIGA:.2f} GB on each GPU, which has "
            f"{plan.capacity_bytes / _GIGA:.2f} GB; at most kv={most} do"
        )
    return replace(plan, kv_blocks=kv_blocks)


def require_runnable(serving: Serving) -> None:
    """Refuse layers that GPUs cannot share, software that cannot, or a stage without one.

    Raises:
        Infeasible: the text says why, and which degrees work.
    """
    model, pool = serving.model, serving.pool
    if obstacles := split_obstacles(model, serving.precision, pool.tp, pool.ep > 1):
        works = ", ".join(map(str, splits_that_work(model, serving.precision)))
        raise Infeasible(
            f"{model.name} in {serving.precision.name} cannot be split over tp {pool.tp}: "
            f"{'; '.join(obstacles)}; degrees that work: {works}"
        )
    if obstacle := spread_obstacle(model, pool.ep):
        works = ", ".join(map(str, spreads_that_work(model)))
        raise Infeasible(
            f"the experts of {model.name} cannot be spread over ep {pool.ep}: {obstacle}; degrees that work: {works}"
        )
    refused = refusal(serving.stack.name, pool.device, serving.precision)
    if refused := refused or (spread_refusal(serving.stack.name) if pool.ep > 1 else None):
        raise Infeasible(refused)
    if pool.pp > model.layers:
        raise Infeasible(f"{model.name} has {model.layers} layers, too few for pp {pool.pp}; take fewer stages")


def _options(serving: Serving, policies: PolicySet) -> list[str]:
    """Return what would make the model fit, as one would type it: fewer bits, more GPUs per replica, a larger card."""

    def fits(hw: str) -> bool:
        try:
            other = parse_deployment(hw)
            own = other.pool
            if split_obstacles(serving.model, serving.precision, own.tp, own.ep > 1):
                return False
            if spread_obstacle(serving.model, own.ep):
                return False
            plan = plan_memory(replace(serving, deployment=other), policies)
        except HardwareError:
            return False
        return plan.kv_blocks > 0

    own = serving.model.stored.precision if serving.model.stored is not None else None
    smaller = dict(COMMON_PRECISIONS) | ({own.name: own} if own is not None and own.name in PRECISIONS else {})
    options = [
        f"--precision {name}"
        for name, stored in smaller.items()
        if stored.bits_per_weight < serving.precision.bits_per_weight
        and not split_obstacles(serving.model, stored, serving.pool.tp, serving.pool.ep > 1)
        and plan_memory(replace(serving, precision=stored), policies).kv_blocks > 0
    ]
    options += [f"--policy {word}" for word in _placements(serving, policies)]
    pool = serving.pool
    key, tp, pp, ep = pool.device.key, pool.tp, pool.pp, pool.ep
    wider = [_typed(key, tp, pp, ways * ep) if ep > 1 else _typed(key, ways * tp, pp) for ways in (2, 4, 8, 16)]
    options += [f"--hw {hw}" for hw in wider if fits(hw)][:1]
    devices = sorted((load_device(name) for name in device_names()), key=lambda device: device.memory_bytes)
    larger = [device.key for device in devices if device.memory_bytes > pool.device.memory_bytes]
    cards = [hw for hw in (_typed(name, tp, pp, ep) for name in larger) if fits(hw)]
    if cards:
        options.append("a card with more memory: " + ", ".join(f"--hw {hw}" for hw in cards[:4]))
    return options


def _placements(serving: Serving, policies: PolicySet) -> list[str]:
    """Return the placements of weights, as one would type them, under which a model fits that does not as it lies."""
    if policies.weights != RESIDENT or serving.pool.device.pcie_gen is None:
        return []

    def fits(weights: str, said: str | None = None) -> bool:
        own = policies.own if said is None else (*policies.own, (weights, said))
        placed = replace(policies, weights=weights, own=own)
        stored, other = placed.make_weights().stored, serving
        if stored is not None:
            other = replace(serving, precision=serving.model.form(stored))
            if other.precision.bits_per_weight >= serving.precision.bits_per_weight:
                return False
        try:
            placement = placement_of(other, placed)
            assert placement is not None
            require_room(other, placement, placed)
        except (Infeasible, PolicyError):  # no room, or no experts
            return False
        return plan_memory(other, placed).kv_blocks > 0

    found = ["experts=cpu"] if fits("experts", "cpu") else []
    layers = next((count for count in range(serving.model.layers - 1, 0, -1) if fits("layers", str(count))), None)
    found += [] if layers is None else [f"layers={layers}"]
    return found + [word for word in ("stream", "stream-int4") if fits(word)]


def _typed(key: str, tp: int, pp: int, ep: int = 1) -> str:
    """Write the smallest deployment of a card with a split: l40s, 4xl40s:tp4, 4xl40s:tp2pp2, 8xl40s:ep8."""
    name = min([key, *(alias for alias, meant in ALIASES.items() if meant == key)], key=len)
    return short_name(name, max(tp, ep) * pp, tp, pp, ep)

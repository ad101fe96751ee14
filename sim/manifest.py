"""manifest.json: what a run was, in full, so that it can be understood and run again."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

from afterwatt.hwprofiles.capping import cap_curve
from afterwatt.hwprofiles.describe import describe_profile, unit_of
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.power import anchors_of
from afterwatt.hwprofiles.stacks import default_stack
from afterwatt.hwprofiles.support import obstacle
from afterwatt.modelspecs.describe import describe_spec
from afterwatt.modelspecs.layers import WINDOW
from afterwatt.policies.cached import CachedUnits
from afterwatt.policies.expertcache import CachedExperts
from afterwatt.policies.m2cache import M2Cache
from afterwatt.policies.plans import Tier
from afterwatt.reports.schema import SCHEMA_VERSION
from afterwatt.sim.capacity import CACHED_SAMPLE
from afterwatt.sim.config import NOT_MEASURED, RunConfig
from afterwatt.sim.memory import MemoryPlan, holding_of
from afterwatt.sim.placement import placement_of
from afterwatt.sim.provenance import data_files
from afterwatt.sim.workload import TraceWorkload


def manifest_of(config: RunConfig, memory: MemoryPlan, versions: dict[str, str]) -> dict[str, Any]:
    """Return the manifest of a run."""
    pool, workload = config.deployment.pool, config.workload
    trace = workload.trace.info if isinstance(workload, TraceWorkload) else None
    return {
        "schema_version": SCHEMA_VERSION,
        "body": "sim",
        "config": _config(config, memory, None if trace is None else trace.path),
        "seed": config.seed,
        "versions": versions,
        "profiles": data_files(config),
        "deployment": {
            "name": config.deployment.name,
            "device": pool.device.key,
            "count": pool.count,
            "tp": pool.tp,
            "pp": pool.pp,
            **({"ep": pool.ep, "expert_imbalance": float(pool.expert_imbalance)} if pool.ep > 1 else {}),
            "replicas": pool.replicas,
            "host": pool.host.key,
            "hosts": pool.hosts,
            "ecc_on": pool.ecc_on,
            **({} if pool.power_cap_w is None else {"power_cap_w": pool.power_cap_w}),
        },
        "model": config.model.name,
        "site": {"key": config.site.key, "name": config.site.name, "average": _average(config)},
        "policies": config.policies.name,
        "workload": {"name": workload.name, **({} if trace is None else {"format": trace.format})},
        "start_utc": config.start_utc,
        "horizon_s": config.horizon_s,
        "facts": list(_facts(config)),
        "warnings": [
            *([] if trace is None else trace.notes),
            *config.model.notes,
            *_stored(config),
            *_software(config),
            *_windows(config),
            *_experts(config),
            *_placement(config),
            *([f"answers: {config.answers.source}"] if config.answers != NOT_MEASURED else []),
            *_slots(config),
            *_capped(config),
            *_hosts(config),
        ],
        **({"doubt": doubt} if (doubt := _doubt(config)) else {}),
    }


def _doubt(config: RunConfig) -> str:
    """Say why nobody should rank a run by its times; empty where nothing is known against it."""
    policy = config.policies.make_weights()
    if not isinstance(policy, M2Cache):
        return ""
    said = "M2Cache's own runs were 9 and 22 times slower than simulated here (docs/published.md): this is what the "
    said += "hardware allows. What neurons that are left out lose of quality is not measured."
    if policy.assumed and policy.activity is None:
        said += (
            f" It is assumed that a token activates {100.0 * policy.density:g} % of the neurons, as of checkpoints "
            "that were trained for it with ReLU; a SwiGLU model as it was published needs most of them. State "
            "density=, in percent."
        )
    return said


def _stored(config: RunConfig) -> Iterator[str]:
    """Say where the precision comes from, if the checkpoint names one, or that another was asked for."""
    stored, taken = config.model.stored, config.precision
    if stored is not None:
        known = "a format of its own" if stored.precision is None else stored.precision.name
        as_asked = f"run in {taken.name} as asked; the checkpoint is stored in {known}"
        yield f"weights {f'in {known}' if taken == stored.precision else as_asked}: {stored.source}"


def _software(config: RunConfig) -> Iterator[str]:
    """Say so where a card's usual stack cannot run these weights, and another one is taken."""
    device, taken = config.deployment.pool.device, config.stack.label
    usual = default_stack(device)
    if taken != usual and (why := obstacle(usual, device, config.precision)):
        yield f"stack {taken} in place of {usual}, which {why}"


def _windows(config: RunConfig) -> Iterator[str]:
    """Say how KV blocks are counted where not every layer keeps every token."""
    model, policies = config.model, config.policies
    holding = holding_of(config.serving, policies.block_tokens)
    if holding is None:
        return
    kept = []
    if model.window is not None:
        windowed = sum(count for kind, count in model.kinds().items() if kind.mixer == WINDOW)
        kept.append(f"{windowed} of {model.layers} layers look back on {model.window:,} tokens and keep no more")
    if holding.fixed and model.state is not None:
        kept.append(f"layers with a state ({model.state.kind}) keep {model.state_bytes / 1e6:,.1f} MB of each sequence")
    unshared = "; prefixes are not shared" if policies.share_prefixes and (holding.fixed or not holding.full) else ""
    yield f"{'; '.join(kept)}: a KV block is {policies.block_tokens} tokens of one group of layers{unshared}"


def _experts(config: RunConfig) -> Iterator[str]:
    """Say what is taken of experts that are spread over GPUs."""
    pool = config.deployment.pool
    if pool.ep > 1:
        together = f", which serve the tokens of {pool.sharing} replicas, as many of each" if pool.sharing > 1 else ""
        load = f"; the busiest GPU has {pool.expert_imbalance:g} times the mean load"
        yield (
            f"experts are spread over {pool.ep} GPUs{together}{load} (expert_imbalance); no measured run states how "
            "its experts are spread, so that the interval of times does not know the error of this part"
        )


def _placement(config: RunConfig) -> Iterator[str]:
    """Say where weights lie that are not all on the GPUs."""
    placement = placement_of(config.serving, config.policies)
    if placement is None:
        return
    names = {"hbm": "GPU memory", "dram": "host memory", "ssd": "the disk"}
    tiers: tuple[Tier, ...] = ("hbm", "dram", "ssd")
    sizes = [(names[tier], placement.layout.tier_bytes(tier) / 1e9) for tier in tiers]
    yield f"weights lie in {', '.join(f'{name} ({size:,.1f} GB)' for name, size in sizes if size)}"
    if (stored := config.policies.make_weights().stored) is not None and config.answers.perplexity is None:
        yield f"what weights in {stored} lose of the answers' quality is not measured"
    yield (
        "the CPU's times are fitted to measured runs (docs/fidelity.md); those of the disk, and of prompts that bring "
        "weights over, were not held against measured runs, which the interval of times does not know; what CPUs draw "
        "as they compute, and GPUs as they wait, is an assumption"
    )
    policy = config.policies.make_weights()
    if isinstance(policy, CachedExperts) and policy.low is not None:
        yield f"experts that come in {policy.low} as they are missed lose quality that is not measured"
    if isinstance(policy, CachedUnits):
        drawn = "is drawn, as the policy's words state it"
        whence = drawn if policy.activity is None else f"is played back from {policy.activity}"
        yield f"which neurons or experts are active {whence}; capacity is that of {CACHED_SAMPLE} requests at once"


def _slots(config: RunConfig) -> Iterator[str]:
    """Say so where cards leave a part of their servers empty, which somebody has to answer for."""
    pool = config.deployment.pool
    slots = pool.hosts * pool.host.gpus(pool.device)
    if pool.count < slots:
        used = f"{pool.count} of the {slots} GPU slots of {pool.hosts} x {pool.host.key} are used"
        if config.carbon.host_share == "whole":
            yield f"{used} and the whole of it is counted; --host-share slots counts the slots in use"
        else:
            yield f"{used} and that share of it is counted; --host-share whole counts all, if nothing else runs there"


def _capped(config: RunConfig) -> Iterator[str]:
    """Say on what the speed of cards under a power cap stands."""
    pool = config.deployment.pool
    if pool.power_cap_w is not None:
        drawn = cap_curve(pool.device, "decode", config.model.experts > 1).drawn
        yield f"cards are set to {pool.power_cap_w:g} of their {pool.device.tdp_w:g} W; how much slower they are " + (
            "follows the curve of such a card"
            if drawn is not None
            else "is assumed as of an RTX 3090: nobody measured this card's curve, and below 0.6 of its limit an RTX "
            "4090 took up to 21 % longer than so (docs/physics-energy-carbon.md)"
        )


def _average(config: RunConfig) -> dict[str, Any] | None:
    """Say what the annual average of the site's electricity is of; None where an hourly series counts."""
    if config.carbon.grid is not None:
        return None
    found = config.site.average(config.carbon.basis)
    return {
        "gco2e_per_kwh": float(found.gco2e_per_kwh),
        "basis": found.basis,
        "mix": found.mix,
        "year": found.year,
    }


def _hosts(config: RunConfig) -> Iterator[str]:
    """Say so when the cards need more servers than one, and what of the model crosses the network between them."""
    pool = config.deployment.pool
    if pool.hosts > 1:
        per_host = pool.host.gpus(pool.device)
        serving = config.serving
        what, link = "", serving.stage_link
        if pool.tp > per_host:
            what, link = "tensor parallelism", serving.tensor_link
        elif pool.ep > per_host:
            what, link = "what experts get and give", serving.expert_link
        elif pool.gpus_per_replica > per_host:
            what = "pipeline"
        crossing = f"; {what} runs over {link.key} between them" if what else ""
        yield f"{pool.count} x {pool.device.key} fill {pool.hosts} x {pool.host.key}, all of which count{crossing}"


def _config(config: RunConfig, memory: MemoryPlan, trace: str | None) -> dict[str, Any]:
    grid = config.carbon.grid
    said = None if grid is None else {"file": grid.source, "zone": grid.zone, "basis": grid.basis, "from": grid.origin}
    carbon = asdict(config.carbon) | {"grid": said}
    return {
        "hw": config.deployment.name,
        "model": config.model.name,
        "precision": config.precision.name,
        "stack": config.stack.label,
        "policy": config.policies.name,
        "policies": config.policies.record(),
        "site": config.site.key,
        "trace": trace,
        "workload": config.workload.name,
        "slo": asdict(config.slo),
        "carbon": carbon,
        "horizon_s": config.horizon_s,
        "warmup_s": config.warmup_s,
        "seed": config.seed,
        "memory": asdict(memory),
    }


def _facts(config: RunConfig) -> Iterator[dict[str, Any]]:
    """Yield the numbers a run stood on, with their provenance."""
    pool = config.deployment.pool
    for profile in (pool.device, pool.host, config.site):
        for row in describe_profile(profile):
            yield {
                "field": f"{profile.key}: {row.field}",
                "value": row.value,
                "unit": row.unit,
                "kind": row.kind,
                "source": row.source,
            }
    anchors = anchors_of(pool.device)
    for label, holder in (
        (f"{config.stack.name}/{config.stack.pool}", config.stack),
        (f"power/{anchors.pool}", anchors),
    ):
        for item in fields(holder):
            value = getattr(holder, item.name)
            if isinstance(value, Fact):
                yield _fact(f"{label}: {item.name}", value, unit_of(item.name))
    for shape in describe_spec(config.model):
        yield {"field": f"{config.model.name}: {shape.label}", "value": shape.value, "source": shape.source or None}


def _fact(name: str, fact: Fact, unit: str) -> dict[str, Any]:
    return {"field": name, "value": float(fact), "unit": unit, "kind": fact.kind, "source": fact.source}

"""From a measured point to a run: cards, model, format, software, policies and requests, and all that was assumed.

What cannot be run gives a `PointRefusal` with a reason from a short list. Nothing here knows what was predicted.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from afterwatt.fidelity.points.loads import LoadWorkload, RequestLoad
from afterwatt.fidelity.points.models import read_model, read_precision, with_context
from afterwatt.fidelity.points.refusals import PointRefusal, Reason, Refused
from afterwatt.fidelity.points.table import MARK, Point, PointTable
from afterwatt.fidelity.points.workloads import AskedLoad, asked_of
from afterwatt.hwprofiles.catalogue import load_device, load_site
from afterwatt.hwprofiles.deployment import Deployment, make_deployment
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.stacks import (
    Stack,
    default_stack,
    holds,
    load_stack,
    model_class,
    software_of,
    stack_names,
)
from afterwatt.modelspecs.precision import Precision
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.policies.config import PolicySet
from afterwatt.sim.config import RunConfig
from afterwatt.sim.memory import MemoryPlan, plan_memory
from afterwatt.sim.run import memory_of

SHORT_FRAC: Final = 0.12
"""Share of a card's memory by which our estimate of a run's need may be off: what was measured did fit."""
FEW_TOKENS: Final = 64
"""Tokens of an iteration up to which a prompt's piece counts as decoding."""
GPUS_PER_GROUP: Final = 8
"""Widest tensor-parallel group: what one server holds."""
BY_LAYERS: Final = ("llama.cpp-cuda", "exllama", "transformers", "petals", "ntransformer")
"""Stacks whose GPUs commonly hold whole layers, one after another, instead of sharing every layer."""
ON_CHIP_BYTES: Final = 0.01
"""What is moved per head and query-key pair with flash attention: next to nothing."""
WITHOUT_FLASH: Final = {"llama.cpp-cuda": "llama.cpp-cuda@2024"}
"""Versions of the same software in which scores pass through memory."""
PHASES: Final = {
    "prefill_tok_s": "prefill",
    "ttft_s": "prefill",
    "decode_tok_s": "decode",
    "tpot_s": "decode",
    "throughput_tok_s": "mixed",
    "throughput_req_s": "mixed",
    "energy_j_per_tok": "energy",
}
"""What a metric's time is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A measured point as a run.

    Attributes:
        point: the row.
        stack: name of the software, whether or not a profile of it is shipped.
        deployment, model, precision, policies: what runs where.
        load: its requests.
        metric: what is read off the run; differs from the row's where a "throughput" is that of a prompt.
        measured: the row's value.
        assumed: what was guessed, in words.
        widen: factor on the log width of its interval, for what was guessed.
        kv_bytes: bytes per cached element where that is not the stack's usual (None).
        flash: attention scores stay on the chip whatever the stack's parameters say.
        divide: the metric is per so many GPUs.
        power_limit_w: a limit below the card's own; None if there is none.
        whole_machine: joules are those at the wall, not the GPUs' alone.
        least_blocks: KV blocks that there were, whatever we find room for: what was measured did run.
    """

    point: Point
    stack: str
    deployment: Deployment
    model: ModelSpec
    precision: Precision
    policies: PolicySet
    load: RequestLoad
    metric: str
    measured: float
    assumed: tuple[str, ...] = ()
    widen: float = 1.0
    kv_bytes: float | None = None
    flash: bool = True
    divide: int = 1
    power_limit_w: float | None = None
    whole_machine: bool = False
    least_blocks: int = 0

    @property
    def device_key(self) -> str:
        """Return the card's key in the catalogue."""
        return self.deployment.pool.device.key

    @property
    def group(self) -> tuple[str, str, str]:
        """Return source, card and model: points that stand or fall together."""
        return self.point.source, self.device_key, self.model.name

    @property
    def model_class(self) -> str:
        """Return dense or moe, and the family of the weights' format: `dense:int4`."""
        return model_class(self.model, self.precision)

    @property
    def phase(self) -> str:
        """Return what its time is made of: prefill, decode, mixed or energy.

        Prompts in pieces of a few tokens are bound as decoding is: sources run them as a stand-in for it.
        """
        if PHASES[self.metric] == "prefill" and self.policies.token_budget <= FEW_TOKENS < max(self.load.prompts):
            return "decode"
        return PHASES[self.metric]

    @property
    def kind(self) -> str:
        """Return which of a stack's intervals applies: prefill, decode or energy."""
        return "decode" if self.phase == "mixed" else self.phase

    @property
    def same_run(self) -> Hashable:
        """Return what tells runs apart: points with equal keys are read off one simulation."""
        return (
            self.stack,
            self.deployment.name,
            self.device_key,
            self.least_blocks,
            self.model,
            self.precision.name,
            self.policies,
            self.load,
            self.kv_bytes,
            self.flash,
            self.whole_machine,
        )

    def stack_profile(self) -> Stack:
        """Return the shipped parameters of its software on its card, or of the card's default software."""
        return profile_for(self.deployment.pool.device, self.stack)

    def config(self, stack: Stack) -> RunConfig:
        """Return the run, under these parameters of the software."""
        if self.kv_bytes is not None:
            stack = replace(stack, kv_bytes_per_element=_fact(self.kv_bytes, "the source's own format of the cache"))
        if self.flash and stack.attention_score_bytes > ON_CHIP_BYTES:
            stack = replace(stack, attention_score_bytes=_fact(ON_CHIP_BYTES, "flash attention"))
        return RunConfig(
            self.deployment,
            self.model,
            self.precision,
            stack,
            self.policies,
            load_site("world"),
            LoadWorkload(self.load),
        )

    def memory(self, config: RunConfig) -> MemoryPlan:
        """Return the memory of a run of `config`, with room for what was measured; errors as `memory_of`."""
        if not self.least_blocks:
            return memory_of(config)
        plan = plan_memory(config.serving, self.policies)
        return replace(plan, kv_blocks=max(plan.kv_blocks, self.least_blocks))


def profile_for(device: Device, name: str) -> Stack:
    """Return a stack's parameters on a card; of software without a profile of it, those of the card's default."""
    for known in (name, software_of(name), default_stack(device)):
        if known in stack_names() and holds(known, device):
            return load_stack(device, known)
    return load_stack(device)


def scenarios_of(table: PointTable | Iterable[Point]) -> tuple[list[Scenario], list[PointRefusal]]:
    """Read every point of a table: those that can be run, and those that cannot."""
    points = table.points if isinstance(table, PointTable) else table
    read = [scenario_of(point) for point in points]
    return [one for one in read if isinstance(one, Scenario)], [one for one in read if isinstance(one, PointRefusal)]


def scenario_of(point: Point) -> Scenario | PointRefusal:
    """Read one point.

    Returns:
        The run, or why there is none.
    """
    try:
        return _scenario(point)
    except Refused as no:
        return PointRefusal(point, no.reason, no.why)


def _scenario(point: Point) -> Scenario:
    if point.excluded:
        raise Refused(_reason(point.excluded), point.why)
    if point.offload != "none":
        raise Refused(Reason.OFFLOAD, f"weights lie in {point.offload}")
    device = _device(point.device)
    assumed = point.assumed.split(MARK) if point.assumed else []
    stack = point.stack or default_stack(device)
    if not point.flash:
        stack = WITHOUT_FLASH.get(stack, stack)
    if not point.stack:
        assumed.append(f"software: not stated, {stack} taken")
    read = read_model(point.model, point.params_b, stack)
    tp, pp = _split(read.model, point, stack)
    asked = asked_of(point, stack, pp)
    model, said = with_context(read.model, asked.load.longest_tokens)
    scenario = Scenario(
        point=point,
        stack=stack,
        deployment=_deployment(device, point.gpus, tp, pp, point.ep or 1),
        model=model,
        precision=read_precision(point.precision),
        policies=asked.policies,
        load=asked.load,
        metric=point.metric,
        measured=point.value,
        assumed=(*assumed, *read.assumed, *asked.assumed, *said),
        widen=point.widen * read.widen,
        kv_bytes=point.kv_bytes,
        flash=point.flash,
        divide=point.gpus if point.per_gpu else 1,
        power_limit_w=point.power_limit_w,
        whole_machine=point.joules_of == "machine",
    )
    return _with_room(scenario, asked)


def _reason(word: str) -> Reason:
    found = Reason.__members__.get(word.upper().replace("-", "_"))
    if found is None:
        known = ", ".join(reason.name.lower().replace("_", "-") for reason in Reason)
        raise Refused(Reason.NOT_ONE_SETUP, f"excluded = {word!r} is no reason; known: {known}")
    return found


def _device(name: str) -> Device:
    try:
        return load_device(name)
    except HardwareError as fault:
        raise Refused(Reason.UNKNOWN_GPU, str(fault)) from None


def _split(model: ModelSpec, point: Point, stack: str) -> tuple[int, int]:
    """Return tensor-parallel degree and pipeline stages: as stated, whole layers, or the widest degree there is.

    Where experts are spread and nothing else is said, every GPU has all of the rest.

    Raises:
        Refused: no split gives every GPU a share.
    """
    replicas = max((point.ep or 1) // (point.tp or 1), 1)
    count = point.gpus // replicas
    degrees = (
        [1] if software_of(stack) in BY_LAYERS else [n for n in range(GPUS_PER_GROUP, 0, -1) if model.heads % n == 0]
    )
    for tp in [point.tp or 1] if point.tp or point.ep else degrees:
        if count % tp == 0 and count // tp <= model.layers:
            return tp, count // tp
    raise Refused(Reason.NO_SPLIT, f"{model.layers} layers cannot be split over {count} GPUs")


def _deployment(device: Device, count: int, tp: int, pp: int, ep: int) -> Deployment:
    try:
        return make_deployment(device, count, tp, pp, ep=ep)
    except HardwareError as fault:
        raise Refused(Reason.NO_SPLIT, str(fault)) from None


def _fact(value: float, source: str) -> Fact:
    return Fact(value, source, "2026-11-20", "assumed", low=value, high=value)


def _with_room(scenario: Scenario, asked: AskedLoad) -> Scenario:
    """Return the scenario with the KV blocks that its run must have had: our estimate of memory is careful at times.

    Raises:
        Refused: it is short by more than an estimate can be off.
    """
    blocks, pool = _blocks_needed(scenario), scenario.deployment.pool
    short_bytes = _short_bytes(scenario, blocks, min(asked.reserve_tokens, scenario.policies.token_budget))
    if short_bytes > SHORT_FRAC * pool.usable_memory_bytes:
        raise Refused(
            Reason.NO_FIT,
            f"{scenario.model.name} in {scenario.precision.name} with {scenario.load.name} needs "
            f"{short_bytes / 1e9:.1f} GB more than each {pool.device.name} has",
        )
    # Prompts of a whole batch in one iteration are our way to time them; no engine sets memory aside for that.
    if _short_bytes(scenario, blocks, scenario.policies.token_budget) <= 0.0:
        return scenario
    mark = f"memory: it ran, although we find it {short_bytes / 1e9:.1f} GB short"
    assumed = (*scenario.assumed, mark) if short_bytes > 0.0 else scenario.assumed
    return replace(scenario, least_blocks=blocks, assumed=assumed)


def _blocks_needed(scenario: Scenario) -> int:
    """Return the KV blocks with which the run goes through: all of a static batch, or one request where some wait."""
    load, policies = scenario.load, scenario.policies
    per_block = policies.block_tokens
    if load.arrivals_s is not None or load.seats is not None or len(load.prompts) > policies.max_seqs:
        blocks = -(-load.longest_tokens // per_block)
    else:
        pairs = zip(load.prompts, load.outputs, strict=True)
        blocks = sum(-(-(prompt + output) // per_block) for prompt, output in pairs)
        blocks += 2 * -(-load.cached_tokens // per_block)
    blocks = -(-blocks // scenario.deployment.pool.replicas)
    return int(blocks / (1.0 - policies.watermark_frac)) + 2 * scenario.deployment.pool.pp + 4


def _short_bytes(scenario: Scenario, blocks: int, iteration_tokens: int) -> float:
    """Return the bytes that lack on the fullest GPU for so many KV blocks and iterations of so many tokens."""
    serving = scenario.config(scenario.stack_profile()).serving
    plan = plan_memory(serving, replace(scenario.policies, token_budget=iteration_tokens))
    return plan.weights_bytes + plan.reserve_bytes + blocks * plan.block_bytes - plan.capacity_bytes

"""Software stacks: what share of a device's peaks its software reaches, and what it adds per layer and step.

The few free parameters of the time model live here and nowhere else. A file holds a stack, its tables are pools: for
one device (`p40`), for the cards of an architecture with HBM or with GDDR memory (`pascal-hbm`), or for all of it
(`pascal`). The most specific pool that there is holds.

    inherits = "generic"        # optional: a shipped stack, or the path of a TOML from this file's folder on

What a file leaves out, a parameter of a pool or a pool, is its parent's, with the parent's source, date and interval. A
device's pool takes after the parent's most specific one for that device. A file without a parent is complete.

    [pascal-gddr]
    basis = "fitted"            # what its values stand on, one of BASES; of a model class in `seen` it is "measured"
    seen = ["dense:int4"]       # model classes (see `model_class`) with points among those fitted to; optional
    quantised_in = "int8"       # arithmetic of weight-only formats, where the device has it; default "fp16"
    mem_efficiency = { value = 0.7, low = 0.5, high = 0.85, source = "..." }     # and so on, of PARAMETERS
    [pascal-gddr.spread]        # optional: measured over predicted time (joules) lies within nine times in ten
    decode = { value = 1.0, low = 0.8, high = 1.3, source = "..." }
"""

import functools
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from afterwatt.hwprofiles.catalogue import device_names, load_device
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.errors import HardwareError, did_you_mean, unknown_name
from afterwatt.hwprofiles.facts import Fact, Rule
from afterwatt.hwprofiles.kernels import QUERY_TILE
from afterwatt.hwprofiles.tables import DATA_DIR, Table, profile_label, read_profile
from afterwatt.modelspecs.precision import Precision
from afterwatt.modelspecs.spec import ModelSpec

STACKS_DIR: Final = DATA_DIR / "stacks"
DEFAULT_STACK: Final = "generic"
ENGINE: Final = "engine"
"""This house's own engine on a processor: the one shipped stack that knows of no GPU, and thus not among the others."""
_ENGINE_OF_OLD_CARDS: Final = "llama.cpp-cuda"
_ENGINE_OF_NEW_CARDS: Final = "vllm"
_OLD: Final = ("kepler", "maxwell", "pascal", "volta", "turing")
"""Before bf16 and flash attention: what today's serving engines are not written for."""
BASES: Final = ("measured", "fitted", "pooled", "assumed")
PHASES: Final = ("prefill", "decode", "energy")
QUANTISED_IN: Final = ("fp16", "int8")
SUMS_IN: Final = ("fp32", "fp16")
DECODE_SHAPES: Final = ("as-is", "padded")

_SHARE: Final = Rule(0.002, 1.0, ((0.01, "percent"),))
_REACHED: Final = Rule(0.002, 1.5, ((0.01, "percent"),))
"""Of a peak that may have been measured, on a shared machine, in a slower hour."""
_TIME: Final = Rule(0.0, 0.5, ((1e-3, "milliseconds"), (1e-6, "microseconds")))
_SHARPNESS: Final = Rule(1.0, 100.0)
_OPS: Final = Rule(0.0, 1000.0)
_BYTES: Final = Rule(0.25, 8.0)
_FACTOR: Final = Rule(0.01, 100.0, ((0.01, "percent"),))


class Parameter(NamedTuple):
    """One parameter of a stack.

    Attributes:
        rule: bounds outside of which a value is a slip of the unit.
        low, high: bounds within which a fit may look for it; equal for what is a fact of a format and not fitted.
        when: iterations that it acts on: "always", "attention" (part of every iteration, told by long contexts), "tp"
            (split models), "quantised", "fp8", "moe", "mixed" (decoding beside prompts), "batch" (many sequences).
        kernel: part of a kernel's own law, which kernel tables tell; else the engine's around it.
        name: field of `Stack`.
    """

    rule: Rule
    low: float
    high: float
    when: str = "always"
    kernel: bool = False
    name: str = ""


class Spread(NamedTuple):
    """Factors on time (joules for energy) between which measured over predicted lies nine times in ten."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The free parameters of the time model, for one pool of devices under one software stack.

    Attributes:
        name, pool: stack (or the path of its file) and pool, for reports.
        mem_efficiency: share of peak bandwidth at which weights stream.
        compute_efficiency: share of peak FLOP/s in large products of 16- and 32-bit weights.
        few_rows, few_rows_mem_efficiency: products of so many rows or fewer reach another share of the bandwidth; 0
            where there is no such difference.
        kernel_latency_s: time of a matrix product without work.
        roofline_sharpness: p of the p-norm that joins a product's traffic and arithmetic.
        attention_mem_efficiency, attention_compute_efficiency, attention_latency_s: the same for attention kernels.
        attention_block_s: time of an attention kernel per sequence and KV head.
        attention_score_bytes: moved per head and query-key pair where scores pass through memory (no flash attention).
        quantised_compute_efficiency: as compute_efficiency, for formats that are scaled back.
        fp8_compute_efficiency: the same for fp8 on devices that compute in it.
        dequant_int8_ops_per_weight, dequant_int4_ops_per_weight, dequant_fp8_ops_per_weight: vector instructions to
            scale a weight back, in units of the device's fp32 multiply-adds; int4's holds below 8 bits.
        vector_rows, vector_ops_per_weight: quantised products of so many rows or fewer run in vector instructions, as
            many for each weight and each row after the first; 0: they run as all others do.
        unpack_rows: from so many rows on quantised matrices are unpacked first, and multiplied in 16 or 32 bits.
        expert_efficiency: share of these rates in grouped products of experts.
        router_overhead_s: routing, sorting and merging per mixture-of-experts layer.
        mixed_query_rows: smallest tile of queries in the kernel for prompts, which decoding queries beside prompts
            fill as well; 1 where the engine keeps the two apart.
        layer_overhead_s: gaps and small kernels per layer, on the device.
        launch_s: what the host needs to launch a layer's kernels; an iteration takes no less than that times layers.
        prompt_launch_s: the same in iterations that hold prompts.
        step_overhead_s: scheduling and hand-over per iteration.
        sequence_overhead_s: sampling and bookkeeping per sequence that produces a token.
        wake_s, wake_after_s: what the first iteration after a long rest takes longer, and within what time of rest most
            of it comes about: caches are lost to others, clocks sink.
        comm_efficiency, comm_latency_s: share of a link's bandwidth in collectives, and software latency per hop.
        comm_bulk_efficiency, comm_bulk_tokens: the share for what an iteration has beyond so many tokens.
        kv_bytes_per_element, activation_bytes_per_element: as cached, and as moved between kernels and GPUs.
        front_s: what a request spends outside of the scheduler before its first token is out; no time of the GPU.
        memory_utilisation: share of a GPU's memory that weights, activations and cache may take together.
        free_memory_share: share of the memory left beside weights and activations that the cache takes.
        quantised_in: arithmetic of weight-only formats, one of `QUANTISED_IN`.
        sums_in: what products in fp16 are added up in, one of `SUMS_IN`.
        decode_shape: whether batches that only decode run as they are, or padded as in `modelspecs.padding`.
        basis: what the values stand on, one of `BASES`; seen: model classes among the points fitted to.
        spread: phase (of `PHASES`) -> factors of the 90 % interval; absent where unknown.
        spread_seen: the same for the model classes in `seen`, where it was found apart.
    """

    name: str
    pool: str
    mem_efficiency: Annotated[Fact, Parameter(_REACHED, 0.02, 1.0, kernel=True)]
    compute_efficiency: Annotated[Fact, Parameter(_REACHED, 0.005, 1.0, kernel=True)]
    few_rows: Annotated[Fact, Parameter(Rule(0.0, 1024.0), 0.0, 0.0, kernel=True)]
    few_rows_mem_efficiency: Annotated[Fact, Parameter(_REACHED, 1.0, 1.0, kernel=True)]
    kernel_latency_s: Annotated[Fact, Parameter(_TIME, 1e-7, 2e-4, kernel=True)]
    roofline_sharpness: Annotated[Fact, Parameter(_SHARPNESS, 1.0, 20.0, kernel=True)]
    attention_mem_efficiency: Annotated[Fact, Parameter(_REACHED, 0.005, 1.0, "attention", kernel=True)]
    attention_compute_efficiency: Annotated[Fact, Parameter(_REACHED, 0.005, 1.0, "attention", kernel=True)]
    attention_latency_s: Annotated[Fact, Parameter(_TIME, 1e-7, 5e-4, "attention", kernel=True)]
    attention_block_s: Annotated[Fact, Parameter(_TIME, 1e-10, 1e-6, "batch", kernel=True)]
    attention_score_bytes: Annotated[Fact, Parameter(Rule(0.0, 200.0), 0.01, 100.0, "attention")]
    quantised_compute_efficiency: Annotated[Fact, Parameter(_SHARE, 0.005, 1.0, "quantised")]
    fp8_compute_efficiency: Annotated[Fact, Parameter(_SHARE, 0.005, 1.0, "fp8")]
    dequant_int8_ops_per_weight: Annotated[Fact, Parameter(_OPS, 0.05, 300.0, "quantised")]
    dequant_int4_ops_per_weight: Annotated[Fact, Parameter(_OPS, 0.05, 300.0, "quantised")]
    dequant_fp8_ops_per_weight: Annotated[Fact, Parameter(_OPS, 0.05, 300.0, "quantised")]
    vector_rows: Annotated[Fact, Parameter(Rule(0.0, 1024.0), 0.0, 0.0, kernel=True)]
    vector_ops_per_weight: Annotated[Fact, Parameter(_OPS, 0.05, 300.0, "quantised")]
    unpack_rows: Annotated[Fact, Parameter(Rule(1.0, 1e12), 1e12, 1e12, kernel=True)]
    expert_efficiency: Annotated[Fact, Parameter(_SHARE, 0.01, 1.0, "moe")]
    router_overhead_s: Annotated[Fact, Parameter(_TIME, 1e-7, 5e-3, "moe")]
    mixed_query_rows: Annotated[Fact, Parameter(Rule(1.0, QUERY_TILE), 1.0, QUERY_TILE, "mixed")]
    layer_overhead_s: Annotated[Fact, Parameter(_TIME, 1e-7, 2e-2)]
    launch_s: Annotated[Fact, Parameter(_TIME, 1e-7, 2e-2)]
    prompt_launch_s: Annotated[Fact, Parameter(_TIME, 1e-7, 2e-2)]
    step_overhead_s: Annotated[Fact, Parameter(_TIME, 1e-6, 0.5)]
    sequence_overhead_s: Annotated[Fact, Parameter(_TIME, 1e-7, 1e-2, "batch")]
    wake_s: Annotated[Fact, Parameter(_TIME, 0.0, 0.0)]
    wake_after_s: Annotated[Fact, Parameter(Rule(1e-3, 100.0, ((1e-3, "milliseconds"),)), 1.0, 1.0)]
    comm_efficiency: Annotated[Fact, Parameter(_SHARE, 0.01, 1.0, "tp")]
    comm_latency_s: Annotated[Fact, Parameter(_TIME, 1e-8, 1e-3, "tp")]
    comm_bulk_efficiency: Annotated[Fact, Parameter(_SHARE, 0.01, 1.0, "tp")]
    comm_bulk_tokens: Annotated[Fact, Parameter(Rule(1.0, 1e12), 1e12, 1e12)]
    kv_bytes_per_element: Annotated[Fact, Parameter(_BYTES, 2.0, 2.0)]
    activation_bytes_per_element: Annotated[Fact, Parameter(_BYTES, 2.0, 2.0)]
    front_s: Annotated[Fact, Parameter(_TIME, 0.0, 0.0)]
    memory_utilisation: Annotated[Fact, Parameter(_SHARE, 1.0, 1.0)]
    free_memory_share: Annotated[Fact, Parameter(_SHARE, 1.0, 1.0)]
    quantised_in: str = "fp16"
    sums_in: str = "fp32"
    decode_shape: str = "as-is"
    basis: str = "assumed"
    seen: tuple[str, ...] = ()
    spread: Mapping[str, Spread] = field(default_factory=dict, hash=False)
    spread_seen: Mapping[str, Spread] = field(default_factory=dict, hash=False)

    @property
    def label(self) -> str:
        """How reports call it: its name, or that of its file."""
        return Path(self.name).stem if self.name.endswith(".toml") else self.name

    def spread_for(self, kind: str) -> Mapping[str, Spread]:
        """Return the 90 % factors that hold for a model class: those of the classes seen are narrower."""
        return self.spread_seen if kind in self.seen and self.spread_seen else self.spread

    def basis_for(self, kind: str) -> str:
        """Return what a figure for a model class stands on: "measured" if the class was seen, else the pool's basis."""
        return "measured" if kind in self.seen else self.basis

    def with_values(self, values: Mapping[str, float]) -> "Stack":
        """Return the stack with other values of some parameters; provenance stays, intervals stretch to hold them.

        Raises:
            HardwareError: a name is no parameter.
        """
        varied: dict[str, Any] = {name: _varied(self._fact(name), value) for name, value in values.items()}
        return replace(self, **varied)

    def _fact(self, name: str) -> Fact:
        if name not in _BY_NAME:
            raise unknown_name("parameter of a stack", name, _BY_NAME)
        fact: Fact = getattr(self, name)
        return fact


PARAMETERS: Final = tuple(
    hint.__metadata__[0]._replace(name=name)
    for name, hint in Stack.__annotations__.items()
    if hasattr(hint, "__metadata__")
)
FREE: Final = tuple(parameter for parameter in PARAMETERS if parameter.low < parameter.high)
"""What a fit may vary."""
_BY_NAME: Final = {parameter.name: parameter for parameter in PARAMETERS}


def _varied(fact: Fact, value: float) -> Fact:
    low, high = fact.interval
    return Fact(value, fact.source, fact.checked, fact.kind, min(low, value), max(high, value), fact.note)


def model_class(model: ModelSpec, precision: Precision) -> str:
    """Return how points are pooled: "dense:int4", "moe:fp16", ..."""
    return f"{'moe' if model.experts > 1 else 'dense'}:{precision.family}"


def software_of(stack: str) -> str:
    """Return the software of which a stack is a version: "vllm" of "vllm@2023" and of "vllm", which is today's."""
    return stack.partition("@")[0]


def dequant_parameter(family: str) -> str:
    """Return which parameter holds the instructions to scale back a weight of a quantised family."""
    width = family if family in ("int8", "fp8") else "int4"
    return f"dequant_{width}_ops_per_weight"


# -- files -------------------------------------------------------------------------------------------------------------


def stack_names() -> list[str]:
    """Return the shipped stacks that hold for GPUs; for processors there is `ENGINE`."""
    return sorted(path.stem for path in STACKS_DIR.glob("*.toml"))


def default_stack(device: Device) -> str:
    """Return the shipped stack that a device is commonly run with."""
    if device.architecture == "cpu":
        return ENGINE
    usual = _ENGINE_OF_OLD_CARDS if device.architecture in _OLD else _ENGINE_OF_NEW_CARDS
    return usual if usual in stack_names() and holds(usual, device) else DEFAULT_STACK


def stack_path(name: str) -> Path:
    """Return the file of a stack, given by its name or by the path of a TOML file.

    Raises:
        HardwareError: no such stack is shipped.
    """
    if name.endswith(".toml"):
        return Path(name)
    known = stack_names()
    if name == ENGINE:
        return STACKS_DIR / "cpu" / f"{ENGINE}.toml"
    if name not in known:
        hint = did_you_mean(name, known) or ";"
        raise HardwareError(f"unknown stack {name!r}{hint} known: {', '.join(known)}, or the path of a stack TOML")
    return STACKS_DIR / f"{name}.toml"


def load_stack(device: Device, name: str = DEFAULT_STACK) -> Stack:
    """Return the parameters of a stack on a device.

    Args:
        device: the card.
        name: a shipped stack, or the path of a TOML file of one's own.

    Raises:
        HardwareError: no such stack, a fault in its file, or no pool for the device.
    """
    if name.endswith(".toml"):
        load_pools(name)  # what is wrong with any pool of one's own file is said
    lineage = _lineage(name)
    pools = _pools_in(lineage)
    for pool in pool_names(device):
        if pool in pools:
            return _complete_pool(name, lineage, pool)
    wanted = " or ".join(f"[{pool}]" for pool in pool_names(device))
    raise HardwareError(
        f"stack {name!r} has no pool for {device.key}; it needs a table {wanted} and holds {', '.join(sorted(pools))}"
    )


def holds(name: str, device: Device) -> bool:
    """Tell whether a stack has a pool for a device; errors as `load_stack`, but for a lack of one."""
    return not _pools_in(_lineage(name)).keys().isdisjoint(pool_names(device))


def pool_names(device: Device) -> tuple[str, str, str]:
    """Return the pools that hold for a device, the most specific first."""
    return device.key, f"{device.architecture}-{_memory(device)}", device.architecture


def _memory(device: Device) -> str:
    if device.architecture == "cpu":
        return "ddr"
    return "hbm" if device.memory_type.lower().startswith("hbm") else "gddr"


def load_pools(name: str = DEFAULT_STACK) -> Mapping[str, Stack]:
    """Return all pools of a stack by name, those of its own file first; errors as `load_stack`."""
    lineage = _lineage(name)
    return {pool: _complete_pool(name, lineage, pool) for pool in _pools_in(lineage)}


def stack_files(name: str) -> list[Path]:
    """Return the file of a stack and those that it inherits from, itself first; errors as `load_stack`."""
    return [stamp.path for stamp in _lineage(name)]


def stated_pools(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Return what the files of a stack state together: pool -> field of `Stack` -> value; errors as `load_stack`."""
    lineage = _lineage(name)
    return {pool: _stated_pool(lineage, pool) for pool in _pools_in(lineage)}


def parent_pool(pool: str, pools: Container[str]) -> str | None:
    """Return which of a parent's pools a pool takes after: its namesake, or the most specific one for a device."""
    if pool not in pools and pool in device_names():
        return next((found for found in pool_names(load_device(pool)) if found in pools), None)
    return pool if pool in pools else None


class _Stamp(NamedTuple):
    """A file as it is now: read again when that changes."""

    path: Path
    changed_ns: int = 0
    size: int = 0


class _File(NamedTuple):
    inherits: str | None
    pools: Mapping[str, Mapping[str, Any]]


def _lineage(name: str) -> tuple[_Stamp, ...]:
    found: list[_Stamp] = []
    parent: str | None = name
    while parent is not None:
        path = stack_path(parent)
        if any(stamp.path.resolve() == path.resolve() for stamp in found):
            raise HardwareError(f"{profile_label(path)}: inherits from itself; name another stack, or leave it out")
        try:
            state = path.stat()
            found.append(_Stamp(path, state.st_mtime_ns, state.st_size))
        except OSError:
            found.append(_Stamp(path))  # reading it says what is wrong
        parent = _read_file(found[-1]).inherits
        if parent is not None and parent.endswith(".toml"):
            parent = str(path.parent / parent)
    return tuple(found)


@functools.lru_cache(maxsize=64)
def _read_file(stamp: _Stamp) -> _File:
    def build(table: Table) -> _File:
        table.has("fit")  # how the fit went is for people to read
        parent = table.text("inherits") if table.has("inherits") else None
        pools = [key for key in table.keys() if key not in ("fit", "inherits")]  # noqa: SIM118 - a Table is no dict
        return _File(parent, {pool: _stated(table.table(pool)) for pool in pools})

    return read_profile(stamp.path, build)


def _stated(table: Table) -> dict[str, Any]:
    """Return the fields of `Stack` that a pool's table states."""
    found: dict[str, Any] = {
        parameter.name: table.fact(parameter.name, parameter.rule)
        for parameter in PARAMETERS
        if table.has(parameter.name)
    }
    words = {"quantised_in": QUANTISED_IN, "sums_in": SUMS_IN, "decode_shape": DECODE_SHAPES, "basis": BASES}
    for name, choices in words.items():
        if table.has(name):
            found[name] = table.text(name, choices)
    if table.has("seen"):
        found["seen"] = table.texts("seen")
    for name in ("spread", "spread_seen"):
        if table.has(name):
            spreads = table.facts(name, _FACTOR, PHASES)
            found[name] = {phase: Spread(*fact.interval) for phase, fact in spreads.items()}
    return found


@functools.lru_cache(maxsize=64)
def _pools_in(lineage: tuple[_Stamp, ...]) -> dict[str, None]:
    """Return the pools of files by name, those of the first file first."""
    return dict.fromkeys(pool for stamp in lineage for pool in _read_file(stamp).pools)


def _stated_pool(lineage: tuple[_Stamp, ...], pool: str) -> Mapping[str, Any]:
    """Return what files state of a pool, the first one and those it inherits from."""
    if not lineage:
        return {}
    parent = parent_pool(pool, _pools_in(lineage[1:]))
    taken = _stated_pool(lineage[1:], parent) if parent else {}
    return {**taken, **_read_file(lineage[0]).pools.get(pool, {})}


@functools.lru_cache(maxsize=512)
def _complete_pool(name: str, lineage: tuple[_Stamp, ...], pool: str) -> Stack:
    stated = _stated_pool(lineage, pool)
    values = {parameter.name: value_of(parameter.name, stated) for parameter in PARAMETERS}
    if missing := [parameter for parameter, value in values.items() if value is None]:
        label = profile_label(lineage[0].path)
        raise HardwareError(f"{label}: {pool}.{missing[0]} is missing; state it, or name a stack that it inherits from")
    return Stack(name=name, pool=pool, **{**stated, **values})


_STANDS_FOR: Final = {"prompt_launch_s": "launch_s", "comm_bulk_efficiency": "comm_efficiency"}
"""What holds where nobody states a parameter: engines that make no such difference need not speak of it."""


def _absent(value: float, text: str) -> Fact:
    return Fact(value, text, "2026-11-20", "assumed", value, value)


_ABSENT: Final = {
    "comm_bulk_tokens": _absent(1e12, "no iteration is as large: one share of the link holds for all"),
    "front_s": _absent(0.0, "nothing is known to happen outside of the scheduler"),
    "memory_utilisation": _absent(1.0, "takes all there is"),
    "free_memory_share": _absent(1.0, "the cache takes all that is free"),
    "few_rows": _absent(0.0, "products of few rows run as all others do"),
    "few_rows_mem_efficiency": _absent(1.0, "of no use where few_rows is 0"),
    "vector_rows": _absent(0.0, "quantised products of few rows run as all others do"),
    "vector_ops_per_weight": _absent(2.0, "of no use where vector_rows is 0"),
    "unpack_rows": _absent(1e12, "quantised matrices are never unpacked whole"),
    "wake_s": _absent(0.0, "a rest costs nothing that is known"),
    "wake_after_s": _absent(1.0, "of no use where wake_s is 0"),
    "attention_score_bytes": _absent(0.01, "flash attention: scores stay on the chip; not 0, so that a fit can start"),
}


def value_of(parameter: str, stated: Mapping[str, Any]) -> Fact | None:
    """Return what a parameter is where a pool and its parents state so much; None where it must be stated."""
    for name, known in ((parameter, stated), (parameter, _ABSENT), (_STANDS_FOR.get(parameter, ""), stated)):
        if name in known:
            fact: Fact = known[name]
            return fact
    return None

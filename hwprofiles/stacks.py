"""Software stacks: what share of a device's peaks its software reaches, and what it adds per layer and step.

The few free parameters of the time model live here and nowhere else. A pool holds for an architecture (or for its cards
with HBM, or with GDDR memory, where the two behave differently).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hwprofiles.errors import unknown_name
from hwprofiles.facts import Fact, Rule
from hwprofiles.tables import DATA_DIR, Table, read_profile

if TYPE_CHECKING:
    from hwprofiles.devices import Device

STACKS_DIR: Final = DATA_DIR / "stacks"
_SHARE: Final = Rule(0.005, 1.0, ((0.01, "percent"),))
_TOKENS: Final = Rule(0.0, 10_000.0)
_OVERHEAD: Final = Rule(0.0, 0.5, ((1e-3, "milliseconds"), (1e-6, "microseconds")))
_ELEMENTS: Final = Rule(1e9, 1e15, ((1e9, "billions"),))
_BYTES: Final = Rule(0.25, 8.0)


@dataclass(frozen=True, slots=True)
class Stack:
    """The free parameters of the time model, for one architecture under one software stack.

    Attributes:
        name, pool: stack and pool, for reports.
        mem_efficiency: share of peak bandwidth at which weights stream.
        compute_efficiency: share of peak FLOP/s in large GEMMs.
        gemm_half_tokens: tokens at which a GEMM reaches half of that (Hockney's n_half).
        attention_mem_efficiency, attention_compute_efficiency: the same shares for attention kernels.
        layer_overhead_s, step_overhead_s: launches and gaps per layer; scheduling and hand-over per iteration.
        sequence_overhead_s: sampling and bookkeeping per sequence that produces a token.
        comm_efficiency, comm_latency_s: share of a link's bandwidth in collectives, and software latency per step.
        kv_bytes_per_element, activation_bytes_per_element: as cached, and as sent between GPUs.
        dequant_elements_per_s: stored precision -> weights scaled back per second, where that is not hidden.
    """

    name: str
    pool: str
    mem_efficiency: Fact
    compute_efficiency: Fact
    gemm_half_tokens: Fact
    attention_mem_efficiency: Fact
    attention_compute_efficiency: Fact
    layer_overhead_s: Fact
    step_overhead_s: Fact
    sequence_overhead_s: Fact
    comm_efficiency: Fact
    comm_latency_s: Fact
    kv_bytes_per_element: Fact
    activation_bytes_per_element: Fact
    dequant_elements_per_s: Mapping[str, Fact] = field(hash=False)


def load_stack(device: "Device", name: str = "generic") -> Stack:
    """Return the parameters of a stack on a device.

    Raises:
        HardwareError: no such stack, or it has no pool for the device's architecture.
    """
    known = sorted(path.stem for path in STACKS_DIR.glob("*.toml"))
    if name not in known:
        raise unknown_name("stack", name, known)
    pools = _pools(name)
    memory = "hbm" if device.memory_type.lower().startswith("hbm") else "gddr"
    for pool in (f"{device.architecture}-{memory}", device.architecture):
        if pool in pools:
            return pools[pool]
    raise unknown_name(f"architecture of stack {name}", device.architecture, pools)


@functools.cache
def _pools(name: str) -> dict[str, Stack]:
    def build(table: Table) -> dict[str, Stack]:
        return {pool: _read(name, pool, table.table(pool)) for pool in table.keys()}  # noqa: SIM118 - a Table is no dict

    return read_profile(STACKS_DIR / f"{name}.toml", build)


def _read(name: str, pool: str, table: Table) -> Stack:
    dequant = table.table("dequant_elements_per_s") if table.has("dequant_elements_per_s") else None
    return Stack(
        name=name,
        pool=pool,
        mem_efficiency=table.fact("mem_efficiency", _SHARE),
        compute_efficiency=table.fact("compute_efficiency", _SHARE),
        gemm_half_tokens=table.fact("gemm_half_tokens", _TOKENS),
        attention_mem_efficiency=table.fact("attention_mem_efficiency", _SHARE),
        attention_compute_efficiency=table.fact("attention_compute_efficiency", _SHARE),
        layer_overhead_s=table.fact("layer_overhead_s", _OVERHEAD),
        step_overhead_s=table.fact("step_overhead_s", _OVERHEAD),
        sequence_overhead_s=table.fact("sequence_overhead_s", _OVERHEAD),
        comm_efficiency=table.fact("comm_efficiency", _SHARE),
        comm_latency_s=table.fact("comm_latency_s", _OVERHEAD),
        kv_bytes_per_element=table.fact("kv_bytes_per_element", _BYTES),
        activation_bytes_per_element=table.fact("activation_bytes_per_element", _BYTES),
        dequant_elements_per_s={} if dequant is None else {key: dequant.fact(key, _ELEMENTS) for key in dequant.keys()},  # noqa: SIM118
    )

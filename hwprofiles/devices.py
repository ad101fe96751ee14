"""GPUs as facts: what a card can hold, move and compute, what it draws, what it cost to make.

A processor that computes by itself is one too: architecture `cpu`, slot `socket`, its memory the host's own. No such
profile ships; `afterwatt calibrate` writes one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from afterwatt.hwprofiles import facts
from afterwatt.hwprofiles.embodied import EmbodiedFact, embodied_methods, embodied_parts, read_embodied
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.tables import Table, read_fields

ARCHITECTURES: Final = (
    "kepler", "maxwell", "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell", "gcn5", "cdna2", "cdna3",
    "xehpg", "xe2", "cpu",
)  # fmt: skip
PRECISIONS: Final = ("fp32", "fp16", "bf16", "int8", "fp8", "int4", "fp4", "fp16-fp16")
"""Arithmetic of matrix products; the last one adds up in fp16 as well, which GeForce cards do at twice the rate."""
SOCKET: Final = "socket"
"""What a processor sits in: it brings the host's memory along, and no link lies between it and that."""
SLOTS: Final = ("pcie", "sxm2", "sxm4", "sxm5", "sxm6", "oam", SOCKET)
"""What a card plugs into; `sxm6` is the B200's socket, `oam` that of AMD's accelerators."""
ECC_KINDS: Final = ("none", "inline", "sideband")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU as software sees it (a K80 board holds two).

    Attributes:
        key: catalogue name.
        name: what people call it.
        vendor: maker.
        architecture: one of `ARCHITECTURES`.
        year: year of first sale.
        slot: what it plugs into, one of `SLOTS`.
        gpus_per_board: GPUs that share one slot.
        compute_capability: CUDA compute capability, as text ("5.2"); of AMD's the target ("gfx942").
        memory_bytes: installed memory.
        memory_type: GDDR5, HBM2, ...
        mem_bandwidth_bytes_per_s: peak of the memory interface, ECC off.
        flops_per_s: peak dense rate by precision of the arithmetic the card really has; no key, no fast path.
        pcie_gen: generation of its host link; None for a processor, which has none.
        pcie_lanes: lanes of its host link; 0 for a processor.
        nvlink_bytes_per_s: unidirectional sum over all links of NVLink, or AMD's Infinity Fabric; None where there is
            none (bridges that join pairs are not counted).
        tdp_w: board power limit per GPU.
        idle_w: power with a model loaded and nothing to do.
        bare_idle_w: power with no process on the card; None where unknown.
        streaming_w: power while memory streams at `mem_bandwidth_bytes_per_s`; None where it was not measured.
        computing_w: power while matrix products run at the best of `flops_per_s`; None where it was not measured.
        ecc: `none`, `inline` (check bits live in the ordinary memory) or `sideband` (own memory, free of charge).
        ecc_default_on: whether such cards are commonly run with ECC.
        ecc_capacity_frac: share of the memory that ECC takes when on; None for a card without ECC.
        ecc_bandwidth_frac: share of the bandwidth that ECC takes when on; None for a card without ECC.
        die_mm2: area of the GPU's silicon (all compute dies).
        process_nm: nominal node.
        embodied_gco2e: published figures, by method; several of one method may disagree.
        price_used_usd: second-hand price; None if there is no market.
        price_new_usd: price when new; None if unknown.
        lifetime_s: years in service over which it is written off.
        default_hosts: hosts that can hold it, smallest first.
        note: what to know about it.
    """

    key: str
    name: str
    vendor: str
    architecture: Annotated[str, ARCHITECTURES]
    year: Annotated[int, range(2000, 2101)]
    slot: str
    gpus_per_board: int
    compute_capability: str
    memory_bytes: Annotated[Fact, facts.MEMORY]
    memory_type: str
    mem_bandwidth_bytes_per_s: Annotated[Fact, facts.BANDWIDTH]
    flops_per_s: Mapping[str, Fact] = field(hash=False)
    pcie_gen: int | None
    pcie_lanes: int
    nvlink_bytes_per_s: Annotated[Fact | None, facts.BANDWIDTH]
    tdp_w: Annotated[Fact, facts.CARD_POWER]
    idle_w: Annotated[Fact, facts.IDLE_POWER]
    bare_idle_w: Annotated[Fact | None, facts.IDLE_POWER]
    ecc: str
    ecc_default_on: bool
    ecc_capacity_frac: Annotated[Fact | None, facts.SHARE_LOST]
    ecc_bandwidth_frac: Annotated[Fact | None, facts.SHARE_LOST]
    die_mm2: Annotated[Fact, facts.AREA_MM2]
    process_nm: Annotated[Fact, facts.NODE_NM]
    embodied_gco2e: tuple[EmbodiedFact, ...]
    price_used_usd: Annotated[Fact | None, facts.PRICE]
    price_new_usd: Annotated[Fact | None, facts.PRICE]
    lifetime_s: Annotated[Fact, facts.LIFETIME]
    default_hosts: tuple[str, ...]
    note: str = ""
    streaming_w: Annotated[Fact | None, facts.CARD_POWER] = None
    computing_w: Annotated[Fact | None, facts.CARD_POWER] = None

    @property
    def form(self) -> str:
        """Return `pcie`, `sxm`, `oam` or `socket`."""
        return self.slot[:3] if self.slot.startswith("sxm") else self.slot

    def usable_memory_bytes(self, ecc_on: bool) -> float:
        """Return memory bytes left when ECC has taken its share."""
        taken = self.ecc_capacity_frac if ecc_on and self.ecc_capacity_frac is not None else 0.0
        return self.memory_bytes * (1.0 - taken)

    def peak_bytes_per_s(self, ecc_on: bool) -> float:
        """Return peak memory bytes per second with ECC on or off."""
        taken = self.ecc_bandwidth_frac if ecc_on and self.ecc_bandwidth_frac is not None else 0.0
        return self.mem_bandwidth_bytes_per_s * (1.0 - taken)

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the embodied methods known for this card."""
        return embodied_methods(self.embodied_gco2e)

    def embodied(self, method: str) -> Fact | None:
        """Return grams to make the card under one method (interval over its sources); None where unknown."""
        return embodied_parts(self.embodied_gco2e, method).get("card")


def read_device(table: Table, key: str) -> Device:
    """Make a device from its TOML table (see `hwprofiles/data/gpus/m40-24.toml` for the form)."""
    ecc, slot = table.text("ecc", ECC_KINDS), table.text("slot", SLOTS)
    device = read_fields(
        table,
        Device,
        key=key,
        slot=slot,
        gpus_per_board=table.integer("gpus_per_board", 1, 8, default=1),
        flops_per_s=table.facts("flops_per_s", facts.FLOPS, PRECISIONS),
        pcie_gen=None if slot == SOCKET else table.integer("pcie_gen", 1, 5),
        pcie_lanes=0 if slot == SOCKET else table.integer("pcie_lanes", 1, 16),
        ecc=ecc,
        ecc_default_on=table.flag("ecc_default_on", default=ecc != "none"),
        embodied_gco2e=read_embodied(table, "embodied_gco2e", facts.CARD_EMBODIED, ("card",)),
    )
    table.close()  # a slip in a key explains what else may look wrong
    _check_device(table, device)
    return device


def _check_device(table: Table, device: Device) -> None:
    """Check what no single bound can: that the numbers of one card fit together."""
    if (device.architecture == "cpu") != (device.slot == SOCKET):
        raise table.error(
            f"architecture = {device.architecture!r} in slot = {device.slot!r}; a processor (cpu) sits in a {SOCKET}, "
            "and nothing else does"
        )
    for name in ("streaming_w", "computing_w"):
        loaded_w = getattr(device, name)
        if loaded_w is not None and loaded_w <= device.idle_w:
            raise table.error(f"{name} = {loaded_w} must be above idle_w = {device.idle_w}")
    if "fp32" not in device.flops_per_s:
        raise table.error("flops_per_s.fp32 is missing; every GPU computes in fp32")
    if device.idle_w >= device.tdp_w:
        raise table.error(f"idle_w = {device.idle_w} must be below tdp_w = {device.tdp_w}")
    if device.ecc == "none" and device.ecc_default_on:
        raise table.error("ecc_default_on = true, but ecc = 'none'; a card without ECC cannot have it on")
    has_costs = [cost is not None for cost in (device.ecc_capacity_frac, device.ecc_bandwidth_frac)]
    if device.ecc == "none" and any(has_costs):
        raise table.error("ecc = 'none', so ecc_capacity_frac and ecc_bandwidth_frac have no meaning; remove them")
    if device.ecc != "none" and not all(has_costs):
        raise table.error(f"ecc = {device.ecc!r} needs ecc_capacity_frac and ecc_bandwidth_frac")
    if device.ecc == "sideband" and (device.ecc_capacity_frac or device.ecc_bandwidth_frac):
        raise table.error("ecc = 'sideband' costs nothing; ecc_capacity_frac and ecc_bandwidth_frac must be 0")
    if not device.embodied_gco2e:
        raise table.error("embodied_gco2e is missing; give at least one figure with its method")

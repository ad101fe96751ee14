"""Servers as facts: which cards they hold, and what everything that is not a GPU draws, weighs and costs."""

from dataclasses import dataclass
from typing import Final

from afterwatt.hwprofiles import facts
from afterwatt.hwprofiles.devices import SLOTS, SOCKET, Device
from afterwatt.hwprofiles.embodied import EmbodiedFact, embodied_methods, embodied_parts, read_embodied
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.tables import Table

HOST_PARTS: Final = ("server", "chassis", "board", "cpu", "dram", "psu", "fans", "nic", "assembly")
"""Parts of a host; `server` is a figure that its source does not split. Disks come from their own profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A class of server, without its GPUs.

    Powers are on the DC side of the power supply; divide by `psu_efficiency` for the wall. Where the device is a
    processor in a socket, that and its memory are the device's: the host's own figures for both are 0.

    Attributes:
        key: catalogue name.
        name: what it is.
        memory_generation: `ddr3`, `ddr4` or `ddr5`.
        cards: boards it can hold, power and cool.
        slots: slot types it has (`Device.slot`).
        pcie_gen: generation of its slots.
        card_tdp_w: largest board power per slot.
        cpu: its processors.
        sockets: how many of them.
        cpu_tdp_w: power limit of one of them.
        cpu_idle_w: all processors, no work.
        cpu_active_w: what they draw on top while its GPUs are busy.
        dram_bytes: installed memory.
        dram_w_per_byte: power of installed memory per byte.
        dram_bandwidth_bytes_per_s: peak over all channels.
        fans_w: fans with the GPUs at work.
        base_w: board, management controller, voltage conversion.
        psu_efficiency: DC out over AC in at working load.
        standby_w: drawn at the wall when off.
        nic: key of its network link.
        nic_w: network card.
        storage: key of its disk.
        disks: how many of them.
        embodied_gco2e: published figures by method and part.
        price_usd: price of such a server, without cards, at today's market.
        lifetime_s: years in service over which it is written off.
        note: what to know about it.
    """

    key: str
    name: str
    memory_generation: str
    cards: int
    slots: tuple[str, ...]
    pcie_gen: int
    card_tdp_w: Fact
    cpu: str
    sockets: int
    cpu_tdp_w: Fact
    cpu_idle_w: Fact
    cpu_active_w: Fact
    dram_bytes: Fact
    dram_w_per_byte: Fact
    dram_bandwidth_bytes_per_s: Fact
    fans_w: Fact
    base_w: Fact
    psu_efficiency: Fact
    standby_w: Fact
    nic: str
    nic_w: Fact
    storage: str
    disks: int
    embodied_gco2e: tuple[EmbodiedFact, ...]
    price_usd: Fact
    lifetime_s: Fact
    note: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the embodied methods known for this host."""
        return embodied_methods(self.embodied_gco2e)

    def embodied(self, method: str) -> dict[str, Fact]:
        """Return part -> grams under one method, without disks and cards; empty where unknown."""
        return embodied_parts(self.embodied_gco2e, method)

    def gpus(self, device: Device) -> int:
        """Return how many GPUs of this kind it holds: boards times GPUs per board; 0 if the card does not go in."""
        return 0 if self.refusal(device) else self.cards * device.gpus_per_board

    def refusal(self, device: Device) -> str | None:
        """Return why this card cannot go into this host, or None if it can."""
        if device.slot not in self.slots:
            return f"{device.key} is a {device.slot} card and host {self.key} has {', '.join(self.slots)} slots"
        board_w = device.tdp_w * device.gpus_per_board
        if board_w > self.card_tdp_w:
            return (
                f"a board of {device.key} draws {board_w:g} W and host {self.key} feeds {self.card_tdp_w:g} W per card"
            )
        return None


def read_host(table: Table, key: str) -> Host:
    """Make a host from its TOML table (see `hwprofiles/data/hosts/ddr3-2u.toml` for the form)."""
    slots = table.texts("slots", SLOTS)
    if SOCKET in slots and len(slots) > 1:
        raise table.error(f"slots = {list(slots)} mixes {SOCKET} with others; a processor is a device or the host's")
    return Host(
        key=key,
        name=table.text("name"),
        memory_generation=table.text("memory_generation", ("ddr3", "ddr4", "ddr5")),
        cards=table.integer("cards", 1, 64),
        slots=slots,
        pcie_gen=table.integer("pcie_gen", 1, 5),
        card_tdp_w=table.fact("card_tdp_w", facts.CARD_POWER),
        cpu=table.text("cpu"),
        sockets=table.integer("sockets", 1, 16),
        cpu_tdp_w=table.fact("cpu_tdp_w", facts.PART_POWER),
        cpu_idle_w=table.fact("cpu_idle_w", facts.PART_POWER),
        cpu_active_w=table.fact("cpu_active_w", facts.PART_POWER),
        dram_bytes=table.fact("dram_bytes", facts.NO_MEMORY if SOCKET in slots else facts.MEMORY),
        dram_w_per_byte=table.fact("dram_w_per_byte", facts.POWER_PER_BYTE),
        dram_bandwidth_bytes_per_s=table.fact("dram_bandwidth_bytes_per_s", facts.BANDWIDTH),
        fans_w=table.fact("fans_w", facts.PART_POWER),
        base_w=table.fact("base_w", facts.PART_POWER),
        psu_efficiency=table.fact("psu_efficiency", facts.EFFICIENCY),
        standby_w=table.fact("standby_w", facts.PART_POWER),
        nic=table.text("nic"),
        nic_w=table.fact("nic_w", facts.PART_POWER),
        storage=table.text("storage"),
        disks=table.integer("disks", 0, 64),
        embodied_gco2e=read_embodied(table, "embodied_gco2e", facts.PART_EMBODIED, HOST_PARTS),
        price_usd=table.fact("price_usd", facts.PRICE),
        lifetime_s=table.fact("lifetime_s", facts.LIFETIME),
        note=table.text("note", default=" ").strip(),
    )

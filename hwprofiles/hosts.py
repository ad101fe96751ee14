"""Servers as facts: which cards they hold, and what everything that is not a GPU draws, weighs and costs."""

from dataclasses import dataclass
from typing import Annotated, Final

from afterwatt.hwprofiles import facts
from afterwatt.hwprofiles.devices import SLOTS, SOCKET, Device
from afterwatt.hwprofiles.embodied import EmbodiedFact, embodied_methods, embodied_parts, read_embodied
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.tables import Table, read_fields

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
    memory_generation: Annotated[str, ("ddr3", "ddr4", "ddr5")]
    cards: Annotated[int, range(1, 65)]
    slots: tuple[str, ...]
    pcie_gen: Annotated[int, range(1, 6)]
    card_tdp_w: Annotated[Fact, facts.CARD_POWER]
    cpu: str
    sockets: Annotated[int, range(1, 17)]
    cpu_tdp_w: Annotated[Fact, facts.PART_POWER]
    cpu_idle_w: Annotated[Fact, facts.PART_POWER]
    cpu_active_w: Annotated[Fact, facts.PART_POWER]
    dram_bytes: Fact
    dram_w_per_byte: Annotated[Fact, facts.POWER_PER_BYTE]
    dram_bandwidth_bytes_per_s: Annotated[Fact, facts.BANDWIDTH]
    fans_w: Annotated[Fact, facts.PART_POWER]
    base_w: Annotated[Fact, facts.PART_POWER]
    psu_efficiency: Annotated[Fact, facts.EFFICIENCY]
    standby_w: Annotated[Fact, facts.PART_POWER]
    nic: str
    nic_w: Annotated[Fact, facts.PART_POWER]
    storage: str
    disks: Annotated[int, range(65)]
    embodied_gco2e: tuple[EmbodiedFact, ...]
    price_usd: Annotated[Fact, facts.PRICE]
    lifetime_s: Annotated[Fact, facts.LIFETIME]
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
    return read_fields(
        table,
        Host,
        key=key,
        slots=slots,
        dram_bytes=table.fact("dram_bytes", facts.NO_MEMORY if SOCKET in slots else facts.MEMORY),
        embodied_gco2e=read_embodied(table, "embodied_gco2e", facts.PART_EMBODIED, HOST_PARTS),
    )

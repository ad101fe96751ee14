"""Solid-state disks as facts: bandwidth, random reads, power, what a byte of flash cost to make."""

from dataclasses import dataclass
from typing import Annotated

from afterwatt.hwprofiles import facts
from afterwatt.hwprofiles.embodied import EmbodiedFact, embodied_methods, embodied_parts, read_embodied
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.tables import Table, read_fields

_PRICE_PER_BYTE = facts.Rule(1e-12, 1e-8, ((1e-9, "USD per GB"), (1e-12, "USD per TB")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """One disk.

    Attributes:
        key: catalogue name.
        name: the drive the numbers are of.
        interface: `sata`, `pcie3`, ...
        capacity_bytes: size.
        read_bytes_per_s: sequential read.
        random_read_per_s: 4 KiB random reads per second with a deep queue.
        latency_s: one 4 KiB random read with nothing else in flight.
        active_w: power while reading.
        idle_w: power in a server that is on, with the disk ready.
        embodied_gco2e_per_byte: published figures by method.
        price_usd_per_byte: price of a byte when new.
    """

    key: str
    name: str
    interface: Annotated[str, ("sata", "pcie3", "pcie4", "pcie5")]
    capacity_bytes: Annotated[Fact, facts.DISK_SIZE]
    read_bytes_per_s: Annotated[Fact, facts.DISK_BANDWIDTH]
    random_read_per_s: Annotated[Fact, facts.RATE_PER_S]
    latency_s: Annotated[Fact, facts.LATENCY]
    active_w: Annotated[Fact, facts.PART_POWER]
    idle_w: Annotated[Fact, facts.PART_POWER]
    embodied_gco2e_per_byte: tuple[EmbodiedFact, ...]
    price_usd_per_byte: Annotated[Fact, _PRICE_PER_BYTE]

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the embodied methods known for this disk."""
        return embodied_methods(self.embodied_gco2e_per_byte)

    def embodied_per_byte(self, method: str) -> Fact | None:
        """Return grams per byte under one method; None where unknown."""
        return embodied_parts(self.embodied_gco2e_per_byte, method).get("ssd")


def read_storage(table: Table, key: str) -> Storage:
    """Make a disk from its TOML table."""
    rows = read_embodied(table, "embodied_gco2e_per_byte", facts.EMBODIED_PER_BYTE, ("ssd",))
    return read_fields(table, Storage, key=key, embodied_gco2e_per_byte=rows)

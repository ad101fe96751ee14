"""Links as facts: PCIe, NVLink and Ethernet; how fast a byte goes from here to there, and what starting costs."""

from dataclasses import dataclass
from typing import Annotated, Final

from afterwatt.hwprofiles import facts
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.storage import Storage
from afterwatt.hwprofiles.tables import Table, read_fields

LINK_KINDS: Final = ("pcie", "nvlink", "network")
_COPY_LATENCY: Final = Fact(
    1e-6, "assumption of this project: a call and a page or two", "2026-11-20", "assumed", 1e-7, 1e-5
)


@dataclass(frozen=True, slots=True)
class Link:
    """A link in one direction.

    Attributes:
        key: catalogue name, or `nvlink:<device>` for a card's own.
        name: what people call it.
        kind: one of `LINK_KINDS`; `memory` for a processor's copies within its memory, `disk` for reading one.
        bytes_per_s: line rate, unidirectional.
        efficiency_frac: share of the line rate that a large transfer reaches.
        latency_s: time from start to first byte of one transfer.
        peer_latency_s: the same where a kernel writes to another GPU's memory itself, without the host starting it
            (None: no less).
    """

    key: str
    name: str
    kind: Annotated[str, LINK_KINDS]
    bytes_per_s: Annotated[Fact, facts.LINK_BANDWIDTH]
    efficiency_frac: Annotated[Fact, facts.EFFICIENCY]
    latency_s: Annotated[Fact, facts.LATENCY]
    peer_latency_s: Annotated[Fact | None, facts.LATENCY] = None

    @property
    def effective_bytes_per_s(self) -> float:
        """Return the rate that a large transfer reaches."""
        return self.bytes_per_s * self.efficiency_frac


def read_link(table: Table, key: str) -> Link:
    """Make a link from its TOML table."""
    return read_fields(table, Link, key=key)


def nvlink_of(device: Device, template: Link) -> Link | None:
    """Return the card's NVLink, with the efficiency and latency of the catalogue's `nvlink`; None if it has none."""
    if device.nvlink_bytes_per_s is None:
        return None
    return Link(
        key=f"nvlink:{device.key}",
        name=f"NVLink of {device.name}",
        kind="nvlink",
        bytes_per_s=device.nvlink_bytes_per_s,
        efficiency_frac=template.efficiency_frac,
        latency_s=template.latency_s,
    )


def memory_link(device: Device) -> Link:
    """Return what a processor has in place of a host link: copies within its memory, each byte read and written."""
    rate = device.mem_bandwidth_bytes_per_s
    low, high = (bound / 2.0 for bound in rate.interval)
    halved = Fact(
        rate / 2.0, rate.source, rate.checked, rate.kind, low, high, "half of the bandwidth: read and written"
    )
    whole = Fact(1.0, rate.source, rate.checked, rate.kind, 1.0, 1.0)
    return Link(f"memory:{device.key}", f"memory of {device.name}", "memory", halved, whole, _COPY_LATENCY)


def disk_link(storage: Storage) -> Link:
    """Return a disk as what it is to those who read from it: a server of bytes at its sequential rate."""
    rate = storage.read_bytes_per_s
    whole = Fact(1.0, rate.source, rate.checked, rate.kind, 1.0, 1.0)
    return Link(f"disk:{storage.key}", storage.name, "disk", rate, whole, storage.latency_s)


def narrowed(link: Link, lanes_frac: float) -> Link:
    """Return the link with only a share of its lanes (x8 of x16, or two GPUs behind one slot)."""
    if lanes_frac == 1.0:
        return link
    rate = link.bytes_per_s
    low, high = rate.interval
    note = f"{lanes_frac:g} of {link.name}" + (f"; {rate.note}" if rate.note else "")
    narrow = Fact(rate * lanes_frac, rate.source, rate.checked, rate.kind, low * lanes_frac, high * lanes_frac, note)
    return Link(link.key, link.name, link.kind, narrow, link.efficiency_frac, link.latency_s, link.peer_latency_s)

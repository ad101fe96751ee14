"""What runs: how many of which card, how they share a model, in which hosts, over which links.

`parse_deployment("2xa100-80:tp2")` for the usual case, the path of a device's TOML for one of your own; a TOML file
like this where host, network or disk are to be chosen too:

    name = "attic"            # optional; how reports call it
    device = "m40"            # a catalogue name, or the path of a device TOML
    count = 4                 # GPUs in all; default 1
    tp = 2                    # tensor parallel; default 1
    pp = 1                    # pipeline stages; default 1
    ep = 1                    # GPUs that the experts of a mixture are spread over; default 1: none are
    host = "ddr3-2u"          # default: the smallest of the device's default hosts that holds all cards
    network = "ethernet-10g"  # default: the host's
    storage = "sata"          # default: the host's
    ecc = false               # default: as such cards are commonly run
    # default: `hwprofiles.experts.EXPERT_IMBALANCE`, load of the GPU with the busiest experts over the mean
    expert_imbalance = { value = 1.3, source = "a log of our own", checked = 2026-11-20, kind = "measured" }
    power_cap_w = 250         # default: the card's own limit
    pcie = "3x8"              # generation and lanes of each card's slot; default: what card and host have in common
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from afterwatt.hwprofiles.capping import require_cap
from afterwatt.hwprofiles.catalogue import ALIASES, load_device, load_host, load_link, load_storage
from afterwatt.hwprofiles.devices import Device, read_device
from afterwatt.hwprofiles.errors import HardwareError, did_you_mean
from afterwatt.hwprofiles.experts import EXPERT_IMBALANCE, IMBALANCE
from afterwatt.hwprofiles.fabric import Fabric, PoolLinks
from afterwatt.hwprofiles.facts import Fact, Rule
from afterwatt.hwprofiles.hosts import Host
from afterwatt.hwprofiles.links import Link, disk_link, memory_link, narrowed, nvlink_of
from afterwatt.hwprofiles.storage import Storage
from afterwatt.hwprofiles.tables import Table, read_profile

_SHORT: Final = re.compile(r"(?:(?P<count>[0-9]{1,12})x)?(?P<device>[^:]+?)(?::(?P<split>.*))?\Z", re.DOTALL)
_SPLIT: Final = re.compile(r"(tp|pp|ep)([0-9]{1,12})")
_SPLIT_FORM: Final = "write tpN, ppN, epN or several, as in tpNppNepN"
_MAX_COUNT: Final = 1_000_000
_WATTS: Final = Rule(1.0, 3000.0)
_SLOT: Final = re.compile(r"([345])(?:\.0)?x(1|2|4|8|16)")
_FORM: Final = (
    "write for example m40, 4xm40, 2xa100-80:tp2, 8xh100-sxm:tp4pp2, 8xh100-sxm:ep8 or the path of a device's or "
    "deployment's TOML"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Cards of one kind in hosts, split into replicas of one model.

    Attributes:
        device: the card.
        tp: tensor-parallel degree: GPUs that share every layer.
        pp: pipeline stages.
        ep: GPUs that the experts of a mixture are spread over, each whole on one of them; 1: every replica splits its
            own. They serve the tokens of `ep / tp` replicas together, which hold all else of the model each.
        expert_imbalance: load of the busiest of those GPUs over their mean.
        replicas: copies of the model, experts apart.
        host: the server.
        hosts: how many of them; a tensor-parallel group stays in one host where it can.
        storage: disk of a host.
        ecc_on: whether ECC is on.
        power_cap_w: that each card is set to; None: its own limit.
    """

    device: Device
    tp: int
    pp: int
    ep: int
    expert_imbalance: Fact
    replicas: int
    host: Host
    hosts: int
    storage: Storage
    ecc_on: bool
    power_cap_w: float | None = None

    @property
    def gpus_per_replica(self) -> int:
        """Return the GPUs of one replica."""
        return self.tp * self.pp

    @property
    def sharing(self) -> int:
        """Return the replicas that share their experts; 1: each has its own."""
        return max(self.ep // self.tp, 1)

    @property
    def expert_load(self) -> float:
        """Return the load of the GPU with the busiest experts over the mean; 1 where each has a slice of all."""
        return self.expert_imbalance if self.ep > 1 else 1.0

    @property
    def count(self) -> int:
        """Return the GPUs in all."""
        return self.replicas * self.gpus_per_replica

    @property
    def usable_memory_bytes(self) -> float:
        """Return memory bytes of one GPU, less what ECC takes."""
        return self.device.usable_memory_bytes(self.ecc_on)

    @property
    def peak_bytes_per_s(self) -> float:
        """Return peak memory bytes per second of one GPU, less what ECC takes."""
        return self.device.peak_bytes_per_s(self.ecc_on)


@dataclass(frozen=True, slots=True)
class Deployment:
    """All that runs.

    Attributes:
        name: how reports call it.
        pools: cards of one kind each.
        fabric: the links inside of pools and between them.
    """

    name: str
    pools: tuple[Pool, ...]
    fabric: Fabric

    @property
    def pool(self) -> Pool:
        """Return the only pool.

        Raises:
            HardwareError: there are several, and what asks knows of one.
        """
        if len(self.pools) != 1:
            raise HardwareError(f"{self.name} has {len(self.pools)} pools, where one is asked for; deploy one")
        return self.pools[0]

    def with_pool(self, pool: Pool) -> "Deployment":
        """Return the deployment with another pool in place of its only one; the links stay as they are."""
        return replace(self, pools=(pool,))


def parse_deployment(text: str) -> Deployment:
    """Return the deployment that a command-line word or a TOML file describes.

    Raises:
        HardwareError: the word, a name in it or the combination makes no sense.
    """
    word = text.strip()
    if word.endswith(".toml"):
        return load_deployment(Path(word))
    match = _SHORT.match(word)
    if match is None:
        raise HardwareError(f"--hw {text!r} is no deployment; {_FORM}")
    tp, pp, ep = _parse_split(text, match["split"])
    device = _device_of(match["device"], text)
    count = int(match["count"]) if match["count"] is not None else None
    gpus = max(tp, ep) * pp
    if count is None and gpus > 1:
        better = f"{gpus}x{match['device']}:{match['split']}"
        raise HardwareError(f"--hw {text!r} splits a model over {gpus} GPUs but names one; write {better}")
    spelt = match["device"].endswith(".toml") or match["device"] in (device.key, *ALIASES)
    return make_deployment(device, 1 if count is None else count, tp, pp, ep=ep, name=word if spelt else None)


def _device_of(name: str, text: str) -> Device:
    try:
        return load_device(name)
    except HardwareError as fault:
        raise HardwareError(f"--hw {text!r}: {fault}") from None


def _parse_split(text: str, split: str | None) -> tuple[int, int, int]:
    if split is None:
        return 1, 1, 1
    parts = _SPLIT.findall(split)
    if not parts or "".join(kind + number for kind, number in parts) != split.replace(",", "") or len(parts) > 3:
        hint = did_you_mean(split, ("tp2", "pp2", "ep2", "tp2pp2"))
        raise HardwareError(f"--hw {text!r}: {split!r} is no split{hint or ';'} {_SPLIT_FORM}")
    degrees = {kind: int(number) for kind, number in parts}
    if len(degrees) != len(parts):
        twice = next(kind for kind, _ in parts if sum(kind == other for other, _ in parts) > 1)
        raise HardwareError(f"--hw {text!r}: {split!r} names {twice} twice; {_SPLIT_FORM}")
    return degrees.get("tp", 1), degrees.get("pp", 1), degrees.get("ep", 1)


def load_deployment(path: Path) -> Deployment:
    """Return the deployment of a TOML file (see the module's docstring for the form); of a device's, one of it."""

    def build(table: Table) -> Deployment:
        if table.has("architecture"):  # what every device says, and no deployment
            return make_deployment(read_device(table, path.stem))
        device = load_device(_beside(path, table.text("device")))
        count, tp, pp, ep = (table.integer(key, 1, _MAX_COUNT, default=1) for key in ("count", "tp", "pp", "ep"))
        host = load_host(_beside(path, table.text("host"))) if table.has("host") else None
        net_link = load_link(_beside(path, table.text("network"))) if table.has("network") else None
        storage = load_storage(_beside(path, table.text("storage"))) if table.has("storage") else None
        ecc_on = table.flag("ecc") if table.has("ecc") else None
        imbalance = table.optional_fact("expert_imbalance", IMBALANCE)
        cap_w = table.number("power_cap_w", _WATTS) if table.has("power_cap_w") else None
        slot = _slot(table, device) if table.has("pcie") else None
        name = table.text("name", default=path.stem)
        table.close()  # a slip in a key explains what else may look wrong
        made = make_deployment(
            device,
            count,
            tp,
            pp,
            ep=ep,
            imbalance=imbalance,
            host=host,
            net_link=net_link,
            storage=storage,
            ecc_on=ecc_on,
            slot=slot,
            name=name,
        )
        return made if cap_w is None else made.with_pool(capped(made.pool, cap_w))

    return read_profile(path, build)


def _slot(table: Table, device: Device) -> Link:
    """Return the link of a stated slot: no faster than the card."""
    said = table.text("pcie")
    match = _SLOT.fullmatch(said)
    if match is None or device.pcie_gen is None:
        rule = f"{device.key} has none" if match else "write generation and lanes"
        raise table.error(f'pcie = {said[:40]!r} is no slot; {rule}, as in pcie = "3x8" (generations 3 to 5)')
    link = load_link(f"pcie{min(int(match[1]), device.pcie_gen)}")
    return narrowed(link, min(int(match[2]), device.pcie_lanes) / 16 / device.gpus_per_board)


def capped(pool: Pool, power_cap_w: float) -> Pool:
    """Return a pool whose cards are set to a power cap.

    Raises:
        HardwareError: no such card can be.
    """
    require_cap(pool.device, power_cap_w)
    return replace(pool, power_cap_w=power_cap_w)


def _beside(path: Path, name: str) -> str:
    """Return a profile's path relative to the deployment's own folder; catalogue names as they are."""
    return str(path.parent / name) if name.endswith(".toml") else name


def make_deployment(
    device: Device,
    count: int = 1,
    tp: int = 1,
    pp: int = 1,
    *,
    ep: int = 1,
    imbalance: Fact | None = None,
    host: Host | None = None,
    net_link: Link | None = None,
    storage: Storage | None = None,
    ecc_on: bool | None = None,
    slot: Link | None = None,
    name: str | None = None,
) -> Deployment:
    """Return a checked deployment, filling in what is not given by the device's and the host's defaults.

    Raises:
        HardwareError: counts do not divide, the host cannot hold the card, a layer would be shared among hosts though
            a host is named and no network, or ECC is asked of a card that has none.
    """
    _check_counts(device, count, tp, pp, ep)
    group = max(tp, ep)
    if ecc_on and device.ecc == "none":
        raise HardwareError(f"{device.key} has no ECC; leave ecc out or set it to false")
    chosen = default_host(device, count) if host is None else host
    if refusal := chosen.refusal(device):
        raise HardwareError(f"{refusal}; hosts that hold it: {', '.join(device.default_hosts)}")
    network = load_link(chosen.nic) if net_link is None else net_link
    if network.kind != "network":
        raise HardwareError(f"network = {network.key!r} is a {network.kind} link; give a network such as ethernet-25g")
    pcie = pcie_link(device, chosen) if slot is None else slot
    inside = _link_between_gpus(device, pcie)
    per_host = chosen.gpus(device)
    if group > per_host and host is not None and net_link is None:
        room = "slot for it" if per_host == 1 else f"slots for {device.key}"
        degree = f"tp {tp}" if tp > per_host else f"ep {ep}"
        raise HardwareError(
            f"{degree} shares every layer among {group} x {device.key}, and {chosen.key} has {per_host} {room}: each "
            f"layer would cross {network.key}; take a larger host or pp, or name the network in a TOML to mean that "
            f'(network = "{network.key}")'
        )
    disk = load_storage(chosen.storage) if storage is None else storage
    hosts, replicas = _hosts_needed(count, group, pp, per_host), count // (tp * pp)
    links = PoolLinks(
        tensor=inside if tp <= per_host else _slower(inside, network),
        stage=inside if group * pp <= per_host else _slower(inside, network),
        experts=inside if group <= per_host else narrowed(network, 1.0 / per_host),
        host=pcie,
        disk=disk_link(disk),
        network=network,
        hosts=hosts,
        replicas=replicas,
    )
    pool = Pool(
        device=device,
        tp=tp,
        pp=pp,
        ep=ep,
        expert_imbalance=EXPERT_IMBALANCE if imbalance is None else imbalance,
        replicas=replicas,
        host=chosen,
        hosts=hosts,
        storage=disk,
        ecc_on=device.ecc_default_on if ecc_on is None else ecc_on,
    )
    return Deployment(name or short_name(device.key, count, tp, pp, ep), (pool,), Fabric((links,)))


def _check_counts(device: Device, count: int, tp: int, pp: int, ep: int) -> None:
    for noun, number in (("count", count), ("tp", tp), ("pp", pp), ("ep", ep)):
        if not 1 <= number <= _MAX_COUNT:
            raise HardwareError(f"{noun} = {number} of {device.key} must lie in 1..{_MAX_COUNT}")
    if ep > 1 and ep % tp:
        raise HardwareError(
            f"ep {ep} of {device.key} spreads experts over whole replicas, and is no multiple of tp {tp}; "
            f"take ep {-(-ep // tp) * tp}, or another tp"
        )
    group = max(tp, ep) * pp
    if count % group:
        nearest = max(count // group, 1) * group
        shared = f"groups of ep {ep}" if ep > tp else f"replicas of tp {tp}"
        raise HardwareError(
            f"{count} x {device.key} cannot be split into {shared} x pp {pp} = {group} GPUs; "
            f"take a multiple of {group}, {nearest} for example"
        )


def short_name(key: str, count: int, tp: int, pp: int, ep: int = 1) -> str:
    """Write a deployment as one types it: l40s, 4xl40s:tp4, 8xl40s:tp2pp2, 8xl40s:ep8."""
    split = "".join(f"{kind}{degree}" for kind, degree in (("tp", tp), ("pp", pp), ("ep", ep)) if degree > 1)
    return (f"{count}x" if count > 1 else "") + key + (f":{split}" if split else "")


def default_host(device: Device, count: int) -> Host:
    """Return the smallest of the device's default hosts that holds all GPUs, else the largest."""
    hosts = [load_host(key) for key in device.default_hosts]
    return next((host for host in hosts if host.gpus(device) >= count), hosts[-1])


def pcie_link(device: Device, host: Host) -> Link:
    """Return the link between a GPU and its host: the older generation of the two, the lanes of the card.

    GPUs that share a board share its slot, so each gets its part. A processor's is its own memory.
    """
    if device.pcie_gen is None:
        return memory_link(device)
    link = load_link(f"pcie{min(device.pcie_gen, host.pcie_gen)}")
    return narrowed(link, device.pcie_lanes / 16 / device.gpus_per_board)


def _link_between_gpus(device: Device, pcie: Link) -> Link:
    return nvlink_of(device, load_link("nvlink")) or pcie


def _slower(one: Link, other: Link) -> Link:
    return min((one, other), key=lambda link: link.effective_bytes_per_s)


def _hosts_needed(count: int, tp: int, pp: int, per_host: int) -> int:
    """Return the hosts that hold all replicas; none, and no group that shares a layer, straddles hosts needlessly."""
    replica = tp * pp
    replicas = count // replica
    if replica <= per_host:
        return -(-replicas // (per_host // replica))
    if tp <= per_host:
        return replicas * -(-pp // (per_host // tp))
    return replicas * -(-replica // per_host)

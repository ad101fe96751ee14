"""What making a pool emitted: cards and whole servers, by method, and what a run carries of it by allocation.

Methods are scenarios side by side: a method's total is its cards plus its servers. Where a method knows the cards but
not the server or its disks, those come from another method (`FALLBACK`), and a note says so; where it does not know the
cards it is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from afterwatt.hwprofiles.assumptions import SecondLife, ledger_assumptions
from afterwatt.hwprofiles.embodied import DEFAULT_METHOD, METHODS
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.lives import Life, allocated_frac, new_life, second_hand_life
from afterwatt.hwprofiles.replicas import DEFAULT_HOST_SHARE, gpus_counted, hosts_counted
from afterwatt.hwprofiles.units import S_PER_YEAR

if TYPE_CHECKING:
    from afterwatt.hwprofiles.deployment import Pool

Figure = TypeVar("Figure")

FALLBACK: Final = {"die-only": "act"}
"""Method that fills in servers and disks where a method has none: the nearest in scope, else `DEFAULT_METHOD`."""
WITH_SERVER: Final = ("server-share",)
"""Methods whose card figure already holds its share of the server."""
WITH_DISKS: Final = ("vendor-pcf", "eserve", "parametric-boavizta")
"""Methods whose figure for a `server` as a whole already holds its disks."""
ACQUISITIONS: Final = ("auto", "new", "second-hand", "owned")
REFERENCE_YEAR: Final = 2026.0
"""The year from which ages are counted; a fixed one, so that a run gives the same result next year."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """How the hardware came to its present owner, and for how long it stays.

    Attributes:
        acquisition: `new` (bought for this), `second-hand` (bought for this), `owned` (there already), or `auto`: new,
            or second-hand from the age at which first owners have written such cards off.
        lifetime_s: years in service of new hardware; None for each profile's own.
        service_s: further years of second-hand hardware; None for the shipped assumption.
        at_year: the year in which the run takes place.
    """

    acquisition: str = "auto"
    lifetime_s: float | None = None
    service_s: float | None = None
    at_year: float = REFERENCE_YEAR

    def __post_init__(self) -> None:
        if self.acquisition not in ACQUISITIONS:
            raise HardwareError(
                f"acquisition = {self.acquisition!r} is not known; it is one of {', '.join(ACQUISITIONS)}"
            )
        for name in ("lifetime_s", "service_s"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise HardwareError(f"{name} = {value!r} must be above 0 s")

    def second_hand(self, year: int, lifetime_s: float) -> bool:
        """Return whether a card first sold in some year is in a second life."""
        aged = self.age_s(year) >= lifetime_s
        return {"auto": aged, "new": False, "second-hand": True, "owned": aged}[self.acquisition]

    def age_s(self, year: int) -> float:
        """Return the age of a card first sold in some year."""
        return max(self.at_year - year, 0.0) * S_PER_YEAR

    def life(self, age_s: float, lifetime_s: float, second_hand: bool) -> Life:
        """Return the life of a card, or of the server around it, which is taken to be as old."""
        owned = self.acquisition == "owned"
        if not second_hand:
            return new_life(float(self.lifetime_s or lifetime_s), owned)
        service_s = self.service_s or ledger_assumptions().second_life.service_s
        return second_hand_life(max(age_s, S_PER_YEAR), float(lifetime_s), float(service_s), owned)


@dataclass(frozen=True, slots=True)
class Item:
    """Equal things of a pool under one method.

    Attributes:
        key: profile of the thing.
        noun: `card` or `host`.
        count: how many of them; a fraction where a server is shared.
        gco2e: what making one emitted.
        extra_gco2e: what its second life adds: transport, refurbishment, spares; 0 for new things.
        life: its life.
    """

    key: str
    noun: str
    count: float
    gco2e: Fact
    extra_gco2e: float
    life: Life

    def allocated_gco2e(self, allocation: str, reserved_s: float) -> float:
        """Return grams that a reserved stretch, from acquisition on, carries of all of them."""
        making, extra = self.shares(allocation, reserved_s)
        return self.count * (self.gco2e * making + self.extra_gco2e * extra)

    def shares(self, allocation: str, reserved_s: float) -> tuple[float, float]:
        """Return the shares of making and of the second life's extras that a reserved stretch carries."""
        start_s = self.life.acquired_s
        making = allocated_frac(allocation, self.life, start_s, start_s + reserved_s)
        return making, reserved_s / self.life.service_s


@dataclass(frozen=True, slots=True)
class Footprint:
    """A pool's embodied carbon under one method.

    Attributes:
        method: a key of `METHODS`.
        items: cards and hosts.
        notes: what comes from another method, and why.
    """

    method: str
    items: tuple[Item, ...]
    notes: tuple[str, ...]

    @property
    def total_gco2e(self) -> float:
        """Return grams that making everything emitted, second-life extras apart."""
        return sum(item.count * item.gco2e for item in self.items)

    def allocated_gco2e(self, allocation: str, reserved_s: float) -> float:
        """Return grams that a reserved stretch carries."""
        return sum(item.allocated_gco2e(allocation, reserved_s) for item in self.items)


def footprints(
    pool: "Pool", ownership: Ownership | None = None, host_share: str = DEFAULT_HOST_SHARE
) -> dict[str, Footprint | None]:
    """Return method -> footprint for every known method; None where a method does not know the cards."""
    ownership = ownership or Ownership()
    return {method: method_footprint(pool, method, ownership, host_share) for method in METHODS}


def method_footprint(
    pool: "Pool", method: str, ownership: Ownership, host_share: str = DEFAULT_HOST_SHARE
) -> Footprint | None:
    """Return a pool's footprint under one method, or None where it does not know the cards."""
    device, host = pool.device, pool.host
    card = device.embodied(method)
    if card is None:
        return None
    used = ownership.second_hand(device.year, device.lifetime_s)
    age_s = ownership.age_s(device.year)
    second = ledger_assumptions().second_life
    items = [
        _item(
            device.key,
            "card",
            gpus_counted(pool, host_share),
            card,
            ownership.life(age_s, device.lifetime_s, used),
            second,
        )
    ]
    notes: list[str] = []
    if method not in WITH_SERVER:
        server, notes = server_gco2e(pool, method)
        life = ownership.life(age_s, host.lifetime_s, used)
        items.append(_item(host.key, "host", hosts_counted(pool, host_share), server, life, second))
    return Footprint(method, tuple(items), tuple(notes))


def server_gco2e(pool: "Pool", method: str) -> tuple[Fact, list[str]]:
    """Return grams of one server with its disks, without cards, and notes on what another method had to fill in."""
    host, storage = pool.host, pool.storage
    parts, notes = _known(method, host.embodied, f"host {host.key}")
    terms = [(fact, 1.0) for fact in parts.values()]
    if host.disks and not (method in WITH_DISKS and "server" in parts):
        per_byte, disk_notes = _known(method, storage.embodied_per_byte, f"disk {storage.key}")
        terms.append((per_byte, host.disks * float(storage.capacity_bytes)))
        notes += disk_notes
    return _sum(terms), notes


def _known(method: str, figure: Callable[[str], Figure | None], what: str) -> tuple[Figure, list[str]]:
    """Return a figure under a method, or under the one that fills in for it together with a note."""
    if found := figure(method):
        return found, []
    fallback = FALLBACK.get(method, DEFAULT_METHOD)
    if not (found := figure(fallback)):
        raise HardwareError(f"{what} has no embodied figure under {method} or {fallback}; add one to its profile")
    return found, [f"{what} by {fallback}: {method} has no figure for it"]


def _item(key: str, noun: str, count: float, gco2e: Fact, life: Life, second: SecondLife) -> Item:
    return Item(key, noun, count, gco2e, 0.0 if life.new else second_life_gco2e(noun, gco2e, second), life)


def second_life_gco2e(noun: str, gco2e: float, second: SecondLife) -> float:
    """Return what a second life of one card or host emits: transport + refurbishment + spares x embodied."""
    card = noun == "card"
    moved = second.card_transport_gco2e if card else second.host_transport_gco2e
    refurbished = second.card_refurbishment_gco2e if card else second.host_refurbishment_gco2e
    return moved + refurbished + second.spares_frac * gco2e


def _sum(terms: list[tuple[Fact, float]]) -> Fact:
    """Return the weighted sum of facts; their intervals add up, as a method's errors are shared by its parts."""
    return Fact(
        sum(fact * weight for fact, weight in terms),
        " | ".join(dict.fromkeys(fact.source for fact, _ in terms)),
        max(fact.checked for fact, _ in terms),
        "assumed" if any(fact.kind == "assumed" for fact, _ in terms) else "fitted",
        sum(fact.interval[0] * weight for fact, weight in terms),
        sum(fact.interval[1] * weight for fact, weight in terms),
    )

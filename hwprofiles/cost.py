"""Dollars: hardware over its years in service by reserved time, electricity by the joule, and both per million tokens.

An unknown price is None, and what it enters is None: never 0.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from afterwatt.hwprofiles.footprint import Ownership
from afterwatt.hwprofiles.replicas import DEFAULT_HOST_SHARE, gpus_counted, hosts_counted
from afterwatt.hwprofiles.units import J_PER_KWH

if TYPE_CHECKING:
    from afterwatt.hwprofiles.deployment import Pool


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars of a run.

    Attributes:
        hardware: cards and hosts over the reserved time; None if a price is unknown.
        electricity: energy of the site times its price; None if the price is unknown.
    """

    hardware: float | None
    electricity: float | None

    @property
    def total(self) -> float | None:
        """Return dollars in all; None if a part is unknown."""
        return None if self.hardware is None or self.electricity is None else self.hardware + self.electricity

    def per_million(self, output_tokens: float) -> float | None:
        """Return dollars per million output tokens; None if a price is unknown or no token came out."""
        return self.total / output_tokens * 1e6 if self.total is not None and output_tokens else None


def run_cost(
    pool: "Pool",
    ownership: Ownership,
    reserved_s: float,
    energy_j: float,
    price: float | None,
    host_share: str = DEFAULT_HOST_SHARE,
) -> Cost:
    """Return the cost of a run.

    Args:
        pool: cards and hosts.
        ownership: new cards cost their price when new, others their second-hand price.
        reserved_s: time reserved for the run.
        energy_j: joules of the site.
        price: dollars per kWh; None if unknown.
        host_share: a key of `replicas.HOST_SHARES`.
    """
    electricity = None if price is None else electricity_usd(energy_j, price)
    return Cost(hardware_usd(pool, ownership, reserved_s, host_share), electricity)


def electricity_usd(energy_j: float, usd_per_kwh: float) -> float:
    """Return dollars for electricity: energy / 3.6 MJ x price."""
    return energy_j / J_PER_KWH * usd_per_kwh


def straight_line_usd(price_usd: float, service_s: float, reserved_s: float) -> float:
    """Return the straight-line depreciation of a price over a reserved time, nothing left at the end of service."""
    return price_usd * reserved_s / service_s


def hardware_usd(
    pool: "Pool", ownership: Ownership, reserved_s: float, host_share: str = DEFAULT_HOST_SHARE
) -> float | None:
    """Return dollars for cards and hosts over a reserved time; None if the card's price is unknown."""
    device, host = pool.device, pool.host
    used = ownership.second_hand(device.year, device.lifetime_s)
    age_s = ownership.age_s(device.year)
    card_usd = device.price_used_usd if used else device.price_new_usd
    if card_usd is None:
        return None
    card_s = ownership.life(age_s, device.lifetime_s, used).service_s
    host_s = ownership.life(age_s, host.lifetime_s, used).service_s
    cards = straight_line_usd(float(card_usd), card_s, reserved_s) * gpus_counted(pool, host_share)
    return cards + straight_line_usd(float(host.price_usd), host_s, reserved_s) * hosts_counted(pool, host_share)

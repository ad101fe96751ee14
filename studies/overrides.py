"""What the user knows better than a profile: server, prices, lives, the building's PUE, the price of a kWh."""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afterwatt.hwprofiles.deployment import Deployment
    from afterwatt.hwprofiles.facts import Fact
    from afterwatt.hwprofiles.footprint import Ownership
    from afterwatt.hwprofiles.sites import Site
    from afterwatt.studies.config import StudyConfig


def own_site(study: "StudyConfig", site: "Site") -> "Site":
    """Return a site with the user's PUE and price of electricity, where they are said."""
    if study.pue is not None:
        site = replace(site, pue=_said("pue", study.pue))
    if study.kwh_price_usd is not None:
        site = replace(site, electricity_usd_per_kwh=_said("kwh-price", study.kwh_price_usd))
    return site


def own_hardware(study: "StudyConfig", deployment: "Deployment") -> "Deployment":
    """Return a deployment in the user's server and at the user's prices, where they are said.

    The price of a card stands for the new and the second-hand one: it is what the user paid.

    Raises:
        HardwareError: no such host, or it cannot hold the cards; no card can be set to the power cap.
    """
    from afterwatt.hwprofiles.catalogue import load_host
    from afterwatt.hwprofiles.deployment import capped, make_deployment

    pool = deployment.pool
    device, host = pool.device, pool.host if study.host is None else load_host(study.host)
    if study.server_price_usd is not None:
        host = replace(host, price_usd=_said("server-price", study.server_price_usd))
    if study.card_price_usd is not None:
        price = _said("card-price", study.card_price_usd)
        device = replace(device, price_new_usd=price, price_used_usd=price)
    if study.host is None:
        deployment = deployment.with_pool(replace(pool, device=device, host=host))
    else:
        counts, imbalance = (pool.count, pool.tp, pool.pp), pool.expert_imbalance
        name = deployment.name
        deployment = make_deployment(device, *counts, ep=pool.ep, imbalance=imbalance, host=host, name=name)
    cap_w = pool.power_cap_w if study.power_cap_w is None else study.power_cap_w
    if study.power_cap_w is not None:
        deployment = replace(deployment, name=f"{deployment.name}@{cap_w:g}W")
    return deployment if cap_w is None else deployment.with_pool(capped(deployment.pool, cap_w))


def own_hardware_lives(study: "StudyConfig") -> "Ownership":
    """Return how the hardware came to its owner and how long it stays, where it is said."""
    from afterwatt.hwprofiles.footprint import Ownership
    from afterwatt.hwprofiles.units import S_PER_YEAR

    life_s = None if study.life_years is None else study.life_years * S_PER_YEAR
    return Ownership(study.bought or Ownership().acquisition, life_s, life_s)


def _said(name: str, value: float) -> "Fact":
    from afterwatt.hwprofiles.facts import Fact

    return Fact(value, f"--{name} of this run", "", "assumed", value, value)

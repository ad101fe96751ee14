"""What the user knows better than a profile: a server, what it cost, the building's PUE, the price of a kWh."""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afterwatt.hwprofiles.deployment import Deployment
    from afterwatt.hwprofiles.facts import Fact
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
    """Return a deployment in the user's server and at the user's price of a card, where they are said.

    The price stands for the card's, new and second-hand: it is what the user paid.

    Raises:
        HardwareError: no such host, or it cannot hold the cards.
    """
    from afterwatt.hwprofiles.catalogue import load_host
    from afterwatt.hwprofiles.deployment import make_deployment

    if study.host is None and study.card_price_usd is None:
        return deployment
    pool = deployment.pool
    device, host = pool.device, pool.host if study.host is None else load_host(study.host)
    if study.card_price_usd is not None:
        price = _said("card-price", study.card_price_usd)
        device = replace(device, price_new_usd=price, price_used_usd=price)
    if study.host is None:
        return deployment.with_pool(replace(pool, device=device))
    return make_deployment(device, pool.count, pool.tp, pool.pp, host=host, name=deployment.name)


def _said(name: str, value: float) -> "Fact":
    from afterwatt.hwprofiles.facts import Fact

    return Fact(value, f"--{name} of this run", "", "assumed", value, value)

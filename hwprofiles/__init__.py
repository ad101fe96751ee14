"""Facts about hardware and the physics that turns them into seconds, joules, grams and dollars.

Facts live as TOML under `data/`, every number with its source, date and kind; loaders refuse what is unknown,
unsourced or absurd. This package knows shapes of models (`modelspecs`) and nothing of traces, policies or simulation.

Names below load on first use, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from afterwatt.hwprofiles.catalogue import ALIASES as ALIASES
    from afterwatt.hwprofiles.catalogue import device_names as device_names
    from afterwatt.hwprofiles.catalogue import host_names as host_names
    from afterwatt.hwprofiles.catalogue import link_names as link_names
    from afterwatt.hwprofiles.catalogue import load_device as load_device
    from afterwatt.hwprofiles.catalogue import load_host as load_host
    from afterwatt.hwprofiles.catalogue import load_link as load_link
    from afterwatt.hwprofiles.catalogue import load_site as load_site
    from afterwatt.hwprofiles.catalogue import load_storage as load_storage
    from afterwatt.hwprofiles.catalogue import site_names as site_names
    from afterwatt.hwprofiles.catalogue import storage_names as storage_names
    from afterwatt.hwprofiles.deployment import Deployment as Deployment
    from afterwatt.hwprofiles.deployment import Pool as Pool
    from afterwatt.hwprofiles.deployment import make_deployment as make_deployment
    from afterwatt.hwprofiles.deployment import parse_deployment as parse_deployment
    from afterwatt.hwprofiles.describe import describe_catalogue as describe_catalogue
    from afterwatt.hwprofiles.describe import describe_profile as describe_profile
    from afterwatt.hwprofiles.devices import Device as Device
    from afterwatt.hwprofiles.embodied import METHODS as METHODS
    from afterwatt.hwprofiles.embodied import EmbodiedFact as EmbodiedFact
    from afterwatt.hwprofiles.errors import HardwareError as HardwareError
    from afterwatt.hwprofiles.facts import Fact as Fact
    from afterwatt.hwprofiles.facts import Rule as Rule
    from afterwatt.hwprofiles.grid import HourlyGrid as HourlyGrid
    from afterwatt.hwprofiles.gridfiles import load_grid as load_grid
    from afterwatt.hwprofiles.hosts import Host as Host
    from afterwatt.hwprofiles.links import Link as Link
    from afterwatt.hwprofiles.sites import IntensityFact as IntensityFact
    from afterwatt.hwprofiles.sites import Site as Site
    from afterwatt.hwprofiles.storage import Storage as Storage

_HOME: Final = {
    "catalogue": (
        *("ALIASES", "device_names", "host_names", "link_names", "site_names", "storage_names"),
        *("load_device", "load_host", "load_link", "load_site", "load_storage"),
    ),
    "deployment": ("Deployment", "Pool", "make_deployment", "parse_deployment"),
    "describe": ("describe_catalogue", "describe_profile"),
    "devices": ("Device",),
    "embodied": ("METHODS", "EmbodiedFact"),
    "errors": ("HardwareError",),
    "facts": ("Fact", "Rule"),
    "grid": ("HourlyGrid",),
    "gridfiles": ("load_grid",),
    "hosts": ("Host",),
    "links": ("Link",),
    "sites": ("IntensityFact", "Site"),
    "storage": ("Storage",),
}
_MODULE_OF: Final = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - derived from the table above


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])

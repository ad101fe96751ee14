"""The shipped profiles by name; a name that ends in `.toml` is a file of the user's own instead.

A profile's key is the stem of its file, so adding one is adding a file.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from afterwatt.hwprofiles.devices import Device, read_device
from afterwatt.hwprofiles.errors import unknown_name
from afterwatt.hwprofiles.hosts import Host, read_host
from afterwatt.hwprofiles.links import Link, read_link
from afterwatt.hwprofiles.sites import Site, read_site
from afterwatt.hwprofiles.storage import Storage, read_storage
from afterwatt.hwprofiles.tables import DATA_DIR, Table, read_profile

Profile = TypeVar("Profile")

ALIASES: Final = {
    "m40": "m40-24",
    "p100": "p100-16",
    "v100-pcie": "v100-pcie-16",
    "v100-sxm": "v100-sxm-16",
    "a100-40-sxm": "a100-40",
    "a100-80-sxm": "a100-80",
    "h100": "h100-sxm",
    "h200-sxm": "h200",
    "b200-sxm": "b200",
    "a800": "a800-80",
    "h800-sxm": "h800",
    "a4000": "rtx-a4000",
    "a5000": "rtx-a5000",
    "a6000": "rtx-a6000",
    "rtx6000": "quadro-rtx6000",
    "rtx8000": "quadro-rtx8000",
    "3090": "rtx3090",
    "4090": "rtx4090",
    "rtx3060-12": "rtx3060",
    "rtx3080-10": "rtx3080",
}
"""Short names of devices. Everything else is called by its key."""


def device_names() -> tuple[str, ...]:
    """Return the keys of all shipped devices, sorted (aliases not among them)."""
    return _keys("gpus")


def host_names() -> tuple[str, ...]:
    """Return the keys of all shipped hosts, sorted."""
    return _keys("hosts")


def storage_names() -> tuple[str, ...]:
    """Return the keys of all shipped disks, sorted."""
    return _keys("storage")


def link_names() -> tuple[str, ...]:
    """Return the keys of all shipped links, sorted."""
    return _keys("links")


def site_names() -> tuple[str, ...]:
    """Return the keys of all shipped sites, sorted."""
    return _keys("sites")


def load_device(name: str) -> Device:
    """Return a device by key, alias or path of a TOML.

    Raises:
        HardwareError: the name is unknown or the profile is wrong.
    """
    return _load("gpus", "device", name, read_device, ALIASES)


def load_host(name: str) -> Host:
    """Return a host by key or path of a TOML; errors as `load_device`."""
    return _load("hosts", "host", name, read_host)


def load_storage(name: str) -> Storage:
    """Return a disk by key or path of a TOML; errors as `load_device`."""
    return _load("storage", "storage", name, read_storage)


def load_link(name: str) -> Link:
    """Return a link by key or path of a TOML; errors as `load_device`."""
    return _load("links", "link", name, read_link)


def load_site(name: str) -> Site:
    """Return a site by key or path of a TOML; errors as `load_device`."""
    if not name.endswith(".toml") and _key(name, site_names(), SITE_ALIASES) not in site_names():
        named = {load_site(key).name.casefold(): key for key in site_names()}
        name = named.get(name.casefold(), name)
    folder = Path(name).parent if name.endswith(".toml") else DATA_DIR / "sites"
    return _load("sites", "site", name, functools.partial(_read_site, folder=folder), SITE_ALIASES)


def _read_site(table: Table, key: str, folder: Path) -> Site:
    return read_site(table, key, folder)


def profile_path(folder: str, name: str) -> Path:
    """Return the file of a shipped profile (`profile_path("gpus", "m40-24")`), or the user's own path as given."""
    return Path(name) if name.endswith(".toml") else DATA_DIR / folder / f"{name}.toml"


@functools.cache
def _keys(folder: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (DATA_DIR / folder).glob("*.toml")))


_loaded: dict[tuple[str, str], object] = {}


SITE_ALIASES: Final = {"uk": "gb", "usa": "us", "el": "gr"}
"""Usual names of places that have another key."""

_MAKERS: Final = re.compile(r"\A(?:nvidia|amd|geforce|tesla|instinct|radeon)+|gb\Z")


def _key(name: str, keys: tuple[str, ...], aliases: dict[str, str]) -> str:
    """Return the key that a name means, in any case and with or without a maker: `RTX 4090`, `A100-80GB`, `UK`."""
    folded = name.casefold()
    for said in (name, folded):
        if said in keys or said in aliases:
            return aliases.get(said, said)
    plain = _squashed(folded)
    return next((aliases.get(known, known) for known in (*keys, *aliases) if _squashed(known) == plain), name)


def _squashed(name: str) -> str:
    return _MAKERS.sub("", re.sub(r"[^a-z0-9]", "", name))


def _load(
    folder: str, noun: str, name: str, read: Callable[[Table, str], Profile], aliases: dict[str, str] | None = None
) -> Profile:
    own = name.endswith(".toml")
    name = name if own else _key(name, _keys(folder), aliases or {})
    if not own and name not in _keys(folder):
        raise unknown_name(noun, name, (*_keys(folder), *(aliases or ())))
    path = profile_path(folder, name)
    key = path.stem
    if own:
        return read_profile(path, lambda table: read(table, key))
    if (folder, name) not in _loaded:
        _loaded[folder, name] = read_profile(path, lambda table: read(table, key))
    return _loaded[folder, name]  # type: ignore[return-value]  # one folder holds one kind of profile

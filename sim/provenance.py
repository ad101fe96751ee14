"""Which data files a run stands on, with their hashes: for its manifest, and for whoever keeps results.

Profiles reach a run as resolved objects, so their files are found by what those are called. What is looked up on the
way (links, disks, power, assumptions) is small, and counts for every run as a whole.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from afterwatt.hwprofiles.capping import CAPS_FILE
from afterwatt.hwprofiles.catalogue import load_device, load_host, load_site, profile_path
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.hosts import Host
from afterwatt.hwprofiles.hostwork import TIERS_FILE
from afterwatt.hwprofiles.sites import Site
from afterwatt.hwprofiles.stacks import stack_files
from afterwatt.hwprofiles.tables import DATA_DIR
from afterwatt.modelspecs.catalogue import load_model, model_names
from afterwatt.modelspecs.files import DATA_DIR as MODELS_DIR
from afterwatt.policies.config import RESIDENT
from afterwatt.sim.config import RunConfig
from afterwatt.traces.sample import sample_path

Keyed = TypeVar("Keyed", Device, Host, Site)
SHARED: Final = ("*.toml", "links/*.toml", "storage/*.toml", "power/*.toml", "ledger/*.toml")
"""Hardware data that every run may look into."""
PRESETS: Final = sample_path().with_name("presets.toml")
"""What synthetic traces are drawn from."""


def data_files(config: RunConfig) -> dict[str, str]:
    """Return every data file that a run stands on: path -> SHA-256.

    Shipped files are named within their data (`gpus/m40-24.toml`, `models/llama-2-7b.toml`), a user's own as given.
    """
    shared = (path for pattern in SHARED for path in sorted(DATA_DIR.glob(pattern)))
    stored = (MODELS_DIR / "formats" / name for name in ("gguf.toml", "precisions.toml"))
    caps = [CAPS_FILE] if any(pool.power_cap_w is not None for pool in config.deployment.pools) else []
    tiers = [TIERS_FILE] if config.policies.weights != RESIDENT else []
    named = (*_named(config), *stored, *stack_files(config.stack.name), *shared, *caps, *tiers, PRESETS)
    paths = dict.fromkeys((*named, *config.own_files))
    return {_label(path): sha256_of(path) for path in paths}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _named(config: RunConfig) -> Iterator[Path]:
    """Yield the shipped profiles of the card, the hosts it was placed in or might have been, the site and the model.

    A user's own profile may be called like a shipped one; what it holds tells them apart.
    """
    model = config.model
    for pool in config.deployment.pools:
        yield from _same("gpus", load_device, pool.device)
        yield from _same("hosts", load_host, pool.host)
        yield from (profile_path("hosts", key) for key in pool.device.default_hosts)
    yield from _same("sites", load_site, config.site)
    if model.name in model_names() and load_model(model.name) == model:
        yield MODELS_DIR / f"{model.name}.toml"


def _same(folder: str, load: Callable[[str], Keyed], profile: Keyed) -> Iterator[Path]:
    path = profile_path(folder, profile.key)
    if path.is_file() and load(profile.key) == profile:
        yield path


def _label(path: Path) -> str:
    for folder, label in ((DATA_DIR, ""), (MODELS_DIR, "models"), (PRESETS.parent, "traces")):
        if path.is_relative_to(folder):
            return str(label / path.relative_to(folder))
    return str(path)

"""Words that the shell may complete; names come from the catalogues when they are asked for, not before."""

import re

_COUNT = re.compile(r"(\d+x)(.*)")


def hardware(incomplete: str) -> list[str]:
    """Complete a device, also behind a count: `4xm` to `4xm40`."""
    from afterwatt.hwprofiles import ALIASES, device_names

    counted = _COUNT.fullmatch(incomplete)
    prefix, rest = counted.groups() if counted else ("", incomplete)
    return [prefix + name for name in sorted({*device_names(), *ALIASES}) if name.startswith(rest)]


def profile(incomplete: str) -> list[str]:
    """Complete any hardware profile."""
    from afterwatt.hwprofiles import ALIASES, device_names, host_names, link_names, site_names, storage_names

    names = {*device_names(), *ALIASES, *host_names(), *link_names(), *site_names(), *storage_names()}
    return sorted(name for name in names if name.startswith(incomplete))


def model(incomplete: str) -> list[str]:
    """Complete a model."""
    from afterwatt.modelspecs import model_names

    return [name for name in model_names() if name.startswith(incomplete)]


def precision(incomplete: str) -> list[str]:
    """Complete a precision."""
    from afterwatt.modelspecs import PRECISIONS

    return [name for name in PRECISIONS if name.startswith(incomplete)]


def site(incomplete: str) -> list[str]:
    """Complete a site."""
    from afterwatt.hwprofiles import site_names

    return [name for name in site_names() if name.startswith(incomplete)]


def stack(incomplete: str) -> list[str]:
    """Complete a software stack."""
    from afterwatt.hwprofiles.stacks import stack_names

    return [name for name in stack_names() if name.startswith(incomplete)]


def policy(incomplete: str) -> list[str]:
    """Complete the last word of a policy set: `chunked+sw` to `chunked+swap`."""
    from afterwatt.policies.config import policy_words

    before, plus, last = incomplete.rpartition("+")
    said = [word.partition("=")[0] for word in before.split("+")]
    words = [word for word in policy_words(said) if word.rstrip("=") not in said]
    return [before + plus + word for word in words if word.startswith(last)]


def embodied(incomplete: str) -> list[str]:
    """Complete an embodied method."""
    from afterwatt.hwprofiles.embodied import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def allocation(incomplete: str) -> list[str]:
    """Complete an allocation."""
    from afterwatt.hwprofiles.lives import ALLOCATIONS

    return [name for name in ALLOCATIONS if name.startswith(incomplete)]


def preset(incomplete: str) -> list[str]:
    """Complete a workload preset."""
    from afterwatt.traces import preset_names

    return [name for name in (*preset_names(), "fixed") if name.startswith(incomplete)]


def trace_format(incomplete: str) -> list[str]:
    """Complete a trace format."""
    from afterwatt.traces import FORMATS

    return [name for name in FORMATS if name.startswith(incomplete)]

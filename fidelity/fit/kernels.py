"""A prior that kernel times have gone into: the profile of a stack, with a pool for each card of the table."""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from afterwatt.fidelity.fit.priors import base_stack, profile_of
from afterwatt.fidelity.fit.profile import FitAccount, PoolProfile, profile_text, write_profile
from afterwatt.fidelity.kernels.fit import fit_values
from afterwatt.fidelity.kernels.table import KernelTableError, read_kernels
from afterwatt.hwprofiles.catalogue import device_names, load_device
from afterwatt.hwprofiles.devices import SOCKET
from afterwatt.hwprofiles.errors import did_you_mean
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.stacks import DEFAULT_STACK, ENGINE, PARAMETERS, Spread, Stack, load_pools

REACH: Final = 1.25
"""Factor by which a parameter of a whole engine may lie off what its kernels reach one by one (assumption)."""
_RULES: Final = {parameter.name: parameter.rule for parameter in PARAMETERS}


def write_kernel_prior(kernels: str, stack: str, prior: str, path: Path) -> None:
    """Write the profile that a fit of a stack starts from when kernel times of its cards are known.

    Args:
        kernels: a table of kernel times; docs/fidelity.md has its columns.
        stack: whose.
        prior: shipped stack or path of a profile, or `SHIPPED`, for all that the table does not tell.
        path: file to write.

    Raises:
        KernelTableError: the table cannot be read, or is of a card that is neither in the catalogue nor a TOML.
    """
    table = read_kernels(kernels)
    cards = _cards_of(table, kernels)
    shipped = load_pools(_profile_for(cards.values(), stack, prior))
    pools = []
    for name in [*cards, *(pool for pool in shipped if pool not in cards)]:
        told = cards.get(name)
        profile = prior if told is None else _profile_for([told], stack, prior)
        start = replace(base_stack(name if told is None else told, stack, profile), pool=name)
        if told is not None:
            start = _told(start, fit_values(table[table["device"] == told], start), kernels)
        pools.append(PoolProfile(start, start.basis, start.seen, _pairs(start.spread), _pairs(start.spread_seen)))
    account = FitAccount("", 0, {}, f"prior of a fit, with kernel times of {', '.join(cards)}.")
    write_profile(path, profile_text(stack, pools, account))


def _cards_of(table: pd.DataFrame, kernels: str) -> dict[str, str]:
    """Return pool -> device as the table names it: keys of the catalogue, and stems of device TOMLs."""
    cards: dict[str, str] = {}
    for told in sorted({str(card) for card in table["device"]}):
        key = load_device(told).key if told.endswith(".toml") else told
        if key == told and told not in device_names():
            hint = did_you_mean(told, device_names()) or ";"
            raise KernelTableError(f"{kernels}: device {told!r} is not in the catalogue{hint} see `afterwatt hw list`")
        if key in cards:
            raise KernelTableError(f"{kernels}: {cards[key]!r} and {told!r} would share the pool [{key}]; rename one")
        cards[key] = told
    return cards


def _profile_for(cards: Iterable[str], stack: str, prior: str) -> str:
    """Return the prior's profile; the house's own engine, of which nothing ships for GPUs, starts there as any."""
    profile = profile_of(prior, stack)
    gpus = any(load_device(card).slot != SOCKET for card in cards)
    return DEFAULT_STACK if profile == ENGINE and gpus else profile


def _told(start: Stack, values: dict[str, float], kernels: str) -> Stack:
    today = dt.datetime.now(dt.UTC).date().isoformat()
    facts: dict[str, Any] = {}
    for name, value in values.items():
        low, high = max(_RULES[name].low, value / REACH), min(_RULES[name].high, value * REACH)
        facts[name] = Fact(value, f"kernel times of {Path(kernels).name}", today, "fitted", low, high)
    return replace(start, **facts)


def _pairs(spread: Mapping[str, Spread]) -> dict[str, tuple[float, float]]:
    return {phase: (factors.low, factors.high) for phase, factors in spread.items()}

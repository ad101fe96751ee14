"""A prior that kernel times have gone into: the profile of a stack, with a pool for each card of the table."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fidelity.fit.priors import base_stack, profile_of
from fidelity.fit.profile import Account, Pool, profile_text, write_profile
from fidelity.kernels.fit import fit_values
from fidelity.kernels.table import KernelTableError, read_kernels
from hwprofiles.catalogue import device_names
from hwprofiles.errors import did_you_mean
from hwprofiles.facts import Fact
from hwprofiles.stacks import PARAMETERS, Spread, Stack, load_pools

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
        KernelTableError: the table cannot be read, or is of a card that is not in the catalogue.
    """
    table = read_kernels(kernels)
    cards = sorted({str(card) for card in table["device"]})
    for card in cards:
        if card not in device_names():
            hint = did_you_mean(card, device_names()) or ";"
            raise KernelTableError(f"{kernels}: device {card!r} is not in the catalogue{hint} see `afterwatt hw list`")
    shipped = load_pools(profile_of(prior, stack))
    pools = []
    for name in [*cards, *(pool for pool in shipped if pool not in cards)]:
        start = replace(base_stack(name, stack, prior), pool=name)
        if name in cards:
            start = _told(start, fit_values(table[table["device"] == name], start), kernels)
        pools.append(Pool(start, start.basis, start.seen, _pairs(start.spread), _pairs(start.spread_seen)))
    account = Account("", 0, {}, f"prior of a fit, with kernel times of {', '.join(cards)}.")
    write_profile(path, profile_text(stack, pools, account))


def _told(start: Stack, values: dict[str, float], kernels: str) -> Stack:
    today = dt.datetime.now(dt.UTC).date().isoformat()
    facts: dict[str, Any] = {}
    for name, value in values.items():
        low, high = max(_RULES[name].low, value / REACH), min(_RULES[name].high, value * REACH)
        facts[name] = Fact(value, f"kernel times of {Path(kernels).name}", today, "fitted", low, high)
    return replace(start, **facts)


def _pairs(spread: Mapping[str, Spread]) -> dict[str, tuple[float, float]]:
    return {phase: (factors.low, factors.high) for phase, factors in spread.items()}

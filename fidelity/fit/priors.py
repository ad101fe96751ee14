"""What is believed of a stack's parameters before its points: the values and 90 % intervals of another profile.

By default that profile is `generic`, whose values come from kernel tables and typical overheads. A refit takes a
shipped profile instead, whose values and intervals hold what its own points told: the table they came from is not
needed again.
"""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from math import log
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from afterwatt.fidelity.fit.core import Belief, Prior, StackPlace
from afterwatt.fidelity.points.scenario import WITHOUT_FLASH
from afterwatt.hwprofiles.catalogue import device_names, load_device
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.stacks import (
    DEFAULT_STACK,
    ENGINE,
    FREE,
    Stack,
    load_pools,
    load_stack,
    pool_names,
    stack_names,
)

SHIPPED: Final = "shipped"
"""Every stack starts from its own shipped profile, or from the generic one where it has none."""
SD_PER_REACH: Final = 1.0 / 3.29
"""Standard deviations per width of a normal distribution's 90 % interval."""
LEAST_LOG_SD: Final = 0.02
UNSURE_LOG_SD: Final = 0.7
"""Where an interval reaches down to zero: known within a factor of two to either side."""


class Guess(NamedTuple):
    """A value with its 90 % interval, and why.

    Attributes:
        value, low, high: as believed; of what a host takes, in the year `HOST_YEAR`.
        why: the reason.
        host: whether it is time of the host, which is taken to be as old as its card.
    """

    value: float
    low: float
    high: float
    why: str
    host: bool = False

    def fact(self, year: int) -> Fact:
        """Return it as a profile would hold it, for a card of a year."""
        pace = HOST_PACE ** (HOST_YEAR - year) if self.host else 1.0
        source = f"assumption of this project: {self.why}"
        if self.host:
            source += f"; a host of {HOST_YEAR}, and {HOST_PACE - 1:.0%} less for each year that a card is newer"
        return Fact(self.value * pace, source, CHECKED, "assumed", self.low * pace, self.high * pace)


CHECKED: Final = "2026-11-20"
HOST_YEAR: Final = 2020
HOST_PACE: Final = 1.13
"""What one thread of a server's processor gained a year, by judgement; hosts are as old as the cards they came with."""
ONLY_DP4A: Final = ("pascal", "volta")
"""Architectures with int8 products in vector instructions, and no tensor cores for them."""
QUANTISED_IN: Final[Mapping[str, str]] = MappingProxyType({"llama.cpp-cuda": "int8", "llama.cpp-vulkan": "int8"})
"""Stacks that multiply quantised weights with quantised activations in integers where the device has the instruction
(llama.cpp's MMQ kernels by dp4a: ggml-org/llama.cpp PR 4766); the others scale weights back to 16 bits."""


OWN_FILE: Final = Path(__file__).with_name("priors.toml")
"""What is known of a stack beforehand that its prior's profile does not know; a stack's own profile replaces it."""


@functools.cache
def own_guesses(name: str) -> Mapping[str, Guess]:
    """Return what `OWN_FILE` says of a stack, by parameter; nothing of one that it does not name."""
    said = tomllib.loads(OWN_FILE.read_text(encoding="utf-8")).get(name, {})
    above = own_guesses(said.pop("inherits")) if "inherits" in said else {}
    return {**above, **{parameter: Guess(**guess) for parameter, guess in said.items()}}


def base_stack(device: str, stack: str, prior: str = DEFAULT_STACK) -> Stack:
    """Return the parameters that a stack is believed to have on a device before its points.

    Args:
        device: key of the catalogue, path of a device TOML, or name of a pool of the prior.
        stack: whose.
        prior: shipped stack or path of a profile to start from, or `SHIPPED`.
    """
    profile = profile_of(prior, stack)
    pools = load_pools(profile)
    base = pools[device] if device in pools else load_stack(load_device(device), profile)
    if profile != DEFAULT_STACK:
        return replace(base, name=stack)
    guesses = own_guesses(f"{stack}, {int8_of(device)}") or own_guesses(stack)
    own: dict[str, Any] = {name: guess.fact(year_of(device)) for name, guess in guesses.items()}
    return replace(base, name=stack, quantised_in=QUANTISED_IN.get(stack, base.quantised_in), **own)


@functools.cache
def year_of(pool: str) -> int:
    """Return the year of a card, or the middle one of the cards that a pool holds for."""
    years = sorted(card.year for card in map(load_device, device_names()) if pool in pool_names(card))
    return years[len(years) // 2] if years else HOST_YEAR


def profile_of(prior: str, stack: str) -> str:
    """Return the profile that a stack's prior comes from: its own if `SHIPPED` and there is one, else as given."""
    if prior != SHIPPED:
        return prior
    shipped = WITHOUT_FLASH.get(stack, stack)  # knows what scores cost that pass through memory, which the other hides
    return shipped if shipped in (*stack_names(), ENGINE) else DEFAULT_STACK


@functools.cache
def int8_of(pool: str) -> str:
    """Return what a card, or the cards that a pool holds for, multiply bytes with: none, dp4a or tensor cores."""
    cards = [card for card in map(load_device, device_names()) if pool in pool_names(card)]
    if not all("int8" in card.flops_per_s for card in cards):
        return "none"
    return "dp4a" if any(card.architecture in ONLY_DP4A for card in cards) else "tensor"


def beliefs_of(stack: Stack) -> dict[str, Belief]:
    """Return the beliefs that a profile's values and intervals state, of its free parameters."""
    beliefs = {}
    for parameter in FREE:
        fact = getattr(stack, parameter.name)
        value = min(max(float(fact), parameter.low), parameter.high)
        low, high = fact.interval
        reach = log(max(high, value) / low) * SD_PER_REACH if low > 0.0 else UNSURE_LOG_SD
        beliefs[parameter.name] = Belief(log(value), max(reach, LEAST_LOG_SD), parameter.low, parameter.high)
    return beliefs


def prior_from(profile: str = DEFAULT_STACK) -> Prior:
    """Return the prior that a profile states, for any place."""

    @functools.cache
    def prior(place: StackPlace) -> Mapping[str, Belief]:
        return beliefs_of(base_stack(place.device, place.stack, profile))

    return prior

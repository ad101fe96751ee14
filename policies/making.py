"""How a policy is made: from words of its own, and with somebody to ask what things cost."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, NoReturn, Protocol, TypeVar, cast

from afterwatt.policies.errors import PolicyError
from afterwatt.policies.plans import Tier

T = TypeVar("T")
Maker = Callable[[Mapping[str, str], "CostModel"], T]
"""Makes a policy of its words and of costs."""


class CostModel(Protocol):
    """What a policy may ask about costs; each body answers from what it knows of its hardware.

    Raises:
        PolicyError: the body does not know, or what is asked about is not there.
    """

    def step_s(self, worker: int, tokens: int, context: int) -> float:
        """Return the seconds of an iteration in which so many sequences decode over so many KV entries together."""

    def move_s(self, units: int, src: Tier, dst: Tier) -> float:
        """Return the seconds in which so many KV blocks pass from one tier of a worker to another."""

    def j_per_s(self, worker: int, busy: bool) -> float:
        """Return the watts at the site of a worker and its share of the servers: at rest, or at most when busy."""

    def gco2e_per_j(self, worker: int, at_s: float) -> float:
        """Return the grams of CO2e for a joule at the site, at a time of the run."""


class UnknownCosts:
    """Costs of hardware of which nothing is known: whoever asks is refused."""

    def step_s(self, worker: int, tokens: int, context: int) -> float:
        """Refuse."""
        _refuse(f"what {tokens} tokens over {context} on worker {worker} take")

    def move_s(self, units: int, src: Tier, dst: Tier) -> float:
        """Refuse."""
        _refuse(f"what moving {units} blocks from {src} to {dst} takes")

    def j_per_s(self, worker: int, busy: bool) -> float:
        """Refuse."""
        _refuse(f"what worker {worker} draws {'at work' if busy else 'at rest'}")

    def gco2e_per_j(self, worker: int, at_s: float) -> float:
        """Refuse."""
        _refuse(f"what a joule of worker {worker} emits at {at_s:.10g} s")


def _refuse(what: str) -> NoReturn:
    raise PolicyError(f"a policy asks {what}, which this body does not know; choose one that asks for no costs")


def words_of(kind: Callable[..., Any]) -> tuple[str, ...]:
    """Return the words of its own that a kind of policy declares, as its attribute `words`."""
    return tuple(getattr(kind, "words", ()))


def make(kind: Callable[..., T], own: Iterable[tuple[str, str]], costs: CostModel) -> T:
    """Make a policy.

    Args:
        kind: its class. If it declares `words`, be there any or none, it is a `Maker`; else it takes nothing.
        own: words with their values, perhaps other policies' among them.
        costs: whom it may ask.

    Raises:
        PolicyError: the policy refuses a value.
    """
    if not hasattr(kind, "words"):
        return kind()
    mine = words_of(kind)
    return kind({word: value for word, value in own if word in mine}, costs)


def made(policy: object, kinds: Mapping[str, Callable[..., T]], own: Iterable[tuple[str, str]], costs: CostModel) -> T:
    """Make a policy for one worker, or for one run.

    Args:
        policy: its name, a class that it is made of, or an object, which is copied, as it may remember what it sees.
        kinds: classes by name.
        own: words with their values.
        costs: whom it may ask.
    """
    if isinstance(policy, str):
        return make(kinds[policy], own, costs)
    return make(policy, own, costs) if isinstance(policy, type) else cast("T", _copied(policy))


def _copied(policy: object) -> object:
    """Copy a policy with all that it holds: of a compiled class's heir Python copies only what the class declares."""
    copied = deepcopy(policy)
    if hasattr(copied, "__dict__"):
        vars(copied).update(deepcopy(vars(policy)))
    return copied


def called(policy: object) -> str:
    """Return a policy's name, or its class's."""
    if isinstance(policy, str):
        return policy
    return (policy if isinstance(policy, type) else type(policy)).__name__


def require(what: str, policy: object, asked: tuple[str, ...]) -> None:
    """Refuse an object that is no such policy.

    Args:
        what: it is to be.
        policy: an object, or a class that such are made of.
        asked: names that a policy of the kind has, its method last: what else a class sets on what is made of it.

    Raises:
        PolicyError: it lacks one.
    """
    for name in asked[-1:] if isinstance(policy, type) else asked:
        if not hasattr(policy, name):
            raise PolicyError(f"{called(policy)} is no {what}: it has no {name!r}; docs/policies.md has an example")

"""A policy set: every choice a run makes among policies, by name."""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from afterwatt.policies.batching import BATCHING
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.making import CostModel, UnknownCosts, called, made, require, words_of
from afterwatt.policies.placement import WeightPolicy
from afterwatt.policies.routing import ROUTING
from afterwatt.policies.sizes import Holding, SchedulerConfig
from afterwatt.policies.views import BatchPolicy, RoutePolicy
from afterwatt.policies.weights import WEIGHTS, placement_words

PREEMPTION = ("recompute", "swap")
RESIDENT = "resident"
_NUMBERS = {
    "budget": "token_budget",
    "seqs": "max_seqs",
    "block": "block_tokens",
    "kv": "kv_blocks",
    "queue": "max_queue",
}
_LEAST_UTILISATION = 0.05
_MOST_DIGITS = 12
"""Of a size: Python reads no number of thousands of them."""
_OPTIONS = [*_NUMBERS, "watermark", "utilisation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySet:
    """The policies of a run and their sizes.

    Attributes:
        batching: which sequences run next: a key of `BATCHING`, or a policy of one's own (see `making.made`).
        routing: which replica gets a request: a key of `ROUTING`, or a policy of one's own.
        preemption: what happens to a sequence whose memory is needed: `recompute` or `swap` to host memory.
        weights: where weights lie and are computed, a key of `WEIGHTS`.
        share_prefixes: reuse the KV of equal prompt prefixes, where a trace names them, and what is left of one's own
            after a preemption.
        token_budget: most tokens per iteration; max_seqs: most sequences admitted at a time.
        block_tokens: tokens per KV block.
        kv_blocks: KV blocks per replica, as an engine's log states them (None: what the memory model finds room for).
        utilisation_frac: share of a GPU's memory that weights, activations and cache take (None: as the stack does).
        watermark_frac: share of the KV blocks that admission leaves free.
        max_queue: most waiting requests per replica (None: no bound).
        own: words of the chosen policies' own, each with its value.
    """

    batching: str | BatchPolicy | type[BatchPolicy] = "chunked"
    routing: str | RoutePolicy | type[RoutePolicy] = "least-outstanding"
    preemption: str = "recompute"
    weights: str = RESIDENT
    share_prefixes: bool = True
    token_budget: int = 2048
    max_seqs: int = 256
    block_tokens: int = 16
    kv_blocks: int | None = None
    utilisation_frac: float | None = None
    watermark_frac: float = 0.01
    max_queue: int | None = None
    own: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for what, policy, kinds, asked in (
            ("batching policy", self.batching, BATCHING, ("steady", "select")),
            ("routing policy", self.routing, ROUTING, ("looks", "route")),
        ):
            if isinstance(policy, str):
                _known(what, policy, kinds)
            else:
                require(what, policy, asked)
        _known("preemption", self.preemption, PREEMPTION)
        _known("placement of weights", self.weights, WEIGHTS)
        known = own_words((self.batching, self.routing, self.weights))
        for word, _ in self.own:
            if word not in known:
                raise _unknown("policy option", word, [*_OPTIONS, *known])
        object.__setattr__(self, "own", tuple(sorted((word, value) for word, value in self.own)))
        self.make_weights()
        for word, name in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 10_000_000:
                raise PolicyError(
                    f"policy option {word} = {value} is out of range; expected a whole number from 1 to 10,000,000"
                )
        if self.utilisation_frac is not None and self.kv_blocks is not None:
            raise PolicyError(
                f"kv={self.kv_blocks} and utilisation={self.utilisation_frac:.10g} both say how large the cache is; "
                "keep one of them"
            )
        if not 0.0 <= self.watermark_frac < 1.0:
            raise PolicyError(
                f"watermark_frac = {self.watermark_frac:.10g} is out of range; expected 0 up to, not including, 1 "
                "(watermark=1 is a percentage: 0.01)"
            )

    def sizes(
        self,
        *,
        kv_blocks: int,
        block_tokens: int,
        max_context_tokens: int,
        host_blocks: int,
        prefix_unit_tokens: int | None,
        groups: int = 1,
        holding: Holding | None = None,
        padded: bool = False,
        draft_tokens: int = 0,
    ) -> SchedulerConfig:
        """Return the sizes of a worker under these policies.

        Args:
            kv_blocks: that it has.
            block_tokens: tokens in each.
            max_context_tokens: longest prompt and output together that the model takes.
            host_blocks: KV blocks that host memory can hold.
            prefix_unit_tokens: tokens per prefix block that the workload names (None: it names none).
            groups: decode groups, one per pipeline stage.
            holding: what a sequence holds where not every layer keeps every token. A preempted one then finds nothing
                again, and prefixes are shared only where layers keep them and none has a state.
            padded: whether batches that only decode are padded to their longest sequence.
            draft_tokens: that an iteration guesses for each sequence that decodes.
        """
        shares = self.share_prefixes and (holding is None or (holding.full > 0 and not holding.fixed))
        return SchedulerConfig(
            kv_blocks=kv_blocks,
            block_tokens=block_tokens,
            max_seqs=self.max_seqs,
            token_budget=self.token_budget,
            max_context_tokens=max_context_tokens,
            watermark_blocks=int(self.watermark_frac * kv_blocks),
            max_queue=self.max_queue,
            swap_blocks=host_blocks if self.preemption == "swap" else 0,
            prefix_unit_tokens=prefix_unit_tokens if shares else None,
            keep_preempted=self.share_prefixes and holding is None,
            groups=groups,
            holding=holding,
            padded=padded,
            draft_tokens=draft_tokens,
        )

    @property
    def name(self) -> str:
        """The shortest text that `parse_policies` turns into this set; policies of one's own are called by class."""
        default = PolicySet()
        words = [called(self.batching)]
        words += [
            called(getattr(self, field))
            for field in ("routing", "preemption")
            if getattr(self, field) != getattr(default, field)
        ]
        if self.weights != RESIDENT and self.weights not in dict(self.own):
            words.append(self.weights)
        if not self.share_prefixes:
            words.append("no-prefix")
        for word, field in _NUMBERS.items():
            if getattr(self, field) != getattr(default, field):
                words.append(f"{word}={getattr(self, field)}")
        if self.watermark_frac != default.watermark_frac:
            words.append(f"watermark={100.0 * self.watermark_frac:.10g}")
        if self.utilisation_frac is not None:
            words.append(f"utilisation={self.utilisation_frac:.10g}")
        return "+".join([*words, *(f"{word}={value}" for word, value in self.own)])

    def record(self) -> dict[str, Any]:
        """Return the fields as a manifest keeps them: `own` and `weights` only where something is said."""
        said = {item.name: getattr(self, item.name) for item in fields(self)}
        said |= {"batching": called(self.batching), "routing": called(self.routing)}
        usual = {"own": (), "weights": RESIDENT}
        return {name: value for name, value in said.items() if name not in usual or value != usual[name]}

    def make_batching(self, costs: CostModel) -> BatchPolicy:
        """Make the batching policy; see `afterwatt.policies.making.made`."""
        return made(self.batching, BATCHING, self.own, costs)

    def make_routing(self, costs: CostModel) -> RoutePolicy:
        """Make the routing policy; see `afterwatt.policies.making.made`."""
        return made(self.routing, ROUTING, self.own, costs)

    def make_weights(self) -> WeightPolicy:
        """Make the placement of weights; see `afterwatt.policies.making.made`."""
        return made(self.weights, WEIGHTS, self.own, UnknownCosts())


def own_words(policies: Iterable[object]) -> list[str]:
    """Return the words that these policies have for themselves."""
    kinds: dict[str, Callable[..., Any]] = {**BATCHING, **ROUTING, **WEIGHTS}
    named = [kinds.get(policy) if isinstance(policy, str) else policy for policy in policies]
    return [word for kind in named if callable(kind) for word in words_of(kind)]


def policy_words(chosen: Iterable[str] = ()) -> list[str]:
    """Return every word that `parse_policies` takes beside those chosen, options with their `=`."""
    placements = list(placement_words())
    options = [f"{name}=" for name in (*_OPTIONS, *own_words(chosen)) if f"{name}=" not in placements]
    return [*BATCHING, *ROUTING, *PREEMPTION, *placements, "no-prefix", *options]


def parse_policies(text: str) -> PolicySet:
    """Read a policy set such as `chunked`, `prefill-first+swap` or `chunked+budget=512+prefix-affinity`.

    Words joined by `+` in any order: a batching, a routing, a preemption policy, a placement of weights, `no-prefix`,
    and sizes `budget=`
    (tokens per iteration), `seqs=` (sequences), `block=` (tokens per KV block), `kv=` (KV blocks per replica),
    `queue=` (waiting requests), `watermark=` (percent of the KV blocks that admission leaves free), `utilisation=`
    (share of a GPU's memory). Any other `name=value` is a word of the chosen policies' own.

    Raises:
        PolicyError: a word is unknown or a size is not a number in range.
    """
    chosen: dict[str, Any] = {}
    own: dict[str, str] = {}
    for word in (part.strip() for part in text.split("+")):
        name, equals, value = word.partition("=")
        entry: tuple[str, str | int | float | bool]
        if equals and name in _OPTIONS:
            entry = _sized(word, name, value)
        elif equals:
            if name in own:
                raise PolicyError(f"policy {text!r} says {name} twice ({own[name]} and {value}); keep one")
            own[name] = value
            if name not in WEIGHTS:
                continue
            entry = ("weights", name)
        elif word in BATCHING:
            entry = ("batching", word)
        elif word in ROUTING:
            entry = ("routing", word)
        elif word in PREEMPTION:
            entry = ("preemption", word)
        elif word in WEIGHTS:
            entry = ("weights", word)
        elif word == "no-prefix":
            entry = ("share_prefixes", False)
        else:
            raise _unknown("policy", word, [f"{known}N" if "=" in known else known for known in policy_words()])
        if entry[0] in chosen:
            raise PolicyError(f"policy {text!r} says {entry[0]} twice ({chosen[entry[0]]} and {entry[1]}); keep one")
        chosen[entry[0]] = entry[1]
    return replace(PolicySet(), **chosen, own=tuple(own.items()))


def _sized(word: str, name: str, value: str) -> tuple[str, int | float]:
    """Read an option with a number: (field, number)."""
    if name == "watermark":
        whole, _, part = value.partition(".")
        if not (whole.isdecimal() and (part.isdecimal() or "." not in value)):
            raise PolicyError(f"policy option {word!r}: {value!r} is not a percentage; write for example watermark=0.5")
        return "watermark_frac", float(value) / 100.0
    if name == "utilisation":
        if not re.fullmatch(r"1(\.0{1,6})?|0\.[0-9]{1,6}", value) or float(value) < _LEAST_UTILISATION:
            raise PolicyError(
                f"policy option {word[:60]!r}: {value[:40]!r} is not a share from {_LEAST_UTILISATION} to 1; write for "
                "example utilisation=0.9"
            )
        return "utilisation_frac", float(value)
    field = _NUMBERS[name]
    if not (value.isdecimal() and len(value) <= _MOST_DIGITS):
        raise PolicyError(f"policy option {name} = {value[:40]!r} is not a whole number; write for example {name}=512")
    return field, int(value)


def _known(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise _unknown(what, name, known)


def _unknown(what: str, name: str, known: Iterable[str]) -> PolicyError:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return PolicyError(f"unknown {what} {name!r}{hint} known: {', '.join(known)}")

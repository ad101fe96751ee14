"""At what precision units are kept: shares of them by rank, and a search for the shares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from afterwatt.policies.errors import PolicyError


class Share(NamedTuple):
    """So much of a layer's units at a precision; those of the shares before are more important."""

    precision: str
    frac: float


@dataclass(frozen=True, slots=True)
class Shares:
    """How a layer's units are spread over precisions, the most important first.

    Attributes:
        shares: in order of rank; their parts add up to 1, or to less where the last units are left out.

    Raises:
        PolicyError: no share, a part outside of 0 to 1, more than all, or a precision named twice.
    """

    shares: tuple[Share, ...]

    def __post_init__(self) -> None:
        names = [share.precision for share in self.shares]
        total = sum(share.frac for share in self.shares)
        if not names or len(set(names)) < len(names) or any(not 0.0 <= share.frac <= 1.0 for share in self.shares):
            raise PolicyError(f"shares {self} make no sense; give each precision once, with a part from 0 to 1")
        if total > 1.0 + 1e-9:
            raise PolicyError(f"shares {self} add up to {total:.4g}; give 1 at most")

    def __str__(self) -> str:
        return "/".join(f"{share.precision}:{100.0 * share.frac:g}" for share in self.shares)

    def counts(self, units: int) -> tuple[int, ...]:
        """Return the units at each precision: their sums are rounded, so that they add up."""
        ends = [round(units * frac) for frac in accumulate(share.frac for share in self.shares)]
        return tuple(end - begin for begin, end in zip([0, *ends], ends, strict=False))

    def precision_of(self, rank: int, units: int) -> str | None:
        """Return the precision of a unit by its rank from 0; None where it is left out."""
        for share, end in zip(self.shares, accumulate(self.counts(units)), strict=True):
            if rank < end:
                return share.precision
        return None

    def stored_bytes(self, units: int, unit_bytes: Callable[[str], int]) -> int:
        """Return the bytes of a layer's units.

        Args:
            units: of the layer.
            unit_bytes: of one unit at a precision.
        """
        counted = zip(self.shares, self.counts(units), strict=True)
        return sum(count * unit_bytes(share.precision) for share, count in counted)


def uniform(precision: str) -> Shares:
    """Return all units at one precision."""
    return Shares((Share(precision, 1.0),))


def parse_shares(text: str, names: Sequence[str] = ("fp16", "int8", "int4")) -> Shares:
    """Read shares in percent: `25/25/50` of the names in order, or `fp16:10/int4:90`.

    Raises:
        PolicyError: it is not of this form, or makes no sense.
    """
    shares: list[Share] = []
    parts = text.split("/")
    for number, part in enumerate(parts):
        name, colon, percent = part.rpartition(":")
        if not colon:
            if len(parts) > len(names):
                raise PolicyError(
                    f"shares = {text!r} has {len(parts)} parts for {', '.join(names)}; name each, as in fp16:10/int4:90"
                )
            name = names[number]
        try:
            shares.append(Share(name.strip(), float(percent) / 100.0))
        except ValueError:
            raise PolicyError(
                f"shares = {text!r}: {percent!r} is no percentage; write for example 25/25/50, or fp16:10/int4:90"
            ) from None
    return Shares(tuple(shares))


def guided_shares(
    high: str,
    low: str,
    budget_bytes: int,
    units: int,
    unit_bytes: Callable[[str], int],
    uncertainty: Callable[[Shares], float],
    steps: int = 20,
) -> Shares:
    """Find how much is worth a high precision under a budget of bytes (M2Cache's Algorithm 1).

    Begins with all of the budget at the low precision, trades units of it for fewer of the high one step by step until
    none is left, and keeps the least uncertain mix; of equal ones the last.

    Args:
        high: precision of the most important units.
        low: of the next ones.
        budget_bytes: of a layer.
        units: of a layer.
        unit_bytes: of one unit at a precision.
        uncertainty: of a mix; M2Cache's is the summed entropy of what the model says over a text.
        steps: of the search.

    Raises:
        PolicyError: the budget holds no unit even at the low precision.
    """
    high_bytes, low_bytes = unit_bytes(high), unit_bytes(low)
    if budget_bytes < low_bytes or not low_bytes < high_bytes:
        raise PolicyError(
            f"a budget of {budget_bytes:,} bytes for units of {high_bytes:,} ({high}) and {low_bytes:,} ({low}); give "
            "room for one at the lower precision, and the larger format first"
        )
    most = min(units, budget_bytes // high_bytes)
    best: tuple[float, Shares] | None = None
    for step in range(steps + 1):
        at_high = most * step // steps
        at_low = min(units - at_high, (budget_bytes - at_high * high_bytes) // low_bytes)
        mix = Shares((Share(high, at_high / units), Share(low, at_low / units)))
        score = uncertainty(mix)
        if best is None or score <= best[0]:
            best = (score, mix)
    assert best is not None
    return best[1]

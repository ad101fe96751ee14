"""Numbers as tables write them: "512", "2k", "~50", "64-128", "<=512", or the name of a data set."""

import re
from dataclasses import dataclass
from math import sqrt
from typing import Final

_NUMBER: Final = r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)\s*(k)?"
_ONE: Final = re.compile(rf"(~|≈|about |around |<=?|≤|up to |>=?|≥)?\s*{_NUMBER}\s*(?:tok(?:en)?s?)?\Z", re.IGNORECASE)
_RANGE: Final = re.compile(rf"(~)?\s*{_NUMBER}\s*(?:-|–|to|\.\.)\s*{_NUMBER}\s*(?:tok(?:en)?s?)?\Z", re.IGNORECASE)
MOST: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Amount:
    """A count of tokens or sequences.

    Attributes:
        value: the number; of a range its geometric middle.
        exact: whether it was written as a plain number.
    """

    value: float
    exact: bool

    @property
    def whole(self) -> int:
        """Return it rounded, at least 1."""
        return max(1, round(self.value))


def read_amount(text: str) -> Amount | None:
    """Read a number or a range; None where the text is neither."""
    word = text.strip()
    if match := _ONE.match(word):
        found = Amount(_value(match[2], match[3]), match[1] is None)
    elif match := _RANGE.match(word):
        low, high = _value(match[2], match[3]), _value(match[4], match[5])
        found = Amount(sqrt(low * high), exact=False)
    else:
        return None
    return found if 0.0 < found.value <= MOST else None


def _value(digits: str, kilo: str | None) -> float:
    return float(digits.replace(",", "")) * (1000.0 if kilo else 1.0)

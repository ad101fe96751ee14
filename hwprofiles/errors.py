"""The one error of the package: a hardware fact, file or name that cannot be used, said in one sentence."""

import difflib
from collections.abc import Iterable


class HardwareError(ValueError):
    """A profile, name or series is wrong; the text names the thing, the value, the rule and the way out.

    The command line prints it and exits with 2.
    """


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'm40'?` for the known names that begin so or are spelt nearly so; else an empty string."""
    folded = {name.casefold(): name for name in sorted(known)}
    word = given.casefold()
    longer = [name for name in folded if word and name.startswith(f"{word}-")]
    near = longer[:8] or difflib.get_close_matches(word, list(folded), n=1, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(folded[name]) for name in near)}?" if near else ""


def unknown_name(noun: str, given: str, known: Iterable[str], limit: int = 60) -> HardwareError:
    """Return the error for a name that the catalogue does not hold, with the nearest and the known ones."""
    names = sorted(known)
    listed = ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
    return HardwareError(f"unknown {noun} {given!r}{did_you_mean(given, names) or ';'} known: {listed}")

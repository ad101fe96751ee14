"""What is wrong with what a study was told, and how to say which word was meant."""

import difflib
from collections.abc import Iterable


class OptionError(Exception):
    """An option, or a key of a study file, that cannot be honoured; the text names it, its value, rule and way out.

    No ValueError, which pydantic would wrap into an error of its own.
    """


def near(given: str, known: Iterable[str]) -> str:
    """End the sentence about an unknown word: the nearest known one, if any is near, and all of them."""
    names = list(known)
    found = difflib.get_close_matches(given.lower(), names, n=1)
    return (f"; did you mean {found[0]!r}?" if found else ";") + f" known: {', '.join(names)}"

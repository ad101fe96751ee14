"""The one error class of `modelspecs`, and the sentence ending that names a way out."""

from collections.abc import Iterable
from difflib import get_close_matches


class ModelError(ValueError):
    """A model's name, file or shape that cannot be used; the text says what, which value, which rule, and a way out."""


def hint(given: str, known: Iterable[str]) -> str:
    """End a sentence about an unknown name: the nearest known one, if any is near, and all known ones.

    Args:
        given: the name as the user wrote it.
        known: the names that would have worked.
    """
    names = sorted(known)
    near = get_close_matches(given.lower(), names, n=1, cutoff=0.6)
    return (f"; did you mean {near[0]!r}?" if near else ";") + f" known: {', '.join(names)}"

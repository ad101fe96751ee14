"""Models that a `ModelSpec` cannot say in full: their counts, and what else is known of them, each with its source.

Latent or linear attention, experts shared by all tokens, vision towers and layers of unequal width have no place in a
shape. Such a model becomes a generic one of its counts, with its own depth, width, cache and vocabulary where a
config.json gives them. Numbers of key/value heads are chosen such that a token's cache has the right size: one layer in
four of Qwen3.5 keeps one, and DeepSeek keeps 576 numbers a layer whatever its heads.
"""

import functools
import re
import tomllib
from typing import Final, NamedTuple

from afterwatt.modelspecs.files import DATA_DIR
from afterwatt.modelspecs.generic import Outline

KNOWN_FILE: Final = DATA_DIR / "formats" / "known-models.toml"


class KnownModel(NamedTuple):
    """What is known of such a model.

    Attributes:
        name: how its cleaned name begins (`resolve`), a regular expression.
        params, active: parameters in all, and those one token passes through; without vision tower.
        outline: depth, widths, cache and vocabulary; None where they are unknown.
        source: where all that is published.
    """

    name: str
    params: float
    active: float
    source: str
    outline: Outline | None = None


@functools.cache
def _known() -> tuple[KnownModel, ...]:
    rows = tomllib.loads(KNOWN_FILE.read_text(encoding="utf-8"))["model"]
    return tuple(
        KnownModel(**row)._replace(outline=Outline(**row["outline"]) if "outline" in row else None) for row in rows
    )


def known_model(plain: str) -> KnownModel | None:
    """Return what is known of a model by its cleaned name, of several the file's first; None of all others."""
    return next((known for known in _known() if re.match(known.name, plain)), None)

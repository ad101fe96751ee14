"""From a model and its weight format in words to a `ModelSpec` and a `Precision`."""

import re
from dataclasses import dataclass, replace
from typing import Final

from afterwatt.fidelity.points.refusals import Reason, Refused
from afterwatt.modelspecs.errors import ModelError
from afterwatt.modelspecs.precision import Precision, load_precision
from afterwatt.modelspecs.resolve import EXACT, GENERIC, SIBLING, resolve_model
from afterwatt.modelspecs.spec import ModelSpec

WIDEN: Final = {EXACT: 1.0, SIBLING: 1.0, GENERIC: 1.3}
"""How much wider the interval gets by the way a shape was found."""


@dataclass(frozen=True, slots=True)
class Read:
    """A model that a row names.

    Attributes:
        model: its shape.
        assumed: what was guessed to find it; widen: factor on the log width of the interval for that.
    """

    model: ModelSpec
    assumed: tuple[str, ...]
    widen: float


def read_precision(name: str) -> Precision:
    """Return the weight format that a row names.

    Raises:
        Refused: it is unknown.
    """
    try:
        return load_precision(name)
    except ModelError as fault:
        raise Refused(Reason.UNKNOWN_PRECISION, f"weights in {name!r}: {fault}") from None


def read_model(text: str, params_b: float | None, stack: str = "") -> Read:
    """Return the shape of the model that a row names: its own, a sibling's, or a generic one of its size.

    Args:
        text: the name.
        params_b: billions of parameters, if they are told.
        stack: software that ran it; of one of 2023, "LLaMA-70B" is Llama 2, as there was no other.

    Raises:
        Refused: several models are meant, or neither the name nor a count tells a size.
    """
    if stack.endswith("@2023"):
        text = re.sub(r"^llama[- ]70b", "llama-2-70b", text, flags=re.IGNORECASE)
    try:
        found = resolve_model(text, params_b)
    except ModelError as fault:
        raise Refused(Reason.UNKNOWN_MODEL, str(fault)) from None
    marks = (f"model: {found.note or found.how}",) if found.note or found.how != EXACT else ()
    return Read(found.spec, marks, WIDEN.get(found.how, 1.0))


def with_context(model: ModelSpec, tokens: int) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return the model able to hold so many tokens, as the run that was measured did."""
    if tokens <= model.max_context:
        return model, ()
    longer = replace(model, max_context=tokens)
    return longer, () if tokens <= 1.1 * model.max_context else (f"context: {tokens} tokens, beyond the model's own",)

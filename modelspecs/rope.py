"""How far scaled rotary positions reach: the context of a model whose config.json stretches its positions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_MOST: Final = 1e6
"""A factor that makes contexts of billions is a slip."""
_STRETCH: Final = ("linear", "dynamic", "yarn", "mrope")
"""Kinds whose factor multiplies a context; llama3, longrope and su say `max_position_embeddings` in full."""
_ALREADY: Final = frozenset({"gemma3_text"})
"""Families whose `max_position_embeddings` counts the scaled positions already."""


def scaled_context(file: Path, fields: Mapping[str, Any], family: str, context: int) -> tuple[int, tuple[str, ...]]:
    """Return the context of a model and what there is to say about it.

    Positions are multiplied as vLLM does (`_get_and_verify_max_len` of v0.11, `vllm/config/model.py`): the factor times
    `max_position_embeddings`, or for YaRN times `original_max_position_embeddings`.

    Args:
        file: the config.json, for the note.
        fields: of the language model.
        family: of the model.
        context: its `max_position_embeddings`, or the family's default.
    """
    said = fields.get("rope_scaling") or fields.get("rope_parameters")
    if not isinstance(said, dict) or family in _ALREADY:
        return context, ()
    kind, factor = said.get("rope_type", said.get("type")), said.get("factor")
    if kind not in _STRETCH or isinstance(factor, bool) or not isinstance(factor, int | float):
        return context, ()
    if not 1.0 < factor < _MOST:
        return context, ()
    original = said.get("original_max_position_embeddings")
    base = original if kind == "yarn" and type(original) is int and original > 0 else context
    stretched = int(base * factor)
    if stretched == context:
        return context, ()
    note = f"context {stretched:,} = {base:,} x {factor:g} by rope_scaling ({kind}) of {file}"
    if kind == "yarn":
        note += f"; engines differ here: some take max_position_embeddings = {context:,}, others multiply that"
    return stretched, (note,)

"""Text to tokens and back: by a checkpoint's `tokenizer.json`, or byte by byte where a model's tokens are bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from afterwatt.engine.runtime.compute import Ints
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.modelspecs.files import check_small

BYTES: Final = 256
_SPARE: Final = 8
"""Ids beyond the bytes that a byte-level vocabulary may have for marks such as a text's end."""


class Text(Protocol):
    """How a model's tokens spell text."""

    def encode(self, text: str) -> Ints:
        """Return a text's tokens, int64."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; what is no text (half a letter) becomes the replacement character."""


class ByteText:
    """A token is a byte of UTF-8."""

    def encode(self, text: str) -> Ints:
        """Return the bytes."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the bytes; ids that are none are left out."""
        return bytes(token for token in ids if token < BYTES).decode("utf-8", errors="replace")


class FileText:
    """Whatever a `tokenizer.json` says (read by the tokenizers library).

    Raises:
        EngineError: the file cannot be read as a tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            check_small(path)
            self._tokenizer = Tokenizer.from_file(str(path))
            # What the file was last used with is no part of the model: it would cut prompts, or fill them up.
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        except Exception as fault:  # the library raises nothing more specific
            raise EngineError(f"{path} cannot be read as a tokenizer ({fault}); give token ids instead") from None

    def encode(self, text: str) -> Ints:
        """Return a text's tokens, the marks that the file puts around it included."""
        return np.array(self._tokenizer.encode(text).ids, dtype=np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, marks left out."""
        text: str = self._tokenizer.decode(list(ids))
        return text


def text_of(directory: Path, vocab: int) -> Text | None:
    """Return how a checkpoint's tokens spell text; None where nothing tells."""
    if (directory / "tokenizer.json").exists():
        return FileText(directory / "tokenizer.json")
    return ByteText() if BYTES <= vocab <= BYTES + _SPARE else None

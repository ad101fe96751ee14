"""A Hugging Face `config.json` as an object that answers typed questions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afterwatt.modelspecs.errors import ModelError

_MISSING = object()


class Config:
    """A `config.json` that answers typed questions and names file, field and value when it cannot."""

    def __init__(self, path: Path, fields: Mapping[str, Any]) -> None:
        self.path = path
        self.fields = fields

    def _find(self, names: tuple[str, ...]) -> object:
        """The first of the spellings that is there; null counts as absent, as transformers treats it."""
        return next((self.fields[name] for name in names if self.fields.get(name) is not None), _MISSING)

    def has(self, *names: str) -> bool:
        """True if any of the spellings is there and not null."""
        return self._find(names) is not _MISSING

    def is_null(self, name: str) -> bool:
        """True if the field is there and says null, which some families read otherwise than its absence."""
        return name in self.fields and self.fields[name] is None

    def count(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of `least` or more, under any of its spellings; without a default it must be there."""
        value = self._find(names)
        if value is _MISSING:
            if default is None:
                raise ModelError(f"{self.path}: {names[0]} is missing; a model's shape cannot be told without it")
            return default
        if type(value) is not int or value < least:
            raise ModelError(f"{self.path}: {names[0]} = {value!r} must be a whole number of {least} or more")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false, or the default where the field is absent."""
        value = self._find((name,))
        if value is _MISSING:
            return default
        if type(value) is not bool:
            raise ModelError(f"{self.path}: {name} = {value!r} must be true or false")
        return value

    def must_be(self, name: str, expected: object, what: str) -> None:
        """Refuse a field whose other values mean a shape that a `ModelSpec` cannot say."""
        value = self._find((name,))
        if value is not _MISSING and value != expected:
            raise ModelError(
                f"{self.path}: {name} = {value!r} means {what}, which cannot be described; known: {expected!r}"
            )

    def words(self, name: str) -> list[str]:
        """A list of words, empty where the field is absent."""
        value = self._find((name,))
        if value is _MISSING:
            return []
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise ModelError(f"{self.path}: {name} = {value!r} must be a list of words")
        return value

    def numbers(self, name: str) -> list[int]:
        """A list of whole numbers, empty where the field is absent."""
        value = self._find((name,))
        if value is _MISSING:
            return []
        if not isinstance(value, list) or not all(type(number) is int for number in value):
            raise ModelError(f"{self.path}: {name} = {value!r} must be a list of whole numbers")
        return value

    def text(self, name: str, default: str) -> str:
        """A word, or the default where the field is absent."""
        value = self._find((name,))
        if value is _MISSING:
            return default
        if not isinstance(value, str):
            raise ModelError(f"{self.path}: {name} = {value!r} must be a text")
        return value

    def head_dim(self, hidden: int, heads: int) -> int:
        """Explicit, or the hidden size shared out evenly among the heads."""
        if self.has("head_dim"):
            return self.count("head_dim")
        if hidden % heads:
            raise ModelError(
                f"{self.path}: hidden_size = {hidden} is not a multiple of the {heads} attention heads; add head_dim"
            )
        return hidden // heads

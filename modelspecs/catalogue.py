"""Finding a model: the shipped catalogue (one TOML per model), one's own TOML, or a Hugging Face `config.json`."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from datetime import date
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from afterwatt.modelspecs.errors import ModelError, hint
from afterwatt.modelspecs.files import DATA_DIR, read_small
from afterwatt.modelspecs.hf import read_hf_config
from afterwatt.modelspecs.layers import Latent, State
from afterwatt.modelspecs.precision import load_precision
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.modelspecs.stored import Stored

_PUBLISHED_KEYS = ("params", "rounded_to", "excess", "excess_why", "source", "checked")
_TOP_KEYS = ("name", "family", "source", "checked", "stored", "shape", "published")
_PARTS: Mapping[str, type[Latent] | type[State]] = MappingProxyType({"latent": Latent, "state": State})
_SPEC_FIELDS = {field.name: field for field in fields(ModelSpec)}
_SHAPE_KEYS = tuple(
    name
    for name in _SPEC_FIELDS
    if name not in {"name", "family", "source", "checked", "stored", "notes"} and not name.startswith("published")
)


def model_names() -> list[str]:
    """Names in the shipped catalogue, by family and then by size where the name tells it."""
    return sorted((path.stem for path in DATA_DIR.glob("*.toml")), key=_natural_key)


def _natural_key(name: str) -> tuple[str, float]:
    """Sort llama-2-7b before llama-2-13b: the words first, then the first number that ends in b."""
    stem, _, size = name.rpartition("-")
    try:
        return stem, float(size.removesuffix("b"))
    except ValueError:
        return name, 0.0


def load_model(name_or_path: str | Path) -> ModelSpec:
    """Load a model's shape.

    Args:
        name_or_path: a catalogue name (any case), a TOML like those of the catalogue, a Hugging Face `config.json`, or
            a directory that holds one. A catalogue name wins over a path of the same spelling.

    Raises:
        ModelError: nothing of that name, or a file that does not describe a model.
    """
    text = str(name_or_path)
    name = text.lower()
    if name in model_names():
        return _load_shipped(name)
    path = Path(name_or_path)
    if path.is_dir() or path.suffix == ".json":
        return read_hf_config(path)
    if path.suffix == ".toml":
        return read_model_toml(path)
    return _load_shipped(_called(text))


_PLAIN_WORDS = re.compile(
    r"-(?:instruct|chat|it|hf|base|pt|v0\.1|v1\.0|17b-(?:16|128)e)(?=-|\Z)|\Ameta-(?=llama)|(?<=-v3)-0324|(?<=-r1)-0528"
)
"""What names on a hub have besides: it changes nothing of a shape. Version 0.1 is what the catalogue leaves out."""


def _called(text: str) -> str:
    """Return the catalogue's name for what a hub or people call a model.

    Raises:
        ModelError: nothing is called so, or several things.
    """
    hub_name = re.sub(r"[\s_:]+", "-", text.lower().strip().rpartition("/")[2])
    plain = _PLAIN_WORDS.sub("", hub_name)
    said, known = _words(plain), {_words(name): name for name in model_names()}
    if said in known:
        return known[said]
    begun = [name for words, name in known.items() if said and words[: len(said)] == said]
    within = [name for words, name in known.items() if said[: len(words)] == words and "distill" not in said]
    way_out = "or give a config.json, its folder, or a .toml"
    if begun:
        raise ModelError(f"model {text!r} could be any of {', '.join(begun)}; say which, {way_out}")
    if within:
        longest = max(within, key=len)
        raise ModelError(
            f"unknown model {text!r}; {longest!r} is the nearest, without what else the name says; take it and say how "
            f"weights are stored with --precision, {way_out}"
        )
    raise ModelError(f"unknown model {text!r}{hint(plain, model_names())}; {way_out}")


def _words(name: str) -> tuple[str, ...]:
    """Take a name apart at hyphens and between letters and digits: llama3-8b is llama, 3, 8b."""
    return tuple(re.findall(r"[a-z]+|\d+(?:\.\d+)*[a-z]*", name))


@lru_cache
def _load_shipped(name: str) -> ModelSpec:
    return read_model_toml(DATA_DIR / f"{name}.toml")


def read_model_toml(path: Path) -> ModelSpec:
    """Read one model's TOML (docs/models.md shows the format).

    Raises:
        ModelError: no such file, not TOML, an unknown or missing key, a missing source or date, an absurd size.
    """
    try:
        table = tomllib.loads(read_small(path))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}; give a TOML that describes a model") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid TOML: {error}") from None
    _refuse_unknown(path, "", table, _TOP_KEYS)
    shape = _table(path, table, "shape")
    _refuse_unknown(path, "shape.", shape, _SHAPE_KEYS)
    arguments: dict[str, Any] = {key: _text(path, table, "", key) for key in ("family", "source", "checked")}
    _check_date(path, "checked", arguments["checked"])
    arguments |= {**shape, **_published(path, table)}
    try:
        arguments |= {name: _part(path, name, shape[name], kind) for name, kind in _PARTS.items() if name in shape}
        if "stored" in table:
            arguments["stored"] = Stored(
                load_precision(_text(path, table, "", "stored")), f"as {arguments['source']} has it"
            )
        return ModelSpec(name=table.get("name", path.stem), **arguments)
    except TypeError as error:
        raise ModelError(f"{path}: {_missing(error)}") from None
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _part(path: Path, name: str, table: object, kind: type[Latent] | type[State]) -> Latent | State:
    """Read [shape.latent] or [shape.state]."""
    known = tuple(field.name for field in fields(kind))
    if not isinstance(table, Mapping):
        raise ModelError(f"{path}: [shape.{name}] is not a table; see docs/models.md")
    _refuse_unknown(path, f"shape.{name}.", table, known)
    said = {"q_rank": None, **table} if kind is Latent else dict(table)
    for key in known:
        value = said.get(key)
        if key == "kind" and isinstance(value, str):
            continue
        if not (type(value) is int and value >= 0) and not (key == "q_rank" and value is None):
            raise ModelError(f"{path}: shape.{name}.{key} = {value!r} must be a whole number of 0 or more")
    return kind(**said)


def _published(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """The maker's parameter count, if the file has one: then with its source."""
    if "published" not in table:
        return {}
    published = _table(path, table, "published")
    _refuse_unknown(path, "published.", published, _PUBLISHED_KEYS)
    source = _text(path, published, "published.", "source")
    _check_date(path, "published.checked", _text(path, published, "published.", "checked"))
    if "params" not in published:
        raise ModelError(f"{path}: published.params is missing; give the count, or leave out the whole [published]")
    if "excess" in published:
        source += "; not counted here: " + _text(path, published, "published.", "excess_why")
    return {
        "published_params": published["params"],
        "published_rounding": published.get("rounded_to", 1),
        "published_excess": published.get("excess", 0),
        "published_source": source,
    }


def _table(path: Path, table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key)
    if not isinstance(value, Mapping):
        raise ModelError(f"{path}: [{key}] is missing or not a table; see docs/models.md")
    return value


def _text(path: Path, table: Mapping[str, Any], prefix: str, key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ModelError(
            f"{path}: {prefix}{key} is missing or empty; every fact keeps its source and date (docs/models.md)"
        )
    return value


def _check_date(path: Path, key: str, text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ModelError(f"{path}: {key} = {text!r} must be a date such as 2026-11-20") from None


def _refuse_unknown(path: Path, prefix: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise ModelError(f"{path}: unknown key {prefix}{key}{hint(key, known)}")


def _missing(error: TypeError) -> str:
    """Turn a constructor's complaint about missing arguments into a sentence about the file's keys."""
    names = str(error).partition("argument")[2].partition(":")[2].strip()
    return f"[shape] lacks {names}; see docs/models.md"

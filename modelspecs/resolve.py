"""From a model's name as people write it to a shape: the catalogue's, a sibling's of the same shape, or a generic one.

A name is read as family, version, size, active size and remarks: "Meta-Llama-3.1-70B-Instruct" is llama, 3.1, 70 and
"instruct". What the catalogue has under that family, version and size is taken; so is what another version of the same
shape has (`SAME_SHAPE`); anything else becomes `generic_shape` of the size. Nothing is taken silently: the answer says
how it was found and what was passed over, and a parameter count that contradicts the name overrules it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

from afterwatt.modelspecs.catalogue import load_model, model_names
from afterwatt.modelspecs.errors import ModelError
from afterwatt.modelspecs.generic import generic_shape
from afterwatt.modelspecs.outlines import known_model
from afterwatt.modelspecs.spec import ModelSpec

EXACT, SIBLING, GENERIC = "exact", "sibling", "generic"

SAME_SHAPE: Final[Mapping[str, tuple[frozenset[str], ...]]] = MappingProxyType(
    {
        "llama": (frozenset({"3", "3.1", "3.3"}),),
        "qwen": (frozenset({"2", "2.5"}), frozenset({"3.5", "3.6"})),
        "mistral": (frozenset({"0.1", "0.2", "0.3", ""}), frozenset({"3", "3.1", "3.2", ""})),
        "mixtral": (frozenset({"0.1", ""}),),
        "lfm": (frozenset({"2", "2.5"}),),
        "phi": (frozenset({"3", "3.5"}),),
        "tinyllama": (frozenset({"", "0.4", "1.0"}),),
    }
)
"""Versions of a family that differ in their weights, context or at most a few rows of vocabulary, at equal size."""

_FAMILIES: Final = (
    (r"deepseek-r1-distill-llama", "llama", "3.1"),
    (r"deepseek-r1-distill-qwen", "qwen", "2.5"),
    (r"vicuna(?=.*1\.5)", "llama", "2"),
    (r"vicuna|alpaca|guanaco|wizardlm|koala", "llama", ""),
    (r"zephyr|openchat|neural-chat|openhermes", "mistral", ""),
    (r"qwq", "qwen", "2.5"),
    (r"code-?llama", "codellama", None),
    (r"tiny-?llama", "tinyllama", None),
    (r"(?:meta-)?llama", "llama", None),
    (r"gpt-?j", "gpt-j", None),
    (r"gpt-?oss", "gpt-oss", None),
    (r"[a-z]+(?:-[a-z]+)*?(?=-|\d|\Z)", None, None),
)
"""Beginnings of names -> (family, or None: the beginning itself; version of the model it was trained further from)."""

_FALLBACKS: Final = {"codellama": ("llama", "2")}
"""Families with few members of their own in the catalogue -> whose shape the others have."""

_UNVERSIONED: Final = frozenset({"llama", "mistral", "mixtral"})
"""Families whose version people leave out; at equal size its members differ in little but their vocabulary."""

_PLAIN_WORDS: Final = frozenset(
    {"instruct", "chat", "base", "it", "hf", "pt", "inst", "model", "text", "dense", "best"}
)
_STORED_WORDS: Final = re.compile(
    r"^(?:awq|gptq|gguf|ggml|exl[23]|fp8|fp16|bf16|f16|nvfp4|mxfp4|int[348]|nf4|bnb|w\dah?\d+|i?q\d.*|k|m|s|l|[0-9.]+bpw"
    r"|[348]bit|g\d+|\d+k|qat|mmap|hqq|marlin|mlx|quantized|dynamic|dyn|e4m3|fp32|static|pertensor)$"
)
_SIZE: Final = re.compile(r"^(\d+(?:\.\d+)?)(b|m)$")
_SIZE_OF_BLOOM: Final = re.compile(r"^(\d+)b(\d+)$")
_PRODUCT: Final = re.compile(r"^(\d+)x(\d+(?:\.\d+)?)b$")
_ACTIVE: Final = re.compile(r"^a(\d+(?:\.\d+)?)b$")
_EXPERTS: Final = re.compile(r"^\d+e$")
_EFFECTIVE: Final = re.compile(r"^e(\d+(?:\.\d+)?)b$")
_VERSION: Final = re.compile(r"^v?(\d+(?:\.\d+)?)$")
_SEVERAL: Final = re.compile(r"\b(?:avg|average|mean|over|several|various|all|llms|models)\b")
_SAME_SIZE: Final = 0.04
_MISMATCH: Final = 1.2
"""A parameter count that lies by more than this factor from the named model's is another model's."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A shape found for a name.

    Attributes:
        spec: the shape.
        how: `exact` (this model), `sibling` (another of the same shape) or `generic` (made from the count).
        note: what was taken for what, and what of the name was passed over; empty if nothing.
    """

    spec: ModelSpec
    how: str
    note: str = ""


class _Name(NamedTuple):
    """What a name says.

    Attributes:
        family, version: `llama`, `3.1`; empty where it says none.
        params, active: sizes in parameters; None where it says none.
        product: (8, 7e9) of "8x7b"; None elsewhere.
        words: what is left over.
        mixture: it says that it is a mixture of experts.
    """

    family: str
    version: str
    params: float | None
    active: float | None
    product: tuple[int, float] | None
    words: tuple[str, ...]
    mixture: bool


def resolve_model(text: str, params_b: float | None = None) -> ResolvedModel:
    """Find a shape for a model's name.

    Args:
        text: as people write it, "Qwen3-30B-A3B (MoE)".
        params_b: its parameters in billions as the same source gives them, rounded or not; decides where the name
            tells no size, and overrules it where the two contradict.

    Raises:
        ModelError: neither tells a size, or the text speaks of several models.
    """
    plain = _cleaned(text)
    if _SEVERAL.search(plain.replace("-", " ")):
        raise ModelError(f"model {text!r} speaks of several models; name one")
    name = _read(plain, mixture="moe" in text.lower())
    params = name.params if name.params is not None else (params_b * 1e9 if params_b else None)
    found = _in_catalogue(name, params)
    if found is None and name.family in _FALLBACKS:
        family, version = _FALLBACKS[name.family]
        found = _in_catalogue(name._replace(family=family, version=version, words=(name.family, *name.words)), params)
    if found is not None and _agrees(found.spec, name, params_b):
        return found
    if found is None and (outlined := _outlined(plain, name, params_b)) is not None:
        return outlined
    if params is None:
        raise ModelError(f"model {text!r} is not in the catalogue and tells no size; add its parameters, as in '7B'")
    return _generic(plain, name, params, params_b, found)


def _cleaned(text: str) -> str:
    """Return the name in lower case with hyphens, without organisation, remarks in brackets, and what follows a +."""
    lowered = re.sub(r"\(.*?\)", " ", text.lower())
    lowered = re.split(r"\s\+\s|\bdraft\b|\bwith\b|\bbaseline\b|,|;", lowered)[0]
    lowered = lowered.strip().rpartition("/")[2].removesuffix(".gguf")
    return re.sub(r"-+", "-", re.sub(r"[\s_:]+", "-", lowered)).strip("-")


def _read(plain: str, mixture: bool = False) -> _Name:
    """Take a cleaned name apart."""
    family, version, rest, words = _family(plain)
    params = active = product = None
    for place, word in enumerate(filter(None, rest.split("-"))):
        if match := _SIZE.match(word):
            params = params or float(match[1]) * (1e9 if match[2] == "b" else 1e6)
        elif match := _SIZE_OF_BLOOM.match(word):
            params = float(f"{match[1]}.{match[2]}") * 1e9
        elif match := _PRODUCT.match(word):
            product = int(match[1]), float(match[2]) * 1e9
        elif match := _ACTIVE.match(word):
            active = float(match[1]) * 1e9
        elif _EXPERTS.match(word):
            params = None  # what stood before were those of one token: 17B-16E
        elif match := _EFFECTIVE.match(word):
            params = params or float(match[1]) * 1e9
            words.append(word)
        elif (match := _VERSION.match(word)) and not version and (place == 0 or word.startswith("v")):
            version = "" if family == "llama" and match[1] == "1" else match[1]
        elif word not in _PLAIN_WORDS and not _STORED_WORDS.match(word) and not re.fullmatch(r"\d{4}", word):
            words.append(word)
    return _Name(family, version, params, active, product, tuple(words), mixture or bool(active or product))


def _family(plain: str) -> tuple[str, str, str, list[str]]:
    """Return (family, version or "", the rest, words to remember) of a name."""
    for pattern, family, version in _FAMILIES:
        if match := re.match(pattern, plain):
            rest = _apart(plain[match.end() :])
            return family or match[0].removesuffix("-v"), version or "", rest, [] if version is None else [match[0]]
    return "", "", plain, []


def _apart(rest: str) -> str:
    """Set a version apart that is glued to the family: llama2-7b, qwen2.5-14b."""
    return re.sub(r"^-?v?(\d+(?:\.\d+)?)(?=-|\Z)", r"\1", rest)


@lru_cache
def _catalogue() -> tuple[tuple[str, _Name], ...]:
    return tuple((name, _read(name)) for name in model_names())


def _in_catalogue(name: _Name, params: float | None) -> ResolvedModel | None:
    """Return what the catalogue has under the family, size and version, or under a version of the same shape."""
    candidates = []
    for key, known in _catalogue():
        distance = _version_distance(name, known)
        if known.family == name.family and distance is not None and _same_marks(known, name):
            off = 0.0 if known.product and known.product == name.product else _off(key, known, params)
            extra = tuple(word for word in name.words if word not in known.words)
            untold = known.active is not None and name.active is None
            candidates.append((-len(known.words), distance + bool(extra) + untold, off, key, known, extra))
    close = sorted((row for row in candidates if row[2] is not None), key=lambda row: row[:3])
    told = params is not None or name.product is not None
    if not close or (not told and len(close) > 1 and close[1][0] == close[0][0]):
        return None  # nothing, or without a size more than one to choose from
    if not told and any(character.isdigit() for word in close[0][-1] for character in word):
        return None  # what is passed over may be a size in a spelling of its own
    _, distance, _, key, known, extra = close[0]
    return ResolvedModel(load_model(key), EXACT if distance == 0 else SIBLING, _note(key, name, known, extra))


def _same_marks(known: _Name, name: _Name) -> bool:
    """Return whether words that tell members of a family apart (nemo, mini, 8x7b, a3b) are all there."""
    same_product = name.product is None or known.product == name.product
    same_active = name.active is None or known.active == name.active
    return set(known.words) <= set(name.words) and same_active and same_product


def _off(key: str, known: _Name, params: float | None) -> float | None:
    """Return how far a stated size is from a catalogued model's; None: too far. Its name's size counts as well."""
    if params is None:
        return 0.0
    exact = load_model(key).params
    off = abs(params / exact - 1.0)
    nominal = known.params if known.params is not None else exact
    return off if off < _SAME_SIZE or abs(params / nominal - 1.0) < _SAME_SIZE else None


def _version_distance(name: _Name, known: _Name) -> int | None:
    """Return 0 for the same version, 1 for one of the same shape or for none given, None for another."""
    if name.version == known.version:
        return 0
    if not name.version and name.family in _UNVERSIONED:
        return 1
    alike = SAME_SHAPE.get(name.family, ())
    return 1 if any({name.version, known.version} <= versions for versions in alike) else None


def _note(key: str, name: _Name, known: _Name, extra: tuple[str, ...]) -> str:
    notes = []
    if name.version != known.version:
        notes.append(f"version {name.version or 'not told'}, taken as {key}")
    if known.active is not None and name.active is None:
        notes.append(f"active parameters not told, taken as {key}")
    if extra:
        notes.append(f"{' '.join(extra)!r} passed over, taken as {key}")
    return "; ".join(notes)


def _outlined(plain: str, name: _Name, params_b: float | None) -> ResolvedModel | None:
    """Return a generic shape of a model of which more is known than its name tells, unless that contradicts it."""
    known = known_model(plain)
    if known is None:
        return None
    stated = [count for count in (name.params, (params_b or 0.0) * 1e9) if count]
    if not all(_near(count, (known.params, known.active)) for count in stated):
        return None
    spec = generic_shape(known.params, known.active, name=plain, outline=known.outline)
    return ResolvedModel(spec, GENERIC, f"not in the catalogue; {known.source}; {spec.source}")


def _near(stated: float, counts: Iterable[float]) -> bool:
    return any(1 / _MISMATCH < stated / count < _MISMATCH for count in counts)


def _agrees(spec: ModelSpec, name: _Name, params_b: float | None) -> bool:
    """Return whether a stated count can be this model's: all or active parameters, or the size in its name."""
    if not params_b:
        return True
    counts = [spec.params, spec.active_params, name.params or spec.params]
    if name.product:
        counts.append(name.product[0] * name.product[1])
    return _near(params_b * 1e9, counts)


def _generic(
    plain: str, name: _Name, params: float, params_b: float | None, passed: ResolvedModel | None
) -> ResolvedModel:
    notes = ["not in the catalogue"]
    if passed is not None:
        notes = [f"{params_b:g}B is not {passed.spec.name} of {passed.spec.params / 1e9:.3g}B"]
    if params_b and not _near(params_b * 1e9, [params]):
        notes = [f"the name says {params / 1e9:g}B, the count {params_b:g}B; the count is taken"]
        plain, params = "", params_b * 1e9
    elif params_b:
        params = params_b * 1e9  # the same size, told more closely
    active = name.active
    if active is None and name.mixture:
        active = params / 8.0
        notes.append("a mixture whose active parameters are not told: an eighth is assumed")
    spec = generic_shape(params, active, name=plain or None)
    notes.append(spec.source)
    return ResolvedModel(spec, GENERIC, "; ".join(notes))

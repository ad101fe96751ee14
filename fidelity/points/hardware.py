"""From hardware in words ("NVIDIA A100-SXM4-80GB", "3x Tesla P40", "RTX 3090 Ti 24GB") to a card of the catalogue.

A card is recognised by its family (what is left of its name without vendor, form and memory), then by form and memory
where these are given. A word that is left over means another card ("4070 Ti Super", "4090 Laptop"): no guess is made.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

from afterwatt.fidelity.points.refusals import Reason, Refused
from afterwatt.hwprofiles.catalogue import device_names, load_device
from afterwatt.hwprofiles.devices import Device

GIB: Final = 2**30
TOLD_FRAC: Final = 0.08
"""How far a stated memory size may lie from the catalogue's: GB for GiB, 192 for the 180 GB that software sees."""
_COUNT_WORDS: Final = {"dual": 2, "quad": 4}
_VENDOR: Final = frozenset({"nvidia", "geforce", "tesla", "quadro", "rtx", "gtx", "amd", "instinct", "radeon"})
_NOISE: Final = re.compile(
    r"gpus?|cards?|graphics|the|an?|of|on|with|vram|memory|hbm\d?e?|gddr\d?x?|generation|founders|edition|fe|blower|turbo|"
    r"gaming|oc|evga|asus|msi|gigabyte|zotac|pny|palit|strix|tuf|suprim|server|node|box|instance|cloud|aws|gcp|azure|"
    r"lambda|runpod|vast|colab|google|amazon|tensor|core|single|one|used|nvlink|bridge|blackwell"
)
"""Words about a card that do not tell which it is."""
_FORMS: Final = {
    "pcie": "pcie",
    "sxm": "sxm",
    "sxm2": "sxm",
    "sxm3": "sxm",
    "sxm4": "sxm",
    "sxm5": "sxm",
    "sxm6": "sxm",
    "dgx": "sxm",
    "dgxs": "sxm",
    "hgx": "sxm",
}
USUAL: Final = {
    "a100": "a100-80",
    "h100": "h100-sxm",
    "v100": "v100-sxm-16",
    "p100": "p100-16",
    "m40": "m40-24",
    "3080": "rtx3080",
    "2060": "rtx2060",
}
"""Family -> the card meant where form and memory are not given: what clouds and published servers mostly hold."""
_COUNT: Final = re.compile(r"(?:(?<=\s)|^)(\d{1,3})\s*[x×*]\s*(?=[a-z0-9])|(?<=[\d\s])\s*[x×*]\s*(\d{1,3})(?=\s|$)")
_MEMORY: Final = re.compile(r"\b(\d{1,3})\s*gi?b?\b")
_LIMIT: Final = re.compile(r"(?:power[- ]limit(?:ed)?(?: to)?|limited to|capped at)\s*(\d{2,4})\s*w\b")
_MIXED: Final = re.compile(r"\bmid-range\b|\bvarious\b|\bor\b|\bavg\b|\baverage\b|\blink$")
_CPU: Final = re.compile(r"\bcpu\b|\bapple\b|\bxeon\b|\bepyc\b|\bryzen\b|\bm[1-4] (?:max|pro|ultra)\b")


@dataclass(frozen=True, slots=True)
class Hardware:
    """Cards that a row names.

    Attributes:
        device: the card.
        count: how many the text says; None if it does not.
        power_limit_w: a limit below the card's own; None if there is none.
        assumed: what was guessed, in words.
    """

    device: Device
    count: int | None
    power_limit_w: float | None
    assumed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Card:
    device: Device
    family: frozenset[str]

    @property
    def memory_gib(self) -> float:
        return float(self.device.memory_bytes) / GIB


def read_hardware(text: str, hints: str = "", form: str | None = None) -> Hardware:
    """Recognise the card in a row's words.

    Args:
        text: the hardware cell.
        hints: other text of the row that may name the form ("4 GPUs over PCIe").
        form: `pcie` or `sxm`: what this source is known to use; taken where neither says.

    Raises:
        Refused: several kinds of hardware, or a card that the catalogue does not hold.
    """
    lower = text.lower().replace("–", "-")
    limit = _LIMIT.search(lower)
    bare = re.sub(r"\([^)]*\)", " ", lower).split(",")[0]
    count, bare = _take_count(bare)
    if "/" in bare or "+" in bare or "&" in bare or " and " in bare or _MIXED.search(bare):
        kinds = [part for part in re.split(r"[/+&]|\band\b", bare) if _matches(_words(part)[0])]
        if len(kinds) != 1 or _MIXED.search(bare):
            raise Refused(Reason.NOT_ONE_SETUP, f"{text!r} is no single kind of card")
    if _CPU.search(bare):
        raise Refused(Reason.UNKNOWN_GPU, f"{text!r} is no GPU of the catalogue")
    words, told_form, told_gib = _words(bare)
    cards = _matches(words)
    if not cards:
        raise Refused(Reason.UNKNOWN_GPU, f"{text!r} is no card of the catalogue; describe it with a device TOML")
    assumed: list[str] = []
    if told_gib is not None:
        fitting = [card for card in cards if abs(card.memory_gib - told_gib) <= TOLD_FRAC * told_gib]
        if not fitting:
            sizes = ", ".join(f"{card.memory_gib:.0f}" for card in cards)
            raise Refused(Reason.UNKNOWN_GPU, f"{text!r}: the catalogue's cards of that name have {sizes} GiB")
        cards = fitting
    wanted = told_form or _form_in(hints) or form
    if wanted is not None:
        cards = [card for card in cards if card.device.form == wanted] or cards
    card = _pick(words, cards)
    if len(cards) > 1:
        assumed.append(f"card: taken as {card.device.name}")
    limit_w = float(limit[1]) if limit else None
    if limit_w is not None and limit_w < card.device.tdp_w:
        assumed.append(f"power limit {limit_w:.0f} W: its clocks are taken as without")
    return Hardware(card.device, count, limit_w, tuple(assumed))


def _take_count(text: str) -> tuple[int | None, str]:
    for word, count in _COUNT_WORDS.items():
        if re.match(rf"\s*{word}\b", text):
            return count, text.replace(word, " ", 1)
    match = _COUNT.search(text)
    if match is None:
        return None, text
    return int(match[1] or match[2]), text[: match.start()] + " " + text[match.end() :]


def _words(text: str) -> tuple[frozenset[str], str | None, int | None]:
    """Split a name into its telling words, its form and its memory in GiB."""
    text = text.lower()
    memory = _MEMORY.search(text)
    if memory:
        text = text[: memory.start()] + " " + text[memory.end() :]
    text = re.sub(r"(rtx|gtx|tesla|geforce|quadro|nvidia)(?=[a-z]?\d)", r"\1 ", text)
    text = re.sub(r"(\d{4})(ti|super)\b", r"\1 \2", text)
    tokens = [token for token in re.split(r"[\s\-_]+", text) if token.strip(".:;!?'\"")]
    form = next((_FORMS[token] for token in tokens if token in _FORMS), None)
    kept = [token for token in tokens if token not in _VENDOR and not _NOISE.fullmatch(token) and token not in _FORMS]
    return frozenset(kept), form, int(memory[1]) if memory else None


@cache
def _cards() -> tuple[_Card, ...]:
    devices = [load_device(key) for key in device_names()]
    return tuple(_Card(device, _words(re.sub(r"\([^)]*\)", " ", device.name))[0]) for device in devices)


def _matches(words: frozenset[str]) -> list[_Card]:
    return [card for card in _cards() if card.family == words] if words else []


def _form_in(hints: str) -> str | None:
    found = {_FORMS[token] for token in re.split(r"[^a-z0-9]+", hints.lower()) if token in _FORMS}
    return found.pop() if len(found) == 1 else None


def _pick(words: frozenset[str], cards: list[_Card]) -> _Card:
    """Choose among cards of one family: the usual one, one whose name tells no size, a socketed one, the largest."""
    usual = USUAL.get(" ".join(sorted(words)))
    for card in cards:
        if card.device.key == usual:
            return card
    plain = [card for card in cards if not _MEMORY.search(card.device.name.lower())]
    return max(plain or cards, key=lambda card: (card.device.form == "sxm", card.memory_gib, card.device.key))


def known_cards() -> Iterable[str]:
    """Return the names of the cards that rows can name."""
    return [card.device.name for card in _cards()]

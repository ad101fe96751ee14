"""From a card's name as drivers and engines report it ("NVIDIA A100-SXM4-80GB", "Tesla P40") to one of the catalogue.

A card is recognised by its family (what is left of its name without vendor, form and memory), then by form and memory
where these are given. A word that is left over means another card ("4070 Ti Super", "4090 Laptop"): no guess is made.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from afterwatt.hwprofiles.catalogue import device_names, load_device
from afterwatt.hwprofiles.devices import Device
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.units import BYTES_PER_GIB

TOLD_FRAC: Final = 0.08
"""How far a stated memory size may lie from the catalogue's: GB for GiB, 192 for the 180 GB that software sees."""
_SILENT: Final = re.compile(
    r"nvidia|geforce|tesla|quadro|rtx|gtx|amd|instinct|radeon|gpu|graphics|generation|blackwell|server|edition|"
    r"hbm\d?e?|gddr\d?x?|pcie|sxm\d?|dgxs?|hgx"
)
"""Words of a name that do not tell which card it is."""
_FORM: Final = re.compile(r"(pcie)|(sxm\d?|dgxs?|hgx)")
_MEMORY: Final = re.compile(r"\b(\d{1,3})\s*gi?b?\b")
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


@dataclass(frozen=True, slots=True)
class Recognised:
    """A card that a name means.

    Attributes:
        device: the card.
        assumed: what was guessed, in words.
    """

    device: Device
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _CardName:
    family: frozenset[str]
    form: str | None
    memory_gib: float | None


def recognise(name: str) -> Recognised:
    """Recognise a card by its name.

    Raises:
        HardwareError: it is no card of the catalogue.
    """
    cards = cards_named(name)
    card = _pick(_read(name).family, cards)
    return Recognised(card, (f"card: taken as {card.name}",) if len(cards) > 1 else ())


def cards_named(name: str) -> list[Device]:
    """Return the cards that a name may mean: more than one where it leaves form or memory open.

    Raises:
        HardwareError: it is no card of the catalogue.
    """
    said = _read(name)
    cards = [card for card, own in _cards() if said.family and own.family == said.family]
    if not cards:
        raise HardwareError(f"{name!r} is no card of the catalogue; describe it with a device TOML")
    told = said.memory_gib
    if told is not None:
        fitting = [card for card in cards if abs(_gib(card) - told) <= TOLD_FRAC * told]
        if not fitting:
            sizes = ", ".join(f"{_gib(card):.0f}" for card in cards)
            raise HardwareError(f"{name!r}: the catalogue's cards of that name have {sizes} GiB")
        cards = fitting
    if said.form is not None:
        cards = [card for card in cards if card.form == said.form] or cards
    return cards


def _read(name: str) -> _CardName:
    """Split a name into its telling words, its form and its memory."""
    text = re.sub(r"\([^)]*\)", " ", name.lower())
    memory = _MEMORY.search(text)
    if memory:
        text = text[: memory.start()] + " " + text[memory.end() :]
    text = re.sub(r"(rtx|gtx|tesla|geforce|quadro|nvidia)(?=[a-z]?\d)", r"\1 ", text)
    words = [word for word in re.split(r"[\s\-_]+", re.sub(r"(\d{4})(ti|super)\b", r"\1 \2", text)) if word]
    forms = [match for match in map(_FORM.fullmatch, words) if match]
    family = frozenset(word for word in words if not _SILENT.fullmatch(word))
    form = ("pcie" if forms[0][1] else "sxm") if forms else None
    return _CardName(family, form, float(memory[1]) if memory else None)


@cache
def _cards() -> tuple[tuple[Device, _CardName], ...]:
    return tuple((device, _read(device.name)) for device in map(load_device, device_names()))


def _gib(card: Device) -> float:
    return float(card.memory_bytes) / BYTES_PER_GIB


def _pick(family: frozenset[str], cards: list[Device]) -> Device:
    """Choose among cards of one family: the usual one, one whose name tells no size, a socketed one, the largest."""
    usual = USUAL.get(" ".join(sorted(family)))
    for card in cards:
        if card.key == usual:
            return card
    plain = [card for card in cards if not _MEMORY.search(card.name.lower())]
    return max(plain or cards, key=lambda card: (card.form == "sxm", _gib(card), card.key))

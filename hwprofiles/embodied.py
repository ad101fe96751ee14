"""Embodied emissions as published: each estimate kept under the method by which it was made.

The methods disagree by a factor of three to five because they draw the boundary differently, so they are scenarios
shown side by side and never averaged. An interval lives within one method. A method is a word for a card *and* for the
host it sits in, so that both can be added under one name; `METHODS` says what each means for either.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from afterwatt.hwprofiles.facts import Fact, Rule, merge_facts
from afterwatt.hwprofiles.tables import Table

METHODS: Final[dict[str, str]] = {
    "act": "ACT, silicon only. Card: GPU die and bare memory by wafer area, 150 g per package; no board, no heatsink. "
    "Host: CPU dies, DRAM and flash by ACT's factors, as SC23 counts a node; no board, chassis or power supply.",
    "card-lca": "Life-cycle inventory of the whole thing. Card: teardown LCA (Hubblo/ADEME, Falk et al.), or scaled "
    "from a measured neighbour. Host: the Dell R740 LCA part by part.",
    "vendor-pcf": "The maker's product carbon footprint. Card: NVIDIA HGX baseboard / 8. Host: Dell and HPE footprint "
    "sheets, manufacturing share.",
    "eserve": "EcoServe/EServe repository: ACT/imec dies plus board, thermal parts and memory. Its card and host rows.",
    "parametric-boavizta": "BoaviztAPI formulas: die and VRAM area, motherboard, case, power supply, RAM by density.",
    "parametric-hubblo": "Hubblo's parametric card model. Cards only.",
    "generic": "One number for any GPU (Teads 150 kg, ECODIAG 60 kg). Host: Teads' platform, memory and CPU adders.",
    "die-only": "LLMCarbon: the GPU die and nothing else. Cards only.",
    "server-share": "A card with its share of the server (Chien et al.); adding a host would count the host twice.",
}
"""What each method means for a card and for a host."""

DEFAULT_METHOD: Final = "card-lca"
"""The method closest to the vendor's own footprint and known for every card and host."""

COMPLETE_METHODS: Final = ("act", "card-lca")
"""Methods for which every shipped card, host and disk has a value."""


@dataclass(frozen=True, slots=True)
class EmbodiedFact:
    """One published figure.

    Attributes:
        method: a key of `METHODS`.
        gco2e: grams of CO2 equivalent of the part (per byte for a disk), cradle to gate.
        part: what it covers: `card`, `ssd`, or a part of a host (`hosts.HOST_PARTS`).
    """

    method: str
    gco2e: Fact
    part: str


def read_embodied(table: Table, key: str, rule: Rule, parts: Sequence[str]) -> tuple[EmbodiedFact, ...]:
    """Read a list of tables `{ method, part, value, source, ... }`; `part` may be left out where there is but one."""
    rows = []
    for row in table.tables(key):
        method = row.text("method", choices=tuple(METHODS))
        part = row.text("part", choices=parts, default=parts[0] if len(parts) == 1 else None)
        rows.append(EmbodiedFact(method, row.as_fact(rule, also=("method", "part")), part))
    return tuple(rows)


def embodied_methods(rows: Iterable[EmbodiedFact]) -> tuple[str, ...]:
    """Return the methods for which there is a figure, in the order of `METHODS`."""
    present = {row.method for row in rows}
    return tuple(method for method in METHODS if method in present)


def embodied_parts(rows: Iterable[EmbodiedFact], method: str) -> dict[str, Fact]:
    """Return part -> fact under one method; empty if the method has none.

    Several sources for the same part are merged: the first's value, an interval over all.
    """
    by_part: dict[str, list[Fact]] = {}
    for row in rows:
        if row.method == method:
            by_part.setdefault(row.part, []).append(row.gco2e)
    return {part: merge_facts(facts) for part, facts in by_part.items()}

"""What the ledger assumes where no profile says it (`data/ledger/assumptions.toml`), each with source and interval."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from afterwatt.hwprofiles import facts
from afterwatt.hwprofiles.embodied import METHODS
from afterwatt.hwprofiles.facts import Fact, Rule
from afterwatt.hwprofiles.tables import DATA_DIR, Table, read_fields, read_profile

ASSUMPTIONS_FILE: Final = DATA_DIR / "ledger" / "assumptions.toml"
_FACTOR: Final = Rule(0.05, 20.0, ((0.01, "percent"),))


@dataclass(frozen=True, slots=True)
class SecondLife:
    """What giving a card or a server a second life emits; see `hwprofiles.lives`.

    Attributes:
        card_transport_gco2e, card_refurbishment_gco2e: per card.
        host_transport_gco2e, host_refurbishment_gco2e: per server.
        spares_frac: spare parts over the second life, as a share of the embodied emissions.
        service_s: further years for which a second-hand item is kept.
    """

    card_transport_gco2e: Annotated[Fact, facts.PART_EMBODIED]
    card_refurbishment_gco2e: Annotated[Fact, facts.PART_EMBODIED]
    host_transport_gco2e: Annotated[Fact, facts.PART_EMBODIED]
    host_refurbishment_gco2e: Annotated[Fact, facts.PART_EMBODIED]
    spares_frac: Annotated[Fact, facts.FRACTION]
    service_s: Annotated[Fact, facts.LIFETIME]


@dataclass(frozen=True, slots=True)
class LedgerAssumptions:
    """All assumptions of the ledger.

    Attributes:
        fans_idle_frac: share of the fans' working power that they draw at rest.
        grid_frac: factor of an intensity that has no interval of its own.
        second_life: transport, refurbishment, spares, years.
        method_frac: method -> factor; its interval is the error within the method where a source states none.
    """

    fans_idle_frac: Fact
    grid_frac: Fact
    second_life: SecondLife
    method_frac: Mapping[str, Fact] = field(hash=False)


@functools.cache
def ledger_assumptions() -> LedgerAssumptions:
    """Return the shipped assumptions."""
    return read_profile(ASSUMPTIONS_FILE, _read)


def _read(table: Table) -> LedgerAssumptions:
    return LedgerAssumptions(
        fans_idle_frac=table.table("power").fact("fans_idle_frac", facts.FRACTION),
        grid_frac=table.table("grid").fact("relative_frac", _FACTOR),
        second_life=read_fields(table.table("second_life"), SecondLife),
        method_frac=table.facts("methods", _FACTOR, tuple(METHODS)),
    )

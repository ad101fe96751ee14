"""Closing the books of a run: one call from a timeline to everything about energy, carbon and cost in `summary.json`.

books = close_books(timeline, pool, site, counts, BooksOptions(seed=7))
books.columns          # of timeline.parquet
books.draw_columns()   # of draws.parquet
books.summary()        # blocks energy_j, carbon_gco2e, sci, cost_usd, breakeven, other_host_share of summary.json

How much of a server a run answers for is a way of counting, as methods and allocations are: the books are kept under
both rules, the headline's (`books.own`) and the other (`books.other`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.carbon import sci_gco2e
from afterwatt.hwprofiles.cost import Cost, run_cost
from afterwatt.hwprofiles.draws import (
    DEFAULT_DRAWS,
    RunError,
    Sampler,
    embodied_draws,
    operational_draws,
    percentiles,
)
from afterwatt.hwprofiles.embodied import DEFAULT_METHOD, METHODS
from afterwatt.hwprofiles.errors import HardwareError, unknown_name
from afterwatt.hwprofiles.footprint import Footprint, Ownership, footprints
from afterwatt.hwprofiles.ledger import Ledger, account
from afterwatt.hwprofiles.lives import ALLOCATIONS, DEFAULT_ALLOCATION
from afterwatt.hwprofiles.replicas import DEFAULT_HOST_SHARE, HOST_SHARES, fills_its_hosts

if TYPE_CHECKING:
    from afterwatt.hwprofiles.deployment import Pool
    from afterwatt.hwprofiles.grid import HourlyGrid
    from afterwatt.hwprofiles.sites import Site

Floats = NDArray[np.float64]
Band = dict[str, float]


@dataclass(frozen=True, slots=True)
class Counts:
    """Functional units of a run.

    Attributes:
        requests: finished requests.
        output_tokens: output tokens of all requests.
        slo_met_tokens: output tokens of requests served within the SLO; None where no SLO was set.
    """

    requests: float
    output_tokens: float
    slo_met_tokens: float | None = None

    def __post_init__(self) -> None:
        for name in ("requests", "output_tokens", "slo_met_tokens"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise HardwareError(f"{name} = {value!r} must be a count of 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class BooksOptions:
    """What the user decides about the ledger.

    Attributes:
        seed: of the draws.
        draws: how many.
        basis: of the site's annual intensity.
        grid: hourly series instead of it; needs `start_utc_s`.
        start_utc_s: seconds since the epoch of the run's start.
        duty_frac: share of the reserved time that looks like the run.
        between: `off` or `idle` in the rest.
        method: embodied method of the headline.
        allocation: allocation of the headline.
        host_share: of the headline: the share of `slots` in use, or `whole` servers.
        errors: host share -> error of the predicted run; empty where none is known.
        ownership: new, second-hand or owned, and for how long.
    """

    seed: int = 0
    draws: int = DEFAULT_DRAWS
    basis: str = "lifecycle"
    grid: "HourlyGrid | None" = None
    start_utc_s: float | None = None
    duty_frac: float = 1.0
    between: str = "off"
    method: str = DEFAULT_METHOD
    allocation: str = DEFAULT_ALLOCATION
    host_share: str = DEFAULT_HOST_SHARE
    errors: Mapping[str, RunError] = field(default_factory=dict)
    ownership: Ownership = field(default_factory=Ownership)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("embodied method", self.method, METHODS)
        if self.allocation not in ALLOCATIONS:
            raise unknown_name("allocation", self.allocation, ALLOCATIONS)
        if self.draws < 1 or self.seed < 0:
            raise HardwareError(f"draws = {self.draws} must be at least 1 and seed = {self.seed} not negative")


@dataclass(frozen=True, slots=True)
class Account:
    """What a run comes to if it answers for one share of its servers.

    Attributes:
        host_share: a key of `replicas.HOST_SHARES`.
        ledger: energy and operational carbon.
        footprints: method -> footprint, None where the method does not know the cards.
        operational: draws of operational grams.
        embodied: method -> allocation -> draws of embodied grams.
        cost: dollars.
    """

    host_share: str
    ledger: Ledger
    footprints: Mapping[str, Footprint | None]
    operational: Floats
    embodied: Mapping[str, Mapping[str, Floats]]
    cost: Cost

    @property
    def reserved_s(self) -> float:
        """Return seconds reserved for the run."""
        return self.ledger.reservation.reserved_s

    def draw_columns(self, suffix: str = "") -> dict[str, NDArray[np.generic]]:
        """Return the columns of draws.parquet, their names ending in a suffix."""
        columns: dict[str, NDArray[np.generic]] = {f"operational_gco2e{suffix}": self.operational}
        for method, by_allocation in self.embodied.items():
            for allocation, grams in by_allocation.items():
                columns[f"embodied_gco2e__{method}__{allocation}{suffix}"] = grams
        return columns

    def energy(self) -> dict[str, Any]:
        """Return the block `energy_j`."""
        by_state = self.ledger.by_state_j
        return {
            "total": self.ledger.total_j,
            "idle": by_state["idle"],
            "by_component": self.ledger.by_component_j,
            "by_state": by_state,
            "method": "modelled",
        }

    def carbon(self, options: BooksOptions) -> dict[str, Any]:
        """Return the block `carbon_gco2e`."""
        embodied = self._headline(options)
        headline = self.footprints[options.method]
        making = headline and headline.allocated_gco2e(options.allocation, self.reserved_s)
        error = options.errors.get(self.host_share)
        return {
            "operational": percentiles(self.operational),
            "embodied": _band(embodied),
            "total": _band(None if embodied is None else self.operational + embodied),
            "embodied_method": options.method,
            "allocation": options.allocation,
            "host_share": self.host_share,
            "by_method": {
                method: {name: percentiles(grams) for name, grams in self.embodied[method].items()}
                if method in self.embodied
                else None
                for method in self.footprints
            },
            "assumed": {"operational": self.ledger.operational_gco2e, "embodied": making},
            "intensity_gco2e_per_kwh": self.ledger.mean_intensity_gco2e_per_kwh,
            "basis": options.basis if options.grid is None else options.grid.basis,
            "run_error_90": None if error is None else {"low": error.joules[0], "high": error.joules[1]},
            "notes": {
                method: list(footprint.notes)
                for method, footprint in self.footprints.items()
                if footprint is not None and footprint.notes
            },
        }

    def sci(self, counts: Counts, options: BooksOptions) -> dict[str, Band | None]:
        """Return the block `sci`."""
        embodied = self._headline(options)

        def per(units: float | None) -> Band | None:
            if embodied is None or units is None:
                return None
            grams = sci_gco2e(self.operational, embodied, units)
            return None if grams is None else percentiles(grams)

        return {
            "per_request_gco2e": per(counts.requests),
            "per_output_token_gco2e": per(counts.output_tokens),
            "per_slo_met_token_gco2e": per(counts.slo_met_tokens),
        }

    def dollars(self, counts: Counts) -> dict[str, float | None]:
        """Return the block `cost_usd`."""
        return {
            "hardware": self.cost.hardware,
            "electricity": self.cost.electricity,
            "total": self.cost.total,
            "per_million_output_tokens": self.cost.per_million(counts.output_tokens),
        }

    def breakeven(self, counts: Counts, options: BooksOptions) -> dict[str, Any]:
        """Return what `carbon.TokenCarbon` needs, so that a report can redraw the charts from files alone."""
        tokens, run_s = counts.output_tokens, self.ledger.reservation.run_s
        return {
            "run_j_per_output_token": self.ledger.run_j / tokens if tokens else None,
            "off_w": self.ledger.off_w,
            "output_tokens_per_s": tokens / run_s,
            "embodied_gco2e_per_reserved_s": {
                method: {
                    name: footprint.allocated_gco2e(name, self.reserved_s) / self.reserved_s for name in ALLOCATIONS
                }
                if footprint
                else None
                for method, footprint in self.footprints.items()
            },
            "intensity_gco2e_per_kwh": self.ledger.mean_intensity_gco2e_per_kwh,
            "duty_frac": options.duty_frac,
            "between": options.between,
            "lives": self._lives(),
        }

    def _headline(self, options: BooksOptions) -> Floats | None:
        """Return draws of embodied grams under the headline's method and allocation; None if the method has none."""
        by_allocation = self.embodied.get(options.method)
        return None if by_allocation is None else by_allocation[options.allocation]

    def _lives(self) -> dict[str, dict[str, float | bool]]:
        footprint = next(footprint for footprint in self.footprints.values() if footprint)
        return {
            item.noun: {
                "acquired_s": item.life.acquired_s,
                "service_s": item.life.service_s,
                "total_s": item.life.total_s,
                "second_hand": not item.life.new,
                "owned": item.life.owned,
            }
            for item in footprint.items
        }


@dataclass(frozen=True, slots=True)
class Books:
    """Everything about energy, carbon and cost of a run.

    Attributes:
        counts: functional units.
        options: what the user decided.
        own: the account under the host share of the headline.
        other: the account under the other host share; the same one where the pool fills its servers.
    """

    counts: Counts
    options: BooksOptions
    own: Account
    other: Account

    @property
    def columns(self) -> Mapping[str, NDArray[np.generic]]:
        """Return the columns of timeline.parquet."""
        return self.own.ledger.columns

    def draw_columns(self) -> dict[str, NDArray[np.generic]]:
        """Return the columns of draws.parquet; those of the other host share, if it differs, end in its name."""
        columns: dict[str, NDArray[np.generic]] = {"draw": np.arange(len(self.own.operational), dtype=np.int32)}
        columns |= self.own.draw_columns()
        if self.other is not self.own:
            columns |= self.other.draw_columns(f"__{self.other.host_share}")
        return columns

    def summary(self) -> dict[str, Any]:
        """Return the blocks of summary.json that the ledger fills; null where unknown."""
        counts, options, other = self.counts, self.options, self.other
        return {
            "energy_j": self.own.energy(),
            "carbon_gco2e": self.own.carbon(options),
            "sci": self.own.sci(counts, options),
            "cost_usd": self.own.dollars(counts),
            "breakeven": self.own.breakeven(counts, options),
            "other_host_share": {
                "host_share": other_share(options.host_share),
                "energy_j": other.ledger.total_j,
                "sci": other.sci(counts, options),
                "cost_usd": other.dollars(counts),
                "breakeven": other.breakeven(counts, options),
            },
        }


def other_share(host_share: str) -> str:
    """Return the host share that is not this one."""
    return next(share for share in HOST_SHARES if share != host_share)


def close_books(
    timeline: Mapping[str, NDArray[np.generic]],
    pool: "Pool",
    site: "Site",
    counts: Counts,
    options: BooksOptions | None = None,
) -> Books:
    """Account for a run: energy, operational and embodied carbon with their draws, and cost, under both host shares.

    Args:
        timeline: pre-ledger columns, see `ledger.NEEDED`.
        pool: cards, hosts and replicas.
        site: grid, PUE and price of electricity.
        counts: what was served.
        options: see `BooksOptions`.

    Raises:
        HardwareError: see `ledger.account`; or the run reserves hardware for longer than it is kept.
    """
    options = options or BooksOptions()
    return books_of(ledgers_of(timeline, pool, site, options), pool, site, counts, options)


def books_of(ledgers: Mapping[str, Ledger], pool: "Pool", site: "Site", counts: Counts, options: BooksOptions) -> Books:
    """Close the books where the ledgers are there already; see `close_books`.

    Args:
        ledgers: what `ledgers_of` returned.
        pool: cards, hosts and replicas.
        site: grid, PUE and price of electricity.
        counts: what was served.
        options: see `BooksOptions`.
    """
    sampler = Sampler(options.seed, options.draws)
    ledger, elsewhere = ledgers.values()
    own = _account(ledger, pool, site, options, sampler)
    if elsewhere is ledger:
        return Books(counts, options, own, own)
    other = replace(options, host_share=other_share(options.host_share))
    return Books(counts, options, own, _account(elsewhere, pool, site, other, sampler))


def ledgers_of(
    timeline: Mapping[str, NDArray[np.generic]], pool: "Pool", site: "Site", options: BooksOptions
) -> dict[str, Ledger]:
    """Account for a run's energy and operational carbon alone, without draws.

    Returns:
        Host share -> ledger, that of the options first; the same ledger twice where the pool fills its servers.
    """

    def under(host_share: str) -> Ledger:
        return account(
            timeline,
            pool,
            site,
            grid=options.grid,
            start_utc_s=options.start_utc_s,
            basis=options.basis,
            duty_frac=options.duty_frac,
            between=options.between,
            host_share=host_share,
        )

    own = under(options.host_share)
    other = other_share(options.host_share)
    return {options.host_share: own, other: own if fills_its_hosts(pool) else under(other)}


def _account(ledger: Ledger, pool: "Pool", site: "Site", options: BooksOptions, sampler: Sampler) -> Account:
    """Account for a run under the host share of the options."""
    reserved_s, price = ledger.reservation.reserved_s, site.electricity_usd_per_kwh
    error = options.errors.get(options.host_share)
    prints = footprints(pool, options.ownership, options.host_share)
    return Account(
        host_share=options.host_share,
        ledger=ledger,
        footprints=prints,
        operational=operational_draws(ledger, pool, site, sampler, error),
        embodied={
            method: embodied_draws(footprint, reserved_s, sampler, error)
            for method, footprint in prints.items()
            if footprint
        },
        cost=run_cost(pool, options.ownership, reserved_s, ledger.total_j, price, options.host_share),
    )


def _band(values: Floats | None) -> Band | None:
    return None if values is None else percentiles(values)

"""One run as a comparison sees it: its name, its figures as all are counted, and why it may not be called best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, TypeVar

import numpy as np

from afterwatt.reports.columns import Floats
from afterwatt.reports.format import percent
from afterwatt.reports.rundir import Run
from afterwatt.reports.schema import BreakEven, Interval, RunCost, Summary
from afterwatt.reports.summary import ServedUnits, served

Value = TypeVar("Value")
MEETS_SLO_FRAC: Final = 0.9
SERVES_FRAC: Final = 0.9
"""Share of its servable requests that a run must finish to carry the load."""
SEPARATOR = " · "
"""Between the parts of a run's label."""
IN_WORDS: Final = {"slots": "by the slots in use", "whole": "with whole servers"}
"""How sentences call a host share."""
SHARE_WORDS: Final = {"slots": "by slots", "whole": "whole servers"}
"""How tables call a host share."""


class Choice(NamedTuple):
    """A way of counting: embodied method, allocation, and how much of a server counts (empty: not known)."""

    method: str
    allocation: str
    host_share: str

    def __str__(self) -> str:
        return " × ".join(filter(None, (self.method, self.allocation, SHARE_WORDS.get(self.host_share))))


@dataclass(frozen=True)
class Entry:
    """One run in a comparison, under a name that tells it from the others.

    ``place`` chooses its colour, ``counted`` is the way of counting that all runs of its question are shown under; None
    is that of its own headline.
    """

    label: str
    run: Run
    place: int = 0
    counted: Choice | None = None

    @property
    def summary(self) -> Summary:
        """The run's summary."""
        return self.run.summary

    @cached_property
    def served(self) -> ServedUnits:
        """What carbon is divided by."""
        return served(self.run, self.run.manifest.slo())

    @property
    def servable(self) -> int:
        """Requests that arrived, without those longer than the model's context: they are nobody's to serve."""
        return (self.summary.requests.arrived or 0) - self.summary.rejected_by.get("over_context", 0)

    @property
    def attainment_frac(self) -> float | None:
        """Share of what could be served that was served within the SLO."""
        met = self.summary.requests.slo_met
        return met / self.servable if met is not None and self.servable > 0 else None

    @property
    def meets_slo(self) -> bool | None:
        """Whether at least 90 % of what could be served was served within the SLO; None where there is no SLO."""
        share = self.attainment_frac
        return None if share is None else share >= MEETS_SLO_FRAC

    @property
    def overloaded(self) -> bool:
        """Whether more arrives than the hardware can serve."""
        return (self.summary.load.offered_frac or 0.0) > 1.0

    @property
    def fault(self) -> str:
        """Why the run may not be called best, in a few words; empty where it may."""
        finished = self.summary.requests.finished or 0
        if not self.served.output_tokens:
            return "serves nothing"
        if self.overloaded:
            return f"overloaded, {percent(self.summary.load.offered_frac)} of its capacity"
        if self.servable > 0 and finished < SERVES_FRAC * self.servable:
            return f"finishes {percent(finished / self.servable, 2)} of what could be served"
        if self.meets_slo is False:
            return f"within the SLO {percent(self.attainment_frac, 2)}"
        return "a bound, and no prediction" if self.run.manifest.doubt else ""

    @property
    def choice(self) -> Choice | None:
        """The way of counting of the summary's headline."""
        carbon = self.summary.carbon_gco2e
        if carbon.embodied_method is None or carbon.allocation is None:
            return None
        return Choice(carbon.embodied_method, carbon.allocation, self.host_share)

    @cached_property
    def host_share(self) -> str:
        """How much of its servers the headline counts; an older run says so in its manifest only. Empty: unknown."""
        asked = self.run.manifest.config.get("carbon")
        older = asked.get("host_share") if isinstance(asked, Mapping) else None
        return self.summary.carbon_gco2e.host_share or (older if isinstance(older, str) else "")

    @property
    def other_share(self) -> str:
        """The host share that is not the headline's; empty where nothing is known of it."""
        other = self.summary.other_host_share
        return other.host_share if other is not None else ""

    @property
    def fills_its_hosts(self) -> bool:
        """Whether both host shares come to the same, as far as both are known."""
        other = self.summary.other_host_share
        return other is not None and other.energy_j == self.summary.energy_j.total

    @cached_property
    def choices(self) -> dict[Choice, tuple[str, str]]:
        """Every way of counting that was drawn, with its columns: operational grams and embodied ones."""
        if not self.run.knows("draws", "operational_gco2e"):
            return {}
        drawn = self.run.embodied_draws()
        found = {
            Choice(method, allocation, share or self.host_share): (
                f"operational_gco2e__{share}" if share else "operational_gco2e",
                column,
            )
            for (method, allocation, share), column in drawn.items()
        }
        if self.other_share and not any(share for *_, share in drawn):  # its servers are full: both shares are one
            found |= {choice._replace(host_share=self.other_share): columns for choice, columns in found.items()}
        order = list(SHARE_WORDS)
        return dict(sorted(found.items(), key=lambda one: order.index(one[0].host_share) if one[0].host_share else 0))

    def carbon_draws(self, choice: Choice) -> Floats:
        """Give grams of CO2e per output token in every draw, operational and embodied together."""
        operational, embodied = self.parts(choice)
        return operational + embodied

    def parts(self, choice: Choice) -> tuple[Floats, Floats]:
        """Give grams of CO2e per output token in every draw: operational, embodied."""
        if not self.served.output_tokens:
            return np.zeros(0), np.zeros(0)
        operational, embodied = (self.run.column("draws", name) for name in self.choices[choice])
        return operational / self.served.output_tokens, embodied / self.served.output_tokens

    def band(self, unit: str, host_share: str | None = None) -> Interval:
        """Give grams of CO2e per unit, as counted in the comparison.

        Args:
            unit: a field of the SCI, such as `per_output_token_gco2e`.
            host_share: another host share than that of the comparison.
        """
        way = self.counted or self.choice
        share = self.host_share if way is None else way.host_share
        wanted = host_share if host_share is not None else share
        if way is None or (way.method, way.allocation) == (self.choice or way)[:2]:
            for block, of in ((self.summary.sci, self.host_share), self._other_sci()):
                if block is not None and of == wanted:
                    found: Interval = getattr(block, unit)
                    return found
        return self._redrawn(unit, None if way is None else way._replace(host_share=wanted))

    def _other_sci(self) -> tuple[object, str]:
        other = self.summary.other_host_share
        return (None, "") if other is None else (other.sci, other.host_share)

    def _redrawn(self, unit: str, choice: Choice | None) -> Interval:
        """Work out a block of the SCI from the draws, under a way of counting that is not the headline's."""
        counts = {
            "per_request_gco2e": self.served.requests,
            "per_output_token_gco2e": self.served.output_tokens,
            "per_slo_met_token_gco2e": self.served.slo_met_tokens,
        }
        if choice not in self.choices or not (count := counts[unit]) or not self.served.output_tokens:
            return Interval(p5=None, p50=None, p95=None)
        grams = self.carbon_draws(choice) * self.served.output_tokens / count
        low, middle, high = (float(value) for value in np.quantile(grams, (0.05, 0.5, 0.95)))
        return Interval(p5=low, p50=middle, p95=high)

    @property
    def energy_j(self) -> float | None:
        """Joules of the whole run, by the host share of the comparison."""
        return self._counted(self.summary.energy_j.total, "energy_j")

    @property
    def energy_per_token_j(self) -> float | None:
        """Joules per output token, by the host share of the comparison."""
        tokens, total_j = self.served.output_tokens, self.energy_j
        return total_j / tokens if total_j is not None and tokens else None

    @property
    def cost(self) -> RunCost | None:
        """Dollars of the whole run, by the host share of the comparison."""
        return self._counted(self.summary.cost_usd, "cost_usd")

    def breakeven(self, host_share: str) -> BreakEven | None:
        """What carbon per token depends on, by a host share."""
        if host_share == self.host_share:
            return self.summary.breakeven
        other = self.summary.other_host_share
        return other.breakeven if other is not None and other.host_share == host_share else None

    def _counted(self, own: Value, name: str) -> Value | None:
        share = self.host_share if self.counted is None else self.counted.host_share
        if share == self.host_share:
            return own
        other = self.summary.other_host_share
        return getattr(other, name) if other is not None and other.host_share == share else None


def entries(runs: Sequence[Run]) -> list[Entry]:
    """Name each run by what differs between them."""
    return [Entry(label, run, place) for place, (label, run) in enumerate(zip(labels(runs), runs, strict=True))]


def labels(runs: Sequence[Run]) -> list[str]:
    """Give each run the shortest name that tells it apart: hardware, then whatever else is not the same for all."""
    traits = [_traits(run) for run in runs]
    differing = [key for key in traits[0] if len({trait[key] for trait in traits}) > 1] if traits else []
    names = [SEPARATOR.join(filter(None, (trait[key] for key in differing or ["hardware"]))) for trait in traits]
    further = (
        [f"seed {run.manifest.seed}" for run in runs],
        [run.name for run in runs],
        [f"#{number}" for number in range(1, len(runs) + 1)],
    )
    for more in further:
        told = {name: {extra for other, extra in zip(names, more, strict=True) if other == name} for name in names}
        names = [f"{name}{SEPARATOR}{x}" if len(told[name]) > 1 else name for name, x in zip(names, more, strict=True)]
    return names


def shared_label(names: Sequence[str]) -> str:
    """Give what some labels have in common, or all of them where they have nothing."""
    parts = [name.split(SEPARATOR) for name in names]
    shared = [part for part in parts[0] if all(part in other for other in parts)]
    return SEPARATOR.join(shared) or " / ".join(names)


def _traits(run: Run) -> dict[str, str]:
    summary, config = run.summary, run.manifest.config
    policies = summary.policies
    if isinstance(policies, Mapping):
        policies = "/".join(str(value) for value in policies.values() if value is not None)
    return {
        "hardware": summary.hardware,
        "model": summary.model,
        "precision": str(config.get("precision") or ""),
        "stack": str(config.get("stack") or ""),
        "site": summary.site or "",
        "policy": str(policies or ""),
    }

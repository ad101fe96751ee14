"""What a run is: everything resolved, nothing read from the environment."""

from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from afterwatt.hwprofiles.deployment import Deployment
from afterwatt.hwprofiles.draws import DEFAULT_DRAWS
from afterwatt.hwprofiles.embodied import DEFAULT_METHOD
from afterwatt.hwprofiles.footprint import Ownership
from afterwatt.hwprofiles.grid import HourlyGrid
from afterwatt.hwprofiles.hostwork import NOMINAL
from afterwatt.hwprofiles.lives import DEFAULT_ALLOCATION
from afterwatt.hwprofiles.replicas import DEFAULT_HOST_SHARE
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.sites import Site
from afterwatt.hwprofiles.stacks import Stack
from afterwatt.modelspecs.precision import Precision
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.policies.config import PolicySet
from afterwatt.policies.slo import Slo
from afterwatt.sim.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonOptions:
    """Choices of the carbon and cost account.

    Attributes:
        basis: annual intensity, `lifecycle` or `direct`.
        duty_frac: share of reserved time that looks like the run; between: what the hardware does in the rest.
        embodied_method, allocation: the headline's; all of them are reported.
        host_share: the headline's share of `slots` in use, or `whole` servers; both are reported.
        ownership: new, second-hand or owned, and for how long.
        draws: Monte Carlo draws.
        grid: hourly intensity instead of the site's annual one; needs the run's start.
    """

    basis: str = "lifecycle"
    duty_frac: float = 1.0
    between: str = "off"
    embodied_method: str = DEFAULT_METHOD
    allocation: str = DEFAULT_ALLOCATION
    host_share: str = DEFAULT_HOST_SHARE
    ownership: Ownership = field(default_factory=Ownership)
    draws: int = DEFAULT_DRAWS
    grid: HourlyGrid | None = None


class Answers(NamedTuple):
    """What a model's answers are worth: perplexity (None: not measured), and of what text, by whom."""

    perplexity: float | None = None
    source: str = "not measured"


NOT_MEASURED: Final = Answers()


class Slowness(NamedTuple):
    """Factors on the predicted time of iterations that process prompts, and of those that only decode.

    `host`: which end of their intervals rates of weights outside of the GPUs are at (`hwprofiles.hostwork`).
    """

    prefill: float
    decode: float
    host: str = NOMINAL


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One run.

    Attributes:
        deployment, model, precision, stack, policies, site: the nouns.
        workload: what arrives.
        slo: thresholds for `slo_met`.
        carbon: options of the account.
        start_utc: wall clock of t = 0, ISO 8601 with a zone; needed for an hourly grid.
        horizon_s: no new iteration starts after this time (None: run until everything is done).
        warmup_s: requests that arrive before this are left out of the statistics.
        seed: of everything random.
        single_step: take every iteration singly; shuffle_ties: scramble the creation order of same-instant events.
        decisions: write decisions.parquet.
        slowness: how much longer than predicted iterations take; None: as predicted.
        answers: what they are worth, measured elsewhere.
        own_files: data files of the user's own that it was resolved from.
        bounds: run twice more, as fast and as slow as the stack's 90 % interval says, and report the range.
    """

    deployment: Deployment
    model: ModelSpec
    precision: Precision
    stack: Stack
    policies: PolicySet
    site: Site
    workload: Workload
    slo: Slo = field(default_factory=Slo)
    _: KW_ONLY
    carbon: CarbonOptions = field(default_factory=CarbonOptions)
    start_utc: str | None = None
    horizon_s: float | None = None
    warmup_s: float = 0.0
    seed: int = 0
    single_step: bool = False
    shuffle_ties: int | None = None
    decisions: bool = False
    slowness: Slowness | None = None
    bounds: bool = False
    answers: Answers = NOT_MEASURED
    own_files: tuple[Path, ...] = ()

    @property
    def serving(self) -> Serving:
        """Return what each replica computes."""
        return Serving(self.deployment, self.model, self.precision, self.stack)

    @property
    def start_utc_s(self) -> float | None:
        """Seconds since the epoch at t = 0."""
        return None if self.start_utc is None else datetime.fromisoformat(self.start_utc).timestamp()

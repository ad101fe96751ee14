"""The ledger: turns what happened in a run (seconds, bytes, joules above idle) into energy by component and state.

Hosts are counted by the slots in use unless asked otherwise: one card in a server of four burns a quarter of it, one
request in an hour the hour. That power is split evenly over the replicas. All energy is that of the site: power
supplies and PUE are inside `energy_j` (components `psu` and `facility`), so carbon and cost multiply it by an intensity
or a price and nothing else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from afterwatt.hwprofiles.carbon import operational_gco2e
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.power import facility_frac, psu_loss_frac
from afterwatt.hwprofiles.replicas import DEFAULT_HOST_SHARE, ReplicaPower, replica_power

if TYPE_CHECKING:
    from afterwatt.hwprofiles.deployment import Pool
    from afterwatt.hwprofiles.grid import HourlyGrid
    from afterwatt.hwprofiles.sites import Site

Floats = NDArray[np.float64]

COMPONENTS: Final = ("gpu", "cpu", "dram", "fans", "storage", "nic", "board", "psu", "facility")
"""Components of a timeline row; a run's totals add `standby`, the time reserved before and after it."""
STATES: Final = ("prefill", "decode", "idle")
"""States of a timeline row; a run's totals add `off`."""
BETWEEN: Final = ("off", "idle")
NEEDED: Final = (
    "start_s",
    "interval_s",
    "replica",
    "prefill_s",
    "decode_s",
    "idle_s",
    "gpu_dynamic_prefill_j",
    "gpu_dynamic_decode_j",
)
_CLOCK_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Reservation:
    """The time for which the hardware is held so that the run can happen.

    Attributes:
        run_s: length of the run.
        duty_frac: share of the reserved time that looks like the run, in (0, 1].
        between: what the hardware does in the rest: `off` (standby) or `idle` (on, models loaded).
    """

    run_s: float
    duty_frac: float = 1.0
    between: str = "off"

    def __post_init__(self) -> None:
        if not self.run_s > 0.0:
            raise HardwareError(f"run_s = {self.run_s!r} must be above 0 s; an empty run has no ledger")
        if not 0.0 < self.duty_frac <= 1.0:
            raise HardwareError(f"duty = {self.duty_frac!r} must lie in (0, 1]; 1 is a machine that is never off")
        if self.between not in BETWEEN:
            raise HardwareError(f"between = {self.between!r} is not known; the machine is {' or '.join(BETWEEN)}")

    @property
    def reserved_s(self) -> float:
        """Return seconds reserved for the run (SCI's time reserved): run / duty."""
        return self.run_s / self.duty_frac

    @property
    def unused_s(self) -> float:
        """Return reserved seconds outside of the run."""
        return self.run_s * (1.0 / self.duty_frac - 1.0)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Energy and operational carbon of a run.

    Attributes:
        columns: the timeline's columns and those added here: `energy_<component>_j`, `energy_<state>_j`, `energy_j`,
            `intensity_gco2e_per_kwh`, `operational_gco2e`.
        power: watts of one replica and its share of the hosts.
        replicas: how many of them.
        reservation: time reserved.
        intensity: grams per kWh in the run and around it.
    """

    columns: Mapping[str, NDArray[np.generic]]
    power: ReplicaPower
    replicas: int
    reservation: Reservation
    intensity: "Intensity"

    @property
    def off_w(self) -> float:
        """Return watts of the whole pool, at the site, in the reserved time that is not used."""
        each_w = self.power.off_site_w if self.reservation.between == "off" else self.power.idle_site_w
        return each_w * self.replicas

    def floats(self, name: str) -> Floats:
        """Return a column as float64."""
        return np.asarray(self.columns[name], dtype=np.float64)

    @property
    def off_j(self) -> float:
        """Return joules of the reserved time outside of the run."""
        return self.off_w * self.reservation.unused_s

    @property
    def by_component_j(self) -> dict[str, float]:
        """Return joules by component; `standby` is the time reserved and not used."""
        sums = {name: float(self.floats(f"energy_{name}_j").sum()) for name in COMPONENTS}
        return sums | {"standby": self.off_j}

    @property
    def by_state_j(self) -> dict[str, float]:
        """Return joules by state; the time reserved and not used is `off`, or `idle` where the machine stays on."""
        sums = {name: float(self.floats(f"energy_{name}_j").sum()) for name in STATES} | {"off": 0.0}
        return sums | {self.reservation.between: sums[self.reservation.between] + self.off_j}

    @property
    def run_j(self) -> float:
        """Return joules of the run itself: the integral of the timeline."""
        return float(self.floats("energy_j").sum())

    @property
    def total_j(self) -> float:
        """Return joules of the run and of the time reserved around it."""
        return self.run_j + self.off_j

    @property
    def operational_gco2e(self) -> float:
        """Return grams from electricity, reserved time included."""
        off_g = operational_gco2e(self.off_j, self.intensity.mean_gco2e_per_kwh)
        return float(self.floats("operational_gco2e").sum()) + float(off_g)

    @property
    def mean_intensity_gco2e_per_kwh(self) -> float:
        """Return the energy-weighted mean intensity of the run; of the reserved time if the run used no energy."""
        energy_j = self.floats("energy_j")
        if not energy_j.any():
            return self.intensity.mean_gco2e_per_kwh
        return float(np.average(self.floats("intensity_gco2e_per_kwh"), weights=energy_j))


def account(
    timeline: Mapping[str, NDArray[np.generic]],
    pool: "Pool",
    site: "Site",
    *,
    grid: "HourlyGrid | None" = None,
    start_utc_s: float | None = None,
    basis: str = "lifecycle",
    duty_frac: float = 1.0,
    between: str = "off",
    host_share: str = DEFAULT_HOST_SHARE,
) -> Ledger:
    """Return the ledger of a run: its timeline with energy and operational carbon added, and the time reserved.

    Args:
        timeline: the columns of `NEEDED`, one row per interval and replica (others are passed through).
        pool: cards, hosts and replicas.
        site: PUE and, where no series is given, the annual intensity.
        grid: hourly intensity; needs `start_utc_s`.
        start_utc_s: seconds since the epoch of the run's start (the zero of `start_s`).
        basis: which annual intensity of the site, `lifecycle` or `direct`.
        duty_frac: share of the reserved time that looks like the run; 1 is a machine that is never off.
        between: what the hardware does in the rest: `off` (standby) or `idle`.
        host_share: a key of `replicas.HOST_SHARES`.

    Raises:
        HardwareError: a column is missing, rows do not cover the run, the site has no such intensity, or the run lies
            outside of the series.
    """
    if grid is None:
        intensity = Intensity.constant(site.intensity_gco2e_per_kwh(basis))
    else:
        intensity = Intensity.of(grid, start_utc_s)
    power = replica_power(pool, site, host_share)
    return settle(timeline, power, pool.replicas, intensity, duty_frac=duty_frac, between=between)


@dataclass(frozen=True, slots=True)
class Intensity:
    """Grams per kWh while a run goes on: a constant, or an hourly series and where the run starts in it.

    Attributes:
        mean_gco2e_per_kwh: the constant, or the mean of the whole series (the time around the run may be any).
        fact: the constant with its interval, if it has one.
        grid: the series, if there is one.
        start_utc_s: seconds since the epoch of the run's start; only with a series.
    """

    mean_gco2e_per_kwh: float
    grid: "HourlyGrid | None" = None
    start_utc_s: float = 0.0
    fact: Fact | None = None

    @classmethod
    def constant(cls, gco2e_per_kwh: float) -> "Intensity":
        """Return an intensity that never changes."""
        return cls(float(gco2e_per_kwh), fact=gco2e_per_kwh if isinstance(gco2e_per_kwh, Fact) else None)

    @classmethod
    def of(cls, grid: "HourlyGrid", start_utc_s: float | None) -> "Intensity":
        """Return the intensity of a series from the run's start on."""
        if start_utc_s is None:
            raise HardwareError("an hourly grid needs the run's start; give one such as 2022-06-01T00:00:00Z")
        return cls(float(np.mean(grid.gco2e_per_kwh)), grid, start_utc_s)

    def over(self, start_s: Floats, interval_s: Floats) -> Floats:
        """Return the mean over each interval of the run, g/kWh."""
        if self.grid is None:
            return np.full(len(start_s), self.mean_gco2e_per_kwh)
        begin = self.start_utc_s + start_s
        return self.grid.mean_over(begin, begin + interval_s)


def settle(
    timeline: Mapping[str, NDArray[np.generic]],
    power: ReplicaPower,
    replicas: int,
    intensity: Intensity,
    *,
    duty_frac: float = 1.0,
    between: str = "off",
) -> Ledger:
    """Do what `account` does, from watts and intensity instead of profiles.

    The baseline of every component goes to the states in proportion to their time; what is drawn on top goes to the
    state that draws it.
    """
    reservation = Reservation(_covered_s(timeline, replicas), duty_frac, between)
    columns = dict(timeline) | energy_columns(timeline, power)
    rows = intensity.over(_floats(timeline, "start_s"), _floats(timeline, "interval_s"))
    columns["intensity_gco2e_per_kwh"] = rows
    columns["operational_gco2e"] = operational_gco2e(_floats(columns, "energy_j"), rows)
    return Ledger(columns, power, replicas, reservation, intensity)


def energy_columns(timeline: Mapping[str, NDArray[np.generic]], power: ReplicaPower) -> dict[str, Floats]:
    """Return `energy_<component>_j`, `energy_<state>_j` and `energy_j` for timeline rows.

    components = baseline W x time + busy W x (prefill + decode) time + joules above that, of GPUs, and of CPU and disks
    where they work with weights;
    psu = (1 / efficiency - 1) x IT; facility = (PUE - 1) x (IT + psu).
    """
    prefill_s, decode_s, idle_s = (_floats(timeline, f"{state}_s") for state in STATES)
    dynamic = {state: _floats(timeline, f"gpu_dynamic_{state}_j") for state in ("prefill", "decode")}
    busy_s = prefill_s + decode_s
    time_s = busy_s + idle_s
    it = {name: power.baseline_w[name] * time_s + power.busy_w.get(name, 0.0) * busy_s for name in power.baseline_w}
    it["gpu"] = it["gpu"] + dynamic["prefill"] + dynamic["decode"]
    for name in ("cpu", "storage"):
        if f"{name}_dynamic_j" in timeline:
            it[name] = it[name] + _floats(timeline, f"{name}_dynamic_j")
    for state, joules in dynamic.items():
        if f"host_dynamic_{state}_j" in timeline:
            dynamic[state] = joules + _floats(timeline, f"host_dynamic_{state}_j")
    it_j = sum_columns(it.values())
    psu_j = psu_loss_frac(power.psu_efficiency_frac) * it_j
    facility_j = facility_frac(power.pue) * (it_j + psu_j)
    columns = {f"energy_{name}_j": it[name] for name in COMPONENTS if name in it}
    columns |= {"energy_psu_j": psu_j, "energy_facility_j": facility_j}
    busy_w = power.it_baseline_w + power.it_busy_w
    columns["energy_prefill_j"] = (busy_w * prefill_s + dynamic["prefill"]) * power.site_factor
    columns["energy_decode_j"] = (busy_w * decode_s + dynamic["decode"]) * power.site_factor
    columns["energy_idle_j"] = power.it_baseline_w * idle_s * power.site_factor
    columns["energy_j"] = it_j + psu_j + facility_j
    return columns


def sum_columns(columns: Iterable[Floats]) -> Floats:
    """Return the sum, row by row, of equally long columns."""
    total: Floats = np.stack(list(columns)).sum(axis=0)
    return total


def _floats(timeline: Mapping[str, NDArray[np.generic]], name: str) -> Floats:
    return np.asarray(timeline[name], dtype=np.float64)


def _covered_s(timeline: Mapping[str, NDArray[np.generic]], replicas: int) -> float:
    """Return the run's length; every replica must be accounted for from its start to its end."""
    if missing := [name for name in NEEDED if name not in timeline]:
        raise HardwareError(f"the timeline has no column {missing[0]!r}; a ledger needs {', '.join(NEEDED)}")
    if not len(timeline["start_s"]):
        raise HardwareError("the timeline has no rows; an empty run has no ledger")
    start_s, interval_s = _floats(timeline, "start_s"), _floats(timeline, "interval_s")
    in_states_s = sum_columns(_floats(timeline, f"{state}_s") for state in STATES)
    run_s = float((start_s + interval_s).max() - start_s.min())
    slack_s = _CLOCK_TOLERANCE * max(run_s, 1.0)
    if (worst := np.abs(in_states_s - interval_s).max()) > slack_s:
        raise HardwareError(f"prefill_s + decode_s + idle_s differs from interval_s by {worst:g} s; they must be equal")
    covered_s = np.bincount(np.asarray(timeline["replica"], dtype=np.int64), weights=interval_s, minlength=replicas)
    if len(covered_s) != replicas or np.abs(covered_s - run_s).max() > slack_s * len(start_s):
        raise HardwareError(
            f"the timeline covers {[round(float(s), 6) for s in covered_s[:8]]} s of its replicas; "
            f"each of the {replicas} must be there for all {run_s:g} s, idle or not"
        )
    return run_s

"""An hourly carbon-intensity series and its exact means: what the grid emitted while something ran.

Reading the published file formats is `hwprofiles.gridfiles`.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.units import S_PER_CALENDAR_YEAR

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

GRID_BASES: Final = ("lifecycle", "direct", "marginal")
"""`marginal` signals are a sensitivity; they are never mixed with averages."""


@dataclass(frozen=True, slots=True, eq=False)
class HourlyGrid:
    """A step series: value i holds from `times[i]` to `times[i + 1]`, the last one for `step_s`.

    Attributes:
        times: seconds since 1970-01-01 UTC, float64, ascending, `step_s` apart.
        gco2e_per_kwh: intensity, float64, same length.
        step_s: length of a step.
        basis: one of `GRID_BASES`.
        zone: grid zone.
        source: the file.
        estimated_frac: share of steps that the publisher estimated; None if the file does not say.
        repeat_year: whether times outside of the series are answered by its whole years, repeated (see `mean_over`).
        origin: whose numbers they are, as far as it is known.
    """

    times: "Floats"
    gco2e_per_kwh: "Floats"
    step_s: float
    basis: str
    zone: str
    source: str
    estimated_frac: float | None = None
    repeat_year: bool = False
    origin: str = field(default="", kw_only=True)

    @property
    def label(self) -> str:
        """Return file, zone and basis."""
        return f"{self.source}, {self.zone or 'zone not said'}, {self.basis}"

    @property
    def start_s(self) -> float:
        """Return when the first step begins."""
        return float(self.times[0])

    @property
    def end_s(self) -> float:
        """Return when the last step ends."""
        return float(self.times[-1]) + self.step_s

    def repeating(self) -> "HourlyGrid":
        """Return the same series answering for any time, by repeating its whole years.

        Raises:
            HardwareError: the series is shorter than 365 days.
        """
        if self.end_s - self.start_s < S_PER_CALENDAR_YEAR:
            days = (self.end_s - self.start_s) / 86_400.0
            raise HardwareError(f"{self.source}: holds {days:.4g} days; repeat_year needs at least 365")
        return replace(self, repeat_year=True)

    def mean_over(self, start_s: "npt.ArrayLike", end_s: "npt.ArrayLike") -> "Floats":
        """Return the time-weighted mean intensity of each interval [start, end), exact for the step series.

        An interval of no length gets the value in force at its start. With `repeat_year`, a time outside of the series
        is moved into it by whole years of 365 days, as many at once as the series holds (hours of the day stay, days of
        the week shift); a time that the series covers is never moved.

        Args:
            start_s: seconds since the epoch, any shape.
            end_s: seconds since the epoch, same shape, nowhere below `start_s`.

        Returns:
            Means in g/kWh, float64, of the shape of the arguments.

        Raises:
            HardwareError: an interval runs backwards, or lies outside of the series and `repeat_year` is off.
        """
        import numpy as np

        start, end = np.broadcast_arrays(np.asarray(start_s, np.float64), np.asarray(end_s, np.float64))
        if not bool(np.all(np.isfinite(start) & np.isfinite(end))):
            raise HardwareError("an interval of the grid series has a bound that is not finite")
        if bool(np.any(end < start)):
            worst = int(np.argmax((start - end).ravel()))
            raise HardwareError(f"interval {start.ravel()[worst]:.3f}..{end.ravel()[worst]:.3f} s runs backwards")
        if not self.repeat_year:
            self._check_span(start, end)
        from_cycle, from_step, from_s = self._locate(start)
        to_cycle, to_step, to_s = self._locate(end)
        value = self.gco2e_per_kwh
        sums = np.concatenate(([0.0], np.cumsum(value[:-1]))) * self.step_s
        whole = self._periods(to_cycle, sums) - self._periods(from_cycle, sums) + (sums[to_step] - sums[from_step])
        integral = whole + value[to_step] * to_s - value[from_step] * from_s
        same = (to_cycle == from_cycle) & (to_step == from_step)
        length = np.where(same, 1.0, end - start)
        return np.where(same, value[from_step], integral / np.where(length > 0.0, length, 1.0))

    def _check_span(self, start: "Floats", end: "Floats") -> None:
        import numpy as np

        if start.size and (float(np.min(start)) < self.start_s or float(np.max(end)) > self.end_s):
            raise HardwareError(
                f"{self.source}: the series covers {utc_text(self.start_s)} to {utc_text(self.end_s)}, the run "
                f"{utc_text(float(np.min(start)))} to {utc_text(float(np.max(end)))}; choose a start within the series "
                "or repeat_year"
            )

    @property
    def _period_s(self) -> float:
        """Return the length of the whole 365-day years that the series holds."""
        return (self.end_s - self.start_s) // S_PER_CALENDAR_YEAR * S_PER_CALENDAR_YEAR

    def _periods(self, cycle: "Floats", sums: "Floats") -> "Floats":
        """Return the integral of so many periods: of the last ones behind the series, of the first ones before it."""
        import numpy as np

        if not self.repeat_year:
            return np.zeros_like(cycle)

        def integral(at_s: float) -> float:
            step = min(int((at_s - self.start_s) // self.step_s), len(self.times) - 1)
            return float(sums[step] + self.gco2e_per_kwh[step] * (at_s - self.start_s - step * self.step_s))

        last = integral(self.end_s) - integral(self.end_s - self._period_s)
        return np.where(cycle > 0.0, cycle * last, cycle * integral(self.start_s + self._period_s))

    def _locate(self, at_s: "Floats") -> "tuple[Floats, npt.NDArray[np.int64], Floats]":
        """Return (periods moved by, step, seconds into the step) of each time; the very end is in the last step."""
        import numpy as np

        offset = at_s - self.start_s
        cycle = np.zeros_like(offset)
        if self.repeat_year:
            behind = np.floor((at_s - self.end_s) / self._period_s) + 1.0
            before = np.floor(offset / self._period_s)
            cycle = np.where(at_s >= self.end_s, behind, np.minimum(before, 0.0))
            offset = offset - cycle * self._period_s
        step = np.clip(np.floor(offset / self.step_s).astype(np.int64), 0, len(self.times) - 1)
        return cycle, step, offset - step * self.step_s


def utc_text(at_s: float) -> str:
    """Return seconds since the epoch as ISO text in UTC."""
    import datetime as dt

    return dt.datetime.fromtimestamp(at_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

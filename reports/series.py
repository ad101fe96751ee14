"""A run's timeline as a few hundred points: replicas added up, neighbours merged by exact time-weighted means."""

import numpy as np
import numpy.typing as npt

from afterwatt.reports.columns import Floats
from afterwatt.reports.rundir import Run

MOST_POINTS = 240


class RunSeries:
    """The timeline of a run, at most 240 bins of time.

    Attributes:
        start_s: where each bin begins.
        length_s: how long it is.
        replicas: how many replicas ran.
        merged: how many intervals of the file make one bin.
        interval_s: the length of an interval in the file.
    """

    def __init__(self, run: Run, most_points: int = MOST_POINTS) -> None:
        self._run = run
        start_s, row_s, replica = run.columns("timeline", "start_s", "interval_s", "replica")
        self._kept = ~np.isnan(start_s + row_s + replica)  # else nobody knows when or where that was
        starts, first, place = np.unique(start_s[self._kept], return_index=True, return_inverse=True)
        self._row_s = row_s[self._kept]
        lengths = self._row_s[first]
        self.merged = max(1, -(-len(starts) // most_points))
        self.interval_s = float(lengths[0]) if len(lengths) else 0.0
        self._bin: npt.NDArray[np.int64] = place // self.merged
        self.start_s: Floats = starts[:: self.merged]
        self.length_s = _sums(np.arange(len(starts)) // self.merged, lengths, len(self.start_s))
        self._replica = replica[self._kept].astype(np.int64)
        self.replicas = len(np.unique(self._replica))

    def __len__(self) -> int:
        return len(self.start_s)

    @property
    def edges_s(self) -> Floats:
        """The bins' borders: one more than there are bins."""
        return np.append(self.start_s, self.start_s[-1] + self.length_s[-1])

    @property
    def has_energy(self) -> bool:
        """Whether the ledger has been here, and knew every interval's energy."""
        return self.knows("energy_j")

    def knows(self, *columns: str) -> bool:
        """Tell whether the run knows these columns in every interval, of which there must be some."""
        return len(self) > 0 and all(bool(np.isfinite(self.total(column)).all()) for column in columns)

    def _values(self, column: str) -> Floats:
        return self._run.column("timeline", column)[self._kept]

    def total(self, column: str) -> Floats:
        """Add up a column (joules, tokens, bytes, seconds of all replicas) per bin."""
        return _sums(self._bin, self._values(column), len(self))

    def rate(self, column: str) -> Floats:
        """Give a column per second of time: joules become watts, tokens tokens per second."""
        return self.total(column) / self.length_s

    def level(self, column: str) -> Floats:
        """Give the time-weighted mean of a level, added up over replicas (sequences running, waiting)."""
        values = self._values(column) * self._row_s
        return _sums(self._bin, values, len(self)) / self.length_s

    def range_over_replicas(self, column: str) -> tuple[Floats, Floats]:
        """Give the least and the greatest replica's time-weighted mean of a level, per bin."""
        values = self._values(column) * self._row_s
        _, replica = np.unique(self._replica, return_inverse=True)
        cells = np.zeros((self.replicas, len(self)))
        np.add.at(cells, (replica, self._bin), values)
        cells /= self.length_s
        return cells.min(axis=0), cells.max(axis=0)

    def rule(self) -> str:
        """Say how the points came about."""
        if self.merged == 1:
            return f"one point per interval of {self.interval_s:g} s"
        return f"each point is the exact mean over {self.merged} intervals of {self.interval_s:g} s"


def _sums(places: npt.NDArray[np.int64], values: Floats, length: int) -> Floats:
    return np.bincount(places, weights=values, minlength=length).astype(np.float64)

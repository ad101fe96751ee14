"""A weighted histogram on a logarithmic scale: a distribution of any length in constant memory."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RELATIVE_WIDTH = 1e-3


class LogHistogram:
    """Counts by value, in bins of 0.1 % relative width, with each bin's weighted sum and largest value.

    A quantile or the maximum read from it is off by at most the width of a bin, or two for very long runs; the mean is
    exact.
    """

    def __init__(self, low: float = 1e-9, high: float = 1e9) -> None:
        self._low, self._log_low = low, np.log(low)
        bins = int(np.ceil((np.log(high) - self._log_low) / RELATIVE_WIDTH)) + 1
        self._weight = np.zeros(bins)
        self._sum = np.zeros(bins)
        self._max = np.zeros(bins)

    def add(self, values: Floats, weights: Floats) -> None:
        """Add values with weights, none of them negative."""
        keep = weights > 0
        values, weights = values[keep], weights[keep]
        if not len(values):
            return
        index = ((np.log(np.maximum(values, self._low)) - self._log_low) / RELATIVE_WIDTH).astype(np.int64)
        np.clip(index, 0, len(self._weight) - 1, out=index)
        low, high = int(index.min()), int(index.max()) + 1
        index -= low
        self._weight[low:high] += np.bincount(index, weights, minlength=high - low)
        self._sum[low:high] += np.bincount(index, weights * values, minlength=high - low)
        np.maximum.at(self._max[low:high], index, values)

    def add_runs(self, first: Floats, slope: Floats, counts: NDArray[np.int64], weights: Floats) -> None:
        """Add the arithmetic progressions first + slope * k, k < counts, each term with the run's weight.

        A run that stays within some bins is represented by as many evenly spaced means of its parts.
        """
        some = counts > 0
        first, slope, counts, weights = first[some], slope[some], counts[some], weights[some]
        spread = slope * (counts - 1) / first  # relative to where a part is widest, at the start
        parts = np.minimum(counts, np.ceil(spread / RELATIVE_WIDTH).astype(np.int64) + 1)
        run = np.repeat(np.arange(len(parts)), parts)
        part = np.arange(len(run)) - np.repeat(np.cumsum(parts) - parts, parts)
        start = part * counts[run] // parts[run]
        size = (part + 1) * counts[run] // parts[run] - start
        self.add(first[run] + slope[run] * (start + (size - 1) / 2), weights[run] * size)

    def table(self) -> dict[str, Floats]:
        """Return the occupied bins in ascending order: mean value, largest value and weight of each."""
        used = np.flatnonzero(self._weight)
        weight = self._weight[used]
        return {"value": self._sum[used] / weight, "largest": self._max[used], "weight": weight}

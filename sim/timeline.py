"""Time series of any length in bounded memory: bins that double in width when there are too many of them."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAX_BINS = 2048
FIRST_WIDTH_PS = 10**11
LONGEST_WIDTH_PS = 3_600 * 10**12  # an hour: the step of the grid's own series


class Bins:
    """Amounts spread over time, several quantities and several replicas at once.

    Attributes:
        width_ps: width of a bin, 0.1 s times a power of two.
        amounts: array of (quantity, replica, bin).
    """

    def __init__(self, quantities: int, levels: int, replicas: int) -> None:
        self.width_ps = FIRST_WIDTH_PS
        self.amounts = np.zeros((quantities, replicas, 64))
        self._jumps = np.zeros((levels, replicas, 64))
        self._within = np.zeros((levels, replicas, 64))  # integral of a jump up to the end of its own bin

    def reach(self, end_ps: int) -> None:
        """Make room up to a time."""
        while end_ps > self.width_ps * MAX_BINS and self.width_ps * 2 <= LONGEST_WIDTH_PS:
            # An early jump lasts through the late half.
            self._within = _halved(self._within) + _padded(self._jumps)[:, :, 0::2] * (self.width_ps * 1e-12)
            self.amounts, self._jumps = _halved(self.amounts), _halved(self._jumps)
            self.width_ps *= 2
        needed = -(-end_ps // self.width_ps) + 1
        have = self.amounts.shape[2]
        if needed > have:
            room = ((0, 0), (0, 0), (0, max(needed, 2 * have) - have))
            self.amounts, self._jumps, self._within = (
                np.pad(array, room) for array in (self.amounts, self._jumps, self._within)
            )

    def spread(self, replica: int, origin_ps: int, start_ps: Ints, end_ps: Ints, amounts: Floats) -> None:
        """Spread amounts (quantity, span) evenly over their spans of time, which count from an origin."""
        if not len(start_ps):
            return
        self.reach(origin_ps + int(end_ps.max()))
        skipped, shift_ps = divmod(origin_ps, self.width_ps)
        start_ps, end_ps = start_ps + shift_ps, end_ps + shift_ps
        first, last = start_ps // self.width_ps, (end_ps - 1) // self.width_ps
        target = self.amounts[:, replica, skipped:]
        size = target.shape[1]
        whole = first == last
        for quantity, values in enumerate(amounts):
            target[quantity] += np.bincount(first[whole], values[whole], minlength=size)
        if whole.all():
            return
        split = ~whole
        first, last, start_ps, end_ps = first[split], last[split], start_ps[split], end_ps[split]
        counts = last - first + 1
        span = np.repeat(np.arange(len(counts)), counts)
        bins = np.arange(len(span)) - np.repeat(np.cumsum(counts) - counts, counts) + first[span]
        begin = np.maximum(start_ps[span], bins * self.width_ps)
        end = np.minimum(end_ps[span], (bins + 1) * self.width_ps)
        share = (end - begin) / (end_ps - start_ps)[span]
        for quantity, values in enumerate(amounts[:, split]):
            target[quantity] += np.bincount(bins, values[span] * share, minlength=size)

    def step(self, level: int, replica: int, origin_ps: int, at_ps: Ints, jumps: Floats) -> None:
        """Add jumps of a level (of one more waiting request, say) at points in time, which count from an origin."""
        if not len(at_ps):
            return
        self.reach(origin_ps + int(at_ps.max()))
        skipped, shift_ps = divmod(origin_ps, self.width_ps)
        at_ps = at_ps + shift_ps
        bins = at_ps // self.width_ps
        size = self._jumps.shape[2] - skipped
        self._jumps[level, replica, skipped:] += np.bincount(bins, jumps, minlength=size)
        left_s = ((bins + 1) * self.width_ps - at_ps) * 1e-12
        self._within[level, replica, skipped:] += np.bincount(bins, jumps * left_s, minlength=size)

    def edges_s(self, end_ps: int) -> Floats:
        """Return the edges of the bins up to a time; the last one is cut there."""
        self.reach(end_ps)
        count = max(1, -(-end_ps // self.width_ps))
        edges = np.arange(count + 1, dtype=np.float64) * (self.width_ps * 1e-12)
        edges[-1] = end_ps * 1e-12
        return edges

    def level_integrals(self, level: int, end_ps: int) -> Floats:
        """Return the integral over each bin of the level that the jumps add up to, (replica, bin), in seconds."""
        edges = self.edges_s(end_ps)
        count = len(edges) - 1
        jumps = self._jumps[level, :, :count]
        before = np.cumsum(jumps, axis=1) - jumps
        integrals: Floats = before * np.diff(edges) + self._within[level, :, :count]
        integrals[:, -1] -= jumps[:, -1] * (self.width_ps * 1e-12 - (edges[-1] - edges[-2]))
        return integrals


def _padded(array: Floats) -> Floats:
    """Make the number of bins even."""
    return np.pad(array, ((0, 0), (0, 0), (0, 1))) if array.shape[2] % 2 else array


def _halved(array: Floats) -> Floats:
    """Add up pairs of bins."""
    array = _padded(array)
    halved: Floats = array[:, :, 0::2] + array[:, :, 1::2]
    return halved

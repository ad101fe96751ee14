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

    def __init__(self, quantities: int, replicas: int) -> None:
        self.width_ps = FIRST_WIDTH_PS
        self.amounts = np.zeros((quantities, replicas, 64))
        self._steps = np.zeros((2, replicas, 64))  # (jumps, integral within the jump's own bin)

    def reach(self, end_ps: int) -> None:
        """Make room up to a time."""
        while end_ps > self.width_ps * MAX_BINS and self.width_ps * 2 <= LONGEST_WIDTH_PS:
            self.amounts, self._steps = self._halved(self.amounts), self._halved_steps()
            self.width_ps *= 2
        needed = -(-end_ps // self.width_ps) + 1
        have = self.amounts.shape[2]
        if needed > have:
            more = max(needed, 2 * have) - have
            self.amounts = np.pad(self.amounts, ((0, 0), (0, 0), (0, more)))
            self._steps = np.pad(self._steps, ((0, 0), (0, 0), (0, more)))

    @staticmethod
    def _halved(array: Floats) -> Floats:
        if array.shape[2] % 2:
            array = np.pad(array, ((0, 0), (0, 0), (0, 1)))
        halved: Floats = array[:, :, 0::2] + array[:, :, 1::2]
        return halved

    def _halved_steps(self) -> Floats:
        halved = self._halved(self._steps)
        odd = self._steps.shape[2] % 2
        jumps = np.pad(self._steps[0], ((0, 0), (0, odd))) if odd else self._steps[0]
        halved[1] += jumps[:, 0::2] * (self.width_ps * 1e-12)  # an early jump lasts through the late half
        return halved

    def spread(self, replica: int, start_ps: Ints, end_ps: Ints, amounts: Floats) -> None:
        """Spread amounts (quantity, span) evenly over their spans of time."""
        if not len(start_ps):
            return
        self.reach(int(end_ps.max()))
        first, last = start_ps // self.width_ps, (end_ps - 1) // self.width_ps
        target = self.amounts[:, replica]
        size = target.shape[1]
        whole = first == last
        for quantity, values in enumerate(amounts):
            target[quantity] += np.bincount(first[whole], values[whole], minlength=size)
        if whole.all():
            return
        split = ~whole
        first, last, start_ps, end_ps, amounts = (
            first[split],
            last[split],
            start_ps[split],
            end_ps[split],
            amounts[:, split],
        )
        counts = last - first + 1
        span = np.repeat(np.arange(len(counts)), counts)
        bins = np.arange(len(span)) - np.repeat(np.cumsum(counts) - counts, counts) + first[span]
        begin = np.maximum(start_ps[span], bins * self.width_ps)
        end = np.minimum(end_ps[span], (bins + 1) * self.width_ps)
        share = (end - begin) / (end_ps - start_ps)[span]
        for quantity, values in enumerate(amounts):
            target[quantity] += np.bincount(bins, values[span] * share, minlength=size)

    def step(self, replica: int, at_ps: Ints, jumps: Floats) -> None:
        """Add jumps of a level (of one more waiting request, say) at points in time."""
        if not len(at_ps):
            return
        self.reach(int(at_ps.max()))
        bins = at_ps // self.width_ps
        size = self._steps.shape[2]
        self._steps[0, replica] += np.bincount(bins, jumps, minlength=size)
        left_s = ((bins + 1) * self.width_ps - at_ps) * 1e-12
        self._steps[1, replica] += np.bincount(bins, jumps * left_s, minlength=size)

    def edges_ps(self, end_ps: int) -> Ints:
        """Return the edges of the bins up to a time; the last one is cut there."""
        self.reach(end_ps)
        count = max(1, -(-end_ps // self.width_ps))
        edges = np.arange(count + 1, dtype=np.int64) * self.width_ps
        edges[-1] = end_ps
        return edges

    def level_integrals(self, end_ps: int) -> Floats:
        """Return the integral over each bin of the level that the jumps add up to, (replica, bin), in seconds."""
        edges = self.edges_ps(end_ps)
        count = len(edges) - 1
        jumps, within = self._steps[:, :, :count]
        before = np.cumsum(jumps, axis=1) - jumps
        integrals: Floats = before * (np.diff(edges) * 1e-12) + within
        over_s = self.width_ps * 1e-12 - (edges[-1] - edges[-2]) * 1e-12
        integrals[:, -1] -= jumps[:, -1] * over_s
        return integrals

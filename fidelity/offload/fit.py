"""What hosts reach, fitted to published rows, and how far off rows are whose source the fit has not seen.

Four shares, in logarithms, with wide priors; every source counts alike, however many rows it has; rows that are far off
pull less (soft l1). Their common spread is that of the host's part of a token over rows whose source was left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from afterwatt.fidelity.offload.score import Shares, Timed
from afterwatt.hwprofiles.stacks import model_class

Floats = NDArray[np.float64]
PRIOR: Final = Shares(few_channels_frac=0.5, many_channels_frac=0.5, second_socket_frac=0.6, hand_over_s=1e-4)
PRIOR_SPREAD: Final = Shares(0.25, 0.25, 0.5, 0.5)
"""Standard deviations of the priors, in logarithms: factors of 1.3 and 1.6."""
NOISE: Final = 0.15
"""Standard deviation of a row, in logarithms: two builds on one rig lie up to 40 % apart, repeats 4 %."""
LEAST: Final = 0.2
"""Least factor on the host's part that is believed."""
COVERED: Final = (0.05, 0.95)
"""Quantiles of the host's part that its interval spans."""


def fit(cases: Sequence[Timed]) -> Shares:
    """Return the shares that fit the rows best.

    Args:
        cases: rows with their GPUs' parts.
    """
    weight = np.sqrt(source_weights(cases) * len({case.row.source for case in cases}))
    measured = np.log([1.0 / case.row.value for case in cases])
    prior, spread = np.log(PRIOR), np.array(PRIOR_SPREAD)

    def residuals(logs: Floats) -> Floats:
        shares = Shares(*np.exp(logs).tolist())
        found = np.log([case.token_s(shares) for case in cases])
        return np.concatenate([weight * (found - measured) / NOISE, (logs - prior) / spread])

    best = least_squares(residuals, prior, loss="soft_l1")
    return Shares(*np.exp(best.x).tolist())


def source_weights(cases: Sequence[Timed]) -> Floats:
    """Return a weight per row, 1 in all, equal parts for each source."""
    names = [case.row.source for case in cases]
    counts = {name: names.count(name) for name in names}
    return np.array([1.0 / counts[name] / len(counts) for name in names])


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows as the shares that were fitted without their source have them.

    Attributes:
        cases: the rows.
        shares: of each row.
        spread: (low, high) factors on the host's part of a token, of each row, found without its source too.
    """

    cases: Sequence[Timed]
    shares: Sequence[Shares]
    spread: Sequence[tuple[float, float]]

    def errors(self) -> Floats:
        """Return predicted over measured speed, less one."""
        return np.array(
            [1.0 / (c.token_s(s) * c.row.value) - 1.0 for c, s in zip(self.cases, self.shares, strict=True)]
        )

    def covered(self) -> NDArray[np.bool_]:
        """Return whether the measured time lies within the 90 % range of the run, the GPUs' error within it too."""
        inside = []
        for case, shares, (low, high) in zip(self.cases, self.shares, self.spread, strict=True):
            host_s, measured_s = case.token_s(shares) - case.gpu_s, 1.0 / case.row.value
            fast, slow = gpu_spread(case)
            inside.append(case.gpu_s * fast + host_s * low <= measured_s <= case.gpu_s * slow + host_s * high)
        return np.array(inside)


def held_out(cases: Sequence[Timed]) -> HeldOut:
    """Fit as often as there are sources, each time without one of them."""
    found: dict[str, tuple[Shares, tuple[float, float]]] = {}
    for source in sorted({case.row.source for case in cases}):
        others = [case for case in cases if case.row.source != source]
        found[source] = fit(others), host_spread(others)
    mine = [found[case.row.source] for case in cases]
    return HeldOut(cases, [shares for shares, _ in mine], [spread for _, spread in mine])


def host_spread(cases: Sequence[Timed]) -> tuple[float, float]:
    """Return factors on the host's part with which a run's 90 % range holds nine tenths of left-out rows, by source.

    A range has the GPUs' part at the same end of its own interval: what that explains is not counted twice.

    Args:
        cases: rows; each source is left out in turn.
    """
    low, high = [], []
    for source in sorted({case.row.source for case in cases}):
        shares = fit([case for case in cases if case.row.source != source])
        for case in (case for case in cases if case.row.source == source):
            host_s, (fast, slow) = case.token_s(shares) - case.gpu_s, gpu_spread(case)
            low.append((case, (1.0 / case.row.value - case.gpu_s * fast) / host_s))
            high.append((case, (1.0 / case.row.value - case.gpu_s * slow) / host_s))
    ends = []
    for needed, share in ((low, COVERED[0]), (high, COVERED[1])):
        weights, values = source_weights([case for case, _ in needed]), np.array([factor for _, factor in needed])
        ends.append(weighted_quantile(values, weights, share))
    return min(max(ends[0], LEAST), 1.0), max(ends[1], 1.0)


def weighted_quantile(values: Floats, weights: Floats, share: float) -> float:
    """Return the least value at or below which this share of the weight lies."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(len(values) - 1, int(np.searchsorted(reached, share - 1e-12)))])


def gpu_spread(case: Timed) -> tuple[float, float]:
    """Return the 90 % interval of the GPUs' decoding, as factors."""
    serving = case.row.serving()
    spread = serving.stack.spread_for(model_class(serving.model, serving.precision)).get("decode")
    return (1.0, 1.0) if spread is None else (spread.low, spread.high)

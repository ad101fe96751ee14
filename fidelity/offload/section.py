"""Weights in host memory: their part of the fidelity page, and the shares as a profile has them."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from afterwatt.fidelity.offload.fit import HeldOut, fit, held_out, host_spread, source_weights, weighted_quantile
from afterwatt.fidelity.offload.score import Shares, timed
from afterwatt.fidelity.offload.table import read_offload
from afterwatt.fidelity.page.page import Claim, Section, percent, table

TITLE: Final = "Experts in host memory"
MEDIAN_TARGET: Final = 0.18
P90_TARGET: Final = 0.45
_TEXT: Final = """{rows} published decoding speeds of single sequences whose experts lie in host memory and are computed
by its CPU, of {sources} sources (`fidelity/data/offload.csv`: every row's host, placement, software, and what was
assumed). The GPUs' part is the simulator's own; what the host reaches is fitted, four shares in all, and each source is
predicted by the shares that were fitted without it. `python benchmarks/fidelity.py --offload` writes this part.

{by_source}
Over rows: {reached}.
With every source counting alike: {even}.
Of desktops' memory there is one source: where it is left out, its share is the prior's.

All sources together, as shipped in `hwprofiles/data/tiers/assumptions.toml`:

{shares}
In nine tenths of what was left out, the host's part took {spread} times as long as predicted.

Not run, {left} rows:

{reasons}"""


def section(shared: Path) -> Section:  # noqa: ARG001 - the rows are part of the repository
    """Return the score of the rows as a part of the fidelity page."""
    rows, left = read_offload()
    cases = [timed(row) for row in rows]
    found, shares = held_out(cases), fit(cases)
    low, high = host_spread(cases)
    off, weights, inside = np.abs(found.errors()), source_weights(cases), found.covered()
    median, p90 = float(np.median(off)), float(np.quantile(off, 0.9))
    even, even_p90 = (weighted_quantile(off, weights, share) for share in (0.5, 0.9))
    head = ["source", "rows", "median error", "median size of error", "within the 90 % range"]
    lost = Counter(why for _, why in left).most_common()
    text = _TEXT.format(
        rows=len(rows),
        sources=len({row.source for row in rows}),
        by_source=table(head, _sources(found)),
        reached=_reached(median, p90, float(inside.mean())),
        even=_reached(even, even_p90, float((weights * inside).sum())),
        shares=table(["share", "value"], [[name, f"{value:.3g}"] for name, value in shares._asdict().items()]),
        spread=f"{low:.2f} to {high:.2f}",
        left=len(left),
        reasons=table(["rows", "why"], [[str(count), why] for why, count in lost]),
    )
    claims = (
        Claim(
            "experts in host memory, decoding, median", percent(MEDIAN_TARGET), percent(median), median <= MEDIAN_TARGET
        ),
        Claim("the same, 90th percentile", percent(P90_TARGET), percent(p90), p90 <= P90_TARGET),
    )
    return Section(TITLE, text, claims)


def _reached(median: float, p90: float, inside: float) -> str:
    return f"median {percent(median)}, 90th percentile {percent(p90)}, {percent(inside)} within their 90 % range"


def _sources(found: HeldOut) -> Sequence[Sequence[str]]:
    """Return a line for each source."""
    names, errors, covered = [case.row.source for case in found.cases], found.errors(), found.covered()
    lines = []
    for name in sorted(set(names)):
        mine = np.array([source == name for source in names])
        off = errors[mine]
        signed = f"{100.0 * float(np.median(off)):+.0f} %"
        lines.append(
            [name, str(int(mine.sum())), signed, percent(float(np.median(np.abs(off)))), str(int(covered[mine].sum()))]
        )
    return lines


def with_shares(profile: str, shares: Shares, spread: tuple[float, float]) -> str:
    """Return the text of `hwprofiles/data/tiers/assumptions.toml` with the values of a fit; notes stay.

    Args:
        profile: the text.
        shares: as fitted.
        spread: factors on the time of the host's part.
    """
    low, high = spread
    found = {name: (value, value / high, value / low) for name, value in shares._asdict().items()}
    for name, (value, least, most) in (found | {"host_part_factor": (1.0, low, high)}).items():
        numbers = f"value = {value:.3g}, low = {least:.3g}, high = {most:.3g},"
        profile = re.sub(
            rf"^{name} = {{ value = .*?, low = .*?, high = .*?,", f"{name} = {{ {numbers}", profile, flags=re.MULTILINE
        )
    return profile

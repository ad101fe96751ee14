"""Timing on a machine that is not quiet: many probes, taken in turn over several rounds, medians with their spread.

Whatever disturbs a machine for a second then disturbs one sample of many probes and not all of one. Torch-free: a probe
is something that can be run n times and says how long that took.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured, and with what.

    Attributes:
        rounds: how often each probe is taken.
        least_s: how long a probe is repeated for one sample, at least.
        most_s: sizes of a sweep stop at the first that takes longer than this.
        array_bytes: of the array that bandwidth is measured over and weights are taken from; None: four times the
            last-level cache, as far as memory allows.
        rows: of the inputs of few-row products; products: (outputs, inputs) of their matrices.
        head_rows: the most rows for the largest of the matrices (a vocabulary's).
        squares: sides of square products, for the peak rates.
        heads: (heads, kv_heads, head_dim) of attention; contexts, batches: of decoding; prompts: (queries, past).
        disk_bytes: size of the file that reads are measured over.
        power_s: for how long watts are measured, at rest and under each load; 0: not at all.
        warm_s: for how long it computes before it is timed: clocks that were at rest rise within a second.
        rest_s: for how long it rests before its idle watts are read: clocks and voltage stay up for seconds.
    """

    rounds: int = 5
    least_s: float = 0.012
    most_s: float = 0.4
    array_bytes: int | None = None
    rows: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256, 512)
    products: tuple[tuple[int, int], ...] = (
        (768, 768),
        (1024, 768),
        (2048, 768),
        (768, 2048),
        (4096, 1024),
        (1536, 2048),
        (2048, 2048),
        (5632, 2048),
        (2048, 5632),
        (32000, 768),
    )
    head_rows: int = 32
    squares: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    heads: tuple[tuple[int, int, int], ...] = ((12, 12, 64), (12, 4, 64), (16, 8, 64), (32, 4, 64), (32, 8, 128))
    contexts: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    batches: tuple[int, ...] = (1, 4, 16)
    prompts: tuple[tuple[int, int], ...] = ((16, 0), (64, 0), (256, 0), (1024, 0), (64, 512), (256, 1024))
    disk_bytes: int = 256 * MIB
    power_s: float = 2.0
    warm_s: float = 0.0
    rest_s: float = 0.0


GPU: Final = Effort(
    products=(
        (2048, 2048),
        (5632, 2048),
        (4096, 4096),
        (6144, 4096),
        (12288, 4096),
        (22016, 4096),
        (4096, 11008),
        (28672, 4096),
        (4096, 14336),
        (32000, 2048),
        (128256, 4096),
    ),
    heads=((32, 32, 128), (32, 8, 128), (32, 4, 64), (64, 8, 128)),
    contexts=(64, 256, 1024, 4096),
    batches=(1, 8, 64),
    prompts=((16, 0), (128, 0), (512, 0), (2048, 0), (64, 1024), (512, 2048)),
    power_s=5.0,
    warm_s=2.0,
    rest_s=10.0,
)
"""The same for a GPU: a larger model's shapes, and watts for as long as a sensor's averages need."""
QUICK: Final = Effort(
    rounds=3,
    least_s=0.005,
    rows=(1, 2, 4, 8, 16, 64, 256),
    products=((768, 768), (2048, 768), (768, 2048), (1536, 2048), (2048, 2048), (5632, 2048), (32000, 768)),
    squares=(512, 1024, 2048),
    heads=((12, 12, 64), (12, 4, 64), (32, 4, 64)),
    contexts=(64, 512, 2048),
    batches=(1, 8),
    prompts=((16, 0), (128, 0), (512, 0), (64, 512)),
    disk_bytes=64 * MIB,
    power_s=1.0,
)
"""A quarter of a minute or so: to try it out."""


def effort_for(device: str, quick: bool) -> Effort:
    """Return how much to measure of a device: `cpu` or `cuda:N`."""
    if device == "cpu":
        return QUICK if quick else Effort()
    return (
        replace(GPU, rounds=QUICK.rounds, squares=GPU.squares[:-1], disk_bytes=QUICK.disk_bytes, rest_s=5.0)
        if quick
        else GPU
    )


@dataclass(frozen=True, slots=True)
class Probe:
    """Something to be timed.

    Attributes:
        name: unique among those that are taken together.
        run: does it n times, waits until that is really done, and returns the seconds.
        work: of one time, in `unit`.
        unit: `bytes`, `flops` or `ops`.
        row: columns of a table of kernel times, for probes that belong there; else empty.
        calls: how often it is repeated for one sample; 0: found out beforehand.
    """

    name: str
    run: Callable[[int], float]
    work: float
    unit: str
    row: Mapping[str, object] = field(default_factory=dict)
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Stat:
    """Samples of a quantity.

    Attributes:
        median: the value to use.
        low, high: between which eight of ten samples lie (all of them, where they are few).
        samples: how many.
    """

    median: float
    low: float
    high: float
    samples: int

    @property
    def spread_frac(self) -> float:
        """Return (high - low) / median; 0 for a median of 0."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def per(self, work: float) -> "Stat":
        """Return work over this time: a rate, its ends exchanged."""
        return Stat(work / self.median, work / self.high, work / self.low, self.samples)


def stat_of(samples: Sequence[float]) -> Stat:
    """Return median and 10th and 90th percentile (interpolated); raises ValueError without a sample."""
    if not samples:
        raise ValueError("no sample to take a median of")
    ordered = sorted(samples)
    return Stat(statistics.median(ordered), _quantile(ordered, 0.1), _quantile(ordered, 0.9), len(ordered))


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    before = math.floor(place)
    after = min(before + 1, len(ordered) - 1)
    return ordered[before] + (place - before) * (ordered[after] - ordered[before])


def interleaved(
    probes: Iterable[Probe], rounds: int, least_s: float, between: Iterable[Probe] = (), every: int = 50
) -> dict[str, list[float]]:
    """Take probes in turn, round after round, and return name -> seconds per call, in the order in which they came.

    Args:
        probes: what to take; each is run once or twice beforehand, to warm up and to see how long it takes.
        rounds: samples of each.
        least_s: a probe is repeated until a sample should take as long.
        between: probes that others are judged by: taken before every so many of the others, and at the end.
        every: how many.
    """
    known, often = list(probes), list(between)
    names = [probe.name for probe in (*often, *known)]
    if len(set(names)) < len(names):
        raise ValueError(f"two probes are called {next(name for name in names if names.count(name) > 1)!r}")
    calls = {probe.name: probe.calls or _calls(probe, least_s) for probe in (*often, *known)}
    samples: dict[str, list[float]] = {name: [] for name in names}

    def take(taken: Sequence[Probe]) -> None:
        for probe in taken:
            count = calls[probe.name]
            samples[probe.name].append(probe.run(count) / count)

    for _ in range(rounds):
        for place in range(0, len(known), every):
            take(often)
            take(known[place : place + every])
    take(often)
    return samples


def _calls(probe: Probe, least_s: float) -> int:
    first_s = probe.run(1)
    if first_s < least_s:
        first_s = probe.run(1)  # the first one pays for what is done once
    return max(1, min(10_000, math.ceil(least_s / max(first_s, 1e-7))))

"""Workload presets: what `benchmarks/fit_trace_presets.py` learnt from public traces, as checked data.

A preset is statistics, not rows: a distribution of gaps, quantile tables of prompt and output lengths, one correlation,
a daily cycle and, for long contexts, how prompts share prefixes. Every preset names its source, licence and fit errors.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import NormalDist
from typing import Any

import numpy as np

from afterwatt.traces.arrivals import Gaps
from afterwatt.traces.errors import TraceError
from afterwatt.traces.peek import closest
from afterwatt.traces.schema import Floats, Ints

DAY_S = 86_400.0
_PRESETS_FILE = "data/presets.toml"


@dataclass(frozen=True, slots=True)
class LengthCurve:
    """A distribution of token counts: quantiles, joined by straight lines in (standard normal score, log tokens).

    A lognormal is one straight line in these coordinates; any other smooth distribution is close to one between knots.

    Attributes:
        probabilities: cumulative probabilities of the knots, ascending, within (0, 1).
        tokens: the quantiles there, at least 1.
    """

    probabilities: tuple[float, ...]
    tokens: tuple[float, ...]

    def at_scores(self, scores: Floats, scale: float = 1.0) -> Ints:
        """Token counts at standard normal scores; beyond the outer knots the outer quantiles. At least 1 token."""
        knots = [NormalDist().inv_cdf(p) for p in self.probabilities]
        values = np.exp(np.interp(scores, knots, np.log(self.tokens)))
        return np.maximum(np.rint(values * scale), 1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Daily:
    """A daily cycle of the arrival rate around a mean of 1: one harmonic of the day each.

    rate(t) = 1 + sum over k of amplitude_k cos(2 pi k (t - peak_k) / day).

    Attributes:
        amplitude_frac: relative amplitude of harmonics 1, 2, ...; together below 1.
        peak_hour: hour of day at which each is highest.
    """

    amplitude_frac: tuple[float, ...]
    peak_hour: tuple[float, ...]

    def rate(self, time_s: Floats) -> Floats:
        """Relative rate at seconds after midnight."""
        terms = [a * np.cos(w * time_s - phase) for a, w, phase in self._terms()]
        return np.asarray(1.0 + sum(terms), np.float64)

    def passed(self, time_s: Floats) -> Floats:
        """Integral of the rate from midnight, in seconds at the mean rate. Grows by one day per day."""
        terms = [a / w * (np.sin(w * time_s - phase) + math.sin(phase)) for a, w, phase in self._terms()]
        return np.asarray(time_s + sum(terms), np.float64)

    def time_of(self, passed_s: Floats) -> Floats:
        """The inverse of `passed`: a table of one day for the start, then Newton's method."""
        days = np.floor(passed_s / DAY_S)
        within = passed_s - days * DAY_S
        grid = np.linspace(0.0, DAY_S, 2049)
        time_s = np.interp(within, self.passed(grid), grid)
        for _ in range(3):
            time_s = time_s - (self.passed(time_s) - within) / self.rate(time_s)
        return np.asarray(time_s + days * DAY_S, np.float64)

    def _terms(self) -> list[tuple[float, float, float]]:
        turn = 2 * math.pi / DAY_S
        return [
            (amplitude, k * turn, k * turn * hour * 3600)
            for k, (amplitude, hour) in enumerate(zip(self.amplitude_frac, self.peak_hour, strict=True), 1)
        ]


@dataclass(frozen=True, slots=True)
class Sharing:
    """How prompts share prefixes: one common first block, and prompts that continue an earlier one.

    Attributes:
        block_tokens: tokens per block.
        follow_frac: chance to continue an earlier prompt, by fifth of the prompt lengths, shortest first.
        share_frac: part of a continuing prompt that it shares, as quantiles at equal steps of probability from 0 to 1.
        live_prompts: how many latest prompts can be continued.
        hit_frac: share of blocks found in an unbounded cache in the source.
    """

    block_tokens: int
    follow_frac: tuple[float, ...]
    share_frac: tuple[float, ...]
    live_prompts: int
    hit_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A workload to draw from.

    Attributes:
        name: as users write it.
        about: one line.
        source: which files it was fitted to.
        licence: their licence, and what it asks.
        checked: date of the fit.
        rate_per_s: mean rate in the source; None where it has no arrivals.
        gaps: distribution of inter-arrival times around mean 1.
        prompt: prompt lengths.
        output: output lengths.
        correlation: of the Gaussian copula that joins the two.
        max_total_tokens: most that prompt and output have together, where the source was cut so; else None.
        daily: daily cycle.
        sharing: prefix sharing, or None.
        fit: what was measured, what the preset gives, as the fit wrote it.
    """

    name: str
    about: str
    source: str
    licence: str
    checked: str
    rate_per_s: float | None = None
    gaps: Gaps
    prompt: LengthCurve
    output: LengthCurve
    correlation: float
    max_total_tokens: int | None = None
    daily: Daily
    sharing: Sharing | None = None
    fit: Mapping[str, Any]


@cache
def _presets() -> dict[str, Preset]:
    text = files("afterwatt.traces").joinpath(_PRESETS_FILE).read_text(encoding="utf-8")
    return {name: parse_preset(name, said) for name, said in tomllib.loads(text).items()}


def parse_preset(name: str, said: Mapping[str, Any]) -> Preset:
    """A preset from its table in presets.toml."""
    from pydantic import TypeAdapter

    return TypeAdapter(Preset).validate_python({"name": name, **said})


def preset_names() -> tuple[str, ...]:
    """The presets there are."""
    return tuple(_presets())


def load_preset(name: str) -> Preset:
    """A preset by name.

    Raises:
        TraceError: where there is none of that name.
    """
    known = _presets()
    if name not in known:
        raise TraceError(f"unknown preset '{name}'{closest(name, tuple(known))}; known: {', '.join(known)}")
    return known[name]

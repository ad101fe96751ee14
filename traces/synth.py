"""Synthetic traces: drawn on the fly from a preset, in bounded memory, from a seed.

Everything is drawn in fixed blocks of rows with a counter-based generator, so that the same seed gives the same
requests for any batch size, in any process. `SyntheticTrace` is the class, `synth:chat?rate=0.5&n=2000&seed=1` the
address.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, fields
from urllib.parse import urlencode

import numpy as np

from afterwatt.traces.arrivals import BLOCK_ROWS, gamma_gaps, stream, unit_arrivals
from afterwatt.traces.errors import TraceError, shown
from afterwatt.traces.options import Options, parse_value, split_query
from afterwatt.traces.peek import closest
from afterwatt.traces.presets import Daily, LengthCurve, Preset, load_preset, preset_names
from afterwatt.traces.records import rechunk, to_batch, to_record
from afterwatt.traces.schema import (
    DEFAULT_BATCH_ROWS,
    MAX_TOKENS,
    Batch,
    Floats,
    Ints,
    Trace,
    TraceInfo,
    check_batch_size,
)
from afterwatt.traces.sharing import Sharer

SYNTH = "synth:"
FIXED = "fixed"
_REDRAWS = 200
_PROMPT_REDRAWS = 30
_NAMES = {
    "rate": "rate_per_s",
    "n": "requests",
    "duration": "duration_s",
    "max_tokens": "max_total_tokens",
} | {name: name for name in ("seed", "cv", "daily", "hour", "prompt_scale", "output_scale", "prompt", "output")}


@dataclass(frozen=True)
class SyntheticTrace(Trace):
    """Requests drawn from a preset.

    Attributes:
        preset: name of a preset, or one of your own; or "fixed": Poisson arrivals (unless cv is given) and constant
            lengths.
        rate_per_s: mean arrival rate over the whole trace, daily cycle included; None takes the source's.
        requests: how many; or None, and then
        duration_s: how long. With both, whichever ends first.
        seed: root of all draws.
        cv: coefficient of variation of Gamma gaps in place of the preset's gaps.
        daily: whether the rate follows the preset's daily cycle.
        hour: local hour of day at the first arrival.
        max_total_tokens: draw lengths anew until prompt and output together are at most so many; None takes the
            preset's limit, where its source was cut at one.
        prompt_scale: multiplies the preset's prompt lengths.
        output_scale: multiplies its output lengths.
        prompt: constant prompt length, for "fixed".
        output: constant output length, for "fixed".
    """

    preset: str | Preset
    rate_per_s: float | None = None
    requests: int | None = None
    duration_s: float | None = None
    seed: int = 0
    cv: float | None = None
    daily: bool = True
    hour: float = 12.0
    _: KW_ONLY
    max_total_tokens: int | None = None
    prompt_scale: float = 1.0
    output_scale: float = 1.0
    prompt: int | None = None
    output: int | None = None

    def __post_init__(self) -> None:
        """Refuse wishes that cannot be drawn."""
        Options(self.seed, self.rate_per_s, self.cv, self.requests, self.duration_s)
        load = self._load
        where = self.address
        if self.requests is None and self.duration_s is None:
            raise TraceError("a synthetic trace needs an end; say n=2000 or duration=3600", path=where)
        if self.rate_per_s is None and load.rate_per_s is None:
            raise TraceError("this preset's source has no arrivals; say rate=0.5 (requests per second)", path=where)
        if not (math.isfinite(self.hour) and 0 <= self.hour < 24):
            raise TraceError(f"hour = {shown(self.hour)} is no hour of the day, 0 up to 24", path=where)
        for name, scale in (("prompt_scale", self.prompt_scale), ("output_scale", self.output_scale)):
            if not 1e-3 <= scale <= 1e3:
                raise TraceError(f"{name} = {shown(scale)} lies outside 0.001..1000", path=where)
        if self.max_total_tokens is not None and self.max_total_tokens < 2:
            raise TraceError(f"max_tokens = {self.max_total_tokens} leaves no room for a request", path=where)

    @property
    def _load(self) -> Preset:
        if isinstance(self.preset, Preset):
            return self.preset
        if self.preset == FIXED:
            return _fixed(self.prompt, self.output)
        if self.preset not in preset_names():
            known = (*preset_names(), FIXED)
            raise TraceError(f"unknown preset '{self.preset}'{closest(self.preset, known)}; known: {', '.join(known)}")
        if self.prompt is not None or self.output is not None:
            raise TraceError("prompt and output are constants of synth:fixed; scale a preset with prompt_scale instead")
        return load_preset(self.preset)

    @property
    def rate(self) -> float:
        """Mean arrivals per second."""
        return self.rate_per_s or self._load.rate_per_s or math.nan

    @property
    def address(self) -> str:
        """The `synth:` address that opens this very trace."""
        default = {field.name: field.default for field in fields(self)}
        short = {long: name for name, long in _NAMES.items()}
        said = {short[name]: getattr(self, name) for name in short if getattr(self, name) != default[name]}
        return f"{SYNTH}{self._load.name}" + ("?" + urlencode(said) if said else "")

    @property
    def info(self) -> TraceInfo:
        """The address, the source and, if it is given, the number of requests."""
        load = self._load
        sharing = load.sharing
        return TraceInfo(
            path=self.address,
            format="synthetic",
            rows=self.requests if self.duration_s is None else None,
            has_prefixes=sharing is not None,
            prefix_block_tokens=None if sharing is None else sharing.block_tokens,
            notes=(f"synthetic, seed {self.seed}: {load.about} (from {load.source})",),
        )

    def batches(self, size: int = DEFAULT_BATCH_ROWS) -> Iterator[Batch]:
        """Draw the trace from its start; see `Trace.batches`."""
        check_batch_size(size)
        if size == BLOCK_ROWS:
            return self._blocks()
        return map(to_batch, rechunk(map(to_record, self._blocks()), size))

    def _blocks(self) -> Iterator[Batch]:
        load = self._load
        gaps = load.gaps if self.cv is None else gamma_gaps(self.cv)
        clock = _DailyClock(load.daily, self.rate, self.hour, self._nominal_s()) if self.daily else None
        sharer = None if load.sharing is None else Sharer(load.sharing, self.seed)
        rows = 0
        for block, passed in enumerate(unit_arrivals(gaps, self.seed, "gaps")):
            arrival_s = passed / self.rate if clock is None else clock.arrivals(passed)
            keep = BLOCK_ROWS if self.requests is None else min(BLOCK_ROWS, self.requests - rows)
            if self.duration_s is not None:
                keep = min(keep, int(np.searchsorted(arrival_s, self.duration_s, side="right")))
            if keep:
                scores, prompt, output = self._lengths(load, block)
                prefixes = None if sharer is None else sharer.prefixes(block, scores, prompt)
                yield Batch(arrival_s, prompt, output, None, prefixes).sliced(0, keep)
            rows += keep
            if keep < BLOCK_ROWS or rows == self.requests:
                return

    def _nominal_s(self) -> float:
        by_count = math.inf if self.requests is None else self.requests / self.rate
        return min(by_count, math.inf if self.duration_s is None else self.duration_s)

    def _lengths(self, load: Preset, block: int) -> tuple[Floats, Ints, Ints]:
        """Prompt scores, prompt and output lengths of one block, within the limit on their sum."""
        rng = stream(self.seed, "lengths", block)
        scores, prompt, output = self._draw_lengths(load, rng, BLOCK_ROWS)
        limit = self.max_total_tokens or load.max_total_tokens or 2 * MAX_TOKENS
        for redraw in range(_REDRAWS):
            over = np.flatnonzero(prompt + output > limit)
            if not len(over):
                return scores, prompt, output
            # Long answers are rare and short prompts are not: keeping the answer bends the marginals least.
            scores[over], prompt[over], drawn = self._draw_lengths(load, rng, len(over))
            output[over] = drawn if redraw >= _PROMPT_REDRAWS else np.where(output[over] < limit, output[over], drawn)
        raise TraceError(
            f"max_tokens = {limit} is out of this preset's reach: {_REDRAWS} draws in a row are longer; raise it or "
            "lower prompt_scale and output_scale",
            path=self.address,
        )

    def _draw_lengths(self, load: Preset, rng: np.random.Generator, n: int) -> tuple[Floats, Ints, Ints]:
        first, second = rng.standard_normal((2, n))
        joined = load.correlation * first + math.sqrt(1 - load.correlation**2) * second
        return first, load.prompt.at_scores(first, self.prompt_scale), load.output.at_scores(joined, self.output_scale)


class _DailyClock:
    """Turns arrivals at rate 1 into arrivals that follow the day, at a given mean over the trace's nominal length."""

    def __init__(self, daily: Daily, rate_per_s: float, hour: float, nominal_s: float) -> None:
        self._daily = daily
        self._start_s = hour * 3600
        self._passed_s = float(daily.passed(np.array(self._start_s)))
        end_s = float(daily.passed(np.array(self._start_s + nominal_s)))
        # The rate asked for is the mean over the trace, so what the cycle has to give over it is divided out.
        self._per_arrival_s = (end_s - self._passed_s) / nominal_s / rate_per_s
        self._last_s = 0.0

    def arrivals(self, passed: Floats) -> Floats:
        """Seconds since the first arrival, never decreasing from call to call."""
        time_s = self._daily.time_of(self._passed_s + passed * self._per_arrival_s) - self._start_s
        time_s[passed == 0.0] = 0.0
        ordered = np.maximum.accumulate(np.maximum(time_s, self._last_s))  # Newton is right to an ulp or two only
        self._last_s = float(ordered[-1])
        return np.asarray(ordered, np.float64)


def _fixed(prompt: int | None, output: int | None) -> Preset:
    for name, tokens in (("prompt", prompt), ("output", output)):
        if tokens is None or not 1 <= tokens <= MAX_TOKENS:
            raise TraceError(f"{name} = {tokens} is no length; synth:fixed needs prompt=512&output=128&rate=4&n=10000")
    flat = [LengthCurve((0.5,), (float(tokens or 1),)) for tokens in (prompt, output)]
    return Preset(
        name=FIXED,
        about=f"prompts of {prompt} and outputs of {output} tokens",
        source="constants",
        licence="",
        checked="",
        rate_per_s=None,
        gaps=gamma_gaps(1.0),
        prompt=flat[0],
        output=flat[1],
        correlation=0.0,
        max_total_tokens=None,
        daily=Daily((), ()),
        sharing=None,
        fit={},
    )


def synth_trace(address: str, options: Options | None = None) -> SyntheticTrace:
    """The trace behind `synth:<preset>?name=value&...`; what the address leaves open comes from `options`.

    Raises:
        TraceError: on an unknown preset or name, or a value that cannot be drawn.
    """
    place, query = split_query(address)
    given = Options() if options is None else options
    values: dict[str, object] = {
        "seed": given.seed,
        "rate_per_s": given.rate_per_s,
        "cv": given.cv,
        "requests": given.requests,
        "duration_s": given.duration_s,
    }
    kinds = {field.name: str(field.type) for field in fields(SyntheticTrace)}
    for name, text in query.items():
        if name not in _NAMES:
            known = ", ".join(_NAMES)
            raise TraceError(f"unknown option '{name}'{closest(name, tuple(_NAMES))}; known: {known}", path=place)
        values[_NAMES[name]] = parse_value(place, name, text, kinds[_NAMES[name]])
    return SyntheticTrace(preset=place.removeprefix(SYNTH), **values)  # type: ignore[arg-type]  # parsed by annotation

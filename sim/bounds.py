"""How far a run's times can be trusted: what the stack's parameters stand on, and the range its error leaves.

The stack's 90 % interval is one of service times. What users feel follows from it through queues, so two further runs
take every iteration as short, and as long, as that interval says; a metric's range spans the three.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from afterwatt.hwprofiles.stacks import Spread, model_class
from afterwatt.reports.rundir import Run
from afterwatt.sim.beside import both
from afterwatt.sim.config import RunConfig, Slowness

LATENCIES: Final = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
QUANTILES: Final = ("mean", "p50", "p90", "p99")
SCALARS: Final = {
    "output_tokens_per_s": ("throughput", "output_tokens_per_s"),
    "offered_frac": ("load", "offered_frac"),
    "devices_needed": ("load", "devices_needed"),
}
Block = dict[str, Any]


def prediction(
    config: RunConfig,
    nominal: Mapping[str, Any],
    simulate: Callable[[RunConfig, Path], Run],
    spare_core: bool = False,
) -> Block:
    """Describe how far a run can be trusted, for `summary.json`.

    Args:
        config: the run; with `bounds` its range is found by two further runs.
        nominal: the summary's other blocks.
        simulate: runs a configuration into a directory.
        spare_core: whether the two further runs may go on at the same time.

    Returns:
        The `prediction` block of the summary's contract; `range_90` is null without `bounds` or without an interval.
    """
    stack = config.stack
    kind = model_class(config.model, config.precision)
    spread = stack.spread_for(kind)
    said: Block = {
        "stack": stack.label,
        "pool": stack.pool,
        "model_class": kind,
        "basis": stack.basis_for(kind),
        "time_error_90": {phase: _pair(spread.get(phase)) for phase in ("prefill", "decode")},
        "energy_error_90": _pair(spread.get("energy")),
        "range_90": None,
    }
    if not config.bounds or not {"prefill", "decode"} <= set(spread):
        return said
    plain = replace(config, bounds=False, decisions=False)
    ends = [Slowness(spread["prefill"][end], spread["decode"][end]) for end in (0, 1)]
    with TemporaryDirectory(prefix="afterwatt-") as folder:

        def bound(end: int) -> Block:
            return simulate(replace(plain, slowness=ends[end]), Path(folder) / str(end)).summary.model_dump()

        further = both(bound, 0, 1) if spare_core else (bound(0), bound(1))
        summaries = [nominal, *further]
    return said | {"range_90": _ranges(summaries, spread.get("energy"))}


def _ranges(summaries: list[Mapping[str, Any]], energy: Spread | None) -> Block:
    """Span every metric over the runs; joules also by the error of power."""
    nominal, fast, slow = (summary["energy_j"]["total"] for summary in summaries)
    joules = None
    if energy is not None and None not in (nominal, fast, slow):
        joules = {"low": min(nominal, fast, slow) * energy.low, "high": max(nominal, fast, slow) * energy.high}
    return {
        **{
            name: {quantile: _span([summary[name][quantile] for summary in summaries]) for quantile in QUANTILES}
            for name in LATENCIES
        },
        **{name: _span([summary[block][key] for summary in summaries]) for name, (block, key) in SCALARS.items()},
        "energy_j": joules,
    }


def _span(values: list[float | None]) -> Block | None:
    known = [value for value in values if value is not None]
    return {"low": min(known), "high": max(known)} if len(known) == len(values) else None


def _pair(spread: Spread | None) -> Block | None:
    return None if spread is None else {"low": spread.low, "high": spread.high}

"""How far a run's times can be trusted: what the stack's parameters stand on, and the range its error leaves.

The stack's 90 % interval is one of service times. What users feel follows from it through queues, so two further runs
take every iteration as short, and as long, as that interval says; a metric's range spans the three.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np

from afterwatt.hwprofiles.books import other_share
from afterwatt.hwprofiles.draws import RunError
from afterwatt.hwprofiles.hostwork import FAST, SLOW
from afterwatt.hwprofiles.ledger import Ledger
from afterwatt.hwprofiles.stacks import Spread, model_class
from afterwatt.reports.columns import Floats
from afterwatt.reports.summary import stats, weighted_stats
from afterwatt.sim.beside import both
from afterwatt.sim.body import BodyResult
from afterwatt.sim.capacity import Load
from afterwatt.sim.config import RunConfig, Slowness
from afterwatt.sim.rows import Columns

OF_REQUESTS: Final = ("ttft_s", "tpot_s", "e2e_s")
LATENCIES: Final = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
QUANTILES: Final = ("mean", "p50", "p90", "p99")
SCALARS: Final = {
    "output_tokens_per_s": ("throughput", "output_tokens_per_s"),
    "offered_frac": ("load", "offered_frac"),
    "devices_needed": ("load", "devices_needed"),
    "duration_s": ("", "duration_s"),
}
Block = dict[str, Any]


def prediction(
    config: RunConfig,
    nominal: Mapping[str, Any],
    bounding_run: Callable[[RunConfig], Block],
    spare_core: bool = False,
) -> Block:
    """Describe how far a run can be trusted, for `summary.json`.

    Args:
        config: the run; with `bounds` its range is found by two further runs.
        nominal: the summary's other blocks.
        bounding_run: simulates a configuration, and returns what of its summary the range spans, see `extent`.
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
    ends = [Slowness(spread["prefill"][end], spread["decode"][end], (FAST, SLOW)[end]) for end in (0, 1)]

    def bound(end: int) -> Block:
        return bounding_run(replace(plain, slowness=ends[end]))

    further = both(bound, 0, 1) if spare_core else (bound(0), bound(1))
    return said | {"range_90": _ranges([nominal, *further], spread.get("energy"))}


class KeptRows:
    """Takes rows of finished requests as columns, and keeps what a range needs of them.

    Attributes:
        output_tokens: of all that finished, warm-up included, as in a summary's throughput.
    """

    def __init__(self) -> None:
        self.output_tokens = 0
        self._latencies: dict[str, list[Floats]] = {name: [] for name in OF_REQUESTS}

    def add(self, rows: Columns) -> None:
        """Take further rows."""
        finished = np.array(rows["status"]) == "finished"
        self.output_tokens += int(np.asarray(rows["output_tokens"])[finished].sum())
        counted = finished & np.asarray(rows["in_stats"])
        for name, kept in self._latencies.items():
            values = np.asarray(rows[name], dtype=np.float64)[counted]
            kept.append(values[~np.isnan(values)])

    def stats(self, name: str) -> Block:
        """Describe a latency of the requests that count, as a summary does."""
        return stats(np.concatenate(self._latencies[name] or [np.zeros(0)]))


def extent(kept: KeptRows, result: BodyResult, ledgers: Mapping[str, Ledger], load: Load) -> Block:
    """Return what of a run's summary its range spans, from what a body measured.

    Args:
        kept: its requests.
        result: the rest.
        ledgers: its energy by host share, that of the headline first.
        load: what it was offered.
    """
    gaps = result.gaps.table()
    start_s, interval_s = (np.asarray(result.timeline[name], dtype=np.float64) for name in ("start_s", "interval_s"))
    length_s = float((start_s + interval_s).max())
    return {
        "duration_s": length_s,
        **{name: kept.stats(name) for name in OF_REQUESTS},
        "itl_s": weighted_stats(gaps["value"], gaps["weight"]),
        "throughput": {"output_tokens_per_s": kept.output_tokens / length_s},
        "load": asdict(load),
        **energies(ledgers),
    }


def energies(ledgers: Mapping[str, Ledger]) -> Block:
    """Return the energy of a run as its summary says it, from ledgers by host share, the headline's first."""
    own, other = ledgers.values()
    return {"energy_j": {"total": own.total_j}, "other_host_share": {"energy_j": other.total_j}}


def _ranges(summaries: list[Mapping[str, Any]], energy: Spread | None) -> Block:
    """Span every metric over the runs; joules also by the error of power."""

    def joules(block: str, key: str) -> Block | None:
        values = [summary[block][key] for summary in summaries]
        if energy is None or None in values:
            return None
        return {"low": min(values) * energy.low, "high": max(values) * energy.high}

    return {
        **{
            name: {quantile: _span([summary[name][quantile] for summary in summaries]) for quantile in QUANTILES}
            for name in LATENCIES
        },
        **{
            name: _span([(summary[block] if block else summary)[key] for summary in summaries])
            for name, (block, key) in SCALARS.items()
        },
        "energy_j": joules("energy_j", "total"),
        "other_host_share_energy_j": joules("other_host_share", "energy_j"),
    }


def errors_of(config: RunConfig, nominal: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, RunError]:
    """Turn the range of a run into factors on its joules and its length, for the draws of its carbon.

    Args:
        config: the run.
        nominal: what was predicted, as `extent` gives it.
        prediction: the block that `prediction` returned.

    Returns:
        Host share -> error; empty where no range was computed.
    """
    found = prediction["range_90"]
    if found is None:
        return {}
    name = f"run.{config.deployment.pool.device.key}.{config.stack.label}/{config.stack.pool}"
    own = config.carbon.host_share
    ranges = {
        own: (found["energy_j"], nominal["energy_j"]["total"]),
        other_share(own): (found["other_host_share_energy_j"], nominal["other_host_share"]["energy_j"]),
    }
    seconds = _factors(found["duration_s"], nominal["duration_s"])
    return {
        share: RunError(name, _factors(joules, total_j), seconds)
        for share, (joules, total_j) in ranges.items()
        if joules is not None
    }


def _factors(block: Block, nominal: float) -> tuple[float, float]:
    return block["low"] / nominal, block["high"] / nominal


def _span(values: list[float | None]) -> Block | None:
    known = [value for value in values if value is not None]
    return {"low": min(known), "high": max(known)} if len(known) == len(values) else None


def _pair(spread: Spread | None) -> Block | None:
    return None if spread is None else {"low": spread.low, "high": spread.high}

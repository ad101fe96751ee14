"""How far the times of a run can be trusted, in words and ranges: the same on the page and in the terminal."""

from collections.abc import Sequence
from typing import Final

from afterwatt.reports.format import UNKNOWN, brief, energy, number, percent
from afterwatt.reports.schema import Range, Summary, Trust

BASES: Final = {
    "measured": "runs of such models on this very card with this software",
    "fitted": "runs of other models on this very card with this software",
    "pooled": "runs on other cards of its architecture, or with other software",
    "assumed": "no run on such a card: the datasheet and its neighbours",
}
"""What each basis means."""
NOTHING: Final = "The error of the times is not known: the stack's profile states none."


def sentence(summary: Summary) -> str | None:
    """Say what the times stand on and how far measured ones lay from predicted ones; None: nothing is stated."""
    said = summary.prediction
    if said is None or said.basis is None:
        return None
    ground = f"Times are {said.basis} ({said.stack}, {said.pool}): {BASES[said.basis]}."
    errors = [
        f"{noun} {_factors(block)}"
        for noun, block in (("prompts", said.time_error_90.prefill), ("output tokens", said.time_error_90.decode))
        if block is not None
    ]
    if not errors:
        return f"{ground} {NOTHING}"
    return f"{ground} Nine measured times in ten lie within these factors of the predicted: {', '.join(errors)}."


def interval_text(summaries: Sequence[Summary]) -> str | None:
    """Say what the intervals of carbon hold, of one run or of several; None where nothing was drawn."""
    drawn = [one.carbon_gco2e for one in summaries if one.carbon_gco2e.operational.p5 is not None]
    if not drawn:
        return None
    known = [one.run_error_90 for one in drawn if one.run_error_90 is not None]
    held = "the run's energy (times and power together)"
    if len(drawn) == len(known) == 1:
        held = f"{held[:-1]}, {_factors(known[0])} of the predicted)"
    if len(known) < len(drawn):
        held = "the GPUs' power but not the times, for which no range was computed,"
        if known:
            held = "the run's energy (times and power together; GPU power alone where no range was computed)"
    return (
        f"Intervals of CO2e span nine draws in ten of {held} and of the server's power, supply losses, PUE, the grid's "
        "average and embodied carbon. Lives, duty, method, allocation and host share are choices, and not in them."
    )


def ranges(summary: Summary) -> list[tuple[str, str, str]]:
    """List metric, prediction and the range that the error of the times leaves; empty where it was not asked for."""
    said = summary.prediction
    found = said.range_90 if said is not None else None
    if found is None:
        return []
    rows = [
        (
            f"{noun} {quantile}",
            brief(getattr(getattr(summary, name), quantile)),
            _times(getattr(found, name).get(quantile)),
        )
        for name, noun in (("ttft_s", "first token"), ("tpot_s", "per token"), ("e2e_s", "answer"))
        for quantile in ("p50", "p90", "p99")
    ]
    rate, load, total_j = found.output_tokens_per_s, found.offered_frac, found.energy_j
    rows.append(("output tokens/s", number(summary.throughput.output_tokens_per_s), _numbers(rate)))
    rows.append(("load, of its capacity", percent(summary.load.offered_frac), _shares(load)))
    rows.append(("energy in all", energy(summary.energy_j.total), _joules(total_j)))
    return rows


def range_of(prediction: Trust | None, metric: str, quantile: str) -> str:
    """Write the range of one quantile of a latency."""
    found = prediction.range_90 if prediction is not None else None
    return UNKNOWN if found is None else _times(getattr(found, metric).get(quantile))


def _factors(block: Range) -> str:
    return f"{number(block.low, 2)} to {number(block.high, 2)}"


def _times(block: Range | None) -> str:
    return UNKNOWN if block is None else f"{brief(block.low)} – {brief(block.high)}"


def _numbers(block: Range | None) -> str:
    return UNKNOWN if block is None else f"{number(block.low)} – {number(block.high)}"


def _shares(block: Range | None) -> str:
    return UNKNOWN if block is None else f"{percent(block.low)} – {percent(block.high)}"


def _joules(block: Range | None) -> str:
    return UNKNOWN if block is None else f"{energy(block.low)} – {energy(block.high)}"

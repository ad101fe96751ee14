"""What a reader must know before believing a number: overload, rejected and unfinished requests, unknowns.

Shared by the page and the terminal, so that both warn of the same things in the same words.
"""

from typing import Final, NamedTuple

from afterwatt.reports.format import count, number, percent, plural
from afterwatt.reports.schema import Manifest, Summary

NEAR_CAPACITY_FRAC = 0.9
REASONS = {
    "over_context": "longer than the model's context",
    "never_fits": "larger than the memory left for the KV cache",
    "queue_full": "turned away by a full queue",
}
MODELLED = (
    "Time per iteration from a roofline of the device: layers, attention and LM head apart, at the real lengths.",
    "Queueing, batching, KV memory in blocks, preemption and routing, by the scheduler a real engine would run.",
    "Power by component (GPU, CPU, DRAM, fans, disks, network, board, power supply, facility), idle included.",
    "Operational carbon on the site's grid; embodied carbon by several published methods and rules of allocation.",
)
NOT_MODELLED = (
    "The quality of answers: precision and model change it, and it was not measured here.",
    "Thermal throttling, failures, operating-system noise and the network between users and the server.",
    "Tokenisation, safety filters and other work around the model.",
    "Water, land and toxicity; and what else would happen to the hardware or the electricity.",
)


class Notice(NamedTuple):
    """One thing to know: ``level`` is ``alarm`` (do not read on without it), ``warn`` or ``info`` (a footnote)."""

    level: str
    title: str
    text: str


_PRICED: Final = {"cards": {"price_used_usd", "price_new_usd"}, "servers": {"price_usd"}}
"""Things with a price -> fields of their profiles."""


def notices(summary: Summary, manifest: Manifest) -> list[Notice]:
    """Collect what a reader must know about a run, the gravest first."""
    found = [*_load(summary), *_lost(summary)]
    if summary.requests.finished == 0:
        found.insert(
            0, Notice("alarm", "Nothing finished", "There is no latency, throughput or carbon per token to tell.")
        )
    elif summary.energy_j.total is None:
        found.append(
            Notice("warn", "Energy is unknown", "Energy, carbon and cost of this run are not known; they are not 0.")
        )
    if manifest.doubt:
        found.append(Notice("alarm", "A bound, and no prediction", manifest.doubt))
    return found + [Notice("info", "Note", text) for text in (*manifest.warnings, *_prices(summary, manifest))]


def _load(summary: Summary) -> list[Notice]:
    load = summary.load
    if load.offered_frac is None:
        return []
    capacity = f" ({number(load.capacity_requests_per_s)} requests per second)" if load.capacity_requests_per_s else ""
    need = f" {plural(load.devices_needed, 'such device')} would carry it." if load.devices_needed else ""
    if load.offered_frac > 1.0:
        return [
            Notice(
                "alarm",
                "Overloaded",
                f"The trace offers {percent(load.offered_frac)} of what this hardware can serve{capacity}.{need} "
                "Latencies here measure how long the queue grew, and would grow further with a longer trace.",
            )
        ]
    if load.offered_frac > NEAR_CAPACITY_FRAC:
        text = (
            f"The trace offers {percent(load.offered_frac)} of what this hardware can serve{capacity}; "
            "a little more and the queue never empties."
        )
        return [Notice("warn", "Close to capacity", text)]
    return []


def _lost(summary: Summary) -> list[Notice]:
    requests, found = summary.requests, []
    if requests.rejected:
        reasons = [REASONS.get(reason, reason) for reason in summary.rejected_by] or ["nobody knows why"]
        if len(reasons) > 1:
            counts = summary.rejected_by.values()
            reasons = [f"{count(many)} {reason}" for many, reason in zip(counts, reasons, strict=True)]
        share = _share(requests.rejected, requests.arrived)
        text = f"{share} of all: {', '.join(reasons)}. They are counted here and in no latency."
        found.append(Notice("warn", f"{plural(requests.rejected, 'request')} rejected", text))
    if requests.unfinished:
        share = _share(requests.unfinished, requests.arrived)
        text = f"{share} of all were still waiting or running when the run ended; no latency includes them."
        found.append(Notice("warn", f"{plural(requests.unfinished, 'request')} unfinished", text))
    return found


def _prices(summary: Summary, manifest: Manifest) -> list[str]:
    """Say whose price is nobody's but this project's guess, where cost is told."""
    guessed = {fact.field.rpartition(": ")[2] for fact in manifest.facts if fact.kind == "assumed"}
    whose = [name for name, fields in _PRICED.items() if guessed & fields and summary.cost_usd.hardware is not None]
    return (
        [f"the price of {' and of '.join(whose)} is an assumption without a source; cost rests on it"] if whose else []
    )


def _share(some: int, arrived: int | None) -> str:
    return percent(some / arrived if arrived else None, 2)

"""Synthetic run directories that honour the contract, made from a seed, with numbers of a believable size.

No physics is claimed here: requests pass through a few slots per replica, and joules and grams follow from plain rates.
"""

import heapq
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from afterwatt.reports.columns import COMPONENTS, TIMELINE
from afterwatt.reports.rundir import Run, RunWriter, load_run
from afterwatt.reports.summary import assemble_summary, summarise

METHODS = {"act": 1.0, "card-lca": 1.6, "parametric": 0.8}
ALLOCATIONS = {"linear-total": 1.0, "linear-remaining": 0.55, "ddb": 0.3, "avoidable": 0.12}


@dataclass(frozen=True)
class Toy:
    """A pretended machine and its load."""

    hardware: str = "m40"
    model: str = "llama-2-7b"
    site: str = "world"
    policy: str = "prefill-first"
    requests: int = 2000
    rate_per_s: float = 0.25
    replicas: int = 1
    slots: int = 8
    prefill_tokens_per_s: float = 900.0
    step_s: float = 0.055
    gpu_idle_w: float = 16.0
    gpu_busy_w: float = 210.0
    host_w: float = 95.0
    embodied_kg: float = 90.0
    lifetime_years: float = 10.0
    price_usd: float = 90.0
    intensity: float = 473.0
    hourly: bool = False
    trace: str = "chat.parquet"
    slo: dict[str, float] | None = field(default_factory=lambda: {"ttft_s": 2.0, "tpot_s": 0.2})
    over_context_every: int = 40
    unfinished_last: int = 0
    capacity_per_s: float = 0.31
    whole: float = 1.5
    """Whole servers over the slots in use: joules, grams and dollars; 1 fills them."""
    draws: int = 512
    seed: int = 7


M40 = Toy()
A100 = Toy(
    hardware="a100-80", replicas=1, slots=32, prefill_tokens_per_s=15000, step_s=0.013, gpu_idle_w=30, gpu_busy_w=330,
    host_w=60, embodied_kg=2600, lifetime_years=5, price_usd=9000, capacity_per_s=4.2, seed=8,
)  # fmt: skip
H100 = Toy(
    hardware="h100-sxm", slots=64, prefill_tokens_per_s=40000, step_s=0.008, gpu_idle_w=40, gpu_busy_w=520,
    host_w=45, embodied_kg=5600, lifetime_years=5, price_usd=27000, capacity_per_s=9.5, seed=9,
    whole=4.0,
)  # fmt: skip
M40X4 = Toy(
    hardware="4xm40", replicas=4, capacity_per_s=1.24, host_w=130, embodied_kg=360, price_usd=360, seed=10, whole=1.0
)  # fmt: skip
OVERLOADED = Toy(
    rate_per_s=0.8, unfinished_last=60, seed=11, trace="synth:chat?rate=0.35&n=2000&max_tokens=4096&seed=1"
)


def requests_of(toy: Toy) -> dict[str, Any]:
    """Give the columns of requests.parquet."""
    rng = np.random.default_rng(1234)  # the same trace for every machine
    n = toy.requests
    arrival_s = np.cumsum(rng.gamma(0.6, 1 / (0.6 * toy.rate_per_s), n))
    prompt = np.clip(rng.lognormal(6.0, 0.8, n), 8, 4000).astype(np.int32)
    output = np.clip(rng.lognormal(5.0, 0.7, n), 1, 1500).astype(np.int32)
    kind = np.where(rng.random(n) < 0.7, "chat", "code")
    own = np.random.default_rng(toy.seed)
    status = np.full(n, "finished", dtype=object)
    reason = np.full(n, None, dtype=object)
    if toy.over_context_every:
        status[toy.over_context_every :: toy.over_context_every] = "rejected"
        reason[toy.over_context_every :: toy.over_context_every] = "over_context"
    if toy.unfinished_last:
        status[-toy.unfinished_last :] = "unfinished"
        reason[-toy.unfinished_last :] = None
    replica = (np.arange(n) % toy.replicas).astype(float)
    free = [[0.0] * toy.slots for _ in range(toy.replicas)]
    busy_until = np.zeros(toy.replicas)
    scheduled, first, finish = (np.full(n, np.nan) for _ in range(3))
    stall = np.full(n, np.nan)
    for i in np.flatnonzero(status == "finished"):
        r = int(replica[i])
        slot_s = heapq.heappop(free[r])
        scheduled[i] = max(arrival_s[i], slot_s, busy_until[r])
        first[i] = scheduled[i] + prompt[i] / toy.prefill_tokens_per_s
        busy_until[r] = first[i]
        crowd = sum(t > scheduled[i] for t in free[r])
        tpot_s = toy.step_s * (1 + 0.015 * crowd) * own.uniform(1.0, 1.12)
        finish[i] = first[i] + tpot_s * (output[i] - 1)
        stall[i] = tpot_s + own.exponential(0.4) * prompt[i] / toy.prefill_tokens_per_s if output[i] > 1 else np.nan
        heapq.heappush(free[r], finish[i])
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(output > 1, (finish - first) / (output - 1), np.nan)
    replica[status == "rejected"] = np.nan
    return {
        "request_id": np.arange(n), "arrival_s": arrival_s, "class": kind, "session": [None] * n,
        "prompt_tokens": prompt, "output_tokens": output, "replica": replica, "status": status,
        "reject_reason": reason, "cached_tokens": np.zeros(n, np.int32), "scheduled_s": scheduled,
        "first_token_s": first, "finish_s": finish, "ttft_s": first - arrival_s, "tpot_s": tpot,
        "e2e_s": finish - arrival_s, "longest_stall_s": stall, "preemptions": np.zeros(n, np.int32),
        "energy_j": np.where(status == "finished", 0.9 * output + 0.02 * prompt, np.nan),
        "in_stats": arrival_s >= 60.0,
    }  # fmt: skip


def _overlap(starts: Any, ends: Any, edges: Any, weights: Any = None) -> Any:
    """Integrate how many [start, end) spans are open over each bin."""
    weights = np.ones(len(starts)) if weights is None else weights
    order = np.concatenate([starts, ends])
    signs = np.concatenate([weights, -weights])
    by_time = np.argsort(order, kind="stable")
    times, levels = order[by_time], np.cumsum(signs[by_time])
    area = np.concatenate([[0.0], np.cumsum(levels[:-1] * np.diff(times))])
    return np.diff(np.interp(edges, times, area))


def timeline_of(toy: Toy, requests: dict[str, Any], interval_s: float = 10.0) -> dict[str, Any]:
    """Give the columns of timeline.parquet, the ledger's included."""
    done = requests["status"] == "finished"
    end_s = np.nanmax(requests["finish_s"]) + 5.0
    edges = np.append(np.arange(0.0, end_s, interval_s), end_s)
    length = np.diff(edges)
    parts = []
    for r in range(toy.replicas):
        at = done & (requests["replica"] == r)
        scheduled, first, finish = (requests[k][at] for k in ("scheduled_s", "first_token_s", "finish_s"))
        prompt, output = requests["prompt_tokens"][at], requests["output_tokens"][at]
        prefill_s = np.minimum(_overlap(scheduled, first, edges), length)
        running = _overlap(scheduled, finish + 1e-9, edges) / length
        decode_s = (length - prefill_s) * np.minimum(1.0, running)
        tokens = _overlap(first, finish + 1e-9, edges, output / (finish + 1e-9 - first))
        parts.append({
            "start_s": edges[:-1], "interval_s": length, "replica": np.full(len(length), r),
            "prefill_s": prefill_s, "decode_s": decode_s, "idle_s": length - prefill_s - decode_s,
            "batch_mean": running,
            "waiting_mean": _overlap(requests["arrival_s"][at], scheduled + 1e-9, edges) / length,
            "kv_used_frac": np.minimum(1.0, running / (1.15 * toy.slots)),
            "prompt_tokens": _overlap(scheduled, first, edges, prompt / (first - scheduled)),
            "output_tokens": tokens,
            "gpu_dynamic_prefill_j": prefill_s * (toy.gpu_busy_w - toy.gpu_idle_w),
            "gpu_dynamic_decode_j": decode_s * 0.8 * (toy.gpu_busy_w - toy.gpu_idle_w),
            "hbm_bytes": decode_s / toy.step_s * 13.5e9, "link_bytes": np.zeros(len(length)),
            "dram_to_hbm_bytes": np.zeros(len(length)),
        })  # fmt: skip
    whole = {k: np.stack([p[k] for p in parts], axis=1).ravel() for k in parts[0]}
    return {**whole, **_ledger(toy, whole)}


def _ledger(toy: Toy, rows: dict[str, Any]) -> dict[str, Any]:
    host_j = rows["interval_s"] * toy.host_w / toy.replicas
    dynamic_j = rows["gpu_dynamic_prefill_j"] + rows["gpu_dynamic_decode_j"]
    parts = {
        "gpu": rows["interval_s"] * toy.gpu_idle_w + dynamic_j,
        "cpu": 0.45 * host_j + 0.03 * dynamic_j, "dram": 0.15 * host_j, "fans": 0.15 * host_j + 0.02 * dynamic_j,
        "storage": 0.05 * host_j, "nic": 0.05 * host_j, "board": 0.15 * host_j,
    }  # fmt: skip
    it_j = sum(parts.values())
    parts["psu"] = 0.08 * it_j
    parts["facility"] = 0.4 * (it_j + parts["psu"])
    assert set(parts) == set(COMPONENTS)
    energy_j = sum(parts.values())
    share = {s: rows[f"{s}_s"] / rows["interval_s"] for s in ("prefill", "decode", "idle")}
    mid_h = (rows["start_s"] + rows["interval_s"] / 2) / 3600
    swing = 0.35 * np.sin(2 * np.pi * np.floor(mid_h) / 24) if toy.hourly else 0.0
    intensity = toy.intensity * (1 + swing) * np.ones(len(energy_j))
    return {
        **{f"energy_{k}_j": v for k, v in parts.items()},
        **{f"energy_{k}_j": v * energy_j for k, v in share.items()},
        "energy_j": energy_j, "intensity_gco2e_per_kwh": intensity,
        "operational_gco2e": energy_j / 3.6e6 * intensity,
    }  # fmt: skip


def _normals(toy: Toy, name: str, owner: str = "") -> Any:
    return np.random.default_rng([42, zlib.crc32((name + owner).encode())]).standard_normal(toy.draws)


def draws_of(toy: Toy, timeline: dict[str, Any]) -> dict[str, Any]:
    """Give the columns of draws.parquet; grid and method biases are shared by all machines of a draw."""
    reserved_s = float(timeline["interval_s"].sum()) / toy.replicas
    operational = float(timeline["operational_gco2e"].sum()) * np.exp(
        0.1 * _normals(toy, "intensity", toy.site) + 0.05 * _normals(toy, "power", toy.hardware)
    )
    per_s = 1000 * toy.embodied_kg / (toy.lifetime_years * 365.25 * 86400 * 0.5)
    columns = {"draw": np.arange(toy.draws), "operational_gco2e": operational}
    for method, size in METHODS.items():
        bias = np.exp(0.2 * _normals(toy, f"bias:{method}"))
        for allocation, part in ALLOCATIONS.items():
            new = allocation == "avoidable" and toy.lifetime_years < 8  # bought new: nothing of it is sunk
            share = 1.0 if new else part
            columns[f"embodied_gco2e__{method}__{allocation}"] = per_s * reserved_s * size * share * bias
    other = {f"{name}__whole": toy.whole * grams for name, grams in columns.items() if name != "draw"}
    return columns | (other if toy.whole != 1.0 else {})


def _whole(breakeven: dict[str, Any], factor: float) -> dict[str, Any]:
    per_s = breakeven["embodied_gco2e_per_reserved_s"]
    run_j = breakeven["run_j_per_output_token"]
    return breakeven | {
        "run_j_per_output_token": run_j and factor * run_j,
        "off_w": factor * breakeven["off_w"],
        "embodied_gco2e_per_reserved_s": {
            m: by and {a: factor * grams for a, grams in by.items()} for m, by in per_s.items()
        },
    }


def _interval(values: Any) -> dict[str, float]:
    return {f"p{q}": float(np.quantile(values, q / 100)) for q in (5, 50, 95)}


def blocks_of(toy: Toy, run: Run, timeline: dict[str, Any], draws: dict[str, Any]) -> dict[str, Any]:
    """Give the blocks of summary.json that come from elsewhere."""
    done = summarise(run)
    requests = run.frame("requests", ["status", "output_tokens", "ttft_s", "tpot_s"])
    finished = requests[requests["status"] == "finished"]
    tokens = int(finished["output_tokens"].sum())
    slo = toy.slo or {}
    met = finished[np.logical_and.reduce([~(finished[k] > v) for k, v in slo.items()])] if slo else None
    embodied, operational = draws["embodied_gco2e__act__linear-total"], draws["operational_gco2e"]
    per = {"per_request_gco2e": len(finished), "per_output_token_gco2e": tokens}
    per["per_slo_met_token_gco2e"] = int(met["output_tokens"].sum()) if met is not None else 0
    nothing = {"p5": None, "p50": None, "p95": None}
    total_j = float(timeline["energy_j"].sum())
    reserved_s = done["duration_s"] / 0.5  # a duty cycle of one half
    hardware = toy.price_usd / (toy.lifetime_years * 365.25 * 86400 * 0.5) * done["duration_s"]
    electricity = total_j / 3.6e6 * 0.15
    offered = toy.rate_per_s / toy.capacity_per_s
    cards = int(toy.hardware.split("x")[0]) if toy.hardware[0].isdigit() else 1
    cost = {"hardware": hardware, "electricity": electricity, "total": hardware + electricity,
            "per_million_output_tokens": 1e6 * (hardware + electricity) / tokens if tokens else None}  # fmt: skip
    breakeven = {
        "run_j_per_output_token": total_j / tokens if tokens else None, "off_w": 8.0,
        "output_tokens_per_s": tokens / done["duration_s"], "intensity_gco2e_per_kwh": toy.intensity,
        "embodied_gco2e_per_reserved_s": {
            m: {a: float(np.median(draws[f"embodied_gco2e__{m}__{a}"])) / reserved_s for a in ALLOCATIONS}
            for m in METHODS
        } | {"vendor-pcf": None},
        "duty_frac": 0.5, "between": "off",
        "lives": {"card": {"acquired_s": 0.0, "service_s": toy.lifetime_years * 3.15576e7,
                           "total_s": toy.lifetime_years * 3.15576e7, "second_hand": False, "owned": False}},
    }  # fmt: skip
    return {
        "model": toy.model, "hardware": toy.hardware, "site": toy.site, "policies": {"batching": toy.policy},
        "load": {"offered_frac": offered, "capacity_requests_per_s": toy.capacity_per_s,
                 "devices_needed": int(np.ceil(offered * cards))},
        "energy_j": {
            "total": total_j, "idle": float(timeline["energy_idle_j"].sum()),
            "by_component": {k: float(timeline[f"energy_{k}_j"].sum()) for k in COMPONENTS},
            "by_state": {k: float(timeline[f"energy_{k}_j"].sum()) for k in ("prefill", "decode", "idle")},
            "method": "model",
        },
        "carbon_gco2e": {
            "operational": _interval(operational), "embodied": _interval(embodied),
            "total": _interval(operational + embodied), "embodied_method": "act", "allocation": "linear-total",
            "host_share": "slots",
            "by_method": {
                m: {a: _interval(draws[f"embodied_gco2e__{m}__{a}"]) for a in ALLOCATIONS} for m in METHODS
            },
        },
        "sci": {k: _interval((operational + embodied) / n) if n else nothing for k, n in per.items()},
        "cost_usd": cost,
        "breakeven": breakeven,
        "other_host_share": {
            "host_share": "whole", "energy_j": toy.whole * total_j,
            "sci": {k: _interval(toy.whole * (operational + embodied) / n) if n else nothing for k, n in per.items()},
            "cost_usd": {name: value if value is None else toy.whole * value for name, value in cost.items()},
            "breakeven": _whole(breakeven, toy.whole),
        },
    }  # fmt: skip


def manifest_of(toy: Toy) -> dict[str, Any]:
    """Give manifest.json."""
    return {
        "schema_version": "1", "body": "sim",
        "config": {"hw": toy.hardware, "trace": toy.trace, "precision": "fp16", "slo": toy.slo, "duty_frac": 0.5},
        "seed": 42, "versions": {"afterwatt": "0.1.0", "python": "3.11.7", "numpy": "2.4.6"},
        "profiles": {f"devices/{toy.hardware}.toml": "9f2b" * 16, "sites/world.toml": "03ac" * 16},
        "deployment": {"name": toy.hardware}, "model": {"name": toy.model}, "site": {"name": toy.site},
        "policies": {"batching": toy.policy}, "workload": {"kind": "trace", "requests": toy.requests},
        "start_utc": "2026-03-02T08:00:00+00:00", "horizon_s": None,
        "facts": [
            {"field": "device.mem_bandwidth_bytes_per_s", "value": 288e9, "unit": "B/s", "kind": "datasheet",
             "source": "NVIDIA Tesla M40 board specification BD-07734-001"},
            {"field": "device.idle_w", "value": toy.gpu_idle_w, "unit": "W", "kind": "assumed",
             "source": "by generation, 12 to 20 W"},
            {"field": "site.intensity", "value": toy.intensity, "unit": "gCO2e/kWh", "kind": "measured",
             "source": "Ember yearly data 2025"},
        ],
    }  # fmt: skip


def write_run(path: Path, toy: Toy = M40, **changes: Any) -> Run:
    """Write a whole synthetic run directory; ``changes`` replace tables or blocks (draws=None writes no draws)."""
    requests = changes["requests"] if "requests" in changes else requests_of(toy)
    timeline = changes["timeline"] if "timeline" in changes else timeline_of(toy, requests)
    draws = changes["draws"] if "draws" in changes else draws_of(toy, timeline)
    with RunWriter(path) as writer:
        writer.write_manifest(manifest_of(toy) | changes.get("manifest", {}))
        writer.write("requests", requests)
        writer.write("timeline", timeline)
        writer.write("itl", changes.get("itl", itl_of(toy)))
        if draws is not None:
            writer.write("draws", draws)
        run = writer.run()
        blocks = changes.get("blocks")
        blocks = blocks_of(toy, run, timeline, draws) if blocks is None else blocks
        writer.write_summary(assemble_summary(run, blocks))
    return load_run(path)


def itl_of(toy: Toy) -> dict[str, Any]:
    """Give the columns of itl.parquet."""
    rng = np.random.default_rng(toy.seed)
    bins = 1.001 ** np.round(np.log(toy.step_s * rng.gamma(30, 1 / 30, 4000)) / np.log(1.001))
    centres, weights = np.unique(bins, return_counts=True)
    return {"itl_s": centres, "tokens": weights * 20.5}


def nothing_finished() -> dict[str, Any]:
    """Give changes that make a run in which all requests were turned away."""
    toy = Toy(requests=5)
    requests = requests_of(toy)
    n = toy.requests
    unknown = np.full(n, np.nan)
    columns = (
        "replica",
        "scheduled_s",
        "first_token_s",
        "finish_s",
        "ttft_s",
        "tpot_s",
        "e2e_s",
        "longest_stall_s",
        "energy_j",
    )
    requests |= dict.fromkeys(columns, unknown)
    requests |= {"status": ["rejected"] * n, "reject_reason": ["never_fits"] * n}
    ledgerless = {column.name: [0.0] for column in TIMELINE} | {"replica": [0], "interval_s": [10.0], "idle_s": [10.0]}
    return {
        "requests": requests, "timeline": ledgerless, "itl": {"itl_s": [], "tokens": []}, "draws": None,
        "blocks": {"model": "llama-2-7b", "hardware": "m40"},
    }  # fmt: skip


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """This module, for tests that make runs of their own."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def m40(runs_dir: Path) -> Run:
    return write_run(runs_dir / "m40", M40)


@pytest.fixture(scope="session")
def fleet(runs_dir: Path, m40: Run) -> list[Run]:
    others = {"4xm40": M40X4, "a100-80": A100, "h100-sxm": H100}
    return [m40, *(write_run(runs_dir / name, toy) for name, toy in others.items())]


@pytest.fixture(scope="session")
def overloaded(runs_dir: Path) -> Run:
    return write_run(runs_dir / "overloaded", OVERLOADED)


@pytest.fixture(scope="session")
def swamped(runs_dir: Path) -> Run:
    """A run of the fleet's own requests that burns least of all because it cannot keep up."""
    toy = Toy(hardware="gtx1080", capacity_per_s=0.2, gpu_busy_w=40, gpu_idle_w=5, host_w=5, embodied_kg=9, seed=12)
    return write_run(runs_dir / "swamped", toy)


@pytest.fixture(scope="session")
def empty(runs_dir: Path) -> Run:
    return write_run(runs_dir / "empty", Toy(requests=5), **nothing_finished())

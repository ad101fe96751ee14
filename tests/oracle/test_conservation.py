"""Energy, carbon, tokens and bytes of whole runs add up, whichever way they are summed, from the files alone."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from afterwatt.hwprofiles.effort import occupancy, work
from afterwatt.hwprofiles.grid import HourlyGrid
from afterwatt.hwprofiles.mixers import StepShape
from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.policies.log import DecisionEntry
from afterwatt.sim.config import CarbonOptions
from afterwatt.sim.run import meter_of, simulate
from afterwatt.sim.workload import ClosedLoop, StaticBatch, TraceWorkload
from tests.audit import check_conservation
from tests.helpers import PS_PER_S, Outcome, Requests, between, make_config, poisson, run_body

CHAT = poisson(120, 0.5, between(1, 1500), between(1, 300), 2)
START = "2024-01-15T12:00:00+00:00"
HOURS = np.arange(400) * 3600.0 + 1705276800.0  # from 2024-01-15T00:00 UTC


def grid_of(gco2e_per_kwh: np.ndarray) -> HourlyGrid:
    return HourlyGrid(HOURS, gco2e_per_kwh, 3600.0, "lifecycle", "XX", "made up")


def wavy(scale: float = 1.0) -> HourlyGrid:
    return grid_of(scale * (200.0 + 150.0 * np.sin(np.arange(400.0))))


WORLDS = {
    "one card": (TraceWorkload(CHAT), "m40", "chunked", {}),
    "more than it can carry": (
        TraceWorkload(poisson(150, 5.0, between(1, 900), between(1, 200))),
        "m40",
        "chunked",
        {},
    ),
    "replicas": (TraceWorkload(CHAT), "4xm40", "prefill-first+prefix-affinity", {}),
    "tensor parallel": (TraceWorkload(CHAT), "2xa100-80:tp2", "chunked+budget=256", {"model": "llama-2-13b"}),
    "pipelines": (TraceWorkload(CHAT), "4xm40:pp2", "chunked", {}),
    "quantised": (TraceWorkload(CHAT), "p40", "decode-first", {"precision": "int4"}),
    "experts": (TraceWorkload(CHAT), "2xa100-80:tp2", "chunked", {"model": "mixtral-8x7b"}),
    "users": (ClosedLoop(5, CHAT, 60, 2.0), "m40", "chunked", {}),
    "a batch": (StaticBatch(16, 200, 100), "m40", "chunked", {}),
    "cut short": (TraceWorkload(CHAT), "2xm40", "chunked", {"horizon_s": 60.0, "warmup_s": 20.0}),
    "an hourly grid": (
        TraceWorkload(CHAT),
        "m40",
        "chunked",
        {"carbon": CarbonOptions(grid=wavy()), "start_utc": START},
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_a_run_directory_adds_up(name, tmp_path):
    workload, hw, policy, options = WORLDS[name]
    run = simulate(make_config(workload, hw, policy, **options), tmp_path / "run")
    columns = {field: column.to_numpy() for field, column in read(run, "timeline").items()}
    rows, summary = run.requests, summary_of(run)
    check_conservation(columns, summary)
    energy_j = rows["energy_j"].sum() + columns["energy_idle_j"].sum()
    np.testing.assert_allclose(energy_j, columns["energy_j"].sum(), rtol=1e-9)
    counts = summary["requests"]
    assert counts["arrived"] == len(rows) == counts["finished"] + counts["rejected"] + counts["unfinished"]
    if not counts["unfinished"]:
        finished = rows[rows["status"] == "finished"]
        np.testing.assert_allclose(columns["output_tokens"].sum(), finished["output_tokens"].sum(), rtol=1e-9)
        gaps = read(run, "itl")["tokens"].to_numpy().sum()
        np.testing.assert_allclose(gaps, (finished["output_tokens"] - 1).sum(), rtol=1e-9)
    operational = summary["carbon_gco2e"]["operational"]
    assert 0 < operational["p5"] <= operational["p50"] <= operational["p95"]


def summary_of(run):
    return json.loads((run.path / "summary.json").read_text())


def read(run, table):
    content = pq.read_table(run.file(table))
    return dict(zip(content.column_names, content.columns, strict=True))


def brute_force_j(outcome: Outcome) -> float:
    """GPU energy above idle, one iteration of the decision log after the other."""
    config = outcome.config
    deployment = config.deployment
    meter = meter_of(config, outcome.memory)
    times = TimeModel(config.serving)
    done: dict[int, int] = {}

    def energy_j(entry: DecisionEntry) -> float:
        pieces = [(None, size, done.get(who, 0)) for who, size in zip(entry.chunk_ids, entry.chunk_tokens, strict=True)]
        emits = entry.decoding
        for (_, size, past), who in zip(pieces, entry.chunk_ids, strict=True):
            done[who] = past + size
            emits += done[who] == outcome.tickets[who].prompt_tokens
        duration_s = times.step(entry.decoding, entry.context_tokens, pieces, emits, 1)[0] / PS_PER_S
        sizes, pasts = [size for _, size, _ in pieces], [past for _, _, past in pieces]
        pairs = sum(size * past + size * (size + 1) // 2 for size, past in zip(sizes, pasts, strict=True))
        numbers = (entry.decoding, entry.context_tokens, emits, sum(sizes), sum(pasts), pairs, 0)
        shape = StepShape(*(np.array([float(number)]) for number in numbers))
        effort = work(meter.step, shape)
        gpus = deployment.pool.tp
        kernels = occupancy(meter.step, shape)
        seconds = (kernels.attention_s[0], kernels.expert_s[0], kernels.unpack_s[0])
        totals = (effort.hbm_bytes[0], effort.flops[0], *seconds)
        return gpus * meter.gpu.dynamic_j(duration_s, *(float(total) / gpus for total in totals))

    return sum(map(energy_j, outcome.log))


@pytest.mark.parametrize(
    ("hw", "model"),
    [
        ("m40", "qwen2.5-7b"),
        ("2xa100-80:tp2", "qwen2.5-7b"),
        ("k80", "qwen2.5-7b"),
        ("h100-sxm", "qwen2.5-7b"),
        ("h100-sxm", "mixtral-8x7b"),
    ],
)
@pytest.mark.parametrize("policy", ["chunked+budget=200", "prefill-first"])
def test_the_energy_of_strides_is_that_of_their_iterations(hw, model, policy):
    """Closed forms over strides, power cap included, against the power model asked once per iteration."""
    outcome = run_body(poisson(40, 1.0, between(1, 900), between(1, 300)), hw, policy, model=model, precision="int4")
    assert not any(ticket.preemptions for ticket in outcome.tickets)
    timeline = outcome.result.timeline
    dynamic_j = (timeline["gpu_dynamic_prefill_j"] + timeline["gpu_dynamic_decode_j"]).sum()
    np.testing.assert_allclose(dynamic_j, brute_force_j(outcome), rtol=1e-9)


def test_twice_the_intensity_is_twice_the_operational_carbon(tmp_path):
    grams = []
    for scale in (1.0, 2.0):
        options = {"carbon": CarbonOptions(grid=wavy(scale)), "start_utc": START}
        run = simulate(make_config(TraceWorkload(CHAT), **options), tmp_path / str(scale))
        grams.append(summary_of(run)["carbon_gco2e"]["operational"])
    for quantile in ("p5", "p50", "p95"):
        assert grams[1][quantile] == pytest.approx(2.0 * grams[0][quantile], rel=1e-12)


def test_a_run_that_starts_later_pays_that_hours_intensity(tmp_path):
    """A step of the grid in the middle of nowhere: before it the one intensity, after it the other."""
    grid = grid_of(np.where(np.arange(400) < 200, 100.0, 300.0))
    grams = []
    for start in ("2024-01-16T00:00:00+00:00", "2024-01-25T00:00:00+00:00"):
        options = {"carbon": CarbonOptions(grid=grid), "start_utc": start}
        run = simulate(make_config(TraceWorkload(CHAT.first(20)), **options), tmp_path / start[:10])
        grams.append(read(run, "timeline")["operational_gco2e"].to_numpy().sum())
    assert grams[1] == pytest.approx(3.0 * grams[0], rel=1e-12)


def test_all_that_is_idle_is_paid_for_too():
    """One short request in an hour: the energy is that of an hour, and nearly all of it idle."""
    outcome = run_body(Requests([0, 3600 * PS_PER_S], [10, 10], [2, 2]), "m40")
    ledger = outcome.ledger
    idle_w = ledger.power.idle_site_w
    assert ledger.run_j == pytest.approx(3600.0 * idle_w, rel=1e-3)
    assert ledger.by_state_j["idle"] > 0.999 * ledger.run_j


def test_two_replicas_idle_twice_as_much():
    """Twice the cards in the same host, or twice the hosts: idle power is added up over all of them."""
    for hw in ("2xm40", "8xm40"):
        outcome = run_body(Requests([0], [10], [50]), hw)
        ledger = outcome.ledger
        powered_j = ledger.power.it_baseline_w * ledger.power.site_factor * outcome.result.duration_s
        replicas = outcome.config.deployment.pool.replicas
        busy_j = np.nansum(outcome.rows["energy_j"])
        busy_s = (outcome.result.timeline["prefill_s"] + outcome.result.timeline["decode_s"]).sum()
        idle_j = powered_j * (replicas - busy_s / outcome.result.duration_s)
        assert ledger.run_j == pytest.approx(busy_j + idle_j, rel=1e-9)


def test_a_site_with_twice_the_pue_uses_twice_the_energy():
    config = make_config(StaticBatch(4, 100, 50))
    thrifty = run_body(StaticBatch(4, 100, 50))
    doubled = replace(thrifty, config=replace(config, site=replace(config.site, pue=2.0 * config.site.pue)))
    assert doubled.ledger.run_j == pytest.approx(2.0 * thrifty.ledger.run_j, rel=1e-12)

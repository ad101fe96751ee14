"""Closed books: intervals within a method, common draws, and a summary that a report can be redrawn from."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles.books import BooksOptions, Counts, close_books, other_share
from afterwatt.hwprofiles.carbon import TokenCarbon
from afterwatt.hwprofiles.catalogue import load_site
from afterwatt.hwprofiles.deployment import parse_deployment
from afterwatt.hwprofiles.draws import RunError, Sampler, percentiles, quantile_draws, redrawn_power
from afterwatt.hwprofiles.embodied import METHODS
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.footprint import Ownership
from afterwatt.hwprofiles.lives import ALLOCATIONS
from afterwatt.hwprofiles.replicas import HOST_SHARES, fills_its_hosts
from tests.audit import check_conservation

COUNTS = Counts(requests=900, output_tokens=150_000, slo_met_tokens=120_000)
CELLS = ["m40", "4xm40", "k80", "8xh100-sxm:tp4", "a100-80", "rtx4090"]


def run_of(pool, intervals=20, interval_s=120.0, busy=0.7):
    """Return an hour-like timeline in which GPUs draw plausible power."""
    rows = intervals * pool.replicas
    number = np.arange(rows)
    wave = 1.0 + 0.3 * np.sin(number // pool.replicas)
    prefill_s, decode_s = 0.15 * busy * wave * interval_s, 0.6 * busy * wave * interval_s
    gpus, device = pool.gpus_per_replica, pool.device
    return {
        "start_s": (number // pool.replicas) * interval_s,
        "interval_s": np.full(rows, interval_s),
        "replica": (number % pool.replicas).astype(np.int32),
        "prefill_s": prefill_s,
        "decode_s": decode_s,
        "idle_s": interval_s - prefill_s - decode_s,
        "gpu_dynamic_prefill_j": prefill_s * gpus * (0.9 * device.tdp_w - device.idle_w),
        "gpu_dynamic_decode_j": decode_s * gpus * (0.6 * device.tdp_w - device.idle_w),
    }


def books_of(name, site="pl", counts=COUNTS, **options):
    pool = parse_deployment(name).pool
    return close_books(run_of(pool), pool, load_site(site), counts, BooksOptions(**options))


@given(st.floats(0.1, 100.0), st.floats(0.01, 1.0), st.floats(1.0, 50.0))
def test_draws_have_the_low_the_value_and_the_high_as_their_percentiles(value, down, up):
    z = np.array([-1.6448536269514722, 0.0, 1.6448536269514722])
    np.testing.assert_allclose(quantile_draws(z, value, value * down, value * up), [value * down, value, value * up])


def test_an_interval_that_reaches_0_never_draws_below_it():
    z = Sampler(1, 5000).normal("x")
    drawn = quantile_draws(z, 1.0, 0.0, 3.0)
    assert drawn.min() == 0.0
    assert np.median(drawn) == pytest.approx(1.0, abs=0.1)


def test_draws_depend_on_seed_and_name_only():
    one, other = Sampler(7, 100), Sampler(7, 100)
    other.normal("something else first")
    assert one.normal("pue").tolist() == other.normal("pue").tolist()
    assert one.normal("pue").tolist() != one.normal("grid").tolist()
    assert one.normal("pue").tolist() != Sampler(8, 100).normal("pue").tolist()
    assert one.normal("pue").tolist() == Sampler(7, 300).normal("pue")[:100].tolist()


def test_a_fact_without_an_interval_is_constant():
    assert Sampler(1, 3).fact("tdp", Fact(250.0, "a datasheet", "2026-11-20", "datasheet")).tolist() == [250.0] * 3


@given(st.floats(0.0, 1.0))
def test_at_the_assumed_anchors_a_power_level_is_redrawn_as_itself(share):
    level = 40.0 + share * 210.0
    idle, busy = ((value, np.full(3, value)) for value in (40.0, 75.0))
    assert redrawn_power(level, idle, busy, np.ones(3), cap_w=250.0) == pytest.approx(level)


def test_redrawn_levels_follow_the_joules_of_their_work_up_to_the_cap():
    idle, busy = (40.0, np.full(2, 40.0)), (75.0, np.full(2, 75.0))
    assert redrawn_power(200.0, idle, busy, np.array([0.6, 2.6]), 250.0).tolist() == [150.0, 250.0]


def test_a_level_at_the_cap_stays_there_unless_work_is_cheaper():
    idle, busy = (40.0, np.full(2, 40.0)), (75.0, np.full(2, 75.0))
    assert redrawn_power(250.0, idle, busy, np.array([1.0, 2.0]), 250.0).tolist() == [250.0, 250.0]
    assert redrawn_power(250.0, idle, busy, np.array([0.8, 1.0]), 250.0).tolist() == [215.0, 250.0]


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("between", ["off", "idle"])
def test_the_draw_at_all_medians_is_the_ledger_itself(name, between, monkeypatch):
    monkeypatch.setattr(Sampler, "normal", lambda self, _name: np.zeros(self.draws))
    books = books_of(name, duty_frac=0.4, between=between, draws=2)
    assert books.own.operational == pytest.approx(books.own.ledger.operational_gco2e, rel=1e-9)
    for method, by_allocation in books.own.embodied.items():
        for allocation, grams in by_allocation.items():
            expected = books.own.footprints[method].allocated_gco2e(allocation, books.own.reserved_s)
            assert grams == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", CELLS)
def test_medians_lie_near_the_values_and_intervals_around_them(name):
    """Upward-skewed intervals lift the median of a sum a little; it must stay near what the tables print."""
    carbon = books_of(name).summary()["carbon_gco2e"]
    for part in ("operational", "embodied"):
        band = carbon[part]
        assert band["p5"] < carbon["assumed"][part] < band["p95"]
        assert band["p50"] == pytest.approx(carbon["assumed"][part], rel=0.15)


def test_the_same_seed_gives_the_same_books_and_another_seed_others():
    one, same, other = (books_of("m40", seed=seed).draw_columns() for seed in (3, 3, 4))
    for column in one:
        assert one[column].tolist() == same[column].tolist()
    assert one["operational_gco2e"].tolist() != other["operational_gco2e"].tolist()


def test_two_cards_at_one_site_share_what_they_share():
    """Grid and PUE are the same draws for both, so their ratio varies less than independent runs' would."""
    old, new, elsewhere = (
        books_of(name, seed=seed).own.operational for name, seed in (("m40", 0), ("h100-sxm", 0), ("h100-sxm", 9))
    )
    assert np.corrcoef(np.log(old), np.log(new))[0, 1] > 0.6
    assert abs(np.corrcoef(np.log(old), np.log(elsewhere))[0, 1]) < 0.2


def test_the_error_of_a_method_is_mostly_common_to_all_cards_and_methods_are_apart():
    old, new = books_of("m40").own.embodied, books_of("8xh100-sxm").own.embodied
    same = np.corrcoef(np.log(old["card-lca"]["linear"]), np.log(new["card-lca"]["linear"]))[0, 1]
    apart = np.corrcoef(np.log(old["card-lca"]["linear"]), np.log(new["act"]["linear"]))[0, 1]
    assert same > 0.6
    assert abs(apart) < 0.2


def test_draw_columns_are_those_of_the_file():
    columns = books_of("m40", draws=50).draw_columns()
    assert columns["draw"].dtype == np.int32
    assert columns["draw"].tolist() == list(range(50))
    for allocation in ALLOCATIONS:
        assert columns[f"embodied_gco2e__card-lca__{allocation}"].shape == (50,)
        assert (columns[f"embodied_gco2e__card-lca__{allocation}"] >= 0.0).all()


@pytest.mark.parametrize("name", CELLS)
def test_a_summary_is_plain_json_with_all_blocks_and_passes_the_auditor(name):
    books = books_of(name, duty_frac=0.6)
    summary = books.summary()
    check_conservation(books.columns, summary)
    back = json.loads(json.dumps(summary, allow_nan=False))
    assert back["energy_j"]["total"] == pytest.approx(sum(back["energy_j"]["by_component"].values()))
    carbon = back["carbon_gco2e"]
    assert set(carbon["by_method"]) == set(METHODS)
    assert carbon["by_method"]["card-lca"]["linear"] == carbon["embodied"]
    assert carbon["operational"]["p50"] < carbon["total"]["p50"]
    sci = back["sci"]
    assert sci["per_request_gco2e"]["p50"] == pytest.approx(carbon["total"]["p50"] / 900)
    assert sci["per_slo_met_token_gco2e"]["p50"] == pytest.approx(carbon["total"]["p50"] / 120_000)
    assert back["cost_usd"]["total"] == pytest.approx(back["cost_usd"]["hardware"] + back["cost_usd"]["electricity"])


def test_unknown_stays_null():
    summary = books_of("m40", method="vendor-pcf", counts=Counts(0, 0)).summary()
    carbon = summary["carbon_gco2e"]
    assert carbon["embodied"] is carbon["total"] is carbon["by_method"]["vendor-pcf"] is None
    assert carbon["operational"]["p50"] > 0.0
    assert set(summary["sci"].values()) == {None}
    assert summary["cost_usd"]["per_million_output_tokens"] is None
    assert summary["breakeven"]["run_j_per_output_token"] is None


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("duty", [1.0, 0.25])
def test_the_breakeven_block_gives_back_the_runs_own_carbon_per_token(name, duty):
    books = books_of(name, duty_frac=duty)
    block = books.summary()["breakeven"]
    token = TokenCarbon(
        block["run_j_per_output_token"],
        block["off_w"],
        block["embodied_gco2e_per_reserved_s"]["card-lca"]["linear"],
        block["output_tokens_per_s"],
    )
    per_token = token.total(block["intensity_gco2e_per_kwh"], duty_frac=block["duty_frac"])
    making = books.own.footprints["card-lca"].allocated_gco2e("linear", books.own.reserved_s)
    assert per_token == pytest.approx((books.own.ledger.operational_gco2e + making) / 150_000, rel=1e-6)


def test_operational_carbon_follows_the_grid_and_energy_does_not():
    fr, pl = (books_of("m40", site=site) for site in ("fr", "pl"))
    ratio = load_site("pl").intensity_gco2e_per_kwh() / load_site("fr").intensity_gco2e_per_kwh()
    assert pl.own.ledger.operational_gco2e == pytest.approx(ratio * fr.own.ledger.operational_gco2e)
    assert pl.own.ledger.total_j == fr.own.ledger.total_j


def test_a_duty_of_half_reserves_twice_the_hardware():
    full, half = books_of("m40"), books_of("m40", duty_frac=0.5)
    assert half.own.reserved_s == 2 * full.own.reserved_s
    assert half.own.cost.hardware == pytest.approx(2 * full.own.cost.hardware)
    once, twice = (b.own.footprints["act"].allocated_gco2e("linear", b.own.reserved_s) for b in (full, half))
    assert twice == pytest.approx(2 * once, rel=1e-6)


def test_owning_a_new_card_leaves_nothing_of_it_to_avoid():
    books = books_of("8xh100-sxm", allocation="avoidable", ownership=Ownership("owned"))
    assert books.summary()["carbon_gco2e"]["embodied"] == {"p5": 0.0, "p50": 0.0, "p95": 0.0}


def test_percentiles_are_ordered():
    assert percentiles(np.arange(101.0)) == {"p5": 5.0, "p50": 50.0, "p95": 95.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "card-lcaa"}, "did you mean 'card-lca'"),
        ({"allocation": "liner"}, "did you mean 'linear'"),
        ({"draws": 0}, "draws = 0"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(HardwareError, match=message):
        BooksOptions(**options)


def test_negative_counts_are_refused():
    with pytest.raises(HardwareError, match="output_tokens"):
        Counts(1, -1)


@pytest.mark.parametrize("share", HOST_SHARES)
@pytest.mark.parametrize("name", [*CELLS, "3xk80", "9xh100-sxm"])
def test_the_other_account_is_that_of_books_kept_the_other_way(name, share):
    """Each run knows both shares: the other's figures and draws are those it would have as its headline."""
    books, swapped = books_of(name, host_share=share), books_of(name, host_share=other_share(share))
    told, there = books.summary()["other_host_share"], swapped.summary()
    assert told["host_share"] == there["carbon_gco2e"]["host_share"]
    assert told["energy_j"] == pytest.approx(there["energy_j"]["total"])
    assert told["breakeven"] == there["breakeven"]
    for block in ("sci", "cost_usd"):
        assert told[block] == there[block]
    columns = {column.removesuffix(f"__{told['host_share']}") for column in books.draw_columns()}
    assert columns == set(swapped.draw_columns()) - {c for c in swapped.draw_columns() if c.endswith(f"__{share}")}


def test_full_servers_count_the_same_by_either_share():
    for name in ("8xh100-sxm:tp4", "2xm40", "rtx4090"):
        books = books_of(name)
        assert (books.own is books.other) == fills_its_hosts(parse_deployment(name).pool)
        if books.own is books.other:
            assert not [column for column in books.draw_columns() if column.endswith(("__slots", "__whole"))]


def test_a_share_of_a_server_is_what_its_slots_are_of_all():
    """One card in eight slots answers for an eighth of the server, and for all of its own."""
    one, eight = books_of("h100-sxm"), books_of("8xh100-sxm")
    making = [books.own.footprints["card-lca"].total_gco2e for books in (one, eight)]
    assert 8 * making[0] == pytest.approx(making[1])
    assert 8 * one.own.ledger.power.hosts == pytest.approx(8 * eight.own.ledger.power.hosts)  # per replica
    assert 8 * one.own.cost.hardware == pytest.approx(eight.own.cost.hardware)


@pytest.mark.parametrize("share", HOST_SHARES)
def test_the_interval_of_carbon_holds_the_error_of_the_run(share):
    """What is known of times and power widens the grams of electricity at least by itself, and moves no median."""
    error = RunError("m40", joules=(0.7, 1.67), seconds=(0.9, 1.4))
    plain, held = books_of("m40", host_share=share), books_of("m40", host_share=share, errors={share: error})
    before, after = percentiles(plain.own.operational), percentiles(held.own.operational)
    assert after["p50"] == pytest.approx(before["p50"], rel=1e-9)
    assert after["p95"] / after["p50"] > 1.6
    assert after["p5"] / after["p50"] < 0.75
    certain, making = (percentiles(books.own.embodied["card-lca"]["linear"]) for books in (plain, held))
    assert making["p95"] > certain["p95"]
    assert held.summary()["carbon_gco2e"]["run_error_90"] == {"low": 0.7, "high": 1.67}
    assert plain.summary()["carbon_gco2e"]["run_error_90"] is None


def test_a_certain_run_errs_by_nothing_but_what_else_is_uncertain(monkeypatch):
    monkeypatch.setattr(Sampler, "fact", lambda self, _name, fact: np.full(self.draws, float(fact)))
    error = RunError("m40", joules=(0.5, 2.0), seconds=(1.0, 1.0))
    drawn = percentiles(books_of("m40", errors={"slots": error}, draws=20_000).own.operational)
    assert drawn["p5"] / drawn["p50"] == pytest.approx(0.5, rel=0.03)
    assert drawn["p95"] / drawn["p50"] == pytest.approx(2.0, rel=0.03)


@pytest.mark.parametrize(("between", "rest"), [("off", "off"), ("idle", "idle")])
def test_reserved_time_is_filed_as_what_the_machine_does_in_it(between, rest):
    books = books_of("m40", duty_frac=0.25, between=between)
    energy = books.summary()["energy_j"]
    run_idle_j = float(books.columns["energy_idle_j"].sum())
    other = {"off": "idle", "idle": "off"}[rest]
    assert energy["by_state"][rest] == pytest.approx(books.own.ledger.off_j + (run_idle_j if rest == "idle" else 0.0))
    assert energy["by_state"][other] == pytest.approx(run_idle_j if other == "idle" else 0.0)
    assert energy["idle"] == energy["by_state"]["idle"]
    check_conservation(books.columns, books.summary())

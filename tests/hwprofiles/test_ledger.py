"""The ledger: energy adds up whichever way it is summed, and carbon follows energy and intensity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles.catalogue import load_site
from afterwatt.hwprofiles.deployment import parse_deployment
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.grid import HourlyGrid
from afterwatt.hwprofiles.ledger import COMPONENTS, NEEDED, STATES, Intensity, Reservation, account, settle
from afterwatt.hwprofiles.replicas import ReplicaPower, replica_power
from afterwatt.hwprofiles.units import J_PER_KWH
from tests.audit import ConservationError, check_conservation

POWER = ReplicaPower(
    baseline_w={"gpu": 50.0, "cpu": 40.0, "dram": 20.0, "fans": 10.0, "storage": 2.0, "nic": 8.0, "board": 30.0},
    busy_w={"cpu": 25.0, "fans": 15.0},
    standby_w=12.0,
    psu_efficiency_frac=0.8,
    pue=1.5,
    gpus=1,
    hosts=1.0,
)
BASELINE_W, BUSY_W, SITE = 160.0, 40.0, 1.5 / 0.8


def timeline(rows, replicas=1, interval_s=60.0):
    """Return columns for rows of (prefill share, decode share, prefill joules, decode joules), interval by interval."""
    prefill, decode, prefill_j, decode_j = (np.asarray(column, dtype=np.float64) for column in zip(*rows, strict=True))
    number = np.arange(len(rows))
    return {
        "start_s": (number // replicas) * interval_s,
        "interval_s": np.full(len(rows), interval_s),
        "replica": (number % replicas).astype(np.int32),
        "prefill_s": prefill * interval_s,
        "decode_s": decode * interval_s,
        "idle_s": interval_s - prefill * interval_s - decode * interval_s,
        "gpu_dynamic_prefill_j": prefill_j,
        "gpu_dynamic_decode_j": decode_j,
    }


shares = st.floats(0.0, 0.5)
joules = st.floats(0.0, 1e5)
row_lists = st.lists(st.tuples(shares, shares, joules, joules), min_size=1, max_size=12)
powers = st.builds(
    lambda base, busy, standby, efficiency, pue: ReplicaPower(
        dict(zip(POWER.baseline_w, base, strict=True)),
        {"cpu": busy[0], "fans": busy[1]},
        standby,
        efficiency,
        pue,
        1,
        1.0,
    ),
    st.lists(st.floats(0.0, 2000.0), min_size=7, max_size=7),
    st.lists(st.floats(0.0, 500.0), min_size=2, max_size=2),
    st.floats(0.0, 50.0),
    st.floats(0.5, 1.0),
    st.floats(1.0, 3.0),
)


@given(row_lists, powers, st.floats(1.0, 1200.0))
def test_components_states_and_their_sum_are_the_same_energy_row_by_row(rows, power, intensity):
    columns = settle(timeline(rows), power, 1, Intensity(intensity)).columns
    for names in (COMPONENTS, STATES):
        total = sum(columns[f"energy_{name}_j"] for name in names)
        np.testing.assert_allclose(total, columns["energy_j"], rtol=1e-12, atol=0)
    np.testing.assert_allclose(columns["operational_gco2e"], columns["energy_j"] / J_PER_KWH * intensity, rtol=1e-12)


def test_a_row_has_the_energy_that_its_closed_form_says():
    """30 s of prefill, 15 s of decode, 15 s idle; 6,000 and 2,000 J above idle."""
    columns = settle(timeline([(0.5, 0.25, 6000.0, 2000.0)]), POWER, 1, Intensity(360.0)).columns
    it_j = BASELINE_W * 60 + BUSY_W * 45 + 8000.0
    assert columns["energy_j"][0] == pytest.approx(it_j * SITE)
    assert columns["energy_gpu_j"][0] == pytest.approx(50.0 * 60 + 8000.0)
    assert columns["energy_cpu_j"][0] == pytest.approx(40.0 * 60 + 25.0 * 45)
    assert columns["energy_psu_j"][0] == pytest.approx(it_j * 0.25)
    assert columns["energy_facility_j"][0] == pytest.approx(it_j * 1.25 * 0.5)
    assert columns["energy_idle_j"][0] == pytest.approx(BASELINE_W * 15 * SITE)
    assert columns["energy_prefill_j"][0] == pytest.approx(((BASELINE_W + BUSY_W) * 30 + 6000.0) * SITE)
    assert columns["operational_gco2e"][0] == pytest.approx(it_j * SITE / J_PER_KWH * 360.0)


@given(row_lists, st.floats(1.0, 600.0))
def test_twice_the_intensity_is_twice_the_operational_carbon(rows, intensity):
    once, twice = (
        settle(timeline(rows), POWER, 1, Intensity(value), duty_frac=0.3) for value in (intensity, 2 * intensity)
    )
    assert twice.operational_gco2e == pytest.approx(2 * once.operational_gco2e, rel=1e-12)
    assert twice.total_j == once.total_j


@given(row_lists, st.floats(0.05, 1.0), st.sampled_from(["off", "idle"]))
def test_the_total_is_the_run_and_the_time_reserved_around_it(rows, duty, between):
    ledger = settle(timeline(rows), POWER, 1, Intensity(100.0), duty_frac=duty, between=between)
    run_s = 60.0 * len(rows)
    off_w = 12.0 * 1.5 if between == "off" else BASELINE_W * SITE
    assert ledger.off_j == pytest.approx(off_w * run_s * (1 / duty - 1), abs=1e-6)
    assert ledger.total_j == pytest.approx(sum(ledger.by_component_j.values()), rel=1e-12)
    assert ledger.total_j == pytest.approx(sum(ledger.by_state_j.values()), rel=1e-12)
    assert ledger.reservation.reserved_s == pytest.approx(run_s / duty)


def test_splitting_intervals_changes_no_total():
    """Two half intervals with half the joules each are the same run."""
    whole = settle(timeline([(0.4, 0.5, 3000.0, 1000.0)]), POWER, 1, Intensity(50.0))
    halves = timeline([(0.4, 0.5, 1500.0, 500.0)] * 2, interval_s=30.0)
    split = settle(halves, POWER, 1, Intensity(50.0))
    assert split.run_j == pytest.approx(whole.run_j, rel=1e-14)
    assert split.by_state_j == pytest.approx(whole.by_state_j)


def test_an_hourly_grid_weighs_each_interval_by_its_own_hour():
    grid = HourlyGrid(np.array([0.0, 3600.0]), np.array([100.0, 300.0]), 3600.0, "lifecycle", "XX", "made up")
    rows = timeline([(0.0, 0.0, 0.0, 0.0)] * 4, interval_s=1800.0)
    ledger = settle(rows, POWER, 1, Intensity.of(grid, 0.0))
    assert ledger.columns["intensity_gco2e_per_kwh"].tolist() == [100.0, 100.0, 300.0, 300.0]
    assert ledger.operational_gco2e == pytest.approx(ledger.run_j / J_PER_KWH * 200.0)
    assert ledger.mean_intensity_gco2e_per_kwh == pytest.approx(200.0)


def test_an_interval_over_two_hours_has_the_mean_of_both():
    grid = HourlyGrid(np.arange(3) * 3600.0, np.array([100.0, 300.0, 500.0]), 3600.0, "lifecycle", "XX", "made up")
    hours = np.array([0.0, 3600.0]), np.full(2, 3600.0)
    assert Intensity.of(grid, 1800.0).over(*hours).tolist() == [200.0, 400.0]


def test_the_mean_intensity_weighs_hours_by_their_energy():
    grid = HourlyGrid(np.array([0.0, 3600.0]), np.array([100.0, 300.0]), 3600.0, "lifecycle", "XX", "made up")
    rows = timeline([(0.5, 0.5, 1e6, 2e6), (0.0, 0.0, 0.0, 0.0)], interval_s=3600.0)
    ledger = settle(rows, POWER, 1, Intensity.of(grid, 0.0))
    assert ledger.operational_gco2e == pytest.approx(
        ledger.run_j / J_PER_KWH * ledger.mean_intensity_gco2e_per_kwh, rel=1e-12
    )
    assert ledger.mean_intensity_gco2e_per_kwh < 150.0


@given(row_lists, st.floats(0.1, 1.0), st.sampled_from(["off", "idle"]))
def test_reserved_time_emits_by_its_joules(rows, duty, between):
    ledger = settle(timeline(rows), POWER, 1, Intensity(360.0), duty_frac=duty, between=between)
    assert ledger.operational_gco2e == pytest.approx(ledger.total_j / J_PER_KWH * 360.0, rel=1e-9)


def test_a_second_replica_that_rests_doubles_what_rest_takes():
    one, two = (
        settle(timeline([(0.0, 0.0, 0.0, 0.0)] * count, count), POWER, count, Intensity(1.0), duty_frac=0.25)
        for count in (1, 2)
    )
    assert two.off_j == 2 * one.off_j > 0.0
    assert two.run_j == pytest.approx(2 * one.run_j)


def test_a_run_may_begin_at_any_time():
    early = timeline([(0.4, 0.5, 3000.0, 1000.0)] * 3)
    late = early | {"start_s": early["start_s"] + 5e4}
    assert [settle(rows, POWER, 1, Intensity(1.0), duty_frac=0.5).total_j for rows in (early, late)] == pytest.approx(
        [settle(early, POWER, 1, Intensity(1.0), duty_frac=0.5).total_j] * 2, rel=1e-12
    )


def test_a_replica_too_many_is_refused():
    with pytest.raises(HardwareError, match="each of the 1"):
        settle(timeline([(0, 0, 0, 0)] * 2, 2), POWER, 1, Intensity(1.0))


@pytest.mark.parametrize("run_s", [0.0, -1.0, float("nan")])
def test_a_run_takes_time(run_s):
    with pytest.raises(HardwareError, match="run_s"):
        Reservation(run_s)


def test_a_constant_series_is_the_constant():
    grid = HourlyGrid(np.arange(48) * 3600.0, np.full(48, 77.0), 3600.0, "lifecycle", "XX", "made up")
    rows = timeline([(0.2, 0.3, 500.0, 400.0)] * 50, interval_s=700.0)
    constant, series = (settle(rows, POWER, 1, i, duty_frac=0.5) for i in (Intensity(77.0), Intensity.of(grid, 1234.0)))
    assert series.operational_gco2e == pytest.approx(constant.operational_gco2e, rel=1e-12)


def test_a_grid_without_a_start_is_refused():
    grid = HourlyGrid(np.arange(2) * 3600.0, np.ones(2), 3600.0, "lifecycle", "XX", "made up")
    with pytest.raises(HardwareError, match="start"):
        account(timeline([(0, 0, 0, 0)]), parse_deployment("m40").pool, load_site("fr"), grid=grid)


def test_with_whole_servers_one_card_burns_all_of_it_and_two_share_it():
    site = load_site("fr")
    one, two = parse_deployment("m40").pool, parse_deployment("2xm40").pool
    assert one.host.key == two.host.key
    alone, shared = replica_power(one, site, "whole"), replica_power(two, site)
    host = [name for name in alone.baseline_w if name != "gpu"]
    for name in host:
        assert alone.baseline_w[name] == pytest.approx(2 * shared.baseline_w[name])
    assert alone.baseline_w["gpu"] == shared.baseline_w["gpu"] == one.device.idle_w
    by_slots = replica_power(one, site)
    assert by_slots.it_baseline_w == pytest.approx(shared.it_baseline_w)


def test_the_unused_half_of_a_board_idles():
    k80 = parse_deployment("k80").pool
    assert replica_power(k80, load_site("fr"), "whole").baseline_w["gpu"] == pytest.approx(2 * k80.device.idle_w)
    assert replica_power(parse_deployment("2xk80").pool, load_site("fr")).baseline_w["gpu"] == k80.device.idle_w


def test_an_empty_half_of_a_board_is_shared_by_the_replicas():
    pool, site = parse_deployment("3xk80").pool, load_site("fr")
    each_w = replica_power(pool, site, "whole").baseline_w["gpu"]
    assert pool.replicas * each_w == pytest.approx(4 * pool.device.idle_w)


@pytest.mark.parametrize("name", ["m40", "3xm40", "8xh100-sxm:tp4pp2", "2xk80"])
def test_replicas_at_work_together_draw_what_their_hosts_add(name):
    pool = parse_deployment(name).pool
    power, host = replica_power(pool, load_site("fr"), "whole"), pool.host
    added_w = pool.hosts * (host.cpu_active_w + 0.6 * host.fans_w)
    assert pool.replicas * power.it_busy_w == pytest.approx(added_w)
    assert pool.replicas * power.off_site_w == pytest.approx(pool.hosts * host.standby_w * load_site("fr").pue)
    assert (power.gpus, pool.replicas * power.hosts) == (pool.tp * pool.pp, pytest.approx(pool.hosts))


@pytest.mark.parametrize("name", ["m40", "3xm40", "8xh100-sxm:tp4", "2xk80", "rtx4090"])
def test_an_idle_deployment_draws_its_idle_power(name):
    """Power of a profile by hand: everything that is on, through supply and site."""
    pool, site = parse_deployment(name).pool, load_site("pl")
    rows = timeline([(0.0, 0.0, 0.0, 0.0)] * pool.replicas, pool.replicas)
    ledger = account(rows, pool, site, host_share="whole")
    host = pool.host
    host_w = (
        host.cpu_idle_w
        + host.dram_bytes * host.dram_w_per_byte
        + 0.4 * host.fans_w
        + pool.storage.idle_w * host.disks
        + host.nic_w
        + host.base_w
    )
    idle_w = pool.hosts * host_w + pool.count * pool.device.idle_w
    assert ledger.run_j == pytest.approx(60.0 * idle_w / host.psu_efficiency * site.pue)


@pytest.mark.parametrize("missing", NEEDED)
def test_a_missing_column_is_named(missing):
    columns = timeline([(0, 0, 0, 0)])
    del columns[missing]
    with pytest.raises(HardwareError, match=missing):
        settle(columns, POWER, 1, Intensity(1.0))


def test_time_that_no_state_has_is_refused():
    columns = timeline([(0.5, 0.25, 0, 0)])
    columns["idle_s"] = columns["idle_s"] - 1.0
    with pytest.raises(HardwareError, match="must be equal"):
        settle(columns, POWER, 1, Intensity(1.0))


def test_a_replica_without_rows_is_refused():
    """An idle replica burns power too, so leaving it out would lose energy."""
    with pytest.raises(HardwareError, match="each of the 2"):
        settle(timeline([(0, 0, 0, 0)]), POWER, 2, Intensity(1.0))


def test_an_empty_timeline_is_refused():
    columns = {name: column[:0] for name, column in timeline([(0, 0, 0, 0)]).items()}
    with pytest.raises(HardwareError, match="no rows"):
        settle(columns, POWER, 1, Intensity(1.0))


@pytest.mark.parametrize("duty", [0.0, -0.5, 1.5, float("nan")])
def test_an_impossible_duty_cycle_is_refused(duty):
    with pytest.raises(HardwareError, match="duty"):
        settle(timeline([(0, 0, 0, 0)]), POWER, 1, Intensity(1.0), duty_frac=duty)


def energy_block(ledger):
    return {
        "energy_j": {
            "total": ledger.total_j,
            "idle": ledger.by_state_j["idle"],
            "by_component": ledger.by_component_j,
            "by_state": ledger.by_state_j,
        }
    }


@given(row_lists, powers, st.floats(0.1, 1.0))
def test_every_ledger_passes_the_auditor(rows, power, duty):
    ledger = settle(timeline(rows), power, 1, Intensity(300.0), duty_frac=duty)
    check_conservation(ledger.columns, energy_block(ledger))


@pytest.mark.parametrize("column", [f"energy_{name}_j" for name in (*COMPONENTS, *STATES)] + ["operational_gco2e"])
def test_the_auditor_finds_a_joule_or_a_gram_that_went_missing(column):
    ledger = settle(timeline([(0.3, 0.3, 900.0, 800.0)] * 3), POWER, 1, Intensity(300.0))
    columns = dict(ledger.columns)
    columns[column] = columns[column] * np.array([1.0, 1.0 - 1e-6, 1.0])
    with pytest.raises(ConservationError):
        check_conservation(columns, energy_block(ledger))


@pytest.mark.parametrize("part", ["total", "idle"])
def test_the_auditor_finds_a_summary_that_does_not_match_its_timeline(part):
    ledger = settle(timeline([(0.3, 0.3, 900.0, 800.0)] * 3), POWER, 1, Intensity(300.0))
    summary = energy_block(ledger)
    summary["energy_j"][part] *= 1.001
    with pytest.raises(ConservationError, match=part):
        check_conservation(ledger.columns, summary)

"""Comparisons: closed forms against brute force, and rules that hold for any set of runs."""

import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.reports.breakeven import Curve, crossings, curves, merged
from afterwatt.reports.compare import (
    Entry,
    common_choices,
    contenders,
    entries,
    flips,
    headline_choice,
    labels,
    pareto,
    ranking,
    wins,
)
from afterwatt.reports.errors import ReportError
from afterwatt.reports.rundir import Run
from afterwatt.reports.versus import (
    METRICS,
    best,
    comparison_table,
    crossing_table,
    flip_texts,
    ranking_table,
    verdicts,
)

HEADLINE = ("act", "linear-total")
points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12)


class TestPareto:
    @given(points)
    def test_the_front_is_what_nothing_dominates(self, group: list[tuple[int, int]]) -> None:
        xs, ys = zip(*group, strict=True)
        front = pareto(xs, ys)

        def dominated(i: int) -> bool:
            return any(
                xs[j] <= xs[i] and ys[j] <= ys[i] and (xs[j], ys[j]) != (xs[i], ys[i]) for j in range(len(group))
            )

        assert {group[i] for i in front} == {group[i] for i in range(len(group)) if not dominated(i)}
        assert [xs[i] for i in front] == sorted(xs[i] for i in front)


class TestLabels:
    def test_a_label_says_what_differs_and_no_more(self, fleet: list[Run]) -> None:
        assert labels(fleet) == ["m40", "4xm40", "a100-80", "h100-sxm"]
        assert labels(fleet[:1]) == ["m40"]

    def test_labels_are_always_distinct(self, m40: Run, overloaded: Run, synthetic: ModuleType, tmp_path: Path) -> None:
        assert labels([m40, overloaded]) == ["m40 · m40", "m40 · overloaded"]
        assert len(set(labels([m40, m40]))) == 2
        other = synthetic.write_run(tmp_path / "m40", synthetic.Toy(requests=40, site="pl"))
        assert labels([m40, other]) == ["world", "pl"]


class TestWins:
    def test_shares_are_those_of_a_draw_by_draw_count(self, fleet: list[Run]) -> None:
        group = entries(fleet)
        found = wins(group, HEADLINE)
        per_token = np.stack([entry.carbon_draws(HEADLINE) for entry in group])
        expected = np.bincount(per_token.argmin(axis=0), minlength=len(group)) / per_token.shape[1]
        assert found.shares == pytest.approx(expected)
        assert sum(found.shares) == pytest.approx(1.0)
        assert found.draws == 512
        assert found.paired

    def test_a_run_against_itself_is_a_tie(self, m40: Run) -> None:
        assert wins(entries([m40, m40]), HEADLINE).shares == [0.5, 0.5]

    def test_an_unknown_choice_is_refused(self, m40: Run) -> None:
        with pytest.raises(ReportError, match="no draws for tea × leaves"):
            wins(entries([m40]), ("tea", "leaves"))

    def test_ranks_follow_the_medians(self, fleet: list[Run]) -> None:
        group = entries(fleet)
        medians = [np.median(entry.carbon_draws(HEADLINE)) for entry in group]
        assert [medians[i] for i in np.argsort(ranking(group, HEADLINE))] == sorted(medians)

    def test_flips_are_pairs_that_really_change_places(self, fleet: list[Run]) -> None:
        group = entries(fleet)
        choices = common_choices(group)
        assert len(choices) == 12
        found = flips(group, choices)
        assert found
        by_label = {entry.label: entry for entry in group}
        for flip in found:
            for choice in flip.first_wins:
                first, second = (np.median(by_label[n].carbon_draws(choice)) for n in (flip.first, flip.second))
                assert first < second
            assert not set(flip.first_wins) & set(flip.second_wins)
        assert len(flip_texts(group, choices)) == len(found)


class TestRules:
    def test_the_best_is_sought_among_those_that_meet_the_slo(self, fleet: list[Run], overloaded: Run) -> None:
        group = entries([*fleet, overloaded])
        among, rule = contenders(group)
        assert [entry.label for entry in among] == [entry.label for entry in group[:-1]]
        assert "overloaded does not" in rule
        carbon = next(metric for metric in METRICS if metric.name == "carbon per token")
        values = [carbon.read(entry) for entry in group]
        assert min(v for v in values if v is not None) == values[-1]  # the overloaded run is lowest, yet not best
        assert best(group, carbon, among) == {0}
        table = comparison_table(group)
        assert all(row != len(group) - 1 for row, _ in table.marked)
        assert "misses the SLO" in table.rows[-1][0]
        assert [card.big for card in verdicts(group)] == ["h100-sxm", "a100-80", group[0].label]

    def test_all_compete_where_none_meets_it(self, overloaded: Run) -> None:
        among, rule = contenders(entries([overloaded, overloaded]))
        assert len(among) == 2
        assert rule.startswith("There are no runs that serve at least 90 %")

    def test_without_an_slo_those_compete_that_carry_the_load(self, tmp_path: Path, synthetic: ModuleType) -> None:
        made = [
            synthetic.write_run(tmp_path / f"{rate}", synthetic.Toy(requests=60, slo=None, rate_per_s=rate, seed=place))
            for place, rate in enumerate((0.1, 0.2, 0.9))
        ]
        among, rule = contenders(entries(made))
        assert [entry.run.name for entry in among] == ["0.1", "0.2"]
        assert rule.startswith("Runs compete that can carry the load")

    def test_requests_beyond_the_models_context_do_not_count_against_it(self, m40: Run) -> None:
        entry = entries([m40])[0]
        assert entry.attainment_frac == pytest.approx(m40.summary.requests.slo_met / (2000 - 49))  # type: ignore[operator]

    def test_a_run_that_served_nothing_never_competes(self, m40: Run, empty: Run) -> None:
        group = entries([m40, empty])
        assert [entry.run.name for entry in contenders(group).entries] == ["m40"]
        assert headline_choice(group) is None


lines = st.builds(
    Curve,
    label=st.text("abc", min_size=1, max_size=3),
    base=st.floats(0.01, 10),
    slope=st.floats(0.01, 10),
    inverse=st.just(False),
    own_x=st.just(1.0),
)


class TestBreakEven:
    @given(st.lists(lines, min_size=2, max_size=5, unique_by=lambda line: line.label), st.booleans())
    def test_curves_meet_where_it_is_said_and_change_places_there(self, group: list[Curve], inverse: bool) -> None:
        group = [curve._replace(inverse=inverse) for curve in group]
        by_label = {curve.label: curve for curve in group}
        for meet in crossings(group):
            below, above = by_label[meet.below], by_label[meet.above]
            assert below.at(meet.x) == pytest.approx(above.at(meet.x), rel=1e-9)
            assert below.at(meet.x) == pytest.approx(meet.gco2e, rel=1e-9)
            assert below.at(meet.x * 0.5) <= above.at(meet.x * 0.5)
            assert above.at(meet.x * 2.0) <= below.at(meet.x * 2.0)
            assert meet.decides == (meet.gco2e <= min(curve.at(meet.x) for curve in group) * (1 + 1e-9))

    def test_the_intensity_of_break_even_is_that_of_the_formula(self) -> None:
        old = Curve("old", 0.001, 4e-6, False, 400.0)
        new = Curve("new", 0.002, 1e-6, False, 400.0)
        (meet,) = crossings([old, new])
        assert meet.x == pytest.approx((0.002 - 0.001) / (4e-6 - 1e-6))
        assert (meet.below, meet.above) == ("old", "new")
        assert crossings([old, old._replace(label="same")]) == []

    def test_curves_pass_through_the_run_itself(self, fleet: list[Run]) -> None:
        for entry in entries(fleet):
            found = curves(entry, HEADLINE)
            known = entry.summary.breakeven
            assert found is not None
            assert known is not None
            assert found.duty is not None
            here = [curve.at(curve.own_x) for curve in found]
            assert here == pytest.approx([here[0]] * 3)
            rate, duty = known.output_tokens_per_s, known.duty_frac
            run_j, off_w = known.run_j_per_output_token, known.off_w
            grid = known.intensity_gco2e_per_kwh
            assert None not in (rate, duty, run_j, off_w, grid)
            embodied = (known.embodied_gco2e_per_reserved_s["act"] or {})["linear-total"]
            joules = run_j + (1 / duty - 1) * off_w / rate  # type: ignore[operator]
            expected = joules / 3.6e6 * grid + embodied / (duty * rate)  # type: ignore[operator]
            assert here[0] == pytest.approx(expected)

    def test_twice_the_life_is_half_the_embodied_carbon(self, m40: Run) -> None:
        found = curves(entries([m40])[0], HEADLINE)
        assert found is not None
        electricity = found.intensity.slope * found.intensity.own_x
        assert found.lifetime.at(2.0) - electricity == pytest.approx((found.lifetime.at(1.0) - electricity) / 2)

    def test_what_is_unknown_has_no_curve(self, empty: Run, m40: Run) -> None:
        assert curves(Entry("empty", empty), HEADLINE) is None
        assert curves(Entry("m40", m40), ("vendor-pcf", "linear-total")) is None

    def test_the_table_lists_every_crossing(self, fleet: list[Run]) -> None:
        group = entries(fleet)
        table = crossing_table(group, HEADLINE)
        found = [made for entry in group if (made := curves(entry, HEADLINE))]
        expected = [meet for meet in crossings([c.intensity for c in found]) if meet.x <= 2000]
        assert sum(row[0] == "grid intensity" for row in table.rows) == len(expected) > 0

    def test_the_same_hardware_at_two_sites_has_one_curve_over_intensity(self) -> None:
        here, there = (Curve(f"m40 · {site}", 0.001, 4e-6, False, own) for site, own in (("fr", 30.0), ("pl", 650.0)))
        other = Curve("h100 · fr", 0.002, 1e-6, False, 30.0)
        assert [curve.label for curve in merged([here, other, there])] == ["m40", "h100 · fr"]
        assert [curve.label for curve in merged([here, there._replace(base=0.0011)])] == ["m40 · fr", "m40 · pl"]


def test_the_ranking_marks_what_differs_from_the_headline(fleet: list[Run]) -> None:
    group = entries(fleet)
    table = ranking_table(group, common_choices(group))
    usual = ranking(group, HEADLINE)
    for row, choice in enumerate(common_choices(group)):
        for place, rank in enumerate(ranking(group, choice)):
            assert ((row, place + 1) in table.marked) == (rank != usual[place])
            assert f"rank {rank}," in table.rows[row][place + 1]


def test_an_entry_is_frozen(m40: Run) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        entries([m40])[0].label = "other"  # type: ignore[misc]

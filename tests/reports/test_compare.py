"""Comparisons: closed forms against brute force, and rules that hold for any set of runs."""

import dataclasses
import itertools
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.reports.breakeven import Curve, crossings, curves, merged
from afterwatt.reports.compare import (
    TIE_FRAC,
    common_choices,
    contenders,
    flips,
    headline_choice,
    least,
    pareto,
    ranking,
    ranks,
    under_both,
    wins,
)
from afterwatt.reports.entry import Choice, Entry, entries, labels
from afterwatt.reports.errors import ReportError
from afterwatt.reports.format import listing
from afterwatt.reports.questions import apart, questions
from afterwatt.reports.rundir import Run, load_run
from afterwatt.reports.versus import (
    METRICS,
    best,
    comparison_table,
    crossing_table,
    flip_texts,
    ranking_table,
    standings,
    verdicts,
)

HEADLINE = Choice("act", "linear-total", "slots")
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
            wins(entries([m40]), Choice("tea", "leaves", ""))

    def test_the_rank_is_the_order_of_the_medians_under_each_way(self, fleet: list[Run]) -> None:
        group = entries(fleet)
        for choice in common_choices(group):
            medians = [float(np.median(entry.carbon_draws(choice))) for entry in group]
            for (a, one), (b, other) in itertools.permutations(zip(ranking(group, choice), medians, strict=True), 2):
                assert (a < b) == (one * (1 + TIE_FRAC) < other) or a == b
            assert min(medians) == medians[ranking(group, choice).index(1)] or ranking(group, choice).count(1) > 1

    def test_flips_are_pairs_that_really_change_places(self, fleet: list[Run]) -> None:
        group = entries(fleet)
        choices = common_choices(group)
        assert len(choices) == 24
        found = flips(group, choices)
        assert found
        by_label = {entry.label: entry for entry in group}
        for flip in found:
            for choice in flip.first_wins:
                first, second = (np.median(by_label[n].carbon_draws(choice)) for n in (flip.first, flip.second))
                assert first < second
            assert not set(flip.first_wins) & set(flip.second_wins)
        assert len(flip_texts(group, choices)) == len(found)


class TestHostShare:
    """How much of a server counts is one of the ways of counting, and is told wherever runs are ranked."""

    def test_both_shares_are_among_the_choices_and_coincide_where_servers_are_full(self, fleet: list[Run]) -> None:
        whole = HEADLINE._replace(host_share="whole")
        for entry, factor in zip(entries(fleet), (1.5, 1.0, 1.5, 4.0), strict=True):
            assert under_both(HEADLINE, common_choices([entry])) == [HEADLINE, whole]
            np.testing.assert_allclose(entry.carbon_draws(whole), factor * entry.carbon_draws(HEADLINE))
            assert entry.fills_its_hosts == (factor == 1.0)

    def test_a_flip_is_said_if_and_only_if_the_orders_differ(self, fleet: list[Run]) -> None:
        for group in (list(pair) for n in (2, 3, 4) for pair in itertools.combinations(entries(fleet), n)):
            ways = under_both(HEADLINE, common_choices(group))
            differ = len({tuple(ranking(group, way)) for way in ways}) > 1
            first, _, order = standings(group)
            assert ("changes with the host share" in order) == differ
            for way, words in zip(ways, ("by the slots in use", "with whole servers"), strict=True):
                winners = sorted(entry.label for entry in least(group, way))
                assert f"{listing(winners)} (" in first
                assert words in first

    def test_the_order_of_the_runs_on_the_command_line_changes_nothing(self, fleet: list[Run], swamped: Run) -> None:
        usual = entries([*fleet[1:], swamped])
        choices = common_choices(usual)
        for runs in itertools.permutations([*fleet[1:], swamped]):
            told = entries(runs)
            assert standings(told) == standings(usual)
            assert flip_texts(told, choices) == flip_texts(usual, choices)
            assert [card.big for card in verdicts(told)] == [card.big for card in verdicts(usual)]

    def test_runs_are_shown_under_one_way_of_counting(self, tmp_path: Path, synthetic: ModuleType, m40: Run) -> None:
        """A run whose headline counts whole servers stands beside one that counts slots, both by slots."""
        toy = synthetic.Toy(seed=9, hardware="p40")
        swapped = synthetic.write_run(tmp_path / "p40", toy)
        summary = json.loads((swapped.path / "summary.json").read_text())
        summary["carbon_gco2e"]["embodied_method"] = "card-lca"
        (swapped.path / "summary.json").write_text(json.dumps(summary))
        (swapped.path / "SHA256SUMS").unlink()  # what is edited on purpose is read as it is
        (part,) = questions(entries([m40, m40, load_run(swapped.path)]))
        assert {entry.counted for entry in part.entries} == {HEADLINE}
        last = part.entries[-1]
        expected = float(np.median(last.carbon_draws(HEADLINE)))
        assert last.band("per_output_token_gco2e").p50 == pytest.approx(expected)
        whole = last.band("per_output_token_gco2e", "whole").p50
        assert whole == pytest.approx(1.5 * expected)

    @given(st.lists(st.floats(1.0, 10.0), min_size=1, max_size=6))
    def test_what_differs_by_less_than_a_hundredth_shares_a_rank(self, values: list[float]) -> None:
        found = ranks(values)
        assert min(found) == 1
        for (a, one), (b, other) in itertools.permutations(zip(found, values, strict=True), 2):
            assert a <= b or one > other
            if one * (1 + TIE_FRAC) < other:
                assert a < b


class TestQuestions:
    def test_runs_are_parted_by_what_they_were_asked(self, fleet: list[Run], overloaded: Run) -> None:
        parts = questions(entries([*fleet[:2], overloaded, *fleet[2:]]))
        assert [len(part.entries) for part in parts] == [4, 1]
        assert "load within" in parts[0].said
        assert "load within 41 min 27 s" in apart(parts)
        assert "(m40 · Q2)" in apart(parts)
        assert apart(parts[:1]) == ""

    @pytest.mark.parametrize(
        ("asked", "says"),
        [
            ({"model": "llama-2-13b"}, "model llama-2-13b"),
            ({"slo": None}, "service level none"),
            ({"rate_per_s": 0.3}, "load within"),
            ({"requests": 1999}, "requests 1,999 of chat.parquet"),
        ],
    )
    def test_each_part_of_a_question_tells_runs_apart(
        self, asked: dict[str, object], says: str, tmp_path: Path, synthetic: ModuleType, m40: Run
    ) -> None:
        other = synthetic.write_run(tmp_path / "other", dataclasses.replace(synthetic.M40, **asked))
        parts = questions(entries([m40, other]))
        assert len(parts) == 2
        assert says in parts[1].said

    def test_hardware_site_and_policy_are_answers(self, tmp_path: Path, synthetic: ModuleType, m40: Run) -> None:
        toy = dataclasses.replace(synthetic.M40, hardware="p40", site="pl", policy="chunked", seed=3)
        assert len(questions(entries([m40, synthetic.write_run(tmp_path / "other", toy)]))) == 1


class TestRules:
    def test_the_best_is_sought_among_those_that_carry_the_load(self, fleet: list[Run], swamped: Run) -> None:
        group = entries([*fleet, swamped])
        among, rule = contenders(group)
        assert [entry.label for entry in among] == [entry.label for entry in group[:-1]]
        assert "gtx1080 (overloaded, 125 % of its capacity) does not" in rule
        carbon = next(metric for metric in METRICS if metric.name == "carbon per token")
        values = [carbon.read(entry) for entry in group]
        assert min(v for v in values if v is not None) == values[-1]  # the overloaded run is lowest, yet not best
        assert best(group, carbon, among) == {0}
        table = comparison_table(group)
        assert all(row != len(group) - 1 for row, _ in table.marked)
        assert "overloaded" in table.rows[-1][0]
        assert [card.big for card in verdicts(group)] == ["h100-sxm", "a100-80", group[0].label]
        assert all("gtx1080" not in line for line in standings(group))

    def test_nobody_is_best_where_nobody_keeps_up(self, overloaded: Run) -> None:
        group = entries([overloaded, overloaded])
        among, rule = contenders(group)
        assert among == []
        assert rule.startswith("No run is called best, as none does carry the load")
        assert standings(group) == verdicts(group) == []
        assert comparison_table(group).marked == frozenset()

    def test_without_an_slo_those_compete_that_carry_the_load(self, tmp_path: Path, synthetic: ModuleType) -> None:
        made = [
            synthetic.write_run(tmp_path / f"{rate}", synthetic.Toy(requests=60, slo=None, rate_per_s=rate, seed=place))
            for place, rate in enumerate((0.1, 0.2, 0.9))
        ]
        among, rule = contenders(entries(made))
        assert [entry.run.name for entry in among] == ["0.1", "0.2"]
        assert rule.startswith("Runs compete that carry the load; ")

    def test_a_run_that_turns_most_away_carries_no_load(self, tmp_path: Path, synthetic: ModuleType) -> None:
        run = synthetic.write_run(tmp_path / "run", synthetic.Toy(requests=60, slo=None, unfinished_last=30))
        assert entries([run])[0].fault == "finishes 50 % of what could be served"

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
    fault=st.just(""),
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
        assert curves(Entry("m40", m40), HEADLINE._replace(method="vendor-pcf")) is None

    def test_the_table_lists_every_crossing(self, fleet: list[Run]) -> None:
        group = entries(fleet)
        table = crossing_table(group, [HEADLINE])
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

"""The hierarchical fit on physics simple enough to know the answer: time = work / (share * peak) + overhead."""

import itertools
import math

import numpy as np
import pytest

from afterwatt.fidelity.fit.core import (
    BETWEEN_VERSIONS,
    LEVELS,
    Belief,
    Levels,
    PointReading,
    StackPlace,
    fit_readings,
)

PRIOR = {"share": Belief(math.log(0.5), 0.4, 0.01, 1.0), "overhead_s": Belief(math.log(1e-3), 0.8, 1e-7, 0.5)}
WORKS = (1e8, 1e9, 4e9, 2e10)
PEAK = 1e12
CARDS = [
    StackPlace("soft", "gddr", "old", "1"),
    StackPlace("soft", "gddr", "old", "2"),
    StackPlace("soft", "hbm", "new", "3"),
]


def prior(_: StackPlace) -> dict[str, Belief]:
    return PRIOR


def seconds(work, values):
    return work / (values["share"] * PEAK) + values["overhead_s"]


def readings_of(place, values, works=WORKS, error=lambda: 0.0, source="s", noise=1.0):
    return [
        PointReading(
            place,
            ("overhead_s", "share"),
            math.log(seconds(work, values)) + error(),
            lambda given, w=work: math.log(seconds(w, given)),
            noise,
            source,
        )
        for work in works
    ]


def test_no_points_give_the_prior():
    fit = fit_readings([], prior)
    known = fit.at(CARDS[0])
    assert known.log_value == {name: belief.log_value for name, belief in PRIOR.items()}
    assert known.log_sd == {name: belief.log_sd for name, belief in PRIOR.items()}


def test_precise_points_recover_the_parameters():
    truth = {"share": 0.73, "overhead_s": 4e-3}
    exact = LEVELS._replace(source=1e-10, noise=1e-8)
    fit = fit_readings(readings_of(CARDS[0], truth), prior, exact, learn=False)
    assert fit.at(CARDS[0]).values() == pytest.approx(truth, rel=2e-3)
    assert np.abs(fit.residuals).max() < 1e-3


def test_without_levels_in_common_other_places_do_not_move():
    truth = {"share": 0.9, "overhead_s": 1e-2}
    alone = Levels(1e-12, 1e-12, 1e-12, 1.0, 1e-6, 1e-6)
    fit = fit_readings(readings_of(CARDS[0], truth), prior, alone, learn=False)
    for other in CARDS[1:]:
        known = fit.at(other)
        assert known.log_value["share"] == pytest.approx(PRIOR["share"].log_value, abs=1e-9)
        assert known.log_sd["share"] == pytest.approx(PRIOR["share"].log_sd, rel=1e-6)


def test_relatives_move_by_what_they_have_in_common():
    """Linear Gaussian theory: a place that is known exactly moves others by the share of variance in common."""
    truth = {"share": 0.6, "overhead_s": 2e-3}
    exact = Levels(0.5, 0.15, 0.1, 0.25, 1e-12, 1e-10)
    fit = fit_readings(readings_of(CARDS[0], truth), prior, exact, learn=False)
    for name, belief in PRIOR.items():
        moved = math.log(truth[name]) - belief.log_value
        assert fit.at(CARDS[1]).log_value[name] - belief.log_value == pytest.approx(0.75 * moved, rel=0.02)
        assert fit.at(CARDS[2]).log_value[name] - belief.log_value == pytest.approx(0.5 * moved, rel=0.02)
        assert fit.at(CARDS[1]).log_sd[name] == pytest.approx(belief.log_sd * math.sqrt(1 - 0.75**2), rel=0.02)
        assert fit.at(CARDS[2]).log_sd[name] == pytest.approx(belief.log_sd * math.sqrt(1 - 0.5**2), rel=0.02)


def test_versions_of_a_software_move_one_another_by_their_correlation():
    """Known exactly, a version moves the same card under another one by the correlation, and others by part of that."""
    truth = {"share": 0.6, "overhead_s": 2e-3}
    exact = Levels(0.5, 0.15, 0.1, 0.25, 1e-12, 1e-10)
    older = CARDS[0]._replace(stack="soft@2023")
    fit = fit_readings(readings_of(older, truth), prior, exact, learn=False)
    for name, belief in PRIOR.items():
        moved = math.log(truth[name]) - belief.log_value
        for place, common in ((CARDS[0], 1.0), (CARDS[1], 0.75)):
            found = fit.at(place).log_value[name] - belief.log_value
            assert found == pytest.approx(BETWEEN_VERSIONS * common * moved, rel=0.02)


def test_where_a_search_begins_does_not_matter():
    points = scattered()
    whole = fit_readings(points, prior)
    fresh = fit_readings(points[:-4], prior)
    warm = fit_readings(points[:-4], prior, near=whole)
    for place in CARDS:
        assert warm.at(place).log_value == pytest.approx(fresh.at(place).log_value, abs=0.01)


def test_the_mode_is_no_worse_than_any_point_around_it():
    """The posterior written out: Student's residuals about the sources' effects, and normal effects of places."""
    points = scattered()[:12]
    fit = fit_readings(points, prior, learn=False)
    names, sds = tuple(PRIOR), np.array([belief.log_sd for belief in PRIOR.values()])

    def loss(logs, common):
        values = {name: math.exp(log) for name, log in zip(names, logs, strict=True)}
        missed = np.array([point.log_measured - point.log_predicted(values) - common for point in points])
        shifts = (np.array(logs) - [belief.log_value for belief in PRIOR.values()]) / sds
        students = 2.5 * np.log1p(missed**2 / LEVELS.noise / 4.0).sum()
        return students + 0.5 * (shifts @ shifts) + 0.5 * common**2 / LEVELS.source

    mode = [fit.at(CARDS[0]).log_value[name] for name in names]
    commons = np.linspace(-0.1, 0.1, 401)
    best = min(loss(mode, common) for common in commons)
    for step in itertools.product((-0.05, 0.0, 0.05), repeat=2):
        moved = [log + part for log, part in zip(mode, step, strict=True)]
        assert min(loss(moved, common) for common in commons) >= best - 1e-2


def test_a_stack_does_not_move_another():
    fit = fit_readings(readings_of(CARDS[0], {"share": 0.9, "overhead_s": 1e-2}), prior)
    assert fit.at(StackPlace("other", "gddr", "old", "1")).values() == pytest.approx(
        {name: math.exp(belief.log_value) for name, belief in PRIOR.items()}
    )


def scattered(seed=0, sd=0.1):
    draw = np.random.default_rng(seed)
    found = []
    for number, place in enumerate(CARDS):
        truth = {"share": 0.4 + 0.15 * number, "overhead_s": 1e-3 * (number + 1)}
        found += readings_of(place, truth, WORKS * 3, lambda: sd * draw.standard_normal())
    return found


def test_the_order_of_the_points_does_not_matter():
    points = scattered()
    whole = fit_readings(points, prior)
    shuffled = [points[at] for at in np.random.default_rng(1).permutation(len(points))]
    again = fit_readings(shuffled, prior)
    for place in CARDS:
        assert again.at(place).log_value == pytest.approx(whole.at(place).log_value, abs=1e-9)
    by_point = dict(zip(map(id, shuffled), again.residuals, strict=True))
    assert [by_point[id(point)] for point in points] == pytest.approx(whole.residuals, abs=1e-9)


def test_an_outlier_loses_its_weight():
    points = readings_of(CARDS[0], {"share": 0.5, "overhead_s": 1e-3}, WORKS * 4)
    clean = fit_readings(points, prior).at(CARDS[0]).log_value["share"]
    wrong = points[3]._replace(log_measured=points[3].log_measured + math.log(8.0))
    fit = fit_readings([*points[:3], wrong, *points[4:]], prior)
    assert fit.at(CARDS[0]).log_value["share"] == pytest.approx(clean, abs=0.02)
    assert fit.weights[3] < 0.05 < 0.9 < np.delete(fit.weights, 3).min()


def test_points_of_unsure_conditions_count_less():
    low = readings_of(CARDS[0], {"share": 0.4, "overhead_s": 1e-3}, WORKS * 2, source="a")
    high = readings_of(CARDS[0], {"share": 0.6, "overhead_s": 1e-3}, WORKS * 2, source="b")
    unsure = [reading._replace(noise=4.0) for reading in high]
    equal = fit_readings(low + high, prior, learn=False).at(CARDS[0]).log_value["share"]
    leaning = fit_readings(low + unsure, prior, learn=False).at(CARDS[0]).log_value["share"]
    assert leaning < equal


def test_values_stay_within_their_bounds():
    points = readings_of(CARDS[0], {"share": 1.6, "overhead_s": 1e-6}, WORKS * 3)
    known = fit_readings(points, prior).at(CARDS[0])
    assert known.values()["share"] <= 1.0


def test_more_points_narrow_what_is_known():
    widths = []
    for count in (1, 2, 4, 8):
        points = readings_of(CARDS[0], {"share": 0.5, "overhead_s": 1e-3}, WORKS * count)
        widths.append(fit_readings(points, prior, learn=False).at(CARDS[0]).log_sd["share"])
    assert all(narrow < wide for wide, narrow in itertools.pairwise(widths))


def test_posterior_intervals_cover_the_truth():
    """Drawn from the very hierarchy that is fitted, nine in ten true parameters lie within the 90 % intervals."""
    inside = total = 0
    levels = Levels(0.5, 0.0, 0.25, 0.25, 0.05**2, 0.08**2)
    for seed in range(60):
        draw = np.random.default_rng(seed)
        stack = {name: draw.standard_normal() * math.sqrt(levels.stack) for name in PRIOR}
        kin = {
            (arch, name): draw.standard_normal() * math.sqrt(levels.architecture)
            for arch in ("old", "new")
            for name in PRIOR
        }
        points, truths = [], []
        for place in CARDS:
            truth = {}
            for name, belief in PRIOR.items():
                own = draw.standard_normal() * math.sqrt(levels.device)
                effect = stack[name] + kin[place.architecture, name] + own
                truth[name] = math.exp(belief.log_value + 0.5 * belief.log_sd * effect)  # half: far from the bounds
            truths.append(truth)
            common = draw.standard_normal() * 0.05
            points += readings_of(place, truth, WORKS, lambda c=common, d=draw: c + 0.08 * d.standard_normal())
        halved = {name: belief._replace(log_sd=0.5 * belief.log_sd) for name, belief in PRIOR.items()}
        fit = fit_readings(points, lambda _, known=halved: known, levels, learn=False)
        for place, truth in zip(CARDS, truths, strict=True):
            known = fit.at(place)
            for name, value in truth.items():
                inside += abs(math.log(value) - known.log_value[name]) <= 1.645 * known.log_sd[name]
                total += 1
    assert 0.84 <= inside / total <= 0.97

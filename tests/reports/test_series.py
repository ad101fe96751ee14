"""Merging a timeline into a few hundred points loses nothing."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from afterwatt.reports.columns import COMPONENTS
from afterwatt.reports.rundir import Run
from afterwatt.reports.series import MOST_POINTS, RunSeries


def test_sums_over_points_are_sums_over_rows(fleet: list[Run]) -> None:
    for run in fleet:
        series, frame = RunSeries(run), run.timeline
        assert len(series) <= MOST_POINTS
        assert series.replicas == frame["replica"].nunique()
        assert series.length_s.sum() * series.replicas == pytest.approx(frame["interval_s"].sum())
        for column in ("energy_j", "prefill_s", "output_tokens", *(f"energy_{name}_j" for name in COMPONENTS)):
            assert series.total(column).sum() == pytest.approx(frame[column].sum(), rel=1e-12)
        assert np.dot(series.rate("energy_j"), series.length_s) == pytest.approx(frame["energy_j"].sum(), rel=1e-12)


def test_levels_are_time_weighted_and_added_over_replicas(fleet: list[Run]) -> None:
    run = fleet[1]
    series, frame = RunSeries(run), run.timeline
    area = (frame["batch_mean"] * frame["interval_s"]).sum()
    assert np.dot(series.level("batch_mean"), series.length_s) == pytest.approx(area, rel=1e-12)
    low, high = series.range_over_replicas("kv_used_frac")
    mean = series.level("kv_used_frac") / series.replicas
    assert series.replicas == 4
    assert (low <= mean + 1e-12).all()
    assert (mean <= high + 1e-12).all()


def test_edges_cover_the_run_without_gaps(m40: Run) -> None:
    series = RunSeries(m40)
    assert series.edges_s[0] == 0.0
    assert series.edges_s[-1] == pytest.approx(m40.summary.duration_s)
    assert np.diff(series.edges_s) == pytest.approx(series.length_s)
    assert series.rule() == f"each point is the exact mean over {series.merged} intervals of 10 s"


def test_a_short_run_keeps_every_interval(tmp_path: Path, synthetic: ModuleType) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.Toy(requests=60))
    series = RunSeries(run)
    assert series.merged == 1
    assert len(series) == run.timeline["start_s"].nunique()
    assert series.rule() == "one point per interval of 10 s"


def test_energy_that_is_unknown_is_not_zero(empty: Run, m40: Run) -> None:
    assert RunSeries(m40).has_energy
    assert not RunSeries(empty).has_energy

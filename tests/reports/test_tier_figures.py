"""Figures of runs whose weights lie in several tiers: bytes per token as counted, shares of time; else none."""

from pathlib import Path

import numpy as np
import pytest

from afterwatt.reports.figures.tiers import PATHS, WORKS, tiers
from afterwatt.reports.rundir import Run, load_run
from afterwatt.reports.series import RunSeries
from tests.cli.running import elsewhere


def run_of(out: Path, policy: str) -> Run:
    words = ["--hw", "p40", "--model", "qwen3-30b-a3b", "--precision", "q4_k_m", "--no-bounds", "--no-report"]
    batch = ["--batch", "2", "--prompt", "64", "--output", "100", "--policy", policy, "--out", str(out)]
    done = elsewhere(out.parent, "simulate", *words, *batch)
    assert done.code == 0, done.err
    return load_run(out)


@pytest.mark.parametrize(
    ("policy", "slowest"),
    [("experts=cpu", "CPU"), ("stream", "link to the GPU"), ("expert-cache+room=20+cold=cpu", None), ("chunked", None)],
)
def test_figures_say_what_the_time_series_holds(tmp_path: Path, policy: str, slowest: str | None) -> None:
    run = run_of(tmp_path / "run", policy)
    figures = tiers(RunSeries(run))
    if policy == "chunked":
        assert figures == []
        return
    bars, lines = figures
    shown = dict(zip(bars.plot.data[0].y, bars.plot.data[0].x, strict=True))
    counted = {name: run.column("timeline", column).sum() / 200 for column, (name, _) in PATHS.items()}
    scale = max(counted.values()) / max(shown.values())
    assert {name: pytest.approx(size * scale) for name, size in shown.items()} == {
        name: size for name, size in counted.items() if size
    }
    assert scale == pytest.approx(10.0 ** round(float(np.log10(scale))))
    names = {trace.name for trace in lines.plot.data}
    assert names == {name for column, (name, _) in WORKS.items() if run.column("timeline", column).any()}
    if slowest:
        assert lines.caption.startswith(f"Mostly waited for: {slowest}.")

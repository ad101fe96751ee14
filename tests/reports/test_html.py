"""The page is one file that needs nothing from outside, says what it shows, and comes out the same every time."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from afterwatt.reports.entry import entries
from afterwatt.reports.errors import ReportError
from afterwatt.reports.figures import style
from afterwatt.reports.html import render, write_report
from afterwatt.reports.rundir import Run

SINGLE = {
    "fig-ttft", "fig-tpot", "fig-itl", "fig-e2e", "fig-throughput", "fig-requests", "fig-queue", "fig-kv", "fig-states",
    "fig-power", "fig-energy-component", "fig-energy-state", "fig-carbon", "fig-choices", "fig-cost",
}  # fmt: skip
COMPARED = {
    "fig-pareto-ttft", "fig-pareto-e2e", "fig-ttft", "fig-tpot", "fig-itl", "fig-e2e", "fig-energy-per-token",
    "fig-carbon-per-token", "fig-carbon-per-token-whole", "fig-wins", "fig-breakeven-intensity",
    "fig-breakeven-intensity-whole", "fig-breakeven-lifetime", "fig-breakeven-duty", "fig-cost", "fig-cost-whole",
    "fig-pareto-ttft-whole", "fig-pareto-e2e-whole",
}  # fmt: skip


class Reader(HTMLParser):
    """Collect what a page consists of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.figures: dict[str, dict[str, Any]] = {}
        self.links: list[str] = []
        self.labels: dict[str, str] = {}
        self.text: list[str] = []
        self.scripts = 0
        self._inside: str | None = None
        self._figure: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._inside = tag
        self._figure = values.get("data-for") if tag == "script" else None
        self.scripts += tag == "script" and self._figure is None
        self.links += [str(values[name]) for name in ("src", "href") if values.get(name)]
        if values.get("role") == "img":
            self.labels[str(values["id"])] = str(values["aria-label"])

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._figure = None

    def handle_data(self, data: str) -> None:
        if self._figure:
            self.figures[self._figure] = json.loads(data)
        elif self._inside not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def single(m40: Run) -> Reader:
    return Reader(render([m40]))


@pytest.fixture(scope="module")
def compared(fleet: list[Run]) -> Reader:
    return Reader(render(fleet))


def axes(layout: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (value for name, value in layout.items() if re.fullmatch(r"[xy]axis\d*", name))


def test_a_run_has_all_its_figures(single: Reader) -> None:
    assert set(single.figures) == set(single.labels) == SINGLE


def test_a_comparison_has_all_its_figures(compared: Reader) -> None:
    assert set(compared.figures) == set(compared.labels) == COMPARED


@pytest.mark.parametrize("key", ["fig-pareto-ttft", "fig-pareto-e2e", "fig-carbon-per-token", "fig-cost"])
def test_what_depends_on_the_share_of_a_server_is_drawn_under_both(compared: Reader, key: str) -> None:
    slots, whole = (compared.figures[f"{key}{end}"]["data"] for end in ("", "-whole"))
    told = [compared.labels[f"{key}{end}"] for end in ("", "-whole")]
    assert told[0] != told[1]
    assert len(slots) == len(whole)
    assert slots != whole


def test_joules_per_token_are_told_under_both_host_shares(compared: Reader, fleet: list[Run]) -> None:
    notes = [note["text"] for note in compared.figures["fig-energy-per-token"]["layout"]["annotations"]]
    assert any(note.endswith(" whole)") for note in notes)
    for entry, note in zip(entries(fleet), notes, strict=True):
        assert note.endswith(" whole)") == (not entry.fills_its_hosts), note
        own, *other = (float(word) for word in re.findall(r"[\d.]+", note))
        if other:
            summary = entry.summary
            assert other[0] / own == pytest.approx(summary.other_host_share.energy_j / summary.energy_j.total, rel=0.01)


def test_no_figure_is_empty_and_every_axis_says_what_it_measures(single: Reader, compared: Reader) -> None:
    for reader in (single, compared):
        for key, spec in reader.figures.items():
            assert spec["data"], key
            assert any(_points(trace) for trace in spec["data"]), key
            titles = [axis.get("title", {}).get("text", "") for axis in axes(spec["layout"])]
            assert len(titles) >= 2, key
            named = [title for title in titles if title]
            # a unit in brackets, a unit at every tick, or a bar chart whose rows name themselves
            assert named, key
            for title in named:
                assert re.search(r"\(.+\)|per second|sequences", title), (key, title)
            if len(named) == 1:
                assert all(
                    t.get("orientation") == "h" or key == "fig-choices" for t in spec["data"] if "error_x" not in t
                )
            assert reader.labels[key]


def _points(trace: dict[str, Any]) -> int:
    x = trace["x"]
    return len(x["bdata"]) if isinstance(x, dict) else len(x)


def test_every_colour_has_a_dark_twin_or_serves_in_both(single: Reader, compared: Reader) -> None:
    both = {"#88ccee", "#44aa99", "#ddcc77"}
    for reader in (single, compared):
        for colour in set(re.findall(r"#[0-9a-f]{6}", json.dumps(reader.figures))):
            assert colour in style.DARK_TWINS or colour in both, colour
    assert len(set(style.DARK_TWINS.values())) == len(style.DARK_TWINS)


def test_the_page_asks_nothing_of_the_network(m40: Run, fleet: list[Run]) -> None:
    for page in (render([m40]), render(fleet)):
        reader = Reader(page)
        assert all(link.startswith(("#", "data:")) for link in reader.links)
        assert "default-src 'none'" in page
        assert page.count("plotly.js v") == 1
        assert reader.scripts == 2
        assert len(page) < 6_500_000


def test_the_same_run_gives_the_same_page(m40: Run, fleet: list[Run]) -> None:
    assert render([m40]) == render([Run(m40.path)])
    assert render(fleet) == render(fleet)


def test_the_page_says_what_the_summary_says(single: Reader, m40: Run) -> None:
    words = single.words
    for text in (
        "What users feel", "What the hardware does", "What the planet pays", "90.5 %", "46.4", "49 requests rejected",
        "longer than the model's context", "What is modelled", "NVIDIA Tesla M40 board specification", "assumed",
        "1,951 of 2,000", "SHA-256", "precision fp16",
    ):  # fmt: skip
        assert text in words, text
    assert f"{m40.summary.sci.per_request_gco2e.p50 * 1e3:.0f} mgCO₂e" in words  # type: ignore[operator]


def test_overload_is_told_before_all_else(overloaded: Run) -> None:
    words = Reader(render([overloaded])).words
    assert "Overloaded. The trace offers 258 % of what this hardware can serve (0.310 requests per second)" in words
    assert "3 such devices would carry it" in words
    assert "60 requests unfinished" in words
    assert words.index("Overloaded.") < words.index("What users feel Time")


def test_a_comparison_says_who_wins_and_by_which_rule(compared: Reader) -> None:
    words = compared.words
    rule = "Runs compete that carry the load and serve at least 90 % of their servable requests within the SLO"
    assert f"{rule}: all of them." in words
    for way in ("by slots", "whole servers"):
        assert re.search(f"Under act × linear-total × {way}, [^.]+ is lowest in [^.]+ % of 512 draws", words)
    assert "Break-even points" in words
    assert "Ranking under every way of counting" in words


def test_an_overloaded_run_is_compared_but_not_trusted(fleet: list[Run], swamped: Run) -> None:
    reader = Reader(render([*fleet, swamped]))
    assert "gtx1080 is overloaded: its carbon per token is that of hardware which never rests." in reader.words
    shares = {trace["name"] for trace in reader.figures["fig-wins"]["data"]}
    lines = {trace.get("name") for trace in reader.figures["fig-breakeven-duty"]["data"]}
    assert "gtx1080" not in shares
    assert "gtx1080" in lines
    for key in ("intensity", "intensity-whole", "lifetime", "duty"):
        assert "gtx1080" not in reader.labels[f"fig-breakeven-{key}"]


def test_runs_that_were_asked_something_else_have_a_part_of_their_own(fleet: list[Run], overloaded: Run) -> None:
    reader = Reader(render([*fleet, overloaded]))
    assert "Runs that were not asked the same are not ranked together" in reader.words
    shares = {trace["name"] for trace in reader.figures["fig-wins"]["data"]}
    assert shares == {"m40 · Q1", "4xm40 · Q1", "a100-80 · Q1", "h100-sxm · Q1"}
    assert {"fig-wins-2", "fig-pareto-ttft-2"}.isdisjoint(reader.figures)
    assert "fig-ttft-2" in reader.figures


def test_a_run_that_served_nothing_still_has_an_honest_page(empty: Run, m40: Run) -> None:
    reader = Reader(render([empty]))
    assert "Nothing finished." in reader.words
    assert "No request was finished." in reader.words
    assert {"fig-ttft", "fig-power", "fig-carbon", "fig-choices", "fig-cost"}.isdisjoint(reader.figures)
    assert all(any(_points(trace) for trace in spec["data"]) for spec in reader.figures.values())
    both = Reader(render([m40, empty]))
    assert {"fig-wins", "fig-pareto-ttft"}.isdisjoint(both.figures)
    assert "fig-ttft" in both.figures


def test_an_hourly_grid_is_drawn_beside_the_emissions(tmp_path: Path, synthetic: ModuleType) -> None:
    run = synthetic.write_run(tmp_path / "run", synthetic.Toy(hourly=True))
    spec = Reader(render([run])).figures["fig-grid"]
    assert [trace["name"] for trace in spec["data"]] == ["emissions", "grid"]
    assert spec["layout"]["yaxis2"]["title"]["text"] == "grid (gCO₂e/kWh)"


def test_curves_pass_through_the_quantiles(single: Reader, m40: Run) -> None:
    import base64

    trace = single.figures["fig-e2e"]["data"][0]
    x, y = (np.frombuffer(base64.b64decode(trace[axis]["bdata"]), dtype=np.float32) for axis in "xy")
    for level in (50, 90, 99):
        found = x[np.flatnonzero(np.isclose(y, level))[0]]
        assert found == pytest.approx(getattr(m40.summary.e2e_s, f"p{level}"), rel=1e-6)
    assert len(x) == 208


def test_the_crossings_drawn_are_those_computed(compared: Reader, fleet: list[Run]) -> None:
    from afterwatt.reports.breakeven import crossings, curves
    from afterwatt.reports.entry import Choice, entries

    found = [curves(entry, Choice("act", "linear-total", "slots")) for entry in entries(fleet)]
    expected = [meet.x for meet in crossings([f.intensity for f in found if f]) if meet.x <= 1000]
    marks = compared.figures["fig-breakeven-intensity"]["data"][-1]
    assert marks["x"] == pytest.approx(expected)
    texts = [note["text"] for note in compared.figures["fig-breakeven-intensity"]["layout"]["annotations"]]
    assert texts == [f"{x:.0f} g/kWh" for x in expected]


def test_names_cannot_break_out_of_the_page(tmp_path: Path, synthetic: ModuleType) -> None:
    name = "</script><img src=x onerror=alert(1)>"
    run = synthetic.write_run(tmp_path / "run", synthetic.Toy(requests=60, hardware=name, capacity_per_s=9.0))
    page = render([run])
    assert name not in page
    assert "&lt;/script&gt;" in page
    assert not Reader(page).words.startswith(name)


def test_runs_are_linked_only_from_the_folder_above_them(fleet: list[Run], tmp_path: Path) -> None:
    page = fleet[0].path / "report.html"
    page.write_text("x")
    try:
        above = Reader(render(fleet, fleet[0].path.parent))
        elsewhere = Reader(render(fleet, tmp_path / "elsewhere"))
    finally:
        page.unlink()
    assert "m40/report.html" in above.links
    assert "m40/report.html" not in elsewhere.links


def test_a_report_is_written_whole(m40: Run, tmp_path: Path) -> None:
    path = write_report([m40], tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == render([m40])
    assert [child.name for child in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot write"):
        write_report([m40], tmp_path / "file" / "report.html")
    with pytest.raises(ReportError, match="nothing to report"):
        render([])


def test_many_runs_stay_apart(m40: Run, tmp_path: Path, synthetic: ModuleType) -> None:
    alike = Reader(render([m40] * 3)).figures["fig-e2e"]["data"]
    assert [trace["name"] for trace in alike] == ["m40"]  # equal distributions are one line
    made = [synthetic.write_run(tmp_path / f"{i}", synthetic.Toy(requests=40, seed=i)) for i in range(12)]
    reader = Reader(render(made))
    looks = [(t["line"]["color"], t["line"].get("dash")) for t in reader.figures["fig-e2e"]["data"]]
    assert len(set(looks)) == 12

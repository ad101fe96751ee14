"""The page as a browser sees it: every chart drawn, no error, nothing fetched, nothing wider than the screen."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from afterwatt.reports.html import write_report
from afterwatt.reports.rundir import Run


def load_devtools() -> ModuleType:
    spec = importlib.util.spec_from_file_location("devtools", Path(__file__).with_name("devtools.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["devtools"] = module
    spec.loader.exec_module(module)
    return module


devtools = load_devtools()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        devtools.find_chromium() is None, reason="no Chromium on this machine: apt-get install chromium"
    ),
]

DRAWN = """
JSON.stringify([...document.querySelectorAll('.plot')].map(place => {
  const svg = place.querySelector('svg.main-svg');
  const shapes = [...place.querySelectorAll('.trace path, .trace rect, .point path, .points path')];
  const boxes = shapes.map(shape => shape.getBoundingClientRect());
  const clips = [...place.querySelectorAll('.xtick text, .ytick text, .xtitle, .ytitle, .annotation-text, .bartext')];
  const frame = place.getBoundingClientRect();
  return {
    id: place.id,
    traces: (place.data || []).length,
    visible: boxes.filter(box => box.width + box.height > 1).length,
    width: svg ? svg.getBoundingClientRect().width : 0,
    room: frame.width,
    titles: [...place.querySelectorAll('.xtitle, .ytitle, .y2title')].map(text => text.textContent),
    ticks: place.querySelectorAll('.xtick').length,
    cut: clips.filter(text => {
      const box = text.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1
        || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
    }).map(text => text.textContent),
  };
}))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with devtools.Page(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(scope="module")
def pages(fleet: list[Run], overloaded: Run, empty: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    return {
        "one": write_report(fleet[:1], folder / "one.html"),
        "replicas": write_report(fleet[1:2], folder / "replicas.html"),
        "overloaded": write_report([overloaded], folder / "overloaded.html"),
        "several": write_report([*fleet, overloaded], folder / "several.html"),
        "empty": write_report([empty], folder / "empty.html"),
    }


EXPECTED = {"one": 15, "replicas": 15, "overloaded": 15, "several": 15 + 16, "empty": 5}


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("name", list(EXPECTED))
def test_every_chart_is_drawn_within_the_screen_and_without_error(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.open(pages[name], width, mobile=width < 500)
    assert browser.errors == []
    assert browser.requests == [pages[name].as_uri()]
    charts = json.loads(browser.evaluate(DRAWN))
    assert len(charts) == EXPECTED[name]
    for chart in charts:
        assert chart["traces"] > 0, chart
        assert chart["visible"] > 0, chart
        assert 0 < chart["width"] <= chart["room"] + 1, chart
        assert chart["titles"], chart
        assert chart["ticks"] > 0, chart
        assert chart["cut"] == [], chart

    assert browser.evaluate("document.documentElement.scrollWidth") == width
    spilled = browser.evaluate(
        "JSON.stringify([...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, .plot, .hidden') && "
        f"e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80)))"
    )
    assert json.loads(spilled) == []
    bulging = browser.evaluate(
        "JSON.stringify([...document.querySelectorAll('.card')].filter(e => e.scrollWidth > e.clientWidth + 1 || "
        "[...e.querySelectorAll('td, dd')].some(cell => cell.getBoundingClientRect().right > "
        "e.getBoundingClientRect().right - 12)).map(e => e.innerText.slice(0, 60)))"
    )
    assert json.loads(bulging) == []


def test_dark_mode_swaps_every_colour_and_back(browser: Any, pages: dict[str, Path]) -> None:
    line = "getComputedStyle(document.querySelector('#fig-ttft .trace path.js-line')).stroke"
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(pages["one"], 1400, scheme="light")
    light = browser.evaluate(line), browser.evaluate(ground)
    browser.open(pages["one"], 1400, scheme="dark")
    assert browser.errors == []
    dark = browser.evaluate(line), browser.evaluate(ground)
    assert light == ("rgb(0, 105, 168)", "rgb(247, 245, 240)")
    assert dark == ("rgb(90, 180, 240)", "rgb(17, 22, 26)")


def test_the_legend_hides_and_shows_a_line(browser: Any, pages: dict[str, Path]) -> None:
    browser.open(pages["several"], 1400)
    lines = "document.querySelectorAll('#fig-e2e .trace.scatter').length"
    button = "document.querySelector('button[data-plot=\"fig-e2e\"]')"
    before = browser.evaluate(lines)
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(lines) == before - 1
    assert browser.evaluate(f"{button}.getAttribute('aria-pressed')") == "false"
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(lines) == before
    assert browser.errors == []


def test_text_stands_out_from_its_ground(browser: Any, pages: dict[str, Path]) -> None:
    """WCAG AA: 4.5 to 1 for all text outside the charts, in both palettes."""
    script = """
    (() => {
      const luminance = c => c.slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const parse = text => text.match(/[\\d.]+/g).map(Number);
      const ground = element => {
        for (let at = element; at; at = at.parentElement) {
          const colour = parse(getComputedStyle(at).backgroundColor);
          if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
      };
      const low = [];
      for (const element of document.querySelectorAll('header *, main *, footer *')) {
        if (element.closest('.plot, svg, noscript, .hidden')) continue;
        if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
        const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(ground(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) low.push([ratio, element.outerHTML.slice(0, 80)]);
      }
      return JSON.stringify(low);
    })()
    """
    for scheme in ("light", "dark"):
        browser.open(pages["several"], 1400, scheme=scheme)
        assert json.loads(browser.evaluate(script)) == []

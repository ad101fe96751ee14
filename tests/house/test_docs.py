"""The docs are true: links lead somewhere, examples compute what they show, commands print what stands below them."""

import doctest
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
LINK = re.compile(r"(?<!`)!?\[[^\]\n]*\]\((?P<target>[^)\s]+)\)|<img [^>]*src=\"(?P<src>[^\"]+)\"")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINE_WIDTH = 140


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    """docs/refresh.py, which is a script and no part of a package."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "docs"))


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path):
    broken = []
    for match in LINK.finditer(FENCE.sub("", page.read_text())):
        target = match["target"] or match["src"]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_found_from_the_index():
    """A page that nothing leads to is a page that nobody reads."""
    linked = {
        (ROOT / "docs" / match["target"].partition("#")[0]).resolve()
        for match in LINK.finditer((ROOT / "docs" / "index.md").read_text())
        if match["target"]
    }
    assert {page for page in PAGES if page.name != "index.md"} <= linked


def test_pages_that_the_code_points_to_exist():
    """An error that says "see docs/x.md" is a dead end without the page."""
    packages = (
        "cli",
        "engine",
        "fidelity",
        "hwprofiles",
        "modelspecs",
        "policies",
        "reports",
        "sim",
        "studies",
        "traces",
    )
    files = [path for name in packages for kind in ("py", "toml", "j2") for path in (ROOT / name).rglob(f"*.{kind}")]
    named = {name for path in files for name in re.findall(r"docs/[\w-]+\.md", path.read_text(encoding="utf-8"))}
    assert {name for name in named if not (ROOT / name).is_file()} == set()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_examples_compute_what_they_show(page: Path):
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_print_what_stands_below_them(page: Path, refresh: ModuleType):
    """`make docs` puts right what fails here."""
    text = page.read_text(encoding="utf-8")
    assert refresh.refreshed(text) == text


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_lines_of_prose_are_not_endless(page: Path):
    """Tables apart: a diff of one word should not be a diff of a paragraph."""
    prose = FENCE.sub("", page.read_text())
    prose = re.sub(r"<!-- generated: .*?<!-- end -->", "", prose, flags=re.DOTALL)
    long = [line for line in prose.splitlines() if len(line) > LINE_WIDTH and not line.startswith("|")]
    assert long == []


def test_only_our_own_commands_are_run(refresh: ModuleType):
    with pytest.raises(ValueError, match="not one of simulate, afterwatt"):
        refresh.refreshed("```console\n$ rm -rf /\n```\n")


def test_figures_are_of_the_runs_they_name(refresh: ModuleType):
    """Drawn anew from the same commands, they are the same pictures."""
    assert refresh.FIGURES
    for path, draw in refresh.FIGURES.items():
        assert draw() == path.read_text(encoding="utf-8")

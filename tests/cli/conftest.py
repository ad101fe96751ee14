"""Commands run as a user would: from another folder, with nothing in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from afterwatt.cli import main
from tests.cli.running import Said

Command = Callable[..., Said]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def simulate(folder: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """The script `simulate`, in this process."""
    return lambda *words: _here(main.simulate_app(), words, capfd)


@pytest.fixture
def afterwatt(folder: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """The script `afterwatt`, in this process."""
    return lambda *words: _here(main.afterwatt_app(), words, capfd)


def _here(app, words, capfd) -> Said:
    capfd.readouterr()
    code = main.run(app, [str(word) for word in words])
    return Said(code, *capfd.readouterr())

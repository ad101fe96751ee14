"""Devices, pipes and folders where a file is asked for: refused at once, whoever asks."""

import os
from pathlib import Path

import pytest

READERS = [
    ("simulate", "--hw", "X.toml", "--dry-run"),
    ("simulate", "--config", "X.toml", "--dry-run"),
    ("simulate", "--model", "X.toml", "--dry-run"),
    ("simulate", "--model", "X.json", "--dry-run"),
    ("simulate", "--model", "folder", "--dry-run"),
    ("simulate", "--stack", "X.toml", "--dry-run"),
    ("simulate", "--site", "X.toml", "--dry-run"),
    ("simulate", "--host", "X.toml", "--dry-run"),
    ("simulate", "--grid", "X.csv", "--start", "2023-01-01T00:00:00Z", "--dry-run"),
    ("simulate", "--trace", "X.csv", "--dry-run"),
    ("trace", "describe", "X.parquet"),
    ("report", "run"),
    ("report", "study"),
    ("report", "sums"),
    ("fit", "X.csv", "--stack", "llama.cpp-cuda", "--out", "new.toml"),
    ("fit", "--kernels", "X.csv", "--stack", "llama.cpp-cuda", "--out", "new.toml"),
    ("generate", "--model", "folder", "--ids", "1", "--tokens", "1"),
    ("prepare", "folder"),
]


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
@pytest.mark.parametrize("words", READERS, ids=lambda words: " ".join(words[:3]))
def test_what_is_no_regular_file_is_refused_at_once(afterwatt, words, kind):
    for place in (
        "X.toml",
        "X.json",
        "X.csv",
        "X.parquet",
        "folder/config.json",
        "run/manifest.json",
        "study/study.json",
    ):
        Path(place).parent.mkdir(exist_ok=True)
        _make(Path(place), kind)
    Path("sums").mkdir()
    Path("sums/manifest.json").write_text("{}")
    _make(Path("sums/SHA256SUMS"), kind)
    said = afterwatt(*words)
    assert (said.code, said.err.count("\n")) == (2, 1)


def _make(place: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "endless":
        place.symlink_to("/dev/zero")
    else:
        place.mkdir()

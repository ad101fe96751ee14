"""Where results go: a descriptive name that is not taken yet, and nothing left behind when a command fails."""

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

RUNS: Final = Path("runs")
STUDY_FILE: Final = "study.json"
_LONGEST: Final = 100
_MOST_NAMED: Final = 3


def slug(*words: str) -> str:
    """Join words into a directory name: letters, digits, dots, plus and single dashes."""
    joined = "-".join(word for word in words if word)
    return re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9.+=]+", "-", joined)).strip("-.")[:_LONGEST] or "run"


def crossed(names: Sequence[str], noun: str) -> str:
    """Name several values in one word: `m40+h100-sxm`, or `6hw` where there are many."""
    different = list(dict.fromkeys(names))
    return "+".join(different) if len(different) <= _MOST_NAMED else f"{len(different)}{noun}"


def numbered(base: Path) -> Iterator[Path]:
    """Yield `base`, `base-2`, `base-3`, ..."""
    yield base
    for number in itertools.count(2):
        yield base.with_name(f"{base.name}-{number}")


def free(base: Path) -> Path:
    """Give the first numbered name at which nothing stands, or an empty folder."""
    return next(path for path in numbered(base) if not path.exists() or (path.is_dir() and not any(path.iterdir())))


def run_names(folder: Path) -> set[str]:
    """Name the finished run directories right inside a folder."""
    return {manifest.parent.name for manifest in folder.glob("[!.]*/manifest.json")}


def takes_study(folder: Path, planned: set[str]) -> bool:
    """Tell whether a study of these run directories may be put there.

    Where nothing stands; where a finished study does (its study.json lists what is its own); or where an interrupted
    one left some of these very runs and nothing else.
    """
    if not folder.exists():
        return True
    if not folder.is_dir() or (folder / "manifest.json").exists():
        return False
    visible = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return STUDY_FILE in visible or visible <= planned | {"report.html"}


@contextmanager
def no_litter(path: Path) -> Iterator[None]:
    """Take away folders that were made on the way to `path` and hold nothing, should the body fail."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise

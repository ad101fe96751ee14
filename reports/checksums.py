"""`SHA256SUMS` of a run directory: what its files were when it was written, as `sha256sum -c` reads it."""

import hashlib
import os
import re
from pathlib import Path
from typing import Final

from afterwatt.reports.errors import ReportError

SUMS: Final = "SHA256SUMS"
_LINE: Final = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9._-]{1,120})")


def write_sums(folder: Path) -> None:
    """Note the SHA-256 of every file of a run directory but its page, which may be drawn again."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".html" and path.name != SUMS)
    (folder / SUMS).write_text("".join(f"{_sha256(path)}  {path.name}\n" for path in files), encoding="ascii")


def check_sums(folder: Path) -> bool:
    """Hold the files of a run directory to what they were when they were written.

    Returns:
        False where nothing is known of that, as in runs of older versions.

    Raises:
        ReportError: a file is missing or another one than it was, or the list itself is damaged.
    """
    sums = folder / SUMS
    if not os.path.lexists(sums):
        return False
    try:
        lines = sums.read_bytes().decode("ascii").splitlines() if sums.is_file() else []
    except (OSError, UnicodeDecodeError):
        lines = []
    known = [_LINE.fullmatch(line) for line in lines]
    if not lines or None in known:
        raise ReportError(f"{sums} is damaged; run the simulation again")
    for line in filter(None, known):
        path = folder / line[2]
        if not path.is_file():
            raise ReportError(f"{path} is missing; {folder} is no whole run directory, run it again")
        if _sha256(path) != line[1]:
            raise ReportError(
                f"{path} is damaged or was edited: it is not the file that was written ({SUMS}); run the simulation "
                f"again, or delete {SUMS} to read it as it is"
            )
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

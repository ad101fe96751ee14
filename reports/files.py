"""Files written whole or not at all, and cleared away where a process that wrote one is no more."""

import contextlib
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from afterwatt.reports.errors import ReportError

PARTIAL: Final = ".partial-"
"""Part of the name of what is not yet whole: `.NAME.partial-PID-MACHINE`."""
_OF_MACHINE: Final = re.sub(r"[^A-Za-z0-9]+", "_", platform.node())[:40]
_STALE: Final = re.compile(rf"\.(?P<name>.+){re.escape(PARTIAL)}(?P<pid>\d{{1,9}})-{re.escape(_OF_MACHINE)}(-.*)?")
_LONGEST: Final = 120


def partial_name(name: str) -> str:
    """Return the hidden name under which this process writes what will be called `name`."""
    return f".{name}{PARTIAL}{os.getpid()}-{_OF_MACHINE}"


def clear_stale(folder: Path, name: str | None = None) -> None:
    """Take away what processes of this machine that are no more left half-written in a folder.

    Args:
        folder: where to look, not below it.
        name: of the one file or directory whose leavings count; None: of all.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            found = _STALE.fullmatch(path.name)
            if found is None or name not in (None, found["name"]) or _alive(int(found["pid"])):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return True
    return state.split()[0] not in "ZX"  # a parent that does not look after its dead


@contextmanager
def taking_place(path: Path) -> Iterator[Path]:
    """Give a new file beside `path` that takes its place when all went well, and else vanishes.

    Its name is not to be guessed and nothing stood under it, so that no planted link is followed.

    Raises:
        ReportError: something stands there that is no regular file, or the place cannot be written to.
    """
    if "\0" in str(path):
        raise ReportError(f"cannot write {str(path)[:_LONGEST]!r}, for no name holds a zero byte; choose another place")
    if os.path.lexists(path) and not path.is_file():
        raise ReportError(f"{path} is no regular file, and is left alone; choose another place")
    partial = path.parent / f"{partial_name(path.name[:_LONGEST])}-{secrets.token_hex(8)}{path.suffix[:_LONGEST]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.open("xb").close()
        yield partial
        partial.replace(path)
    except OSError as fault:
        reason = fault.strerror or fault
        raise ReportError(f"cannot write {str(path)[:_LONGEST]!r} ({reason}); choose another place") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all; errors as `taking_place`."""
    with taking_place(path) as partial:
        partial.write_text(text, encoding="utf-8")

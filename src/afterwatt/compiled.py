"""The modules of the inner loop as machine code, where somebody has compiled them (`python -m afterwatt.compile`).

The sources are the program: what is compiled is used only where it was made from exactly the sources that stand here,
by their SHA-256. After an edit, with another Python or with AFTERWATT_COMPILED=0 the same modules run interpreted, to
the same bytes of output.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

HOME: Final = Path(__file__).parent
"""Where the package is: sources below it, by their module names."""
RECORD: Final = "SOURCES"
SWITCH: Final = "AFTERWATT_COMPILED"
LIBRARY: Final = "afterwatt__mypyc"
"""The one library that all compiled modules share."""


class Standing(NamedTuple):
    """Which modules run as machine code.

    Attributes:
        places: file of each compiled module by name; none where all is interpreted.
        why: a few words for people.
    """

    places: dict[str, str]
    why: str


def folder_of(home: Path) -> Path:
    """Return where the compiled modules of this Python lie."""
    return home / "_compiled" / EXTENSION_SUFFIXES[0].split(".")[1]


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes."""
    from hashlib import sha256 as digest  # where nothing is compiled nobody waits for OpenSSL

    return digest(path.read_bytes()).hexdigest()


def examine(home: Path = HOME) -> Standing:
    """Hold the compiled modules against their sources."""
    folder = folder_of(home)
    try:
        lines = (folder / RECORD).read_text(encoding="utf-8").splitlines()
    except OSError:
        return Standing({}, "interpreted: nothing is compiled for this Python")
    try:
        changed = [name for digest, name in map(str.split, lines) if sha256(home / name) != digest]
    except (OSError, ValueError):
        changed = ["what they were made from"]
    if changed:
        return Standing({}, f"interpreted: {changed[0]} has changed since the modules were compiled")
    files = sorted(folder.rglob(f"*{EXTENSION_SUFFIXES[0]}"))
    places = {".".join(file.relative_to(folder).parts).removesuffix(EXTENSION_SUFFIXES[0]): str(file) for file in files}
    return Standing(places, f"compiled: {len(places) - 1} modules")


class CompiledFinder:
    """Finds compiled modules before Python looks for their sources."""

    def __init__(self, places: dict[str, str]) -> None:
        self.places = places

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - as Python calls it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return where a module lies, None where it is not compiled."""
        place = self.places.get(name)
        return None if place is None else ModuleSpec(name, ExtensionFileLoader(name, place), origin=place)


def use() -> Standing:
    """Let imports from here on find what is compiled, if it stands and is not switched off."""
    if os.environ.get(SWITCH) == "0":
        return Standing({}, f"interpreted: {SWITCH}=0 says so")
    standing = examine()
    if standing.places:
        sys.meta_path.insert(0, CompiledFinder(standing.places))
    return standing


IN_USE: Final = use()
"""What this process runs."""

"""Compile the modules of the inner loop to machine code: `python -m afterwatt.compile`.

mypyc takes the same typed sources that run interpreted; it needs mypy, setuptools and a C compiler with Python's
headers. Where one of these is missing nothing changes: all runs interpreted. What is built lies beside the package,
with the hash of every source that it was made from (see `afterwatt.compiled`).
"""

import argparse
import ast
import contextlib
import importlib.util
import io
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Final

from afterwatt.compiled import HOME, LIBRARY, RECORD, Standing, examine, folder_of, sha256

MODULES: Final = (
    "hwprofiles/roofline.py",
    "policies/batching.py",
    "policies/exchange.py",
    "policies/kv.py",
    "policies/lane.py",
    "policies/longest.py",
    "policies/plans.py",
    "policies/queue.py",
    "policies/scheduler.py",
    "policies/sequence.py",
    "policies/views.py",
    "policies/windows.py",
    "sim/body.py",
    "sim/clock.py",
    "sim/executors.py",
    "sim/links.py",
    "sim/notes.py",
    "sim/recorder.py",
    "sim/rows.py",
    "sim/ticket.py",
    "sim/times.py",
    "sim/worker.py",
    "sim/workload.py",
)
"""What is compiled: where the profiler says that a run spends its time.

Python looks for Ctrl-C while it multiplies long integers, and mypyc takes the interrupt for a lack of memory and aborts
the process: what reckons in picoseconds runs where signals are deferred (`sim.signals`).
"""


def missing() -> str | None:
    """Return what this machine lacks to compile with, in words; None if nothing."""
    for name in ("mypyc", "setuptools"):
        if importlib.util.find_spec(name) is None:
            return f"no {name.replace('mypyc', 'mypy')}; install it with: pip install mypy setuptools"
    compiler = str(sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(os.environ.get("CC", compiler).split()[0]) is None:
        return f"no C compiler ({compiler}); on Debian: apt-get install gcc libc6-dev python3-dev"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "no Python.h; on Debian: apt-get install python3-dev"
    return None


def sources(home: Path) -> list[str]:
    """Return what the compiled modules depend on: their own sources, and those from which they take names.

    The compiler copies constants out of a module that it imports, so that a change there is one of theirs.
    """
    found = {*MODULES, "compile.py"}  # which says what is compiled
    for name in MODULES:
        for node in ast.walk(ast.parse((home / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("afterwatt."):
                path = str(node.module).removeprefix("afterwatt.").replace(".", "/")
                found |= {file for file in (f"{path}.py", f"{path}/__init__.py") if (home / file).is_file()}
    return sorted(found)


def build(home: Path = HOME) -> None:
    """Compile, and put what came of it in its place whole.

    Raises:
        Exception: whatever the compilers raise.
    """
    with tempfile.TemporaryDirectory(prefix="afterwatt-compile-") as name:
        scratch = Path(name)
        before = {source: sha256(home / source) for source in sources(home)}
        _compile(home, scratch)
        record = "".join(f"{digest} {source}\n" for source, digest in before.items())
        (scratch / "out" / RECORD).write_text(record, encoding="utf-8")
        target = folder_of(home)
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        shutil.copytree(scratch / "out", partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)


def _compile(home: Path, scratch: Path) -> None:
    """Run mypyc and the C compiler; extension modules come to lie in `scratch`/out."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    said = scratch / "mypy.ini"
    # Types of other libraries are checked by the linter; here only ours have to hold.
    said.write_text("[mypy]\nignore_missing_imports = true\nfollow_imports = silent\n", encoding="utf-8")
    paths = [str(home / module) for module in MODULES]
    extensions: list[Any] = mypycify(
        ["--strict", "--config-file", str(said), *paths],
        only_compile_paths=paths,
        debug_level="0",
        target_dir=str(scratch / "c"),
        group_name=LIBRARY.removesuffix("__mypyc"),
    )
    command: Any = Distribution({"name": "afterwatt", "ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(scratch / "out"), str(scratch / "objects")
    command.ensure_finalized()
    command.run()


def make(force: bool = False) -> Standing:
    """Compile unless what stands is current or something is missing; say how things stand then."""
    standing = examine()
    if standing.places and not force:
        return standing
    lack = missing()
    if lack is not None:
        return Standing({}, f"interpreted: {lack}")
    noise = io.StringIO()
    try:
        with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            build()
    except (Exception, SystemExit) as error:  # whatever compilers do, the program runs without them
        last = (str(error) or noise.getvalue()).strip().splitlines() or [type(error).__name__]
        return Standing({}, f"interpreted: compiling failed ({last[-1][:200]})")
    return examine()


def main() -> int:
    """Compile and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m afterwatt.compile", description=__doc__)
    parser.add_argument("--force", action="store_true", help="compile even what is current")
    parser.add_argument("--require", action="store_true", help="exit with 1 where nothing could be compiled")
    said = parser.parse_args()
    standing = make(said.force)
    print(standing.why)
    return int(said.require and not standing.places)


if __name__ == "__main__":
    sys.exit(main())

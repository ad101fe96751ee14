"""Keep README and docs true: run the commands they show, and put what they print there.

    python docs/refresh.py            # rewrite (make docs)
    python docs/refresh.py --check    # exit 1 and name what differs

Three kinds of things are rewritten:

- a block fenced as `console`: each line `$ command` is run in an empty folder and followed by what it prints. With
  `console head=12` the first 12 lines are kept, then `...`; with `console quiet` the command must succeed, and the
  text below it is left alone;
- what stands between `<!-- generated: NAME -->` and `<!-- end -->`: made by a function of `docs/generated.py`;
- the images in `FIGURES`, drawn from real runs.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from figure import breakeven
from generated import GENERATED

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```console(?P<options>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"(?P<begin><!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
COMMANDS = ("simulate", "afterwatt")
WIDTH = "100"
FIGURES = {ROOT / "docs" / "images" / "breakeven.svg": breakeven}


def pages() -> list[Path]:
    """README, CONTRIBUTING and everything under docs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def environment() -> dict[str, str]:
    """A terminal of a set width without colours, and the commands of this very environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FORCE_COLOR", "PYTEST"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept | {"PATH": path, "COLUMNS": WIDTH, "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"}


def run(command: str, folder: str) -> str:
    """Return what a command prints on standard output.

    Raises:
        ValueError: it is none of ours, or it fails.
    """
    if command.split(maxsplit=1)[0] not in COMMANDS:
        raise ValueError(f"'{command}' is shown in a console block but is not one of {', '.join(COMMANDS)}")
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise ValueError(f"'{command}' exits with {result.returncode}: {result.stderr.strip()}")
    return "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())


def block(match: re.Match[str]) -> str:
    """Return a console block as it should stand."""
    options, body = match["options"], match["body"]
    commands = [line[2:] for line in body.splitlines() if line.startswith("$ ")]
    shown: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for command in commands:
            lines = run(command, folder).splitlines()
            head = re.search(r"head=(\d+)", options)
            if head and len(lines) > int(head[1]):
                lines = [*lines[: int(head[1])], "..."]
            shown += [f"$ {command}", *lines]
    if "quiet" in options.split():
        return match[0]
    return f"```console{options}\n" + "".join(f"{line}\n" for line in shown) + "```"


def section(match: re.Match[str]) -> str:
    """Return a generated section as it should stand."""
    return f"{match['begin']}{GENERATED[match['name']]()}{match['end']}"


def refreshed(text: str) -> str:
    """Return a page with all its blocks and sections made anew."""
    return SECTION.sub(section, BLOCK.sub(block, text))


def differences() -> Iterator[tuple[Path, str, str]]:
    """Yield (page or image, as it is, as it should be) where these differ."""
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if (new := refreshed(text)) != text:
            yield path, text, new
    for path, draw in FIGURES.items():
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if (new := draw()) != text:
            yield path, text, new


def main() -> int:
    """Rewrite the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where something would change")
    check = parser.parse_args().check
    stale = list(differences())
    for path, _, new in stale:
        if not check:
            path.write_text(new, encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(ROOT)} {'is out of date; run make docs' if check else 'rewritten'}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

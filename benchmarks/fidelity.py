"""Hold predictions against published measurements, by running the simulator on each.

    python benchmarks/fidelity.py                         # the published points, some held out; writes the page
    python benchmarks/fidelity.py --points own.csv        # another table: shipped profiles, nothing fitted or written
    python benchmarks/fidelity.py --no-refit              # shipped profiles only
    python benchmarks/fidelity.py --json -                # everything as JSON (a file, or - for standard output)
    python benchmarks/fidelity.py --offload               # models larger than the card: fits and ships what hosts reach
    python benchmarks/fidelity.py --replay RUN            # a measured serving run instead (see fidelity/serving/run.py)

Prints how many rows can be run and why the others cannot; errors by software, card and metric; how often the 90 %
intervals hold, and how wide they are; and the rows farthest off: in Markdown, as docs/fidelity.md has it.
Published points are those of fidelity/data/points.csv; a table of one's own has the same columns (docs/stacks.md).
Tables of kernels and runs are not part of this repository: they are looked for in ../shared.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from afterwatt.fidelity.offload.fit import fit, host_spread  # noqa: E402
from afterwatt.fidelity.offload.score import timed  # noqa: E402
from afterwatt.fidelity.offload.section import section as offload_section  # noqa: E402
from afterwatt.fidelity.offload.section import with_shares  # noqa: E402
from afterwatt.fidelity.offload.table import read_offload  # noqa: E402
from afterwatt.fidelity.page.assess import CROSS, IN_SAMPLE, Assessment, assess  # noqa: E402 - this file has the package's name
from afterwatt.fidelity.page.page import fidelity_page, points_part, summary_of  # noqa: E402
from afterwatt.fidelity.page.parity import parity_plot  # noqa: E402
from afterwatt.fidelity.page.sections import other_sections  # noqa: E402
from afterwatt.fidelity.points.table import PUBLISHED, PointsError, read_points  # noqa: E402
from afterwatt.fidelity.serving.replay import replay  # noqa: E402
from afterwatt.fidelity.serving.replay_score import replay_text  # noqa: E402
from afterwatt.fidelity.serving.run import ReplayError, read_run  # noqa: E402
from afterwatt.hwprofiles.errors import HardwareError  # noqa: E402
from afterwatt.hwprofiles.hostwork import TIERS_FILE  # noqa: E402
from afterwatt.sim.errors import Infeasible  # noqa: E402

SHARED = ROOT / ".." / "shared"
PAGE = ROOT / "docs" / "fidelity.md"
IMAGE = ROOT / "docs" / "images" / "fidelity.svg"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, metavar="FILE", help="another table: scored with the shipped profiles")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON (- for standard output)")
    parser.add_argument("--no-refit", action="store_true", help="no fits with points held out; the page stays as it is")
    parser.add_argument("--folds", type=int, metavar="N", help="hold groups out in N folds, not each by itself")
    parser.add_argument("--offload", action="store_true", help="score models larger than the card, and nothing else")
    parser.add_argument("--replay", type=Path, metavar="RUN", help="replay a measured run: meta.json and requests")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="token ids of the run's prompts, to share prefixes"
    )
    parser.add_argument("--stack", metavar="NAME", help="replay with this stack, by name or as a TOML file")
    return parser.parse_args()


def write_page(found: Assessment) -> None:
    """Write the page and its figure."""
    judged = CROSS if CROSS in found.tests else IN_SAMPLE
    IMAGE.write_text(parity_plot(found.tests[judged], f"Predicted against measured, {judged}"), encoding="utf-8")
    image = IMAGE.relative_to(PAGE.parent).as_posix()
    sections = other_sections(SHARED)
    for name, picture in (image for section in sections for image in section.images):
        (IMAGE.parent / name).write_text(picture, encoding="utf-8")
    PAGE.write_text(fidelity_page(found, sections, image), encoding="utf-8")


def write_offload() -> int:
    """Fit what hosts reach, ship it, print the part on models larger than the card, and put it into the page."""
    cases = [timed(row) for row in read_offload()[0]]
    shipped = TIERS_FILE.read_text(encoding="utf-8")
    TIERS_FILE.write_text(with_shares(shipped, fit(cases), host_spread(cases)), encoding="utf-8")
    part = offload_section(SHARED)
    sys.stdout.write(part.text)
    page, heading = PAGE.read_text(encoding="utf-8"), f"\n## {part.title}\n"
    before, _, rest = page.partition(heading)
    following = rest.partition("\n## ")
    PAGE.write_text(f"{before}{heading}\n{part.text}{following[1]}{following[2]}", encoding="utf-8")
    return 0


def replay_run(chosen: argparse.Namespace) -> int:
    """Replay a measured run and print how far off it is."""
    try:
        run = read_run(chosen.replay, chosen.prompts)
        sys.stdout.write(replay_text(run, replay(run, chosen.stack)))
    except (ReplayError, HardwareError, Infeasible) as fault:
        sys.stderr.write(f"{fault}\n")
        return 2
    return 0


def main() -> int:
    chosen = options()
    if chosen.offload:
        return write_offload()
    if chosen.replay is not None:
        return replay_run(chosen)
    try:
        table = read_points(chosen.points or PUBLISHED)
    except PointsError as fault:
        sys.stderr.write(f"{fault}\n")
        return 2
    refit = chosen.points is None and not chosen.no_refit
    found = assess(table, refit, chosen.folds)
    if chosen.json == "-":
        sys.stdout.write(json.dumps(summary_of(found), indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write(points_part(found))
        if chosen.json:
            Path(chosen.json).write_text(
                json.dumps(summary_of(found), indent=1, allow_nan=False) + "\n", encoding="utf-8"
            )
    if refit:
        write_page(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

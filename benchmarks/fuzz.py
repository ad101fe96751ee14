"""Hand damaged files and words to everything that reads them: no traceback, nothing over 5 s or 1 GB.

    python benchmarks/fuzz.py --inputs 300000 --seed 1        # shares them out among the targets
    python benchmarks/fuzz.py --inputs 2000 --only words grid

Prints what each target refused, and of what went wrong how often and the smallest input; exit 1 if anything did.
`tests/fuzz` runs the same targets for a minute.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fuzz.targets import fuzz, kept_here, make_sound, targets


def main() -> int:
    """Run the targets; 1 if an input did what none may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=300_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", metavar="TARGET", help="the targets to run")
    asked = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, kept_here(Path(folder)):
        chosen = [one for one in targets(make_sound(Path(folder))) if not asked.only or one.name in asked.only]
        for target in chosen:
            place = Path(folder) / target.name
            place.mkdir()
            count = fuzz(target, place, asked.seed, -(-asked.inputs // len(chosen)))
            print(
                f"{target.name:18} {count.inputs:7,} inputs {count.refused:7,} refused {count.seconds:7.1f} s",
                flush=True,
            )
            for outcome, (times, given) in count.faults.items():
                wrong += times
                print(f"    {times} x {outcome}: {str(given)[:300]!r}", flush=True)
    print(f"{wrong} inputs went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Check the engine and its predictions on this processor, several times in a row.

    python benchmarks/processor.py [--runs 3] [--out FILE.json]      # half an hour on a quiet machine
    python benchmarks/processor.py --page FILE.json                  # the page of a measurement, on standard output

A random checkpoint of 125 M parameters in fp32, one thread. Each run calibrates the machine anew, measures batch-1
decoding as a share of the bandwidth that is measured in turns with it (benchmarks/decode.py), and validates a chat
trace with its lengths divided, at 30, 60, 90 and 110 % of the capacity that it measures. What the machine itself moves
by is part of it.
"""

import argparse
import datetime as dt
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODEL = [
    "--like",
    "llama-2-7b",
    "--layers",
    "4",
    "--hidden",
    "1536",
    "--heads",
    "12",
    "--kv-heads",
    "4",
    "--ffn",
    "4096",
    "--vocab",
    "8000",
]
VALIDATE = (
    "--shrink",
    "10",
    "--requests",
    "60",
    "--repetitions",
    "3",
    "--policy",
    "chunked+budget=256+seqs=16+kv=1536",
)
SHOWN = ("ttft_s p50", "ttft_s p90", "tpot_s p50", "tpot_s p90", "itl_s p50", "e2e_s p50", "output_tokens_per_s",
         "batch_mean")  # fmt: skip


def run(folder: Path, *words: str, good: tuple[int, ...] = (0,)) -> str:
    """Run one of our programs and return what it prints.

    Raises:
        RuntimeError: it failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode not in good:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def processor() -> str:
    """Return what the processor calls itself."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def once(folder: Path, number: int) -> dict[str, Any]:
    """Calibrate, decode, validate."""
    local, place = f"local-{number}", f"validation-{number}"
    sys.stderr.write(f"run {number}: calibrate ...\n")
    run(folder, "-m", "cli", "calibrate", "--device", "cpu", "--out", local, "--no-disk", "--quiet")
    sys.stderr.write(f"run {number}: decode ...\n")
    decoded = run(folder, str(ROOT / "benchmarks" / "decode.py"), "model")
    sys.stderr.write(f"run {number}: validate ...\n")
    where = ("--model", "model", "--hw", local, "--device", "cpu", "--out", place, "--quiet")
    run(folder, "-m", "cli", "validate", *where, *VALIDATE, good=(0, 4))
    validation = json.loads((folder / place / "validation.json").read_text())
    calibration = json.loads((folder / local / "calibration.json").read_text())
    return {"decode": decoded, "drift": calibration.get("drift"), "validation": validation}


def measure(runs: int, out: Path) -> None:
    """Run everything as often as asked for; what is done so far is written after each time."""
    found: dict[str, Any] = {
        "schema": 1,
        "date_utc": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M}",
        "device": processor(),
        "threads": 1,
        "model": " ".join(MODEL),
        "validate": " ".join(VALIDATE),
        "runs": [],
    }
    with tempfile.TemporaryDirectory(prefix="afterwatt-processor-") as made:
        folder = Path(made)
        run(folder, "-m", "cli", "model", "make-random", *MODEL, "--dtype", "fp32", "--out", "model")
        for number in range(1, runs + 1):
            found["runs"].append(once(folder, number))
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(found, indent=1) + "\n")


def page_of(found: dict[str, Any]) -> str:
    """Write a measurement as Markdown."""
    lines = [f"# {found['device']}, one thread, {found['date_utc']} UTC", ""]
    lines += ["Measured by `benchmarks/processor.py`:", ""]
    lines += [f"    afterwatt model make-random {found['model']} --dtype fp32", f"    validate {found['validate']}", ""]
    for number, one in enumerate(found["runs"], 1):
        validation, drift = one["validation"], one["validation"]["drift"]
        kept = sum(bound["kept"] for bound in validation["bounds"])
        lines += [f"## Run {number}", "", *(f"    {line}" for line in one["decode"].splitlines()), ""]
        capacity = validation["capacity_requests_per_s"]
        moved = f"{drift['low']:.2f} to {drift['high']:.2f}, median {drift['median']:.2f}"
        lines += [
            f"Capacity {capacity:.3g} requests/s; {kept} of {len(validation['bounds'])} bounds kept.",
            f"Drift of the probe, relative to what it took around the calibration: {moved}.",
            "",
            "| load | " + " | ".join(SHOWN) + " |",
            "| --- |" + " --- |" * len(SHOWN),
        ]
        for load in validation["loads"]:
            by_name = {figure["name"]: figure for figure in load["figures"]}
            cells = [_cell(by_name[name]) for name in SHOWN]
            lines.append(f"| {load['frac']:.0%} | " + " | ".join(cells) + " |")
        lines += ["", "Error of the prediction; in brackets the spread of the repetitions.", ""]
        lines += ["| bound | at most | error | |", "| --- | --- | --- | --- |"]
        for bound in validation["bounds"]:
            error = "unknown" if bound["error_frac"] is None else f"{100 * bound['error_frac']:+.1f} %"
            verdict = "kept" if bound["kept"] else "**exceeded**"
            lines.append(f"| {bound['what']} | {100 * bound['most']:.0f} % | {error} | {verdict} |")
        lines += ["", *_sensitivity(validation), ""]
    return "\n".join(lines)


def _cell(figure: dict[str, Any]) -> str:
    if figure["error_frac"] is None:
        return "unknown"
    return f"{100 * figure['error_frac']:+.1f} % ({100 * figure['spread_frac']:.0f} %)"


def _sensitivity(validation: dict[str, Any]) -> list[str]:
    lines = []
    for load in validation["loads"]:
        told = load["sensitivity"]
        less, more = told["ttft_s p90"]
        figures = {figure["name"]: figure for figure in load["figures"]}
        if less is not None and more is not None and 0.85 < load["frac"] < 1.0:
            measured, predicted = figures["ttft_s p90"]["measured"], figures["ttft_s p90"]["predicted"]
            lines.append(
                f"TTFT p90 at {load['frac']:.0%}: predicted {predicted:.3g} s, with {told['load_step']:.0%} less or "
                f"more load {less:.3g} or {more:.3g} s; measured {measured:.3g} s."
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: docs/measurements/processor-DATE.json)")
    parser.add_argument("--page", type=Path, metavar="FILE.json", help="print the page of a measurement")
    asked = parser.parse_args()
    if asked.page is not None:
        sys.stdout.write(page_of(json.loads(asked.page.read_text())) + "\n")
        return 0
    out = asked.out or ROOT / "docs" / "measurements" / f"processor-{dt.datetime.now(dt.UTC):%Y-%m-%d}.json"
    measure(asked.runs, out)
    sys.stderr.write(f"{out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

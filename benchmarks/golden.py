"""Digests of what some thirty small worlds write, to show that a change of form has changed no number.

    python benchmarks/golden.py --write before.json      # on the code before the change
    python benchmarks/golden.py --against before.json    # on the code after it; exit 1 and names where they differ

Every world is a command line of `simulate`; digests are of the bytes of each table, of the summary and of the page,
and of what the command prints. They hold for one machine and one set of library versions: other processors round powers
and exponentials differently, so that nothing of this is stored in the repository. `--command` runs another copy of
the program (an older checkout, or the interpreted modules).
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from afterwatt.traces.sample import sample_path

CHAT: Final = "--trace chat.parquet --limit 150"
WORLDS: Final = {
    "chat-m40": f"--hw m40 {CHAT} --rate 0.2",
    "chat-report": "--hw m40 --trace chat.parquet --limit 60",
    "bounds-overload": f"--hw m40 {CHAT} --rate 2",
    "mixed-old": f"--hw k80 --precision int8 {CHAT} --policy prefill-first --decisions",
    "decode-first": f"--hw p40 --precision int4 {CHAT} --policy decode-first --decisions",
    "int8-t4": f"--hw t4 --precision int8 {CHAT} --no-bounds",
    "fp8-h100": f"--hw h100-sxm --precision fp8 {CHAT} --rate 20",
    "tp2": f"--hw 2xa100-80:tp2 --model llama-2-13b {CHAT} --rate 8 --decisions",
    "tp4-ethernet": f"--hw 4xm40:tp4 --model llama-2-13b {CHAT} --rate 0.3",
    "pp2": f"--hw 2xm40:pp2 {CHAT} --rate 0.5 --decisions",
    "pp4-swap": f"--hw 4xp100-16:pp4 {CHAT} --rate 4 --policy chunked+swap+kv=220 --decisions",
    "tp2pp2": f"--hw 4xv100-sxm-16:tp2pp2 --model llama-2-13b {CHAT} --rate 5",
    "replicas-3": f"--hw 3xrtx3090 {CHAT} --rate 6",
    "replicas-rr": f"--hw 3xl4 {CHAT} --rate 4 --policy prefill-first+round-robin --decisions",
    "prefix-affinity": "--hw 2xa100-80 --model llama-3.1-8b --trace synth:code?rate=6&n=120 --policy prefix-affinity",
    "swap": f"--hw a100-40 {CHAT} --rate 12 --policy swap+kv=400 --decisions",
    "recompute": f"--hw a100-40 {CHAT} --rate 12 --policy kv=400+budget=512 --decisions",
    "prefill-first-swap": f"--hw a10 {CHAT} --rate 6 --policy prefill-first+swap+kv=300 --decisions",
    "single-step": "--hw m40 --trace chat.parquet --limit 30 --single-step --decisions",
    "seats": f"--hw a100-80 {CHAT} --rate 20 --policy seqs=7+budget=600 --decisions",
    "queue-bound": f"--hw m40 {CHAT} --rate 3 --policy queue=5 --slo ttft=2s,tpot=200ms",
    "moe": f"--hw a100-80 --model mixtral-8x7b --precision int4 {CHAT} --rate 3",
    "moe-tp": f"--hw 4xa100-40:tp4 --model mixtral-8x7b {CHAT} --rate 6 --policy prefill-first",
    "gqa-llama3": f"--hw l40s --model llama-3.1-8b {CHAT} --rate 6 --site pl",
    "users": "--hw a100-80 --users 12 --requests 80 --think 2s --trace chat.parquet --seed 5",
    "static": "--hw p40 --precision int4 --batch 8 --prompt 512 --output 128",
    "horizon": f"--hw m40 {CHAT} --rate 1 --horizon 200s --warmup 20s --decisions",
    "replications": "--hw l4 --trace synth:chat?rate=1&n=80 --replications 3",
    "crossed": f"--hw m40 --hw a100-80 --policy chunked --policy prefill-first {CHAT} --rate 0.2 --site fr --site pl",
    "llama-cpp": f"--hw rtx3090 --stack llama.cpp-cuda --stack vllm --precision int4 {CHAT}",
    "slots-front": f"--hw 2xm40 {CHAT} --rate 0.3 --host-share slots --allocation front-loaded --embodied act",
    "shuffled": f"--hw 2xv100-pcie-16 {CHAT} --rate 3 --shuffle-ties 7",
}
HASHED: Final = re.compile(rb"-[0-9a-f]{8}(?=[/\"])|\b[0-9a-f]{64}\b|(?<=>)[0-9a-f]{16}(?=<)")
"""Hashes in names and texts, as in those of a study's runs: of the code and the data behind them."""
TEXTS: Final = (".json", ".html", "")
WITH_PAGE: Final = ("chat-report", "crossed")


def digest(path: Path) -> str:
    """Hash a file; a text without the hashes that stand in it."""
    content = path.read_bytes()
    return hashlib.sha256(HASHED.sub(b"", content) if path.suffix in TEXTS else content).hexdigest()[:20]


def run_world(name: str, command: list[str]) -> dict[str, str]:
    """Run one world in an empty folder and digest all that it leaves, and what it prints."""
    page = [] if name in WITH_PAGE else ["--no-report"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "110", "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(sample_path(), folder)  # found there first: its place is part of a manifest
        said = subprocess.run(
            [*command, *shlex.split(WORLDS[name].replace("&", r"\&")), *page, "--out", "world"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        found = {"exit": str(said.returncode), "printed": hashlib.sha256(said.stdout.encode()).hexdigest()[:20]}
        if said.returncode:
            found["error"] = said.stderr.strip()
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and path.name != sample_path().name:
                found[HASHED.sub(b"", path.relative_to(folder).as_posix().encode()).decode()] = digest(path)
    return found


def differences(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> list[str]:
    """Name every file that differs, is new or is gone."""
    return [
        f"{world}: {part}"
        for world in new
        if world in old
        for part in sorted(old[world].keys() | new[world].keys())
        if old[world].get(part) != new[world].get(part)
    ]


def main() -> int:
    """Run the worlds; write their digests, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", help="worlds whose name contains this")
    parser.add_argument("--command", default=f"{Path(sys.executable).parent / 'simulate'}")
    parser.add_argument("--jobs", type=int, default=2)
    said = parser.parse_args()
    names = [name for name in WORLDS if said.only is None or said.only in name]
    with ThreadPoolExecutor(said.jobs) as pool:
        found = dict(zip(names, pool.map(lambda name: run_world(name, shlex.split(said.command)), names), strict=True))
    failed = [f"{name}: {world['error']}" for name, world in found.items() if "error" in world]
    print(*failed, sep="\n", end="\n" if failed else "")
    if said.write:
        said.write.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if said.against:
        differing = differences(json.loads(said.against.read_text(encoding="utf-8")), found)
        print(*differing, sep="\n", end="\n" if differing else "")
        print(f"{len(names)} worlds, {sum(len(world) for world in found.values())} digests, {len(differing)} differ")
        return 1 if differing else 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

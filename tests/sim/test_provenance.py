"""The manifest names every data file that a run has opened, as it was, and none that it has not."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from afterwatt.hwprofiles.tables import DATA_DIR
from afterwatt.modelspecs.catalogue import DATA_DIR as MODELS_DIR
from afterwatt.sim.provenance import SHARED

RESULTS = ("manifest.json", "summary.json")
WATCHED = """
import json, sys
opened = set()
def note(event, arguments):
    path = str(arguments[0]) if event == "open" else ""
    if path.endswith((".toml", ".json", ".csv")) and "partial" not in path:
        opened.add(path)
sys.addaudithook(note)
from afterwatt.cli.main import run, simulate_app
if code := run(simulate_app(), sys.argv[1:]):
    sys.exit(code)
print(json.dumps([sorted(opened), json.load(open("r/manifest.json"))["profiles"]]))
"""


def own_files(folder: Path) -> None:
    """A card, a deployment of it, a site, a model and an hourly grid of the user's own."""
    shutil.copy(DATA_DIR / "gpus" / "m40-24.toml", folder / "attic.toml")
    (folder / "rack.toml").write_text('device = "attic.toml"\ncount = 2\n')
    shutil.copy(DATA_DIR / "sites" / "fr.toml", folder / "shed.toml")
    shutil.copy(MODELS_DIR / "opt-6.7b.toml", folder / "mine.toml")
    hours = "".join(f"2023-06-01T{hour:02}:00:00Z,FR,50,lifecycle,false,a test\n" for hour in range(24))
    (folder / "hourly.csv").write_text("timestamp_utc,zone,gco2_per_kwh,kind,estimated,source\n" + hours)


@pytest.mark.parametrize(
    "words",
    [
        "--hw m40 --limit 5",
        "--hw 2xa100-80:tp2 --trace synth:chat?n=5&rate=1 --site pl",
        "--hw rack.toml --model mine.toml --site shed.toml --limit 5 --grid hourly.csv --start 2023-06-01T00:00:00Z",
    ],
)
def test_every_data_file_that_was_opened_is_named_with_its_hash(tmp_path: Path, words: str):
    own_files(tmp_path)
    command = [sys.executable, "-c", WATCHED, *words.split(), "--no-report", "--no-bounds", "--quiet", "--out", "r"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    opened, named = json.loads(done.stdout)
    homes = {"models": MODELS_DIR, "traces": Path(DATA_DIR.parents[1] / "traces" / "data")}

    def place(name: str) -> Path:
        head, _, rest = name.partition("/")
        own = tmp_path / name
        return own if own.is_file() else homes[head] / rest if head in homes else DATA_DIR / name

    read = {(tmp_path / path).resolve() for path in opened if not path.endswith(RESULTS)}
    places = {place(name).resolve(): digest for name, digest in named.items()}
    # A stack's pools of other cards are told apart by looking at those, and a card's usual stack by what others hold.
    looked_at = tuple(DATA_DIR.resolve() / folder for folder in ("gpus", "stacks"))
    read -= {path for path in read - places.keys() if any(map(path.is_relative_to, looked_at))}
    assert {path for path in read if path.is_relative_to(tmp_path) or "data" in path.parts} <= places.keys()
    assert len([name for name in named if name.startswith("gpus/") or name == "attic.toml"]) == 1
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in places} == places
    shared = {path.resolve() for pattern in SHARED for path in DATA_DIR.glob(pattern)}
    looked_up = {path for path in places.keys() - read if path not in shared and path.name != "presets.toml"}
    assert looked_up == set(), "named and never opened"

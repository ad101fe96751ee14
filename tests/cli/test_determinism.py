"""The same seed gives the same bytes: in another process, under another hash seed, with ties shuffled."""

from pathlib import Path

import pytest

from tests.cli.running import elsewhere

TABLES = ("requests", "timeline", "itl", "draws", "decisions")


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.parquet").read_bytes() for name in TABLES}


@pytest.mark.parametrize(
    "words",
    [
        "--hw 2xm40 --trace synth:chat?n=150&rate=0.6",
        pytest.param("--hw 2xm40 --policy prefill-first+round-robin --users 6 --requests 60", marks=pytest.mark.slow),
        pytest.param("--hw 2xt4:pp2 --batch 24 --prompt 200 --output 30", marks=pytest.mark.slow),
    ],
)
def test_bytes_do_not_depend_on_hash_seed_process_or_order_of_ties(tmp_path: Path, words: str):
    common = (*words.split(), "--decisions", "--no-report", "--quiet", "--seed", "3")
    runs = {
        "a": ({"PYTHONHASHSEED": "1"}, ()),
        "b": ({"PYTHONHASHSEED": "2"}, ()),
        "c": ({"PYTHONHASHSEED": "3"}, ("--shuffle-ties", "11")),
        "d": ({"PYTHONHASHSEED": "3"}, ("--shuffle-ties", "12")),
    }
    for name, (environment, more) in runs.items():
        said = elsewhere(tmp_path, "simulate", *common, *more, "--out", name, **environment)
        assert said == (0, "", ""), said.err
    first = tables(tmp_path / "a")
    for name in ("b", "c", "d"):
        assert tables(tmp_path / name) == first, name
    assert (tmp_path / "a" / "summary.json").read_bytes() == (tmp_path / "b" / "summary.json").read_bytes()
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()


def test_another_seed_gives_other_requests(tmp_path: Path):
    common = ("--trace", "synth:chat?n=20&rate=0.3", "--no-report", "--quiet", "--decisions")
    for seed in ("1", "2"):
        assert elsewhere(tmp_path, "simulate", *common, "--seed", seed, "--out", seed).code == 0
    assert tables(tmp_path / "1")["requests"] != tables(tmp_path / "2")["requests"]

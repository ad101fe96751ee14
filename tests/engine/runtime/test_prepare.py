"""A modular checkpoint: every bundle where the index says, checksums, going on after a kill, and what is refused."""

import hashlib
import json
import os
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from afterwatt.engine.runtime import preparing
from afterwatt.engine.runtime.errors import CheckpointError, EngineError
from afterwatt.engine.runtime.layout import read_layout
from afterwatt.engine.runtime.modular import BUNDLES, INDEX, REST, read_modular
from afterwatt.engine.runtime.networks import Networks
from afterwatt.engine.runtime.preparing import Ranking, check_room, prepare
from afterwatt.engine.runtime.quant import decode, encode
from afterwatt.engine.runtime.shards import read_shard
from afterwatt.modelspecs.bundles import ALIGNMENT, Bundles
from afterwatt.modelspecs.hf import read_hf_config

TINY = Path(__file__).parents[2] / "data" / "tiny-llama-draft"
SPEC = read_hf_config(TINY)
# So that a section of so small a model has several blocks.
plan_prepare = partial(preparing.plan_prepare, block_bytes=10_000)


def ranking(seed: int = 0) -> Ranking:
    drawn = np.random.default_rng(seed).random((SPEC.layers, SPEC.ffn))
    return Ranking(drawn.tolist(), {"text_sha256": "drawn", "tokens": 1})


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    prepare(plan_prepare(TINY, tmp_path / "out", ranking=ranking()))
    return tmp_path / "out"


def test_every_bundle_lies_where_the_index_says_most_important_first(made: Path):
    modular = read_modular(made)
    bundles, networks = modular.bundles, Networks(read_layout(TINY), SPEC)
    raw = (made / BUNDLES).read_bytes()
    assert len(raw) == bundles.total_bytes
    for number, layer in enumerate(modular.layers):
        drawn = np.array(ranking().importance[number])
        assert layer.order == np.argsort(-drawn, kind="stable").tolist()
        assert layer.importance == pytest.approx(sorted(drawn, reverse=True), rel=1e-5)
        rows = networks.rows(number, layer.order)
        for precision in bundles.precisions:
            begin = bundles.section_at(number, precision)
            wanted = encode(rows, precision)
            for unit in range(bundles.units):
                place = begin + bundles.place_in_section(precision, unit)
                assert raw[place : place + bundles.unit_bytes(precision)] == wanted[unit].tobytes()
            for block in range(bundles.blocks(precision)):
                place, size = bundles.block_at(number, precision, block)
                assert place % ALIGNMENT == size % ALIGNMENT == 0
                assert zlib.crc32(raw[place : place + size]) == layer.crc32[precision][block]
                assert modular.check_block(number, precision, block, memoryview(raw)[place : place + size])


def test_blocks_cover_a_file_without_gap_or_overlap():
    for units, neurons, hidden in ((7, 1, 64), (1, 1, 3), (1000, 1, 96), (5, 40, 32)):
        bundles = Bundles(3, units, neurons, hidden, ("bf16", "int8", "int4"))
        place = 0
        for layer in range(3):
            for precision in bundles.precisions:
                assert bundles.section_at(layer, precision) == place
                for block in range(bundles.blocks(precision)):
                    assert bundles.block_at(layer, precision, block)[0] == place
                    place += bundles.block_at(layer, precision, block)[1]
                last = bundles.place_in_section(precision, units - 1) + bundles.unit_bytes(precision)
                assert last <= bundles.section_bytes(precision)
        assert place == bundles.total_bytes == 3 * bundles.layer_bytes


def test_what_is_no_network_is_copied_as_it_was(made: Path):
    """Its own tensors and no others, byte for byte; with the bundles they are all that the source has."""
    rest, source = read_shard(made / REST), read_shard(TINY / "model.safetensors")
    networks = Networks(read_layout(TINY), SPEC)
    bundled = {name for layer in range(SPEC.layers) for name in networks.names(layer)}
    assert set(rest.tensors) | bundled == set(source.tensors)
    assert not set(rest.tensors) & bundled
    for name, entry in rest.tensors.items():
        was = source.tensors[name]
        assert rest.path.read_bytes()[entry.begin : entry.end] == source.path.read_bytes()[was.begin : was.end]
    assert (made / "config.json").read_bytes() == (TINY / "config.json").read_bytes()


def test_stored_as_it_was_nothing_is_lost(made: Path):
    modular = read_modular(made)
    wide = modular.bundles.precisions[0]
    networks = Networks(read_layout(TINY), SPEC)
    assert wide == networks.stored
    rows = networks.rows(1, modular.layers[1].order)
    assert np.array_equal(decode(encode(rows, wide), SPEC.hidden, wide), rows)


@pytest.mark.parametrize("after", range(SPEC.layers + 1))
def test_what_was_killed_goes_on_and_ends_the_same_to_the_byte(tmp_path: Path, made: Path, monkeypatch, after: int):
    class Killed(BaseException):
        pass

    def kill(done: int) -> None:
        if done == after:
            raise Killed

    plan = plan_prepare(TINY, tmp_path / "again", ranking=ranking())
    with pytest.raises(Killed):
        prepare(plan, kill)
    with (plan.unfinished / BUNDLES).open("ab") as file:
        file.write(b"half a layer")
    written = []
    honest = preparing._write_layer
    monkeypatch.setattr(preparing, "_write_layer", lambda *args: written.append(args[1]) or honest(*args))
    prepare(plan)
    assert written == list(range(after, SPEC.layers))
    assert content(tmp_path / "again") == content(made)
    assert not plan.unfinished.exists()


def test_a_line_that_a_kill_cut_off_counts_as_not_written(tmp_path: Path, made: Path):
    plan = plan_prepare(TINY, tmp_path / "again", ranking=ranking())

    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(plan, stop)
    journal = plan.unfinished / preparing.JOURNAL
    journal.write_bytes(journal.read_bytes()[:-10])
    prepare(plan)
    assert content(tmp_path / "again") == content(made)


def test_what_is_unfinished_of_other_options_is_refused(tmp_path: Path):
    plan = plan_prepare(TINY, tmp_path / "out")
    plan.unfinished.mkdir()
    other = plan_prepare(TINY, tmp_path / "out", precisions=("int8",))
    preparing._journal(other, plan.unfinished / preparing.JOURNAL)
    with pytest.raises(EngineError, match="of other options; remove it"):
        prepare(plan)


def test_a_disk_that_is_too_small_is_told_by_how_many_bytes(tmp_path: Path):
    plan = plan_prepare(TINY, tmp_path / "out")
    check_room(plan, plan.total_bytes)
    with pytest.raises(EngineError, match=r"out needs .* free: 1 are missing"):
        check_room(plan, plan.total_bytes - 1)
    prepare(plan)
    assert sum(path.stat().st_size for path in plan.out.iterdir()) <= plan.total_bytes
    again = plan_prepare(TINY, tmp_path / "again")
    again.unfinished.mkdir()
    (again.unfinished / BUNDLES).write_bytes(bytes(1000))
    check_room(again, again.total_bytes - 1000)


def test_a_disk_that_fills_up_keeps_what_is_done(tmp_path: Path, monkeypatch):
    plan = plan_prepare(TINY, tmp_path / "out")
    honest = preparing._write_layer

    def full(*args):
        if args[1] == 1:
            raise OSError(28, os.strerror(28))
        return honest(*args)

    monkeypatch.setattr(preparing, "_write_layer", full)
    with pytest.raises(EngineError, match=r"No space left on device; what is done lies in .* goes on from there"):
        prepare(plan)
    monkeypatch.setattr(preparing, "_write_layer", honest)
    prepare(plan)
    assert read_modular(tmp_path / "out").bundles == plan.bundles


@pytest.mark.parametrize("damage", ["flipped", "short", "version"])
def test_a_damaged_index_or_a_short_file_is_refused(made: Path, damage: str):
    index = made / INDEX
    if damage == "flipped":
        index.write_text(index.read_text().replace('"calibration":{', '"calibration":{"x":1,'))
    elif damage == "version":
        fields = json.loads(index.read_text())
        index.write_text(json.dumps(fields | {"version": 2}))
    else:
        os.truncate(made / BUNDLES, (made / BUNDLES).stat().st_size - 1)
    with pytest.raises(CheckpointError, match="prepare` anew"):
        read_modular(made)


def test_existing_directories_and_modular_sources_are_refused(made: Path, tmp_path: Path):
    with pytest.raises(EngineError, match="exists already"):
        plan_prepare(TINY, made)
    with pytest.raises(CheckpointError, match="modular checkpoint already"):
        plan_prepare(made, tmp_path / "twice")

"""Layers from disk to host memory: budgets, bytes, and what a disk that fails leads to."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from afterwatt.engine.runtime.errors import CheckpointError, EngineError
from afterwatt.engine.runtime.layout import read_layout
from afterwatt.engine.runtime.modular import BUNDLES, Modular, read_modular
from afterwatt.engine.runtime.networks import Networks
from afterwatt.engine.runtime.preparing import plan_prepare, prepare
from afterwatt.engine.runtime.quant import encode
from afterwatt.engine.runtime.tiers import FILL, HostLayers, SsdFile, rows_of
from afterwatt.modelspecs.hf import read_hf_config
from afterwatt.policies.caching.layers import LayerArea

TINY = Path(__file__).parents[2] / "data" / "tiny-llama"
SPEC = read_hf_config(TINY)


@pytest.fixture(scope="module")
def modular(tmp_path_factory: pytest.TempPathFactory) -> Modular:
    out = tmp_path_factory.mktemp("modular") / "out"
    prepare(plan_prepare(TINY, out, block_bytes=50_000))
    return read_modular(out)


def slot_bytes(modular: Modular, precision: str = "int8") -> int:
    return modular.bundles.blocks(precision) * modular.bundles.block_bytes(precision)


def spoiled(block: int, times: int, modular: Modular):
    """A disk that gives a block of layer 1 with a flipped bit, so many times."""
    left = [times]
    offset = modular.bundles.block_at(1, "int8", block)[0]

    def read(file: int, buffers, at: int) -> int:
        got = os.preadv(file, buffers, at)
        if at == offset and left[0]:
            left[0] -= 1
            buffers[0][7] ^= 1
        return got

    return read


def test_there_are_layers_enough():
    assert SPEC.layers >= 4


@pytest.mark.parametrize("slots", [3, 4])
def test_what_is_given_is_what_was_stored_pass_after_pass(modular: Modular, slots: int):
    networks = Networks(read_layout(TINY), SPEC)
    wanted = [encode(networks.rows(number, range(SPEC.ffn)), "int8") for number in range(SPEC.layers)]
    some = np.array([0, SPEC.ffn - 1, 5, 300])
    layers = HostLayers(modular, "int8", slots * slot_bytes(modular), ahead=1)
    for _ in range(3):
        for number in range(SPEC.layers):
            units = layers.layer(number)
            assert np.array_equal(rows_of(units, some), wanted[number][some])
    layers.close()


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize("slots", [3, 4])
def test_bytes_read_are_those_that_the_policy_plans(modular: Modular, slots: int, ahead: int):
    budget = slots * slot_bytes(modular) + 100
    layers = HostLayers(modular, "int8", budget, ahead)
    assert layers.arena_bytes <= budget
    for _ in range(4):
        for number in range(SPEC.layers):
            layers.layer(number)
    layers.close()
    held = min(slots, SPEC.layers)
    fixed = held if held == SPEC.layers else held - ahead - 1
    area = LayerArea(SPEC.layers, fixed, held - fixed, ahead)
    planned = len(area.begin().loads)
    planned += sum(len(area.step(number).loads) for _ in range(4) for number in range(SPEC.layers))
    assert layers.traffic.to("dram") == planned * modular.bundles.section_bytes("int8")


def test_a_budget_that_is_too_small_says_how_many_bytes_are_missing(modular: Modular):
    needed = 3 * slot_bytes(modular)
    HostLayers(modular, "int8", needed, ahead=2).close()
    with pytest.raises(EngineError, match=f"1 bytes are missing of {needed:,}"):
        HostLayers(modular, "int8", needed - 1, ahead=2)


def test_all_of_a_model_that_fits_is_read_once(modular: Modular):
    layers = HostLayers(modular, "int4", 100 * slot_bytes(modular, "int4"))
    for _ in range(3):
        for number in range(SPEC.layers):
            layers.layer(number)
    layers.close()
    moved = SPEC.layers * modular.bundles.section_bytes("int4")
    assert layers.traffic.moved["dram", FILL] == layers.traffic.to("dram") == moved


def test_a_block_that_does_not_match_is_read_again(modular: Modular):
    layers = HostLayers(modular, "int8", 9 * slot_bytes(modular), reader=spoiled(2, 1, modular))
    for number in range(SPEC.layers):
        layers.layer(number)
    layers.close()
    assert layers.traffic.moved["dram", "again"] == modular.bundles.block_at(1, "int8", 2)[1]


def test_a_block_that_never_matches_fails_by_name_and_the_next_try_may_do(modular: Modular):
    layers = HostLayers(modular, "int8", 9 * slot_bytes(modular), reader=spoiled(2, 2, modular))
    layers.layer(0)
    with pytest.raises(CheckpointError, match="block 2 of layer 1 in int8 does not match"):
        layers.layer(1)
    layers.layer(0)
    layers.layer(1)
    layers.close()


@pytest.mark.parametrize("fault", ["error", "short"])
def test_a_disk_that_fails_is_named(modular: Modular, fault: str):
    def read(file: int, buffers, at: int) -> int:
        if fault == "error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.preadv(file, buffers, at) if at < modular.bundles.layer_bytes else 0

    said = "Input/output error" if fault == "error" else "it is cut"
    layers = HostLayers(modular, "int8", 9 * slot_bytes(modular), reader=read)
    if fault == "short":
        layers.layer(0)
    with pytest.raises(CheckpointError, match=rf"{BUNDLES}: .* bytes at .*{said}"):
        layers.layer(0 if fault == "error" else 1)
    layers.close()


def test_a_read_that_comes_in_pieces_is_put_together(modular: Modular):
    """As the kernel may give them: each a multiple of 512 bytes."""

    def read(file: int, buffers, at: int) -> int:
        return os.preadv(file, [buffers[0][: max(4096, len(buffers[0]) // 8192 * 4096)]], at)

    layers = HostLayers(modular, "int8", 9 * slot_bytes(modular), reader=read)
    plain = HostLayers(modular, "int8", 9 * slot_bytes(modular))
    for number in range(SPEC.layers):
        assert np.array_equal(layers.layer(number), plain.layer(number))
    layers.close()
    plain.close()


def test_where_o_direct_is_refused_the_reason_is_told(modular: Modular, monkeypatch):
    honest = os.open

    def refusing(path, flags: int, *rest) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return honest(path, flags, *rest)

    monkeypatch.setattr("afterwatt.engine.runtime.tiers.os.open", refusing)
    file = SsdFile(modular.directory / BUNDLES)
    assert not file.direct
    assert "O_DIRECT" in file.why_not
    file.close()
    with pytest.raises(CheckpointError, match="cannot read"):
        SsdFile(modular.directory / "nothing")

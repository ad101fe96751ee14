"""Networks from disk and host memory give what resident ones give; caches move what their policy says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from afterwatt.engine.model import quality
from afterwatt.engine.model.compute import load_model
from afterwatt.engine.model.devices import dtype_policy
from afterwatt.engine.model.ffn import ACTIVATION
from afterwatt.engine.model.options import ComputeOptions
from afterwatt.engine.model.products import Linear
from afterwatt.engine.model.tiered import TieredSource, decoded, load_rest
from afterwatt.engine.model.variants import Masked
from afterwatt.engine.runtime.modular import read_modular
from afterwatt.engine.runtime.preparing import Ranking, plan_prepare, prepare
from afterwatt.engine.runtime.quant import decode, encode
from afterwatt.engine.runtime.tiers import DEMAND, HIT, HostLayers
from afterwatt.modelspecs.bundles import PRECISIONS
from afterwatt.policies.caching.activity import Recorded
from afterwatt.policies.caching.making import CACHES, make_cache

KINDS = ["llama", "mixtral", "qwen3_moe"]
IDS = np.random.default_rng(0).integers(0, 97, 40)


@pytest.fixture(scope="module")
def prepared(tiny, tmp_path_factory):
    """By kind: the model as it was loaded whole, and its modular checkpoint with units in a drawn order."""
    made = {}

    def make(kind: str):
        if kind not in made:
            folder, _ = tiny(kind)
            loaded = load_model(folder, ComputeOptions(kv_blocks=64))
            plan = plan_prepare(folder, tmp_path_factory.mktemp("bundles") / "out", block_bytes=5000)
            drawn = np.random.default_rng(3).random((plan.bundles.layers, plan.bundles.units)).tolist()
            prepare(replace(plan, ranking=Ranking(drawn, {})))
            made[kind] = loaded, read_modular(plan.out)
        return made[kind]

    return make


def run(loaded, modular, window: int = 8, slots: int = 9, cache=None, keep: float = 1.0, precision: str = "fp32"):
    """The logits of all windows, and the source that gave the networks."""
    size = modular.bundles.blocks(precision) * modular.bundles.block_bytes(precision)
    host = HostLayers(modular, precision, slots * size, ahead=1)
    rest = load_rest(modular.directory, dtype_policy(None))
    variant = replace(loaded, config=rest[0], weights=rest[1])
    sources = []

    def source(linear):
        sources.append(TieredSource(modular, rest, host, precision, linear, cache and (cache, cache.capacity), keep))
        return sources[0]

    found = torch.cat([logits for logits, _ in quality._predictions(variant, IDS, window, source)])
    if slots < modular.bundles.layers:
        host.close()  # else all that is asked for afterwards is there
    return found, sources[0], host.traffic


@pytest.mark.parametrize("kind", KINDS)
def test_networks_from_below_give_what_resident_ones_give(kind, prepared):
    loaded, modular = prepared(kind)
    assert all(layer.gate_up is None for layer in load_rest(modular.directory, dtype_policy(None))[1].layers)
    wanted = torch.cat([logits for logits, _ in quality._predictions(loaded, IDS, 8)])
    found, _, _ = run(loaded, modular)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_streamed_equals_held_bit_for_bit(kind, precision, prepared):
    loaded, modular = prepared(kind)
    held, _, once = run(loaded, modular, slots=9, precision=precision)
    streamed, _, often = run(loaded, modular, slots=2, precision=precision)
    assert torch.equal(held, streamed)
    assert often.to("dram") >= once.to("dram") == modular.bundles.layers * modular.bundles.section_bytes(precision)


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_a_cache_changes_no_answer_and_moves_what_its_policy_says(kind, name, prepared):
    """The same fold over what the engine recorded gives the engine's hits, misses and bytes."""
    loaded, modular = prepared(kind)
    bundles = modular.bundles
    capacity, keep = max(1, bundles.units // 3), 0.2 if kind == "llama" else 1.0
    bare, _, _ = run(loaded, modular, window=4, keep=keep)
    cached, source, traffic = run(
        loaded, modular, 4, cache=make_cache(name, bundles.layers, bundles.units, capacity), keep=keep
    )
    assert torch.equal(bare, cached)
    assert source.pool_bytes == bundles.layers * capacity * bundles.unit_bytes("fp32")
    offsets = np.cumsum([0, *map(len, source.recorded)])
    played = Recorded(offsets, np.concatenate(source.recorded), bundles.layers)
    again, hits, moved = make_cache(name, bundles.layers, bundles.units, capacity), 0, 0
    for step in range(played.steps):
        for layer in range(bundles.layers):
            touched = again.touch(layer, played.active(step, layer, (0,)))
            hits += len(touched.hits)
            moved += len(np.union1d(touched.misses, touched.loads))
    assert traffic.moved["hbm", HIT] == hits * bundles.unit_bytes("fp32")
    assert traffic.moved["hbm", DEMAND] == moved * bundles.unit_bytes("fp32")


@pytest.mark.parametrize("name", [None, "adjacent", "momentum"])
def test_active_neurons_alone_equal_the_masked_dense_network(name, prepared):
    """Token by token, of each the same neurons by the size of their gates."""
    loaded, modular = prepared("llama")
    bundles, count = modular.bundles, 12
    cache = name and make_cache(name, bundles.layers, bundles.units, 8)
    _, source, _ = run(loaded, modular, cache=cache, keep=count / bundles.units)
    layer = loaded.weights.layers[0]
    masked = Masked(layer, [layer], [count], Linear(), ACTIVATION["silu"])
    generator = torch.Generator().manual_seed(2)
    with torch.inference_mode():
        for _ in range(6):
            row, onto = torch.randn(2, 1, bundles.hidden, generator=generator)
            torch.testing.assert_close(source.ffn(0)(row, onto), masked(row, onto), atol=1e-5, rtol=0)
            assert len(source.recorded[-1]) == count


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_device_decodes_what_numpy_decodes(precision):
    rows = np.random.default_rng(1).normal(size=(5, 3, 201)).astype(np.float32)
    bundles = encode(rows, precision)
    found = decoded(torch.from_numpy(bundles), 201, precision, torch.float32)
    assert np.array_equal(found.numpy(), decode(bundles, 201, precision))

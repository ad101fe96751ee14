"""On activity that the engine recorded, the simulator finds the same hits, misses and bytes of every tier."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from afterwatt.engine.model.compute import TorchCompute, load_model
from afterwatt.engine.model.options import ComputeOptions, TierOptions
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.modular import read_modular
from afterwatt.engine.runtime.preparing import Ranking, plan_prepare, prepare
from afterwatt.engine.runtime.tiers import DEMAND, FILL, HIT, PREFETCH
from afterwatt.policies.caching.making import CACHES
from afterwatt.policies.config import parse_policies
from afterwatt.policies.errors import PolicyError
from afterwatt.sim.cached import CachedLayers, read_activity
from afterwatt.sim.workload import StaticBatch
from tests.engine.model.tiny import Sequence, generate
from tests.helpers import make_config, run_body

STEPS, PROMPT = 12, 5


@pytest.fixture(scope="module")
def modular_of(tiny, tmp_path_factory):
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            plan = plan_prepare(tiny(kind)[0], tmp_path_factory.mktemp("bundles") / "out", block_bytes=5000)
            drawn = np.random.default_rng(3).random((plan.bundles.layers, plan.bundles.units)).tolist()
            prepare(replace(plan, ranking=Ranking(drawn, {})))
            made[kind] = plan.out
        return made[kind]

    return make


def recorded(directory: Path, words: str, record: Path, slots: int = 9) -> TorchCompute:
    """Serve one prompt and what follows it, token by token; the file holds what was active and moved."""
    bundles = read_modular(directory).bundles
    room = slots * bundles.blocks("int8") * bundles.block_bytes("int8")
    tiers = TierOptions(policies=parse_policies(words), precision="int8", dram_bytes=room, record=record)
    options = ComputeOptions(kv_blocks=8, tiers=tiers)
    compute = TorchCompute(load_model(directory, options), options)
    generate(compute, Sequence([3, 1, 4, 1, 5], [0, 1, 2]), STEPS)
    compute.close()
    return compute


@pytest.mark.parametrize("name", list(CACHES))
@pytest.mark.parametrize(
    ("kind", "words"), [("llama", "m2cache+density=30+room=40"), ("mixtral", "expert-cache+room=60")]
)
def test_simulator_and_engine_find_the_same(kind, words, name, modular_of, tmp_path):
    directory, record = modular_of(kind), tmp_path / "activity.npz"
    bundles = read_modular(directory).bundles
    compute = recorded(directory, f"{words}+cache={name}", record)
    moved = compute.host.traffic.moved
    config = make_config(
        StaticBatch(1, PROMPT, STEPS), "rtx3090", f"{words}+cache={name}+activity={record}", model=str(directory)
    )
    misses = CachedLayers(config, 0).misses
    crossings = [misses.of_step(step, (0,)) for step in range(STEPS)]
    unit = bundles.unit_bytes("int8")
    assert sum(one.hits for one in crossings) * unit == moved["hbm", HIT]
    assert sum(int(one.sizes.sum()) for one in crossings) == moved["hbm", DEMAND]
    assert sum(one.active for one in crossings) == len(np.load(record)["units"])
    # And so in a whole run, its prompt among the iterations.
    outcome = run_body(
        config.workload, config.deployment, f"{words}+cache={name}+activity={record}", model=str(directory)
    )
    assert outcome.result.timeline["dram_to_hbm_bytes"].sum() == moved["hbm", DEMAND]


@pytest.mark.parametrize("slots", [2, 9])
def test_layers_come_from_the_disk_as_often(slots, modular_of, tmp_path):
    directory, record = modular_of("llama"), tmp_path / "activity.npz"
    bundles = read_modular(directory).bundles
    words = "m2cache+density=30+ahead=1"
    moved = recorded(directory, words, record, slots).host.traffic.moved
    held = min(slots, bundles.layers)
    areas = f"{held}/0" if held == bundles.layers else f"{held - 2}/2"
    config = make_config(
        StaticBatch(1, PROMPT, STEPS), "rtx3090", f"{words}+dram={areas}+activity={record}", model=str(directory)
    )
    layers = CachedLayers(config, 0)
    for step in range(STEPS):
        layers.iteration(step * 10**12, (0,), (1, 8, (), 1), None)
    read = sum(moved["dram", reason] for reason in (FILL, PREFETCH, DEMAND))
    assert layers.asked_layers * bundles.section_bytes("int8") == read


def test_recordings_of_another_model_and_other_files_are_refused(modular_of, tmp_path):
    directory, record = modular_of("llama"), tmp_path / "activity.npz"
    recorded(directory, "m2cache+density=30", record)
    with pytest.raises(PolicyError, match=r"and the model has 32 of 11008"):
        read_activity(record, 32, 11008)
    record.write_bytes(record.read_bytes()[:200])
    with pytest.raises(PolicyError, match="is no recording of active units"):
        read_activity(record, 3, 10)
    with pytest.raises(PolicyError, match=r"is no recording .* \(FileNotFoundError\)"):
        read_activity(tmp_path / "nothing", 3, 10)


def test_streamed_networks_give_the_tokens_of_resident_ones(tiny, modular_of):
    folder, directory = tiny("llama")[0], modular_of("llama")
    tiers = TierOptions(policies=parse_policies("stream"), precision="fp32")
    found = []
    for place, options in (
        (folder, ComputeOptions(kv_blocks=8)),
        (directory, ComputeOptions(kv_blocks=8, tiers=tiers)),
    ):
        compute = TorchCompute(load_model(place, options), options)
        found.append(generate(compute, Sequence([3, 1, 4, 1, 5], [0, 1, 2]), STEPS))
        compute.close()
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("kind", "words", "more", "said"),
    [
        ("llama", "m2cache", {}, r"mix precisions.* as in shares=int8:100"),
        ("llama", "expert-cache", {}, "needs a mixture of experts"),
        ("mixtral", "m2cache+shares=int8:100", {}, "caches neurons of dense networks"),
        ("llama", "layers=2", {}, "is for the simulator; the engine has stream"),
        ("llama", "m2cache+shares=int8:100+cold=cpu", {}, "cold=cpu is for the simulator"),
        ("llama", "stream", {"precision": "int3"}, "and not in int3"),
        ("llama", "stream", {"dram_bytes": 10}, "bytes are missing of"),
        ("llama", "m2cache+shares=int8:100+room=50", {"hbm_bytes": 10}, "more than the 10 there are for it"),
    ],
)
def test_what_cannot_be_is_refused(kind, words, more, said, modular_of):
    tiers = TierOptions(policies=parse_policies(words), **more)
    options = ComputeOptions(kv_blocks=8, tiers=tiers)
    with pytest.raises((EngineError, PolicyError), match=said):
        TorchCompute(load_model(modular_of(kind), options), options)


def test_a_modular_checkpoint_wants_to_know_where_its_networks_lie(modular_of):
    with pytest.raises(EngineError, match="say where its networks lie"):
        load_model(modular_of("llama"), ComputeOptions(kv_blocks=8))

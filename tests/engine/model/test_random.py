"""Random checkpoints: of the shape asked for, the same however they are cut, and loadable by others."""

import pickle
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from afterwatt.engine.model.options import ComputeOptions, TorchComputeFactory
from afterwatt.engine.model.products import product
from afterwatt.engine.model.random_checkpoint import shrunk, write_random
from afterwatt.engine.runtime.compute import PlacedMove
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.modelspecs import load_model
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.policies.plans import Move
from tests.engine.model.tiny import Sequence, batch_of, load, logits_of

SMALL = {
    "layers": 2,
    "hidden": 32,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "ffn": 40,
    "vocab": 64,
    "max_context": 128,
}


def small(like: str) -> ModelSpec:
    return shrunk(load_model(like), **SMALL)


@pytest.mark.parametrize("like", ["llama-2-7b", "llama-3.2-1b", "mistral-7b-v0.3", "qwen2.5-0.5b"])
def test_transformers_computes_the_same_from_it(like: str, tmp_path: Path):
    write_random(small(like), tmp_path / "one", "fp32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one", dtype=torch.float32)
    assert sum(tensor.numel() for tensor in model.parameters()) == small(like).params
    compute = load(tmp_path / "one")
    assert compute.info.params == small(like).params
    tokens = list(range(40))
    found = logits_of(compute, [(Sequence(tokens, list(range(10))), 40)])[0]
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0, -1]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert found.isfinite().all()
    assert 0.1 < found.std() < 10


def test_how_it_is_cut_and_stored_changes_no_value(tmp_path: Path):
    spec = small("qwen2.5-0.5b")
    for name, dtype, shard_bytes in (("whole", "fp32", 10**9), ("cut", "fp32", 3000), ("half", "fp16", 3000)):
        write_random(spec, tmp_path / name, dtype, 4, shard_bytes)
    write_random(spec, tmp_path / "other", "fp32", 5)
    stored = {
        name: {key: value for path in (tmp_path / name).glob("*.safetensors") for key, value in load_file(path).items()}
        for name in ("whole", "cut", "half", "other")
    }
    shards = list((tmp_path / "cut").glob("*.safetensors"))
    assert len(shards) > 5
    largest = max(value.nbytes for value in stored["cut"].values())
    assert all(path.stat().st_size <= max(3000, largest) + 1000 for path in shards)
    for key, value in stored["whole"].items():
        assert torch.equal(value, stored["cut"][key])
        assert torch.equal(value.half(), stored["half"][key])
    assert not torch.equal(stored["whole"]["model.embed_tokens.weight"], stored["other"]["model.embed_tokens.weight"])


def test_nothing_is_overwritten_and_nothing_half_written_is_left(tmp_path: Path, monkeypatch):
    spec = small("llama-2-7b")
    write_random(spec, tmp_path / "one")
    with pytest.raises(EngineError, match="exists already"):
        write_random(spec, tmp_path / "one")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("afterwatt.engine.model.random_checkpoint.save_file", full)
    with pytest.raises(EngineError, match="No space left"):
        write_random(spec, tmp_path / "two")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_other_families_and_formats_are_refused(tmp_path: Path):
    with pytest.raises(EngineError, match="gemma"):
        write_random(load_model("gemma-2b"), tmp_path / "one")
    with pytest.raises(EngineError, match="int8"):
        write_random(small("llama-2-7b"), tmp_path / "one", "int8")


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_pickled_factory_builds_it(dtype: str, tmp_path: Path):
    """As a worker process gets it; stored narrow and computed wide gives about the same."""
    write_random(small("llama-2-7b"), tmp_path / "one", "fp32")
    factory = TorchComputeFactory(tmp_path / "one", ComputeOptions(dtype=dtype, kv_blocks=8, host_blocks=2))
    compute = pickle.loads(pickle.dumps(factory))()
    info = compute.info
    assert (info.model, info.device, info.dtype, info.kv_dtype) == ("one", "cpu", dtype, dtype)
    assert (info.kv_blocks, info.block_tokens, info.host_blocks, info.vocab, info.max_context) == (8, 16, 2, 64, 128)
    wide = load(tmp_path / "one")
    tokens = list(range(30))
    close = {"fp32": 1e-6, "fp16": 0.01, "bf16": 0.1}[dtype]
    wanted = logits_of(wide, [(Sequence(tokens, list(range(8))), 30)])[0]
    found = logits_of(compute, [(Sequence(tokens, [5, 2]), 30)])[0]
    torch.testing.assert_close(found, wanted, atol=close, rtol=0)
    seq = Sequence([*tokens, 3], [5, 2], 30)
    again = logits_of(compute, [(seq, 1)])[0]
    wanted = logits_of(wide, [(Sequence([*tokens, 3], list(range(8)), 30), 1)])[0]
    torch.testing.assert_close(again, wanted, atol=close, rtol=0)
    compute.close()


def test_wide_products_of_narrow_matrices_do_not_depend_on_how_they_are_cut(tmp_path: Path, monkeypatch):
    write_random(small("qwen2.5-0.5b"), tmp_path / "one", "fp16")
    tokens = [(Sequence(list(range(30)), [1, 0, 2, 3, 4, 5, 6, 7]), 30)]
    whole = logits_of(load(tmp_path / "one", dtype="fp16"), tokens)[0]
    monkeypatch.setattr("afterwatt.engine.model.products.CAST_ELEMENTS", 100)
    tokens[0][0].past = 0
    cut = logits_of(load(tmp_path / "one", dtype="fp16"), tokens)[0]
    torch.testing.assert_close(whole, cut, atol=1e-5, rtol=0)


def test_batches_that_cannot_be_are_refused(tmp_path: Path):
    write_random(small("llama-2-7b"), tmp_path / "one")
    compute = load(tmp_path / "one")
    with pytest.raises(EngineError, match="exceeds the context of 128"):
        compute.step(batch_of([(Sequence([0] * 129, list(range(40))), 129)]))
    with pytest.raises(EngineError, match="do not hold 9 tokens"):
        compute.step(batch_of([(Sequence([0] * 9, [3, 4]), 9)]))
    with pytest.raises(EngineError, match="2 blocks cannot be swapped with 1"):
        compute.move([PlacedMove(Move("kv", 0, 2, "hbm", "dram"), [1, 2], [0])])
    quiet = batch_of([(Sequence([0] * 9, [3, 4, 5]), 4)])
    assert compute.step(quiet) == []


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 20, 100, 255, 256, 300])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(70, 48), (1100, 1000)])
def test_products_are_those_of_linear_whichever_kernel_is_taken(rows: int, outputs: int, inputs: int, biased: bool):
    generator = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator) if biased else None
    found = product(x, weight, bias)
    assert found.is_contiguous()
    wanted = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(found.double(), wanted, atol=5e-4, rtol=0)

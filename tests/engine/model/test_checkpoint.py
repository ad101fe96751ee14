"""Checkpoints: what is sound is read exactly; what is damaged is refused, and the file and tensor are named."""

import json
import os
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from afterwatt.engine.model.checkpoint import load_weights, open_checkpoint
from afterwatt.engine.model.config import read_config
from afterwatt.engine.model.devices import DtypePolicy
from afterwatt.engine.model.random_checkpoint import write_random
from afterwatt.engine.model.weights import places
from afterwatt.engine.runtime import manifest
from afterwatt.engine.runtime.errors import CheckpointError, EngineError
from afterwatt.engine.runtime.shards import chunks, read_shard
from afterwatt.modelspecs.spec import ModelSpec
from tests.engine.model.tiny import load

FP32 = DtypePolicy(torch.float32, torch.float32, torch.float32)
CPU = torch.device("cpu")
SPEC = ModelSpec(
    name="tiny",
    family="qwen2",
    layers=2,
    hidden=16,
    heads=4,
    kv_heads=2,
    head_dim=4,
    ffn=24,
    ffn_matrices=3,
    vocab=40,
    max_context=64,
    norm="rms",
    qkv_bias=True,
)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    """Several shards, an index, a manifest."""
    folder = tmp_path_factory.mktemp("sharded") / "tiny"
    write_random(SPEC, folder, "fp16", shard_bytes=2000)
    assert len(list(folder.glob("*.safetensors"))) > 3
    manifest.write_manifest(folder)
    return folder


@pytest.fixture
def copied(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "tiny"))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """One file, no manifest."""
    write_random(SPEC, tmp_path / "one", "fp32")
    return tmp_path / "one"


def read(folder: Path, policy: DtypePolicy = FP32, verify: bool = True):
    checkpoint = open_checkpoint(folder, verify)
    config = read_config(folder)
    return config, load_weights(checkpoint, config, policy, CPU)


def refused(folder: Path, *named: str, verify: bool = True) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder, verify=verify)
    said = str(caught.value)
    assert "\n" not in said
    for name in named:
        assert name in said
    return said


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("into", [torch.float32, torch.float16, torch.bfloat16])
def test_values_are_those_that_safetensors_reads(tmp_path: Path, monkeypatch, dtype: str, into: torch.dtype):
    """With a buffer so small that every tensor comes in pieces."""
    monkeypatch.setattr("afterwatt.engine.model.checkpoint.CHUNK_BYTES", 200)
    write_random(SPEC, tmp_path / "tiny", dtype, shard_bytes=3000)
    config, weights = read(tmp_path / "tiny", DtypePolicy(into, torch.float32, into))
    stored = {k: v for path in (tmp_path / "tiny").glob("*.safetensors") for k, v in load_file(path).items()}
    found = places(config, weights)
    assert found.keys() == stored.keys()
    for name, place in found.items():
        rows = place.into if place.order is None else place.into[place.order]
        assert torch.equal(rows, stored[name].to(place.into.dtype)), name


def test_a_loaded_model_takes_its_weights_and_little_more(single: Path):
    config, weights = read(single)
    assert weights.bytes == 4 * config.spec.params


def file_and_tensor(folder: Path, place: int) -> tuple[Path, int, str | None]:
    """The file, the offset in it, and the tensor, of a byte of the whole directory."""
    for path in sorted(folder.iterdir()):
        size = path.stat().st_size
        if place < size:
            if path.suffix != ".safetensors":
                return path, place, None
            entries = read_shard(path).tensors.values()
            return path, place, next((e.name for e in entries if e.begin <= place < e.end), None)
        place -= size
    raise AssertionError


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_refused_by_name(sharded: Path, data: st.DataObject):
    """In any file, the manifest included; where the byte lies in a tensor, the tensor is named."""
    # Small files would hardly be met by chance among the tensors' bytes.
    target = data.draw(st.sampled_from(sorted(sharded.iterdir())))
    offset = data.draw(st.integers(0, target.stat().st_size - 1))
    start = sum(path.stat().st_size for path in sorted(sharded.iterdir()) if path < target)
    path, offset, tensor = file_and_tensor(sharded, start + offset)
    sound = path.read_bytes()
    other = data.draw(st.integers(1, 255))
    flipped = bytes([sound[offset] ^ other])
    if sound[offset : offset + 1] in b" \n\t\r" and flipped in b" \n\t\r" and path.name == manifest.NAME:
        return  # white space of the manifest says nothing
    try:
        path.write_bytes(sound[:offset] + flipped + sound[offset + 1 :])
        refused(sharded, str(path), *([repr(tensor)] if tensor else []))
    finally:
        path.write_bytes(sound)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_truncated_file_is_refused_by_name(sharded: Path, data: st.DataObject):
    path = data.draw(st.sampled_from(sorted(sharded.iterdir())))
    sound = path.read_bytes()
    keep = data.draw(st.integers(0, len(sound) - 1))
    if path.name == manifest.NAME and keep == len(sound) - 1:
        return  # but the last line's end
    try:
        path.write_bytes(sound[:keep])
        refused(sharded, str(path))
    finally:
        path.write_bytes(sound)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_truncated_shard_is_refused_without_a_manifest_too(sharded: Path, data: st.DataObject):
    path = data.draw(st.sampled_from(sorted(sharded.glob("*.safetensors"))))
    sound = path.read_bytes()
    keep = data.draw(st.integers(0, len(sound) - 1))
    try:
        path.write_bytes(sound[:keep])
        refused(sharded, str(path), verify=False)
    finally:
        path.write_bytes(sound)


def test_every_tensor_is_verified(copied: Path):
    for path in sorted(copied.glob("*.safetensors")):
        for entry in read_shard(path).tensors.values():
            sound = path.read_bytes()
            path.write_bytes(sound[: entry.end - 1] + bytes([sound[entry.end - 1] ^ 1]) + sound[entry.end :])
            refused(copied, str(path), repr(entry.name), "checksum")
            read(copied, verify=False)  # only the manifest could know
            path.write_bytes(sound)
    read(copied)


@pytest.mark.parametrize("prepared", [True, False])
def test_missing_and_extra_shards_are_refused(copied: Path, prepared: bool):
    if not prepared:
        (copied / manifest.NAME).unlink()
    first = min(copied.glob("*.safetensors"))
    extra = copied / "model-00099-of-00099.safetensors"
    shutil.copy(first, extra)
    refused(copied, str(extra))
    extra.unlink()
    (copied / "consolidated.00.pth.safetensors").write_bytes(b"another loader's")
    read(copied)
    kept = first.read_bytes()
    first.unlink()
    refused(copied, str(first), "missing")
    first.write_bytes(kept)
    (copied / INDEX).unlink()
    refused(copied, INDEX)


def test_an_index_that_leads_astray_is_refused(copied: Path):
    (copied / manifest.NAME).unlink()
    index = json.loads((copied / INDEX).read_text())
    names = sorted(set(index["weight_map"].values()))
    norm = "model.norm.weight"

    def told(**changes):
        (copied / INDEX).write_text(json.dumps(index | changes))
        return copied

    refused(told(weight_map=index["weight_map"] | {norm: "../outside.safetensors"}), norm, "outside")
    refused(told(weight_map=index["weight_map"] | {norm: names[1]}), norm, names[1])
    refused(told(weight_map=index["weight_map"] | {"another.weight": names[0]}), "another.weight", names[0])
    refused(told(weight_map={k: v for k, v in index["weight_map"].items() if k != norm}), norm)
    refused(told(weight_map={}), INDEX)
    refused(told(weight_map=[1]), INDEX)
    (copied / INDEX).write_text("{")
    refused(copied, INDEX, "JSON")


def rewritten(folder: Path, change) -> Path:
    """The single shard with its tensors changed."""
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE)
    return folder


def test_tensors_must_be_exactly_those_of_the_model(single: Path):
    name = "model.layers.1.mlp.up_proj.weight"
    refused(rewritten(single, lambda t: t.update({name: torch.zeros(24, 17)})), SINGLE, name, "[24, 17]", "[24, 16]")
    refused(rewritten(single, lambda t: t.update({name: torch.zeros(24, 16, dtype=torch.int8)})), name, "I8")
    refused(rewritten(single, lambda t: t.update({name: torch.zeros(24, 16).double()})), name, "F64")
    refused(rewritten(single, lambda t: t.pop(name)), name, "missing")
    with_another = {name: torch.zeros(24, 16), "model.layers.2.mlp.up_proj.weight": torch.zeros(24, 16)}
    refused(rewritten(single, lambda t: t.update(with_another)), "model.layers.2.mlp.up_proj.weight")
    rewritten(single, lambda t: t.pop("model.layers.2.mlp.up_proj.weight"))
    read(rewritten(single, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)})))


def test_a_stored_head_beside_tied_embeddings_must_be_the_embedding(single: Path):
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    refused(single, "lm_head.weight", "ties")
    rewritten(single, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    _, weights = read(single)
    assert weights.head is weights.embedding
    refused(
        rewritten(single, lambda t: t.update({"lm_head.weight": torch.zeros(40, 17)})), "lm_head.weight", "[40, 17]"
    )


def shard_of(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        ({"a": GOOD}, bytes(7), "truncated"),
        ({"a": GOOD}, bytes(9), "1 bytes follow"),
        ({"a": {**GOOD, "dtype": "F3"}}, bytes(8), "dtype 'F3'"),
        ({"a": {**GOOD, "dtype": ["F32"]}}, bytes(8), "dtype ['F32']"),
        ({"a": {**GOOD, "shape": [3]}}, bytes(8), "needs 12 bytes"),
        ({"a": {**GOOD, "shape": [-2]}}, bytes(8), "whole numbers"),
        ({"a": {**GOOD, "shape": [2.0]}}, bytes(8), "whole numbers"),
        ({"a": {**GOOD, "shape": [True, 2]}}, bytes(8), "whole numbers"),
        ({"a": {**GOOD, "data_offsets": [8, 0]}}, bytes(8), "needs 8 bytes"),
        ({"a": {**GOOD, "data_offsets": [0, 8, 8]}}, bytes(8), "whole numbers"),
        ({"a": {**GOOD, "data_offsets": [4, 12]}}, bytes(12), "begins at byte"),
        ({"a": GOOD, "b": GOOD}, bytes(8), "begins at byte"),
        ({"a": GOOD, "b": {**GOOD, "data_offsets": [9, 17]}}, bytes(17), "begins at byte"),
        ({"a": {**GOOD, "more": 1}}, bytes(8), "exactly dtype"),
        ({"a": [1]}, bytes(8), "exactly dtype"),
        ({"a": GOOD, "__metadata__": {"x": 1}}, bytes(8), "__metadata__"),
        ([GOOD], bytes(8), "not an object"),
        (b"{", b"", "not valid JSON"),
        (b"\xff\xff", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (b'{"a": 1, "a": 2}', b"", "twice"),
    ],
)
def test_a_header_is_not_trusted(tmp_path: Path, header: object, data: bytes, said: str):
    path = shard_of(tmp_path / "x.safetensors", header, data)
    with pytest.raises(CheckpointError, match=re.escape(said)) as caught:
        read_shard(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("start", [b"", b"\x01\x02", struct.pack("<Q", 2**63), struct.pack("<Q", 100), bytes(8)])
def test_a_length_field_is_not_trusted(tmp_path: Path, start: bytes):
    (tmp_path / "x.safetensors").write_bytes(start)
    with pytest.raises(CheckpointError, match=re.escape("x.safetensors")):
        read_shard(tmp_path / "x.safetensors")


names = st.text("abc.", min_size=1, max_size=4)
shapes = st.lists(st.integers(0, 4), max_size=3)


@settings(max_examples=40, deadline=None)
@given(tensors=st.dictionaries(names, st.tuples(shapes, st.sampled_from([torch.float32, torch.float16, torch.int64]))))
def test_headers_are_read_as_safetensors_writes_them(tmp_path_factory, tensors):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    made = {name: torch.ones(shape).to(dtype) for name, (shape, dtype) in tensors.items()}
    save_file(made, path)
    shard = read_shard(path)
    assert {name: list(entry.shape) for name, entry in shard.tensors.items()} == {
        n: list(t.shape) for n, t in made.items()
    }
    for name, entry in shard.tensors.items():
        stored = b"".join(bytes(chunk) for chunk in chunks(path, entry.begin, entry.end, 5))
        assert stored == made[name].numpy().tobytes()


def headed(path: Path, header: object, body: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def test_metadata_that_is_null_is_none(tmp_path: Path):
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    shard = read_shard(headed(tmp_path / "x.safetensors", {"__metadata__": None, "a": tensor}, bytes(8)))
    assert list(shard.tensors) == ["a"]
    for wrong in ([], 1, {"format": 1}):
        with pytest.raises(CheckpointError, match="must map names to texts"):
            read_shard(headed(tmp_path / "x.safetensors", {"__metadata__": wrong, "a": tensor}, bytes(8)))


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 10**6,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": {"dtype": "F32", "shape": [' + b"1," * 10**7 + b'1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [' + b"9" * 4000 + b'], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, ' + b"9" * 4000 + b"]}}",
        b'{"a": {"dtype": "' + b"F" * 10**6 + b'", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"' + b"a" * 10**6 + b'": 1}',
        b'{"a": {"dtype": "F32", "shape": [1, true], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}',
        b'{"\\ud800": 1}',
    ],
)
def test_a_header_made_to_fill_the_memory_is_one_short_sentence(tmp_path: Path, header: bytes):
    with pytest.raises(CheckpointError) as caught:
        read_shard(headed(tmp_path / "x.safetensors", header, bytes(4)))
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json", "manifest", INDEX])
@pytest.mark.parametrize("kind", ["pipe", "zeros", "folder"])
def test_what_is_no_regular_file_is_not_read(single: Path, name: str, kind: str):
    path = single / (manifest.NAME if name == "manifest" else name)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zeros":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    refused(single, str(path))


def test_a_config_that_implies_more_than_the_files_hold_takes_no_room(single: Path):
    fields = json.loads((single / "config.json").read_text())
    for name, value in (("num_hidden_layers", 2000), ("vocab_size", 10**6), ("intermediate_size", 10**5)):
        (single / "config.json").write_text(json.dumps({**fields, name: value}))
        refused(single, "config.json implies", "its files hold", verify=False)


def test_a_manifest_is_made_of_sound_checkpoints_only(copied: Path):
    shard = max(copied.glob("*.safetensors"))
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-1])
    before = (copied / manifest.NAME).read_bytes()
    with pytest.raises(CheckpointError, match="truncated"):
        manifest.write_manifest(copied)
    assert (copied / manifest.NAME).read_bytes() == before
    shard.write_bytes(sound)
    manifest.write_manifest(copied)
    assert (copied / manifest.NAME).read_bytes() == before
    manifest.verify(copied)
    (copied / "tokenizer.json").write_text("{}")
    refused(copied, "tokenizer.json")


def test_whole_file_checksums_are_those_of_other_tools(copied: Path):
    import hashlib

    for name, record in manifest.read_manifest(copied).items():
        assert record.sha256 == hashlib.sha256((copied / name).read_bytes()).hexdigest()


def test_pickles_are_never_opened(tmp_path: Path, single: Path):
    (single / SINGLE).rename(single / "pytorch_model.bin")
    refused(single, "found none")
    with pytest.raises(CheckpointError, match="cannot read"):
        open_checkpoint(tmp_path / "nowhere")


def test_memory_is_sized_before_it_is_taken(single: Path):
    """A budget one byte short of one block is refused by that byte; with it, one block there is."""
    common = {"kv_blocks": None, "max_seqs": 2, "max_batch_tokens": 8}
    with pytest.raises(EngineError, match="more than the 1 there are") as caught:
        load(single, memory_bytes=1, **common)
    missing = int(re.search(r"([\d,]+) more than", str(caught.value))[1].replace(",", ""))
    with pytest.raises(EngineError, match=re.escape(" 1 more than")):
        load(single, memory_bytes=missing, **common)
    assert load(single, memory_bytes=missing + 1, **common).info.kv_blocks == 1
    block = load(single).info.more["block_bytes"]
    assert block == 2 * 2 * 4 * 2 * 4 * 4  # layers, keys and values, tokens, heads, width, fp32
    assert load(single, memory_bytes=missing + 1 + 3 * block, **common).info.kv_blocks == 4
    most = 2 * 64 // 4
    assert load(single, memory_bytes=missing + 10**9, **common).info.kv_blocks == most  # more could never be used
    with pytest.raises(EngineError, match="40 KV blocks"):
        load(single, memory_bytes=missing + 1, **common | {"kv_blocks": 40})

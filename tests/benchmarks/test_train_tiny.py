"""The tiny models: their training can be interrupted, and the committed checkpoints are as good as they say."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the tiny models need torch")

from safetensors import safe_open  # noqa: E402

from benchmarks import tiny_corpus, train_tiny  # noqa: E402
from benchmarks.tiny_llama import Shape, TinyLlama  # noqa: E402

DATA = Path(__file__).parents[1] / "data"
NAMES = ["tiny-llama", "tiny-llama-draft", "tiny-llama-relu"]
SHAPE = Shape(hidden=16, layers=2, heads=4, kv_heads=2, neurons=24)
TEXT = bytes(range(1, 256)) * 200


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(steps: int = 6) -> train_tiny.Run:
    return train_tiny.Run(train_tiny.Recipe(SHAPE, steps=steps, seed=1, corpus_sha256="none"), TEXT)


def advance_to(this: train_tiny.Run, step: int) -> None:
    while this.step < step:
        this.advance()


def held_out_windows():
    content = (DATA / "held-out.txt").read_bytes()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, 256).long()


def evaluation(name: str) -> dict:
    return json.loads((DATA / name / "eval.json").read_text())


def test_a_resumed_run_ends_bit_for_bit_where_one_without_a_break_ends(tmp_path: Path):
    whole, before, after = run(), run(), run()
    advance_to(whole, 6)
    advance_to(before, 3)
    before.save(tmp_path / "state")
    after.load(tmp_path / "state")
    assert after.step == 3
    advance_to(after, 6)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[name]), name


def test_the_state_of_another_run_is_refused(tmp_path: Path):
    run(steps=6).save(tmp_path / "state")
    with pytest.raises(SystemExit, match="is of another run"):
        run(steps=7).load(tmp_path / "state")


def test_an_epoch_shows_each_window_once():
    this = run()
    per_epoch = (len(TEXT) - 256) // 256 // train_tiny.BATCH_WINDOWS
    this.text = torch.arange(len(TEXT))  # so that a window tells where it was cut
    starts = []
    for step in range(per_epoch):
        this.step = step
        windows = this.batch()
        assert torch.equal(windows.diff(), torch.ones(train_tiny.BATCH_WINDOWS, 256, dtype=torch.long))
        starts += windows[:, 0].tolist()
    assert len(set(starts)) == per_epoch * train_tiny.BATCH_WINDOWS
    assert {(start - starts[0]) % 256 for start in starts} == {0}


def test_what_is_trained_on_and_what_is_held_out_are_different_files():
    corpus = tiny_corpus.read_corpus()
    assert {name for name, _ in corpus.train}.isdisjoint(name for name, _ in corpus.held_out)
    assert all(tiny_corpus.is_held_out(name) for name, _ in corpus.held_out)
    held_out = sum(len(content) for _, content in corpus.held_out)
    assert 0.01 < held_out / (held_out + len(corpus.train_bytes())) < 0.1


def test_a_library_that_is_not_the_text_of_the_checkpoints_is_refused_with_the_way_out():
    corpus = tiny_corpus.read_corpus()
    with pytest.raises(SystemExit, match=r"is not the text of the committed checkpoints .* say --any-corpus"):
        tiny_corpus.check_corpus(replace(corpus, sha256="0" * 64))
    tiny_corpus.check_corpus(replace(corpus, sha256=tiny_corpus.CORPUS_SHA256))


def test_a_file_that_changes_in_one_byte_is_another_corpus(tmp_path: Path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "skipped.py").write_text("not read")
    (tmp_path / "a.py").write_text("x = 1\n")
    first = tiny_corpus.read_corpus(tmp_path)
    assert [name for name, _ in first.train + first.held_out] == ["a.py"]
    (tmp_path / "a.py").write_text("x = 2\n")
    assert tiny_corpus.read_corpus(tmp_path).sha256 != first.sha256
    (tmp_path / "a.py").write_bytes(b"x = 1\0")
    with pytest.raises(SystemExit, match="contains byte 0, which stands for end of text"):
        tiny_corpus.read_corpus(tmp_path)


def test_the_model_sees_no_later_byte():
    torch.manual_seed(0)
    model = TinyLlama(SHAPE)
    tokens = torch.randint(256, (2, 20))
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 256
    with torch.inference_mode():
        assert torch.equal(model(tokens)[:, :12], model(changed)[:, :12])
        assert not torch.equal(model(tokens)[:, 12:], model(changed)[:, 12:])


def test_a_model_that_knows_nothing_costs_the_entropy_of_a_byte():
    model = TinyLlama(SHAPE)
    torch.nn.init.zeros_(model.lm_head.weight)
    assert train_tiny.nats_per_byte(model, torch.randint(256, (3, 256))) == pytest.approx(math.log(256), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_checkpoint_says_where_it_comes_from(name: str):
    said = evaluation(name)
    with safe_open(DATA / name / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["corpus_sha256"] == said["corpus_sha256"] == tiny_corpus.CORPUS_SHA256
    assert metadata["python_version"] == said["python_version"] == tiny_corpus.PYTHON_VERSION
    shape, steps = train_tiny.MODELS[name.removeprefix("tiny-llama").removeprefix("-") or "main"]
    assert said["steps"] == steps
    assert said["parameters"] == sum(value.numel() for value in TinyLlama(shape).parameters())
    assert train_tiny.shape_of(json.loads((DATA / name / "config.json").read_text())) == shape


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_committed_checkpoint_is_as_good_as_it_says_to_transformers(name: str):
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(DATA / name, dtype=torch.float32)
    windows = held_out_windows()
    total = 0.0
    with torch.inference_mode():
        for batch in windows.split(16):
            logits = model(batch).logits[:, :-1]
            total += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
            ).item()
    said = evaluation(name)
    assert windows[:, 1:].numel() == said["scored_bytes"]
    assert total / said["scored_bytes"] == pytest.approx(said["nats_per_byte"], abs=1e-4)
    assert math.exp(said["nats_per_byte"]) == pytest.approx(said["perplexity_per_byte"], rel=1e-9)


def test_the_held_out_sample_is_the_text_that_quality_is_measured_on():
    """Where this Python is the one whose library was trained on: elsewhere the file stands for it."""
    corpus = tiny_corpus.read_corpus()
    if corpus.sha256 != tiny_corpus.CORPUS_SHA256:
        pytest.skip(f"the library of Python {corpus.python_version} is not that of {tiny_corpus.PYTHON_VERSION}")
    sample = b"".join(piece for _, piece in corpus.sample_pieces())
    assert hashlib.sha256(sample).digest() == hashlib.sha256((DATA / "held-out.txt").read_bytes()).digest()

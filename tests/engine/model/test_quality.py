"""Quality is measured on models that mean something: the committed ones give their held-out text its likelihood."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from afterwatt.engine.model.compute import load_model
from afterwatt.engine.model.options import ComputeOptions
from afterwatt.engine.runtime.errors import EngineError
from tests.engine.model.quality import nats_per_token, perplexity

DATA = Path(__file__).parents[2] / "data"
MODELS = sorted(path.parent.name for path in DATA.glob("*/eval.json"))


def text(most: int | None = None) -> np.ndarray:
    return np.frombuffer((DATA / "held-out.txt").read_bytes()[:most], dtype=np.uint8).astype(np.int64)


def loaded(name: str, **options):
    torch.set_num_threads(1)
    return load_model(DATA / name, ComputeOptions(**{"kv_blocks": 32, **options}))


def test_there_are_models():
    assert "tiny-llama" in MODELS


@pytest.mark.parametrize("name", MODELS)
def test_the_engine_gives_the_held_out_text_the_likelihood_that_was_noted_down(name: str):
    said = json.loads((DATA / name / "eval.json").read_text())
    assert nats_per_token(loaded(name), text(), said["window_bytes"]) == pytest.approx(said["nats_per_byte"], abs=1e-3)


def test_bf16_costs_little_and_noise_costs_much():
    """The measure moves with quality: rounding all weights is nearly nothing, disturbing them is not."""
    some = text(8192)
    exact = nats_per_token(loaded("tiny-llama"), some, 256)
    rounded = nats_per_token(loaded("tiny-llama", dtype="bf16"), some, 256)
    assert abs(rounded - exact) < 0.02
    model = loaded("tiny-llama")
    generator = torch.Generator().manual_seed(0)
    for layer in model.weights.layers:
        layer.down += 3.0 * layer.down.std() * torch.randn(layer.down.shape, generator=generator)
    assert nats_per_token(model, some, 256) > exact + 0.1


def test_perplexity_is_the_exponential_and_uniform_is_the_vocabulary():
    model = loaded("tiny-llama")
    some = text(1024)
    assert perplexity(model, some, 128) == pytest.approx(np.exp(nats_per_token(model, some, 128)))
    model.weights.head.zero_()
    assert perplexity(model, some, 128) == pytest.approx(model.config.spec.vocab)


def test_windows_out_of_range_and_empty_texts_are_refused():
    model = loaded("tiny-llama")
    with pytest.raises(EngineError, match="must lie in 2"):
        nats_per_token(model, text(100), 1)
    with pytest.raises(EngineError, match="nothing to score"):
        nats_per_token(model, text(1), 16)

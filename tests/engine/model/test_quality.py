"""Quality is measured on models that mean something: the committed ones give their held-out text its likelihood."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from afterwatt.engine.model import quality
from afterwatt.engine.model.compute import load_model
from afterwatt.engine.model.options import ComputeOptions
from afterwatt.engine.model.quality import compare, importance, nats_per_token
from afterwatt.engine.model.variants import parse_variant, realised
from afterwatt.engine.runtime.errors import EngineError

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
    model = loaded("tiny-llama-draft")
    some = text(1024)
    found = compare(model, model, some, 128)
    assert found.nats_per_token == pytest.approx(nats_per_token(model, some, 128))
    assert found.perplexity == pytest.approx(np.exp(found.nats_per_token))
    model.weights.head.zero_()
    assert compare(model, model, some, 128).perplexity == pytest.approx(model.config.spec.vocab)


def test_a_model_is_no_distance_from_itself_and_another_is_as_far_as_the_definition_says():
    model, other = loaded("tiny-llama-draft"), loaded("tiny-llama-draft")
    some = text(1000)  # its last window is shorter
    same = compare(model, model, some, 128)
    assert (same.kl_nats, same.agreement_frac, same.tokens) == (0.0, 1.0, 1000 - 8)
    other.weights.head.zero_()  # a uniform distribution: KL = log V - entropy
    far = compare(model, other, some, 128)
    entropies = []
    for logits, _ in quality._predictions(model, some, 128):
        truth = torch.log_softmax(logits.double(), -1)
        entropies += (-(truth.exp() * truth).sum(-1)).tolist()
    assert far.kl_nats == pytest.approx(np.log(model.config.spec.vocab) - np.mean(entropies))


def measured(model, policy: str, ranking=None, some=None):
    changed, source = realised(model, parse_variant(policy, "fp32"), ranking)
    return compare(model, changed, text(1536) if some is None else some, 256, source)


def test_fewer_bits_stray_further_and_what_matters_is_worth_more_of_them():
    model = loaded("tiny-llama-draft")
    ranking = importance(model, text()[8192:10240], 256, {})
    against = type(ranking)([[-score for score in layer] for layer in ranking.importance], {})
    int8, int4 = measured(model, "int8"), measured(model, "int4")
    assert 0 < int8.kl_nats < int4.kl_nats
    assert measured(model, "fp32").kl_nats == 0.0
    well, badly = measured(model, "50/0/50", ranking), measured(model, "50/0/50", against)
    assert int8.kl_nats < well.kl_nats < badly.kl_nats < 2 * int4.kl_nats


@pytest.mark.parametrize("name", ["tiny-llama-draft", "tiny-llama-relu"])
def test_masks_that_leave_nothing_out_are_the_model_and_gate_ranks_beat_static_ones(name):
    model = loaded(name)
    ranking = importance(model, text()[8192:10240], 256, {})
    assert measured(model, "fp32:50/fp16:50+rank=gate").kl_nats < 1e-6
    static = measured(model, "fp32:50", ranking)
    assert measured(model, "fp32:50+rank=gate").kl_nats < static.kl_nats
    if name == "tiny-llama-relu":  # a neuron whose gate is zero gives nothing
        idle = measured(model, "fp32:99+rank=gate")
        assert idle.kl_nats < 1e-9


def test_importance_is_the_mean_of_what_neurons_give():
    model = loaded("tiny-llama-draft")
    ranking = importance(model, text(600), 128, {"text": "held out"})
    assert ranking.about == {"text": "held out"}
    model.weights.layers[0].gate_up[5] = 0.0  # its gate is shut
    found = importance(model, text(600), 128, {})
    assert found.importance[0][5] == 0.0 < ranking.importance[0][5]
    scale = 3.0
    model.weights.layers[-1].gate_up[model.config.spec.ffn :] *= scale  # the last layer's ups: nothing else changes
    assert importance(model, text(600), 128, {}).importance[-1] == pytest.approx(
        [scale * score for score in found.importance[-1]], rel=1e-5
    )


def test_of_a_mixture_importance_is_the_share_of_the_picks(tiny):
    folder, _ = tiny("mixtral")
    model = load_model(folder, ComputeOptions(kv_blocks=32))
    ranking = importance(model, text(300) % 97, 64, {})
    for layer in ranking.importance:
        assert len(layer) == model.config.spec.experts
        assert sum(layer) == pytest.approx(1.0)
    assert measured(model, "int4", None, text(300) % 97).kl_nats > 0
    with pytest.raises(EngineError, match="router chooses"):
        measured(model, "fp32:50+rank=gate")


@pytest.mark.parametrize(
    ("policy", "said"),
    [("int3", "int3"), ("int8+rank=best", "rank=static"), ("50/50", "--calibrate"), ("fp32:50", "--calibrate")],
)
def test_policies_that_cannot_be_measured_are_refused(policy, said):
    with pytest.raises(EngineError, match=said):
        measured(loaded("tiny-llama-draft"), policy, None, text(100))


def test_windows_out_of_range_and_empty_texts_are_refused():
    model = loaded("tiny-llama")
    with pytest.raises(EngineError, match="must lie in 2"):
        nats_per_token(model, text(100), 1)
    with pytest.raises(EngineError, match="nothing to score"):
        nats_per_token(model, text(1), 16)

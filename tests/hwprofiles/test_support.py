"""Which software runs on which card, with which weights: refused where it cannot, chosen so that it can."""

import pytest

from afterwatt.hwprofiles import device_names, load_device
from afterwatt.hwprofiles.stacks import DEFAULT_STACK, default_stack, stack_names
from afterwatt.hwprofiles.support import obstacle, refusal, supports, usual_stack
from afterwatt.modelspecs.precision import PRECISIONS, load_precision


@pytest.mark.parametrize(
    ("stack", "card", "precision", "why"),
    [
        ("vllm", "m40", "fp16", "needs compute capability 7.0 or newer; m40-24 has 5.2"),
        ("vllm@2023", "k80", "fp16", "needs compute capability 7.0 or newer; k80 has 3.7"),
        ("vllm", "p40", "fp8", "needs compute capability 7.0 or newer; p40 has 6.1"),
        ("vllm", "v100-pcie-32", "awq", "needs compute capability 7.5 or newer for awq; v100-pcie-32 has 7.0"),
        ("vllm", "t4", "fp8", "needs compute capability 8.0 or newer for fp8; t4 has 7.5"),
        ("tensorrt-llm", "k80", "int4", "needs compute capability 8.0 or newer; k80 has 3.7"),
        ("tensorrt-llm", "a100-80", "fp8", "needs compute capability 8.9 or newer for fp8; a100-80 has 8.0"),
        ("tensorrt-llm", "mi300x", "fp16", "runs on cards of NVIDIA only; mi300x is of AMD"),
        ("llama.cpp-cuda", "rtx3090", "awq", "does not load awq"),
        ("llama.cpp-cuda@2024", "rtx3090", "gptq", "does not load gptq"),
        ("llama.cpp-cuda", "p40", "fp8", "does not load fp8"),
        ("vllm", "a100-80", "qtip-2bit", "does not load qtip-2bit"),
    ],
)
def test_what_cannot_run_is_told_with_what_would(stack, card, precision, why):
    device, form = load_device(card), load_precision(precision)
    said = refusal(stack, device, form)
    assert said is not None
    assert said.startswith(f"{stack} {why}")
    offers = said.partition("would run: ")[2].split(", ")
    for flag, name in (offer.split(" ") for offer in offers):
        again = (name, form) if flag == "--stack" else (stack, load_precision(name))
        assert obstacle(again[0], device, again[1]) is None


@pytest.mark.parametrize(
    ("stack", "card", "precision"),
    [
        ("vllm", "v100-pcie-32", "gptq"),
        ("vllm", "t4", "awq"),
        ("vllm", "rtx3090", "fp8"),
        ("vllm", "a100-80", "q4_k_m"),
        ("vllm", "mi300x", "awq"),
        ("tensorrt-llm", "l40s", "fp8"),
        ("llama.cpp-cuda", "k80", "q4_k_m"),
        ("llama.cpp-cuda", "m40", "int8"),
        ("generic", "k80", "fp8"),
        ("exllama", "p40", "awq"),
    ],
)
def test_what_runs_or_is_not_known_about_is_let_through(stack, card, precision):
    assert refusal(stack, load_device(card), load_precision(precision)) is None


def test_every_claim_is_of_a_shipped_stack_and_a_known_format():
    assert set(supports()) <= set(stack_names())
    for support in supports().values():
        assert set(support.formats) <= {*PRECISIONS, "gguf"}


@pytest.mark.parametrize("precision", ["fp16", "awq", "fp8", "q4_k_m", "nvfp4"])
def test_the_usual_stack_can_run_what_it_is_taken_for(precision):
    form = load_precision(precision)
    for name in device_names():
        device = load_device(name)
        usual = usual_stack(device, form)
        assert obstacle(usual, device, form) is None
        assert (usual == default_stack(device)) == (obstacle(default_stack(device), device, form) is None)


def test_another_stack_is_taken_before_the_one_of_none():
    assert usual_stack(load_device("t4"), load_precision("awq")) == "vllm"
    assert usual_stack(load_device("m40"), load_precision("awq")) == DEFAULT_STACK

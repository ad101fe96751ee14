"""What stacks take on particular cards, held to what people measured there."""

import pytest

from afterwatt.hwprofiles.deployment import parse_deployment
from afterwatt.hwprofiles.kernels import gemm_s
from afterwatt.hwprofiles.rates import reached_rates
from afterwatt.hwprofiles.roofline import PS_PER_S, TimeModel
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.modelspecs import load_model, load_precision


def times(hw: str, stack: str, model: str, precision: str) -> TimeModel:
    deployment = parse_deployment(hw)
    return TimeModel(
        Serving(deployment, load_model(model), load_precision(precision), load_stack(deployment.pool.device, stack))
    )


def decode_s(model: TimeModel, sequences: int) -> float:
    return model.step(sequences, 64 * sequences, [], sequences, 1)[0] / PS_PER_S


def prompt_s(model: TimeModel, tokens: int = 512) -> float:
    return model.step(0, 0, [(None, tokens, 0)], 1, 1)[0] / PS_PER_S


@pytest.mark.parametrize("card", ["m40", "p100-16", "k80"])
def test_quantised_prompts_on_cards_without_byte_products_run_near_their_wide_rate(card: str):
    """cuBLAS multiplies what was unpacked before (ggml-cuda: ggml_cuda_should_use_mmq)."""
    wide, packed = (prompt_s(times(card, "llama.cpp-cuda", "llama-2-7b", name)) for name in ("fp16", "q4_0"))
    assert 0.8 * wide < packed < 1.4 * wide


def test_a_prompt_of_int4_on_an_m40_takes_seconds():
    assert 1.0 < prompt_s(times("m40", "llama.cpp-cuda", "llama-2-7b", "q4_0")) < 4.0


def test_volta_unpacks_prompts_from_64_rows_on():
    """A V100's quantised prompts were measured at 1.21 of the time of 16 bits."""
    cards = (times("v100-pcie-32", "llama.cpp-cuda", "llama-3.1-8b", name) for name in ("fp16", "q4_k_m"))
    wide, packed = map(prompt_s, cards)
    assert 0.9 < packed / wide < 1.5


def test_few_tokens_at_a_time_cost_on_old_cards_what_was_measured():
    """A V100 with 32B in 4 bits: a step of five tokens takes 1.9 to 2.3 of one; a P40 more than a modern card."""
    v100 = times("v100-pcie-32", "llama.cpp-cuda", "qwen2.5-32b", "q4_k_m")
    assert 1.6 < decode_s(v100, 5) / decode_s(v100, 1) < 2.6
    modern = times("rtx4090", "llama.cpp-cuda", "qwen2.5-32b", "q4_k_m")
    assert decode_s(modern, 5) / decode_s(modern, 1) < decode_s(v100, 5) / decode_s(v100, 1)


@pytest.mark.parametrize("hw", ["l40s", "rtx-pro-6000"])
def test_two_cards_over_pcie_decode_sooner_than_one(hw: str):
    one, two = (times(name, "vllm", "llama-3.1-8b", "fp16") for name in (hw, f"2x{hw}:tp2"))
    assert decode_s(two, 8) < decode_s(one, 8)


def test_int4_is_no_slower_than_int8_on_an_a100():
    card = parse_deployment("a100-80").pool
    row = {}
    for name in ("int8", "int4"):
        precision = load_precision(name)
        rates = reached_rates(card.device, card.ecc_on, precision, load_stack(card.device, "generic")).matrices
        row[name] = gemm_s(1.0, 8192.0, 28672.0, rates, precision.bytes_per_weight)
    assert row["int4"] < row["int8"]


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "mxfp4-bf16"])
def test_blackwell_multiplies_fp4_as_it_is_and_others_unpack_it(name: str):
    native, unpacked = (
        reached_rates(card.device, card.ecc_on, load_precision(name), load_stack(card.device, "generic"))
        for card in (parse_deployment(hw).pool for hw in ("b200", "h100-sxm"))
    )
    assert (native.computed_in, native.matrices.dequant_s) == ("fp4", 0.0)
    assert unpacked.computed_in == "fp16"
    assert unpacked.matrices.dequant_s > 0.0


def test_formats_below_four_bits_take_more_to_unpack():
    card = parse_deployment("p40").pool
    stack = load_stack(card.device, "llama.cpp-cuda")
    cost = {
        name: reached_rates(card.device, card.ecc_on, load_precision(name), stack).matrices.dequant_s
        for name in ("q4_0", "q4_k_m", "q3_k_m", "q2_k")
    }
    assert cost["q4_0"] == cost["q4_k_m"]
    assert 6.0 <= cost["q2_k"] / cost["q4_0"] <= 7.0
    assert 6.0 <= cost["q3_k_m"] / cost["q4_0"] <= 7.0

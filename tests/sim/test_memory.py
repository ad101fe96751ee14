"""What fits, by how much it does not, and offers that hold when they are taken."""

import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from afterwatt.hwprofiles import device_names, parse_deployment
from afterwatt.hwprofiles.deployment import Deployment
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.modelspecs import load_model, model_names
from afterwatt.modelspecs.precision import PRECISIONS, load_precision
from afterwatt.policies.config import PolicySet, parse_policies
from afterwatt.sim.errors import Infeasible
from afterwatt.sim.memory import (
    LOGIT_BYTES,
    RUNTIME_BYTES,
    UNSEEN_BYTES,
    MemoryPlan,
    plan_memory,
    require_fit,
    with_stated_blocks,
)

USUAL = PolicySet()
SPLITS = ["{}", "2x{}:tp2", "2x{}:pp2", "4x{}:tp2pp2", "8x{}:tp4pp2"]


def serving(deployment: Deployment, model: str, precision: str) -> Serving:
    return Serving(deployment, load_model(model), load_precision(precision), load_stack(deployment.pool.device))


def plan(hw: str | Deployment, model: str, precision: str, block: int = 16, budget: int = 2048) -> MemoryPlan:
    deployment = parse_deployment(hw) if isinstance(hw, str) else hw
    return plan_memory(serving(deployment, model, precision), PolicySet(block_tokens=block, token_budget=budget))


any_hw = st.tuples(st.sampled_from(SPLITS), st.sampled_from(device_names())).map(lambda pair: pair[0].format(pair[1]))
any_model = st.sampled_from(model_names())
any_precision = st.sampled_from(sorted(PRECISIONS))


@given(any_hw, any_model, any_precision, st.sampled_from([1, 16, 64]), st.sampled_from([1, 512, 8192]))
@settings(max_examples=150, deadline=None)
def test_what_is_laid_out_fits_and_one_block_more_does_not(hw, model, precision, block, budget):
    memory = plan(hw, model, precision, block, budget)
    used = memory.weights_bytes + memory.reserve_bytes
    if memory.kv_blocks:
        assert used + memory.kv_blocks * memory.block_bytes <= memory.capacity_bytes * (1 + 1e-12)
    assert used + (memory.kv_blocks + 1) * memory.block_bytes > memory.capacity_bytes
    assert (memory.missing_bytes <= 0) == (memory.kv_blocks > 0)


@given(any_hw, any_model, any_precision)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])  # most of them fit
def test_a_card_larger_by_the_missing_bytes_holds_one_block(hw, model, precision):
    memory = plan(hw, model, precision)
    assume(memory.missing_bytes > 0)
    deployment = parse_deployment(hw)
    share = deployment.pool.usable_memory_bytes / deployment.pool.device.memory_bytes
    device = deployment.pool.device
    for beside, blocks in ((1.0, 1), (-1.0, 0)):
        larger = replace(device, memory_bytes=device.memory_bytes + (memory.missing_bytes + beside) / share)
        pool = replace(deployment.pool, device=larger)
        grown = replace(serving(deployment, model, precision), deployment=deployment.with_pool(pool))
        again = plan_memory(grown, USUAL)
        assert again.kv_blocks == blocks
        if blocks:
            assert require_fit(grown, USUAL) == again


@given(any_hw, any_model, any_precision)
@settings(max_examples=60, deadline=None)
def test_every_offer_fits_when_it_is_typed(hw, model, precision):
    deployment = parse_deployment(hw)
    try:
        require_fit(serving(deployment, model, precision), USUAL)
    except Infeasible as verdict:
        text = str(verdict)
        assert f"{model} in {precision} does not fit {deployment.name}" in text
        missing = int(re.search(r"([\d,]+) bytes short", text)[1].replace(",", ""))
        assert missing == pytest.approx(plan(hw, model, precision).missing_bytes, abs=1.0)
        offers = re.findall(r"--(hw|precision|policy) ([\w.:=+-]+)", text)
        for kind, value in offers:
            if kind == "policy":
                require_fit(serving(deployment, model, precision), parse_policies(value))
                continue
            offer = plan(value, model, precision) if kind == "hw" else plan(hw, model, value)
            assert offer.kv_blocks > 0, (kind, value)
        assert offers or "no option of the catalogue would make it fit" in text


def test_what_is_said_when_a_70b_model_meets_an_m40():
    wanted = serving(parse_deployment("m40"), "llama-2-70b", "fp16")
    with pytest.raises(Infeasible, match=r"llama-2-70b in fp16 does not fit m40: each GPU needs .* GB") as caught:
        require_fit(wanted, USUAL)
    assert "--hw 8xm40:tp8" in str(caught.value)
    assert "--hw b200" in str(caught.value)


def test_the_kv_blocks_of_an_m40_by_hand():
    """24 GB less what runtime, one iteration's activations, fragmentation and 13.5 GB of weights take."""
    memory = plan("m40", "llama-2-7b", "fp16")
    assert memory.weights_bytes == 2 * load_model("llama-2-7b").params
    assert memory.block_bytes == memory.replica_block_bytes == 16 * 2 * 32 * 4096 * 2
    activations = 2 * 2048 * (4 * 4096 + 3 * 11008)
    assert memory.reserve_bytes == pytest.approx(0.6e9 + activations + 0.03 * memory.capacity_bytes, rel=1e-12)
    left = memory.capacity_bytes - memory.weights_bytes - memory.reserve_bytes
    assert memory.kv_blocks == int(left // memory.block_bytes)
    assert 700 < memory.kv_blocks < 1300


@pytest.mark.parametrize("ways", [2, 4])
def test_a_replica_s_blocks_are_whole_however_it_is_split(ways):
    alone, split = plan("a100-80", "llama-2-13b", "fp16"), plan(f"{ways}xa100-80:tp{ways}", "llama-2-13b", "fp16")
    assert split.block_bytes == pytest.approx(alone.block_bytes / ways)
    assert split.replica_block_bytes == pytest.approx(alone.replica_block_bytes)
    assert split.weights_bytes == pytest.approx(alone.weights_bytes / ways)
    piped = plan(f"{ways}xa100-80:pp{ways}", "llama-2-13b", "fp16")
    assert piped.replica_block_bytes == pytest.approx(alone.replica_block_bytes)
    assert piped.kv_blocks > alone.kv_blocks


def test_more_cards_than_kv_heads_keep_copies():
    """Llama-3.1-8B has 8 KV heads: over 16 cards each is kept twice."""
    eight, sixteen = (plan(f"{n}xa100-80:tp{n}", "llama-3.1-8b", "fp16") for n in (8, 16))
    assert sixteen.block_bytes == eight.block_bytes
    assert sixteen.replica_block_bytes == 2 * eight.replica_block_bytes


def test_stated_blocks_are_taken_as_they_are_while_the_card_can_hold_them():
    """What an engine reserves besides is its own business: more blocks than are found room for here may be stated."""
    memory = plan("rtx4090", "llama-3.1-8b", "fp16")
    most = int((memory.capacity_bytes - memory.weights_bytes) // memory.block_bytes)
    assert memory.kv_blocks < most
    for blocks in (1, memory.kv_blocks, most):
        stated = with_stated_blocks(memory, blocks)
        assert stated.kv_blocks == blocks
        assert stated.weights_bytes == memory.weights_bytes
    with pytest.raises(Infeasible, match=rf"kv={most + 1} does not fit: .* at most kv={most} do"):
        with_stated_blocks(memory, most + 1)


def test_the_tightest_stage_decides():
    """Of three stages the first has the embedding and a layer more than the last, which has the head."""
    memory, whole = (plan(hw, "llama-2-13b", "fp16") for hw in ("3xa100-80:pp3", "a100-80"))
    spec = load_model("llama-2-13b")
    layer = 2 * (spec.params - spec.embedding_params - spec.head_params - spec.final_norm_params) / spec.layers
    assert memory.weights_bytes == pytest.approx(14 * layer + 2 * spec.embedding_params, rel=1e-12)
    assert memory.block_bytes == pytest.approx(whole.block_bytes * 14 / 40)
    assert memory.reserve_bytes == whole.reserve_bytes


# -- as engines size their caches --------------------------------------------------------------------------------------


def kept(hw: str, model: str, precision: str, policies: PolicySet = USUAL, **shares: float) -> MemoryPlan:
    wanted = serving(parse_deployment(hw), model, precision)
    return plan_memory(replace(wanted, stack=wanted.stack.with_values(shares)), policies)


def test_vllm_on_a_4090_has_the_blocks_that_it_logs():
    """2,588 of them for Llama-3.1-8B at 0.9 (casys-kaist/LLMServingSim 5daddb2, RTX4090 meta.json)."""
    wanted = serving(parse_deployment("rtx4090"), "llama-3.1-8b", "bf16")
    stack = load_stack(wanted.pool.device, "vllm")
    found = plan_memory(replace(wanted, stack=stack), USUAL)
    assert found.kv_blocks == pytest.approx(2588, rel=0.03)
    assert found.kv_blocks == kept("rtx4090", "llama-3.1-8b", "bf16", memory_utilisation=0.9).kv_blocks
    said = replace(USUAL, utilisation_frac=0.9)
    assert found.kv_blocks == kept("rtx4090", "llama-3.1-8b", "bf16", said).kv_blocks


@pytest.mark.parametrize("utilisation", [0.5, 0.8, 0.95])
def test_a_utilisation_bounds_weights_activations_and_cache_together(utilisation):
    found = kept("a100-80", "llama-2-13b", "fp16", memory_utilisation=utilisation)
    words = load_model("llama-2-13b").head_params / load_model("llama-2-13b").hidden
    activations = 2 * 2048 * (4 * 5120 + 3 * 13824)
    beside = found.weights_bytes + RUNTIME_BYTES + activations + 256 * words * LOGIT_BYTES
    allowed = utilisation * (found.capacity_bytes - UNSEEN_BYTES)
    assert found.kv_blocks == int((allowed - beside) // found.block_bytes)


def test_more_sequences_at_a_time_leave_fewer_blocks_where_they_are_tried_out():
    few, many = (
        kept("a100-80", "llama-3.1-8b", "fp16", PolicySet(max_seqs=seqs), memory_utilisation=0.9) for seqs in (1, 1024)
    )
    words = load_model("llama-3.1-8b").head_params / load_model("llama-3.1-8b").hidden
    assert many.reserve_bytes - few.reserve_bytes == pytest.approx(1023 * words * LOGIT_BYTES)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_share_of_what_is_free_is_that_share_of_the_blocks(share):
    every, some = (kept("l40s", "llama-2-7b", "fp16", free_memory_share=part) for part in (1.0, share))
    assert some.kv_blocks == pytest.approx(share * every.kv_blocks, abs=1.0)


@given(any_hw, any_model, st.floats(0.3, 1.0), st.floats(0.3, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_capacity_that_is_missing_is_what_lacks_whatever_the_shares(hw, model, utilisation, free):
    found = kept(hw, model, "fp16", memory_utilisation=utilisation, free_memory_share=free)
    assert (found.missing_bytes <= 0) == (found.kv_blocks > 0)


def test_stated_blocks_may_fill_the_card_to_the_last_byte():
    plan = MemoryPlan(100.0, 40.0, 0.0, 10.0, 10.0, 3, 0.0)
    assert with_stated_blocks(plan, 6).kv_blocks == 6
    with pytest.raises(Infeasible, match="at most kv=6 do"):
        with_stated_blocks(plan, 7)

"""Experts spread over GPUs, worked out on paper: who holds what, who is sent what, and what a layer waits for."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles import HardwareError, load_link, parse_deployment
from afterwatt.hwprofiles.effort import Work, work
from afterwatt.hwprofiles.experts import EXPERT_IMBALANCE, reach_frac
from afterwatt.hwprofiles.kernels import gemm_s
from afterwatt.hwprofiles.mixers import StepShape
from afterwatt.hwprofiles.operations import AllToAlls, Experts
from afterwatt.hwprofiles.residence import stage_weight_bytes
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.hwprofiles.step import StepModel
from afterwatt.hwprofiles.support import spread_refusal
from afterwatt.modelspecs import load_model, load_precision
from afterwatt.modelspecs.spec import experts_touched
from afterwatt.modelspecs.split import spread_obstacle, spreads_that_work
from afterwatt.policies.config import PolicySet
from afterwatt.sim.errors import Infeasible
from afterwatt.sim.memory import require_fit, require_runnable

TOKENS = 24
LAYERS, HIDDEN, EXPERT = 32, 4096, 3 * 4096 * 14336  # of Mixtral, with eight experts, of which a token passes two


def serving(hw: str, model: str = "mixtral-8x7b", precision: str = "fp16") -> Serving:
    deployment = parse_deployment(hw)
    return Serving(deployment, load_model(model), load_precision(precision), load_stack(deployment.pool.device, "vllm"))


def decoding(hw: str, model: str = "mixtral-8x7b") -> Work:
    shape = StepShape(*(np.array([float(number)]) for number in (TOKENS, 9000, TOKENS, 0, 0, 0, 0)))
    return work(StepModel(serving(hw, model)), shape)


def experts_of(step: StepModel) -> Experts:
    return next(one for layer in step.layers.values() for one in layer if isinstance(one, Experts))


def all_to_alls_of(step: StepModel) -> list[AllToAlls]:
    return [one for layer in step.layers.values() for one in layer if isinstance(one, AllToAlls)]


@pytest.mark.parametrize(("experts", "active", "ways"), [(8, 2, 4), (8, 2, 8), (6, 3, 2), (9, 4, 3)])
def test_a_token_reaches_a_gpu_as_often_as_sets_of_experts_do(experts, active, ways):
    there = set(range(experts // ways))
    sets = list(combinations(range(experts), active))
    assert reach_frac(experts, active, ways) == pytest.approx(sum(bool(there & set(one)) for one in sets) / len(sets))


@given(st.integers(1, 16), st.integers(1, 32), st.data())
def test_a_token_reaches_no_more_gpus_than_it_has_experts(each, ways, data):
    experts = each * ways
    active = data.draw(st.integers(1, experts))
    reached = ways * reach_frac(experts, active, ways)
    assert min(active, 1) <= reached * (1 + 1e-12) <= min(active, ways) * (1 + 1e-9)


# -- bytes -----------------------------------------------------------------------------------------------------------


def test_the_bytes_of_the_all_to_alls_by_hand():
    """Of four GPUs three are others, and a token has one of its two experts there in 13 of 28 cases; there and back."""
    sent = LAYERS * TOKENS * 2 * 3 * (13 / 28) * HIDDEN * 2
    assert decoding("4xa100-80:ep4").link_bytes[0] == pytest.approx(sent)
    assert decoding("4xa100-80").link_bytes[0] == 0.0


def test_with_tensor_parallelism_an_all_reduce_and_the_gathering_half_of_another_are_left():
    passed = LAYERS * TOKENS * HIDDEN * 2 * 2 * 1.5
    sent = LAYERS * TOKENS * 2 * 3 * (13 / 28) * HIDDEN * 2
    assert decoding("4xa100-80:tp2ep4").link_bytes[0] == pytest.approx(passed + sent)
    assert decoding("4xa100-80:tp4ep4").link_bytes[0] == decoding("4xa100-80:tp4").link_bytes[0]


def test_where_a_shared_expert_is_summed_the_whole_all_reduce_is_left_and_dense_layers_have_both():
    """DeepSeek-V3: 58 layers with experts, of 256 a token passes 8, and three without."""
    payload = TOKENS * 7168 * 2
    sent = 58 * 2 * 3 * reach_frac(256, 8, 4) * payload
    assert decoding("4xa100-80:tp2ep4", "deepseek-v3").link_bytes[0] == pytest.approx(61 * 2 * 2 * payload + sent)


def test_replicas_together_read_the_experts_that_all_their_tokens_touch():
    """All else each replica reads for itself, and every replica multiplies its own tokens."""
    alone, shared = decoding("a100-80"), decoding("4xa100-80:ep4")
    touched = experts_touched(8.0, 2.0, float(TOKENS))
    all_touched = experts_touched(8.0, 2.0, 4.0 * TOKENS)
    weights = 2 * LAYERS * EXPERT
    assert 4 * shared.hbm_bytes[0] == pytest.approx(
        4 * (alone.hbm_bytes[0] - weights * touched) + weights * all_touched
    )
    assert shared.flops[0] == alone.flops[0]


@pytest.mark.parametrize("model", ["mixtral-8x7b", "gpt-oss-20b", "deepseek-v3", "qwen3-30b-a3b"])
@pytest.mark.parametrize(("hw", "tp", "pp", "ep"), [("4x{}:ep4", 1, 1, 4), ("8x{}:tp2ep4pp2", 2, 2, 4)])
def test_every_expert_is_somewhere_once_and_all_else_in_every_replica(model, hw, tp, pp, ep):
    spec, spread = load_model(model), serving(hw.format("a100-80"), model)
    held = ep * sum(stage_weight_bytes(spread, stage) for stage in range(pp))
    whole = tp * sum(
        stage_weight_bytes(serving(f"{tp * pp}xa100-80:tp{tp}pp{pp}", model), stage) for stage in range(pp)
    )
    experts = spec.expert_layers * spec.experts * spec.layer_ffn_params * 2
    assert held == pytest.approx(experts + ep // tp * (whole - experts))


# -- seconds ---------------------------------------------------------------------------------------------------------


def test_the_busiest_gpu_multiplies_its_experts_with_the_tokens_of_all_replicas():
    """Four replicas of 24 tokens: 192 rows, of which it has a quarter and a fifth more, for its two experts."""
    step = StepModel(serving("4xa100-80:ep4"))
    experts, rates, moved = experts_of(step), step.rates.experts, 2.0
    rows = 4 * TOKENS * 2 / 4 * 1.2
    touched = min(experts_touched(8.0, 2.0, 4.0 * TOKENS) * 1.2, 8.0) / 4
    into = gemm_s(rows, 4096.0, 2 * 14336.0, rates, 2.0, moved, touched)
    assert experts.seconds(TOKENS) == into + gemm_s(rows, 14336.0, 4096.0, rates, 2.0, moved, touched)


def test_evenly_loaded_gpus_with_all_experts_touched_take_as_long_as_a_layer_of_their_own_experts():
    experts = experts_of(StepModel(serving("4xa100-80:ep4")))
    even = replace(experts, imbalance=1.0)
    own = replace(experts, ways=1, sharing=1, experts=2, active=2, imbalance=1.0)
    assert even.seconds(5000) == pytest.approx(own.seconds(5000))
    assert experts.seconds(5000) > 1.15 * even.seconds(5000)


def test_an_all_to_all_is_a_start_and_the_tokens_of_the_busiest_over_the_link_each_way():
    served = serving("4xa100-80:tp2ep4")
    (sent,) = set(all_to_alls_of(StepModel(served)))
    link, stack = served.expert_link, served.stack
    payload = TOKENS / 2 * 3 * (13 / 28) * HIDDEN * 2 * EXPERT_IMBALANCE
    each_s = link.latency_s + stack.comm_latency_s + payload / (link.bytes_per_s * stack.comm_efficiency)
    assert sent.seconds(TOKENS) == pytest.approx(2 * each_s)


def test_over_several_hosts_only_what_leaves_one_counts_and_its_gpus_share_the_network():
    served = serving("16xh100-sxm:ep16", "deepseek-v3")
    network = load_link(served.pool.host.nic)
    assert served.expert_link.bytes_per_s == pytest.approx(network.bytes_per_s / 8)
    (sent,) = set(all_to_alls_of(StepModel(served)))
    assert sent.reached == pytest.approx(8 * reach_frac(256, 8, 16))


# -- what is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tp", "pp", "ep", "replicas", "sharing", "hosts"),
    [
        ("8xh100-sxm:ep8", 1, 1, 8, 8, 8, 1),
        ("8xh100-sxm:tp1ep8", 1, 1, 8, 8, 8, 1),
        ("8xh100-sxm:tp2ep8", 2, 1, 8, 4, 4, 1),
        ("8xh100-sxm:tp8ep8", 8, 1, 8, 1, 1, 1),
        ("16xh100-sxm:ep8", 1, 1, 8, 16, 8, 2),
        ("12xh100-sxm:ep6", 1, 1, 6, 12, 6, 2),
        ("8xh100-sxm:ep4pp2", 1, 2, 4, 4, 4, 1),
        ("8xh100-sxm", 1, 1, 1, 8, 1, 1),
    ],
)
def test_the_short_form(text, tp, pp, ep, replicas, sharing, hosts):
    pool = parse_deployment(text).pool
    assert (pool.tp, pool.pp, pool.ep, pool.replicas, pool.sharing, pool.hosts) == (
        tp,
        pp,
        ep,
        replicas,
        sharing,
        hosts,
    )
    assert pool.expert_load == (EXPERT_IMBALANCE if ep > 1 else 1.0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8xh100-sxm:tp3ep8", "ep 8 of h100-sxm spreads experts over whole replicas, and is no multiple of tp 3"),
        ("12xh100-sxm:ep8", "12 x h100-sxm cannot be split into groups of ep 8 x pp 1 = 8 GPUs; take a multiple of 8"),
        ("h100-sxm:ep8", "write 8xh100-sxm:ep8"),
        ("8xh100-sxm:ep8ep8", "names ep twice"),
        ("8xh100-sxm:ep0", "ep = 0 of h100-sxm must lie in"),
    ],
)
def test_what_does_not_divide_is_refused(text, why):
    with pytest.raises(HardwareError, match=why.replace("(", r"\(")):
        parse_deployment(text)


@pytest.mark.parametrize(
    ("hw", "model", "why"),
    [
        (
            "6xh100-sxm:ep6",
            "qwen3-30b-a3b",
            "128 experts are no multiple of 6; degrees that work: 1, 2, 4, 8, 16, 32, 64",
        ),
        ("8xh100-sxm:ep8", "llama-2-7b", "it has no experts; degrees that work: 1"),
    ],
)
def test_experts_that_cannot_be_spread_evenly_are_refused(hw, model, why):
    with pytest.raises(Infeasible, match=why):
        require_runnable(serving(hw, model))


def test_whole_experts_need_no_width_that_divides():
    """Experts of 768 in groups of 128 do not split over 4 GPUs, but 128 of them spread."""
    with pytest.raises(Infeasible, match="768"):
        require_runnable(serving("4xh100-sxm:tp4", "qwen3-30b-a3b", "awq"))
    require_runnable(serving("4xh100-sxm:tp4ep4", "qwen3-30b-a3b", "awq"))


def test_software_that_does_not_spread_experts_is_refused():
    served = serving("4xrtx3090:ep4", "qwen3-30b-a3b")
    llama = replace(served, stack=load_stack(served.pool.device, "llama.cpp-cuda"))
    with pytest.raises(Infeasible, match=r"does not spread experts over GPUs .*--stack vllm, .*--stack generic"):
        require_runnable(llama)
    assert spread_refusal("vllm@2023") is None
    assert spread_refusal("generic") is None


@given(st.integers(1, 256), st.integers(1, 64))
def test_any_number_that_divides_the_experts_works(experts, ways):
    spec = replace(load_model("mixtral-8x7b"), experts=experts, active_experts=1)
    fine = ways == 1 or (experts > 1 and experts % ways == 0)
    assert (spread_obstacle(spec, ways) is None) == fine == (ways in spreads_that_work(spec))


def test_a_model_too_large_for_a_replica_fits_where_its_experts_are_spread():
    with pytest.raises(Infeasible) as refused:
        require_fit(serving("8xh100-sxm:ep8", "deepseek-v3", "fp8"), PolicySet())
    offered = str(refused.value).partition("--hw ")[2].partition(";")[0]
    assert offered == "16xh100:ep16"
    assert require_fit(serving(offered, "deepseek-v3", "fp8"), PolicySet()).kv_blocks > 0


def test_a_file_says_how_uneven_experts_are(tmp_path: Path):
    (tmp_path / "even.toml").write_text(
        'device = "h100-sxm"\ncount = 8\nep = 8\n'
        'expert_imbalance = { value = 1.0, source = "a log", checked = 2026-11-20, kind = "measured" }\n',
        encoding="utf-8",
    )
    pool = parse_deployment(str(tmp_path / "even.toml")).pool
    assert (pool.ep, pool.expert_load) == (8, 1.0)
    (tmp_path / "even.toml").write_text('device = "h100-sxm"\nexpert_imbalance = 0.5\n', encoding="utf-8")
    with pytest.raises(HardwareError, match=r"expert_imbalance = 0\.5 has no source"):
        parse_deployment(str(tmp_path / "even.toml"))

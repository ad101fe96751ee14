"""From a row to a run: what is stated is taken, what is not is marked or refused, and nothing crashes."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.fidelity.points.loads import chat_of
from afterwatt.fidelity.points.predict import predict
from afterwatt.fidelity.points.refusals import PointRefusal, Reason
from afterwatt.fidelity.points.scenario import Scenario, scenario_of, scenarios_of
from afterwatt.fidelity.points.score import coverage_of
from afterwatt.fidelity.points.table import MARK, METRICS, PUBLISHED, Point, read_points
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.stacks import default_stack
from afterwatt.sim.errors import Infeasible
from afterwatt.sim.run import memory_of

POINT = Point(
    row=2,
    source="mine",
    device="rtx3090",
    stack="llama.cpp-cuda",
    model="Llama 3.1 8B Instruct",
    params_b=8.0,
    precision="q4_k_m",
    batch=1,
    prompt_tokens=1,
    output_tokens=128,
    metric="decode_tok_s",
    value=100.0,
)


def run_of(**changes) -> Scenario:
    found = scenario_of(replace(POINT, **changes))
    assert isinstance(found, Scenario), found
    return found


def refusal_of(**changes) -> PointRefusal:
    found = scenario_of(replace(POINT, **changes))
    assert isinstance(found, PointRefusal), found
    return found


# -- what is taken and what is marked --------------------------------------------------------------------------------


def test_what_is_stated_is_not_assumed():
    told = run_of(prompt_tokens=256, output_tokens=64)
    assert (told.load.prompts, told.load.outputs) == ((256,), (64,))
    assert (told.stack, told.device_key, told.precision.name) == ("llama.cpp-cuda", "rtx3090", "q4_k_m")
    assert told.assumed == ()
    assert told.widen == 1.0


def test_experts_are_spread_as_stated_over_replicas_of_all_else():
    told = {"device": "h100-sxm", "stack": "vllm", "model": "Qwen3-30B-A3B", "params_b": 30.5, "precision": "bf16"}
    told |= {"gpus": 8, "batch": 64, "metric": "throughput_tok_s"}
    pools = [run_of(**told, ep=8), run_of(**told, tp=2, ep=8), run_of(**told, tp=2, ep=4)]
    assert [(pool.tp, pool.pp, pool.ep, pool.replicas) for pool in (run.deployment.pool for run in pools)] == [
        (1, 1, 8, 8),
        (2, 1, 8, 4),
        (2, 2, 4, 2),
    ]
    together, alone = predict(pools[0]), predict(run_of(**told | {"gpus": 1, "batch": 8}))
    assert together.value > 8 * alone.value  # of its experts each reads fewer
    assert refusal_of(**told, tp=3, ep=8).reason is Reason.NO_SPLIT


def test_what_a_row_assumes_is_kept_and_widens():
    told = run_of(assumed=f"prompt_tokens: a guess{MARK}batch: another", widen=1.4)
    assert told.assumed == ("prompt_tokens: a guess", "batch: another")
    assert told.widen == 1.4


def test_unknown_software_is_that_of_the_card_and_marked():
    found = run_of(stack="")
    assert found.stack == default_stack(found.deployment.pool.device)
    assert found.assumed == (f"software: not stated, {found.stack} taken",)


def test_a_model_that_is_not_in_the_catalogue_gets_a_shape_and_a_mark():
    found = run_of(model="Nobody-13B", params_b=13.0)
    assert found.model.params == pytest.approx(13e9, rel=0.2)
    assert any(mark.startswith("model: ") for mark in found.assumed)
    assert found.widen > 1.0


def test_settings_of_a_row_reach_the_run():
    found = run_of(kv_bytes=0.5625, power_limit_w=250.0, joules_of="machine", flash=False)
    assert (found.kv_bytes, found.power_limit_w, found.whole_machine, found.flash) == (0.5625, 250.0, True, False)
    assert float(found.config(found.stack_profile()).stack.kv_bytes_per_element) == 0.5625
    assert run_of(gpus=2, metric="throughput_tok_s", per_gpu=True).divide == 2


# -- splits ----------------------------------------------------------------------------------------------------------


def split(**changes) -> tuple[int, int]:
    found = run_of(**changes)
    return found.deployment.pool.tp, found.deployment.pool.pp


def test_layers_or_heads_are_split_as_the_software_does():
    assert split(gpus=2) == (1, 2)
    assert split(gpus=2, stack="vllm") == (2, 1)
    assert split(gpus=6, stack="vllm") == (2, 3)  # 32 heads do not go into 6 parts, nor into 3


def test_a_stated_split_holds():
    assert split(gpus=2, tp=2) == (2, 1)
    assert split(gpus=3, tp=3) == (3, 1)
    assert refusal_of(gpus=4, tp=3).reason is Reason.NO_SPLIT


# -- loads -----------------------------------------------------------------------------------------------------------


def test_a_batch_runs_at_once_with_its_prompts_in_one_iteration_or_in_pieces():
    found = run_of(stack="vllm", batch=4, prompt_tokens=300)
    assert (found.load.prompts, found.load.outputs) == ((300,) * 4, (128,) * 4)
    assert (found.policies.batching, found.policies.token_budget, found.policies.max_seqs) == ("prefill-first", 1200, 4)
    long = run_of(batch=2, prompt_tokens=1300)
    assert (long.policies.batching, long.policies.token_budget) == ("chunked", 512)
    assert run_of(batch=2, prompt_tokens=500).policies.token_budget == 1000


def test_many_prompts_are_split_over_iterations():
    found = run_of(stack="vllm", batch=100, prompt_tokens=1000)
    assert found.policies.token_budget == 16_384
    assert run_of(stack="vllm", prompt_tokens=20_000, model="llama-3.1-8b").policies.token_budget == 20_000


@pytest.mark.parametrize("metric", ["prefill_tok_s", "ttft_s"])
def test_prompts_alone_need_no_answer(metric: str):
    assert run_of(metric=metric, prompt_tokens=300, output_tokens=None).load.outputs == (1,)


def test_a_context_lies_in_the_cache_and_small_pieces_are_bound_as_decoding_is():
    found = run_of(
        metric="prefill_tok_s", prompt_tokens=512, output_tokens=1, context_tokens=32768, iteration_tokens=16
    )
    assert (found.load.cached_tokens, found.load.warm_ups) == (32768, 1)
    assert (found.policies.token_budget, found.policies.batching, found.policies.share_prefixes) == (
        16,
        "chunked",
        True,
    )
    assert found.model.max_context >= 32768 + 513
    assert found.phase == "decode"


def test_pieces_that_follow_one_another_are_requests_of_their_own():
    found = run_of(metric="prefill_tok_s", prompt_tokens=1200, output_tokens=1, gpus=2)
    assert found.load.prompts == (512, 512, 176)
    assert (found.policies.max_seqs, found.policies.token_budget) == (4, 512)
    assert any("one another" in mark for mark in found.assumed)
    for changes in ({"gpus": 1}, {"batch": 2}, {"context_tokens": 64}, {"iteration_tokens": 256}, {"output_tokens": 2}):
        told = {"metric": "prefill_tok_s", "prompt_tokens": 1200, "output_tokens": 1, "gpus": 2} | changes
        assert run_of(**told).load.prompts == (1200,) * told.get("batch", 1)


def test_a_full_engine_has_more_requests_than_seats():
    found = run_of(stack="vllm", batch=None, users=64, prompt_tokens=600, output_tokens=390, metric="throughput_tok_s")
    assert found.load.seats == 64 == found.policies.max_seqs
    assert len(found.load.prompts) == 5 * 64
    assert found.load.arrivals_s is None
    assert found.policies.token_budget == 8192
    assert len(run_of(batch=None, users=3, metric="throughput_tok_s").load.prompts) == 96


def test_an_offered_rate_is_an_open_loop():
    found = run_of(batch=None, rate_per_s=20.0, metric="ttft_s", prompt_tokens=50, output_tokens=150, stack="vllm")
    times = found.load.arrivals_s
    assert times is not None
    assert list(times) == sorted(times)
    assert len(times) == 1200
    assert len(times) / times[-1] == pytest.approx(20.0, rel=0.05)
    told = run_of(batch=None, rate_per_s=20.0, requests=300, metric="ttft_s", stack="vllm").load.arrivals_s
    assert told is not None
    assert len(told) == 300


def test_requests_that_are_all_there_have_mixed_lengths_about_their_mean():
    found = run_of(
        batch=None, requests=400, metric="throughput_tok_s", prompt_tokens=160, output_tokens=330, stack="vllm"
    )
    assert len(found.load.prompts) == 400
    assert sum(found.load.outputs) / 400 == pytest.approx(330, rel=0.05)
    assert found.policies.max_seqs == 256


def test_what_ran_has_its_blocks_on_the_card_as_it_is():
    """By our count weights and reserves leave no room: the run had it all the same, and the card is no larger."""
    tight = run_of(model="llama-3-70b", params_b=70.0, precision="q2_k", prompt_tokens=1, output_tokens=1024)
    assert tight.deployment.pool.device == load_device("rtx3090")
    config = tight.config(tight.stack_profile())
    with pytest.raises(Infeasible):
        memory_of(config)
    assert tight.memory(config).kv_blocks == tight.least_blocks >= 1025 / tight.policies.block_tokens
    assert any("it ran, although" in mark for mark in tight.assumed)
    roomy = run_of()
    assert roomy.least_blocks == 0
    assert roomy.memory(roomy.config(roomy.stack_profile())) == memory_of(roomy.config(roomy.stack_profile()))


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"offload": "dram"}, Reason.OFFLOAD),
        ({"excluded": "speculation", "why": "a draft"}, Reason.SPECULATION),
        ({"excluded": "other-algorithm", "why": "sparse"}, Reason.OTHER_ALGORITHM),
        ({"excluded": "because"}, Reason.NOT_ONE_SETUP),
        ({"device": "rtx6090"}, Reason.UNKNOWN_GPU),
        ({"precision": "banana"}, Reason.UNKNOWN_PRECISION),
        ({"model": "a large one", "params_b": None}, Reason.UNKNOWN_MODEL),
        ({"metric": "throughput_tok_s", "batch": None}, Reason.UNCLEAR_LOAD),
        ({"users": 8}, Reason.UNCLEAR_LOAD),
        ({"rate_per_s": 8.0}, Reason.UNCLEAR_LOAD),
        ({"prompt_tokens": None}, Reason.UNCLEAR_LOAD),
        ({"output_tokens": None}, Reason.UNCLEAR_LOAD),
        ({"model": "LLaMA-3.1-405B", "params_b": 405.0, "precision": "fp16"}, Reason.NO_FIT),
        ({"gpus": 97}, Reason.NO_SPLIT),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_reason(changes, reason: Reason):
    found = refusal_of(**changes)
    assert found.reason is reason
    assert found.why


def test_coverage_leaves_out_what_nobody_can_model_yet():
    rows = [replace(POINT, row=row) for row in range(2, 12)]
    rows += [replace(POINT, offload="ssd"), replace(POINT, device="rtx6090"), replace(POINT, users=4)]
    cover = coverage_of(*scenarios_of(rows))
    assert (cover.rows, cover.counted, cover.run) == (13, 11, 10)


points = st.builds(
    Point,
    device=st.sampled_from(["rtx3090", "h100-sxm", "m40-24", "m4O", "x"]),
    stack=st.sampled_from(["", "vllm", "llama.cpp-cuda", "tinychat", "mine"]),
    gpus=st.integers(1, 16) | st.just(4096),
    tp=st.none() | st.integers(1, 16),
    model=st.sampled_from(["llama-3.1-8b", "Mixtral-8x7B", "7B", "OPT-30B", "?"]),
    params_b=st.none() | st.floats(1e-3, 1e5),
    precision=st.sampled_from(["fp16", "q4_k_m", "Q5_K_M", "fp8", "int8", "??"]),
    batch=st.none() | st.integers(1, 64),
    users=st.none() | st.integers(1, 64),
    requests=st.none() | st.integers(1, 200),
    rate_per_s=st.none() | st.floats(0.01, 20.0),
    prompt_tokens=st.none() | st.floats(1, 3000),
    output_tokens=st.none() | st.floats(1, 3000),
    context_tokens=st.sampled_from([0, 0, 100, 4096]),
    iteration_tokens=st.none() | st.integers(1, 4096),
    metric=st.sampled_from(sorted(METRICS)),
    value=st.floats(0.01, 1e4),
    excluded=st.sampled_from(["", "", "", "no-fit"]),
)


@settings(deadline=None, max_examples=300)
@given(points)
def test_any_row_is_a_run_or_a_refusal(point: Point):
    found = scenario_of(point)
    if isinstance(found, PointRefusal):
        assert found.why or point.excluded
    else:
        load = found.load
        assert len(load.prompts) == len(load.outputs) >= 1
        assert min(load.prompts) >= 1 <= min(load.outputs)
        assert load.longest_tokens <= found.model.max_context
        assert found.widen >= 1.0
        assert found.deployment.pool.tp * found.deployment.pool.pp == found.deployment.pool.count
        assert hash(found.same_run) == hash(scenario_of(point).same_run)


# -- the published points ---------------------------------------------------------------------------------------------


def test_the_published_points_are_covered():
    """What is asked: nine in ten of the rows with a known card, resident weights and no speculation."""
    points = read_points(PUBLISHED).points
    scenarios, refusals = scenarios_of(points)
    assert coverage_of(scenarios, refusals).frac >= 0.9
    assert len(scenarios) + len(refusals) == len(points)
    assert all(refusal.point.excluded for refusal in refusals)


def test_every_published_point_says_where_it_stands_and_what_was_assumed():
    for point in read_points(PUBLISHED).points:
        assert point.source
        assert point.url
        assert point.checked >= "2026"
        assert bool(point.why) == bool(point.excluded)
        if point.widen > 1.0:
            assert point.assumed, point.row
        if not point.excluded:
            assert point.params_b is None or point.prompt_tokens is not None
            assert point.gpus == 1 or point.tp is not None


@pytest.mark.parametrize(("stack", "family"), [("tensorrt-llm@2023", "llama-2-70b"), ("tensorrt-llm", "llama-3")])
def test_a_llama_of_2023_is_the_second(stack: str, family: str):
    found = scenario_of(
        Point(
            device="h100-sxm", gpus=4, stack=stack, model="LLaMA-70B", params_b=70.0, precision="fp8", batch=1,
            prompt_tokens=128, metric="ttft_s", value=0.03,
        )
    )  # fmt: skip
    assert isinstance(found, Scenario)
    assert found.model.name.startswith(family)


def test_rows_without_flash_attention_are_of_the_version_before_it():
    told = {"device": "p40", "model": "llama-2-7b", "precision": "q4_0", "batch": 1, "prompt_tokens": 512}
    made = [scenario_of(Point(**told, metric="prefill_tok_s", value=500.0, flash=flash)) for flash in (True, False)]
    assert [one.stack for one in made] == ["llama.cpp-cuda", "llama.cpp-cuda@2024"]


def test_long_answers_are_not_cut():
    load = chat_of(200, 500, 9000, None)
    assert sum(load.outputs) / 200 == pytest.approx(9000, rel=0.05)
    assert max(load.outputs) > 40_000

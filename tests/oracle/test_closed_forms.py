"""Runs that can be worked out on paper: one request, one batch, a split model; to the picosecond."""

from dataclasses import replace
from math import ceil, exp, log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.hwprofiles.deployment import Deployment
from afterwatt.hwprofiles.fabric import Fabric
from afterwatt.hwprofiles.kernels import all_reduce_s, attention_costs, prompt_attention_s
from afterwatt.hwprofiles.residence import stage_layers
from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.policies.config import PolicySet
from afterwatt.sim.workload import StaticBatch
from tests.helpers import PS_PER_S, Outcome, Requests, make_config, run_body

DEVICES = ["k80", "m40", "p40", "v100-sxm", "t4", "rtx3090", "a100-80", "h100-sxm"]
SMALL = {"model": "qwen2.5-0.5b"}


def time_model(outcome: Outcome, stage: int = 0) -> TimeModel:
    return TimeModel(outcome.config.serving, stage)


def with_a_free_link(deployment: Deployment) -> Deployment:
    (links,) = deployment.fabric.pools
    free = replace(links.tensor, latency_s=0.0, peer_latency_s=None, bytes_per_s=1e30)
    return replace(deployment, fabric=Fabric((replace(links, tensor=free),)))


def prompt_ps(times: TimeModel, prompt: int, budget: int) -> int:
    """One request's prompt, in pieces of the budget."""
    total = 0
    for past in range(0, prompt, budget):
        size = min(budget, prompt - past)
        total += times.step(0, 0, ((None, size, past),), int(past + size == prompt), 1)[0]
    return total


def decode_ps(times: TimeModel, batch: int, prompt: int, output: int) -> int:
    """Equal sequences that decode together: the token after k others reads prompt + k entries of each, its own too."""
    return sum(times.step(batch, batch * (prompt + k), (), batch, 1)[0] for k in range(1, output))


@given(
    st.sampled_from(DEVICES),
    st.integers(1, 3000),
    st.integers(1, 600),
    st.sampled_from(["chunked", "chunked+budget=100", "prefill-first", "decode-first"]),
    st.integers(0, 10**13),
    st.sampled_from([None, (0.02, 0.5)]),
)
@settings(max_examples=60, deadline=None)
def test_a_single_request_is_its_rest_its_prompt_and_its_decode_steps(device, prompt, output, policy, arrival_ps, wake):
    outcome = run_body(Requests([arrival_ps], [prompt], [output]), device, policy, wake=wake, **SMALL)
    (ticket,) = outcome.tickets
    times = time_model(outcome)
    budget = outcome.config.policies.token_budget if "chunked" in policy else prompt
    assert ticket.scheduled_ps == arrival_ps
    woken_ps = 0 if wake is None else 1e12 * wake[0] * (1.0 - exp(-arrival_ps / 1e12 / wake[1]))
    assert ticket.first_ps - arrival_ps == pytest.approx(prompt_ps(times, prompt, budget) + woken_ps, rel=0, abs=1.0)
    assert ticket.finish_ps == ticket.first_ps + decode_ps(times, 1, prompt, output)


@given(st.sampled_from(DEVICES), st.integers(1, 40), st.integers(1, 200), st.integers(1, 300), st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_a_static_batch_is_one_prompt_iteration_and_decode_steps_together(device, batch, prompt, output, which):
    policies = PolicySet(batching=["chunked", "prefill-first", "decode-first"][which], token_budget=40 * 200)
    outcome = run_body(StaticBatch(batch, prompt, output), device, policies, **SMALL)
    times = time_model(outcome)
    first_ps = times.step(0, 0, [(None, prompt, 0)] * batch, batch, 1)[0]
    assert {ticket.first_ps for ticket in outcome.tickets} == {first_ps}
    assert {ticket.finish_ps for ticket in outcome.tickets} == {first_ps + decode_ps(times, batch, prompt, output)}


def test_the_time_of_a_decode_step_by_hand():
    """Llama-2-7B in fp16 on an M40, batch 1, 1,000 tokens in memory: every term from the datasheet and the stack."""
    config = make_config(StaticBatch(1, 1, 1))
    stack, device = config.stack, config.deployment.pool.device
    times = TimeModel(config.serving)
    assert device.key == "m40-24"
    assert not config.deployment.pool.ecc_on or device.ecc == "inline"
    bandwidth = device.peak_bytes_per_s(config.deployment.pool.ecc_on)
    flops = device.flops_per_s["fp32"]  # it stores fp16 and computes fp32

    def product_s(inputs: int, outputs: int) -> float:
        memory = 2 * (inputs * outputs + inputs + outputs) / (bandwidth * stack.mem_efficiency)
        compute = 2 * inputs * outputs / (flops * stack.compute_efficiency)
        p = stack.roofline_sharpness
        return stack.kernel_latency_s + (memory**p + compute**p) ** (1 / p)

    products_s = product_s(4096, 3 * 4096) + product_s(4096, 4096) + product_s(4096, 2 * 11008) + product_s(11008, 4096)
    # Two norms with residual (4 vectors each), rotary of queries and keys, gate and up into one, a key and a value.
    moved = 2 * (8 * 4096 + 2 * 2 * 4096 + 3 * 11008 + 2 * 4096)
    entries, pair_flops = 1000, 4 * 4096 * 1000
    attention_s = (
        stack.attention_latency_s
        + 32 * stack.attention_block_s  # one sequence, 32 KV heads
        + 2 * 2 * 4096 * (entries + 1) / (bandwidth * stack.attention_mem_efficiency)  # keys, values; query and output
        + pair_flops / (flops * stack.attention_compute_efficiency)
    )
    layer_s = products_s + moved / (bandwidth * stack.mem_efficiency) + attention_s + stack.layer_overhead_s
    around_s = product_s(4096, 32000) + stack.step_overhead_s + stack.sequence_overhead_s
    assert layer_s > stack.launch_s
    assert times.step(1, 1000, (), 1, 1)[0] / PS_PER_S == pytest.approx(32 * layer_s + around_s, rel=1e-6)


def test_the_host_is_a_floor_under_the_device():
    """Kernels that are launched slower than they run: an iteration takes what launching takes, until contexts grow."""
    config = make_config(StaticBatch(1, 1, 1), "a100-80")
    slow = replace(config.stack, launch_s=1e-3, prompt_launch_s=2e-3)
    fast = replace(config.stack, launch_s=0.0, prompt_launch_s=0.0)
    host, device = (TimeModel(replace(config.serving, stack=stack)) for stack in (slow, fast))
    serial_s = slow.step_overhead_s + slow.sequence_overhead_s
    for chunks, launch_s in (((), 1e-3), (((None, 8, 0),), 2e-3)):
        assert host.step(1, 100, chunks, 1, 1)[0] / PS_PER_S == pytest.approx(32 * launch_s + serial_s, rel=1e-9)
    first, slope, held = host.step(8, 8000, (), 8, 10**9)
    assert slope == 0
    assert device.step(8, 8000 + 8 * (held - 1), (), 8, 1)[0] < first
    assert device.step(8, 8000 + 8 * held, (), 8, 1) == host.step(8, 8000 + 8 * held, (), 8, 1)


@given(st.integers(1, 3000), st.integers(0, 5000), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_a_prompt_piece_takes_what_its_kernels_take(size, past, pieces):
    """Attention by integers, as the simulator adds it up, against the formula that kernel tables are fitted to."""
    config = make_config(StaticBatch(1, 1, 1), "a100-80", model="llama-3.1-8b")
    model, stack = config.model, replace(config.stack, prompt_launch_s=0.0, mixed_query_rows=16.0)
    times = TimeModel(replace(config.serving, stack=stack))
    costs = attention_costs(model.heads, model.kv_heads, model.head_dim, times.rates.attention)
    with_context, without = (
        times.step(0, 0, ((None, size, before),) * pieces, 0, 1)[0] / PS_PER_S for before in (past, 0)
    )
    formula_s = [float(prompt_attention_s(costs, pieces, size, before, 16.0)) for before in (past, 0)]
    assert with_context - without == pytest.approx(model.layers * (formula_s[0] - formula_s[1]), rel=1e-3, abs=1e-9)
    alone = times.step(0, 0, ((None, size * pieces, 0),), 0, 1)[0] / PS_PER_S  # the same products and norms
    other_s = float(prompt_attention_s(costs, 1, size * pieces, 0, 16.0))
    tokens = size * pieces
    rounding_s = tokens * (tokens + 128) / PS_PER_S  # half a picosecond a pair, in the difference of two long times
    assert without - alone == pytest.approx(model.layers * (formula_s[1] - other_s), rel=1e-3, abs=1e-9 + rounding_s)


def test_decoding_beside_a_prompt_may_go_through_the_kernel_for_prompts():
    """Its one query then costs a tile of them, as far as the stack says; what is read stays the same."""
    config = make_config(StaticBatch(1, 1, 1), "a100-80", model="llama-3.1-8b")

    def per_entry_s(rows: float, chunks: tuple) -> float:
        stack = replace(config.stack, mixed_query_rows=rows, attention_score_bytes=0.0)
        times = TimeModel(replace(config.serving, stack=stack))
        ends = [times.step(10, entries, chunks, 10, 1)[0] for entries in (10**6, 2 * 10**6)]
        return (ends[1] - ends[0]) / 10**6 / PS_PER_S

    alone, beside = (), ((None, 16, 0),)
    assert per_entry_s(128.0, alone) == per_entry_s(1.0, alone) == per_entry_s(1.0, beside)
    device, model = config.deployment.pool.device, config.model
    pair_s = 4 * model.layers * 4096 / (device.flops_per_s["fp16"] * config.stack.attention_compute_efficiency)
    assert per_entry_s(128.0, beside) - per_entry_s(1.0, beside) == pytest.approx(127 * pair_s, rel=1e-3)


# -- tensor parallelism ------------------------------------------------------------------------------------------------


@given(st.integers(2, 64), st.floats(1.0, 1e9), st.floats(1e8, 1e12), st.floats(0.0, 1e-3))
def test_an_all_reduce_moves_every_byte_twice_but_a_devices_own_share(devices, payload, rate, latency_s):
    time_s = all_reduce_s(payload, devices, rate, latency_s)
    moved = 2 * (devices - 1) / devices * payload
    assert time_s == pytest.approx(moved / rate + 2 * ceil(log2(devices)) * latency_s, rel=1e-12)
    assert all_reduce_s(payload, 1, rate, latency_s) == 0.0


@pytest.mark.parametrize(("hw", "tokens"), [("2xm40:tp2", 1), ("2xm40:tp2", 700), ("4xa100-80:tp4", 64)])
def test_a_split_layer_adds_two_all_reduces(hw, tokens):
    config = make_config(StaticBatch(1, 1, 1), hw)
    deployment, stack, model = config.deployment, config.stack, config.model
    with_link = TimeModel(config.serving)
    linked = with_a_free_link(deployment)
    free = TimeModel(replace(config.serving, deployment=linked, stack=replace(stack, comm_latency_s=0.0)))
    chunks = ((None, tokens, 0),)
    between_ps = with_link.step(0, 0, chunks, 1, 1)[0] - free.step(0, 0, chunks, 1, 1)[0]
    link = config.serving.tensor_link
    start_s = link.latency_s if link.peer_latency_s is None else link.peer_latency_s
    one_s = all_reduce_s(
        tokens * model.hidden * stack.activation_bytes_per_element,
        deployment.pool.tp,
        link.bytes_per_s * stack.comm_efficiency,
        start_s + stack.comm_latency_s,
    )
    assert one_s > 0.0
    assert between_ps == pytest.approx(2 * model.layers * one_s * PS_PER_S, rel=1e-9, abs=2)


def test_with_a_free_link_two_cards_halve_all_but_overheads_and_what_both_must_read():
    config = make_config(StaticBatch(1, 1, 1), "2xm40:tp2")
    times_s = [
        name for name in config.stack.__dataclass_fields__ if name.endswith("_s") and name != "attention_block_s"
    ]
    stack = replace(config.stack, **dict.fromkeys(times_s, 0.0))
    two = TimeModel(replace(config.serving, deployment=with_a_free_link(config.deployment), stack=stack))
    alone = make_config(StaticBatch(1, 1, 1), "m40")
    one = TimeModel(replace(alone.serving, stack=stack))
    model, rate = config.model, config.deployment.pool.peak_bytes_per_s * stack.mem_efficiency
    for plan in ((3, 5000, (), 3), (0, 0, ((None, 600, 40),), 1)):
        tokens = plan[0] + sum(size for _, size, _ in plan[2])
        # The residual stream is whole on each card: two norms (4 vectors each), two products' inputs, two's outputs.
        both_read_s = 2 * model.hidden * (model.layers * 12 * tokens + plan[3]) / rate
        excess_s = (2 * two.step(*plan, 1)[0] - one.step(*plan, 1)[0]) / PS_PER_S
        assert 0 < excess_s <= both_read_s * (1 + 1e-6)


# -- pipelines ---------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 1000),
    st.integers(1, 40),
    st.sampled_from(["2xm40:pp2", "4xa100-80:pp4", "4xm40:tp2pp2"]),
    st.sampled_from([None, (0.02, 0.5)]),
)
@settings(max_examples=30, deadline=None)
def test_a_single_request_passes_all_stages_and_hops_for_every_token(prompt, output, hw, wake):
    """A stage has rested since its last iteration."""
    outcome = run_body(Requests([0], [prompt], [output]), hw, wake=wake)
    (ticket,) = outcome.tickets
    stages = [time_model(outcome, stage) for stage in range(outcome.config.deployment.pool.pp)]
    free_ps = [0] * len(stages)

    def through(now_ps: int, tokens: int, *plan: object) -> int:
        for number, stage in enumerate(stages):
            now_ps += stage.hop_ps(tokens) if number else 0
            now_ps += stage.wake_ps(now_ps - free_ps[number]) + stage.step(*plan, 1)[0]
            free_ps[number] = now_ps
        return now_ps

    now_ps = through(0, prompt, 0, 0, ((None, prompt, 0),), 1)
    assert ticket.first_ps == now_ps
    for k in range(1, output):
        now_ps = through(now_ps, 1, 1, prompt + k, (), 1)
    assert ticket.finish_ps == now_ps


@pytest.mark.parametrize("layers", [1, 31, 32, 80])
@pytest.mark.parametrize("stages", [1, 2, 3, 8])
def test_stages_share_the_layers_evenly(layers, stages):
    if layers >= stages:
        split = stage_layers(layers, stages)
        assert sum(split) == layers
        assert max(split) - min(split) <= 1


@pytest.mark.parametrize("hw", ["2xm40:pp2", "4xm40:pp4"])
def test_a_single_request_leaves_a_bubble(hw):
    """Its next token needs the last one: each stage works 1/pp of the time."""
    alone = run_body(Requests([0], [64], [100]), hw)
    assert utilisation(alone) == pytest.approx(1 / alone.config.deployment.pool.pp, rel=0.02)


@pytest.mark.parametrize("stages", [2, 4])
def test_many_requests_fill_it_up_to_the_slowest_stage(stages):
    seats = f"chunked+seqs={8 * stages}"  # eight per group
    full = run_body(StaticBatch(8 * stages, 64, 600), f"{stages}xm40:pp{stages}", seats)
    busiest = max(utilisation(full, stage) for stage in range(stages))
    assert 0.95 < busiest <= 1.0


@pytest.mark.parametrize("stages", [2, 4])
def test_requests_are_shared_out_over_the_groups(stages):
    """With seats for all of them in one group, too: a pipeline with one group at work is no faster than one stage."""
    full = run_body(StaticBatch(8 * stages, 64, 300), f"{stages}xm40:pp{stages}")
    assert max(utilisation(full, stage) for stage in range(stages)) > 0.9


def utilisation(outcome: Outcome, stage: int | None = None) -> float:
    """Share of the run in which a stage worked (None: mean over stages), from the decisions and the time model."""
    stages = range(outcome.config.deployment.pool.pp) if stage is None else [stage]
    busy_ps = 0
    for number in stages:
        times = time_model(outcome, number)
        for entry in outcome.log:
            chunks = [(None, tokens, 0) for tokens in entry.chunk_tokens]
            busy_ps += times.step(entry.decoding, entry.context_tokens, chunks, entry.decoding + len(chunks), 1)[0]
    return busy_ps / len(stages) / (outcome.result.duration_s * PS_PER_S)


def test_several_plans_are_under_way_at_once():
    """Twice the requests take little longer: an iteration begins before the one before has left."""
    two = run_body(StaticBatch(16, 64, 50), "2xm40:pp2", "chunked+seqs=16")
    one = run_body(StaticBatch(8, 64, 50), "2xm40:pp2", "chunked+seqs=16")
    begun = [sorted(entry.time_s for entry in two.log if entry.group == group) for group in (0, 1)]
    assert [len(times) for times in begun] == [50, 50]
    assert all(first < second < after for first, second, after in zip(begun[0], begun[1], begun[0][1:], strict=False))
    assert two.result.duration_s < 1.4 * one.result.duration_s

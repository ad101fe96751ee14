"""Weights outside of the GPU's memory: bytes over bandwidths, nothing lost on the way, strides as their iterations."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from afterwatt.hwprofiles.catalogue import load_host, load_storage
from afterwatt.hwprofiles.deployment import make_deployment, parse_deployment
from afterwatt.hwprofiles.hostwork import FAST, NOMINAL, SLOW, cpu_bytes_per_s, host_rates, host_work, host_work_w
from afterwatt.hwprofiles.ledger import account
from afterwatt.hwprofiles.power import gpu_power_model
from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.modelspecs import load_model
from afterwatt.modelspecs.precision import load_precision
from afterwatt.policies.config import parse_policies
from afterwatt.policies.errors import PolicyError
from afterwatt.sim.config import Slowness
from afterwatt.sim.errors import Infeasible
from afterwatt.sim.manifest import manifest_of
from afterwatt.sim.memory import require_fit
from afterwatt.sim.placement import pieces_of, placement_of, room_bytes
from afterwatt.sim.recorder import TIER_QUANTITIES, StrideEnergy, TierWork
from afterwatt.sim.run import memory_of
from afterwatt.sim.tiered import touched_frac
from afterwatt.sim.tiermeter import with_tiers
from afterwatt.sim.times import times_of
from tests.helpers import PS_PER_S, between, make_config, poisson, run_body, solo_batch

DENSE = ["stream", "stream+from=ssd", "stream+depth=0", "split=10/40", "split=0/100", "layers=14"]
MIXTURE = [*DENSE, "experts=cpu", "experts=cpu+last=36"]


def config_of(policy, model="llama-2-70b", hw="rtx3090", **options):
    return make_config(solo_batch(1, 8, 8), hw, policy, model=model, **options)


@pytest.mark.parametrize(
    "model", ["llama-2-7b", "qwen3-30b-a3b", "deepseek-v3", "gemma-3-1b", "opt-1.3b", "gpt-oss-20b"]
)
@pytest.mark.parametrize("precision", ["fp16", "q4_k_m"])
def test_pieces_are_the_whole_model(model, precision):
    serving = config_of("chunked", model, precision=precision).serving
    whole = serving.model.stored_bytes(serving.precision)
    assert sum(piece.size_bytes for piece in pieces_of(serving)) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("policy", [*MIXTURE, "layers=100"])
def test_tiers_hold_the_whole_model(policy):
    serving = config_of(policy, "qwen3-30b-a3b").serving
    layout = placement_of(serving, parse_policies(policy)).layout
    whole = serving.model.stored_bytes(serving.precision)
    assert sum(map(layout.tier_bytes, ("hbm", "dram", "ssd"))) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("model", ["llama-2-7b", "qwen3-30b-a3b"])
def test_with_all_layers_on_the_gpu_the_time_is_that_of_resident_weights(model):
    placed, resident = times_of(config_of("layers=999", model)), times_of(config_of("chunked", model))
    for plan in ((1, 500, (), 1, 9), (40, 9000, (), 40, 9), (3, 60, ((None, 100, 0),), 3, 1)):
        assert placed.step(*plan) == resident.step(*plan)


def pcie3_disk():
    """M2Cache's machine: an RTX 3090, 64 GB, a disk on PCIe 3.0 x4."""
    device = parse_deployment("rtx3090").pool.device
    return make_deployment(device, host=load_host("desktop"), storage=load_storage("nvme-gen3"))


def test_streaming_from_the_disk_takes_bytes_over_its_rate():
    config = config_of("stream", hw=pcie3_disk())
    layers = config.model.layers * config.model.layer_bytes("fp16")
    first, slope, steps = times_of(config).step(1, 100, (), 1, 7)
    assert (first, slope, steps) == (pytest.approx(layers / 3.5e9 * PS_PER_S, abs=1), 0, 7)
    assert PS_PER_S / first == pytest.approx(0.02, rel=0.3)  # ZeRO-Infinity, arXiv:2410.14740


def test_a_stream_from_memory_goes_at_the_pace_of_the_link():
    """On a server with room, PCIe is what an iteration waits for; fetching nothing ahead adds the GPU's own time."""
    config = config_of("stream+from=dram", "llama-2-13b", hw="m40")
    link = config.serving.host_link.effective_bytes_per_s
    layers_ps = round(config.model.layers * config.model.layer_bytes("fp16") / link * PS_PER_S)
    assert times_of(config).step(1, 100, (), 1, 7)[0] == layers_ps
    turns = times_of(replace(config, policies=parse_policies("stream+from=dram+depth=0")))
    gpu = TimeModel(config.serving).step(1, 100, (), 1, 7)
    assert turns.step(1, 100, (), 1, 7) == (gpu[0] + layers_ps, gpu[1], 7)


def test_a_stream_that_computing_overtakes_ends_its_law_there():
    """Many sequences read ever more of the cache: from some iteration on the GPU is slower than the link."""
    config = config_of("split=92/8", "llama-2-7b", hw="m40")
    gpu, floor = TimeModel(config.serving), times_of(config).step(1, 1, (), 1, 1)[0]
    first, slope, _ = gpu.step(1, 0, (), 1, 1)
    crossing = -(-(floor - first) // slope)
    assert crossing > 100  # the link is what one token waits for
    assert times_of(config).step(1, crossing - 50, (), 1, 10**6) == (floor, 0, 50)
    assert times_of(config).step(1, crossing, (), 1, 9) == gpu.step(1, crossing, (), 1, 9)


@pytest.mark.parametrize("tokens", [1, 5, 31])
def test_host_experts_take_the_touched_bytes_over_the_cpus_rate(tokens):
    config = config_of("experts=cpu", "qwen3-30b-a3b", hw="p40")
    model, rates = config.model, host_rates(config.serving)
    placement = placement_of(config.serving, config.policies)
    own = TimeModel(config.serving, 0, placement.kinds).step(tokens, 900, (), tokens, 5)
    touched = model.layers * model.layer_expert_bytes("fp16") * (1.0 - (1.0 - 8 / 128) ** tokens)
    host_s = touched / rates.cpu_bytes_per_s + model.layers * rates.hand_over_s
    first, slope, steps = times_of(config).step(tokens, 900, (), tokens, 5)
    assert (first, slope, steps) == (pytest.approx(own[0] + host_s * PS_PER_S, abs=2), own[1], own[2])


def test_prompts_bring_host_experts_over_the_link():
    config = config_of("experts=cpu", "qwen3-30b-a3b", hw="p40")
    model, chunks = config.model, ((None, 256, 0),)
    bytes_over = model.layers * model.layer_expert_bytes("fp16") * (1.0 - (1.0 - 8 / 128) ** 256)
    link = config.serving.host_link.bytes_per_s
    whole = TimeModel(config.serving).step(0, 0, chunks, 1, 1)[0]
    assert times_of(config).step(0, 0, chunks, 1, 1)[0] == pytest.approx(
        whole + bytes_over / (0.6 * link) * 1e12, abs=2
    )


def test_layers_on_the_cpu_read_their_cache_at_its_rate():
    config = config_of("layers=20", "llama-2-7b", hw="p40")
    model, rates = config.model, host_rates(config.serving)
    entry_ps = 12 * 2 * model.kv_heads * model.head_dim * 2 / rates.cpu_bytes_per_s * PS_PER_S
    near, far = (times_of(config).step(1, context, (), 1, 1)[0] for context in (10_000, 20_000))
    placement = placement_of(config.serving, config.policies)
    gpu = TimeModel(config.serving, 0, placement.kinds)
    near_gpu, far_gpu = (gpu.step(1, context, (), 1, 1)[0] for context in (10_000, 20_000))
    assert (far - near) - (far_gpu - near_gpu) == pytest.approx(10_000 * entry_ps, rel=1e-4)


def test_touched_experts_follow_chance():
    model = load_model("qwen3-30b-a3b")
    assert touched_frac(model, 1) == pytest.approx(8 / 128)
    assert touched_frac(model, 2) == pytest.approx(1 - (1 - 8 / 128) ** 2)
    assert touched_frac(load_model("llama-2-7b"), 1) == 1.0


def test_a_sockets_share_falls_with_its_channels_and_a_second_one_adds_less():
    work = host_work()
    assert work.few_channels_frac > work.many_channels_frac
    assert cpu_bytes_per_s(51.2e9, 1) == pytest.approx(work.few_channels_frac * 51.2e9)
    assert cpu_bytes_per_s(204.8e9, 1) == pytest.approx(work.many_channels_frac * 204.8e9)
    assert cpu_bytes_per_s(409.6e9, 2) == pytest.approx(
        work.many_channels_frac * 204.8e9 * (1.0 + work.second_socket_frac)
    )


def test_ends_of_the_range_are_factors_on_the_time_of_the_hosts_part():
    low, high = host_work().host_part_factor.interval
    serving = config_of("experts=cpu", "qwen3-30b-a3b").serving
    fast, plain, slow = (host_rates(serving, end) for end in (FAST, NOMINAL, SLOW))
    assert plain.cpu_bytes_per_s / fast.cpu_bytes_per_s == pytest.approx(low)
    assert plain.cpu_bytes_per_s / slow.cpu_bytes_per_s == pytest.approx(high)
    assert fast.hand_over_s / plain.hand_over_s == pytest.approx(low)
    assert slow.hand_over_s / plain.hand_over_s == pytest.approx(high)


@pytest.mark.parametrize("policy", ["experts=cpu", "layers=20", "stream"])
def test_the_ends_of_the_range_lie_on_either_side(policy):
    config = config_of(policy, "qwen3-30b-a3b")
    fast, plain, slow = (
        times_of(replace(config, slowness=slowness)).step(1, 100, (), 1, 1)[0]
        for slowness in (Slowness(1.0, 1.0, FAST), None, Slowness(1.0, 1.0, SLOW))
    )
    assert fast < plain < slow


@pytest.mark.parametrize("policy", MIXTURE)
def test_strides_end_as_their_iterations_one_by_one(policy):
    requests = poisson(12, 0.05, between(4, 90), between(2, 60), seed=3)
    options = {"model": "qwen3-30b-a3b", "keep_log": False}
    strides, single = (run_body(requests, "rtx3090", policy, single_step=one, **options) for one in (False, True))
    assert [t.finish_ps for t in strides.tickets] == [t.finish_ps for t in single.tickets]
    for name in ("dram_to_hbm_bytes", "hbm_bytes", "gpu_dynamic_decode_j"):
        assert strides.result.timeline[name].sum() == pytest.approx(single.result.timeline[name].sum(), rel=1e-9)


def test_all_that_is_streamed_is_counted():
    """One request of 8 tokens and 9 iterations (its prompt, then one for each further token)."""
    outcome = run_body(solo_batch(1, 8, 9), "rtx3090", "split=20/80", model="llama-2-7b")
    layers = outcome.config.model.layers * outcome.config.model.layer_bytes("fp16")
    assert outcome.result.timeline["dram_to_hbm_bytes"].sum() == pytest.approx(9 * 0.8 * layers, rel=1e-9)


def test_what_the_cpu_keeps_leaves_room_for_the_cache():
    whole, less = (memory_of(config_of(word, "llama-2-7b")) for word in ("layers=32", "layers=16"))
    config = config_of("layers=16", "llama-2-7b")
    layer = config.model.layer_bytes("fp16")
    assert less.block_bytes == whole.block_bytes / 2
    assert whole.weights_bytes - less.weights_bytes == pytest.approx(
        16 * layer - layer, rel=1e-12
    )  # one passes through
    assert less.kv_blocks > 2 * whole.kv_blocks


@pytest.mark.parametrize(
    ("policy", "model", "tier"),
    [
        ("layers=10", "llama-2-70b", "host memory"),
        ("split=0/0", "llama-2-70b", None),
        ("experts=cpu", "kimi-k2", "host"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_bytes_that_are_missing(policy, model, tier):
    config = config_of(policy, model)
    if tier is None:
        assert require_fit(config.serving, config.policies).kv_blocks > 0
        return
    placement = placement_of(config.serving, config.policies)
    missing = placement.layout.tier_bytes("dram") - (config.deployment.pool.host.dram_bytes - 4e9)
    with pytest.raises(Infeasible, match=f"{missing:,.0f} bytes short") as refused:
        require_fit(config.serving, config.policies)
    assert tier in str(refused.value)


def test_experts_of_a_dense_model_are_refused():
    with pytest.raises(PolicyError, match="needs a mixture of experts"):
        memory_of(config_of("experts=cpu", "llama-2-7b"))


def test_a_stage_takes_the_time_of_its_own_layers():
    """Stages of equal layers share what the CPU does in equal parts."""
    config = config_of("experts=cpu", "qwen3-30b-a3b", hw="2xp40:pp2")
    one, two = placement_of(config.serving, config.policies).stages
    assert one.expert_bytes == two.expert_bytes
    assert one.cpu_layers == two.cpu_layers == 24
    assert np.isclose(
        one.expert_bytes * 2, config.model.layers * config.model.layer_expert_bytes(load_precision("fp16"))
    )


@pytest.mark.parametrize(("model", "hw"), [("llama-2-13b", "rtx3090"), ("qwen3-30b-a3b", "p40")])
def test_a_refusal_names_the_placements_that_would_do(model, hw):
    """Each of them fits, with one layer more on the GPU it would not, and dense models are not sent to experts."""
    with pytest.raises(Infeasible) as refused:
        memory_of(config_of("chunked", model, hw))
    words = re.findall(r"--policy (\S+?)(?=;|$)", str(refused.value))
    assert ("experts=cpu" in words) == (load_model(model).experts > 1)
    layers = next(int(word.removeprefix("layers=")) for word in words if word.startswith("layers="))
    assert "stream" in words
    assert "stream-int4" in words
    for word in words:
        config = config_of(word, model, hw, precision="int4" if word == "stream-int4" else "fp16")
        assert memory_of(config).kv_blocks > 0
    with pytest.raises(Infeasible):
        memory_of(config_of(f"layers={layers + 1}", model, hw))


def test_a_manifest_says_where_weights_lie_and_that_a_loss_is_not_measured():
    config = config_of("stream-int4", precision="int4")
    said = manifest_of(config, memory_of(config), {})["warnings"]
    assert "weights lie in GPU memory (1.0 GB), host memory (35.3 GB)" in said
    assert "what weights in int4 lose of the answers' quality is not measured" in said
    assert any("were not held against measured runs" in line and "GPUs as they wait" in line for line in said)
    assert not any("M2Cache" in line for line in said)
    cached, bare = (
        manifest_of(c := config_of(word, "llama-2-7b"), memory_of(c), {}) for word in ("m2cache+density=10", "m2cache")
    )
    assert "9 and 22 times slower" in cached["doubt"]
    assert "assumed" not in cached["doubt"]
    assert "assumed that a token activates 10 %" in bare["doubt"]
    assert "doubt" not in manifest_of(config, memory_of(config), {})
    plain = config_of("chunked", "llama-2-7b")
    assert not [line for line in manifest_of(plain, memory_of(plain), {})["warnings"] if "weights lie" in line]


def test_a_refusal_says_nothing_of_a_stream_to_as_many_bits():
    with pytest.raises(Infeasible) as refused:
        memory_of(config_of("chunked", "llama-2-70b", precision="int4"))
    assert "stream-int4" not in str(refused.value)
    assert "--policy stream" in str(refused.value)


@pytest.mark.parametrize("words", ["stream", "split=30/70", "stream+depth=0"])
def test_a_cache_in_host_memory_crosses_with_the_weights(words):
    config = config_of(f"{words}+kv-in=dram", "llama-2-13b", hw="m40")
    held, rates = config_of(words, "llama-2-13b", hw="m40"), host_rates(config.serving)
    entry_ps = 2 * 40 * 5120 * 2 / rates.link_bytes_per_s * PS_PER_S
    for decoding, context in ((4, 4_000), (64, 64_000)):
        there, here = (times_of(one).step(decoding, context, (), decoding, 5) for one in (config, held))
        if words == "stream+depth=0":
            assert there[0] - here[0] == pytest.approx(entry_ps * context, rel=1e-6)
        else:
            weights = placement_of(config.serving, config.policies).stages[0].link_bytes
            link_ps = weights / rates.link_bytes_per_s * PS_PER_S + entry_ps * context
            gpu = times_of(held).step(decoding, context, (), decoding, 1)[0]
            assert there[0] == pytest.approx(max(link_ps, gpu), rel=1e-6)


def test_a_law_of_the_slowest_is_the_slowest_of_each_iteration():
    """The link reads an ever larger cache, and overtakes the GPU or not: whole strides against single steps."""
    for words in ("split=80/20+kv-in=dram", "split=95/5+kv-in=dram", "stream+kv-in=dram"):
        times = times_of(config_of(words, "llama-2-7b", hw="m40"))
        singly = [times.step(8, 8 * n, (), 8, 1)[0] for n in range(4000)]
        at = 0
        while at < 4000:
            first, slope, lasting = times.step(8, 8 * at, (), 8, 4000 - at)
            assert [first + slope * k for k in range(lasting)] == singly[at : at + lasting]
            at += lasting


def test_a_cache_in_host_memory_is_counted_and_bounded_by_it():
    outcome = run_body(solo_batch(1, 8, 9), "rtx3090", "split=20/80+kv-in=dram", model="llama-2-7b")
    layers = outcome.config.model.layers * outcome.config.model.layer_bytes("fp16")
    entry = 2 * 32 * 4096 * 2
    read = sum(range(9, 17))  # by 8 iterations after the prompt's, each token's own among them
    written = 8 + 8
    moved = outcome.result.timeline["dram_to_hbm_bytes"].sum()
    assert moved == pytest.approx(9 * 0.8 * layers + entry * (read + written), rel=1e-9)
    config = config_of("split=20/80+kv-in=dram+seqs=9999", "llama-2-7b")
    free = config.deployment.pool.host.dram_bytes - 4e9 - 0.8 * layers
    assert memory_of(config).kv_blocks == pytest.approx(free / (entry * 16), abs=1)
    with pytest.raises(Infeasible, match="keep a window"):
        memory_of(config_of("stream+kv-in=dram", "gemma-3-1b"))


WORK = ["gpu_work_s", "cpu_work_s", "link_work_s", "disk_work_s"]


@pytest.mark.parametrize("policy", ["experts=cpu", "layers=14", "stream", "stream+depth=0", "split=20/30"])
def test_what_tiers_do_adds_up_to_the_time_that_iterations_take(policy):
    """Where the CPU computes, or nothing is fetched ahead, works follow one another; else none exceeds the time."""
    outcome = run_body(poisson(6, 0.02, between(4, 90), between(2, 30)), "rtx3090", policy, model="qwen3-30b-a3b")
    timeline = outcome.result.timeline
    busy_s = (timeline["prefill_s"] + timeline["decode_s"]).sum()
    works = [timeline[name].sum() for name in WORK]
    if policy in ("experts=cpu", "layers=14", "stream+depth=0"):
        assert sum(works) == pytest.approx(busy_s, rel=2e-3)  # several prompt pieces count as one
    else:
        assert max(works) == pytest.approx(busy_s, rel=1e-6)
    assert (timeline["cpu_bytes"].sum() > 0.0) == (policy in ("experts=cpu", "layers=14"))


def test_bytes_from_the_disk_are_counted():
    outcome = run_body(solo_batch(1, 8, 9), "rtx3090", "split=20/30", model="llama-2-7b")
    layers = outcome.config.model.layers * outcome.config.model.layer_bytes("fp16")
    assert outcome.result.timeline["ssd_to_dram_bytes"].sum() == pytest.approx(9 * 0.5 * layers, rel=1e-9)


def test_energy_is_that_of_its_parts_and_a_waiting_gpu_draws_less():
    outcome = run_body(solo_batch(1, 8, 40), "p40", "experts=cpu", model="qwen3-30b-a3b")
    timeline, pool = outcome.result.timeline, outcome.config.deployment.pool
    work, host = host_work(), pool.host
    computing_w = host.sockets * host.cpu_tdp_w * work.cpu_busy_frac - host.cpu_idle_w - host.cpu_active_w
    cpu_j = timeline["cpu_dynamic_j"].sum()
    assert cpu_j == pytest.approx(timeline["cpu_work_s"].sum() * computing_w * pool.hosts / pool.replicas)
    assert timeline["storage_dynamic_j"].sum() == 0.0
    ledger = account(timeline, pool, outcome.config.site)
    parts = ledger.by_component_j
    plain = {name: column for name, column in timeline.items() if name not in TIER_QUANTITIES}
    bare = account(plain, pool, outcome.config.site)
    assert parts["cpu"] - bare.by_component_j["cpu"] == pytest.approx(cpu_j)
    assert sum(parts.values()) == pytest.approx(ledger.total_j)
    assert sum(ledger.by_state_j.values()) == pytest.approx(ledger.total_j)
    requests = sum(ticket.energy_j for ticket in outcome.tickets)
    assert requests == pytest.approx(ledger.by_state_j["prefill"] + ledger.by_state_j["decode"], rel=1e-6)
    resident = run_body(solo_batch(1, 8, 40), "a100-80", "chunked", model="qwen3-30b-a3b")
    assert not set(resident.result.timeline) & set(TIER_QUANTITIES)
    gpu_w = timeline["gpu_dynamic_decode_j"].sum() / timeline["decode_s"].sum()
    power = gpu_power_model(pool.device, "fp32")
    assert gpu_w > (power.busy_w - power.idle_w) * float(work.gpu_wait_frac)
    waiting = 1.0 - timeline["gpu_work_s"].sum() / (timeline["prefill_s"] + timeline["decode_s"]).sum()
    assert waiting > 0.3


@pytest.mark.parametrize(("tokens", "ubatch"), [(300, 128), (512, 512), (100, 512), (1000, 250)])
def test_each_batch_of_a_prompt_brings_host_experts_over_anew(tokens, ubatch):
    config = config_of(f"experts=cpu+ubatch={ubatch}", "qwen3-30b-a3b", hw="p40")
    model, rates, chunks = config.model, host_rates(config.serving), ((None, tokens, 0),)
    parts = [ubatch] * (tokens // ubatch) + [tokens % ubatch] * bool(tokens % ubatch)
    touched = sum(1.0 - (1.0 - 8 / 128) ** part for part in parts)
    over_s = model.layers * model.layer_expert_bytes("fp16") * touched / rates.expert_bytes_per_s
    whole = TimeModel(config.serving).step(0, 0, chunks, 1, 1)[0]
    assert times_of(config).step(0, 0, chunks, 1, 1)[0] == pytest.approx(whole + over_s * PS_PER_S, abs=2)


def test_each_tier_has_the_room_of_a_replicas_share():
    serving = config_of("stream", "llama-2-7b", hw="4xp40:tp2").serving
    pool, room = serving.pool, room_bytes(serving)
    assert room["hbm"] == 2 * pool.usable_memory_bytes
    assert room["dram"] == pytest.approx(pool.hosts / 2 * (pool.host.dram_bytes - host_work().kept_bytes))
    assert room["ssd"] == pytest.approx(pool.hosts / 2 * pool.host.disks * pool.storage.capacity_bytes)


def test_a_meter_of_cached_neurons_counts_active_ones_as_it_decodes_and_all_as_it_reads():
    """Two runs of one prompt: further tokens read a tenth of the networks each, the prompt reads them whole."""
    short, long = (
        run_body(solo_batch(1, 8, tokens), "rtx3090", "m2cache+density=10+seqs=1", model="llama-2-7b").result.timeline
        for tokens in (11, 21)
    )
    per_token = (long["hbm_bytes"].sum() - short["hbm_bytes"].sum()) / 10
    prompt = short["hbm_bytes"].sum() - 10 * per_token
    networks = 32 * 3 * 4096 * 11008 * 1.0  # a byte a weight in the mean of 25/25/50
    assert prompt - per_token == pytest.approx(0.9 * networks, rel=0.02)


def test_a_waiting_gpu_draws_a_share_of_what_it_draws_at_work_and_no_less_than_nothing() -> None:
    """Two strides of 4 s, the GPU at work for 1 s of each; the second drew less than its waiting is worth."""
    config = make_config(solo_batch(1, 8, 4), "p40", "experts=cpu", model="qwen3-30b-a3b")
    meter: Any = SimpleNamespace(
        step=SimpleNamespace(serving=config.serving),
        replica=SimpleNamespace(gpus=1, site_factor=1.5),
        gpu=SimpleNamespace(busy_w=110.0, idle_w=10.0),
    )
    strides: Any = SimpleNamespace(
        first_ps=np.full(2, PS_PER_S), slope_ps=np.zeros(2, dtype=np.int64), steps=np.full(2, 4)
    )
    none = np.zeros(2)
    work = TierWork(np.ones(2), np.full(2, 2.0), none, np.full(2, 0.5), none, none, none, none)
    found = with_tiers(StrideEnergy(np.array([400.0, 1.0]), none, none, none, none), strides, meter, work)
    unspent_j = np.array([3.0 * 100.0 * (1.0 - host_work().gpu_wait_frac), 1.0])
    cpu_w, disk_w = host_work_w(config.serving.pool)
    assert found.dynamic_j == pytest.approx(np.array([400.0, 1.0]) - unspent_j)
    assert found.tiers is not None
    assert found.tiers.cpu_j == pytest.approx(2.0 * cpu_w)
    assert found.tiers.storage_j == pytest.approx(0.5 * disk_w)
    assert found.active_j == pytest.approx(1.5 * (2.0 * cpu_w + 0.5 * disk_w - unspent_j))

"""What only runs where a GPU is, under a fake one: capture and replay, devices, formats, memory, ways to multiply."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.engine.model.attention import gathered_bytes
from afterwatt.engine.model.bench import TorchBench
from afterwatt.engine.model.config import ModelConfig, Rope
from afterwatt.engine.model.devices import dtype_policy, find_device, settle
from afterwatt.engine.model.graphs import PaddedDecode
from afterwatt.engine.model.machine import describe
from afterwatt.engine.model.memory import plan_memory
from afterwatt.engine.model.options import ComputeOptions
from afterwatt.engine.model.products import CastProduct, FasterProduct, NarrowProduct
from afterwatt.engine.runtime.errors import EngineError
from afterwatt.engine.runtime.probes import MIB, Effort
from afterwatt.modelspecs import load_model
from tests.engine.fake_cuda import Card, install
from tests.engine.model.tiny import KV_BLOCKS, Sequence, batch_of, close, expected, logits_of, text

M40 = Card("Tesla M40 24GB", (5, 2), 24 * 2**30)
P100 = Card("Tesla P100-PCIE-16GB", (6, 0), 16 * 2**30)
H200 = Card()


# -- capture and replay ------------------------------------------------------------------------------------------------


@pytest.fixture
def captured(computes, monkeypatch):
    """A padded model whose decode batches are captured, the fake GPU, and the oracle."""
    compute, model = computes("llama", graphs=True, max_seqs=6)
    fake = install(monkeypatch, H200)
    pool, decoder = compute._pool, compute._decoder
    with torch.inference_mode():
        compute._padded = PaddedDecode(decoder, pool, 6, 256, capture=True)
    return compute, fake, model


def decoded(compute, model, count: int, steps: int, lengths=(3, 10, 17, 24, 31, 9)) -> None:
    """Decode some texts together and hold every logit against the oracle's."""
    free = list(range(KV_BLOCKS))[::-1]
    sequences = []
    for number in range(count):
        tokens = text(lengths[number] + steps, number)
        seq = Sequence(tokens[:-steps], [free.pop() for _ in range(-(-len(tokens) // 4))])
        logits_of(compute, [(seq, len(seq.tokens))])
        sequences.append((seq, tokens))
    for _ in range(steps):
        for seq, tokens in sequences:
            seq.tokens = tokens[: seq.past + 1]
        found = logits_of(compute, [(seq, 1) for seq, _ in sequences])
        for place, (seq, tokens) in enumerate(sequences):
            close(found[place], expected(model, tuple(tokens))[seq.past - 1])


def test_a_replay_computes_what_the_next_batch_says(captured):
    compute, fake, model = captured
    decoded(compute, model, 3, 5)
    assert fake.captures == 1
    assert fake.replays == 5


def test_which_batches_are_replayed_is_said(captured):
    compute, fake, _ = captured
    decoding = batch_of([(Sequence([0] * 9, [0, 1, 2], past=8), 1)] * 3)
    prompt = batch_of([(Sequence([0] * 9, [0, 1, 2]), 9)])
    assert compute.replays(decoding)
    assert not compute.replays(prompt)
    assert not compute.replays(batch_of([(Sequence([0] * 9, [0, 1, 2], past=8), 1)] * 7)), (
        "more than graphs are made for"
    )
    fake.fail_captures = True
    compute.logits(decoding)
    assert not compute.replays(decoding), "a shape that could not be captured is not"


def test_all_graphs_share_one_memory_and_one_stream(captured):
    compute, fake, _ = captured
    with torch.inference_mode():
        compute._padded.warm_up(256)
    assert fake.captures > 10
    assert len(set(map(id, fake.pools))) == 1
    assert len(fake.streams) == 1


def test_a_shape_that_cannot_be_captured_runs_call_by_call_on_the_stream_of_before(captured):
    compute, fake, model = captured
    before, fake.fail_captures = fake.current, True
    decoded(compute, model, 2, 3)
    assert fake.current is before
    assert fake.captures == 1, "it is not tried again"
    assert list(compute._padded.refused.values()) == ["CUDA error: operation not permitted when stream is capturing"]


# -- devices -----------------------------------------------------------------------------------------------------------


def test_auto_takes_a_gpu_that_this_torch_has_code_for(monkeypatch):
    install(monkeypatch, M40, H200, arch_list=("sm_75", "sm_90"))
    assert str(find_device("auto")) == "cuda:1"
    assert str(find_device("cuda:1")) == "cuda:1"
    with pytest.raises(EngineError, match=r"Tesla M40 24GB has compute capability 5\.2.*has no code: pip install"):
        find_device("cuda:0")
    with pytest.raises(EngineError, match="sees 2 GPUs"):
        find_device("cuda:2")


def test_auto_takes_the_processor_where_torch_has_code_for_no_gpu(monkeypatch):
    install(monkeypatch, M40, arch_list=("sm_75", "compute_90"))
    assert str(find_device("auto")) == "cpu"


def test_a_gpu_is_made_the_current_one_and_keeps_cudnn_out_of_attention(monkeypatch):
    fake = install(monkeypatch, H200, H200)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        settle(torch.device("cpu"))
        assert fake.device is None
        assert torch.backends.cuda.cudnn_sdp_enabled()
        settle(torch.device("cuda", 1))
        assert fake.device == 1
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize(
    ("capability", "stored", "computed"),
    [((5, 2), "fp16", "fp32"), ((6, 0), "fp16", "fp16"), ((6, 1), "fp16", "fp32"), ((7, 0), "fp16", "fp16"),
     ((7, 5), "fp16", "fp16"), ((8, 0), "bf16", "bf16"), ((9, 0), "bf16", "bf16")],
)  # fmt: skip
def test_what_is_measured_is_stored_and_computed_as_the_engine_does(monkeypatch, capability, stored, computed):
    install(monkeypatch, replace(H200, capability=capability))
    machine = describe(torch.device("cuda", 0), 1)
    policy = dtype_policy(capability)
    assert (machine.stored, machine.dtype) == (stored, computed)
    assert [str(policy.weights), str(policy.compute)] == [
        {"fp16": "torch.float16", "bf16": "torch.bfloat16", "fp32": "torch.float32"}[name]
        for name in (stored, computed)
    ]


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gib", [11, 12, 16, 24, 48, 80, 141])
def test_a_cache_that_is_asked_for_is_held_against_what_is_free(monkeypatch, gib: int):
    spec = load_model("llama-2-7b")
    config = ModelConfig(spec, 1e-5, Rope(10_000.0), "silu", (1,), (2,))
    card = replace(H200, memory_bytes=gib * 2**30)
    install(monkeypatch, card)
    device, policy = torch.device("cuda", 0), dtype_policy(card.capability)
    free = int(0.9 * card.memory_bytes)
    few = ComputeOptions("cuda:0", kv_blocks=16, max_context=512, max_seqs=4, max_batch_tokens=256)
    if gib < 16:
        with pytest.raises(EngineError, match="more than the"):
            plan_memory(config, policy, few, device)
        return
    plan = plan_memory(config, policy, few, device)
    assert plan.kv_blocks == 16
    most = (free - plan.weights_bytes - plan.working_bytes) // plan.block_bytes - 1
    assert plan_memory(config, policy, replace(few, kv_blocks=most), device).kv_blocks == most
    with pytest.raises(EngineError, match="more than the"):
        plan_memory(config, policy, replace(few, kv_blocks=most + 1), device)


def test_what_is_gathered_at_once_grows_with_the_card():
    assert gathered_bytes(None) == gathered_bytes(12 * 2**30) == 256 * 2**20
    assert gathered_bytes(128 * 2**30) == 2 * 2**30


def test_a_filled_cache_holds_other_numbers_than_zeros_in_every_block(computes):
    compute, _ = computes("llama", max_seqs=3)
    compute.fill_cache()
    spread = compute._pool._pool.std(dim=(-3, -2, -1))  # of each layer's keys and values, block by block
    assert float(spread.min()) > 0.5
    assert float(spread.max()) < 2.0


# -- ways to multiply --------------------------------------------------------------------------------------------------


def multiplied(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """What cuBLAS does: narrow factors, wide sums."""
    return left.to(torch.float32) @ right.to(torch.float32)


@given(
    rows=st.integers(0, 5),
    inputs=st.sampled_from([8, 64]),
    size=st.sampled_from([1e-3, 1.0, 6e4, 1e6, 1e9]),
    seed=st.integers(0, 99),
)
def test_a_narrow_product_is_the_wide_one_up_to_its_rounding(rows: int, inputs: int, size: float, seed: int):
    """Also of rows that fp16 does not hold; 0 rows here stand for one vector."""
    generator = torch.Generator().manual_seed(seed)
    x = size * torch.randn(*([rows] if rows else []), inputs, generator=generator)
    weight = torch.randn(12, inputs, generator=generator).to(torch.float16)
    found = NarrowProduct(multiplied)(x, weight)
    exact = x.double() @ weight.double().t()
    wide = CastProduct(torch.float32, torch.device("cpu"))(x, weight)
    assert found.shape == wide.shape == exact.shape
    bound = x.double().abs() @ weight.double().abs().t()
    assert ((found - exact).abs() <= 2.0**-10 * bound + 1e-7 * inputs).all()
    assert ((wide - exact).abs() <= 1e-5 * bound).all()


class Slow:
    """Takes a stated time per row, beside a fixed one."""

    def __init__(self, name: str, fixed_s: float, row_s: float, ticks: list[float]) -> None:
        self.name, self._fixed_s, self._row_s, self._ticks = name, fixed_s, row_s, ticks

    def __call__(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self._fixed_s < 0.0:
            raise RuntimeError("not supported")
        self._ticks[0] += self._fixed_s + self._row_s * (x.numel() // x.shape[-1])
        return torch.full((*x.shape[:-1], len(weight)), float(self.name == "few"))


def test_the_faster_way_is_taken_by_the_number_of_rows():
    ticks = [0.0]
    ways = (Slow("few", 1.0, 1.0, ticks), Slow("many", 30.0, 0.1, ticks))  # equal at 32.2 rows
    faster = FasterProduct(ways, torch.zeros(3, 4), torch.float32, lambda: ticks[0])
    assert faster.chosen == {"1": "few", "8": "few", "64": "many", "512": "many"}
    for rows, few in ((1, True), (8, True), (9, False), (600, False)):
        assert bool(faster(torch.ones(rows, 4), torch.zeros(3, 4)).all()) is few
    assert bool(faster(torch.ones(4), torch.zeros(3, 4)).all())


def test_a_way_that_the_device_refuses_is_not_taken():
    ticks = [0.0]
    ways = (Slow("few", 9.0, 9.0, ticks), Slow("refused", -1.0, 0.0, ticks))
    assert set(FasterProduct(ways, torch.zeros(3, 4), torch.float32, lambda: ticks[0]).chosen.values()) == {"few"}


# -- probes ------------------------------------------------------------------------------------------------------------

TINY = Effort(
    rounds=1, least_s=1e-5, array_bytes=16 * MIB, rows=(1, 4), products=((256, 256), (512, 256)), squares=(64,),
    heads=((4, 2, 32),), contexts=(64,), batches=(1, 2), prompts=((16, 0),), disk_bytes=0, power_s=0.0,
)  # fmt: skip


def test_captured_probes_share_one_memory_and_one_stream(monkeypatch):
    bench = TorchBench("cpu", 1, TINY)
    fake = install(monkeypatch, H200)
    bench._graphs, bench._aside = True, fake.stream(None)
    probes = [*bench.product_probes(), *bench.attention_probes(), *bench.overhead_probes()]
    for probe in probes:
        assert probe.run(2) > 0.0
    replayed = [probe for probe in probes if probe.row or probe.name == "overhead/layer"]
    assert fake.captures == fake.replays == len(replayed) == len(probes) - 2
    assert len(set(map(id, fake.pools))) == 1
    assert {probe.name for probe in probes} - {probe.name for probe in replayed} == {"overhead/launch", "overhead/step"}


def test_a_probe_that_cannot_be_captured_is_run_call_by_call(monkeypatch):
    bench = TorchBench("cpu", 1, TINY)
    fake = install(monkeypatch, H200)
    fake.fail_captures = True
    bench._graphs, bench._aside, before = True, fake.stream(None), fake.current
    probe = next(bench.product_probes())
    assert probe.run(3) > 0.0
    assert "one by one" in bench.skipped["graphs"]
    assert not bench._graphs
    assert fake.current is before


def test_a_matrix_stored_narrow_is_measured_as_the_engine_multiplies_it():
    """As on a Maxwell: stored in 2 bytes, computed in 4; the table says how it is stored."""
    bench = TorchBench("cpu", 1, TINY)
    bench.stored = torch.float16
    bench.machine = replace(bench.machine, stored="fp16")
    products, attention = [*bench.product_probes()], [*bench.attention_probes()]
    assert {probe.row["dtype"] for probe in products + attention} == {"fp16"}
    for probe in products + attention:
        assert probe.run(1) > 0.0
    entry_bytes = 2 * 2 * 32 * 2
    assert attention[0].work == 64 * entry_bytes

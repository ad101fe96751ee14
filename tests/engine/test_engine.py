"""The whole engine, a real model under the scheduler: what a request gets does not depend on whom it runs beside."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from afterwatt.engine.model.compute import TorchCompute, load_model
from afterwatt.engine.model.graphs import PaddedDecode
from afterwatt.engine.model.options import ComputeOptions
from afterwatt.engine.runtime.compute import Sampling
from afterwatt.engine.runtime.request import Request
from afterwatt.engine.runtime.worker import EngineWorker
from afterwatt.fidelity.serving.run import block_hashes
from afterwatt.policies.batching import BATCHING
from afterwatt.policies.sizes import SchedulerConfig
from afterwatt.sim.replay import replay_decisions
from tests.engine.fake_cuda import Card, install
from tests.engine.model.conftest import tiny  # noqa: F401 - a fixture
from tests.engine.model.tiny import VOCAB
from tests.engine.recorded import recorded_requests, recorded_steps

UNIT = 8


def requests(kind: str) -> list[tuple[int, Request]]:
    """Three traces: (iteration of its arrival, request)."""
    random = np.random.default_rng(3)
    made = []
    for number in range(8):
        if kind == "burst":
            at, ids = 0, random.integers(0, VOCAB, 6 + 3 * number)
        elif kind == "shared beginnings":
            at, ids = 3 * number, np.concatenate([np.arange(16), random.integers(0, VOCAB, 1 + number)])
        else:  # long prompts among short answers
            at, ids = 2 * number, random.integers(0, VOCAB, 50 if number % 2 else 4)
        sampling = Sampling(temperature=0.9 * (number % 2), seed=number)
        output = 4 + 5 * (number % 3)
        made.append((at, Request(number, ids, output, 0, sampling, prefix=block_hashes(ids, UNIT))))
    return made


def run(compute: TorchCompute, config: SchedulerConfig, batching: str, asked: list[tuple[int, Request]]):
    """Run to the end: (tokens of each request, what the worker reports)."""
    ticks = count()
    worker = EngineWorker(compute, config, BATCHING[batching](), lambda: next(ticks))
    coming, iteration = list(asked), 0
    while True:
        worker.take(request for at, request in coming if at <= iteration)
        coming = [(at, request) for at, request in coming if at > iteration]
        iteration += 1
        if not worker.step() and not coming:
            break
    report = worker.take_report()
    produced: dict[int, list[int]] = {}
    for step in report.steps:
        for request_id, token in step.emitted:
            produced.setdefault(request_id, []).append(token)
    return produced, report


@pytest.fixture(scope="module")
def compute(tiny: Callable[[str], tuple[Path, Any]]) -> TorchCompute:  # noqa: F811
    torch.set_num_threads(1)
    options = ComputeOptions(dtype="fp32", kv_blocks=40, block_tokens=4, host_blocks=60, max_batch_tokens=512)
    return TorchCompute(load_model(tiny("llama")[0], options), options)


@pytest.fixture(scope="module")
def alone(compute: TorchCompute) -> dict[str, dict[int, list[int]]]:
    """What each request gets when nobody else is there."""
    roomy = SchedulerConfig(**TIGHT | {"max_seqs": 1}, token_budget=512)
    return {
        kind: {request.request_id: run(compute, roomy, "chunked", [(0, request)])[0][request.request_id]
               for _, request in requests(kind)}
        for kind in KINDS
    }  # fmt: skip


KINDS = ("burst", "shared beginnings", "long among short")
TIGHT = {"kv_blocks": 40, "block_tokens": 4, "max_seqs": 6, "max_context_tokens": 256}
WAYS = {
    "chunks": SchedulerConfig(**TIGHT, token_budget=7),
    "recompute": SchedulerConfig(**{**TIGHT, "kv_blocks": 19}, token_budget=64),
    "what is left": SchedulerConfig(**{**TIGHT, "kv_blocks": 19}, token_budget=64, keep_preempted=True),
    "swap": SchedulerConfig(**{**TIGHT, "kv_blocks": 19}, token_budget=64, swap_blocks=60),
    "prefixes": SchedulerConfig(**TIGHT, token_budget=64, prefix_unit_tokens=UNIT, keep_preempted=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batching", ["chunked", "prefill-first"])
@pytest.mark.parametrize("way", WAYS)
def test_tokens_and_decisions_whatever_memory_and_batching_do(compute, alone, kind: str, batching: str, way: str):
    config, asked = WAYS[way], requests(kind)
    produced, report = run(compute, config, batching, asked)
    assert produced == alone[kind]
    steps, given = recorded_steps(report), recorded_requests(report, [request for _, request in asked])
    found = replay_decisions(config, BATCHING[batching](), given, steps)
    assert found.mismatch is None, str(found.mismatch)
    assert found.entries == len(steps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["what is left", "swap"])
def test_tokens_and_decisions_where_decoding_is_replayed_as_graphs(compute, alone, monkeypatch, kind: str, way: str):
    """Under a fake GPU: preemption, swapping and changing batches leave no stale length, address or block table."""
    fake = install(monkeypatch, Card())
    with torch.inference_mode():
        replayed = PaddedDecode(compute._decoder, compute._pool, TIGHT["max_seqs"], 256, capture=True)
    monkeypatch.setattr(compute, "_padded", replayed)
    asked = requests(kind)
    produced, report = run(compute, WAYS[way], "chunked", asked)
    assert fake.replays > 10
    assert produced == alone[kind]
    found = replay_decisions(
        WAYS[way], BATCHING["chunked"](), recorded_requests(report, [request for _, request in asked]),
        recorded_steps(report),
    )  # fmt: skip
    assert found.mismatch is None, str(found.mismatch)


def test_the_ways_above_do_happen(compute):
    """Else the test above would be about nothing."""
    for way in ("recompute", "what is left", "swap"):
        assert run(compute, WAYS[way], "chunked", requests("burst"))[1].preempted, way
    _, swapped = run(compute, WAYS["swap"], "chunked", requests("burst"))
    assert any(step.swapped_blocks for step in swapped.steps)
    _, shared = run(compute, WAYS["prefixes"], "chunked", requests("shared beginnings"))
    assert any(admission.cached_tokens for admission in shared.admissions)
    _, chunked = run(compute, WAYS["chunks"], "chunked", requests("long among short"))
    assert any(chunk.past_tokens for step in chunked.steps for chunk in step.chunks)


def test_a_stop_token_ends_a_request_and_frees_its_memory(compute, alone):
    (_, first), *_ = requests("burst")
    whole = alone["burst"][0]
    stop = whole[len(whole) // 2]
    stopping = Request(0, first.prompt_ids, first.output_tokens, 0, first.sampling, frozenset({stop}))
    produced, report = run(compute, WAYS["chunks"], "chunked", [(0, stopping)])
    assert produced[0] == whole[: whole.index(stop) + 1]
    assert report.steps[-1].finished == (0,)
    assert report.steps[-1].free_blocks == WAYS["chunks"].kv_blocks
